//! Parts of tensors, and tensors of parts.

use std::ops::Range;

use ndarray::{ArrayD, Axis, IxDyn, Slice};

use crate::error::{Error, Result};
use crate::ops::{around_axis, array_of, check_axis, slice, standard, standard_owned};
use crate::tensor::{Tensor, Values};

impl Tensor {
    /// The elements at `range` along `axis`. Shares storage.
    ///
    /// # Errors
    ///
    /// [`Error::Axis`] if there is no such axis, [`Error::Index`] if the range reaches beyond it,
    /// [`Error::Argument`] if it ends before it starts.
    pub fn slice_axis(&self, axis: usize, range: Range<usize>) -> Result<Tensor> {
        let operation = "slice";
        check_axis(operation, axis, self.rank())?;
        let length = self.shape()[axis];
        if range.end > length {
            return Err(Error::Index {
                operation,
                index: range.end,
                length,
            });
        }
        if range.start > range.end {
            let reason = format!("the range {range:?} ends before it starts");
            return Err(Error::Argument { operation, reason });
        }
        let mut output = self.array();
        output.slice_axis_inplace(Axis(axis), Slice::from(range.clone()));
        let shape = self.shape().to_vec();
        Ok(Tensor::recorded(
            operation,
            output,
            &[self],
            move |gradient| {
                let mut back = ArrayD::zeros(IxDyn(&shape));
                back.slice_axis_mut(Axis(axis), Slice::from(range))
                    .assign(&gradient);
                Ok(vec![Some(back)])
            },
        ))
    }

    /// The elements at one range for each of the first axes; the others are kept whole. Shares storage.
    ///
    /// # Errors
    ///
    /// As [`Tensor::slice_axis`].
    pub fn slice(&self, ranges: &[Range<usize>]) -> Result<Tensor> {
        let whole = Ok(self.clone());
        ranges
            .iter()
            .enumerate()
            .fold(whole, |sliced, (axis, range)| {
                sliced?.slice_axis(axis, range.clone())
            })
    }

    /// The elements at `indices` along `axis`, in that order; an index may come several times.
    ///
    /// # Errors
    ///
    /// [`Error::Axis`] if there is no such axis, [`Error::Index`] if an index reaches beyond it.
    pub fn index_select(&self, axis: usize, indices: &[usize]) -> Result<Tensor> {
        let operation = "index_select";
        check_axis(operation, axis, self.rank())?;
        let (outer, length, inner) = around_axis(self.shape(), axis);
        if let Some(&index) = indices.iter().find(|&&index| index >= length) {
            return Err(Error::Index {
                operation,
                index,
                length,
            });
        }
        let values = standard(&self.array());
        let source = slice(&values);
        let mut picked = Vec::with_capacity(outer * indices.len() * inner);
        for block in (0..outer).map(|o| &source[o * length * inner..]) {
            for &index in indices {
                picked.extend_from_slice(&block[index * inner..][..inner]);
            }
        }
        let mut picked_shape = self.shape().to_vec();
        picked_shape[axis] = indices.len();
        let (shape, indices) = (self.shape().to_vec(), indices.to_vec());
        let output = array_of(picked, &picked_shape);
        Ok(Tensor::recorded(
            operation,
            output,
            &[self],
            move |gradient| {
                let gradient = standard_owned(gradient);
                let mut back = vec![0.0; outer * length * inner];
                let mut lines = slice(&gradient).chunks_exact(inner.max(1));
                for start in (0..outer).map(|o| o * length * inner) {
                    for (index, line) in indices.iter().zip(&mut lines) {
                        let sums = &mut back[start + index * inner..][..inner];
                        sums.iter_mut()
                            .zip(line)
                            .for_each(|(sum, &value)| *sum += value);
                    }
                }
                Ok(vec![Some(array_of(back, &shape))])
            },
        ))
    }

    /// Joins tensors along `axis`, in which alone their shapes may differ.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] if there is no tensor, [`Error::Axis`] if there is no such axis, [`Error::ShapeMismatch`] if
    /// another axis differs.
    pub fn concat(tensors: &[&Tensor], axis: usize) -> Result<Tensor> {
        let operation = "concat";
        let Some(first) = tensors.first() else {
            let reason = "there is no tensor to join".to_owned();
            return Err(Error::Argument { operation, reason });
        };
        check_axis(operation, axis, first.rank())?;
        let others = |shape: &[usize]| -> Vec<usize> {
            shape
                .iter()
                .enumerate()
                .filter(|&(at, _)| at != axis)
                .map(|(_, &l)| l)
                .collect()
        };
        for tensor in tensors {
            let fits = tensor.rank() == first.rank();
            if !fits || others(tensor.shape()) != others(first.shape()) {
                return Err(Error::ShapeMismatch {
                    operation,
                    left: first.shape().to_vec(),
                    right: tensor.shape().to_vec(),
                });
            }
        }
        let lengths: Vec<usize> = tensors.iter().map(|tensor| tensor.shape()[axis]).collect();
        let mut shape = first.shape().to_vec();
        shape[axis] = lengths.iter().sum();
        let (outer, _, inner) = around_axis(&shape, axis);
        let values: Vec<Values> = tensors
            .iter()
            .map(|tensor| standard(&tensor.array()))
            .collect();
        let mut joined = Vec::with_capacity(shape.iter().product());
        for o in 0..outer {
            for (values, length) in values.iter().zip(&lengths) {
                let block = length * inner;
                joined.extend_from_slice(&slice(values)[o * block..][..block]);
            }
        }
        Ok(Tensor::recorded(
            operation,
            array_of(joined, &shape),
            tensors,
            move |gradient| {
                let mut start = 0;
                let parts = lengths.iter().map(|&length| {
                    let range = Slice::from(start..start + length);
                    start += length;
                    Some(gradient.slice_axis(Axis(axis), range).to_owned())
                });
                Ok(parts.collect())
            },
        ))
    }

    /// Joins tensors of one shape along a new axis.
    ///
    /// # Errors
    ///
    /// As [`Tensor::concat`].
    pub fn stack(tensors: &[&Tensor], axis: usize) -> Result<Tensor> {
        let rows: Vec<Tensor> = tensors
            .iter()
            .map(|tensor| tensor.unsqueeze(axis))
            .collect::<Result<_>>()?;
        Tensor::concat(&rows.iter().collect::<Vec<_>>(), axis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting(shape: &[usize]) -> Tensor {
        let count = shape.iter().product::<usize>();
        Tensor::new((0..count).map(|i| i as f32).collect(), shape).expect("counted")
    }

    #[test]
    fn joined_tensors_come_apart_again() -> Result<()> {
        let (a, b) = (counting(&[2, 1]), counting(&[2, 2]));
        let joined = Tensor::concat(&[&a, &b], 1)?;
        assert_eq!(joined.to_vec(), [0.0, 0.0, 1.0, 1.0, 2.0, 3.0]);
        assert_eq!(joined.slice_axis(1, 1..3)?.to_vec(), b.to_vec());
        assert_eq!(Tensor::stack(&[&b, &b], 0)?.shape(), [2, 2, 2]);
        Ok(())
    }

    #[test]
    fn an_index_picked_twice_collects_both_gradients() -> Result<()> {
        let t = counting(&[2, 3]).with_grad();
        let picked = t.index_select(1, &[2, 0, 2])?;
        assert_eq!(picked.to_vec(), [2.0, 0.0, 2.0, 5.0, 3.0, 5.0]);
        picked.sum().backward()?;
        assert_eq!(
            t.grad().expect("leaf").to_vec(),
            [1.0, 0.0, 2.0, 1.0, 0.0, 2.0]
        );
        Ok(())
    }
}
