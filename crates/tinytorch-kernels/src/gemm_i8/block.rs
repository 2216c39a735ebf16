//! A rectangle of a row-major matrix that is written by one thread while others write the rest.
//!
//! `&mut [T]` cannot be divided by columns: the rows of the two halves interleave. This view can, and stays safe: two
//! blocks are only ever made by dividing one, so no element belongs to both; or by lending a part of one, which is not to be used meanwhile.
#![expect(
    unsafe_code,
    reason = "a view divided by columns is disjoint in a way that slices cannot express"
)]

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable view of `[rows, columns]` elements, `row_stride` apart.
#[derive(Debug)]
pub struct BlockMut<'a, T> {
    start: *mut T,
    rows: usize,
    columns: usize,
    row_stride: usize,
    data: PhantomData<&'a mut [T]>,
}

// SAFETY: a block is the only way to its elements while it lives, like the `&mut [T]` it was made from.
unsafe impl<T: Send> Send for BlockMut<'_, T> {}
// SAFETY: through a shared block no element can be reached at all.
unsafe impl<T: Sync> Sync for BlockMut<'_, T> {}

impl<'a, T> BlockMut<'a, T> {
    /// The block `[rows, columns]` of a matrix whose rows have `row_stride` elements, from `first_column` on.
    ///
    /// # Panics
    ///
    /// If the block leaves the data or its rows overlap.
    #[track_caller]
    pub fn new(
        data: &'a mut [T],
        rows: usize,
        first_column: usize,
        columns: usize,
        row_stride: usize,
    ) -> Self {
        let last = rows.saturating_sub(1).checked_mul(row_stride);
        let end = last.and_then(|last| last.checked_add(first_column)?.checked_add(columns));
        assert!(
            rows == 0 || end.is_some_and(|end| end <= data.len()),
            "[{rows}, {columns}] from column {first_column} on, rows {row_stride} apart, do not fit {} elements",
            data.len()
        );
        assert!(
            rows <= 1 || columns <= row_stride,
            "rows of {columns} overlap, {row_stride} apart"
        );
        // `wrapping_add`: without rows there is no element to point to.
        let start = data.as_mut_ptr().wrapping_add(first_column);
        Self {
            start,
            rows,
            columns,
            row_stride,
            data: PhantomData,
        }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Elements from one row to the next.
    pub fn row_stride(&self) -> usize {
        self.row_stride
    }

    /// One row of the block.
    ///
    /// # Panics
    ///
    /// If there is no such row.
    #[inline]
    pub fn row(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        // SAFETY: `new` has checked that `rows` rows of `columns` elements lie inside the slice, dividing only narrows
        // them, and `&mut self` makes this the only reference into the block.
        unsafe {
            std::slice::from_raw_parts_mut(self.start.add(row * self.row_stride), self.columns)
        }
    }

    /// Where a rectangle begins, and how many elements further its next row does: for instructions that write several rows.
    ///
    /// # Panics
    ///
    /// If the block has no such rectangle.
    #[inline]
    pub fn rectangle(&mut self, rows: Range<usize>, columns: Range<usize>) -> (*mut T, usize) {
        let inside = rows.start < rows.end && rows.end <= self.rows;
        let inside = inside && columns.start < columns.end && columns.end <= self.columns;
        assert!(
            inside,
            "{rows:?} x {columns:?} of [{}, {}]",
            self.rows, self.columns
        );
        let first = rows.start * self.row_stride + columns.start;
        (self.start.wrapping_add(first), self.row_stride)
    }

    /// A rectangle of the block.
    ///
    /// # Panics
    ///
    /// If the block has no such rectangle.
    #[inline]
    pub fn part(&mut self, rows: Range<usize>, columns: Range<usize>) -> BlockMut<'_, T> {
        let (start, row_stride) = self.rectangle(rows.clone(), columns.clone());
        BlockMut {
            start,
            rows: rows.len(),
            columns: columns.len(),
            row_stride,
            data: PhantomData,
        }
    }

    /// Where a row begins: an address to prefetch, for any row.
    #[inline]
    pub fn start_of(&self, row: usize) -> *const T {
        self.start.wrapping_add(row * self.row_stride)
    }

    /// The first `rows` rows, and the rest.
    pub fn split_rows(self, rows: usize) -> (Self, Self) {
        assert!(rows <= self.rows, "{rows} rows of {}", self.rows);
        let rest = self.start.wrapping_add(rows * self.row_stride);
        (
            Self { rows, ..self },
            Self {
                start: rest,
                rows: self.rows - rows,
                ..self
            },
        )
    }

    /// The first `columns` columns, and the rest.
    pub fn split_columns(self, columns: usize) -> (Self, Self) {
        assert!(
            columns <= self.columns,
            "{columns} columns of {}",
            self.columns
        );
        let rest = self.start.wrapping_add(columns);
        (
            Self { columns, ..self },
            Self {
                start: rest,
                columns: self.columns - columns,
                ..self
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::assert_refused;

    #[test]
    fn divided_blocks_cover_every_element_once() {
        let mut data = vec![0; 5 * 7];
        let whole = BlockMut::new(&mut data, 5, 1, 5, 7);
        let (top, bottom) = whole.split_rows(2);
        let (left, right) = bottom.split_columns(3);
        for (mark, mut block) in [(1, top), (2, left), (3, right)] {
            for row in 0..block.rows() {
                block
                    .row(row)
                    .iter_mut()
                    .for_each(|element| *element += mark);
            }
        }
        let row_above = [0, 1, 1, 1, 1, 1, 0];
        let row_below = [0, 2, 2, 2, 3, 3, 0];
        assert_eq!(
            data,
            [row_above, row_above, row_below, row_below, row_below].concat()
        );
    }

    #[test]
    fn a_part_is_its_rows_and_columns() {
        let mut data: Vec<i32> = (0..20).collect();
        let mut whole = BlockMut::new(&mut data, 4, 1, 4, 5);
        assert_eq!(whole.row_stride(), 5);
        let mut part = whole.part(1..3, 2..4);
        assert_eq!((part.rows(), part.columns()), (2, 2));
        assert_eq!(part.row(0), [8, 9]);
        assert_eq!(part.row(1), [13, 14]);
        assert_refused("1..5 x 0..1 of [4, 4]", || {
            whole.part(1..5, 0..1);
        });
    }

    #[test]
    fn a_block_whose_size_wraps_is_refused() {
        // 2⁴⁴ rows 2²⁰ apart: 2⁶⁴ elements.
        assert_refused("do not fit 0 elements", || {
            BlockMut::<i32>::new(&mut [], 1 << 44, 0, 1 << 20, 1 << 20);
        });
        // The last row begins inside, and ends there only if its end wraps.
        assert_refused("do not fit 4 elements", || {
            BlockMut::new(&mut [0; 4], 2, 0, usize::MAX, 2);
        });
        assert_refused("overlap", || {
            BlockMut::new(&mut [0; 4], 2, 0, 3, 1);
        });
    }

    #[test]
    fn a_block_without_rows_or_columns_is_empty() {
        let mut data: Vec<i32> = vec![];
        assert_eq!(
            BlockMut::new(&mut data, 0, 0, 3, 3).split_rows(0).1.rows(),
            0
        );
        let mut data = vec![1, 2];
        assert!(BlockMut::new(&mut data, 2, 1, 0, 1).row(1).is_empty());
    }
}
