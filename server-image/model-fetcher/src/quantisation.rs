//! Which files of a repository are the model: those of one quantisation, with all their shards.
//!
//! Strict on purpose: a wrong guess costs hours and hundreds of gigabytes.

use std::collections::{BTreeMap, BTreeSet};

use crate::fault::Fault;

/// The parts of a GGUF file's path that matter.
#[derive(Debug, PartialEq, Eq)]
struct Name<'a> {
    /// The directories above it.
    directories: Vec<&'a str>,
    /// Its name without the shard's number and `.gguf`.
    stem: &'a str,
    /// Which shard of how many.
    shard: Option<(u32, u32)>,
}

impl<'a> Name<'a> {
    /// None if it is no file of a language model: vision parts (`mmproj`) are not loaded.
    fn of(path: &'a str) -> Option<Self> {
        let mut directories: Vec<_> = path.split('/').collect();
        let base = directories.pop()?;
        let (stem, extension) = base.split_at_checked(base.len().checked_sub(5)?)?;
        if !extension.eq_ignore_ascii_case(".gguf") || base.to_ascii_lowercase().contains("mmproj") {
            return None;
        }
        let shard = shard(stem);
        let stem = if shard.is_some() { &stem[..stem.len() - SHARD_LENGTH] } else { stem };
        Some(Self { directories, stem, shard })
    }

    /// What the name says the quantisation is: the longest end of the stem that looks like one.
    fn label(&self) -> Option<&'a str> {
        let stem = self.stem;
        let starts = stem.char_indices().filter(|(_, char)| matches!(char, '-' | '.' | '_')).map(|(at, _)| at + 1);
        std::iter::once(0).chain(starts).map(|start| &stem[start..]).find(|end| looks_like_a_quantisation(end))
    }

    /// Its name says that it is of this quantisation.
    fn is_labelled(&self, quant: &str) -> bool {
        match self.label() {
            Some(label) if label.eq_ignore_ascii_case(quant) => true,
            // A name that nobody foresaw can be said in full; one that is foreseen means something else then.
            label => {
                let start = self.stem.len().checked_sub(quant.len());
                let end = start.and_then(|start| self.stem.split_at_checked(start));
                end.is_some_and(|(before, end)| {
                    let delimited = before.is_empty() || (label.is_none() && before.ends_with(['-', '.']));
                    delimited && end.eq_ignore_ascii_case(quant)
                })
            }
        }
    }

    fn is_below(&self, quant: &str) -> bool {
        self.directories.iter().any(|directory| directory.eq_ignore_ascii_case(quant))
    }
}

/// The length of `-00001-of-00006`.
const SHARD_LENGTH: usize = 15;

fn shard(stem: &str) -> Option<(u32, u32)> {
    let (_, end) = stem.split_at_checked(stem.len().checked_sub(SHARD_LENGTH)?)?;
    let (number, total) = end.strip_prefix('-')?.split_once("-of-")?;
    let digits = |text: &str| (text.len() == 5).then(|| text.parse().ok()).flatten();
    Some((digits(number)?, digits(total)?))
}

/// `Q4_K_M`, `IQ1_S`, `TQ1_0`, `BF16`, `mxfp4`..., also with `UD-` before it.
fn looks_like_a_quantisation(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let text = text.strip_prefix("ud-").unwrap_or(&text);
    let (kind, details) = text.split_once('_').unwrap_or((text, ""));
    let numbered = |kind: &str| {
        ["q", "iq", "tq", "f", "bf", "fp", "mxfp", "nvfp"].iter().any(|letters| {
            kind.strip_prefix(letters).is_some_and(|number| {
                matches!(number.len(), 1..=2) && number.bytes().all(|digit| digit.is_ascii_digit())
            })
        })
    };
    numbered(kind) && details.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The paths of the model's files, in order.
///
/// # Errors
/// When no file is of that quantisation, several models are, or a shard is missing.
pub fn select<'a>(paths: &[&'a str], quant: &str) -> Result<Vec<&'a str>, Fault> {
    let named: Vec<(&str, Name<'a>)> = paths.iter().filter_map(|path| Some((*path, Name::of(path)?))).collect();
    // A directory of that very name is what the repository's owner says.
    let mut chosen: Vec<_> = named.iter().filter(|(_, name)| name.is_below(quant)).collect();
    if chosen.is_empty() {
        chosen = named.iter().filter(|(_, name)| name.is_labelled(quant)).collect();
    }
    match sets(chosen).as_slice() {
        [] => Err(nothing(&named, quant)),
        [set] => whole(set).map_err(|problem| Fault::Refused {
            problem,
            hint: "the upload may not be complete yet: try later, or another MODEL_REVISION".to_owned(),
        }),
        several => Err(Fault::Refused {
            problem: format!("QUANT_TYPE={quant} fits more than one model: {}", firsts(several)),
            hint: "set QUANT_TYPE to the file's name without .gguf and without the shard's number".to_owned(),
        }),
    }
}

/// The names of the only model among the files of a directory, in order.
///
/// # Errors
/// What is wrong when there is none, more than one, or a shard is missing.
pub fn only_model<'a>(names: &[&'a str]) -> Result<Vec<&'a str>, String> {
    let named: Vec<(&str, Name<'a>)> = names.iter().filter_map(|name| Some((*name, Name::of(name)?))).collect();
    match sets(named.iter().collect()).as_slice() {
        [] => Err("there is no GGUF file".to_owned()),
        [set] => whole(set),
        several => Err(format!("there is more than one model: {}", firsts(several))),
    }
}

/// Files that make a model together.
type Set<'a, 'b> = Vec<(&'a str, &'b Name<'a>)>;

fn sets<'a, 'b>(chosen: Vec<&'b (&'a str, Name<'a>)>) -> Vec<Set<'a, 'b>> {
    let mut sets: BTreeMap<_, Set<'a, 'b>> = BTreeMap::new();
    for (path, name) in chosen {
        sets.entry((&name.directories, name.stem, name.shard.map(|(_, total)| total))).or_default().push((*path, name));
    }
    sets.into_values().collect()
}

fn firsts(sets: &[Set<'_, '_>]) -> String {
    let firsts: Vec<_> = sets.iter().filter_map(|set| Some(set.first()?.0)).collect();
    firsts.join(", ")
}

fn nothing(named: &[(&str, Name<'_>)], quant: &str) -> Fault {
    let labels: BTreeSet<_> = named.iter().map(|(_, name)| name.label().unwrap_or(name.stem)).collect();
    if labels.is_empty() {
        return Fault::Refused {
            problem: "the repository has no GGUF model".to_owned(),
            hint: "set MODEL_REPO to one that has: their names mostly end in -GGUF".to_owned(),
        };
    }
    Fault::Refused {
        problem: format!("the repository has no quantisation {quant}"),
        hint: format!("set QUANT_TYPE to one of: {}", labels.into_iter().collect::<Vec<_>>().join(", ")),
    }
}

/// All shards, in order; what is wrong, if one is missing.
fn whole<'a>(set: &[(&'a str, &Name<'a>)]) -> Result<Vec<&'a str>, String> {
    let Some(total) = set.iter().find_map(|(_, name)| name.shard).map(|(_, total)| total) else {
        return Ok(set.iter().map(|(path, _)| *path).collect());
    };
    let shards: BTreeMap<u32, &str> = set.iter().filter_map(|(path, name)| Some((name.shard?.0, *path))).collect();
    let missing: Vec<_> = (1..=total).filter(|number| !shards.contains_key(number)).take(10).collect();
    if missing.is_empty() && shards.len() == total as usize && total > 0 {
        return Ok(shards.into_values().collect());
    }
    Err(format!("of {total} shards these are missing: {missing:?}; there are {:?}", shards.values()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIMI: [&str; 6] = [
        "README.md",
        "UD-TQ1_0/Kimi-K2-Thinking-UD-TQ1_0-00002-of-00002.gguf",
        "UD-TQ1_0/Kimi-K2-Thinking-UD-TQ1_0-00001-of-00002.gguf",
        "UD-Q4_K_M/Kimi-K2-Thinking-UD-Q4_K_M-00001-of-00001.gguf",
        "Q8_0/Kimi-K2-Thinking-Q8_0-00001-of-00001.gguf",
        "imatrix_unsloth.gguf_file",
    ];

    fn refused(paths: &[&str], quant: &str) -> String {
        let fault = select(paths, quant).unwrap_err();
        assert_eq!(fault.exit_code(), 4);
        fault.to_string()
    }

    #[test]
    fn a_directory_is_taken_with_its_shards_in_order() {
        assert_eq!(select(&KIMI, "UD-TQ1_0").unwrap(), [KIMI[2], KIMI[1]]);
        assert_eq!(select(&KIMI, "ud-tq1_0").unwrap(), [KIMI[2], KIMI[1]]);
        assert_eq!(select(&KIMI, "Q8_0").unwrap(), [KIMI[4]]);
    }

    #[test]
    fn what_is_not_there_is_refused_and_what_is_there_told() {
        let told = refused(&KIMI, "Q4_K_M");
        assert!(told.contains("no quantisation Q4_K_M"), "{told}");
        assert!(told.ends_with("set QUANT_TYPE to one of: Q8_0, UD-Q4_K_M, UD-TQ1_0"), "{told}");
        for part in ["TQ1_0", "K_M", "0", "Thinking", "UD"] {
            refused(&KIMI, part);
        }
        assert!(refused(&["README.md", "model.safetensors"], "Q8_0").contains("no GGUF model"));
    }

    #[test]
    fn files_without_a_directory_are_taken_by_their_label() {
        let paths = [
            "gpt-oss-20b-mxfp4.gguf",
            "mmproj-gpt-oss-20b-mxfp4.gguf",
            "SmolLM2-135M-Instruct.Q4_1.gguf",
            "qwen2.5_q8_0.gguf",
            "Qwen3-30B-A3B-Instruct-2507-UD-Q4_K_XL.gguf",
            "Qwen3-30B-A3B-Instruct-2507-Q4_K_XL.gguf",
            "llama-IQ2_XXS.gguf",
            "llama-BF16.gguf",
            "llama-Q4_0_4_4.gguf",
            "gpt-oss-MXFP4_MOE.gguf",
            "odd-Q4_K_M-imat.gguf",
        ];
        for (quant, path) in [
            ("mxfp4", paths[0]),
            ("MXFP4", paths[0]),
            ("Q4_1", paths[2]),
            ("Q8_0", paths[3]),
            ("UD-Q4_K_XL", paths[4]),
            ("Q4_K_XL", paths[5]),
            ("IQ2_XXS", paths[6]),
            ("BF16", paths[7]),
            ("Q4_0_4_4", paths[8]),
            ("MXFP4_MOE", paths[9]),
            ("Q4_K_M-imat", paths[10]),
        ] {
            assert_eq!(select(&paths, quant).unwrap(), [path], "{quant}");
        }
        for quant in ["Q4_0", "Q4_K_M", "imatrix", "F16", "4_4"] {
            refused(&paths, quant);
        }
    }

    #[test]
    fn several_models_of_a_quantisation_are_told_apart_by_the_whole_name() {
        let paths = ["bge-small-Q8_0.gguf", "bge-large-Q8_0.gguf"];
        let told = refused(&paths, "Q8_0");
        assert!(told.contains("more than one model: bge-large-Q8_0.gguf, bge-small-Q8_0.gguf"), "{told}");
        assert_eq!(select(&paths, "bge-large-Q8_0").unwrap(), [paths[1]]);
        // Another number of shards is another model, too.
        let paths = ["Q8_0/a-Q8_0-00001-of-00001.gguf", "Q8_0/a-Q8_0-00001-of-00002.gguf"];
        assert!(refused(&paths, "Q8_0").contains("more than one model"));
    }

    #[test]
    fn a_missing_shard_is_named() {
        let paths = ["a-Q8_0-00001-of-00003.gguf", "a-Q8_0-00003-of-00003.gguf"];
        let told = refused(&paths, "Q8_0");
        assert!(told.contains("of 3 shards these are missing: [2]"), "{told}");
        assert!(refused(&["a-Q8_0-00002-of-00001.gguf"], "Q8_0").contains("missing: [1]"));
        refused(&["a-Q8_0-00001-of-00001.gguf", "a-Q8_0-00002-of-00001.gguf"], "Q8_0");
    }

    #[test]
    fn names_that_end_in_the_middle_of_a_letter_are_no_panic() {
        for path in ["ä.gguf", "ü-00001-of-0000ä.gguf", ".gguf", "gguf", "", "é-Q8_0.gguf"] {
            refused(&[path], "ßßßßß");
        }
        assert_eq!(select(&["é-Q8_0.gguf"], "Q8_0").unwrap(), ["é-Q8_0.gguf"]);
    }
}
