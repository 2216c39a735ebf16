//! Large buffers go from one result to the next.
//!
//! An allocator gives memory of some megabytes back to the system as soon as it is free, and the system hands it out page by page, each
//! cleared first: for a layer that reads its input once, this takes longer than the layer. So the storage of a tensor that
//! nobody holds any more is kept for the next result of about its size, by the thread on which the tensor was dropped. It is public for
//! crates that add operations to the tape ([`Tensor::from_op`](crate::Tensor::from_op)).

use std::cell::RefCell;

use crate::tensor::Values;

/// Buffers with fewer elements are left to the allocator, which keeps those itself: 256 KiB.
const SMALLEST: usize = 64 * 1024;
/// Elements that a thread keeps at most: 32 MiB.
const KEPT: usize = 8 * 1024 * 1024;

thread_local! {
    /// Buffers, the oldest first.
    static BUFFERS: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// An empty vector with room for `len` elements.
#[must_use]
pub fn with_capacity(len: usize) -> Vec<f32> {
    let mut buffer = take(len).unwrap_or_else(|| Vec::with_capacity(len));
    buffer.clear();
    buffer
}

/// `len` elements that hold anything, to be written.
#[must_use]
pub fn anything(len: usize) -> Vec<f32> {
    match take(len) {
        Some(mut buffer) => {
            buffer.resize(len, 0.0);
            buffer
        }
        // Zeros that the system clears anyway cost nothing more.
        None => vec![0.0; len],
    }
}

/// A kept buffer that is large enough, and not so large that most of it would be idle.
fn take(len: usize) -> Option<Vec<f32>> {
    if len < SMALLEST {
        return None;
    }
    // A thread that ends has no buffers any more.
    let taken = BUFFERS.try_with(|buffers| {
        let mut buffers = buffers.try_borrow_mut().ok()?;
        let fits = |buffer: &Vec<f32>| (len..=2 * len).contains(&buffer.capacity());
        let index = buffers.iter().rposition(fits)?;
        Some(buffers.remove(index))
    });
    taken.ok().flatten()
}

/// Keeps the storage of `values` if it is large and nobody else holds it.
pub(crate) fn keep(values: &mut Values) {
    if values.len() < SMALLEST {
        return;
    }
    let empty = ndarray::ArrayD::default(ndarray::IxDyn(&[0])).into_shared();
    let Ok(array) = std::mem::replace(values, empty).try_into_owned_nocopy() else {
        return;
    };
    give(array.into_raw_vec_and_offset().0);
}

/// Keeps a buffer that is no tensor's for the next result, if it is large; it is freed otherwise.
pub fn give(buffer: Vec<f32>) {
    if !(SMALLEST..=KEPT).contains(&buffer.capacity()) {
        return;
    }
    _ = BUFFERS.try_with(|buffers| {
        let Ok(mut buffers) = buffers.try_borrow_mut() else {
            return;
        };
        buffers.push(buffer);
        let mut kept: usize = buffers.iter().map(Vec::capacity).sum();
        let mut oldest = 0;
        while kept > KEPT {
            kept -= buffers[oldest].capacity();
            oldest += 1;
        }
        buffers.drain(..oldest);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;

    fn kept() -> usize {
        BUFFERS.with_borrow(|buffers| buffers.iter().map(Vec::capacity).sum())
    }

    #[test]
    fn the_storage_of_a_dropped_tensor_is_used_again() {
        let tensor = Tensor::new(vec![7.0; SMALLEST], &[SMALLEST]).expect("as many");
        let snapshot = tensor.array();
        drop(tensor);
        assert_eq!(kept(), 0, "somebody still holds it");
        drop(Tensor::from_array(snapshot));
        assert_eq!(kept(), SMALLEST);
        // Too small and too large for it.
        assert_eq!(with_capacity(SMALLEST / 2 - 1).len(), 0);
        assert_eq!(anything(SMALLEST + 1).len(), SMALLEST + 1);
        assert_eq!(kept(), SMALLEST);
        assert_eq!(anything(SMALLEST), [7.0; SMALLEST]);
        assert_eq!(kept(), 0);
    }

    #[test]
    fn a_thread_keeps_no_more_than_its_limit_and_lets_the_oldest_go() {
        for len in [KEPT / 2, KEPT / 4, KEPT / 2, KEPT + 1] {
            drop(Tensor::from_array(ndarray::ArrayD::zeros(ndarray::IxDyn(
                &[len],
            ))));
            assert!(kept() <= KEPT);
        }
        assert_eq!(kept(), KEPT / 4 + KEPT / 2);
    }

    #[test]
    fn results_in_used_storage_are_those_in_fresh_storage() {
        let x = Tensor::randn(&[16, 3, 40, 40], &mut rand_chacha_of(1));
        let weight = Tensor::randn(&[8, 3, 3, 3], &mut rand_chacha_of(2));
        let run = || {
            let options = crate::Conv2dOptions {
                padding: [1, 1],
                ..crate::Conv2dOptions::default()
            };
            let y = x.conv2d(&weight, None, options).expect("it fits");
            let y = y.relu();
            let pooled = y.max_pool2d(crate::Pool2dOptions::square(2));
            (y.to_vec(), pooled.expect("it fits").to_vec())
        };
        let fresh = run();
        drop(&Tensor::full(&[16 * 8 * 40 * 40], f32::NAN) + 1.0);
        assert!(kept() > 0);
        assert_eq!(run(), fresh);
    }

    fn rand_chacha_of(seed: u64) -> rand_chacha::ChaCha8Rng {
        rand::SeedableRng::seed_from_u64(seed)
    }
}
