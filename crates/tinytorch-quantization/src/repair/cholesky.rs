//! The one piece of linear algebra that learned rounding needs: `A = Uᵀ·U` for a symmetric positive definite `A`.
//!
//! In: a small dense matrix in `f64`. Out: its upper triangular factor, and solutions of `A·x = b`. Rows of the factor
//! are contiguous, so every loop here runs along memory.

/// The factor `U`, upper triangular, of `A = Uᵀ·U`.
#[derive(Clone, Debug)]
pub(crate) struct Cholesky {
    size: usize,
    /// Row-major, `[size, size]`; below the diagonal it is not read.
    upper: Vec<f64>,
}

impl Cholesky {
    /// Factors `matrix`, `[size, size]` in row-major order, of which only the upper half is read.
    ///
    /// `None` if it is not positive definite, to the precision of `f64`: a pivot is not above zero.
    pub fn new(matrix: &[f64], size: usize) -> Option<Self> {
        let mut upper = matrix.to_vec();
        for i in 0..size {
            let (done, rest) = upper.split_at_mut((i + 1) * size);
            let row = &mut done[i * size..];
            // A comparison that a NaN fails as well.
            if !(row[i] > 0.0 && row[i].is_finite()) {
                return None;
            }
            let pivot = row[i].sqrt();
            for value in &mut row[i..] {
                *value /= pivot;
            }
            for (below, other) in rest.chunks_exact_mut(size).enumerate() {
                let j = i + 1 + below;
                let factor = row[j];
                for (value, above) in other[j..].iter_mut().zip(&row[j..]) {
                    *value -= factor * above;
                }
            }
        }
        Some(Self { size, upper })
    }

    /// Row `i` from the diagonal on: `U[i, i..]`.
    pub fn row(&self, i: usize) -> &[f64] {
        &self.upper[i * self.size + i..(i + 1) * self.size]
    }

    /// Solves `A·x = b` in place.
    pub fn solve(&self, b: &mut [f64]) {
        for i in 0..self.size {
            let row = self.row(i);
            b[i] /= row[0];
            let known = b[i];
            for (value, factor) in b[i + 1..].iter_mut().zip(&row[1..]) {
                *value -= factor * known;
            }
        }
        for i in (0..self.size).rev() {
            let row = self.row(i);
            let later: f64 = row[1..].iter().zip(&b[i + 1..]).map(|(u, x)| u * x).sum();
            b[i] = (b[i] - later) / row[0];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hand_computed_factor() {
        // [[4, 2], [2, 5]] = Uᵀ·U with U = [[2, 1], [0, 2]].
        let factor = Cholesky::new(&[4.0, 2.0, 2.0, 5.0], 2).expect("positive definite");
        assert_eq!(
            (factor.row(0), factor.row(1)),
            (&[2.0, 1.0][..], &[2.0][..])
        );
        let mut b = [8.0, 12.0];
        factor.solve(&mut b);
        assert_eq!(b, [1.0, 2.0]);
    }

    #[test]
    fn what_is_not_positive_definite_has_none() {
        assert!(Cholesky::new(&[1.0, 2.0, 2.0, 1.0], 2).is_none());
        assert!(Cholesky::new(&[f64::NAN], 1).is_none());
        assert!(Cholesky::new(&[0.0], 1).is_none());
        assert!(Cholesky::new(&[], 0).is_some());
    }
}
