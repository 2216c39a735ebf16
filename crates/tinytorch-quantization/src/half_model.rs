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
//! | others | in `f32` | input in 16 bits | computed again from the input, in `f32`, and differentiated |
//!
//! Gradients are rounded to 16 bits between layers, and those of half-precision weights as well, as in a framework whose
//! tensors are of 16 bits. That is where small ones vanish in f16.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ndarray::{ArrayD, IxDyn};

use crate::framework::nn::{Conv2d, Flatten, Layer, Linear, Relu, Sequential};
use crate::framework::{Error, Gradients, Result, RngState, Tensor, Values, is_recording, no_grad};
use crate::half_ops::Product;
use crate::half_storage::{Stored, round_in_place};
use crate::mixed_precision::{Autocast, Half, autocast};

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
        let mut tape = Tape {
            half: self.half,
            entries: Vec::new(),
            parameters: parameters.into_iter().map(|(_, tensor)| tensor).collect(),
        };
        let values = standard(&x.array());
        let mut flow = Flow {
            values: Arc::new(Stored::new(self.half, slice(&values))),
            shape: x.shape().to_vec(),
        };
        for (_, layer) in &self.layers {
            let (output, entry) = step(self.half, layer, &flow)?;
            if records {
                tape.entries.push(entry);
            }
            flow = output;
        }
        let output = Tensor::new(flow.values.to_f32(), &flow.shape)?;
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

/// What flows from layer to layer.
#[derive(Clone)]
struct Flow {
    values: Arc<Stored>,
    shape: Vec<usize>,
}

impl Flow {
    fn tensor(&self) -> Result<Tensor> {
        Tensor::new(self.values.to_f32(), &self.shape)
    }
}

/// What one layer needs to go back.
struct Entry {
    layer: Arc<dyn Layer>,
    kind: Kind,
    input: Flow,
    output: Vec<usize>,
}

enum Kind {
    Product {
        product: Product,
        /// The master weight as it was, and the tensor; shares storage until it is stepped.
        weight: (Tensor, Values),
        bias: Option<Tensor>,
    },
    /// With the output, which the next layer keeps anyway.
    Relu(Arc<Stored>),
    Shape,
    /// With the state of its generator before it ran.
    F32(Option<RngState>),
}

fn step(half: Half, layer: &Arc<dyn Layer>, x: &Flow) -> Result<(Flow, Entry)> {
    let any = layer.as_any();
    let product = if autocast(layer.kind()) != Autocast::Half {
        None
    } else if let Some(linear) = any.downcast_ref::<Linear>() {
        let product = Product::linear(&x.shape, linear.weight().shape())?;
        let mut shape = x.shape.clone();
        shape.pop();
        shape.push(linear.weight().shape()[0]);
        Some((product, shape, linear.weight(), linear.bias()))
    } else if let Some(conv) = any.downcast_ref::<Conv2d>() {
        let product = Product::conv2d(&x.shape, conv.weight().shape(), conv.options())?;
        let [height, width] = product.out_size();
        let shape = vec![x.shape[0], conv.weight().shape()[0], height, width];
        Some((product, shape, conv.weight(), conv.bias()))
    } else {
        None
    };
    let (output, kind) = if let Some((product, shape, weight, bias)) = product {
        let values = standard(&weight.array());
        let biases = bias.map(|bias| standard(&bias.array()));
        let y = product.forward(&x.values, slice(&values), biases.as_ref().map(slice));
        let kind = Kind::Product {
            product,
            weight: (weight.clone(), values),
            bias: bias.cloned(),
        };
        let values = Arc::new(Stored::new(half, &y));
        (Flow { values, shape }, kind)
    } else if any.is::<Relu>() {
        let values = Arc::new(x.values.relu());
        let shape = x.shape.clone();
        (
            Flow {
                values: values.clone(),
                shape,
            },
            Kind::Relu(values),
        )
    } else if any.is::<Flatten>() {
        // The layer itself says what the shape becomes; its values stay where they are.
        let shape = no_grad(|| layer.forward(&x.tensor()?))?.shape().to_vec();
        let values = x.values.clone();
        (Flow { values, shape }, Kind::Shape)
    } else {
        let before = layer.own_rng_state();
        let y = no_grad(|| layer.forward(&x.tensor()?))?;
        let shape = y.shape().to_vec();
        let values = Arc::new(Stored::new(half, slice(&standard(&y.array()))));
        (Flow { values, shape }, Kind::F32(before))
    };
    let entry = Entry {
        layer: layer.clone(),
        kind,
        input: x.clone(),
        output: output.shape.clone(),
    };
    Ok((output, entry))
}

struct Tape {
    half: Half,
    entries: Vec<Entry>,
    parameters: Vec<Tensor>,
}

impl Tape {
    /// Bytes of the activations it keeps, each counted once.
    fn bytes(&self) -> usize {
        let mut kept: Vec<&Arc<Stored>> = Vec::new();
        for entry in &self.entries {
            let of_entry = match &entry.kind {
                Kind::Relu(output) => Some(output),
                Kind::Product { .. } | Kind::F32(_) => Some(&entry.input.values),
                Kind::Shape => None,
            };
            if let Some(values) = of_entry
                && !kept.iter().any(|other| Arc::ptr_eq(other, values))
            {
                kept.push(values);
            }
        }
        kept.iter().map(|values| values.bytes()).sum()
    }

    fn backward(self, gradient: &ArrayD<f32>, wants_x: bool, shape: &[usize]) -> Result<Gradients> {
        let half = self.half;
        let mut gradient: Vec<f32> = gradient.iter().copied().collect();
        round_in_place(half, &mut gradient);
        let mut gradients: Gradients = self.parameters.iter().map(|_| None).collect();
        let mut give = |parameter: &Tensor, mut values: Vec<f32>, in_half: bool| -> Result<()> {
            if in_half {
                round_in_place(half, &mut values);
            }
            let values = array(values, parameter.shape())?;
            let place = self
                .parameters
                .iter()
                .position(|other| other.is_same(parameter));
            if let Some(slot) = place.and_then(|place| gradients.get_mut(place)) {
                match slot {
                    Some(sum) => *sum += &values,
                    None => *slot = Some(values),
                }
            }
            Ok(())
        };
        let last = self.entries.len();
        for (index, entry) in self.entries.into_iter().rev().enumerate() {
            let wants_input = wants_x || index + 1 < last;
            match entry.kind {
                Kind::Product {
                    product,
                    weight: (weight, values),
                    bias,
                } => {
                    let x = &entry.input.values;
                    let (dx, dw) = product.backward(x, slice(&values), &gradient, wants_input);
                    give(&weight, dw, true)?;
                    if let Some(bias) = bias {
                        give(&bias, product.bias_gradient(&gradient), true)?;
                    }
                    gradient = dx.unwrap_or_default();
                }
                Kind::Relu(output) => output.mask(&mut gradient),
                Kind::Shape => {}
                Kind::F32(before) => {
                    let upstream = Tensor::new(gradient, &entry.output)?;
                    let again = again(&*entry.layer, &entry.input, before, &upstream)?;
                    for (parameter, values) in again.parameters {
                        give(&parameter, values, false)?;
                    }
                    gradient = again.input;
                }
            }
            round_in_place(half, &mut gradient);
        }
        let to_x = if wants_x {
            Some(array(gradient, shape)?)
        } else {
            None
        };
        Ok(std::iter::once(to_x).chain(gradients).collect())
    }
}

/// The gradients of a layer that was computed again.
struct Again {
    input: Vec<f32>,
    parameters: Vec<(Tensor, Vec<f32>)>,
}

/// Computes a layer again in `f32` and goes back. What it changes on the way (running moments, its generator), it changed the
/// first time already; so that is put back.
fn again(
    layer: &dyn Layer,
    input: &Flow,
    before: Option<RngState>,
    upstream: &Tensor,
) -> Result<Again> {
    let buffers: Vec<(Tensor, Values)> = (layer.named_buffers().into_iter())
        .map(|(_, buffer)| (buffer.clone(), buffer.array()))
        .collect();
    let parameters = layer.named_parameters();
    let collected: Vec<Option<Tensor>> = parameters.iter().map(|(_, p)| p.grad()).collect();
    layer.zero_grad();
    let after = layer.own_rng_state();
    if let Some(before) = &before {
        layer.set_own_rng_state(before);
    }
    let x = input.tensor()?.with_grad();
    let result = layer.forward(&x).and_then(|y| y.backward_from(upstream));
    if let Some(after) = &after {
        layer.set_own_rng_state(after);
    }
    for (buffer, values) in buffers {
        buffer.assign(&Tensor::from_array(values))?;
    }
    let mut own = Vec::new();
    for ((_, parameter), collected) in parameters.into_iter().zip(collected) {
        own.extend(
            parameter
                .grad()
                .map(|gradient| (parameter.clone(), gradient.to_vec())),
        );
        match collected {
            Some(gradient) => parameter.set_grad(&gradient)?,
            None => parameter.zero_grad(),
        }
    }
    result?;
    let input = x
        .grad()
        .map_or_else(|| vec![0.0; x.len()], |gradient| gradient.to_vec());
    Ok(Again {
        input,
        parameters: own,
    })
}

fn standard(values: &Values) -> Values {
    match values.is_standard_layout() {
        true => values.clone(),
        false => values.as_standard_layout().into_owned().into_shared(),
    }
}

fn slice(values: &Values) -> &[f32] {
    values.as_slice().expect("the array is in row-major order")
}

fn array(values: Vec<f32>, shape: &[usize]) -> Result<ArrayD<f32>> {
    let count = values.len();
    ArrayD::from_shape_vec(IxDyn(shape), values).map_err(|_| Error::ValueCount {
        shape: shape.to_vec(),
        count,
    })
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
