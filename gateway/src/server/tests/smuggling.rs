//! Requests whose end two readers could see in different places.

use std::sync::atomic::Ordering;

use super::super::framing::Framing;
use super::*;

/// A head that ends in `rest`, a body that is whole both as five bytes and as chunks, and a request behind it: a
/// reader that sees no harm in the head has every reason to answer.
fn smuggle(rest: &str) -> String {
    let hidden = post_to("/echo", "hidden");
    format!("POST /echo HTTP/1.1\r\nHost: a\r\n{rest}\r\n\r\n0\r\n\r\n{hidden}")
}

async fn answer_to(listener: &Listener, request: &str) -> String {
    let mut client = listener.connect().await;
    send(&mut client, request).await;
    read_to_close(&mut client).await
}

const FRAMING: [(&str, &str); 20] = [
    ("both lengths", "Content-Length: 5\r\nTransfer-Encoding: chunked"),
    ("both lengths, other order", "Transfer-Encoding: chunked\r\nContent-Length: 5"),
    ("two lengths", "Content-Length: 5\r\nContent-Length: 6"),
    ("the same length twice", "Content-Length: 5\r\nContent-Length: 5"),
    ("a list of lengths", "Content-Length: 5, 5"),
    ("a signed length", "Content-Length: +5"),
    ("a hexadecimal length", "Content-Length: 0x5"),
    ("a negative length", "Content-Length: -1"),
    ("an empty length", "Content-Length:"),
    ("a length beyond all bounds", "Content-Length: 18446744073709551616"),
    ("two encodings", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
    ("a list of encodings", "Transfer-Encoding: gzip, chunked"),
    ("another encoding", "Transfer-Encoding: identity"),
    ("a masked encoding", "Transfer-Encoding: xchunked"),
    ("a second host", "Host: b"),
    ("a space before the colon", "Transfer-Encoding : chunked"),
    ("a continued line", "A: b\r\n c"),
    ("a carriage return alone", "A: b\rContent-Length: 5"),
    ("a line feed alone", "A: b\nContent-Length: 5"),
    ("a null byte", "A: b\0c"),
];

#[tokio::test]
async fn doubtful_framing_is_refused_and_the_connection_closed() {
    let mut listener = listen(LIMITS, None).await;
    for (what, rest) in FRAMING {
        let answer = answer_to(&listener, &smuggle(rest)).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{what}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{what}: {answer}");
    }
    assert!(listener.events.try_recv().is_err(), "no handler saw any of them");
}

#[tokio::test]
async fn doubtful_request_lines_are_refused() {
    let mut listener = listen(LIMITS, None).await;
    for head in [
        "POST /echo HTTP/1.1\r\n\r\n",
        "POST /echo HTTP/1.1\nHost: a\n\n",
        "POST  /echo HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /echo\r\nHost: a\r\n\r\n",
        "POST /echo HTTP/1.1 \r\nHost: a\r\n\r\n",
        "POST /echo HTTP/1.2\r\nHost: a\r\n\r\n",
        "POST /echo HTTP/0.9\r\nHost: a\r\n\r\n",
        "POST /echo#fragment HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /echo\tHTTP/1.1\r\nHost: a\r\n\r\n",
        "POST echo HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /echo HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
        "POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        " POST /echo HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /echo HTTP/1.1\r\n Host: a\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nNo colon\r\n\r\n",
        "CONNECT echo:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let answer = answer_to(&listener, &(head.to_owned() + &post_to("/echo", "hidden"))).await;
        let refused = ["HTTP/1.1 400 ", "HTTP/1.0 400 "];
        assert!(refused.iter().any(|status| answer.starts_with(status)), "{head:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.").count(), 1, "{head:?}: {answer}");
    }
    assert!(listener.events.try_recv().is_err(), "no handler saw any of them");
}

#[tokio::test]
async fn malformed_chunks_end_the_request_and_the_connection() {
    let mut listener = listen(LIMITS, None).await;
    for body in
        ["5\nabcde\r\n0\r\n\r\n", "5\r\nabcdefg\r\n0\r\n\r\n", "-5\r\n", "\r\n", "ffffffffffffffff\r\n", "5;a\nb\r\n"]
    {
        let request = format!("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        let answer = answer_to(&listener, &(request + &post_to("/echo", "hidden"))).await;
        assert!(!answer.contains("200 OK"), "{body:?}: {answer}");
    }
    assert!(listener.events.try_recv().is_err(), "no handler saw any of them");
}

#[tokio::test]
async fn a_refusal_has_the_usual_error_shape_and_is_counted() {
    let listener = listen(LIMITS, None).await;
    let answer = answer_to(&listener, &smuggle("Content-Length: 5\r\nTransfer-Encoding: chunked")).await;
    assert!(answer.contains("\"type\":\"invalid_request_error\""), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert_eq!(listener.counts.refused.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_bad_request_behind_a_good_one_is_refused_after_its_answer() {
    let listener = listen(LIMITS, None).await;
    let answer = answer_to(&listener, &(post_to("/echo", "good") + &smuggle("Content-Length: 5, 5"))).await;
    let (good, bad) = (answer.find("good").unwrap(), answer.find("HTTP/1.1 400").unwrap());
    assert!(good < bad, "{answer}");
    assert!(!answer.contains("hidden"), "{answer}");
}

#[tokio::test]
async fn what_is_unusual_but_clear_is_served() {
    let listener = listen(LIMITS, None).await;
    for request in [
        "\r\nGET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET /hello HTTP/1.0\r\n\r\n",
        "GET /hello?a=%23 HTTP/1.1\r\nhOST:a\r\nConnection: close\r\n\r\n",
        "GET http://gateway/hello HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n",
        "GET /hello HTTP/1.1\r\nHost:\r\nEmpty:\r\nConnection: close\r\n\r\n",
    ] {
        let answer = answer_to(&listener, request).await;
        assert!(answer.ends_with("hello"), "{request:?}: {answer}");
    }
}

/// The ends of the requests in `bytes`, fed in pieces of the given lengths.
fn ends(bytes: &[u8], pieces: &[usize]) -> Result<Vec<usize>, &'static str> {
    let (mut framing, mut ends, mut at) = (Framing::new(), Vec::new(), 0);
    let mut pieces = pieces.iter().copied().chain(std::iter::repeat(bytes.len()));
    while at < bytes.len() {
        let mut piece = &bytes[at..bytes.len().min(at + pieces.next().unwrap().max(1))];
        while !piece.is_empty() {
            let taken = framing.take(piece)?;
            at += taken.count;
            piece = &piece[taken.count..];
            if taken.complete {
                ends.push(at);
            }
        }
    }
    Ok(ends)
}

proptest::proptest! {
    #[test]
    fn any_split_of_the_bytes_gives_the_same_requests(pieces in proptest::collection::vec(0_usize..40, 0..60)) {
        let sized = post_to("/echo", "some body");
        let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                       a;b=c\r\n0123456789\r\n1 \r\nx\r\n000\r\nTrailer: 1\r\n\r\n";
        let plain = "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let requests = [&sized, chunked, plain, chunked, &sized];
        let expected = requests.iter().scan(0, |sum, request| {
            *sum += request.len();
            Some(*sum)
        });
        proptest::prop_assert_eq!(ends(requests.concat().as_bytes(), &pieces), Ok(expected.collect::<Vec<_>>()));
    }

    #[test]
    fn any_bytes_are_taken_without_a_panic(bytes in "(POST / HTTP/1.1\r\n)?([a-zA-Z:0-9 ;\r\n]|Host: a|Content-Length: |Transfer-Encoding: chunked|\r\n){0,80}") {
        ends(bytes.as_bytes(), &[3, 1, 50]).ok();
    }
}
