//! Halves.

use crate::given::TWO;

/// Half of every value.
pub fn half(values: &[f32]) -> Vec<f32> {
    // BEGIN SOLUTION 1.1
    todo!("exercise 1.1")
    // END SOLUTION
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_three_is_one_and_a_half() {
        assert_eq!(half(&[3.0, TWO]), [1.5, 1.0]);
    }
}
