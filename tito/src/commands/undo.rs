//! `tito undo`: takes back the last export, reset or undo. Also an undo can be undone: nothing is ever lost.

use anyhow::Result;
use serde_json::json;

use super::Context;
use crate::failure::{Failure, Outcome};
use crate::lock::Lock;
use crate::snapshot::{Transaction, now};
use crate::ui::{self, CODE, FAINT, STRONG, paint};

/// Puts the contents from before a change back.
///
/// # Errors
///
/// Usage, if there is nothing to take back or no such change; environment, if files cannot be written, and then they are as before.
pub fn run(context: &Context, change: Option<u64>, list: bool) -> Result<Outcome> {
    let history = context.store.history()?;
    if list {
        show(context, &history);
        return Ok(Outcome::Good);
    }
    let found = match change {
        Some(id) => history.iter().find(|past| past.id == id),
        None => history.last(),
    };
    let Some(past) = found else {
        return Err(match change {
            Some(id) => Failure::usage(format!("there is no change {id}"))
                .help(format!("see all: {}", ui::advice("undo --list"))),
            None => Failure::usage("there is nothing to take back"),
        }
        .into());
    };
    let lock = Lock::take(&context.workspace.state())?;
    let edited = edited_since(context, past)?;
    let label = format!("undo {} ({})", past.id, past.label);
    let done = context
        .store
        .apply(&lock, &label, &context.store.reverse(past)?)?;
    let paths: Vec<&str> = past.files.iter().map(|file| file.path.as_str()).collect();
    if context.json {
        ui::print_json(&json!({
            "undone": past.id,
            "label": past.label,
            "files": paths,
            "undo": done.as_ref().map(|done| done.id),
        }));
        return Ok(Outcome::Good);
    }
    if done.is_none() {
        ui::say(format!(
            "`{}` is already taken back: nothing to do.",
            past.label
        ));
        return Ok(Outcome::Good);
    }
    ui::say(format!("Took back `{}`:", paint(STRONG, &past.label)));
    for path in paths.iter().filter(|path| !path.starts_with(".tito/")) {
        ui::say(format!("  {}", paint(CODE, path)));
    }
    for path in edited {
        ui::say(format!(
            "{path} was edited since; that version is kept as well."
        ));
    }
    ui::say(format!(
        "{} {}",
        paint(FAINT, "Changed your mind?"),
        ui::advice("undo")
    ));
    Ok(Outcome::Good)
}

fn edited_since(context: &Context, past: &Transaction) -> Result<Vec<String>> {
    let mut edited = Vec::new();
    for file in &past.files {
        let now = context.store.hash_of(&file.path)?;
        if now != file.after && now != file.before {
            edited.push(file.path.clone());
        }
    }
    Ok(edited)
}

fn show(context: &Context, history: &[Transaction]) {
    if context.json {
        ui::print_json(&json!({ "changes": history }));
        return;
    }
    if history.is_empty() {
        ui::say("Nothing was changed so far.");
    }
    for past in history.iter().rev() {
        let files = past
            .files
            .iter()
            .filter(|file| !file.path.starts_with(".tito/"));
        ui::say(format!(
            "{:>4}  {:<44} {:>8}  {}",
            past.id,
            past.label,
            ui::count(files.count(), "file"),
            paint(FAINT, ago(now().saturating_sub(past.time)))
        ));
    }
}

/// How long ago, in the largest unit that fits.
fn ago(seconds: u64) -> String {
    let (number, unit) = match seconds {
        0..60 => return "just now".into(),
        60..3600 => (seconds / 60, "minute"),
        3600..86400 => (seconds / 3600, "hour"),
        _ => (seconds / 86400, "day"),
    };
    format!(
        "{} ago",
        ui::count(usize::try_from(number).unwrap_or(0), unit)
    )
}

#[cfg(test)]
mod tests {
    use super::ago;

    #[test]
    fn times_are_told_in_the_largest_unit_that_fits() {
        assert_eq!(ago(59), "just now");
        assert_eq!(ago(60), "1 minute ago");
        assert_eq!(ago(7200), "2 hours ago");
        assert_eq!(ago(86400 * 3), "3 days ago");
    }
}
