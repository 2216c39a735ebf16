//! Repair without training: win back what plain rounding loses, with some data and no labels.
//!
//! ```text
//! prepare(model) -> calibrate -> repair(&mut prepared, &batches, &options) -> convert
//! ```
//!
//! In: a calibrated model and the data it was calibrated with. Out: the same model, of which [`convert`](crate::convert())
//! now makes a better integer model, and a [`RepairReport`] that says what each step changed. The steps:
//!
//! | step | what it changes | helps against |
//! |---|---|---|
//! | [`Step::Equalization`] | the scale of channels between layers; the function stays | one scale for channels of very different ranges |
//! | [`Step::BiasCorrection`] | the bias of the quantized layers | errors that do not average out |
//! | [`Step::LearnedRounding`] | codes and scales of weights, then the bias | few bits |
//!
//! After each the whole integer model is measured on the data, against the model in `f32`. A step that did not lower the
//! error is taken back. Static, dynamic and weight-only layers are repaired alike; equalization scales static ones alone. What is left
//! as it is, bf16 and tables, is named in the report.
//!
//! ```
//! use rand::SeedableRng;
//! use tinytorch_core::Tensor;
//! use tinytorch_core::nn::{Linear, Relu, Sequential};
//! use tinytorch_quantization::{
//!     CodeRange, PrepareOptions, RepairOptions, Scheme, calibrate, convert, prepare, repair,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let rng = &mut rand_chacha::ChaCha8Rng::seed_from_u64(0);
//! let model = Sequential::new()
//!     .with(Linear::new(32, 64, rng))
//!     .with(Relu)
//!     .with(Linear::new(64, 10, rng));
//! let data = [Tensor::randn(&[256, 32], rng)];
//!
//! // Weights of 3 bits lose much.
//! let weights = Scheme { codes: CodeRange::narrow(3), ..Scheme::WEIGHTS };
//! let mut prepared = prepare(&model, &PrepareOptions { weights, ..PrepareOptions::default() })?;
//! calibrate(&mut prepared, data.clone())?;
//!
//! let report = repair(&mut prepared, &data, &RepairOptions::default())?;
//! println!("{report}");
//! assert!(report.after < report.before / 2.0);
//! let quantized = convert(&prepared)?;
//! # assert_eq!(quantized.forward(&data[0])?.shape(), [256, 10]);
//! # Ok(())
//! # }
//! ```

mod cholesky;
mod equalize;
pub(crate) mod layer;
mod model;
mod moments;
mod report;
mod rounding;
mod walk;

pub use layer::learn_codes;
pub use model::{Equalized, equalize};
pub(crate) use report::noise_and_signal;
pub use report::{LayerReport, RepairReport, Step, StepReport};
pub use rounding::RoundingOptions;

use crate::convert::{calibrate, convert};
use crate::error::{Error, Result};
use crate::folded::Folded;
use crate::framework::Tensor;
use crate::prepare::Prepared;
use crate::qtensor::QTensor;
use crate::stage::Stage;

/// Numbers between −1 and 1 for tests: the same for the same seed.
#[cfg(test)]
fn numbers(seed: u64, count: usize) -> Vec<f64> {
    // Knuth's MMIX generator; its upper bits are good enough.
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// What [`repair`] may do.
#[derive(Clone, Debug, PartialEq)]
pub struct RepairOptions {
    /// Cross-layer equalization: see [`equalize`].
    pub equalize: bool,
    /// Bias correction with means from the data.
    pub correct_bias: bool,
    /// Learned rounding of weights.
    pub learn_rounding: Option<RoundingOptions>,
}

impl Default for RepairOptions {
    /// Everything.
    fn default() -> Self {
        Self {
            equalize: true,
            correct_bias: true,
            learn_rounding: Some(RoundingOptions::default()),
        }
    }
}

/// Repairs a calibrated model. Each batch is `[batch, ..]`.
///
/// `batches` is calibration data: some hundred examples of what the model will see, as the model takes them. What they show
/// is learned, so examples to judge the model on must be others.
///
/// Of the stages, `f32` outputs stay the same up to rounding; what changes is how they will be written as integers. Codes and
/// biases of an earlier repair are forgotten. If channels were scaled, all observers begin anew with `batches`.
///
/// # Errors
///
/// - [`Error::EmptyCalibration`] if no batch has a value, [`Error::NothingObserved`] if the model was not calibrated.
/// - [`Error::NotFinite`] that names the place, if the data or a weight is not.
/// - [`Error::Framework`], [`Error::ShapeMismatch`] if a batch does not fit the model; those of
///   [`convert`](crate::convert()).
///
/// After an error the model still computes the same in `f32`, and can be repaired again.
pub fn repair(
    prepared: &mut Prepared,
    batches: &[Tensor],
    options: &RepairOptions,
) -> Result<RepairReport> {
    let batches: Vec<Tensor> = batches.iter().filter(|b| !b.is_empty()).cloned().collect();
    if batches.is_empty() {
        return Err(Error::EmptyCalibration);
    }
    forget(prepared);
    let mut judge = Judge::new(prepared, batches)?;
    let mut report = RepairReport::new(judge.error(prepared)?);
    report.left = left(prepared)?;
    if options.equalize {
        let before = State::of(prepared)?;
        let equalized = equalize(prepared)?;
        report.skipped = equalized.skipped;
        if !equalized.pairs.is_empty() {
            judge.calibrate(prepared)?;
            let kept = report.step(Step::Equalization, judge.error(prepared)?, Vec::new());
            if !kept {
                before.restore(prepared)?;
                judge.calibrate(prepared)?;
            }
        }
    }
    if options.correct_bias {
        let layers = walk::walk(prepared, &judge.batches, None, true)?;
        if !report.step(Step::BiasCorrection, judge.error(prepared)?, layers) {
            forget(prepared);
        }
    }
    if let Some(rounding) = options.learn_rounding {
        let before = State::of(prepared)?;
        forget(prepared);
        let layers = walk::walk(
            prepared,
            &judge.batches,
            Some(rounding),
            options.correct_bias,
        )?;
        if !report.step(Step::LearnedRounding, judge.error(prepared)?, layers) {
            before.restore(prepared)?;
        }
    }
    Ok(report)
}

/// The narrow layers for which there is nothing to learn, and why.
fn left(prepared: &Prepared) -> Result<Vec<(String, String)>> {
    let mut left = Vec::new();
    for stage in prepared.all_stages() {
        let reason = match (stage.is_narrow(), stage.fold()?, stage.with_codes()?) {
            (true, Some(_), None) => "bf16: its weights are no codes to choose",
            (true, None, _) => "a table: rows are looked up, and no sum could make good for them",
            _ => continue,
        };
        left.push((stage.name().to_owned(), reason.to_owned()));
    }
    Ok(left)
}

/// The data, and what the model makes of it in `f32`.
struct Judge {
    batches: Vec<Tensor>,
    expected: Vec<Vec<f32>>,
}

impl Judge {
    fn new(prepared: &Prepared, batches: Vec<Tensor>) -> Result<Self> {
        let expected = batches.iter().map(|x| Ok(prepared.forward(x)?.to_vec()));
        let expected = expected.collect::<Result<_>>()?;
        Ok(Self { batches, expected })
    }

    /// `Σ (expected − got)² / Σ expected²` over all outputs of the integer model.
    fn error(&mut self, prepared: &Prepared) -> Result<f64> {
        let quantized = convert(prepared)?;
        let (mut noise, mut signal) = (0.0, 0.0);
        for (x, expected) in self.batches.iter().zip(&self.expected) {
            let got = quantized.forward(x)?.to_vec();
            let (n, s) = report::noise_and_signal(expected, &got);
            noise += n;
            signal += s;
        }
        Ok(report::ratio(noise, signal))
    }

    fn calibrate(&self, prepared: &mut Prepared) -> Result<()> {
        prepared.forget_observations()?;
        calibrate(prepared, self.batches.iter().cloned())
    }
}

/// Takes codes and biases of an earlier repair back.
fn forget(prepared: &mut Prepared) {
    fn chain(stages: &mut [Stage]) {
        for stage in stages {
            stage.forget_repair();
            stage
                .branches_mut()
                .iter_mut()
                .for_each(|branch| chain(branch));
        }
    }
    chain(prepared.stages_mut());
}

/// What a repair changes, to be put back: stage by stage, in order of computation.
struct State(Vec<StageState>);

struct StageState {
    /// Where equalization may have changed it.
    folded: Option<Folded>,
    codes: Option<QTensor>,
    bias: Option<Vec<f32>>,
}

impl State {
    fn of(prepared: &Prepared) -> Result<Self> {
        let stages = prepared.all_stages().into_iter();
        let state = |stage: &Stage| {
            Ok(StageState {
                folded: stage.folded()?,
                codes: stage.weight_codes().cloned(),
                bias: stage.corrected_bias().map(<[f32]>::to_vec),
            })
        };
        stages.map(state).collect::<Result<_>>().map(Self)
    }

    fn restore(self, prepared: &mut Prepared) -> Result<()> {
        fn chain(stages: &mut [Stage], states: &mut std::vec::IntoIter<StageState>) -> Result<()> {
            for stage in stages {
                for branch in stage.branches_mut() {
                    chain(branch, states)?;
                }
                let Some(state) = states.next() else { break };
                if let Some(folded) = state.folded {
                    stage.set_folded(folded.weight, folded.bias)?;
                }
                stage.forget_repair();
                if let Some(codes) = state.codes {
                    stage.set_weight_codes(codes)?;
                }
                if let Some(bias) = state.bias {
                    stage.set_corrected_bias(Some(bias))?;
                }
            }
            Ok(())
        }
        chain(prepared.stages_mut(), &mut self.0.into_iter())
    }
}
