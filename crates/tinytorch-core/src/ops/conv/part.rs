//! The convolution of some images, on one thread: forwards and backwards.

use std::cell::RefCell;
use std::mem;

use tinytorch_kernels::{Accumulate, Dims, MatrixMut, MatrixRef, gemm_f32};

use super::plan::{Block, Plan};

thread_local! {
    /// Lowered columns and outputs before they are put in place: kept, because fresh pages cost more than the copy.
    static SCRATCH: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// Lends two buffers that hold anything.
fn with_scratch<R>(lengths: [usize; 2], body: impl FnOnce(&mut [f32], &mut [f32]) -> R) -> R {
    let mut buffers = SCRATCH.take();
    for (buffer, length) in buffers.iter_mut().zip(lengths) {
        if buffer.len() < length {
            buffer.resize(length, 0.0);
        }
    }
    let [first, second] = &mut buffers;
    let result = body(&mut first[..lengths[0]], &mut second[..lengths[1]]);
    SCRATCH.set(mem::take(&mut buffers));
    result
}

/// The output of some images: `x [images, in, ..]` to `output [images, out, ..]`.
pub(super) fn forward_part(
    plan: &Plan,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    output: &mut [f32],
) {
    let (m, k) = (plan.outputs / plan.groups, plan.depth());
    let plane = plan.window.out_plane();
    let images = output.len() / plan.out_len();
    with_scratch(plan.scratch(), |columns, product| {
        plan.for_each_block(images, |images, rows| {
            let block = Block::new(plan, images, rows);
            let dims = Dims {
                m,
                n: block.columns,
                k,
            };
            for group in 0..plan.groups {
                let weight = MatrixRef::row_major(&weight[group * m * k..][..m * k], k);
                let lowered = plan.lower(x, &block, group, columns);
                let channels = group * m..(group + 1) * m;
                if block.images.len() == 1 {
                    let start = block.start(plan, block.images.start, group * m);
                    let output = &mut output[start..];
                    let accumulate = match bias {
                        None => Accumulate::Overwrite,
                        Some(bias) => {
                            let lines = output.chunks_mut(plane).zip(&bias[channels]);
                            lines.for_each(|(line, &b)| line[..block.columns].fill(b));
                            Accumulate::Add
                        }
                    };
                    let output = MatrixMut {
                        data: output,
                        row_stride: plane,
                    };
                    gemm_f32(dims, weight, lowered, output, accumulate, plan.threads);
                    continue;
                }
                let product = &mut product[..m * dims.n];
                let into = MatrixMut::row_major(product, dims.n);
                gemm_f32(
                    dims,
                    weight,
                    lowered,
                    into,
                    Accumulate::Overwrite,
                    plan.threads,
                );
                for (channel, line) in channels.zip(product.chunks_exact(dims.n)) {
                    let bias = bias.map_or(0.0, |bias| bias[channel]);
                    let lines = block.images.clone().zip(line.chunks_exact(block.per_image));
                    for (image, line) in lines {
                        let start = block.start(plan, image, channel);
                        let output = &mut output[start..start + line.len()];
                        output
                            .iter_mut()
                            .zip(line)
                            .for_each(|(to, &from)| *to = from + bias);
                    }
                }
            }
        });
    });
}

/// What some images contribute: their `dx` is written, and the gradient of the weight, if wanted, returned.
pub(super) fn backward_part(
    plan: &Plan,
    x: &[f32],
    weight: &[f32],
    gradient: &[f32],
    mut dx: Option<&mut [f32]>,
    wants_weight: bool,
) -> Vec<f32> {
    let (m, k) = (plan.outputs / plan.groups, plan.depth());
    let plane = plan.window.out_plane();
    let images = gradient.len() / plan.out_len();
    let mut dw = vec![0.0; if wants_weight { weight.len() } else { 0 }];
    let mut gathered = Vec::new();
    with_scratch(plan.scratch(), |columns, back| {
        plan.for_each_block(images, |images, rows| {
            let block = Block::new(plan, images, rows);
            let n = block.columns;
            for group in 0..plan.groups {
                let g = if block.images.len() == 1 {
                    let start = block.start(plan, block.images.start, group * m);
                    MatrixRef {
                        data: &gradient[start..],
                        row_stride: plane,
                        column_stride: 1,
                    }
                } else {
                    gathered.clear();
                    for channel in group * m..(group + 1) * m {
                        for image in block.images.clone() {
                            let start = block.start(plan, image, channel);
                            gathered.extend_from_slice(&gradient[start..start + block.per_image]);
                        }
                    }
                    MatrixRef::row_major(&gathered, n)
                };
                if wants_weight {
                    let lowered = plan.lower(x, &block, group, columns).transposed();
                    let dw = MatrixMut::row_major(&mut dw[group * m * k..][..m * k], k);
                    let dims = Dims { m, n: k, k: n };
                    gemm_f32(dims, g, lowered, dw, Accumulate::Add, plan.threads);
                }
                if let Some(dx) = dx.as_deref_mut() {
                    let weight = MatrixRef::row_major(&weight[group * m * k..][..m * k], k);
                    let weight = weight.transposed();
                    let dims = Dims { m: k, n, k: m };
                    let overwrite = Accumulate::Overwrite;
                    if let Some(start) = plan.direct(&block, group) {
                        let into = MatrixMut {
                            data: &mut dx[start..],
                            row_stride: plane,
                        };
                        gemm_f32(dims, weight, g, into, overwrite, plan.threads);
                        continue;
                    }
                    let back = &mut back[..k * n];
                    let into = MatrixMut::row_major(back, n);
                    gemm_f32(dims, weight, g, into, overwrite, plan.threads);
                    let channels = plan.window.channels / plan.groups * plan.window.plane();
                    for (i, image) in block.images.clone().enumerate() {
                        let start = image * plan.image_len() + group * channels;
                        let back = &mut back[i * block.per_image..];
                        let dx = &mut dx[start..start + channels];
                        plan.window.raise(back, n, block.rows.clone(), dx);
                    }
                }
            }
        });
    });
    dw
}
