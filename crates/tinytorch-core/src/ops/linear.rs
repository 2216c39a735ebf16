//! The fully connected layer as one operation: the bias goes into the product, and nothing is transposed in memory.

use tinytorch_kernels::{Dims, MatrixRef};

use crate::error::{Error, Result};
use crate::ops::broadcast::sum_to;
use crate::ops::matmul::{multiply, multiply_add};
use crate::ops::{array_of, slice, standard};
use crate::tape::records;
use crate::tensor::Tensor;

impl Tensor {
    /// `x · wᵀ + b`, the layer [`Linear`](crate::nn::Linear) as one operation.
    ///
    /// | argument | shape           |
    /// |----------|-----------------|
    /// | `self`   | `[.., in]`      |
    /// | `weight` | `[out, in]`     |
    /// | `bias`   | `[out]`         |
    /// | result   | `[.., out]`     |
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the weight is not a matrix, [`Error::ShapeMismatch`] if the other shapes do not fit it.
    pub fn linear(&self, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        linear(self, weight, bias)
    }
}

fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let &[outputs, features] = weight.shape() else {
        let expected = "a weight of shape [out, in]".to_owned();
        return Err(Error::Shape {
            operation: "linear",
            expected,
            got: weight.shape().to_vec(),
        });
    };
    let mismatch = |left: &Tensor, right: &[usize]| Error::ShapeMismatch {
        operation: "linear",
        left: left.shape().to_vec(),
        right: right.to_vec(),
    };
    if x.shape().last() != Some(&features) {
        // The product that is meant: [.., in] · [in, out].
        return Err(mismatch(x, &[features, outputs]));
    }
    if let Some(bias) = bias
        && bias.shape() != [outputs]
    {
        return Err(mismatch(bias, &[outputs]));
    }
    let leading = &x.shape()[..x.rank() - 1];
    let rows: usize = leading.iter().product();
    let shape: Vec<usize> = leading.iter().copied().chain([outputs]).collect();
    let (xs, weights) = (standard(&x.array()), standard(&weight.array()));
    let dims = Dims {
        m: rows,
        n: outputs,
        k: features,
    };
    let a = MatrixRef::row_major(slice(&xs), features);
    let b = MatrixRef::row_major(slice(&weights), features).transposed();
    let output = if let Some(bias) = bias {
        let mut output = slice(&standard(&bias.array())).repeat(rows);
        multiply_add(dims, a, b, &mut output);
        output
    } else {
        let mut output = vec![0.0; rows * outputs];
        multiply(dims, a, b, &mut output);
        output
    };
    let output = array_of(output, &shape);
    let inputs: Vec<&Tensor> = [x, weight].into_iter().chain(bias).collect();
    if !records(&inputs) {
        return Ok(Tensor::from_array(output));
    }
    let wanted: Vec<bool> = inputs.iter().map(|input| input.requires_grad()).collect();
    let x_shape = x.shape().to_vec();
    Ok(Tensor::recorded(
        "linear",
        output,
        &inputs,
        move |gradient| {
            let gradient = standard(&gradient.into_shared());
            let g = MatrixRef::row_major(slice(&gradient), outputs);
            let to_x = wanted[0].then(|| {
                let mut dx = vec![0.0; rows * features];
                let w = MatrixRef::row_major(slice(&weights), features);
                multiply(
                    Dims {
                        m: rows,
                        n: features,
                        k: outputs,
                    },
                    g,
                    w,
                    &mut dx,
                );
                array_of(dx, &x_shape)
            });
            let to_weight = wanted[1].then(|| {
                let mut dw = vec![0.0; outputs * features];
                let x = MatrixRef::row_major(slice(&xs), features);
                multiply(
                    Dims {
                        m: outputs,
                        n: features,
                        k: rows,
                    },
                    g.transposed(),
                    x,
                    &mut dw,
                );
                array_of(dw, &[outputs, features])
            });
            let mut gradients = vec![to_x, to_weight];
            if let Some(&wanted) = wanted.get(2) {
                gradients.push(wanted.then(|| sum_to(gradient.into_owned(), &[outputs])));
            }
            Ok(gradients)
        },
    ))
}
