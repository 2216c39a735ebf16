//! The same numbers as in `compare/data.py`, and the sum by which results are compared.

/// Codes in -125..=125: the activations and weights of every INT8 subject.
pub fn codes(len: usize, step: usize) -> Vec<i8> {
    (0..len)
        .map(|i| ((i * step % 251) as i32 - 125) as i8)
        .collect()
}

/// Multiples of 1/64 within ±2: an f32 sum of a few thousand products of them is exact in most orders.
pub fn reals(len: usize, step: usize) -> Vec<f32> {
    codes(len, step)
        .into_iter()
        .map(|code| f32::from(code) / 64.0)
        .collect()
}

/// Σ value · (1 + i mod 7): the factor makes exchanged elements show.
pub fn check<T: Copy + Into<f64>>(values: &[T]) -> f64 {
    values
        .iter()
        .enumerate()
        .map(|(i, &value)| value.into() * (1 + i % 7) as f64)
        .sum()
}

/// Within ±2, nowhere evenly spaced, as inputs are: multiples of a step would often fall between two codes.
pub fn inputs(len: usize, step: usize) -> Vec<f32> {
    (reals(len, step).into_iter().enumerate())
        .map(|(i, real)| real + (i * 7919 % 1009) as f32 / 65_536.0)
        .collect()
}
