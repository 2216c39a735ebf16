//! Fake quantization of activations, as a layer: it rounds, and it knows or learns the range.

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
use crate::fake_quantize::fake_quantize;
use crate::framework::nn::Layer;
use crate::framework::{self, Tensor};
use crate::learned::{fake_quantize_learned, gradient_scale, initial_step, learned_zero_point};
use crate::observer::{MovingAverageMinMaxObserver, Observer};
use crate::parameters::pair_for;
use crate::scheme::{CodeRange, QParams, Symmetry, ValueRange};

/// The smallest step that training may reach, as in PyTorch.
pub(crate) const SMALLEST_STEP: f32 = f32::EPSILON;

/// A layer that changes no shape and only rounds: each value to the nearest that has a code.
///
/// | made by | where the range comes from | tensors |
/// |---|---|---|
/// | [`FakeQuantize::new`] | in training it follows the values, as a moving average | buffer `range`, `[2]`: smallest and largest |
/// | [`FakeQuantize::learned`] | the first batch in training begins it, gradients go on | parameters `scale` and `zero_point`, `[1]` each |
///
/// In evaluation, or frozen, the range stays. Until a value came, all tensors are NaN.
#[derive(Debug)]
pub struct FakeQuantize {
    source: Source,
    codes: CodeRange,
    symmetry: Symmetry,
    training: AtomicBool,
    frozen: AtomicBool,
}

#[derive(Debug)]
enum Source {
    Followed {
        range: Tensor,
        averaging_constant: f32,
    },
    Learned {
        scale: Tensor,
        zero_point: Tensor,
    },
}

impl FakeQuantize {
    /// A layer that rounds to `codes` and follows ranges with this averaging constant.
    ///
    /// # Errors
    ///
    /// [`Error::BadAveragingConstant`], [`Error::BadCodeRange`].
    pub fn new(averaging_constant: f32, codes: CodeRange) -> Result<Self> {
        MovingAverageMinMaxObserver::new(averaging_constant)?;
        let range = Tensor::full(&[2], f32::NAN);
        Self::with(
            Source::Followed {
                range,
                averaging_constant,
            },
            codes,
        )
    }

    /// A layer that rounds to `codes` with a scale and a zero point that are trained.
    ///
    /// The first batch fixes where they begin: the zero point that min-max gives, and the smaller of min-max's scale and
    /// LSQ's first step ([`initial_step`]), which with 8 bits would be needlessly coarse.
    ///
    /// # Errors
    ///
    /// [`Error::BadCodeRange`].
    pub fn learned(codes: CodeRange) -> Result<Self> {
        let unknown = || Tensor::full(&[1], f32::NAN).with_grad();
        let (scale, zero_point) = (unknown(), unknown());
        Self::with(Source::Learned { scale, zero_point }, codes)
    }

    fn with(source: Source, codes: CodeRange) -> Result<Self> {
        codes.check()?;
        Ok(Self {
            source,
            codes,
            symmetry: Symmetry::Asymmetric,
            training: AtomicBool::new(true),
            frozen: AtomicBool::new(false),
        })
    }

    /// The same layer for activations that are symmetric, or not. The zero point of symmetric ones is 0, also where the scale is learned.
    #[must_use]
    pub fn with_symmetry(mut self, symmetry: Symmetry) -> Self {
        self.symmetry = symmetry;
        if let Source::Learned { zero_point, .. } = &mut self.source {
            let unknown = Tensor::full(&[1], f32::NAN);
            *zero_point = match symmetry {
                Symmetry::Symmetric => unknown,
                Symmetry::Asymmetric => unknown.with_grad(),
            };
        }
        self
    }

    /// The codes it rounds to.
    #[must_use]
    pub fn codes(&self) -> CodeRange {
        self.codes
    }

    /// The range so far: what was seen, or the reals of the first and the last code if it is learned.
    #[must_use]
    pub fn range(&self) -> Option<ValueRange> {
        match &self.source {
            Source::Followed { range, .. } => match *range.to_vec().as_slice() {
                [min, max] if !(min.is_nan() || max.is_nan()) => Some(ValueRange { min, max }),
                _ => None,
            },
            Source::Learned { .. } => {
                let QParams { scale, zero_point } = self.learned_qparams()?;
                let real = |code: i32| scale * (code - zero_point) as f32;
                Some(ValueRange {
                    min: real(self.codes.min),
                    max: real(self.codes.max),
                })
            }
        }
    }

    /// What the codes mean.
    ///
    /// # Errors
    ///
    /// [`Error::NothingObserved`], [`Error::BadRange`].
    pub fn qparams(&self) -> Result<QParams> {
        let unknown = || Error::NothingObserved { tensor: None };
        match &self.source {
            Source::Followed { .. } => {
                pair_for(self.range().ok_or_else(unknown)?, self.symmetry, self.codes)
            }
            Source::Learned { .. } => self.learned_qparams().ok_or_else(unknown),
        }
    }

    fn learned_qparams(&self) -> Option<QParams> {
        let Source::Learned { scale, zero_point } = &self.source else {
            return None;
        };
        let scale = *scale.to_vec().first().filter(|scale| !scale.is_nan())?;
        let zero_point = *zero_point.to_vec().first()?;
        Some(QParams {
            scale: scale.max(SMALLEST_STEP),
            zero_point: learned_zero_point(zero_point, self.codes),
        })
    }

    /// The learned scale and its zero point, if it is learned. Both have shape `[1]`; the zero point of symmetric activations takes no gradient.
    #[must_use]
    pub fn learned_parameters(&self) -> Option<(&Tensor, &Tensor)> {
        match &self.source {
            Source::Learned { scale, zero_point } => Some((scale, zero_point)),
            Source::Followed { .. } => None,
        }
    }

    /// Whether the range stays as it is, also in training.
    pub fn freeze(&self, frozen: bool) {
        self.frozen.store(frozen, Ordering::Relaxed);
    }

    /// Follows the range, in training, and rounds. `[batch, ..]`, which stays.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] with channel and index; [`Error::NothingObserved`] in evaluation before any training.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        self.rounded(x)
            .map_err(|error| error.in_activation(x.shape()))
    }

    fn rounded(&self, x: &Tensor) -> Result<Tensor> {
        self.observe(x)?;
        let qparams = self.qparams()?;
        let Source::Learned { scale, zero_point } = &self.source else {
            return fake_quantize(x, qparams, self.codes);
        };
        if self.frozen.load(Ordering::Relaxed) {
            return fake_quantize(x, qparams, self.codes);
        }
        let per_example = x.len() / x.shape().first().copied().unwrap_or(1).max(1);
        let factor = gradient_scale(per_example, self.codes);
        let scale = at_least_smallest(scale);
        fake_quantize_learned(x, &scale, zero_point, self.codes, factor)
    }

    /// Says what the range is, whoever trains: that of a table, whose codes are the output.
    pub(crate) fn set_range(&self, range: ValueRange) -> Result<()> {
        if let Source::Followed { range: held, .. } = &self.source {
            held.assign(&Tensor::new(vec![range.min, range.max], &[2])?)?;
        }
        Ok(())
    }

    /// Lets the range follow these values, if it is one that does so now.
    pub(crate) fn observe(&self, x: &Tensor) -> Result<()> {
        self.follow(x)
            .map_err(|error| error.in_activation(x.shape()))
    }

    fn follow(&self, x: &Tensor) -> Result<()> {
        if !self.training.load(Ordering::Relaxed) || x.is_empty() {
            return Ok(());
        }
        let begins = self.range().is_none();
        let values = x.array();
        let values = values.as_standard_layout();
        let values = values.as_slice().unwrap_or_default();
        match &self.source {
            Source::Followed {
                range,
                averaging_constant,
            } if begins || !self.frozen.load(Ordering::Relaxed) => {
                let mut observer =
                    MovingAverageMinMaxObserver::resume(*averaging_constant, self.range())?;
                observer.observe(values)?;
                let ValueRange { min, max } = observer.range()?;
                range.assign(&Tensor::new(vec![min, max], &[2])?)?;
            }
            Source::Learned { scale, zero_point } if begins => {
                let mut observer = MovingAverageMinMaxObserver::new(1.0)?;
                observer.observe(values)?;
                let first = pair_for(observer.range()?, self.symmetry, self.codes)?;
                let magnitude = values.iter().copied();
                // LSQ counts the codes on one side of zero; here all are, where nothing is negative.
                let side = CodeRange {
                    min: 0,
                    max: self.codes.max - first.zero_point,
                };
                let step = match initial_step(magnitude, side) {
                    step if step > SMALLEST_STEP => step.min(first.scale),
                    _ => first.scale,
                };
                scale.assign(&Tensor::full(&[1], step))?;
                zero_point.assign(&Tensor::full(&[1], first.zero_point as f32))?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Each scale, or the smallest that may be used; the gradient passes, so that it can grow again.
pub(crate) fn at_least_smallest(scale: &Tensor) -> Tensor {
    let output = scale.array().mapv(|scale| scale.max(SMALLEST_STEP));
    Tensor::from_op("at_least", output, &[scale], |gradient| {
        Ok(vec![Some(gradient.clone())])
    })
}

impl Layer for FakeQuantize {
    fn forward(&self, x: &Tensor) -> framework::Result<Tensor> {
        self.apply(x).map_err(Error::into_framework)
    }

    fn kind(&self) -> &'static str {
        "fake_quantize"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn own_parameters(&self) -> Vec<(String, Tensor)> {
        match &self.source {
            Source::Followed { .. } => Vec::new(),
            Source::Learned { scale, zero_point } => {
                let mut learned = vec![("scale".to_owned(), scale.clone())];
                if self.symmetry == Symmetry::Asymmetric {
                    learned.push(("zero_point".to_owned(), zero_point.clone()));
                }
                learned
            }
        }
    }

    fn own_buffers(&self) -> Vec<(String, Tensor)> {
        match &self.source {
            Source::Followed { range, .. } => vec![("range".to_owned(), range.clone())],
            Source::Learned { zero_point, .. } if self.symmetry == Symmetry::Symmetric => {
                vec![("zero_point".to_owned(), zero_point.clone())]
            }
            Source::Learned { .. } => Vec::new(),
        }
    }

    fn own_training(&self) -> Option<bool> {
        Some(self.training.load(Ordering::Relaxed))
    }

    fn set_training(&self, training: bool) {
        self.training.store(training, Ordering::Relaxed);
    }
}
