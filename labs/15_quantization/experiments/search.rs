//! Which layer in which precision: the frontier of accuracy, bytes and time that a search finds, and what it says when asked.

use std::fmt;

use serde::Serialize;
use tinytorch_core::data::Dataset;
use tinytorch_labs::table::Table;
use tinytorch_quantization::frontier::accuracy_errors;
use tinytorch_quantization::metrics::answers;
use tinytorch_quantization::{Examples, Precision, PrecisionPoint, PrecisionSearch, SearchOptions};

use crate::experiment::{Experiment, Finding, Result};
use crate::lab::{CALIBRATION, Lab, Writers};

/// See the file.
pub struct Search;

/// How many percentage points of accuracy the answers may cost, at most.
const ALLOWED: [f64; 2] = [0.0, 1.0];

/// One choice, with what was measured of it.
#[derive(Clone, Debug, Serialize)]
struct Point {
    /// A word for the precision of each layer.
    precisions: Vec<&'static str>,
    /// Percent of the images that the search judged by, with its standard error.
    accuracy: f64,
    accuracy_error: f64,
    /// Percentage points more than f32 on the same images, with the standard error of that difference.
    gain: f64,
    gain_error: f64,
    bytes: usize,
    /// Median of a batch, with its standard error.
    seconds: f64,
    seconds_error: f64,
}

/// One layer alone in another precision.
#[derive(Debug, Serialize)]
struct Sensitivity {
    layer: String,
    precision: &'static str,
    /// Mean divergence of the answers from those in f32, in nats.
    divergence: f64,
    bytes_saved: i64,
    seconds_saved: f64,
}

/// The fastest choice that is accurate enough, and what became of it on images that the search never saw.
#[derive(Debug, Serialize)]
struct Answer {
    /// In percent.
    asked: f64,
    reached: bool,
    point: Point,
    /// Percentage points more than f32 on the other images, with the standard error.
    checked_gain: f64,
    checked_error: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    layers: Vec<String>,
    images: usize,
    checked_on: usize,
    timed_batch: usize,
    tried: usize,
    /// All there are, and whether the search came to its end.
    possible: usize,
    finished: bool,
    refused: Vec<String>,
    sensitivities: Vec<Sensitivity>,
    frontier: Vec<Point>,
    answers: Vec<Answer>,
}

impl Experiment for Search {
    fn name(&self) -> &'static str {
        "search"
    }

    fn question(&self) -> &'static str {
        "Which layer in which precision: what can be had for the bytes and the time, and what is the fastest that is accurate enough?"
    }

    fn run(&self, lab: &Lab) -> Result<Box<dyn Finding>> {
        let effort = lab.settings.effort;
        let steps: usize = effort.pick(4, 20, usize::MAX);
        let network = lab.network(Writers::Other, 1)?;
        let calibration = lab.calibration(Writers::Other, CALIBRATION)?;
        // Every second image is kept from the search: of many choices the one that looks best was also lucky.
        let test = &lab.digits(Writers::Other).test;
        let half = |first: usize| -> Result<Examples> {
            let indices: Vec<usize> = (first..test.len()).step_by(2).collect();
            let batch = test.batch(&indices)?;
            Ok(Examples {
                labels: batch.targets.classes()?.to_vec(),
                classes: test.classes(),
                inputs: batch.inputs,
            })
        };
        let (seen, kept) = (half(0)?, half(1)?);
        let options = SearchOptions {
            turns: effort.pick(3, 9, 31),
            timed_batch: 64,
            ..SearchOptions::default()
        };
        let (choices, timed_batch) = (options.choices.len() + 1, options.timed_batch);
        let images = seen.labels.len();
        let mut search = PrecisionSearch::new(&network, calibration, seen, options)?;
        let mut finished = false;
        for step in 1..=steps {
            lab.progress.note(&format!("choice {step}"));
            if !search.step()? {
                finished = true;
                break;
            }
        }

        let right = |scores: &[f32]| -> Vec<bool> {
            let found = answers(scores, kept.classes).into_iter();
            found
                .zip(&kept.labels)
                .map(|(a, b)| a == Some(*b))
                .collect()
        };
        let share = |right: &[bool]| {
            right.iter().filter(|right| **right).count() as f64 / right.len().max(1) as f64
        };
        let in_f32 = &search.points()[0];
        let before = search.convert(&in_f32.precisions)?.forward(&kept.inputs)?;
        let before = right(&before.to_vec());
        let best = search.points().iter().map(|point| point.accuracy);
        let best = best.fold(0.0, f64::max);
        let wanted = ALLOWED.map(|points| in_f32.accuracy - points / 100.0);
        // Also more than anything reaches: an answer comes all the same.
        let beyond = (best + 0.01).min(1.0);
        let mut found = Vec::new();
        for asked in wanted.into_iter().chain([beyond]) {
            let answer = search.fastest_above(asked);
            let point = answer.point();
            let after = search.convert(&point.precisions)?.forward(&kept.inputs)?;
            let after = right(&after.to_vec());
            found.push(Answer {
                asked: 100.0 * asked,
                reached: answer.is_met(),
                point: Point::of(point),
                checked_gain: 100.0 * (share(&after) - share(&before)),
                checked_error: 100.0 * accuracy_errors(&after, &before).1,
            });
        }
        let layers = search.layers().to_vec();
        Ok(Box::new(Report {
            images,
            checked_on: kept.labels.len(),
            timed_batch,
            tried: search.points().len() + search.refused().len(),
            possible: choices.pow(layers.len() as u32),
            finished,
            refused: (search.refused().iter())
                .map(|refused| refused.error.to_string())
                .collect(),
            sensitivities: (search.sensitivities().iter())
                .map(|s| Sensitivity {
                    layer: s.layer.clone(),
                    precision: word(s.precision),
                    divergence: s.kl,
                    bytes_saved: s.bytes_saved,
                    seconds_saved: s.seconds_saved,
                })
                .collect(),
            frontier: search.frontier().into_iter().map(Point::of).collect(),
            answers: found,
            layers,
        }))
    }
}

/// A word for a precision.
fn word(precision: Precision) -> &'static str {
    match precision {
        Precision::Static { .. } => "int8",
        Precision::Dynamic => "dynamic int8",
        Precision::WeightOnly { bits: 4, .. } => "int4",
        Precision::WeightOnly { .. } => "weights only",
        Precision::Bf16 => "bf16",
        _ => "f32",
    }
}

impl Point {
    fn of(point: &PrecisionPoint) -> Self {
        Self {
            precisions: (point.precisions.iter())
                .map(|(_, precision)| word(*precision))
                .collect(),
            accuracy: 100.0 * point.accuracy,
            accuracy_error: 100.0 * point.accuracy_error,
            gain: 100.0 * point.gain,
            gain_error: 100.0 * point.gain_error,
            bytes: point.bytes,
            seconds: point.seconds,
            seconds_error: point.seconds_error,
        }
    }

    fn named(&self, layers: &[String]) -> String {
        let pairs = layers.iter().zip(&self.precisions);
        let pairs: Vec<String> = pairs
            .map(|(layer, word)| format!("{layer} {word}"))
            .collect();
        pairs.join(", ")
    }
}

impl Report {
    fn sensitivity_table(&self) -> Table {
        let mut table = Table::new([
            "one layer alone",
            "in",
            "divergence",
            "bytes saved",
            "µs saved",
        ]);
        for s in &self.sensitivities {
            table.row([
                s.layer.clone(),
                s.precision.to_owned(),
                format!("{:.1e}", s.divergence),
                s.bytes_saved.to_string(),
                format!("{:.0}", 1e6 * s.seconds_saved),
            ]);
        }
        table
    }

    fn frontier_table(&self) -> Table {
        let header = self.layers.iter().cloned();
        let rest = ["accuracy %", "against f32", "bytes", "µs"].map(str::to_owned);
        let mut table = Table::new(header.chain(rest));
        for point in &self.frontier {
            let words = point.precisions.iter().map(|word| (*word).to_owned());
            let rest = [
                format!("{:.2} ± {:.2}", point.accuracy, point.accuracy_error),
                format!("{:+.2} ± {:.2}", point.gain, point.gain_error),
                point.bytes.to_string(),
                format!(
                    "{:.0} ± {:.0}",
                    1e6 * point.seconds,
                    1e6 * point.seconds_error
                ),
            ];
            table.row(words.chain(rest));
        }
        table
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.finished {
            "to its end: nothing beside the frontier was left to try"
        } else {
            "and stopped there: what it holds then is its answer"
        };
        writeln!(
            f,
            "One network, tested on other writers. int4: weights in groups, computed in f32; int8: weights and activations. Convolutions\n\
             in int4 and bf16 save bytes, not time: their weights are made real, or their windows written out, for every call. The search\n\
             judged by {} images and tried {} of {} choices {end}.\n",
            self.images, self.tried, self.possible
        )?;
        writeln!(f, "{}", self.sensitivity_table())?;
        writeln!(
            f,
            "What no other choice beats in accuracy, bytes and time together, and f32. ± is the standard error; that of the difference\n\
             counts only the images that the two answer differently. Time: the median for a batch of {}.\n",
            self.timed_batch
        )?;
        writeln!(f, "{}", self.frontier_table())?;
        for answer in &self.answers {
            let point = &answer.point;
            let verb = if answer.reached {
                "the fastest is"
            } else {
                "none is; the most accurate is"
            };
            writeln!(
                f,
                "At least {:.2} %: {verb} {} ({:.2} %, {:.0} µs, {} bytes).\n\
                 \x20 On the {} images that were kept from the search it is {:+.2} ± {:.2} points against f32.",
                answer.asked,
                point.named(&self.layers),
                point.accuracy,
                1e6 * point.seconds,
                point.bytes,
                self.checked_on,
                answer.checked_gain,
                answer.checked_error
            )?;
        }
        for reason in &self.refused {
            writeln!(f, "not possible: {reason}")?;
        }
        Ok(())
    }
}
