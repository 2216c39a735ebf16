//! Layers that stay in `f32` and follow one another run as the framework's own sequences do.
//!
//! In: nodes of a model, and the real values that the first of them is given. Out: what the last of them gives, with the bits that each
//! by itself would give. Between them values need not become tensors, a batch norm and a ReLU are applied where the sums of a
//! convolution end: a model that is quantized in part is compared with the `f32` that its users have, not with a slower one.

use std::sync::Arc;

use crate::framework::nn::{AvgPool2d, Layer, MaxPool2d, Relu, Sequential};
use crate::framework::{Tensor, no_grad};
use crate::graph::Node;
use crate::step::Step;

/// Runs the layers in `f32` that `nodes` begin with, and those between them that work on any values: the result, and how many nodes it
/// comes from.
///
/// `None` if they are fewer than two, or if one of them fails: by itself it says which one, and why.
pub(crate) fn run<'a>(
    nodes: impl Iterator<Item = &'a Node>,
    x: &Tensor,
) -> Option<(Tensor, usize)> {
    let layers: Vec<_> = nodes
        .map_while(|node| Some((String::new(), in_f32(node)?)))
        .collect();
    let count = layers.len();
    if count < 2 {
        return None;
    }
    let layers = Sequential::from_shared(layers);
    let y = no_grad(|| layers.forward(x)).ok()?;
    Some((y, count))
}

/// The layer that computes a node, if that is given real values and gives them. Flattening is left out: it computes nothing.
fn in_f32(node: &Node) -> Option<Arc<dyn Layer>> {
    if node.writes() {
        return None;
    }
    Some(match &node.step {
        Step::Float(float) => float.layer.clone(),
        Step::MaxPool2d(options) => Arc::new(MaxPool2d::with(*options)),
        Step::AvgPool2d(options) => Arc::new(AvgPool2d::with(*options)),
        Step::Relu => Arc::new(Relu),
        _ => return None,
    })
}
