//! JSON objects whose members keep the order in which llama-server writes them.
//!
//! The order is part of the imitation: readers of streams may rely on `timings` being the last member of a chunk.

use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use super::super::model::Timings;

/// An object with its members in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ordered(Vec<(&'static str, Box<RawValue>)>);

/// An object with these members in this order.
macro_rules! ordered {
    ($($name:literal: $value:expr),* $(,)?) => {
        $crate::sim::api::json::Ordered::default()$(.with($name, &$value))*
    };
}
pub(crate) use ordered;

impl Ordered {
    /// The object with one member more.
    pub(crate) fn with(mut self, name: &'static str, value: impl Serialize) -> Self {
        // What is given here are objects, lists, texts and finite numbers, which can all be written.
        self.0.extend(to_raw_value(&value).ok().map(|value| (name, value)));
        self
    }

    /// The object with one member more, if there is a value.
    pub(crate) fn maybe(self, name: &'static str, value: Option<impl Serialize>) -> Self {
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
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Serialize for Ordered {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// `timings`. llama-server counts the output's time from the first token, so that one token has none.
pub(crate) fn timings(of: &Timings) -> Ordered {
    let per = |milliseconds: f64, tokens: f64| if tokens > 0.0 { milliseconds / tokens } else { 0.0 };
    let prompt = of.prompt.as_secs_f64() * 1000.0;
    // As many as the real one shows for a first token.
    let predicting = if of.predicted == 1 { 0.001 } else { of.predicting.as_secs_f64() * 1000.0 };
    let further = of.predicted.saturating_sub(1) as f64;
    ordered! {
        "cache_n": of.cached,
        "prompt_n": of.computed,
        "prompt_ms": prompt,
        "prompt_per_token_ms": per(prompt, of.computed as f64),
        "prompt_per_second": per(of.computed as f64 * 1000.0, prompt),
        "predicted_n": of.predicted,
        "predicted_ms": predicting,
        "predicted_per_token_ms": per(predicting, further),
        "predicted_per_second": if further > 0.0 { per(further * 1000.0, predicting) } else { 0.0 },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::{timings as timings_of, *};

    #[test]
    fn members_stay_in_order() {
        let object = ordered! {"usage": 1, "timings": ordered! {"b": 1, "a": [ordered! {"c": "x"}]}};
        assert_eq!(object.maybe("none", None::<u8>).text(), r#"{"usage":1,"timings":{"b":1,"a":[{"c":"x"}]}}"#);
    }

    #[test]
    fn the_first_token_has_no_time_of_its_own() {
        let ms = Duration::from_millis;
        let value = |timings: Timings| -> Value { serde_json::from_str(&timings_of(&timings).text()).unwrap() };
        let timings = value(Timings { cached: 3, computed: 10, prompt: ms(20), predicted: 5, predicting: ms(40) });
        assert_eq!(timings["prompt_per_second"], 500.0);
        assert_eq!(
            (&timings["predicted_per_token_ms"], &timings["predicted_per_second"]),
            (&json!(10.0), &json!(100.0))
        );
        let none = value(Timings::default());
        assert_eq!((&none["prompt_per_second"], &none["predicted_per_second"]), (&json!(0.0), &json!(0.0)));
    }
}
