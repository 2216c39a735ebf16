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
        values
            .iter()
            .try_fold(0i32, |sum, value| sum.checked_add(*value))
            .ok_or(Overflow)
        // END SOLUTION
    }

    /// The sum, divided by how many there are; `None` without values.
    pub fn mean(&self, values: &[i32]) -> Option<f32> {
        // BEGIN SOLUTION 1.2b
        let count = values.len() as f32;
        let sum = self.sum(values).ok()?;
        (count > 0.0).then(|| sum as f32 / count)
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
