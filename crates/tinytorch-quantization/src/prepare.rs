//! Preparing a model: take it apart, join what will be one layer, and give every place an observer.
//!
//! In: a [`Sequential`] model, trained. Out: a [`Prepared`] model, which computes the same and can be calibrated and
//! converted. The original is not changed, except that it is put into evaluation mode.

use std::fmt;
use std::sync::Arc;

use crate::conv::QConv2d;
use crate::entropy::EntropyObserver;
use crate::error::{Error, Result};
use crate::fold::fold_batch_norm;
use crate::framework::nn::{
    AvgPool2d, BatchNorm2d, Conv2d, Dropout, Flatten, Layer, Linear, MaxPool2d, Relu, Sequential,
};
use crate::framework::{Tensor, no_grad};
use crate::histogram::Histogram;
use crate::linear::QLinear;
use crate::observer::{MinMaxObserver, MovingAverageMinMaxObserver, Observer, PercentileObserver};
use crate::qlayer::{FloatLayer, QLayer};
use crate::qparams::choose_qparams;
use crate::scheme::{CodeRange, QParams, Scheme, ValueRange};

/// Which observer watches the values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Calibration {
    /// All that came.
    #[default]
    MinMax,
    /// What usually comes, with this averaging constant.
    MovingAverage(f32),
    /// What this percentage of the magnitudes keeps to.
    Percentile(f64),
    /// What loses the least information.
    Entropy,
}

impl Calibration {
    /// A fresh observer.
    ///
    /// # Errors
    ///
    /// [`Error::BadAveragingConstant`], [`Error::BadPercentile`].
    pub fn observer(self) -> Result<Box<dyn Observer>> {
        Ok(match self {
            Self::MinMax => Box::new(MinMaxObserver::default()),
            Self::MovingAverage(constant) => Box::new(MovingAverageMinMaxObserver::new(constant)?),
            Self::Percentile(percentile) => {
                Box::new(PercentileObserver::new(percentile, Histogram::default())?)
            }
            Self::Entropy => Box::new(EntropyObserver::default()),
        })
    }
}

/// What [`prepare`] may be told.
#[derive(Clone, Debug, PartialEq)]
pub struct PrepareOptions {
    /// Which observer watches the activations.
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

/// What a stage will become.
#[derive(Clone, Debug)]
enum Plan {
    /// A linear layer or a convolution, perhaps with batch norm and ReLU behind it.
    Weighted { relu: bool },
    /// A layer whose output is written like its input.
    Same(Box<QLayer>),
    /// A layer that stays in `f32`, and why.
    Float(String),
}

/// What a stage will become, for those who make something else of it.
pub(crate) enum Role<'a> {
    Weighted { relu: bool },
    Same(&'a QLayer),
    Float(&'a str),
}

/// One place of the model with its observer: a single layer, or several that will become one.
pub struct Stage {
    name: String,
    /// What computes it in `f32`, one after the other.
    layers: Vec<Arc<dyn Layer>>,
    plan: Plan,
    weights: Scheme,
    observer: Box<dyn Observer>,
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<_> = self.layers.iter().map(|layer| layer.kind()).collect();
        f.debug_struct("Stage")
            .field("name", &self.name)
            .field("layers", &kinds)
            .field("plan", &self.plan)
            .field("observer", &self.observer)
            .finish()
    }
}

impl Stage {
    /// The dotted name of its (first) layer.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kinds of its layers, in order: `conv2d`, `batch_norm2d`, `relu`.
    #[must_use]
    pub fn kinds(&self) -> Vec<&'static str> {
        self.layers.iter().map(|layer| layer.kind()).collect()
    }

    /// Computes its output in `f32`, without recording.
    ///
    /// # Errors
    ///
    /// Those of the layers.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let run = |x: Tensor, layer: &Arc<dyn Layer>| layer.forward(&x);
        Ok(no_grad(|| self.layers.iter().try_fold(x.clone(), run))?)
    }

    /// Shows its observer an output.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] that names the stage.
    pub fn observe(&mut self, output: &Tensor) -> Result<()> {
        observe(&mut *self.observer, output, &self.name)
    }

    /// The range of the outputs that were observed.
    ///
    /// # Errors
    ///
    /// [`Error::NothingObserved`] that names the stage.
    pub fn range(&self) -> Result<ValueRange> {
        self.observer
            .range()
            .map_err(|error| error.in_tensor(&self.name))
    }

    /// What the codes of its output shall mean if those of its input mean `input`: the same for pooling and the like,
    /// and what fits the observed range for all others.
    ///
    /// # Errors
    ///
    /// [`Error::NothingObserved`] that names the stage, [`Error::BadRange`].
    pub fn output_qparams(&self, input: QParams) -> Result<QParams> {
        match self.plan {
            Plan::Same(_) => Ok(input),
            Plan::Weighted { .. } | Plan::Float(_) => {
                choose_qparams(self.range()?, CodeRange::INT8)
            }
        }
    }

    /// The layer that takes its place in a quantized model.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] that names weight or bias, with channel and index; those of [`QLinear::from_parts`] and
    /// [`QConv2d::from_parts`].
    pub fn quantize(&self, input: QParams, output: QParams) -> Result<QLayer> {
        let relu = match &self.plan {
            Plan::Weighted { relu } => *relu,
            Plan::Same(layer) => return Ok(QLayer::clone(layer)),
            Plan::Float(reason) => return Ok(QLayer::Float(self.in_float(reason, output))),
        };
        let first = self.layers[0].as_any();
        let named = |error: Error| error.in_tensor(&format!("{}.weight", self.name));
        if let Some(layer) = first.downcast_ref::<Linear>() {
            let weight = layer.weight().array();
            let bias = bias_of(layer.bias(), layer.out_features());
            self.check_bias(&bias)?;
            QLinear::quantize(weight.view(), &bias, self.weights, input, output, relu)
                .map(QLayer::Linear)
                .map_err(named)
        } else if let Some(layer) = first.downcast_ref::<Conv2d>() {
            let mut weight = layer.weight().array().into_owned();
            let mut bias = bias_of(layer.bias(), weight.shape()[0]);
            for norm in self
                .layers
                .iter()
                .filter_map(|layer| layer.as_any().downcast_ref())
            {
                (weight, bias) = fold_batch_norm(weight.view(), &bias, norm)?;
            }
            self.check_bias(&bias)?;
            let options = layer.options();
            QConv2d::quantize(
                weight.view(),
                &bias,
                options,
                self.weights,
                input,
                output,
                relu,
            )
            .map(QLayer::Conv2d)
            .map_err(named)
        } else {
            let reason = format!("no integer {}", self.layers[0].kind());
            Ok(QLayer::Float(self.in_float(&reason, output)))
        }
    }

    pub(crate) fn role(&self) -> Role<'_> {
        match &self.plan {
            Plan::Weighted { relu } => Role::Weighted { relu: *relu },
            Plan::Same(layer) => Role::Same(layer),
            Plan::Float(reason) => Role::Float(reason),
        }
    }

    pub(crate) fn layers(&self) -> &[Arc<dyn Layer>] {
        &self.layers
    }

    fn check_bias(&self, bias: &[f32]) -> Result<()> {
        crate::finite::check_finite(bias)
            .map_err(|error| error.in_tensor(&format!("{}.bias", self.name)))
    }

    fn in_float(&self, reason: &str, output: QParams) -> FloatLayer {
        FloatLayer {
            layer: self.layers[0].clone(),
            reason: reason.to_owned(),
            output,
        }
    }
}

/// The bias, or zeros.
pub(crate) fn bias_of(bias: Option<&Tensor>, outputs: usize) -> Vec<f32> {
    bias.map_or_else(|| vec![0.0; outputs], Tensor::to_vec)
}

fn observe(observer: &mut dyn Observer, values: &Tensor, name: &str) -> Result<()> {
    let values = values.array();
    let values = values.as_standard_layout();
    let slice = values.as_slice().unwrap_or_default();
    observer
        .observe(slice)
        .map_err(|error| error.in_tensor(name))
}

/// A model taken apart, with observers at its input and behind every stage.
#[derive(Debug)]
pub struct Prepared {
    input: Box<dyn Observer>,
    stages: Vec<Stage>,
}

impl Prepared {
    /// Shows the observer of the input a batch.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] that names the input.
    pub fn observe_input(&mut self, batch: &Tensor) -> Result<()> {
        observe(&mut *self.input, batch, "input")
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
        stages.push(Stage {
            name,
            layers,
            plan,
            weights: options.weights,
            observer: options.calibration.observer()?,
        });
    }
    Ok(Prepared {
        input: options.calibration.observer()?,
        stages,
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
