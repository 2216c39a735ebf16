//! The product of real activations with weights of eight bits: a quarter of the bytes of `f32` is read, which is what takes time with
//! few rows.
//!
//! In: activations `[m, k]`; weights `[n, k]` of `i8` codes, symmetric, packed once by [`PackedInt8`]; a scale for every `group`
//! neighbours of the inner dimension. Out: `f32` `[m, n]`.
//!
//! Sums of real numbers depend on their order and rounding, so both are part of the definition ([`scalar`]); every kernel gives
//! its bits, on any CPU and with any number of threads. Only which NaN a NaN is, is left open.

pub mod scalar;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::cpu::{Vectors, vectorized};
use crate::elements;
use crate::gemm_f32::Threads;
use crate::gemm_f32::pieces::{self, COLUMNS, LINES, Narrow, OfColumns, Piece};
use crate::gemm_i8::block::BlockMut;

pub use scalar::PIECE;

/// Largest number of rows for which a code is made real once in a register.
const ROWS: usize = 3;
/// Rows from which codes are made real once for all of them.
const MANY_ROWS: usize = 12;

/// Columns of a line of codes.
const LANES: usize = 16;

/// A code of each column of a line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(16))]
struct Codes([i8; LANES]);

/// Weights `[n, k]` of eight bits, packed once.
#[derive(Clone, Debug)]
pub struct PackedInt8 {
    n: usize,
    k: usize,
    group: usize,
    vectors: Vectors,
    /// `[panels][k][lines of the panel]`, four lines for each but the last, whose last line is filled up with zeros.
    codes: Box<[Codes]>,
    /// `[panels][groups]`.
    scales: Box<[OfColumns]>,
}

impl PackedInt8 {
    /// Packs `codes`, `[n, k]`, with `scales` `[n, k / group]` (rounded up: the last group of a row may be shorter).
    ///
    /// # Panics
    ///
    /// If a slice does not have its size, or `group` is 0.
    #[track_caller]
    pub fn new(n: usize, k: usize, group: usize, codes: &[i8], scales: &[f32]) -> Self {
        Self::with_vectors(Vectors::chosen(), n, k, group, codes, scales)
    }

    #[track_caller]
    fn with_vectors(
        vectors: Vectors,
        n: usize,
        k: usize,
        group: usize,
        codes: &[i8],
        scales: &[f32],
    ) -> Self {
        assert!(group > 0, "groups of no codes");
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
        let panels = n.div_ceil(COLUMNS);
        let mut packed = vec![Codes([0; LANES]); n.div_ceil(LANES) * k];
        let mut packed_scales = vec![[[0.0; 16]; LINES]; panels * groups];
        for j in 0..n {
            let (panel, lane) = (j / COLUMNS, j % COLUMNS);
            let (first, wide) = (panel * LINES * k + lane / LANES, lines_of(n, panel));
            for (p, &code) in codes[j * k..(j + 1) * k].iter().enumerate() {
                packed[first + p * wide].0[lane % LANES] = code;
            }
            let lines = packed_scales[panel * groups..(panel + 1) * groups].iter_mut();
            for (line, &scale) in lines.zip(&scales[j * groups..(j + 1) * groups]) {
                line.as_flattened_mut()[lane] = scale;
            }
        }
        Self {
            n,
            k,
            group,
            vectors,
            codes: packed.into(),
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
        size_of_val::<[Codes]>(&self.codes) + size_of_val::<[OfColumns]>(&self.scales)
    }

    /// The scales as they were given, `[n, k / group]`.
    pub fn scales(&self) -> Vec<f32> {
        let groups = self.k.div_ceil(self.group);
        let of = |j: usize, group: usize| {
            self.scales[j / COLUMNS * groups + group].as_flattened()[j % COLUMNS]
        };
        let all = (0..self.n).flat_map(|j| (0..groups).map(move |group| of(j, group)));
        all.collect()
    }

    /// The codes as they were given, `[n, k]`.
    pub fn unpack(&self) -> Vec<i8> {
        let of = |j: usize, p: usize| {
            let (codes, wide) = self.panel(j / COLUMNS, &(p..p + 1));
            debug_assert_eq!(codes.len(), wide);
            codes[j % COLUMNS / LANES].0[j % LANES]
        };
        let all = (0..self.n).flat_map(|j| (0..self.k).map(move |p| of(j, p)));
        all.collect()
    }

    /// Writes `out = a · (scales · codes)ᵀ + bias`.
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
    pub fn product(&self, m: usize, a: &[f32], bias: &[f32], out: &mut [f32], threads: Threads) {
        let (n, k) = (self.n, self.k);
        assert_eq!(Some(a.len()), elements([m, k]), "a must be [{m}, {k}]");
        assert_eq!(Some(out.len()), elements([m, n]), "out must be [{m}, {n}]");
        assert!(
            bias.is_empty() || bias.len() == n,
            "bias must be [n] or empty"
        );
        if m == 0 || n == 0 {
            return;
        }
        let out = BlockMut::new(out, m, 0, n, n);
        pieces::divide(threads, k, out, |first, out| self.run(first, a, bias, out));
    }

    /// Computes the columns of `out`, which begin at panel `first`.
    fn run(&self, first: usize, a: &[f32], bias: &[f32], mut out: BlockMut<'_, f32>) {
        let bias = bias.get(first * COLUMNS..).unwrap_or_default();
        if pieces::fuse(self.vectors) && out.rows() >= MANY_ROWS {
            return pieces::product(self.vectors, a, self, first, bias, out);
        }
        for row in (0..out.rows()).step_by(ROWS) {
            let rows = ROWS.min(out.rows() - row);
            for column in (0..out.columns()).step_by(COLUMNS) {
                let panel = first + column / COLUMNS;
                let mut totals = [[0.0; COLUMNS]; ROWS];
                for piece in self.pieces() {
                    let few = Few {
                        codes: self.panel(panel, &piece),
                        rows: std::array::from_fn(|i| {
                            // Of fewer rows the last one fills up, and is not read.
                            let row = row + i.min(rows - 1);
                            &a[row * self.k..][piece.clone()]
                        }),
                        count: rows,
                        scales: self.scales_of(panel, &piece),
                    };
                    few_rows(self.vectors, few, &mut totals);
                }
                let width = COLUMNS.min(out.columns() - column);
                for (i, totals) in totals.iter().enumerate().take(rows) {
                    let out = &mut out.row(row + i)[column..column + width];
                    out.copy_from_slice(&totals[..width]);
                    if !bias.is_empty() {
                        let bias = &bias[column..column + width];
                        let out = out.iter_mut().zip(bias);
                        out.for_each(|(out, bias)| *out += bias);
                    }
                }
            }
        }
    }
}

/// Lines of a panel of `n` columns.
fn lines_of(n: usize, panel: usize) -> usize {
    (n - panel * COLUMNS).div_ceil(LANES).min(LINES)
}

impl PackedInt8 {
    /// The codes of a piece of a panel, and how many lines lie side by side.
    fn panel(&self, panel: usize, piece: &Range<usize>) -> (&[Codes], usize) {
        let wide = lines_of(self.n, panel);
        let codes = &self.codes[panel * LINES * self.k..];
        (&codes[piece.start * wide..piece.end * wide], wide)
    }
}

impl Narrow for PackedInt8 {
    fn k(&self) -> usize {
        self.k
    }

    fn pieces(&self) -> impl Iterator<Item = Range<usize>> {
        scalar::pieces(self.k, self.group)
    }

    fn scales_of(&self, panel: usize, piece: &Range<usize>) -> &OfColumns {
        &self.scales[panel * self.k.div_ceil(self.group) + piece.start / self.group]
    }

    fn write(&self, vectors: Vectors, panel: usize, piece: &Range<usize>, into: &mut Piece<'_>) {
        let (codes, wide) = self.panel(panel, piece);
        write(vectors, codes, wide, into);
    }
}

vectorized! {
    /// Codes as real numbers.
    fn write(codes: &[Codes], wide: usize, into: &mut Piece<'_>) {
        for line in 0..wide {
            let codes = codes[line.min(codes.len())..].iter().step_by(wide);
            for (reals, codes) in into.lines(line).zip(codes) {
                *reals = codes.0.map(f32::from);
            }
        }
    }
}

/// A piece of a panel, and a few rows of activations over the same piece.
#[derive(Clone, Copy)]
struct Few<'a> {
    /// With the number of lines that lie side by side.
    codes: (&'a [Codes], usize),
    rows: [&'a [f32]; ROWS],
    /// How many of the rows are meant.
    count: usize,
    scales: &'a OfColumns,
}

vectorized! {
    fn few_rows(few: Few<'_>, totals: &mut [[f32; COLUMNS]; ROWS]) {
        match few.count {
            1 => sum_panel::<1>(few, totals),
            2 => sum_panel::<2>(few, totals),
            _ => sum_panel::<3>(few, totals),
        }
    }
}

/// Two lines at a time while there are two.
#[inline(always)]
fn sum_panel<const N: usize>(few: Few<'_>, totals: &mut [[f32; COLUMNS]; ROWS]) {
    match few.codes.1 {
        1 => sum::<N, 1, 1>(few, 0, totals),
        2 => sum::<N, 2, 2>(few, 0, totals),
        3 => {
            sum::<N, 3, 2>(few, 0, totals);
            sum::<N, 3, 1>(few, 2, totals);
        }
        _ => sum::<N, 4, 4>(few, 0, totals),
    }
}

/// Sums `LINES` of `WIDE` lines, from line `first` on.
#[inline(always)]
fn sum<const N: usize, const WIDE: usize, const LINES: usize>(
    few: Few<'_>,
    first: usize,
    totals: &mut [[f32; COLUMNS]; ROWS],
) {
    let codes = few.codes.0.as_chunks::<WIDE>().0;
    let rows: [&[f32]; N] = std::array::from_fn(|i| &few.rows[i][..codes.len()]);
    let mut sums = [[[0.0_f32; LANES]; LINES]; N];
    for (p, codes) in codes.iter().enumerate() {
        let mut weights = [[0.0_f32; LANES]; LINES];
        for (weights, codes) in weights.iter_mut().zip(&codes[first..]) {
            *weights = codes.0.map(f32::from);
        }
        for (sums, row) in sums.iter_mut().zip(&rows) {
            let a = row[p];
            for (sums, weights) in sums.iter_mut().zip(&weights) {
                for (sum, &weight) in sums.iter_mut().zip(weights) {
                    *sum = a.mul_add(weight, *sum);
                }
            }
        }
    }
    for (totals, sums) in totals.iter_mut().zip(&sums) {
        let totals = totals.as_chunks_mut::<LANES>().0[first..].iter_mut();
        for ((totals, sums), scales) in totals.zip(sums).zip(&few.scales[first..]) {
            *totals = std::array::from_fn(|j| sums[j].mul_add(scales[j], totals[j]));
        }
    }
}
