//! Operations that move elements and change none. Where the layout allows, the result shares the storage.

use ndarray::{ArrayD, IxDyn};

use crate::error::{Error, Result};
use crate::ops::broadcast::{expand, sum_to};
use crate::ops::{check_axis, standard, standard_owned};
use crate::tensor::Tensor;

fn reshaped(gradient: ArrayD<f32>, shape: &[usize]) -> ArrayD<f32> {
    let gradient = standard_owned(gradient);
    gradient
        .into_shape_with_order(IxDyn(shape))
        .expect("the number of elements was checked")
}

impl Tensor {
    /// The same elements, in row-major order, in another shape. Shares storage unless the tensor is permuted.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] if the shapes hold different numbers of elements.
    pub fn reshape(&self, shape: &[usize]) -> Result<Tensor> {
        let output = standard(&self.array())
            .into_shape_with_order(IxDyn(shape))
            .map_err(|_| Error::ShapeMismatch {
                operation: "reshape",
                left: self.shape().to_vec(),
                right: shape.to_vec(),
            })?;
        let original = self.shape().to_vec();
        Ok(Tensor::recorded(
            "reshape",
            output,
            &[self],
            move |gradient| Ok(vec![Some(reshaped(gradient, &original))]),
        ))
    }

    /// Makes one axis of `first_axis` and all that follow.
    ///
    /// # Errors
    ///
    /// [`Error::Axis`] if there is no such axis.
    pub fn flatten_from(&self, first_axis: usize) -> Result<Tensor> {
        check_axis("flatten_from", first_axis, self.rank())?;
        let (kept, merged) = self.shape().split_at(first_axis);
        let shape: Vec<usize> = kept
            .iter()
            .copied()
            .chain([merged.iter().product()])
            .collect();
        self.reshape(&shape)
    }

    /// A new axis of length 1 before `axis`.
    ///
    /// # Errors
    ///
    /// [`Error::Axis`] if `axis > rank`.
    pub fn unsqueeze(&self, axis: usize) -> Result<Tensor> {
        check_axis("unsqueeze", axis, self.rank() + 1)?;
        let mut shape = self.shape().to_vec();
        shape.insert(axis, 1);
        self.reshape(&shape)
    }

    /// Drops `axis`, which has length 1.
    ///
    /// # Errors
    ///
    /// [`Error::Axis`] if there is no such axis, [`Error::Shape`] if its length is not 1.
    pub fn squeeze(&self, axis: usize) -> Result<Tensor> {
        check_axis("squeeze", axis, self.rank())?;
        let mut shape = self.shape().to_vec();
        if shape.remove(axis) != 1 {
            let expected = format!("length 1 along axis {axis}");
            return Err(Error::Shape {
                operation: "squeeze",
                expected,
                got: self.shape().to_vec(),
            });
        }
        self.reshape(&shape)
    }

    /// Puts axis `axes[i]` at place `i`. Shares storage.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] if `axes` does not name every axis once.
    pub fn permute(&self, axes: &[usize]) -> Result<Tensor> {
        let mut inverse = vec![usize::MAX; self.rank()];
        for (place, &axis) in axes.iter().enumerate() {
            if let Some(slot) = inverse.get_mut(axis) {
                *slot = place;
            }
        }
        if axes.len() != self.rank() || inverse.contains(&usize::MAX) {
            let reason = format!("{axes:?} does not name each of {} axes once", self.rank());
            return Err(Error::Argument {
                operation: "permute",
                reason,
            });
        }
        let output = self.array().permuted_axes(IxDyn(axes));
        Ok(Tensor::recorded(
            "permute",
            output,
            &[self],
            move |gradient| Ok(vec![Some(gradient.permuted_axes(IxDyn(&inverse)))]),
        ))
    }

    /// Exchanges the last two axes. Shares storage.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if there are fewer than two.
    pub fn transpose(&self) -> Result<Tensor> {
        let rank = self.rank();
        if rank < 2 {
            let expected = "a tensor of at least two axes".to_owned();
            let got = self.shape().to_vec();
            return Err(Error::Shape {
                operation: "transpose",
                expected,
                got,
            });
        }
        let mut axes: Vec<usize> = (0..rank).collect();
        axes.swap(rank - 2, rank - 1);
        self.permute(&axes)
    }

    /// Repeats axes of length 1, and adds leading ones, to reach `shape`.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] if the tensor does not broadcast to it.
    pub fn broadcast_to(&self, shape: &[usize]) -> Result<Tensor> {
        let mismatch = || Error::ShapeMismatch {
            operation: "broadcast_to",
            left: self.shape().to_vec(),
            right: shape.to_vec(),
        };
        let values = self.array();
        values.broadcast(IxDyn(shape)).ok_or_else(mismatch)?;
        let output = expand(&values, shape);
        let original = self.shape().to_vec();
        Ok(Tensor::recorded(
            "broadcast_to",
            output,
            &[self],
            move |gradient| Ok(vec![Some(sum_to(gradient, &original))]),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Values;
    use proptest::prelude::*;

    fn counting(shape: &[usize]) -> Tensor {
        let count = shape.iter().product::<usize>();
        Tensor::new((0..count).map(|i| i as f32).collect(), shape).expect("counted")
    }

    fn shares_storage(a: &Tensor, b: &Tensor) -> bool {
        let (a, b) = (a.array(), b.array());
        let span = |values: &Values| values.as_ptr().addr();
        span(&b) >= span(&a) && span(&b) < span(&a) + a.len() * size_of::<f32>()
    }

    #[test]
    fn a_reshape_a_slice_and_a_permutation_share_storage() -> Result<()> {
        let t = counting(&[2, 3]);
        assert!(shares_storage(&t, &t.reshape(&[3, 2])?));
        assert!(shares_storage(&t, &t.permute(&[1, 0])?));
        assert!(shares_storage(&t, &t.slice(&[1..2, 1..3])?));
        assert_eq!(t.slice(&[1..2, 1..3])?.to_vec(), [4.0, 5.0]);
        assert_eq!(
            t.transpose()?.reshape(&[6])?.to_vec(),
            [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
        );
        Ok(())
    }

    #[test]
    fn writing_to_a_tensor_leaves_its_views_alone() -> Result<()> {
        let t = counting(&[4]);
        let view = t.slice_axis(0, 1..3)?;
        t.update(|mut values| values.fill(9.0));
        view.update(|mut values| values[0] = -1.0);
        assert_eq!((t.to_vec(), view.to_vec()), (vec![9.0; 4], vec![-1.0, 2.0]));
        Ok(())
    }

    #[test]
    fn impossible_moves_are_errors() {
        let t = counting(&[2, 3]);
        let text = |result: Result<Tensor>| result.expect_err("impossible").to_string();
        assert_eq!(
            text(t.reshape(&[4])),
            "shape mismatch in reshape: [2, 3] to [4]"
        );
        assert_eq!(
            text(t.permute(&[0, 0])),
            "bad argument in permute: [0, 0] does not name each of 2 axes once"
        );
        assert_eq!(
            text(t.slice_axis(1, 2..4)),
            "index 4 in slice is out of range for 3 elements"
        );
        assert_eq!(
            text(t.index_select(0, &[2])),
            "index 2 in index_select is out of range for 2 elements"
        );
        assert_eq!(
            text(Tensor::concat(&[&t, &counting(&[3, 3])], 1)),
            "shape mismatch in concat: [2, 3] and [3, 3]"
        );
        assert_eq!(
            text(t.broadcast_to(&[3, 3])),
            "shape mismatch in broadcast_to: [2, 3] to [3, 3]"
        );
        assert_eq!(
            text(t.squeeze(1)),
            "squeeze needs length 1 along axis 1, got [2, 3]"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn a_permutation_and_its_inverse_restore_the_tensor(
            (shape, axes) in prop::collection::vec(1usize..4, 0..5).prop_flat_map(|shape| {
                let axes: Vec<usize> = (0..shape.len()).collect();
                (Just(shape), Just(axes).prop_shuffle())
            })
        ) {
            let t = counting(&shape);
            let turned = t.permute(&axes).expect("a permutation");
            let mut inverse = vec![0; axes.len()];
            axes.iter().enumerate().for_each(|(place, &axis)| inverse[axis] = place);
            let back = turned.permute(&inverse).expect("a permutation");
            prop_assert_eq!(back.to_vec(), t.to_vec());
            // Reshaping reads a permuted tensor in its new row-major order.
            prop_assert_eq!(turned.reshape(&[t.len()]).expect("fits").to_vec(), turned.to_vec());
        }

        #[test]
        fn a_reshape_there_and_back_restores_the_tensor(
            (a, b, c) in (1usize..5, 1usize..5, 1usize..5)
        ) {
            let t = counting(&[a, b, c]);
            let back = t.reshape(&[c * a, b]).and_then(|t| t.reshape(&[a, b, c])).expect("fits");
            prop_assert_eq!(back.array(), t.array());
        }
    }
}
