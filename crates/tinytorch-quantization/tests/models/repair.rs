//! Repair without training: what must stay stays, and what was lost comes back.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use tinytorch_core::nn::{
    BatchNorm2d, Conv2d, Conv2dConfig, Flatten, Gelu, Layer, Linear, MaxPool2d, Relu, Sequential,
};
use tinytorch_core::{Tensor, no_grad};
use tinytorch_quantization::repair::equalize;
use tinytorch_quantization::{
    CodeRange, Error, Granularity, NonFinite, Precision, PrepareOptions, Prepared, RepairOptions,
    Scheme, calibrate, convert, prepare, repair,
};

type Rng = ChaCha8Rng;

pub(super) fn options(bits: u32, granularity: Granularity) -> PrepareOptions {
    PrepareOptions {
        weights: Scheme {
            codes: CodeRange::narrow(bits),
            granularity,
            ..Scheme::WEIGHTS
        },
        ..PrepareOptions::default()
    }
}

pub(super) const CHANNELS: Granularity = Granularity::PerChannel { axis: 0 };

/// Convolution, depthwise convolution, pooling, linear layers; batch norms as after training.
pub(super) fn network(rng: &mut Rng) -> Sequential {
    let norm = |channels, rng: &mut Rng| {
        let norm = BatchNorm2d::new(channels);
        norm.weight()
            .update(|mut values| values.mapv_inplace(|_| rng.random_range(0.2..2.0)));
        norm.bias()
            .update(|mut values| values.mapv_inplace(|_| rng.random_range(-0.5..0.5)));
        norm
    };
    let conv = |config, rng: &mut Rng| Conv2d::new(config, rng).expect("a good configuration");
    Sequential::new()
        .with_named("first", conv(Conv2dConfig::new(2, 8, 3).padding(1), rng))
        .with(norm(8, rng))
        .with(Relu)
        .with_named(
            "depthwise",
            conv(Conv2dConfig::new(8, 8, 3).padding(1).groups(8), rng),
        )
        .with(norm(8, rng))
        .with(Relu)
        .with(MaxPool2d::new(2))
        .with_named("point", conv(Conv2dConfig::new(8, 12, 1), rng))
        .with(Relu)
        .with(Flatten)
        .with_named("hidden", Linear::new(12 * 9, 16, rng))
        .with(Relu)
        .with_named("last", Linear::new(16, 5, rng))
}

pub fn images(count: usize, rng: &mut Rng) -> Tensor {
    // Neighbours are alike, as in images: each pixel is half of the one before.
    let noise = Tensor::randn(&[count, 2, 6, 6], rng);
    let mut values = noise.to_vec();
    for i in 1..values.len() {
        values[i] += 0.8 * values[i - 1];
    }
    Tensor::new(values, &[count, 2, 6, 6]).expect("as many")
}

pub(super) fn calibrated(
    model: &Sequential,
    options: &PrepareOptions,
    batches: &[Tensor],
) -> Prepared {
    let mut prepared = prepare(model, options).expect("known layers");
    calibrate(&mut prepared, batches.to_vec()).expect("good batches");
    prepared
}

pub(super) fn error(prepared: &Prepared, model: &Sequential, x: &Tensor) -> f64 {
    let expected = no_grad(|| model.forward(x)).expect("it fits").to_vec();
    let got = convert(prepared)
        .and_then(|q| q.forward(x))
        .expect("it fits")
        .to_vec();
    let noise: f32 = expected
        .iter()
        .zip(&got)
        .map(|(x, y)| (x - y) * (x - y))
        .sum();
    let signal: f32 = expected.iter().map(|x| x * x).sum();
    f64::from(noise / signal)
}

#[test]
fn equalization_keeps_the_function() {
    for seed in 0..8 {
        let rng = &mut Rng::seed_from_u64(seed);
        let model = network(rng);
        let x = images(4, rng);
        let mut prepared = prepare(&model, &PrepareOptions::default()).expect("known layers");
        let before = prepared.forward(&x).expect("it fits").to_vec();
        let equalized = equalize(&mut prepared).expect("finite");
        let names = |(a, b): &(String, String)| format!("{a} {b}");
        let pairs: Vec<String> = equalized.pairs.iter().map(names).collect();
        assert_eq!(
            pairs,
            [
                "first depthwise",
                "depthwise point",
                "point hidden",
                "hidden last"
            ]
        );
        assert!(equalized.last_change <= 1e-3, "{equalized:?}");
        let after = prepared.forward(&x).expect("it fits").to_vec();

        // Every rounding is relative to a product or to a sum of products, so it is at most 2⁻²⁴ of the sum of all
        // magnitudes, M: the output of the same network with |w|, |b| and |x|. Per layer a weight is rounded by two factors
        // in each round and by folding, and a sum of k products k times, before and after.
        let mut roundings = 0;
        for stage in prepared.stages_mut() {
            if let Some(folded) = stage.folded().expect("finite") {
                let k: usize = folded.weight.shape()[1..].iter().product();
                roundings += 2 * k + 2 * equalized.rounds + 8;
                let bias = folded.bias.iter().map(|b| b.abs()).collect();
                stage
                    .set_folded(folded.weight.mapv(f32::abs), bias)
                    .expect("it fits");
            }
        }
        let magnitudes = Tensor::from_array(x.array().mapv(f32::abs));
        let magnitudes = prepared.forward(&magnitudes).expect("it fits").to_vec();
        for ((before, after), magnitude) in before.iter().zip(&after).zip(magnitudes) {
            let bound = roundings as f32 * f32::EPSILON / 2.0 * magnitude;
            assert!(
                (before - after).abs() <= bound,
                "{before} {after} within {bound}"
            );
        }
    }
}

#[test]
fn equalization_makes_ranges_meet() {
    let rng = &mut Rng::seed_from_u64(1);
    let mut prepared = prepare(&network(rng), &PrepareOptions::default()).expect("known layers");
    equalize(&mut prepared).expect("finite");
    let weight = |name: &str| {
        let stage = prepared.stage(name).expect("it is there");
        stage.folded().expect("finite").expect("weights").weight
    };
    let (hidden, last) = (weight("hidden"), weight("last"));
    for channel in 0..16 {
        let largest = |values: ndarray::ArrayViewD<'_, f32>| {
            values.iter().fold(0.0_f32, |m, x| m.max(x.abs()))
        };
        let r1 = largest(hidden.index_axis(ndarray::Axis(0), channel));
        let r2 = largest(last.index_axis(ndarray::Axis(1), channel));
        // A factor within 0.1 % of 1 is √(r1 / r2).
        assert!(
            (r1 / r2 - 1.0).abs() < 2.1e-3,
            "channel {channel}: {r1} {r2}"
        );
    }
}

#[test]
fn what_does_not_pass_factors_through_is_named() {
    let rng = &mut Rng::seed_from_u64(2);
    let model = Sequential::new()
        .with_named("a", Linear::new(3, 4, rng))
        .with_named("between", Gelu)
        .with_named("b", Linear::new(4, 4, rng))
        .with_named("c", Linear::new(4, 2, rng));
    let mut prepared = prepare(&model, &PrepareOptions::default()).expect("known layers");
    let equalized = equalize(&mut prepared).expect("finite");
    assert_eq!(equalized.pairs, [("b".to_owned(), "c".to_owned())]);
    let [(name, reason)] = equalized.skipped.as_slice() else {
        panic!("{equalized:?}");
    };
    assert!(name == "a" && reason.contains("`between`"), "{reason}");
}

/// One output channel of a layer is a hundred times as strong as the others, and the next layer expects that.
pub fn with_unequal_channels(rng: &mut Rng) -> Sequential {
    let model = network(rng);
    for (name, tensor) in model.named_tensors() {
        tensor.update(|mut values| match name.as_str() {
            "hidden.weight" => values.row_scale(0, 100.0),
            "hidden.bias" => values[[0]] *= 100.0,
            "last.weight" => {
                let mut column = values.index_axis_mut(ndarray::Axis(1), 0);
                column.mapv_inplace(|w| w / 100.0);
            }
            _ => {}
        });
    }
    model
}

trait RowScale {
    fn row_scale(&mut self, row: usize, factor: f32);
}

impl RowScale for ndarray::ArrayViewMutD<'_, f32> {
    fn row_scale(&mut self, row: usize, factor: f32) {
        self.index_axis_mut(ndarray::Axis(0), row)
            .mapv_inplace(|w| w * factor);
    }
}

#[test]
fn equalization_rescues_one_scale_for_unequal_channels() {
    let rng = &mut Rng::seed_from_u64(3);
    let model = with_unequal_channels(rng);
    let (data, fresh) = (images(64, rng), images(64, rng));
    let mut prepared = calibrated(
        &model,
        &options(8, Granularity::PerTensor),
        std::slice::from_ref(&data),
    );
    let plain = error(&prepared, &model, &fresh);
    let only = RepairOptions {
        correct_bias: false,
        learn_rounding: None,
        ..RepairOptions::default()
    };
    let report = repair(&mut prepared, &[data], &only).expect("good data");
    let equalized = error(&prepared, &model, &fresh);
    assert!(report.steps[0].kept, "{report}");
    assert!(equalized < plain / 4.0, "{plain} {equalized}");
}

#[test]
fn a_corrected_bias_makes_outputs_right_on_average() {
    let rng = &mut Rng::seed_from_u64(4);
    let model = Sequential::new().with_named("only", Linear::new(12, 6, rng));
    // Inputs that are never negative, as behind a ReLU: rounding errors do not average out.
    let x = Tensor::uniform(&[256, 12], 0.0, 1.0, rng);
    let mut prepared = calibrated(&model, &options(3, CHANNELS), std::slice::from_ref(&x));
    let mean_error = |prepared: &Prepared| {
        let got = convert(prepared)
            .and_then(|q| q.forward(&x))
            .expect("it fits");
        let expected = prepared.forward(&x).expect("it fits");
        let difference = expected.array().into_owned() - got.array();
        let means = difference.mean_axis(ndarray::Axis(0)).expect("rows");
        means.iter().fold(0.0_f32, |max, mean| max.max(mean.abs()))
    };
    let plain = mean_error(&prepared);
    let only = RepairOptions {
        equalize: false,
        learn_rounding: None,
        ..RepairOptions::default()
    };
    let report = repair(&mut prepared, std::slice::from_ref(&x), &only).expect("good data");
    let corrected = mean_error(&prepared);
    assert!(report.after < report.before, "{report}");
    // What is left: half a step of the bias, 12 · 127 steps of which are the whole output, and the rounding of
    // outputs to codes, whose mean over 256 samples is some 1 / √(12 · 256) = 1/55 of a step of 1/255 of the range.
    let step = prepared.stages()[0].output_qparams(prepared.input_qparams().expect("seen"));
    let step = step.expect("seen").scale;
    assert!(corrected < 0.1 * step, "{corrected} of {step}");
    assert!(plain > step, "{plain} of {step}: nothing to correct");
}

#[test]
fn learned_rounding_wins_back_what_few_bits_lose() {
    for granularity in [CHANNELS, Granularity::PerTensor] {
        let (mut plain, mut repaired) = (0.0, 0.0);
        for seed in 0..3 {
            let rng = &mut Rng::seed_from_u64(seed);
            let model = network(rng);
            let (data, fresh) = (images(256, rng), images(128, rng));
            let mut prepared = calibrated(
                &model,
                &options(3, granularity),
                std::slice::from_ref(&data),
            );
            plain += error(&prepared, &model, &fresh);
            let report = repair(&mut prepared, &[data], &RepairOptions::default()).expect("good");
            assert!(report.after < report.before, "{report}");
            repaired += error(&prepared, &model, &fresh);
        }
        // On images that nothing was learned from.
        assert!(
            repaired < plain / 4.0,
            "{granularity:?}: {plain} {repaired}"
        );
    }
}

/// Only static layers were repaired; of all others the report said "no gain: taken back", though nothing had been tried.
#[test]
fn dynamic_and_weight_only_layers_are_repaired_and_others_are_named() {
    let three = options(3, CHANNELS);
    let weight_only = |bits, group| Precision::WeightOnly { bits, group };
    for (precision, learned) in [
        (Precision::Dynamic, true),
        (weight_only(3, None), true),
        (weight_only(3, Some(6)), true),
        (Precision::Bf16, false),
    ] {
        let rng = &mut Rng::seed_from_u64(0);
        let model = network(rng);
        let (data, fresh) = (images(256, rng), images(128, rng));
        let options = PrepareOptions {
            precision,
            ..three.clone()
        };
        let mut prepared = calibrated(&model, &options, std::slice::from_ref(&data));
        let plain = error(&prepared, &model, &fresh);
        let report = repair(&mut prepared, &[data], &RepairOptions::default()).expect("good data");
        let repaired = error(&prepared, &model, &fresh);
        let steps = report.steps.iter();
        let layers: usize = steps
            .filter(|step| step.kept)
            .map(|step| step.layers.len())
            .sum();
        if learned {
            // On images that nothing was learned from.
            assert!(
                repaired < plain / 4.0,
                "{precision:?}: {plain} {repaired}\n{report}"
            );
            assert!(report.left.is_empty() && layers > 0, "{report}");
        } else {
            assert_eq!(
                (repaired, layers, report.left.len()),
                (plain, 0, 5),
                "{report}"
            );
            assert!(
                report.to_string().contains("not learned: first: bf16"),
                "{report}"
            );
        }
        // A second repair begins where the first did.
        let again = prepared.stage("last").expect("it is there").weight_codes();
        assert_eq!(again.is_some(), learned);
    }
}

#[test]
fn a_table_of_narrow_rows_is_left_and_named() {
    let (model, ids) = super::modes::words(8);
    let options = PrepareOptions {
        precision: Precision::WEIGHT_ONLY_INT4,
        ..PrepareOptions::default()
    };
    let mut prepared = calibrated(&model, &options, std::slice::from_ref(&ids));
    let report = repair(&mut prepared, &[ids], &RepairOptions::default()).expect("good data");
    let names: Vec<&str> = report.left.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["words"]);
    assert!(report.after < report.before, "{report}");
}

#[test]
fn in_f32_the_model_stays_the_same() {
    let rng = &mut Rng::seed_from_u64(5);
    let model = network(rng);
    let x = images(32, rng);
    let mut prepared = calibrated(&model, &options(4, CHANNELS), std::slice::from_ref(&x));
    let before = prepared.forward(&x).expect("it fits").to_vec();
    let options = RepairOptions {
        equalize: false,
        ..RepairOptions::default()
    };
    let first = repair(&mut prepared, std::slice::from_ref(&x), &options).expect("good data");
    assert_eq!(prepared.forward(&x).expect("it fits").to_vec(), before);
    // What an earlier repair did is forgotten: the second sees what the first saw.
    let second = repair(&mut prepared, &[x], &options).expect("good data");
    assert_eq!(first, second);
}

#[test]
fn data_that_teaches_nothing_is_an_error_or_does_no_harm() {
    let rng = &mut Rng::seed_from_u64(6);
    let model = network(rng);
    let x = images(8, rng);
    let options = RepairOptions::default();
    let mut prepared = calibrated(&model, &PrepareOptions::default(), std::slice::from_ref(&x));
    let nothing = [Tensor::zeros(&[0, 2, 6, 6])];
    for batches in [&nothing[..], &[]] {
        let error = repair(&mut prepared, batches, &options);
        assert_eq!(error, Err(Error::EmptyCalibration));
    }
    let mut fresh = prepare(&model, &PrepareOptions::default()).expect("known layers");
    let error = repair(&mut fresh, std::slice::from_ref(&x), &options);
    assert!(
        matches!(error, Err(Error::NothingObserved { .. })),
        "{error:?}"
    );
    let broken = Tensor::full(&[1, 2, 6, 6], f32::NAN);
    let error = repair(&mut prepared, &[broken], &options);
    let Err(Error::NotFinite {
        value: NonFinite::NaN,
        place,
    }) = error
    else {
        panic!("{error:?}");
    };
    assert_eq!(place.tensor.as_deref(), Some("input"));
    assert!(repair(&mut prepared, &[Tensor::zeros(&[1, 3])], &options).is_err());
    for batch in [Tensor::zeros(&[1, 2, 6, 6]), images(1, rng)] {
        let report = repair(&mut prepared, &[batch], &options).expect("finite");
        assert!(report.after <= report.before, "{report}");
    }
}

#[test]
fn the_report_is_a_table_and_json() {
    let rng = &mut Rng::seed_from_u64(7);
    let model = network(rng);
    let x = images(32, rng);
    let mut prepared = calibrated(&model, &options(4, CHANNELS), std::slice::from_ref(&x));
    let report = repair(&mut prepared, &[x], &RepairOptions::default()).expect("good data");
    let text = report.to_string();
    for word in [
        "equalization",
        "bias correction",
        "learned rounding",
        "  depthwise",
    ] {
        assert!(text.contains(word), "no {word} in\n{text}");
    }
    let json = serde_json::to_value(&report).expect("plain data");
    assert_eq!(json["steps"].as_array().map(Vec::len), Some(3));
    assert_eq!(json["steps"][2]["step"], "learned_rounding");
}
