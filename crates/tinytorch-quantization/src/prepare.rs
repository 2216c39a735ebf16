//! Preparing a model: take it apart, join what will be one layer, and give every place an observer.
//!
//! In: a [`Sequential`] model, trained. Out: a [`Prepared`] model, which computes the same and can be calibrated and
//! converted. The original is not changed, except that it is put into evaluation mode.

use crate::calibration::{CalibrationReport, SketchObserver};
use crate::error::{Error, Result};
use crate::framework::Tensor;
use crate::framework::nn::{Layer, Sequential};
use crate::ledger::Ledger;
use crate::observer::Observer;
use crate::parameters::pair_for;
use crate::precision::Precision;
use crate::qlayer::NO_CODES;
use crate::scheme::{CodeRange, QParams, Scheme, Symmetry};
use crate::sketch::Sketch;
use crate::stage::{self, observe};
use crate::take_apart;

pub use crate::calibration::Calibration;
pub use crate::stage::Stage;

/// What [`prepare`] may be told.
#[derive(Clone, Debug, PartialEq)]
pub struct PrepareOptions {
    /// How the ranges of activations are found; it can be changed after calibration: [`Prepared::recalibrate`].
    pub calibration: Calibration,
    /// How static layers write activations: asymmetric (N9), or symmetric, with a zero point of 0 everywhere, which some targets ask for
    /// ([`TENSORRT`](crate::target::TENSORRT)). What a ReLU gives then has 128 codes in place of 256. Dynamic layers choose their ranges row by row,
    /// asymmetric always.
    pub activations: Symmetry,
    /// How weights are written. Static layers can be converted if they are symmetric and have one scale, or one for each output
    /// channel; with others a prepared model can be studied, and [`convert`](crate::convert()) names the layer that it refuses.
    pub weights: Scheme,
    /// Dotted names of layers that shall stay in `f32`: each with all that is inside of it.
    pub keep_float: Vec<String>,
    /// In which numbers layers compute of which nothing else is said.
    pub precision: Precision,
    /// Layers, by dotted name, that compute in other numbers, each with all that is inside of it. The longest name that holds a
    /// layer decides, of equal ones the last; `keep_float` comes first.
    pub overrides: Vec<(String, Precision)>,
    /// Whether an operation that would stay in `f32` is an error. Layers without weights between narrow ones do not count: the ledger
    /// says that they pass real values on ([`Fate::PassesReals`](crate::Fate::PassesReals)).
    pub require_full_coverage: bool,
}

impl Default for PrepareOptions {
    /// Min-max calibration, all layers static, activations asymmetric, weights per channel, nothing kept in `f32`.
    fn default() -> Self {
        Self {
            calibration: Calibration::default(),
            activations: Symmetry::Asymmetric,
            weights: Scheme::WEIGHTS,
            keep_float: Vec::new(),
            precision: Precision::default(),
            overrides: Vec::new(),
            require_full_coverage: false,
        }
    }
}

const INPUT: &str = "input";

/// A model taken apart, with observers at its input and behind every stage.
#[derive(Debug)]
pub struct Prepared {
    input: SketchObserver,
    /// What the input is called among the names of the layers.
    input_name: String,
    stages: Vec<Stage>,
    calibration: Calibration,
    ledger: Ledger,
}

impl Prepared {
    /// Shows the observer of the input a batch. Shape `[batch, ..]`, as the model takes it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] that names the input, with channel and index.
    pub fn observe_input(&mut self, batch: &Tensor) -> Result<()> {
        observe(&mut self.input, batch, &self.input_name)
    }

    /// What the codes of the input shall mean. Scale 1 and zero point 0 stand for an input that no layer reads as codes.
    ///
    /// # Errors
    ///
    /// [`Error::NothingObserved`] that names the input, [`Error::BadRange`].
    pub fn input_qparams(&self) -> Result<QParams> {
        if !stage::demands_codes(&self.stages, true) {
            return Ok(NO_CODES);
        }
        let range = self
            .input
            .range()
            .map_err(|error| error.in_tensor(&self.input_name))?;
        pair_for(range, self.input.symmetry(), CodeRange::INT8)
            .map_err(|error| error.in_tensor(&self.input_name))
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

    /// What becomes of every operation of the model.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// All stages, those inside of sums and concatenations too, in order of computation.
    #[must_use]
    pub fn all_stages(&self) -> Vec<&Stage> {
        stage::all(&self.stages)
    }

    /// The stage of this name, also inside of a sum or a concatenation.
    #[must_use]
    pub fn stage(&self, name: &str) -> Option<&Stage> {
        let mut all = self.all_stages().into_iter();
        all.find(|stage| stage.name() == name)
    }

    /// The stage of this name, to be changed.
    pub fn stage_mut(&mut self, name: &str) -> Option<&mut Stage> {
        stage::find(&mut self.stages, name)
    }

    /// Forgets what all observers saw, so that the model can be calibrated again, after its weights were changed for instance, or
    /// after a batch was refused half-way: the layers before the error have counted it, those behind have not.
    ///
    /// # Errors
    ///
    /// None for a model that was prepared.
    pub fn forget_observations(&mut self) -> Result<()> {
        let (calibration, symmetry) = (self.calibration, self.input.symmetry());
        let new = || SketchObserver::with_symmetry(calibration, symmetry);
        self.input = new()?;
        self.stages
            .iter_mut()
            .try_for_each(|stage| stage.watch(&new))
    }

    /// Numbers the batches that come from now on `first`, `first + 1`, ..., at the input and behind every stage.
    ///
    /// Several workers, or runs on several days, calibrate copies of a model with parts of one data set. Each says which part it
    /// has, before [`calibrate`](crate::calibrate), and [`Prepared::merge_sketches`] then gives what one pass over all of it
    /// would have given, bit for bit (N17). Without numbers of their own all parts begin at 0, and their batches fall together: a
    /// moving average then sees a few large batches in place of many. Batches without values are not counted.
    ///
    /// ```
    /// use rand::SeedableRng;
    /// use tinytorch_core::Tensor;
    /// use tinytorch_core::nn::{Linear, Sequential};
    /// use tinytorch_quantization::{Calibration, PrepareOptions, calibrate, prepare};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let rng = &mut rand_chacha::ChaCha8Rng::seed_from_u64(0);
    /// let model = Sequential::new().with(Linear::new(4, 2, rng));
    /// let batches: Vec<Tensor> = (0..6).map(|_| Tensor::randn(&[8, 4], rng)).collect();
    /// let options = PrepareOptions { calibration: Calibration::MovingAverage(0.1), ..PrepareOptions::default() };
    ///
    /// let mut all = prepare(&model, &options)?;
    /// for (part, first) in batches.chunks(2).zip([0, 2, 4]) {
    ///     let mut worker = prepare(&model, &options)?;
    ///     worker.number_batches_from(first);
    ///     calibrate(&mut worker, part.to_vec())?;
    ///     all.merge_sketches(&worker.sketches())?;
    /// }
    /// let mut one_pass = prepare(&model, &options)?;
    /// calibrate(&mut one_pass, batches)?;
    /// assert_eq!(all.sketches(), one_pass.sketches());
    /// # Ok(())
    /// # }
    /// ```
    pub fn number_batches_from(&mut self, first: u64) {
        self.observers_mut()
            .for_each(|(_, observer)| observer.number_batches_from(first));
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

    /// What was observed at the input (`input`, or `the input` in a model with a layer called that, and so on) and behind every stage, by name, to be saved with [`save_sketches`](crate::save_sketches) or
    /// merged with those of another thread.
    #[must_use]
    pub fn sketches(&self) -> Vec<(String, Sketch)> {
        let observers = self.observers();
        observers
            .map(|(name, observer, _)| (name.to_owned(), observer.sketch.clone()))
            .collect()
    }

    /// Adds what was observed elsewhere, by another thread or on another day, to what was observed here. Who observed parts of one
    /// data set numbers the batches: [`Prepared::number_batches_from`].
    ///
    /// Places are known by name alone. Whether the sketches are those of this model, or of another one with layers of the same names, cannot be told.
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
            others.for_each(|(_, sketch)| observer.merge(sketch));
        }
        Ok(())
    }

    /// Whether anything is written as codes that get parameters from what was observed.
    pub(crate) fn needs_ranges(&self) -> bool {
        self.observers().any(|(_, _, own)| own)
    }

    fn observers(&self) -> impl Iterator<Item = (&str, &SketchObserver, bool)> {
        let stages = self.all_stages().into_iter();
        let stages = stages.map(|stage| (stage.name(), stage.observer(), stage.has_own_range()));
        let reads_input = stage::demands_codes(&self.stages, true);
        std::iter::once((self.input_name.as_str(), &self.input, reads_input)).chain(stages)
    }

    fn observers_mut(&mut self) -> impl Iterator<Item = (String, &mut SketchObserver)> {
        let mut found = vec![(self.input_name.clone(), &mut self.input)];
        stage::observers_mut(&mut self.stages, &mut found);
        found.into_iter()
    }

    /// The name of the input among the names of the stages.
    pub(crate) fn input_name(&self) -> &str {
        &self.input_name
    }

    /// A copy to try something on. The layers are shared until they are replaced.
    pub(crate) fn copy(&self) -> Self {
        Self {
            input: self.input.clone(),
            input_name: self.input_name.clone(),
            stages: self.stages.iter().map(Stage::copy).collect(),
            calibration: self.calibration,
            ledger: self.ledger.clone(),
        }
    }

    /// Computes the output in `f32`. Nothing is observed. `[batch, ..]` to `[batch, ..]`, as the original model.
    ///
    /// # Errors
    ///
    /// Those of the layers.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.stages
            .iter()
            .try_fold(x.clone(), |x, stage| stage.compute(&x))
    }
}

/// Takes a model apart and gives its input and every layer output an observer.
///
/// Nested [`Sequential`]s are opened, and so are the ways of a [`Residual`] and the branches of a [`Concat`]. A batch norm behind
/// a convolution, and a ReLU behind a convolution, a linear layer or a sum, join it. Dropout, which does nothing in
/// evaluation, is left out. Everything that has no integer version stays in `f32`; a quantized model lists it by name and
/// reason.
///
/// The model is put into evaluation mode: calibration must see what inference will.
///
/// # Errors
///
/// [`Error::SameName`] if two layers have the same name, [`Error::NoSuchLayer`] if a name of `keep_float` or `overrides` is not in the model, [`Error::LeftInFloat`] that names layer and
/// rule if full coverage is required, [`Error::BadCodeRange`], [`Error::BadGroupSize`], [`Error::BadPercentile`],
/// [`Error::BadAveragingConstant`].
///
/// [`Residual`]: crate::framework::nn::Residual
/// [`Concat`]: crate::framework::nn::Concat
pub fn prepare(model: &Sequential, options: &PrepareOptions) -> Result<Prepared> {
    model.set_training(false);
    let (stages, ledger) = take_apart::stages(model, options)?;
    let mut input_name = INPUT.to_owned();
    while stage::all(&stages)
        .iter()
        .any(|stage| stage.name() == input_name)
    {
        input_name.insert_str(0, "the ");
    }
    Ok(Prepared {
        input_name,
        input: SketchObserver::with_symmetry(options.calibration, options.activations)?,
        stages,
        calibration: options.calibration,
        ledger,
    })
}
