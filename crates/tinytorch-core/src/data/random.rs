//! Random choices that stay the same for ever: same seed, same numbers, whatever the batch, thread or release.
//!
//! The seed of a choice *names* it: (seed, purpose, epoch, example). Nothing has a state that must be
//! carried along, so the 7th epoch is drawn the same whether or not the first six were.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What a stream of random numbers is for; keeps streams with equal seeds apart.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    Split = 1,
    Shuffle = 2,
    Transform = 3,
}

/// The generator of one choice. The four numbers are the ChaCha key itself, so distinct choices
/// get unrelated streams.
pub(crate) fn generator(seed: u64, purpose: Purpose, epoch: u64, example: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (bytes, word) in
        key.as_chunks_mut::<8>()
            .0
            .iter_mut()
            .zip([seed, purpose as u64, epoch, example])
    {
        *bytes = word.to_le_bytes();
    }
    ChaCha8Rng::from_seed(key)
}

/// A number in `0..bound`.
///
/// Written out here because `rand` may change its way from release to release, and then a fixed split would
/// not be fixed. The bias of the multiplication is below bound / 2^64.
pub(crate) fn below(rng: &mut ChaCha8Rng, bound: usize) -> usize {
    ((u128::from(rng.next_u64()) * bound as u128) >> 64) as usize
}

/// Puts the items in random order. Source: D. Knuth, TAOCP 2, section 3.4.2, algorithm P.
pub(crate) fn shuffle<T>(items: &mut [T], rng: &mut ChaCha8Rng) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(rng, last + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffle_is_a_permutation_that_only_its_seed_decides() {
        let shuffled = |seed| {
            let mut items: Vec<u32> = (0..100).collect();
            shuffle(&mut items, &mut generator(seed, Purpose::Shuffle, 0, 0));
            items
        };
        assert_eq!(shuffled(1), shuffled(1));
        assert_ne!(shuffled(1), shuffled(2));
        let mut sorted = shuffled(1);
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..100));
    }

    #[test]
    fn the_streams_of_two_purposes_differ() {
        let first = |purpose| generator(7, purpose, 0, 0).next_u64();
        assert_ne!(first(Purpose::Split), first(Purpose::Shuffle));
    }

    #[test]
    fn below_reaches_every_value_about_equally_often() {
        let mut rng = generator(3, Purpose::Split, 0, 0);
        let mut counts = [0_u32; 6];
        for _ in 0..6000 {
            counts[below(&mut rng, 6)] += 1;
        }
        // Binomial with n = 6000, p = 1/6: standard deviation sqrt(6000 · 1/6 · 5/6) = 29; 5 of them.
        assert!(counts.iter().all(|&c| c.abs_diff(1000) < 145), "{counts:?}");
    }
}
