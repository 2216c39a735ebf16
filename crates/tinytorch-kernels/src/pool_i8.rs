//! Max pooling of codes, channels last: the largest code is the code of the largest value.

use crate::conv_i8::Images;
use crate::cpu::{Vectors, vectorized};

/// Which windows are pooled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool2dShape {
    /// Height and width of the window.
    pub kernel: [usize; 2],
    /// Rows and columns from one window to the next.
    pub stride: [usize; 2],
    /// Rows above and below, columns left and right, that take no part.
    pub padding: [usize; 2],
}

impl Pool2dShape {
    /// Square windows side by side.
    pub fn square(size: usize) -> Self {
        Self {
            kernel: [size; 2],
            stride: [size; 2],
            padding: [0; 2],
        }
    }

    /// Height and width of the result, `None` if a window does not fit the padded image, or that has no rows or columns of its own:
    /// nothing would be the largest.
    ///
    /// # Panics
    ///
    /// If the window is empty, the stride zero, or the padding more than half of the window: a window in it alone would have no
    /// largest code.
    #[track_caller]
    pub fn output_size(&self, [height, width]: [usize; 2]) -> Option<[usize; 2]> {
        let along = |size: usize, axis: usize| {
            let (kernel, padding) = (self.kernel[axis], self.padding[axis]);
            assert!(
                kernel > 0 && self.stride[axis] > 0 && padding <= kernel / 2,
                "{self:?} pools nothing"
            );
            let padded = size.checked_add(padding.checked_mul(2)?)?;
            (size > 0).then_some(())?;
            (padded.checked_sub(kernel)? / self.stride[axis]).checked_add(1)
        };
        Some([along(height, 0)?, along(width, 1)?])
    }
}

/// Writes the largest code of each window.
///
/// | argument | shape                                        |
/// |----------|----------------------------------------------|
/// | `codes`  | `[batch, height, width, channels]`           |
/// | `out`    | `[batch, out height, out width, channels]`   |
///
/// # Panics
///
/// If a slice does not have its shape (or a `usize` cannot count it), or the windows are none, see [`Pool2dShape::output_size`].
#[track_caller]
pub fn max_pool_i8(
    codes: &[i8],
    images: Images,
    channels: usize,
    shape: Pool2dShape,
    out: &mut [i8],
) {
    let Images {
        batch,
        height,
        width,
    } = images;
    // A result without rows has no windows, whatever the image.
    let [out_height, out_width] = shape.output_size([height, width]).unwrap_or([0, 0]);
    images.check_pooling(channels, ("codes", codes), [out_height, out_width], out);
    if out.is_empty() {
        return;
    }
    for image in 0..batch {
        for y in 0..out_height {
            let line = (image * out_height + y) * out_width * channels;
            let out = &mut out[line..line + out_width * channels];
            let rows = covered(y, shape, height, 0);
            let image = &codes[image * height * width * channels..][..height * width * channels];
            pool_line(
                Vectors::chosen(),
                image,
                [width, channels],
                rows,
                shape,
                out,
            );
        }
    }
}

/// The rows (axis 0) or columns (axis 1) of an image that window `at` covers.
#[inline(always)]
fn covered(at: usize, shape: Pool2dShape, size: usize, axis: usize) -> [usize; 2] {
    let (start, padding) = (at * shape.stride[axis], shape.padding[axis]);
    let end = (start + shape.kernel[axis] - padding).min(size);
    [start.saturating_sub(padding), end]
}

/// Channels whose largest codes are found together, in registers.
const LANES: usize = 32;

vectorized! {
    /// One row of the result.
    fn pool_line(
        image: &[i8],
        sizes: [usize; 2],
        rows: [usize; 2],
        shape: Pool2dShape,
        out: &mut [i8],
    ) {
        let [width, channels] = sizes;
        for (x, out) in out.chunks_exact_mut(channels).enumerate() {
            let [left, right] = covered(x, shape, width, 1);
            let (blocks, rest) = out.as_chunks_mut::<LANES>();
            let first_of_rest = channels - rest.len();
            for (block, out) in blocks.iter_mut().enumerate() {
                let mut largest = [i8::MIN; LANES];
                for row in rows[0]..rows[1] {
                    for column in left..right {
                        let pixel = (row * width + column) * channels + block * LANES;
                        if let Some(pixel) = image[pixel..].first_chunk::<LANES>() {
                            largest = larger(largest, pixel);
                        }
                    }
                }
                *out = largest;
            }
            rest.fill(i8::MIN);
            for row in rows[0]..rows[1] {
                for column in left..right {
                    let pixel = (row * width + column) * channels + first_of_rest;
                    for (largest, &code) in rest.iter_mut().zip(&image[pixel..]) {
                        *largest = code.max(*largest);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn larger(mut largest: [i8; LANES], codes: &[i8; LANES]) -> [i8; LANES] {
    for (largest, &code) in largest.iter_mut().zip(codes) {
        *largest = code.max(*largest);
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Random, assert_refused};

    fn images(batch: usize, height: usize, width: usize) -> Images {
        Images {
            batch,
            height,
            width,
        }
    }

    #[test]
    fn each_channel_is_pooled_on_its_own() {
        // Pixels [1, -1], [2, -2], [4, -4], [8, -9].
        let codes = [1, -1, 2, -2, 4, -4, 8, -9];
        let mut out = [0; 2];
        max_pool_i8(&codes, images(1, 2, 2), 2, Pool2dShape::square(2), &mut out);
        assert_eq!(out, [8, -1]);
    }

    #[test]
    fn windows_agree_with_the_largest_of_what_they_see() {
        let random = &mut Random::new(31);
        let (batch, height, width) = (2, 5, 7);
        for channels in [1, 3, 32, 33, 70] {
            for (kernel, stride, padding) in [
                ([2, 2], [2, 2], [0, 0]),
                ([3, 2], [1, 2], [1, 1]),
                ([5, 7], [9, 9], [2, 3]),
            ] {
                let shape = Pool2dShape {
                    kernel,
                    stride,
                    padding,
                };
                let codes = random.codes(batch * height * width * channels);
                let [rows, columns] = shape.output_size([height, width]).expect("it fits");
                let mut out = vec![99; batch * rows * columns * channels];
                max_pool_i8(
                    &codes,
                    images(batch, height, width),
                    channels,
                    shape,
                    &mut out,
                );
                for (i, &got) in out.iter().enumerate() {
                    let (place, channel) = (i / channels, i % channels);
                    let (image, y, x) = (
                        place / (rows * columns),
                        place / columns % rows,
                        place % columns,
                    );
                    let mut expected = i8::MIN;
                    for ky in 0..kernel[0] {
                        for kx in 0..kernel[1] {
                            let y = (y * stride[0] + ky).wrapping_sub(padding[0]);
                            let x = (x * stride[1] + kx).wrapping_sub(padding[1]);
                            if y < height && x < width {
                                let pixel = (image * height + y) * width + x;
                                expected = expected.max(codes[pixel * channels + channel]);
                            }
                        }
                    }
                    assert_eq!(got, expected, "code {i} of {shape:?}, {channels} channels");
                }
            }
        }
    }

    #[test]
    fn an_image_smaller_than_the_window_gives_nothing() {
        max_pool_i8(&[1, 2], images(1, 1, 2), 1, Pool2dShape::square(2), &mut []);
    }

    #[test]
    fn an_image_without_rows_or_columns_gives_nothing() {
        // Its windows lie in the padding, and had the code −128: the largest of none.
        let shape = Pool2dShape {
            padding: [1, 1],
            ..Pool2dShape::square(2)
        };
        for (height, width) in [(0, 3), (3, 0), (0, 0)] {
            assert_eq!(shape.output_size([height, width]), None);
            max_pool_i8(&[], images(2, height, width), 3, shape, &mut []);
        }
    }

    #[test]
    fn wrong_sizes_are_refused() {
        let square = Pool2dShape::square(2);
        assert_refused("codes must be [1, 2, 2, 1]", || {
            max_pool_i8(&[0; 3], images(1, 2, 2), 1, square, &mut [0]);
        });
        assert_refused("out must be [1, 1, 1, 1]", || {
            max_pool_i8(&[0; 4], images(1, 2, 2), 1, square, &mut [0; 2]);
        });
        let padded = Pool2dShape {
            padding: [2, 2],
            ..square
        };
        assert_refused("pools nothing", || {
            max_pool_i8(&[0; 4], images(1, 2, 2), 1, padded, &mut [0; 9]);
        });
    }
}
