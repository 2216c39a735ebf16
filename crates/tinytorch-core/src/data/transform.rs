//! Changes to an example on its way into a batch: scaling to a common range, small random shifts.

use rand_chacha::ChaCha8Rng;

use super::error::DataError;
use super::random::below;
use crate::Result;

/// Changes one example in place. Its shape stays.
///
/// The generator belongs to this example in this epoch, so what is drawn does not depend on batches or
/// threads; a transform that draws nothing ignores it.
pub trait Transform: Send + Sync {
    /// Changes `values`, an example of shape `shape`, row-major.
    ///
    /// # Errors
    ///
    /// If the transform cannot be used on examples of this shape.
    fn apply(&self, values: &mut [f32], shape: &[usize], rng: &mut ChaCha8Rng) -> Result<()>;
}

/// `(x - mean) / standard_deviation`, with one pair for each channel of `[channels, height, width]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalize {
    mean: Vec<f32>,
    deviation: Vec<f32>,
}

impl Normalize {
    /// Takes mean and standard deviation of each channel.
    ///
    /// # Errors
    ///
    /// [`DataError::Invalid`] if their numbers differ, a value is not finite, or a deviation is not positive.
    pub fn new(mean: Vec<f32>, deviation: Vec<f32>) -> Result<Self, DataError> {
        let usable = mean.len() == deviation.len()
            && mean.iter().all(|m| m.is_finite())
            && deviation.iter().all(|&d| d.is_finite() && d > 0.0);
        if !usable {
            return Err(DataError::Invalid(format!(
                "normalize needs one finite mean and one positive deviation per channel, \
                 got {mean:?} and {deviation:?}"
            )));
        }
        Ok(Self { mean, deviation })
    }
}

impl Transform for Normalize {
    fn apply(&self, values: &mut [f32], shape: &[usize], _: &mut ChaCha8Rng) -> Result<()> {
        let channels = self.mean.len();
        if shape.first() != Some(&channels) {
            return Err(DataError::Invalid(format!(
                "normalize with {channels} channels on an example of shape {shape:?}"
            ))
            .into());
        }
        let size: usize = shape[1..].iter().product();
        for (channel, values) in values.chunks_mut(size.max(1)).enumerate() {
            for x in values {
                *x = (*x - self.mean[channel]) / self.deviation[channel];
            }
        }
        Ok(())
    }
}

/// Moves an image `[channels, height, width]` by up to `most` pixels in each direction; zeros move in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RandomShift {
    /// The largest shift, in pixels.
    pub most: usize,
}

impl Transform for RandomShift {
    fn apply(&self, values: &mut [f32], shape: &[usize], rng: &mut ChaCha8Rng) -> Result<()> {
        let &[_, height, width] = shape else {
            return Err(needs_image("a random shift", shape).into());
        };
        let mut offset = || below(rng, 2 * self.most + 1);
        let (down, right) = (offset(), offset());
        // Pixel (row, column) comes from (row + most - down, column + most - right) where that exists.
        let source = |to: usize, offset: usize, len: usize| {
            (to + self.most).checked_sub(offset).filter(|&at| at < len)
        };
        // The columns that get a pixel are neighbours, and so are those it comes from.
        let kept: Vec<usize> = (0..width)
            .filter(|&to| source(to, right, width).is_some())
            .collect();
        let columns = kept
            .first()
            .map(|&to| (to..to + kept.len(), source(to, right, width)));
        for plane in values.chunks_mut((height * width).max(1)) {
            let old = plane.to_vec();
            for (to, row) in plane.chunks_mut(width).enumerate() {
                row.fill(0.0);
                let (Some(from), Some((columns, Some(first)))) =
                    (source(to, down, height), columns.clone())
                else {
                    continue;
                };
                let start = from * width + first;
                let len = columns.len();
                row[columns].copy_from_slice(&old[start..start + len]);
            }
        }
        Ok(())
    }
}

/// Mirrors an image `[channels, height, width]` left to right with probability one half. Not for digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RandomHorizontalFlip;

impl Transform for RandomHorizontalFlip {
    fn apply(&self, values: &mut [f32], shape: &[usize], rng: &mut ChaCha8Rng) -> Result<()> {
        let &[_, _, width] = shape else {
            return Err(needs_image("a random flip", shape).into());
        };
        if below(rng, 2) == 1 {
            values.chunks_mut(width.max(1)).for_each(<[f32]>::reverse);
        }
        Ok(())
    }
}

fn needs_image(what: &str, shape: &[usize]) -> DataError {
    DataError::Invalid(format!(
        "{what} needs examples [channels, height, width], got shape {shape:?}"
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::random::{Purpose, generator};
    use super::*;

    fn rng(example: u64) -> ChaCha8Rng {
        generator(1, Purpose::Transform, 0, example)
    }

    #[test]
    fn each_channel_is_normalized_with_its_own_pair() {
        let normalize = Normalize::new(vec![1.0, 2.0], vec![0.5, 2.0]).unwrap();
        let mut values = [1.0, 2.0, 2.0, 6.0];
        normalize
            .apply(&mut values, &[2, 1, 2], &mut rng(0))
            .unwrap();
        assert_eq!(values, [0.0, 2.0, 0.0, 2.0]);
        assert!(
            normalize
                .apply(&mut values, &[1, 2, 2], &mut rng(0))
                .is_err()
        );
        assert!(Normalize::new(vec![0.0], vec![0.0]).is_err());
    }

    #[test]
    fn a_shift_by_one_reaches_all_nine_places_and_fills_with_zeros() {
        let mut seen = BTreeSet::new();
        for example in 0..200 {
            let mut values = [0.0; 9];
            values[4] = 1.0;
            RandomShift { most: 1 }
                .apply(&mut values, &[1, 3, 3], &mut rng(example))
                .unwrap();
            assert_eq!(values.iter().sum::<f32>(), 1.0);
            seen.insert(values.iter().position(|&x| x == 1.0).unwrap());
        }
        assert_eq!(seen.len(), 9);
    }

    #[test]
    fn what_stays_in_the_picture_stays_together() {
        // Pixel (r, c) of channel k holds 100 k + 10 r + c + 1: a shift changes rows and columns by one step each.
        let image: Vec<f32> = (0..2 * 3 * 4)
            .map(|i| (100 * (i / 12) + 10 * (i / 4 % 3) + i % 4 + 1) as f32)
            .collect();
        for example in 0..50 {
            let mut values = image.clone();
            RandomShift { most: 2 }
                .apply(&mut values, &[2, 3, 4], &mut rng(example))
                .unwrap();
            let kept = (0..24).filter(|&i| values[i] != 0.0);
            let shifts: BTreeSet<i32> = kept.map(|i| values[i] as i32 - image[i] as i32).collect();
            assert!(shifts.len() <= 1, "{shifts:?}");
        }
    }

    #[test]
    fn a_shift_larger_than_the_image_may_leave_nothing() {
        let mut values = [1.0; 4];
        RandomShift { most: 50 }
            .apply(&mut values, &[1, 2, 2], &mut rng(3))
            .unwrap();
        assert_eq!(values, [0.0; 4]);
    }

    #[test]
    fn a_flip_mirrors_rows_about_half_the_time() {
        let mut flipped = 0;
        for example in 0..200 {
            let mut values = [1.0, 2.0, 3.0, 4.0];
            RandomHorizontalFlip
                .apply(&mut values, &[1, 2, 2], &mut rng(example))
                .unwrap();
            assert!(values == [1.0, 2.0, 3.0, 4.0] || values == [2.0, 1.0, 4.0, 3.0]);
            flipped += usize::from(values[0] == 2.0);
        }
        // Binomial with n = 200, p = 1/2: standard deviation 7; 5 of them.
        assert!(flipped.abs_diff(100) < 35, "{flipped}");
    }
}
