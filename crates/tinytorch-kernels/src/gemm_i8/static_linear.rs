//! A linear layer whose codes, multipliers and bias are all known beforehand ("static" quantization).
//!
//! What [`PackedWeights::requantized`] checks and adds up in every call is done once: for one row of a small layer it would take
//! as long as the product.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::ending::{Codes, Ending};
use super::{PackedWeights, Requantize};
use crate::elements;
use crate::elementwise::{
    NotFinite, Pauses, Quantize, is_far, min_max, quantize_f32_i8, quantize_rows,
};
use crate::gemm_i8::activations::{Activations, Matrix};
use crate::gemm_i8::block::BlockMut;
use crate::gemm_i8::blocks::RowsMut;

/// Weights, packed once, with what becomes of their sums.
#[derive(Clone, Debug)]
pub struct StaticLinear {
    weights: PackedWeights,
    /// One per output: bias minus what zero point and shift add to the sum.
    offsets: Box<[i32]>,
    multipliers: Box<[f32]>,
    codes: Codes,
    /// That of the inputs, which the offsets hold.
    zero_point: i32,
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
            zero_point,
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
        let k = self.weights.k();
        assert_eq!(
            Some(a.len()),
            elements([m, k]),
            "a must be [m, k] = [{m}, {k}]"
        );
        self.run(m, &Matrix { data: a, k }, out);
    }

    /// The same for real inputs, which become codes a few rows at a time, just before they are multiplied: as
    /// [`quantize_f32_i8`] and [`forward`](Self::forward) do it one after the other, but without the codes in between.
    ///
    /// | argument | shape    |
    /// |----------|----------|
    /// | `x`      | `[m, k]` |
    /// | `out`    | `[m, n]` |
    ///
    /// # Errors
    ///
    /// [`NotFinite`] names the first input that is; `out` is then unspecified.
    ///
    /// # Panics
    ///
    /// If a slice does not have its shape, the scale is not finite and positive, a bound is not an `i8`, or the zero point is
    /// not that of the layer.
    #[track_caller]
    pub fn forward_real(
        &self,
        m: usize,
        x: &[f32],
        by: Quantize,
        out: &mut [i8],
    ) -> Result<(), NotFinite> {
        let (n, k) = (self.weights.n(), self.weights.k());
        assert_eq!(
            Some(x.len()),
            elements([m, k]),
            "x must be [m, k] = [{m}, {k}]"
        );
        by.check();
        assert_eq!(
            by.zero_point, self.zero_point,
            "the layer was made for inputs of another zero point"
        );
        if n == 0 {
            // Nothing is multiplied, but what has no code is an error all the same.
            return min_max(x).map(|_| ());
        }
        let first_bad = AtomicUsize::new(usize::MAX);
        let reals = Reals {
            x,
            k,
            by,
            first_bad,
        };
        self.run(m, &reals, out);
        let index = reals.first_bad.into_inner();
        match x.get(index) {
            Some(&value) => Err(NotFinite { index, value }),
            None => Ok(()),
        }
    }

    #[track_caller]
    fn run(&self, m: usize, activations: &dyn Activations, out: &mut [i8]) {
        let n = self.weights.n();
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
        (self.weights).run_with(activations, &self.offsets, ending, threads);
    }
}

/// Rows of real numbers that become codes when a kernel takes them.
#[derive(Debug)]
struct Reals<'a> {
    x: &'a [f32],
    k: usize,
    by: Quantize,
    /// The least index of those that were found to have no code.
    first_bad: AtomicUsize,
}

impl Activations for Reals<'_> {
    fn row<'s>(&'s self, row: usize, scratch: &'s mut [i8]) -> &'s [i8] {
        let scratch = &mut scratch[..self.k];
        let first = row * self.k;
        let values = &self.x[first..first + self.k];
        self.note(first, quantize_f32_i8(values, self.by, scratch));
        scratch
    }

    fn write(
        &self,
        rows: Range<usize>,
        flip: u8,
        into: RowsMut<'_>,
        pauses: &mut Pauses<'_>,
    ) -> bool {
        let first = rows.start * self.k;
        let values = &self.x[first..rows.end * self.k];
        let far = is_far(self.x);
        let result = quantize_rows(values, self.k, self.by, flip, far, into, pauses);
        self.note(first, result);
        true
    }
}

impl Reals<'_> {
    /// Keeps the index of a value that has no code, counted from `first`.
    fn note(&self, first: usize, result: Result<(), NotFinite>) {
        if let Err(error) = result {
            let index = first + error.index;
            self.first_bad.fetch_min(index, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm_i8::{GemmI8, kernels};
    use crate::testing::{Random, assert_refused, pool};

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

    /// A layer of random weights that cuts off at its zero point, and how its inputs become codes.
    fn layer(
        kernel: &'static dyn GemmI8,
        [n, k]: [usize; 2],
        random: &mut Random,
    ) -> (StaticLinear, Quantize) {
        let multipliers: Vec<f32> = (0..n).map(|_| 0.001 * random.unit()).collect();
        let ending = Requantize {
            bias: &[],
            multipliers: &multipliers,
            zero_point: -5,
            min: -5,
            max: 127,
        };
        let weights = PackedWeights::with_kernel(kernel, n, k, &random.codes(n * k));
        let by = Quantize {
            scale: 0.01,
            zero_point: random.code().into(),
            min: -128,
            max: 127,
        };
        (StaticLinear::new(weights, by.zero_point, &ending), by)
    }

    #[test]
    fn real_inputs_give_what_their_codes_give() {
        let random = &mut Random::new(43);
        // Rows around a whole tile, pieces of rows around a block of 64 words, none of anything, and more rows than the buffer holds.
        for (m, k, n) in [
            (0, 3, 2),
            (1, 784, 129),
            (1, 1, 1),
            (2, 0, 4),
            (3, 256, 10),
            (13, 255, 33),
            (15, 257, 17),
            (40, 520, 70),
            (130, 2100, 3),
        ] {
            let x: Vec<f32> = (0..m * k).map(|_| 4.0 * (random.unit() - 0.5)).collect();
            for &kernel in kernels() {
                let (layer, by) = layer(kernel, [n, k], random);
                let (mut codes, mut expected) = (vec![0; m * k], vec![99; m * n]);
                quantize_f32_i8(&x, by, &mut codes).expect("finite");
                layer.forward(m, &codes, &mut expected);
                for threads in [1, 2] {
                    let mut got = vec![99; m * n];
                    let result = pool(threads).install(|| layer.forward_real(m, &x, by, &mut got));
                    assert_eq!(result, Ok(()));
                    assert_eq!(got, expected, "[{m}, {k}] · [{k}, {n}], {}", kernel.name());
                }
            }
        }
    }

    #[test]
    fn the_first_input_without_a_code_is_named_whoever_finds_it() {
        let random = &mut Random::new(44);
        for (m, n) in [(200, 90), (3, 900), (2, 0)] {
            let k = 300;
            for &kernel in kernels() {
                let (layer, by) = layer(kernel, [n, k], random);
                let mut x = vec![1.0; m * k];
                (x[m * k - 1], x[k + 7], x[k + 9]) = (f32::NAN, f32::INFINITY, f32::NAN);
                let expected = NotFinite {
                    index: k + 7,
                    value: f32::INFINITY,
                };
                let mut out = vec![0; m * n];
                let result = pool(2).install(|| layer.forward_real(m, &x, by, &mut out));
                assert_eq!(result, Err(expected), "{}", kernel.name());
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
        let by = Quantize {
            scale: 1.0,
            zero_point: 0,
            min: -128,
            max: 127,
        };
        assert_refused("x must be [m, k] = [1, 2]", || {
            let _ = layer.forward_real(1, &[0.0], by, &mut [0]);
        });
        // Whether or not there is anything to multiply.
        let refused = |message: &str, by: Quantize| {
            for (m, x, out) in [(0, &[][..], &mut [][..]), (1, &[0.0, 0.0], &mut [0])] {
                assert_refused(message, || {
                    let _ = layer.forward_real(m, x, by, out);
                });
            }
        };
        refused("scale 0 is not a step", Quantize { scale: 0.0, ..by });
        let zero_point = 128;
        refused("zero point 128 is not an i8", Quantize { zero_point, ..by });
        refused("codes -129..=127 are not", Quantize { min: -129, ..by });
        // Codes of another zero point would be multiplied without a word, and mean something else.
        let zero_point = 1;
        refused(
            "made for inputs of another zero point",
            Quantize { zero_point, ..by },
        );
    }
}
