//! Memory of codes between layers, kept by a thread for its next call.
//!
//! A model makes codes of the same sizes in every call. Fresh memory would be cleared each time, and for large images its pages
//! fetched from the system, only to be overwritten whole.

use std::cell::RefCell;
use std::mem;
use std::ops::{Deref, DerefMut};

/// Bytes of a cache line. The matrix unit reads 64 codes at once: across two lines that takes twice as long.
const LINE: usize = 64;
/// How many a thread keeps: a model gives back one for each layer.
const MOST: usize = 8;
/// Bytes that a thread keeps at most.
const MOST_BYTES: usize = 32 << 20;

thread_local! {
    /// The last ones given back, the newest at the end.
    static KEPT: RefCell<Vec<Vec<i8>>> = const { RefCell::new(Vec::new()) };
}

/// Codes on their way from one layer to the next. Their memory goes back to the thread that drops them.
#[derive(Debug)]
pub(crate) struct CodeMemory {
    memory: Vec<i8>,
    start: usize,
    len: usize,
}

impl CodeMemory {
    /// `len` codes, whatever they are: to be overwritten. They begin where a cache line does.
    pub fn new(len: usize) -> Self {
        let bytes = len + LINE - 1;
        let kept = KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            let found = kept.iter().rposition(|memory| memory.len() == bytes);
            found.map(|index| kept.remove(index))
        });
        let memory = kept.ok().flatten().unwrap_or_else(|| vec![0; bytes]);
        let start = memory.as_ptr().align_offset(LINE).min(LINE - 1);
        Self { memory, start, len }
    }
}

impl From<Vec<i8>> for CodeMemory {
    /// The codes where they are.
    fn from(memory: Vec<i8>) -> Self {
        Self {
            start: 0,
            len: memory.len(),
            memory,
        }
    }
}

impl Deref for CodeMemory {
    type Target = [i8];

    fn deref(&self) -> &[i8] {
        &self.memory[self.start..][..self.len]
    }
}

impl DerefMut for CodeMemory {
    fn deref_mut(&mut self) -> &mut [i8] {
        &mut self.memory[self.start..][..self.len]
    }
}

impl Clone for CodeMemory {
    fn clone(&self) -> Self {
        let mut copy = Self::new(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

impl Drop for CodeMemory {
    fn drop(&mut self) {
        let memory = mem::take(&mut self.memory);
        // What came from elsewhere would not be asked for again, and none need no memory.
        if memory.len() == self.len || self.len == 0 || memory.capacity() > MOST_BYTES {
            return;
        }
        // A thread that ends keeps nothing.
        let _ = KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            kept.push(memory);
            // The oldest go first.
            while kept.len() > MOST || kept.iter().map(Vec::capacity).sum::<usize>() > MOST_BYTES {
                kept.remove(0);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many codes each of the kept ones has room for.
    fn kept() -> Vec<usize> {
        KEPT.with_borrow(|kept| kept.iter().map(|memory| memory.len() + 1 - LINE).collect())
    }

    #[test]
    fn codes_of_a_size_come_back() {
        let mut codes = CodeMemory::new(3);
        assert_eq!(*codes, [0; 3]);
        codes.fill(7);
        drop(codes);
        assert_eq!(*CodeMemory::new(4), [0; 4], "of another size: new ones");
        assert_eq!(kept(), [3, 4]);
        let again = CodeMemory::new(3);
        assert_eq!(*again, [7; 3], "as they were");
        assert_eq!(kept(), [4]);
        assert_eq!(*again.clone(), [7; 3]);
    }

    #[test]
    fn codes_begin_where_a_line_does() {
        for len in [0, 1, 64, 1000] {
            let codes = CodeMemory::new(len);
            assert_eq!((codes.len(), codes.as_ptr().addr() % LINE), (len, 0));
        }
    }

    #[test]
    fn codes_from_elsewhere_stay_where_they_are() {
        let codes = vec![1, 2, 3];
        let place = codes.as_ptr();
        let codes = CodeMemory::from(codes);
        assert_eq!((&*codes, codes.as_ptr()), (&[1, 2, 3][..], place));
        drop(codes);
        assert!(kept().is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        for len in 1..=20 {
            CodeMemory::new(len);
        }
        assert_eq!(kept(), [13, 14, 15, 16, 17, 18, 19, 20]);
        CodeMemory::new(MOST_BYTES - 200);
        assert_eq!(kept(), [20, MOST_BYTES - 200]);
        CodeMemory::new(MOST_BYTES + 1);
        assert_eq!(kept(), [20, MOST_BYTES - 200]);
    }
}
