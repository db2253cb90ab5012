//! `model.json`: which files a model has. It is written last, so that whoever finds it finds a whole model.
//!
//! While files are loading it is called `model.json.partial`. What either of them lists and what lies there under its
//! final name was checked when it got that name; it is not read again.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::parameters::{Model, is_plain};

/// The name of a whole model's record.
pub const COMPLETE: &str = "model.json";
/// The name while files are missing.
pub const LOADING: &str = "model.json.partial";
/// What is being written has another name, also one of a partial file.
const SCRATCH: &str = "model.json.new.partial";
/// The largest file that is believed: 16 TiB, of which sums are far from what a `u64` holds.
const LARGEST_FILE: u64 = 1 << 44;

/// A model on the volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// `owner/name`.
    pub repo: String,
    /// What was asked for: a branch, tag or commit.
    pub revision: String,
    /// What that was then; unknown of a volume that others filled.
    pub commit: Option<String>,
    /// The quantisation.
    pub quant: String,
    /// Its files, in order.
    pub files: Vec<FileEntry>,
}

/// One file of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its name, without a path.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its hash, 64 hexadecimal digits in lower case.
    pub sha256: String,
}

impl FileEntry {
    /// The name while it is loading. It tells the content, so that what was begun is never gone on with another one.
    pub fn partial_name(&self) -> String {
        format!("{}.{}.partial", self.name, self.sha256.get(..16).unwrap_or_default())
    }

    /// Whether it can be a file of a model.
    pub fn is_sound(&self) -> bool {
        is_plain(&self.name) && is_sha256(&self.sha256) && self.bytes <= LARGEST_FILE
    }
}

/// Whether a file is called as [`FileEntry::partial_name`] calls it.
pub fn is_partial_name(name: &str) -> bool {
    name.strip_suffix(".partial").is_some_and(|name| {
        name.rsplit_once('.').is_some_and(|(file, hash)| {
            file.to_ascii_lowercase().ends_with(".gguf")
                && hash.len() == 16
                && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    })
}

impl Record {
    /// Reads the record called `name`, if there is one. One that is broken counts as none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(dir: &Path, name: &str) -> Result<Option<Self>, Fault> {
        let path = dir.join(name);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(Fault::io("read", &path, error)),
        };
        let record = serde_json::from_slice::<Self>(&text).ok().filter(Self::is_sound);
        if record.is_none() {
            tracing::warn!("{} is not a record of a model: taken for none", path.display());
        }
        Ok(record)
    }

    /// The record of the directory: the one of loading files, if there are any.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn any(dir: &Path) -> Result<Option<Self>, Fault> {
        Ok(match Self::read(dir, LOADING)? {
            Some(record) => Some(record),
            None => Self::read(dir, COMPLETE)?,
        })
    }

    /// Whether it is of that model.
    pub fn is_of(&self, model: &Model) -> bool {
        self.repo == model.repo && self.quant == model.quant
    }

    /// Whether a file in its directory was put there with it.
    pub fn owns(&self, name: &str) -> bool {
        matches!(name, COMPLETE | LOADING | SCRATCH)
            || is_partial_name(name)
            || self.files.iter().any(|file| file.name == name)
    }

    /// Whether all files are there with their sizes. That costs milliseconds, where reading them costs minutes.
    pub fn is_whole(&self, dir: &Path) -> bool {
        self.files.iter().all(|file| {
            // A link is no file: what it points to may be gone where llama-server looks.
            fs::symlink_metadata(dir.join(&file.name)).is_ok_and(|found| found.is_file() && found.len() == file.bytes)
        })
    }

    /// The size of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Writes that this is being loaded.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(&self, dir: &Path) -> Result<(), Fault> {
        self.write(dir, LOADING)?;
        remove(&dir.join(COMPLETE))
    }

    /// Writes that all is there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(&self, dir: &Path) -> Result<(), Fault> {
        self.write(dir, COMPLETE)?;
        remove(&dir.join(LOADING))
    }

    fn write(&self, dir: &Path, name: &str) -> Result<(), Fault> {
        let scratch = dir.join(SCRATCH);
        let fault = |error| Fault::io("write", &scratch, error);
        let mut text = serde_json::to_vec_pretty(self).map_err(|error| fault(error.into()))?;
        text.push(b'\n');
        let mut file = File::create(&scratch).map_err(fault)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(fault)?;
        rename(&scratch, &dir.join(name))
    }

    fn is_sound(&self) -> bool {
        !self.files.is_empty() && self.files.iter().all(FileEntry::is_sound)
    }
}

/// Whether it is a hash as it is written here.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Gives a file its name for good: a crash of the machine does not undo it.
///
/// # Errors
/// When the file system does not do it.
pub fn rename(from: &Path, to: &Path) -> Result<(), Fault> {
    let durable = || {
        fs::rename(from, to)?;
        to.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    durable().map_err(|error| Fault::io("rename", from, error))
}

/// Deletes a file, if it is there.
///
/// # Errors
/// When the file system does not do it.
pub fn remove(path: &Path) -> Result<(), Fault> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Fault::io("delete", path, error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let file = FileEntry { name: "a-mxfp4.gguf".to_owned(), bytes: 3, sha256: "0a".repeat(32) };
        Record {
            repo: "o/n".to_owned(),
            revision: "main".to_owned(),
            commit: Some("c".repeat(40)),
            quant: "mxfp4".to_owned(),
            files: vec![file],
        }
    }

    #[test]
    fn it_is_written_as_it_is_documented() {
        let dir = tempfile::tempdir().unwrap();
        record().finish(dir.path()).unwrap();
        let text: serde_json::Value =
            serde_json::from_slice(&fs::read(dir.path().join("model.json")).unwrap()).unwrap();
        assert_eq!(
            text,
            serde_json::json!({"repo": "o/n", "revision": "main", "commit": "c".repeat(40), "quant": "mxfp4",
                "files": [{"name": "a-mxfp4.gguf", "bytes": 3, "sha256": "0a".repeat(32)}]})
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn there_is_one_record_at_a_time_and_the_one_of_loading_files_wins() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Record::any(dir.path()).unwrap(), None);
        record().finish(dir.path()).unwrap();
        let other = Record { revision: "v2".to_owned(), ..record() };
        other.begin(dir.path()).unwrap();
        assert!(!dir.path().join(COMPLETE).exists());
        // As a crash between the two steps of `begin` leaves it.
        record().write(dir.path(), COMPLETE).unwrap();
        assert_eq!(Record::any(dir.path()).unwrap(), Some(other.clone()));
        other.finish(dir.path()).unwrap();
        assert!(!dir.path().join(LOADING).exists());
        assert_eq!(Record::any(dir.path()).unwrap(), Some(other));
    }

    #[test]
    fn a_broken_record_or_one_that_points_elsewhere_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let with = |name: &str, sha256: &str| {
            let mut record = record();
            record.files[0].name = name.to_owned();
            record.files[0].sha256 = sha256.to_owned();
            serde_json::to_string(&record).unwrap()
        };
        let good = "0a".repeat(32);
        for text in [
            "{\"repo\":".to_owned(),
            with("../a.gguf", &good),
            with(".a.gguf", &good),
            with("a.gguf", "0A"),
            serde_json::to_string(&Record { files: Vec::new(), ..record() }).unwrap(),
        ] {
            fs::write(dir.path().join(COMPLETE), &text).unwrap();
            assert_eq!(Record::any(dir.path()).unwrap(), None, "{text}");
        }
        fs::write(dir.path().join(COMPLETE), with("a.gguf", &good)).unwrap();
        assert!(Record::any(dir.path()).unwrap().is_some());
    }

    #[test]
    fn a_model_is_whole_when_all_sizes_are_right() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!record().is_whole(dir.path()));
        for (text, whole) in [("ab", false), ("abc", true), ("abcd", false)] {
            fs::write(dir.path().join("a-mxfp4.gguf"), text).unwrap();
            assert_eq!(record().is_whole(dir.path()), whole, "{text}");
        }
        fs::write(dir.path().join("elsewhere"), "abc").unwrap();
        fs::remove_file(dir.path().join("a-mxfp4.gguf")).unwrap();
        std::os::unix::fs::symlink("elsewhere", dir.path().join("a-mxfp4.gguf")).unwrap();
        assert!(!record().is_whole(dir.path()));
    }

    #[test]
    fn its_own_files_are_those_it_names_and_those_that_are_called_as_partial_files_are() {
        let hash = "0123456789abcdef";
        for name in ["a-mxfp4.gguf", "model.json", "model.json.partial", "model.json.new.partial"] {
            assert!(record().owns(name), "{name}");
        }
        assert!(record().owns(&format!("b.gguf.{hash}.partial")) && record().owns(&format!("b.GGUF.{hash}.partial")));
        for name in ["b.gguf", "b.gguf.partial", "b.gguf.0123456789abcdeg.partial", "thesis.partial"] {
            assert!(!record().owns(name), "{name}");
        }
    }
}
