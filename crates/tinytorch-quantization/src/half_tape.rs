//! The way through a model in half precision, forwards and back: what each layer does, and what it keeps.
//!
//! In: what flows to a layer. Out: what flows on, and an entry with all that the way back needs, and no more: what an entry does
//! not hold is freed as soon as the next layer has read it. See [`HalfModel`](crate::HalfModel) for the table of layers.

use std::sync::{Arc, OnceLock};

use ndarray::{ArrayD, IxDyn};

use crate::framework::nn::{Concat, Conv2d, Embedding, Flatten, Layer, Linear, Relu};
use crate::framework::{Error, Gradients, Result, RngState, Tensor, Values, no_grad, recycle};
use crate::half_ops::Product;
use crate::half_storage::{Stored, round_in_place};
use crate::mixed_precision::{Autocast, Half, autocast};
use crate::take_apart::{Leaf, ways};

/// What flows from layer to layer.
#[derive(Clone)]
pub(crate) struct Flow {
    values: Kept,
    shape: Vec<usize>,
}

/// Values that flow, or are kept for the way back.
#[derive(Clone)]
enum Kept {
    /// In 16 bits.
    Half(Arc<Stored>),
    /// Indices of an embedding, and what may become some: exact. Where others read them too, they are rounded once, however many do.
    Real(Values, Arc<OnceLock<Arc<Stored>>>),
}

impl Flow {
    /// What a model is given. `[batch, ..]`; any shape stays.
    pub fn real(x: &Tensor) -> Self {
        Self {
            values: Kept::Real(standard(&x.array()), Arc::default()),
            shape: x.shape().to_vec(),
        }
    }

    /// What a layer gives, in 16 bits unless it must stay `exact`.
    fn new(half: Half, y: &Tensor, exact: bool) -> Self {
        let real = Self::real(y);
        match exact {
            true => real,
            false => real.rounded(half).0,
        }
    }

    /// In `f32`. The shape stays.
    pub fn tensor(&self) -> Result<Tensor> {
        match &self.values {
            Kept::Half(stored) => Tensor::new(stored.to_f32(), &self.shape),
            Kept::Real(values, _) => Ok(Tensor::from_array(values.clone())),
        }
    }

    /// The same in 16 bits.
    fn rounded(&self, half: Half) -> (Self, Arc<Stored>) {
        let stored = match &self.values {
            Kept::Half(stored) => stored.clone(),
            Kept::Real(values, rounded) => rounded
                .get_or_init(|| Arc::new(Stored::new(half, slice(values))))
                .clone(),
        };
        let flow = Self {
            values: Kept::Half(stored.clone()),
            shape: self.shape.clone(),
        };
        (flow, stored)
    }
}

/// What one layer needs to go back.
pub(crate) struct Entry {
    kind: Kind,
    output: Vec<usize>,
}

enum Kind {
    Product {
        product: Product,
        /// With the input.
        x: Arc<Stored>,
        /// The master weight as it was, and the tensor; shares storage until it is stepped.
        weight: (Tensor, Values),
        bias: Option<Tensor>,
    },
    /// With the output, which the next layer keeps anyway.
    Relu(Arc<Stored>),
    Shape,
    /// What the ways of a sum (`None`) or a concatenation (channels of each way) keep.
    Ways(Vec<Vec<Entry>>, Option<Vec<usize>>),
    F32 {
        layer: Arc<dyn Layer>,
        input: Flow,
        /// The states of its generators, and of those of the layers inside, before it ran.
        before: Vec<(String, RngState)>,
    },
}

/// How a way is computed.
#[derive(Clone, Copy)]
pub(crate) struct Mode {
    pub half: Half,
    /// Whether its end is read as indices.
    pub exact: bool,
    /// Without it there are no entries.
    pub records: bool,
}

/// Whether what flows into these layers is read as indices, which must not be rounded; `after` says it of what leaves them.
fn reads_indices(layers: &[Leaf], after: bool) -> bool {
    let Some(((_, layer), rest)) = layers.split_first() else {
        return after;
    };
    if let Some(ways) = ways("", &**layer) {
        let behind = reads_indices(rest, after);
        return ways.iter().any(|way| reads_indices(way, behind));
    }
    let passes_on = autocast(layer.kind()) == Autocast::Either;
    holds_embedding(&**layer) || passes_on && reads_indices(rest, after)
}

/// Also inside of a layer that is not taken apart.
fn holds_embedding(layer: &dyn Layer) -> bool {
    let mut inside = layer.children().into_iter();
    layer.as_any().is::<Embedding>() || inside.any(|(_, child)| holds_embedding(child))
}

/// Computes layers one behind the other.
pub(crate) fn way(layers: &[Leaf], x: &Flow, mode: Mode) -> Result<(Flow, Vec<Entry>)> {
    let mut flow = x.clone();
    let mut entries = Vec::new();
    for (index, (_, layer)) in layers.iter().enumerate() {
        let exact = reads_indices(&layers[index + 1..], mode.exact);
        let (output, entry) = step(layer, &flow, Mode { exact, ..mode })?;
        if mode.records {
            entries.push(entry);
        }
        flow = output;
    }
    match mode.exact {
        true => Ok((flow, entries)),
        false => Ok((flow.rounded(mode.half).0, entries)),
    }
}

fn step(layer: &Arc<dyn Layer>, x: &Flow, mode: Mode) -> Result<(Flow, Entry)> {
    let Mode { half, exact, .. } = mode;
    let any = layer.as_any();
    let (output, kind) = if let Some((product, shape, weight, bias)) = product(&**layer, &x.shape)?
    {
        let stored = x.rounded(half).1;
        let values = standard(&weight.array());
        let biases = bias.map(|bias| standard(&bias.array()));
        let y = product.forward(&stored, slice(&values), biases.as_ref().map(slice));
        let kind = Kind::Product {
            product,
            x: stored,
            weight: (weight.clone(), values),
            bias: bias.cloned(),
        };
        (Flow::new(half, &Tensor::new(y, &shape)?, exact), kind)
    } else if any.is::<Relu>() && !exact {
        let values = Arc::new(x.rounded(half).1.relu());
        let flow = Flow {
            values: Kept::Half(values.clone()),
            shape: x.shape.clone(),
        };
        (flow, Kind::Relu(values))
    } else if any.is::<Flatten>() {
        // The layer itself says what the shape becomes; its values stay where they are.
        let y = no_grad(|| layer.forward(&x.tensor()?))?;
        let shape = y.shape().to_vec();
        let values = match &x.values {
            Kept::Half(stored) => Kept::Half(stored.clone()),
            Kept::Real(..) => Kept::Real(standard(&y.array()), Arc::default()),
        };
        (Flow { values, shape }, Kind::Shape)
    } else if let Some(branches) = ways("", &**layer) {
        let (mut ends, mut kept) = (Vec::new(), Vec::new());
        for branch in &branches {
            let (end, entries) = way(branch, x, mode)?;
            ends.push(end.tensor()?);
            kept.push(entries);
        }
        let (y, channels) = join(&ends, any.is::<Concat>())?;
        (Flow::new(half, &y, exact), Kind::Ways(kept, channels))
    } else {
        let input = match exact || holds_embedding(&**layer) {
            true => x.clone(),
            false => x.rounded(half).0,
        };
        let before = layer.named_rng_states();
        let y = no_grad(|| layer.forward(&input.tensor()?))?;
        let layer = layer.clone();
        let kind = Kind::F32 {
            layer,
            input,
            before,
        };
        (Flow::new(half, &y, exact), kind)
    };
    let entry = Entry {
        kind,
        output: output.shape.clone(),
    };
    Ok((output, entry))
}

/// A product in 16 bits: its geometry, the shape of what it gives, weight and bias. `None` if the layer is another.
type LayerProduct<'a> = (Product, Vec<usize>, &'a Tensor, Option<&'a Tensor>);

fn product<'a>(layer: &'a dyn Layer, x: &[usize]) -> Result<Option<LayerProduct<'a>>> {
    let any = layer.as_any();
    if autocast(layer.kind()) != Autocast::Half {
        return Ok(None);
    }
    if let Some(linear) = any.downcast_ref::<Linear>() {
        let product = Product::linear(x, linear.weight().shape())?;
        let mut shape = x.to_vec();
        shape.pop();
        shape.push(linear.weight().shape()[0]);
        return Ok(Some((product, shape, linear.weight(), linear.bias())));
    }
    let Some(conv) = any.downcast_ref::<Conv2d>() else {
        return Ok(None);
    };
    let product = Product::conv2d(x, conv.weight().shape(), conv.options())?;
    let [height, width] = product.out_size();
    let shape = vec![x[0], conv.weight().shape()[0], height, width];
    Ok(Some((product, shape, conv.weight(), conv.bias())))
}

/// The ends of ways added, or joined along axis 1, with the channels of each.
fn join(ends: &[Tensor], concat: bool) -> Result<(Tensor, Option<Vec<usize>>)> {
    if concat {
        let y = no_grad(|| Tensor::concat(&ends.iter().collect::<Vec<_>>(), 1))?;
        let channels = ends.iter().map(|end| end.shape()[1]).collect();
        return Ok((y, Some(channels)));
    }
    let mut sum = ends[0].clone();
    for end in &ends[1..] {
        if end.shape() != sum.shape() {
            return Err(Error::ShapeMismatch {
                operation: "residual",
                left: sum.shape().to_vec(),
                right: end.shape().to_vec(),
            });
        }
        sum = no_grad(|| sum.try_add(end))?;
    }
    Ok((sum, None))
}

/// A recorded pass, with the parameters whose gradients it gives.
pub(crate) struct Tape {
    pub half: Half,
    pub entries: Vec<Entry>,
    pub parameters: Vec<Tensor>,
}

impl Tape {
    /// Bytes of the activations it keeps, each counted once.
    pub fn bytes(&self) -> usize {
        let mut kept: Vec<(*const u8, usize)> = Vec::new();
        note(&self.entries, &mut kept);
        kept.iter().map(|(_, bytes)| bytes).sum()
    }

    /// The gradients: of the input, if wanted, then of the parameters. `gradient` has the shape of the output, `shape` is
    /// that of the input; each has the shape of what it belongs to.
    pub fn backward(
        self,
        gradient: &ArrayD<f32>,
        wants_x: bool,
        shape: &[usize],
    ) -> Result<Gradients> {
        let mut gradient: Vec<f32> = gradient.iter().copied().collect();
        round_in_place(self.half, &mut gradient);
        let mut collected = Collected {
            half: self.half,
            gradients: self.parameters.iter().map(|_| None).collect(),
            parameters: self.parameters,
        };
        let gradient = collected.back(self.entries, gradient, wants_x)?;
        let to_x = match wants_x {
            true => Some(array(gradient, shape)?),
            false => None,
        };
        Ok(std::iter::once(to_x).chain(collected.gradients).collect())
    }
}

/// Notes what entries keep, by where it lies.
fn note(entries: &[Entry], kept: &mut Vec<(*const u8, usize)>) {
    let mut add = |values: &Kept| {
        let one = match values {
            Kept::Half(stored) => (Arc::as_ptr(stored).cast(), stored.bytes()),
            Kept::Real(values, _) => (
                slice(values).as_ptr().cast(),
                size_of_val::<[f32]>(slice(values)),
            ),
        };
        if !kept.iter().any(|(place, _)| *place == one.0) {
            kept.push(one);
        }
    };
    for entry in entries {
        match &entry.kind {
            Kind::Relu(values) | Kind::Product { x: values, .. } => {
                add(&Kept::Half(values.clone()));
            }
            Kind::F32 { input, .. } => add(&input.values),
            Kind::Shape | Kind::Ways(..) => {}
        }
    }
    for entry in entries {
        if let Kind::Ways(ways, _) = &entry.kind {
            ways.iter().for_each(|way| note(way, kept));
        }
    }
}

/// Gradients of parameters, on the way back.
struct Collected {
    half: Half,
    parameters: Vec<Tensor>,
    gradients: Gradients,
}

impl Collected {
    fn give(&mut self, parameter: &Tensor, mut values: Vec<f32>, in_half: bool) -> Result<()> {
        if in_half {
            round_in_place(self.half, &mut values);
        }
        let values = array(values, parameter.shape())?;
        let mut places = self.parameters.iter();
        let place = places.position(|other| other.is_same(parameter));
        if let Some(slot) = place.and_then(|place| self.gradients.get_mut(place)) {
            match slot {
                Some(sum) => *sum += &values,
                None => *slot = Some(values),
            }
        }
        Ok(())
    }

    /// Goes back through layers one behind the other. The gradient of what came in is empty unless it is wanted.
    fn back(&mut self, entries: Vec<Entry>, gradient: Vec<f32>, wants_x: bool) -> Result<Vec<f32>> {
        let mut gradient = gradient;
        let last = entries.len();
        for (index, entry) in entries.into_iter().rev().enumerate() {
            let wants_input = wants_x || index + 1 < last;
            match entry.kind {
                Kind::Product {
                    product,
                    x,
                    weight: (weight, values),
                    bias,
                } => {
                    let (dx, dw) = product.backward(&x, slice(&values), &gradient, wants_input);
                    self.give(&weight, dw, true)?;
                    if let Some(bias) = bias {
                        self.give(&bias, product.bias_gradient(&gradient), true)?;
                    }
                    recycle::give(std::mem::replace(&mut gradient, dx.unwrap_or_default()));
                }
                Kind::Relu(output) => output.mask(&mut gradient),
                Kind::Shape => {}
                Kind::Ways(ways, channels) => {
                    let parts = split(&gradient, &entry.output, ways.len(), channels.as_deref());
                    let mut sum: Vec<f32> = Vec::new();
                    for (way, part) in ways.into_iter().zip(parts) {
                        let back = self.back(way, part, wants_input)?;
                        if sum.is_empty() {
                            sum = back;
                        } else {
                            sum.iter_mut().zip(back).for_each(|(sum, g)| *sum += g);
                        }
                    }
                    gradient = sum;
                }
                Kind::F32 {
                    layer,
                    input,
                    before,
                } => {
                    let upstream = Tensor::new(gradient, &entry.output)?;
                    let again = again(&*layer, &input, &before, &upstream)?;
                    for (parameter, values) in again.parameters {
                        self.give(&parameter, values, false)?;
                    }
                    gradient = again.input;
                }
            }
            round_in_place(self.half, &mut gradient);
        }
        Ok(gradient)
    }
}

/// The gradient of each way: all of it for a sum, its own channels for a concatenation.
fn split(
    gradient: &[f32],
    shape: &[usize],
    ways: usize,
    channels: Option<&[usize]>,
) -> Vec<Vec<f32>> {
    let Some(channels) = channels else {
        return vec![gradient.to_vec(); ways];
    };
    let plane: usize = shape[2..].iter().product();
    let mut parts = vec![Vec::new(); ways];
    let mut rest = gradient;
    while !rest.is_empty() {
        for (part, &channels) in parts.iter_mut().zip(channels) {
            let (own, others) = rest.split_at(channels * plane);
            part.extend_from_slice(own);
            rest = others;
        }
    }
    parts
}

/// The gradients of a layer that was computed again.
struct Again {
    input: Vec<f32>,
    parameters: Vec<(Tensor, Vec<f32>)>,
}

/// Computes a layer again in `f32` and goes back. What it changes on the way (running moments, generators, its own and those of
/// layers inside), it changed the first time already; so that is put back.
fn again(
    layer: &dyn Layer,
    input: &Flow,
    before: &[(String, RngState)],
    upstream: &Tensor,
) -> Result<Again> {
    let buffers: Vec<(Tensor, Values)> = (layer.named_buffers().into_iter())
        .map(|(_, buffer)| (buffer.clone(), buffer.array()))
        .collect();
    let parameters = layer.named_parameters();
    let collected: Vec<Option<Tensor>> = parameters.iter().map(|(_, p)| p.grad()).collect();
    layer.zero_grad();
    let after = layer.named_rng_states();
    layer.restore_rng_states(before)?;
    let x = input.tensor()?.with_grad();
    let result = layer.forward(&x).and_then(|y| y.backward_from(upstream));
    layer.restore_rng_states(&after)?;
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
