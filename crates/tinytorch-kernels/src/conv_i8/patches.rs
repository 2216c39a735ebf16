//! The rows of a convolution's left matrix, gathered from the images.

use super::{Conv2dShape, Images};
use crate::elements;
use crate::gemm_i8::activations::Activations;

/// The patches of a batch of images: row `(image, y, x)` holds what the window at `(y, x)` of the result sees, in the
/// order `[kernel height, kernel width, channels of the group]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patches<'a> {
    pub shape: Conv2dShape,
    pub images: Images,
    pub input: &'a [i8],
    pub output: [usize; 2],
    /// What the padding holds: the code of 0.0.
    pub padding_code: i8,
    rows: usize,
    first_channel: usize,
}

impl<'a> Patches<'a> {
    /// The patches of images that fill `input`.
    ///
    /// # Panics
    ///
    /// If they do not, the window does not fit, a `usize` cannot count the elements or the rows, or the zero point is
    /// not an `i8`.
    #[track_caller]
    pub fn new(shape: Conv2dShape, images: Images, input: &'a [i8], zero_point: i32) -> Self {
        let Images {
            batch,
            height,
            width,
        } = images;
        let channels = shape.in_channels;
        assert_eq!(
            Some(input.len()),
            elements([batch, height, width, channels]),
            "input must be [{batch}, {height}, {width}, {channels}]"
        );
        assert!(
            (-128..=127).contains(&zero_point),
            "zero point {zero_point} is not an i8"
        );
        let Some(output) = shape.output_size([height, width]) else {
            panic!(
                "the window {:?} does not fit images of [{height}, {width}]",
                shape.kernel
            )
        };
        let Some(rows) = elements([batch, output[0], output[1]]) else {
            panic!(
                "a result of {batch} times [{}, {}] is too large",
                output[0], output[1]
            )
        };
        let padding_code = zero_point as i8;
        Self {
            shape,
            images,
            input,
            output,
            padding_code,
            rows,
            first_channel: 0,
        }
    }

    /// The patches as group `group` sees them.
    pub fn of_group(self, group: usize) -> Self {
        Self {
            first_channel: group * (self.shape.in_channels / self.shape.groups),
            ..self
        }
    }

    /// Rows: one per pixel of the result.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Image, and the corner of the window in it: before padding is taken off, so never negative.
    pub fn place(&self, row: usize) -> (usize, [usize; 2]) {
        let [height, width] = self.output;
        let (image, rest) = (row / (height * width), row % (height * width));
        (
            image,
            [
                rest / width * self.shape.stride[0],
                rest % width * self.shape.stride[1],
            ],
        )
    }

    /// The columns of the window, starting at `x`, that lie inside the image: from, to, in window coordinates.
    pub fn inside(&self, x: usize) -> (usize, usize) {
        let (padding, kernel) = (self.shape.padding[1], self.shape.kernel[1]);
        let from = padding.saturating_sub(x).min(kernel);
        let to = (self.images.width + padding).saturating_sub(x).min(kernel);
        (from, to.max(from))
    }
}

impl Activations for Patches<'_> {
    fn row<'s>(&'s self, row: usize, scratch: &'s mut [i8]) -> &'s [i8] {
        let Conv2dShape {
            in_channels,
            kernel,
            padding,
            groups,
            ..
        } = self.shape;
        let channels = in_channels / groups;
        let Images { height, width, .. } = self.images;
        let (image, [y, x]) = self.place(row);
        let (from, to) = self.inside(x);
        let run = kernel[1] * channels;
        for ky in 0..kernel[0] {
            // What a piece has written beyond its run, the next run overwrites.
            let out = &mut scratch[ky * run..];
            let inside = (y + ky)
                .checked_sub(padding[0])
                .filter(|&y| y < height && from < to);
            let Some(y) = inside else {
                out[..run].fill(self.padding_code);
                continue;
            };
            if to - from < kernel[1] {
                out[..run].fill(self.padding_code);
            }
            let first = ((image * height + y) * width + x + from - padding[1]) * in_channels;
            let len = (to - from) * channels;
            if groups > 1 {
                let pixels = out[from * channels..to * channels].chunks_exact_mut(channels);
                let first = first + self.first_channel;
                for (out, pixel) in pixels.zip(self.input[first..].chunks(in_channels)) {
                    out.copy_from_slice(&pixel[..channels]);
                }
            } else if to == kernel[1] {
                copy_run(&self.input[first..], len, &mut out[from * channels..]);
            } else {
                // Padding follows, and must stay.
                out[from * channels..to * channels]
                    .copy_from_slice(&self.input[first..first + len]);
            }
        }
        &scratch[..kernel[0] * run]
    }
}

/// Copies the first `len` codes, and maybe up to `SLACK` bytes more: copies of a fixed size take one instruction, of a
/// short run of any other length a call.
#[inline]
fn copy_run(from: &[i8], len: usize, to: &mut [i8]) {
    match (from.first_chunk::<16>(), from.first_chunk::<64>()) {
        (Some(piece), _) if len <= 16 => to[..16].copy_from_slice(piece),
        (_, Some(piece)) if len <= 64 => to[..64].copy_from_slice(piece),
        _ => to[..len].copy_from_slice(&from[..len]),
    }
}
