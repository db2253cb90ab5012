//! What the hub refuses, and what is told then.

use crate::hub::{Act, json, status};
use crate::world::World;

/// The fault after this answer to the first question.
async fn refused(token: bool, act: Act) -> String {
    let mut world = World::new().await;
    if token {
        world.token("hf_secret");
    }
    world.hub.act_on_api([act]);
    let fault = world.fetch().await.unwrap_err();
    assert_eq!(fault.exit_code(), 4, "{fault}");
    assert_eq!(world.hub.requests().len(), 1, "it asked again");
    assert!(world.names().is_empty());
    fault.to_string()
}

#[tokio::test]
async fn each_refusal_says_what_to_do() {
    let cases = [
        (
            true,
            status("403 Forbidden", "x-error-code: GatedRepo\r\nx-error-message: Access to model is restricted.\r\n"),
            "answers 403 Forbidden Access to model is restricted.; hint: the repository is gated: accept its terms at",
        ),
        (false, status("401 Unauthorized", "x-error-code: GatedRepo\r\n"), "the repository is gated"),
        (
            false,
            status("401 Unauthorized", "x-error-code: RepoNotFound\r\n"),
            "MODEL_REPO is misspelt, or the repository needs a token",
        ),
        (true, status("401 Unauthorized", ""), "the token in HF_TOKEN_FILE is not valid"),
        (true, status("403 Forbidden", ""), "the token in HF_TOKEN_FILE may not read this repository"),
        (
            false,
            status("404 Not Found", "x-error-code: RevisionNotFound\r\n"),
            "there is no such MODEL_REVISION in the repository",
        ),
        (false, status("404 Not Found", ""), "look at MODEL_REPO and MODEL_REVISION, and at HF_ENDPOINT"),
        (false, status("400 Bad Request", ""), "look at HF_ENDPOINT and the proxy"),
    ];
    for (token, act, told) in cases {
        let fault = refused(token, act).await;
        assert!(fault.contains(told), "{fault}");
        assert!(!fault.contains("secret"), "{fault}");
    }
}

#[tokio::test]
async fn an_answer_that_is_not_the_api_is_refused() {
    let html = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>";
    for act in [
        Act::Raw(html.to_owned()),
        Act::Raw(json(&serde_json::json!({"sha": "../../x"}), "")),
        Act::Raw(json(&serde_json::json!({"sha": "x".repeat(17 << 20)}), "")),
    ] {
        let fault = refused(false, act).await;
        assert!(fault.contains("makes no sense") && fault.contains("a mirror that knows its API"), "{fault}");
    }
}

#[tokio::test]
async fn a_list_that_does_not_end_is_refused() {
    let world = World::new().await;
    let link = "link: </api/models/owner/Tiny-GGUF/tree/x?recursive=true>; rel=\"next\"\r\n";
    let page = Act::Raw(json(&serde_json::json!([]), link));
    let first = Act::Raw(json(&serde_json::json!({"sha": "c0ffee"}), ""));
    world.hub.act_on_api(std::iter::once(first).chain(std::iter::repeat_n(page, 100)));
    let fault = world.fetch().await.unwrap_err().to_string();
    assert!(fault.contains("the list does not end"), "{fault}");
}

#[tokio::test]
async fn the_api_is_asked_again_when_it_may_pass() {
    let world = World::new().await;
    world.hub.act_on_api([
        status("503 Service Unavailable", ""),
        Act::Raw("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"sha\":".to_owned()),
    ]);
    world.fetch().await.unwrap();
}

#[tokio::test]
async fn a_quantisation_that_is_not_there_is_told_with_those_that_are() {
    let mut world = World::new().await;
    world.set("QUANT_TYPE", "Q5_K_M");
    let fault = world.fetch().await.unwrap_err();
    assert_eq!(fault.exit_code(), 4);
    assert!(fault.to_string().ends_with("set QUANT_TYPE to one of: Q4_0, Q8_0"), "{fault}");
    assert!(world.names().is_empty());
}

#[tokio::test]
async fn two_files_of_one_name_are_refused() {
    let world = World::new().await;
    let file = |path: &str| serde_json::json!({"type": "file", "path": path, "size": 9, "lfs": {"oid": "0".repeat(64), "size": 9}});
    world.hub.act_on_api([
        Act::Raw(json(&serde_json::json!({"sha": "c0ffee"}), "")),
        Act::Raw(json(&serde_json::json!([file("Q8_0/a-Q8_0.gguf"), file("Q8_0/a-Q8_0.gguf")]), "")),
    ]);
    let fault = world.fetch().await.unwrap_err().to_string();
    assert!(fault.contains("two of its files have the same name"), "{fault}");
}
