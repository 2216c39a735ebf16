//! One place of a prepared model: what computes it, what watches it, and what it will become.
//!
//! In: a layer of a trained model, or several that will become one; for a sum or a concatenation also the stages of its ways.
//! Out: ranges, and a [`QLayer`].

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::calibration::SketchObserver;
use crate::composite::Takes;
use crate::embedding::QEmbedding;
use crate::error::{Error, Result};
use crate::framework::nn::Layer;
use crate::framework::{Tensor, no_grad};
use crate::join::check_shapes;
use crate::observer::Observer;
use crate::parameters::pair_for;
use crate::precision::Precision;
use crate::qlayer::{NO_CODES, QLayer};
use crate::qtensor::QTensor;
use crate::scheme::{CodeRange, QParams, Scheme, Symmetry, ValueRange};

/// What a stage will become.
#[derive(Clone, Debug)]
pub(crate) enum Plan {
    /// A linear layer or a convolution, perhaps with batch norm and ReLU behind it.
    Weighted { relu: bool },
    /// A layer whose output is written like its input.
    Same(Box<QLayer>),
    /// A layer that stays in `f32`, and why.
    Float(String),
    /// A layer with weights that takes and gives real values, perhaps with batch norm and ReLU.
    Narrow { relu: bool, precision: Precision },
    /// A table of codes.
    Embedding,
    /// The sum of two ways, perhaps with a ReLU behind it; with a reason, a sum of real values.
    Residual { relu: bool, real: Option<String> },
    /// Ways that are joined; with a reason, as real values.
    Concat { real: Option<String> },
}

/// What a stage will become, for those who make something else of it.
pub(crate) enum Role<'a> {
    Weighted,
    Same(&'a QLayer),
    Float(&'a str),
    /// Ways that meet on codes: `Some(relu)` for a sum, `None` for a concatenation.
    Ways(Option<bool>),
    /// A layer with weights, or a table, between real values.
    Narrow(Precision),
    /// A table of the codes of activations.
    Table,
    /// Ways that meet as real values.
    Other,
}

/// One place of the model with its observer: a single layer, several that will become one, or one that holds others.
pub struct Stage {
    pub(crate) name: String,
    /// What computes it in `f32`, one after the other.
    pub(crate) layers: Vec<Arc<dyn Layer>>,
    pub(crate) plan: Plan,
    /// The ways of a sum (body, shortcut) or of a concatenation.
    pub(crate) branches: Vec<Vec<Stage>>,
    pub(crate) weights: Scheme,
    observer: SketchObserver,
    /// Codes to use for the weight instead of the nearest ones.
    pub(crate) codes: Option<QTensor>,
    /// The bias of the integer layer, where it is not the real one.
    pub(crate) corrected_bias: Option<Vec<f32>>,
    /// Whether a layer behind it reads its output as codes.
    pub(crate) written: bool,
    /// What the stages inside gave in the last forward pass, until it is observed.
    seen: Mutex<Option<Seen>>,
}

/// A forward pass through the stages inside of one.
struct Seen {
    output: Tensor,
    /// What each stage gave, way by way.
    inside: Vec<Vec<Tensor>>,
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage")
            .field("name", &self.name)
            .field("layers", &self.kinds())
            .field("plan", &self.plan)
            .field("branches", &self.branches)
            .field("observer", &self.observer)
            .finish_non_exhaustive()
    }
}

impl Stage {
    pub(crate) fn new(
        name: String,
        layers: Vec<Arc<dyn Layer>>,
        plan: Plan,
        weights: Scheme,
        observer: SketchObserver,
    ) -> Self {
        Self {
            name,
            layers,
            plan,
            branches: Vec::new(),
            weights,
            observer,
            codes: None,
            corrected_bias: None,
            written: true,
            seen: Mutex::new(None),
        }
    }

    /// A copy, with what was observed; what was seen in the last forward pass stays with the original.
    pub(crate) fn copy(&self) -> Self {
        let branches = self.branches.iter();
        Self {
            name: self.name.clone(),
            layers: self.layers.clone(),
            plan: self.plan.clone(),
            branches: branches
                .map(|way| way.iter().map(Self::copy).collect())
                .collect(),
            weights: self.weights,
            observer: self.observer.clone(),
            codes: self.codes.clone(),
            corrected_bias: self.corrected_bias.clone(),
            written: self.written,
            seen: Mutex::new(None),
        }
    }

    /// Gives it the stages of its ways.
    pub(crate) fn with_branches(mut self, branches: Vec<Vec<Self>>) -> Self {
        self.branches = branches;
        self
    }

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

    /// The stages of its ways: body and shortcut of a residual layer (no stage is the identity), the branches of a
    /// concatenation; nothing for all others.
    #[must_use]
    pub fn branches(&self) -> &[Vec<Self>] {
        &self.branches
    }

    /// The stages of its ways, to be changed.
    pub fn branches_mut(&mut self) -> &mut [Vec<Self>] {
        &mut self.branches
    }

    /// Computes its output in `f32`, without recording. What the stages inside of it give is remembered until
    /// [`Stage::observe`]. `[batch, ..]` to `[batch, ..]`, as its layers.
    ///
    /// # Errors
    ///
    /// Those of the layers.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if self.branches.is_empty() {
            return self.compute(x);
        }
        let (output, inside) = no_grad(|| self.join(x, &|stage, x| stage.forward(x)))?;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(Seen {
            output: output.clone(),
            inside,
        });
        Ok(output)
    }

    /// As [`Stage::forward`], and nothing is remembered.
    pub(crate) fn compute(&self, x: &Tensor) -> Result<Tensor> {
        if self.branches.is_empty() {
            let run = |x: Tensor, layer: &Arc<dyn Layer>| layer.forward(&x);
            return Ok(no_grad(|| self.layers.iter().try_fold(x.clone(), run))?);
        }
        Ok(no_grad(|| self.join(x, &|stage, x| stage.compute(x)))?.0)
    }

    /// Runs the stages inside with `run`: the output, and what each stage gave.
    fn join(
        &self,
        x: &Tensor,
        run: &dyn Fn(&Self, &Tensor) -> Result<Tensor>,
    ) -> Result<(Tensor, Vec<Vec<Tensor>>)> {
        let (mut ends, mut inside) = (Vec::new(), Vec::new());
        for branch in &self.branches {
            let mut outputs = Vec::with_capacity(branch.len());
            let mut x = x.clone();
            for stage in branch {
                x = run(stage, &x)?;
                outputs.push(x.clone());
            }
            ends.push(x);
            inside.push(outputs);
        }
        let output = match (&self.plan, ends.as_slice()) {
            (Plan::Residual { relu, .. }, [left, right]) => {
                check_shapes(left.shape(), right.shape())
                    .map_err(|error| error.in_layer(&self.name))?;
                let sum = left.try_add(right)?;
                if *relu { sum.relu() } else { sum }
            }
            (_, ends) => Tensor::concat(&ends.iter().collect::<Vec<_>>(), 1)?,
        };
        Ok((output, inside))
    }

    /// Shows its observer an output, and the observers inside what led to it. `output` is `[batch, ..]`, as
    /// [`Stage::forward`] gives it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] that names the stage; [`Error::NotItsOutput`] if there are stages inside and `output` is not what
    /// the last [`Stage::forward`] gave: then nobody knows what they gave.
    pub fn observe(&mut self, output: &Tensor) -> Result<()> {
        if !self.branches.is_empty() {
            let seen = self.seen.get_mut().unwrap_or_else(PoisonError::into_inner);
            let Some(seen) = seen.take().filter(|seen| seen.output.is_same(output)) else {
                return Err(Error::NotItsOutput {
                    stage: self.name.clone(),
                });
            };
            for (branch, outputs) in self.branches.iter_mut().zip(seen.inside) {
                for (stage, output) in branch.iter_mut().zip(outputs) {
                    stage.observe(&output)?;
                }
            }
        }
        observe(&mut self.observer, output, &self.name)
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

    /// What the codes of its output shall mean if those of its input mean `input`: the same for pooling and the like, what
    /// fits its table for an embedding, and what fits the observed range for all others. Scale 1 and zero point 0 stand for
    /// real values that no layer reads as codes.
    ///
    /// # Errors
    ///
    /// [`Error::NothingObserved`] that names the stage, [`Error::BadRange`].
    pub fn output_qparams(&self, input: QParams) -> Result<QParams> {
        match &self.plan {
            Plan::Same(_) => Ok(input),
            Plan::Embedding => {
                let table = self.embedding()?.weight().array();
                QEmbedding::qparams_as(table.view(), self.symmetry())
                    .map_err(|error| error.in_tensor(&format!("{}.weight", self.name)))
            }
            Plan::Float(_)
            | Plan::Narrow { .. }
            | Plan::Residual { real: Some(_), .. }
            | Plan::Concat { real: Some(_) }
                if !self.written =>
            {
                Ok(NO_CODES)
            }
            _ => pair_for(self.range()?, self.symmetry(), CodeRange::INT8)
                .map_err(|error| error.in_tensor(&self.name)),
        }
    }

    /// How its output is written as codes.
    pub(crate) fn symmetry(&self) -> Symmetry {
        self.observer.symmetry()
    }

    /// What the layer it becomes must be given.
    pub(crate) fn takes(&self) -> Takes {
        match &self.plan {
            Plan::Weighted { .. } => Takes::Codes,
            Plan::Same(_) => Takes::Either,
            Plan::Float(_) | Plan::Embedding | Plan::Narrow { .. } => Takes::Real,
            Plan::Residual { real, .. } | Plan::Concat { real } => {
                let joins_codes = real.is_none();
                let demands = |way: &Vec<Self>| demands_codes(way, joins_codes);
                if self.branches.iter().any(demands) {
                    Takes::Codes
                } else {
                    Takes::Real
                }
            }
        }
    }

    /// Whether the layer it becomes gives real values.
    pub(crate) fn gives_real(&self) -> bool {
        match &self.plan {
            Plan::Float(_) | Plan::Narrow { .. } => true,
            Plan::Residual { real, .. } | Plan::Concat { real } => real.is_some(),
            Plan::Weighted { .. } | Plan::Same(_) | Plan::Embedding => false,
        }
    }

    /// Whether the layer it becomes works on codes or on real values, whichever come.
    pub(crate) fn takes_either(&self) -> bool {
        self.takes() == Takes::Either
    }

    /// Whether it becomes a layer with narrow weights between real values.
    pub(crate) fn is_narrow(&self) -> bool {
        matches!(self.plan, Plan::Narrow { .. })
    }

    /// Whether a layer behind it reads its output as codes.
    pub(crate) fn is_read_as_codes(&self) -> bool {
        self.written
    }

    /// Why it stays in `f32`, if it does.
    pub(crate) fn left_in_float(&self) -> Option<&str> {
        match &self.plan {
            Plan::Float(reason) => Some(reason),
            Plan::Residual { real, .. } | Plan::Concat { real } => real.as_deref(),
            _ => None,
        }
    }

    /// Whether it can write its output with any parameters, and not only with those of its input.
    pub(crate) fn chooses_output(&self) -> bool {
        !matches!(self.plan, Plan::Same(_))
    }

    /// Whether saturating before it is the same as saturating behind it, so that its input may be written with the
    /// parameters of its output.
    pub(crate) fn is_monotone(&self) -> bool {
        match &self.plan {
            Plan::Same(layer) => !matches!(**layer, QLayer::AvgPool2d(_)),
            _ => false,
        }
    }

    /// Gives it and all inside observers that saw nothing.
    pub(crate) fn watch(&mut self, new: &dyn Fn() -> Result<SketchObserver>) -> Result<()> {
        self.observer = new()?;
        self.seen = Mutex::new(None);
        for stage in self.branches.iter_mut().flatten() {
            stage.watch(new)?;
        }
        Ok(())
    }

    pub(crate) fn observer(&self) -> &SketchObserver {
        &self.observer
    }

    /// Whether the codes of its output get parameters of their own, from what was observed.
    pub(crate) fn has_own_range(&self) -> bool {
        let from_elsewhere = matches!(self.plan, Plan::Same(_) | Plan::Embedding);
        !from_elsewhere && (self.written || !self.gives_real())
    }

    pub(crate) fn role(&self) -> Role<'_> {
        match &self.plan {
            Plan::Weighted { .. } => Role::Weighted,
            Plan::Same(layer) => Role::Same(layer),
            Plan::Float(reason) => Role::Float(reason),
            Plan::Residual { relu, real: None } => Role::Ways(Some(*relu)),
            Plan::Concat { real: None } => Role::Ways(None),
            Plan::Narrow { precision, .. } => Role::Narrow(*precision),
            Plan::Embedding => Role::Table,
            Plan::Residual { .. } | Plan::Concat { .. } => Role::Other,
        }
    }

    pub(crate) fn layers(&self) -> &[Arc<dyn Layer>] {
        &self.layers
    }
}

/// Whether what enters these stages is read as codes, if what leaves them is (`after`).
pub(crate) fn demands_codes(stages: &[Stage], after: bool) -> bool {
    for stage in stages {
        match stage.takes() {
            Takes::Codes => return true,
            Takes::Real => return false,
            Takes::Either => {}
        }
    }
    after
}

/// Notes for each stage whether its output is read as codes, if that of the last is (`after`).
pub(crate) fn note_readers(stages: &mut [Stage], after: bool) {
    let mut read = after;
    for stage in stages.iter_mut().rev() {
        stage.written = read;
        let joins_codes = !stage.gives_real();
        for branch in &mut stage.branches {
            note_readers(branch, joins_codes);
        }
        read = match stage.takes() {
            Takes::Codes => true,
            Takes::Real => false,
            Takes::Either => read,
        };
    }
}

/// The stages and those inside of them, in order of computation.
pub(crate) fn all(stages: &[Stage]) -> Vec<&Stage> {
    let mut found = Vec::new();
    for stage in stages {
        for branch in &stage.branches {
            found.extend(all(branch));
        }
        found.push(stage);
    }
    found
}

/// The observers of the stages and of those inside of them, by name, in order of computation.
pub(crate) fn observers_mut<'a>(
    stages: &'a mut [Stage],
    found: &mut Vec<(String, &'a mut SketchObserver)>,
) {
    for stage in stages {
        for branch in &mut stage.branches {
            observers_mut(branch, found);
        }
        found.push((stage.name.clone(), &mut stage.observer));
    }
}

/// The stage of this name, also inside of others.
pub(crate) fn find<'a>(stages: &'a mut [Stage], name: &str) -> Option<&'a mut Stage> {
    for stage in stages {
        if stage.name == name {
            return Some(stage);
        }
        for branch in &mut stage.branches {
            if let Some(found) = find(branch, name) {
                return Some(found);
            }
        }
    }
    None
}

/// Shows an observer the values of a tensor that has a name.
pub(crate) fn observe(observer: &mut dyn Observer, values: &Tensor, name: &str) -> Result<()> {
    let values = values.array();
    let values = values.as_standard_layout();
    let slice = values.as_slice().unwrap_or_default();
    let named = |error: Error| error.in_tensor(name).in_activation(values.shape());
    observer.observe(slice).map_err(named)
}
