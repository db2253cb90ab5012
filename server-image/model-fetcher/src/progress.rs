//! How far it is: one line in the log every 15 seconds, which people and scripts can read.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, interval_at};

/// Time between two lines.
const INTERVAL: Duration = Duration::from_secs(15);
/// The speed is that of the last minute: of these lines.
const SAMPLES: usize = 5;

/// Counts bytes. Shared by everything that moves some.
#[derive(Debug)]
pub struct Progress {
    action: &'static str,
    total: u64,
    done: AtomicU64,
    reread: AtomicU64,
}

impl Progress {
    /// `done` of `total` bytes are there; of these, `reread` bytes are to be read again for their hash.
    pub fn new(action: &'static str, done: u64, total: u64, reread: u64) -> Self {
        Self { action, total, done: done.into(), reread: reread.into() }
    }

    /// So many bytes more are there.
    pub fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many bytes turned out to be wrong.
    pub fn take_back(&self, bytes: u64) {
        self.done.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// So many bytes of those that were there have been read again.
    pub fn reread(&self, bytes: u64) {
        self.reread.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Does `work`, with a line in the log every 15 seconds.
    pub async fn report<T>(&self, work: impl Future<Output = T>) -> T {
        let mut meter = Meter::default();
        meter.line(self, Instant::now());
        let mut ticks = interval_at(Instant::now() + INTERVAL, INTERVAL);
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                result = &mut work => return result,
                now = ticks.tick() => tracing::info!("{}", meter.line(self, now)),
            }
        }
    }
}

/// Makes lines out of counts.
#[derive(Default)]
struct Meter {
    samples: VecDeque<(Instant, u64)>,
}

impl Meter {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn line(&mut self, progress: &Progress, now: Instant) -> String {
        let done = progress.done.load(Ordering::Relaxed);
        self.samples.push_back((now, done));
        if self.samples.len() > SAMPLES {
            self.samples.pop_front();
        }
        let (since, before) = self.samples.front().copied().unwrap_or((now, done));
        let seconds = now.duration_since(since).as_secs_f64();
        let speed = if seconds > 0.0 { done.saturating_sub(before) as f64 / seconds } else { 0.0 };
        let left = progress.total.saturating_sub(done) as f64;
        let eta = if speed > 0.0 { format!("{:.0}", left / speed) } else { "unknown".to_owned() };
        // Rounded down: 100 % is said of nothing that is not there.
        let percent = (1000 * u128::from(done)).checked_div(progress.total.into()).unwrap_or(1000);
        format!(
            "progress action={} percent={}.{} done_gb={:.2} total_gb={:.2} mb_per_s={:.1} eta_s={eta} reread_gb={:.2}",
            progress.action,
            percent / 10,
            percent % 10,
            done as f64 / 1e9,
            progress.total as f64 / 1e9,
            speed / 1e6,
            progress.reread.load(Ordering::Relaxed) as f64 / 1e9,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_line_tells_percent_speed_and_time_left() {
        let progress = Progress::new("fetch", 100_000_000_000, 247_000_000_000, 30_000_000_000);
        let mut meter = Meter::default();
        let began = Instant::now();
        assert_eq!(
            meter.line(&progress, began),
            "progress action=fetch percent=40.4 done_gb=100.00 total_gb=247.00 mb_per_s=0.0 eta_s=unknown reread_gb=30.00"
        );
        progress.add(3_000_000_000);
        progress.reread(20_000_000_000);
        assert_eq!(
            meter.line(&progress, began + INTERVAL),
            "progress action=fetch percent=41.7 done_gb=103.00 total_gb=247.00 mb_per_s=200.0 eta_s=720 reread_gb=10.00"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_speed_is_that_of_the_last_minute_and_bytes_taken_back_do_not_make_it_negative() {
        let progress = Progress::new("fetch", 0, 10_000_000_000, 0);
        let mut meter = Meter::default();
        let began = Instant::now();
        meter.line(&progress, began);
        progress.add(1_500_000_000);
        for tick in 1..=4 {
            assert!(meter.line(&progress, began + INTERVAL * tick).contains("percent=15.0"));
        }
        assert!(meter.line(&progress, began + INTERVAL * 5).contains("mb_per_s=0.0 eta_s=unknown"));
        progress.take_back(1_000_000_000);
        assert!(meter.line(&progress, began + INTERVAL * 6).contains("percent=5.0 done_gb=0.50"));
    }

    #[test]
    fn all_but_a_byte_is_not_all() {
        let progress = Progress::new("check", 9_999, 10_000, 0);
        assert!(Meter::default().line(&progress, Instant::now()).contains("percent=99.9 "));
        progress.add(1);
        assert!(Meter::default().line(&progress, Instant::now()).contains("percent=100.0 "));
    }

    #[tokio::test(start_paused = true)]
    async fn the_result_of_the_work_is_handed_on() {
        let progress = Progress::new("fetch", 0, 1, 0);
        let work = async {
            tokio::time::sleep(INTERVAL * 3).await;
            7
        };
        assert_eq!(progress.report(work).await, 7);
    }
}
