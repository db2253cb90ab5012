//! Volumes that others filled, where there is no network.

use std::fs;

use crate::hub::Act;
use crate::world::{SHARD_1, SHARD_2, World};

const NAMES: [&str; 2] = ["Tiny-Q8_0-00001-of-00002.gguf", "Tiny-Q8_0-00002-of-00002.gguf"];

/// A volume with both shards, copied by hand.
async fn filled() -> World {
    let mut world = World::new().await;
    world.set("FETCH_OFFLINE", "1");
    fs::create_dir_all(world.home()).unwrap();
    for (at, name) in NAMES.iter().enumerate() {
        let bytes = world.hub.state.lock().unwrap().files[at + 1].bytes.clone();
        fs::write(world.home().join(name), bytes).unwrap();
    }
    world
}

fn sums(world: &World, names: &[&str]) -> String {
    let state = world.hub.state.lock().unwrap();
    let line = |name: &&str| {
        let file = state.files.iter().find(|file| file.path.ends_with(*name)).unwrap();
        format!("{}  {name}\n", file.sha256())
    };
    names.iter().map(line).collect()
}

/// What is told when the volume is not as it must be.
async fn refused(world: &World) -> String {
    let fault = world.fetch().await.unwrap_err();
    assert_eq!(fault.exit_code(), 6, "{fault}");
    assert!(world.hub.requests().is_empty(), "it used the network");
    fault.to_string()
}

#[tokio::test]
async fn a_filled_volume_is_taken_without_network() {
    let world = filled().await;
    world.fetch().await.unwrap();
    world.assert_whole(&[SHARD_1, SHARD_2]);
    let record = world.record().unwrap();
    assert_eq!((record.commit, record.revision.as_str()), (None, "main"));
    world.fetch().await.unwrap();
    assert!(world.hub.requests().is_empty());
}

#[tokio::test]
async fn hashes_that_come_with_the_files_are_compared() {
    let world = filled().await;
    fs::write(world.home().join("SHA256SUMS"), sums(&world, &NAMES)).unwrap();
    world.fetch().await.unwrap();
    assert_eq!(world.record().unwrap().files.len(), 2);
}

#[tokio::test]
async fn a_file_with_another_hash_is_refused() {
    let world = filled().await;
    fs::write(world.home().join("SHA256SUMS"), sums(&world, &NAMES)).unwrap();
    let path = world.home().join(NAMES[1]);
    let mut bytes = fs::read(&path).unwrap();
    bytes[500] ^= 1;
    fs::write(&path, bytes).unwrap();
    let told = refused(&world).await;
    assert!(told.contains("Tiny-Q8_0-00002-of-00002.gguf has the SHA-256"), "{told}");
    assert!(world.record().is_none());
}

#[tokio::test]
async fn a_file_that_the_sums_do_not_know_is_refused() {
    let world = filled().await;
    fs::write(world.home().join("SHA256SUMS"), sums(&world, &NAMES[..1])).unwrap();
    let told = refused(&world).await;
    assert!(told.contains("SHA256SUMS has no line for Tiny-Q8_0-00002-of-00002.gguf"), "{told}");
}

#[tokio::test]
async fn a_missing_shard_is_named() {
    let world = filled().await;
    fs::remove_file(world.home().join(NAMES[0])).unwrap();
    let told = refused(&world).await;
    assert!(told.contains("of 2 shards these are missing: [1]"), "{told}");
}

#[tokio::test]
async fn an_empty_volume_is_told_where_the_files_belong() {
    let mut world = World::new().await;
    world.set("FETCH_OFFLINE", "1");
    let told = refused(&world).await;
    assert!(told.contains("there is no GGUF file; hint: copy all files of the model to "), "{told}");
    assert!(told.contains("owner--Tiny-GGUF/Q8_0"), "{told}");
}

#[tokio::test]
async fn two_models_in_one_directory_are_refused() {
    let world = filled().await;
    fs::write(world.home().join("Other-Q8_0.gguf"), b"GGUF\x03\0\0\0").unwrap();
    let told = refused(&world).await;
    assert!(told.contains("there is more than one model: Other-Q8_0.gguf"), "{told}");
}

#[tokio::test]
async fn a_file_that_is_no_model_is_refused() {
    let world = filled().await;
    fs::write(world.home().join(NAMES[1]), "version https://git-lfs.github.com/spec/v1").unwrap();
    let told = refused(&world).await;
    assert!(told.contains("Tiny-Q8_0-00002-of-00002.gguf is not a GGUF file"), "{told}");
}

#[tokio::test]
async fn files_of_other_sizes_than_recorded_are_refused() {
    let world = filled().await;
    world.fetch().await.unwrap();
    let path = world.home().join(NAMES[0]);
    fs::write(&path, &fs::read(&path).unwrap()[..20_000]).unwrap();
    let told = refused(&world).await;
    assert!(told.contains("Tiny-Q8_0-00001-of-00002.gguf has 20000 bytes instead of 30000 bytes"), "{told}");
}

#[tokio::test]
async fn another_revision_than_recorded_is_refused() {
    let mut world = filled().await;
    world.fetch().await.unwrap();
    world.set("MODEL_REVISION", "v2");
    let told = refused(&world).await;
    assert!(told.contains("it is of revision main, MODEL_REVISION is v2"), "{told}");
}

#[tokio::test]
async fn a_download_that_was_broken_off_is_no_model() {
    let mut world = World::new().await;
    world.hub.act([Act::Cut(30_000), Act::Cut(100), Act::Cut(0)]);
    world.fetch_with(std::time::Duration::from_secs(20), 1).await.unwrap_err();
    world.hub.state.lock().unwrap().requests.clear();
    world.set("FETCH_OFFLINE", "1");
    let told = refused(&world).await;
    assert!(told.contains("of 2 shards these are missing: [2]"), "{told}");
}

#[tokio::test]
async fn links_as_in_the_cache_of_other_tools_are_refused_by_name() {
    let world = filled().await;
    let path = world.home().join(NAMES[1]);
    let blob = world.dir.path().join("blob");
    fs::rename(&path, &blob).unwrap();
    std::os::unix::fs::symlink(&blob, &path).unwrap();
    let told = refused(&world).await;
    assert!(told.contains("Tiny-Q8_0-00002-of-00002.gguf is a link, which is not followed; hint: copy all"), "{told}");
}
