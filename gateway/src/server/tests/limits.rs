//! What a client may do before its request, and how many clients there may be.

use std::sync::atomic::Ordering;

use super::*;

const SHORT: Duration = Duration::from_millis(100);

async fn is_closed_in_time(begin: &str) {
    let listener = listen(Limits { header_timeout: SHORT, ..LIMITS }, None).await;
    let mut client = listener.connect().await;
    let begun = std::time::Instant::now();
    send(&mut client, begin).await;
    read_to_close(&mut client).await;
    let open = begun.elapsed();
    assert!(open >= SHORT && open < 20 * SHORT, "{begin:?} was open for {open:?}");
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    is_closed_in_time("").await;
}

#[tokio::test]
async fn a_half_sent_head_is_closed() {
    is_closed_in_time("P").await;
    is_closed_in_time("POST /echo HTTP/1.1\r\nHost: a\r\n").await;
}

#[tokio::test]
async fn a_half_sent_preface_of_http2_is_closed() {
    is_closed_in_time("PRI * HTTP/2.0\r\n").await;
}

#[tokio::test]
async fn an_http2_connection_without_requests_is_closed() {
    is_closed_in_time("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
}

#[tokio::test]
async fn a_head_that_drips_in_is_closed() {
    let listener = listen(Limits { header_timeout: SHORT, ..LIMITS }, None).await;
    let client = listener.connect().await;
    let (mut reading, mut writing) = client.into_split();
    let drip = tokio::spawn(async move {
        writing.write_all(b"GET /hello HTTP/1.1\r\n").await.unwrap();
        while writing.write_all(b"A: b\r\n").await.is_ok() {
            tokio::time::sleep(SHORT / 10).await;
        }
    });
    let mut read = Vec::new();
    soon(reading.read_to_end(&mut read)).await.ok();
    soon(drip).await.unwrap();
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_answer() {
    let listener = listen(Limits { header_timeout: SHORT, ..LIMITS }, None).await;
    let mut client = listener.connect().await;
    send(&mut client, &post_to("/echo", "abc")).await;
    assert!(read_to_close(&mut client).await.ends_with("abc"));
}

#[tokio::test]
async fn a_long_request_outlives_the_header_timeout() {
    let mut listener = listen(Limits { header_timeout: SHORT / 4, ..LIMITS }, None).await;
    let mut client = listener.connect().await;
    send(&mut client, &post_to("/silent", "abc")).await;
    read_until(&mut client, "first").await;
    assert_eq!(listener.event().await, Event::Begun);
    // The thing tested is that a timeout does not strike.
    tokio::time::sleep(SHORT).await;
    assert!(listener.events.try_recv().is_err());
}

#[tokio::test]
async fn an_oversized_head_is_refused() {
    let listener = listen(LIMITS, None).await;
    for head in [
        format!("GET /hello HTTP/1.1\r\nHost: a\r\nA: {}", "x".repeat(2 * LIMITS.max_header_bytes)),
        format!("GET /hello HTTP/1.1\r\nHost: a\r\n{}", "A: b\r\n".repeat(101) + "\r\n"),
    ] {
        let mut client = listener.connect().await;
        send(&mut client, &head).await;
        let answer = read_to_close(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    let mut client = listener.connect().await;
    send(&mut client, &format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(2 * LIMITS.max_header_bytes))).await;
    let answer = read_to_close(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 431 ") || answer.starts_with("HTTP/1.1 414 "), "{answer}");
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let listener = listen(LIMITS, None).await;
    let mut client = listener.connect().await;
    let head = "POST /unknown HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n";
    send(&mut client, head).await;
    send(&mut client, &"x".repeat(3_000_000)).await;
    assert!(read_to_close(&mut client).await.starts_with("HTTP/1.1 404 "));
}

#[tokio::test]
async fn at_the_limit_the_next_client_waits_until_one_leaves() {
    let listener = listen(Limits { max_connections: 2, ..LIMITS }, None).await;
    let mut first = listener.connect().await;
    let mut second = listener.connect().await;
    for client in [&mut first, &mut second] {
        send(client, &post_to("/echo", "abc")).await;
        read_until(client, "abc").await;
    }
    assert_eq!(listener.counts.open.load(Ordering::Relaxed), 2);
    let mut third = listener.connect().await;
    send(&mut third, &post_to("/echo", "xyz")).await;
    // The kernel has accepted it, the gateway has not.
    assert!(timeout(SHORT, third.readable()).await.is_err());
    drop(first);
    read_until(&mut third, "xyz").await;
    assert_eq!(listener.counts.open.load(Ordering::Relaxed), 2);
}
