//! Whether what a server said of its tokens can be true.

use super::Reading;
use crate::workload::Surface;

/// What is known of a complete reply without the server's word.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Output tokens that were allowed.
    pub allowed: u64,
    /// Whether the prompt had any text.
    pub prompted: bool,
    /// Events with generated content.
    pub chunks: u64,
}

impl Reading {
    /// What is wrong with the server's numbers for a complete reply, if anything.
    pub fn lie(&self, known: Known) -> Option<String> {
        let Some(usage) = self.usage() else {
            // Rerank has a form without usage.
            return (self.surface != Surface::Rerank).then(|| "a complete reply without usage".to_owned());
        };
        let (prompt, completion) = (usage.prompt, usage.completion);
        if let Some(total) = self.claim.total.filter(|total| *total != prompt + completion) {
            return Some(format!("usage with {prompt} prompt and {completion} completion tokens, and {total} in all"));
        }
        if prompt == 0 && known.prompted {
            return Some("usage with 0 prompt tokens for a prompt".to_owned());
        }
        if usage.cached > prompt {
            return Some(format!("usage with {} cached of {prompt} prompt tokens", usage.cached));
        }
        // llama-server generates one token where none is allowed.
        let allowed = known.allowed.max(1);
        if completion > allowed {
            return Some(format!("usage with {completion} completion tokens where {allowed} were allowed"));
        }
        // One event may carry several tokens, never less than one; but the token with which reasoning ends or a tool
        // call begins may come as two events.
        if self.plain && completion < known.chunks {
            return Some(format!("usage with {completion} completion tokens for {} events of text", known.chunks));
        }
        let timings = self.timings.filter(|_| self.beside)?;
        if timings.predicted_n != completion || timings.cache_n + timings.prompt_n != prompt {
            return Some(format!(
                "usage with {prompt} prompt and {completion} completion tokens beside timings with {} and {}",
                timings.cache_n + timings.prompt_n,
                timings.predicted_n
            ));
        }
        None
    }
}
