//! Broadcasting: two shapes made one, and the way back for gradients.
//!
//! Shapes are aligned at their last axes; lengths must be equal, or one of them 1, or missing. Going back, the gradient of
//! an element that was used many times is the sum over its uses.
//!
//! Source: NumPy user guide, "Broadcasting".

use ndarray::ArrayD;

use crate::error::{Error, Result};
use crate::ops::{array_of, slice, standard, standard_owned};
use crate::tensor::Values;

/// The shape that both operands are broadcast to.
pub(crate) fn broadcast_shape(
    operation: &'static str,
    left: &[usize],
    right: &[usize],
) -> Result<Vec<usize>> {
    let rank = left.len().max(right.len());
    let length = |shape: &[usize], axis: usize| {
        (axis + shape.len())
            .checked_sub(rank)
            .map_or(1, |axis| shape[axis])
    };
    (0..rank)
        .map(|axis| match (length(left, axis), length(right, axis)) {
            (a, b) if a == b => Ok(a),
            (1, b) => Ok(b),
            (a, 1) => Ok(a),
            _ => Err(Error::ShapeMismatch {
                operation,
                left: left.to_vec(),
                right: right.to_vec(),
            }),
        })
        .collect()
}

/// The steps, in elements, of a row-major array of `shape` that is read as if it had the shape `target`:
/// 0 along the axes that repeat.
fn broadcast_strides(shape: &[usize], target: &[usize]) -> Vec<usize> {
    let mut strides = vec![0; target.len()];
    let mut step = 1;
    for (stride, &length) in strides.iter_mut().rev().zip(shape.iter().rev()) {
        if length != 1 {
            *stride = step;
        }
        step *= length;
    }
    strides
}

/// A walk over a shape in row-major order, for two arrays at once, in runs as long as their layouts allow.
struct Walk {
    /// Length and the two strides, outermost first.
    outer: Vec<(usize, [usize; 2])>,
    run: usize,
    /// Stride of each array inside a run: 0 or 1.
    step: [usize; 2],
}

impl Walk {
    fn new(shape: &[usize], left: &[usize], right: &[usize]) -> Self {
        let mut axes: Vec<(usize, [usize; 2])> = Vec::with_capacity(shape.len());
        let (left, right) = (
            broadcast_strides(left, shape),
            broadcast_strides(right, shape),
        );
        for ((&length, &l), &r) in shape.iter().zip(&left).zip(&right) {
            if length == 1 {
                continue;
            }
            // Two neighbouring axes are one if a step of the outer is a whole turn of the inner, in both arrays.
            match axes.last_mut() {
                Some((outer, [ol, or])) if *ol == l * length && *or == r * length => {
                    (*outer, *ol, *or) = (*outer * length, l, r);
                }
                _ => axes.push((length, [l, r])),
            }
        }
        let (run, step) = axes.pop().unwrap_or((1, [0, 0]));
        Self {
            outer: axes,
            run,
            step,
        }
    }

    /// Calls `visit` with the offset of each run in both arrays.
    fn for_each_run(&self, mut visit: impl FnMut([usize; 2])) {
        if self.run == 0 || self.outer.iter().any(|&(length, _)| length == 0) {
            return;
        }
        let mut index = vec![0; self.outer.len()];
        let mut offset = [0, 0];
        loop {
            visit(offset);
            let mut axis = self.outer.len();
            loop {
                if axis == 0 {
                    return;
                }
                axis -= 1;
                let (length, strides) = self.outer[axis];
                index[axis] += 1;
                offset = [offset[0] + strides[0], offset[1] + strides[1]];
                if index[axis] < length {
                    break;
                }
                index[axis] = 0;
                offset = [
                    offset[0] - strides[0] * length,
                    offset[1] - strides[1] * length,
                ];
            }
        }
    }
}

/// `f(left, right)` for every element of the common shape, which must come from [`broadcast_shape`].
pub(crate) fn zip(
    left: &Values,
    right: &Values,
    shape: &[usize],
    f: impl Fn(f32, f32) -> f32 + Copy,
) -> ArrayD<f32> {
    let (left, right) = (standard(left), standard(right));
    let (l, r) = (slice(&left), slice(&right));
    if left.shape() == right.shape() {
        return array_of(l.iter().zip(r).map(|(&l, &r)| f(l, r)).collect(), shape);
    }
    let walk = Walk::new(shape, left.shape(), right.shape());
    let mut values = Vec::with_capacity(shape.iter().product());
    walk.for_each_run(|[at_l, at_r]| match walk.step {
        [1, 1] => {
            let (l, r) = (&l[at_l..at_l + walk.run], &r[at_r..at_r + walk.run]);
            values.extend(l.iter().zip(r).map(|(&l, &r)| f(l, r)));
        }
        [_, 0] => {
            let r = r[at_r];
            let run = if walk.step[0] == 1 { walk.run } else { 1 };
            values.extend(l[at_l..at_l + run].iter().map(|&l| f(l, r)));
        }
        _ => {
            let l = l[at_l];
            values.extend(r[at_r..at_r + walk.run].iter().map(|&r| f(l, r)));
        }
    });
    array_of(values, shape)
}

/// For every element of `shape`, in row-major order, the index of the element of each operand that is used for it.
pub(crate) fn pairs(shape: &[usize], left: &[usize], right: &[usize]) -> Vec<(usize, usize)> {
    let walk = Walk::new(shape, left, right);
    let mut pairs = Vec::with_capacity(shape.iter().product());
    walk.for_each_run(|[l, r]| {
        pairs.extend((0..walk.run).map(|i| (l + i * walk.step[0], r + i * walk.step[1])));
    });
    pairs
}

/// The values repeated to fill `shape`, which they must be broadcastable to.
pub(crate) fn expand(values: &Values, shape: &[usize]) -> ArrayD<f32> {
    if values.shape() == shape {
        return standard(values).into_owned();
    }
    let values = standard(values);
    // The second array of the walk is a single number, which constrains no run.
    let walk = Walk::new(shape, values.shape(), &[]);
    let source = slice(&values);
    let mut out = Vec::with_capacity(shape.iter().product());
    walk.for_each_run(|[at, _]| match walk.step[0] {
        1 => out.extend_from_slice(&source[at..at + walk.run]),
        _ => out.extend(std::iter::repeat_n(source[at], walk.run)),
    });
    array_of(out, shape)
}

/// Sums a gradient over the axes along which an operand of `shape` was repeated.
///
/// Sums are kept in `f64`: the bias of a convolution collects millions of terms.
pub(crate) fn sum_to(gradient: ArrayD<f32>, shape: &[usize]) -> ArrayD<f32> {
    if gradient.shape() == shape {
        return gradient;
    }
    let gradient = standard_owned(gradient);
    let walk = Walk::new(gradient.shape(), gradient.shape(), shape);
    let source = slice(&gradient);
    let mut sums = vec![0f64; shape.iter().product()];
    walk.for_each_run(|[at, to]| {
        let run = &source[at..at + walk.run];
        if walk.step[1] == 1 {
            for (sum, &value) in sums[to..to + walk.run].iter_mut().zip(run) {
                *sum += f64::from(value);
            }
        } else {
            sums[to] += sum(run);
        }
    });
    array_of(sums.into_iter().map(|sum| sum as f32).collect(), shape)
}

/// The sum of a slice, always in the same order: 16 interleaved `f32` sums within blocks of 1024 values, which are
/// then halved four times, so 68 roundings each, and blocks in `f64`.
pub(crate) fn sum(values: &[f32]) -> f64 {
    values.chunks(1024).map(sum_of_block).sum()
}

fn sum_of_block(block: &[f32]) -> f64 {
    let mut lanes = [0f32; 16];
    let (rows, rest) = block.as_chunks::<16>();
    for row in rows {
        for (lane, &value) in lanes.iter_mut().zip(row) {
            *lane += value;
        }
    }
    for half in [8, 4, 2, 1] {
        let (low, high) = lanes.split_at_mut(half);
        low.iter_mut()
            .zip(high)
            .for_each(|(low, high)| *low += *high);
    }
    f64::from(lanes[0]) + rest.iter().map(|&value| f64::from(value)).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array, IxDyn};
    use proptest::prelude::*;

    #[test]
    fn shapes_are_aligned_at_the_last_axis() {
        assert_eq!(
            broadcast_shape("add", &[4, 1, 3], &[2, 1]),
            Ok(vec![4, 2, 3])
        );
        assert_eq!(broadcast_shape("add", &[], &[5]), Ok(vec![5]));
        assert_eq!(broadcast_shape("add", &[0, 2], &[1, 2]), Ok(vec![0, 2]));
        let error = broadcast_shape("add", &[2, 3], &[2]).expect_err("3 is not 2");
        assert_eq!(error.to_string(), "shape mismatch in add: [2, 3] + [2]");
    }

    #[test]
    fn a_long_sum_is_as_good_as_one_in_double_precision() {
        let values: Vec<f32> = (0..100_000).map(|i| 0.1 + (i % 7) as f32).collect();
        let exact: f64 = values.iter().map(|&v| f64::from(v)).sum();
        // Each block makes at most 68 roundings of each value, each at most half an epsilon of a sum.
        let tolerance = exact * 68.0 * f64::from(f32::EPSILON) / 2.0;
        assert!((sum(&values) - exact).abs() <= tolerance);
    }

    /// A shape, and a shape that broadcasts to it: some axes 1, some leading axes missing.
    fn shapes() -> impl Strategy<Value = (Vec<usize>, Vec<usize>, Vec<usize>)> {
        let axis = (1usize..5, 0u8..4);
        (prop::collection::vec(axis, 0..5), 0usize..3, any::<bool>()).prop_map(
            |(axes, cut, swap)| {
                let full: Vec<usize> = axes.iter().map(|&(length, _)| length).collect();
                let pick = |bit: u8| -> Vec<usize> {
                    axes.iter()
                        .map(|&(length, mask)| if mask == bit { 1 } else { length })
                        .collect()
                };
                let (mut a, b) = (pick(1), pick(2));
                a.drain(..cut.min(a.len()));
                if swap { (full, b, a) } else { (full, a, b) }
            },
        )
    }

    fn counting(shape: &[usize]) -> Values {
        let count = shape.iter().product::<usize>();
        let values = (0..count).map(|i| i as f32 + 1.0).collect();
        Array::from_shape_vec(IxDyn(shape), values)
            .expect("counted")
            .into_shared()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn every_element_is_that_of_the_array_librarys_own_broadcasting((_, a, b) in shapes()) {
            let (x, y) = (counting(&a), counting(&b));
            let shape = broadcast_shape("sub", &a, &b).expect("made to fit");
            let expected = &x.broadcast(IxDyn(&shape)).expect("fits")
                - &y.broadcast(IxDyn(&shape)).expect("fits");
            prop_assert_eq!(zip(&x, &y, &shape, |x, y| x - y), expected);
            let repeated = x.broadcast(IxDyn(&shape)).expect("fits").to_owned();
            prop_assert_eq!(expand(&x, &shape), repeated);
        }

        #[test]
        fn summing_back_counts_how_often_each_element_was_used((_, a, b) in shapes()) {
            let shape = broadcast_shape("add", &a, &b).expect("made to fit");
            let uses = shape.iter().product::<usize>() / a.iter().product::<usize>();
            let summed = sum_to(ArrayD::ones(IxDyn(&shape)), &a);
            prop_assert_eq!(summed.shape(), &a[..]);
            prop_assert!(summed.iter().all(|&sum| sum == uses as f32));
        }
    }
}
