//! Agreement with the definition, bit for bit, on every kernel and with any number of threads.

use super::*;
use crate::gemm_i8::kernels;
use crate::gemm_i8::scalar::scale;
use crate::testing::{Random, assert_refused, pool};

/// One layer with everything it is given.
struct Case {
    m: usize,
    n: usize,
    k: usize,
    x: Vec<f32>,
    codes: Vec<i8>,
    scales: Vec<f32>,
    bias: Vec<f32>,
    relu: bool,
}

impl Case {
    fn random(m: usize, n: usize, k: usize, random: &mut Random) -> Self {
        // Rows of different magnitudes, some of one sign, one of zeros.
        let mut x = vec![];
        for row in 0..m {
            let (factor, shift) = (10_f32.powi(row as i32 % 7 - 3), [0.0, 0.5, 1.5][row % 3]);
            let zero = if row % 11 == 10 { 0.0 } else { 1.0 };
            x.extend((0..k).map(|_| (random.unit() - shift) * factor * zero));
        }
        Self {
            m,
            n,
            k,
            x,
            codes: random.codes(n * k),
            scales: (0..n).map(|_| 0.01 * (0.5 + random.unit())).collect(),
            bias: (0..n * random.below(2))
                .map(|_| random.unit() - 0.5)
                .collect(),
            relu: random.below(2) == 0,
        }
    }

    /// The equations of [`DynamicLinear::forward`], as they stand.
    fn definition(&self, range: InputRange) -> Vec<f32> {
        let mut out = vec![];
        for i in 0..self.m {
            let row = &self.x[i * self.k..(i + 1) * self.k];
            let shared = match range {
                InputRange::PerRow => row,
                InputRange::PerTensor => &self.x,
            };
            let min = shared.iter().copied().fold(0.0, f32::min);
            let max = shared.iter().copied().fold(0.0, f32::max);
            let step = if min == max {
                1.0
            } else {
                ((max - min) / 255.0).max(f32::MIN_POSITIVE)
            };
            let zero_point = if min == max {
                0
            } else {
                ((-128.0 - min / step).round_ties_even() as i32).clamp(-128, 127)
            };
            let code = |&value: &f32| {
                ((value / step).round_ties_even() as i32 + zero_point).clamp(-128, 127)
            };
            let q: Vec<i32> = row.iter().map(code).collect();
            for j in 0..self.n {
                let weights = &self.codes[j * self.k..(j + 1) * self.k];
                let sum = (q.iter().zip(weights))
                    .map(|(q, &w)| (q - zero_point) * i32::from(w))
                    .sum();
                let bias = self.bias.get(j).copied().unwrap_or(0.0);
                out.push(scale(sum, step * self.scales[j], bias, self.relu));
            }
        }
        out
    }

    fn assert_agreement(&self) {
        for range in [InputRange::PerRow, InputRange::PerTensor] {
            let expected = self.definition(range);
            for &kernel in kernels() {
                let weights = PackedWeights::with_kernel(kernel, self.n, self.k, &self.codes);
                let layer = DynamicLinear::new(weights, &self.scales, &self.bias);
                let mut out = vec![f32::NAN; self.m * self.n];
                let result = layer.forward(self.m, &self.x, range, self.relu, &mut out);
                assert_eq!(result, Ok(()));
                for (index, (got, expected)) in out.iter().zip(&expected).enumerate() {
                    assert_eq!(
                        got.to_bits(),
                        expected.to_bits(),
                        "{}, {range:?}, {:?}: expected {expected}, got {got} at {index}",
                        kernel.name(),
                        (self.m, self.n, self.k)
                    );
                }
            }
        }
    }
}

#[test]
fn worked_example() {
    // [-1, 2]: s = 3 / 255, z = −43, codes −128 and 127: sums of −85 and 170 steps.
    let weights = PackedWeights::new(1, 2, &[1, 1]);
    let layer = DynamicLinear::new(weights, &[0.5], &[10.0]);
    let mut out = [0.0];
    let result = layer.forward(1, &[-1.0, 2.0], InputRange::PerRow, false, &mut out);
    assert_eq!(result, Ok(()));
    assert_eq!(out, [85.0 * (3.0 / 255.0 * 0.5) + 10.0]);
}

#[test]
fn every_kernel_agrees_with_the_definition() {
    let mut random = Random::new(11);
    for (m, n, k) in [
        (0, 3, 4),
        (3, 0, 4),
        (2, 3, 0),
        (1, 1, 1),
        (1, 33, 65),
        (5, 17, 30),
        (13, 40, 7),
        (31, 70, 129),
        (60, 20, 256),
    ] {
        Case::random(m, n, k, &mut random).assert_agreement();
    }
    for _ in 0..20 {
        let [m, n, k] = [40, 80, 200].map(|bound| random.below(bound));
        Case::random(m, n, k, &mut random).assert_agreement();
    }
}

#[test]
fn neither_threads_nor_the_size_of_the_buffer_show() {
    let mut random = Random::new(12);
    // Few rows (divided by columns), many rows (divided by rows), more codes than the buffer holds at once.
    for (m, n, k) in [(3, 900, 1000), (300, 90, 100), (230, 16, 1200)] {
        let case = Case::random(m, n, k, &mut random);
        pool(2).install(|| case.assert_agreement());
    }
}

#[test]
fn inputs_without_codes_are_named() {
    let layer = DynamicLinear::new(PackedWeights::new(1, 2, &[1, 1]), &[1.0], &[]);
    let run =
        |x: &[f32], range| layer.forward(x.len() / 2, x, range, false, &mut vec![0.0; x.len() / 2]);
    for range in [InputRange::PerRow, InputRange::PerTensor] {
        let infinite = NotFinite {
            index: 3,
            value: f32::INFINITY,
        };
        assert_eq!(
            run(&[0.0, 1.0, 2.0, f32::INFINITY, f32::NAN, 0.0], range),
            Err(InputError::NotFinite(infinite))
        );
    }
    // Also by a layer without outputs.
    let none = DynamicLinear::new(PackedWeights::new(0, 2, &[]), &[], &[]);
    for range in [InputRange::PerRow, InputRange::PerTensor] {
        let result = none.forward(2, &[0.0, 1.0, f32::NAN, 0.0], range, false, &mut []);
        let error = result.expect_err("NaN has no code");
        assert_eq!(error.to_string(), "NaN at index 2 has no code", "{range:?}");
        assert_eq!(none.forward(2, &[0.0; 4], range, false, &mut []), Ok(()));
    }
    let wide = [0.0, 1.0, f32::MAX, f32::MIN];
    let error = run(&wide, InputRange::PerRow).expect_err("the range is infinite");
    assert_eq!(
        error.to_string(),
        "the inputs from row 1 on range from -3.4028235e38 to 3.4028235e38, wider than an f32 can say"
    );
    assert_refused("x must be [m, k] = [2, 2]", || {
        let _ = layer.forward(2, &[0.0; 3], InputRange::PerRow, false, &mut [0.0; 2]);
    });
    assert_refused("the output must be [m, n] = [1, 1]", || {
        let _ = layer.forward(1, &[0.0; 2], InputRange::PerRow, false, &mut [0.0; 2]);
    });
}
