//! Explaining an error: sources are told apart, and predictions hold.

use tinytorch_core::nn::{Layer, Linear, Relu, Sequential};
use tinytorch_core::{Tensor, no_grad};
use tinytorch_quantization::explain::{
    ExplainOptions, Explanation, Remedy, Source, explain, explain_with,
};
use tinytorch_quantization::{
    Calibration, CodeRange, Error, Granularity, Precision, PrepareOptions, Prepared, RepairOptions,
    RoundingOptions, Scheme, calibrate, convert, metrics, prepare, repair,
};

use super::Rng;
use rand::SeedableRng;

pub(super) fn network(rng: &mut Rng) -> Sequential {
    Sequential::new()
        .with_named("first", Linear::new(24, 32, rng))
        .with(Relu)
        .with_named("second", Linear::new(32, 32, rng))
        .with(Relu)
        .with_named("last", Linear::new(32, 8, rng))
}

pub(super) fn weights(bits: u32, granularity: Granularity) -> PrepareOptions {
    PrepareOptions {
        weights: Scheme {
            codes: CodeRange::narrow(bits),
            granularity,
            ..Scheme::WEIGHTS
        },
        ..PrepareOptions::default()
    }
}

pub(super) const CHANNEL: Granularity = Granularity::PerChannel { axis: 0 };

pub(super) fn calibrated(model: &Sequential, options: &PrepareOptions, data: &Tensor) -> Prepared {
    let mut prepared = prepare(model, options).expect("known layers");
    calibrate(&mut prepared, [data.clone()]).expect("good data");
    prepared
}

pub(super) fn explained(prepared: &Prepared, data: &Tensor) -> Explanation {
    let data = std::slice::from_ref(data);
    explain(prepared, data, &ExplainOptions::default()).expect("good data")
}

/// The error of the integer model, measured.
fn error(prepared: &Prepared, model: &Sequential, x: &Tensor) -> f64 {
    let expected = no_grad(|| model.forward(x)).expect("it fits").to_vec();
    let got = convert(prepared)
        .and_then(|q| q.forward(x))
        .expect("it fits")
        .to_vec();
    10.0_f64.powf(-metrics::sqnr_db(&expected, &got) / 10.0)
}

#[test]
fn the_simulation_is_the_integer_model() {
    for seed in 0..4 {
        let rng = &mut Rng::seed_from_u64(seed);
        let model = network(rng);
        let x = Tensor::randn(&[64, 24], rng);
        let prepared = calibrated(&model, &weights(4, CHANNEL), &x);
        let explanation = explained(&prepared, &x);
        let measured = error(&prepared, &model, &x);
        // The same sums in another precision: now and then a code that was nearly a tie is the next one.
        assert!(
            (explanation.measured / measured - 1.0).abs() < 1e-6,
            "{measured} {explanation}"
        );
        assert!(
            (explanation.simulated / measured - 1.0).abs() < 0.02,
            "{measured} {explanation}"
        );
    }
}

#[test]
fn few_bits_are_found_in_the_weights_and_a_narrow_range_in_the_activations() {
    let rng = &mut Rng::seed_from_u64(1);
    let model = network(rng);
    let x = Tensor::randn(&[128, 24], rng);
    let alone = |explanation: &Explanation, source| {
        explanation
            .sources
            .iter()
            .find(|s| s.source == source)
            .expect("all are there")
            .alone
    };

    let few_bits = explained(&calibrated(&model, &weights(3, CHANNEL), &x), &x);
    let worst = few_bits.worst().expect("an error");
    assert_eq!(worst.source, Source::WeightRounding);
    // The scale is that of the largest weight, and activations keep to what calibration saw.
    for source in [Source::WeightClipping, Source::ActivationClipping] {
        // Not exactly 0: the zero point is rounded, which moves the ends of a range by half a step of 8 bits.
        assert!(
            alone(&few_bits, source) < 1e-3 * few_bits.measured,
            "{few_bits}"
        );
    }

    let narrow = PrepareOptions {
        calibration: Calibration::Percentile(90.0),
        ..PrepareOptions::default()
    };
    let narrow = explained(&calibrated(&model, &narrow, &x), &x);
    assert_eq!(
        narrow.worst().map(|share| share.source),
        Some(Source::ActivationClipping),
        "{narrow}"
    );
    assert_eq!(
        narrow.advice().map(|p| &p.remedy),
        Some(&Remedy::CalibrateMinMax),
        "{narrow}"
    );
}

#[test]
fn a_spoiled_layer_and_its_channel_are_named() {
    let rng = &mut Rng::seed_from_u64(2);
    let model = network(rng);
    let x = Tensor::randn(&[128, 24], rng);
    let mut prepared = calibrated(&model, &weights(4, CHANNEL), &x);
    // The largest weight of one row becomes so large that all others of it are rounded to 0.
    let stage = prepared.stage_mut("second").expect("it is there");
    let mut folded = stage.folded().expect("finite").expect("weights");
    let mut codes = folded.weight.clone();
    codes[[5, 0]] = 3.0;
    folded.weight = codes;
    stage
        .set_folded(folded.weight, folded.bias)
        .expect("it fits");
    prepared.forget_observations().expect("a good method");
    calibrate(&mut prepared, [x.clone()]).expect("good data");
    let explanation = explained(&prepared, &x);
    let worst = explanation.worst().expect("an error");
    assert_eq!(
        (worst.layer.as_str(), worst.source),
        ("second", Source::WeightRounding),
        "{explanation}"
    );
    let channel = explanation
        .channels
        .first()
        .expect("the worst layer has channels");
    assert_eq!(
        (channel.layer.as_str(), channel.channel),
        ("second", 5),
        "{explanation}"
    );
}

#[test]
fn predictions_are_what_the_remedies_then_gain() {
    let (mut tried, mut advised) = (0, 0);
    for seed in 0..3 {
        let rng = &mut Rng::seed_from_u64(seed);
        let model = network(rng);
        let x = Tensor::randn(&[256, 24], rng);
        let data = std::slice::from_ref(&x);
        let options = weights(4, Granularity::PerTensor);
        let explanation = explained(&calibrated(&model, &options, &x), &x);
        let before = error(&calibrated(&model, &options, &x), &model, &x);
        let repaired = |bias: bool, rounding: Option<RoundingOptions>| {
            let mut prepared = calibrated(&model, &options, &x);
            let options = RepairOptions {
                equalize: false,
                correct_bias: bias,
                learn_rounding: rounding,
            };
            repair(&mut prepared, data, &options).expect("good data");
            error(&prepared, &model, &x)
        };
        let kept = explanation
            .predictions
            .iter()
            .find_map(|p| match &p.remedy {
                Remedy::KeepFloat(layer) => Some(layer.clone()),
                _ => None,
            });
        let kept = kept.expect("some layer is the worst");
        let in_float = PrepareOptions {
            keep_float: vec![kept.clone()],
            ..options.clone()
        };
        let measured = [
            (Remedy::CorrectBias, repaired(true, None)),
            (
                Remedy::LearnRounding,
                repaired(true, Some(RoundingOptions::default())),
            ),
            (
                Remedy::ScalePerChannel,
                error(&calibrated(&model, &weights(4, CHANNEL), &x), &model, &x),
            ),
            (
                Remedy::EightBits,
                error(
                    &calibrated(&model, &weights(8, Granularity::PerTensor), &x),
                    &model,
                    &x,
                ),
            ),
            (
                Remedy::KeepFloat(kept),
                error(&calibrated(&model, &in_float, &x), &model, &x),
            ),
        ];
        for (remedy, after) in measured {
            let gain = before - after;
            let predicted = explanation.prediction(&remedy).expect("it applies").gain;
            // A tenth of the whole error: what the remedies do to each other's layers, and codes that were nearly ties.
            assert!(
                (predicted - gain).abs() < 0.1 * before,
                "{remedy}: {predicted} {gain} of {before}\n{explanation}"
            );
            tried += 1;
            if explanation.advice().map(|p| &p.remedy) == Some(&remedy) {
                assert!(gain > 0.3 * before, "{remedy}: {gain} of {before}");
                advised += 1;
            }
        }
    }
    assert_eq!((tried, advised), (15, 3));
}

#[test]
fn any_measure_can_be_explained() {
    let rng = &mut Rng::seed_from_u64(3);
    let model = network(rng);
    let x = Tensor::randn(&[64, 24], rng);
    let prepared = calibrated(&model, &weights(3, CHANNEL), &x);
    // The largest difference of any output from 1, say.
    let measure = |outputs: &[Tensor]| {
        let values = outputs.iter().flat_map(Tensor::to_vec);
        f64::from(values.fold(0.0_f32, |max, y| max.max((y - 1.0).abs())))
    };
    let options = ExplainOptions {
        channels_of: 0,
        predict: false,
    };
    let explanation =
        explain_with(&prepared, std::slice::from_ref(&x), &options, &measure).expect("good data");
    let model = convert(&prepared)
        .and_then(|q| q.forward(&x))
        .expect("it fits");
    let real = prepared.forward(&x).expect("it fits");
    // Real outputs may be summed in another order with other kernels: some 50 roundings of values below 8.
    let measured = measure(&[model]) - measure(&[real]);
    assert!((explanation.measured - measured).abs() <= 50.0 * 8.0 * f64::from(f32::EPSILON));
    assert!(explanation.channels.is_empty() && explanation.predictions.is_empty());
}

#[test]
fn sums_convolutions_and_layers_in_f32_are_explained_as_well() {
    let rng = &mut Rng::seed_from_u64(4);
    let model = super::repair_parts::with_ways(rng);
    let x = super::repair::images(32, rng);
    let prepared = calibrated(&model, &weights(4, CHANNEL), &x);
    let explanation = explained(&prepared, &x);
    assert!(
        (explanation.simulated / explanation.measured - 1.0).abs() < 0.05,
        "{explanation}"
    );
    let names: Vec<&str> = explanation
        .layers
        .iter()
        .map(|share| share.layer.as_str())
        .collect();
    for name in ["input", "stem", "sum", "last"] {
        assert!(names.contains(&name), "no {name} in {names:?}");
    }
    let text = explanation.to_string();
    assert!(
        text.contains("Advice:") && text.contains("weight rounding"),
        "{text}"
    );
    let json = serde_json::to_value(&explanation).expect("plain data");
    assert_eq!(json["sources"].as_array().map(Vec::len), Some(5));
}

fn in_mode(precision: Precision, overrides: &[(&str, Precision)]) -> PrepareOptions {
    let named = |(name, precision): &(&str, Precision)| ((*name).to_owned(), *precision);
    PrepareOptions {
        precision,
        overrides: overrides.iter().map(named).collect(),
        ..PrepareOptions::default()
    }
}

const MODES: [Precision; 5] = [
    Precision::Dynamic,
    Precision::WEIGHT_ONLY_INT8,
    Precision::WEIGHT_ONLY_INT4,
    Precision::Bf16,
    Precision::STATIC,
];

/// Outputs of layers between real values were written as if scale 1 were theirs, and their weights were no source.
#[test]
fn layers_of_every_precision_are_simulated_wherever_they_stand() {
    let rng = &mut Rng::seed_from_u64(6);
    let model = network(rng);
    let x = Tensor::randn(&[64, 24], rng);
    let ways = super::repair_parts::with_ways(rng);
    let images = super::repair::images(16, rng);
    let (words, ids) = super::modes::words(7);
    let check = |model: &Sequential, options: &PrepareOptions, x: &Tensor| {
        let quick = ExplainOptions {
            channels_of: 1,
            predict: false,
        };
        let prepared = calibrated(model, options, x);
        let explanation = explain(&prepared, std::slice::from_ref(x), &quick).expect("good data");
        // Codes that were nearly ties, and sums in another order.
        assert!(
            (explanation.simulated / explanation.measured - 1.0).abs() < 0.05,
            "{options:?} {} {explanation}",
            explanation.simulated
        );
        explanation
    };
    for mode in MODES {
        let explanation = check(&model, &in_mode(mode, &[]), &x);
        let alone = |source| {
            let mut all = explanation.sources.iter();
            all.find(|s| s.source == source)
                .expect("all are there")
                .alone
        };
        let weights_alone = matches!(mode, Precision::WeightOnly { .. });
        assert!(alone(Source::WeightRounding) > 0.0, "{mode:?}");
        // A weight-only layer rounds no activation.
        assert_eq!(
            alone(Source::ActivationRounding) > 0.0,
            !weights_alone,
            "{mode:?}"
        );
        if weights_alone {
            let all = alone(Source::WeightRounding) / explanation.measured;
            assert!((all - 1.0).abs() < 0.05, "{explanation}");
        }
        for place in ["first", "second", "last"] {
            let explanation = check(&model, &in_mode(Precision::STATIC, &[(place, mode)]), &x);
            let share = explanation
                .layers
                .iter()
                .find(|share| share.layer == place && share.source == Source::WeightRounding);
            assert!(share.is_some_and(|share| share.alone > 0.0), "{place}");
        }
        check(&ways, &in_mode(mode, &[]), &images);
        check(&words, &in_mode(mode, &[]), &ids);
    }
}

#[test]
fn remedies_of_weight_only_layers_are_predicted() {
    let rng = &mut Rng::seed_from_u64(8);
    let model = network(rng);
    let x = Tensor::randn(&[256, 24], rng);
    let group = |bits| Precision::WeightOnly {
        bits,
        group: Some(8),
    };
    let explanation = explained(&calibrated(&model, &in_mode(group(3), &[]), &x), &x);
    let eight = error(&calibrated(&model, &in_mode(group(8), &[]), &x), &model, &x);
    let predicted = explanation
        .prediction(&Remedy::EightBits)
        .expect("it applies");
    let gain = explanation.measured - eight;
    assert!((predicted.gain / gain - 1.0).abs() < 0.02, "{explanation}");
    // No range was calibrated, and one scale per channel would be coarser.
    assert!(explanation.prediction(&Remedy::CalibrateMinMax).is_none());
    assert!(explanation.prediction(&Remedy::ScalePerChannel).is_none());
    assert!(explanation.advice().is_some(), "{explanation}");
}

#[test]
fn equalization_is_the_advice_where_one_scale_serves_unequal_channels() {
    let rng = &mut Rng::seed_from_u64(3);
    let model = super::repair::with_unequal_channels(rng);
    let x = super::repair::images(64, rng);
    let options = weights(8, Granularity::PerTensor);
    let mut prepared = calibrated(&model, &options, &x);
    let before = error(&prepared, &model, &x);
    let explanation = explained(&prepared, &x);
    let advice = explanation.advice().expect("something helps");
    assert_eq!(advice.remedy, Remedy::Equalize, "{explanation}");
    let only = RepairOptions {
        correct_bias: false,
        learn_rounding: None,
        ..RepairOptions::default()
    };
    repair(&mut prepared, std::slice::from_ref(&x), &only).expect("good data");
    let gain = before - error(&prepared, &model, &x);
    assert!(gain > 0.5 * before, "{gain} of {before}");
    // Predicted by the same steps in the simulation, which differs from the integers by 2 % at most.
    assert!(
        (advice.gain - gain).abs() < 0.05 * before,
        "{gain}\n{explanation}"
    );
}

#[test]
fn a_simulation_of_something_else_gives_no_advice() {
    let rng = &mut Rng::seed_from_u64(9);
    let model = network(rng);
    let x = Tensor::randn(&[64, 24], rng);
    let mut explanation = explained(&calibrated(&model, &weights(3, CHANNEL), &x), &x);
    assert!(explanation.is_faithful() && explanation.advice().is_some());
    explanation.measured /= 3.0;
    assert!(!explanation.is_faithful() && explanation.advice().is_none());
    assert!(
        explanation.to_string().contains("No advice"),
        "{explanation}"
    );
}

#[test]
fn without_data_or_calibration_there_is_nothing_to_explain() {
    let rng = &mut Rng::seed_from_u64(5);
    let model = network(rng);
    let x = Tensor::randn(&[4, 24], rng);
    let options = ExplainOptions::default();
    let prepared = calibrated(&model, &PrepareOptions::default(), &x);
    assert_eq!(
        explain(&prepared, &[], &options),
        Err(Error::EmptyCalibration)
    );
    let fresh = prepare(&model, &PrepareOptions::default()).expect("known layers");
    assert!(matches!(
        explain(&fresh, &[x], &options),
        Err(Error::NothingObserved { .. })
    ));
}
