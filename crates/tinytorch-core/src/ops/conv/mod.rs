//! Convolution, lowered to products of matrices.
//!
//! The windows of a few images become the columns of a matrix that stays in the cache, and the convolution the product
//! of the kernels with it:
//!
//! ```text
//! output [out, windows] = weight [out, in · kernel] · columns [in · kernel, windows]
//! ```
//!
//! Images are shared out among threads in parts whose size depends on shapes only, and what the parts contribute to
//! the gradient of the weight is added in their order: the bits do not depend on the number of threads.

mod part;
mod plan;

use ndarray::ArrayD;
use rayon::prelude::*;

use self::part::{backward_part, forward_part};
use self::plan::Plan;
use crate::error::{Error, Result};
use crate::ops::broadcast::sum;
use crate::ops::{array_of, slice, standard};
use crate::recycle;
use crate::tape::records;
use crate::tensor::{Tensor, Values};

/// How a convolution moves. Pairs are `[height, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dOptions {
    /// Distance between neighbouring windows.
    pub stride: [usize; 2],
    /// Zeros added on each side.
    pub padding: [usize; 2],
    /// Into how many independent parts channels are split.
    pub groups: usize,
}

impl Default for Conv2dOptions {
    fn default() -> Self {
        Self {
            stride: [1, 1],
            padding: [0, 0],
            groups: 1,
        }
    }
}

fn forward(plan: &Plan, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let mut output = recycle::anything(plan.window.batch * plan.out_len());
    let part = plan.part();
    let (in_part, out_part) = (
        (part * plan.image_len()).max(1),
        (part * plan.out_len()).max(1),
    );
    let run = |(x, output): (&[f32], &mut [f32])| forward_part(plan, x, weight, bias, output);
    if plan.is_parallel() {
        x.par_chunks(in_part)
            .zip(output.par_chunks_mut(out_part))
            .for_each(run);
    } else {
        x.chunks(in_part)
            .zip(output.chunks_mut(out_part))
            .for_each(run);
    }
    output
}

/// Some images, the gradient of their output, and where that of the images goes if it is wanted.
type Part<'a> = ((&'a [f32], &'a [f32]), Option<&'a mut [f32]>);

/// The gradients of `x` and of the weight, each if wanted.
fn backward(
    plan: &Plan,
    x: &[f32],
    weight: &[f32],
    gradient: &[f32],
    [wants_x, wants_weight]: [bool; 2],
) -> (Option<Vec<f32>>, Option<Vec<f32>>) {
    let part = plan.part();
    let (in_part, out_part) = (
        (part * plan.image_len()).max(1),
        (part * plan.out_len()).max(1),
    );
    let mut dx = vec![0.0; if wants_x { x.len() } else { 0 }];
    let dxs = dx
        .chunks_mut(in_part)
        .map(Some)
        .chain(std::iter::repeat_with(|| None));
    let parts: Vec<_> = x
        .chunks(in_part)
        .zip(gradient.chunks(out_part))
        .zip(dxs)
        .collect();
    let run =
        |((x, gradient), dx): Part<'_>| backward_part(plan, x, weight, gradient, dx, wants_weight);
    let partial: Vec<Vec<f32>> = if plan.is_parallel() {
        parts.into_par_iter().map(run).collect()
    } else {
        parts.into_iter().map(run).collect()
    };
    let dw = wants_weight.then(|| {
        let mut total = vec![0.0; weight.len()];
        for partial in partial {
            total
                .iter_mut()
                .zip(partial)
                .for_each(|(total, part)| *total += part);
        }
        total
    });
    (wants_x.then_some(dx), dw)
}

/// The gradient of the bias: the sum over images and places, channel by channel.
pub(crate) fn sum_per_channel(values: &[f32], channels: usize, plane: usize) -> Vec<f64> {
    let mut sums = vec![0f64; channels];
    for (i, values) in values.chunks_exact(plane.max(1)).enumerate() {
        sums[i % channels] += sum(values);
    }
    sums
}

impl Tensor {
    /// Slides kernels over images (a cross-correlation, as all frameworks have it).
    ///
    /// | argument | shape                                            |
    /// |----------|--------------------------------------------------|
    /// | `self`   | `[batch, in, height, width]`                     |
    /// | `weight` | `[out, in / groups, kernel height, kernel width]`|
    /// | `bias`   | `[out]`                                          |
    /// | result   | `[batch, out, out height, out width]`            |
    ///
    /// # Errors
    ///
    /// [`Error::Shape`], [`Error::ShapeMismatch`] or [`Error::Argument`] if the arguments do not have these shapes, the
    /// groups do not divide the channels, or the padded image is smaller than the kernel.
    pub fn conv2d(
        &self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        options: Conv2dOptions,
    ) -> Result<Tensor> {
        let plan = Plan::new(self.shape(), weight.shape(), options)?;
        if let Some(bias) = bias
            && bias.shape() != [plan.outputs]
        {
            let (left, right) = (weight.shape().to_vec(), bias.shape().to_vec());
            return Err(Error::ShapeMismatch {
                operation: "conv2d",
                left,
                right,
            });
        }
        let (x, weights) = (standard(&self.array()), standard(&weight.array()));
        let biases: Option<Values> = bias.map(|bias| standard(&bias.array()));
        let output = forward(
            &plan,
            slice(&x),
            slice(&weights),
            biases.as_ref().map(slice),
        );
        let [height, width] = plan.window.out;
        let output = array_of(output, &[plan.window.batch, plan.outputs, height, width]);
        let inputs: Vec<&Tensor> = [self, weight].into_iter().chain(bias).collect();
        if !records(&inputs) {
            return Ok(Tensor::from_array(output));
        }
        let wanted: Vec<bool> = inputs.iter().map(|input| input.requires_grad()).collect();
        Ok(Tensor::recorded(
            "conv2d",
            output,
            &inputs,
            move |gradient: ArrayD<f32>| {
                let gradient = standard(&gradient.into_shared());
                let gradient = slice(&gradient);
                let wants = [wanted[0], wanted[1]];
                let (dx, dw) = backward(&plan, slice(&x), slice(&weights), gradient, wants);
                let mut gradients = vec![
                    dx.map(|dx| array_of(dx, x.shape())),
                    dw.map(|dw| array_of(dw, weights.shape())),
                ];
                if let Some(&wanted) = wanted.get(2) {
                    gradients.push(wanted.then(|| {
                        let sums = sum_per_channel(gradient, plan.outputs, plan.window.out_plane());
                        let sums = sums.into_iter().map(|sum| sum as f32).collect();
                        array_of(sums, &[plan.outputs])
                    }));
                }
                Ok(gradients)
            },
        ))
    }
}
