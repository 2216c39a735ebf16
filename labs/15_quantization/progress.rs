//! Showing that the lab is at work, on the error stream: a bar on a terminal, else a line per network.

use std::cell::RefCell;
use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};
use tinytorch_core::train::EpochRecord;

/// The progress of all networks together.
pub struct Progress {
    bar: ProgressBar,
    lines: bool,
    task: RefCell<String>,
}

impl Progress {
    /// For so many epochs in all; nothing is shown if `silent`.
    pub fn new(epochs: u64, silent: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = if terminal && !silent {
            let style = ProgressStyle::with_template("{bar:30} {pos:>3}/{len} epochs  {msg}");
            ProgressBar::new(epochs).with_style(
                style
                    .unwrap_or_else(|_| ProgressStyle::default_bar())
                    .progress_chars("=> "),
            )
        } else {
            ProgressBar::hidden()
        };
        Self {
            bar,
            lines: !terminal && !silent,
            task: RefCell::default(),
        }
    }

    /// Says what comes next.
    pub fn say(&self, task: &str) {
        *self.task.borrow_mut() = task.to_owned();
        self.bar.set_message(task.to_owned());
        if self.lines {
            eprintln!("{task}");
        }
    }

    /// One more epoch is done.
    pub fn epoch(&self, record: &EpochRecord) {
        self.bar.inc(1);
        let task = self.task.borrow();
        self.bar
            .set_message(format!("{task}: loss {:.4}", record.train.loss));
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
