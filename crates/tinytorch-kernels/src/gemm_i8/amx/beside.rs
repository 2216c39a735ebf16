//! What the vector units do while the matrix unit computes: the sums of the tile before end, a few rows after each step.
#![expect(unsafe_code, reason = "vector loads")]

use std::arch::x86_64::*;

use super::unit::{LANES, Sums};
use crate::gemm_i8::avx512_vnni::finish::{ToCodes, fetch_output, finish, store_i8};
use crate::gemm_i8::block::BlockMut;
use crate::gemm_i8::ending::Ending;
use crate::gemm_i8::tiled::Place;

/// Rows that are ended at once: their vectors fit the registers beside what all rows need.
const AT_ONCE: usize = 8;

/// A rectangle of the result.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tile {
    pub row: usize,
    pub rows: usize,
    pub column: usize,
    pub columns: usize,
}

/// What is done beside a product: the sums of the tile before it end, and the lines that its own will be written to are fetched.
pub(super) struct Beside<'b, 'a> {
    ending: &'b mut Ending<'a>,
    /// Those of all columns.
    offsets: &'b [i32],
    /// Of `tile`.
    sums: &'b Sums,
    tile: Tile,
    /// Rows of `tile` that have ended.
    ended: usize,
    next: Tile,
    /// Rows of `next` whose lines have been fetched.
    fetched: usize,
}

impl<'b, 'a> Beside<'b, 'a> {
    /// Ends `sums`, those of `tile`, and fetches lines for `next`. `offsets` are those of all columns.
    pub fn new(
        ending: &'b mut Ending<'a>,
        offsets: &'b [i32],
        sums: &'b Sums,
        tile: Tile,
        next: Tile,
    ) -> Self {
        Self {
            ending,
            offsets,
            sums,
            tile,
            ended: 0,
            next,
            fetched: 0,
        }
    }

    /// The same work, if it is one that [`WholeCodes`] does.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    pub fn whole_codes(&mut self) -> Option<WholeCodes<'_>> {
        let Tile {
            row,
            rows,
            column,
            columns,
        } = self.tile;
        let Ending::Codes {
            out,
            multipliers,
            codes,
        } = &mut *self.ending
        else {
            return None;
        };
        if columns != 2 * LANES || rows < 2 {
            return None;
        }
        let place = column..column + columns;
        let next = out.start_of(self.next.row).wrapping_add(self.next.column);
        Some(WholeCodes {
            to_codes: ToCodes::of_whole(
                &self.offsets[place.clone()],
                &multipliers[place.clone()],
                *codes,
            ),
            next,
            next_stride: out.row_stride(),
            next_rows: self.next.rows,
            out: out.part(row..row + rows, place),
            sums: self.sums,
            ended: 0,
            fetched: 0,
        })
    }

    /// Does the share that is due after `step` of `steps`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    pub fn advance(&mut self, step: usize, steps: usize) {
        // Products instead of quotients: those would take as long as ending a row.
        let due = self.tile.rows * step;
        while (self.ended + 1) * steps <= due {
            if self.tile.rows - self.ended >= AT_ONCE {
                self.end::<AT_ONCE>();
            } else {
                self.end::<1>();
            }
        }
        let due = self.next.rows * step;
        while (self.fetched + 1) * steps <= due {
            fetch_output::<AT_ONCE>(&Place {
                ending: &mut *self.ending,
                offsets: &[],
                row: self.next.row + self.fetched,
                column: self.next.column,
            });
            self.fetched += AT_ONCE;
        }
    }

    /// Ends some rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn end<const AT_ONCE: usize>(&mut self) {
        let wide = self.tile.columns > LANES;
        let full = self.tile.columns.is_multiple_of(LANES);
        match (wide, full) {
            (true, true) => self.end_vectors::<AT_ONCE, 2, true>(),
            (true, false) => self.end_vectors::<AT_ONCE, 2, false>(),
            (false, true) => self.end_vectors::<AT_ONCE, 1, true>(),
            (false, false) => self.end_vectors::<AT_ONCE, 1, false>(),
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    fn end_vectors<const AT_ONCE: usize, const VECTORS: usize, const FULL: bool>(&mut self) {
        let Tile {
            row,
            column,
            columns,
            ..
        } = self.tile;
        let place = Place {
            ending: &mut *self.ending,
            offsets: &self.offsets[column..column + columns],
            row: row + self.ended,
            column,
        };
        let sums = load::<AT_ONCE, VECTORS>(self.sums, self.ended);
        finish::<AT_ONCE, VECTORS, FULL>(sums, columns, place);
        self.ended += AT_ONCE;
    }
}

/// [`Beside`] for the codes of a tile with all its columns: what all its rows need stays in registers, and a few rows at a time end,
/// so few that the matrix unit never waits.
pub(super) struct WholeCodes<'b> {
    to_codes: ToCodes<2>,
    out: BlockMut<'b, i8>,
    sums: &'b Sums,
    ended: usize,
    /// Where the first row of the next tile will be written.
    next: *const i8,
    next_stride: usize,
    next_rows: usize,
    fetched: usize,
}

impl WholeCodes<'_> {
    /// As [`Beside::advance`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    #[inline]
    pub fn advance(&mut self, step: usize, steps: usize) {
        let rows = self.out.rows();
        let due = rows * step;
        while self.ended < rows && (self.ended + 2).min(rows) * steps <= due {
            // Of an odd number of rows the last but one ends twice.
            let row = self.ended.min(rows - 2);
            let [first, second] = load::<2, 2>(self.sums, row);
            for (i, codes) in self.to_codes.rows(first, second).into_iter().enumerate() {
                store_i8::<true>(self.out.row(row + i), codes);
            }
            self.ended += 2;
        }
        let due = self.next_rows * step;
        while (self.fetched + 1) * steps <= due {
            for row in self.fetched..self.fetched + 2 {
                _mm_prefetch::<_MM_HINT_ET0>(self.next.wrapping_add(row * self.next_stride));
            }
            self.fetched += 2;
        }
    }
}

/// The sums of some rows.
#[target_feature(enable = "avx512f")]
#[inline]
fn load<const AT_ONCE: usize, const VECTORS: usize>(
    sums: &Sums,
    row: usize,
) -> [[__m512i; VECTORS]; AT_ONCE] {
    let mut loaded = [[_mm512_setzero_si512(); VECTORS]; AT_ONCE];
    for (loaded, sums) in loaded.iter_mut().zip(&sums.0[row..row + AT_ONCE]) {
        for (loaded, sums) in loaded.iter_mut().zip(sums.as_chunks::<LANES>().0) {
            // SAFETY: a reference to 16 sums.
            *loaded = unsafe { _mm512_loadu_si512(sums.as_ptr().cast()) };
        }
    }
    loaded
}
