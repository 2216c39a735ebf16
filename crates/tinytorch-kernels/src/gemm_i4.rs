//! The product with weights of four bits, one scale per group: for few rows, where reading the weights is what takes time.
//!
//! In: activations `[m, k]`, real or 8-bit codes; weights `[n, k]` of the codes −8..=7, symmetric, packed once by
//! [`PackedInt4`]; a scale for every `group` neighbours of the inner dimension. Out: `f32` `[m, n]`. Half the bytes of INT8 are read, and
//! the weights never exist in another form.
//!
//! Sums of real numbers depend on their order and rounding, so both are part of the definition ([`scalar`]); every kernel gives
//! its bits, on any CPU and with any number of threads. Only which NaN a NaN is, is left open.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
pub mod scalar;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::ops::Range;
use std::sync::OnceLock;

use crate::cpu::Vectors;
use crate::elements;
use crate::gemm_f32::Threads;
use crate::gemm_f32::pieces::{self, Narrow, OfColumns, Piece};
use crate::gemm_i8::block::BlockMut;
#[cfg(target_arch = "x86_64")]
use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
use avx512::Avx512;

/// Columns of a panel.
const COLUMNS: usize = 64;
/// Codes of a word: neighbours of the inner dimension, the first in the lowest four bits, each 8 too large.
const CODES: usize = 8;
/// Largest number of rows for which a word is read once.
const ROWS: usize = 3;
/// Rows from which codes are made real once for all of them, unless groups are so short that what is done once for each counts.
const MANY_ROWS: usize = 12;
/// Codes of a group from which that pays.
const LONG_GROUP: usize = 16;

/// One word of each column of a panel: four vectors, four cache lines.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Words([[u32; 16]; COLUMNS / 16]);

/// One scale of each column of a panel.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Scales([[f32; 16]; COLUMNS / 16]);

/// One way of computing the product; all give the same bits.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kernel {
    /// Loops that compilers vectorize.
    Portable(Vectors),
    /// 256-bit vectors, `vpmaddubsw` for 8-bit activations.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// 512-bit vectors, `vpdpbusd` for 8-bit activations.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

impl Kernel {
    /// All that this CPU can run, best first.
    #[cfg(test)]
    pub fn available() -> Vec<Kernel> {
        let mut kernels = vec![];
        #[cfg(target_arch = "x86_64")]
        kernels.extend(Avx512::new().map(Kernel::Avx512));
        let vectors = Vectors::available();
        #[cfg(target_arch = "x86_64")]
        kernels.extend(
            vectors
                .iter()
                .copied()
                .filter_map(Avx2::new)
                .map(Kernel::Avx2),
        );
        kernels.extend(vectors.into_iter().map(Kernel::Portable));
        kernels
    }

    /// The best, unless the environment forces a kernel without 512-bit vectors.
    fn chosen() -> Kernel {
        static CHOSEN: OnceLock<Kernel> = OnceLock::new();
        *CHOSEN.get_or_init(|| match Vectors::chosen() {
            #[cfg(target_arch = "x86_64")]
            vectors @ Vectors::Avx512(_) => {
                Avx512::new().map_or(Kernel::Portable(vectors), Kernel::Avx512)
            }
            #[cfg(target_arch = "x86_64")]
            vectors @ Vectors::Avx2(_) => {
                Avx2::new(vectors).map_or(Kernel::Portable(vectors), Kernel::Avx2)
            }
            vectors => Kernel::Portable(vectors),
        })
    }
}

/// 8-bit activations `[m, k]`: row `i` means `scales[i] · (code − zero_points[i])`.
#[derive(Clone, Copy, Debug)]
pub struct Codes8<'a> {
    /// `[m, k]`.
    pub codes: &'a [i8],
    /// `[m]`.
    pub scales: &'a [f32],
    /// `[m]`, each an `i8`.
    pub zero_points: &'a [i32],
}

/// Weights `[n, k]` of four bits, packed once.
#[derive(Clone, Debug)]
pub struct PackedInt4 {
    n: usize,
    k: usize,
    group: usize,
    kernel: Kernel,
    /// `[panels][words of a column]`; the columns that fill up the last panel are zero.
    words: Box<[Words]>,
    /// `[panels][groups]`.
    scales: Box<[Scales]>,
}

impl PackedInt4 {
    /// Packs `codes`, `[n, k]`, in −8..=7, with `scales` `[n, k / group]` (rounded up: the last group of a row may be shorter).
    ///
    /// # Panics
    ///
    /// If a slice does not have its size, a code does not fit four bits, or `group` is not a multiple of 8 from 8 to
    /// 4096 (so that no sum of a group overflows, and all are exact as `f32`).
    #[track_caller]
    pub fn new(n: usize, k: usize, group: usize, codes: &[i8], scales: &[f32]) -> Self {
        Self::with_kernel(Kernel::chosen(), n, k, group, codes, scales)
    }

    #[track_caller]
    fn with_kernel(
        kernel: Kernel,
        n: usize,
        k: usize,
        group: usize,
        codes: &[i8],
        scales: &[f32],
    ) -> Self {
        assert!(
            group.is_multiple_of(CODES) && (CODES..=4096).contains(&group),
            "groups of {group} codes are not a multiple of {CODES} up to 4096"
        );
        assert_eq!(
            Some(codes.len()),
            elements([n, k]),
            "codes must be [{n}, {k}]"
        );
        let groups = k.div_ceil(group);
        assert_eq!(
            Some(scales.len()),
            elements([n, groups]),
            "scales must be [{n}, {groups}]: one for every {group} of {k} codes"
        );
        if let Some(index) = codes.iter().position(|code| !(-8..=7).contains(code)) {
            panic!("code {} at {index} does not fit four bits", codes[index]);
        }
        let (panels, inner) = (n.div_ceil(COLUMNS), k.div_ceil(CODES));
        // 8 too large: 0x8 is 0.
        let mut words = vec![Words([[0x8888_8888; 16]; 4]); panels * inner];
        let mut packed_scales = vec![Scales([[0.0; 16]; 4]); panels * groups];
        for j in 0..n {
            let (panel, lane) = (j / COLUMNS, j % COLUMNS);
            let row = codes[j * k..(j + 1) * k].chunks(CODES);
            for (words, codes) in words[panel * inner..].iter_mut().zip(row) {
                let word = &mut words.0[lane / 16][lane % 16];
                for (p, &code) in codes.iter().enumerate() {
                    *word ^= u32::from(code.cast_unsigned() & 0xf) << (4 * p);
                }
            }
            let row = &scales[j * groups..(j + 1) * groups];
            for (scales, &scale) in packed_scales[panel * groups..].iter_mut().zip(row) {
                scales.0[lane / 16][lane % 16] = scale;
            }
        }
        Self {
            n,
            k,
            group,
            kernel,
            words: words.into(),
            scales: packed_scales.into(),
        }
    }

    /// Outputs.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inputs.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Codes that share a scale.
    pub fn group(&self) -> usize {
        self.group
    }

    /// Bytes held on the heap: codes and scales, with the padding the layout needs.
    pub fn bytes(&self) -> usize {
        size_of_val::<[Words]>(&self.words) + size_of_val::<[Scales]>(&self.scales)
    }

    /// The scales as they were given, `[n, k / group]`.
    pub fn scales(&self) -> Vec<f32> {
        let groups = self.k.div_ceil(self.group);
        let mut scales = Vec::with_capacity(self.n * groups);
        for j in 0..self.n {
            for group in 0..groups {
                let scales_of = &self.scales[j / COLUMNS * groups + group].0;
                scales.push(scales_of[j % COLUMNS / 16][j % 16]);
            }
        }
        scales
    }

    /// The codes as they were given, `[n, k]`.
    pub fn unpack(&self) -> Vec<i8> {
        let inner = self.k.div_ceil(CODES);
        let mut codes = Vec::with_capacity(self.n * self.k);
        for j in 0..self.n {
            for p in 0..self.k {
                let words = &self.words[j / COLUMNS * inner + p / CODES].0;
                let word = words[j % COLUMNS / 16][j % 16];
                codes.push((word >> (p % CODES * 4) & 0xf) as i8 - 8);
            }
        }
        codes
    }

    /// Writes `out = a · (scales · codes)ᵀ + bias`, with real activations.
    ///
    /// | argument | shape    |
    /// |----------|----------|
    /// | `a`      | `[m, k]` |
    /// | `bias`   | `[n]`, or empty for none |
    /// | `out`    | `[m, n]` |
    ///
    /// # Panics
    ///
    /// If a slice does not have its shape.
    #[track_caller]
    pub fn product_f32(
        &self,
        m: usize,
        a: &[f32],
        bias: &[f32],
        out: &mut [f32],
        threads: Threads,
    ) {
        assert_eq!(
            Some(a.len()),
            elements([m, self.k]),
            "a must be [{m}, {}]",
            self.k
        );
        self.run(m, Activations::Real(a), bias, out, threads);
    }

    /// Writes `out = a · (scales · codes)ᵀ + bias`, with 8-bit activations.
    ///
    /// | argument | shape    |
    /// |----------|----------|
    /// | `a`      | `[m, k]`, with a scale and a zero point per row |
    /// | `bias`   | `[n]`, or empty for none |
    /// | `out`    | `[m, n]` |
    ///
    /// # Panics
    ///
    /// If a slice does not have its shape, or a zero point is not an `i8`.
    #[track_caller]
    pub fn product_i8(
        &self,
        m: usize,
        a: Codes8<'_>,
        bias: &[f32],
        out: &mut [f32],
        threads: Threads,
    ) {
        assert_eq!(
            Some(a.codes.len()),
            elements([m, self.k]),
            "a must be [{m}, {}]",
            self.k
        );
        assert_eq!(
            [a.scales.len(), a.zero_points.len()],
            [m; 2],
            "one scale and one zero point per row"
        );
        if let Some(bad) = a.zero_points.iter().find(|z| !(-128..=127).contains(*z)) {
            panic!("zero point {bad} is not an i8");
        }
        self.run(m, Activations::Codes(a), bias, out, threads);
    }

    #[track_caller]
    fn run(&self, m: usize, a: Activations<'_>, bias: &[f32], out: &mut [f32], threads: Threads) {
        let n = self.n;
        assert_eq!(Some(out.len()), elements([m, n]), "out must be [{m}, {n}]");
        assert!(
            bias.is_empty() || bias.len() == n,
            "bias must be [n] or empty"
        );
        if m == 0 || n == 0 {
            return;
        }
        let out = BlockMut::new(out, m, 0, n, n);
        pieces::divide(threads, self.k, out, |first, out| {
            self.run_panels(first, a, bias, out);
        });
    }

    /// Computes the columns of `out`, which begin at panel `first`.
    fn run_panels(
        &self,
        first: usize,
        a: Activations<'_>,
        bias: &[f32],
        mut out: BlockMut<'_, f32>,
    ) {
        thread_local! {
            static BUFFERS: RefCell<Buffers> = RefCell::default();
        }
        if let (Activations::Real(a), Some(vectors)) = (a, self.by_pieces(out.rows())) {
            let bias = bias.get(first * COLUMNS..).unwrap_or_default();
            return pieces::product(vectors, a, self, first, bias, out);
        }
        // Taken, not borrowed: should rayon run another product on this thread meanwhile, that makes its own.
        let mut buffers = BUFFERS.take();
        let (inner, groups) = (self.k.div_ceil(CODES), self.k.div_ceil(self.group));
        for row in (0..out.rows()).step_by(ROWS) {
            let rows = ROWS.min(out.rows() - row);
            buffers.fill(a, row, rows, self.k);
            for column in (0..out.columns()).step_by(COLUMNS) {
                let panel = first + column / COLUMNS;
                let panel_of = Panel {
                    words: &self.words[panel * inner..(panel + 1) * inner],
                    scales: &self.scales[panel * groups..(panel + 1) * groups],
                    words_of_group: self.group / CODES,
                };
                let mut totals = [[0.0; COLUMNS]; ROWS];
                match (self.kernel, a) {
                    #[cfg(target_arch = "x86_64")]
                    (Kernel::Avx512(kernel), Activations::Real(_)) => {
                        kernel.real(panel_of, &buffers.reals[..rows * inner], rows, &mut totals);
                    }
                    #[cfg(target_arch = "x86_64")]
                    (Kernel::Avx512(kernel), Activations::Codes(_)) => {
                        let codes = &buffers.codes[..rows * inner];
                        kernel.codes(panel_of, codes, &buffers.zero_points[..rows], &mut totals);
                    }
                    #[cfg(target_arch = "x86_64")]
                    (Kernel::Avx2(kernel), Activations::Real(_)) => {
                        kernel.real(panel_of, &buffers.reals[..rows * inner], rows, &mut totals);
                    }
                    #[cfg(target_arch = "x86_64")]
                    (Kernel::Avx2(kernel), Activations::Codes(_)) => {
                        let codes = &buffers.codes[..rows * inner];
                        kernel.codes(panel_of, codes, &buffers.zero_points[..rows], &mut totals);
                    }
                    (Kernel::Portable(vectors), Activations::Real(_)) => {
                        let reals = &buffers.reals[..rows * inner];
                        portable::real(vectors, panel_of, reals, rows, &mut totals);
                    }
                    (Kernel::Portable(vectors), Activations::Codes(_)) => {
                        let codes = &buffers.codes[..rows * inner];
                        let zero_points = &buffers.zero_points[..rows];
                        portable::codes(vectors, panel_of, codes, zero_points, &mut totals);
                    }
                }
                let width = COLUMNS.min(out.columns() - column);
                let columns = panel * COLUMNS..panel * COLUMNS + width;
                for (i, totals) in totals.iter().enumerate().take(rows) {
                    let out = &mut out.row(row + i)[column..column + width];
                    out.copy_from_slice(&totals[..width]);
                    if let Activations::Codes(codes) = a {
                        let scale = codes.scales[row + i];
                        out.iter_mut().for_each(|out| *out *= scale);
                    }
                    if !bias.is_empty() {
                        let bias = &bias[columns.clone()];
                        out.iter_mut()
                            .zip(bias)
                            .for_each(|(out, bias)| *out += bias);
                    }
                }
            }
        }
        BUFFERS.set(buffers);
    }
}

impl PackedInt4 {
    /// The vectors with which so many rows are multiplied by codes that are made real once, if they are.
    fn by_pieces(&self, rows: usize) -> Option<Vectors> {
        let vectors = match self.kernel {
            Kernel::Portable(vectors) => vectors,
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2(kernel) => kernel.vectors(),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512(_) => Vectors::chosen(),
        };
        let pays = rows >= MANY_ROWS && self.group >= LONG_GROUP;
        (pays && pieces::fuse(vectors)).then_some(vectors)
    }
}

impl Narrow for PackedInt4 {
    fn k(&self) -> usize {
        self.k
    }

    fn pieces(&self) -> impl Iterator<Item = Range<usize>> {
        let starts = (0..self.k).step_by(self.group);
        starts.map(|start| start..self.k.min(start + self.group))
    }

    fn scales_of(&self, panel: usize, piece: &Range<usize>) -> &OfColumns {
        &self.scales[panel * self.k.div_ceil(self.group) + piece.start / self.group].0
    }

    fn write(&self, vectors: Vectors, panel: usize, piece: &Range<usize>, into: &mut Piece<'_>) {
        let words = piece.start / CODES..piece.end.div_ceil(CODES);
        let words = &self.words[panel * self.k.div_ceil(CODES)..][words];
        portable::write(vectors, words, into);
    }
}

#[derive(Clone, Copy)]
enum Activations<'a> {
    Real(&'a [f32]),
    Codes(Codes8<'a>),
}

/// The weights of up to 64 columns.
#[derive(Clone, Copy)]
struct Panel<'a> {
    words: &'a [Words],
    /// One for every `words_of_group` words, the last group may have fewer.
    scales: &'a [Scales],
    words_of_group: usize,
}

/// Some rows of activations, in pieces that meet one word of the weights, filled up with zeros: `[words][rows]`.
#[derive(Default)]
struct Buffers {
    reals: Vec<[f32; CODES]>,
    /// Each piece with its even codes first: the order in which a word comes apart into bytes. What fills up is the
    /// zero point.
    codes: Vec<[i8; CODES]>,
    zero_points: Vec<i32>,
}

impl Buffers {
    fn fill(&mut self, a: Activations<'_>, first: usize, rows: usize, k: usize) {
        let inner = k.div_ceil(CODES);
        match a {
            Activations::Real(a) => {
                self.reals.clear();
                self.reals.resize(rows * inner, [0.0; CODES]);
                for i in 0..rows {
                    let row = a[(first + i) * k..(first + i + 1) * k].chunks(CODES);
                    for (pieces, values) in self.reals.chunks_exact_mut(rows).zip(row) {
                        pieces[i][..values.len()].copy_from_slice(values);
                    }
                }
            }
            Activations::Codes(a) => {
                self.codes.clear();
                self.codes.resize(rows * inner, [0; CODES]);
                self.zero_points.clear();
                self.zero_points
                    .extend_from_slice(&a.zero_points[first..first + rows]);
                for i in 0..rows {
                    let row = a.codes[(first + i) * k..(first + i + 1) * k].chunks(CODES);
                    // The check of the zero points makes this an i8.
                    let fill = self.zero_points[i] as i8;
                    for (pieces, codes) in self.codes.chunks_exact_mut(rows).zip(row) {
                        let mut piece = [fill; CODES];
                        piece[..codes.len()].copy_from_slice(codes);
                        let [a, b, c, d, e, f, g, h] = piece;
                        pieces[i] = [a, c, e, g, b, d, f, h];
                    }
                }
            }
        }
    }
}
