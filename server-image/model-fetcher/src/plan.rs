//! What there is to do in a model's directory: compared from lists, so that it is known before anything is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::fault::Fault;
use crate::record::{FileEntry, Record, is_partial_name, remove, rename};

/// What there is to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Files that are there and were checked when they came.
    pub done: Vec<FileEntry>,
    /// Files to load, and how many of their bytes are there already.
    pub load: Vec<(FileEntry, u64)>,
    /// Files under their final name that nobody has checked: they become partial files, which are read again.
    adopt: Vec<(String, String)>,
    /// Files to delete: of another revision, or longer than they may be.
    delete: Vec<String>,
    /// The size of those.
    pub frees: u64,
    /// Models in the directory that are not part of this one.
    pub strangers: Vec<String>,
}

impl Plan {
    /// Compares what is `wanted` with what is `present`, of which `record` tells what was checked.
    pub fn new(wanted: &[FileEntry], record: Option<&Record>, present: &BTreeMap<String, u64>) -> Self {
        let known: BTreeMap<_, _> =
            record.iter().flat_map(|record| &record.files).map(|file| (file.name.as_str(), file)).collect();
        let mut plan = Self::default();
        let mut kept = BTreeSet::new();
        for file in wanted {
            let partial_name = file.partial_name();
            let partial = present.get(&partial_name).copied().filter(|bytes| *bytes <= file.bytes);
            let full = present.get(&file.name).copied();
            kept.insert(file.name.clone());
            match (full, known.get(file.name.as_str())) {
                (Some(bytes), Some(known)) if bytes == file.bytes && known.sha256 == file.sha256 => {
                    plan.done.push(file.clone());
                    continue;
                }
                (Some(bytes), None) if bytes <= file.bytes && bytes > partial.unwrap_or_default() => {
                    plan.adopt.push((file.name.clone(), partial_name.clone()));
                    plan.load.push((file.clone(), bytes));
                    kept.insert(partial_name);
                    continue;
                }
                (Some(_), _) => plan.delete.push(file.name.clone()),
                (None, _) => {}
            }
            if partial.is_some() {
                kept.insert(partial_name);
            }
            plan.load.push((file.clone(), partial.unwrap_or_default()));
        }
        for name in present.keys().filter(|name| !kept.contains(*name)) {
            if known.contains_key(name.as_str()) || is_partial_name(name) {
                plan.delete.push(name.clone());
            } else if name.to_ascii_lowercase().ends_with(".gguf") && !name.to_ascii_lowercase().contains("mmproj") {
                plan.strangers.push(name.clone());
            }
        }
        plan.frees = plan.delete.iter().filter_map(|name| present.get(name)).sum();
        plan
    }

    /// Bytes that are still to be loaded.
    pub fn missing(&self) -> u64 {
        self.load.iter().map(|(file, there)| file.bytes - there).sum()
    }

    /// Bytes that are there, and how many of these are to be read again.
    pub fn present(&self) -> (u64, u64) {
        let reread = self.load.iter().map(|(_, there)| there).sum();
        (self.done.iter().map(|file| file.bytes).sum::<u64>() + reread, reread)
    }

    /// Makes room in the directory, and writes that `record` is being loaded.
    ///
    /// The record comes last: what it lists under a final name counts as checked.
    ///
    /// # Errors
    /// When the file system does not do it.
    pub fn begin(&self, dir: &Path, record: &Record) -> Result<(), Fault> {
        for name in &self.delete {
            tracing::warn!("deleting {}: it is no part of this model's revision", dir.join(name).display());
            remove(&dir.join(name))?;
        }
        for (name, partial) in &self.adopt {
            tracing::info!("{} was there before: its bytes are checked and used", dir.join(name).display());
            rename(&dir.join(name), &dir.join(partial))?;
        }
        for name in &self.strangers {
            tracing::warn!(
                "{name} is not part of the model: if llama-server cannot tell which file to load, delete it"
            );
        }
        record.begin(dir)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::volume::files;

    fn file(name: &str, bytes: u64, digit: &str) -> FileEntry {
        FileEntry { name: name.to_owned(), bytes, sha256: digit.repeat(64) }
    }

    fn record(files: &[FileEntry]) -> Record {
        Record {
            repo: "o/n".to_owned(),
            revision: "main".to_owned(),
            commit: None,
            quant: "q".to_owned(),
            files: files.to_vec(),
        }
    }

    fn present(files: &[(&str, u64)]) -> BTreeMap<String, u64> {
        files.iter().map(|(name, bytes)| ((*name).to_owned(), *bytes)).collect()
    }

    #[test]
    fn what_is_there_is_not_loaded_again() {
        let wanted = [file("a.gguf", 10, "a"), file("b.gguf", 20, "b"), file("c.gguf", 30, "c")];
        let there = present(&[("a.gguf", 10), ("b.gguf.bbbbbbbbbbbbbbbb.partial", 5), ("SHA256SUMS", 9)]);
        let plan = Plan::new(&wanted, Some(&record(&wanted)), &there);
        assert_eq!(plan.done, [wanted[0].clone()]);
        assert_eq!(plan.load, [(wanted[1].clone(), 5), (wanted[2].clone(), 0)]);
        assert_eq!((plan.missing(), plan.present(), plan.frees), (45, (15, 5), 0));
        assert!(plan.delete.is_empty() && plan.adopt.is_empty());
    }

    #[test]
    fn a_file_that_nobody_checked_is_checked_whether_it_is_whole_or_not() {
        let wanted = [file("a.gguf", 10, "a"), file("b.gguf", 20, "b"), file("c.gguf", 30, "c")];
        let there = present(&[("a.gguf", 10), ("b.gguf", 7), ("c.gguf", 31)]);
        let plan = Plan::new(&wanted, None, &there);
        assert_eq!(plan.load, [(wanted[0].clone(), 10), (wanted[1].clone(), 7), (wanted[2].clone(), 0)]);
        assert_eq!(plan.adopt.len(), 2);
        assert_eq!((plan.delete, plan.frees), (vec!["c.gguf".to_owned()], 31));
    }

    #[test]
    fn the_longer_one_of_two_beginnings_is_kept() {
        let wanted = [file("a.gguf", 10, "a")];
        let partial = "a.gguf.aaaaaaaaaaaaaaaa.partial";
        let plan = Plan::new(&wanted, None, &present(&[("a.gguf", 6), (partial, 4)]));
        assert_eq!(plan.load[0].1, 6);
        assert_eq!(plan.adopt, [("a.gguf".to_owned(), partial.to_owned())]);
        let plan = Plan::new(&wanted, None, &present(&[("a.gguf", 3), (partial, 4)]));
        assert_eq!((plan.load[0].1, plan.delete), (4, vec!["a.gguf".to_owned()]));
    }

    #[test]
    fn another_revision_keeps_what_is_the_same_and_deletes_what_is_not() {
        let old = [file("a.gguf", 10, "a"), file("b.gguf", 20, "b"), file("c.gguf", 5, "c")];
        let new = [file("a.gguf", 10, "a"), file("b.gguf", 20, "d")];
        let there = present(&[("a.gguf", 10), ("b.gguf", 20), ("c.gguf", 5), ("b.gguf.eeeeeeeeeeeeeeee.partial", 3)]);
        let plan = Plan::new(&new, Some(&record(&old)), &there);
        assert_eq!(plan.done, [new[0].clone()]);
        assert_eq!(plan.load, [(new[1].clone(), 0)]);
        assert_eq!(plan.delete, ["b.gguf", "b.gguf.eeeeeeeeeeeeeeee.partial", "c.gguf"]);
        assert_eq!(plan.frees, 28);
    }

    #[test]
    fn a_partial_file_that_is_too_long_is_begun_anew() {
        let wanted = [file("a.gguf", 10, "a")];
        let partial = "a.gguf.aaaaaaaaaaaaaaaa.partial";
        let plan = Plan::new(&wanted, None, &present(&[(partial, 11)]));
        assert_eq!((plan.load[0].1, plan.delete), (0, vec![partial.to_owned()]));
    }

    #[test]
    fn files_of_others_are_left_alone() {
        let there = present(&[("notes.txt", 1), ("other.gguf", 2), ("mmproj-F16.gguf", 3), ("x.partial", 4)]);
        let plan = Plan::new(&[file("a.gguf", 10, "a")], None, &there);
        assert!(plan.delete.is_empty());
        assert_eq!(plan.strangers, ["other.gguf"]);
    }

    #[test]
    fn it_is_carried_out_with_the_record_last() {
        let dir = tempfile::tempdir().unwrap();
        let old = record(&[file("a.gguf", 3, "a"), file("b.gguf", 3, "b")]);
        fs::write(dir.path().join("a.gguf"), "aaa").unwrap();
        fs::write(dir.path().join("b.gguf"), "bbb").unwrap();
        fs::write(dir.path().join("c.gguf"), "cc").unwrap();
        old.finish(dir.path()).unwrap();
        let new = record(&[file("a.gguf", 3, "a"), file("b.gguf", 3, "d"), file("c.gguf", 3, "c")]);
        let plan = Plan::new(&new.files, Some(&old), &files(dir.path()).unwrap());
        plan.begin(dir.path(), &new).unwrap();
        let there: Vec<_> = files(dir.path()).unwrap().into_keys().collect();
        assert_eq!(there, ["a.gguf", "c.gguf.cccccccccccccccc.partial", "model.json.partial"]);
        assert_eq!(Record::any(dir.path()).unwrap(), Some(new));
    }
}
