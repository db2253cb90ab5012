//! `check` finds what rotted on the volume.

use std::fs;

use model_fetcher::check::check;

use crate::world::{SHARD_1, SHARD_2, World};

#[tokio::test]
async fn a_right_model_is_right() {
    let world = World::new().await;
    let missing = check(&world.volume(), &world.parameters().model, false).await.unwrap_err();
    assert_eq!(missing.exit_code(), 6);
    assert!(missing.to_string().contains("there is no whole model in"), "{missing}");
    world.fetch().await.unwrap();
    check(&world.volume(), &world.parameters().model, false).await.unwrap();
}

#[tokio::test]
async fn a_byte_that_rotted_is_found_and_its_file_loaded_again() {
    let world = World::new().await;
    world.fetch().await.unwrap();
    let path = world.home().join("Tiny-Q8_0-00002-of-00002.gguf");
    let mut bytes = fs::read(&path).unwrap();
    bytes[19_999] ^= 1;
    fs::write(&path, bytes).unwrap();
    // By its sizes it is whole.
    world.fetch().await.unwrap();

    let model = world.parameters().model;
    let fault = check(&world.volume(), &model, false).await.unwrap_err();
    assert_eq!(fault.exit_code(), 6);
    assert!(
        fault.to_string().contains("Tiny-Q8_0-00002-of-00002.gguf; hint: `model-fetcher check --discard`"),
        "{fault}"
    );
    assert!(path.exists());
    check(&world.volume(), &model, true).await.unwrap_err();
    assert!(!path.exists());
    let before = world.hub.ranges().len();
    world.fetch().await.unwrap();
    world.assert_whole(&[SHARD_1, SHARD_2]);
    assert_eq!(world.hub.ranges().len(), before + 1);
    check(&world.volume(), &model, false).await.unwrap();
}

#[tokio::test]
async fn a_missing_file_is_wrong_too() {
    let world = World::new().await;
    world.fetch().await.unwrap();
    fs::remove_file(world.home().join("Tiny-Q8_0-00001-of-00002.gguf")).unwrap();
    let told = check(&world.volume(), &world.parameters().model, true).await.unwrap_err().to_string();
    assert!(told.contains("Tiny-Q8_0-00001-of-00002.gguf"), "{told}");
}

#[tokio::test]
async fn nothing_is_discarded_while_another_one_works_on_the_volume() {
    let world = World::new().await;
    world.fetch().await.unwrap();
    let volume = world.volume();
    let _lock = volume.try_lock().unwrap().unwrap();
    let model = world.parameters().model;
    assert_eq!(check(&volume, &model, true).await.unwrap_err().exit_code(), 7);
    check(&volume, &model, false).await.unwrap();
}
