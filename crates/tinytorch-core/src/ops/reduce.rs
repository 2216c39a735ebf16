//! Reductions: many elements to one.
//!
//! Every sum runs in an order that depends on shapes only, so results do not depend on the number of threads.

use ndarray::{ArrayD, Axis, IxDyn};

use crate::error::Result;
use crate::ops::broadcast::{self, expand};
use crate::ops::{around_axis, array_of, check_axis, slice, standard};
use crate::tensor::Tensor;

/// The shape after `axis` is reduced: of length 1, or gone.
fn reduced_shape(shape: &[usize], axis: usize, keep: bool) -> Vec<usize> {
    let mut reduced = shape.to_vec();
    if keep {
        reduced[axis] = 1;
    } else {
        reduced.remove(axis);
    }
    reduced
}

impl Tensor {
    /// The sum of all elements, shape `[]`.
    pub fn sum(&self) -> Tensor {
        self.scaled_sum("sum", 1.0)
    }

    /// The mean of all elements, shape `[]`. NaN if there are none.
    pub fn mean(&self) -> Tensor {
        self.scaled_sum("mean", 1.0 / self.len() as f64)
    }

    fn scaled_sum(&self, name: &'static str, scale: f64) -> Tensor {
        let sum = broadcast::sum(slice(&standard(&self.array())));
        let output = ArrayD::from_elem(IxDyn(&[]), (sum * scale) as f32);
        let shape = self.shape().to_vec();
        Tensor::recorded(name, output, &[self], move |gradient| {
            let share = gradient.sum() * scale as f32;
            Ok(vec![Some(ArrayD::from_elem(IxDyn(&shape), share))])
        })
    }

    /// The sum along `axis`, which then has length 1 (`keep`) or is gone.
    ///
    /// # Errors
    ///
    /// [`Error::Axis`](crate::Error::Axis) if there is no such axis.
    pub fn sum_axis(&self, axis: usize, keep: bool) -> Result<Tensor> {
        self.scaled_sum_axis("sum_axis", axis, keep, |_| 1.0)
    }

    /// The mean along `axis`, which then has length 1 (`keep`) or is gone.
    ///
    /// # Errors
    ///
    /// [`Error::Axis`](crate::Error::Axis) if there is no such axis.
    pub fn mean_axis(&self, axis: usize, keep: bool) -> Result<Tensor> {
        self.scaled_sum_axis("mean_axis", axis, keep, |length| 1.0 / length as f64)
    }

    fn scaled_sum_axis(
        &self,
        name: &'static str,
        axis: usize,
        keep: bool,
        scale: impl Fn(usize) -> f64,
    ) -> Result<Tensor> {
        check_axis(name, axis, self.rank())?;
        let shape = self.shape().to_vec();
        let scale = scale(shape[axis]);
        let kept = reduced_shape(&shape, axis, true);
        let values = standard(&self.array());
        let sums = sum_along(slice(&values), around_axis(&shape, axis));
        let values = sums.into_iter().map(|sum| (sum * scale) as f32).collect();
        let output = array_of(values, &reduced_shape(&shape, axis, keep));
        Ok(Tensor::recorded(name, output, &[self], move |gradient| {
            let gradient = if keep {
                gradient
            } else {
                gradient.insert_axis(Axis(axis))
            };
            debug_assert_eq!(gradient.shape(), kept);
            let mut shared = expand(&gradient.into_shared(), &shape);
            if scale != 1.0 {
                shared.mapv_inplace(|gradient| gradient * scale as f32);
            }
            Ok(vec![Some(shared)])
        }))
    }

    /// The largest element along `axis`; the gradient goes to the first of equals. NaN if any element is.
    ///
    /// # Errors
    ///
    /// [`Error::Axis`](crate::Error::Axis) if there is no such axis,
    /// [`Error::Shape`](crate::Error::Shape) if it has length 0.
    pub fn max_axis(&self, axis: usize, keep: bool) -> Result<Tensor> {
        let positions = self.positions_of_max("max_axis", axis)?;
        let shape = self.shape().to_vec();
        let values = standard(&self.array());
        let source = slice(&values);
        let output = array_of(
            positions.iter().map(|&position| source[position]).collect(),
            &reduced_shape(&shape, axis, keep),
        );
        Ok(Tensor::recorded(
            "max_axis",
            output,
            &[self],
            move |gradient| {
                let mut back = vec![0.0; shape.iter().product()];
                for (&position, &gradient) in positions.iter().zip(&gradient) {
                    back[position] = gradient;
                }
                Ok(vec![Some(array_of(back, &shape))])
            },
        ))
    }

    /// The index of the first largest element along `axis`, which is gone. Not differentiable.
    ///
    /// # Errors
    ///
    /// As [`Tensor::max_axis`].
    pub fn argmax(&self, axis: usize) -> Result<Tensor> {
        let positions = self.positions_of_max("argmax", axis)?;
        let (_, length, inner) = around_axis(self.shape(), axis);
        let indices = positions
            .iter()
            .map(|position| (position / inner % length) as f32);
        let output = array_of(indices.collect(), &reduced_shape(self.shape(), axis, false));
        Ok(Tensor::not_differentiable("argmax", output, &[self]))
    }

    /// Where, in row-major order, the first largest element of each line along `axis` is.
    fn positions_of_max(&self, operation: &'static str, axis: usize) -> Result<Vec<usize>> {
        check_axis(operation, axis, self.rank())?;
        let (outer, length, inner) = around_axis(self.shape(), axis);
        if length == 0 {
            return Err(crate::Error::Shape {
                operation,
                expected: format!("at least one element along axis {axis}"),
                got: self.shape().to_vec(),
            });
        }
        let values = standard(&self.array());
        let source = slice(&values);
        let mut positions = Vec::with_capacity(outer * inner);
        for first in (0..outer).flat_map(|o| (0..inner).map(move |i| o * length * inner + i)) {
            let line = (first..).step_by(inner).take(length);
            // A NaN is taken at once and nothing replaces it: `>` is false for it.
            let largest = line.fold(first, |best, position| {
                let (value, largest) = (source[position], source[best]);
                let replaces = value > largest || (value.is_nan() && !largest.is_nan());
                if replaces { position } else { best }
            });
            positions.push(largest);
        }
        Ok(positions)
    }
}

/// Sums along the middle of `[outer, length, inner]`.
fn sum_along(values: &[f32], (outer, length, inner): (usize, usize, usize)) -> Vec<f64> {
    if length * inner == 0 {
        return vec![0.0; outer * inner];
    }
    let blocks = values.chunks_exact(length * inner);
    if inner == 1 {
        return blocks.map(broadcast::sum).collect();
    }
    let mut sums = vec![0f64; outer * inner];
    for (block, sums) in blocks.zip(sums.chunks_exact_mut(inner)) {
        for row in block.chunks_exact(inner) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += f64::from(value);
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    fn matrix() -> Tensor {
        Tensor::from_array(ndarray::arr2(&[[1.0, 5.0, 5.0], [4.0, 3.0, -2.0]]).into_dyn())
    }

    #[test]
    fn an_axis_is_summed_and_dropped_or_kept() -> Result<()> {
        assert_eq!(matrix().sum_axis(0, false)?.to_vec(), [5.0, 8.0, 3.0]);
        assert_eq!(matrix().sum_axis(1, true)?.shape(), [2, 1]);
        assert_eq!(
            matrix().mean_axis(1, false)?.to_vec(),
            [11.0 / 3.0, 5.0 / 3.0]
        );
        assert_eq!(
            (matrix().sum().item()?, matrix().mean().item()?),
            (16.0, 16.0 / 6.0)
        );
        Ok(())
    }

    #[test]
    fn the_first_of_equal_maxima_counts() -> Result<()> {
        let m = matrix().with_grad();
        assert_eq!(m.argmax(1)?.to_vec(), [1.0, 0.0]);
        assert_eq!(m.argmax(0)?.to_vec(), [1.0, 0.0, 0.0]);
        let largest = m.max_axis(1, false)?;
        assert_eq!(largest.to_vec(), [5.0, 4.0]);
        largest.sum().backward()?;
        assert_eq!(
            m.grad().expect("leaf").to_vec(),
            [0.0, 1.0, 0.0, 1.0, 0.0, 0.0]
        );
        Ok(())
    }

    #[test]
    fn what_is_derived_from_argmax_has_no_gradient() -> Result<()> {
        let error = matrix().with_grad().argmax(1)?.sum().backward();
        assert_eq!(
            error,
            Err(Error::NotDifferentiable {
                operation: "argmax"
            })
        );
        Ok(())
    }

    #[test]
    fn a_missing_axis_is_an_error() {
        let error = matrix().sum_axis(2, false).expect_err("two axes");
        assert_eq!(
            error,
            Error::Axis {
                operation: "sum_axis",
                axis: 2,
                rank: 2
            }
        );
        assert_eq!(
            error.to_string(),
            "axis 2 in sum_axis is out of range for a tensor of 2 axes"
        );
    }

    #[test]
    fn a_maximum_of_nothing_is_an_error_and_nan_wins() -> Result<()> {
        assert!(matches!(
            Tensor::zeros(&[2, 0]).max_axis(1, false),
            Err(Error::Shape { .. })
        ));
        let t = Tensor::new(vec![1.0, f32::NAN, 3.0], &[3])?;
        assert_eq!(t.argmax(0)?.item(), Ok(1.0));
        Ok(())
    }
}
