//! JSON objects whose members keep the order in which llama-server writes them.
//!
//! The order is part of the imitation: readers of streams may rely on `timings` being the last member of a chunk.

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::super::model::Timings;

/// An object with its members in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ordered(Vec<(&'static str, Value)>);

impl Ordered {
    /// The object with one member more.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.0.push((name, value.into()));
        self
    }

    /// The object with one member more, if there is a value.
    pub(crate) fn maybe(self, name: &'static str, value: Option<Value>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// The members of another one behind its own.
    pub(crate) fn followed_by(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Its text.
    pub(crate) fn text(&self) -> String {
        // Members that are already JSON cannot fail to be written.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Serialize for Ordered {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// `timings`. llama-server counts the output's time from the first token, so that one token has none.
pub(crate) fn timings(of: &Timings) -> Value {
    let per = |milliseconds: f64, tokens: f64| if tokens > 0.0 { milliseconds / tokens } else { 0.0 };
    let prompt = of.prompt.as_secs_f64() * 1000.0;
    // As many as the real one shows for a first token.
    let predicting = if of.predicted == 1 { 0.001 } else { of.predicting.as_secs_f64() * 1000.0 };
    let further = of.predicted.saturating_sub(1) as f64;
    json!({
        "cache_n": of.cached,
        "prompt_n": of.computed,
        "prompt_ms": prompt,
        "prompt_per_token_ms": per(prompt, of.computed as f64),
        "prompt_per_second": per(of.computed as f64 * 1000.0, prompt),
        "predicted_n": of.predicted,
        "predicted_ms": predicting,
        "predicted_per_token_ms": per(predicting, further),
        "predicted_per_second": if further > 0.0 { per(further * 1000.0, predicting) } else { 0.0 },
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn members_stay_in_order() {
        let object = Ordered::default().with("usage", 1).maybe("none", None).with("timings", json!({"b": 1, "a": 2}));
        assert_eq!(object.text(), r#"{"usage":1,"timings":{"a":2,"b":1}}"#);
    }

    #[test]
    fn the_first_token_has_no_time_of_its_own() {
        let ms = Duration::from_millis;
        let timings = timings(&Timings { cached: 3, computed: 10, prompt: ms(20), predicted: 5, predicting: ms(40) });
        assert_eq!(timings["prompt_per_second"], 500.0);
        assert_eq!(
            (&timings["predicted_per_token_ms"], &timings["predicted_per_second"]),
            (&json!(10.0), &json!(100.0))
        );
        let none = super::timings(&Timings::default());
        assert_eq!((&none["prompt_per_second"], &none["predicted_per_second"]), (&json!(0.0), &json!(0.0)));
    }
}
