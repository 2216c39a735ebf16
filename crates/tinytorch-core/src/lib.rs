//! Tensors, automatic differentiation, layers, losses, optimizers, data and training.
//!
//! The parts, in the order in which they build on each other:
//!
//! - [`Tensor`]: numbers in a shape, with broadcasting, products, reductions, views and gradients;
//! - [`no_grad`] and [`Tensor::backward`]: recording what was computed, and going back;
//! - [`nn`]: layers with named parameters, and models made of them;
//! - [`loss`]: one number that says how wrong;
//! - [`optim`]: how parameters follow their gradients;
//! - [`data`]: examples, batches, and where they come from;
//! - [`safetensors`]: weights in files;
//! - [`train`]: epochs, measured, stopped in time, saved and resumed.

mod atomic;
mod backward;
pub mod data;
pub mod error;
pub mod loss;
pub mod nn;
mod ops;
pub mod optim;
pub mod recycle;
pub mod rng;
pub mod safetensors;
mod tape;
mod tensor;
pub mod train;

pub use atomic::write_atomically;
pub use error::{Error, ForeignError, Result};
pub use ops::conv::Conv2dOptions;
pub use ops::pool::Pool2dOptions;
pub use rng::RngState;
pub use tape::{Gradients, is_recording, no_grad};
pub use tensor::{Tensor, Values};
