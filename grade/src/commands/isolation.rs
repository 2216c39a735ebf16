//! `tito grade isolation`: what the walls are worth here.

use anyhow::Result;
use tito::failure::Outcome;
use tito::ui::{self, BAD, GOOD, paint};

use super::Context;
use crate::model::{Isolation, Layers};
use crate::sandbox::{Launcher, probe};

/// Locks a cell up and asks it.
///
/// # Errors
///
/// An environment error if no cell can be locked.
pub fn run(context: &Context<'_>) -> Result<Outcome> {
    let layers = probe(&Launcher::myself()?)?.layers;
    if context.json {
        ui::print_json(&serde_json::to_value(&layers)?);
    } else {
        print(&layers);
    }
    Ok(match layers.isolation {
        Isolation::Full => Outcome::Good,
        Isolation::Reduced => Outcome::WorkLeft,
    })
}

/// The layers as a table.
pub fn print(layers: &Layers) {
    let word = match layers.isolation {
        Isolation::Full => paint(GOOD, "full"),
        Isolation::Reduced => paint(BAD, "reduced"),
    };
    ui::say(format!("isolation {word}"));
    for (mark, layers) in [
        (paint(GOOD, "+"), &layers.active),
        (paint(BAD, "-"), &layers.missing),
    ] {
        for (layer, detail) in layers {
            ui::say(format!("  {mark} {:<18} {detail}", layer.name()));
        }
    }
}
