//! The state of a random generator, to be saved and continued.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

/// Where in which sequence a [`ChaCha8Rng`] is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RngState {
    /// The key of the sequence.
    pub seed: [u8; 32],
    /// Which of the sequences with this key.
    pub stream: u64,
    /// How many 32-bit words have been drawn.
    pub word_position: u128,
}

impl RngState {
    /// The state of a generator.
    pub fn of(rng: &ChaCha8Rng) -> Self {
        Self {
            seed: rng.get_seed(),
            stream: rng.get_stream(),
            word_position: rng.get_word_pos(),
        }
    }

    /// A generator that continues from this state.
    pub fn to_rng(&self) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::from_seed(self.seed);
        rng.set_stream(self.stream);
        rng.set_word_pos(self.word_position);
        rng
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn a_saved_generator_continues_its_sequence() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        // An odd number of words, so that the state is inside a block.
        for _ in 0..37 {
            rng.next_u32();
        }
        let mut continued = RngState::of(&rng).to_rng();
        assert_eq!(rng.next_u64(), continued.next_u64());
    }
}
