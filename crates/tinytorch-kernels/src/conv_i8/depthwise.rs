//! Depthwise convolution: each channel has a window of its own.
//!
//! There is nothing to reuse between channels, so this is no product: for each pixel of the result the windows of all
//! channels are summed side by side, tap by tap. Channels are last in memory, so one step is one vector instruction.

use rayon::prelude::*;

use super::patches::Patches;
use crate::cpu::{Vectors, vectorized};
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
        let mut sums = vec![0; self.channels];
        for row in 0..ending.rows() {
            let vectors = Vectors::chosen();
            window(vectors, self, patches, first_row + row, &mut sums);
            ending.finish(row, 0, &sums, offsets);
        }
    }
}

/// Channels that are summed together, in registers.
const LANES: usize = 32;

vectorized! {
    /// The sums of all channels at one place of the result.
    fn window(weights: &Depthwise, patches: &Patches<'_>, row: usize, sums: &mut [i32]) {
        let channels = weights.channels;
        let (image, [y, x]) = patches.place(row);
        let (from, to) = patches.inside(x);
        let (height, width) = (patches.images.height, patches.images.width);
        let [padding_above, padding_left] = patches.shape.padding;
        let kernel = patches.shape.kernel;
        // A tap in the padding adds (zero_point − zero_point) · weight: nothing, so those rows and columns are left out.
        let top = padding_above.saturating_sub(y).min(kernel[0]);
        let bottom = (height + padding_above).saturating_sub(y).min(kernel[0]);
        let zero_point = i16::from(patches.padding_code);
        let mut channel = 0;
        while channel < channels {
            let whole = channels - channel >= LANES;
            let mut block = [0_i32; LANES];
            for ky in top..bottom {
                for kx in from..to {
                    let (y, x) = (y + ky - padding_above, x + kx - padding_left);
                    let pixel = ((image * height + y) * width + x) * channels + channel;
                    let tap = (ky * kernel[1] + kx) * channels + channel;
                    if whole {
                        let codes = patches.input[pixel..].first_chunk::<LANES>();
                        let weights = weights.weights[tap..].first_chunk::<LANES>();
                        if let (Some(codes), Some(weights)) = (codes, weights) {
                            multiply_add(&mut block, codes, weights, zero_point);
                        }
                    } else {
                        let codes = &patches.input[pixel..pixel + channels - channel];
                        multiply_add(&mut block, codes, &weights.weights[tap..], zero_point);
                    }
                }
            }
            let len = LANES.min(channels - channel);
            sums[channel..channel + len].copy_from_slice(&block[..len]);
            channel += len;
        }
    }
}

/// Adds `(code − zero_point) · weight`. The product fits 16 bits: 255 · 128 = 32 640.
#[inline(always)]
fn multiply_add(sums: &mut [i32; LANES], codes: &[i8], weights: &[i8], zero_point: i16) {
    for ((sum, &code), &weight) in sums.iter_mut().zip(codes).zip(weights) {
        let product = i16::from(code)
            .wrapping_sub(zero_point)
            .wrapping_mul(i16::from(weight));
        *sum = sum.wrapping_add(i32::from(product));
    }
}
