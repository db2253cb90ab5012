//! One fetcher at a time on a volume.

use crate::world::{SHARD_1, SHARD_2, World};

#[tokio::test]
async fn who_comes_second_waits_and_finds_the_model() {
    let world = World::new().await;
    let (one, other) = tokio::join!(world.fetch(), world.fetch());
    one.unwrap();
    other.unwrap();
    world.assert_whole(&[SHARD_1, SHARD_2]);
    assert_eq!(world.hub.ranges().len(), 2);
}
