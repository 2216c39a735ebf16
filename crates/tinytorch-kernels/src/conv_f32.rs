//! The `f32` convolution, channels last, with its weights packed once.
//!
//! A convolution is a product whose left matrix is the image: the row of a result's pixel is what its window sees. In a copy
//! of the image that has its padding, the elements of a window lie at the same distances from its corner whatever the
//! pixel, so the product reads them where they are, through one table of distances ("indirect convolution"): no im2col
//! matrix exists, and the border is no special case. Depthwise convolutions have too few weights for a product and take a
//! path of their own.
//!
//! Source: Dukhan, "The Indirect Convolution Algorithm", 2019, arXiv 1907.02129; here distances take the place of pointers.
//!
//! Every element is summed over kernel rows, kernel columns and channels, in this order, as [`PackedF32`] sums along `k`:
//! its bits depend neither on threads nor on the rest of the batch.

mod depthwise;
#[cfg(test)]
mod tests;
mod windows;

use std::sync::{Arc, PoisonError, RwLock};

use crate::gemm_f32::packed::{Finish, PackedF32};
use crate::gemm_f32::{MatrixRef, Threads};
use crate::gemm_i8::block::BlockMut;
use crate::{Conv2dShape, Images, elements};
use depthwise::Depthwise;
use windows::{Geometry, with_padded};

/// The weights of an `f32` convolution, packed once.
#[derive(Debug)]
pub struct PackedConv2dF32 {
    shape: Conv2dShape,
    weights: Weights,
    /// Where windows are in images of the last size.
    geometry: RwLock<Option<Arc<Geometry>>>,
}

#[derive(Debug)]
enum Weights {
    /// One product per group.
    Groups(Vec<PackedF32>),
    /// One channel in and one out in each group.
    Depthwise(Depthwise),
}

impl PackedConv2dF32 {
    /// Packs `weights`, `[out, in / groups, kernel height, kernel width]`, as layers keep them.
    ///
    /// # Panics
    ///
    /// If the shape contradicts itself or has no channels, or `weights` does not have its size.
    #[track_caller]
    pub fn new(shape: Conv2dShape, weights: &[f32]) -> Self {
        shape.check();
        let (taps, outputs) = (shape.taps(), shape.out_channels / shape.groups);
        assert_eq!(
            Some(weights.len()),
            elements([shape.out_channels, taps]),
            "weights must be [{}, {taps}]",
            shape.out_channels
        );
        let depthwise = shape.groups > 1 && outputs == 1 && shape.in_channels == shape.groups;
        let weights = if depthwise {
            Weights::Depthwise(Depthwise::new(shape.groups, taps, weights))
        } else {
            let group = |weights: &[f32]| {
                let columns = channels_last_weights(&shape, weights);
                let columns = MatrixRef::row_major(&columns, taps).transposed();
                PackedF32::new(taps, outputs, columns)
            };
            Weights::Groups(weights.chunks_exact(outputs * taps).map(group).collect())
        };
        Self {
            shape,
            weights,
            geometry: RwLock::new(None),
        }
    }

    /// What it does.
    pub fn shape(&self) -> Conv2dShape {
        self.shape
    }

    /// Bytes of the packed weights.
    pub fn bytes(&self) -> usize {
        match &self.weights {
            Weights::Groups(groups) => groups.iter().map(PackedF32::bytes).sum(),
            Weights::Depthwise(weights) => weights.bytes(),
        }
    }

    /// Convolves images, with what `finish` says; its bias is `[out channels]` or empty, and what normalizes
    /// `[out channels]`.
    ///
    /// | argument | shape                                          |
    /// |----------|------------------------------------------------|
    /// | `input`  | `[batch, height, width, in channels]`          |
    /// | `out`    | `[batch, out height, out width, out channels]` |
    ///
    /// # Panics
    ///
    /// If a slice does not have its shape, or the window does not fit.
    #[track_caller]
    pub fn run(
        &self,
        images: Images,
        input: &[f32],
        finish: Finish<'_>,
        out: &mut [f32],
        threads: Threads,
    ) {
        let Conv2dShape {
            in_channels,
            out_channels,
            groups,
            kernel,
            ..
        } = self.shape;
        let Images {
            batch,
            height,
            width,
        } = images;
        let Some([out_height, out_width]) = self.shape.output_size([height, width]) else {
            panic!("the window {kernel:?} does not fit images of [{height}, {width}]")
        };
        assert_eq!(
            Some(input.len()),
            elements([batch, height, width, in_channels]),
            "input must be [{batch}, {height}, {width}, {in_channels}]"
        );
        assert_eq!(
            Some(out.len()),
            elements([batch, out_height, out_width, out_channels]),
            "out must be [{batch}, {out_height}, {out_width}, {out_channels}]"
        );
        assert!(
            finish.bias.is_empty() || finish.bias.len() == out_channels,
            "bias must be [{out_channels}] or empty"
        );
        if let Some(normalize) = finish.normalize {
            normalize.check(out_channels);
        }
        if out.is_empty() {
            return;
        }
        let geometry = self.geometry([height, width]);
        let pixels = out_height * out_width;
        with_padded(&geometry, input, batch, |image, padded| {
            let out = &mut out[image * pixels * out_channels..][..pixels * out_channels];
            match &self.weights {
                Weights::Depthwise(weights) => {
                    let out = BlockMut::new(out, pixels, 0, out_channels, out_channels);
                    weights.run(&geometry, padded, finish, out, threads);
                }
                Weights::Groups(weights) => {
                    let (inputs, outputs) = (in_channels / groups, out_channels / groups);
                    for (group, weights) in weights.iter().enumerate() {
                        let channels = group * outputs..(group + 1) * outputs;
                        let finish = Finish {
                            bias: finish.bias.get(channels.clone()).unwrap_or_default(),
                            normalize: finish.normalize.map(|all| all.columns(channels.clone())),
                            ..finish
                        };
                        let windows = geometry.windows(&padded[group * inputs..]);
                        let out = BlockMut::new(out, pixels, channels.start, outputs, out_channels);
                        weights.run(windows, finish, out, threads);
                    }
                }
            }
        });
    }

    /// The geometry for images of this size, computed again only if that of the last call is another's.
    fn geometry(&self, size: [usize; 2]) -> Arc<Geometry> {
        let last = self.geometry.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(geometry) = &*last
            && geometry.is_for(size)
        {
            return geometry.clone();
        }
        drop(last);
        let pixel = match &self.weights {
            Weights::Groups(_) => self.shape.in_channels,
            Weights::Depthwise(weights) => weights.pixel(),
        };
        let geometry = Arc::new(Geometry::new(&self.shape, size, pixel));
        let mut last = self
            .geometry
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *last = Some(geometry.clone());
        geometry
    }
}

/// `[out, in, kernel height, kernel width]` to `[out, kernel height, kernel width, in]`, for one group.
fn channels_last_weights(shape: &Conv2dShape, weights: &[f32]) -> Vec<f32> {
    let taps = shape.kernel[0] * shape.kernel[1];
    let channels = shape.in_channels / shape.groups;
    let mut reordered = Vec::with_capacity(weights.len());
    for output in weights.chunks_exact(channels * taps) {
        for tap in 0..taps {
            reordered.extend(output.iter().skip(tap).step_by(taps));
        }
    }
    reordered
}
