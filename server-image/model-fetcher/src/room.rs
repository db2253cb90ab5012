//! Whether a model fits, before its first byte is loaded. Two sets of 247 GB on a volume are never an accident.

use crate::fault::{Fault, gb};
use crate::parameters::Model;
use crate::plan::Plan;
use crate::prune;
use crate::volume::{Found, Space, Volume};

/// What the decision depends on.
#[derive(Debug)]
struct Room<'a> {
    /// Bytes to load.
    missing: u64,
    /// Bytes that stay free.
    keep: u64,
    /// Bytes that replacing this model's own files frees.
    frees: u64,
    space: Space,
    others: &'a [Found],
    prune: bool,
    /// Whether other models have been deleted already.
    pruned: bool,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Fits,
    FitsAfterPrune,
}

impl Room<'_> {
    fn decide(&self) -> Result<Decision, Fault> {
        let needed = self.missing + self.keep;
        let free = self.space.free + self.frees;
        if self.missing == 0 || needed <= free {
            return Ok(Decision::Fits);
        }
        let others: u64 = self.others.iter().map(|found| found.bytes).sum();
        let fits = needed <= free + others;
        if fits && self.prune {
            return Ok(Decision::FitsAfterPrune);
        }
        let names: Vec<_> = self
            .others
            .iter()
            .map(|found| format!("{} {} ({})", found.record.repo, found.record.quant, gb(found.bytes)))
            .collect();
        let prune = match (names.is_empty(), fits) {
            (true, _) => "there is no other model to delete".to_owned(),
            (false, true) => {
                format!("FETCH_PRUNE=1 or `model-fetcher prune` deletes {}, which is enough", names.join(", "))
            }
            (false, false) => format!("deleting {} would not be enough", names.join(", ")),
        };
        let changed = if self.pruned { "the other models were deleted" } else { "nothing was changed" };
        let short = needed - free;
        Err(Fault::Space(format!(
            "not enough space: {} are to be loaded and {} stay free (KEEP_FREE_GIB), {} of {} are free, {} are missing; \
             {changed}; hint: {prune}; or enlarge the volume to {}",
            gb(self.missing),
            gb(self.keep),
            gb(free),
            gb(self.space.total),
            gb(short),
            gb(self.space.total + short),
        )))
    }
}

/// The models that must go before the plan's files fit. None, if they fit as it is.
///
/// # Errors
/// When they do not fit, or only without models that may not be deleted.
pub fn in_the_way(volume: &Volume, model: &Model, plan: &Plan, keep: u64, prune: bool) -> Result<Vec<Found>, Fault> {
    let others = prune::others(volume, model)?;
    let (missing, frees, space) = (plan.missing(), plan.frees, volume.space()?);
    match (Room { missing, keep, frees, space, others: &others, prune, pruned: false }).decide()? {
        Decision::Fits => Ok(Vec::new()),
        Decision::FitsAfterPrune => Ok(others),
    }
}

/// Deletes the models that are in the way.
///
/// # Errors
/// When one cannot be deleted, or the plan's files do not fit all the same.
pub fn clear(volume: &Volume, models: &[Found], plan: &Plan, keep: u64) -> Result<(), Fault> {
    prune::delete(models)?;
    let (missing, frees, space) = (plan.missing(), plan.frees, volume.space()?);
    // A file that is still open keeps its space, and one that has another name too.
    Room { missing, keep, frees, space, others: &[], prune: true, pruned: true }.decide().map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;

    const GB: u64 = 1_000_000_000;

    fn other(bytes: u64) -> Found {
        let record = Record {
            repo: "unsloth/Kimi-K2-Thinking-GGUF".to_owned(),
            revision: "main".to_owned(),
            commit: None,
            quant: "UD-TQ1_0".to_owned(),
            files: Vec::new(),
        };
        Found { dir: "/models/x".into(), record, complete: true, bytes }
    }

    fn room(free: u64, others: &[Found], prune: bool) -> Room<'_> {
        let space = Space { free: free * GB, total: 400 * GB };
        Room { missing: 250 * GB, keep: 2 * GB, frees: 0, space, others, prune, pruned: false }
    }

    #[test]
    fn what_fits_to_the_byte_fits() {
        assert_eq!(room(252, &[], false).decide().unwrap(), Decision::Fits);
        let short = Room { space: Space { free: 252 * GB - 1, total: 400 * GB }, ..room(0, &[], true) };
        assert_eq!(short.decide().unwrap_err().exit_code(), 3);
        let replaced = Room { frees: 100 * GB, ..room(152, &[], false) };
        assert_eq!(replaced.decide().unwrap(), Decision::Fits);
    }

    #[test]
    fn nothing_to_load_needs_no_space() {
        assert_eq!(Room { missing: 0, ..room(0, &[], false) }.decide().unwrap(), Decision::Fits);
    }

    #[test]
    fn the_refusal_has_the_numbers_and_says_what_prune_would_free() {
        let others = [other(247 * GB)];
        let told = room(100, &others, false).decide().unwrap_err().to_string();
        assert_eq!(
            told,
            "not enough space: 250.00 GB are to be loaded and 2.00 GB stay free (KEEP_FREE_GIB), 100.00 GB of 400.00 GB \
             are free, 152.00 GB are missing; nothing was changed; hint: FETCH_PRUNE=1 or `model-fetcher prune` deletes \
             unsloth/Kimi-K2-Thinking-GGUF UD-TQ1_0 (247.00 GB), which is enough; or enlarge the volume to 552.00 GB"
        );
        assert_eq!(room(100, &others, true).decide().unwrap(), Decision::FitsAfterPrune);
        let told = room(0, &[], false).decide().unwrap_err().to_string();
        assert!(told.contains("there is no other model to delete"), "{told}");
    }

    #[test]
    fn nothing_is_deleted_that_would_not_be_enough() {
        let others = [other(100 * GB)];
        let told = room(100, &others, true).decide().unwrap_err().to_string();
        assert!(told.contains("would not be enough"), "{told}");
    }

    #[test]
    fn a_refusal_after_models_were_deleted_does_not_say_that_nothing_was() {
        let told = Room { pruned: true, ..room(100, &[], true) }.decide().unwrap_err().to_string();
        assert!(told.contains("the other models were deleted; hint: there is no other model to delete;"), "{told}");
    }
}
