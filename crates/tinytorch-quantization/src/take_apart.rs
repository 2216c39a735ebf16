//! Taking a model apart: which layers there are, which of them become one, and what each will be.
//!
//! In: a model of layers that may hold others. Out: stages, in order of computation, those of a sum or a concatenation way by
//! way.

use std::sync::Arc;

use crate::calibration::SketchObserver;
use crate::error::{Error, Result};
use crate::framework::nn::{
    AvgPool2d, BatchNorm2d, Concat, Conv2d, Dropout, Embedding, Flatten, Layer, Linear, MaxPool2d,
    Relu, Residual, Sequential,
};
use crate::prepare::PrepareOptions;
use crate::qlayer::QLayer;
use crate::stage::{Plan, Stage, note_readers};

/// A layer by its dotted name.
pub(crate) type Leaf = (String, Arc<dyn Layer>);

/// The stages of a model.
///
/// # Errors
///
/// [`Error::NoSuchLayer`] if the options name a layer that is not in the model; those of the observers.
pub(crate) fn stages(model: &Sequential, options: &PrepareOptions) -> Result<Vec<Stage>> {
    let mut leaves = Vec::new();
    open(model, "", &mut leaves);
    let mut names = Vec::new();
    all_names(&leaves, &mut names);
    for name in &options.keep_float {
        if !names.iter().any(|leaf| is_at_or_below(leaf, name)) {
            return Err(Error::NoSuchLayer { name: name.clone() });
        }
    }
    let mut stages = way(leaves, options)?;
    note_readers(&mut stages, false);
    Ok(stages)
}

/// Lists the layers of nested models in order of computation, by dotted name. Sums and concatenations count as one layer.
pub(crate) fn open(model: &Sequential, prefix: &str, leaves: &mut Vec<Leaf>) {
    for (name, layer) in model.shared() {
        open_layer(format!("{prefix}{name}"), layer, leaves);
    }
}

fn open_layer(name: String, layer: &Arc<dyn Layer>, leaves: &mut Vec<Leaf>) {
    match layer.as_any().downcast_ref::<Sequential>() {
        Some(inner) => open(inner, &format!("{name}."), leaves),
        None => leaves.push((name, layer.clone())),
    }
}

/// The ways of a sum or a concatenation, each as a list of layers; `None` for any other layer.
fn ways(name: &str, layer: &dyn Layer) -> Option<Vec<Vec<Leaf>>> {
    let way = |part: &str, layer: &Arc<dyn Layer>| {
        let mut leaves = Vec::new();
        open_layer(format!("{name}.{part}"), layer, &mut leaves);
        leaves
    };
    if let Some(residual) = layer.as_any().downcast_ref::<Residual>() {
        let shortcut = residual.shortcut();
        let shortcut = shortcut.map(|layer| way("shortcut", layer));
        let body = way("body", residual.body());
        return Some(vec![body, shortcut.unwrap_or_default()]);
    }
    let concat = layer.as_any().downcast_ref::<Concat>()?;
    let branches = concat.shared().iter();
    let branches: Vec<_> = branches.map(|(part, layer)| way(part, layer)).collect();
    // Nothing to join is an error when it runs, which the layer itself gives.
    (!branches.is_empty()).then_some(branches)
}

fn all_names(leaves: &[Leaf], names: &mut Vec<String>) {
    for (name, layer) in leaves {
        names.push(name.clone());
        for way in ways(name, &**layer).unwrap_or_default() {
            all_names(&way, names);
        }
    }
}

/// Whether `name` is `part`, or inside of it.
fn is_at_or_below(name: &str, part: &str) -> bool {
    name.strip_prefix(part)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The stages of layers one behind the other.
fn way(leaves: Vec<Leaf>, options: &PrepareOptions) -> Result<Vec<Stage>> {
    let kept = |name: &str| {
        let mut kept = options.keep_float.iter();
        kept.any(|kept| is_at_or_below(name, kept))
    };
    let mut stages = Vec::new();
    let is_there = |(_, layer): &Leaf| !layer.as_any().is::<Dropout>();
    let mut rest = leaves.into_iter().filter(is_there).peekable();
    while let Some((name, layer)) = rest.next() {
        let mut joins = |joins: &dyn Fn(&dyn Layer) -> bool| {
            rest.next_if(|(name, layer)| joins(&**layer) && !kept(name))
                .map(|(_, layer)| layer)
        };
        let is_relu = |layer: &dyn Layer| layer.as_any().is::<Relu>();
        let mut branches = Vec::new();
        for leaves in ways(&name, &*layer).unwrap_or_default() {
            branches.push(way(leaves, options)?);
        }
        let mut layers = vec![layer.clone()];
        let plan = if !branches.is_empty() {
            let real = if kept(&name) {
                Some("kept in f32 as asked".to_owned())
            } else {
                let all_real = branches.iter().all(|way| ends_real(way));
                all_real.then(|| "all its ways give real values".to_owned())
            };
            if layer.as_any().is::<Residual>() {
                let relu = if real.is_none() {
                    joins(&is_relu)
                } else {
                    None
                };
                let fused = relu.is_some();
                layers.extend(relu);
                Plan::Residual { relu: fused, real }
            } else {
                Plan::Concat { real }
            }
        } else if kept(&name) {
            Plan::Float("kept in f32 as asked".to_owned())
        } else {
            match plan_for(&*layer) {
                Plan::Weighted { .. } => {
                    let is_conv = layer.as_any().is::<Conv2d>();
                    let is_norm = |layer: &dyn Layer| layer.as_any().is::<BatchNorm2d>();
                    layers.extend(joins(&|layer| is_conv && is_norm(layer)));
                    let relu = joins(&is_relu);
                    let fused = relu.is_some();
                    layers.extend(relu);
                    Plan::Weighted { relu: fused }
                }
                plan => plan,
            }
        };
        let observer = SketchObserver::new(options.calibration)?;
        let stage = Stage::new(name, layers, plan, options.weights, observer);
        stages.push(stage.with_branches(branches));
    }
    Ok(stages)
}

/// Whether real values leave a way, whatever enters it.
fn ends_real(way: &[Stage]) -> bool {
    let mut behind = way.iter().rev();
    let last = behind.find(|stage| !matches!(stage.plan, Plan::Same(_)));
    last.is_some_and(Stage::gives_real)
}

fn plan_for(layer: &dyn Layer) -> Plan {
    let any = layer.as_any();
    if any.is::<Linear>() || any.is::<Conv2d>() {
        Plan::Weighted { relu: false }
    } else if let Some(pool) = any.downcast_ref::<MaxPool2d>() {
        Plan::Same(QLayer::MaxPool2d(pool.options()).into())
    } else if let Some(pool) = any.downcast_ref::<AvgPool2d>() {
        Plan::Same(QLayer::AvgPool2d(pool.options()).into())
    } else if any.is::<Relu>() {
        Plan::Same(QLayer::Relu.into())
    } else if any.is::<Flatten>() {
        Plan::Same(QLayer::Flatten.into())
    } else if any.is::<Embedding>() {
        Plan::Embedding
    } else if any.is::<BatchNorm2d>() {
        Plan::Float("a batch norm with no convolution right before it".to_owned())
    } else if layer.children().is_empty() {
        Plan::Float(format!("no integer {}", layer.kind()))
    } else {
        Plan::Float(
            "a model of its own: only Sequential, Residual and Concat can be taken apart"
                .to_owned(),
        )
    }
}
