//! What a repair did, step by step and layer by layer.

use std::fmt;

use serde::Serialize;

/// One of the steps of [`repair`](super::repair).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Channels between layers were scaled.
    Equalization,
    /// Biases were changed so that outputs are right on average.
    BiasCorrection,
    /// Codes and scales were learned, and the biases that go with them.
    LearnedRounding,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Equalization => "equalization",
            Self::BiasCorrection => "bias correction",
            Self::LearnedRounding => "learned rounding",
        })
    }
}

/// What one step changed. Errors are those of the outputs of the whole integer model: `Σ (f32 − integer)² / Σ f32²`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepReport {
    /// Which step.
    pub step: Step,
    /// The error in front of it.
    pub before: f64,
    /// The error behind it.
    pub after: f64,
    /// Whether it lowered the error. If not, it was taken back.
    pub kept: bool,
    /// What it did to each layer; empty for equalization, which changes no layer alone.
    pub layers: Vec<LayerReport>,
}

/// What one step did to a layer. Errors are those of the outputs of this layer, with the integer layers before it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerReport {
    /// The layer.
    pub name: String,
    /// Its error in front of the step.
    pub before: f64,
    /// Its error behind it.
    pub after: f64,
    /// Whether that is lower. If not, the layer was left as it was.
    pub kept: bool,
}

/// What [`repair`](super::repair) did. Printed, it is a table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RepairReport {
    /// The error of the model that plain rounding gives.
    pub before: f64,
    /// The error of the repaired model. Never larger.
    pub after: f64,
    /// The steps, in order.
    pub steps: Vec<StepReport>,
    /// Layers whose channels could not be scaled, and why.
    pub skipped: Vec<(String, String)>,
    /// Narrow layers for which nothing can be learned, and why.
    pub left: Vec<(String, String)>,
}

impl RepairReport {
    pub(super) fn new(error: f64) -> Self {
        Self {
            before: error,
            after: error,
            steps: Vec::new(),
            skipped: Vec::new(),
            left: Vec::new(),
        }
    }

    /// Writes a step down; true if it is to be kept.
    pub(super) fn step(&mut self, step: Step, after: f64, layers: Vec<LayerReport>) -> bool {
        let before = self.after;
        let kept = after < before;
        self.steps.push(StepReport {
            step,
            before,
            after,
            kept,
            layers,
        });
        if kept {
            self.after = after;
        }
        kept
    }
}

impl fmt::Display for RepairReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<34} {:>9} {:>9}",
            "error of the outputs, in % of f32", "before", "after"
        )?;
        let line = |f: &mut fmt::Formatter<'_>, name: &str, before, after, kept| {
            let note = if kept { "" } else { "   no gain: taken back" };
            let (before, after) = (Percent(before), Percent(after));
            writeln!(f, "{name:<34} {before:>9} {after:>9}{note}")
        };
        for step in &self.steps {
            line(
                f,
                &step.step.to_string(),
                step.before,
                step.after,
                step.kept,
            )?;
            for layer in &step.layers {
                line(
                    f,
                    &format!("  {}", layer.name),
                    layer.before,
                    layer.after,
                    layer.kept,
                )?;
            }
        }
        line(f, "all together", self.before, self.after, true)?;
        for (layer, reason) in &self.skipped {
            writeln!(f, "not equalized: {layer}: {reason}")?;
        }
        for (layer, reason) in &self.left {
            writeln!(f, "not learned: {layer}: {reason}")?;
        }
        Ok(())
    }
}

/// A share of noise energy, shown as a share of amplitude, in percent: 0.0004 is 2 %.
struct Percent(f64);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:.3} %", 100.0 * self.0.sqrt()))
    }
}

/// `Σ (expected − got)²` and `Σ expected²`.
pub(crate) fn noise_and_signal(expected: &[f32], got: &[f32]) -> (f64, f64) {
    let squares = expected.iter().zip(got).map(|(&x, &y)| {
        let (x, y) = (f64::from(x), f64::from(y));
        ((x - y) * (x - y), x * x)
    });
    squares.fold((0.0, 0.0), |sum, part| (sum.0 + part.0, sum.1 + part.1))
}

/// The noise in units of the signal; in its own if there was none.
pub(crate) fn ratio(noise: f64, signal: f64) -> f64 {
    if signal > 0.0 { noise / signal } else { noise }
}
