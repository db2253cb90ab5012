//! A model is fetched, and not fetched again.

use std::fs;
use std::time::Duration;

use crate::hub::{Act, Hub, status};
use crate::world::{REPO, SHARD_1, SHARD_2, World, file, repository};

#[tokio::test]
async fn a_model_is_fetched_with_all_its_shards_and_nothing_else() {
    let mut world = World::new().await;
    world.set("FETCH_CONNECTIONS", "4");
    world.fetch().await.unwrap();
    world.assert_whole(&[SHARD_1, SHARD_2]);
    let record = world.record().unwrap();
    assert_eq!((record.repo.as_str(), record.quant.as_str(), record.revision.as_str()), (REPO, "Q8_0", "main"));
    let commit = record.commit.unwrap();
    assert_eq!(commit, "c0ffee".repeat(6));
    assert!(world.home().ends_with("owner--Tiny-GGUF/Q8_0"));

    let requests = world.hub.requests();
    let targets: Vec<_> = requests.iter().map(|request| request.target.as_str()).collect();
    assert_eq!(targets[0], "/api/models/owner/Tiny-GGUF/revision/main");
    assert_eq!(targets[1], format!("/api/models/owner/Tiny-GGUF/tree/{commit}?recursive=true"));
    // By the commit: what `main` is meanwhile does not matter.
    let mut files = targets[2..].to_vec();
    files.sort_unstable();
    assert_eq!(files, [SHARD_1, SHARD_2].map(|path| format!("/owner/Tiny-GGUF/resolve/{commit}/{path}")));
    assert!(requests.iter().all(|request| request.header("authorization").is_none()));
    assert!(requests.iter().all(|request| request.header("accept-encoding") == Some("identity")));
}

#[tokio::test]
async fn files_are_loaded_beside_each_other() {
    let mut world = World::new().await;
    world.set("FETCH_CONNECTIONS", "2");
    // Whichever comes first hangs; the other one comes through all the same.
    world.hub.act([Act::Stall(0)]);
    let other_is_there = async {
        while !world.names().iter().any(|name| name.ends_with(".gguf")) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        ended = world.fetch() => panic!("{ended:?}"),
        () = other_is_there => {}
    }
    assert!(world.record().is_none());
}

#[tokio::test]
async fn a_whole_model_costs_no_network() {
    let mut world = World::new().await;
    world.fetch().await.unwrap();
    let requests = world.hub.requests().len();
    world.fetch().await.unwrap();
    world.set("MODEL_REVISION", &"c0ffee".repeat(6));
    world.fetch().await.unwrap();
    assert_eq!(world.hub.requests().len(), requests);
}

#[tokio::test]
async fn a_whole_model_on_a_volume_that_cannot_be_written_is_enough() {
    let world = World::new().await;
    world.fetch().await.unwrap();
    // The lock cannot be made any more: a directory has its name.
    let lock = world.parameters().models_dir.join(".model-fetcher.lock");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    world.fetch().await.unwrap();
    fs::remove_file(world.home().join("model.json")).unwrap();
    assert_eq!(world.fetch().await.unwrap_err().exit_code(), 1);
}

#[tokio::test]
async fn the_list_of_files_may_have_pages() {
    let world = World::new().await;
    world.hub.state.lock().unwrap().page = 2;
    world.fetch().await.unwrap();
    world.assert_whole(&[SHARD_1, SHARD_2]);
    let pages = world.hub.requests().iter().filter(|request| request.target.contains("/tree/")).count();
    assert_eq!(pages, 3);
}

#[tokio::test]
async fn the_token_is_for_the_endpoint_alone() {
    let mut world = World::new().await;
    world.token("hf_secret\n");
    let cdn = Hub::start(repository()).await;
    world.hub.state.lock().unwrap().cdn = Some(cdn.url());
    cdn.act([Act::Cut(1_000)]);
    world.fetch().await.unwrap();
    world.assert_whole(&[SHARD_1, SHARD_2]);
    for request in world.hub.requests() {
        assert_eq!(request.header("authorization"), Some("Bearer hf_secret"), "{}", request.target);
    }
    let redirected = cdn.requests();
    assert_eq!(redirected.len(), 3);
    assert!(redirected.iter().all(|request| request.header("authorization").is_none()));
    assert_eq!(redirected[1].header("range"), Some("bytes=1000-"));
}

#[tokio::test]
async fn a_list_that_goes_on_at_another_host_gets_no_token() {
    let mut world = World::new().await;
    world.token("hf_secret");
    let other = Hub::start(repository()).await;
    let link = format!("link: <{}/api/models/owner/Tiny-GGUF/tree/x?recursive=true>; rel=\"next\"\r\n", other.url());
    let commit = world.hub.state.lock().unwrap().commit.clone();
    world.hub.act_on_api([
        Act::Raw(crate::hub::json(&serde_json::json!({"sha": commit}), "")),
        Act::Raw(crate::hub::json(&serde_json::json!([]), &link)),
    ]);
    world.fetch().await.unwrap();
    assert_eq!(other.requests()[0].header("authorization"), None);
}

#[tokio::test]
async fn an_empty_file_needs_no_request() {
    let mut world = World::with(vec![file("Tiny-Q8_0.gguf", 8, 1)]).await;
    world.hub.state.lock().unwrap().files[0].bytes.clear();
    world.set("KEEP_FREE_GIB", "");
    world.fetch().await.unwrap();
    world.assert_whole(&["Tiny-Q8_0.gguf"]);
    assert!(world.hub.ranges().is_empty());
}

#[tokio::test]
async fn another_revision_loads_what_is_different_and_deletes_what_is_gone() {
    let mut world = World::new().await;
    world.fetch().await.unwrap();
    let changed = "Q8_0/Tiny-Q8_0-00002-of-00002.gguf";
    {
        let mut state = world.hub.state.lock().unwrap();
        state.commit = "beef".repeat(10);
        *state.files.iter_mut().find(|file| file.path == changed).unwrap() = file(changed, 25_000, 9);
        state.requests.clear();
    }
    world.set("MODEL_REVISION", "v2");
    world.fetch().await.unwrap();
    world.assert_whole(&[SHARD_1, SHARD_2]);
    assert_eq!(world.hub.ranges().len(), 1);

    // Now it has one file only: of the two shards none may stay, or nobody knows which to load.
    let whole = "Q8_0/Tiny-Q8_0.gguf";
    {
        let mut state = world.hub.state.lock().unwrap();
        state.commit = "feed".repeat(10);
        state.files = vec![file(whole, 40_000, 10)];
    }
    world.set("MODEL_REVISION", "v3");
    world.fetch().await.unwrap();
    world.assert_whole(&[whole]);
}

#[tokio::test]
async fn a_revision_that_is_the_same_commit_loads_nothing() {
    let mut world = World::new().await;
    world.fetch().await.unwrap();
    world.set("MODEL_REVISION", "v1.0");
    world.fetch().await.unwrap();
    assert_eq!(world.record().unwrap().revision, "v1.0");
    assert_eq!(world.hub.ranges().len(), 2);
}

#[tokio::test]
async fn files_that_somebody_copied_there_are_checked_and_used() {
    let world = World::new().await;
    fs::create_dir_all(world.home()).unwrap();
    let bytes = |index: usize| world.hub.state.lock().unwrap().files[index].bytes.clone();
    fs::write(world.home().join("Tiny-Q8_0-00001-of-00002.gguf"), bytes(1)).unwrap();
    fs::write(world.home().join("Tiny-Q8_0-00002-of-00002.gguf"), &bytes(2)[..5_000]).unwrap();
    world.fetch().await.unwrap();
    world.assert_whole(&[SHARD_1, SHARD_2]);
    assert_eq!(world.hub.ranges(), [Some("bytes=5000-".to_owned())]);
}

#[tokio::test]
async fn a_copied_file_with_other_bytes_is_replaced() {
    let world = World::of_one(9_000).await;
    fs::create_dir_all(world.home()).unwrap();
    fs::write(world.home().join("Tiny-Q8_0.gguf"), vec![7; 9_000]).unwrap();
    world.fetch().await.unwrap();
    world.assert_whole(&["Tiny-Q8_0.gguf"]);
}

/// A download that was broken off after 4,000 bytes; since then `main` is another commit.
async fn begun() -> World {
    let world = World::of_one(10_000).await;
    world.hub.act([Act::Cut(4_000), Act::Cut(0)]);
    world.fetch_with(Duration::from_secs(20), 1).await.unwrap_err();
    let mut state = world.hub.state.lock().unwrap();
    state.commit = "beef".repeat(10);
    state.requests.clear();
    drop(state);
    world
}

#[tokio::test]
async fn a_download_that_was_begun_goes_on_with_its_commit() {
    let world = begun().await;
    world.fetch().await.unwrap();
    world.assert_whole(&["Tiny-Q8_0.gguf"]);
    let commit = "c0ffee".repeat(6);
    assert!(world.hub.requests().iter().all(|request| request.target.contains(&commit)));
    assert_eq!(world.record().unwrap().commit, Some(commit));
    assert_eq!(world.hub.ranges(), [Some("bytes=4000-".to_owned())]);
}

#[tokio::test]
async fn a_commit_that_the_hub_has_no_more_is_looked_up_anew() {
    let world = begun().await;
    world.hub.act_on_api([status("404 Not Found", "x-error-code: RevisionNotFound\r\n")]);
    world.fetch().await.unwrap();
    world.assert_whole(&["Tiny-Q8_0.gguf"]);
    assert_eq!(world.record().unwrap().commit, Some("beef".repeat(10)));
}
