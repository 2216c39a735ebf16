//! Taking a model apart: which layers there are, which of them become one, and what each will be.
//!
//! In: a model of layers that may hold others. Out: stages, in order of computation, those of a sum or a concatenation way by
//! way.

use std::collections::HashSet;
use std::sync::Arc;

use crate::calibration::SketchObserver;
use crate::composite::Takes;
use crate::error::{Error, Result};
use crate::framework::nn::{
    AvgPool2d, BatchNorm2d, Concat, Conv2d, Dropout, Embedding, Flatten, Layer, Linear, MaxPool2d,
    Relu, Residual, Sequential,
};
use crate::ledger::{Fate, Ledger};
use crate::precision::Precision;
use crate::prepare::PrepareOptions;
use crate::qlayer::QLayer;
use crate::scheme::{Granularity, Scheme};
use crate::stage::{Plan, Stage, demands_codes, note_readers};

/// A layer by its dotted name.
pub(crate) type Leaf = (String, Arc<dyn Layer>);

/// The stages of a model, and what becomes of every operation.
///
/// # Errors
///
/// [`Error::SameName`], [`Error::NoSuchLayer`] if the options name a layer that is not in the model, [`Error::LeftInFloat`],
/// [`Error::BadCodeRange`], [`Error::BadGroupSize`]; those of the observers.
pub(crate) fn stages(model: &Sequential, options: &PrepareOptions) -> Result<(Vec<Stage>, Ledger)> {
    let mut leaves = Vec::new();
    open(model, "", &mut leaves);
    let mut names = Vec::new();
    all_names(&leaves, &mut names);
    check_distinct(&names)?;
    let overridden = options.overrides.iter().map(|(name, _)| name);
    for name in options.keep_float.iter().chain(overridden) {
        if !names.iter().any(|leaf| is_at_or_below(leaf, name)) {
            return Err(Error::NoSuchLayer { name: name.clone() });
        }
    }
    let overrides = options.overrides.iter().map(|(_, precision)| *precision);
    for precision in overrides.chain([options.precision]) {
        if let Precision::WeightOnly { bits, .. } = precision
            && !(2..=8).contains(&bits)
        {
            return Err(Error::Unsupported {
                what: "weights that are not 2 to 8 bits wide",
            });
        }
        if let Some(scheme) = precision.scheme(options.weights) {
            scheme.check()?;
        }
    }
    let mut ledger = Ledger::default();
    let mut stages = way(leaves, options, &mut ledger)?;
    note_readers(&mut stages, false);
    let reads_input = demands_codes(&stages, true);
    note_reals(&stages, reads_input, &mut ledger);
    Ok((stages, ledger))
}

/// Corrects the ledger where layers without weights work on real values; whether codes come out.
fn note_reals(stages: &[Stage], mut on_codes: bool, ledger: &mut Ledger) -> bool {
    for stage in stages {
        let inside = match stage.takes() {
            Takes::Codes => true,
            Takes::Real => false,
            Takes::Either => on_codes,
        };
        for branch in stage.branches() {
            note_reals(branch, inside, ledger);
        }
        match &stage.plan {
            Plan::Same(_) if !on_codes => ledger.works_on_reals(stage.name()),
            Plan::Same(_) => {}
            // Real values that are read as codes become codes before the next layer.
            _ => on_codes = !stage.gives_real() || stage.is_read_as_codes(),
        }
    }
    on_codes
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
pub(crate) fn ways(name: &str, layer: &dyn Layer) -> Option<Vec<Vec<Leaf>>> {
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

fn check_distinct(names: &[String]) -> Result<()> {
    let mut seen = HashSet::new();
    match names.iter().find(|name| !seen.insert(*name)) {
        Some(name) => Err(Error::SameName { name: name.clone() }),
        None => Ok(()),
    }
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

/// What the options say of the layer of this name: the longest name that holds it decides, of equal ones the last.
fn precision_of(name: &str, options: &PrepareOptions) -> (Precision, bool) {
    let mut kept = options.keep_float.iter();
    if kept.any(|kept| is_at_or_below(name, kept)) {
        return (Precision::Float, true);
    }
    let overrides = options.overrides.iter();
    let about = overrides.filter(|(part, _)| is_at_or_below(name, part));
    match about.max_by_key(|(part, _)| part.len()) {
        Some((_, precision)) => (*precision, true),
        None => (options.precision, false),
    }
}

const AS_ASKED: &str = "kept in f32 as asked";

/// The stages of layers one behind the other.
fn way(leaves: Vec<Leaf>, options: &PrepareOptions, ledger: &mut Ledger) -> Result<Vec<Stage>> {
    let mut stages = Vec::new();
    let mut rest = leaves.into_iter().peekable();
    while let Some((name, layer)) = rest.next() {
        if layer.as_any().is::<Dropout>() {
            ledger.note(
                &name,
                layer.kind(),
                Fate::Folded,
                "does nothing in evaluation",
            );
            continue;
        }
        let (precision, asked) = precision_of(&name, options);
        let kept = precision == Precision::Float && asked;
        let mut joined: Vec<Leaf> = Vec::new();
        // What stands right behind, dropout not counted, and joins this layer.
        let mut join = |joins: &dyn Fn(&dyn Layer) -> bool, ledger: &mut Ledger| {
            while let Some((name, layer)) =
                rest.next_if(|(_, layer)| layer.as_any().is::<Dropout>())
            {
                ledger.note(
                    &name,
                    layer.kind(),
                    Fate::Folded,
                    "does nothing in evaluation",
                );
            }
            let own = rest.next_if(|(name, layer)| {
                joins(&**layer) && precision_of(name, options) != (Precision::Float, true)
            });
            let found = own.is_some();
            joined.extend(own);
            found
        };
        let is_relu = |layer: &dyn Layer| layer.as_any().is::<Relu>();
        let is_norm = |layer: &dyn Layer| layer.as_any().is::<BatchNorm2d>();
        let mut branches = Vec::new();
        for leaves in ways(&name, &*layer).unwrap_or_default() {
            branches.push(way(leaves, options, ledger)?);
        }
        let mut behind = Ledger::default();
        let (plan, fate, rule) = if !branches.is_empty() {
            let real = match precision {
                Precision::Static { .. } => {
                    let all_real = branches.iter().all(|way| ends_real(way));
                    all_real.then(|| "all its ways give real values".to_owned())
                }
                _ if kept => Some(AS_ASKED.to_owned()),
                _ => Some("only static layers meet on codes".to_owned()),
            };
            let (fate, rule) = match &real {
                Some(reason) => (Fate::Float, reason.clone()),
                None => (Fate::Quantized, "its ways meet on codes".to_owned()),
            };
            let plan = if layer.as_any().is::<Residual>() {
                let relu = real.is_none() && join(&is_relu, &mut behind);
                Plan::Residual { relu, real }
            } else {
                Plan::Concat { real }
            };
            (plan, fate, rule)
        } else {
            let plan = plan_for(&*layer, precision, kept, options);
            let plan = match plan {
                Plan::Weighted { .. } | Plan::Narrow { .. } => {
                    if layer.as_any().is::<Conv2d>() {
                        join(&is_norm, &mut behind);
                    }
                    let fused = !layer.as_any().is::<Embedding>() && join(&is_relu, &mut behind);
                    match plan {
                        Plan::Narrow { precision, .. } => Plan::Narrow {
                            relu: fused,
                            precision,
                        },
                        _ => Plan::Weighted { relu: fused },
                    }
                }
                plan => plan,
            };
            let (fate, rule) = rule_of(&plan);
            (plan, fate, rule)
        };
        ledger.note(&name, layer.kind(), fate, rule);
        ledger.entries.append(&mut behind.entries);
        for (own, layer) in &joined {
            ledger.note(own, layer.kind(), Fate::Folded, format!("part of `{name}`"));
        }
        let mut layers = vec![layer];
        layers.extend(joined.into_iter().map(|(_, layer)| layer));
        let weights = precision.scheme(options.weights).unwrap_or(options.weights);
        let observer = SketchObserver::with_symmetry(options.calibration, options.activations)?;
        let stage = Stage::new(name, layers, plan, weights, observer).with_branches(branches);
        if let (Some(rule), true) = (stage.left_in_float(), options.require_full_coverage) {
            return Err(Error::LeftInFloat {
                name: stage.name().to_owned(),
                rule: rule.to_owned(),
            });
        }
        stages.push(stage);
    }
    Ok(stages)
}

/// What becomes of a layer without ways, and why.
fn rule_of(plan: &Plan) -> (Fate, String) {
    let quantized = |rule: &str| (Fate::Quantized, rule.to_owned());
    match plan {
        Plan::Weighted { .. } => quantized("static: codes in, codes out"),
        Plan::Same(_) => quantized("works on the codes of its input"),
        Plan::Embedding => quantized("a table of codes: 8 bits, one scale for all rows"),
        Plan::Narrow { precision, .. } => quantized(&match precision {
            Precision::Dynamic => "dynamic: inputs become codes when they come".to_owned(),
            Precision::WeightOnly { bits, group: None } => {
                format!("weight-only: {bits} bits, one scale a row")
            }
            Precision::WeightOnly {
                bits,
                group: Some(size),
            } => format!("weight-only: {bits} bits in groups of {size}"),
            _ => "bf16: weights and inputs rounded, sums in f32".to_owned(),
        }),
        Plan::Float(reason) => (Fate::Float, reason.clone()),
        Plan::Residual { .. } | Plan::Concat { .. } => quantized("its ways meet on codes"),
    }
}

/// Whether real values leave a way, whatever enters it.
pub(crate) fn ends_real(way: &[Stage]) -> bool {
    let mut behind = way.iter().rev();
    let last = behind.find(|stage| !matches!(stage.plan, Plan::Same(_)));
    last.is_some_and(Stage::gives_real)
}

/// What a static embedding becomes. Its rows are the codes of activations, which have 8 bits and one scale for all; where fewer are
/// asked for, or groups, it keeps narrow rows with scales of their own, and what is looked up is written as codes.
fn table(weights: Scheme) -> Plan {
    let bits = weights.codes.bits();
    let group = match weights.granularity {
        Granularity::PerGroup { size } => Some(size),
        Granularity::PerTensor | Granularity::PerChannel { .. } => None,
    };
    if bits >= 8 && group.is_none() {
        return Plan::Embedding;
    }
    Plan::Narrow {
        relu: false,
        precision: Precision::WeightOnly { bits, group },
    }
}

fn plan_for(layer: &dyn Layer, precision: Precision, kept: bool, options: &PrepareOptions) -> Plan {
    let any = layer.as_any();
    let has_weights = any.is::<Linear>() || any.is::<Conv2d>() || any.is::<Embedding>();
    if kept || (has_weights && precision == Precision::Float) {
        return Plan::Float(AS_ASKED.to_owned());
    }
    if has_weights {
        return match precision {
            Precision::Static { weights } if any.is::<Embedding>() => {
                table(weights.unwrap_or(options.weights))
            }
            Precision::Static { .. } => Plan::Weighted { relu: false },
            precision => Plan::Narrow {
                relu: false,
                precision,
            },
        };
    }
    if let Some(pool) = any.downcast_ref::<MaxPool2d>() {
        Plan::Same(QLayer::MaxPool2d(pool.options()).into())
    } else if let Some(pool) = any.downcast_ref::<AvgPool2d>() {
        Plan::Same(QLayer::AvgPool2d(pool.options()).into())
    } else if any.is::<Relu>() {
        Plan::Same(QLayer::Relu.into())
    } else if any.is::<Flatten>() {
        Plan::Same(QLayer::Flatten.into())
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
