//! What tokens and slot time cost.
//!
//! Takes the price tables of the configuration; gives the cost of what was used of a model on a day. Prices have at
//! most nine decimals and money has fifteen, so that every cost is exact: nothing is rounded before it is shown.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign};

use jiff::civil::{Date, date};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::config::{Config, PriceTable};

/// The name that stands for every model that has no table of its own.
pub const ANY_MODEL: &str = "*";

const PRICE_DECIMALS: usize = 9;
const MONEY_DECIMALS: usize = 15;
/// One unit of the currency, such as a dollar.
const UNIT: u128 = 10_u128.pow(MONEY_DECIMALS as u32);
/// Prices beyond it make no sense, and with them the largest sums still fit.
const HIGHEST_PRICE: u64 = 1_000_000;

/// A price: billionths of the currency's unit for a million tokens or for a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Price(u64);

impl Price {
    /// Reads a decimal number; `None` if it is below zero, too large or has too many decimals.
    fn parse(text: &str) -> Option<Self> {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(decimals) || decimals.len() > PRICE_DECIMALS {
            return None;
        }
        let whole: u64 = whole.parse().ok().filter(|whole| *whole <= HIGHEST_PRICE)?;
        let decimals: u64 = format!("{decimals:0<PRICE_DECIMALS$}").parse().ok()?;
        Some(Self(whole * 1_000_000_000 + decimals))
    }

    /// What so many tokens cost, at a price for a million.
    fn of_tokens(self, tokens: i64) -> Money {
        Money(i128::from(self.0) * i128::from(tokens))
    }

    /// What so many milliseconds cost, at a price for a second.
    fn of_milliseconds(self, milliseconds: i64) -> Money {
        Money(i128::from(self.0) * i128::from(milliseconds) * 1000)
    }
}

/// A price may be written as text or as a number: of a number, the shortest decimals that mean it are what was written.
impl<'de> Deserialize<'de> for Price {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match toml::Value::deserialize(deserializer)? {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Float(number) => number.to_string(),
            other => return Err(D::Error::custom(format!("expected a price, found {}", other.type_str()))),
        };
        Self::parse(&text).ok_or_else(|| {
            D::Error::custom(format!(
                "`{}` is not a price: from 0 to {HIGHEST_PRICE}, with at most {PRICE_DECIMALS} decimals",
                text.escape_debug()
            ))
        })
    }
}

/// A day (UTC), written as a date or as its text: `2026-01-31`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Day(i64);

impl Day {
    /// Since 1970.
    pub fn of_days(days: i64) -> Self {
        Self(days)
    }
}

impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match toml::Value::deserialize(deserializer)? {
            toml::Value::String(text) => text,
            toml::Value::Datetime(time) => time.to_string(),
            other => return Err(D::Error::custom(format!("expected a date, found {}", other.type_str()))),
        };
        // A date alone: of a time with it, nobody would know what becomes of the day before.
        let day: Option<Date> = (text.len() == "2026-01-31".len()).then(|| text.parse().ok()).flatten();
        let day =
            day.ok_or_else(|| D::Error::custom(format!("`{}` is not a date such as 2026-01-31", text.escape_debug())))?;
        let since = date(1970, 1, 1).until(day).map_err(D::Error::custom)?;
        Ok(Self(i64::from(since.get_days())))
    }
}

/// An amount of money, exact, in 10⁻¹⁵ of the currency's unit. Shown with all its decimals, or rounded (half away from
/// zero) to as many as the format asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Money(i128);

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = f.precision().unwrap_or(MONEY_DECIMALS).min(MONEY_DECIMALS);
        let step = 10_u128.pow((MONEY_DECIMALS - decimals) as u32);
        let rounded = (self.0.unsigned_abs() + step / 2) / step * step;
        let sign = if self.0 < 0 && rounded > 0 { "-" } else { "" };
        let digits = format!("{:0MONEY_DECIMALS$}", rounded % UNIT);
        let digits = if f.precision().is_some() { &digits[..decimals] } else { digits.trim_end_matches('0') };
        let point = if digits.is_empty() { "" } else { "." };
        write!(f, "{sign}{}{point}{digits}", rounded / UNIT)
    }
}

/// As a number with all its decimals, which a float would not have.
impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.to_string()).map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

impl Add for Money {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::default(), Add::add)
    }
}

/// What is paid for, of one model on one day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quantities {
    /// Requests; they cost nothing themselves.
    pub requests: i64,
    /// Prompt tokens that did not come from the cache.
    pub prompt_tokens: i64,
    /// Prompt tokens that came from it.
    pub cached_tokens: i64,
    /// Generated tokens.
    pub output_tokens: i64,
    /// Time that slots were held, in milliseconds.
    pub slot_ms: i64,
}

/// What something costs, by what is paid for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Prompt tokens that did not come from the cache.
    pub prompt: Money,
    /// Prompt tokens that came from it.
    pub cached: Money,
    /// Generated tokens.
    pub output: Money,
    /// Slot time.
    pub slots: Money,
    /// Requests of models that had no price on their day: what they used is not in the sums.
    pub unpriced_requests: i64,
}

impl Cost {
    /// All of it.
    pub fn total(&self) -> Money {
        [self.prompt, self.cached, self.output, self.slots].into_iter().sum()
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.prompt = self.prompt + other.prompt;
        self.cached = self.cached + other.cached;
        self.output = self.output + other.output;
        self.slots = self.slots + other.slots;
        self.unpriced_requests += other.unpriced_requests;
    }
}

/// The price tables.
#[derive(Clone, Debug)]
pub struct Prices {
    currency: String,
    tables: Vec<PriceTable>,
}

impl Prices {
    /// The configured ones; `None` where nothing has a price.
    pub fn of(config: &Config) -> Option<Self> {
        let tables: Vec<_> = config.prices.values().cloned().collect();
        (!tables.is_empty()).then(|| Self { currency: config.billing.currency.clone(), tables })
    }

    /// The currency of all prices, as ISO 4217 writes it.
    pub fn currency(&self) -> &str {
        &self.currency
    }

    /// What was used of a model on a day costs by the newest table of this model that began on that day or before; if
    /// it has none, by the newest of those for any model.
    pub fn cost(&self, model: &str, day: Day, used: &Quantities) -> Cost {
        let newest = |name: &str| {
            let begun = self.tables.iter().filter(|table| table.model == name && table.since <= Some(day));
            begun.max_by_key(|table| table.since)
        };
        let Some(table) = newest(model).or_else(|| newest(ANY_MODEL)) else {
            return Cost { unpriced_requests: used.requests, ..Cost::default() };
        };
        Cost {
            prompt: table.prompt.of_tokens(used.prompt_tokens),
            cached: table.cached.unwrap_or(table.prompt).of_tokens(used.cached_tokens),
            output: table.output.of_tokens(used.output_tokens),
            slots: table.slot_second.of_milliseconds(used.slot_ms),
            unpriced_requests: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Overrides, load};

    fn prices(toml: &str) -> Result<Prices, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), toml).unwrap();
        let config = load(Some(file.path()), std::iter::empty(), &Overrides::default());
        config.map(|config| Prices::of(&config).unwrap()).map_err(|error| error.to_string())
    }

    fn total(prices: &Prices, model: &str, day: &str, used: Quantities) -> String {
        let day = Day::deserialize(toml::Value::String(day.to_owned())).unwrap();
        prices.cost(model, day, &used).total().to_string()
    }

    const MILLION: Quantities = Quantities {
        requests: 1,
        prompt_tokens: 1_000_000,
        cached_tokens: 1_000_000,
        output_tokens: 1_000_000,
        slot_ms: 1000,
    };

    #[test]
    fn prices_are_read_exactly_however_they_are_written() {
        for (text, billionths) in [
            ("0.15", 150_000_000),
            ("2", 2_000_000_000),
            ("0", 0),
            ("0.000000001", 1),
            ("1000000", 1_000_000_000_000_000),
        ] {
            assert_eq!(Price::parse(text), Some(Price(billionths)), "{text}");
        }
        for wrong in
            ["", ".", "1.", ".5", "-1", "+1", "1e3", "0.0000000001", "1000001", "1,5", "0x1", " 1", "NaN", "inf"]
        {
            assert_eq!(Price::parse(wrong), None, "{wrong}");
        }
        let toml = "[prices.a]\nprompt = 0.1\ncached = \"0.01\"\noutput = 3\nslot_second = 1e-5";
        assert_eq!(total(&prices(toml).unwrap(), "m", "2026-01-01", MILLION), "3.11001");
    }

    #[test]
    fn the_smallest_cost_is_exact_and_the_largest_fits() {
        let prices = prices("[prices.a]\nprompt = \"0.000000001\"\noutput = 1000000\nslot_second = 1000000").unwrap();
        let one = Quantities { prompt_tokens: 1, ..Quantities::default() };
        assert_eq!(total(&prices, "m", "2026-01-01", one), "0.000000000000001");
        let all = Quantities { output_tokens: i64::MAX, slot_ms: i64::MAX, ..Quantities::default() };
        assert_eq!(total(&prices, "m", "2026-01-01", all), "9232595408891630582807");
    }

    #[test]
    fn cached_tokens_cost_as_much_as_others_if_nothing_else_is_said() {
        let used = Quantities { prompt_tokens: 1, cached_tokens: 999_999, ..Quantities::default() };
        assert_eq!(total(&prices("[prices.a]\nprompt = 2").unwrap(), "m", "2026-01-01", used), "2");
        assert_eq!(total(&prices("[prices.a]\nprompt = 2\ncached = 0").unwrap(), "m", "2026-01-01", used), "0.000002");
    }

    #[test]
    fn a_model_has_its_own_table_and_each_day_the_newest_that_had_begun() {
        let prices = prices(
            "[prices.base]\nprompt = 1\n[prices.base-2027]\nsince = 2027-01-01\nprompt = 2\n\
             [prices.kimi]\nmodel = \"kimi\"\nsince = \"2026-07-01\"\nprompt = 5",
        )
        .unwrap();
        for (model, day, cost) in [
            ("other", "1971-01-01", "2"),
            ("other", "2026-12-31", "2"),
            ("other", "2027-01-01", "4"),
            ("kimi", "2026-06-30", "2"),
            ("kimi", "2026-07-01", "10"),
            ("kimi", "2027-01-01", "10"),
        ] {
            assert_eq!(total(&prices, model, day, MILLION), cost, "{model} {day}");
        }
    }

    #[test]
    fn what_has_no_price_is_counted_and_not_taken_for_free() {
        let prices = prices("[prices.kimi]\nmodel = \"kimi\"\nsince = 2026-07-01\nprompt = 5").unwrap();
        for (model, day) in [("other", 30_000), ("kimi", 0)] {
            let cost = prices.cost(model, Day::of_days(day), &MILLION);
            assert_eq!((cost.total(), cost.unpriced_requests), (Money(0), 1), "{model}");
        }
    }

    #[test]
    fn money_is_shown_exactly_or_rounded_half_away_from_zero() {
        let unit = UNIT as i128;
        for (amount, exact, cents) in [
            (0, "0", "0.00"),
            (unit * 12, "12", "12.00"),
            (unit / 200, "0.005", "0.01"),
            (-unit / 200, "-0.005", "-0.01"),
            (unit / 1000, "0.001", "0.00"),
            (-unit / 1000, "-0.001", "0.00"),
            (unit - 1, "0.999999999999999", "1.00"),
            (1, "0.000000000000001", "0.00"),
        ] {
            let money = Money(amount);
            assert_eq!((money.to_string().as_str(), format!("{money:.2}").as_str()), (exact, cents));
        }
    }

    #[test]
    fn wrong_tables_are_refused_where_they_stand() {
        for (toml, told) in [
            ("[prices.a]\n[prices.b]", ":2: `prices.b.since`: `prices.a` has the same model from the same day on"),
            ("[prices.a]\nsince = 2026-01-01\n[prices.b]\nsince = \"2026-01-01\"", ":4: `prices.b.since`"),
            ("[prices.a]\nprompt = -1", ":2: `prices.a.prompt`: `-1` is not a price"),
            ("[prices.a]\nprompt = 0.0000000001", "`prices.a.prompt`"),
            ("[prices.a]\nprompt = true", "expected a price"),
            ("[prices.a]\nsince = 2026-01-01T00:00:00Z", "is not a date such as 2026-01-31"),
            ("[prices.a]\nsince = \"2026-02-30\"", ":2: `prices.a.since`: `2026-02-30` is not a date"),
            ("[prices.a]\nsince = 5", "expected a date"),
            ("[prices.a]\nmodel = \"\"", "`prices.a.model`: must not be empty"),
            ("[prices.\"a b\"]\nprompt = 1", "a name has 1 to 64"),
            ("[prices.a]\npromt = 1", "did you mean `prices.a.prompt`?"),
            ("[billing]\ncurrency = \"Euro\"", ":2: `billing.currency`: must be three capital letters"),
        ] {
            let error = prices(toml).unwrap_err();
            assert!(error.contains(told), "{toml}: {error}");
        }
    }
}
