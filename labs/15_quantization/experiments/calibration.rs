//! Calibration: which method, with and without outliers, and how many samples.

use std::fmt;

use serde::Serialize;
use tinytorch_core::Tensor;
use tinytorch_labs::summary::Summary;
use tinytorch_labs::table::Table;
use tinytorch_quantization::metrics::sqnr_db;
use tinytorch_quantization::{Calibration, PrepareOptions, calibrate, convert, prepare};

use crate::experiment::{Experiment, Finding, Result};
use crate::lab::{CALIBRATION, Lab, Writers};

/// See the file.
pub struct Calibrations;

const METHODS: [(&str, Calibration); 6] = [
    ("min-max", Calibration::MinMax),
    ("moving average 0.1", Calibration::MovingAverage(0.1)),
    ("percentile 99.99", Calibration::Percentile(99.99)),
    ("percentile 99.9", Calibration::Percentile(99.9)),
    ("entropy", Calibration::Entropy),
    ("mean squared error", Calibration::MeanSquaredError),
];

/// One image of so many is broken, when there are outliers.
const ONE_IN: usize = 64;

/// What a broken image is multiplied by: a sensor that was blinded.
const GLITCH: f32 = 30.0;

#[derive(Debug, Serialize)]
struct Row {
    method: &'static str,
    samples: usize,
    outliers: bool,
    /// Percent, over the networks.
    accuracy: Summary,
    /// Of the scores against f32, in decibels, over the networks.
    sqnr_db: Summary,
}

#[derive(Debug, Serialize)]
struct Report {
    /// Percent, over the networks.
    f32: Summary,
    methods: Vec<Row>,
    samples: Vec<Row>,
}

impl Experiment for Calibrations {
    fn name(&self) -> &'static str {
        "calibration"
    }

    fn question(&self) -> &'static str {
        "Which range: does the method matter, with and without outliers, and how many samples are enough?"
    }

    fn run(&self, lab: &Lab) -> Result<Box<dyn Finding>> {
        let counts: &[usize] = lab.settings.effort.pick(
            &[8],
            &[1, 8, 64, 512],
            &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024],
        );
        let test = lab.test(Writers::Same)?;
        let mut networks = Vec::new();
        let mut real = Vec::new();
        for seed in 1..=lab.settings.seeds {
            let network = lab.network(Writers::Same, seed)?;
            let scores = test.scores(&*network)?;
            real.push(test.accuracy(&scores));
            networks.push((network, scores));
        }
        let row =
            |method: &(&'static str, Calibration), samples: usize, outliers: bool| -> Result<Row> {
                let words = if outliers { "with outliers" } else { "clean" };
                lab.progress
                    .say(&format!("{}, {samples} samples, {words}", method.0));
                let mut batches = lab.calibration(Writers::Same, samples)?;
                if outliers {
                    batches = batches.iter().map(broken).collect();
                }
                let (mut accuracies, mut sqnrs) = (Vec::new(), Vec::new());
                for (network, scores) in &networks {
                    let options = PrepareOptions {
                        calibration: method.1,
                        ..PrepareOptions::default()
                    };
                    let mut prepared = prepare(network, &options)?;
                    calibrate(&mut prepared, batches.clone())?;
                    let got = convert(&prepared)?.forward(&test.inputs)?;
                    accuracies.push(test.accuracy(&got));
                    sqnrs.push(sqnr_db(&scores.to_vec(), &got.to_vec()));
                }
                Ok(Row {
                    method: method.0,
                    samples,
                    outliers,
                    accuracy: Summary::of(&accuracies),
                    sqnr_db: Summary::of(&sqnrs),
                })
            };
        let mut report = Report {
            f32: Summary::of(&real),
            methods: Vec::new(),
            samples: Vec::new(),
        };
        for method in &METHODS {
            for outliers in [false, true] {
                report.methods.push(row(method, CALIBRATION, outliers)?);
            }
        }
        for &count in counts {
            for method in [METHODS[0], METHODS[3]] {
                report.samples.push(row(&method, count, false)?);
            }
        }
        Ok(Box::new(report))
    }
}

/// The batch with its first image, and every [`ONE_IN`]th after it, too bright by [`GLITCH`].
fn broken(batch: &Tensor) -> Tensor {
    let mut values = batch.array().into_owned();
    for mut image in values.outer_iter_mut().step_by(ONE_IN) {
        image.mapv_inplace(|x| x * GLITCH);
    }
    Tensor::from_array(values)
}

/// What counts as no worse, in percentage points.
const ALIKE: f64 = 0.3;

/// What counts as no noisier, in decibels: at most twice the power.
const AS_QUIET: f64 = 3.0;

impl Report {
    /// What the tables say, in words.
    fn verdict(&self) -> String {
        let of = |outliers: bool| {
            self.methods
                .iter()
                .filter(move |row| row.outliers == outliers)
        };
        // Of equal accuracies the one with less noise is better.
        let by_accuracy = |a: &&Row, b: &&Row| {
            let accuracy = a.accuracy.mean.total_cmp(&b.accuracy.mean);
            accuracy.then(a.sqnr_db.mean.total_cmp(&b.sqnr_db.mean))
        };
        let mut words = String::new();
        for (outliers, what) in [(false, "Without outliers"), (true, "With outliers")] {
            let (worst, best) = (
                of(outliers).min_by(by_accuracy),
                of(outliers).max_by(by_accuracy),
            );
            if let (Some(worst), Some(best)) = (worst, best) {
                let change = |row: &Row| row.accuracy.mean - self.f32.mean;
                words += &format!(
                    "{what} the best method is {} ({:+.2} points against f32), the worst {} ({:+.2}).\n",
                    best.method,
                    change(best),
                    worst.method,
                    change(worst)
                );
            }
        }
        for method in ["min-max", "percentile 99.9"] {
            let rows = || self.samples.iter().filter(|row| row.method == method);
            let Some(most) = rows().next_back() else {
                continue;
            };
            let alike = |row: &&Row| (row.accuracy.mean - most.accuracy.mean).abs() <= ALIKE;
            let quiet = |row: &&Row| most.sqnr_db.mean - row.sqnr_db.mean <= AS_QUIET;
            let (by_accuracy, by_noise) = (
                rows().rev().take_while(alike).last(),
                rows().rev().take_while(quiet).last(),
            );
            if let (Some(accurate), Some(quiet)) = (by_accuracy, by_noise) {
                words += &format!(
                    "{method}: from {} sample(s) on the accuracy stays within {ALIKE} points of that with {}; from {} on the noise within\n\
                     {AS_QUIET} dB, at most twice its power.\n",
                    accurate.samples, most.samples, quiet.samples
                );
            }
        }
        words += "Digits forgive noise that a harder task would not: where the two numbers differ, go by the noise.\n";
        words
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let accuracy = |row: &Row| format!("{:.2}", row.accuracy);
        let noise = |row: &Row| format!("{:.1}", row.sqnr_db);
        writeln!(
            f,
            "INT8, calibrated on {CALIBRATION} training images; with outliers, one image in {ONE_IN} is {GLITCH} times too bright. Accuracy in %\n\
             and signal-to-noise ratio of the scores in dB, over {} networks; in f32 {:.2} ± {:.2} %.\n",
            self.f32.count, self.f32.mean, self.f32.deviation
        )?;
        let mut table = Table::new(["method", "accuracy", "SQNR dB", "with outliers", "SQNR dB"]);
        for pair in self.methods.chunks(2) {
            if let [clean, outliers] = pair {
                table.row([
                    clean.method.to_owned(),
                    accuracy(clean),
                    noise(clean),
                    accuracy(outliers),
                    noise(outliers),
                ]);
            }
        }
        writeln!(f, "{table}")?;
        let mut table = Table::new([
            "samples, clean",
            "min-max",
            "SQNR dB",
            "percentile 99.9",
            "SQNR dB",
        ]);
        for pair in self.samples.chunks(2) {
            if let [all, most] = pair {
                table.row([
                    all.samples.to_string(),
                    accuracy(all),
                    noise(all),
                    accuracy(most),
                    noise(most),
                ]);
            }
        }
        writeln!(f, "{table}")?;
        f.write_str(&self.verdict())
    }
}
