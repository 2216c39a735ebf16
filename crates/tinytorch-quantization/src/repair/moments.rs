//! What a layer's inputs are like: sums over the calibration data from which rounding and bias are learned.
//!
//! In: pairs of inputs, as the `f32` model and as the quantized one sees them. Out: means and second moments, `[k, k]` for a
//! layer whose outputs are sums of `k` products, whatever number of samples went in. A convolution is a linear layer on
//! patches; groups see different channels and are counted apart.

use super::rounding::Hessian;
use crate::error::{Error, Result};
use crate::framework::{Conv2dOptions, Tensor};
use crate::kernels::{Accumulate, Dims, MatrixMut, MatrixRef, Threads, gemm_f32};

/// How a layer takes the numbers that it multiplies out of its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inputs {
    /// Rows of the last axis.
    Rows,
    /// Patches of `[batch, channels, height, width]`.
    Patches {
        /// Height and width of the kernel.
        kernel: [usize; 2],
        /// Stride, padding, groups.
        options: Conv2dOptions,
    },
}

/// Patches of so many numbers in all are lowered at once: 4 MiB of `f32`.
const LOWERED: usize = 1 << 20;

/// Sums over all samples for one group of a layer.
#[derive(Clone, Debug)]
pub(crate) struct Moments {
    columns: usize,
    count: usize,
    /// Sum of `x` over the samples, as the `f32` model sees it.
    real: Vec<f64>,
    /// Sum of `x̂`, as the quantized model sees it.
    got: Vec<f64>,
    /// Sum of `x̂·x̂ᵀ`.
    second: Vec<f64>,
    /// Sum of `(x − x̂)·x̂ᵀ`.
    cross: Vec<f64>,
}

impl Moments {
    /// Sums over nothing, one for each group, for rows of `columns` numbers.
    pub fn new(columns: usize, groups: usize) -> Vec<Self> {
        let empty = Self {
            columns,
            count: 0,
            real: vec![0.0; columns],
            got: vec![0.0; columns],
            second: vec![0.0; columns * columns],
            cross: vec![0.0; columns * columns],
        };
        vec![empty; groups]
    }

    /// Takes in samples, `[rows, columns]`.
    fn add(&mut self, real: &[f32], got: &[f32]) {
        let k = self.columns;
        let rows = got.len() / k.max(1);
        self.count += rows;
        let difference: Vec<f32> = real.iter().zip(got).map(|(x, y)| x - y).collect();
        for (x, y) in real.chunks_exact(k).zip(got.chunks_exact(k)) {
            for j in 0..k {
                self.real[j] += f64::from(x[j]);
                self.got[j] += f64::from(y[j]);
            }
        }
        // Sums of some thousand samples in `f32`, added up in `f64`.
        let mut product = vec![0.0; k * k];
        for (left, sum) in [(got, &mut self.second), (&difference, &mut self.cross)] {
            gemm_f32(
                Dims {
                    m: k,
                    n: k,
                    k: rows,
                },
                MatrixRef::row_major(left, k).transposed(),
                MatrixRef::row_major(got, k),
                MatrixMut::row_major(&mut product, k),
                Accumulate::Overwrite,
                Threads::Auto,
            );
            for (sum, &part) in sum.iter_mut().zip(&product) {
                *sum += f64::from(part);
            }
        }
    }

    /// Mean of `x`.
    pub fn mean_real(&self) -> Vec<f64> {
        self.mean(&self.real)
    }

    /// Mean of `x̂`.
    pub fn mean_got(&self) -> Vec<f64> {
        self.mean(&self.got)
    }

    fn mean(&self, sum: &[f64]) -> Vec<f64> {
        let count = self.count.max(1) as f64;
        sum.iter().map(|s| s / count).collect()
    }

    /// `Σ left·rightᵀ / count`, minus the product of the means if those will be taken care of by the bias.
    fn average(&self, sum: &[f64], means: Option<(Vec<f64>, Vec<f64>)>) -> Vec<f64> {
        let mut average = self.mean(sum);
        if let Some((left, right)) = means {
            for (row, l) in average.chunks_exact_mut(self.columns.max(1)).zip(left) {
                for (value, r) in row.iter_mut().zip(&right) {
                    *value -= l * r;
                }
            }
        }
        average
    }

    /// The damped second moments; around the mean if `centred`.
    ///
    /// `None` if they are not finite.
    pub fn hessian(&self, centred: bool, damping: f64) -> Option<Hessian> {
        let means = centred.then(|| (self.mean_got(), self.mean_got()));
        Hessian::new(&self.average(&self.second, means), self.columns, damping)
    }

    /// The weights that give, on the quantized inputs, what `weight` gives on the real ones, as nearly as can be:
    ///
    /// ```text
    /// w + H⁻¹ · C · w          C = mean of x̂·(x − x̂)ᵀ
    /// ```
    ///
    /// the least squares solution, drawn towards `w` by the damping in `H`. It makes good for what the layers before this one
    /// got wrong.
    pub fn retarget(&self, weight: &[f64], hessian: &Hessian, centred: bool) -> Vec<f64> {
        let means = centred.then(|| {
            let difference = self
                .mean_real()
                .iter()
                .zip(self.mean_got())
                .map(|(x, y)| x - y)
                .collect();
            (difference, self.mean_got())
        });
        let cross = self.average(&self.cross, means);
        let mut change = vec![0.0; self.columns];
        for (row, w) in cross.chunks_exact(self.columns.max(1)).zip(weight) {
            for (sum, c) in change.iter_mut().zip(row) {
                *sum += w * c;
            }
        }
        hessian.solve(&mut change);
        weight.iter().zip(change).map(|(w, c)| w + c).collect()
    }
}

impl Inputs {
    /// Takes the samples of one batch into the sums of each group.
    ///
    /// `real` and `got` have the same shape.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] if the input does not fit the layer.
    pub fn add_to(self, moments: &mut [Moments], real: &Tensor, got: &Tensor) -> Result<()> {
        let mismatch = |expected: String| Error::ShapeMismatch {
            operation: "repair",
            expected,
            got: got.shape().to_vec(),
        };
        if real.shape() != got.shape() {
            return Err(mismatch(format!("{:?}", real.shape())));
        }
        let columns = moments.first().map_or(0, |group| group.columns);
        match self {
            Self::Rows => {
                if got.shape().last() != Some(&columns) {
                    return Err(mismatch(format!("rows of {columns} inputs")));
                }
                moments[0].add(&real.to_vec(), &got.to_vec());
            }
            Self::Patches { kernel, options } => {
                let groups = options.groups;
                let &[batch, channels, height, width] = got.shape() else {
                    return Err(mismatch("[batch, channels, height, width]".to_owned()));
                };
                let per_group = columns / (kernel[0] * kernel[1]).max(1);
                if channels != per_group * groups || moments.len() != groups {
                    return Err(mismatch(format!("{} channels", per_group * groups)));
                }
                let image = ImageSize {
                    channels,
                    height,
                    width,
                };
                let places = image.places(kernel, options).ok_or_else(|| {
                    mismatch(format!("an image that a kernel of {kernel:?} fits in"))
                })?;
                let (real, got) = (real.to_vec(), got.to_vec());
                let pixels = channels * height * width;
                let images = (LOWERED / (columns * places).max(1)).max(1);
                let mut first = 0;
                while first < batch {
                    let part = first * pixels..(first + images).min(batch) * pixels;
                    for (group, sums) in moments.iter_mut().enumerate() {
                        let inputs = group * per_group..(group + 1) * per_group;
                        let lower = |x: &[f32]| image.patches(x, inputs.clone(), kernel, options);
                        sums.add(&lower(&real[part.clone()]), &lower(&got[part.clone()]));
                    }
                    first += images;
                }
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct ImageSize {
    channels: usize,
    height: usize,
    width: usize,
}

impl ImageSize {
    /// Height and width of the output.
    fn output(self, kernel: [usize; 2], options: Conv2dOptions) -> Option<[usize; 2]> {
        let along = |size: usize, axis: usize| {
            let room = (size + 2 * options.padding[axis]).checked_sub(kernel[axis])?;
            Some(room / options.stride[axis] + 1)
        };
        Some([along(self.height, 0)?, along(self.width, 1)?])
    }

    fn places(self, kernel: [usize; 2], options: Conv2dOptions) -> Option<usize> {
        let [height, width] = self.output(kernel, options)?;
        Some(height * width)
    }

    /// One row for each place of the kernel: channel by channel, line by line, in the order of the weights.
    fn patches(
        self,
        images: &[f32],
        channels: std::ops::Range<usize>,
        kernel: [usize; 2],
        options: Conv2dOptions,
    ) -> Vec<f32> {
        let Self {
            channels: all,
            height,
            width,
        } = self;
        let [rows, columns] = self.output(kernel, options).unwrap_or_default();
        let mut patches = Vec::new();
        for image in images.chunks_exact((all * height * width).max(1)) {
            for (row, column) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
                for plane in channels.clone().map(|c| &image[c * height * width..]) {
                    for y in (0..kernel[0]).map(|y| row * options.stride[0] + y) {
                        for x in (0..kernel[1]).map(|x| column * options.stride[1] + x) {
                            // Wraps around above and to the left of the image, and so is outside as well.
                            let y = y.wrapping_sub(options.padding[0]);
                            let x = x.wrapping_sub(options.padding[1]);
                            let inside = y < height && x < width;
                            patches.push(if inside { plane[y * width + x] } else { 0.0 });
                        }
                    }
                }
            }
        }
        patches
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framework::no_grad;
    use crate::repair::numbers;

    fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
        Tensor::new(values.to_vec(), shape).expect("they fit")
    }

    #[test]
    fn means_and_moments_of_two_rows() {
        let mut moments = Moments::new(2, 1);
        let got = tensor(&[1.0, 2.0, 3.0, -2.0], &[2, 2]);
        let real = tensor(&[1.5, 2.0, 3.0, -2.0], &[2, 2]);
        Inputs::Rows
            .add_to(&mut moments, &real, &got)
            .expect("they fit");
        assert_eq!(moments[0].mean_got(), [2.0, 0.0]);
        assert_eq!(moments[0].mean_real(), [2.25, 0.0]);
        assert_eq!(moments[0].second, [10.0, -4.0, -4.0, 8.0]);
        assert_eq!(moments[0].cross, [0.5, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn patches_are_what_a_convolution_multiplies() {
        let random = |seed, shape: &[usize]| {
            let values = numbers(seed, shape.iter().product());
            tensor(&values.iter().map(|&x| x as f32).collect::<Vec<_>>(), shape)
        };
        let options = Conv2dOptions {
            stride: [2, 1],
            padding: [1, 2],
            groups: 2,
        };
        let (x, weight) = (random(0, &[2, 4, 5, 4]), random(1, &[6, 2, 3, 2]));
        let expected = no_grad(|| x.conv2d(&weight, None, options)).expect("it fits");
        let image = ImageSize {
            channels: 4,
            height: 5,
            width: 4,
        };
        let (places, weight) = (
            image.places([3, 2], options).expect("it fits"),
            weight.to_vec(),
        );
        for output in 0..6 {
            let group = output / 3;
            let patches = image.patches(&x.to_vec(), 2 * group..2 * group + 2, [3, 2], options);
            for (row, patch) in patches.chunks_exact(12).enumerate() {
                let products = patch.iter().zip(&weight[12 * output..]);
                let sum: f32 = products.map(|(x, w)| x * w).sum();
                let at = (row / places * 6 + output) * places + row % places;
                let expected = expected.to_vec()[at];
                // 12 products of magnitudes up to 1, in another order: at most 2 · 12 roundings of 2⁻²⁴ · 12.
                assert!((sum - expected).abs() < 2e-5, "{sum} {expected}");
            }
        }
    }

    #[test]
    fn weights_make_good_for_inputs_that_came_out_smaller() {
        // The quantized inputs are 0.8 of the real ones: weights must grow by a quarter.
        let real: Vec<f32> = numbers(0, 3 * 64).iter().map(|&x| x as f32).collect();
        let got: Vec<f32> = real.iter().map(|x| 0.8 * x).collect();
        let (real, got) = (tensor(&real, &[64, 3]), tensor(&got, &[64, 3]));
        let mut moments = Moments::new(3, 1);
        Inputs::Rows
            .add_to(&mut moments, &real, &got)
            .expect("they fit");
        for centred in [false, true] {
            let hessian = moments[0].hessian(centred, 0.0).expect("finite");
            let target = moments[0].retarget(&[1.0, -2.0, 0.5], &hessian, centred);
            for (new, old) in target.iter().zip([1.0, -2.0, 0.5]) {
                // Sums in f32 are good to some 1e-6.
                assert!((new - 1.25 * old).abs() < 1e-4, "{target:?}");
            }
        }
    }

    #[test]
    fn inputs_that_do_not_fit_are_an_error() {
        let mut moments = Moments::new(3, 1);
        let x = Tensor::zeros(&[2, 2]);
        assert!(Inputs::Rows.add_to(&mut moments, &x, &x).is_err());
        let patches = Inputs::Patches {
            kernel: [3, 1],
            options: Conv2dOptions::default(),
        };
        assert!(patches.add_to(&mut moments, &x, &x).is_err());
        let image = Tensor::zeros(&[1, 1, 2, 3]);
        assert!(patches.add_to(&mut moments, &image, &image).is_err());
    }
}
