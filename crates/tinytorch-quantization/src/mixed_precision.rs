//! Training in half precision, with the weights kept in `f32`.
//!
//! In: a model. Out: one that computes the same with every weight, activation and gradient rounded to 16 bits, and a
//! hook that keeps small gradients alive by loss scaling. The arithmetic itself stays in `f32`, as it does inside
//! the matrix units of most hardware: what is imitated is the *storage* in half precision, and with it its range and its
//! rounding. Nothing gets faster here; what can be studied is which gradients vanish, and what overflows.
//!
//! Source: Micikevicius et al. 2018, "Mixed Precision Training", section 3.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use half::{bf16, f16};

use crate::framework::nn::{Conv2d, Layer, Linear, Sequential};
use crate::framework::train::{Proceed, StepHook};
use crate::framework::{self, Tensor};
use crate::loss_scaling::LossScaler;

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

/// Rounds a tensor to half precision, and the gradient on its way back.
#[must_use]
pub fn to_half(x: &Tensor, half: Half) -> Tensor {
    let output = x.array().mapv(|value| half.round(value));
    Tensor::from_op("to_half", output, &[x], move |upstream| {
        Ok(vec![Some(upstream.mapv(|value| half.round(value)))])
    })
}

/// A model that computes with weights, activations and gradients in half precision.
///
/// It trains the weights of the model it was made from: those are the master weights, in `f32`. Linear layers and
/// convolutions see them rounded; the output of every layer is rounded. Other layers use their parameters as they
/// are, as batch norm does in practice.
pub struct HalfModel {
    layers: Vec<(String, Arc<dyn Layer>)>,
    half: Half,
}

impl std::fmt::Debug for HalfModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let layers = self.layers.iter().map(|(name, layer)| (name, layer.kind()));
        f.debug_map().entries(layers).finish()
    }
}

impl HalfModel {
    /// The model in this format.
    #[must_use]
    pub fn new(model: &Sequential, half: Half) -> Self {
        let mut layers = Vec::new();
        crate::take_apart::open(model, "", &mut layers);
        Self { layers, half }
    }

    fn layer(&self, layer: &dyn Layer, x: &Tensor) -> framework::Result<Tensor> {
        let any = layer.as_any();
        if let Some(linear) = any.downcast_ref::<Linear>() {
            let product = x.matmul(&to_half(linear.weight(), self.half).transpose()?)?;
            match linear.bias() {
                Some(bias) => product.try_add(&to_half(bias, self.half)),
                None => Ok(product),
            }
        } else if let Some(conv) = any.downcast_ref::<Conv2d>() {
            let weight = to_half(conv.weight(), self.half);
            let bias = conv.bias().map(|bias| to_half(bias, self.half));
            x.conv2d(&weight, bias.as_ref(), conv.options())
        } else {
            layer.forward(x)
        }
    }
}

impl Layer for HalfModel {
    fn forward(&self, x: &Tensor) -> framework::Result<Tensor> {
        let x = to_half(x, self.half);
        self.layers.iter().try_fold(x, |x, (_, layer)| {
            Ok(to_half(&self.layer(&**layer, &x)?, self.half))
        })
    }

    fn kind(&self) -> &'static str {
        "half_model"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn children(&self) -> Vec<(String, &dyn Layer)> {
        let mut children: Vec<(String, &dyn Layer)> = Vec::with_capacity(self.layers.len());
        for (name, layer) in &self.layers {
            children.push((name.clone(), &**layer));
        }
        children
    }
}

/// Dynamic loss scaling as a part of every training step: give it to `Trainer::hook`.
///
/// The loss is multiplied before the backward pass, the gradients are divided before they are clipped, and a step whose
/// gradients are not all finite is skipped.
#[derive(Clone, Debug, Default)]
pub struct LossScaling {
    scaler: Arc<Mutex<LossScaler>>,
}

impl LossScaling {
    /// Scales with `scaler`. Clones share it, so a clone kept back shows what has become of it.
    #[must_use]
    pub fn new(scaler: LossScaler) -> Self {
        Self {
            scaler: Arc::new(Mutex::new(scaler)),
        }
    }

    /// The scaler as it is now.
    #[must_use]
    pub fn scaler(&self) -> LossScaler {
        *self.lock()
    }

    /// A scaler is a few numbers, each valid by itself: one whose holder panicked can be used.
    fn lock(&self) -> MutexGuard<'_, LossScaler> {
        self.scaler.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StepHook for LossScaling {
    fn change_loss(&mut self, loss: Tensor) -> framework::Result<Tensor> {
        // What a loss of 1 becomes is the factor of every loss.
        Ok(&loss * self.lock().scale_loss(1.0))
    }

    fn check_gradients(&mut self, parameters: &[(String, Tensor)]) -> framework::Result<Proceed> {
        let mut scaler = self.lock();
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
        scaler.update(all_finite);
        Ok(if all_finite {
            Proceed::Step
        } else {
            Proceed::Skip
        })
    }

    fn state(&self) -> String {
        let scaler = self.lock();
        format!("{} {}", scaler.scale.to_bits(), scaler.good_steps)
    }

    fn load_state(&mut self, state: &str) -> framework::Result<()> {
        let numbers = state.split_once(' ').and_then(|(scale, steps)| {
            let scale = f32::from_bits(scale.parse().ok()?);
            let good = scale.is_finite() && scale >= 1.0;
            good.then_some((scale, steps.parse().ok()?))
        });
        let (scale, good_steps) = numbers.ok_or_else(|| framework::Error::Argument {
            operation: "loss scaling",
            reason: format!("`{state}` is not a saved state"),
        })?;
        let mut scaler = self.lock();
        scaler.scale = scale;
        scaler.good_steps = good_steps;
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
        let mut hook = LossScaling::new(LossScaler::default());
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
    fn a_saved_state_goes_on_and_nonsense_is_refused() {
        let scaler = LossScaler {
            scale: 1536.0,
            good_steps: 7,
            ..LossScaler::default()
        };
        let mut other = LossScaling::default();
        other
            .load_state(&LossScaling::new(scaler).state())
            .expect("a saved state");
        assert_eq!(other.scaler(), scaler);
        for bad in ["", "1 2 3", "0 1", "x y"] {
            assert!(other.load_state(bad).is_err(), "{bad}");
        }
        assert_eq!(other.scaler(), scaler);
    }
}
