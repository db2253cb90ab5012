//! What can be made to go wrong, and for which requests.
//!
//! A fault is named in a request's own body (`sim_fault`, or `chat_template_kwargs.sim_fault`, which passes a gateway), or
//! is put in store for the next requests with `POST /sim/faults`, or comes with every n-th request by option.

use std::str::FromStr;

use super::model::{Trouble, TroubleKind};

/// What goes wrong with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No byte of an answer, ever; no slot is taken.
    Hang,
    /// The stream falls silent in the middle; the slot is free once the client leaves.
    HangMidStream,
    /// The slot falls silent in the middle and is never free again.
    Wedge,
    /// The connection is closed in the middle.
    Cut,
    /// An error event in the middle ends the stream.
    ErrorEvent,
    /// An event in the middle is no JSON; the stream goes on.
    Garbage,
    /// 500 before anything else.
    Status500,
    /// 503 before anything else.
    Status503,
    /// Usage tells half of the generated tokens.
    UsageTooFew,
    /// Usage tells twice as many generated tokens.
    UsageTooMany,
    /// The total is not the sum of its parts.
    UsageSum,
}

const NAMES: [(&str, Fault); 11] = [
    ("hang", Fault::Hang),
    ("hang-mid-stream", Fault::HangMidStream),
    ("wedge", Fault::Wedge),
    ("cut", Fault::Cut),
    ("error-event", Fault::ErrorEvent),
    ("garbage", Fault::Garbage),
    ("status-500", Fault::Status500),
    ("status-503", Fault::Status503),
    ("usage-too-few", Fault::UsageTooFew),
    ("usage-too-many", Fault::UsageTooMany),
    ("usage-sum", Fault::UsageSum),
];

/// Not a fault's name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no fault is called {0:?}\n  hint: hang, hang-mid-stream, wedge, cut, error-event, garbage, status-500, status-503, \
         usage-too-few, usage-too-many or usage-sum"
)]
pub struct Unknown(String);

impl FromStr for Fault {
    type Err = Unknown;

    fn from_str(name: &str) -> Result<Self, Unknown> {
        let known = NAMES.iter().find(|(known, _)| *known == name);
        known.map(|(_, fault)| *fault).ok_or_else(|| Unknown(name.to_owned()))
    }
}

impl Fault {
    /// What the model must do for it with a reply of so many tokens: it happens after half of them.
    pub fn trouble(self, tokens: u64) -> Option<Trouble> {
        let kind = match self {
            Self::HangMidStream => TroubleKind::Hang,
            Self::Wedge => TroubleKind::Wedge,
            Self::Cut | Self::ErrorEvent => TroubleKind::Break,
            _ => return None,
        };
        Some(Trouble { after: (tokens / 2).max(1), kind })
    }
}

/// A fault for every n-th request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Every {
    /// Which.
    pub fault: Fault,
    /// 1 for every request.
    pub requests: u64,
}

impl FromStr for Every {
    type Err = String;

    /// `cut` for every request, `cut@10` for every tenth.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, requests) = text.split_once('@').unwrap_or((text, "1"));
        let fault = name.parse().map_err(|error: Unknown| error.to_string())?;
        let requests = requests.parse().ok().filter(|requests| *requests > 0);
        requests.map(|requests| Self { fault, requests }).ok_or_else(|| format!("{text}: not a number of requests"))
    }
}

/// What is in store.
#[derive(Debug, Default)]
pub struct Store {
    every: Option<Every>,
    next: Option<Fault>,
    left: u64,
    seen: u64,
}

impl Store {
    /// A store with what the option says.
    pub fn new(every: Option<Every>) -> Self {
        Self { every, ..Self::default() }
    }

    /// The next requests will have this fault.
    pub fn put(&mut self, fault: Fault, requests: u64) {
        (self.next, self.left) = (Some(fault), requests);
    }

    /// The fault of a request that names none itself.
    pub fn take(&mut self) -> Option<Fault> {
        self.seen += 1;
        if self.left > 0 {
            self.left -= 1;
            return self.next;
        }
        let every = self.every?;
        self.seen.is_multiple_of(every.requests).then_some(every.fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_a_name_and_the_hint_lists_them() {
        for (name, fault) in NAMES {
            assert_eq!(name.parse(), Ok(fault));
            assert!(Unknown(String::new()).to_string().contains(name), "{name}");
        }
        assert!("crash".parse::<Fault>().is_err());
    }

    #[test]
    fn what_is_in_store_comes_before_what_comes_with_every_nth() {
        let mut store = Store::new(Some("cut@3".parse().unwrap()));
        store.put(Fault::Garbage, 2);
        let taken: Vec<_> = (0..6).map(|_| store.take()).collect();
        let (garbage, cut) = (Some(Fault::Garbage), Some(Fault::Cut));
        assert_eq!(taken, [garbage, garbage, cut, None, None, cut]);
        assert!("cut@0".parse::<Every>().is_err() && "cut@x".parse::<Every>().is_err());
    }
}
