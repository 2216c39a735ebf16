//! Showing that the lab is at work, on the error stream: a spinner on a terminal, else a line for each task.

use std::cell::{Cell, RefCell};
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tinytorch_core::train::EpochRecord;

/// The progress of all experiments together.
pub struct Progress {
    bar: ProgressBar,
    lines: bool,
    total: usize,
    begun: Cell<usize>,
    task: RefCell<String>,
}

impl Progress {
    /// For so many experiments; nothing is shown if `silent`.
    pub fn new(experiments: usize, silent: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = if terminal && !silent {
            let style = ProgressStyle::with_template("{spinner} {elapsed} {prefix}: {msg}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
            ProgressBar::new_spinner().with_style(style.tick_chars("|/-\\ "))
        } else {
            ProgressBar::hidden()
        };
        bar.enable_steady_tick(Duration::from_millis(250));
        Self {
            bar,
            lines: !terminal && !silent,
            total: experiments,
            begun: Cell::new(0),
            task: RefCell::default(),
        }
    }

    /// The next experiment begins.
    pub fn begin(&self, experiment: &str) {
        self.begun.set(self.begun.get() + 1);
        let (begun, total) = (self.begun.get(), self.total);
        self.bar
            .set_prefix(format!("{begun} of {total}, {experiment}"));
        if self.lines {
            eprintln!("{begun} of {total}, {experiment}");
        }
    }

    /// Says what comes next.
    pub fn say(&self, task: &str) {
        *self.task.borrow_mut() = task.to_owned();
        self.bar.set_message(task.to_owned());
        if self.lines {
            eprintln!("  {task}");
        }
    }

    /// As [`Progress::say`], for what is over soon: no line of its own.
    pub fn note(&self, task: &str) {
        *self.task.borrow_mut() = task.to_owned();
        self.bar.set_message(task.to_owned());
    }

    /// One more epoch is done.
    pub fn epoch(&self, record: &EpochRecord) {
        let task = self.task.borrow();
        let (epoch, loss) = (record.epoch, record.train.loss);
        self.bar
            .set_message(format!("{task}, epoch {epoch}: loss {loss:.4}"));
    }

    /// Runs `print` while nothing else is on the terminal.
    pub fn pause(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }

    /// Removes the spinner.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
