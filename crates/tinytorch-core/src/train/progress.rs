//! Showing how a training goes, on the error stream.

use std::io::IsTerminal;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use super::metrics::{EpochRecord, Metrics};

/// How a training shows that it goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Progress {
    /// A bar per epoch and then its line, if the error stream is a terminal; else only the lines.
    #[default]
    Auto,
    /// A line per epoch.
    Lines,
    /// Nothing.
    Silent,
}

/// Shows one epoch.
pub(crate) struct EpochProgress {
    bar: ProgressBar,
    lines: bool,
    started: Instant,
    epochs: u64,
}

impl EpochProgress {
    pub(crate) fn start(progress: Progress, epoch: u64, epochs: u64, batches: usize) -> Self {
        let bar = if progress == Progress::Auto && std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(batches as u64);
            let template = format!(
                "epoch {:>3}/{epochs} {{bar:30}} {{pos}}/{{len}} {{msg}}",
                epoch + 1
            );
            match ProgressStyle::with_template(&template) {
                Ok(style) => bar.with_style(style.progress_chars("=> ")),
                Err(_) => bar,
            }
        } else {
            ProgressBar::hidden()
        };
        Self {
            bar,
            lines: progress != Progress::Silent,
            started: Instant::now(),
            epochs,
        }
    }

    pub(crate) fn batch_done(&self, metrics: Option<Metrics>) {
        if !self.bar.is_hidden() {
            if let Some(metrics) = metrics {
                self.bar.set_message(describe(&metrics));
            }
            self.bar.inc(1);
        }
    }

    pub(crate) fn finish(self, record: &EpochRecord) {
        self.bar.finish_and_clear();
        if self.lines {
            let seconds = self.started.elapsed().as_secs_f64();
            eprintln!("{}  {seconds:.1} s", line(record, self.epochs));
        }
    }
}

/// `epoch   3/10  train: loss 0.1234, accuracy 96.50 %  validation: ...`
fn line(record: &EpochRecord, epochs: u64) -> String {
    let mut line = format!(
        "epoch {:>3}/{epochs}  train: {}",
        record.epoch + 1,
        describe(&record.train)
    );
    if let Some(validation) = &record.validation {
        line += &format!("  validation: {}", describe(validation));
    }
    if record.skipped_steps > 0 {
        line += &format!("  {} steps skipped", record.skipped_steps);
    }
    line
}

fn describe(metrics: &Metrics) -> String {
    match metrics.accuracy {
        Some(accuracy) => {
            format!(
                "loss {:.4}, accuracy {:.2} %",
                metrics.loss,
                100.0 * accuracy
            )
        }
        None => format!("loss {:.4}", metrics.loss),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_one_line_that_counts_from_one() {
        let metrics = Metrics {
            loss: 0.5,
            accuracy: Some(0.75),
            examples: 4,
        };
        let mut record = EpochRecord {
            epoch: 2,
            learning_rate: 0.1,
            train: metrics,
            validation: None,
            skipped_steps: 0,
        };
        assert_eq!(
            line(&record, 10),
            "epoch   3/10  train: loss 0.5000, accuracy 75.00 %"
        );
        record.validation = Some(Metrics {
            accuracy: None,
            ..metrics
        });
        record.skipped_steps = 2;
        assert_eq!(
            line(&record, 10),
            "epoch   3/10  train: loss 0.5000, accuracy 75.00 %  validation: loss 0.5000  2 steps skipped"
        );
    }
}
