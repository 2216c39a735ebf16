//! Layers: functions with parameters, and how a model names them.
//!
//! ```
//! use rand::SeedableRng;
//! use rand_chacha::ChaCha8Rng;
//! use tinytorch_core::Tensor;
//! use tinytorch_core::nn::{Layer, Linear, Relu, Sequential};
//!
//! # fn main() -> tinytorch_core::Result<()> {
//! let rng = &mut ChaCha8Rng::seed_from_u64(0);
//! let model = Sequential::new()
//!     .with_named("hidden", Linear::new(64, 32, rng))
//!     .with(Relu)
//!     .with(Linear::new(32, 10, rng));
//! assert_eq!(model.forward(&Tensor::zeros(&[8, 64]))?.shape(), [8, 10]);
//! let names: Vec<String> = model.named_parameters().into_iter().map(|(name, _)| name).collect();
//! assert_eq!(names, ["hidden.weight", "hidden.bias", "2.weight", "2.bias"]);
//! # Ok(())
//! # }
//! ```

mod activation;
mod composite;
mod conv;
mod copied;
mod derived;
mod dropout;
mod embedding;
mod fused;
mod linear;
mod norm;
mod pool;
mod sequential;

use std::any::Any;
use std::sync::Arc;

use rand::Rng;

pub use activation::{Gelu, LogSoftmax, Relu, Sigmoid, Softmax, Tanh};
pub use composite::{Concat, Residual};
pub use conv::{Conv2d, Conv2dConfig};
pub use dropout::Dropout;
pub use embedding::{Embedding, indices};
pub use linear::Linear;
pub use norm::BatchNorm2d;
pub use pool::{AvgPool2d, Flatten, MaxPool2d};
pub use sequential::Sequential;

use crate::error::{Error, Result};
use crate::rng::RngState;
use crate::tensor::Tensor;

/// A function on tensors, with parameters that are trained, buffers that are kept, and perhaps layers inside.
///
/// A model of one's own implements `forward`, `kind`, `as_any` and [`Layer::children`]; names follow from those:
/// `features.0.weight` is the own parameter `weight` of the child `0` of the child `features`.
pub trait Layer: Send + Sync + Any {
    /// Computes the output.
    ///
    /// # Errors
    ///
    /// Those of the operations inside, in particular shapes that do not fit.
    fn forward(&self, x: &Tensor) -> Result<Tensor>;

    /// What kind of layer this is: `linear`, `conv2d`.
    fn kind(&self) -> &'static str;

    /// The layer as its own type, for code that must recognise it.
    fn as_any(&self) -> &dyn Any;

    /// The layers inside, by name, in the order of computation.
    fn children(&self) -> Vec<(String, &dyn Layer)> {
        Vec::new()
    }

    /// The trained tensors of this layer itself, without those of its children.
    fn own_parameters(&self) -> Vec<(String, Tensor)> {
        Vec::new()
    }

    /// The tensors of this layer itself that are kept with the model but not trained.
    fn own_buffers(&self) -> Vec<(String, Tensor)> {
        Vec::new()
    }

    /// The state of this layer's own random generator, if it has one.
    fn own_rng_state(&self) -> Option<RngState> {
        None
    }

    /// Puts this layer's own random generator into a state that [`Layer::own_rng_state`] gave; nothing without one.
    fn set_own_rng_state(&self, _state: &RngState) {}

    /// Whether this layer itself is in training mode; `None` if it behaves the same in both.
    fn own_training(&self) -> Option<bool> {
        None
    }

    /// Chooses between the behaviour for training (`true`, as layers begin) and for evaluation, here and in all children.
    fn set_training(&self, training: bool) {
        for (_, child) in self.children() {
            child.set_training(training);
        }
    }

    /// The same layer with tensors of its own, which hold the same values, so that one can be trained while the other stays as it
    /// is; a random generator goes on from the same state. `None` if it cannot be copied, which is so for a type of one's own
    /// that does not implement this.
    fn copied(&self) -> Option<Arc<dyn Layer>> {
        copied::copied(self.as_any())
    }

    /// All parameters by dotted name.
    fn named_parameters(&self) -> Vec<(String, Tensor)> {
        let below = self.children().into_iter();
        let below = below.flat_map(|(name, child)| prefixed(name, child.named_parameters()));
        self.own_parameters().into_iter().chain(below).collect()
    }

    /// All buffers by dotted name.
    fn named_buffers(&self) -> Vec<(String, Tensor)> {
        let below = self.children().into_iter();
        let below = below.flat_map(|(name, child)| prefixed(name, child.named_buffers()));
        self.own_buffers().into_iter().chain(below).collect()
    }

    /// All parameters and buffers by dotted name: what a file of weights holds.
    fn named_tensors(&self) -> Vec<(String, Tensor)> {
        let mut tensors = self.named_parameters();
        tensors.extend(self.named_buffers());
        tensors
    }

    /// The states of all random generators by the dotted name of their layer (empty for this layer itself).
    fn named_rng_states(&self) -> Vec<(String, RngState)> {
        let own = self.own_rng_state().map(|state| (String::new(), state));
        let below = self.children().into_iter();
        let below = below.flat_map(|(name, child)| {
            prefixed(name, child.named_rng_states())
                .map(|(name, state)| (name.trim_end_matches('.').to_owned(), state))
        });
        own.into_iter().chain(below).collect()
    }

    /// Puts all random generators into states that [`Layer::named_rng_states`] gave.
    ///
    /// # Errors
    ///
    /// [`Error::MissingEntry`] or [`Error::UnexpectedEntry`] if the names are not those of this model;
    /// then no generator has changed.
    fn restore_rng_states(&self, states: &[(String, RngState)]) -> Result<()> {
        let what = "the saved state of random generators";
        let wanted = self.named_rng_states();
        for (name, _) in &wanted {
            if !states.iter().any(|(saved, _)| saved == name) {
                return Err(Error::MissingEntry {
                    what,
                    name: name.clone(),
                });
            }
        }
        if let Some((name, _)) = states
            .iter()
            .find(|(saved, _)| wanted.iter().all(|(name, _)| name != saved))
        {
            return Err(Error::UnexpectedEntry {
                what,
                name: name.clone(),
            });
        }
        for (name, state) in states {
            self.set_rng_state(name, state);
        }
        Ok(())
    }

    /// Puts the random generator of the layer of this dotted name into a state; nothing if there is no such layer.
    fn set_rng_state(&self, name: &str, state: &RngState) {
        if name.is_empty() {
            return self.set_own_rng_state(state);
        }
        for (child_name, child) in self.children() {
            // A child's own name may hold dots, so the longest match is not the first dot.
            if let Some(rest) = name.strip_prefix(child_name.as_str()) {
                if rest.is_empty() {
                    child.set_rng_state("", state);
                } else if let Some(rest) = rest.strip_prefix('.') {
                    child.set_rng_state(rest, state);
                }
            }
        }
    }

    /// Forgets the gradients of all parameters.
    fn zero_grad(&self) {
        for (_, parameter) in self.named_parameters() {
            parameter.zero_grad();
        }
    }

    /// How many numbers are trained.
    fn parameter_count(&self) -> usize {
        self.named_parameters()
            .iter()
            .map(|(_, parameter)| parameter.len())
            .sum()
    }
}

fn prefixed<T>(prefix: String, named: Vec<(String, T)>) -> impl Iterator<Item = (String, T)> {
    named
        .into_iter()
        .map(move |(name, value)| (format!("{prefix}.{name}"), value))
}

/// The initial values that PyTorch gives to weights and biases: uniform within `1 / √fan_in`.
///
/// Source: He et al., "Delving Deep into Rectifiers", with gain √(1/3) (`kaiming_uniform_(a = √5)`).
fn initial(shape: &[usize], fan_in: usize, rng: &mut (impl Rng + ?Sized)) -> Tensor {
    let bound = 1.0 / (fan_in.max(1) as f32).sqrt();
    Tensor::uniform(shape, -bound, bound, rng).with_grad()
}

/// A weight, and a bias if there is one, under their names.
fn weight_and_bias(weight: &Tensor, bias: Option<&Tensor>) -> Vec<(String, Tensor)> {
    let weight = Some(("weight".to_owned(), weight.clone()));
    let bias = bias.map(|bias| ("bias".to_owned(), bias.clone()));
    weight.into_iter().chain(bias).collect()
}
