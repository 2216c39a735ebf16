//! A convolution whose kernel reads windows where they lie: strips of the images are copied with their padding, small enough for
//! the first cache, and multiplied at once.

use std::cell::RefCell;

use super::Conv2dShape;
use super::patches::Patches;
use super::runs::rounded_run;
use crate::cpu::{Vectors, vectorized};
use crate::elements;
use crate::gemm_i8::PackedWeights;
use crate::gemm_i8::ending::Ending;
use crate::gemm_i8::windows::{Steps, WindowKernel, WindowTask};
use crate::team;

/// Bytes of a strip where rows are short enough: what L1 holds beside a panel of weights.
const STRIP_BYTES: usize = 20 * 1024;
/// Bytes of one piece of a copy. What a piece writes beyond its end, the next one overwrites.
const PIECE: usize = 64;
/// What a kernel multiplies in a nanosecond where windows lie, about.
const MULTIPLY_ADDS: u64 = 230;
/// Tasks for each thread: enough for one that starts late.
const TASKS: usize = 4;

/// What one call computes, and how it is divided. Rows and columns are those of the result.
struct Plan<'a> {
    patches: &'a Patches<'a>,
    pooled: bool,
    height: usize,
    width: usize,
    /// Strips of each image.
    strips: usize,
    /// Codes of a row of the padded image.
    row: usize,
}

/// Kept between calls.
#[derive(Debug, Default)]
struct Buffers {
    codes: Vec<i8>,
    places: Vec<usize>,
    steps: Steps,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

/// Computes all rows of the result, `pooled` or not, with weights whose runs are rounded up.
pub(super) fn run(
    weights: &PackedWeights,
    kernel: &dyn WindowKernel,
    patches: &Patches<'_>,
    pooled: bool,
    bias: &[i32],
    ending: Ending<'_>,
) {
    let windows = patches.rows();
    if ending.rows() == 0 || weights.n() == 0 {
        return;
    }
    let threads = weights.threads_at(windows, MULTIPLY_ADDS);
    let plan = Plan::new(patches, pooled, threads);
    weights.with_offsets(patches.padding_code.into(), bias, |offsets| {
        if threads == 1 {
            plan.run(weights, kernel, offsets, 0..plan.units(), ending);
            return;
        }
        let parts = plan.units().min(TASKS * threads);
        let bound = |part: usize| part * plan.units() / parts;
        let mut tasks = Vec::with_capacity(parts);
        let mut rest = ending;
        for part in 0..parts {
            let units = bound(part)..bound(part + 1);
            let rows = plan.first_row(units.end) - plan.first_row(units.start);
            let (ending, below) = rest.split_rows(rows);
            tasks.push((units, ending));
            rest = below;
        }
        team::for_each_of(
            weights.time_at(windows, MULTIPLY_ADDS),
            tasks,
            threads,
            |(units, ending)| {
                plan.run(weights, kernel, offsets, units, ending);
            },
        );
    });
}

impl<'a> Plan<'a> {
    fn new(patches: &'a Patches<'a>, pooled: bool, threads: usize) -> Self {
        let Conv2dShape {
            in_channels,
            kernel,
            padding,
            ..
        } = patches.shape;
        let step = if pooled { 2 } else { 1 };
        let [height, width] = patches.output.map(|size| size / step);
        // The window fits the padded image, so its sizes do not wrap.
        let [high, wide] = [
            patches.images.height + 2 * padding[0],
            patches.images.width + 2 * padding[1],
        ];
        assert!(
            elements([high, wide, in_channels]).is_some(),
            "a padded image of [{high}, {wide}, {in_channels}] is too large"
        );
        let row = wide * in_channels;
        // Rows of the padded image that one more row of the result needs.
        let rows = patches.shape.stride[0].saturating_mul(step);
        let fit = (STRIP_BYTES / row.max(1)).saturating_sub(kernel[0]) / rows;
        let strips = height.div_ceil(fit.max(1));
        // A single image is divided among the threads as well.
        let strips = strips
            .max(threads.div_ceil(patches.images.batch))
            .min(height);
        Self {
            patches,
            pooled,
            height,
            width,
            strips,
            row,
        }
    }

    /// Strips of all images.
    fn units(&self) -> usize {
        self.patches.images.batch * self.strips
    }

    /// Rows of an image above strip `strip`, which may be the number of strips.
    fn above(&self, strip: usize) -> usize {
        strip * self.height / self.strips
    }

    /// The row of the ending at which a unit begins.
    fn first_row(&self, unit: usize) -> usize {
        let (image, strip) = (unit / self.strips, unit % self.strips);
        (image * self.height + self.above(strip)) * self.width
    }

    /// Rows of the padded image from one row of windows to the next that is not pooled with it.
    fn stride(&self) -> usize {
        self.patches.shape.stride[0] * if self.pooled { 2 } else { 1 }
    }

    fn run(
        &self,
        weights: &PackedWeights,
        kernel: &dyn WindowKernel,
        offsets: &[i32],
        units: std::ops::Range<usize>,
        mut ending: Ending<'_>,
    ) {
        let shape = self.patches.shape;
        // Taken, not borrowed: should rayon run another convolution on this thread meanwhile, that makes its own.
        let mut buffers = BUFFERS.take();
        let Buffers {
            codes,
            places,
            steps,
        } = &mut buffers;
        steps.set(shape.kernel[0], self.row, rounded_run(&shape));
        let tallest = self.height.div_ceil(self.strips);
        self.set_places(tallest, places);
        let per_row = self.width * if self.pooled { 4 } else { 1 };
        let shift = weights.kernel().activation_shift();
        let first = self.first_row(units.start);
        for unit in units {
            let (image, strip) = (unit / self.strips, unit % self.strips);
            let (top, bottom) = (self.above(strip), self.above(strip + 1));
            let rows = (bottom - top - 1) * self.stride() + self.window_rows();
            codes.resize(rows * self.row + PIECE.max(steps.reach()), 0);
            let strip = Strip {
                image,
                top: top * self.stride(),
                rows,
                row: self.row,
                shift,
            };
            copy(Vectors::chosen(), self.patches, strip, codes);
            kernel.run_windows(WindowTask {
                weights: weights.codes(),
                codes,
                steps,
                places: &places[..(bottom - top) * per_row],
                pooled: self.pooled,
                offsets,
                ending: &mut ending,
                first_row: self.first_row(unit) - first,
            });
        }
        BUFFERS.set(buffers);
    }

    /// Rows of the padded image that one row of the result sees.
    fn window_rows(&self) -> usize {
        let Conv2dShape { kernel, stride, .. } = self.patches.shape;
        kernel[0] + if self.pooled { stride[0] } else { 0 }
    }

    /// Where the windows of `rows` rows of the result begin in a strip.
    fn set_places(&self, rows: usize, places: &mut Vec<usize>) {
        let Conv2dShape {
            stride,
            in_channels,
            ..
        } = self.patches.shape;
        // A stride that wraps has no second window, and is multiplied by 0.
        let down = stride[0].wrapping_mul(self.row);
        let right = stride[1].wrapping_mul(in_channels);
        places.clear();
        for y in 0..rows {
            for x in 0..self.width {
                if self.pooled {
                    let first = 2 * (y * down + x * right);
                    places.extend([first, first + right, first + down, first + down + right]);
                } else {
                    places.push(y * down + x * right);
                }
            }
        }
    }
}

/// A part of a padded image.
#[derive(Clone, Copy)]
struct Strip {
    image: usize,
    /// The first row, counted in the padded image.
    top: usize,
    rows: usize,
    /// Codes of a row.
    row: usize,
    /// 0, or 128: the sign bit.
    shift: i32,
}

vectorized! {
    /// Copies a strip, from front to back: a piece may write beyond its end, and what follows puts that right. `to` has room for
    /// one piece more than the strip.
    fn copy(patches: &Patches<'_>, strip: Strip, to: &mut [i8]) {
        let flip = strip.shift as i8;
        let padding = [patches.padding_code ^ flip; PIECE];
        let (images, channels) = (patches.images, patches.shape.in_channels);
        let [above, beside] = patches.shape.padding;
        let (line, beside) = (images.width * channels, beside * channels);
        // Padding to be written before the next line: that right of a row and left of the next are one.
        let (mut at, mut pending) = (0, 0);
        for y in strip.top..strip.top + strip.rows {
            let inside = y.checked_sub(above).filter(|&y| y < images.height);
            let Some(y) = inside else {
                pending += strip.row;
                continue;
            };
            at = pieces(to, at, pending + beside, |_| padding);
            let first = (strip.image * images.height + y) * line;
            let codes = &patches.input[first..];
            at = pieces(to, at, line, |done| match codes[done..].first_chunk::<PIECE>() {
                Some(piece) => piece.map(|code| code ^ flip),
                None => {
                    let mut piece = padding;
                    for (to, code) in piece.iter_mut().zip(&codes[done..]) {
                        *to = code ^ flip;
                    }
                    piece
                }
            });
            pending = beside;
        }
        pieces(to, at, pending, |_| padding);
    }
}

/// Writes `len` codes from `at` on, and maybe up to `PIECE - 1` more: `piece(done)` are those from `done` on. Returns their end.
#[inline(always)]
fn pieces(to: &mut [i8], at: usize, len: usize, piece: impl Fn(usize) -> [i8; PIECE]) -> usize {
    for done in (0..len).step_by(PIECE) {
        to[at + done..][..PIECE].copy_from_slice(&piece(done));
    }
    at + len
}
