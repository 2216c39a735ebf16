//! Comparison within a bound per element, and the bounds that several tests share.

use tinytorch_core::Tensor;

/// Fails if an element of `got` is further from `expected` than its bound.
///
/// `bound` has one value per element, or a single one for all.
#[track_caller]
pub fn assert_within(what: &str, got: &Tensor, expected: &Tensor, bound: &[f32]) {
    assert_eq!(got.shape(), expected.shape(), "{what}: shape");
    let (got, expected) = (got.to_vec(), expected.to_vec());
    assert!(
        bound.len() == 1 || bound.len() == got.len(),
        "{what}: {} bounds",
        bound.len()
    );
    for (index, (&got, &expected)) in got.iter().zip(&expected).enumerate() {
        let bound = bound[if bound.len() == 1 { 0 } else { index }];
        // Written so that NaN fails.
        let close = (f64::from(got) - f64::from(expected)).abs() <= f64::from(bound);
        assert!(
            close,
            "{what}, element {index}: expected {expected:e}, got {got:e}, allowed difference {bound:e}"
        );
    }
}

/// Bounds for sums of `terms` products, given the same sums over absolute values.
///
/// In any order of summation, with or without fused multiply-add, the error of a computed sum Σ aᵢbᵢ is at most
/// `terms · u · Σ|aᵢbᵢ|` to first order, with u = ε/2; the expected value itself was rounded once (u more). `terms · ε`
/// covers both. Products may underflow: each may lose one subnormal step, less than `f32::MIN_POSITIVE`.
///
/// Source: Higham, Accuracy and Stability of Numerical Algorithms, section 3.1.
pub fn sum_bounds(terms: usize, magnitudes: &Tensor) -> Vec<f32> {
    let relative = terms.max(2) as f32 * f32::EPSILON;
    magnitudes
        .to_vec()
        .iter()
        .map(|magnitude| relative * magnitude.abs() + f32::MIN_POSITIVE)
        .collect()
}

/// The same tensor with every value replaced by its magnitude.
pub fn magnitude(tensor: &Tensor) -> Tensor {
    let values = tensor.to_vec().iter().map(|value| value.abs()).collect();
    Tensor::new(values, tensor.shape()).expect("the shape is the tensor's own")
}
