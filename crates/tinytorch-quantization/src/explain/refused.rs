//! Layers of which no quantized version can be made, so that the others can be explained all the same.
//!
//! In: a calibrated model. Out: a copy in which such layers stay in `f32`, and which they are and why: a bias that does not fit its
//! accumulator, more products than an `i32` sums, a scheme that no kernel has.

use std::sync::Arc;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::framework::nn::Sequential;
use crate::prepare::Prepared;
use crate::scheme::QParams;
use crate::stage::{Plan, Stage, note_readers};
use crate::stage_layer::writes_shared;
use crate::take_apart::ends_real;

/// A layer that cannot be quantized as asked. In the explanation it stays in `f32`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// The dotted name of the layer.
    pub layer: String,
    /// The error that converting the model gives.
    pub why: String,
}

/// A copy in which every layer can be quantized or stays in `f32`, and those that stay because they cannot.
///
/// # Errors
///
/// What is wrong with the data: [`Error::NothingObserved`], [`Error::NotFinite`] and the like.
pub(super) fn without_refused(prepared: &Prepared) -> Result<(Prepared, Vec<Refused>)> {
    let (mut copy, mut refused) = (prepared.copy(), Vec::new());
    // Each round takes one layer out, so there are no more rounds than layers.
    while let Some((layer, error)) = first_refused(copy.stages(), copy.input_qparams()?, None)? {
        let why = error.to_string();
        if let Some(stage) = copy.stage_mut(&layer) {
            keep(stage, format!("cannot be quantized: {why}"));
        }
        // A sum none of whose ways gives codes any more is one of real values.
        settle(copy.stages_mut());
        note_readers(copy.stages_mut(), false);
        refused.push(Refused { layer, why });
    }
    Ok((copy, refused))
}

/// Whether an error is about what was asked for, and not about data that no version of the model could take.
pub(super) fn is_refusal(error: &Error) -> bool {
    match error {
        Error::Layer { error, .. } => is_refusal(error),
        Error::BiasOverflow { .. }
        | Error::AccumulatorOverflow { .. }
        | Error::TooManyProducts { .. }
        | Error::BadMultiplier { .. }
        | Error::BadRescale { .. }
        | Error::BadMagnitude { .. }
        | Error::Unsupported { .. } => true,
        _ => false,
    }
}

/// The first stage, those inside of others before them, that cannot become a layer. What enters means `meaning`; the ways of a
/// concatenation shall end in `shared`.
fn first_refused(
    stages: &[Stage],
    mut meaning: QParams,
    shared: Option<QParams>,
) -> Result<Option<(String, Error)>> {
    let shared = writes_shared(stages).zip(shared);
    for (index, stage) in stages.iter().enumerate() {
        let output = match shared {
            Some((writes, output)) if writes == index => output,
            _ => stage.output_qparams(meaning)?,
        };
        let meets_codes = matches!(stage.plan, Plan::Concat { real: None });
        for branch in stage.branches() {
            let found = first_refused(branch, meaning, meets_codes.then_some(output))?;
            if found.is_some() {
                return Ok(found);
            }
        }
        match stage.quantize(meaning, output) {
            Ok(_) => {}
            Err(error) if is_refusal(&error) && stage.left_in_float().is_none() => {
                return Ok(Some((stage.name().to_owned(), error)));
            }
            Err(error) => return Err(error.in_layer(stage.name())),
        }
        meaning = output;
    }
    Ok(None)
}

/// Lets a stage stay in `f32`: as one layer, or as ways that meet as real values.
fn keep(stage: &mut Stage, reason: String) {
    match &mut stage.plan {
        Plan::Residual { real, .. } | Plan::Concat { real } => *real = Some(reason),
        _ => {
            let layers = stage.layers.iter().enumerate();
            let named = layers.map(|(index, layer)| (index.to_string(), layer.clone()));
            stage.layers = vec![Arc::new(Sequential::from_shared(named.collect()))];
            stage.plan = Plan::Float(reason);
            stage.forget_repair();
        }
    }
}

fn settle(stages: &mut [Stage]) {
    for stage in stages {
        stage.branches_mut().iter_mut().for_each(|way| settle(way));
        let all_real = stage.branches().iter().all(|way| ends_real(way));
        if let Plan::Residual { real, .. } | Plan::Concat { real } = &mut stage.plan
            && all_real
        {
            real.get_or_insert_with(|| "all its ways give real values".to_owned());
        }
    }
}
