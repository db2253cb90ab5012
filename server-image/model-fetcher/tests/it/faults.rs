//! Servers that cut, stall and lie. The file is right in the end, or the fault says why there is none.

use std::time::Duration;

use tokio::time::Instant;

use crate::hub::{Act, Hub, status};
use crate::world::{SHARD_1, SHARD_2, World, file, repository};

const ONE: &str = "Tiny-Q8_0.gguf";

/// A server that did this once did no harm. Gives what was asked for after it.
async fn survives(act: Act) -> Vec<Option<String>> {
    let world = World::of_one(10_000).await;
    world.hub.act([Act::Cut(4_000), act.clone()]);
    world.fetch_with(Duration::from_secs(20), 3).await.unwrap_or_else(|fault| panic!("{act:?}: {fault}"));
    world.assert_whole(&[ONE]);
    world.hub.ranges()
}

/// A server that does it every time: the last cause.
async fn gives_up(act: Act) -> String {
    let world = World::of_one(10_000).await;
    world.hub.act(std::iter::once(Act::Cut(4_000)).chain(std::iter::repeat_n(act, 3)));
    let fault = world.fetch_with(Duration::from_secs(20), 3).await.unwrap_err();
    assert_eq!(fault.exit_code(), 5, "{fault}");
    assert!(world.record().is_none());
    fault.to_string()
}

fn range(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[tokio::test]
async fn a_connection_that_breaks_is_gone_on_with() {
    let ranges = survives(Act::Cut(1_000)).await;
    assert_eq!(ranges, [None, range("bytes=4000-"), range("bytes=5000-")]);
}

#[tokio::test]
async fn a_connection_that_is_silent_is_given_up_and_gone_on_with() {
    let world = World::of_one(10_000).await;
    world.hub.act([Act::Stall(4_000), Act::Stall(0), Act::Stall(100)]);
    world.fetch_with(Duration::from_secs(1), 10).await.unwrap();
    world.assert_whole(&[ONE]);
    assert_eq!(world.hub.ranges()[..2], [None, range("bytes=4000-")]);
}

#[tokio::test]
async fn a_server_that_is_always_silent_is_given_up() {
    let world = World::of_one(10_000).await;
    world.hub.act([Act::Stall(0), Act::Stall(0)]);
    let told = world.fetch_with(Duration::from_secs(1), 2).await.unwrap_err().to_string();
    assert!(told.contains("gave up on Tiny-Q8_0.gguf after 2 attempts"), "{told}");
    assert!(told.contains("no byte for 1 s"), "{told}");
}

#[tokio::test]
async fn a_server_without_ranges_sends_again_what_is_there() {
    let ranges = survives(Act::NoRange(10_000)).await;
    assert_eq!(ranges, [None, range("bytes=4000-")]);
    // Cut before and after what was there.
    assert_eq!(survives(Act::NoRange(1_000)).await.last(), Some(&range("bytes=4000-")));
    assert_eq!(survives(Act::NoRange(6_000)).await.last(), Some(&range("bytes=6000-")));
}

#[tokio::test]
async fn an_answer_for_another_range_is_not_written() {
    for (content_range, told) in [
        ("content-range: bytes 0-9999/10000\r\n", "the Content-Range is bytes 0-9999/10000, asked was for 4000 on"),
        ("content-range: bytes 4000-9999/20000\r\n", "bytes 4000-9999/20000"),
        ("content-range: bytes */10000\r\n", "bytes */10000"),
        ("", "the Content-Range is missing"),
    ] {
        let act = Act::Head(format!("HTTP/1.1 206 Partial Content\r\n{content_range}connection: close\r\n\r\n"));
        survives(act.clone()).await;
        let cause = gives_up(act).await;
        assert!(cause.contains(told), "{cause}");
    }
}

#[tokio::test]
async fn a_wrong_size_is_not_believed() {
    for (head, told) in [
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n",
            "the file has 9999 bytes on the server, 10000 by the hub's list",
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 10001\r\n", "the file has 10001 bytes on the server"),
    ] {
        let act = Act::Head(format!("{head}connection: close\r\n\r\n"));
        survives(act.clone()).await;
        let cause = gives_up(act).await;
        assert!(cause.contains(told), "{cause}");
    }
}

#[tokio::test]
async fn bytes_beyond_the_end_are_not_written() {
    // Without a length, which would give it away; `Head` sends more than there is.
    let act = Act::Head("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_owned());
    survives(act.clone()).await;
    let world = World::of_one(10_000).await;
    world.hub.act(std::iter::repeat_n(act, 10));
    let fault = world.fetch_with(Duration::from_secs(20), 2).await.unwrap_err();
    assert!(fault.to_string().contains("more came than the 10000 bytes that the file has"), "{fault}");
}

#[tokio::test]
async fn an_answer_that_ends_early_is_gone_on_with() {
    // A length that is true, of an answer that is too short.
    let head = "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 4000-4009/10000\r\ncontent-length: 10\r\n\r\n";
    assert_eq!(survives(Act::Head(head.to_owned())).await.last(), Some(&range("bytes=4010-")));
    let nothing = "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 4000-9999/10000\r\ncontent-length: 0\r\n\r\n";
    let cause = gives_up(Act::Raw(nothing.to_owned())).await;
    assert!(cause.contains("the answer ended after 4000 of 10000 bytes"), "{cause}");
}

#[tokio::test]
async fn answers_that_may_pass_are_asked_for_again() {
    for line in [
        "416 Range Not Satisfiable",
        "408 Request Timeout",
        "429 Too Many Requests",
        "500 Internal Server Error",
        "502 Bad Gateway",
        "503 Service Unavailable",
        "504 Gateway Timeout",
        "204 No Content",
        "304 Not Modified",
    ] {
        survives(status(line, "")).await;
        let cause = gives_up(status(line, "")).await;
        assert!(cause.contains(&format!("127.0.0.1 answers {line}")), "{cause}");
    }
}

#[tokio::test]
async fn a_server_that_asks_for_a_pause_gets_it() {
    for header in ["retry-after: 1\r\n", "ratelimit: \"resolvers\";r=0;t=1\r\n"] {
        let began = Instant::now();
        survives(status("429 Too Many Requests", header)).await;
        assert!(began.elapsed() >= Duration::from_secs(1), "{header}");
    }
}

#[tokio::test]
async fn a_signed_address_that_has_expired_is_asked_for_anew() {
    let world = World::new().await;
    let cdn = Hub::start(repository()).await;
    world.hub.state.lock().unwrap().cdn = Some(cdn.url());
    cdn.act([Act::Cut(1_000), status("403 Forbidden", ""), status("401 Unauthorized", "")]);
    world.fetch().await.unwrap();
    world.assert_whole(&[SHARD_1, SHARD_2]);
    // Each attempt asked the hub for the address.
    assert_eq!(world.hub.ranges().len(), cdn.ranges().len());
}

#[tokio::test]
async fn redirects_that_lead_nowhere_end() {
    let around = status("302 Found", "location: /owner/Tiny-GGUF/resolve/x/Tiny-Q8_0.gguf\r\n");
    let world = World::of_one(10_000).await;
    world.hub.act(std::iter::repeat_n(around, 10));
    let told = world.fetch_with(Duration::from_secs(20), 1).await.unwrap_err().to_string();
    assert!(told.contains("redirected more than 10 times"), "{told}");
    survives(status("302 Found", "location: http://[nowhere\r\n")).await;
    survives(status("302 Found", "")).await;
    let told = gives_up(status("302 Found", "location: http://127.0.0.1:1/?Signature=secret\r\n")).await;
    assert!(told.contains("Connection refused") && !told.contains("secret"), "{told}");
}

#[tokio::test]
async fn a_compressed_answer_is_not_taken_for_the_file() {
    let head = "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\nconnection: close\r\n\r\n";
    let cause = gives_up(Act::Head(head.to_owned())).await;
    assert!(cause.contains("the answer has the encoding gzip"), "{cause}");
}

#[tokio::test]
async fn a_file_with_a_wrong_hash_is_loaded_again() {
    let world = World::of_one(10_000).await;
    world.hub.act([Act::Flip(9_999)]);
    world.fetch().await.unwrap();
    world.assert_whole(&[ONE]);
    assert_eq!(world.hub.ranges(), [None, None]);
}

#[tokio::test]
async fn a_file_whose_hash_stays_wrong_is_refused_and_not_kept() {
    let world = World::of_one(10_000).await;
    world.hub.act([Act::Flip(100), Act::Flip(100)]);
    let fault = world.fetch().await.unwrap_err();
    assert_eq!(fault.exit_code(), 6);
    assert!(fault.to_string().contains("instead of"), "{fault}");
    assert_eq!(world.names(), ["model.json.partial"]);
}

#[tokio::test]
async fn a_wrong_byte_of_a_partial_file_is_found_after_a_resume() {
    let world = World::of_one(10_000).await;
    world.hub.act([Act::Cut(4_000), Act::Cut(0)]);
    world.fetch_with(Duration::from_secs(20), 1).await.unwrap_err();
    let partial = world.names().into_iter().find(|name| name.starts_with("Tiny-Q8_0.gguf.")).unwrap();
    let path = world.home().join(&partial);
    let mut bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes.len(), 4_000);
    bytes[17] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    world.fetch().await.unwrap();
    world.assert_whole(&[ONE]);
    assert_eq!(world.hub.ranges()[2..], [range("bytes=4000-"), None]);
}

#[tokio::test]
async fn what_is_loaded_is_kept_when_it_gives_up_and_the_other_files_too() {
    let world = World::new().await;
    // The first shard is whole, the second one breaks for good.
    let broken = status("500 Internal Server Error", "");
    world.hub.act([Act::Cut(30_000), Act::Cut(6_000), broken.clone(), broken]);
    let fault = world.fetch_with(Duration::from_secs(20), 2).await.unwrap_err();
    assert_eq!(fault.exit_code(), 5);
    let names = world.names();
    assert!(names.contains(&"Tiny-Q8_0-00001-of-00002.gguf".to_owned()), "{names:?}");
    assert!(world.record().is_none());
    let before = world.hub.ranges().len();
    world.fetch().await.unwrap();
    world.assert_whole(&[SHARD_1, SHARD_2]);
    // Neither a byte of the first one nor one of the second one twice.
    assert_eq!(world.hub.ranges()[before..], [range("bytes=6000-")]);
}

#[tokio::test]
async fn a_partial_file_of_other_content_is_not_gone_on_with() {
    let mut world = World::of_one(10_000).await;
    world.hub.act([Act::Cut(4_000), Act::Cut(0)]);
    world.fetch_with(Duration::from_secs(20), 1).await.unwrap_err();
    {
        let mut state = world.hub.state.lock().unwrap();
        state.commit = "beef".repeat(10);
        state.files = vec![file(ONE, 12_000, 8)];
    }
    world.set("MODEL_REVISION", "v2");
    world.fetch().await.unwrap();
    world.assert_whole(&[ONE]);
    assert_eq!(world.hub.ranges().last(), Some(&None));
}
