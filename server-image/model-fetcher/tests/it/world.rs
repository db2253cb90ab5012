//! A volume, a hub, and the parameters that bring them together.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use model_fetcher::fault::Fault;
use model_fetcher::fetch::fetch;
use model_fetcher::parameters::Parameters;
use model_fetcher::record::Record;
use model_fetcher::volume::{Measure, Space, Volume};
use tempfile::TempDir;

use crate::hub::{Hub, HubFile};

pub(crate) const REPO: &str = "owner/Tiny-GGUF";
pub(crate) const SHARD_1: &str = "Q8_0/Tiny-Q8_0-00001-of-00002.gguf";
pub(crate) const SHARD_2: &str = "Q8_0/Tiny-Q8_0-00002-of-00002.gguf";

/// A file that begins as GGUF files do, and then has no pattern that a mix-up would keep.
pub(crate) fn file(path: &str, bytes: usize, seed: u64) -> HubFile {
    let mut content = b"GGUF\x03\0\0\0".to_vec();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    content.extend((8..bytes).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    }));
    HubFile { path: path.to_owned(), bytes: content }
}

/// A repository as they are: two shards, another quantisation, a vision part and a text.
pub(crate) fn repository() -> Vec<HubFile> {
    vec![
        HubFile { path: "README.md".to_owned(), bytes: b"# Tiny".to_vec() },
        file(SHARD_1, 30_000, 1),
        file(SHARD_2, 20_000, 2),
        file("Q4_0/Tiny-Q4_0.gguf", 10_000, 3),
        file("mmproj-Q8_0.gguf", 1_000, 4),
    ]
}

pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) hub: Hub,
    pub(crate) env: BTreeMap<String, String>,
    /// The size of the volume, if it has one.
    pub(crate) capacity: Option<u64>,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(repository()).await
    }

    /// A hub with one file, which is the model.
    pub(crate) async fn of_one(bytes: usize) -> Self {
        Self::with(vec![file("Tiny-Q8_0.gguf", bytes, 7)]).await
    }

    pub(crate) async fn with(files: Vec<HubFile>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let hub = Hub::start(files).await;
        let mut world = Self { dir, hub, env: BTreeMap::new(), capacity: None };
        world.set("MODEL_REPO", REPO);
        world.set("QUANT_TYPE", "Q8_0");
        world.set("MODELS_DIR", world.dir.path().join("models").to_str().unwrap());
        world.set("HF_ENDPOINT", &world.hub.url());
        world.set("HF_TOKEN_FILE", "/nowhere/HF_TOKEN");
        world.set("KEEP_FREE_GIB", "0");
        // One after the other, so that what a hub was told to do is done in order.
        world.set("FETCH_CONNECTIONS", "1");
        fs::create_dir(world.dir.path().join("models")).unwrap();
        world
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.env.insert(name.to_owned(), value.to_owned());
    }

    pub(crate) fn token(&mut self, token: &str) {
        let path = self.dir.path().join("HF_TOKEN");
        fs::write(&path, token).unwrap();
        self.set("HF_TOKEN_FILE", path.to_str().unwrap());
    }

    pub(crate) fn parameters(&self) -> Parameters {
        let mut parameters = Parameters::read(&|name| self.env.get(name).cloned()).unwrap();
        parameters.patience.first_pause = Duration::from_millis(1);
        parameters.patience.longest_pause = Duration::from_millis(2);
        parameters
    }

    pub(crate) fn volume(&self) -> Volume {
        let root = self.parameters().models_dir;
        let Some(capacity) = self.capacity else { return Volume::open(&root).unwrap() };
        let measure: Measure =
            Arc::new(move |root| Ok(Space { free: capacity.saturating_sub(size_of_all(root)), total: capacity }));
        Volume::measured(&root, measure).unwrap()
    }

    pub(crate) async fn fetch(&self) -> Result<(), Fault> {
        fetch(&self.parameters(), &self.volume()).await
    }

    /// The same with another patience: seconds are too long for a test.
    pub(crate) async fn fetch_with(&self, stall: Duration, attempts: u32) -> Result<(), Fault> {
        let mut parameters = self.parameters();
        parameters.patience.stall = stall;
        parameters.patience.attempts = attempts;
        fetch(&parameters, &self.volume()).await
    }

    pub(crate) fn home(&self) -> PathBuf {
        let parameters = self.parameters();
        self.volume().home(&parameters.model)
    }

    /// The names in the model's directory.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.home())
            .map(|entries| entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
            .unwrap_or_default();
        names.sort();
        names
    }

    pub(crate) fn record(&self) -> Option<Record> {
        Record::read(&self.home(), "model.json").unwrap()
    }

    /// Asserts that the files of the hub with these paths are there, whole, recorded, and nothing else.
    pub(crate) fn assert_whole(&self, paths: &[&str]) {
        let state = self.hub.state.lock().unwrap();
        let record = self.record().unwrap();
        let base = |path: &str| path.rsplit('/').next().unwrap().to_owned();
        let names: Vec<_> = paths.iter().map(|path| base(path)).chain(["model.json".to_owned()]).collect();
        let mut sorted = names.clone();
        sorted.sort();
        assert_eq!(self.names(), sorted);
        for (path, entry) in paths.iter().zip(&record.files) {
            let file = state.files.iter().find(|file| file.path == **path).unwrap();
            assert!(fs::read(self.home().join(base(path))).unwrap() == file.bytes, "{path} has other bytes");
            assert_eq!((&entry.name, entry.bytes), (&base(path), file.bytes.len() as u64));
            assert_eq!(entry.sha256, file.sha256());
        }
        assert_eq!(record.files.len(), paths.len());
    }
}

fn size_of_all(dir: &Path) -> u64 {
    let size = |entry: fs::DirEntry| {
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() { size_of_all(&entry.path()) } else { metadata.len() }
    };
    fs::read_dir(dir).unwrap().map(|entry| size(entry.unwrap())).sum()
}
