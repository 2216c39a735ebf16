//! Products of matrices, by the kernel crate's `gemm_f32`.
//!
//! ```text
//! C = A · B        ∂A = ∂C · Bᵀ        ∂B = Aᵀ · ∂C
//! ```

use ndarray::ArrayD;
use tinytorch_kernels::{Accumulate, Dims, MatrixMut, MatrixRef, Threads, gemm_f32};

use crate::error::{Error, Result};
use crate::ops::broadcast::{broadcast_shape, pairs};
use crate::ops::{array_of, slice, standard};
use crate::tape::records;
use crate::tensor::{Tensor, Values};

/// Replaces `c`, dense and row-major, by `a · b`.
pub(crate) fn multiply(dims: Dims, a: MatrixRef<'_>, b: MatrixRef<'_>, c: &mut [f32]) {
    let c = MatrixMut::row_major(c, dims.n);
    gemm_f32(dims, a, b, c, Accumulate::Overwrite, Threads::Auto);
}

/// Adds `a · b` to `c`, dense and row-major.
pub(crate) fn multiply_add(dims: Dims, a: MatrixRef<'_>, b: MatrixRef<'_>, c: &mut [f32]) {
    gemm_f32(
        dims,
        a,
        b,
        MatrixMut::row_major(c, dims.n),
        Accumulate::Add,
        Threads::Auto,
    );
}

/// A stack of matrices `[.., rows, columns]`, each dense, row-major or transposed.
struct Matrices {
    values: Values,
    rows: usize,
    columns: usize,
    transposed: bool,
}

impl Matrices {
    /// Needs at least two axes. A transposed layout is kept, any other is copied into row-major order.
    fn new(values: &Values) -> Self {
        let rank = values.ndim();
        let (rows, columns) = (values.shape()[rank - 2], values.shape()[rank - 1]);
        let mut swapped = values.clone();
        swapped.swap_axes(rank - 2, rank - 1);
        let transposed = !values.is_standard_layout() && swapped.is_standard_layout();
        let values = if transposed {
            swapped
        } else {
            standard(values)
        };
        Self {
            values,
            rows,
            columns,
            transposed,
        }
    }

    fn len(&self) -> usize {
        self.rows * self.columns
    }

    /// The matrix of this number.
    fn at(&self, index: usize) -> MatrixRef<'_> {
        let data = &slice(&self.values)[index * self.len()..][..self.len()];
        if self.transposed {
            MatrixRef::row_major(data, self.rows).transposed()
        } else {
            MatrixRef::row_major(data, self.columns)
        }
    }
}

impl Tensor {
    /// The product of matrices.
    ///
    /// | argument | shape         |
    /// |----------|---------------|
    /// | `self`   | `[.., m, k]`  |
    /// | `other`  | `[.., k, n]`  |
    /// | result   | `[.., m, n]`  |
    ///
    /// Leading axes number independent products and broadcast.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if an operand has fewer than two axes, [`Error::ShapeMismatch`] if inner lengths or leading axes do
    /// not fit.
    pub fn matmul(&self, other: &Tensor) -> Result<Tensor> {
        let (left_shape, right_shape) = (self.shape(), other.shape());
        for shape in [left_shape, right_shape] {
            if shape.len() < 2 {
                let expected = "tensors of at least two axes".to_owned();
                return Err(Error::Shape {
                    operation: "matmul",
                    expected,
                    got: shape.to_vec(),
                });
            }
        }
        let (left_batch, left) = left_shape.split_at(left_shape.len() - 2);
        let (right_batch, right) = right_shape.split_at(right_shape.len() - 2);
        let mismatch = |_| Error::ShapeMismatch {
            operation: "matmul",
            left: left_shape.to_vec(),
            right: right_shape.to_vec(),
        };
        if left[1] != right[0] {
            return Err(mismatch(()));
        }
        let batch = broadcast_shape("matmul", left_batch, right_batch).map_err(|_| mismatch(()))?;
        let shape: Vec<usize> = batch.iter().copied().chain([left[0], right[1]]).collect();

        let mut a = Matrices::new(&self.array());
        let b = Matrices::new(&other.array());
        let pairs = if right_batch.is_empty() && !a.transposed {
            // One matrix on the right: the products on the left are one with many rows.
            a.rows = left_batch.iter().product::<usize>() * left[0];
            vec![(0, 0)]
        } else {
            pairs(&batch, left_batch, right_batch)
        };
        let dims = Dims {
            m: a.rows,
            n: b.columns,
            k: a.columns,
        };
        let mut output = vec![0.0; shape.iter().product()];
        for (c, &(left, right)) in chunks_mut(&mut output, dims.m * dims.n).zip(&pairs) {
            multiply(dims, a.at(left), b.at(right), c);
        }
        let output = array_of(output, &shape);
        if !records(&[self, other]) {
            return Ok(Tensor::from_array(output));
        }
        let shapes = [left_shape.to_vec(), right_shape.to_vec()];
        let wanted = [self.requires_grad(), other.requires_grad()];
        Ok(Tensor::recorded(
            "matmul",
            output,
            &[self, other],
            move |gradient| Ok(matmul_backward(gradient, &a, &b, &pairs, shapes, wanted)),
        ))
    }
}

/// The gradients of both stacks; a matrix that took part in several products collects their sum, in order.
fn matmul_backward(
    gradient: ArrayD<f32>,
    a: &Matrices,
    b: &Matrices,
    pairs: &[(usize, usize)],
    [left_shape, right_shape]: [Vec<usize>; 2],
    [wants_left, wants_right]: [bool; 2],
) -> Vec<Option<ArrayD<f32>>> {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    let gradient = standard(&gradient.into_shared());
    let products = || slice(&gradient).chunks_exact((m * n).max(1)).zip(pairs);
    let left = wants_left.then(|| {
        let mut sums = vec![0.0; left_shape.iter().product()];
        for (c, &(left, right)) in products() {
            let c = MatrixRef::row_major(c, n);
            let sum = &mut sums[left * m * k..][..m * k];
            multiply_add(Dims { m, n: k, k: n }, c, b.at(right).transposed(), sum);
        }
        array_of(sums, &left_shape)
    });
    let right = wants_right.then(|| {
        let mut sums = vec![0.0; right_shape.iter().product()];
        for (c, &(left, right)) in products() {
            let c = MatrixRef::row_major(c, n);
            let sum = &mut sums[right * k * n..][..k * n];
            multiply_add(Dims { m: k, n, k: m }, a.at(left).transposed(), c, sum);
        }
        array_of(sums, &right_shape)
    });
    vec![left, right]
}

/// Chunks of a length that may be 0, of which there are then none.
fn chunks_mut(values: &mut [f32], length: usize) -> std::slice::ChunksExactMut<'_, f32> {
    values.chunks_exact_mut(length.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn hand_computed_two_by_two() -> Result<()> {
        let a = Tensor::new(vec![1.0, 2.0, 3.0, 4.0], &[2, 2])?.with_grad();
        let b = Tensor::new(vec![5.0, 6.0, 7.0, 8.0], &[2, 2])?;
        let c = a.matmul(&b)?;
        assert_eq!(c.to_vec(), [19.0, 22.0, 43.0, 50.0]);
        c.sum().backward()?;
        assert_eq!(a.grad().expect("leaf").to_vec(), [11.0, 15.0, 11.0, 15.0]);
        Ok(())
    }

    #[test]
    fn inner_lengths_must_agree() {
        let error = Tensor::zeros(&[2, 3])
            .matmul(&Tensor::zeros(&[4, 5]))
            .expect_err("3 is not 4");
        assert_eq!(
            error.to_string(),
            "shape mismatch in matmul: [2, 3] · [4, 5]"
        );
        let error = Tensor::zeros(&[2, 2, 3])
            .matmul(&Tensor::zeros(&[3, 3, 5]))
            .expect_err("2, 3");
        assert_eq!(
            error.to_string(),
            "shape mismatch in matmul: [2, 2, 3] · [3, 3, 5]"
        );
        let error = Tensor::zeros(&[3])
            .matmul(&Tensor::zeros(&[3, 5]))
            .expect_err("one axis");
        assert_eq!(
            error.to_string(),
            "matmul needs tensors of at least two axes, got [3]"
        );
    }

    #[test]
    fn an_empty_inner_axis_gives_zeros_and_an_empty_batch_gives_nothing() -> Result<()> {
        let c = Tensor::zeros(&[2, 0]).matmul(&Tensor::zeros(&[0, 3]))?;
        assert_eq!(c.to_vec(), [0.0; 6]);
        let c = Tensor::zeros(&[0, 2, 4]).matmul(&Tensor::zeros(&[0, 4, 3]))?;
        assert_eq!((c.shape(), c.len()), (&[0, 2, 3][..], 0));
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// Transposed, broadcast and batched products, and their gradients, against sums of products
        /// written with broadcasting alone.
        #[test]
        fn products_agree_with_broadcast_multiplication(
            (m, n, k) in (1usize..5, 1usize..5, 1usize..5),
            left in 0usize..4, right in 0usize..4, turned: [bool; 2], seed: u64,
        ) {
            const BATCHES: [&[usize]; 4] = [&[], &[3], &[2, 1], &[2, 3]];
            let rng = &mut ChaCha8Rng::seed_from_u64(seed);
            let mut operand = |batch: &[usize], rows, columns, turned: bool| {
                let (first, second) = if turned { (columns, rows) } else { (rows, columns) };
                let shape: Vec<usize> = batch.iter().copied().chain([first, second]).collect();
                Tensor::uniform(&shape, -1.0, 1.0, rng).with_grad()
            };
            let a_leaf = operand(BATCHES[left], m, k, turned[0]);
            let b_leaf = operand(BATCHES[right], k, n, turned[1]);
            // Turned anew for each product: a backward pass frees the record of the turn.
            let operands = || {
                let turn = |leaf: &Tensor, turned: bool| {
                    if turned { leaf.transpose().expect("2 axes") } else { leaf.clone() }
                };
                (turn(&a_leaf, turned[0]), turn(&b_leaf, turned[1]))
            };
            let gradients = |product: Tensor| {
                a_leaf.zero_grad();
                b_leaf.zero_grad();
                product.sin_weighted().backward().expect("recorded");
                let grad = |leaf: &Tensor| leaf.grad().expect("leaf").to_vec();
                (product.to_vec(), grad(&a_leaf), grad(&b_leaf))
            };
            let (a, b) = operands();
            let by_sum = a.unsqueeze(a.rank()).expect("fits") * b.unsqueeze(b.rank() - 2).expect("fits");
            let by_sum = by_sum.sum_axis(by_sum.rank() - 2, false).expect("axis");
            let expected = gradients(by_sum);
            let (a, b) = operands();
            let got = gradients(a.matmul(&b).expect("fits"));
            // At most 4 · 6 products of numbers below 1 in magnitude, times a weight of at most 1; both sides round.
            let close = |x: &[f32], y: &[f32]| {
                x.len() == y.len()
                    && x.iter().zip(y).all(|(x, y)| (x - y).abs() <= 24.0 * 24.0 * f32::EPSILON)
            };
            prop_assert!(close(&got.0, &expected.0));
            prop_assert!(close(&got.1, &expected.1));
            prop_assert!(close(&got.2, &expected.2));
        }
    }

    impl Tensor {
        /// One number in which every element has another weight.
        fn sin_weighted(&self) -> Tensor {
            let weights = (0..self.len()).map(|i| (i as f32 + 1.0).sin()).collect();
            (self * Tensor::new(weights, self.shape()).expect("counted")).sum()
        }
    }
}
