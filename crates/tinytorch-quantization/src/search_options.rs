//! What a search over precisions is told, and what it notes.

use crate::error::Error;
use crate::framework::Tensor;
use crate::precision::Precision;
use crate::prepare::PrepareOptions;

/// What a search may choose from, and how it measures.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchOptions {
    /// The precisions to try beside `f32`. What a layer cannot do (a table has no activations that could be dynamic) is refused.
    pub choices: Vec<Precision>,
    /// All else: how to calibrate, what stays in `f32` whatever happens.
    pub prepare: PrepareOptions,
    /// How often a model is timed.
    pub turns: usize,
    /// How many of the examples a timed batch holds.
    pub timed_batch: usize,
}

impl Default for SearchOptions {
    /// int4 (weights alone, in groups), int8, bf16; 9 turns with 32 examples.
    fn default() -> Self {
        Self {
            choices: vec![
                Precision::WEIGHT_ONLY_INT4,
                Precision::STATIC,
                Precision::Bf16,
            ],
            prepare: PrepareOptions::default(),
            turns: 9,
            timed_batch: 32,
        }
    }
}

/// What models are judged by. Not what they were trained or calibrated with, if the accuracy shall mean anything.
#[derive(Clone, Debug)]
pub struct Examples {
    /// `[examples, ..]`
    pub inputs: Tensor,
    /// `[examples]`
    pub labels: Vec<usize>,
    /// How many classes there are: the outputs are `[examples, classes]`.
    pub classes: usize,
}

/// What one layer alone in another precision does to the model in `f32`.
#[derive(Clone, Debug, PartialEq)]
pub struct Sensitivity {
    /// Which layer.
    pub layer: String,
    /// In which precision.
    pub precision: Precision,
    /// By how much the mean cross entropy grows.
    pub loss_change: f64,
    /// Mean divergence of the answers from those in `f32`: `Σ p · ln(p / q)`.
    pub kl: f64,
    /// Signal to noise of the outputs, in decibels.
    pub sqnr_db: f64,
    /// Bytes less than in `f32`; negative if it is more.
    pub bytes_saved: i64,
    /// Seconds less for a batch than in `f32`; negative if it is slower.
    pub seconds_saved: f64,
}

/// A choice that could not be made.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The precision of each layer.
    pub precisions: Vec<(String, Precision)>,
    /// Why.
    pub error: Error,
}
