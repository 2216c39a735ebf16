//! Sums.

/// Adds up.
pub struct Summer;

impl Summer {
    /// The sum.
    ///
    /// # Errors
    ///
    /// If it does not fit.
    pub fn sum(&self, values: &[i32]) -> Result<i32, Overflow> {
        // BEGIN SOLUTION 1.2a
        todo!("exercise 1.2a")
        // END SOLUTION
    }

    /// The sum, divided by how many there are; `None` without values.
    pub fn mean(&self, values: &[i32]) -> Option<f32> {
        // BEGIN SOLUTION 1.2b
        todo!("exercise 1.2b")
        // END SOLUTION
    }
}

/// The sum does not fit.
#[derive(Debug, PartialEq)]
pub struct Overflow;

impl std::fmt::Display for Overflow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the sum does not fit")
    }
}
