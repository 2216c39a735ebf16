//! The experiments, one file each.

mod bits;
mod calibration;
mod channels;
mod comparison;
mod crossover;
mod precision;
mod search;

use crate::experiment::Experiment;

/// All experiments, in the order of the lesson.
pub fn all() -> Vec<Box<dyn Experiment>> {
    vec![
        Box::new(comparison::Comparison),
        Box::new(bits::Bits),
        Box::new(channels::Channels),
        Box::new(calibration::Calibrations),
        Box::new(crossover::Crossover),
        Box::new(search::Search),
        Box::new(precision::Precision),
    ]
}
