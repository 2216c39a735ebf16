//! Odd models and odd data: everything that looks at a model, mends it or trains it gives a result or a typed error.

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use tinytorch_core::nn::{
    AvgPool2d, BatchNorm2d, Concat, Conv2d, Conv2dConfig, Dropout, Embedding, Flatten, Gelu, Layer,
    Linear, MaxPool2d, Relu, Residual, Sequential, Softmax,
};
use tinytorch_core::{Tensor, no_grad};
use tinytorch_quantization::explain::{ExplainOptions, explain};
use tinytorch_quantization::{
    Calibration, Examples, Half, HalfModel, Precision, PrecisionSearch, PrepareOptions, QatOptions,
    RepairOptions, RoundingOptions, Scheme, SearchOptions, Symmetry, calibrate, convert, prepare,
    prepare_qat, repair,
};

use super::Rng;

/// Numbers as training leaves them, and as it should not.
fn disturb(model: &Sequential, rng: &mut Rng) {
    for (_, tensor) in model.named_tensors() {
        let mut values = tensor.to_vec();
        if values.is_empty() {
            continue;
        }
        let at = rng.random_range(0..values.len());
        match rng.random_range(0..24) {
            0 => values.fill(0.0),
            1 => values[at] = 1e4,
            2 => values[at] = f32::MAX,
            3 => values[at] = f32::NAN,
            4 => values[at] = f32::NEG_INFINITY,
            5 => values.iter_mut().for_each(|x| *x *= 1e-38),
            6 => values.iter_mut().for_each(|x| *x *= 1e18),
            7 => values.fill(-1.0),
            _ => continue,
        }
        let changed = Tensor::new(values, tensor.shape()).expect("the same shape");
        tensor.assign(&changed).expect("the same shape");
    }
}

fn conv(inputs: usize, outputs: usize, rng: &mut Rng) -> Conv2d {
    let groups = if inputs == outputs && rng.random() {
        inputs
    } else {
        1
    };
    let size = rng.random_range(1..4);
    let config = Conv2dConfig::new(inputs, outputs, size).padding(rng.random_range(0..2));
    Conv2d::new(config.groups(groups), rng).expect("a good configuration")
}

/// A model that mostly fits its input.
fn network(rng: &mut Rng) -> (Sequential, Vec<usize>) {
    let mut model = Sequential::new();
    let mut features = rng.random_range(1..7);
    let start = match rng.random_range(0..5) {
        0 | 1 => {
            let outputs = rng.random_range(1..5);
            model = model.with(conv(features, outputs, rng));
            if rng.random() {
                model = model.with(BatchNorm2d::new(outputs));
            }
            if rng.random() {
                model = model.with(Relu).with(conv(outputs, outputs, rng));
            }
            model = match rng.random_range(0..4) {
                0 => model.with(MaxPool2d::new(2)),
                1 => model.with(AvgPool2d::new(2)),
                2 => model.with(Residual::new(Sequential::new().with(Relu))),
                _ => model,
            };
            model = model.with(Flatten);
            let image = vec![features, 6, 6];
            let one = Tensor::zeros(&[&[1][..], &image].concat());
            features = no_grad(|| model.forward(&one)).map_or(3, |y| y.len());
            image
        }
        2 => {
            model = model.with(Embedding::new(5, features, rng));
            vec![]
        }
        _ => vec![features],
    };
    for _ in 0..rng.random_range(0..4) {
        let outputs = rng.random_range(1..7);
        model = match rng.random_range(0..9) {
            0 => model.with(Relu),
            1 => model.with(Gelu),
            2 => model.with(Dropout::new(0.5, rng).expect("a probability")),
            3 => model.with(Residual::new(Linear::new(features, features, rng))),
            4 => {
                let ways = Concat::new()
                    .with(Linear::new(features, outputs, rng))
                    .with(Sequential::new());
                features += outputs;
                model.with(ways)
            }
            // This one does not fit.
            5 if rng.random_range(0..4) == 0 => model.with(Linear::new(features + 1, 2, rng)),
            _ => {
                let layer = Linear::new(features, outputs, rng);
                features = outputs;
                model.with(layer)
            }
        };
    }
    if rng.random_range(0..4) == 0 {
        model = model.with(Softmax);
    }
    if rng.random() {
        disturb(&model, rng);
    }
    (model, start)
}

fn batch(shape: &[usize], rng: &mut Rng) -> Tensor {
    let rows = [0, 1, 2, 5][rng.random_range(0..4)];
    let whole = [&[rows], shape].concat();
    let count = whole.iter().product();
    let mut values = if shape.is_empty() {
        (0..count).map(|_| rng.random_range(0..5) as f32).collect()
    } else {
        Tensor::randn(&[count], rng).to_vec()
    };
    if count > 0 && rng.random_range(0..6) == 0 {
        let odd = [f32::NAN, f32::INFINITY, 1e30, -7.0, 0.5];
        values[rng.random_range(0..count)] = odd[rng.random_range(0..odd.len())];
    }
    if rng.random_range(0..6) == 0 {
        values.fill(0.0);
    }
    Tensor::new(values, &whole).expect("as many values")
}

fn precision(rng: &mut Rng) -> Precision {
    let asymmetric = Scheme {
        symmetry: Symmetry::Asymmetric,
        ..Scheme::WEIGHTS
    };
    let choices = [
        Precision::STATIC,
        Precision::STATIC,
        Precision::static_bits(2),
        Precision::Static {
            weights: Some(Scheme::weights_in_groups(4, 3)),
        },
        Precision::Static {
            weights: Some(asymmetric),
        },
        Precision::Dynamic,
        Precision::WEIGHT_ONLY_INT4,
        Precision::WEIGHT_ONLY_INT8,
        Precision::Bf16,
        Precision::Float,
    ];
    choices[rng.random_range(0..choices.len())]
}

fn options(model: &Sequential, rng: &mut Rng) -> PrepareOptions {
    let methods = [
        Calibration::MinMax,
        Calibration::MovingAverage(0.1),
        Calibration::Percentile(99.0),
        Calibration::MeanSquaredError,
        Calibration::Entropy,
        Calibration::Entropy,
    ];
    let overrides = model.shared().iter().filter_map(|(name, _)| {
        let one = rng.random_range(0..4) == 0;
        one.then(|| (name.clone(), precision(rng)))
    });
    let overrides = overrides.collect();
    PrepareOptions {
        overrides,
        activations: match rng.random_range(0..4) {
            0 => Symmetry::Symmetric,
            _ => Symmetry::Asymmetric,
        },
        precision: precision(rng),
        calibration: methods[rng.random_range(0..methods.len())],
        ..PrepareOptions::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, ..ProptestConfig::default() })]

    #[test]
    fn a_model_of_any_kind_is_explained_and_repaired_or_refused(seed in any::<u64>()) {
        let rng = &mut Rng::seed_from_u64(seed);
        let (model, shape) = network(rng);
        let batches: Vec<Tensor> = (0..rng.random_range(0..3)).map(|_| batch(&shape, rng)).collect();
        let options = options(&model, rng);
        let Ok(mut prepared) = prepare(&model, &options) else {
            return Ok(());
        };
        // What was refused half-way leaves a model that is only half observed.
        let _ = calibrate(&mut prepared, batches.clone());
        let _ = prepared.calibration_report();
        let asked = ExplainOptions { channels_of: 2, predict: rng.random() };
        if let Ok(found) = explain(&prepared, &batches, &asked) {
            let _ = (found.to_string(), found.advice(), found.worst());
        }
        let how = RepairOptions {
            equalize: rng.random(),
            correct_bias: rng.random(),
            learn_rounding: rng.random::<bool>().then(RoundingOptions::default),
        };
        if let Ok(report) = repair(&mut prepared, &batches, &how) {
            let _ = report.to_string();
        }
        if let Ok(quantized) = convert(&prepared) {
            for x in &batches {
                let (fast, defined) = (quantized.forward(x), quantized.forward_definition(x));
                prop_assert_eq!(fast.is_ok(), defined.is_ok(), "{:?} {:?}", fast, defined);
            }
        }
    }

    #[test]
    fn a_model_of_any_kind_is_trained_in_every_way_or_refused(seed in any::<u64>()) {
        let rng = &mut Rng::seed_from_u64(seed);
        let (model, shape) = network(rng);
        let x = batch(&shape, rng);
        for half in [Half::F16, Half::Bf16] {
            let narrow = HalfModel::new(&model, half);
            if let Ok(y) = narrow.forward(&x) {
                let _ = y.sum().backward();
            }
            let _ = narrow.saved_bytes();
        }
        let aware = QatOptions { prepare: options(&model, rng), ..QatOptions::learned(3) };
        if let Ok(aware) = prepare_qat(&model, &aware) {
            if let Ok(y) = aware.forward(&x) {
                let _ = y.sum().backward();
            }
            let _ = aware.convert();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn a_search_over_a_model_of_any_kind_ends(seed in any::<u64>()) {
        let rng = &mut Rng::seed_from_u64(seed);
        let (model, shape) = network(rng);
        let inputs = batch(&shape, rng);
        let rows = inputs.shape()[0];
        let labels: Vec<usize> = (0..rows + rng.random_range(0..2)).map(|i| i % 3).collect();
        let calibration = (0..rng.random_range(0..2)).map(|_| batch(&shape, rng)).collect();
        let examples = Examples { inputs, labels, classes: rng.random_range(0..4) };
        let asked = SearchOptions {
            choices: (0..rng.random_range(0..3)).map(|_| precision(rng)).collect(),
            prepare: options(&model, rng),
            turns: 1,
            timed_batch: rng.random_range(0..3),
        };
        if let Ok(mut search) = PrecisionSearch::new(&model, calibration, examples, asked) {
            let mut steps = 0;
            while let Ok(true) = search.step() {
                steps += 1;
                if steps > 12 {
                    break;
                }
            }
            let _ = search.frontier();
            let _ = search.fastest_above(0.9);
        }
    }
}
