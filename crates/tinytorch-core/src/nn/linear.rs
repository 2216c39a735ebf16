//! The fully connected layer.

use std::any::Any;

use rand::Rng;

use tinytorch_kernels::{MatrixRef, PackedF32};

use super::derived::Derived;
use super::fused::{self, Dense};
use super::{Layer, initial, weight_and_bias};
use crate::error::{Error, Result};
use crate::ops::standard;
use crate::tape::is_recording;
use crate::tensor::Tensor;

/// `y = x · weightᵀ + bias`
///
/// | tensor   | shape        |
/// |----------|--------------|
/// | `x`      | `[.., in]`   |
/// | `weight` | `[out, in]`  |
/// | `bias`   | `[out]`      |
/// | `y`      | `[.., out]`  |
///
/// Under [`no_grad`](crate::no_grad) the layer computes with a copy of its weight in the order in which products read it. The copy is made
/// by the first such call after each change of the weight, and takes as much memory as the weight again. Each row's result then
/// depends neither on the rest of the batch nor on threads; up to 16 rows it can differ in the last bits from what is
/// computed with a tape, which sums in another order.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    packed: Derived<PackedF32>,
}

impl Linear {
    /// A layer with a bias; all numbers drawn uniformly within `1 / √in_features`.
    pub fn new(in_features: usize, out_features: usize, rng: &mut (impl Rng + ?Sized)) -> Self {
        let weight = initial(&[out_features, in_features], in_features, rng);
        let bias = Some(initial(&[out_features], in_features, rng));
        Self {
            weight,
            bias,
            packed: Derived::default(),
        }
    }

    /// A layer without a bias.
    pub fn without_bias(
        in_features: usize,
        out_features: usize,
        rng: &mut (impl Rng + ?Sized),
    ) -> Self {
        Self {
            weight: initial(&[out_features, in_features], in_features, rng),
            bias: None,
            packed: Derived::default(),
        }
    }

    /// A layer with these values, which it trains.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the weight is not `[out, in]` or the bias not `[out]`.
    pub fn from_parts(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        let operation = "linear";
        let &[outputs, _] = weight.shape() else {
            let expected = "a weight of shape [out, in]".to_owned();
            return Err(Error::Shape {
                operation,
                expected,
                got: weight.shape().to_vec(),
            });
        };
        if let Some(bias) = &bias
            && bias.shape() != [outputs]
        {
            let expected = format!("a bias of shape [{outputs}]");
            return Err(Error::Shape {
                operation,
                expected,
                got: bias.shape().to_vec(),
            });
        }
        Ok(Self {
            weight: weight.with_grad(),
            bias: bias.map(Tensor::with_grad),
            packed: Derived::default(),
        })
    }

    /// `[out, in]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// `[out]`, if there is one.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// The number of inputs.
    pub fn in_features(&self) -> usize {
        self.weight.shape()[1]
    }

    /// The number of outputs.
    pub fn out_features(&self) -> usize {
        self.weight.shape()[0]
    }

    /// What this layer computes without a tape.
    pub(super) fn dense(&self) -> Dense {
        let (outputs, inputs) = (self.out_features(), self.in_features());
        let packed = self.packed.get([&self.weight], |[weight]| {
            let columns = MatrixRef::row_major(weight, inputs).transposed();
            PackedF32::new(inputs, outputs, columns)
        });
        Dense {
            packed,
            bias: self.bias.as_ref().map(|bias| standard(&bias.array())),
            relu: false,
        }
    }
}

impl Layer for Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        // A tape needs the operation, and an error its message.
        if is_recording() || x.shape().last() != Some(&self.in_features()) {
            return x.linear(&self.weight, self.bias.as_ref());
        }
        Ok(fused::rows(&[self.dense()], x))
    }

    fn kind(&self) -> &'static str {
        "linear"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn own_parameters(&self) -> Vec<(String, Tensor)> {
        weight_and_bias(&self.weight, self.bias.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn worked_example() -> Result<()> {
        let weight = Tensor::new(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3])?;
        let layer = Linear::from_parts(weight, Some(Tensor::new(vec![0.5, -0.5], &[2])?))?;
        let y = layer.forward(&Tensor::new(vec![1.0, 0.0, -1.0], &[1, 3])?)?;
        assert_eq!(y.to_vec(), [1.0 - 3.0 + 0.5, 4.0 - 6.0 - 0.5]);
        Ok(())
    }

    #[test]
    fn a_wrong_number_of_features_shows_the_product_that_was_meant() {
        let layer = Linear::new(64, 10, &mut ChaCha8Rng::seed_from_u64(0));
        let error = layer
            .forward(&Tensor::zeros(&[8, 63]))
            .expect_err("63 is not 64");
        assert_eq!(
            error.to_string(),
            "shape mismatch in linear: [8, 63] · [64, 10]"
        );
    }

    #[test]
    fn weights_start_within_one_over_the_root_of_the_inputs() {
        let layer = Linear::new(100, 50, &mut ChaCha8Rng::seed_from_u64(0));
        let weights = layer.weight().to_vec();
        assert!(weights.iter().all(|w| w.abs() <= 0.1));
        // 5000 draws: the chance that none falls in the outer tenth is 0.9^5000.
        assert!(weights.iter().any(|w| w.abs() > 0.09));
        assert_eq!(layer.parameter_count(), 5050);
    }
}
