//! What the codes of a tensor mean: one pair of parameters for all, for each channel, or for each group.
//!
//! In: values and a [`Scheme`]. Out: the pairs it asks for, and which values each of them is for.
//!
//! ```text
//! a weight [2, 5]        PerTensor     PerChannel { axis: 0 }     PerGroup { size: 2 }
//! w w w w w              0 0 0 0 0     0 0 0 0 0                  0 0 1 1 2        the last group of a row is short,
//! w w w w w              0 0 0 0 0     1 1 1 1 1                  3 3 4 4 5        none crosses into the next row
//! ```

use std::ops::Range;

use ndarray::ArrayViewD;

use crate::error::{Error, Result};
use crate::finite::{check_finite, check_finite_channels};
use crate::per_channel::choose_qparams_per_channel;
use crate::qparams::{choose_qparams, symmetric_scale};
use crate::scheme::{CodeRange, Granularity, QParams, Scheme, Symmetry, ValueRange};

/// What the codes of a tensor mean.
#[derive(Clone, Debug, PartialEq)]
pub enum Parameters {
    /// One pair for all.
    PerTensor(QParams),
    /// One pair for every index along `axis`.
    PerChannel {
        /// The axis of the channels.
        axis: usize,
        /// One pair for each channel, in order.
        qparams: Vec<QParams>,
    },
    /// One pair for every group; see [`Granularity::PerGroup`].
    PerGroup {
        /// Values in a group.
        size: usize,
        /// One pair for each group: those of the first row, then those of the second, and so on.
        qparams: Vec<QParams>,
    },
}

impl Parameters {
    /// Finds the pairs that `scheme` asks for in the values themselves: of each part, the largest magnitude if symmetric, else the
    /// smallest and the largest value. Any shape; per channel with that axis, per group with rows along axis 0.
    ///
    /// What has no value, or only zeros, gets scale 1 and zero point 0 (N7).
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] with index and, unless per tensor, the channel (per group: the row); [`Error::BadRange`] if a part
    /// is wider than `f32::MAX`; [`Error::AxisOutOfRange`]; those of [`Scheme::check`].
    pub fn choose(values: ArrayViewD<'_, f32>, scheme: Scheme) -> Result<Self> {
        scheme.check()?;
        let Scheme {
            symmetry,
            granularity,
            codes,
        } = scheme;
        match granularity {
            Granularity::PerTensor => {
                let values = values.as_standard_layout();
                let slice = values.as_slice().unwrap_or_default();
                check_finite(slice)?;
                pair_for(hull(slice), symmetry, codes).map(Self::PerTensor)
            }
            Granularity::PerChannel { axis } if symmetry == Symmetry::Symmetric => {
                let qparams = choose_qparams_per_channel(values, axis, codes)?;
                Ok(Self::PerChannel { axis, qparams })
            }
            Granularity::PerChannel { axis } => {
                check_finite_channels(&values, axis)?;
                let pair = |channel: ArrayViewD<'_, f32>| {
                    let of: Vec<f32> = channel.iter().copied().collect();
                    pair_for(hull(&of), symmetry, codes)
                };
                let channels = values.axis_iter(ndarray::Axis(axis));
                let qparams = channels.map(pair).collect::<Result<_>>()?;
                Ok(Self::PerChannel { axis, qparams })
            }
            Granularity::PerGroup { size } => {
                check_finite_rows(&values)?;
                let values = values.as_standard_layout();
                let slice = values.as_slice().unwrap_or_default();
                let groups = Groups::of(values.shape(), size);
                let pair = |group| pair_for(hull(&slice[groups.range(group)]), symmetry, codes);
                let qparams = (0..groups.count()).map(pair).collect::<Result<_>>()?;
                Ok(Self::PerGroup { size, qparams })
            }
        }
    }

    /// The granularity of these.
    #[must_use]
    pub fn granularity(&self) -> Granularity {
        match *self {
            Self::PerTensor(_) => Granularity::PerTensor,
            Self::PerChannel { axis, .. } => Granularity::PerChannel { axis },
            Self::PerGroup { size, .. } => Granularity::PerGroup { size },
        }
    }

    /// All pairs, in order.
    #[must_use]
    pub fn pairs(&self) -> &[QParams] {
        match self {
            Self::PerTensor(pair) => std::slice::from_ref(pair),
            Self::PerChannel { qparams, .. } | Self::PerGroup { qparams, .. } => qparams,
        }
    }

    /// The same with other pairs: `change` is called for each, in order.
    #[must_use]
    pub fn map(&self, change: impl FnMut(&QParams) -> QParams) -> Self {
        let qparams: Vec<QParams> = self.pairs().iter().map(change).collect();
        match *self {
            Self::PerTensor(_) => Self::PerTensor(qparams[0]),
            Self::PerChannel { axis, .. } => Self::PerChannel { axis, qparams },
            Self::PerGroup { size, .. } => Self::PerGroup { size, qparams },
        }
    }

    /// Checks that these fit a tensor of this shape and these codes.
    ///
    /// # Errors
    ///
    /// [`Error::BadQParams`], [`Error::AxisOutOfRange`], [`Error::ParameterCount`], [`Error::GroupCount`],
    /// [`Error::BadGroupSize`].
    pub fn check(&self, shape: &[usize], codes: CodeRange) -> Result<()> {
        let got = self.pairs().len();
        match *self {
            Self::PerTensor(_) => {}
            Self::PerChannel { axis, .. } => {
                let &channels = shape.get(axis).ok_or(Error::AxisOutOfRange {
                    axis,
                    dimensions: shape.len(),
                })?;
                if channels != got {
                    return Err(Error::ParameterCount {
                        axis,
                        channels,
                        got,
                    });
                }
            }
            Self::PerGroup { size: 0, .. } => return Err(Error::BadGroupSize),
            Self::PerGroup { size, .. } => {
                let groups = Groups::of(shape, size).count();
                if groups != got {
                    return Err(Error::GroupCount { size, groups, got });
                }
            }
        }
        self.pairs().iter().try_for_each(|pair| pair.check(codes))
    }

    /// The tensor as stretches of values, in row-major order, that share a pair: their places and the pair.
    ///
    /// `PerTensor` is one stretch; `PerChannel { axis: 0 }` one for each channel; along a later axis the channels come back
    /// again and again.
    ///
    /// # Panics
    ///
    /// If these do not fit the shape; see [`Parameters::check`].
    pub fn runs<'a>(
        &'a self,
        shape: &[usize],
    ) -> impl Iterator<Item = (Range<usize>, QParams)> + 'a {
        let pairs = self.pairs();
        let runs = match *self {
            Self::PerTensor(_) => Groups::of(&[elements(shape)], elements(shape).max(1)),
            Self::PerChannel { axis, .. } => {
                assert_eq!(shape[axis], pairs.len(), "one pair for each channel");
                let inner = elements(&shape[axis + 1..]);
                let outer = elements(&shape[..=axis]);
                Groups::of(&[outer, inner], inner.max(1))
            }
            Self::PerGroup { size, .. } => {
                let groups = Groups::of(shape, size);
                assert_eq!(groups.count(), pairs.len(), "one pair for each group");
                groups
            }
        };
        (0..runs.count()).map(move |run| (runs.range(run), pairs[run % pairs.len()]))
    }
}

/// The pair for values of this range, which holds 0.
pub(crate) fn pair_for(range: ValueRange, symmetry: Symmetry, codes: CodeRange) -> Result<QParams> {
    match symmetry {
        Symmetry::Symmetric => Ok(QParams::symmetric(symmetric_scale(range.max_abs(), codes)?)),
        Symmetry::Asymmetric => choose_qparams(range, codes),
    }
}

/// The smallest range that holds all values, and 0.
fn hull(values: &[f32]) -> ValueRange {
    let zero = ValueRange { min: 0.0, max: 0.0 };
    values.iter().fold(zero, |range, &x| ValueRange {
        min: range.min.min(x),
        max: range.max.max(x),
    })
}

/// N5; the row counts as the channel.
fn check_finite_rows(values: &ArrayViewD<'_, f32>) -> Result<()> {
    if values.ndim() < 2 {
        let values = values.as_standard_layout();
        return check_finite(values.as_slice().unwrap_or_default());
    }
    check_finite_channels(values, 0)
}

/// How many values a tensor of this shape has.
fn elements(shape: &[usize]) -> usize {
    shape
        .iter()
        .fold(1, |count: usize, &size| count.saturating_mul(size))
}

/// How a tensor falls into groups.
#[derive(Clone, Copy, Debug)]
struct Groups {
    rows: usize,
    row: usize,
    size: usize,
    per_row: usize,
}

impl Groups {
    /// # Panics
    ///
    /// If `size` is 0.
    fn of(shape: &[usize], size: usize) -> Self {
        assert!(size > 0, "a group needs at least one value");
        let (rows, row) = match shape {
            [rows, inner @ ..] if !inner.is_empty() => (*rows, elements(inner)),
            _ => (1, elements(shape)),
        };
        Self {
            rows,
            row,
            size,
            per_row: row.div_ceil(size),
        }
    }

    fn count(self) -> usize {
        self.rows.saturating_mul(self.per_row)
    }

    fn range(self, group: usize) -> Range<usize> {
        let (row, place) = (group / self.per_row, group % self.per_row * self.size);
        let end = place.saturating_add(self.size).min(self.row);
        row * self.row + place..row * self.row + end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{ArrayD, arr2};

    fn scheme(symmetry: Symmetry, granularity: Granularity) -> Scheme {
        Scheme {
            symmetry,
            granularity,
            codes: CodeRange::INT8,
        }
    }

    #[test]
    fn worked_example_groups_of_two_in_rows_of_five() {
        let values = arr2(&[[1.27, -0.5, 2.54, 0.0, 12.7], [0.0, 0.0, 127.0, -1.0, 3.0]]);
        let scheme = Scheme {
            codes: CodeRange::INT8_NARROW,
            ..Scheme::weights_in_groups(8, 2)
        };
        let chosen = Parameters::choose(values.view().into_dyn(), scheme).expect("good values");
        let scales: Vec<f32> = chosen.pairs().iter().map(|pair| pair.scale).collect();
        let expected = [1.27, 2.54, 12.7].map(|max: f32| max / 127.0);
        assert_eq!(scales[..3], expected);
        // A group of zeros has nothing to spread (N7).
        assert_eq!(scales[3..], [1.0, 1.0, 3.0 / 127.0]);
        let places: Vec<_> = chosen.runs(&[2, 5]).map(|(range, _)| range).collect();
        assert_eq!(places, [0..2, 2..4, 4..5, 5..7, 7..9, 9..10]);
    }

    #[test]
    fn asymmetric_channels_have_a_range_of_their_own() {
        let values = arr2(&[[-1.0, 2.0], [0.0, 255.0], [5.0, 5.0], [0.0, 0.0]]);
        let asked = scheme(Symmetry::Asymmetric, Granularity::PerChannel { axis: 0 });
        let chosen = Parameters::choose(values.view().into_dyn(), asked).expect("good values");
        let pair = |scale, zero_point| QParams { scale, zero_point };
        assert_eq!(
            chosen.pairs(),
            [
                pair(3.0 / 255.0, -43),
                pair(1.0, -128),
                pair(5.0 / 255.0, -128),
                pair(1.0, 0)
            ]
        );
    }

    #[test]
    fn channels_along_a_later_axis_come_back() {
        let qparams = [1.0, 2.0].map(QParams::symmetric).to_vec();
        let parameters = Parameters::PerChannel { axis: 1, qparams };
        let runs: Vec<_> = parameters
            .runs(&[2, 2, 3])
            .map(|(range, pair)| (range, pair.scale))
            .collect();
        assert_eq!(runs, [(0..3, 1.0), (3..6, 2.0), (6..9, 1.0), (9..12, 2.0)]);
    }

    #[test]
    fn images_are_grouped_over_all_but_the_first_axis() {
        let groups = Groups::of(&[2, 3, 2, 2], 5);
        assert_eq!(groups.count(), 2 * 3);
        assert_eq!(groups.range(2), 10..12);
        assert_eq!(groups.range(3), 12..17);
        // A vector is one row.
        assert_eq!(Groups::of(&[7], 4).count(), 2);
        assert_eq!(Groups::of(&[], 4).count(), 1);
        assert_eq!(Groups::of(&[0, 3], 4).count(), 0);
        assert_eq!(Groups::of(&[3, 0], 4).count(), 0);
        assert_eq!(Groups::of(&[2, 3], usize::MAX).range(1), 3..6);
    }

    #[test]
    fn a_count_that_does_not_fit_is_named() {
        let qparams = vec![QParams::symmetric(1.0); 3];
        let channels = Parameters::PerChannel {
            axis: 0,
            qparams: qparams.clone(),
        };
        assert_eq!(
            channels.check(&[4, 2], CodeRange::INT8),
            Err(Error::ParameterCount {
                axis: 0,
                channels: 4,
                got: 3
            })
        );
        let groups = Parameters::PerGroup { size: 2, qparams };
        assert_eq!(
            groups.check(&[2, 3], CodeRange::INT8),
            Err(Error::GroupCount {
                size: 2,
                groups: 4,
                got: 3
            })
        );
        assert_eq!(groups.check(&[1, 5], CodeRange::INT8), Ok(()));
    }

    #[test]
    fn a_bad_value_in_a_group_is_named_with_its_row() {
        let mut values = ArrayD::<f32>::zeros(vec![3, 4]);
        values[[2, 1]] = f32::NAN;
        let asked = scheme(Symmetry::Asymmetric, Granularity::PerGroup { size: 3 });
        let Err(Error::NotFinite { place, .. }) = Parameters::choose(values.view(), asked) else {
            panic!("NaN was accepted");
        };
        assert_eq!((place.channel, place.index), (Some(2), 9));
    }

    #[test]
    fn nothing_at_all_is_no_error() {
        for shape in [vec![0, 3], vec![3, 0], vec![0]] {
            let values = ArrayD::<f32>::zeros(shape.clone());
            for granularity in [
                Granularity::PerTensor,
                Granularity::PerChannel { axis: 0 },
                Granularity::PerGroup { size: 2 },
            ] {
                for symmetry in [Symmetry::Symmetric, Symmetry::Asymmetric] {
                    let asked = scheme(symmetry, granularity);
                    let chosen = Parameters::choose(values.view(), asked).expect("nothing wrong");
                    assert_eq!(chosen.check(&shape, CodeRange::INT8), Ok(()));
                    let covered: usize = chosen.runs(&shape).map(|(range, _)| range.len()).sum();
                    assert_eq!(covered, 0);
                }
            }
        }
    }
}
