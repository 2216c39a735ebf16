//! A sketch of all values that a tensor ever took: one pass, fixed memory, and any two can be added (N17).
//!
//! In: batches of values, in any order, on any number of threads. Out: enough to find the range by every method afterwards
//! ([`Sketch::range`]), so that trying another method costs no inference, and to say how far the range can be
//! trusted ([`Sketch::confidence`]).
//!
//! ```text
//! thread 1:  batches 0, 2, 4 ... -> Sketch  \
//! thread 2:  batches 1, 3, 5 ... -> Sketch  -- merge -> the same Sketch as from one pass, bit for bit
//! a file:    batches of last week -> Sketch /
//! ```
//!
//! Each part must know which batches it has: [`Sketch::observe_batch`], for a model
//! [`Prepared::number_batches_from`](crate::Prepared::number_batches_from).
//!
//! It is counts of integers, extremes, and a table by batch number; nothing is ever added up in floating point. Therefore the order of
//! the values, the way they are split, and the tree of merges change nothing, not even a bit.

use crate::error::{Error, NonFinite, Place, Result};
use crate::histogram::Histogram;
use crate::kernels::min_max;
use crate::scheme::ValueRange;
use crate::sketch_bins::{BINS, FINEST, count_magnitudes, edges, octave, raise};

/// How many batches a sketch remembers the extremes of: those with the largest numbers.
pub const MAX_BATCHES: usize = 1024;

/// What is remembered of one batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Batch {
    /// Its number in the whole data set.
    pub number: u64,
    /// How many values it had.
    pub samples: u64,
    /// Its smallest and its largest value.
    pub range: ValueRange,
}

/// The nonempty part of a sketch at one magnitude.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bin {
    /// Smallest magnitude that belongs here.
    pub lower: f32,
    /// Magnitudes from here on belong to the next one.
    pub upper: f32,
    /// How many negative values had such a magnitude.
    pub negative: u64,
    /// How many positive values had it.
    pub positive: u64,
}

impl Bin {
    /// Values of both signs.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.negative.saturating_add(self.positive)
    }
}

/// Counts of values by sign and magnitude, and the extremes of batches.
///
/// Memory: [`Sketch::BYTES`], about 95 KB, however much is fed. Accuracy: the bins, described in `sketch_bins.rs`, are never wider
/// than 2⁻¹⁰ of the largest magnitude, nor than 2⁻⁷ of the values in them down to 2⁻²³ of the largest. Smallest and
/// largest value, number of values and number of zeros are exact.
#[derive(Clone, Debug, PartialEq)]
pub struct Sketch {
    pub(crate) top: u32,
    /// The bins of positive values, then those of negative ones.
    pub(crate) counts: Box<[u64]>,
    pub(crate) zeros: u64,
    pub(crate) seen: Option<ValueRange>,
    /// Sorted by number.
    pub(crate) batches: Vec<Batch>,
}

impl Default for Sketch {
    fn default() -> Self {
        Self::new()
    }
}

impl Sketch {
    /// The bytes that a sketch holds, at every time.
    pub const BYTES: usize =
        size_of::<Self>() + 2 * BINS * size_of::<u64>() + MAX_BATCHES * size_of::<Batch>();

    /// A sketch that saw nothing.
    #[must_use]
    pub fn new() -> Self {
        Self {
            top: 1,
            counts: vec![0; 2 * BINS].into_boxed_slice(),
            zeros: 0,
            seen: None,
            batches: Vec::with_capacity(MAX_BATCHES),
        }
    }

    /// Takes in the next batch: its number is one more than the largest so far. No values are no batch. Any shape,
    /// flattened; the order does not matter.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] with the index of the first value that is not; nothing was taken in then.
    pub fn observe(&mut self, values: &[f32]) -> Result<()> {
        let next = self
            .batches
            .last()
            .map_or(0, |last| last.number.saturating_add(1));
        self.observe_batch(next, values)
    }

    /// Takes in a batch, or a part of it, that has this number in the whole data set. Any shape, flattened.
    ///
    /// The number matters to the moving average, for which later batches weigh more, and to the confidence, for which a batch is
    /// one independent draw. Parts of a batch that come at different times, or to different sketches that are merged,
    /// count as one if they have the same number. Who counts several files from 0 each makes one large batch of all that
    /// have the same number: ranges by count stay as they are, and the confidence is reported lower, not higher.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] with the index of the first value that is not; nothing was taken in then.
    pub fn observe_batch(&mut self, number: u64, values: &[f32]) -> Result<()> {
        let range = min_max(values).map_err(|bad| Error::NotFinite {
            value: NonFinite::of(bad.value).unwrap_or(NonFinite::NaN),
            place: Place {
                index: bad.index,
                ..Place::default()
            },
        })?;
        let Some((min, max)) = range else {
            return Ok(());
        };
        let range = ValueRange { min, max };
        self.rise_to(octave(range.max_abs()));
        let zeros = count_magnitudes(values, self.top, &mut self.counts);
        self.zeros = self.zeros.saturating_add(zeros);
        self.widen(range);
        self.add_batch(Batch {
            number,
            samples: values.len() as u64,
            range,
        });
        Ok(())
    }

    /// Adds all that `other` saw.
    pub fn merge(&mut self, other: &Self) {
        self.rise_to(other.top);
        let rise = (self.top - other.top) as usize;
        for (side, counts) in other.counts.chunks(BINS).enumerate() {
            let mut counts = counts.to_vec();
            raise(&mut counts, rise);
            for (own, other) in self.counts[side * BINS..].iter_mut().zip(counts) {
                *own = own.saturating_add(other);
            }
        }
        self.zeros = self.zeros.saturating_add(other.zeros);
        if let Some(range) = other.seen {
            self.widen(range);
        }
        for &batch in &other.batches {
            self.add_batch(batch);
        }
    }

    /// The smallest and the largest value exactly as they came, if any did.
    #[must_use]
    pub fn seen(&self) -> Option<ValueRange> {
        self.seen
    }

    /// How many values came.
    #[must_use]
    pub fn samples(&self) -> u64 {
        let counts = self.counts.iter();
        counts.fold(self.zeros, |sum, &count| sum.saturating_add(count))
    }

    /// How many of them were 0.
    #[must_use]
    pub fn zeros(&self) -> u64 {
        self.zeros
    }

    /// The batches with the largest numbers, in order, at most [`MAX_BATCHES`].
    #[must_use]
    pub fn batches(&self) -> &[Batch] {
        &self.batches
    }

    /// The bins that are not empty, from small to large magnitudes. Zeros are in none of them.
    pub fn bins(&self) -> impl DoubleEndedIterator<Item = Bin> + '_ {
        (0..BINS).filter_map(|bin| {
            let (positive, negative) = (self.counts[bin], self.counts[BINS + bin]);
            (positive > 0 || negative > 0).then(|| {
                let (lower, upper) = edges(bin, self.top);
                Bin {
                    lower,
                    upper,
                    negative,
                    positive,
                }
            })
        })
    }

    /// The plain histogram of the same values with bins of equal width: 2⁻¹⁰ of the top octave, as many as the largest magnitude
    /// needs, which is 1024 to 2048. It is exact: each bin of the sketch lies within one of these.
    ///
    /// # Errors
    ///
    /// [`Error::NothingObserved`].
    pub fn histogram(&self) -> Result<Histogram> {
        let seen = self.seen.ok_or(Error::NothingObserved { tensor: None })?;
        if seen.max_abs() == 0.0 {
            return Histogram::from_counts(vec![0, 0], vec![self.zeros, 0], self.zeros, 0.0, seen);
        }
        let width = 2.0_f64.powi(self.top as i32 - 127 - FINEST as i32);
        let bin_of = |magnitude: f32| (f64::from(magnitude) / width) as usize;
        let bins = (bin_of(seen.max_abs()) + 1).next_multiple_of(2);
        let (mut negative, mut positive) = (vec![0; bins], vec![0; bins]);
        positive[0] = self.zeros;
        for bin in self.bins() {
            let at = bin_of(bin.lower);
            negative[at] = bin.negative.saturating_add(negative[at]);
            positive[at] = bin.positive.saturating_add(positive[at]);
        }
        Histogram::from_counts(negative, positive, self.zeros, width, seen)
    }

    /// The bytes held: [`Sketch::BYTES`].
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let batches = self.batches.capacity().max(MAX_BATCHES);
        size_of::<Self>() + size_of_val(&*self.counts) + batches * size_of::<Batch>()
    }

    fn rise_to(&mut self, top: u32) {
        let rise = top.saturating_sub(self.top);
        self.top += rise;
        for counts in self.counts.chunks_mut(BINS) {
            raise(counts, rise as usize);
        }
    }

    fn widen(&mut self, range: ValueRange) {
        self.seen = Some(self.seen.map_or(range, |seen| hull(seen, range)));
    }

    /// Keeps the batches with the largest numbers. A batch that will be among them at the end is among them at any time before, so
    /// none that counts is ever dropped.
    fn add_batch(&mut self, batch: Batch) {
        match self
            .batches
            .binary_search_by_key(&batch.number, |known| known.number)
        {
            Ok(at) => {
                let known = &mut self.batches[at];
                known.samples = known.samples.saturating_add(batch.samples);
                known.range = hull(known.range, batch.range);
            }
            Err(at) if self.batches.len() < MAX_BATCHES => {
                // A copy of a sketch has only the room it needs.
                self.batches.reserve_exact(MAX_BATCHES - self.batches.len());
                self.batches.insert(at, batch);
            }
            Err(0) => {}
            Err(at) => {
                self.batches.remove(0);
                self.batches.insert(at - 1, batch);
            }
        }
    }
}

pub(crate) fn hull(left: ValueRange, right: ValueRange) -> ValueRange {
    ValueRange {
        min: left.min.min(right.min),
        max: left.max.max(right.max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_by_sign_and_magnitude() {
        let mut sketch = Sketch::new();
        sketch
            .observe(&[0.0, -0.0, 1.5, -1.5, 1.5, 0.25])
            .expect("finite");
        assert_eq!((sketch.samples(), sketch.zeros()), (6, 2));
        assert_eq!(
            sketch.seen(),
            Some(ValueRange {
                min: -1.5,
                max: 1.5
            })
        );
        let width = 1.0 / 1024.0;
        let bin = |lower, negative, positive| Bin {
            lower,
            upper: lower + width,
            negative,
            positive,
        };
        // 2 octaves below the top there are 256 bins in [0.25, 0.5), as wide as those above.
        let bins: Vec<Bin> = sketch.bins().collect();
        assert_eq!(bins, [bin(0.25, 0, 1), bin(1.5, 1, 2)]);
    }

    #[test]
    fn the_memory_is_what_the_constant_says_whatever_is_fed() {
        let mut sketch = Sketch::new();
        assert_eq!(sketch.memory_bytes(), Sketch::BYTES);
        for number in 0..3000 {
            sketch
                .observe(&[number as f32, 1e-30, -1e30])
                .expect("finite");
            assert_eq!(sketch.memory_bytes(), Sketch::BYTES);
        }
        let mut copy = sketch.clone();
        copy.observe(&[1.0]).expect("finite");
        assert_eq!(copy.memory_bytes(), Sketch::BYTES);
        assert_eq!(Sketch::BYTES, 64 + 2 * 4481 * 8 + 1024 * 24);
        assert_eq!(sketch.batches().len(), MAX_BATCHES);
        assert_eq!(sketch.batches()[0].number, 3000 - 1024);
    }

    #[test]
    fn a_value_that_is_not_finite_changes_nothing() {
        let mut sketch = Sketch::new();
        sketch.observe(&[1.0]).expect("finite");
        let before = sketch.clone();
        let error = sketch.observe(&[2.0, f32::NEG_INFINITY]);
        assert_eq!(
            error.map_err(|error| error.to_string()),
            Err("-infinity at index 1 cannot be quantized".to_owned())
        );
        assert_eq!(sketch, before);
        sketch.observe(&[]).expect("nothing is wrong with nothing");
        assert_eq!(sketch, before);
    }

    #[test]
    fn parts_of_a_batch_are_one_batch() {
        let (mut parts, mut whole) = (Sketch::new(), Sketch::new());
        parts.observe_batch(7, &[3.0, -0.0]).expect("finite");
        parts.observe_batch(7, &[-2.0]).expect("finite");
        whole.observe_batch(7, &[-2.0, 3.0, 0.0]).expect("finite");
        assert_eq!(parts, whole);
        assert_eq!(whole.batches()[0].samples, 3);
    }

    #[test]
    fn the_histogram_is_the_one_that_the_values_would_have_filled() {
        let values: Vec<f32> = (0..5000).map(|i| (i as f32 * 0.7).sin() * 3.9).collect();
        let mut sketch = Sketch::new();
        sketch.observe(&values).expect("finite");
        let got = sketch.histogram().expect("values came");
        // Told first of the end of the octave, a histogram of 2048 bins has the same width; that value is taken off again.
        let mut plain = Histogram::new(2048);
        plain.add(&[4.0]).expect("finite");
        plain.add(&values).expect("finite");
        assert_eq!(got.bin_width(), plain.bin_width());
        assert_eq!(got.negative(), &plain.negative()[..got.bins()]);
        assert_eq!(got.positive(), &plain.positive()[..got.bins()]);
        assert_eq!(got.total(), 5000);
        assert!(
            plain.positive()[got.bins()..2047]
                .iter()
                .all(|&count| count == 0)
        );
    }

    #[test]
    fn the_extremes_of_f32_are_counted() {
        let mut sketch = Sketch::new();
        sketch.observe(&[f32::from_bits(1)]).expect("finite");
        assert_eq!(
            sketch.bins().next().map(|bin| bin.upper),
            Some(f32::MIN_POSITIVE)
        );
        sketch.observe(&[f32::MAX, f32::MIN, 0.0]).expect("finite");
        assert_eq!((sketch.samples(), sketch.zeros()), (4, 1));
        assert_eq!(sketch.histogram().map(|histogram| histogram.total()), Ok(4));
        let mut zeros = Sketch::new();
        zeros.observe(&[0.0; 3]).expect("finite");
        assert_eq!(zeros.histogram().map(|histogram| histogram.total()), Ok(3));
        assert!(Sketch::new().histogram().is_err());
    }
}
