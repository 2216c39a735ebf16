//! The tables of the lesson, one file per part of it.

pub mod calibration;
pub mod experiments;
pub mod formats;
pub mod products;
pub mod scalars;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// Normally distributed values from a fixed seed.
pub fn normal(count: usize, deviation: f32) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(15);
    let mut draw = || -> f32 { StandardNormal.sample(&mut rng) };
    (0..count).map(|_| deviation * draw()).collect()
}
