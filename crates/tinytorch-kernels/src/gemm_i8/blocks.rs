//! The rows of a tile as its kernel reads them: blocks of 64 words, those of all rows in turn.
#![expect(unsafe_code, reason = "words are written as the bytes they are")]

/// Words of one row that lie together.
pub(crate) const BLOCK: usize = 64;

/// Codes of a word that is multiplied with `vpdpbusd` or `tdpbusd`.
pub(crate) const CODES: usize = 4;

/// Codes of a block of such words.
pub(crate) const BLOCK_CODES: usize = CODES * BLOCK;

/// 64 words of one row: 256 B.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Block(pub [i32; BLOCK]);

impl Block {
    /// The codes of words of four.
    #[inline]
    pub fn codes_mut(&mut self) -> &mut [u8; BLOCK_CODES] {
        // SAFETY: as many bytes, any of which are a code and any four of which are a word; the borrow goes on.
        unsafe { &mut *self.0.as_mut_ptr().cast() }
    }
}

/// Rows whose words are four codes, to be written.
#[derive(Debug)]
pub(crate) struct RowsMut<'a> {
    blocks: &'a mut [Block],
    rows: usize,
    /// Which of them is number 0.
    first: usize,
}

impl<'a> RowsMut<'a> {
    /// The blocks of `rows` rows.
    pub fn new(blocks: &'a mut [Block], rows: usize) -> Self {
        assert!(rows > 0 && blocks.len().is_multiple_of(rows));
        Self {
            blocks,
            rows,
            first: 0,
        }
    }

    /// The row `row` and those after it.
    #[inline]
    pub fn from(&mut self, row: usize) -> RowsMut<'_> {
        RowsMut {
            blocks: self.blocks,
            rows: self.rows,
            first: self.first + row,
        }
    }

    /// The codes of block `number` of a row.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[inline]
    pub fn block(&mut self, row: usize, number: usize) -> &mut [u8; BLOCK_CODES] {
        self.words(row, number).codes_mut()
    }

    /// Block `number` of a row.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[inline]
    pub fn words(&mut self, row: usize, number: usize) -> &mut Block {
        let row = self.first + row;
        assert!(row < self.rows, "row {row} of {}", self.rows);
        &mut self.blocks[number * self.rows + row]
    }
}
