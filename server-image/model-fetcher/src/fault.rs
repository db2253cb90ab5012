//! Why there is no model: each fault is one line that ends with what to do, and has its exit code.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

/// What ends the program without success.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A parameter is missing or makes no sense.
    #[error("{name}: {problem}; hint: {hint}")]
    Parameter {
        /// The environment variable.
        name: &'static str,
        /// What is wrong with it.
        problem: String,
        /// What to set instead.
        hint: &'static str,
    },
    /// The volume cannot be read or written.
    #[error("cannot {action} {}: {source}; hint: the volume must be mounted writable for this user or group", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The model does not fit.
    #[error("{0}")]
    Space(String),
    /// The hub does not give what was asked for.
    #[error("{problem}; hint: {hint}")]
    Refused {
        /// What it says.
        problem: String,
        /// What may help.
        hint: String,
    },
    /// The network or the server failed too often in a row.
    #[error(
        "gave up on {what} after {attempts} attempts without progress, the last one: {cause}; \
         hint: what is loaded is kept, so start it again; where nothing gets through, look at HTTPS_PROXY, CA_FILE, \
         HF_ENDPOINT and the network policy"
    )]
    GaveUp {
        /// What was asked for.
        what: String,
        /// How often.
        attempts: u32,
        /// What the last attempt ended with.
        cause: String,
    },
    /// The files are not what they should be.
    #[error("{problem}; hint: {hint}")]
    Content {
        /// What is wrong.
        problem: String,
        /// What may help.
        hint: String,
    },
    /// Another one works on the volume.
    #[error("another model-fetcher works on {}; hint: wait until it has ended", .0.display())]
    Locked(PathBuf),
    /// It was told to end.
    #[error("{0}: ended; what is loaded is kept; hint: start it again to go on")]
    Signal(Ended),
}

/// The signal that ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// As Kubernetes does.
    Terminate,
    /// Ctrl-C.
    Interrupt,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        })
    }
}

impl Fault {
    /// The exit code. `docs/model-fetcher.md` lists them.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Io { .. } => 1,
            Self::Parameter { .. } => 2,
            Self::Space(_) => 3,
            Self::Refused { .. } => 4,
            Self::GaveUp { .. } => 5,
            Self::Content { .. } => 6,
            Self::Locked(_) => 7,
            Self::Signal(Ended::Interrupt) => 130,
            Self::Signal(Ended::Terminate) => 143,
        }
    }

    /// An error of the file system. A full one is a fault of its own.
    pub fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Space(format!(
                "cannot {action} {}: {source}; hint: what is loaded is kept: enlarge the volume and start it again",
                path.display()
            )),
            _ => Self::Io { action, path: path.to_owned(), source },
        }
    }
}

/// An error and what it came from, in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        // Some errors repeat their source's text.
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = error.source();
    }
    text
}

/// Bytes as people read them: GB are 10^9 bytes, as on Hugging Face.
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub fn gb(bytes: u64) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_volume_is_told_from_other_errors() {
        let full = Fault::io("write", Path::new("/models/a"), io::ErrorKind::StorageFull.into());
        assert_eq!(full.exit_code(), 3);
        assert!(full.to_string().contains("enlarge the volume"), "{full}");
        let refused = Fault::io("write", Path::new("/models/a"), io::ErrorKind::PermissionDenied.into());
        assert_eq!(refused.exit_code(), 1);
        assert!(refused.to_string().contains("cannot write /models/a"), "{refused}");
    }

    #[test]
    fn a_chain_of_errors_is_one_line_without_repeats() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] io::Error);
        assert_eq!(chain(&Outer(io::Error::other("inner"))), "outer: inner");
        assert_eq!(chain(&io::Error::other(io::Error::other("same"))), "same");
    }
}
