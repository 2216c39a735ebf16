//! The rows of a convolution's left matrix as runs of a padded copy of the images.
//!
//! With channels last, what a row of the window sees lies side by side: `kernel width · channels` codes. In a copy of the images
//! that has its padding, every window is so many runs, one for each of its rows, without a case for the border. Runs are
//! rounded up to four codes, what a kernel multiplies at once; the weights there are zero, so whatever follows in
//! memory does not count.

use std::cell::RefCell;

use super::patches::Patches;
use super::{Conv2dShape, MAX_K};
use crate::gemm_i8::PackedWeights;
use crate::gemm_i8::activations::{Activations, Matrix, SLACK};
use crate::gemm_i8::ending::Ending;

/// Codes of a run that is rounded up, where [`inputs`] has said that there are runs.
pub(super) fn rounded_run(shape: &Conv2dShape) -> usize {
    (shape.kernel[1] * shape.in_channels).next_multiple_of(4)
}

/// Inputs of one output when runs are rounded up; `None` if windows are not runs (several groups) or that is too many.
pub(super) fn inputs(shape: &Conv2dShape) -> Option<usize> {
    let run = shape.kernel[1].checked_mul(shape.in_channels)?;
    let inputs = shape.kernel[0].checked_mul(run.checked_next_multiple_of(4)?)?;
    (shape.groups == 1 && inputs <= MAX_K).then_some(inputs)
}

/// Weights `[out, kernel height, run]` with their runs rounded up by zeros.
pub(super) fn round_up(shape: &Conv2dShape, weights: &[i8]) -> Vec<i8> {
    let run = shape.kernel[1] * shape.in_channels;
    let rounded = rounded_run(shape);
    let mut result = vec![0; weights.len() / run * rounded];
    for (to, from) in result
        .chunks_exact_mut(rounded)
        .zip(weights.chunks_exact(run))
    {
        to[..run].copy_from_slice(from);
    }
    result
}

/// The inverse of [`round_up`].
pub(super) fn cut(shape: &Conv2dShape, weights: &[i8]) -> Vec<i8> {
    let run = shape.kernel[1] * shape.in_channels;
    let rounded = weights.chunks_exact(rounded_run(shape));
    rounded
        .flat_map(|rounded| &rounded[..run])
        .copied()
        .collect()
}

/// Whether the images are the left matrix as they lie: windows of one pixel, a multiple of four codes.
pub(super) fn is_matrix(shape: &Conv2dShape) -> bool {
    let pointwise = (shape.kernel, shape.stride, shape.padding) == ([1, 1], [1, 1], [0, 0]);
    pointwise && shape.in_channels == rounded_run(shape)
}

/// A padded copy of the images, and where the windows begin in it.
#[derive(Debug, Default)]
struct Runs {
    padded: Vec<i8>,
    /// For each window of an image, in order, where it begins.
    corners: Vec<usize>,
    /// Codes of one padded image, and of one of its rows.
    image: usize,
    row: usize,
    /// Codes of a run, and runs of a window.
    run: usize,
    runs: usize,
}

impl Runs {
    fn fill(&mut self, patches: &Patches<'_>) {
        let Conv2dShape {
            in_channels,
            kernel,
            stride,
            padding,
            ..
        } = patches.shape;
        let [height, width] = [patches.images.height, patches.images.width];
        self.runs = kernel[0];
        self.run = rounded_run(&patches.shape);
        self.row = (width + 2 * padding[1]) * in_channels;
        self.image = (height + 2 * padding[0]) * self.row;
        self.corners.clear();
        for y in 0..patches.output[0] {
            let first = y * stride[0] * self.row;
            // A stride that wraps has no second window, and is multiplied by 0.
            let step = stride[1].wrapping_mul(in_channels);
            self.corners
                .extend((0..patches.output[1]).map(|x| first + x * step));
        }
        // Copies of a fixed size read beyond the last run.
        self.padded.clear();
        self.padded
            .reserve(patches.images.batch * self.image + SLACK);
        let code = patches.padding_code;
        let (above, beside) = (padding[0] * self.row, padding[1] * in_channels);
        let grow = |padded: &mut Vec<i8>, codes: usize| padded.resize(padded.len() + codes, code);
        let line = width * in_channels;
        for image in 0..patches.images.batch {
            grow(&mut self.padded, above);
            for y in 0..height {
                grow(&mut self.padded, beside);
                let first = (image * height + y) * line;
                self.padded
                    .extend_from_slice(&patches.input[first..first + line]);
                grow(&mut self.padded, beside);
            }
            grow(&mut self.padded, above);
        }
        grow(&mut self.padded, SLACK);
    }
}

impl Activations for Runs {
    fn row<'s>(&'s self, row: usize, scratch: &'s mut [i8]) -> &'s [i8] {
        let windows = self.corners.len();
        // 32 bits are divided twice as fast as 64.
        let (image, window) = match (u32::try_from(row), u32::try_from(windows)) {
            (Ok(row), Ok(windows)) => ((row / windows) as usize, (row % windows) as usize),
            _ => (row / windows, row % windows),
        };
        let corner = image * self.image + self.corners[window];
        let window = &self.padded[corner..];
        for y in 0..self.runs {
            let (from, to) = (&window[y * self.row..], &mut scratch[y * self.run..]);
            // Pieces of a fixed size take one instruction. What a piece writes beyond its run the next run overwrites.
            match (from.first_chunk::<16>(), self.run) {
                (Some(piece), 4) => to[..4].copy_from_slice(&piece[..4]),
                (Some(piece), ..=16) => to[..16].copy_from_slice(piece),
                _ => {
                    for start in (0..self.run).step_by(32) {
                        to[start..start + 32].copy_from_slice(&from[start..start + 32]);
                    }
                }
            }
        }
        &scratch[..self.runs * self.run]
    }
}

/// Computes all rows of the result with weights whose runs are rounded up.
#[track_caller]
pub(super) fn run(
    weights: &PackedWeights,
    patches: &Patches<'_>,
    zero_point: i32,
    bias: &[i32],
    ending: Ending<'_>,
) {
    thread_local! {
        static RUNS: RefCell<Runs> = RefCell::default();
    }
    let (rows, shape) = (patches.rows(), patches.shape);
    if rows == 0 {
        return;
    }
    if is_matrix(&shape) {
        let matrix = Matrix {
            data: patches.input,
            k: weights.k(),
        };
        weights.run(rows, &matrix, zero_point, bias, ending);
        return;
    }
    // Taken, not borrowed: should rayon run another convolution on this thread meanwhile, that makes its own.
    let mut runs = RUNS.take();
    runs.fill(patches);
    weights.run(rows, &runs, zero_point, bias, ending);
    RUNS.set(runs);
}
