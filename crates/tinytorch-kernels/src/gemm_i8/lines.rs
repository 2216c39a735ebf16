//! Packed weights: bytes in whole cache lines, so that no load of 64 bytes straddles two.
#![expect(
    unsafe_code,
    reason = "an array of aligned lines is read as plain bytes"
)]

use crate::pages;

/// One cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Line(pub [i8; 64]);

/// Bytes that start at a cache line; the tail of the last line is zero.
#[derive(Clone, Debug)]
pub struct Lines {
    lines: Box<[Line]>,
}

impl Lines {
    /// At least `len` zero bytes.
    pub fn zeroed(len: usize) -> Self {
        let mut lines = vec![];
        pages::reserve(&mut lines, len.div_ceil(64));
        lines.resize(len.div_ceil(64), Line([0; 64]));
        Self {
            lines: lines.into_boxed_slice(),
        }
    }

    /// The lines.
    #[inline]
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// All bytes, the padding of the last line included.
    #[inline]
    pub fn bytes(&self) -> &[i8] {
        // SAFETY: `Line` is 64 bytes of i8 without padding (64 is its alignment), so the lines are that many i8.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.lines.len() * 64) }
    }

    /// All bytes, to be written.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [i8] {
        // SAFETY: as in `bytes`, and the borrow is exclusive.
        unsafe {
            std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.lines.len() * 64)
        }
    }
}
