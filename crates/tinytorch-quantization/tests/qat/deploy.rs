//! What is evaluated is what is deployed: over random networks the evaluation of the model that was trained and the
//! integer model that it becomes give the same bits.

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tinytorch_core::nn::{
    AvgPool2d, BatchNorm2d, Concat, Conv2d, Conv2dConfig, Dropout, Embedding, Flatten, Gelu, Layer,
    Linear, MaxPool2d, Relu, Residual, Sequential,
};
use tinytorch_core::optim::{Adam, AdamConfig, Optimizer};
use tinytorch_core::{Pool2dOptions, Tensor, no_grad};
use tinytorch_quantization::{
    BatchNormTraining, CodeRange, Granularity, Precision, PrepareOptions, QatModel, QatOptions,
    Scheme, Steps, Symmetry, prepare_qat,
};

type Rng = ChaCha8Rng;

fn convolution(channels: &mut usize, rng: &mut Rng) -> Conv2d {
    // Depthwise, in two groups, or all with all.
    let groups = match rng.random_range(0..3) {
        0 => *channels,
        1 if channels.is_multiple_of(2) => 2,
        _ => 1,
    };
    let out = groups * rng.random_range(1..=4_usize.div_ceil(groups) + 1);
    let config = Conv2dConfig::new(*channels, out, 3)
        .padding(1)
        .stride(rng.random_range(1..=2))
        .groups(groups)
        .bias(rng.random());
    *channels = out;
    Conv2d::new(config, rng).expect("a good configuration")
}

/// A batch norm that has seen something, perhaps with a dead channel, or one whose sign is turned.
fn lived_in(channels: usize, rng: &mut Rng) -> BatchNorm2d {
    let norm = BatchNorm2d::new(channels);
    for tensor in [norm.bias(), norm.running_mean()] {
        tensor.update(|mut values| values.mapv_inplace(|x| x + rng.random_range(-0.5..0.5)));
    }
    norm.weight().update(|mut values| {
        values.mapv_inplace(|_| match rng.random_range(0..8) {
            0 => 0.0,
            1 => -0.7,
            _ => rng.random_range(0.5..1.5),
        });
    });
    norm.running_var()
        .update(|mut values| values.mapv_inplace(|x| x * rng.random_range(0.2..3.0)));
    norm
}

fn same_size(channels: usize, out: usize, rng: &mut Rng) -> Conv2d {
    let config = Conv2dConfig::new(channels, out, 3).padding(1);
    Conv2d::new(config, rng).expect("a good configuration")
}

/// Two ways that are added; the short one is what comes, or a convolution.
fn sum(channels: usize, rng: &mut Rng) -> Residual {
    let mut body = Sequential::new()
        .with(same_size(channels, channels, rng))
        .with(lived_in(channels, rng));
    if rng.random() {
        body = body.with(Gelu);
    }
    match rng.random() {
        true => Residual::new(body),
        false => Residual::with_shortcut(body, same_size(channels, channels, rng)),
    }
}

/// What comes beside a convolution of it, and perhaps a sum inside.
fn concatenation(channels: &mut usize, rng: &mut Rng) -> Concat {
    let before = *channels;
    let out = rng.random_range(1..=3);
    let mut all = Concat::new().with(Sequential::new()).with(
        Sequential::new()
            .with(same_size(before, out, rng))
            .with(Relu),
    );
    *channels = before + out;
    if rng.random() {
        all = all.with(Sequential::new().with(sum(before, rng)));
        *channels += before;
    }
    all
}

/// A network of random depth, widths and kinds of layers, with a batch of images for it.
fn random_network(rng: &mut Rng) -> (Sequential, Tensor) {
    let mut channels = rng.random_range(1..=4);
    let x = Tensor::randn(&[6, channels, 8, 8], rng);
    let mut model = Sequential::new();
    if rng.random_range(0..6) == 0 {
        model = model.with(Gelu);
    }
    for _ in 0..rng.random_range(1..=3) {
        model = model.with(convolution(&mut channels, rng));
        if rng.random() {
            model = model.with(lived_in(channels, rng));
        }
        if rng.random() {
            model = model.with(Relu);
        }
        let pool = Pool2dOptions {
            kernel: [2, 2],
            stride: [1, 1],
            padding: [1, 1],
        };
        model = match rng.random_range(0..9) {
            6 => model.with(sum(channels, rng)),
            7 => model.with(concatenation(&mut channels, rng)),
            8 => model.with(sum(channels, rng)).with(Relu),
            0 => model.with(MaxPool2d::with(pool)),
            1 => model.with(AvgPool2d::with(pool)),
            2 => model.with(Gelu).with(Gelu),
            _ => model,
        };
    }
    model = model
        .with(Flatten)
        .with(Dropout::new(0.1, rng).expect("a probability"));
    let size = no_grad(|| model.forward(&x)).expect("the sizes fit").len() / 6;
    let hidden = rng.random_range(1..=9);
    model = model.with(Linear::new(size, hidden, rng));
    if rng.random() {
        model = model.with(Relu);
    }
    model = model.with(Linear::without_bias(hidden, 3, rng));
    if rng.random_range(0..6) == 0 {
        model = model.with(Gelu);
    }
    (model, x)
}

/// A network of words, with indices for it.
fn words(rng: &mut Rng) -> (Sequential, Tensor) {
    let (count, width) = (rng.random_range(2..40), rng.random_range(1..12));
    let model = Sequential::new()
        .with(Embedding::new(count, width, rng))
        .with(Flatten)
        .with(Linear::new(4 * width, 7, rng))
        .with(Relu)
        .with(Linear::new(7, 3, rng));
    let indices = (0..6 * 4).map(|_| rng.random_range(0..count) as f32);
    let indices = Tensor::new(indices.collect(), &[6, 4]).expect("four each");
    (model, indices)
}

fn random_options(rng: &mut Rng) -> QatOptions {
    let bits = rng.random_range(2..=8);
    let codes = match rng.random() {
        true => CodeRange::narrow(bits),
        false => CodeRange::signed(bits),
    };
    let granularity = match rng.random() {
        true => Granularity::PerTensor,
        false => Granularity::PerChannel { axis: 0 },
    };
    let mut steps = || match rng.random() {
        true => Steps::Learned,
        false => Steps::Observed,
    };
    QatOptions {
        weight_steps: steps(),
        activation_steps: steps(),
        batch_norm: match steps() {
            Steps::Learned => BatchNormTraining::Live,
            Steps::Observed => BatchNormTraining::Folded,
        },
        prepare: PrepareOptions {
            activations: match rng.random_range(0..3) {
                0 => Symmetry::Symmetric,
                _ => Symmetry::Asymmetric,
            },
            weights: Scheme {
                codes,
                granularity,
                ..Scheme::WEIGHTS
            },
            ..PrepareOptions::default()
        },
        ..QatOptions::default()
    }
}

fn train(model: &QatModel, x: &Tensor, steps: usize) {
    model.set_training(true);
    let mut adam = Adam::new(model.named_parameters(), AdamConfig::default());
    for _ in 0..steps {
        adam.zero_grad();
        let y = model.forward(x).expect("the sizes fit");
        y.square().sum().backward().expect("a scalar");
        adam.step().expect("Adam does not fail");
    }
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.to_vec().iter().map(|x| x.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn evaluation_and_the_integer_model_give_the_same_bits(seed: u64) {
        let rng = &mut Rng::seed_from_u64(seed);
        let (model, x) = random_network(rng);
        let qat = prepare_qat(&model, &random_options(rng)).expect("known layers");
        train(&qat, &x, 3);
        let other = Tensor::randn(x.shape(), rng);
        let integers = qat.convert().expect("it was trained");
        let deployed = bits(&integers.forward(&other).expect("the sizes fit"));
        let definition = integers.forward_definition(&other).expect("the sizes fit");
        prop_assert_eq!(&bits(&definition), &deployed);
        qat.set_training(false);
        let evaluated = no_grad(|| qat.forward(&other)).expect("the sizes fit");
        prop_assert_eq!(&bits(&evaluated), &deployed);
        // With a tape, as for measuring how sensitive the loss is, the way is another and the bits are the same.
        let recorded = qat.forward(&other).expect("the sizes fit");
        prop_assert!(recorded.requires_grad());
        prop_assert_eq!(&bits(&recorded), &deployed);
    }

    #[test]
    fn layers_of_every_precision_train_as_they_are_deployed(seed: u64) {
        let rng = &mut Rng::seed_from_u64(seed);
        let (model, x) = match rng.random_range(0..3) {
            0 => words(rng),
            _ => random_network(rng),
        };
        let mut options = random_options(rng);
        // Layers inside of ways stay static: ways that meet as real values do not train.
        let layers = model.shared().iter();
        let weighted = ["linear", "conv2d", "embedding"];
        let names: Vec<String> = layers
            .filter(|(_, layer)| weighted.contains(&layer.kind()))
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            let table = model.shared().iter().any(|(n, layer)| *n == name && layer.kind() == "embedding");
            let precision = match rng.random_range(0..6) {
                0 => Precision::Dynamic,
                1 => Precision::WEIGHT_ONLY_INT8,
                2 => Precision::WeightOnly { bits: rng.random_range(2..=8), group: Some(8) },
                3 => Precision::WeightOnly { bits: rng.random_range(2..=4), group: Some(3) },
                4 => Precision::Bf16,
                _ => Precision::STATIC,
            };
            if !(table && precision == Precision::Dynamic) {
                options.prepare.overrides.push((name, precision));
            }
        }
        let qat = prepare_qat(&model, &options).expect("layers of every precision");
        train(&qat, &x, 3);
        let deployed = qat.convert().expect("it was trained");
        let expected = bits(&deployed.forward(&x).expect("the sizes fit"));
        prop_assert_eq!(&bits(&deployed.forward_definition(&x).expect("the sizes fit")), &expected);
        qat.set_training(false);
        prop_assert_eq!(&bits(&no_grad(|| qat.forward(&x)).expect("the sizes fit")), &expected);
        let recorded = qat.forward(&x).expect("the sizes fit");
        prop_assert_eq!(&bits(&recorded), &expected);
        // Every weight has its part in the loss, or at least a gradient.
        qat.zero_grad();
        recorded.square().sum().backward().expect("a scalar");
        for (name, parameter) in qat.named_parameters() {
            let gradient = parameter.grad();
            prop_assert!(gradient.is_some() || name.contains("zero_point") || name.contains("scale"), "{}", name);
        }
    }

    #[test]
    fn frozen_training_computes_what_is_deployed(seed: u64) {
        let rng = &mut Rng::seed_from_u64(seed);
        let (model, x) = random_network(rng);
        let qat = prepare_qat(&model, &random_options(rng)).expect("known layers");
        train(&qat, &x, 2);
        qat.freeze(true);
        qat.freeze_batch_norm(true);
        train(&qat, &x, 2);
        let trained = qat.forward(&x).expect("the sizes fit");
        let deployed = qat.convert().and_then(|model| model.forward(&x)).expect("it was trained");
        prop_assert_eq!(bits(&trained), bits(&deployed));
    }
}

/// With a bias that dwarfs its weights the scale is raised until the bias fits 32 bits: training must see that too.
#[test]
fn a_scale_raised_for_its_bias_is_seen_in_training() {
    let weight = Tensor::new(vec![1e-20, -3e-20, 0.5, -0.25], &[2, 2]).expect("four");
    let bias = Tensor::new(vec![0.5, 0.5], &[2]).expect("two");
    let model = Sequential::new().with(Linear::from_parts(weight, Some(bias)).expect("fits"));
    for steps in [Steps::Observed, Steps::Learned] {
        let options = QatOptions {
            weight_steps: steps,
            ..QatOptions::default()
        };
        let qat = prepare_qat(&model, &options).expect("known layers");
        let x = Tensor::new(vec![1.0, -1.0, 0.5, 2.0], &[2, 2]).expect("four");
        let y = qat.forward(&x).expect("the sizes fit");
        let (_, layer) = qat.weighted_layers().next().expect("one layer");
        let rounded = layer.rounded_weight().expect("seen").to_vec();
        assert_eq!(rounded[..2], [0.0, 0.0], "{steps:?}");
        let deployed = qat.convert().and_then(|model| model.forward(&x));
        assert_eq!(bits(&y), bits(&deployed.expect("it fits")), "{steps:?}");
    }
}
