//! What a model holds, flat: one line for each layer, with the facts that rules look at.
//!
//! In: a quantized model. Out: its layers in the order of computation, those inside of sums and concatenations too.

use crate::composite::{Chain, Join, demands_codes};
use crate::error::Result;
use crate::narrow::NarrowWeight;
use crate::qlayer::QLayer;
use crate::qmodel::QModel;
use crate::qtensor::QTensor;
use crate::scheme::{Granularity, QParams};

/// In which numbers a layer computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Static,
    Dynamic,
    WeightOnly,
    Bf16,
    Float,
    /// It has no weights and takes what comes.
    Passes,
}

/// A weight as codes.
pub(super) struct Weight {
    pub bits: u32,
    pub granularity: Granularity,
    /// The lowest code that occurs.
    pub lowest: i32,
    pub elements: usize,
    /// Values in a row.
    pub row: usize,
    /// The first row two of whose products may leave 16 bits, and what they may add up to.
    pub pairs: Option<(usize, i32)>,
}

/// A layer.
pub(super) struct Fact {
    pub name: String,
    pub kind: &'static str,
    pub mode: Mode,
    pub weight: Option<Weight>,
    /// What the codes of its output mean, if it chose that itself.
    pub output: Option<QParams>,
}

/// All layers; the model's own input first if it is written as codes.
pub(super) fn read(model: &QModel) -> Result<Vec<Fact>> {
    let layers = model.layers()?;
    let mut facts = Vec::new();
    if demands_codes(&layers, false) {
        facts.push(Fact {
            name: "input".to_owned(),
            kind: "input",
            mode: Mode::Passes,
            weight: None,
            output: Some(model.input()),
        });
    }
    chain(&layers, &mut facts);
    Ok(facts)
}

fn chain(layers: &Chain, facts: &mut Vec<Fact>) {
    for (name, layer) in layers {
        let mut fact = Fact {
            name: name.clone(),
            kind: layer.kind(),
            mode: Mode::Static,
            weight: None,
            output: None,
        };
        match layer {
            QLayer::Linear(layer) => {
                fact.weight = Some(codes(layer.weight()));
                fact.output = Some(layer.output());
            }
            QLayer::Conv2d(layer) => {
                fact.weight = Some(codes(layer.weight()));
                fact.output = Some(layer.output());
            }
            QLayer::Embedding(layer) => {
                fact.weight = Some(codes(layer.table()));
                fact.output = Some(layer.output());
            }
            QLayer::MaxPool2d(_) | QLayer::AvgPool2d(_) | QLayer::Relu | QLayer::Flatten => {
                fact.mode = Mode::Passes;
            }
            QLayer::Float(layer) => {
                fact.mode = Mode::Float;
                fact.output = layer.output;
            }
            QLayer::Narrow(layer) => {
                fact.output = layer.output();
                (fact.mode, fact.weight) = match layer.weight() {
                    NarrowWeight::Dynamic(weight) => (Mode::Dynamic, Some(codes(weight))),
                    // What cannot be unpacked cannot be computed with either.
                    NarrowWeight::Codes(weight) => {
                        (Mode::WeightOnly, weight.unpack().ok().as_ref().map(codes))
                    }
                    NarrowWeight::Bf16 { .. } => (Mode::Bf16, None),
                };
            }
            QLayer::Residual(layer) => {
                chain(&layer.body, facts);
                chain(&layer.shortcut, facts);
                (fact.mode, fact.output) = (meets(&layer.sum), layer.sum.output());
            }
            QLayer::Concat(layer) => {
                for branch in &layer.branches {
                    chain(branch, facts);
                }
                (fact.mode, fact.output) = (meets(&layer.join), layer.join.output());
            }
        }
        facts.push(fact);
    }
}

fn meets<T>(join: &Join<T>) -> Mode {
    match join {
        Join::Codes(_) => Mode::Static,
        Join::Real { .. } => Mode::Float,
    }
}

fn codes(weight: &QTensor) -> Weight {
    let rows = weight.shape().first().copied().unwrap_or(1).max(1);
    let row = (weight.as_slice().len() / rows).max(1);
    Weight {
        bits: weight.range().bits(),
        granularity: weight.parameters().granularity(),
        lowest: weight.as_slice().iter().copied().min().unwrap_or(0).into(),
        elements: weight.as_slice().len(),
        row,
        pairs: weight
            .as_slice()
            .chunks(row)
            .map(largest_pair)
            .enumerate()
            .find(|(_, sum)| !(i32::from(i16::MIN)..=i32::from(i16::MAX)).contains(sum)),
    }
}

/// The sum farthest from 0 that two products of this row with `u8` values can have. Which two meet depends on the kernel, so these are
/// the worst two.
fn largest_pair(row: &[i8]) -> i32 {
    let (mut low, mut high) = ([0_i32; 2], [0_i32; 2]);
    for &code in row {
        let code = i32::from(code);
        if code < low[0] {
            low = [code, low[0]];
        } else {
            low[1] = low[1].min(code);
        }
        if code > high[0] {
            high = [code, high[0]];
        } else {
            high[1] = high[1].max(code);
        }
    }
    let [below, above] = [low, high].map(|two| 255 * (two[0] + two[1]));
    if above > -below { above } else { below }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_two_products_of_a_row() {
        assert_eq!(largest_pair(&[63, -5, 63]), 32_130);
        assert_eq!(largest_pair(&[127, -128, -1]), -255 * 129);
        assert_eq!(largest_pair(&[127]), 255 * 127);
        assert_eq!(largest_pair(&[]), 0);
    }
}
