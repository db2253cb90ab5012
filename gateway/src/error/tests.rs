use super::*;

const ALL: [Reason; 35] = [
    Reason::InvalidRequest,
    Reason::ContextLengthExceeded,
    Reason::InvalidApiKey,
    Reason::IpNotAuthorized,
    Reason::EndpointNotAllowed,
    Reason::ModelNotAllowed,
    Reason::AdminDisabled,
    Reason::ForeignOrigin,
    Reason::KeyNotFound,
    Reason::InvalidToken,
    Reason::IssuerUnavailable,
    Reason::ModelNotFound,
    Reason::UnknownUrl,
    Reason::MethodNotAllowed,
    Reason::RequestTimeout,
    Reason::RequestTooLarge,
    Reason::UnsupportedEncoding,
    Reason::NotSupported,
    Reason::RequestRate,
    Reason::TokenRate,
    Reason::Concurrency,
    Reason::QuotaExceeded,
    Reason::QueueFull,
    Reason::WaitTooLong,
    Reason::Replaced,
    Reason::QueueTimeout,
    Reason::FirstTokenTimeout,
    Reason::StreamIdleTimeout,
    Reason::TotalTimeout,
    Reason::BackendUnavailable,
    Reason::ModelLoading,
    Reason::BackendError,
    Reason::LedgerUnavailable,
    Reason::Draining,
    Reason::Internal,
];

fn after(reason: Reason, wait: Duration, request_id: &str) -> Response {
    Rejection::new(reason, "Not now.").retry_after(wait).response(Dialect::OpenAi, request_id)
}

fn header<'r>(response: &'r Response, name: &str) -> Option<&'r str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

#[test]
fn each_limit_has_the_status_type_and_code_that_openai_gives_it() {
    for (reason, status, kind, code) in [
        (Reason::RequestRate, 429, "requests", "rate_limit_exceeded"),
        (Reason::TokenRate, 429, "tokens", "rate_limit_exceeded"),
        (Reason::Concurrency, 429, "requests", "rate_limit_exceeded"),
        (Reason::QuotaExceeded, 429, "insufficient_quota", "insufficient_quota"),
        (Reason::QueueFull, 429, "requests", "queue_full"),
        (Reason::WaitTooLong, 429, "requests", "wait_too_long"),
        (Reason::Replaced, 409, "invalid_request_error", "replaced"),
        (Reason::QueueTimeout, 503, "server_error", "queue_timeout"),
        (Reason::ContextLengthExceeded, 400, "invalid_request_error", "context_length_exceeded"),
        (Reason::InvalidApiKey, 401, "invalid_request_error", "invalid_api_key"),
        (Reason::IpNotAuthorized, 403, "permission_error", "ip_not_authorized"),
        (Reason::EndpointNotAllowed, 403, "permission_error", "endpoint_not_allowed"),
        (Reason::ModelNotAllowed, 403, "permission_error", "model_not_allowed"),
        (Reason::AdminDisabled, 403, "permission_error", "admin_disabled"),
        (Reason::ForeignOrigin, 403, "permission_error", "foreign_origin"),
        (Reason::KeyNotFound, 404, "invalid_request_error", "key_not_found"),
        (Reason::InvalidToken, 401, "invalid_request_error", "invalid_api_key"),
        (Reason::IssuerUnavailable, 503, "server_error", "issuer_unavailable"),
        (Reason::ModelNotFound, 404, "invalid_request_error", "model_not_found"),
        (Reason::Draining, 503, "server_error", "draining"),
    ] {
        let body = Rejection::new(reason, "No.").body(Dialect::OpenAi, "req_1");
        assert_eq!(reason.status().as_u16(), status, "{reason:?}");
        assert_eq!((&body["error"]["type"], &body["error"]["code"]), (&json!(kind), &json!(code)), "{reason:?}");
    }
}

#[test]
fn anthropic_clients_get_types_that_they_know() {
    for (reason, kind) in [
        (Reason::InvalidRequest, "invalid_request_error"),
        (Reason::InvalidApiKey, "authentication_error"),
        (Reason::ModelNotAllowed, "permission_error"),
        (Reason::InvalidToken, "authentication_error"),
        (Reason::ModelNotFound, "not_found_error"),
        (Reason::RequestTooLarge, "request_too_large"),
        (Reason::QuotaExceeded, "rate_limit_error"),
        (Reason::QueueFull, "rate_limit_error"),
        (Reason::Replaced, "conflict_error"),
        (Reason::QueueTimeout, "overloaded_error"),
        (Reason::StreamIdleTimeout, "timeout_error"),
        (Reason::BackendError, "api_error"),
    ] {
        let body = Rejection::new(reason, "No.").body(Dialect::Anthropic, "req_1");
        assert_eq!(body["error"]["type"], kind, "{reason:?}");
        assert_eq!(body["request_id"], "req_1");
    }
}

#[test]
fn those_who_are_refused_together_do_not_come_back_together() {
    let true_wait = 8000;
    let mut waits: Vec<u64> = (0..2000)
        .map(|_| {
            let response = after(Reason::TokenRate, Duration::from_millis(true_wait), &new_request_id());
            assert_eq!(header(&response, "x-should-retry"), None);
            let wait: u64 = header(&response, "retry-after-ms").unwrap().parse().unwrap();
            let seconds: u64 = header(&response, "retry-after").unwrap().parse().unwrap();
            assert_eq!(seconds, wait.div_ceil(1000));
            wait
        })
        .collect();
    waits.sort_unstable();
    assert!(waits[0] >= true_wait && waits[1999] <= true_wait / 4 * 5, "{} to {}", waits[0], waits[1999]);
    // Spread evenly over the two seconds: no tenth of them has more than twice its share.
    for tenth in 0..10 {
        let within = true_wait + tenth * 200..true_wait + (tenth + 1) * 200;
        let share = waits.iter().filter(|wait| within.contains(wait)).count();
        assert!((100..400).contains(&share), "{share} of 2000 in {within:?}");
    }
}

#[test]
fn no_wait_is_shorter_than_it_must_be_or_longer_than_clients_accept() {
    for (true_wait, most) in [(0, 125), (1, 125), (999, 1249), (48_000, 60_000), (59_999, 60_000), (60_000, 60_000)] {
        for id in ["req_00000000", "req_7fffffff", "req_ffffffff", "", "req_ö0000000", "short"] {
            let response = after(Reason::QueueFull, Duration::from_millis(true_wait), id);
            let wait: u64 = header(&response, "retry-after-ms").unwrap().parse().unwrap();
            let seconds: u64 = header(&response, "retry-after").unwrap().parse().unwrap();
            assert!((true_wait.max(100)..=most).contains(&wait), "{true_wait} {id}: {wait}");
            assert!(seconds >= 1 && seconds * 1000 >= wait && seconds <= 60, "{true_wait} {id}: {seconds}");
        }
    }
}

#[test]
fn a_wait_that_clients_would_not_keep_is_told_but_not_to_be_kept() {
    let response = after(Reason::TokenRate, Duration::from_millis(60_001), "req_ffffffff");
    assert_eq!(header(&response, "x-should-retry"), Some("false"));
    assert_eq!((header(&response, "retry-after"), header(&response, "retry-after-ms")), (Some("61"), None));
}

#[test]
fn where_a_retry_is_in_vain_no_time_is_told() {
    for reason in ALL.into_iter().filter(|reason| !reason.may_be_retried()) {
        let response = after(reason, Duration::from_secs(5), "req_ffffffff");
        assert_eq!(header(&response, "x-should-retry"), Some("false"), "{reason:?}");
        assert_eq!((header(&response, "retry-after"), header(&response, "retry-after-ms")), (None, None), "{reason:?}");
    }
}

#[test]
fn what_cannot_be_foreseen_is_left_to_the_client() {
    for reason in ALL.into_iter().filter(|reason| reason.may_be_retried()) {
        let response = Rejection::new(reason, "Not now.").response(Dialect::OpenAi, "req_ffffffff");
        for name in ["x-should-retry", "retry-after", "retry-after-ms"] {
            assert_eq!(header(&response, name), None, "{reason:?}");
        }
    }
}

#[test]
fn an_error_inside_a_stream_has_the_body_of_the_plain_one() {
    let rejection = Rejection::new(Reason::QueueTimeout, "No slot.");
    let body = rejection.body(Dialect::OpenAi, "req_1");
    assert_eq!(rejection.event(Dialect::OpenAi, "req_1"), format!("data: {body}\n\n"));
    let body = rejection.body(Dialect::Anthropic, "req_1");
    assert_eq!(rejection.event(Dialect::Anthropic, "req_1"), format!("event: error\ndata: {body}\n\n"));
}
