//! Unusual inputs, ranges and searches, in every mode.

use tinytorch_quantization::{Examples, NarrowWeight, Precision, PrecisionSearch, SearchOptions};

use super::modes::{options, uncalibrated, words};
use super::*;

#[test]
fn inputs_that_have_no_codes_are_named_by_where_they_came_from() {
    let rng = &mut Rng::seed_from_u64(7);
    let model = Sequential::new()
        .with_named(
            "conv",
            Conv2d::new(Conv2dConfig::new(1, 1, 1), rng).expect("good"),
        )
        .with_named("flatten", Flatten)
        .with_named("last", Linear::new(4, 2, rng));
    let model = uncalibrated(&model, &options(Precision::Dynamic));
    let x = Tensor::ones(&[2, 1, 2, 2]);
    x.update(|mut values| values[[1, 0, 0, 1]] = f32::INFINITY);
    for error in [model.forward(&x), model.forward_definition(&x)] {
        assert_eq!(
            error.expect_err("infinite").to_string(),
            "infinity at index 5, channel 0, of `input` cannot be quantized"
        );
    }
    assert!(model.forward(&Tensor::ones(&[2, 3, 2, 2])).is_err());
    assert!(model.forward(&Tensor::ones(&[2, 1, 2, 3])).is_err());
}

/// At run time only the index was named, and an input without its batch axis was refused by one of the two ways alone.
#[test]
fn what_is_wrong_with_an_input_is_named_in_both_ways_of_computing() {
    let rng = &mut Rng::seed_from_u64(9);
    let model = Sequential::new()
        .with_named("first", Linear::new(6, 5, rng))
        .with_named("relu", Relu)
        .with_named("last", Linear::new(5, 3, rng));
    let x = Tensor::randn(&[4, 6], rng);
    let bad = x.clone().reshape(&[4, 6]).expect("as before");
    bad.update(|mut values| values[[1, 2]] = f32::NAN);
    for precision in [Precision::STATIC, Precision::Dynamic] {
        let quantized = quantized(&model, &options(precision), std::slice::from_ref(&x));
        for error in [quantized.forward(&bad), quantized.forward_definition(&bad)] {
            assert_eq!(
                error.expect_err("not a number").to_string(),
                "NaN at index 8, channel 2, of `input` cannot be quantized",
                "{precision:?}"
            );
        }
        let flat = Tensor::ones(&[6]);
        assert!(quantized.forward(&flat).is_err(), "{precision:?}");
        assert!(
            quantized.forward_definition(&flat).is_err(),
            "{precision:?}"
        );
    }
}

/// What N22 says of very large inputs, so that nobody has to find it out.
#[test]
fn weights_alone_multiply_codes_before_they_scale() {
    let weight = Tensor::new(vec![0.25], &[1, 1]).expect("one value");
    let model = Sequential::new().with(Linear::from_parts(weight, None).expect("a matrix"));
    let x = Tensor::new(vec![1e38, 1e35], &[2, 1]).expect("two values");
    for (precision, largest) in [
        (Precision::Float, 0.25e38),
        (Precision::Bf16, 0.25e38),
        (Precision::WEIGHT_ONLY_INT8, f32::INFINITY),
        (Precision::WEIGHT_ONLY_INT4, f32::INFINITY),
    ] {
        let quantized = uncalibrated(&model, &options(precision));
        let y = quantized.forward(&x).expect("fits").to_vec();
        let defined = quantized.forward_definition(&x).expect("fits").to_vec();
        assert_eq!(y, defined, "{precision:?}");
        // An input, a weight and three products, each rounded, bf16 with 8 bits.
        let near = |got: f32, expected: f32| got == expected || (got / expected - 1.0).abs() < 0.01;
        assert!(
            near(y[0], largest) && near(y[1], 0.25e35),
            "{precision:?} {y:?}"
        );
    }
}

/// The model's input and a layer had one name, and what one saw was loaded into both.
#[test]
fn an_input_has_a_name_that_no_layer_has() {
    let rng = &mut Rng::seed_from_u64(10);
    let model = Sequential::new()
        .with_named("input", Linear::new(2, 2, rng))
        .with_named("the input", Linear::new(2, 2, rng));
    let calibrated = |x: f32| {
        let mut prepared = prepare(&model, &PrepareOptions::default()).expect("known layers");
        calibrate(&mut prepared, [Tensor::full(&[3, 2], x)]).expect("finite");
        prepared
    };
    let (one, mut both) = (calibrated(1.0), calibrated(2.0));
    let names: Vec<String> = one.sketches().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["the the input", "input", "the input"]);
    both.merge_sketches(&one.sketches())
        .expect("the same model");
    assert!(
        both.sketches()
            .iter()
            .all(|(_, sketch)| sketch.samples() == 12)
    );
}

#[test]
fn a_range_that_no_scale_can_span_is_an_error_that_names_the_layer() {
    let weight = Tensor::new(vec![3e38, 0.0, 0.0, 3e38], &[2, 2]).expect("four values");
    let wide = Linear::from_parts(weight, None).expect("a matrix");
    let model = Sequential::new().with_named("wide", wide);
    let mut prepared = prepare(&model, &PrepareOptions::default()).expect("known layers");
    let x = Tensor::new(vec![1.0, -1.0], &[1, 2]).expect("two values");
    calibrate(&mut prepared, [x]).expect("finite");
    for error in [
        convert(&prepared).expect_err("6e38 is no f32"),
        prepared.calibration_report().expect_err("the same"),
    ] {
        assert!(
            error
                .to_string()
                .starts_with("in layer `wide`: a range needs"),
            "{error}"
        );
    }
}

#[test]
fn a_search_without_calibration_data_tries_what_needs_none() {
    let rng = &mut Rng::seed_from_u64(11);
    let model = Sequential::new().with(Linear::new(4, 3, rng));
    let examples = Examples {
        inputs: Tensor::randn(&[6, 4], rng),
        labels: vec![0, 1, 2, 0, 1, 2],
        classes: 3,
    };
    let options = SearchOptions {
        turns: 1,
        choices: vec![Precision::Bf16, Precision::STATIC],
        ..SearchOptions::default()
    };
    let search = PrecisionSearch::new(&model, Vec::new(), examples, options);
    let mut search = search.expect("the model in f32 needs no data");
    search.run(|_| false).expect("no choice is an error");
    assert_eq!(search.points().len(), 2);
    let refused = search.refused();
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].error, Error::EmptyCalibration);
}

#[test]
fn a_search_covers_embeddings_and_always_has_the_model_as_it_was_trained() {
    let (model, x) = words(6);
    let examples = Examples {
        inputs: x.clone(),
        labels: vec![0, 1, 2, 3],
        classes: 5,
    };
    let searched = |options: SearchOptions| {
        let search = PrecisionSearch::new(&model, vec![x.clone()], examples.clone(), options);
        let mut search = search.expect("there is always the model in f32");
        for _ in 0..30 {
            search
                .step()
                .expect("a choice that cannot be made is no error");
        }
        search
            .points()
            .iter()
            .map(|point| point.precisions.iter().map(|p| p.1).collect::<Vec<_>>())
            .collect::<Vec<_>>()
    };
    let options = SearchOptions {
        turns: 1,
        ..SearchOptions::default()
    };
    let points = searched(options.clone());
    // The table is most of the bytes of a model of words: it used to stay in f32 whatever was asked.
    assert!(points.iter().all(|precisions| precisions.len() == 4));
    assert!(points.iter().any(|p| p[0] == Precision::WEIGHT_ONLY_INT4));

    // With full coverage asked for, the search could not even start.
    let covered = searched(SearchOptions {
        prepare: PrepareOptions {
            require_full_coverage: true,
            ..PrepareOptions::default()
        },
        ..options
    });
    assert!(covered[0].iter().all(|p| *p == Precision::Float));
    assert!(covered.len() > 1);
    assert!(
        covered[1..]
            .iter()
            .all(|all| !all.contains(&Precision::Float))
    );
}

/// The product of a convolution whose weights alone are codes ran on the tape's slower operation.
#[test]
fn a_convolution_of_narrow_weights_has_the_bits_of_the_layer_with_real_ones() {
    let rng = &mut Rng::seed_from_u64(12);
    for (inputs, outputs, groups) in [(3, 8, 1), (6, 6, 6), (16, 24, 2)] {
        let config = Conv2dConfig::new(inputs, outputs, 3)
            .padding(1)
            .groups(groups);
        let conv = Conv2d::new(config, rng).expect("a good configuration");
        let bias = conv.bias().cloned();
        let conv_options = conv.options();
        let model = Sequential::new().with_named("conv", conv);
        let x = Tensor::randn(&[3, inputs, 9, 7], rng);
        for precision in [Precision::WEIGHT_ONLY_INT4, Precision::WEIGHT_ONLY_INT8] {
            let narrow = uncalibrated(&model, &options(precision));
            let layers = narrow.layers().expect("made here");
            let (_, QLayer::Narrow(layer)) = &layers[0] else {
                panic!("{precision:?} makes a narrow layer");
            };
            let NarrowWeight::Codes(codes) = layer.weight() else {
                panic!("{precision:?} makes codes");
            };
            let weight = Tensor::from_array(codes.dequantize());
            let real = Conv2d::from_parts(weight, bias.clone(), conv_options).expect("it fits");
            let expected = tinytorch_core::no_grad(|| real.forward(&x)).expect("it fits");
            let got = narrow.forward(&x).expect("it fits");
            assert_eq!(got.to_vec(), expected.to_vec(), "{precision:?}");
            let defined = narrow.forward_definition(&x).expect("it fits");
            assert_eq!(defined.to_vec(), expected.to_vec());
        }
    }
}
