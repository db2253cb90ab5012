//! The fields of a request body, read as llama-server reads them: unknown ones are ignored, `null` means absent, and a
//! wrong type is refused with the field's name.

use serde_json::{Map, Value};

use super::error::ApiError;

/// A body's fields.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a>(Option<&'a Map<String, Value>>);

const NUMBERS: [&str; 13] = [
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "n",
    "n_predict",
    "max_tokens",
    "max_completion_tokens",
    "presence_penalty",
    "frequency_penalty",
    "repeat_penalty",
    "sse_ping_interval",
];
const FLAGS: [&str; 5] = ["stream", "timings_per_token", "return_progress", "ignore_eos", "cache_prompt"];

impl<'a> Fields<'a> {
    /// The fields of a body; none if it is no object.
    ///
    /// # Errors
    /// A known field has a value of another type.
    pub(crate) fn of(body: &'a Value) -> Result<Self, ApiError> {
        let fields = Self(body.as_object());
        let wrong = |name: &str, wanted: &str, value: &Value| {
            let found = type_name(value);
            let message = format!("[json.exception.type_error.302] type must be {wanted}, but is {found}");
            ApiError::invalid(format!("Field '{name}': {message}"))
        };
        for name in NUMBERS {
            if let Some(value) = fields.get(name).filter(|value| !value.is_number()) {
                return Err(wrong(name, "number", value));
            }
        }
        for name in FLAGS {
            if let Some(value) = fields.get(name).filter(|value| !value.is_boolean()) {
                return Err(wrong(name, "boolean", value));
            }
        }
        Ok(fields)
    }

    /// A field's value, if it has one.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.0?.get(name).filter(|value| !value.is_null())
    }

    /// A field's number, without what is behind the point.
    pub(crate) fn number(&self, name: &str) -> Option<i64> {
        let value = self.get(name)?;
        value.as_i64().or_else(|| value.as_f64().map(|value| value as i64))
    }

    /// Whether a field is true.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name).and_then(Value::as_bool).unwrap_or_default()
    }

    /// How many tokens may be generated; none for no limit. The first name that is there wins.
    pub(crate) fn limit(&self) -> Option<u64> {
        let names = ["n_predict", "max_completion_tokens", "max_tokens"];
        let limit = names.iter().find_map(|name| self.number(name))?;
        // Even 0 gives a token.
        u64::try_from(limit).ok().map(|limit| limit.max(1))
    }

    /// What ends a reply, under either name.
    pub(crate) fn stops(&self) -> Vec<&'a str> {
        let stop = self.get("stop").or_else(|| self.get("stop_sequences"));
        let stops = match stop {
            Some(Value::String(stop)) => vec![stop.as_str()],
            Some(Value::Array(stops)) => stops.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        stops.into_iter().filter(|stop| !stop.is_empty()).collect()
    }

    /// How many choices are wanted, of at most `slots`.
    ///
    /// # Errors
    /// More or fewer.
    pub(crate) fn choices(&self, slots: usize) -> Result<usize, ApiError> {
        let choices = self.number("n").unwrap_or(1);
        let fitting = usize::try_from(choices).ok().filter(|choices| (1..=slots).contains(choices));
        fitting.ok_or_else(|| {
            ApiError::invalid(format!("Field 'n': Value must be between 1 <= value <= {slots}, but got {choices}"))
        })
    }

    /// The fault that the request wants, by a field of its own or by one that passes gateways.
    pub(crate) fn fault(&self) -> Option<&'a str> {
        let variable = || self.get("chat_template_kwargs")?.get("sim_fault");
        self.get("sim_fault").or_else(variable)?.as_str()
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_of_the_names_of_the_limit_wins() {
        let limit = |body: Value| Fields::of(&body).unwrap().limit();
        assert_eq!(limit(json!({"max_tokens": 2, "n_predict": 7})), Some(7));
        assert_eq!(limit(json!({"max_tokens": 2, "max_completion_tokens": 4})), Some(4));
        assert_eq!(limit(json!({"max_tokens": 2.7})), Some(2));
        assert_eq!(
            (limit(json!({"max_tokens": 0})), limit(json!({"max_tokens": -1})), limit(json!([]))),
            (Some(1), None, None)
        );
    }

    #[test]
    fn a_wrong_type_is_refused_by_name() {
        let error = Fields::of(&json!({"temperature": "hot"})).err().unwrap();
        assert_eq!(
            error.message,
            "Field 'temperature': [json.exception.type_error.302] type must be number, but is string"
        );
        assert!(Fields::of(&json!({"stream": 1})).is_err());
    }

    #[test]
    fn as_many_choices_as_slots_can_be_had() {
        let body = json!({"n": 3});
        let fields = Fields::of(&body).unwrap();
        assert_eq!(fields.choices(4), Ok(3));
        assert!(fields.choices(2).unwrap_err().message.contains("1 <= value <= 2, but got 3"));
    }
}
