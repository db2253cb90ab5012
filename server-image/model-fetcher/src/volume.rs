//! The volume: `OWNER--NAME/QUANTISATION/` holds a model's files. Who is at work on it, what is on it, and its space.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::fault::{Fault, gb};
use crate::parameters::Model;
use crate::record::{LOADING, Record};

/// Held while files are changed; the system lets it go when its holder ends, however it ends.
const LOCK: &str = ".model-fetcher.lock";
/// How often a lock that another one has is looked at.
const LOCK_INTERVAL: Duration = Duration::from_secs(1);
/// After so many looks the log says again what is waited for.
const LOOKS_PER_LINE: u32 = 15;

/// Tells the free and the whole bytes of the file system that a path is on.
pub type Measure = Arc<dyn Fn(&Path) -> io::Result<Space> + Send + Sync>;

/// Bytes of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What can still be written.
    pub free: u64,
    /// How much it is.
    pub total: u64,
}

/// A mounted volume.
#[derive(Clone)]
pub struct Volume {
    root: PathBuf,
    measure: Measure,
}

/// A model that lies on the volume.
#[derive(Debug)]
pub struct Found {
    /// Its directory.
    pub dir: PathBuf,
    /// What it has, or will have.
    pub record: Record,
    /// Whether all of that is there.
    pub complete: bool,
    /// The size of its files, also of those still loading.
    pub bytes: u64,
}

impl Volume {
    /// The volume mounted at `root`.
    ///
    /// # Errors
    /// When there is no such directory.
    pub fn open(root: &Path) -> Result<Self, Fault> {
        Self::measured(root, Arc::new(statvfs))
    }

    /// The same, with another way to tell its space.
    ///
    /// # Errors
    /// When there is no such directory.
    pub fn measured(root: &Path, measure: Measure) -> Result<Self, Fault> {
        if root.is_dir() {
            return Ok(Self { root: root.to_owned(), measure });
        }
        Err(Fault::Parameter {
            name: "MODELS_DIR",
            problem: format!("{} is not a directory", root.display()),
            hint: "mount the volume for models there",
        })
    }

    /// Where a model's files lie.
    pub fn home(&self, model: &Model) -> PathBuf {
        self.root.join(model.repo_dir()).join(&model.quant)
    }

    /// The space of the volume.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn space(&self) -> Result<Space, Fault> {
        (self.measure)(&self.root).map_err(|error| Fault::io("ask for the free space of", &self.root, error))
    }

    /// Waits until nobody else works on the volume.
    ///
    /// # Errors
    /// When the lock cannot be taken at all.
    pub async fn lock(&self) -> Result<File, Fault> {
        let mut looks = 0;
        loop {
            if let Some(lock) = self.try_lock()? {
                return Ok(lock);
            }
            if looks % LOOKS_PER_LINE == 0 {
                tracing::info!("waiting: another model-fetcher works on {}", self.root.display());
            }
            looks += 1;
            tokio::time::sleep(LOCK_INTERVAL).await;
        }
    }

    /// Takes the lock now.
    ///
    /// # Errors
    /// When another one has it, or it cannot be taken at all.
    pub fn lock_at_once(&self) -> Result<File, Fault> {
        self.try_lock()?.ok_or_else(|| Fault::Locked(self.root.clone()))
    }

    /// Takes the lock, if nobody has it.
    ///
    /// # Errors
    /// When it cannot be taken at all.
    pub fn try_lock(&self) -> Result<Option<File>, Fault> {
        let path = self.root.join(LOCK);
        let fault = |error| Fault::io("lock", &path, error);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(fault)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(fault(error)),
        }
    }

    /// All models on the volume: the directories that have a record which says that they are theirs.
    ///
    /// # Errors
    /// When the volume cannot be read.
    pub fn models(&self) -> Result<Vec<Found>, Fault> {
        let mut found = Vec::new();
        for repo in directories(&self.root)?.into_iter().filter(|dir| name_of(dir).contains("--")) {
            for dir in directories(&repo)? {
                let Some(record) = Record::any(&dir)? else { continue };
                let model = Model { repo: record.repo.clone(), quant: record.quant.clone() };
                // A record that was copied from elsewhere says nothing about this directory.
                if self.home(&model) == dir {
                    found.push(Found::of(dir, record)?);
                }
            }
        }
        found.sort_by(|one, other| one.dir.cmp(&other.dir));
        Ok(found)
    }
}

impl Found {
    fn of(dir: PathBuf, record: Record) -> Result<Self, Fault> {
        let bytes = files(&dir)?.iter().filter(|(name, _)| record.owns(name)).map(|(_, bytes)| bytes).sum();
        let complete = !dir.join(LOADING).exists() && record.is_whole(&dir);
        Ok(Self { complete, bytes, dir, record })
    }
}

/// The regular files in a directory and their sizes. None, if there is no such directory.
///
/// # Errors
/// When it cannot be read.
pub fn files(dir: &Path) -> Result<BTreeMap<String, u64>, Fault> {
    let mut files = BTreeMap::new();
    for entry in entries(dir)? {
        let metadata = entry.metadata().map_err(|error| Fault::io("look at", &entry.path(), error))?;
        if let (true, Some(name)) = (metadata.is_file(), entry.file_name().to_str()) {
            files.insert(name.to_owned(), metadata.len());
        }
    }
    Ok(files)
}

/// The links in a directory that are called like files of a model. They are not followed.
///
/// # Errors
/// When it cannot be read.
pub fn links(dir: &Path) -> Result<Vec<String>, Fault> {
    let is_link = |entry: &&fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_symlink());
    let names = entries(dir)?.iter().filter(is_link).map(|entry| name_of(&entry.path())).collect::<Vec<_>>();
    Ok(names.into_iter().filter(|name| name.to_ascii_lowercase().ends_with(".gguf")).collect())
}

fn directories(dir: &Path) -> Result<Vec<PathBuf>, Fault> {
    // Not through links: what they point to is not ours.
    let is_dir = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    Ok(entries(dir)?.iter().filter(|entry| is_dir(entry)).map(fs::DirEntry::path).collect())
}

fn entries(dir: &Path) -> Result<Vec<fs::DirEntry>, Fault> {
    let fault = |error| Fault::io("read", dir, error);
    match fs::read_dir(dir) {
        Ok(entries) => entries.collect::<Result<_, _>>().map_err(fault),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(fault(error)),
    }
}

fn name_of(dir: &Path) -> String {
    dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn statvfs(path: &Path) -> io::Result<Space> {
    let told = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(told.f_frsize);
    Ok(Space { free: bytes(told.f_bavail), total: bytes(told.f_blocks) })
}

/// The table that `list` prints. The model that is configured has a star.
///
/// # Errors
/// When the volume cannot be read.
pub fn list(volume: &Volume, configured: Option<&Model>) -> Result<String, Fault> {
    let mut text = format!("  {:<9} {:>11}  {:<12}  MODEL\n", "STATE", "SIZE", "COMMIT");
    for found in volume.models()? {
        let star = if configured.is_some_and(|model| found.record.is_of(model)) { '*' } else { ' ' };
        let state = if found.complete { "complete" } else { "partial" };
        let commit = found.record.commit.as_deref().and_then(|commit| commit.get(..12)).unwrap_or("-");
        let (repo, quant) = (&found.record.repo, &found.record.quant);
        text.push_str(&format!("{star} {state:<9} {:>11}  {commit:<12}  {repo} {quant}\n", gb(found.bytes)));
    }
    let space = volume.space()?;
    text.push_str(&format!("free: {} of {}\n", gb(space.free), gb(space.total)));
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::FileEntry;

    fn put(root: &Path, repo: &str, quant: &str, bytes: usize) -> PathBuf {
        let model = Model { repo: repo.to_owned(), quant: quant.to_owned() };
        let dir = root.join(model.repo_dir()).join(quant);
        fs::create_dir_all(&dir).unwrap();
        let file = FileEntry { name: "a.gguf".to_owned(), bytes: bytes as u64, sha256: "0".repeat(64) };
        fs::write(dir.join("a.gguf"), vec![0; bytes]).unwrap();
        let (repo, quant) = (model.repo, model.quant);
        let record = Record { repo, revision: "main".to_owned(), commit: None, quant, files: vec![file] };
        record.finish(&dir).unwrap();
        dir
    }

    #[test]
    fn models_are_directories_whose_record_says_so() {
        let root = tempfile::tempdir().unwrap();
        let volume = Volume::open(root.path()).unwrap();
        let whole = put(root.path(), "o/n", "Q8_0", 10);
        let partial = put(root.path(), "o/n", "Q4_0", 10);
        fs::write(partial.join("a.gguf"), "short").unwrap();
        // A copy of a model, somebody's files, files without a record, and a link out of the volume.
        let copied = root.path().join("x--y/Q8_0");
        fs::create_dir_all(&copied).unwrap();
        fs::copy(whole.join("model.json"), copied.join("model.json")).unwrap();
        fs::create_dir_all(root.path().join("lost+found")).unwrap();
        fs::create_dir_all(root.path().join("o--n/F16")).unwrap();
        std::os::unix::fs::symlink(root.path().join("o--n"), root.path().join("l--k")).unwrap();
        let found = volume.models().unwrap();
        let told: Vec<_> = found.iter().map(|found| (found.dir.clone(), found.complete)).collect();
        assert_eq!(told, [(partial, false), (whole, true)]);
    }

    #[test]
    fn the_list_tells_state_size_and_free_space_and_marks_the_configured_model() {
        let root = tempfile::tempdir().unwrap();
        let measure: Measure = Arc::new(|_| Ok(Space { free: 5_000_000_000, total: 7_000_000_000 }));
        let volume = Volume::measured(root.path(), measure).unwrap();
        put(root.path(), "o/n", "Q8_0", 20_000_000);
        let dir = put(root.path(), "o/n", "Q4_0", 0);
        fs::rename(dir.join("model.json"), dir.join("model.json.partial")).unwrap();
        let model = Model { repo: "o/n".to_owned(), quant: "Q8_0".to_owned() };
        assert_eq!(
            list(&volume, Some(&model)).unwrap(),
            "  STATE            SIZE  COMMIT        MODEL\n\
             \x20 partial       0.00 GB  -             o/n Q4_0\n\
             * complete      0.02 GB  -             o/n Q8_0\n\
             free: 5.00 GB of 7.00 GB\n"
        );
    }

    #[test]
    fn a_volume_that_is_not_mounted_is_refused() {
        let fault = Volume::open(Path::new("/nowhere/models")).err().unwrap();
        assert!(fault.to_string().contains("/nowhere/models is not a directory"), "{fault}");
    }

    #[test]
    fn the_system_tells_the_space() {
        let root = tempfile::tempdir().unwrap();
        let space = Volume::open(root.path()).unwrap().space().unwrap();
        assert!(space.total > 0 && space.free <= space.total);
    }

    #[tokio::test(start_paused = true)]
    async fn the_lock_is_one_at_a_time_and_who_waits_gets_it() {
        let root = tempfile::tempdir().unwrap();
        let volume = Volume::open(root.path()).unwrap();
        let held = volume.try_lock().unwrap().unwrap();
        assert!(volume.try_lock().unwrap().is_none());
        let letting_go = async {
            tokio::time::sleep(Duration::from_secs(40)).await;
            drop(held);
        };
        let began = tokio::time::Instant::now();
        let (lock, ()) = tokio::join!(volume.lock(), letting_go);
        assert!(lock.is_ok() && began.elapsed() >= Duration::from_secs(40));
    }
}
