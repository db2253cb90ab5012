//! Text of so many tokens.

use std::sync::Arc;

use rand::{Rng, RngExt};

/// Common English words, each one token in SmolLM2's vocabulary, with a space before it and without; other vocabularies
/// are much the same. `target` asks the server's own tokenizer which of them are.
const WORDS: &str = "\
    time year people way day man thing woman life child world school state family student group country problem hand \
    part place case week company system program question work government number night point home water room mother \
    area money story fact month lot right study book eye job word business issue side kind head house service friend \
    father power hour game line end member law car city community name president team minute idea body information \
    back parent face level office door health person art war history party result change reason research girl moment \
    air teacher force education good new first last long great little own other old big high different small large \
    next early young important few public bad same able have make know take see come think look want give use find \
    tell ask feel try leave call keep let begin show play run move like live hold write sit stand pay include \
    continue set learn lead understand watch follow stop create read allow add grow open walk win offer remember \
    love consider buy wait die send expect build stay fall cut reach kill above after again against almost along \
    already also always among animal answer around because before below between both center choice color common \
    condition cost course culture current data deal death decision degree detail direction dream drive east easy \
    edge effect energy enough environment event every evidence example experience factor field figure film final \
    fine finger fire floor food form forward frame free full future general glass goal gold green ground growth hair \
    half hard heat heavy image impact industry inside interest join key knowledge lake land language leader least \
    leg less letter light list listen machine main major manage market matter measure media medical memory method \
    middle mind mission model modern music nation nature near network news north note nothing object ocean oil once \
    operation option order outside page pair paper past peace per phone picture plan plant policy poor position \
    possible practice present press price private process product property pull purpose quality race radio rate raw \
    record red region relationship require resource response rest rich rise risk river rock role rule safe scale \
    scene science score sea season seat second security sense series seven shape share short sign simple sing site \
    six skill sky sleep slow social soft soil sound source south space spring staff stage standard star station \
    stone store strategy street strong structure";

/// Words of which a text of n tokens is n.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    words: Arc<[Box<str>]>,
}

impl Vocabulary {
    /// The common words. That each is one token is an estimate.
    pub fn estimated() -> Self {
        Self { words: WORDS.split_ascii_whitespace().map(Box::from).collect() }
    }

    /// Words of which each is known to be one token, at the beginning of a text and after a space. None if there are
    /// fewer than two: prompts would all be the same.
    pub fn from_words(words: Vec<String>) -> Option<Self> {
        (words.len() > 1).then(|| Self { words: words.into_iter().map(String::into_boxed_str).collect() })
    }

    /// The words.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.words.iter().map(|word| &**word)
    }

    /// Adds `tokens` words to `text`.
    pub(super) fn write(&self, text: &mut String, tokens: u64, rng: &mut impl Rng) {
        for _ in 0..tokens {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(&self.words[rng.random_range(..self.words.len())]);
        }
    }
}
