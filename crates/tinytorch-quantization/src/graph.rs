//! From the layers of a quantized model to what runs: who is given codes, who real values, and how images lie.
//!
//! In: layers by definition, which may hold others. Out: nodes, each with its weights packed, that agree with their neighbours
//! on what flows between them. What does not agree is refused here, by name, and so cannot go wrong when the model runs.

use std::iter;

use crate::composite::{Chain, Join, QBranches, QResidual, Takes, demands_codes};
use crate::error::{Error, Result};
use crate::flow::{Codes, Flow};
use crate::framework::{Tensor, no_grad};
use crate::join::{check_shapes, interleave, joined_shape};
use crate::narrow_step::NarrowStep;
use crate::qlayer::QLayer;
use crate::real_run;
use crate::scheme::{CodeRange, QParams};
use crate::step::{BranchesStep, PackedConv2d, PackedLinear, ResidualStep, Step};

/// One layer as it runs.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub name: String,
    /// What real values are written as before the layer sees them; `None` leaves what comes as it is.
    written: Option<QParams>,
    pub step: Step,
}

impl Node {
    /// Whether its input is written as codes first, if it comes as real values.
    pub fn writes(&self) -> bool {
        self.written.is_some()
    }
}

/// What is known of the values between two layers.
#[derive(Clone, Copy, Debug)]
struct State {
    values: Values,
    layout: Layout,
}

#[derive(Clone, Copy, Debug)]
enum Values {
    Codes(QParams),
    /// Real values, and what codes they shall have for a layer that takes codes.
    Real(Option<QParams>),
}

/// How codes lie in memory, as far as it is known beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// In the order of the axes, or not known.
    Plain,
    /// An image with so many channels, channels last.
    Image(usize),
    /// The same, flattened: the linear layer behind it has the order in its weights.
    FlatImage(usize),
}

/// The nodes of a model whose input shall be written as `input` where codes are wanted.
pub(crate) fn model(input: QParams, layers: &[(String, QLayer)]) -> Result<Vec<Node>> {
    let written = demands_codes(layers, true).then_some(input);
    let state = State {
        values: Values::Real(written),
        layout: Layout::Plain,
    };
    chain(layers, state).map(|(nodes, _)| nodes)
}

fn chain(layers: &[(String, QLayer)], mut state: State) -> Result<(Vec<Node>, State)> {
    let mut nodes = Vec::with_capacity(layers.len());
    for (index, (name, layer)) in layers.iter().enumerate() {
        let next = layers.get(index + 1).map(|(_, next)| next);
        let (written, step, after) =
            node(layer, next, state).map_err(|error| error.in_layer(name))?;
        state = after;
        nodes.push(Node {
            name: name.clone(),
            written,
            step,
        });
    }
    Ok((nodes, state))
}

/// What a layer becomes, what real values before it are written as, and what is known behind it.
fn node(
    layer: &QLayer,
    next: Option<&QLayer>,
    before: State,
) -> Result<(Option<QParams>, Step, State)> {
    let State { values, layout } = before;
    // The linear layer behind it writes real values as codes where it multiplies them.
    let written_behind = matches!((layer, next), (QLayer::Flatten, Some(QLayer::Linear(_))))
        && layout == Layout::Plain;
    let (written, values) = match (layer.takes(), values) {
        (Takes::Codes, Values::Real(None)) => return Err(Error::NoCodes),
        (Takes::Either, values @ Values::Real(Some(_))) if written_behind => (None, values),
        (Takes::Codes | Takes::Either, Values::Real(Some(qparams))) => {
            (Some(qparams), Values::Codes(qparams))
        }
        (Takes::Real, Values::Codes(_)) => (None, Values::Real(None)),
        (_, values) => (None, values),
    };
    let current = match values {
        Values::Codes(qparams) => Some(qparams),
        Values::Real(_) => None,
    };
    let expected = match layer {
        QLayer::Linear(layer) => Some(layer.input()),
        QLayer::Conv2d(layer) => Some(layer.input()),
        _ => current,
    };
    if let Some(expected) = expected
        && current != Some(expected)
    {
        return Err(Error::OtherQParams {
            expected,
            got: current,
        });
    }
    // What was made real lies in the order of its axes.
    let layout = match values {
        Values::Codes(_) => layout,
        Values::Real(_) => Layout::Plain,
    };
    let inside = State { values, layout };
    let (step, layout) = match layer {
        QLayer::Linear(layer) => {
            let channels = match layout {
                Layout::FlatImage(channels) => Some(channels),
                _ => None,
            };
            (
                Step::Linear(PackedLinear::new(layer, channels)?),
                Layout::Plain,
            )
        }
        QLayer::Conv2d(layer) => {
            let step = PackedConv2d::new(layer)?;
            let layout = Layout::Image(step.channels());
            (Step::Conv2d(step), layout)
        }
        QLayer::MaxPool2d(options) => (Step::MaxPool2d(*options), layout),
        QLayer::AvgPool2d(options) => (Step::AvgPool2d(*options), layout),
        QLayer::Relu => (Step::Relu, layout),
        QLayer::Flatten => {
            // Where a linear layer follows, its columns are reordered once instead of every image.
            let inputs = match next {
                Some(QLayer::Linear(next)) => next.weight().shape()[1],
                _ => 0,
            };
            let layout = match layout {
                Layout::Image(c) if inputs > 0 && inputs.is_multiple_of(c) => Layout::FlatImage(c),
                _ => Layout::Plain,
            };
            let keep = layout != Layout::Plain;
            (Step::Flatten { keep }, layout)
        }
        QLayer::Float(layer) => (Step::Float(layer.clone()), Layout::Plain),
        QLayer::Embedding(layer) => (Step::Embedding(layer.clone()), Layout::Plain),
        QLayer::Narrow(layer) => (
            Step::Narrow(Box::new(NarrowStep::new(layer)?)),
            Layout::Plain,
        ),
        QLayer::Residual(layer) => residual(layer, inside)?,
        QLayer::Concat(layer) => concat(layer, inside)?,
    };
    // The parameters of a layer in `f32` came from the caller or a file, and nobody has looked at them yet.
    let own = match layer {
        QLayer::Embedding(_) => Some(layer.output(crate::qlayer::NO_CODES)),
        _ => layer.real_output(),
    };
    if let Some(qparams) = own {
        qparams.check(CodeRange::INT8)?;
    }
    let values = match (&step, own) {
        (Step::Float(_) | Step::Narrow(_), own) => Values::Real(own),
        (Step::Residual(step), own) if !step.sum.is_codes() => Values::Real(own),
        (Step::Concat(step), own) if !step.join.is_codes() => Values::Real(own),
        (_, Some(own)) => Values::Codes(own),
        (_, None) => match values {
            Values::Codes(current) => Values::Codes(layer.output(current)),
            Values::Real(_) => values,
        },
    };
    Ok((written, step, State { values, layout }))
}

/// Checks that a way which ends in `end` gives codes that mean `expected`, or real values that are to be written as that.
fn check_end(end: State, expected: QParams) -> Result<()> {
    let got = match end.values {
        Values::Codes(got) | Values::Real(Some(got)) => got,
        Values::Real(None) => return Err(Error::NoCodes),
    };
    if got == expected {
        return Ok(());
    }
    Err(Error::OtherQParams {
        expected,
        got: Some(got),
    })
}

fn residual(layer: &QResidual, inside: State) -> Result<(Step, Layout)> {
    let (body, left) = chain(&layer.body, inside)?;
    let (shortcut, right) = chain(&layer.shortcut, inside)?;
    let mut layout = Layout::Plain;
    if let Join::Codes(sum) = &layer.sum {
        let inputs = sum.inputs();
        check_end(left, inputs[0])?;
        check_end(right, inputs[1])?;
        // Both have one shape, so if one way is an image, the sum is.
        layout = match (left.layout, right.layout) {
            (Layout::Image(c), _) | (_, Layout::Image(c)) => Layout::Image(c),
            _ => Layout::Plain,
        };
    }
    let sum = layer.sum.clone();
    let step = ResidualStep {
        body,
        shortcut,
        sum,
    };
    Ok((Step::Residual(Box::new(step)), layout))
}

fn concat(layer: &QBranches, inside: State) -> Result<(Step, Layout)> {
    let ways = layer.branches.iter().map(|branch| chain(branch, inside));
    let (branches, ends): (Vec<_>, Vec<_>) = ways.collect::<Result<Vec<_>>>()?.into_iter().unzip();
    let mut layout = Layout::Plain;
    if let Join::Codes(join) = &layer.join {
        if join.inputs().len() != ends.len() {
            return Err(Error::ShapeMismatch {
                operation: "QConcat",
                expected: format!("{} ways", join.inputs().len()),
                got: vec![ends.len()],
            });
        }
        let mut channels = Some(0);
        for (end, expected) in ends.iter().zip(join.inputs()) {
            check_end(*end, *expected)?;
            channels = match (channels, end.layout) {
                (Some(sum), Layout::Image(c)) => Some(sum + c),
                _ => None,
            };
        }
        layout = channels.map_or(Layout::Plain, Layout::Image);
    }
    let join = layer.join.clone();
    let step = BranchesStep { branches, join };
    Ok((Step::Concat(Box::new(step)), layout))
}

/// Runs nodes on what `source` gave.
pub(crate) fn run(nodes: &[Node], x: Flow, source: &str) -> Result<Flow> {
    let mut flow = x;
    let mut source = source;
    // The shape of what came from `source`: which channel an index belongs to.
    let mut shape = flow.shape().to_vec();
    let mut nodes = nodes.iter().peekable();
    while let Some(node) = nodes.next() {
        if let (None, Step::Float(_)) = (node.written, &node.step) {
            let x = flow
                .into_real()
                .map_err(|error| error.in_layer(&node.name))?;
            let together = real_run::run(iter::once(node).chain(nodes.clone()), &x);
            flow = Flow::Real(x);
            if let Some((y, count)) = together {
                source = nodes.nth(count - 2).map_or(source, |last| &last.name);
                y.shape().clone_into(&mut shape);
                flow = Flow::Real(y);
                continue;
            }
        }
        let Node {
            name,
            written,
            step,
        } = node;
        let before = source;
        // Flattening changes no index: what it passes on came from before it.
        let passes = matches!((step, &flow), (Step::Flatten { .. }, Flow::Real(_)));
        if !passes {
            source = name;
        }
        let named = |error: Error| error.in_tensor(before).in_activation(&shape);
        let flow_in = match (flow, written, step) {
            // Written where they are multiplied.
            (Flow::Real(x), Some(written), Step::Linear(layer)) => {
                let y = Codes::of_real(&x, *written, layer).map_err(|error| match error {
                    Error::NotFinite { .. } => named(error),
                    error => error.in_layer(name),
                });
                flow = Flow::Codes(y?);
                // Overwritten where it is: one allocation for a model, not one for each layer.
                flow.shape().clone_into(&mut shape);
                continue;
            }
            (flow, Some(written), _) => {
                let codes = flow.into_codes(*written);
                Flow::Codes(codes.map_err(named)?)
            }
            (flow, None, _) => flow,
        };
        let y = match (step, flow_in, nodes.peek().copied()) {
            // The codes that pooling drops need not be written.
            (Step::Conv2d(layer), Flow::Codes(x), Some(next)) => {
                let y = x.convolved_and_pooled(layer, &next.step);
                y.map(|(y, pooled)| {
                    if pooled {
                        nodes.next();
                        source = &next.name;
                    }
                    Flow::Codes(y)
                })
            }
            (_, flow, _) => through(step, flow, before),
        };
        flow = y.map_err(|error| match error {
            // What could not be written as codes is named by where it came from.
            Error::NotFinite { .. } if matches!(step, Step::Narrow(_)) => named(error),
            Error::NotFinite { .. } => error,
            error => error.in_layer(name),
        })?;
        if !passes {
            flow.shape().clone_into(&mut shape);
        }
    }
    Ok(flow)
}

fn through(step: &Step, flow: Flow, source: &str) -> Result<Flow> {
    match (step, flow) {
        (Step::Float(float), flow) => {
            let x = flow.into_real()?;
            float.forward(&x).map(Flow::Real)
        }
        (Step::Embedding(embedding), flow) => {
            let (codes, shape) = embedding.rows(&flow.into_real()?)?;
            Ok(Flow::Codes(Codes {
                codes: codes.into(),
                shape,
                channels_last: false,
                qparams: embedding.output(),
            }))
        }
        (Step::Narrow(layer), flow) => {
            let x = flow.into_real()?;
            let y = no_grad(|| layer.forward(&x));
            y.map(Flow::Real)
        }
        (Step::Residual(step), flow) => residual_through(step, flow, source),
        (Step::Concat(step), flow) => concat_through(step, flow, source),
        (step, Flow::Codes(codes)) => codes.through(step).map(Flow::Codes),
        (step, Flow::Real(x)) => no_grad(|| on_real(step, &x)).map(Flow::Real),
    }
}

/// Layers that take either, on real values.
fn on_real(step: &Step, x: &Tensor) -> Result<Tensor> {
    Ok(match step {
        Step::MaxPool2d(options) => x.max_pool2d(*options)?,
        Step::AvgPool2d(options) => x.avg_pool2d(*options)?,
        Step::Relu => x.relu(),
        Step::Flatten { .. } => x.flatten_from(1)?,
        _ => {
            return Err(Error::Unsupported {
                what: "real values for a layer that takes codes",
            });
        }
    })
}

/// What a way makes of `x`, written as codes that mean `end` if real values came out.
fn way(nodes: &[Node], x: Flow, source: &str, end: QParams) -> Result<Codes> {
    let last = nodes.last().map_or(source, |node| &node.name);
    let y = run(nodes, x, source)?;
    let shape = y.shape().to_vec();
    let named = |error: Error| error.in_tensor(last).in_activation(&shape);
    y.into_codes(end).map_err(named)
}

fn residual_through(step: &ResidualStep, x: Flow, source: &str) -> Result<Flow> {
    let ResidualStep {
        body,
        shortcut,
        sum,
    } = step;
    let sum = match sum {
        Join::Codes(sum) => sum,
        Join::Real { .. } => {
            let left = run(body, x.clone(), source)?.into_real()?;
            let right = run(shortcut, x, source)?.into_real()?;
            check_shapes(left.shape(), right.shape())?;
            return Ok(Flow::Real(no_grad(|| left.try_add(&right))?));
        }
    };
    let [left_end, right_end] = sum.inputs();
    let mut left = way(body, x.clone(), source, left_end)?;
    let mut right = way(shortcut, x, source, right_end)?;
    check_shapes(&left.shape, &right.shape)?;
    if left.channels_last != right.channels_last {
        // Of one shape, so both are images.
        left = left.channels_last()?.0;
        right = right.channels_last()?.0;
    }
    sum.add(&mut left.codes, &right.codes)?;
    left.qparams = sum.output();
    Ok(Flow::Codes(left))
}

fn concat_through(step: &BranchesStep, x: Flow, source: &str) -> Result<Flow> {
    let branches = step.branches.iter();
    let join = match &step.join {
        Join::Codes(join) => join,
        Join::Real { .. } => {
            let ways = branches.map(|branch| run(branch, x.clone(), source)?.into_real());
            let ways = ways.collect::<Result<Vec<_>>>()?;
            let joined = no_grad(|| Tensor::concat(&ways.iter().collect::<Vec<_>>(), 1))?;
            return Ok(Flow::Real(joined));
        }
    };
    let mut ways = Vec::with_capacity(step.branches.len());
    for (index, (branch, &end)) in branches.zip(join.inputs()).enumerate() {
        let mut way = way(branch, x.clone(), source, end)?;
        join.rescale(index, &mut way.codes)?;
        ways.push(way);
    }
    let shapes: Vec<_> = ways.iter().map(|way| way.shape.as_slice()).collect();
    let shape = joined_shape(&shapes)?;
    let channels_last = ways.iter().any(|way| way.channels_last);
    if channels_last {
        let last = ways.into_iter().map(|way| Ok(way.channels_last()?.0));
        ways = last.collect::<Result<Vec<_>>>()?;
    }
    // With channels last a block is the channels of one place, otherwise all that one example has.
    let block = |way: &Codes| match channels_last {
        true => way.shape[1],
        false => way.shape[1..].iter().product(),
    };
    let blocks: Vec<usize> = ways.iter().map(block).collect();
    let count = match channels_last {
        true => shape[0] * shape[2..].iter().product::<usize>(),
        false => shape[0],
    };
    let parts: Vec<_> = ways.iter().map(|way| &*way.codes).collect();
    Ok(Flow::Codes(Codes {
        codes: interleave(&parts, &blocks, count).into(),
        shape,
        channels_last,
        qparams: join.output(),
    }))
}

/// The layers that the nodes were made of.
///
/// # Errors
///
/// None for nodes that were made.
pub(crate) fn layers(nodes: &[Node]) -> Result<Chain> {
    let layer = |node: &Node| Ok((node.name.clone(), node.step.unpack()?));
    nodes.iter().map(layer).collect()
}

/// Calls `look` with every node, those inside of others first.
pub(crate) fn visit<'a>(nodes: &'a [Node], look: &mut impl FnMut(&'a Node)) {
    for node in nodes {
        for chain in node.step.chains() {
            visit(chain, look);
        }
        look(node);
    }
}

/// Bytes of parameters held.
pub(crate) fn bytes(nodes: &[Node]) -> usize {
    nodes.iter().map(|node| node.step.bytes()).sum()
}
