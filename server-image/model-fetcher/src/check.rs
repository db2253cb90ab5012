//! `check`: reads the configured model again and compares every hash.

use crate::fault::{Fault, gb};
use crate::parameters::Model;
use crate::progress::Progress;
use crate::record::{COMPLETE, Record, remove};
use crate::sink::hash_whole;
use crate::volume::{Volume, files};

/// Compares all files with `model.json`. With `discard`, those that are wrong are deleted.
///
/// # Errors
/// When one is missing or wrong.
pub async fn check(volume: &Volume, model: &Model, discard: bool) -> Result<(), Fault> {
    // A fetch that begins meanwhile would put other files under the same names.
    let _lock = if discard { Some(volume.lock_at_once()?) } else { None };
    let home = volume.home(model);
    let record = Record::read(&home, COMPLETE)?.filter(|record| record.is_of(model));
    let Some(record) = record else {
        return Err(Fault::Content {
            problem: format!("there is no whole model in {}", home.display()),
            hint: "`model-fetcher fetch` loads it".to_owned(),
        });
    };
    let present = files(&home)?;
    let progress = Progress::new("check", 0, record.bytes(), 0);
    let wrong = progress.report(async {
        let mut wrong = Vec::new();
        for file in &record.files {
            let right = present.get(&file.name) == Some(&file.bytes)
                && hash_whole(&home.join(&file.name), &progress).await? == file.sha256;
            tracing::info!("{}: {}", file.name, if right { "right" } else { "wrong" });
            if !right {
                wrong.push(file.name.as_str());
            }
        }
        Ok(wrong)
    });
    let wrong = wrong.await?;
    if wrong.is_empty() {
        tracing::info!("all {} files are right: {}", record.files.len(), gb(record.bytes()));
        return Ok(());
    }
    if discard {
        for name in &wrong {
            remove(&home.join(name))?;
        }
    }
    Err(Fault::Content {
        problem: format!("missing or not as recorded: {}", wrong.join(", ")),
        hint: if discard {
            "they are deleted: `model-fetcher fetch` loads them again".to_owned()
        } else {
            "`model-fetcher check --discard` deletes them, then `model-fetcher fetch` loads them again".to_owned()
        },
    })
}
