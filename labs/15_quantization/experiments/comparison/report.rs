//! f32 beside INT8, as text and as JSON.

use std::fmt;

use serde::Serialize;
use tinytorch_labs::summary::Summary;
use tinytorch_labs::table::Table;

use super::measure::{Latency, LayerNoise, Sizes, Trial};

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Images that calibration saw.
    pub calibration_images: usize,
    /// Epochs per network.
    pub epochs: u64,
    /// Accuracy on images of the writers that were learned from, then of other writers.
    pub accuracy: Vec<Accuracy>,
    /// Bytes of the first network.
    pub sizes: Sizes,
    /// Times of the first network.
    pub latencies: Vec<Latency>,
    /// Noise behind each layer of the first network.
    pub layers: Vec<LayerNoise>,
    /// Layers of the first network that were left in f32, with the reason.
    pub left_in_float: Vec<String>,
}

/// Accuracy over several networks that were tested on the same images.
#[derive(Debug, Serialize)]
pub struct Accuracy {
    /// Whose images they were.
    pub tested_on: String,
    /// How many.
    pub test_images: usize,
    /// Percent, over the networks.
    pub f32: Summary,
    /// Percent, over the networks.
    pub int8: Summary,
    /// `int8 − f32` in percentage points, network by network.
    pub change: Summary,
    /// Percent of the images on which both give the same answer.
    pub agreement: Summary,
}

impl Accuracy {
    fn of(tested_on: &str, trials: &[Trial]) -> Self {
        let over = |what: fn(&Trial) -> f64| {
            let values: Vec<f64> = trials.iter().map(what).collect();
            Summary::of(&values)
        };
        Self {
            tested_on: tested_on.to_owned(),
            test_images: trials[0].test_images,
            f32: over(|t| t.f32_accuracy),
            int8: over(|t| t.int8_accuracy),
            change: over(|t| t.int8_accuracy - t.f32_accuracy),
            agreement: over(|t| t.agreement),
        }
    }
}

/// How many times as fast as f32 an integer network should be.
const PROMISED: f64 = 2.0;

impl Report {
    /// Puts together what was measured. Each group of trials holds at least one network.
    pub fn new(groups: &[(&str, Vec<Trial>)], latencies: Vec<Latency>, epochs: u64) -> Self {
        let first = &groups[0].1[0];
        let accuracy = groups
            .iter()
            .map(|(name, trials)| Accuracy::of(name, trials));
        Self {
            calibration_images: first.calibration_images,
            epochs,
            accuracy: accuracy.collect(),
            sizes: first.sizes,
            latencies,
            layers: first.layers.clone(),
            left_in_float: first.left_in_float.clone(),
        }
    }

    fn main_table(&self) -> Table {
        let mut table = Table::new(["", "f32", "INT8", "ratio or change"]);
        let spread = |s: &Summary| format!("{:.2} ± {:.2}", s.mean, s.deviation);
        let range = |s: &Summary| format!("{:.2} to {:.2}", s.min, s.max);
        for accuracy in &self.accuracy {
            table.row([
                format!("accuracy %, {}", accuracy.tested_on),
                spread(&accuracy.f32),
                spread(&accuracy.int8),
                format!("{:+.2} points", accuracy.change.mean),
            ]);
            table.row([
                "  worst to best".to_owned(),
                range(&accuracy.f32),
                range(&accuracy.int8),
                format!("{:+.2} to {:+.2}", accuracy.change.min, accuracy.change.max),
            ]);
        }
        let sizes = &self.sizes;
        let rows = [
            (
                "weights alone, bytes",
                sizes.f32_weights,
                sizes.int8_weights,
            ),
            (
                "model in memory, bytes",
                sizes.f32_memory,
                sizes.int8_memory,
            ),
            ("model on disk, bytes", sizes.f32_disk, sizes.int8_disk),
        ];
        for (what, before, after) in rows {
            table.row([
                what.to_owned(),
                before.to_string(),
                after.to_string(),
                format!("{:.2}x smaller", before as f64 / after as f64),
            ]);
        }
        for latency in &self.latencies {
            let ratio = latency.f32_seconds / latency.int8_seconds;
            let (ratio, word) = if ratio >= 1.0 {
                (ratio, "faster")
            } else {
                (1.0 / ratio, "slower")
            };
            table.row([
                format!("batch of {}, microseconds", latency.batch),
                format!("{:.1}", latency.f32_seconds * 1e6),
                format!("{:.1}", latency.int8_seconds * 1e6),
                format!("{ratio:.2}x {word}"),
            ]);
        }
        table
    }

    fn layer_table(&self) -> Table {
        let mut table = Table::new(["layer", "made of", "computes in", "SQNR dB"]);
        for layer in &self.layers {
            table.row([
                layer.name.clone(),
                layer.kinds.clone(),
                layer.arithmetic.to_owned(),
                layer
                    .sqnr_db
                    .map_or("exact".to_owned(), |db| format!("{db:.1}")),
            ]);
        }
        table
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.accuracy.first() else {
            return writeln!(f, "nothing was measured");
        };
        writeln!(
            f,
            "f32 beside INT8. {} networks for each kind of test, {} epochs each, calibrated on {} training images,\n\
             tested on {} images they did not learn from. Mean ± standard deviation over the networks.\n",
            first.f32.count, self.epochs, self.calibration_images, first.test_images
        )?;
        writeln!(f, "{}", self.main_table())?;
        writeln!(
            f,
            "Behind each layer, how much stronger is the signal than the noise of quantization?\n"
        )?;
        writeln!(f, "{}", self.layer_table())?;
        for layer in &self.left_in_float {
            writeln!(f, "left in f32: {layer}")?;
        }
        for accuracy in &self.accuracy {
            writeln!(
                f,
                "Both give the same answer on {:.2} % of the images of the {}; one image is {:.2} points.",
                accuracy.agreement.mean,
                accuracy.tested_on,
                100.0 / accuracy.test_images as f64
            )?;
        }
        for latency in &self.latencies {
            let ratio = latency.f32_seconds / latency.int8_seconds;
            let twice = if ratio >= PROMISED {
                "holds here"
            } else {
                "does not hold here"
            };
            writeln!(
                f,
                "Batch of {}: INT8 is {ratio:.2} times as fast as f32; that it is at least {PROMISED} times {twice}.",
                latency.batch
            )?;
        }
        writeln!(
            f,
            "Bytes, times and layers are those of the first network; the noise is that of the definitions, which give the same\n\
             codes as the library's kernels."
        )
    }
}
