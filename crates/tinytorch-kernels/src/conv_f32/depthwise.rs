//! Depthwise convolution: each channel has a window of its own.
//!
//! There is nothing to reuse between channels, so this is no product: some pixels of the result at a time, a line of channels
//! at a time, tap by tap. Padded images have whole lines of channels, so that a step is one vector whatever their number is.

use super::windows::{Geometry, Windows};
use crate::cpu::Vectors;
use crate::gemm_f32::lines::Line;
use crate::gemm_f32::packed::Finish;
use crate::gemm_f32::{Accumulate, Threads, panels};
use crate::gemm_i8::block::BlockMut;
use crate::team;

/// Results with fewer multiply-adds than this stay on the caller's thread.
const PARALLEL_THRESHOLD: usize = 1 << 18;

/// Pixels that are summed side by side: a multiply-add takes several cycles.
const PIXELS: usize = 4;

/// Weights of a depthwise convolution: for each line of channels, tap by tap, zeros after the last channel.
#[derive(Debug)]
pub(super) struct Depthwise {
    channels: usize,
    taps: usize,
    lines: Vec<Line>,
}

/// The pixels of the result from `first` on.
struct Task<'a> {
    weights: &'a Depthwise,
    windows: Windows<'a>,
    finish: Finish<'a>,
    first: usize,
    out: BlockMut<'a, f32>,
}

impl Depthwise {
    /// Packs weights `[channels, taps]`.
    pub fn new(channels: usize, taps: usize, weights: &[f32]) -> Self {
        let mut lines = vec![Line::ZERO; channels.div_ceil(Line::LEN) * taps];
        for (channel, weights) in weights.chunks_exact(taps).enumerate() {
            let lines = &mut lines[channel / Line::LEN * taps..];
            for (line, &weight) in lines.iter_mut().zip(weights) {
                line.0[channel % Line::LEN] = weight;
            }
        }
        Self {
            channels,
            taps,
            lines,
        }
    }

    pub fn bytes(&self) -> usize {
        size_of_val(&self.lines[..])
    }

    /// Elements of a pixel in a padded image: whole lines.
    pub fn pixel(&self) -> usize {
        self.channels.next_multiple_of(Line::LEN)
    }

    /// Computes the result of one padded image.
    pub fn run(
        &self,
        geometry: &Geometry,
        padded: &[f32],
        finish: Finish<'_>,
        out: BlockMut<'_, f32>,
        threads: Threads,
    ) {
        let vectors = Vectors::chosen();
        let pixels = out.rows();
        let task = Task {
            weights: self,
            windows: geometry.windows(padded),
            finish,
            first: 0,
            out,
        };
        let large = pixels.saturating_mul(self.channels * self.taps) >= PARALLEL_THRESHOLD;
        let threads = match threads {
            Threads::Auto if large => rayon::current_num_threads(),
            Threads::Auto | Threads::One => 1,
        };
        let parts = (2 * threads).min(pixels);
        if threads == 1 {
            return run(vectors, task);
        }
        let mut tasks = Vec::with_capacity(parts);
        let mut rest = task;
        for part in 1..parts {
            let (first, end) = ((part - 1) * pixels / parts, part * pixels / parts);
            let (top, bottom) = rest.out.split_rows(end - first);
            tasks.push(Task { out: top, ..rest });
            rest = Task {
                out: bottom,
                first: end,
                ..rest
            };
        }
        tasks.push(rest);
        team::for_each(tasks, threads, |task| run(vectors, task));
    }
}

fn run(vectors: Vectors, mut task: Task<'_>) {
    let pixels = task.out.rows();
    let whole = pixels - pixels % PIXELS;
    for pixel in (0..whole).step_by(PIXELS) {
        some_pixels::<PIXELS>(vectors, &mut task, pixel);
    }
    for pixel in whole..pixels {
        some_pixels::<1>(vectors, &mut task, pixel);
    }
}

fn some_pixels<const N: usize>(vectors: Vectors, task: &mut Task<'_>, pixel: usize) {
    let Depthwise {
        channels,
        taps,
        ref lines,
    } = *task.weights;
    // A window's last step leads to a pixel of whole lines.
    let pixels: [&[f32]; N] = std::array::from_fn(|i| {
        let more = task.weights.pixel() - 1;
        task.windows.window(task.first + pixel + i, more)
    });
    let steps = task.windows.steps();
    for (part, weights) in lines.chunks_exact(taps).enumerate() {
        let channel = part * Line::LEN;
        let mut sums = panels::lines_summed(vectors, pixels, channel, steps, weights);
        let width = Line::LEN.min(channels - channel);
        let Finish {
            bias,
            relu,
            accumulate,
            normalize,
        } = task.finish;
        let mut biases = Line::ZERO;
        if !bias.is_empty() {
            biases.0[..width].copy_from_slice(&bias[channel..channel + width]);
        }
        for (i, sums) in sums.iter_mut().enumerate() {
            let out = &mut task.out.row(pixel + i)[channel..channel + width];
            for (sum, &bias) in sums.0.iter_mut().zip(&biases.0) {
                *sum += bias;
            }
            if accumulate == Accumulate::Add {
                sums.0
                    .iter_mut()
                    .zip(&*out)
                    .for_each(|(sum, &before)| *sum += before);
            }
            if let Some(normalize) = normalize {
                let columns = normalize.columns(channel..channel + width);
                let sums = sums.0.iter_mut().take(width).enumerate();
                sums.for_each(|(column, sum)| *sum = columns.apply(*sum, column));
            }
            if relu {
                // NaN stays.
                let cut = |sum: &mut f32| *sum = if *sum < 0.0 { 0.0 } else { *sum };
                sums.0.iter_mut().for_each(cut);
            }
            match out.first_chunk_mut() {
                Some(out) => *out = sums.0,
                None => out.copy_from_slice(&sums.0[..width]),
            }
        }
    }
}
