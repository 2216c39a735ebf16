//! How a quantized model computes by definition: layer by layer, with the plainest code there is for each.
//!
//! In: real values. Out: real values. In between codes, wherever a layer takes them. The model that runs fast (see `flow.rs`)
//! shares none of this and must give the same codes.

use crate::composite::{Chain, Join, QBranches, QResidual, Takes, demands_codes};
use crate::error::{Error, Result};
use crate::framework::{Tensor, no_grad};
use crate::qlayer::QLayer;
use crate::qtensor::QTensor;
use crate::scheme::{CodeRange, QParams};

/// What flows between two layers.
#[derive(Clone, Debug)]
pub(crate) enum Exact {
    Codes(QTensor),
    Real {
        values: Tensor,
        /// Which codes it shall have for a layer that takes codes.
        written: Option<QParams>,
    },
}

impl Exact {
    /// The real values, in the same shape.
    pub fn into_real(self) -> Tensor {
        match self {
            Self::Codes(codes) => Tensor::from_array(codes.dequantize()),
            Self::Real { values, .. } => values,
        }
    }

    /// The codes, in the same shape; real values are written with those chosen for them. `source` names them in
    /// an error.
    pub fn into_codes(self, source: &str) -> Result<QTensor> {
        match self {
            Self::Codes(codes) => Ok(codes),
            Self::Real { values, written } => {
                let written = written.ok_or(Error::NoCodes)?;
                QTensor::quantize_with(values.array().view(), written, CodeRange::INT8)
                    .map_err(|error| error.in_tensor(source).in_activation(values.shape()))
            }
        }
    }
}

/// What enters a model whose input shall be written as `written` where codes are wanted.
pub(crate) fn input(layers: &[(String, QLayer)], x: &Tensor, written: QParams) -> Exact {
    Exact::Real {
        values: x.clone(),
        written: demands_codes(layers, true).then_some(written),
    }
}

/// Runs `layers` on what `source` gave.
pub(crate) fn run(layers: &[(String, QLayer)], x: Exact, source: &str) -> Result<Exact> {
    let mut flow = x;
    let mut source = source;
    for (name, layer) in layers {
        flow = layer_on(layer, flow, source).map_err(|error| match error {
            // What could not be written as codes is named by where it came from.
            Error::NotFinite { .. } => error,
            error => error.in_layer(name),
        })?;
        source = name;
    }
    Ok(flow)
}

fn layer_on(layer: &QLayer, flow: Exact, source: &str) -> Result<Exact> {
    let becomes_codes = match (&flow, layer.takes()) {
        (_, Takes::Codes) => true,
        (_, Takes::Real) => false,
        (Exact::Codes(_), Takes::Either) => true,
        (Exact::Real { written, .. }, Takes::Either) => written.is_some(),
    };
    if becomes_codes {
        let codes = flow.into_codes(source)?;
        return match layer {
            QLayer::Residual(residual) => residual_on(residual, Exact::Codes(codes), source),
            QLayer::Concat(concat) => concat_on(concat, Exact::Codes(codes), source),
            layer => layer.on_codes(&codes).map(Exact::Codes),
        };
    }
    let written = match layer.takes() {
        Takes::Either => None,
        _ => layer.real_output(),
    };
    let values = flow.into_real();
    let real = Exact::Real {
        values,
        written: None,
    };
    match layer {
        QLayer::Residual(residual) => residual_on(residual, real, source),
        QLayer::Concat(concat) => concat_on(concat, real, source),
        QLayer::Embedding(layer) => layer
            .forward_definition(&real.into_real())
            .map(Exact::Codes),
        layer => {
            let x = real.into_real();
            let named = |error: Error| error.in_tensor(source).in_activation(x.shape());
            Ok(Exact::Real {
                values: no_grad(|| layer.on_real(&x)).map_err(named)?,
                written,
            })
        }
    }
}

/// What comes out of a way, and where it comes from.
fn way(chain: &Chain, x: Exact, source: &str) -> Result<(Exact, String)> {
    let end = chain.last().map_or(source, |(name, _)| name).to_owned();
    Ok((run(chain, x, source)?, end))
}

fn residual_on(residual: &QResidual, x: Exact, source: &str) -> Result<Exact> {
    let (left, left_end) = way(&residual.body, x.clone(), source)?;
    let (right, right_end) = way(&residual.shortcut, x, source)?;
    match &residual.sum {
        Join::Codes(sum) => {
            let left = left.into_codes(&left_end)?;
            let right = right.into_codes(&right_end)?;
            sum.forward_definition(&left, &right).map(Exact::Codes)
        }
        Join::Real { output, .. } => {
            let (left, right) = (left.into_real(), right.into_real());
            crate::join::check_shapes(left.shape(), right.shape())?;
            Ok(Exact::Real {
                values: no_grad(|| left.try_add(&right))?,
                written: *output,
            })
        }
    }
}

fn concat_on(concat: &QBranches, x: Exact, source: &str) -> Result<Exact> {
    let ways = concat.branches.iter();
    let ways = ways.map(|branch| way(branch, x.clone(), source));
    let ways = ways.collect::<Result<Vec<_>>>()?;
    match &concat.join {
        Join::Codes(join) => {
            let ways = ways.into_iter().map(|(way, end)| way.into_codes(&end));
            let ways = ways.collect::<Result<Vec<_>>>()?;
            join.forward_definition(&ways).map(Exact::Codes)
        }
        Join::Real { output, .. } => {
            let ways: Vec<_> = ways.into_iter().map(|(way, _)| way.into_real()).collect();
            Ok(Exact::Real {
                values: no_grad(|| Tensor::concat(&ways.iter().collect::<Vec<_>>(), 1))?,
                written: *output,
            })
        }
    }
}
