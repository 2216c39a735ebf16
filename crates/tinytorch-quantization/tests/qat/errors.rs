//! What goes wrong in quantization-aware training is named as in post-training quantization: type, layer, tensor, channel, index.

use tinytorch_core::data::BatchSource;
use tinytorch_core::nn::{
    BatchNorm2d, Conv2d, Conv2dConfig, Dropout, Flatten, Gelu, Layer, Linear, Relu, Residual,
    Sequential,
};
use tinytorch_core::{Tensor, no_grad};
use tinytorch_quantization::{
    Error, NonFinite, Place, PrepareOptions, QatModel, QatOptions, QatRecipe, prepare, prepare_qat,
    train_qat,
};

use super::{loader, rng};

/// A convolution with a batch norm, a sum, a layer that stays in `f32`, and a linear layer.
fn model(seed: u64) -> Sequential {
    let rng = &mut rng(seed);
    let conv = |inputs, rng: &mut _| {
        Conv2d::new(Conv2dConfig::new(inputs, 2, 3).padding(1), rng).expect("good")
    };
    Sequential::new()
        .with_named("first", conv(1, rng))
        .with_named("norm", BatchNorm2d::new(2))
        .with_named("relu", Relu)
        .with_named(
            "sum",
            Residual::new(Sequential::new().with_named("conv", conv(2, rng))),
        )
        .with_named("gelu", Gelu)
        .with_named("flat", Flatten)
        .with_named("drop", Dropout::new(0.5, rng).expect("a probability"))
        .with_named("last", Linear::new(2 * 16, 3, rng))
}

fn ready(seed: u64) -> (QatModel, Tensor) {
    let qat = prepare_qat(&model(seed), &QatOptions::learned(4)).expect("known layers");
    (qat, Tensor::randn(&[5, 1, 4, 4], &mut rng(seed + 1)))
}

fn error(qat: &QatModel, x: &Tensor) -> Error {
    Error::from(qat.forward(x).expect_err("it must not work"))
}

fn not_finite(tensor: &str, channel: Option<usize>, index: usize) -> Error {
    Error::NotFinite {
        value: NonFinite::NaN,
        place: Place {
            tensor: Some(tensor.to_owned()),
            channel,
            index,
        },
    }
}

fn spoil(x: &Tensor, index: usize) {
    x.update(|mut values| {
        let value = values.iter_mut().nth(index);
        *value.expect("so many values") = f32::NAN;
    });
}

#[test]
fn a_value_that_is_not_finite_is_named_with_its_tensor() {
    // All of these were text in an error of the framework, "NaN at index 0, channel 0", of whatever layer.
    let (qat, x) = ready(11);
    let bad = Tensor::from_array(x.array());
    spoil(&bad, 17);
    assert_eq!(error(&qat, &bad), not_finite("input", Some(0), 17));
    qat.forward(&x).expect("fits");
    assert_eq!(error(&qat, &bad), not_finite("input", Some(0), 17));

    // The convolution inside of the sum has 2 · 9 weights for each of its channels.
    for (name, index, channel) in [("first", 11, 1), ("sum.body.conv", 20, 1), ("last", 3, 0)] {
        for training in [true, false] {
            let (qat, x) = ready(12);
            qat.forward(&x).expect("fits");
            qat.set_training(training);
            let found = qat.weighted_layers().find(|(own, _)| *own == name);
            spoil(found.expect("it is there").1.weight(), index);
            let expected = not_finite(&format!("{name}.weight"), Some(channel), index);
            let alone = no_grad(|| qat.forward(&x)).expect_err("a NaN");
            assert_eq!(Error::from(alone), expected, "training {training}");
            assert_eq!(error(&qat, &x), expected, "training {training}");
            assert_eq!(qat.convert().expect_err("a NaN has no code"), expected);
        }
    }
}

#[test]
fn a_bias_that_is_not_finite_is_told_from_a_weight() {
    let (qat, x) = ready(13);
    qat.forward(&x).expect("fits");
    let (_, last) = qat.weighted_layers().last().expect("three");
    spoil(last.bias(), 2);
    assert_eq!(error(&qat, &x), not_finite("last.bias", None, 2));
}

#[test]
fn shapes_and_missing_ranges_name_their_layer() {
    let (qat, x) = ready(14);
    qat.set_training(false);
    let unknown = Error::NothingObserved {
        tensor: Some("input".to_owned()),
    };
    assert_eq!(error(&qat, &x), unknown);
    qat.set_training(true);
    qat.forward(&x).expect("fits");
    let channels = Tensor::zeros(&[1, 3, 4, 4]);
    for training in [true, false] {
        qat.set_training(training);
        let wrong = no_grad(|| qat.forward(&channels)).expect_err("one channel");
        assert!(
            matches!(Error::from(wrong), Error::Layer { name, .. } if name == "first"),
            "training {training}"
        );
    }
}

#[test]
fn an_error_in_training_comes_out_of_the_recipe_as_it_was() {
    let model = model(15);
    let x = Tensor::randn(&[32, 1, 4, 4], &mut rng(16));
    spoil(&x, 40);
    let data = loader(&x, &[0; 32]);
    let recipe = QatRecipe {
        distillation: None,
        ..QatRecipe::new(4)
    };
    let error = train_qat(&model, &data, &recipe, |_| {}).expect_err("a NaN");
    let input = |place: &Place| place.tensor.as_deref() == Some("input");
    assert!(
        matches!(&error, Error::NotFinite { place, .. } if input(place)),
        "{error:?}"
    );
}

#[test]
fn a_recipe_of_more_steps_than_can_be_counted_is_refused() {
    // Epochs times batches overflowed: a panic, or, in a release build, a schedule of some other length.
    let x = Tensor::ones(&[64, 1, 4, 4]);
    let recipe = QatRecipe {
        epochs: u64::MAX,
        ..QatRecipe::new(4)
    };
    let data = loader(&x, &[0; 64]);
    assert!(data.batch_count() > 1);
    let error = train_qat(&model(18), &data, &recipe, |_| {}).expect_err("too many");
    assert!(matches!(error, Error::Unsupported { what } if what.contains("64 bits")));
}

#[test]
fn a_trained_model_says_what_became_of_every_operation() {
    // `convert` dropped the ledger: batch norm, ReLU and dropout were not in it, and no rule.
    let (qat, x) = ready(17);
    qat.forward(&x).expect("fits");
    let prepared = prepare(&model(17), &PrepareOptions::default()).expect("known layers");
    let ledger = qat.convert().expect("it was shown a batch").ledger();
    assert_eq!(&ledger, prepared.ledger());
    assert_eq!(qat.ledger(), prepared.ledger());
    let names: Vec<&str> = ledger.entries.iter().map(|e| e.name.as_str()).collect();
    for name in ["norm", "relu", "sum.body.conv", "drop", "last"] {
        assert!(names.contains(&name), "{name} of {names:?}");
    }
}
