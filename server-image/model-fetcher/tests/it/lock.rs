//! One fetcher at a time on a volume.

use crate::world::{SHARD_1, SHARD_2, World};

#[tokio::test]
async fn who_comes_second_waits_and_finds_the_model() {
    let world = World::new().await;
    let (one, other) = tokio::join!(world.fetch(), world.fetch());
    one.unwrap();
    other.unwrap();
    world.assert_whole(&[SHARD_1, SHARD_2]);
    // Two questions to the API and two files: the second one asked nobody.
    assert_eq!((world.hub.requests().len(), world.hub.ranges().len()), (4, 2));
}
