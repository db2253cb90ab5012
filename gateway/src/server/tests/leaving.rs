//! A client that leaves is noticed at once, in every phase, with or without bytes behind its request.

use super::*;

#[derive(Clone, Copy, Debug)]
enum Leaving {
    Fin,
    Rst,
    HalfClose,
}

/// How soon a handler or a body must be dropped. The figure itself is some tenths of a millisecond; this leaves
/// room for a busy machine and is far below any timeout that could do it instead.
const NOTICED_WITHIN: Duration = Duration::from_secs(1);

async fn leaves(path: &str, behind: &str, how: Leaving) {
    let mut listener = listen(LIMITS, None).await;
    let mut client = listener.connect().await;
    send(&mut client, &(post_to(path, "{}") + behind)).await;
    assert_eq!(listener.event().await, Event::Begun);
    if path != "/wait" {
        read_until(&mut client, "first").await;
    }
    let left = std::time::Instant::now();
    let _kept_open = match how {
        Leaving::Fin => {
            // Read to the end first: a socket that is closed with unread bytes is reset.
            SockRef::from(&client).set_linger(None).unwrap();
            drop(client);
            None
        }
        Leaving::Rst => {
            reset(client);
            None
        }
        Leaving::HalfClose => {
            client.shutdown().await.unwrap();
            Some(client)
        }
    };
    assert_eq!(listener.event().await, Event::Dropped { stalled: false }, "{path} {how:?}");
    let noticed = left.elapsed();
    assert!(noticed < NOTICED_WITHIN, "{path} {how:?}: noticed after {noticed:?}");
}

const WAYS: [Leaving; 3] = [Leaving::Fin, Leaving::Rst, Leaving::HalfClose];

#[tokio::test]
async fn a_client_that_leaves_ends_its_request() {
    for path in ["/wait", "/silent", "/ticking"] {
        for how in WAYS {
            leaves(path, "", how).await;
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_behind_pipelined_bytes_ends_its_request() {
    let next = post_to("/echo", "next");
    for path in ["/wait", "/silent", "/ticking"] {
        for behind in ["G", "\r\n", &next, &next.repeat(20)] {
            for how in WAYS {
                leaves(path, behind, how).await;
            }
        }
    }
}

#[tokio::test]
async fn bytes_that_come_later_do_not_hide_the_end() {
    let mut listener = listen(LIMITS, None).await;
    let mut client = listener.connect().await;
    send(&mut client, &post_to("/silent", "{}")).await;
    read_until(&mut client, "first").await;
    for _ in 0..3 {
        send(&mut client, "GET /hello HTTP/1.1\r\n").await;
        tokio::task::yield_now().await;
    }
    drop(client);
    assert_eq!(listener.event().await, Event::Begun);
    assert_eq!(listener.event().await, Event::Dropped { stalled: false });
}

#[tokio::test]
async fn a_client_that_sends_too_much_behind_its_request_is_dropped() {
    let mut listener = listen(LIMITS, None).await;
    let mut client = listener.connect().await;
    send(&mut client, &post_to("/wait", "{}")).await;
    assert_eq!(listener.event().await, Event::Begun);
    send(&mut client, &post_to("/echo", &"x".repeat(64 * 1024))).await;
    assert_eq!(listener.event().await, Event::Dropped { stalled: false });
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let listener = listen(LIMITS, None).await;
    let mut client = listener.connect().await;
    let requests = post_to("/echo", "one") + "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n" + &post_to("/echo", "three");
    send(&mut client, &requests).await;
    let answers = read_until(&mut client, "three").await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3);
    let places = ["one", "hello", "three"].map(|text| answers.find(text).unwrap());
    assert!(places.is_sorted());
}

#[tokio::test]
async fn a_request_that_arrives_byte_by_byte_is_answered() {
    let listener = listen(LIMITS, None).await;
    let mut client = listener.connect().await;
    client.set_nodelay(true).unwrap();
    let chunked =
        "POST /echo HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nA: b\r\n\r\n";
    for request in [&post_to("/echo", "abc"), chunked, &post_to("/echo", "end")] {
        for byte in request.chars() {
            send(&mut client, &byte.to_string()).await;
        }
    }
    let answers = read_until(&mut client, "end").await;
    assert_eq!(answers.matches("abc").count(), 2);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let slow_reader_timeout = Duration::from_millis(100);
    let mut listener = listen(Limits { slow_reader_timeout, ..LIMITS }, None).await;
    let mut client = listener.connect_narrow().await;
    let begun = std::time::Instant::now();
    send(&mut client, &post_to("/flood", "{}")).await;
    assert_eq!(listener.event().await, Event::Begun);
    assert_eq!(listener.event().await, Event::Dropped { stalled: true });
    assert!(begun.elapsed() >= slow_reader_timeout);
    assert_eq!(listener.counts.stalled.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_client_that_has_nothing_to_read_is_not_cut_off() {
    let slow_reader_timeout = Duration::from_millis(40);
    let mut listener = listen(Limits { slow_reader_timeout, ..LIMITS }, None).await;
    let mut client = listener.connect().await;
    send(&mut client, &post_to("/silent", "{}")).await;
    read_until(&mut client, "first").await;
    assert_eq!(listener.event().await, Event::Begun);
    // The thing tested is that a timeout does not strike.
    tokio::time::sleep(4 * slow_reader_timeout).await;
    assert!(listener.events.try_recv().is_err());
}
