//! A model that does not fit is refused before its first byte, and another one is deleted only when that is allowed.

use std::fs;

use crate::hub::{Act, status};
use crate::world::{SHARD_1, SHARD_2, World};

/// A volume with Q4_0 (10 kB) on it, on which Q8_0 (50 kB) is wanted.
async fn with_another_model(capacity: u64) -> World {
    let mut world = World::new().await;
    world.set("QUANT_TYPE", "Q4_0");
    world.fetch().await.unwrap();
    world.set("QUANT_TYPE", "Q8_0");
    world.hub.state.lock().unwrap().requests.clear();
    world.capacity = Some(capacity);
    world
}

#[tokio::test]
async fn two_models_stay_where_both_fit() {
    let mut world = with_another_model(100_000).await;
    world.set("FETCH_PRUNE", "1");
    world.fetch().await.unwrap();
    world.assert_whole(&[SHARD_1, SHARD_2]);
    assert_eq!(world.volume().models().unwrap().len(), 2);
}

#[tokio::test]
async fn a_model_that_does_not_fit_is_refused_and_nothing_is_changed() {
    let world = with_another_model(55_000).await;
    let fault = world.fetch().await.unwrap_err();
    assert_eq!(fault.exit_code(), 3);
    let told = fault.to_string();
    assert!(told.contains("deletes owner/Tiny-GGUF Q4_0 (0.00 GB), which is enough"), "{told}");
    assert!(!world.home().exists());
    assert!(world.hub.ranges().is_empty());
    assert_eq!(world.volume().models().unwrap().len(), 1);
}

#[tokio::test]
async fn the_other_model_is_deleted_when_that_is_allowed_and_needed() {
    let mut world = with_another_model(55_000).await;
    world.set("FETCH_PRUNE", "1");
    world.fetch().await.unwrap();
    world.assert_whole(&[SHARD_1, SHARD_2]);
    assert_eq!(world.volume().models().unwrap().len(), 1);
}

#[tokio::test]
async fn the_other_model_is_not_deleted_when_that_is_not_enough() {
    let mut world = with_another_model(40_000).await;
    world.set("FETCH_PRUNE", "1");
    let told = world.fetch().await.unwrap_err().to_string();
    assert!(told.contains("would not be enough"), "{told}");
    assert_eq!(world.volume().models().unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_kept_free_counts() {
    let mut world = World::new().await;
    world.capacity = Some(2 << 30);
    world.set("KEEP_FREE_GIB", "2");
    assert_eq!(world.fetch().await.unwrap_err().exit_code(), 3);
    world.set("KEEP_FREE_GIB", "1");
    world.fetch().await.unwrap();
}

#[tokio::test]
async fn what_is_there_already_is_not_needed_again() {
    let mut world = World::of_one(10_000).await;
    // Little more than the file: not twice the file, and what the fetcher writes besides.
    world.capacity = Some(12_000);
    world.hub.act([Act::Cut(6_000), Act::Cut(0)]);
    world.fetch_with(std::time::Duration::from_secs(20), 1).await.unwrap_err();
    world.fetch().await.unwrap();
    world.assert_whole(&["Tiny-Q8_0.gguf"]);
}

#[tokio::test]
async fn a_new_revision_may_take_the_place_of_the_old_one() {
    let mut world = World::of_one(10_000).await;
    world.fetch().await.unwrap();
    {
        let mut state = world.hub.state.lock().unwrap();
        state.commit = "beef".repeat(10);
        state.files[0].bytes[5_000] ^= 1;
    }
    world.capacity = Some(12_000);
    world.set("MODEL_REVISION", "v2");
    world.fetch().await.unwrap();
    world.assert_whole(&["Tiny-Q8_0.gguf"]);
}

#[tokio::test]
async fn a_model_of_others_is_not_deleted() {
    let mut world = World::new().await;
    let theirs = world.parameters().models_dir.join("theirs--model/Q8_0");
    fs::create_dir_all(&theirs).unwrap();
    fs::write(theirs.join("a.gguf"), vec![0; 30_000]).unwrap();
    world.capacity = Some(70_000);
    world.set("FETCH_PRUNE", "1");
    let told = world.fetch().await.unwrap_err().to_string();
    assert!(told.contains("there is no other model to delete"), "{told}");
    assert!(theirs.join("a.gguf").exists());
}

#[tokio::test]
async fn no_model_is_deleted_for_one_whose_files_the_hub_refuses() {
    let mut world = with_another_model(55_000).await;
    world.set("FETCH_PRUNE", "1");
    // The list is for all, the files are not.
    world.hub.act([status("503 Service Unavailable", ""), status("403 Forbidden", "x-error-code: GatedRepo\r\n")]);
    let fault = world.fetch().await.unwrap_err();
    assert_eq!(fault.exit_code(), 4, "{fault}");
    assert_eq!(world.volume().models().unwrap().len(), 1);
    assert!(!world.home().exists());
}
