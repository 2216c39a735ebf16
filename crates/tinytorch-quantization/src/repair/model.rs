//! Equalization of a whole model: which layers stand next to each other, and again until nothing moves.

use super::equalize::{Reads, equalize_pair};
use crate::error::Result;
use crate::folded::{Folded, Operation};
use crate::prepare::Prepared;
use crate::qlayer::QLayer;
use crate::stage::{Role, Stage};

/// What [`equalize`] did.
#[derive(Clone, Debug, PartialEq)]
pub struct Equalized {
    /// Pairs of layers whose channels were scaled, by name.
    pub pairs: Vec<(String, String)>,
    /// Layers whose outputs could not be scaled, and why. The last layer with weights is not among them: behind it is no layer
    /// that could take the scales back.
    pub skipped: Vec<(String, String)>,
    /// Rounds until nothing moved any more, in the chain that took longest.
    pub rounds: usize,
    /// The largest change of a factor in the last round: 0 is none.
    pub last_change: f32,
}

/// Rounds, at most. Each halves, at least, what is left to do in a chain of three layers.
const ROUNDS: usize = 50;

/// A round that scales no channel by more than this has found the end.
const CONVERGED: f32 = 1e-3;

/// A pair of stages, the second of which reads the channels of the first.
struct Pair {
    first: usize,
    second: usize,
    reads: Reads,
}

/// Scales the channels between layers so that the same range serves all of them; the function stays the same up to the
/// rounding of `f32`.
///
/// Layers are neighbours if only a ReLU, pooling or a flatten lies between them: what passes positive factors through. A chain
/// of several, with depthwise convolutions among them, is gone through again and again until no factor is further than 0.1 %
/// from 1. Weights and biases of the stages are replaced; the original model is not. The ranges of activations are others afterwards:
/// [`Prepared::forget_observations`] and calibrate again. Each way of a sum or a concatenation is a chain of its own; channels that
/// enter or leave one keep their scale, because all ways share it.
///
/// Source: Nagel et al. 2019, arXiv 1906.04721, section 4.1.
///
/// # Errors
///
/// [`crate::Error::NotFinite`] that names the weight or bias that is not finite.
pub fn equalize(prepared: &mut Prepared) -> Result<Equalized> {
    let mut done = Equalized {
        pairs: Vec::new(),
        skipped: Vec::new(),
        rounds: 0,
        last_change: 0.0,
    };
    chain(prepared.stages_mut(), &mut done)?;
    Ok(done)
}

/// Equalizes stages that follow each other, and those inside of each.
fn chain(stages: &mut [Stage], done: &mut Equalized) -> Result<()> {
    for branch in stages.iter_mut().flat_map(|stage| stage.branches_mut()) {
        chain(branch, done)?;
    }
    let mut layers: Vec<Option<Folded>> = Vec::new();
    for stage in stages.iter() {
        layers.push(stage.folded()?);
    }
    let (pairs, skipped) = pairs(stages, &layers);
    done.skipped.extend(skipped);
    let (mut rounds, mut last_change) = (0, 0.0_f32);
    for _ in 0..ROUNDS {
        if pairs.is_empty() {
            break;
        }
        rounds += 1;
        last_change = 0.0;
        for pair in &pairs {
            let (before, after) = layers.split_at_mut(pair.second);
            if let (Some(first), Some(second)) = (&mut before[pair.first], &mut after[0]) {
                let (weight, bias) = (&mut first.weight, &mut first.bias);
                for factor in equalize_pair(weight, bias, &mut second.weight, pair.reads) {
                    last_change = last_change.max((factor - 1.0).abs());
                }
            }
        }
        if last_change <= CONVERGED {
            break;
        }
    }
    done.rounds = done.rounds.max(rounds);
    done.last_change = done.last_change.max(last_change);
    let mut touched = vec![false; layers.len()];
    for pair in &pairs {
        touched[pair.first] = true;
        touched[pair.second] = true;
        let named = |index: usize| stages[index].name().to_owned();
        done.pairs.push((named(pair.first), named(pair.second)));
    }
    for ((stage, layer), touched) in stages.iter_mut().zip(layers).zip(touched) {
        if let Some(layer) = layer.filter(|_| touched) {
            stage.set_folded(layer.weight, layer.bias)?;
        }
    }
    Ok(())
}

/// The pairs that can be scaled, and the layers that cannot.
fn pairs(stages: &[Stage], layers: &[Option<Folded>]) -> (Vec<Pair>, Vec<(String, String)>) {
    let (mut pairs, mut skipped) = (Vec::new(), Vec::new());
    for (first, layer) in layers.iter().enumerate() {
        let Some(layer) = layer else { continue };
        let name = stages[first].name();
        let mut skip = |reason: String| skipped.push((name.to_owned(), reason));
        // Nothing behind a layer: not a case for complaint.
        let mut next = first + 1;
        let mut flattened = false;
        let blocked = loop {
            let Some(stage) = stages.get(next) else {
                break None;
            };
            match stage.role() {
                Role::Same(QLayer::Flatten) => flattened = true,
                Role::Same(QLayer::Relu | QLayer::MaxPool2d(_) | QLayer::AvgPool2d(_)) => {}
                _ if layers[next].is_some() => break None,
                _ => break Some(stage.name()),
            }
            next += 1;
        };
        if let Some(between) = blocked {
            skip(format!(
                "`{between}` behind it does not pass factors through"
            ));
            continue;
        }
        let Some(second) = layers.get(next).and_then(Option::as_ref) else {
            continue;
        };
        match reads(layer, second, flattened) {
            Some(reads) => pairs.push(Pair {
                first,
                second: next,
                reads,
            }),
            None => skip(format!(
                "its channels are not those that `{}` reads",
                stages[next].name()
            )),
        }
    }
    (pairs, skipped)
}

/// How `second` reads the channels of `first`, if it does.
fn reads(first: &Folded, second: &Folded, flattened: bool) -> Option<Reads> {
    let channels = first.bias.len();
    let image = matches!(first.operation, Operation::Conv2d(_));
    let reads = match second.operation {
        Operation::Conv2d(options) if image && !flattened => Reads::Images {
            groups: options.groups,
        },
        Operation::Linear if image == flattened => {
            let inputs = second.weight.shape()[1];
            Reads::Columns {
                columns: inputs / channels.max(1),
            }
        }
        // A flatten of rows changes nothing.
        Operation::Linear if !image => Reads::Columns { columns: 1 },
        _ => return None,
    };
    (reads.channels(second.weight.shape()) == Some(channels)).then_some(reads)
}
