//! Whole models: what runs fast gives the codes of the definition, and what is unusual is refused by name.

#[path = "models/composites.rs"]
mod composites;
#[path = "models/edges.rs"]
mod edges;
#[path = "models/modes.rs"]
mod modes;
#[path = "models/odd.rs"]
mod odd;
#[path = "models/refusals.rs"]
mod refusals;
#[path = "models/stages.rs"]
mod stages;
#[path = "models/targets.rs"]
mod targets;

#[path = "models/explain.rs"]
mod explain;
#[path = "models/explain_refused.rs"]
mod explain_refused;
#[path = "models/repair.rs"]
mod repair;
#[path = "models/repair_parts.rs"]
mod repair_parts;

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tinytorch_core::nn::{
    AvgPool2d, BatchNorm2d, Conv2d, Conv2dConfig, Dropout, Flatten, Gelu, Layer, Linear, MaxPool2d,
    Relu, Sequential,
};
use tinytorch_core::{Pool2dOptions, Tensor};
use tinytorch_quantization::{
    Calibration, CodeRange, Error, FloatLayer, Granularity, PrepareOptions, Prepared, QLayer,
    QModel, QParams, Scheme, Sketch, calibrate, convert, load_sketches, prepare, save_sketches,
};

type Rng = ChaCha8Rng;

fn quantized(model: &Sequential, options: &PrepareOptions, batches: &[Tensor]) -> QModel {
    let mut prepared = prepare(model, options).expect("known layers");
    calibrate(&mut prepared, batches.to_vec()).expect("good batches");
    convert(&prepared).expect("calibrated")
}

/// Numbers that training might have left in a batch norm.
fn lived_in(norm: BatchNorm2d, rng: &mut Rng) -> BatchNorm2d {
    for tensor in [norm.weight(), norm.bias(), norm.running_mean()] {
        tensor.update(|mut values| values.mapv_inplace(|x| x + rng.random_range(-0.5..0.5)));
    }
    norm.running_var()
        .update(|mut values| values.mapv_inplace(|x| x * rng.random_range(0.2..3.0)));
    norm
}

/// A convolutional network of random sizes, and images for it.
fn random_network(seed: u64) -> (Sequential, Tensor) {
    let rng = &mut Rng::seed_from_u64(seed);
    let groups = rng.random_range(1..=3);
    let channels = [
        rng.random_range(1..=3),
        groups * rng.random_range(1..=5),
        groups * rng.random_range(1..=5),
    ];
    let [height, width] = [rng.random_range(8..=12), rng.random_range(8..=12)];
    let first = Conv2dConfig::new(channels[0], channels[1], rng.random_range(1..=3))
        .padding(rng.random_range(0..=1))
        .bias(rng.random());
    let second = Conv2dConfig::new(channels[1], channels[2], 3)
        .stride(rng.random_range(1..=2))
        .padding(1)
        .groups(groups);
    let pool = Pool2dOptions {
        kernel: [2, 2],
        stride: [rng.random_range(1..=2), 2],
        padding: [rng.random_range(0..=1), 0],
    };
    let mut features = Sequential::new()
        .with(Conv2d::new(first, rng).expect("a good configuration"))
        .with(lived_in(BatchNorm2d::new(channels[1]), rng));
    if rng.random() {
        features = features.with(Relu);
    }
    features = match rng.random_range(0..3) {
        0 => features.with(MaxPool2d::with(pool)),
        1 => features.with(AvgPool2d::with(pool)).with(Relu),
        _ => features.with(Gelu),
    };
    features = features
        .with(Conv2d::new(second, rng).expect("a good configuration"))
        .with(Relu);
    let x = Tensor::randn(&[3, channels[0], height, width], rng);
    let size = features.forward(&x).expect("the sizes fit").len() / 3;
    let model = Sequential::new()
        .with_named("features", features)
        .with(Flatten)
        .with(Dropout::new(0.5, rng).expect("a probability"))
        .with(Linear::new(size, 7, rng))
        .with(Relu)
        .with(Linear::without_bias(7, 4, rng));
    (model, x)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_fast_model_gives_the_codes_of_the_definition(seed: u64) {
        let (model, x) = random_network(seed);
        let model = quantized(&model, &PrepareOptions::default(), std::slice::from_ref(&x));
        let fast = model.forward(&x).expect("the sizes fit");
        let definition = model.forward_definition(&x).expect("the sizes fit");
        // Both dequantize the same codes, so equal codes are equal bits.
        prop_assert_eq!(fast.to_vec(), definition.to_vec());
        prop_assert_eq!(fast.shape(), [3, 4]);
    }

    #[test]
    fn the_quantized_model_is_close_to_the_real_one(seed: u64) {
        let (model, x) = random_network(seed);
        let quantized = quantized(&model, &PrepareOptions::default(), std::slice::from_ref(&x));
        let expected = model.forward(&x).expect("the sizes fit").to_vec();
        let got = quantized.forward(&x).expect("the sizes fit").to_vec();
        let report = tinytorch_quantization::metrics::compare(&expected, &got);
        // An 8-bit code keeps some 40 dB; a handful of layers cost a few each, and now and then the outputs are what is left of
        // sums that cancel (18 dB was met). A wrong scale or zero point leaves 0 dB.
        prop_assert!(report.sqnr_db > 10.0, "{report:?}");
    }
}

/// What follows a convolution at once may run with it, but not where it does not fit.
#[test]
fn pooling_behind_a_convolution_gives_the_codes_of_the_definition() {
    let rng = &mut Rng::seed_from_u64(5);
    let conv = Conv2dConfig::new(2, 5, 3).padding(1);
    let model = Sequential::new()
        .with_named(
            "conv",
            Conv2d::new(conv, rng).expect("a good configuration"),
        )
        .with(Relu)
        .with_named("pool", MaxPool2d::new(2))
        .with_named(
            "last",
            Conv2d::new(Conv2dConfig::new(5, 3, 1), rng).expect("as good"),
        )
        .with_named("end", MaxPool2d::new(2));
    let x = Tensor::randn(&[3, 2, 9, 6], rng);
    let model = quantized(&model, &PrepareOptions::default(), std::slice::from_ref(&x));
    for (height, width) in [(9, 6), (4, 5), (11, 17)] {
        let x = Tensor::randn(&[2, 2, height, width], rng);
        let fast = model.forward(&x).expect("the sizes fit");
        let definition = model.forward_definition(&x).expect("the sizes fit");
        assert_eq!(fast.shape(), [2, 3, height / 4, width / 4]);
        assert_eq!(fast.to_vec(), definition.to_vec());
    }
    for (size, name) in [([1, 6], "pool"), ([3, 8], "end")] {
        let x = Tensor::randn(&[1, 2, size[0], size[1]], rng);
        let error = model.forward(&x).expect_err("too small").to_string();
        assert!(error.contains(&format!("`{name}`")), "{error}");
    }
}

fn batch(seed: u64) -> (Sequential, Tensor) {
    let rng = &mut Rng::seed_from_u64(seed);
    let model = Sequential::new()
        .with_named("hidden", Linear::new(6, 5, rng))
        .with(Relu)
        .with_named("last", Linear::new(5, 3, rng));
    (model, Tensor::randn(&[16, 6], rng))
}

#[test]
fn weights_may_have_fewer_bits_and_one_scale() {
    let (model, x) = batch(0);
    for codes in [
        CodeRange::INT8_NARROW,
        CodeRange::narrow(4),
        CodeRange::narrow(2),
    ] {
        for granularity in [Granularity::PerTensor, Granularity::PerChannel { axis: 0 }] {
            let options = PrepareOptions {
                weights: Scheme {
                    codes,
                    granularity,
                    ..Scheme::WEIGHTS
                },
                ..PrepareOptions::default()
            };
            let model = quantized(&model, &options, std::slice::from_ref(&x));
            let definition = model.forward_definition(&x).expect("fits").to_vec();
            assert_eq!(model.forward(&x).expect("fits").to_vec(), definition);
        }
    }
}

#[test]
fn every_calibration_makes_a_model() {
    let (model, x) = batch(1);
    for calibration in [
        Calibration::MinMax,
        Calibration::MovingAverage(0.1),
        Calibration::Percentile(99.9),
        Calibration::Entropy,
        Calibration::MeanSquaredError,
    ] {
        let options = PrepareOptions {
            calibration,
            ..PrepareOptions::default()
        };
        let model = quantized(&model, &options, &[x.clone(), x.clone()]);
        assert_eq!(model.forward(&x).expect("fits").shape(), [16, 3]);
    }
}

/// Changing the method costs no inference: it gives the model that calibrating with that method would have given.
#[test]
fn another_calibration_needs_no_data() {
    let (model, x) = batch(1);
    let batches: Vec<Tensor> = (0..12).map(|i| &x * (1.0 + i as f32 / 10.0)).collect();
    let calibrated = |calibration| {
        let options = PrepareOptions {
            calibration,
            ..PrepareOptions::default()
        };
        let mut prepared = prepare(&model, &options).expect("no name is unknown");
        calibrate(&mut prepared, batches.clone()).expect("finite values");
        prepared
    };
    let mut prepared = calibrated(Calibration::MinMax);
    for method in [
        Calibration::Percentile(99.0),
        Calibration::MovingAverage(0.1),
        Calibration::MeanSquaredError,
    ] {
        prepared.recalibrate(method).expect("a good method");
        let changed = convert(&prepared).expect("calibrated");
        let fresh = convert(&calibrated(method)).expect("calibrated");
        let y = |model: &QModel| model.forward(&x).expect("fits").to_vec();
        assert_eq!(y(&changed), y(&fresh), "{method:?}");
    }
    assert!(prepared.recalibrate(Calibration::Percentile(0.0)).is_err());
}

/// Two halves of the data, seen by two copies of the model, one of them through a file, are as good as all of it seen by one.
#[test]
fn calibrations_are_merged_and_reported() {
    let (model, x) = batch(1);
    let batches: Vec<Tensor> = (0..12).map(|i| &x * (1.0 + i as f32 / 10.0)).collect();
    let calibrated = |batches: &[Tensor]| {
        let mut prepared = prepare(&model, &PrepareOptions::default()).expect("all names known");
        calibrate(&mut prepared, batches.to_vec()).expect("finite values");
        prepared
    };
    let whole = calibrated(&batches);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("second half");
    save_sketches(&path, &calibrated(&batches[6..]).sketches()).expect("it can be written");
    let mut first = calibrated(&batches[..6]);
    first
        .merge_sketches(&load_sketches(&path).expect("it was written"))
        .expect("the same places");
    let reports = |prepared: &Prepared| prepared.calibration_report().expect("calibrated");
    for (merged, whole) in reports(&first).iter().zip(&reports(&whole)) {
        assert_eq!(merged.range, whole.range);
        assert_eq!(merged.samples, whole.samples);
        // Both halves number their batches from 0, so they count as six.
        assert_eq!((merged.batches, whole.batches), (6, 12));
        assert_eq!(merged.is_enough(0.5), None);
        // The batches grow steadily from 1 to 2.1 times the first: the next set could reach much further.
        assert_eq!(whole.is_enough(0.01), Some(false));
        assert_eq!(whole.is_enough(100.0), Some(true));
    }
    let names: Vec<String> = reports(&whole).into_iter().map(|of| of.name).collect();
    assert_eq!(names, ["input", "hidden", "last"]);
    let stranger = [("other".to_owned(), Sketch::new())];
    assert!(first.merge_sketches(&stranger).is_err());
}

/// Workers used to number their batches from 0 each, so that batches fell together and a moving average saw fewer, larger ones.
#[test]
fn any_number_of_workers_calibrates_the_model_of_one_pass() {
    let (model, x) = batch(1);
    let batches: Vec<Tensor> = (0..13).map(|i| &x * (1.0 + i as f32 / 10.0)).collect();
    let options = PrepareOptions {
        calibration: Calibration::MovingAverage(0.1),
        ..PrepareOptions::default()
    };
    let fresh = || prepare(&model, &options).expect("all names known");
    let mut whole = fresh();
    calibrate(&mut whole, batches.clone()).expect("finite values");
    let bytes = |prepared: &Prepared| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model");
        let model = convert(prepared).expect("calibrated");
        model.save(&path).expect("a place to write");
        std::fs::read(path).expect("it was written")
    };
    let expected = bytes(&whole);
    for workers in [1, 2, 4] {
        for interleaved in [false, true] {
            let mut parts: Vec<_> = (0..workers).map(|_| (fresh(), Vec::new())).collect();
            for (number, batch) in batches.iter().enumerate() {
                let worker = match interleaved {
                    true => number % workers,
                    false => number * workers / batches.len(),
                };
                parts[worker].1.push((number as u64, batch.clone()));
            }
            let sketches = std::thread::scope(|scope| {
                let run = |(mut worker, part): (Prepared, Vec<(u64, Tensor)>)| {
                    move || {
                        for (number, batch) in part {
                            worker.number_batches_from(number);
                            calibrate(&mut worker, [batch]).expect("finite values");
                        }
                        worker.sketches()
                    }
                };
                let threads: Vec<_> = parts
                    .into_iter()
                    .map(|part| scope.spawn(run(part)))
                    .collect();
                let ends = threads.into_iter().map(|thread| thread.join());
                ends.map(|end| end.expect("no panic")).collect::<Vec<_>>()
            });
            // In whatever order they come back.
            let mut merged = fresh();
            for part in sketches.iter().rev() {
                merged.merge_sketches(part).expect("the same places");
            }
            assert_eq!(merged.sketches(), whole.sketches(), "{workers} workers");
            assert!(bytes(&merged) == expected, "{workers} workers");
            // Numbers go on behind those that were merged.
            calibrate(&mut merged, [x.clone()]).expect("finite values");
            assert_eq!(merged.sketches()[0].1.batches().len(), 14);
        }
    }
}

#[test]
fn linear_layers_take_any_axes_in_front() {
    let (model, x) = batch(2);
    let quantized = quantized(&model, &PrepareOptions::default(), std::slice::from_ref(&x));
    let flat = quantized.forward(&x).expect("fits");
    let cube = x.reshape(&[2, 8, 6]).expect("as many values");
    let y = quantized.forward(&cube).expect("fits");
    assert_eq!((y.shape(), y.to_vec()), (&[2, 8, 3][..], flat.to_vec()));
    let definition = quantized.forward_definition(&cube).expect("fits");
    assert_eq!(definition.to_vec(), flat.to_vec());
}
