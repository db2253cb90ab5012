//! How fast a simulated llama-server is: a few numbers, shipped for some cards and models, each with the arithmetic that
//! gives it (docs/simulator.md), and what follows from them for one request.
//!
//! The shipped numbers are estimates, not measurements: they come from the bytes that a token must read and the
//! bandwidth it reads them with.

use std::time::Duration;

/// The numbers that decide how long everything takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Its name; also the model's.
    pub name: String,
    /// Sequences at once (`-np`).
    pub slots: usize,
    /// Tokens of context for each slot.
    pub context: usize,
    /// Prompt tokens a second, shared by all slots that compute a prompt.
    pub prefill_rate: f64,
    /// Prompt tokens that are computed in one go (`-b`); only between two of them is a request that nobody wants ended.
    pub batch: usize,
    /// The time of one step that gives one token to one slot.
    pub decode: Duration,
    /// What each further slot adds to a step, as a part of `decode`: nearly 0 where all slots read the same weights,
    /// nearly 1 where each reads experts of its own.
    pub decode_slope: f64,
    /// Prompt tokens kept beside the slots (`--cache-ram`, divided by the bytes of a token).
    pub host_cache: usize,
    /// How long the model takes to load; until then every path answers 503.
    pub load: Duration,
    /// Pause between the pings of a silent stream (`--sse-ping-interval`).
    pub ping: Duration,
    /// After how long without any result a waiting thread looks whether its client is still there.
    pub poll: Duration,
}

/// What one request takes that has its slot's neighbours for company, none of which computes a prompt meanwhile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    /// From the sending to the first token.
    pub first_token: Duration,
    /// From each token to the next.
    pub gap: Duration,
    /// From the sending to the last token.
    pub end: Duration,
}

impl Profile {
    /// The shipped profile of this name.
    pub fn shipped(name: &str) -> Option<Self> {
        match name {
            "fast" => Some(fast()),
            "t4-kimi-k2-tq1" => Some(kimi_k2()),
            "t4-gpt-oss-20b" => Some(gpt_oss()),
            "t4-llama-8b-q4" => Some(llama_8b()),
            _ => None,
        }
    }

    /// The names that `shipped` knows.
    pub const NAMES: [&str; 4] = ["fast", "t4-kimi-k2-tq1", "t4-gpt-oss-20b", "t4-llama-8b-q4"];

    /// The same with all times divided by `speed`.
    pub fn faster(mut self, speed: f64) -> Self {
        self.prefill_rate *= speed;
        for time in [&mut self.decode, &mut self.load, &mut self.ping, &mut self.poll] {
            *time = time.div_f64(speed);
        }
        self
    }

    /// The time of a step that gives a token to each of `busy` slots; nothing if there is none.
    pub fn step(&self, busy: usize) -> Duration {
        match busy {
            0 => Duration::ZERO,
            busy => self.decode.mul_f64(1.0 + self.decode_slope * (busy - 1) as f64),
        }
    }

    /// The time of computing so many prompt tokens.
    pub fn prefill(&self, tokens: usize) -> Duration {
        Duration::from_secs_f64(tokens as f64 / self.prefill_rate)
    }

    /// What a request takes: `wait` for a slot, `computed` prompt tokens (those that are not cached, at least 1), `output`
    /// tokens, while `busy` slots, its own included, give tokens from its first to its last.
    pub fn expected(&self, wait: Duration, computed: usize, output: u32, busy: usize) -> Expected {
        let gap = self.step(busy);
        let first_token = wait + self.prefill(computed) + gap;
        Expected { first_token, gap, end: first_token + gap * output.saturating_sub(1) }
    }
}

/// Round numbers, for tests.
fn fast() -> Profile {
    Profile {
        name: "fast".to_owned(),
        slots: 4,
        context: 8192,
        prefill_rate: 10_000.0,
        batch: 2048,
        decode: Duration::from_millis(10),
        decode_slope: 0.0,
        host_cache: 100_000,
        load: Duration::ZERO,
        ping: Duration::from_secs(30),
        poll: Duration::from_secs(1),
    }
}

/// Kimi-K2, 1.026 T parameters at 1.9 bits in 247 GB, experts in memory and on disk, the rest on one T4.
fn kimi_k2() -> Profile {
    Profile {
        name: "t4-kimi-k2-tq1".to_owned(),
        slots: 1,
        context: 16_384,
        // A batch of 512 tokens touches all experts: 247 GB from a disk of 1 GB/s are 247 s, 512 / 247 s.
        prefill_rate: 2.1,
        batch: 512,
        // 21.1 G routed parameters at 1.87 bits are 4.9 GB a token. With 112 GiB of 221 GiB of experts in the page cache
        // 51 % are read from memory (40 GB/s: 0.06 s), 49 % from disk (1 GB/s: 2.4 s); 8 GB of the rest on the card
        // (320 GB/s) 0.03 s; rounded up to 2.7 s for what page faults cost on top.
        decode: Duration::from_millis(2700),
        // 8 of 384 experts: two tokens hardly share one.
        decode_slope: 0.9,
        // 70 KB a token (61 layers of 576 values of 2 bytes), 8 GiB.
        host_cache: 122_000,
        // 247 GB at 1 GB/s, once.
        load: Duration::from_secs(247),
        ping: Duration::from_secs(30),
        poll: Duration::from_secs(1),
    }
}

/// gpt-oss-20b, 12.1 GB in MXFP4, wholly on one T4.
fn gpt_oss() -> Profile {
    Profile {
        name: "t4-gpt-oss-20b".to_owned(),
        slots: 4,
        context: 4096,
        // 3.6 G active parameters are 7.2 GFLOP a token; of the card's 65 TFLOPS about a tenth is reached.
        prefill_rate: 900.0,
        batch: 2048,
        // 3.6 G of 20.9 G parameters are 2.1 GB a token; 320 GB/s would give 150 tokens a second; a third of it is 50.
        decode: Duration::from_millis(20),
        // 4 of 32 experts: four tokens read about three times as many as one, which are most of the bytes.
        decode_slope: 0.5,
        // 48 KiB a token (24 layers, 8 heads of 64, keys and values of 2 bytes), 8 GiB.
        host_cache: 174_000,
        // 12.1 GB at 1 GB/s.
        load: Duration::from_secs(12),
        ping: Duration::from_secs(30),
        poll: Duration::from_secs(1),
    }
}

/// An 8 G model of the Llama-3 shape in Q4_K_M, 4.9 GB, wholly on one T4.
fn llama_8b() -> Profile {
    Profile {
        name: "t4-llama-8b-q4".to_owned(),
        slots: 4,
        context: 4096,
        // 16 GFLOP a token; about 15 % of 65 TFLOPS.
        prefill_rate: 600.0,
        batch: 2048,
        // 4.9 GB a token at 320 GB/s are 15 ms; about half of the bandwidth is reached.
        decode: Duration::from_millis(30),
        // All slots read the same weights; what is added is attention and arithmetic.
        decode_slope: 0.1,
        // 128 KiB a token (32 layers, 8 heads of 128, keys and values of 2 bytes), 8 GiB.
        host_cache: 65_000,
        // 4.9 GB at 1 GB/s.
        load: Duration::from_secs(5),
        ping: Duration::from_secs(30),
        poll: Duration::from_secs(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_takes_its_prompt_and_a_step_for_each_token() {
        let expected = fast().expected(Duration::from_millis(500), 1000, 11, 1);
        assert_eq!(expected.first_token, Duration::from_millis(500 + 100 + 10));
        assert_eq!(expected.gap, Duration::from_millis(10));
        assert_eq!(expected.end, Duration::from_millis(710));
    }

    #[test]
    fn speed_divides_all_times() {
        let expected = kimi_k2().faster(100.0).expected(Duration::ZERO, 21, 2, 1);
        assert_eq!(expected.first_token, Duration::from_millis(100 + 27));
        assert_eq!(kimi_k2().faster(247.0).load, Duration::from_secs(1));
    }

    #[test]
    fn further_slots_make_a_step_longer_by_the_slope() {
        assert_eq!(gpt_oss().step(0), Duration::ZERO);
        assert_eq!(gpt_oss().step(1), Duration::from_millis(20));
        assert_eq!(gpt_oss().step(3), Duration::from_millis(40));
    }

    #[test]
    fn every_name_is_shipped_and_no_other() {
        for name in Profile::NAMES {
            assert_eq!(Profile::shipped(name).unwrap().name, name);
        }
        assert_eq!(Profile::shipped("t4"), None);
    }
}
