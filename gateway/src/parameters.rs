//! Query parameters of a URL, read strictly: what is not known, not a number or there twice is refused by its name.
//!
//! Takes a URL; each parameter is taken out once, and [`Parameters::finish`] refuses what is left.

use http::Uri;
use jiff::Timestamp;

use crate::error::Rejection;

/// Characters of a name that is repeated to the client.
const MOST_NAME_CHARS: usize = 64;

/// Those that have not been taken yet. `name[]` is spelled `name` here.
pub struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Those of a URL.
    pub fn of(uri: &Uri) -> Self {
        let pairs = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        let name = |name: &str| name.strip_suffix("[]").unwrap_or(name).to_owned();
        Self(pairs.map(|(key, value)| (name(&key), value.into_owned())).collect())
    }

    /// All values of a list.
    pub fn take_all(&mut self, name: &str) -> Vec<String> {
        self.0.extract_if(.., |(key, _)| key == name).map(|(_, value)| value).collect()
    }

    /// The value of a parameter.
    ///
    /// # Errors
    /// There are several.
    pub fn take(&mut self, name: &str) -> Result<Option<String>, Rejection> {
        let mut values = self.take_all(name);
        let value = values.pop();
        if values.is_empty() { Ok(value) } else { Err(Rejection::field(name, format!("`{name}` must be given once."))) }
    }

    /// A whole number.
    ///
    /// # Errors
    /// It is none, or not from `least` to `most`.
    pub fn take_number(&mut self, name: &str, (least, most): (i64, i64)) -> Result<Option<i64>, Rejection> {
        let Some(text) = self.take(name)? else { return Ok(None) };
        let number = text.parse().ok().filter(|number| (least..=most).contains(number));
        let refusal = || Rejection::field(name, format!("`{name}` must be a whole number from {least} to {most}."));
        number.map(Some).ok_or_else(refusal)
    }

    /// A time in whole seconds since 1970.
    ///
    /// # Errors
    /// It is none.
    pub fn take_time(&mut self, name: &str) -> Result<Option<Timestamp>, Rejection> {
        let seconds = self.take_number(name, (0, Timestamp::MAX.as_second()))?;
        Ok(seconds.and_then(|seconds| Timestamp::from_second(seconds).ok()))
    }

    /// The one of `choices` that a parameter names.
    ///
    /// # Errors
    /// It names none of them.
    pub fn take_choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> Result<Option<T>, Rejection> {
        self.take(name)?.map(|text| choose(name, &text, choices)).transpose()
    }

    /// Those of `choices` that a list names.
    ///
    /// # Errors
    /// It names something else.
    pub fn take_choices<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> Result<Vec<T>, Rejection> {
        self.take_all(name).iter().map(|text| choose(name, text, choices)).collect()
    }

    /// Refuses what has not been taken.
    ///
    /// # Errors
    /// Something has not.
    pub fn finish(self) -> Result<(), Rejection> {
        let Some((name, _)) = self.0.into_iter().next() else { return Ok(()) };
        let name: String = name.chars().filter(|c| !c.is_control()).take(MOST_NAME_CHARS).collect();
        let message = format!("Unknown parameter: `{name}`.");
        Err(Rejection::field(name, message))
    }
}

fn choose<T: Copy>(name: &str, text: &str, choices: &[(&str, T)]) -> Result<T, Rejection> {
    let found = choices.iter().find(|(choice, _)| *choice == text).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let choices: Vec<_> = choices.iter().map(|(choice, _)| format!("`{choice}`")).collect();
        Rejection::field(name, format!("`{name}` must be one of {}.", choices.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(query: &str) -> Parameters {
        Parameters::of(&format!("/path?{query}").parse().unwrap())
    }

    #[test]
    fn both_spellings_of_a_list_and_repetitions_are_one_list() {
        let mut parameters = of("a[]=1&a=2&b=x&a%5B%5D=%33+4&empty");
        assert_eq!(parameters.take_all("a"), ["1", "2", "3 4"]);
        assert_eq!(parameters.take("b").unwrap().as_deref(), Some("x"));
        assert_eq!(parameters.take("empty").unwrap().as_deref(), Some(""));
        assert_eq!(parameters.take("c").unwrap(), None);
        parameters.finish().unwrap();
        Parameters::of(&"/path".parse().unwrap()).finish().unwrap();
    }

    #[test]
    fn what_is_wrong_is_refused_by_its_name() {
        let choices = [("1h", 1), ("1d", 2)];
        for (refusal, param, told) in [
            (of("a=1&a[]=1").take("a").err(), "a", "must be given once"),
            (of("n=x").take_number("n", (1, 5)).err(), "n", "a whole number from 1 to 5"),
            (of("n=6").take_number("n", (1, 5)).err(), "n", "a whole number from 1 to 5"),
            (of("n=").take_number("n", (1, 5)).err(), "n", "a whole number from 1 to 5"),
            (of("t=-1").take_time("t").err(), "t", "a whole number from 0"),
            (of("t=99999999999999999999").take_time("t").err(), "t", "a whole number"),
            (of("w=2d").take_choice("w", &choices).err(), "w", "one of `1h`, `1d`"),
            (of("w[]=1d&w[]=x").take_choices("w", &choices).err(), "w", "one of `1h`, `1d`"),
            (of("w%0a%5B%5D=1").finish().err(), "w", "Unknown parameter: `w`."),
        ] {
            let refusal = refusal.unwrap();
            assert_eq!(refusal.param.as_deref(), Some(param), "{refusal}");
            assert!(refusal.message.contains(told), "{refusal}");
        }
        assert_eq!(of("w[]=1d&w=1h").take_choices("w", &choices).unwrap(), [2, 1]);
    }
}
