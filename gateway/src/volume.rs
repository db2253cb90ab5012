//! How much space is left where the data directory lies.
//!
//! Takes the directory; gives the size of its file system and what is free of it, or nothing when that does not answer:
//! a network file system whose server is gone keeps whoever asks for as long as it likes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::timeout;

/// How long somebody who scrapes metrics waits for the file system: well below the 10 s that Prometheus waits.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a file system says of itself, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub size: u64,
    /// What whoever is not root may still use.
    pub free: u64,
}

type Measure = Arc<dyn Fn(&Path) -> io::Result<Space> + Send + Sync>;

/// The file system of a directory.
pub struct Volume {
    directory: PathBuf,
    measure: Measure,
    /// One asks at a time, so that a file system that hangs holds one thread and not one for each scrape.
    asking: Arc<Mutex<()>>,
}

impl Volume {
    /// The one that holds this directory.
    pub fn of(directory: &Path) -> Self {
        Self::measured(directory, statvfs)
    }

    fn measured(directory: &Path, measure: impl Fn(&Path) -> io::Result<Space> + Send + Sync + 'static) -> Self {
        Self { directory: directory.to_owned(), measure: Arc::new(measure), asking: Arc::default() }
    }

    /// Its space; `None` if it does not say so at once.
    pub async fn space(&self) -> Option<Space> {
        let answer = async {
            let alone = Arc::clone(&self.asking).lock_owned().await;
            let (measure, directory) = (Arc::clone(&self.measure), self.directory.clone());
            let asked = tokio::task::spawn_blocking(move || {
                let answer = measure(&directory);
                drop(alone);
                answer
            });
            asked.await.ok()?.ok()
        };
        timeout(PATIENCE, answer).await.ok().flatten()
    }
}

fn statvfs(directory: &Path) -> io::Result<Space> {
    let told = rustix::fs::statvfs(directory)?;
    Ok(Space { size: told.f_blocks * told.f_frsize, free: told.f_bavail * told.f_frsize })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;

    use super::*;

    #[tokio::test]
    async fn a_directory_has_the_space_of_its_file_system() {
        let directory = tempfile::tempdir().unwrap();
        let space = Volume::of(directory.path()).space().await.unwrap();
        assert!(space.free <= space.size && space.size > 0, "{space:?}");
        assert_eq!(Volume::of(&directory.path().join("missing")).space().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_system_that_hangs_is_not_waited_for_and_holds_one_thread() {
        let (hang, until) = channel::<Space>();
        let (until, asked) = (std::sync::Mutex::new(until), Arc::new(AtomicUsize::new(0)));
        let counted = asked.clone();
        let measure = move |_: &Path| {
            counted.fetch_add(1, Ordering::SeqCst);
            until.lock().unwrap().recv().map_err(io::Error::other)
        };
        let volume = Volume::measured(Path::new("/"), measure);
        for _ in 0..3 {
            // Time stands still while a thread is at work.
            let (answer, ()) = tokio::join!(volume.space(), tokio::time::advance(PATIENCE));
            assert_eq!(answer, None);
        }
        let (old, new) = (Space { size: 10, free: 2 }, Space { size: 10, free: 1 });
        hang.send(old).unwrap();
        hang.send(new).unwrap();
        tokio::time::resume();
        assert_eq!(volume.space().await, Some(new), "what it said too late is forgotten");
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }
}
