//! Depthwise convolution: each channel has a window of its own.
//!
//! There is nothing to reuse between channels, so this is no product: for each pixel of the result the windows of all
//! channels are summed side by side, tap by tap. Channels are last in memory, so one step is one vector instruction.

use rayon::prelude::*;

use super::patches::Patches;
use crate::gemm_i8::MAX_K;
use crate::gemm_i8::ending::Ending;

/// Results with fewer multiply-adds than this stay on the caller's thread.
const PARALLEL_THRESHOLD: usize = 1 << 18;

/// Weights of a depthwise convolution, `[taps, channels]`: the order in which they are read.
#[derive(Clone, Debug)]
pub(super) struct Depthwise {
    channels: usize,
    taps: usize,
    weights: Box<[i8]>,
}

impl Depthwise {
    /// Transposes weights `[channels, taps]`.
    #[track_caller]
    pub fn new(channels: usize, taps: usize, weights: &[i8]) -> Self {
        assert!(
            taps <= MAX_K,
            "{taps} taps may overflow i32; the limit is {MAX_K}"
        );
        let weight = |index: usize| weights[index % channels * taps + index / channels];
        Self {
            channels,
            taps,
            weights: (0..channels * taps).map(weight).collect(),
        }
    }

    /// The weights as they were given, `[channels, taps]`.
    pub fn unpack(&self) -> Vec<i8> {
        let weight =
            |index: usize| self.weights[index % self.taps * self.channels + index / self.taps];
        (0..self.weights.len()).map(weight).collect()
    }

    pub fn channels(&self) -> usize {
        self.channels
    }

    pub fn bytes(&self) -> usize {
        self.weights.len()
    }

    /// Computes all rows of the result. `bias` is empty or has one element per channel.
    pub fn run(&self, patches: &Patches<'_>, bias: &[i32], ending: Ending<'_>) {
        let zeros;
        let offsets = if bias.is_empty() {
            zeros = vec![0; self.channels];
            &zeros
        } else {
            bias
        };
        let rows = ending.rows();
        let large = rows.saturating_mul(self.channels * self.taps) >= PARALLEL_THRESHOLD;
        let parts = if large {
            rayon::current_num_threads().min(rows)
        } else {
            1
        };
        let mut tasks = Vec::with_capacity(parts);
        let mut rest = ending;
        for part in 1..parts {
            let (first, last) = ((part - 1) * rows / parts, part * rows / parts);
            let (top, bottom) = rest.split_rows(last - first);
            tasks.push((first, top));
            rest = bottom;
        }
        tasks.push(((parts.max(1) - 1) * rows / parts.max(1), rest));
        if tasks.len() == 1 {
            tasks
                .into_iter()
                .for_each(|(first, rows)| self.run_rows(patches, first, offsets, rows));
        } else {
            tasks.into_par_iter().for_each(|(first, rows)| {
                self.run_rows(patches, first, offsets, rows);
            });
        }
    }

    fn run_rows(
        &self,
        patches: &Patches<'_>,
        first_row: usize,
        offsets: &[i32],
        mut ending: Ending<'_>,
    ) {
        let channels = self.channels;
        let (images, shape) = (patches.images, patches.shape);
        let zero_point = i16::from(patches.padding_code);
        let mut sums = vec![0_i32; channels];
        for row in 0..ending.rows() {
            sums.fill(0);
            let (image, [y, x]) = patches.place(first_row + row);
            let (from, to) = patches.inside(x);
            for ky in 0..shape.kernel[0] {
                // A tap in the padding adds (zero_point − zero_point) · weight: nothing.
                let Some(y) = (y + ky)
                    .checked_sub(shape.padding[0])
                    .filter(|&y| y < images.height)
                else {
                    continue;
                };
                for kx in from..to {
                    let x = x + kx - shape.padding[1];
                    let first = ((image * images.height + y) * images.width + x) * channels;
                    let pixel = &patches.input[first..first + channels];
                    let tap = (ky * shape.kernel[1] + kx) * channels;
                    let weights = &self.weights[tap..tap + channels];
                    for ((sum, &code), &weight) in sums.iter_mut().zip(pixel).zip(weights) {
                        let code = i32::from(i16::from(code).wrapping_sub(zero_point));
                        *sum = sum.wrapping_add(code.wrapping_mul(i32::from(weight)));
                    }
                }
            }
            ending.finish(row, 0, &sums, offsets);
        }
    }
}
