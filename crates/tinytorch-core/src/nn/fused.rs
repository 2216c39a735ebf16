//! Layers that run as one without a tape.
//!
//! Between them the values stay in two buffers of the thread instead of becoming tensors, and a ReLU is applied where the sums
//! of the layer before it end. Every element is computed as the layers by themselves compute it: the same bits.

mod images;

use std::any::Any;
use std::cell::RefCell;
use std::mem;
use std::sync::Arc;

use tinytorch_kernels::{Accumulate, Finish, MatrixMut, MatrixRef, PackedF32, Threads};

use self::images::Chain;
use super::{Conv2d, Dropout, Layer, Linear, Relu};
use crate::error::Result;
use crate::ops::{array_of, slice, standard};
use crate::recycle;
use crate::tensor::{Tensor, Values};

/// A linear layer, its weight packed, and the ReLU behind it.
pub(super) struct Dense {
    pub packed: Arc<PackedF32>,
    pub bias: Option<Values>,
    pub relu: bool,
}

impl Dense {
    fn run(&self, rows: usize, x: &[f32], out: &mut [f32]) {
        let finish = Finish {
            bias: self.bias.as_ref().map_or(&[], |bias| slice(bias)),
            relu: self.relu,
            accumulate: Accumulate::Overwrite,
            ..Finish::NOTHING
        };
        let x = MatrixRef::row_major(x, self.packed.k());
        let out = MatrixMut::row_major(out, self.packed.n());
        self.packed.product(rows, x, finish, out, Threads::Auto);
    }
}

/// Runs layers one after the other, those that can as one. Nothing is recorded.
pub(super) fn forward(layers: &[&dyn Layer], x: &Tensor) -> Result<Tensor> {
    let mut x = x.clone();
    let mut rest = layers;
    while let Some((layer, after)) = rest.split_first() {
        if let Some(chain) = Chain::new(rest, x.shape()) {
            x = chain.run(&x);
            rest = &rest[chain.taken..];
            continue;
        }
        let (steps, taken) = linear_layers(rest, &x);
        if steps.is_empty() {
            x = layer.forward(&x)?;
            rest = after;
        } else {
            x = rows(&steps, &x);
            rest = &rest[taken..];
        }
    }
    Ok(x)
}

/// Runs a convolution by itself; `None` if it does not fit `x`.
pub(super) fn convolution(layer: &Conv2d, x: &Tensor) -> Option<Tensor> {
    Chain::new(&[layer], x.shape()).map(|chain| chain.run(x))
}

/// The linear layers that a sequence begins with, as far as they fit, and how many layers of the sequence that is.
fn linear_layers(layers: &[&dyn Layer], x: &Tensor) -> (Vec<Dense>, usize) {
    let mut steps: Vec<Dense> = Vec::new();
    let mut features = x.shape().last().copied();
    let mut taken = 0;
    for layer in layers {
        let layer = layer.as_any();
        if let Some(linear) = layer.downcast_ref::<Linear>()
            && Some(linear.in_features()) == features
        {
            steps.push(linear.dense());
            features = Some(linear.out_features());
        } else if layer.is::<Relu>()
            && let Some(last) = steps.last_mut()
        {
            last.relu = true;
        } else if steps.is_empty() || !is_identity(layer) {
            break;
        }
        taken += 1;
    }
    (steps, taken)
}

/// Whether a layer changes nothing, as dropout when a model is evaluated.
fn is_identity(layer: &dyn Any) -> bool {
    let dropout = layer.downcast_ref::<Dropout>();
    dropout.is_some_and(|dropout| dropout.own_training() == Some(false))
}

thread_local! {
    /// What passes between layers.
    static BUFFERS: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// Elements that each buffer keeps between calls: 16 MiB.
const KEPT: usize = 4 << 20;

/// Lends the two buffers of this thread. Taken, not borrowed: whoever asks meanwhile gets new ones.
fn with_buffers<R>(body: impl FnOnce(&mut Vec<f32>, &mut Vec<f32>) -> R) -> R {
    let mut buffers = BUFFERS.take();
    let [first, second] = &mut buffers;
    let result = body(first, second);
    for buffer in &mut buffers {
        if buffer.capacity() > KEPT {
            *buffer = Vec::new();
        }
    }
    BUFFERS.set(buffers);
    result
}

/// Makes room for `len` elements; what they hold does not matter.
fn room(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// Runs linear layers, at least one, that fit one another and `x`, `[.., in]`.
pub(super) fn rows(steps: &[Dense], x: &Tensor) -> Tensor {
    let (last, before) = steps.split_last().expect("at least one layer");
    let leading = &x.shape()[..x.rank() - 1];
    let rows: usize = leading.iter().product();
    let shape: Vec<usize> = leading.iter().copied().chain([last.packed.n()]).collect();
    let x = standard(&x.array());
    let x = slice(&x);
    let mut out = recycle::anything(rows * last.packed.n());
    match before.split_first() {
        None => last.run(rows, x, &mut out),
        Some((first, between)) => with_buffers(|from, to| {
            first.run(rows, x, room(from, rows * first.packed.n()));
            for step in between {
                step.run(rows, from, room(to, rows * step.packed.n()));
                mem::swap(from, to);
            }
            last.run(rows, from, &mut out);
        }),
    }
    Tensor::from_array(array_of(out, &shape))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{AvgPool2d, BatchNorm2d, Conv2dConfig, Flatten, MaxPool2d, Sequential, Tanh};
    use crate::ops::pool::Pool2dOptions;
    use crate::tape::no_grad;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn bits(tensor: &Tensor) -> Vec<u32> {
        tensor.to_vec().into_iter().map(f32::to_bits).collect()
    }

    /// Layer by layer, each by itself.
    fn one_by_one(layers: &Sequential, x: &Tensor) -> Result<Tensor> {
        let mut layers = layers.shared().iter();
        layers.try_fold(x.clone(), |x, (_, layer)| layer.forward(&x))
    }

    fn mlp(rng: &mut ChaCha8Rng) -> Sequential {
        let inner = Sequential::new().with(Linear::new(33, 20, rng)).with(Relu);
        Sequential::new()
            .with(Linear::new(7, 50, rng))
            .with(Relu)
            .with(Dropout::new(0.5, rng).expect("a probability"))
            .with(Linear::without_bias(50, 33, rng))
            .with(Tanh)
            .with(inner)
            .with(Linear::new(20, 3, rng))
    }

    #[test]
    fn linear_layers_run_as_one_give_the_bits_of_each_by_itself() -> Result<()> {
        let rng = &mut ChaCha8Rng::seed_from_u64(1);
        let model = mlp(rng);
        model.set_training(false);
        for shape in [&[1, 7][..], &[19, 7], &[2, 3, 7], &[7], &[0, 7]] {
            let x = Tensor::randn(shape, rng);
            let (fused, apart) = no_grad(|| (model.forward(&x), one_by_one(&model, &x)));
            let (fused, apart) = (fused?, apart?);
            assert_eq!(fused.shape(), apart.shape());
            assert_eq!(bits(&fused), bits(&apart), "{shape:?}");
            // With a tape the sums are ordered otherwise: of k products of at most |x| |w| each, 1/√k · 5 here, and
            // as many roundings, through three layers that do not enlarge a difference.
            let with_tape = model.forward(&x)?;
            for (a, b) in fused.to_vec().into_iter().zip(with_tape.to_vec()) {
                assert!((a - b).abs() <= 3.0 * 50.0 * 5.0 * f32::EPSILON, "{a} {b}");
            }
        }
        Ok(())
    }

    fn conv(
        channels: [usize; 2],
        kernel: usize,
        set: impl FnOnce(Conv2dConfig) -> Conv2dConfig,
        rng: &mut ChaCha8Rng,
    ) -> Conv2d {
        let config = Conv2dConfig::new(channels[0], channels[1], kernel);
        Conv2d::new(set(config), rng).expect("it is consistent")
    }

    fn cnn(rng: &mut ChaCha8Rng) -> Sequential {
        let overlapping = Pool2dOptions {
            kernel: [3, 2],
            stride: [2, 1],
            padding: [0, 0],
        };
        let padded = Pool2dOptions {
            padding: [1, 1],
            ..Pool2dOptions::square(2)
        };
        Sequential::new()
            .with(conv([3, 20], 3, |config| config.padding(1), rng))
            .with(Relu)
            .with(MaxPool2d::with(overlapping))
            .with(Relu)
            .with(conv(
                [20, 20],
                3,
                |config| config.groups(20).bias(false),
                rng,
            ))
            .with(conv([20, 6], 1, |config| config, rng))
            .with(Tanh)
            .with(conv([6, 8], 2, |config| config.groups(2).stride(2), rng))
            .with(MaxPool2d::with(padded))
            .with(AvgPool2d::new(2))
            .with(Flatten)
            .with(Linear::new(8, 4, rng))
    }

    /// Batch norms behind a convolution with and without a bias, behind a depthwise one, behind a ReLU and behind a pooling.
    fn normalized(rng: &mut ChaCha8Rng) -> Sequential {
        let norm = |rng: &mut ChaCha8Rng| {
            let norm = BatchNorm2d::new(20);
            for tensor in [norm.weight(), norm.bias(), norm.running_mean()] {
                let values = Tensor::randn(&[20], rng);
                tensor.assign(&values).expect("the same shape");
            }
            let variance = Tensor::randn(&[20], rng).to_vec();
            let mut variance = variance.into_iter().map(|x| x * x + 0.1);
            norm.running_var().update(|values| {
                values
                    .into_iter()
                    .zip(&mut variance)
                    .for_each(|(v, x)| *v = x)
            });
            norm
        };
        Sequential::new()
            .with(conv([3, 20], 3, |config| config.padding(1), rng))
            .with(norm(rng))
            .with(Relu)
            .with(MaxPool2d::new(2))
            .with(norm(rng))
            .with(conv([20, 20], 3, |config| config.groups(20), rng))
            .with(norm(rng))
            .with(norm(rng))
            .with(Relu)
            .with(norm(rng))
            .with(conv([20, 20], 1, |config| config.bias(false), rng))
            .with(norm(rng))
            .with(Flatten)
            .with(Linear::new(20 * 4 * 3, 4, rng))
    }

    #[test]
    fn batch_norms_run_with_their_convolutions_and_give_the_bits_of_each_by_itself() -> Result<()> {
        let rng = &mut ChaCha8Rng::seed_from_u64(6);
        let model = normalized(rng);
        let apart = |x: &Tensor| no_grad(|| one_by_one(&model, x));
        let x = Tensor::randn(&[5, 3, 13, 11], rng);
        model.set_training(false);
        let layers: Vec<_> = model.shared().iter().map(|(_, layer)| &**layer).collect();
        // All up to the linear layer: each was a pass of its own over all images.
        let chain = Chain::new(&layers, x.shape()).expect("it begins with a convolution");
        assert_eq!(chain.taken, layers.len() - 1);
        let mut before = bits(&no_grad(|| model.forward(&x))?);
        assert_eq!(before, bits(&apart(&x)?));
        // What is kept follows every change, those that training makes included.
        for (name, tensor) in model
            .named_parameters()
            .into_iter()
            .chain(model.named_buffers())
        {
            tensor.update(|mut values| values += 0.25);
            let now = bits(&no_grad(|| model.forward(&x))?);
            assert_ne!(now, before, "{name}");
            assert_eq!(now, bits(&apart(&x)?), "{name}");
            before = now;
        }
        model.set_training(true);
        let trained = bits(&no_grad(|| model.forward(&x))?);
        assert_ne!(trained, before, "the batch's own moments");
        model.set_training(false);
        let now = bits(&no_grad(|| model.forward(&x))?);
        assert_ne!(now, before, "running moments have moved");
        assert_eq!(now, bits(&apart(&x)?));
        Ok(())
    }

    #[test]
    fn a_batch_norm_for_other_channels_is_refused_as_by_itself() {
        let rng = &mut ChaCha8Rng::seed_from_u64(7);
        let model = Sequential::new()
            .with(conv([1, 2], 3, |config| config, rng))
            .with(BatchNorm2d::new(3));
        model.set_training(false);
        let error =
            no_grad(|| model.forward(&Tensor::zeros(&[1, 1, 6, 6]))).expect_err("2 is not 3");
        assert_eq!(
            error.to_string(),
            "shape mismatch in batch_norm2d: [1, 2, 4, 4] and [3]"
        );
    }

    /// The padded copy of this image once asked for 17 TB.
    #[test]
    fn padding_beyond_the_kernel_takes_no_memory() -> Result<()> {
        let rng = &mut ChaCha8Rng::seed_from_u64(4);
        let far = Conv2dConfig::new(1, 1, 1).stride(1 << 20).padding(1 << 20);
        let model = Sequential::new().with(Conv2d::new(far, rng)?);
        let x = Tensor::randn(&[1, 1, 1, 1], rng);
        let y = no_grad(|| model.forward(&x))?;
        assert_eq!(y.shape(), [1, 1, 3, 3]);
        assert_eq!(bits(&y), bits(&model.forward(&x)?));
        Ok(())
    }

    #[test]
    fn convolutions_run_as_one_give_the_bits_of_each_by_itself() -> Result<()> {
        let rng = &mut ChaCha8Rng::seed_from_u64(4);
        let model = cnn(rng);
        for batch in [0, 1, 5] {
            let x = Tensor::randn(&[batch, 3, 13, 11], rng);
            let (fused, apart) = no_grad(|| (model.forward(&x), one_by_one(&model, &x)));
            let (fused, apart) = (fused?, apart?);
            assert_eq!(fused.shape(), apart.shape());
            assert_eq!(bits(&fused), bits(&apart), "{batch} images");
            for (a, b) in fused.to_vec().into_iter().zip(model.forward(&x)?.to_vec()) {
                // Sums of at most 27 products through four layers that do not enlarge a difference.
                assert!((a - b).abs() <= 4.0 * 27.0 * 5.0 * f32::EPSILON, "{a} {b}");
            }
        }
        Ok(())
    }

    #[test]
    fn the_bits_depend_neither_on_the_batch_nor_on_the_threads() -> Result<()> {
        let rng = &mut ChaCha8Rng::seed_from_u64(5);
        let model = Sequential::new()
            .with(conv([1, 32], 3, |config| config.padding(1), rng))
            .with(Relu)
            .with(MaxPool2d::new(2))
            .with(conv([32, 64], 3, |config| config.padding(1), rng))
            .with(Flatten)
            .with(Linear::new(64 * 7 * 7, 10, rng));
        let x = Tensor::randn(&[3, 1, 14, 14], rng);
        let run = |threads: usize, x: &Tensor| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.expect("a small pool")
                .install(|| no_grad(|| model.forward(x)))
                .map(|y| bits(&y))
        };
        let whole = run(1, &x)?;
        assert_eq!(run(2, &x)?, whole);
        let last = Tensor::new(x.to_vec()[2 * 14 * 14..].to_vec(), &[1, 1, 14, 14])?;
        assert_eq!(run(2, &last)?, whole[20..]);
        Ok(())
    }

    #[test]
    fn a_change_of_a_weight_or_bias_is_seen_by_the_next_call() -> Result<()> {
        let rng = &mut ChaCha8Rng::seed_from_u64(2);
        let models = [
            (mlp(rng), Tensor::randn(&[2, 7], rng)),
            (cnn(rng), Tensor::randn(&[2, 3, 13, 11], rng)),
        ];
        for (model, x) in models {
            model.set_training(false);
            let mut before = bits(&no_grad(|| model.forward(&x))?);
            for (name, parameter) in model.named_parameters() {
                // A little, or a hyperbolic tangent would hide it.
                parameter.update(|mut values| values += 0.01);
                let now = bits(&no_grad(|| model.forward(&x))?);
                assert_ne!(now, before, "{name}");
                assert_eq!(now, bits(&no_grad(|| one_by_one(&model, &x))?));
                before = now;
            }
        }
        Ok(())
    }

    #[test]
    fn a_layer_that_does_not_fit_reports_the_shapes_it_meets() {
        let rng = &mut ChaCha8Rng::seed_from_u64(3);
        let model = Sequential::new()
            .with(Linear::new(4, 5, rng))
            .with(Relu)
            .with(Linear::new(6, 2, rng));
        let error = no_grad(|| model.forward(&Tensor::zeros(&[3, 4]))).expect_err("5 is not 6");
        assert_eq!(
            error.to_string(),
            "shape mismatch in linear: [3, 5] · [6, 2]"
        );
        let model = Sequential::new()
            .with(conv([1, 2], 3, |config| config, rng))
            .with(MaxPool2d::new(2))
            .with(conv([2, 1], 3, |config| config, rng));
        let error = no_grad(|| model.forward(&Tensor::zeros(&[1, 1, 6, 6]))).expect_err("2 < 3");
        assert_eq!(
            error.to_string(),
            "conv2d needs images that hold a [3, 3] window with padding [0, 0], got [1, 2, 2, 2]"
        );
    }
}
