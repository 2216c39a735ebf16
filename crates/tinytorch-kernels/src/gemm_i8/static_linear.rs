//! A linear layer whose codes, multipliers and bias are all known beforehand ("static" quantization).
//!
//! What [`PackedWeights::requantized`] checks and adds up in every call is done once: for one row of a small layer it would take
//! as long as the product.

use super::ending::{Codes, Ending};
use super::{PackedWeights, Requantize};
use crate::elements;
use crate::gemm_i8::activations::Matrix;
use crate::gemm_i8::block::BlockMut;

/// Weights, packed once, with what becomes of their sums.
#[derive(Clone, Debug)]
pub struct StaticLinear {
    weights: PackedWeights,
    /// One per output: bias minus what zero point and shift add to the sum.
    offsets: Box<[i32]>,
    multipliers: Box<[f32]>,
    codes: Codes,
}

impl StaticLinear {
    /// Takes weights, the zero point of the inputs, and the ending of [`PackedWeights::requantized`].
    ///
    /// # Panics
    ///
    /// As [`PackedWeights::requantized`], for everything but the slices.
    #[track_caller]
    pub fn new(weights: PackedWeights, zero_point: i32, ending: &Requantize<'_>) -> Self {
        ending.check(weights.n(), weights.max_bias());
        assert!(
            (-128..=127).contains(&zero_point),
            "zero point {zero_point} is not an i8"
        );
        let mut offsets = Box::default();
        weights.with_offsets(zero_point, ending.bias, |folded| offsets = folded.into());
        Self {
            offsets,
            multipliers: ending.multipliers.into(),
            codes: ending.codes(),
            weights,
        }
    }

    /// The codes of the weights.
    pub fn weights(&self) -> &PackedWeights {
        &self.weights
    }

    /// Bytes held on the heap.
    pub fn bytes(&self) -> usize {
        self.weights.bytes() + size_of_val(&*self.offsets) + size_of_val(&*self.multipliers)
    }

    /// Writes 8-bit codes, those of [`PackedWeights::requantized`].
    ///
    /// | argument | shape    |
    /// |----------|----------|
    /// | `a`      | `[m, k]` |
    /// | `out`    | `[m, n]` |
    ///
    /// # Panics
    ///
    /// If a slice does not have its shape.
    #[track_caller]
    pub fn forward(&self, m: usize, a: &[i8], out: &mut [i8]) {
        let (n, k) = (self.weights.n(), self.weights.k());
        assert_eq!(
            Some(a.len()),
            elements([m, k]),
            "a must be [m, k] = [{m}, {k}]"
        );
        assert_eq!(
            Some(out.len()),
            elements([m, n]),
            "the output must be [m, n] = [{m}, {n}]"
        );
        if m == 0 || n == 0 {
            return;
        }
        let ending = Ending::Codes {
            out: BlockMut::new(out, m, 0, n, n),
            multipliers: &self.multipliers,
            codes: self.codes,
        };
        let threads = self.weights.threads(m);
        let activations = Matrix { data: a, k };
        (self.weights).run_with(&activations, &self.offsets, ending, threads);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm_i8::kernels;
    use crate::testing::{Random, assert_refused};

    #[test]
    fn it_gives_the_codes_of_the_product() {
        let random = &mut Random::new(41);
        for (m, k, n) in [
            (0, 3, 2),
            (1, 784, 129),
            (1, 5, 1),
            (3, 64, 10),
            (40, 33, 70),
            (2, 0, 4),
        ] {
            let (weights, a) = (random.codes(n * k), random.codes(m * k));
            let bias: Vec<i32> = (0..n).map(|_| random.below(2001) as i32 - 1000).collect();
            let multipliers: Vec<f32> = (0..n).map(|_| 0.001 * random.unit()).collect();
            for (bias, zero_point) in [(&bias[..], random.code()), (&[], -128)] {
                let ending = Requantize {
                    bias,
                    multipliers: &multipliers,
                    zero_point: -5,
                    min: -5,
                    max: 120,
                };
                for &kernel in kernels() {
                    let packed = PackedWeights::with_kernel(kernel, n, k, &weights);
                    let mut expected = vec![99; m * n];
                    packed.requantized(m, &a, zero_point.into(), &ending, &mut expected);
                    let layer = StaticLinear::new(packed, zero_point.into(), &ending);
                    let mut got = vec![99; m * n];
                    layer.forward(m, &a, &mut got);
                    assert_eq!(got, expected, "[{m}, {k}] · [{k}, {n}], {}", kernel.name());
                }
            }
        }
    }

    #[test]
    fn wrong_sizes_and_numbers_are_refused() {
        let weights = PackedWeights::new(1, 2, &[1, 2]);
        let ending = Requantize {
            bias: &[],
            multipliers: &[0.5],
            zero_point: 0,
            min: -128,
            max: 127,
        };
        assert_refused("zero point 128 is not an i8", || {
            StaticLinear::new(weights.clone(), 128, &ending);
        });
        let not_finite = Requantize {
            multipliers: &[f32::NAN],
            ..ending
        };
        assert_refused("multipliers must be finite", || {
            StaticLinear::new(weights.clone(), 0, &not_finite);
        });
        let layer = StaticLinear::new(weights, 0, &ending);
        assert_refused("a must be [m, k] = [1, 2]", || {
            layer.forward(1, &[0], &mut [0])
        });
        assert_refused("the output must be [m, n] = [1, 1]", || {
            layer.forward(1, &[0, 0], &mut []);
        });
    }
}
