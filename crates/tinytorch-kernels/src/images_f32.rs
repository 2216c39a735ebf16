//! Images of `f32`: from channels first to channels last and back, and the largest element of each window.

use crate::cpu::{Vectors, vectorized};
use crate::gemm_f32::lines::Line;
use crate::gemm_f32::panels;
use crate::{Images, elements};

/// Writes a matrix `[rows, columns]` transposed, as `[columns, rows]`: `[channels, pixels]` to `[pixels, channels]`, or back.
///
/// # Panics
///
/// If a slice has not `rows · columns` elements.
#[track_caller]
pub fn transpose_f32(rows: usize, columns: usize, matrix: &[f32], out: &mut [f32]) {
    let expected = elements([rows, columns]);
    assert_eq!(Some(matrix.len()), expected, "matrix");
    assert_eq!(Some(out.len()), expected, "out");
    if rows == 1 || columns == 1 {
        return out.copy_from_slice(matrix);
    }
    const SIDE: usize = Line::LEN;
    let vectors = Vectors::chosen();
    for top in (0..rows).step_by(SIDE) {
        for left in (0..columns).step_by(SIDE) {
            let (height, width) = (SIDE.min(rows - top), SIDE.min(columns - left));
            let out = &mut out[left * rows + top..];
            if (height, width) == (SIDE, SIDE) {
                let row = |i| matrix[(top + i) * columns + left..].first_chunk();
                let block = std::array::from_fn(|i| row(i).expect("a whole block"));
                let mut lines = out.chunks_mut(rows);
                let into = std::array::from_fn(|_| {
                    let line = lines.next().and_then(|line| line.first_chunk_mut());
                    line.expect("a whole block")
                });
                panels::transpose(vectors, block, into);
                continue;
            }
            for i in 0..height {
                for j in 0..width {
                    out[j * rows + i] = matrix[(top + i) * columns + left + j];
                }
            }
        }
    }
}

/// A window that pools, without padding. Pairs are `[height, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolWindow {
    /// Size of the window.
    pub kernel: [usize; 2],
    /// From one window to the next.
    pub stride: [usize; 2],
}

impl PoolWindow {
    /// Height and width of the result; `None` if a window does not fit or is empty, or does not advance.
    pub fn output_size(&self, size: [usize; 2]) -> Option<[usize; 2]> {
        let along = |axis: usize| {
            let steps = size[axis].checked_sub(self.kernel[axis])?;
            Some(steps.checked_div(self.stride[axis])? + 1)
        };
        let output = [along(0)?, along(1)?];
        (!self.kernel.contains(&0)).then_some(output)
    }
}

/// The largest element of each window and channel, channels last; NaN if any element of the window is.
///
/// | argument | shape                                      |
/// |----------|--------------------------------------------|
/// | `input`  | `[batch, height, width, channels]`         |
/// | `out`    | `[batch, out height, out width, channels]` |
///
/// # Panics
///
/// If a slice does not have its shape, or the window does not fit.
#[track_caller]
pub fn max_pool2d_f32(
    window: PoolWindow,
    images: Images,
    channels: usize,
    input: &[f32],
    out: &mut [f32],
) {
    let Images { height, width, .. } = images;
    let Some([out_height, out_width]) = window.output_size([height, width]) else {
        panic!("{window:?} does not fit images of [{height}, {width}]")
    };
    images.check_pooling(channels, ("input", input), [out_height, out_width], out);
    if out.is_empty() {
        return;
    }
    let row = width * channels;
    for (y, out) in out.chunks_exact_mut(out_width * channels).enumerate() {
        let (image, y) = (y / out_height, y % out_height);
        let first = (image * height + y * window.stride[0]) * row;
        let rows = &input[first..first + window.kernel[0] * row];
        row_of_maxima(
            Vectors::chosen(),
            window.kernel[1],
            window.stride[1],
            channels,
            row,
            rows,
            out,
        );
    }
}

vectorized! {
    /// One row of the result from the rows of the input under its windows.
    fn row_of_maxima(width: usize, stride: usize, channels: usize, row: usize, rows: &[f32], out: &mut [f32]) {
        if width == 2 && rows.len() == 2 * row {
            // The usual window, whole pixels at a time.
            let (top, bottom) = rows.split_at(row);
            for (x, out) in out.chunks_exact_mut(channels).enumerate() {
                let first = x * stride * channels;
                let (a, b) = top[first..first + 2 * channels].split_at(channels);
                let (c, d) = bottom[first..first + 2 * channels].split_at(channels);
                for ((((out, &a), &b), &c), &d) in out.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                    let ([left], [right]) = (larger([a], &[c]), larger([b], &[d]));
                    [*out] = larger([left], &[right]);
                }
            }
            return;
        }
        for (x, out) in out.chunks_exact_mut(channels).enumerate() {
            let corner = &rows[x * stride * channels..];
            let (lines, rest) = out.as_chunks_mut::<{ Line::LEN }>();
            let whole = lines.len() * Line::LEN;
            for (part, line) in lines.iter_mut().enumerate() {
                *line = maxima(width, channels, row, &corner[part * Line::LEN..]);
            }
            for (channel, out) in rest.iter_mut().enumerate() {
                let [largest] = maxima(width, channels, row, &corner[whole + channel..]);
                *out = largest;
            }
        }
    }
}

/// The maxima of `N` channels: first down each column, then along the row that is left.
#[inline(always)]
fn maxima<const N: usize>(width: usize, channels: usize, row: usize, corner: &[f32]) -> [f32; N] {
    let at = |y: usize, x: usize| -> &[f32; N] {
        let values = &corner[y * row + x * channels..];
        values.first_chunk().expect("the window fits")
    };
    // The last row under the window ends where `corner` does, or before.
    let height = corner.len().div_ceil(row);
    let column = |x: usize| (1..height).fold(*at(0, x), |a, y| larger(a, at(y, x)));
    (1..width).fold(column(0), |a, x| larger(a, &column(x)))
}

/// The larger of each two, or NaN if there is one. Of equals the first.
#[inline(always)]
fn larger<const N: usize>(mut a: [f32; N], b: &[f32; N]) -> [f32; N] {
    for (a, &b) in a.iter_mut().zip(b) {
        *a = if (b > *a) | b.is_nan() { b } else { *a };
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Random, assert_refused};

    #[test]
    fn matrices_of_all_sizes_are_transposed() {
        for rows in [1, 2, 15, 16, 17, 33, 64] {
            for columns in [0, 1, 3, 16, 31, 32, 49] {
                let matrix: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
                let mut out = vec![-1.0; matrix.len()];
                transpose_f32(rows, columns, &matrix, &mut out);
                for (i, &value) in out.iter().enumerate() {
                    let (column, row) = (i / rows, i % rows);
                    assert_eq!(value, matrix[row * columns + column], "[{column}, {row}]");
                }
            }
        }
    }

    #[test]
    fn the_largest_of_each_window_by_hand() {
        // Two channels: 1 2 / 3 4 and its negative.
        let input = [1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 4.0, -4.0];
        let images = Images {
            batch: 1,
            height: 2,
            width: 2,
        };
        let window = PoolWindow {
            kernel: [2, 2],
            stride: [2, 2],
        };
        let mut out = [0.0; 2];
        max_pool2d_f32(window, images, 2, &input, &mut out);
        assert_eq!(out, [4.0, -1.0]);
    }

    #[test]
    fn maxima_are_those_of_the_definition_and_nan_shows() {
        let random = &mut Random::new(71);
        for channels in [1, 3, 16, 35] {
            for (kernel, stride) in [([2, 2], [2, 2]), ([3, 2], [1, 3]), ([1, 1], [2, 1])] {
                let window = PoolWindow { kernel, stride };
                let images = Images {
                    batch: 2,
                    height: 5,
                    width: 7,
                };
                let len = 2 * 5 * 7 * channels;
                let mut input: Vec<f32> = (0..len).map(|_| random.unit() - 0.5).collect();
                input[len / 2] = f32::NAN;
                let size = window.output_size([5, 7]).expect("it fits");
                let mut out = vec![7.0; 2 * size[0] * size[1] * channels];
                max_pool2d_f32(window, images, channels, &input, &mut out);
                for (i, &got) in out.iter().enumerate() {
                    let (pixel, channel) = (i / channels, i % channels);
                    let (x, y) = (pixel % size[1], pixel / size[1] % size[0]);
                    let image = pixel / (size[0] * size[1]);
                    let mut expected = f32::NEG_INFINITY;
                    for (ky, kx) in (0..kernel[0]).flat_map(|y| (0..kernel[1]).map(move |x| (y, x)))
                    {
                        let row = (image * 5 + y * stride[0] + ky) * 7;
                        let value = input[(row + x * stride[1] + kx) * channels + channel];
                        expected = if value > expected || value.is_nan() {
                            value
                        } else {
                            expected
                        };
                    }
                    assert!(
                        got == expected || got.is_nan() && expected.is_nan(),
                        "{window:?}, [{image}, {y}, {x}, {channel}]: expected {expected}, got {got}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let images = Images {
            batch: 1,
            height: 2,
            width: 2,
        };
        let pool = |kernel, len| {
            let window = PoolWindow {
                kernel,
                stride: [1, 1],
            };
            max_pool2d_f32(window, images, 1, &[0.0; 4], &mut vec![0.0; len]);
        };
        assert_refused("does not fit images of [2, 2]", || pool([3, 1], 1));
        assert_refused("does not fit images of [2, 2]", || pool([0, 1], 1));
        assert_refused("out must be [1, 1, 1, 1]", || pool([2, 2], 2));
        assert_refused("matrix", || transpose_f32(2, 2, &[0.0; 3], &mut [0.0; 4]));
    }
}
