//! What was found, as a table.

use std::fmt;

use serde::Serialize;

use super::advice::{Prediction, Remedy};
use super::refused::Refused;
use super::simulate::Source;

/// One source, in all layers together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourceTotal {
    /// The source.
    pub source: Source,
    /// The error with nothing else on.
    pub alone: f64,
    /// By how much the error falls without it.
    pub gain: f64,
}

/// One source in one layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Share {
    /// The layer, or `input`.
    pub layer: String,
    /// The source.
    pub source: Source,
    /// The error with nothing else on.
    pub alone: f64,
    /// By how much the error falls without it.
    pub gain: f64,
}

/// One source in one output channel of a layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChannelShare {
    /// The layer.
    pub layer: String,
    /// The source.
    pub source: Source,
    /// The output channel.
    pub channel: usize,
    /// By how much the error falls without it.
    pub gain: f64,
}

/// Where a quantized model loses, and what would help. Printed, it is a table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The error of the integer model.
    pub measured: f64,
    /// The error of the simulation in which sources are swapped. It differs from `measured` by what is rounded otherwise in `f32`:
    /// see [`Explanation::is_faithful`].
    pub simulated: f64,
    /// By source.
    pub sources: Vec<SourceTotal>,
    /// By layer and source, in order of computation; what makes no error is left out.
    pub layers: Vec<Share>,
    /// By channel, the worst first, for the worst pairs of layer and source.
    pub channels: Vec<ChannelShare>,
    /// What remedies would gain, the cheapest first.
    pub predictions: Vec<Prediction>,
    /// Layers that cannot be quantized as asked, in order of discovery. Everything else here is about the model with these in `f32`:
    /// converting it as it is gives an error.
    pub refused: Vec<Refused>,
}

impl Explanation {
    /// The layer and source whose removal gains most.
    #[must_use]
    pub fn worst(&self) -> Option<&Share> {
        self.layers.iter().max_by(|a, b| a.gain.total_cmp(&b.gain))
    }

    /// Whether the simulation makes the error of the integer model, to within half of the larger of the two. If not, shares and
    /// predictions are of something else: a measure that a single tie decides, for instance.
    #[must_use]
    pub fn is_faithful(&self) -> bool {
        let largest = self.measured.abs().max(self.simulated.abs());
        (self.measured - self.simulated).abs() <= 0.5 * largest
    }

    /// The cheapest remedy that gains at least half of what the best one would; `None` if none gains anything, or if the
    /// simulation is not faithful.
    #[must_use]
    pub fn advice(&self) -> Option<&Prediction> {
        if !self.is_faithful() {
            return None;
        }
        let best = self.predictions.iter().map(|p| p.gain).fold(0.0, f64::max);
        let mut worthy = self.predictions.iter();
        worthy.find(|p| p.gain > 0.0 && p.gain >= 0.5 * best)
    }

    /// The prediction for a remedy.
    #[must_use]
    pub fn prediction(&self, remedy: &Remedy) -> Option<&Prediction> {
        self.predictions.iter().find(|p| p.remedy == *remedy)
    }
}

/// Rows of the table by layer, at most.
const ROWS: usize = 12;

/// Channels that are shown, at most.
const CHANNELS: usize = 5;

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |error: f64| {
            let of = if self.simulated == 0.0 {
                1.0
            } else {
                self.simulated
            };
            format!("{:.1} %", 100.0 * error / of)
        };
        for Refused { layer, why } in &self.refused {
            writeln!(
                f,
                "`{layer}` cannot be quantized as asked and stays in f32 below: {why}"
            )?;
        }
        writeln!(
            f,
            "The integer model differs from f32 by {:.3e}. In percent of that: what each source makes alone, and what is won without it.\n",
            self.measured
        )?;
        writeln!(f, "{:<42} {:>10} {:>10}", "source", "alone", "gain")?;
        for total in &self.sources {
            let (alone, gain) = (share(total.alone), share(total.gain));
            writeln!(f, "{:<42} {alone:>10} {gain:>10}", total.source)?;
        }
        let mut layers: Vec<&Share> = self.layers.iter().collect();
        layers.sort_by(|a, b| b.gain.total_cmp(&a.gain));
        writeln!(
            f,
            "\n{:<20} {:<21} {:>10} {:>10}",
            "layer", "source", "alone", "gain"
        )?;
        for row in layers.iter().take(ROWS) {
            let (alone, gain) = (share(row.alone), share(row.gain));
            writeln!(
                f,
                "{:<20} {:<21} {alone:>10} {gain:>10}",
                row.layer, row.source
            )?;
        }
        if layers.len() > ROWS {
            writeln!(f, "and {} smaller ones", layers.len() - ROWS)?;
        }
        for channel in self.channels.iter().take(CHANNELS) {
            let (name, gain) = (
                format!("{} [{}]", channel.layer, channel.channel),
                share(channel.gain),
            );
            writeln!(f, "{name:<20} {:<21} {:>10} {gain:>10}", channel.source, "")?;
        }
        if !self.predictions.is_empty() {
            writeln!(
                f,
                "\n{:<42} {:>10} {:>10}",
                "remedy, the cheapest first", "", "gain"
            )?;
        }
        for prediction in &self.predictions {
            let gain = share(prediction.gain);
            writeln!(f, "{:<42} {:>10} {gain:>10}", prediction.remedy, "")?;
        }
        match self.advice() {
            Some(best) => writeln!(
                f,
                "\nAdvice: {}. It should win {}.",
                best.remedy,
                share(best.gain)
            ),
            None if !self.is_faithful() => writeln!(
                f,
                "\nNo advice: the simulation makes an error of {:.3e}, so nothing above is about this model.",
                self.simulated
            ),
            None if self.predictions.is_empty() => Ok(()),
            None => writeln!(f, "\nAdvice: leave it as it is."),
        }
    }
}
