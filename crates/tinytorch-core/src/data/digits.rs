//! The 1,797 handwritten digits of scikit-learn, built into the library.
//!
//! Images `[1, 8, 8]` of pixels in `0..=16`, ten classes. Source, authors and licence (CC BY 4.0) stand in
//! `data/digits/SOURCE.md`; `make_digits.py` beside it made the two files from scikit-learn 1.9.1.

use super::idx::read_pair;
use super::images::ImageDataset;
use super::source::Source;
use super::split::{Split, stratified};
use crate::Result;

const IMAGES: &[u8] = include_bytes!("../../data/digits/digits-images-idx3-ubyte.gz");
const LABELS: &[u8] = include_bytes!("../../data/digits/digits-labels-idx1-ubyte.gz");

/// Examples in the test part of both splits; 1,797 - 360 = 1,437 remain to learn from.
pub const TEST_COUNT: usize = 360;

/// Decides which digits [`stratified_split`] tests on. Changing it changes every published accuracy.
const SPLIT_SEED: u64 = 1998;

/// All 1,797 digits, in scikit-learn's order.
///
/// # Errors
///
/// None unless the embedded files were replaced by damaged ones.
pub fn digits() -> Result<ImageDataset> {
    let images = Source::from_bytes("digits-images-idx3-ubyte.gz", IMAGES)?;
    let labels = Source::from_bytes("digits-labels-idx1-ubyte.gz", LABELS)?;
    Ok(read_pair(images, labels, 16)?)
}

/// 1,437 digits to learn from and 360 to be judged on, each class in proportion; always the same ones.
///
/// A writer's digits may be in both parts, so this split is the easier one.
///
/// # Errors
///
/// As [`digits`].
pub fn stratified_split() -> Result<Split<ImageDataset>> {
    let all = digits()?;
    let indices = stratified(all.labels(), TEST_COUNT, SPLIT_SEED)?;
    Ok(Split {
        train: all.select(&indices.train)?,
        test: all.select(&indices.test)?,
    })
}

/// The first 1,437 digits to learn from, the last 360 to be judged on.
///
/// The digits stand in the order in which they were collected, so those at the end come from other people
/// than those at the start: the harder split.
///
/// # Errors
///
/// As [`digits`].
pub fn ordered_split() -> Result<Split<ImageDataset>> {
    let all = digits()?;
    let indices: Vec<usize> = (0..all.labels().len()).collect();
    let (train, test) = indices.split_at(indices.len() - TEST_COUNT);
    Ok(Split {
        train: all.select(train)?,
        test: all.select(test)?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;
    use sha2::{Digest, Sha256};

    use super::*;

    const SUMS: &str = include_str!("../../data/digits/SHA256SUMS");

    fn sha256(bytes: &[u8]) -> String {
        let digest = Sha256::digest(bytes);
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn recorded(name: &str) -> &'static str {
        let line = SUMS
            .lines()
            .find(|line| line.ends_with(&format!("  {name}")));
        line.unwrap().split(' ').next().unwrap()
    }

    #[test]
    fn the_embedded_bytes_are_the_recorded_ones() {
        for (name, packed) in [
            ("digits-images-idx3-ubyte", IMAGES),
            ("digits-labels-idx1-ubyte", LABELS),
        ] {
            let mut bytes = Vec::new();
            GzDecoder::new(packed).read_to_end(&mut bytes).unwrap();
            assert_eq!(sha256(packed), recorded(&format!("{name}.gz")));
            assert_eq!(sha256(&bytes), recorded(name));
        }
    }

    #[test]
    fn the_first_digit_is_a_zero_with_scikit_learns_pixels() {
        let all = digits().unwrap();
        assert_eq!((all.labels().len(), all.classes()), (1797, 10));
        assert_eq!(all.image_shape(), [1, 8, 8]);
        assert_eq!(all.labels()[0], 0);
        // `sklearn.datasets.load_digits().images[0][:2]`
        let first_rows = [0, 0, 5, 13, 9, 1, 0, 0, 0, 0, 13, 15, 10, 15, 5, 0];
        assert_eq!(all.image(0)[..16], first_rows);
        let counts = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180];
        assert_eq!(class_counts(&all), counts);
    }

    fn class_counts(images: &ImageDataset) -> [usize; 10] {
        let mut counts = [0; 10];
        for &label in images.labels() {
            counts[usize::from(label)] += 1;
        }
        counts
    }

    #[test]
    fn the_stratified_split_has_every_class_in_proportion_and_never_changes() {
        let split = stratified_split().unwrap();
        assert_eq!(split.train.labels().len(), 1437);
        let (whole, test) = (class_counts(&digits().unwrap()), class_counts(&split.test));
        for (count, of) in test.into_iter().zip(whole) {
            let share = 360.0 * of as f64 / 1797.0;
            assert!((count as f64 - share).abs() < 1.0);
        }
        let all = digits().unwrap();
        let indices = stratified(all.labels(), TEST_COUNT, SPLIT_SEED).unwrap();
        let bytes: Vec<u8> = indices
            .test
            .iter()
            .flat_map(|&i| (i as u32).to_le_bytes())
            .collect();
        // Recorded when the split was fixed; figures measured on it are comparable as long as this holds.
        assert_eq!(
            sha256(&bytes),
            "3d6bf8f25ca7861765dd41775a6995cff27c7029bc277e2604e6f73bc10b6312"
        );
    }

    #[test]
    fn the_ordered_split_keeps_the_order() {
        let (all, split) = (digits().unwrap(), ordered_split().unwrap());
        assert_eq!(split.train.image(0), all.image(0));
        assert_eq!(split.test.image(0), all.image(1437));
        assert_eq!(split.test.labels().len(), 360);
    }
}
