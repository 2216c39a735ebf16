//! Adam and AdamW.

use rayon::prelude::*;

use super::{Optimizer, check_names, check_shape, saved_buffers, with_gradient};
use crate::error::{Error, Result};
use crate::ops::array_of;
use crate::tensor::Tensor;

/// How [`Adam`] and [`AdamW`] step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamConfig {
    /// The length of a step.
    pub learning_rate: f64,
    /// How much is kept of the mean of gradients.
    pub beta1: f64,
    /// How much is kept of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the mean square.
    pub eps: f64,
    /// How strongly weights are pulled to zero: through the gradient in [`Adam`], directly in [`AdamW`].
    pub weight_decay: f64,
}

impl Default for AdamConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
        }
    }
}

/// Elements of a parameter that one thread steps: fewer are done before another thread is awake.
const CHUNK: usize = 64 * 1024;

/// What is remembered of one parameter.
#[derive(Clone, Debug)]
struct Moments {
    step: u64,
    mean: Vec<f32>,
    square: Vec<f32>,
}

const BUFFERS: [&str; 3] = ["step", "exp_avg", "exp_avg_sq"];

#[derive(Debug)]
struct Core {
    config: AdamConfig,
    parameters: Vec<(String, Tensor)>,
    moments: Vec<Option<Moments>>,
    /// Whether weight decay is applied to the weight itself.
    decoupled: bool,
}

impl Core {
    fn new(parameters: Vec<(String, Tensor)>, config: AdamConfig, decoupled: bool) -> Self {
        let moments = vec![None; parameters.len()];
        Self {
            config,
            parameters,
            moments,
            decoupled,
        }
    }

    fn step(&mut self) {
        let AdamConfig {
            learning_rate,
            beta1,
            beta2,
            eps,
            weight_decay,
        } = self.config;
        for ((_, parameter), moments) in self.parameters.iter().zip(&mut self.moments) {
            with_gradient(parameter, |w, g| {
                let zeros = || vec![0.0; g.len()];
                let moments = moments.get_or_insert_with(|| Moments {
                    step: 0,
                    mean: zeros(),
                    square: zeros(),
                });
                moments.step += 1;
                let power = moments.step as f64;
                let correction1 = 1.0 - beta1.powf(power);
                let root_correction2 = (1.0 - beta2.powf(power)).sqrt() as f32;
                let step_size = (learning_rate / correction1) as f32;
                let (shrink, decay) = if self.decoupled {
                    ((1.0 - learning_rate * weight_decay) as f32, 0.0)
                } else {
                    (1.0, weight_decay as f32)
                };
                let (toward, keep) = ((1.0 - beta1) as f32, beta2 as f32);
                let (add, eps) = ((1.0 - beta2) as f32, eps as f32);
                let Moments { mean, square, .. } = moments;
                let change = |w: &mut [f32], g: &[f32], mean: &mut [f32], square: &mut [f32]| {
                    let elements = w.iter_mut().zip(g);
                    for ((w, g), (mean, square)) in elements.zip(mean.iter_mut().zip(square)) {
                        *w *= shrink;
                        let g = g + decay * *w;
                        *mean += toward * (g - *mean);
                        *square = keep * *square + add * g * g;
                        *w -= step_size * (*mean / (square.sqrt() / root_correction2 + eps));
                    }
                };
                if w.len() <= CHUNK {
                    return change(w, g, mean, square);
                }
                let elements = w.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK));
                let moments = (mean.par_chunks_mut(CHUNK)).zip(square.par_chunks_mut(CHUNK));
                (elements.zip(moments))
                    .for_each(|((w, g), (mean, square))| change(w, g, mean, square));
            });
        }
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let mut state = Vec::new();
        for ((name, parameter), moments) in self.parameters.iter().zip(&self.moments) {
            let Some(moments) = moments else { continue };
            let like = |values: &[f32]| array_of(values.to_vec(), parameter.shape());
            // Exact up to 2²⁴ steps, from where on both corrections have long been 1.
            let step = Tensor::scalar(moments.step as f32);
            let mean = Tensor::from_array(like(&moments.mean));
            let square = Tensor::from_array(like(&moments.square));
            let named = BUFFERS.map(|buffer| format!("{name}.{buffer}"));
            state.extend(named.into_iter().zip([step, mean, square]));
        }
        state
    }

    fn load_state(&mut self, state: &[(String, Tensor)]) -> Result<()> {
        check_names(&self.parameters, &BUFFERS, state)?;
        let mut all = Vec::with_capacity(self.parameters.len());
        for (name, parameter) in &self.parameters {
            let Some([step, mean, square]) = saved_buffers(name, BUFFERS, state)? else {
                all.push(None);
                continue;
            };
            check_shape(name, BUFFERS[0], &Tensor::scalar(0.0), &step)?;
            check_shape(name, BUFFERS[1], parameter, &mean)?;
            check_shape(name, BUFFERS[2], parameter, &square)?;
            let count = step.item()?;
            if !(count >= 1.0 && count.fract() == 0.0 && count.is_finite()) {
                let reason = format!("`{name}.step` is {count}, not a number of steps");
                return Err(Error::Argument {
                    operation: "load_state",
                    reason,
                });
            }
            let (mean, square) = (mean.to_vec(), square.to_vec());
            all.push(Some(Moments {
                step: count as u64,
                mean,
                square,
            }));
        }
        self.moments = all;
        Ok(())
    }
}

macro_rules! adam {
    ($name:ident, $decoupled:literal) => {
        impl $name {
            /// An optimizer for these parameters.
            pub fn new(parameters: Vec<(String, Tensor)>, config: AdamConfig) -> Self {
                Self {
                    core: Core::new(parameters, config, $decoupled),
                }
            }

            /// How it steps.
            pub fn config(&self) -> AdamConfig {
                self.core.config
            }
        }

        impl Optimizer for $name {
            fn step(&mut self) -> Result<()> {
                self.core.step();
                Ok(())
            }

            fn parameters(&self) -> &[(String, Tensor)] {
                &self.core.parameters
            }

            fn learning_rate(&self) -> f64 {
                self.core.config.learning_rate
            }

            fn set_learning_rate(&mut self, learning_rate: f64) {
                self.core.config.learning_rate = learning_rate;
            }

            fn state(&self) -> Vec<(String, Tensor)> {
                self.core.state()
            }

            fn load_state(&mut self, state: &[(String, Tensor)]) -> Result<()> {
                self.core.load_state(state)
            }
        }
    };
}

/// Steps by the mean of gradients over the root of the mean of their squares.
///
/// ```text
/// g ← g + weight_decay · w
/// m ← m + (1 − β₁) · (g − m)
/// v ← β₂ · v + (1 − β₂) · g²
/// w ← w − learning_rate / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + eps)
/// ```
///
/// Source: Kingma and Ba, "Adam", algorithm 1; the order of operations is that of `torch.optim.Adam`.
#[derive(Debug)]
pub struct Adam {
    core: Core,
}

adam!(Adam, false);

/// [`Adam`] with the weight decay taken out of the gradient: first `w ← (1 − learning_rate · weight_decay) · w`.
///
/// Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization"; the order of operations is that of
/// `torch.optim.AdamW` (whose default weight decay is 0.01; here it is 0).
#[derive(Debug)]
pub struct AdamW {
    core: Core,
}

adam!(AdamW, true);

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter() -> Vec<(String, Tensor)> {
        vec![("w".to_owned(), Tensor::full(&[1], 1.0).with_grad())]
    }

    fn step(optimizer: &mut dyn Optimizer, gradient: f32) -> Result<f32> {
        let w = optimizer.parameters()[0].1.clone();
        w.set_grad(&Tensor::full(&[1], gradient))?;
        optimizer.step()?;
        w.item()
    }

    #[test]
    fn the_first_step_is_as_long_as_the_learning_rate_whatever_the_gradient() -> Result<()> {
        for gradient in [1e-3, 1.0, 1e3] {
            let config = AdamConfig {
                learning_rate: 0.1,
                eps: 0.0,
                ..AdamConfig::default()
            };
            let w = step(&mut Adam::new(parameter(), config), gradient)?;
            // m / √v is 1 up to the roundings of a handful of operations.
            assert!((w - 0.9).abs() <= 4.0 * f32::EPSILON, "{w}");
        }
        Ok(())
    }

    #[test]
    fn adamw_shrinks_the_weight_itself() -> Result<()> {
        let config = AdamConfig {
            learning_rate: 0.5,
            weight_decay: 0.5,
            ..AdamConfig::default()
        };
        assert_eq!(step(&mut AdamW::new(parameter(), config), 0.0)?, 0.75);
        // In Adam the decay becomes a gradient, and a step of full length.
        assert!(step(&mut Adam::new(parameter(), config), 0.0)? < 0.51);
        Ok(())
    }

    #[test]
    fn a_restored_optimizer_continues_bit_for_bit() -> Result<()> {
        let mut first = AdamW::new(parameter(), AdamConfig::default());
        for i in 0..5 {
            step(&mut first, 1.0 / (i as f32 + 3.0))?;
        }
        let mut second = AdamW::new(parameter(), AdamConfig::default());
        second.load_state(&first.state())?;
        second.parameters()[0].1.assign(&first.parameters()[0].1)?;
        assert_eq!(
            step(&mut first, 0.7)?.to_bits(),
            step(&mut second, 0.7)?.to_bits()
        );
        Ok(())
    }

    #[test]
    fn a_foreign_or_incomplete_state_is_an_error() -> Result<()> {
        let mut optimizer = Adam::new(parameter(), AdamConfig::default());
        step(&mut optimizer, 1.0)?;
        let mut state = optimizer.state();
        state[1].1 = Tensor::zeros(&[2]);
        let error = optimizer.load_state(&state).expect_err("shape");
        assert_eq!(error.to_string(), "`w.exp_avg` has shape [2], expected [1]");
        state.remove(1);
        let error = optimizer.load_state(&state).expect_err("missing");
        assert_eq!(
            error.to_string(),
            "the saved state of the optimizer has no entry named `w.exp_avg`"
        );
        state.push(("v.exp_avg".to_owned(), Tensor::zeros(&[1])));
        let error = optimizer.load_state(&state).expect_err("unexpected");
        assert!(matches!(error, Error::UnexpectedEntry { name, .. } if name == "v.exp_avg"));
        Ok(())
    }
}
