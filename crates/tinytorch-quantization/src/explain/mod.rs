//! Where does a quantized model lose, and what is the cheapest way to win it back?
//!
//! In: a calibrated (and perhaps repaired) model and some data. Out: an [`Explanation`], a table that splits the error of the
//! outputs by source, layer and channel, and predicts what each repair would gain.
//!
//! One source is swapped at a time, in both directions, because errors do not simply add up:
//!
//! - *alone*: the model in `f32` with only this source on: the error it makes by itself;
//! - *gain*: the integer model with only this source off: what removing it would win. Less than 0: it makes good for another.
//!
//! Layers of every precision are taken apart. What a dynamic or a bf16 layer rounds of its input is activation rounding of that
//! layer; a weight-only layer rounds no activation.
//!
//! ```
//! use rand::SeedableRng;
//! use tinytorch_core::Tensor;
//! use tinytorch_core::nn::{Linear, Relu, Sequential};
//! use tinytorch_quantization::explain::{ExplainOptions, Source, explain};
//! use tinytorch_quantization::{CodeRange, PrepareOptions, Scheme, calibrate, prepare};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let rng = &mut rand_chacha::ChaCha8Rng::seed_from_u64(0);
//! let model = Sequential::new()
//!     .with_named("hidden", Linear::new(32, 64, rng))
//!     .with(Relu)
//!     .with_named("last", Linear::new(64, 10, rng));
//! let data = [Tensor::randn(&[128, 32], rng)];
//!
//! let weights = Scheme { codes: CodeRange::narrow(4), ..Scheme::WEIGHTS };
//! let mut prepared = prepare(&model, &PrepareOptions { weights, ..PrepareOptions::default() })?;
//! calibrate(&mut prepared, data.clone())?;
//!
//! let explanation = explain(&prepared, &data, &ExplainOptions::default())?;
//! println!("{explanation}");
//! // With 4 bits for weights and 8 for activations it is the weights.
//! assert_eq!(explanation.worst().map(|share| share.source), Some(Source::WeightRounding));
//! # Ok(())
//! # }
//! ```

mod advice;
mod refused;
mod report;
mod simulate;
mod weights;

pub use advice::{Prediction, Remedy};
pub use refused::Refused;
pub use report::{ChannelShare, Explanation, Share, SourceTotal};
pub use simulate::Source;

use crate::convert::convert;
use crate::error::{Error, Result};
use crate::framework::Tensor;
use crate::prepare::Prepared;
use simulate::Simulation;

/// What [`explain`] may be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainOptions {
    /// For so many of the worst pairs of a layer and a source, the channels are looked at one by one.
    pub channels_of: usize,
    /// Whether to predict what remedies would gain. Each is carried out in the simulation, learned rounding included, which takes
    /// about as long as [`repair`](crate::repair()).
    pub predict: bool,
}

impl Default for ExplainOptions {
    /// The channels of the worst pair, and predictions.
    fn default() -> Self {
        Self {
            channels_of: 1,
            predict: true,
        }
    }
}

/// Explains the error of the outputs, `Σ (f32 − integer)² / Σ f32²` over all batches, each `[batch, ..]` as the model
/// takes it.
///
/// A layer of which no quantized version can be made, because its bias overflows or nothing here computes it as asked, is reported as such
/// ([`Explanation::refused`]) and stays in `f32`, so that the others are explained all the same.
///
/// Costs two runs of the model in `f32` for each layer and source that makes an error, and one for each channel that is looked at.
///
/// # Errors
///
/// [`Error::EmptyCalibration`] if no batch has a value, [`Error::NothingObserved`] if the model was not calibrated,
/// [`Error::NotFinite`].
pub fn explain(
    prepared: &Prepared,
    batches: &[Tensor],
    options: &ExplainOptions,
) -> Result<Explanation> {
    let expected = batches.iter().map(|x| Ok(prepared.forward(x)?.to_vec()));
    let expected: Vec<Vec<f32>> = expected.collect::<Result<_>>()?;
    let error = |outputs: &[Tensor]| {
        let (mut noise, mut signal) = (0.0, 0.0);
        for (x, y) in expected.iter().zip(outputs) {
            let (n, s) = crate::repair::noise_and_signal(x, &y.to_vec());
            noise += n;
            signal += s;
        }
        if signal > 0.0 { noise / signal } else { noise }
    };
    explain_with(prepared, batches, options, &error)
}

/// As [`explain`], of any measure: a loss, for instance. It is given the outputs for all batches, each `[batch, ..]`, in order,
/// and the smaller it is the better. What is explained is how much larger it is for the integer model than for the one in `f32`.
///
/// # Errors
///
/// Those of [`explain`].
pub fn explain_with(
    prepared: &Prepared,
    batches: &[Tensor],
    options: &ExplainOptions,
    measure: &dyn Fn(&[Tensor]) -> f64,
) -> Result<Explanation> {
    if batches.iter().all(Tensor::is_empty) {
        return Err(Error::EmptyCalibration);
    }
    let (kept, refused) = refused::without_refused(prepared)?;
    let prepared = &kept;
    let simulation = Simulation::new(prepared)?;
    let run = |on: simulate::Switches<'_>| -> Result<f64> {
        let outputs = batches.iter().map(|x| simulation.run(x, on));
        Ok(measure(&outputs.collect::<Result<Vec<_>>>()?))
    };
    let real = run(&|_, _, _| false)?;
    let all = run(&|_, _, _| true)?;
    let model = convert(prepared)?;
    let measured = batches.iter().map(|x| model.forward(x));
    let measured = measure(&measured.collect::<Result<Vec<_>>>()?) - real;

    let mut sources = Vec::new();
    let mut layers = Vec::new();
    for source in Source::ALL {
        sources.push(SourceTotal {
            source,
            alone: run(&|_, s, _| s == source)? - real,
            gain: all - run(&|_, s, _| s != source)?,
        });
    }
    for (site, place) in simulation.sites.iter().enumerate() {
        for source in Source::ALL {
            let of_weights = !matches!(
                source,
                Source::ActivationRounding | Source::ActivationClipping
            );
            if of_weights && !place.has_weights {
                continue;
            }
            let alone = run(&|at, s, _| (at, s) == (site, source))? - real;
            let gain = all - run(&|at, s, _| (at, s) != (site, source))?;
            if alone != 0.0 || gain != 0.0 {
                layers.push(Share {
                    layer: place.name.clone(),
                    source,
                    alone,
                    gain,
                });
            }
        }
    }
    let mut worst: Vec<&Share> = layers.iter().collect();
    worst.sort_by(|a, b| b.gain.total_cmp(&a.gain));
    let mut channels = Vec::new();
    for share in worst.into_iter().take(options.channels_of) {
        let site = simulation.sites.iter().position(|s| s.name == share.layer);
        let site = site.unwrap_or_default();
        for channel in 0..simulation.sites[site].channels {
            let swapped = (site, share.source, channel);
            let gain = all - run(&|at, s, c| (at, s, c) != swapped)?;
            channels.push(ChannelShare {
                layer: share.layer.clone(),
                source: share.source,
                channel,
                gain,
            });
        }
    }
    channels.sort_by(|a, b| b.gain.total_cmp(&a.gain));
    let predictions = if options.predict {
        advice::predict(prepared, &simulation, batches, &layers, all, measure)?
    } else {
        Vec::new()
    };
    Ok(Explanation {
        measured,
        simulated: all - real,
        sources,
        layers,
        channels,
        predictions,
        refused,
    })
}
