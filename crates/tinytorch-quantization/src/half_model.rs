//! A model that computes in half precision, and keeps in 16 bits what it needs to go back.
//!
//! The framework's tape holds every activation in `f32`. So a [`HalfModel`] is one operation for it, with a tape of its own
//! inside: what flows from layer to layer is rounded to 16 bits and kept once, as the output of one layer and the
//! input of the next.
//!
//! | layer | forwards | kept | backwards |
//! |---|---|---|---|
//! | linear, conv2d | product in 16 bits, sums in `f32` | input in 16 bits | two products in 16 bits |
//! | relu, flatten | on 16 bits | nothing of its own | mask by the output |
//! | residual, concat | way by way as in this table; the sum in `f32` | what the ways keep | way by way |
//! | others | in `f32` | input in 16 bits | computed again from the input, in `f32`, and differentiated |
//!
//! Indices are no values to round: what an [`Embedding`](crate::framework::nn::Embedding) reads stays exact, from the layer that
//! gives it on, through layers that only pick values. What others make of the same values is rounded.
//!
//! Gradients are rounded to 16 bits between layers, and those of half-precision weights as well, as in a framework whose
//! tensors are of 16 bits. That is where small ones vanish in f16.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::framework::nn::{Layer, Sequential};
use crate::framework::{Result, Tensor, is_recording};
use crate::half_tape::{Flow, Mode, Tape, way};
use crate::mixed_precision::Half;

/// A model that computes with weights, activations and gradients in half precision.
///
/// It trains the weights of the model it was made from: those are the master weights, in `f32`. Which layers compute in 16 bits
/// and which in `f32` says [`AUTOCAST`](crate::mixed_precision::AUTOCAST).
pub struct HalfModel {
    layers: Vec<(String, Arc<dyn Layer>)>,
    half: Half,
    saved_bytes: AtomicUsize,
}

impl std::fmt::Debug for HalfModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let layers = self.layers.iter().map(|(name, layer)| (name, layer.kind()));
        f.debug_map().entries(layers).finish()
    }
}

impl HalfModel {
    /// The model in this format. Nested models are opened; the layers are shared, not copied.
    #[must_use]
    pub fn new(model: &Sequential, half: Half) -> Self {
        let mut layers = Vec::new();
        crate::take_apart::open(model, "", &mut layers);
        Self {
            layers,
            half,
            saved_bytes: AtomicUsize::new(0),
        }
    }

    /// Bytes of activations that the last recorded forward pass kept for its way back; 0 before the first.
    #[must_use]
    pub fn saved_bytes(&self) -> usize {
        self.saved_bytes.load(Ordering::Relaxed)
    }

    fn run(&self, x: &Tensor) -> Result<Tensor> {
        let records = is_recording();
        let parameters = self.named_parameters();
        let mode = Mode {
            half: self.half,
            exact: false,
            records,
        };
        let (flow, entries) = way(&self.layers, &Flow::real(x), mode)?;
        let tape = Tape {
            half: self.half,
            entries,
            parameters: parameters.into_iter().map(|(_, tensor)| tensor).collect(),
        };
        let output = flow.tensor()?;
        if !records {
            return Ok(output);
        }
        self.saved_bytes.store(tape.bytes(), Ordering::Relaxed);
        let mut inputs = vec![x];
        inputs.extend(&tape.parameters);
        let inputs: Vec<Tensor> = inputs.into_iter().cloned().collect();
        let inputs: Vec<&Tensor> = inputs.iter().collect();
        let (wants_x, shape) = (x.requires_grad(), x.shape().to_vec());
        Ok(Tensor::from_op(
            "half_model",
            output.array(),
            &inputs,
            move |gradient| tape.backward(gradient, wants_x, &shape),
        ))
    }
}

impl Layer for HalfModel {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x)
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
