//! A table of vectors, one for each word.

use std::any::Any;

use rand::Rng;

use super::Layer;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Replaces each index by the row of the table that it names.
///
/// | tensor | shape |
/// |---|---|
/// | `x` | `[..]`, indices: whole numbers in `0..count`, as `f32` |
/// | `weight` | `[count, width]` |
/// | `y` | `[.., width]` |
///
/// The gradient of a row is the sum over all places where its index stood; indices have none. An `f32` holds every whole
/// number up to 2²⁴, so a larger table is refused.
///
/// Source: Bengio et al. 2003, "A Neural Probabilistic Language Model", section 2.
#[derive(Debug)]
pub struct Embedding {
    weight: Tensor,
}

/// The largest table: beyond it, neighbouring whole numbers are the same `f32`.
const MAX_COUNT: usize = 1 << 24;

impl Embedding {
    /// A table drawn from the standard normal distribution.
    pub fn new(count: usize, width: usize, rng: &mut (impl Rng + ?Sized)) -> Self {
        Self {
            weight: Tensor::randn(&[count, width], rng).with_grad(),
        }
    }

    /// A table with these values, which it trains.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the weight is not `[count, width]`, or has more than 2²⁴ rows.
    pub fn from_parts(weight: Tensor) -> Result<Self> {
        if weight.rank() != 2 || weight.shape()[0] > MAX_COUNT {
            return Err(Error::Shape {
                operation: "embedding",
                expected: format!("a weight of shape [count, width], count up to {MAX_COUNT}"),
                got: weight.shape().to_vec(),
            });
        }
        Ok(Self {
            weight: weight.with_grad(),
        })
    }

    /// `[count, width]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The number of rows.
    pub fn count(&self) -> usize {
        self.weight.shape()[0]
    }

    /// The length of a row.
    pub fn width(&self) -> usize {
        self.weight.shape()[1]
    }
}

/// Reads `x` as indices into a table of `count` rows, in row-major order.
///
/// # Errors
///
/// [`Error::Index`] if an index is not below `count`; [`Error::Argument`] with its place if a value is not a whole number,
/// or is negative, NaN or infinite.
pub fn indices(x: &Tensor, count: usize) -> Result<Vec<usize>> {
    let operation = "embedding";
    let read = |(place, &value): (usize, &f32)| {
        if !(value >= 0.0 && value.fract() == 0.0) {
            let reason = format!("{value} at index {place} is not the number of a row");
            return Err(Error::Argument { operation, reason });
        }
        // Whole and not negative; `as` saturates where it is too large, and that is refused next.
        let index = value as usize;
        if index < count {
            return Ok(index);
        }
        Err(Error::Index {
            operation,
            index,
            length: count,
        })
    };
    x.array().iter().enumerate().map(read).collect()
}

impl Layer for Embedding {
    /// # Errors
    ///
    /// Those of [`indices`].
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let rows = indices(x, self.count())?;
        let shape = [x.shape(), &[self.width()]].concat();
        self.weight.index_select(0, &rows)?.reshape(&shape)
    }

    fn kind(&self) -> &'static str {
        "embedding"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn own_parameters(&self) -> Vec<(String, Tensor)> {
        vec![("weight".to_owned(), self.weight.clone())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Embedding {
        let weight = Tensor::new(vec![0.0, 1.0, 10.0, 11.0, 20.0, 21.0], &[3, 2]);
        Embedding::from_parts(weight.expect("six values")).expect("[count, width]")
    }

    #[test]
    fn each_index_becomes_its_row_and_rows_collect_their_gradients() -> Result<()> {
        let layer = table();
        let x = Tensor::new(vec![2.0, 0.0, 2.0, 2.0], &[2, 2])?;
        let y = layer.forward(&x)?;
        assert_eq!(y.shape(), [2, 2, 2]);
        assert_eq!(y.to_vec(), [20.0, 21.0, 0.0, 1.0, 20.0, 21.0, 20.0, 21.0]);
        y.sum().backward()?;
        let gradient = layer.weight().grad().expect("leaf").to_vec();
        assert_eq!(gradient, [1.0, 1.0, 0.0, 0.0, 3.0, 3.0]);
        Ok(())
    }

    #[test]
    fn what_names_no_row_is_an_error() {
        for bad in [3.0, 0.5, -1.0, f32::NAN, f32::INFINITY, 1e20] {
            let error = table().forward(&Tensor::full(&[1], bad));
            assert!(error.is_err(), "{bad}");
        }
        let error = table().forward(&Tensor::full(&[1], 3.0));
        assert_eq!(
            error.expect_err("three rows"),
            Error::Index {
                operation: "embedding",
                index: 3,
                length: 3,
            }
        );
        // The negative zero is a zero.
        assert!(table().forward(&Tensor::full(&[1], -0.0)).is_ok());
    }

    #[test]
    fn no_indices_give_no_rows() -> Result<()> {
        assert_eq!(table().forward(&Tensor::zeros(&[0, 5]))?.shape(), [0, 5, 2]);
        Ok(())
    }
}
