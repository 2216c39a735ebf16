//! Models that are no chains: sums, concatenations, embeddings, inside of each other.

use tinytorch_core::nn::{Concat, Embedding, Residual};
use tinytorch_quantization::{Chain, Join, QAdd, QConcat, Symmetry, metrics};

use super::*;

fn conv(config: Conv2dConfig, rng: &mut Rng) -> Conv2d {
    Conv2d::new(config, rng).expect("a good configuration")
}

/// Layers that keep height and width, from so many channels to so many; `depth` says how far they may nest.
fn block(inputs: usize, outputs: usize, depth: u32, rng: &mut Rng) -> Sequential {
    let mut block = Sequential::new();
    match rng.random_range(0..if depth > 0 { 5 } else { 3 }) {
        // A plain convolution, with or without what joins it.
        0 => {
            let config = Conv2dConfig::new(inputs, outputs, 3).padding(1);
            block = block.with(conv(config, rng));
            if rng.random() {
                block = block.with(lived_in(BatchNorm2d::new(outputs), rng));
            }
            if rng.random() {
                block = block.with(Relu);
            }
        }
        // Depthwise, then pointwise.
        1 => {
            let depthwise = Conv2dConfig::new(inputs, inputs, 3).padding(1);
            block = block
                .with(conv(depthwise.groups(inputs), rng))
                .with(lived_in(BatchNorm2d::new(inputs), rng))
                .with(Relu)
                .with(conv(Conv2dConfig::new(inputs, outputs, 1), rng));
        }
        // Something in f32 in between.
        2 => {
            let config = Conv2dConfig::new(inputs, outputs, 1);
            block = block.with(Gelu).with(conv(config, rng));
        }
        3 => {
            let body = self::block(inputs, outputs, depth - 1, rng);
            let residual = if inputs == outputs && rng.random() {
                Residual::new(body)
            } else if rng.random() {
                let shortcut = conv(Conv2dConfig::new(inputs, outputs, 1), rng);
                Residual::with_shortcut(body, shortcut)
            } else {
                Residual::with_shortcut(body, self::block(inputs, outputs, depth - 1, rng))
            };
            block = block.with(residual);
            if rng.random() {
                block = block.with(Relu);
            }
        }
        _ => {
            let same = Pool2dOptions {
                kernel: [3, 3],
                stride: [1, 1],
                padding: [1, 1],
            };
            let mut concat = Concat::new().with(self::block(inputs, 2, depth - 1, rng));
            if rng.random() {
                let pool = Sequential::new().with(MaxPool2d::with(same));
                concat = concat.with(pool.with(conv(Conv2dConfig::new(inputs, 3, 1), rng)));
            }
            if rng.random() {
                let first = self::block(inputs, 2, depth - 1, rng);
                let mean = Sequential::new().with(first).with(AvgPool2d::with(same));
                concat = concat.with_named("mean", mean);
            }
            if rng.random() {
                concat = concat.with(Sequential::new());
            }
            if rng.random() {
                concat = concat.with(MaxPool2d::with(same));
            }
            if rng.random() {
                let last = self::block(inputs, 2, depth - 1, rng);
                let last = last.with_named("largest", MaxPool2d::with(same));
                concat = concat.with(last.with_named("relu", Relu));
            }
            let x = Tensor::zeros(&[1, inputs, 4, 4]);
            let channels = concat.forward(&x).expect("the sizes fit").shape()[1];
            block = block.with(concat);
            if rng.random() {
                block = block.with(Relu);
            }
            block = block.with(conv(Conv2dConfig::new(channels, outputs, 1), rng));
        }
    }
    block
}

/// A network with nested blocks, and images for it.
pub fn random_tree(seed: u64) -> (Sequential, Tensor) {
    let rng = &mut Rng::seed_from_u64(seed);
    let [a, b, c] = std::array::from_fn(|_| rng.random_range(1..=4));
    let mut model = Sequential::new()
        .with_named("stem", block(a, b, 2, rng))
        .with_named("middle", block(b, c, 2, rng));
    if rng.random() {
        model = model.with(MaxPool2d::new(2));
    }
    let x = Tensor::randn(&[2, a, 6, rng.random_range(4..=6)], rng);
    model.set_training(false);
    let size = model.forward(&x).expect("the sizes fit").len() / 2;
    model = model.with(Flatten).with(Linear::new(size, 5, rng));
    if rng.random() {
        let body = Sequential::new()
            .with(Linear::new(5, 9, rng))
            .with(Relu)
            .with(Linear::new(9, 5, rng));
        model = model.with(Relu).with(Residual::new(body));
    }
    (model, x)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn trees_give_the_codes_of_the_definition_from_memory_and_from_a_file(seed: u64) {
        let (model, x) = random_tree(seed);
        let expected = model.forward(&x).expect("the sizes fit");
        let quantized = quantized(&model, &PrepareOptions::default(), std::slice::from_ref(&x));
        let fast = quantized.forward(&x).expect("the sizes fit");
        let definition = quantized.forward_definition(&x).expect("the sizes fit");
        prop_assert_eq!(fast.to_vec(), definition.to_vec());
        prop_assert_eq!(fast.shape(), expected.shape());

        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.safetensors");
        quantized.save(&path).expect("it can be saved");
        let read = QModel::load(&path).expect("it can be read");
        prop_assert_eq!(read.forward(&x).expect("the sizes fit").to_vec(), fast.to_vec());
        prop_assert_eq!(read.memory_bytes(), quantized.memory_bytes());
        let (ours, theirs) = (quantized.layers().expect("made"), read.layers().expect("made"));
        prop_assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
    }

    #[test]
    fn symmetric_activations_have_no_zero_point_anywhere(seed: u64) {
        let (model, x) = random_tree(seed);
        let options = PrepareOptions {
            activations: Symmetry::Symmetric,
            ..PrepareOptions::default()
        };
        let quantized = quantized(&model, &options, std::slice::from_ref(&x));
        let fast = quantized.forward(&x).expect("the sizes fit");
        let definition = quantized.forward_definition(&x).expect("the sizes fit");
        prop_assert_eq!(fast.to_vec(), definition.to_vec());
        let mut pairs = vec![quantized.input()];
        let layers = quantized.layers().expect("made");
        tinytorch_quantization::composite::visit(&layers, &mut |_, layer| {
            pairs.push(layer.output(quantized.input()));
            Ok(())
        })
        .expect("nothing is refused");
        prop_assert!(pairs.iter().all(|pair| pair.zero_point == 0), "{:?}", pairs);
        let expected = model.forward(&x).expect("the sizes fit").to_vec();
        let report = metrics::compare(&expected, &fast.to_vec());
        // Half as many codes for what is never negative: a bit, 6 dB, less than below.
        prop_assert!(report.sqnr_db > 12.0, "{:?}", report);
    }

    #[test]
    fn trees_stay_close_to_the_real_model(seed: u64) {
        let (model, x) = random_tree(seed);
        let quantized = quantized(&model, &PrepareOptions::default(), std::slice::from_ref(&x));
        let expected = model.forward(&x).expect("the sizes fit").to_vec();
        let got = quantized.forward(&x).expect("the sizes fit").to_vec();
        let report = metrics::compare(&expected, &got);
        // An 8-bit code keeps some 40 dB; up to a dozen layers one behind the other cost a few each.
        prop_assert!(report.sqnr_db > 18.0, "{report:?}");
    }
}

/// `relu(conv(x) + x)`, then pooling and a linear layer.
fn small_residual(seed: u64) -> (Sequential, Tensor) {
    let rng = &mut Rng::seed_from_u64(seed);
    let body = Sequential::new().with(conv(Conv2dConfig::new(2, 2, 3).padding(1), rng));
    let model = Sequential::new()
        .with_named("first", conv(Conv2dConfig::new(1, 2, 1), rng))
        .with_named("sum", Residual::new(body))
        .with_named("relu", Relu)
        .with_named("pool", MaxPool2d::new(2))
        .with_named("flatten", Flatten)
        .with_named("last", Linear::new(8, 3, rng));
    (model, Tensor::randn(&[4, 1, 4, 4], rng))
}

fn residual_of(layers: &Chain) -> &tinytorch_quantization::QResidual {
    let found = layers.iter().find_map(|(_, layer)| match layer {
        QLayer::Residual(residual) => Some(residual),
        _ => None,
    });
    found.expect("there is a sum")
}

#[test]
fn a_sum_takes_the_codes_of_both_ways_and_the_relu_behind_it() {
    let (model, x) = small_residual(0);
    let model = quantized(&model, &PrepareOptions::default(), std::slice::from_ref(&x));
    let layers = model.layers().expect("made");
    let kinds: Vec<_> = layers.iter().map(|(_, layer)| layer.kind()).collect();
    assert_eq!(
        kinds,
        ["conv2d", "residual", "max_pool2d", "flatten", "linear"]
    );
    assert_eq!(model.in_float().count(), 0);
    let residual = residual_of(&layers);
    let Join::Codes(sum) = &residual.sum else {
        panic!("{residual:?}")
    };
    assert!(sum.has_relu());
    assert_eq!(residual.body[0].0, "sum.body.0");
    assert!(residual.shortcut.is_empty());
    let first = layers[0].1.output(model.input());
    let body = residual.body[0].1.output(first);
    assert_eq!(sum.inputs(), [body, first]);
    // A ReLU leaves nothing below zero: all codes lie above the zero point.
    assert_eq!(sum.output().zero_point, -128);
}

#[test]
fn what_is_inside_of_a_sum_is_calibrated_and_found_by_name() {
    let (model, x) = small_residual(1);
    let mut prepared = prepare(&model, &PrepareOptions::default()).expect("known layers");
    let names = |prepared: &tinytorch_quantization::Prepared| -> Vec<String> {
        let all = prepared.all_stages().into_iter();
        all.map(|stage| stage.name().to_owned()).collect()
    };
    assert_eq!(
        names(&prepared),
        ["first", "sum.body.0", "sum", "pool", "flatten", "last"]
    );
    calibrate(&mut prepared, [x.clone()]).expect("good data");
    let inner = prepared.stage("sum.body.0").expect("it is there");
    let first = prepared.stages()[0].forward(&x).expect("fits");
    let y = inner.forward(&first).expect("fits").to_vec();
    let (min, max) = y.iter().fold((0.0_f32, 0.0_f32), |(min, max), &y| {
        (min.min(y), max.max(y))
    });
    let range = inner.range().expect("it was observed");
    assert_eq!((range.min.min(0.0), range.max.max(0.0)), (min, max));
    let inner = prepared.stage_mut("sum.body.0").expect("it is there");
    let folded = inner.folded().expect("it folds").expect("it has weights");
    let halved = folded.weight.mapv(|w| w / 2.0);
    inner
        .set_folded(halved, folded.bias)
        .expect("the same shape");
    prepared.forget_observations().expect("prepared");
    calibrate(&mut prepared, [x.clone()]).expect("good data");
    assert!(convert(&prepared).is_ok());
}

#[test]
fn an_output_from_elsewhere_cannot_be_observed() {
    let (model, x) = small_residual(2);
    let mut prepared = prepare(&model, &PrepareOptions::default()).expect("known layers");
    let first = prepared.stages()[0].forward(&x).expect("fits");
    let sum = &mut prepared.stages_mut()[1];
    assert!(matches!(
        sum.observe(&first),
        Err(Error::NotItsOutput { stage }) if stage == "sum"
    ));
    let y = sum.forward(&first).expect("fits");
    assert_eq!(sum.observe(&y), Ok(()));
    // It was observed, and would count twice.
    assert!(sum.observe(&y).is_err());
}

#[test]
fn branches_share_the_parameters_of_the_output_where_they_can() {
    let rng = &mut Rng::seed_from_u64(3);
    let same = Pool2dOptions {
        kernel: [3, 3],
        stride: [1, 1],
        padding: [1, 1],
    };
    let pooled = Sequential::new()
        .with(conv(Conv2dConfig::new(2, 1, 1), rng))
        .with(MaxPool2d::with(same));
    let mean = Sequential::new()
        .with(conv(Conv2dConfig::new(2, 1, 1), rng))
        .with(AvgPool2d::with(same));
    let concat = Concat::new()
        .with(conv(Conv2dConfig::new(2, 3, 1), rng))
        .with(pooled)
        .with(mean)
        .with(Sequential::new());
    let model = Sequential::new().with(concat);
    // The first branch has the widest range, so that the input's is another than the output's.
    let first = &model.named_parameters()[0].1;
    first.update(|mut weight| weight.mapv_inplace(|w| w * 20.0));
    let x = Tensor::randn(&[2, 2, 4, 4], rng);
    let model = quantized(&model, &PrepareOptions::default(), std::slice::from_ref(&x));
    let layers = model.layers().expect("made");
    let QLayer::Concat(concat) = &layers[0].1 else {
        panic!("{layers:?}")
    };
    let Join::Codes(join) = &concat.join else {
        panic!("{concat:?}")
    };
    let output = join.output();
    let shared: Vec<_> = join.inputs().iter().map(|&input| input == output).collect();
    // A mean of saturated codes is not the saturated mean, so that way keeps its own; the last is the input itself.
    assert_eq!(shared, [true, true, false, false]);
    assert_eq!(join.inputs()[3], model.input());
}

#[test]
fn an_embedding_is_looked_up_in_codes() {
    let rng = &mut Rng::seed_from_u64(4);
    let model = Sequential::new()
        .with_named("words", Embedding::new(9, 4, rng))
        .with_named("flatten", Flatten)
        .with_named("last", Linear::new(12, 2, rng));
    let ids: Vec<f32> = (0..15).map(|i| (i * 7 % 9) as f32).collect();
    let x = Tensor::new(ids, &[5, 3]).expect("fifteen");
    let quantized = quantized(&model, &PrepareOptions::default(), std::slice::from_ref(&x));
    assert_eq!(quantized.in_float().count(), 0);
    let y = quantized.forward(&x).expect("fits");
    let definition = quantized.forward_definition(&x).expect("fits");
    assert_eq!(y.to_vec(), definition.to_vec());
    let report = metrics::compare(&model.forward(&x).expect("fits").to_vec(), &y.to_vec());
    assert!(report.sqnr_db > 30.0, "{report:?}");
    // Indices are never written as codes: the 9th row is beyond no rounding.
    let beyond = quantized.forward(&Tensor::full(&[1, 3], 9.0));
    assert!(matches!(beyond, Err(Error::Layer { name, .. }) if name == "words"));
    let odd = quantized.forward(&Tensor::full(&[1, 3], f32::NAN));
    assert!(odd.is_err());
}

#[test]
fn layers_inside_of_a_sum_may_stay_in_float() {
    let (model, x) = small_residual(5);
    for (kept, names) in [
        ("sum.body", vec!["sum.body.0"]),
        ("sum.body.0", vec!["sum.body.0"]),
        ("sum", vec!["sum.body.0", "sum"]),
    ] {
        let options = PrepareOptions {
            keep_float: vec![kept.to_owned()],
            ..PrepareOptions::default()
        };
        let quantized = quantized(&model, &options, std::slice::from_ref(&x));
        let found: Vec<_> = quantized.in_float().map(|(name, _)| name).collect();
        assert_eq!(found, names);
        let y = quantized.forward(&x).expect("fits").to_vec();
        let definition = quantized.forward_definition(&x).expect("fits").to_vec();
        assert_eq!(y, definition);
        let expected = model.forward(&x).expect("fits").to_vec();
        assert!(metrics::compare(&expected, &y).sqnr_db > 25.0);
    }
    let options = PrepareOptions {
        keep_float: vec!["sum.shortcut".to_owned()],
        ..PrepareOptions::default()
    };
    assert!(matches!(
        prepare(&model, &options),
        Err(Error::NoSuchLayer { .. })
    ));
}

#[test]
fn ways_that_do_not_agree_are_refused_by_name() {
    let (model, x) = small_residual(6);
    let quantized = quantized(&model, &PrepareOptions::default(), std::slice::from_ref(&x));
    let other = QParams::symmetric(0.125);
    let mut layers = quantized.layers().expect("made");
    if let QLayer::Residual(residual) = &mut layers[1].1 {
        let Join::Codes(sum) = &residual.sum else {
            panic!("{residual:?}")
        };
        let [left, _] = sum.inputs();
        residual.sum =
            Join::Codes(QAdd::new(left, other, sum.output(), true).expect("good parameters"));
    }
    let error = QModel::new(quantized.input(), layers.clone()).expect_err("the shortcut differs");
    assert!(
        matches!(&error, Error::Layer { name, error }
            if name == "sum" && matches!(**error, Error::OtherQParams { .. })),
        "{error}"
    );
    let branches = tinytorch_quantization::QBranches {
        branches: vec![Vec::new(); 2],
        join: Join::Codes(QConcat::new(vec![other], other).expect("good parameters")),
    };
    let layers = vec![("join".to_owned(), QLayer::Concat(Box::new(branches)))];
    assert!(QModel::new(other, layers).is_err());
}

#[test]
fn codes_that_nobody_chose_are_an_error_and_not_a_guess() {
    let (model, x) = batch(7);
    let quantized = quantized(&model, &PrepareOptions::default(), std::slice::from_ref(&x));
    let curve = QLayer::Float(FloatLayer {
        layer: std::sync::Arc::new(Gelu),
        reason: "no integer gelu".to_owned(),
        output: None,
    });
    let mut layers = quantized.layers().expect("made");
    layers.insert(0, ("curve".to_owned(), curve));
    let error = QModel::new(quantized.input(), layers).expect_err("no codes were chosen");
    assert!(
        matches!(&error, Error::Layer { name, error }
            if name == "hidden" && **error == Error::NoCodes),
        "{error}"
    );
}
