//! Pooling on codes, channels last.
//!
//! In: codes `[batch, height, width, channels]`. Out: codes with the same parameters. The largest code is the code of the
//! largest value, for the scale is positive. A mean of codes is rounded once to a code (N23).

use std::ops::Range;

use crate::error::{Error, Result};
use crate::framework::Pool2dOptions;

/// The sizes of images in memory, channels last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ImageSize {
    pub batch: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

/// Height and width after pooling.
pub(crate) fn pooled_size(
    operation: &'static str,
    options: Pool2dOptions,
    shape: &[usize],
) -> Result<[usize; 2]> {
    let Pool2dOptions {
        kernel,
        stride,
        padding,
    } = options;
    let size = |axis: usize, length: usize| {
        let fits = kernel[axis] > 0 && stride[axis] > 0 && padding[axis] <= kernel[axis] / 2;
        if !fits || length == 0 {
            return None;
        }
        let padded = length.checked_add(padding[axis].checked_mul(2)?)?;
        Some(padded.checked_sub(kernel[axis])? / stride[axis] + 1)
    };
    if let &[_, _, height, width] = shape
        && let (Some(height), Some(width)) = (size(0, height), size(1, width))
    {
        return Ok([height, width]);
    }
    Err(Error::ShapeMismatch {
        operation,
        expected: format!("[batch, channels, height, width], at least as large as {kernel:?}"),
        got: shape.to_vec(),
    })
}

/// The largest code of each window. Padding takes no part.
pub(crate) fn max_pool(
    codes: &[i8],
    size: ImageSize,
    options: Pool2dOptions,
    out: [usize; 2],
) -> Vec<i8> {
    let channels = size.channels;
    let mut result = vec![i8::MIN; size.batch * out[0] * out[1] * channels];
    for (window, target) in result.chunks_exact_mut(channels.max(1)).enumerate() {
        let (line, [rows, columns]) = covered(window, size, options, out);
        for row in rows {
            for column in columns.clone() {
                let pixel = &codes[(line + row * size.width + column) * channels..][..channels];
                for (largest, &code) in target.iter_mut().zip(pixel) {
                    *largest = code.max(*largest);
                }
            }
        }
    }
    result
}

/// The mean of each window, to the nearest code, ties to even (N23). Padding counts as 0.0.
pub(crate) fn avg_pool(
    codes: &[i8],
    zero_point: i32,
    size: ImageSize,
    options: Pool2dOptions,
    out: [usize; 2],
) -> Vec<i8> {
    let channels = size.channels;
    // A product of integers could overflow: a file may say anything.
    let count = options.kernel[0] as f32 * options.kernel[1] as f32;
    let mut result = vec![0; size.batch * out[0] * out[1] * channels];
    let mut sums = vec![0_i64; channels];
    for (window, target) in result.chunks_exact_mut(channels.max(1)).enumerate() {
        let (line, [rows, columns]) = covered(window, size, options, out);
        sums.fill(0);
        for row in rows {
            for column in columns.clone() {
                let pixel = &codes[(line + row * size.width + column) * channels..][..channels];
                for (sum, &code) in sums.iter_mut().zip(pixel) {
                    *sum += i64::from(i32::from(code) - zero_point);
                }
            }
        }
        for (code, &sum) in target.iter_mut().zip(&sums) {
            let mean = (sum as f32 / count).round_ties_even() + zero_point as f32;
            *code = mean.clamp(-128.0, 127.0) as i8;
        }
    }
    result
}

/// Where the image of a window begins, in pixels, and the rows and columns of it that the window covers.
fn covered(
    window: usize,
    size: ImageSize,
    options: Pool2dOptions,
    out: [usize; 2],
) -> (usize, [Range<usize>; 2]) {
    let inside = |axis: usize, at: usize, length: usize| {
        let start = at * options.stride[axis];
        let end = (start + options.kernel[axis]).saturating_sub(options.padding[axis]);
        start.saturating_sub(options.padding[axis])..end.min(length)
    };
    let (image, place) = (window / (out[0] * out[1]), window % (out[0] * out[1]));
    let rows = inside(0, place / out[1], size.height);
    let columns = inside(1, place % out[1], size.width);
    (image * size.height * size.width, [rows, columns])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: ImageSize = ImageSize {
        batch: 1,
        height: 2,
        width: 2,
        channels: 2,
    };

    #[test]
    fn each_channel_is_pooled_on_its_own() {
        // Pixels [1, -1], [2, -2], [4, -4], [8, -9].
        let codes = [1, -1, 2, -2, 4, -4, 8, -9];
        let options = Pool2dOptions::square(2);
        assert_eq!(
            pooled_size("max_pool2d", options, &[1, 2, 2, 2]),
            Ok([1, 1])
        );
        assert_eq!(max_pool(&codes, SIZE, options, [1, 1]), [8, -1]);
        // 15 / 4 = 3.75, −16 / 4 = −4.
        assert_eq!(avg_pool(&codes, 0, SIZE, options, [1, 1]), [4, -4]);
    }

    #[test]
    fn padding_is_nothing_for_the_largest_and_zero_for_the_mean() {
        let codes = [-100, 10, -100, 10, -100, 10, -100, 10];
        let options = Pool2dOptions {
            kernel: [2, 2],
            stride: [2, 2],
            padding: [1, 1],
        };
        assert_eq!(
            pooled_size("max_pool2d", options, &[1, 2, 2, 2]),
            Ok([2, 2])
        );
        assert_eq!(max_pool(&codes, SIZE, options, [2, 2]), codes);
        // One pixel of four: (−100 − 2) / 4 = −25.5, to the even −26, and the zero point 2; (10 − 2) / 4 + 2 = 4.
        assert_eq!(
            avg_pool(&codes, 2, SIZE, options, [2, 2]),
            [-24, 4, -24, 4, -24, 4, -24, 4]
        );
    }

    /// The places of such a window were multiplied as integers, which overflowed: a file may ask for it.
    #[test]
    fn a_window_may_be_larger_than_any_image() {
        let options = Pool2dOptions {
            kernel: [1 << 40; 2],
            stride: [1; 2],
            padding: [(1 << 39) - 1; 2],
        };
        assert_eq!(
            pooled_size("avg_pool2d", options, &[1, 2, 2, 2]),
            Ok([1, 1])
        );
        assert_eq!(avg_pool(&[100; 8], 3, SIZE, options, [1, 1]), [3, 3]);
    }

    #[test]
    fn windows_that_do_not_fit_are_errors() {
        let options = Pool2dOptions::square(3);
        assert!(pooled_size("max_pool2d", options, &[1, 1, 2, 3]).is_err());
        assert!(pooled_size("max_pool2d", options, &[3, 3]).is_err());
        let padding = Pool2dOptions {
            padding: [2, 2],
            ..options
        };
        assert!(pooled_size("max_pool2d", padding, &[1, 1, 4, 4]).is_err());
    }
}
