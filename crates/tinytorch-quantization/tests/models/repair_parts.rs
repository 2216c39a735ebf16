//! Repair of weights in groups, and of layers inside of sums and concatenations.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use tinytorch_core::nn::{
    Concat, Conv2d, Conv2dConfig, Flatten, Linear, Relu, Residual, Sequential,
};
use tinytorch_quantization::repair::{RoundingOptions, learn_codes};
use tinytorch_quantization::{Error, Granularity, PrepareOptions, RepairOptions, prepare, repair};

type Rng = ChaCha8Rng;

use super::repair::{CHANNELS, calibrated, error, images, network, options};

#[test]
fn codes_in_groups_are_learned_for_weights_that_are_only_stored() {
    let rng = &mut Rng::seed_from_u64(8);
    let model = network(rng);
    let (data, fresh) = (images(128, rng), images(64, rng));
    let size = 16;
    let prepared =
        prepare(&model, &options(3, Granularity::PerGroup { size })).expect("known layers");
    let mut inputs = [data, fresh];
    for stage in prepared.stages() {
        if let Some(folded) = stage.folded().expect("finite") {
            let options = RoundingOptions::default();
            let learned = learn_codes(&folded, &inputs[..1], options).expect("good inputs");
            let plain =
                tinytorch_quantization::QTensor::quantize(folded.weight.view(), folded.scheme);
            let plain = plain.expect("finite");
            assert_eq!(
                learned.parameters().granularity(),
                Granularity::PerGroup { size }
            );
            assert_eq!(
                learned.parameters().pairs().len(),
                plain.parameters().pairs().len()
            );
            let mut layer = prepare(&model, &PrepareOptions::default()).expect("known layers");
            let layer = layer.stage_mut(stage.name()).expect("it is there");
            let mut error = |weight| {
                layer
                    .set_folded(weight, folded.bias.clone())
                    .expect("it fits");
                let got = layer
                    .forward(&inputs[1])
                    .expect("it fits")
                    .array()
                    .into_owned();
                let expected = stage.forward(&inputs[1]).expect("it fits");
                (got - expected.array()).mapv(|x| x * x).sum()
            };
            // On inputs that nothing was learned from. A depthwise kernel has 9 weights of 3 bits: there is not much to win.
            let (learned, plain) = (error(learned.dequantize()), error(plain.dequantize()));
            assert!(learned < 0.9 * plain, "{}: {learned} {plain}", stage.name());
        }
        inputs
            .iter_mut()
            .for_each(|x| *x = stage.forward(x).expect("it fits"));
    }
    assert_eq!(
        prepared.stages()[0]
            .folded()
            .expect("finite")
            .map(|f| learn_codes(&f, &[], RoundingOptions::default())),
        Some(Err(Error::EmptyCalibration))
    );
}

/// A sum and a concatenation, with weights in all their ways.
pub fn with_ways(rng: &mut Rng) -> Sequential {
    let conv = |inputs, outputs, kernel: usize, rng: &mut Rng| {
        let config = Conv2dConfig::new(inputs, outputs, kernel).padding(kernel / 2);
        Conv2d::new(config, rng).expect("a good configuration")
    };
    let body = Sequential::new()
        .with_named("in", conv(8, 12, 3, rng))
        .with(Relu)
        .with_named("out", conv(12, 8, 1, rng));
    let left = Sequential::new()
        .with_named("left", conv(8, 6, 1, rng))
        .with(Relu);
    Sequential::new()
        .with_named("stem", conv(2, 8, 3, rng))
        .with(Relu)
        .with_named("sum", Residual::new(body))
        .with(Relu)
        .with_named(
            "ways",
            Concat::new()
                .with(left)
                .with(Sequential::new().with_named("right", conv(8, 4, 3, rng))),
        )
        .with(Flatten)
        .with_named("last", Linear::new(10 * 36, 5, rng))
}

#[test]
fn layers_inside_of_sums_and_concatenations_are_repaired_as_well() {
    let rng = &mut Rng::seed_from_u64(9);
    let model = with_ways(rng);
    let (data, fresh) = (images(128, rng), images(64, rng));
    let mut prepared = calibrated(&model, &options(3, CHANNELS), std::slice::from_ref(&data));
    let plain = error(&prepared, &model, &fresh);
    let before = prepared.forward(&fresh).expect("it fits").to_vec();
    let report = repair(&mut prepared, &[data], &RepairOptions::default()).expect("good data");
    let learned = report.steps.last().expect("a step");
    assert_eq!(learned.layers.len(), 6, "{report}");
    let repaired = error(&prepared, &model, &fresh);
    assert!(repaired < plain / 4.0, "{plain} {repaired}\n{report}");
    // Steps that were taken back, and equalization, change nothing in f32 beyond rounding: some hundred roundings of values
    // around 1, 2⁻²⁴ each, behind four layers.
    for (before, after) in before
        .iter()
        .zip(prepared.forward(&fresh).expect("it fits").to_vec())
    {
        assert!((before - after).abs() < 1e-3, "{before} {after}");
    }
}
