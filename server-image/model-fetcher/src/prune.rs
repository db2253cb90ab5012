//! Deletes models: never the one that is configured, and only what a record says was put there.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::fault::{Fault, gb};
use crate::parameters::Model;
use crate::record::{COMPLETE, LOADING, remove};
use crate::volume::{Found, Volume, files};

/// The models on the volume but the configured one.
///
/// # Errors
/// When the volume cannot be read.
pub fn others(volume: &Volume, model: &Model) -> Result<Vec<Found>, Fault> {
    // Not by the path: through a link, or where upper and lower case are the same, it has others.
    let home = identity(&volume.home(model));
    Ok(volume.models()?.into_iter().filter(|found| identity(&found.dir) != home).collect())
}

fn identity(dir: &Path) -> Option<(u64, u64)> {
    fs::metadata(dir).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Deletes these models.
///
/// # Errors
/// When a file cannot be deleted.
pub fn delete(models: &[Found]) -> Result<(), Fault> {
    for found in models {
        let (repo, quant) = (&found.record.repo, &found.record.quant);
        tracing::info!("deleting {repo} {quant}: {} in {}", gb(found.bytes), found.dir.display());
        for name in files(&found.dir)?.keys().filter(|name| found.record.owns(name)) {
            // The record is the last to go: it says that the rest may go.
            if name != COMPLETE && name != LOADING {
                remove(&found.dir.join(name))?;
            }
        }
        remove(&found.dir.join(COMPLETE))?;
        remove(&found.dir.join(LOADING))?;
        if remove_empty(&found.dir)? {
            if let Some(repo) = found.dir.parent() {
                remove_empty(repo)?;
            }
        } else {
            tracing::warn!("{} is kept: there are files in it that no model brought", found.dir.display());
        }
    }
    Ok(())
}

fn remove_empty(dir: &Path) -> Result<bool, Fault> {
    match fs::remove_dir(dir) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
        Err(error) => Err(Fault::io("delete", dir, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{FileEntry, Record};

    fn put(volume: &Volume, repo: &str, quant: &str) -> std::path::PathBuf {
        let model = Model { repo: repo.to_owned(), quant: quant.to_owned() };
        let dir = volume.home(&model);
        fs::create_dir_all(&dir).unwrap();
        let file = FileEntry { name: "a.gguf".to_owned(), bytes: 3, sha256: "0".repeat(64) };
        fs::write(dir.join("a.gguf"), "aaa").unwrap();
        fs::write(dir.join("b.gguf.0123456789abcdef.partial"), "bb").unwrap();
        let (repo, quant) = (model.repo, model.quant);
        let record = Record { repo, revision: "main".to_owned(), commit: None, quant, files: vec![file] };
        record.begin(&dir).unwrap();
        dir
    }

    #[test]
    fn the_configured_model_and_the_files_of_others_stay() {
        let root = tempfile::tempdir().unwrap();
        let volume = Volume::open(root.path()).unwrap();
        let configured = put(&volume, "o/n", "Q8_0");
        let sibling = put(&volume, "o/n", "Q4_0");
        let alone = put(&volume, "x/y", "F16");
        let shared = put(&volume, "v/w", "F16");
        fs::write(shared.join("notes.txt"), "mine").unwrap();
        let unknown = root.path().join("s--t/F16");
        fs::create_dir_all(&unknown).unwrap();
        fs::write(unknown.join("a.gguf"), "aaa").unwrap();

        let model = Model { repo: "o/n".to_owned(), quant: "Q8_0".to_owned() };
        delete(&others(&volume, &model).unwrap()).unwrap();
        assert!(configured.join("a.gguf").exists() && unknown.join("a.gguf").exists());
        assert!(!sibling.exists() && !alone.exists() && !alone.parent().unwrap().exists());
        let left: Vec<_> = files(&shared).unwrap().into_keys().collect();
        assert_eq!(left, ["notes.txt"]);
        assert!(others(&volume, &model).unwrap().is_empty());
    }

    #[test]
    fn the_configured_model_stays_also_when_it_is_named_by_a_link() {
        let root = tempfile::tempdir().unwrap();
        let volume = Volume::open(root.path()).unwrap();
        put(&volume, "o/n", "Q8_0");
        std::os::unix::fs::symlink(root.path().join("o--n"), root.path().join("l--k")).unwrap();
        let others = |repo: &str| others(&volume, &Model { repo: repo.to_owned(), quant: "Q8_0".to_owned() }).unwrap();
        assert!(others("l/k").is_empty());
        assert_eq!(others("x/y").len(), 1);
    }

    #[test]
    fn what_links_point_to_stays() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        let volume = Volume::open(root.path()).unwrap();
        let dir = put(&volume, "o/n", "Q8_0");
        fs::remove_file(dir.join("a.gguf")).unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.join("a.gguf")).unwrap();
        delete(&volume.models().unwrap()).unwrap();
        assert!(outside.path().exists() && !dir.join("model.json.partial").exists());
    }
}
