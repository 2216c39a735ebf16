//! A place in a model that is watched while data flows, and what was found out there.
//!
//! In: the values of one tensor, batch by batch. Out: a range by any method, and a report: how much was seen, how much of it the range
//! cuts off, how far the range can be trusted.

use std::fmt;

use crate::calibration::Calibration;
use crate::confidence::Confidence;
use crate::error::Result;
use crate::observer::Observer;
use crate::scheme::{CodeRange, Symmetry, ValueRange};
use crate::sketch::Sketch;

/// An observer that keeps a sketch, so that its method can be changed after the data came.
#[derive(Clone, Debug, PartialEq)]
pub struct SketchObserver {
    /// What came.
    pub sketch: Sketch,
    method: Calibration,
    codes: CodeRange,
    symmetry: Symmetry,
    /// The number of the next batch in the whole data set, if somebody gave it; otherwise one more than the largest so far.
    next_batch: Option<u64>,
}

impl SketchObserver {
    /// An observer for activations (N9) that saw nothing.
    ///
    /// # Errors
    ///
    /// [`crate::Error::BadAveragingConstant`], [`crate::Error::BadPercentile`].
    pub fn new(method: Calibration) -> Result<Self> {
        Self::with_symmetry(method, Symmetry::Asymmetric)
    }

    /// As [`SketchObserver::new`]; a symmetric one answers with a range that reaches as far below 0 as above.
    ///
    /// # Errors
    ///
    /// Those of [`SketchObserver::new`].
    pub fn with_symmetry(method: Calibration, symmetry: Symmetry) -> Result<Self> {
        method.check()?;
        Ok(Self {
            sketch: Sketch::new(),
            method,
            codes: CodeRange::INT8,
            symmetry,
            next_batch: None,
        })
    }

    /// Whether its range reaches as far below 0 as above.
    #[must_use]
    pub fn symmetry(&self) -> Symmetry {
        self.symmetry
    }

    /// Numbers the batches that come from now on `first`, `first + 1`, ..., because they are a part of a larger data set: see
    /// [`Sketch::observe_batch`].
    pub fn number_batches_from(&mut self, first: u64) {
        self.next_batch = Some(first);
    }

    /// Adds what was observed elsewhere. Batches are then numbered on from the largest number.
    pub fn merge(&mut self, other: &Sketch) {
        self.sketch.merge(other);
        self.next_batch = None;
    }

    /// The method by which [`Observer::range`] finds the range.
    #[must_use]
    pub fn method(&self) -> Calibration {
        self.method
    }

    /// Another method for what was seen.
    ///
    /// # Errors
    ///
    /// [`crate::Error::BadAveragingConstant`], [`crate::Error::BadPercentile`]; nothing has changed then.
    pub fn set_method(&mut self, method: Calibration) -> Result<()> {
        method.check()?;
        self.method = method;
        Ok(())
    }

    /// What was seen, which range was chosen, and how far it can be trusted.
    ///
    /// # Errors
    ///
    /// [`crate::Error::NothingObserved`] that names the tensor; those of [`Sketch::range`].
    pub fn report(&self, name: &str) -> Result<CalibrationReport> {
        let sketch = &self.sketch;
        let range = self.range().map_err(|error| error.in_tensor(name))?;
        Ok(CalibrationReport {
            name: name.to_owned(),
            method: self.method,
            samples: sketch.samples(),
            zeros: sketch.zeros(),
            batches: sketch.batches().len(),
            seen: sketch.seen().unwrap_or(range),
            range,
            clipped: sketch.clipped(range),
            confidence: sketch.confidence(self.method, self.codes)?,
        })
    }
}

impl Observer for SketchObserver {
    fn observe(&mut self, values: &[f32]) -> Result<()> {
        let Some(number) = self.next_batch else {
            return self.sketch.observe(values);
        };
        self.sketch.observe_batch(number, values)?;
        self.next_batch = Some(number.saturating_add(1));
        Ok(())
    }

    fn range(&self) -> Result<ValueRange> {
        let range = self.sketch.range(self.method, self.codes)?;
        Ok(match self.symmetry {
            Symmetry::Asymmetric => range,
            Symmetry::Symmetric => ValueRange {
                min: -range.max_abs(),
                max: range.max_abs(),
            },
        })
    }
}

/// What calibration found out about one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct CalibrationReport {
    /// The tensor: `input`, or the stage whose output it is.
    pub name: String,
    /// How the range was found.
    pub method: Calibration,
    /// How many values were seen.
    pub samples: u64,
    /// How many of them were 0.
    pub zeros: u64,
    /// How many batches are remembered, at most [`MAX_BATCHES`](crate::MAX_BATCHES).
    pub batches: usize,
    /// The smallest and the largest value.
    pub seen: ValueRange,
    /// The range that was chosen.
    pub range: ValueRange,
    /// The share of the values beyond it; see [`Sketch::clipped`].
    pub clipped: f64,
    /// Where the range would have ended with other data; `None` if there are too few batches to say.
    pub confidence: Option<Confidence>,
}

impl CalibrationReport {
    /// Whether the data is enough: with other data of the same amount each end of the range would, with 95 % confidence, move by
    /// less than `tolerance` of its width. `None` if there are too few batches to say.
    #[must_use]
    pub fn is_enough(&self, tolerance: f64) -> Option<bool> {
        let confidence = self.confidence.as_ref()?;
        Some(confidence.relative_width(self.range) <= tolerance)
    }

    /// The chance that the next batch of the same kind has a value beyond all that was seen: at most 2 in `batches + 1`, because each
    /// of the batches is as likely as any other to hold the largest, or the smallest, value.
    #[must_use]
    pub fn chance_of_a_new_extreme(&self) -> f64 {
        (2.0 / (self.batches as f64 + 1.0)).min(1.0)
    }
}

impl fmt::Display for CalibrationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ValueRange { min, max } = self.range;
        write!(
            f,
            "{}: [{min:.4}, {max:.4}] from {} values in {} batches, {:.4} % clipped, ",
            self.name,
            self.samples,
            self.batches,
            100.0 * self.clipped
        )?;
        match &self.confidence {
            Some(confidence) => write!(
                f,
                "its ends within {:.1} % of its width (95 % confidence, {})",
                100.0 * confidence.relative_width(self.range),
                confidence.how
            ),
            None => f.write_str("too few batches to say how sure it is"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_method_can_be_changed_without_data() {
        let mut observer = SketchObserver::new(Calibration::MinMax).expect("no constant");
        for batch in 0..20 {
            let values: Vec<f32> = (0..100).map(|i| (i * batch) as f32 % 7.0).collect();
            observer.observe(&values).expect("finite");
        }
        let before = observer.sketch.clone();
        observer
            .set_method(Calibration::Percentile(50.0))
            .expect("in (0, 100]");
        assert!(observer.range().expect("values came").max < 6.0);
        let report = observer.report("fc1").expect("values came");
        assert_eq!((report.samples, report.batches), (2000, 20));
        assert_eq!(report.chance_of_a_new_extreme(), 2.0 / 21.0);
        assert!(report.to_string().starts_with("fc1: [0.0000, "));
        assert_eq!(observer.sketch, before);
        assert!(observer.set_method(Calibration::Percentile(101.0)).is_err());
        assert_eq!(observer.method(), Calibration::Percentile(50.0));
    }
}
