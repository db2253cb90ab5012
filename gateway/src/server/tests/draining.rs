//! The shutdown as connections meet it.

use super::super::Phase;
use super::*;

#[tokio::test]
async fn running_requests_finish_and_idle_connections_close() {
    let mut listener = listen(LIMITS, None).await;
    let mut idle = listener.connect().await;
    send(&mut idle, &post_to("/echo", "abc")).await;
    read_until(&mut idle, "abc").await;
    assert_eq!(listener.event().await, Event::Begun);
    let mut silent_from_the_start = listener.connect().await;
    let mut streaming = listener.connect().await;
    send(&mut streaming, &post_to("/ticking", "{}")).await;
    read_until(&mut streaming, "first").await;
    assert_eq!(listener.event().await, Event::Begun);

    listener.drain.advance(Phase::Draining);
    assert_eq!(read_to_close(&mut idle).await, "");
    assert_eq!(read_to_close(&mut silent_from_the_start).await, "");
    let mut late = listener.connect().await;
    send(&mut late, &post_to("/echo", "abc")).await;
    assert!(read_to_close(&mut late).await.ends_with("abc"));
    assert_eq!(listener.event().await, Event::Begun);
    for _ in 0..3 {
        read_until(&mut streaming, "tick").await;
    }
    assert!(!listener.served.is_finished());

    listener.drain.advance(Phase::Over);
    read_to_close(&mut streaming).await;
    assert_eq!(listener.event().await, Event::Dropped { stalled: false });
    soon(listener.served).await.unwrap();
}

#[tokio::test]
async fn a_request_that_was_half_sent_is_answered_and_its_connection_closed() {
    let listener = listen(LIMITS, None).await;
    let mut client = listener.connect().await;
    send(&mut client, "POST /echo HTTP/1.1\r\nHost: a\r\n").await;
    // One request on another connection, so that the first bytes of this one have surely been read.
    let mut other = listener.connect().await;
    send(&mut other, &post_to("/echo", "abc")).await;
    read_until(&mut other, "abc").await;
    listener.drain.advance(Phase::Draining);
    read_to_close(&mut other).await;
    send(&mut client, "Content-Length: 3\r\n\r\nabc").await;
    let answer = read_to_close(&mut client).await;
    assert!(answer.contains("connection: close") && answer.ends_with("abc"), "{answer}");
    soon(listener.served).await.unwrap();
}

#[tokio::test]
async fn a_listener_without_connections_ends_at_once() {
    let listener = listen(LIMITS, None).await;
    listener.drain.advance(Phase::Draining);
    soon(listener.served).await.unwrap();
}

fn terminate_this_process() {
    let sent = std::process::Command::new("kill").args(["-TERM", &std::process::id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[tokio::test]
async fn the_first_signal_drains_and_the_second_ends() {
    let drain = Drain::new();
    let signals = super::super::signals::Signals::listen().unwrap();
    let draining = tokio::spawn(signals.drain(drain.clone(), Duration::from_secs(3600)));
    terminate_this_process();
    soon(drain.started()).await;
    assert_eq!(drain.phase(), Phase::Draining);
    terminate_this_process();
    soon(draining).await.unwrap();
    assert_eq!(drain.phase(), Phase::Over);
}
