//! Preparing a model: take it apart, join what will be one layer, and give every place an observer.
//!
//! In: a [`Sequential`] model, trained. Out: a [`Prepared`] model, which computes the same and can be calibrated and
//! converted. The original is not changed, except that it is put into evaluation mode.

use std::sync::Arc;

use crate::calibration::{CalibrationReport, SketchObserver};
use crate::error::{Error, Result};
use crate::framework::Tensor;
use crate::framework::nn::{
    AvgPool2d, BatchNorm2d, Conv2d, Dropout, Flatten, Layer, Linear, MaxPool2d, Relu, Sequential,
};
use crate::observer::Observer;
use crate::qlayer::QLayer;
use crate::qparams::choose_qparams;
use crate::scheme::{CodeRange, QParams, Scheme};
use crate::sketch::Sketch;
use crate::stage::{Plan, observe};

pub use crate::calibration::Calibration;
pub use crate::stage::Stage;

/// What [`prepare`] may be told.
#[derive(Clone, Debug, PartialEq)]
pub struct PrepareOptions {
    /// How the ranges of activations are found; it can be changed after calibration: [`Prepared::recalibrate`].
    pub calibration: Calibration,
    /// How weights are written.
    pub weights: Scheme,
    /// Dotted names of layers that shall stay in `f32`.
    pub keep_float: Vec<String>,
}

impl Default for PrepareOptions {
    /// Min-max calibration, weights per channel, nothing kept in `f32`.
    fn default() -> Self {
        Self {
            calibration: Calibration::default(),
            weights: Scheme::WEIGHTS,
            keep_float: Vec::new(),
        }
    }
}

/// A model taken apart, with observers at its input and behind every stage.
#[derive(Debug)]
pub struct Prepared {
    input: SketchObserver,
    stages: Vec<Stage>,
    calibration: Calibration,
}

impl Prepared {
    /// Shows the observer of the input a batch.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] that names the input.
    pub fn observe_input(&mut self, batch: &Tensor) -> Result<()> {
        observe(&mut self.input, batch, "input")
    }

    /// What the codes of the input shall mean.
    ///
    /// # Errors
    ///
    /// [`Error::NothingObserved`] that names the input, [`Error::BadRange`].
    pub fn input_qparams(&self) -> Result<QParams> {
        let range = self
            .input
            .range()
            .map_err(|error| error.in_tensor("input"))?;
        choose_qparams(range, CodeRange::INT8)
    }

    /// The stages, in order.
    #[must_use]
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// The stages, in order, to be observed.
    pub fn stages_mut(&mut self) -> &mut [Stage] {
        &mut self.stages
    }

    /// The stage of this name.
    #[must_use]
    pub fn stage(&self, name: &str) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.name() == name)
    }

    /// The stage of this name, to be changed.
    pub fn stage_mut(&mut self, name: &str) -> Option<&mut Stage> {
        self.stages.iter_mut().find(|stage| stage.name() == name)
    }

    /// Forgets what all observers saw, so that the model can be calibrated again, after its weights were changed for instance.
    ///
    /// # Errors
    ///
    /// None for a model that was prepared.
    pub fn forget_observations(&mut self) -> Result<()> {
        self.input = SketchObserver::new(self.calibration)?;
        for stage in &mut self.stages {
            stage.watch(SketchObserver::new(self.calibration)?);
        }
        Ok(())
    }

    /// Finds the ranges of all activations by another method, from what was observed already: no data is needed.
    ///
    /// # Errors
    ///
    /// [`Error::BadAveragingConstant`], [`Error::BadPercentile`]; nothing has changed then.
    pub fn recalibrate(&mut self, method: Calibration) -> Result<()> {
        method.check()?;
        self.calibration = method;
        self.observers_mut()
            .try_for_each(|(_, observer)| observer.set_method(method))
    }

    /// What calibration found out about the input and the output of every stage whose codes get parameters of their own, in order.
    ///
    /// # Errors
    ///
    /// [`Error::NothingObserved`] that names the tensor; those of [`Sketch::range`](crate::Sketch::range).
    pub fn calibration_report(&self) -> Result<Vec<CalibrationReport>> {
        let observers = self.observers();
        observers
            .filter(|(_, _, own)| *own)
            .map(|(name, observer, _)| observer.report(name))
            .collect()
    }

    /// What was observed at the input and behind every stage, by name, to be saved with [`save_sketches`](crate::save_sketches) or
    /// merged with those of another thread.
    #[must_use]
    pub fn sketches(&self) -> Vec<(String, Sketch)> {
        let observers = self.observers();
        observers
            .map(|(name, observer, _)| (name.to_owned(), observer.sketch.clone()))
            .collect()
    }

    /// Adds what was observed elsewhere, by another thread or on another day, to what was observed here.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchLayer`] if there is no place of that name; nothing was added then.
    pub fn merge_sketches(&mut self, sketches: &[(String, Sketch)]) -> Result<()> {
        let known: Vec<String> = self.observers().map(|(name, ..)| name.to_owned()).collect();
        if let Some((name, _)) = sketches.iter().find(|(name, _)| !known.contains(name)) {
            return Err(Error::NoSuchLayer { name: name.clone() });
        }
        for (own, observer) in self.observers_mut() {
            let others = sketches.iter().filter(|(name, _)| *name == own);
            others.for_each(|(_, sketch)| observer.sketch.merge(sketch));
        }
        Ok(())
    }

    fn observers(&self) -> impl Iterator<Item = (&str, &SketchObserver, bool)> {
        let stages = self.stages.iter();
        let stages = stages.map(|stage| (stage.name(), stage.observer(), stage.has_own_range()));
        std::iter::once(("input", &self.input, true)).chain(stages)
    }

    fn observers_mut(&mut self) -> impl Iterator<Item = (String, &mut SketchObserver)> {
        let stages = self.stages.iter_mut();
        let stages = stages.map(|stage| (stage.name().to_owned(), stage.observer_mut()));
        std::iter::once(("input".to_owned(), &mut self.input)).chain(stages)
    }

    /// Computes the output in `f32`. Nothing is observed.
    ///
    /// # Errors
    ///
    /// Those of the layers.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.stages
            .iter()
            .try_fold(x.clone(), |x, stage| stage.forward(&x))
    }
}

/// Takes a model apart and gives its input and every layer output an observer.
///
/// Nested [`Sequential`]s are opened. A batch norm behind a convolution, and a ReLU behind a convolution or a linear
/// layer, join it. Dropout, which does nothing in evaluation, is left out. Everything that has no integer version stays in
/// `f32`; a quantized model lists it by name and reason.
///
/// The model is put into evaluation mode: calibration must see what inference will.
///
/// # Errors
///
/// [`Error::NoSuchLayer`] if a name of `keep_float` is not in the model, [`Error::BadPercentile`],
/// [`Error::BadAveragingConstant`].
pub fn prepare(model: &Sequential, options: &PrepareOptions) -> Result<Prepared> {
    model.set_training(false);
    let mut leaves = Vec::new();
    open(model, "", &mut leaves);
    for name in &options.keep_float {
        if !leaves.iter().any(|(leaf, _)| is_at_or_below(leaf, name)) {
            return Err(Error::NoSuchLayer { name: name.clone() });
        }
    }
    let kept = |name: &str| {
        options
            .keep_float
            .iter()
            .any(|kept| is_at_or_below(name, kept))
    };
    let mut stages = Vec::new();
    let mut rest = leaves.into_iter().peekable();
    while let Some((name, layer)) = rest.next() {
        if layer.as_any().is::<Dropout>() {
            continue;
        }
        let mut layers = vec![layer];
        let plan = if kept(&name) {
            Plan::Float("kept in f32 as asked".to_owned())
        } else {
            plan_for(&*layers[0])
        };
        let plan = match plan {
            Plan::Weighted { .. } => {
                let is_conv = layers[0].as_any().is::<Conv2d>();
                let mut joins = |joins: &dyn Fn(&dyn Layer) -> bool| {
                    rest.next_if(|(name, layer)| joins(&**layer) && !kept(name))
                };
                let norm = joins(&|layer| is_conv && layer.as_any().is::<BatchNorm2d>());
                let relu = joins(&|layer| layer.as_any().is::<Relu>());
                let plan = Plan::Weighted {
                    relu: relu.is_some(),
                };
                layers.extend(norm.into_iter().chain(relu).map(|(_, layer)| layer));
                plan
            }
            plan => plan,
        };
        let observer = SketchObserver::new(options.calibration)?;
        stages.push(Stage::new(name, layers, plan, options.weights, observer));
    }
    Ok(Prepared {
        input: SketchObserver::new(options.calibration)?,
        stages,
        calibration: options.calibration,
    })
}

/// Lists the layers of nested models in order of computation, by dotted name.
pub(crate) fn open(model: &Sequential, prefix: &str, leaves: &mut Vec<(String, Arc<dyn Layer>)>) {
    for (name, layer) in model.shared() {
        let name = format!("{prefix}{name}");
        match layer.as_any().downcast_ref::<Sequential>() {
            Some(inner) => open(inner, &format!("{name}."), leaves),
            None => leaves.push((name, layer.clone())),
        }
    }
}

/// Whether `name` is `part`, or inside of it.
fn is_at_or_below(name: &str, part: &str) -> bool {
    name.strip_prefix(part)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
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
    } else if any.is::<BatchNorm2d>() {
        Plan::Float("a batch norm with no convolution right before it".to_owned())
    } else if layer.children().is_empty() {
        Plan::Float(format!("no integer {}", layer.kind()))
    } else {
        Plan::Float("a model of its own: only Sequential can be taken apart".to_owned())
    }
}
