//! The layout of both sides, and how they get there.
//!
//! ```text
//! a word     two neighbours of the inner dimension, p and p + 1 (p even): bits 0..16 and 16..32
//! left       tiles of up to 14 or 32 rows, each in blocks of 16 words of a row:
//!
//!                words 0..16 of row 0, of row 1, ..., of row r−1 | words 16..32 of row 0, ... | ...
//!
//! right      blocks of INNER words of every column; in each, panels of 32 columns (the last filled up with zeros):
//!
//!                word 0 of columns 0..32 | word 1 of columns 0..32 | ...
//! ```
//!
//! Subnormal numbers become zeros here, as the definition asks, so no kernel needs to look for them.

use half::bf16;
use rayon::prelude::*;

use super::{Bf16Elements, Kernel};
use crate::cpu::{Vectors, vectorized};

/// Words of the inner dimension that are summed before the sums go back to memory. A panel of them is 16 KiB, half of L1.
pub(super) const INNER: usize = 256;
/// Columns of a panel.
pub(super) const COLUMNS: usize = 32;

/// 16 words: a vector of 512 bits, and a cache line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub(super) struct Words(pub [u32; 16]);

/// 16 by 16 words.
pub(super) type Square = [Words; 16];

/// The rows of a left matrix, or the columns of a right one: lines along which the inner dimension runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lines<'a> {
    pub data: Bf16Elements<'a>,
    /// From one line to the next.
    pub line_stride: usize,
    /// From one element of a line to the next.
    pub inner_stride: usize,
}

/// What is read into a [`Square`].
#[derive(Clone, Copy)]
struct Part {
    line: usize,
    lines: usize,
    /// Index of the first element of each line.
    inner: usize,
    /// Elements of each line that exist, at most 32.
    len: usize,
}

/// What a square's vectors hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// The words of one line.
    ByLine,
    /// One word of each line.
    ByWord,
}

/// The bits of a bf16 that is no subnormal number.
trait Element: Copy {
    fn bits(self) -> u32;

    /// 16 pairs as words.
    #[inline(always)]
    fn words(pair: impl Fn(usize) -> [Self; 2]) -> Words {
        Words(std::array::from_fn(|p| {
            let [low, high] = pair(p).map(Self::bits);
            low | high << 16
        }))
    }
}

impl Element for f32 {
    #[inline(always)]
    fn bits(self) -> u32 {
        let bits = self.to_bits();
        // Adding just under half of the last place that stays, or just half if that place is odd, carries where it should:
        // to nearest, ties to even. A NaN gets nothing added, and the bit that makes it a quiet one. All without a branch,
        // so that 16 of them are one vector.
        let not_a_number = u32::from(bits & 0x7fff_ffff > 0x7f80_0000);
        let half = (0x7fff + (bits >> 16 & 1)) & not_a_number.wrapping_sub(1);
        flush_bits(bits.wrapping_add(half) >> 16 | not_a_number << 6)
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn bits(self) -> u32 {
        flush_bits(u32::from(self.to_bits()))
    }

    #[inline(always)]
    fn words(pair: impl Fn(usize) -> [Self; 2]) -> Words {
        // Both numbers of a word at once: compilers then read 16 words as one vector, and not each number by itself.
        let mut words: [u32; 16] = std::array::from_fn(|p| {
            let [low, high] = pair(p).map(|x| u32::from(x.to_bits()));
            low | high << 16
        });
        for word in &mut words {
            let normal = |exponent: u32| 0_u32.wrapping_sub(u32::from(*word & exponent != 0));
            let (low, high) = (normal(0x7f80), normal(0x7f80_0000));
            *word &= 0x8000_8000 | low & 0x7fff | high & 0x7fff_0000;
        }
        Words(words)
    }
}

/// The bits of a bf16, or of a zero of its sign if it is subnormal.
#[inline(always)]
fn flush_bits(bits: u32) -> u32 {
    let normal = u32::from(bits & 0x7f80 != 0);
    bits & (0x8000 | 0_u32.wrapping_sub(normal))
}

vectorized! {
    /// Reads one part. Elements beyond `len` become zero; lines beyond `lines` may hold what lies beside them in memory.
    fn read(lines: Lines<'_>, part: Part, out: &mut Square) -> Order {
        match lines.data {
            Bf16Elements::F32(data) => read_elements(data, lines, part, out),
            Bf16Elements::Bf16(data) => read_elements(data, lines, part, out),
        }
    }
}

#[inline(always)]
fn read_elements<T: Element>(data: &[T], lines: Lines<'_>, part: Part, out: &mut Square) -> Order {
    if part.lines < 16 || part.len < 32 {
        *out = [Words::default(); 16];
    }
    let at = |line: usize, inner: usize| {
        (part.line + line) * lines.line_stride + (part.inner + inner) * lines.inner_stride
    };
    let word = |low: T, high: T| low.bits() | high.bits() << 16;
    if lines.inner_stride == 1 {
        for (line, words) in out.iter_mut().enumerate().take(part.lines) {
            let elements = &data[at(line, 0)..];
            if let Some(elements) = elements.first_chunk::<32>().filter(|_| part.len == 32) {
                *words = T::words(|p| [elements[2 * p], elements[2 * p + 1]]);
                continue;
            }
            let (pairs, last) = elements[..part.len].as_chunks::<2>();
            for (word_out, &[low, high]) in words.0.iter_mut().zip(pairs) {
                *word_out = word(low, high);
            }
            if let [last] = *last {
                words.0[pairs.len()] = last.bits();
            }
        }
        return Order::ByLine;
    }
    prefetch(data, at(0, 32), lines.inner_stride);
    for (p, words) in out.iter_mut().enumerate().take(part.len.div_ceil(2)) {
        let both = 2 * p + 1 < part.len;
        if lines.line_stride == 1 && both {
            let (low, high) = (&data[at(0, 2 * p)..], &data[at(0, 2 * p + 1)..]);
            if let (Some(low), Some(high)) = (low.first_chunk::<16>(), high.first_chunk::<16>()) {
                *words = T::words(|line| [low[line], high[line]]);
                continue;
            }
        }
        for (line, word_out) in words.0.iter_mut().enumerate().take(part.lines) {
            let low = data[at(line, 2 * p)].bits();
            let high = if both {
                data[at(line, 2 * p + 1)].bits()
            } else {
                0
            };
            *word_out = low | high << 16;
        }
    }
    Order::ByWord
}

/// Asks for what the next part of the same lines begins with: 32 elements, too far apart for the CPU to foresee them.
#[inline(always)]
fn prefetch<T>(data: &[T], first: usize, stride: usize) {
    #[cfg(target_arch = "x86_64")]
    for i in 0..32 {
        let address = data.as_ptr().wrapping_add(first + i * stride);
        super::avx512_bf16::prefetch(address);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (data, first, stride);
}

/// Exchanges lines and words.
fn transpose(vectors: Vectors, square: &mut Square) {
    match vectors {
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512(_) => super::avx512_bf16::transpose(vectors, square),
        _ => {
            for i in 0..16 {
                for j in 0..i {
                    let (upper, lower) = (square[j].0[i], square[i].0[j]);
                    (square[i].0[j], square[j].0[i]) = (upper, lower);
                }
            }
        }
    }
}

/// Packs rows `first..first + rows` of a left matrix, elements `inner..inner + len`, into a tile: `rows` vectors per 16
/// words.
pub(super) fn pack_tile(
    vectors: Vectors,
    lines: Lines<'_>,
    [first, rows]: [usize; 2],
    [inner, len]: [usize; 2],
    out: &mut [Words],
) {
    let mut square = [Words::default(); 16];
    for (block, out) in out.chunks_exact_mut(rows).enumerate() {
        for (part, out) in out.chunks_mut(16).enumerate() {
            let part = Part {
                line: first + 16 * part,
                lines: out.len(),
                inner: inner + 32 * block,
                len: (len - 32 * block).min(32),
            };
            if read(vectors, lines, part, &mut square) == Order::ByWord {
                transpose(vectors, &mut square);
            }
            out.copy_from_slice(&square[..part.lines]);
        }
    }
}

/// A right matrix.
#[derive(Clone, Debug, Default)]
pub(super) struct Packed {
    words: Vec<[Words; 2]>,
    panels: usize,
    /// Words of a column.
    inner: usize,
    /// For the portable kernel only.
    pub exponents: Exponents,
}

impl Packed {
    /// Packs `n` columns of `k` elements, in the memory that is there already.
    pub fn fill(&mut self, kernel: Kernel, n: usize, k: usize, lines: Lines<'_>, threads: usize) {
        let vectors = kernel.vectors();
        self.panels = n.div_ceil(COLUMNS);
        self.inner = k.div_ceil(2);
        self.words
            .resize(self.panels * self.inner, [Words::default(); 2]);
        let panels = self.panels;
        let inner = self.inner;
        for block in (0..inner).step_by(INNER) {
            let len = INNER.min(inner - block);
            let words = &mut self.words[block * panels..(block + len) * panels];
            let pack = |(panel, words): (usize, &mut [[Words; 2]])| {
                let columns = [panel * COLUMNS, COLUMNS.min(n - panel * COLUMNS)];
                pack_panel(vectors, lines, columns, [2 * block, k], words);
            };
            if threads > 1 {
                words
                    .par_chunks_mut(len)
                    .enumerate()
                    .with_min_len(4)
                    .for_each(pack);
            } else {
                words.chunks_mut(len).enumerate().for_each(pack);
            }
        }
        if let Kernel::Portable(_) = kernel {
            self.exponents = Exponents::default();
            self.exponents.include(vectors, self.words.as_flattened());
        }
    }

    /// Words `block..block + len` of the columns of panel `panel`; `block` is a multiple of [`INNER`].
    pub fn panel(&self, block: usize, len: usize, panel: usize) -> &[[Words; 2]] {
        let first = block * self.panels + panel * len;
        &self.words[first..first + len]
    }

    /// `n` columns of `k` elements, one after the other.
    pub fn columns(&self, n: usize, k: usize) -> Vec<bf16> {
        let mut elements = Vec::with_capacity(n * k);
        for column in 0..n {
            let (panel, lane) = (column / COLUMNS, column % COLUMNS);
            for block in (0..self.inner).step_by(INNER) {
                let len = INNER.min(self.inner - block);
                for words in self.panel(block, len, panel) {
                    let word = words[lane / 16].0[lane % 16];
                    let pair = [word as u16, (word >> 16) as u16].map(bf16::from_bits);
                    elements.extend_from_slice(&pair);
                }
            }
            // An odd one has a zero behind it.
            elements.truncate((column + 1) * k);
        }
        elements
    }

    pub fn bytes(&self) -> usize {
        size_of_val(&self.words[..])
    }
}

/// Packs the columns `first..first + width` of a right matrix, from element `inner` on to the end of the panel or to `k`.
fn pack_panel(
    vectors: Vectors,
    lines: Lines<'_>,
    [first, width]: [usize; 2],
    [inner, k]: [usize; 2],
    out: &mut [[Words; 2]],
) {
    let mut square = [Words::default(); 16];
    for (block, out) in out.chunks_mut(16).enumerate() {
        let inner = inner + 32 * block;
        for half in 0..2 {
            let part = Part {
                line: first + 16 * half,
                lines: width.saturating_sub(16 * half).min(16),
                inner,
                len: (k - inner).min(32),
            };
            if part.lines == 0 {
                out.iter_mut()
                    .for_each(|words| words[half] = Words::default());
                continue;
            }
            if read(vectors, lines, part, &mut square) == Order::ByLine {
                transpose(vectors, &mut square);
            }
            for (out, words) in out.iter_mut().zip(&square) {
                out[half] = *words;
            }
        }
    }
}

/// The smallest and the largest exponent of numbers that are not zero, as they are stored: 1 to 254 for finite ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exponents {
    smallest: u32,
    largest: u32,
}

impl Default for Exponents {
    /// Those of no numbers.
    fn default() -> Self {
        Self {
            smallest: 255,
            largest: 0,
        }
    }
}

impl Exponents {
    pub fn include(&mut self, vectors: Vectors, words: &[Words]) {
        exponents(vectors, words, self);
    }

    /// Whether every product of a number with one of `other` is a finite `f32` (so that it is exact, having 16
    /// significant bits) and a multiple of 2⁻¹²⁶ (so that no sum of such products is subnormal).
    ///
    /// A bf16 with the stored exponent e is a multiple of 2^(e − 127 − 7) and below 2^(e − 127 + 1).
    pub fn are_plain(self, other: Self) -> bool {
        let smallest = self.smallest + other.smallest;
        let largest = self.largest + other.largest;
        smallest >= 2 * (127 + 7) - 126 && largest <= 2 * (127 - 1) + 128
    }
}

vectorized! {
    fn exponents(words: &[Words], seen: &mut Exponents) {
        let (mut smallest, mut largest) = ([255_u32; 16], [0_u32; 16]);
        for words in words {
            for lane in 0..16 {
                let word = words.0[lane];
                for exponent in [word >> 7 & 0xff, word >> 23 & 0xff] {
                    // Zero is no number here: 0 − 1 is the largest there is.
                    smallest[lane] = smallest[lane].min(exponent.wrapping_sub(1));
                    largest[lane] = largest[lane].max(exponent);
                }
            }
        }
        for lane in 0..16 {
            seen.smallest = seen.smallest.min(smallest[lane].saturating_add(1));
            seen.largest = seen.largest.max(largest[lane]);
        }
    }
}
