//! What is kept in `f32`, and what is refused by name.

use super::*;

#[test]
fn layers_kept_in_float_are_listed_and_others_are_found_by_name() {
    let (model, x) = batch(3);
    let options = PrepareOptions {
        keep_float: vec!["last".to_owned()],
        ..PrepareOptions::default()
    };
    let quantized = quantized(&model, &options, std::slice::from_ref(&x));
    let kept: Vec<_> = quantized.in_float().collect();
    assert_eq!(kept, [("last", "kept in f32 as asked")]);
    assert_eq!(quantized.forward(&x).expect("fits").shape(), [16, 3]);

    let options = PrepareOptions {
        keep_float: vec!["las".to_owned()],
        ..PrepareOptions::default()
    };
    let error = prepare(&model, &options).expect_err("there is no such layer");
    assert!(
        error
            .to_string()
            .starts_with("the model has no layer `las`: "),
        "{error}"
    );
}

#[test]
fn a_batch_norm_alone_stays_in_float() {
    let rng = &mut Rng::seed_from_u64(4);
    let model = Sequential::new()
        .with(BatchNorm2d::new(2))
        .with(Conv2d::new(Conv2dConfig::new(2, 3, 1), rng).expect("good"));
    let x = Tensor::randn(&[2, 2, 4, 4], rng);
    let model = quantized(&model, &PrepareOptions::default(), std::slice::from_ref(&x));
    assert_eq!(model.in_float().count(), 1);
    let definition = model.forward_definition(&x).expect("fits").to_vec();
    assert_eq!(model.forward(&x).expect("fits").to_vec(), definition);
}

#[test]
fn a_layer_whose_output_has_no_step_is_refused_by_name() {
    let unit = QParams::symmetric(1.0);
    let bad = |scale, zero_point| QParams { scale, zero_point };
    for output in [
        bad(0.0, 0),
        bad(-1.0, 0),
        bad(f32::NAN, 0),
        bad(f32::INFINITY, 0),
        bad(1.0, 128),
        bad(1.0, -129),
    ] {
        let curve = QLayer::Float(FloatLayer {
            layer: std::sync::Arc::new(Gelu),
            reason: "no integer gelu".to_owned(),
            output: Some(output),
        });
        let layers = vec![
            ("curve".to_owned(), curve),
            ("relu".to_owned(), QLayer::Relu),
        ];
        let error = QModel::new(unit, layers).expect_err("no codes can mean this");
        assert!(
            matches!(&error, Error::Layer { name, error }
                if name == "curve" && matches!(**error, Error::BadQParams { .. })),
            "{output:?}: {error}"
        );
    }
}

#[test]
fn a_bad_weight_is_named_with_channel_and_index() {
    let (model, x) = batch(5);
    let mut prepared = prepare(&model, &PrepareOptions::default()).expect("known layers");
    calibrate(&mut prepared, [x]).expect("good batches");
    let (name, weight) = &model.named_parameters()[2];
    assert_eq!(name, "last.weight");
    weight.update(|mut values| values[[2, 4]] = f32::INFINITY);
    let error = convert(&prepared).expect_err("infinity has no code");
    assert_eq!(
        error.to_string(),
        "infinity at index 14, channel 2, of `last.weight` cannot be quantized"
    );
}

#[test]
fn a_bad_activation_is_named_by_its_layer() {
    let (model, x) = batch(6);
    model.named_parameters()[0]
        .1
        .update(|mut values| values.fill(f32::MAX));
    let mut prepared = prepare(&model, &PrepareOptions::default()).expect("known layers");
    let error = calibrate(&mut prepared, [x]).expect_err("the sums overflow");
    assert!(error.to_string().contains("of `hidden`"), "{error}");
    // Behind the batch lie the channels of an image; 2 · 4 places each, so index 29 is in the second image, channel 1.
    let images = Sequential::new().with(MaxPool2d::new(2));
    let mut prepared = prepare(&images, &PrepareOptions::default()).expect("known layers");
    let mut values = vec![0.0; 2 * 2 * 8];
    values[29] = f32::NAN;
    let image = Tensor::new(values, &[2, 2, 2, 4]).expect("as many values");
    let error = calibrate(&mut prepared, [image]).expect_err("NaN has no range");
    let message = "NaN at index 29, channel 1, of `input` cannot be quantized";
    assert_eq!(error.to_string(), message);
}

/// A layer called like the input once shared its ranges as soon as they came from a file, and so did layers of one name.
#[test]
fn places_of_one_name_are_kept_apart_or_refused() {
    let rng = &mut Rng::seed_from_u64(3);
    let named = |names: [&str; 2], rng: &mut Rng| {
        let first = Linear::new(4, 4, rng);
        Sequential::new()
            .with_named(names[0], first)
            .with_named(names[1], Linear::new(4, 3, rng))
    };
    let model = named(["input", "last"], rng);
    let mut seen = prepare(&model, &PrepareOptions::default()).expect("two names");
    let values = (0..40).map(|i| i as f32 / 7.0 - 2.0).collect();
    let x = Tensor::new(values, &[10, 4]).expect("as many values");
    calibrate(&mut seen, [x]).expect("finite values");
    let mut loaded = prepare(&model, &PrepareOptions::default()).expect("two names");
    loaded
        .merge_sketches(&seen.sketches())
        .expect("the same places");
    let reports = |of: &Prepared| of.calibration_report().expect("calibrated");
    assert_eq!(reports(&loaded), reports(&seen));
    let names: Vec<String> = reports(&seen).into_iter().map(|of| of.name).collect();
    assert_eq!(names, ["the input", "input", "last"]);
    let twice = named(["a", "a"], rng);
    let error = prepare(&twice, &PrepareOptions::default()).expect_err("which of them?");
    assert_eq!(
        error,
        Error::SameName {
            name: "a".to_owned()
        }
    );
}

/// The error once did not say in which layer.
#[test]
fn weights_without_an_integer_product_are_refused_by_name() {
    let (model, x) = batch(1);
    let options = PrepareOptions {
        weights: Scheme::weights_in_groups(4, 2),
        ..PrepareOptions::default()
    };
    let mut prepared = prepare(&model, &options).expect("it can be studied");
    calibrate(&mut prepared, [x]).expect("finite values");
    let error = convert(&prepared).expect_err("no sums over groups");
    assert!(matches!(error, Error::Layer { name, .. } if name == "hidden"));
}

#[test]
fn a_bad_input_is_an_error_not_a_code() {
    let (model, x) = batch(7);
    let model = quantized(&model, &PrepareOptions::default(), std::slice::from_ref(&x));
    x.update(|mut values| values[[3, 1]] = f32::NAN);
    let error = model.forward(&x).expect_err("NaN has no code");
    assert_eq!(
        error.to_string(),
        "NaN at index 19, channel 1, of `input` cannot be quantized"
    );
    let error = model
        .forward(&Tensor::zeros(&[2, 5]))
        .expect_err("6 inputs, not 5");
    assert!(matches!(error, Error::Layer { name, .. } if name == "hidden"));
}

#[test]
fn a_dead_channel_with_a_bias_still_answers() {
    let rng = &mut Rng::seed_from_u64(8);
    let model = Sequential::new().with(Linear::new(4, 2, rng));
    let parameters = model.named_parameters();
    parameters[0].1.update(|mut weight| {
        weight
            .slice_axis_mut(ndarray::Axis(0), (..1).into())
            .fill(1e-30)
    });
    parameters[1].1.update(|mut bias| bias.fill(0.75));
    let x = Tensor::randn(&[8, 4], rng);
    let quantized = quantized(&model, &PrepareOptions::default(), std::slice::from_ref(&x));
    let y = quantized.forward(&x).expect("fits");
    let range: f32 = y.to_vec().iter().fold(1.0, |max: f32, y| max.max(y.abs()));
    for row in y.to_vec().chunks(2) {
        // Half a step of the output, whose range is at most twice the largest magnitude.
        assert!((row[0] - 0.75).abs() <= range / 255.0, "{row:?}");
    }
}
