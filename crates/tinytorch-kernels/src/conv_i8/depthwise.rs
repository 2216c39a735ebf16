//! Depthwise convolution: each channel has a window of its own.
//!
//! There is nothing to reuse between channels, so this is no product: for each pixel of the result the windows of all
//! channels are summed side by side. Channels are last in memory, so one step is a vector of channels and one tap, or as many taps as an
//! instruction multiplies at once.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512_vnni;

use std::time::Duration;

use super::patches::Patches;
use crate::cpu::{Vectors, vectorized};
use crate::gemm_i8::ending::Ending;
use crate::gemm_i8::{GemmI8, MAX_K};
use crate::team;

/// Results with fewer multiply-adds than this stay on the caller's thread.
const PARALLEL_THRESHOLD: usize = 1 << 18;
/// Multiply-adds in a nanosecond of one thread, about.
const MULTIPLY_ADDS: usize = 40;

/// One way of summing a window; all give the same sums.
#[derive(Clone, Copy, Debug)]
enum Kernel {
    /// Loops that compilers vectorize.
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(avx512_vnni::Avx512Vnni),
}

impl Kernel {
    /// The one that needs what the product's kernel needs.
    fn beside(product: &dyn GemmI8) -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let name = product.name();
            let avx512 = name.contains("-avx512").then(avx512_vnni::Avx512Vnni::new);
            let avx2 = name.contains("-avx").then(avx2::Avx2::new);
            if let Some(kernel) = avx512.flatten() {
                return Kernel::Avx512Vnni(kernel);
            }
            if let Some(kernel) = avx2.flatten() {
                return Kernel::Avx2(kernel);
            }
        }
        let _ = product;
        Kernel::Portable
    }

    /// Channels and taps that are multiplied together: weights are packed in blocks of so many, with zeros where there are fewer.
    fn block(self) -> [usize; 2] {
        match self {
            Kernel::Portable => [1, 1],
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2(_) => [avx2::CHANNELS, avx2::TAPS],
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Vnni(_) => [avx512_vnni::CHANNELS, avx512_vnni::TAPS],
        }
    }

    /// What is added to every code before it is multiplied.
    fn shift(self) -> i32 {
        match self {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Vnni(_) => 128,
            _ => 0,
        }
    }
}

/// Weights of a depthwise convolution, in the order in which the kernel reads them.
#[derive(Clone, Debug)]
pub(super) struct Depthwise {
    channels: usize,
    taps: usize,
    kernel: Kernel,
    weights: Box<[i8]>,
}

impl Depthwise {
    /// Packs weights `[channels, taps]`.
    #[track_caller]
    pub fn new(product: &dyn GemmI8, channels: usize, taps: usize, weights: &[i8]) -> Self {
        assert!(
            taps <= MAX_K,
            "{taps} taps may overflow i32; the limit is {MAX_K}"
        );
        let kernel = Kernel::beside(product);
        let [block, group] = kernel.block();
        let len = channels.next_multiple_of(block) * taps.next_multiple_of(group);
        let mut packed = Self {
            channels,
            taps,
            kernel,
            weights: vec![0; len].into(),
        };
        for channel in 0..channels {
            for tap in 0..taps {
                packed.weights[packed.index(tap, channel)] = weights[channel * taps + tap];
            }
        }
        packed
    }

    /// Where the weight of a tap and channel is.
    fn index(&self, tap: usize, channel: usize) -> usize {
        let groups = self.taps.div_ceil(self.kernel.block()[1]);
        match self.kernel {
            Kernel::Portable => tap * self.channels + channel,
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2(_) => avx2::index(tap, channel, groups),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Vnni(_) => avx512_vnni::index(tap, channel, groups),
        }
    }

    /// The weights of a channel, tap by tap.
    fn of_channel(&self, channel: usize) -> impl Iterator<Item = i8> + '_ {
        (0..self.taps).map(move |tap| self.weights[self.index(tap, channel)])
    }

    /// The weights as they were given, `[channels, taps]`.
    pub fn unpack(&self) -> Vec<i8> {
        (0..self.channels)
            .flat_map(|channel| self.of_channel(channel))
            .collect()
    }

    pub fn channels(&self) -> usize {
        self.channels
    }

    pub fn bytes(&self) -> usize {
        self.weights.len()
    }

    /// Computes all rows of the result. `bias` is empty or has one element per channel.
    pub fn run(&self, patches: &Patches<'_>, bias: &[i32], ending: Ending<'_>) {
        let offsets = self.offsets(patches, bias);
        let rows = ending.rows();
        let work = rows.saturating_mul(self.channels * self.taps);
        let threads = if work >= PARALLEL_THRESHOLD {
            rayon::current_num_threads()
        } else {
            1
        };
        if threads == 1 {
            return self.run_rows(patches, 0, &offsets, ending);
        }
        // Two parts for each thread: who is late leaves one to the other.
        let parts = (2 * threads).min(rows);
        let mut tasks = Vec::with_capacity(parts);
        let mut rest = ending;
        for part in 1..parts {
            let (first, last) = ((part - 1) * rows / parts, part * rows / parts);
            let (top, bottom) = rest.split_rows(last - first);
            tasks.push((first, top));
            rest = bottom;
        }
        tasks.push(((parts - 1) * rows / parts, rest));
        let time = Duration::from_nanos((work / MULTIPLY_ADDS) as u64);
        team::for_each_of(time, tasks, threads, |(first, rows)| {
            self.run_rows(patches, first, &offsets, rows);
        });
    }

    /// Bias minus what zero point and shift add to each channel's sum, if the kernel does not leave them out itself.
    fn offsets(&self, patches: &Patches<'_>, bias: &[i32]) -> Vec<i32> {
        let excess = match self.kernel {
            Kernel::Portable => 0,
            #[cfg(target_arch = "x86_64")]
            kernel => i32::from(patches.padding_code) + kernel.shift(),
        };
        let offset = |channel: usize| {
            let bias = bias.get(channel).copied().unwrap_or(0);
            if excess == 0 {
                return bias;
            }
            let sum: i32 = self.of_channel(channel).map(i32::from).sum();
            bias.wrapping_sub(excess.wrapping_mul(sum))
        };
        (0..self.channels).map(offset).collect()
    }

    fn run_rows(
        &self,
        patches: &Patches<'_>,
        first_row: usize,
        offsets: &[i32],
        mut ending: Ending<'_>,
    ) {
        let rows = ending.rows();
        if rows == 0 || self.taps == 0 {
            return;
        }
        #[cfg(target_arch = "x86_64")]
        let padding = vec![patches.padding_code; self.channels];
        #[cfg(target_arch = "x86_64")]
        let mut taps = Taps::new(self, &padding);
        match self.kernel {
            Kernel::Portable => {
                let mut sums = vec![0; self.channels];
                let vectors = Vectors::chosen();
                for row in 0..rows {
                    window(vectors, self, patches, first_row + row, &mut sums);
                    ending.finish(row, 0, &sums, offsets);
                }
            }
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2(kernel) => {
                for row in 0..rows {
                    taps.fill(patches, first_row + row);
                    kernel.pixel(&self.weights, &taps, offsets, row, &mut ending);
                }
            }
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Vnni(kernel) => {
                let columns = avx512_vnni::Columns::new(offsets, &ending);
                for row in 0..rows {
                    taps.fill(patches, first_row + row);
                    kernel.pixel(&self.weights, &taps, &columns, offsets, row, &mut ending);
                }
            }
        }
    }
}

/// The pixels that the taps of a window see, each with all its channels; what lies in the padding is a pixel of zeros.
#[cfg(target_arch = "x86_64")]
struct Taps<'a> {
    padding: &'a [i8],
    /// Filled up with padding to whole groups: the weights there are zero.
    pixels: Vec<&'a [i8]>,
}

#[cfg(target_arch = "x86_64")]
impl<'a> Taps<'a> {
    fn new(weights: &Depthwise, padding: &'a [i8]) -> Self {
        let [_, group] = weights.kernel.block();
        Self {
            padding,
            pixels: vec![padding; weights.taps.next_multiple_of(group)],
        }
    }

    /// Sets them to the window of a row.
    fn fill(&mut self, patches: &Patches<'a>, row: usize) {
        let channels = self.padding.len();
        let (image, [y, x]) = patches.place(row);
        let (from, to) = patches.inside(x);
        let (height, width) = (patches.images.height, patches.images.width);
        let [padding_above, padding_left] = patches.shape.padding;
        let kernel = patches.shape.kernel;
        for (ky, pixels) in self
            .pixels
            .chunks_mut(kernel[1])
            .enumerate()
            .take(kernel[0])
        {
            let inside = (y + ky).checked_sub(padding_above).filter(|&y| y < height);
            let Some(y) = inside.filter(|_| from < to) else {
                pixels[..kernel[1]].fill(self.padding);
                continue;
            };
            let first = (image * height + y) * width + x + from - padding_left;
            let row = &patches.input[first * channels..(first + to - from) * channels];
            pixels[..from].fill(self.padding);
            for (pixel, codes) in pixels[from..to].iter_mut().zip(row.chunks_exact(channels)) {
                *pixel = codes;
            }
            pixels[to..kernel[1]].fill(self.padding);
        }
    }

    #[inline]
    fn slices(&self) -> &[&'a [i8]] {
        &self.pixels
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
