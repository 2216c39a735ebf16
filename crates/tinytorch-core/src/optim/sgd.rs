//! Gradient descent with momentum.

use super::{Optimizer, check_names, check_shape, saved_buffers, with_gradient};
use crate::error::Result;
use crate::tensor::Tensor;

/// How [`Sgd`] steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdConfig {
    /// The length of a step.
    pub learning_rate: f64,
    /// How much of the last direction is kept.
    pub momentum: f64,
    /// How strongly weights are pulled to zero, through the gradient.
    pub weight_decay: f64,
}

impl Default for SgdConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            momentum: 0.0,
            weight_decay: 0.0,
        }
    }
}

/// Stochastic gradient descent.
///
/// ```text
/// g ← g + weight_decay · w
/// b ← momentum · b + g             (b = g at the first step)
/// w ← w − learning_rate · b
/// ```
///
/// Source: PyTorch, `torch.optim.SGD` (dampening 0, no Nesterov).
#[derive(Debug)]
pub struct Sgd {
    config: SgdConfig,
    parameters: Vec<(String, Tensor)>,
    /// `b`, from the first step on.
    buffers: Vec<Option<Vec<f32>>>,
}

impl Sgd {
    /// An optimizer for these parameters.
    pub fn new(parameters: Vec<(String, Tensor)>, config: SgdConfig) -> Self {
        let buffers = vec![None; parameters.len()];
        Self {
            config,
            parameters,
            buffers,
        }
    }

    /// How it steps.
    pub fn config(&self) -> SgdConfig {
        self.config
    }
}

impl Optimizer for Sgd {
    fn step(&mut self) -> Result<()> {
        let SgdConfig {
            learning_rate,
            momentum,
            weight_decay,
        } = self.config;
        let (rate, momentum) = (learning_rate as f32, momentum as f32);
        let decay = weight_decay as f32;
        for ((_, parameter), buffer) in self.parameters.iter().zip(&mut self.buffers) {
            with_gradient(parameter, |w, g| {
                let pairs = w.iter_mut().zip(g);
                if momentum == 0.0 {
                    pairs.for_each(|(w, g)| *w -= rate * (g + decay * *w));
                    return;
                }
                let Some(b) = buffer else {
                    let first = pairs.map(|(w, g)| {
                        let b = g + decay * *w;
                        *w -= rate * b;
                        b
                    });
                    *buffer = Some(first.collect());
                    return;
                };
                for ((w, g), b) in pairs.zip(b) {
                    *b = momentum * *b + (g + decay * *w);
                    *w -= rate * *b;
                }
            });
        }
        Ok(())
    }

    fn parameters(&self) -> &[(String, Tensor)] {
        &self.parameters
    }

    fn learning_rate(&self) -> f64 {
        self.config.learning_rate
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.config.learning_rate = learning_rate;
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        (self.parameters.iter().zip(&self.buffers))
            .filter_map(|((name, parameter), buffer)| {
                let buffer = buffer.clone()?;
                let tensor = Tensor::from_array(crate::ops::array_of(buffer, parameter.shape()));
                Some((format!("{name}.momentum_buffer"), tensor))
            })
            .collect()
    }

    fn load_state(&mut self, state: &[(String, Tensor)]) -> Result<()> {
        check_names(&self.parameters, &["momentum_buffer"], state)?;
        let mut buffers = Vec::with_capacity(self.parameters.len());
        for (name, parameter) in &self.parameters {
            let saved = saved_buffers(name, ["momentum_buffer"], state)?;
            if let Some([saved]) = &saved {
                check_shape(name, "momentum_buffer", parameter, saved)?;
            }
            buffers.push(saved.map(|[saved]| saved.to_vec()));
        }
        self.buffers = buffers;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter() -> Vec<(String, Tensor)> {
        vec![("w".to_owned(), Tensor::full(&[2], 1.0).with_grad())]
    }

    fn step(optimizer: &mut Sgd, gradient: f32) -> Result<f32> {
        let w = optimizer.parameters()[0].1.clone();
        w.set_grad(&Tensor::full(&[2], gradient))?;
        optimizer.step()?;
        Ok(w.to_vec()[0])
    }

    #[test]
    fn momentum_repeats_half_of_the_last_direction() -> Result<()> {
        let config = SgdConfig {
            learning_rate: 0.25,
            momentum: 0.5,
            weight_decay: 0.0,
        };
        let mut optimizer = Sgd::new(parameter(), config);
        assert_eq!(step(&mut optimizer, 1.0)?, 0.75);
        assert_eq!(step(&mut optimizer, 1.0)?, 0.75 - 0.25 * 1.5);
        Ok(())
    }

    #[test]
    fn weight_decay_joins_the_gradient() -> Result<()> {
        let config = SgdConfig {
            learning_rate: 0.5,
            momentum: 0.0,
            weight_decay: 0.25,
        };
        assert_eq!(
            step(&mut Sgd::new(parameter(), config), 0.0)?,
            1.0 - 0.5 * 0.25
        );
        Ok(())
    }

    #[test]
    fn a_parameter_without_a_gradient_stays() -> Result<()> {
        let mut optimizer = Sgd::new(parameter(), SgdConfig::default());
        optimizer.step()?;
        assert_eq!(optimizer.parameters()[0].1.to_vec(), [1.0, 1.0]);
        assert!(optimizer.state().is_empty());
        Ok(())
    }
}
