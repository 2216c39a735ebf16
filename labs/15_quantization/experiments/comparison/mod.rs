//! f32 beside INT8: accuracy, bytes, time, and the noise behind every layer.

mod measure;
mod report;

use crate::experiment::{Experiment, Finding, Result};
use crate::lab::{Lab, Writers};
use report::Report;

/// See the file.
pub struct Comparison;

impl Experiment for Comparison {
    fn name(&self) -> &'static str {
        "comparison"
    }

    fn question(&self) -> &'static str {
        "What does INT8 cost, and what does it bring?"
    }

    fn run(&self, lab: &Lab) -> Result<Box<dyn Finding>> {
        let mut groups = Vec::new();
        for writers in [Writers::Same, Writers::Other] {
            let mut trials = Vec::new();
            for seed in 1..=lab.settings.seeds {
                let network = lab.network(writers, seed)?;
                trials.push(measure::trial(lab, writers, network)?);
            }
            groups.push((writers.words(), trials));
        }
        lab.progress.say("measure latencies");
        let images = &lab.digits(Writers::Same).test;
        let latencies = measure::latencies(&groups[0].1[0], images, lab.settings.stopwatch())?;
        Ok(Box::new(Report::new(
            &groups,
            latencies,
            lab.settings.epochs,
        )))
    }
}
