//! The model list, as OpenAI clients know it.
//!
//! Takes llama-server's own list and the configured aliases; gives one entry for each name under which the model is
//! served. llama-server has no route for a single model, so that one is made here as well.

use serde::Deserialize;
use serde_json::{Map, Value, json};

/// llama-server's own list, as far as it is used.
#[derive(Deserialize)]
struct Upstream {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
    #[serde(default)]
    aliases: Vec<String>,
    #[serde(default)]
    meta: Option<Map<String, Value>>,
}

/// The list: llama-server's model by its own names, then by each alias. Without `upstream_models_json` (none has
/// been reached yet, or what it said cannot be read) the aliases stand alone. `created` is in Unix seconds:
/// llama-server says the time of the question, which makes every model look new at every look.
pub fn list(aliases: &[String], upstream_models_json: Option<&[u8]>, created: i64) -> Value {
    let upstream: Option<Upstream> = upstream_models_json.and_then(|body| serde_json::from_slice(body).ok());
    let mut data: Vec<Value> = Vec::new();
    let mut meta = None;
    let mut add = |name: &str, meta: Option<&Map<String, Value>>| {
        if data.iter().any(|entry| entry.get("id").and_then(Value::as_str) == Some(name)) {
            return;
        }
        let mut entry = json!({"id": name, "object": "model", "created": created, "owned_by": "llamacpp"});
        if let (Some(meta), Some(entry)) = (meta, entry.as_object_mut()) {
            entry.insert("meta".to_owned(), Value::Object(meta.clone()));
        }
        data.push(entry);
    };
    for model in upstream.into_iter().flat_map(|upstream| upstream.data) {
        let own = model.meta.map(public);
        add(public_name(&model.id), own.as_ref());
        for alias in &model.aliases {
            add(public_name(alias), own.as_ref());
        }
        meta = meta.or(own);
    }
    for alias in aliases {
        add(alias, meta.as_ref());
    }
    json!({"object": "list", "data": data})
}

/// Keeps the entries of a list whose id is to be shown.
pub fn retain(list: &mut Value, shown: impl Fn(&str) -> bool) {
    if let Some(entries) = list.get_mut("data").and_then(Value::as_array_mut) {
        entries.retain(|entry| entry.get("id").and_then(Value::as_str).is_some_and(&shown));
    }
}

/// The entry of one model; `None` if none is served by this name.
pub fn one(id: &str, aliases: &[String], upstream_models_json: Option<&[u8]>, created: i64) -> Option<Value> {
    let mut list = list(aliases, upstream_models_json, created);
    let entries = list.get_mut("data")?.as_array_mut()?;
    let at = entries.iter().position(|entry| entry.get("id").and_then(Value::as_str) == Some(id))?;
    Some(entries.swap_remove(at))
}

/// A name that says nothing of the machine. Without an alias llama-server names the model by the file that it was
/// started with; of that, the stem is kept.
pub fn public_name(id: &str) -> &str {
    let file = id.ends_with(".gguf") || id.starts_with(['/', '.', '~']) || id.contains('\\');
    if !file {
        return id;
    }
    let name = id.rsplit(['/', '\\']).next().unwrap_or(id);
    name.strip_suffix(".gguf").unwrap_or(name)
}

/// Sizes and types pass; whatever might be a path does not.
fn public(mut meta: Map<String, Value>) -> Map<String, Value> {
    meta.retain(|_, value| match value {
        Value::String(text) => !text.contains(['/', '\\']),
        Value::Array(_) | Value::Object(_) => false,
        _ => true,
    });
    meta
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPSTREAM: &[u8] = br#"{"models":[],"object":"list","data":[{"id":"smollm2","aliases":["smollm2","small"],
        "tags":[],"object":"model","created":1795445965,"owned_by":"llamacpp",
        "meta":{"n_ctx":2048,"ftype":"Q4_1","path":"/models/x.gguf"}}]}"#;

    fn ids(list: &Value) -> Vec<&str> {
        list["data"].as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap()).collect()
    }

    #[test]
    fn every_name_of_the_model_is_listed_once_with_the_same_meta() {
        let list = list(&["gpt-4o".to_owned(), "small".to_owned()], Some(UPSTREAM), 7);
        assert_eq!(ids(&list), ["smollm2", "small", "gpt-4o"]);
        let meta = json!({"n_ctx": 2048, "ftype": "Q4_1"});
        for entry in list["data"].as_array().unwrap() {
            assert_eq!(entry["meta"], meta, "and no path of the machine in it");
            assert_eq!((&entry["object"], &entry["created"]), (&json!("model"), &json!(7)));
        }
    }

    #[test]
    fn a_model_without_an_alias_is_named_by_the_stem_of_its_file() {
        let upstream = br#"{"data":[{"id":"/srv/secret/Kimi-K2-00001-of-00005.gguf"}]}"#;
        assert_eq!(ids(&list(&[], Some(upstream), 0)), ["Kimi-K2-00001-of-00005"]);
        assert_eq!(public_name("models/tiny.gguf"), "tiny");
        assert_eq!(public_name("C:\\models\\tiny.gguf"), "tiny");
        assert_eq!(public_name("unsloth/Kimi-K2:Q4"), "unsloth/Kimi-K2:Q4");
    }

    #[test]
    fn while_no_llama_server_is_known_the_aliases_stand_alone() {
        for upstream in [None, Some(&b"<html>"[..])] {
            assert_eq!(ids(&list(&["a".to_owned()], upstream, 0)), ["a"]);
        }
    }

    #[test]
    fn one_model_is_found_by_any_of_its_names_and_by_no_other() {
        let aliases = ["gpt-4o".to_owned()];
        assert_eq!(one("gpt-4o", &aliases, Some(UPSTREAM), 7).unwrap()["id"], "gpt-4o");
        assert_eq!(one("smollm2", &aliases, Some(UPSTREAM), 7).unwrap()["meta"]["n_ctx"], 2048);
        assert!(one("other", &aliases, Some(UPSTREAM), 7).is_none());
    }
}
