//! Training in half precision, with the weights kept in `f32`.
//!
//! | format | bits of fraction | largest | smallest above 0 | what can go wrong |
//! |---|---|---|---|---|
//! | f16 | 10 | 65504 | 2⁻²⁴, 6e-8 | gradients vanish or overflow: scale the loss |
//! | bf16 | 7 | 3e38 | 2⁻¹³³ | activations and weights are coarse |
//!
//! In both, an update much smaller than its weight is lost, so the weights that are trained, the master weights, stay in
//! `f32`. [`HalfModel`] computes with copies of them in 16 bits; [`LossScaling`] keeps small gradients alive in f16; a
//! step whose gradients overflowed is skipped.
//!
//! ```
//! use rand::SeedableRng;
//! use tinytorch_core::data::{DataLoader, Targets, TensorDataset};
//! use tinytorch_core::nn::{Layer, Linear, Relu, Sequential};
//! use tinytorch_core::optim::{Adam, AdamConfig};
//! use tinytorch_core::train::{CrossEntropy, Progress, Trainer};
//! use tinytorch_core::Tensor;
//! use tinytorch_quantization::{Half, HalfModel, LossScaling};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let rng = &mut rand_chacha::ChaCha8Rng::seed_from_u64(0);
//! let model = Sequential::new()
//!     .with(Linear::new(8, 16, rng))
//!     .with(Relu)
//!     .with(Linear::new(16, 2, rng));
//! let x = Tensor::randn(&[64, 8], rng);
//! let classes = (0..64).map(|i| usize::from(x.array()[[i, 0]] > 0.0)).collect();
//! let data = DataLoader::new(TensorDataset::new(&x, Targets::Classes(classes))?, 16)?;
//!
//! // bf16 has the range of f32 and needs no scaling; f16 does.
//! for half in [Half::Bf16, Half::F16] {
//!     let half_model = HalfModel::new(&model, half);
//!     let adam = Adam::new(half_model.named_parameters(), AdamConfig::default());
//!     let mut trainer = Trainer::new(&half_model, adam, CrossEntropy).progress(Progress::Silent);
//!     if half == Half::F16 {
//!         trainer = trainer.hook(LossScaling::default());
//!     }
//!     trainer.fit(&data, None, 2)?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Source: Micikevicius et al. 2018, "Mixed Precision Training", section 3.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use half::{bf16, f16};

use crate::error::{Error, Result};
use crate::framework::nn::Layer;
use crate::framework::train::{Proceed, StepHook, TrainError};
use crate::framework::{self, Tensor};
use crate::loss_scaling::LossScaler;

pub use crate::half_model::HalfModel;

/// A format of 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// IEEE half precision: 10 bits of fraction, largest value 65504, smallest above zero about 6e-8.
    F16,
    /// The upper half of an `f32`: its range, with 7 bits of fraction.
    Bf16,
}

impl Half {
    /// The 16 bits of the nearest value of the format, ties to even; see [`Half::round`].
    ///
    /// 1.0 is `0x3C00` in f16 and `0x3F80` in bf16.
    #[must_use]
    pub fn to_bits(self, value: f32) -> u16 {
        match self {
            Self::F16 => f16::from_f32(value).to_bits(),
            Self::Bf16 => bf16::from_f32(value).to_bits(),
        }
    }

    /// The value of these 16 bits; every one of the 65,536 is an `f32` exactly.
    #[must_use]
    pub fn from_bits(self, bits: u16) -> f32 {
        match self {
            Self::F16 => f16::from_bits(bits).to_f32(),
            Self::Bf16 => bf16::from_bits(bits).to_f32(),
        }
    }

    /// The nearest value of the format, ties to even. Too large becomes infinite.
    ///
    /// 1/3 becomes 0.33325195 in f16 and 0.33398438 in bf16; 70,000 becomes infinite in f16; 1e-8 becomes 0 in f16.
    #[must_use]
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::F16 => f16::from_f32(value).to_f32(),
            Self::Bf16 => bf16::from_f32(value).to_f32(),
        }
    }
}

/// Rounds a tensor to half precision, and the gradient on its way back. Any shape, which stays.
#[must_use]
pub fn to_half(x: &Tensor, half: Half) -> Tensor {
    let output = x.array().mapv(|value| half.round(value));
    Tensor::from_op("to_half", output, &[x], move |upstream| {
        Ok(vec![Some(upstream.mapv(|value| half.round(value)))])
    })
}

/// Which precision an operation computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Autocast {
    /// 16 bits: operands are rounded, sums are `f32`. Products, in which all the time goes, and which forgive rounding.
    Half,
    /// `f32`, from values of 16 bits and to values of 16 bits: what sums many values, takes exponentials or divides.
    F32,
    /// Whatever comes: nothing is computed that could be rounded.
    Either,
}

/// The policy of [`HalfModel`], by [`Layer::kind`]: PyTorch's autocast lists, as far as there are such layers here. What is not
/// in it computes in `f32`. A sum and a concatenation are named for what they do where their ways meet; the layers on the ways
/// compute as they would anywhere. The indices of an embedding are exact.
///
/// Source: PyTorch, "Automatic Mixed Precision", the lists of operations; Micikevicius et al. 2018, section 3.3.
pub const AUTOCAST: &[(&str, Autocast)] = &[
    ("linear", Autocast::Half),
    ("conv2d", Autocast::Half),
    ("relu", Autocast::Either),
    ("flatten", Autocast::Either),
    ("max_pool2d", Autocast::Either),
    ("concat", Autocast::Either),
    ("residual", Autocast::F32),
    ("embedding", Autocast::F32),
    ("avg_pool2d", Autocast::F32),
    ("batch_norm2d", Autocast::F32),
    ("dropout", Autocast::F32),
    ("gelu", Autocast::F32),
    ("sigmoid", Autocast::F32),
    ("tanh", Autocast::F32),
    ("softmax", Autocast::F32),
    ("log_softmax", Autocast::F32),
];

/// The precision for a kind of layer: that of [`AUTOCAST`], or `f32`.
#[must_use]
pub fn autocast(kind: &str) -> Autocast {
    let found = AUTOCAST.iter().find(|(name, _)| *name == kind);
    found.map_or(Autocast::F32, |(_, precision)| *precision)
}

/// Rounds all weights to half precision after every step: training *without* master weights in `f32`, to see why they are
/// there. Give it to `Trainer::hook`.
///
/// An update below half the distance of neighbouring numbers, for f16 some 2⁻¹² of the weight, for bf16 2⁻⁹, is lost.
///
/// Source: Micikevicius et al. 2018, section 3.1.
#[derive(Clone, Copy, Debug)]
pub struct HalfWeights(pub Half);

impl StepHook for HalfWeights {
    fn after_step(&mut self, model: &dyn Layer, _proceed: Proceed) -> framework::Result<()> {
        for (_, parameter) in model.named_parameters() {
            parameter.update(|mut values| values.mapv_inplace(|value| self.0.round(value)));
        }
        Ok(())
    }
}

/// Dynamic loss scaling as a part of every training step: give it to `Trainer::hook`.
///
/// The loss is multiplied before the backward pass, the gradients are divided before they are clipped, and a step whose
/// gradients are not all finite is skipped and counted ([`EpochRecord::skipped_steps`]): the trainer leaves weights and buffers,
/// such as the running moments of a batch norm, as they were.
///
/// | what is not finite | scale above 1 | scale 1 |
/// |---|---|---|
/// | the loss | skipped, the scale falls | the training ends: `TrainError::Diverged` |
/// | a gradient | skipped, the scale falls | skipped; [`LossScaling::PATIENCE`] times in a row, the training ends: `TrainError::GradientsOverflow` |
///
/// A smaller scale does not help forwards, hence the first line. The second differs from PyTorch's `GradScaler`, whose scale
/// has no lower bound: below 1 it makes gradients that are too large for f16 fit, at the price of the small ones, and that
/// training goes on. Here the scale ends at 1 ([`LossScaler::update`]), and a training that cannot step says so. What helps is
/// bf16, or a smaller loss. PyTorch also leaves what such a step did to running moments.
///
/// [`EpochRecord::skipped_steps`]: crate::framework::train::EpochRecord::skipped_steps
#[derive(Clone, Debug, Default)]
pub struct LossScaling {
    state: Arc<Mutex<State>>,
}

/// What clones of a [`LossScaling`] share.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    scaler: LossScaler,
    /// Steps in a row whose gradients overflowed at scale 1.
    hopeless: u32,
}

impl LossScaling {
    /// How many steps in a row may overflow with a scale of 1 before the training ends. One batch, or a few, may hold what
    /// is too large for the format while the others do not.
    pub const PATIENCE: u32 = 8;

    /// Scales with `scaler`. Clones share it, so a clone kept back shows what has become of it.
    ///
    /// # Errors
    ///
    /// [`Error::BadLossScaler`] if a number is not what [`LossScaler`] says of it.
    pub fn new(scaler: LossScaler) -> Result<Self> {
        let LossScaler {
            scale,
            growth_factor,
            backoff_factor,
            growth_interval,
            ..
        } = scaler;
        let good = |good: bool, what, rule, value| match good {
            true => Ok(()),
            false => Err(Error::BadLossScaler { what, rule, value }),
        };
        let finite = scale.is_finite() && scale >= 1.0;
        good(finite, "the scale", "finite and at least 1", scale)?;
        let grows = growth_factor.is_finite() && growth_factor > 1.0;
        good(
            grows,
            "the growth factor",
            "finite and above 1",
            growth_factor,
        )?;
        let falls = backoff_factor > 0.0 && backoff_factor < 1.0;
        good(
            falls,
            "the backoff factor",
            "above 0 and below 1",
            backoff_factor,
        )?;
        let waits = growth_interval > 0;
        good(
            waits,
            "the growth interval",
            "at least 1",
            growth_interval as f32,
        )?;
        Ok(Self {
            state: Arc::new(Mutex::new(State {
                scaler,
                hopeless: 0,
            })),
        })
    }

    /// The scaler as it is now.
    #[must_use]
    pub fn scaler(&self) -> LossScaler {
        self.lock().scaler
    }

    /// A few numbers, each valid by itself: what a holder that panicked left can be used.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StepHook for LossScaling {
    fn check_loss(&mut self, _loss: f32) -> framework::Result<Proceed> {
        let scaler = &mut self.lock().scaler;
        if scaler.scale <= 1.0 {
            return Ok(Proceed::Step);
        }
        scaler.update(false);
        Ok(Proceed::Skip)
    }

    fn change_loss(&mut self, loss: Tensor) -> framework::Result<Tensor> {
        // What a loss of 1 becomes is the factor of every loss.
        Ok(&loss * self.lock().scaler.scale_loss(1.0))
    }

    fn check_gradients(&mut self, parameters: &[(String, Tensor)]) -> framework::Result<Proceed> {
        let mut state = self.lock();
        let mut scaler = state.scaler;
        let mut all_finite = true;
        for (_, parameter) in parameters {
            let finite = parameter.update_grad(|mut gradient| match gradient.as_slice_mut() {
                Some(gradient) => scaler.unscale(gradient),
                None => {
                    let mut copy: Vec<f32> = gradient.iter().copied().collect();
                    let finite = scaler.unscale(&mut copy);
                    gradient
                        .iter_mut()
                        .zip(copy)
                        .for_each(|(old, new)| *old = new);
                    finite
                }
            });
            all_finite &= finite.unwrap_or(true);
        }
        let steps = match !all_finite && scaler.scale <= 1.0 {
            true => state.hopeless + 1,
            false => 0,
        };
        scaler.update(all_finite);
        *state = State {
            scaler,
            hopeless: steps % Self::PATIENCE,
        };
        match all_finite {
            true => Ok(Proceed::Step),
            false if steps < Self::PATIENCE => Ok(Proceed::Skip),
            false => Err(TrainError::GradientsOverflow { steps }.into()),
        }
    }

    fn state(&self) -> String {
        let State { scaler, hopeless } = *self.lock();
        let (scale, good_steps) = (scaler.scale.to_bits(), scaler.good_steps);
        format!("{scale} {good_steps} {hopeless}")
    }

    fn load_state(&mut self, state: &str) -> framework::Result<()> {
        let parsed = || {
            let numbers = state.split(' ').map(|number| number.parse().ok());
            match *numbers.collect::<Option<Vec<u32>>>()? {
                // Checkpoints of before there was patience to lose have two numbers.
                [scale, good_steps] => Some((f32::from_bits(scale), good_steps, 0)),
                [scale, good_steps, hopeless] => {
                    Some((f32::from_bits(scale), good_steps, hopeless))
                }
                _ => None,
            }
            .filter(|(scale, _, hopeless)| {
                scale.is_finite() && *scale >= 1.0 && *hopeless < Self::PATIENCE
            })
        };
        let (scale, good_steps, hopeless) = parsed().ok_or_else(|| framework::Error::Argument {
            operation: "loss scaling",
            reason: format!("`{state}` is not a saved state"),
        })?;
        let mut state = self.lock();
        state.scaler.scale = scale;
        state.scaler.good_steps = good_steps;
        state.hopeless = hopeless;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_round_and_overflow() {
        assert_eq!(Half::F16.round(1.0 / 3.0), 0.333_251_95);
        assert_eq!(Half::Bf16.round(1.0 / 3.0), 0.333_984_38);
        assert_eq!(Half::F16.round(70_000.0), f32::INFINITY);
        assert_eq!(Half::F16.round(1e-8), 0.0);
        assert_ne!(Half::Bf16.round(1e-8), 0.0);
    }

    #[test]
    fn a_small_gradient_survives_only_if_the_loss_is_scaled() {
        // The gradient of the loss is 1e-8, below what f16 can hold.
        let gradient = |scale: f32| {
            let x = Tensor::ones(&[1]).with_grad();
            let loss = (&to_half(&x, Half::F16) * (1e-8 * scale)).sum();
            loss.backward().expect("a scalar");
            x.grad().expect("a leaf").to_vec()[0] / scale
        };
        assert_eq!(gradient(1.0), 0.0);
        // 2^-11 of it is lost at most: f16 has 11 significant bits.
        assert!((gradient(65_536.0) - 1e-8).abs() <= 1e-8 / 2048.0);
    }

    #[test]
    fn an_overflow_skips_the_step_and_halves_the_scale() {
        let weight = Tensor::ones(&[2]).with_grad();
        let parameters = [("weight".to_owned(), weight.clone())];
        let mut hook = LossScaling::default();
        let step = |hook: &mut LossScaling, values: [f32; 2]| {
            let gradient = Tensor::new(values.to_vec(), &[2]).expect("two");
            weight.set_grad(&gradient).expect("its shape");
            let proceed = hook
                .check_gradients(&parameters)
                .expect("no hook fails here");
            (proceed, weight.grad().expect("it was set").to_vec())
        };
        let (proceed, gradient) = step(&mut hook, [65_536.0, -32_768.0]);
        assert_eq!((proceed, gradient), (Proceed::Step, vec![1.0, -0.5]));
        let (proceed, _) = step(&mut hook, [f32::INFINITY, 1.0]);
        assert_eq!((proceed, hook.scaler().scale), (Proceed::Skip, 32_768.0));
    }

    #[test]
    fn numbers_that_cannot_scale_are_refused() {
        // A backoff factor of 2 let the scale grow with every overflow, and a scale of NaN spoiled every gradient.
        let good = LossScaler::default();
        let bad = [f32::NAN, f32::INFINITY, 0.0, -2.0];
        let refused = |scaler: LossScaler| LossScaling::new(scaler).is_err();
        for value in bad.into_iter().chain([0.5]) {
            assert!(
                refused(LossScaler {
                    scale: value,
                    ..good
                }),
                "{value}"
            );
        }
        for growth_factor in bad.into_iter().chain([1.0]) {
            assert!(refused(LossScaler {
                growth_factor,
                ..good
            }));
        }
        for backoff_factor in bad.into_iter().chain([1.0, 2.0]) {
            assert!(refused(LossScaler {
                backoff_factor,
                ..good
            }));
        }
        let error = LossScaling::new(LossScaler {
            growth_interval: 0,
            ..good
        });
        assert_eq!(
            error.expect_err("it never waits").to_string(),
            "the growth interval of loss scaling must be at least 1, got 0"
        );
        assert!(!refused(good));
    }

    #[test]
    fn a_saved_state_goes_on_and_nonsense_is_refused() {
        let scaler = LossScaler {
            scale: 1536.0,
            good_steps: 7,
            ..LossScaler::default()
        };
        let mut other = LossScaling::default();
        other
            .load_state(&LossScaling::new(scaler).expect("good numbers").state())
            .expect("a saved state");
        assert_eq!(other.scaler(), scaler);
        let one = 1.0_f32.to_bits();
        let impatient = format!("{one} 1 {}", LossScaling::PATIENCE);
        for bad in ["", "1 2 3", "0 1", "x y", "0 1 0 0", &impatient] {
            assert!(other.load_state(bad).is_err(), "{bad}");
        }
        assert_eq!(other.scaler(), scaler);
    }
}
