//! Memory of codes between layers, kept by a thread for its next call.
//!
//! A model makes codes of the same sizes in every call. Fresh ones would be cleared each time, and for large images their pages
//! fetched from the system, only to be overwritten whole.

use std::cell::RefCell;

/// How many a thread keeps: a model gives back one for each layer.
const MOST: usize = 8;
/// Bytes that a thread keeps at most.
const MOST_BYTES: usize = 32 << 20;

thread_local! {
    /// The last ones given back, the newest at the end.
    static KEPT: RefCell<Vec<Vec<i8>>> = const { RefCell::new(Vec::new()) };
}

/// `len` codes, whatever they are: to be overwritten.
pub(crate) fn take(len: usize) -> Vec<i8> {
    KEPT.with_borrow_mut(|kept| {
        let found = kept.iter().rposition(|codes| codes.len() == len);
        found.map(|index| kept.remove(index))
    })
    .unwrap_or_else(|| vec![0; len])
}

/// Takes codes back that nobody needs any more.
pub(crate) fn give(codes: Vec<i8>) {
    if codes.is_empty() || codes.capacity() > MOST_BYTES {
        return;
    }
    KEPT.with_borrow_mut(|kept| {
        kept.push(codes);
        // The oldest go first.
        while kept.len() > MOST || kept.iter().map(Vec::capacity).sum::<usize>() > MOST_BYTES {
            kept.remove(0);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Vec<usize> {
        KEPT.with_borrow(|kept| kept.iter().map(Vec::len).collect())
    }

    #[test]
    fn codes_of_a_size_come_back() {
        assert_eq!(take(3), [0; 3]);
        give(vec![7; 3]);
        assert_eq!(take(4), [0; 4], "of another size: new ones");
        assert_eq!(kept(), [3]);
        assert_eq!(take(3), [7; 3], "as they were");
        assert!(kept().is_empty());
        give(vec![]);
        assert!(kept().is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        for len in 1..=20 {
            give(vec![1; len]);
        }
        assert_eq!(kept(), [13, 14, 15, 16, 17, 18, 19, 20]);
        give(vec![0; MOST_BYTES - 20]);
        assert_eq!(kept(), [20, MOST_BYTES - 20]);
        give(vec![0; MOST_BYTES + 1]);
        assert_eq!(kept(), [20, MOST_BYTES - 20]);
    }
}
