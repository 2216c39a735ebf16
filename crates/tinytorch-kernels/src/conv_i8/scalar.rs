//! The definition of the integer convolution.

use super::{Conv2dShape, Images};
use crate::elements;

/// Convolves exactly, channels last.
///
/// | argument  | shape                                              |
/// |-----------|----------------------------------------------------|
/// | `input`   | `[batch, height, width, in]`                       |
/// | `weights` | `[out, kernel height, kernel width, in / groups]`  |
/// | `out`     | `[batch, out height, out width, out]`, overwritten |
///
/// # The maths
///
/// ```text
/// out[b, y, x, o] = Σ over ky, kx, c of
///     (input[b, y·stride + ky − padding, x·stride + kx − padding, first(o) + c] − zero_point) · weights[o, ky, kx, c]
/// ```
///
/// where `first(o)` is the first channel of the group of `o`, and input outside the image is `zero_point`.
///
/// # Panics
///
/// If a slice does not have its shape (or a `usize` cannot count it), the shape contradicts itself or has no channels, or
/// the window does not fit.
#[track_caller]
pub fn conv2d_i8_scalar(
    shape: Conv2dShape,
    images: Images,
    input: &[i8],
    zero_point: i32,
    weights: &[i8],
    out: &mut [i32],
) {
    shape.check();
    let Images {
        batch,
        height,
        width,
    } = images;
    let Some([out_height, out_width]) = shape.output_size([height, width]) else {
        panic!(
            "the window {:?} does not fit images of [{height}, {width}]",
            shape.kernel
        )
    };
    let channels = shape.in_channels / shape.groups;
    let outputs = shape.out_channels / shape.groups;
    let [kernel_height, kernel_width] = shape.kernel;
    assert_eq!(
        Some(input.len()),
        elements([batch, height, width, shape.in_channels]),
        "input"
    );
    assert_eq!(
        Some(weights.len()),
        elements([shape.out_channels, shape.taps()]),
        "weights"
    );
    assert_eq!(
        Some(out.len()),
        elements([batch, out_height, out_width, shape.out_channels]),
        "out"
    );
    for (index, out) in out.iter_mut().enumerate() {
        let (pixel, o) = (index / shape.out_channels, index % shape.out_channels);
        let (b, y, x) = (
            pixel / (out_width * out_height),
            pixel / out_width % out_height,
            pixel % out_width,
        );
        *out = 0;
        for ky in 0..kernel_height {
            for kx in 0..kernel_width {
                let y = (y * shape.stride[0] + ky).wrapping_sub(shape.padding[0]);
                let x = (x * shape.stride[1] + kx).wrapping_sub(shape.padding[1]);
                if y >= height || x >= width {
                    continue;
                }
                for c in 0..channels {
                    let channel = o / outputs * channels + c;
                    let code = input[((b * height + y) * width + x) * shape.in_channels + channel];
                    let tap = ((o * kernel_height + ky) * kernel_width + kx) * channels + c;
                    *out += (i32::from(code) - zero_point) * i32::from(weights[tap]);
                }
            }
        }
    }
}
