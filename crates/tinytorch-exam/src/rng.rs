//! The random numbers of the cases: a thin, stable interface, so that a check needs no other crate.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A seeded source of inputs.
#[derive(Clone, Debug)]
pub struct Rng(ChaCha8Rng);

impl Rng {
    /// A source for a seed.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// A source for a seed that differs for every check.
    pub fn for_check(seed: u64, id: &str) -> Self {
        // FNV-1a of the id, a fixed function: std's hasher may change between releases.
        let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self::new(seed ^ hash)
    }

    /// A float in `low..high`.
    pub fn f32(&mut self, low: f32, high: f32) -> f32 {
        self.0.random_range(low..high)
    }

    /// `n` floats in `low..high`.
    pub fn f32s(&mut self, n: usize, low: f32, high: f32) -> Vec<f32> {
        (0..n).map(|_| self.f32(low, high)).collect()
    }

    /// `n` roughly normal floats with mean 0 and deviation 1: the sum of twelve uniform ones.
    pub fn normals(&mut self, n: usize) -> Vec<f32> {
        (0..n)
            .map(|_| (0..12).map(|_| self.f32(-0.5, 0.5)).sum())
            .collect()
    }

    /// An integer in `low..=high`.
    pub fn int(&mut self, low: i64, high: i64) -> i64 {
        self.0.random_range(low..=high)
    }

    /// `n` integers in `low..=high`.
    pub fn ints(&mut self, n: usize, low: i64, high: i64) -> Vec<i64> {
        (0..n).map(|_| self.int(low, high)).collect()
    }

    /// A length in `low..=high`.
    pub fn size(&mut self, low: usize, high: usize) -> usize {
        self.0.random_range(low..=high)
    }

    /// Yes or no.
    pub fn flag(&mut self) -> bool {
        self.0.random_range(0..2u8) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_and_check_give_the_same_numbers_and_others_differ() {
        let draw = |seed, id| Rng::for_check(seed, id).ints(8, -100, 100);
        assert_eq!(draw(1, "15.3/a"), draw(1, "15.3/a"));
        assert_ne!(draw(1, "15.3/a"), draw(1, "15.3/b"));
        assert_ne!(draw(1, "15.3/a"), draw(2, "15.3/a"));
    }
}
