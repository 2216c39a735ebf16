//! What may be put into a stage between calibrating and converting: other weights, other codes.

use ndarray::ArrayD;
use tinytorch_quantization::{Operation, Parameters, QTensor};

use super::*;

/// A convolution with batch norm and ReLU, then a linear layer, calibrated.
fn prepared(seed: u64) -> (Sequential, tinytorch_quantization::Prepared, Tensor) {
    let rng = &mut Rng::seed_from_u64(seed);
    let config = Conv2dConfig::new(2, 3, 3);
    let model = Sequential::new()
        .with_named("conv", Conv2d::new(config, rng).expect("good"))
        .with(lived_in(BatchNorm2d::new(3), rng))
        .with(Relu)
        .with(Flatten)
        .with_named("last", Linear::new(3 * 2 * 2, 4, rng));
    let x = Tensor::randn(&[5, 2, 4, 4], rng);
    let mut prepared = prepare(&model, &PrepareOptions::default()).expect("known layers");
    calibrate(&mut prepared, [x.clone()]).expect("good data");
    (model, prepared, x)
}

#[test]
fn a_stage_shows_what_will_be_quantized() {
    let (_, prepared, _) = prepared(0);
    let conv = prepared.stage("conv").expect("it is there");
    let folded = conv.folded().expect("it folds").expect("it has weights");
    assert_eq!(folded.weight.shape(), [3, 2, 3, 3]);
    assert_eq!((folded.bias.len(), folded.relu), (3, true));
    assert!(matches!(folded.operation, Operation::Conv2d(_)));
    assert_eq!(folded.scheme, Scheme::WEIGHTS);
    let flatten = prepared.stage("3").expect("it is there");
    assert_eq!(flatten.folded(), Ok(None));
    assert!(prepared.stage("features").is_none());
}

#[test]
fn setting_what_is_there_changes_nothing() {
    let (_, mut prepared, x) = prepared(1);
    let before = convert(&prepared).expect("calibrated").forward(&x);
    let stage = prepared.stage_mut("conv").expect("it is there");
    let folded = stage.folded().expect("it folds").expect("it has weights");
    let plain = stage.forward(&x).expect("fits").to_vec();
    let largest = plain.iter().fold(0.0_f32, |max, y| max.max(y.abs()));
    stage
        .set_folded(folded.weight.clone(), folded.bias.clone())
        .expect("the same shapes");
    assert_eq!(stage.kinds(), ["conv2d", "relu"]);
    assert_eq!(stage.folded(), Ok(Some(folded)));
    for (y, old) in stage.forward(&x).expect("fits").to_vec().iter().zip(plain) {
        // 18 products in another order of rounding: 20 roundings of the largest partial sum, which here stays below
        // eight times the largest output.
        assert!((y - old).abs() <= 20.0 * 8.0 * largest * f32::EPSILON);
    }
    let after = convert(&prepared).expect("calibrated").forward(&x);
    let (before, after) = (before.expect("fits"), after.expect("fits"));
    assert_eq!(before.to_vec(), after.to_vec());
}

#[test]
fn other_weights_are_computed_with_and_the_model_keeps_its_own() {
    let (model, mut prepared, _) = prepared(2);
    let original = model.named_parameters()[0].1.to_vec();
    let stage = prepared.stage_mut("last").expect("it is there");
    stage
        .set_folded(ArrayD::ones(vec![4, 12]), vec![0.5; 4])
        .expect("the same shapes");
    let y = stage.forward(&Tensor::ones(&[1, 12])).expect("fits");
    assert_eq!(y.to_vec(), [12.5; 4]);
    stage.set_bias(vec![1.0; 4]).expect("as many");
    let y = stage.forward(&Tensor::ones(&[1, 12])).expect("fits");
    assert_eq!(y.to_vec(), [13.0; 4]);
    assert_eq!(model.named_parameters()[0].1.to_vec(), original);
    prepared.forget_observations().expect("prepared");
    assert!(matches!(
        convert(&prepared),
        Err(Error::NothingObserved { .. })
    ));
}

#[test]
fn codes_are_used_as_they_are_and_forgotten_with_their_weight() {
    let (_, mut prepared, x) = prepared(3);
    let stage = prepared.stage_mut("last").expect("it is there");
    let folded = stage.folded().expect("it folds").expect("it has weights");
    let qparams = vec![QParams::symmetric(0.25); 4];
    let channels = Parameters::PerChannel { axis: 0, qparams };
    let codes: Vec<i8> = (0..48).map(|i| (i % 15 - 7) as i8).collect();
    let codes = QTensor::new(codes, &[4, 12], channels, CodeRange::narrow(4)).expect("good");
    stage.set_weight_codes(codes.clone()).expect("they fit");
    stage.set_bias(vec![0.5; 4]).expect("as many");
    assert_eq!(stage.weight_codes(), Some(&codes));
    let model = convert(&prepared).expect("calibrated");
    let layers = model.layers().expect("made");
    let QLayer::Linear(last) = &layers[2].1 else {
        panic!("{layers:?}")
    };
    assert_eq!(last.weight(), &codes);
    let step = f64::from(last.input().scale) * 0.25;
    assert_eq!(f64::from(last.bias()[0]), (0.5 / step).round_ties_even());
    let definition = model.forward_definition(&x).expect("fits").to_vec();
    assert_eq!(model.forward(&x).expect("fits").to_vec(), definition);

    let stage = prepared.stage_mut("last").expect("it is there");
    stage.set_folded(folded.weight, folded.bias).expect("fits");
    assert_eq!(stage.weight_codes(), None);
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let (_, mut prepared, _) = prepared(4);
    let wide = QTensor::new(
        vec![0; 48],
        &[4, 12],
        Parameters::PerTensor(QParams {
            scale: 1.0,
            zero_point: 1,
        }),
        CodeRange::INT8,
    );
    let stage = prepared.stage_mut("last").expect("it is there");
    let before = stage.folded().expect("it folds");
    assert!(stage.set_weight_codes(wide.expect("good")).is_err());
    assert!(
        stage
            .set_folded(ArrayD::ones(vec![12, 4]), vec![0.0; 4])
            .is_err()
    );
    assert!(
        stage
            .set_folded(ArrayD::ones(vec![4, 12]), vec![0.0; 3])
            .is_err()
    );
    let error = stage.set_folded(ArrayD::from_elem(vec![4, 12], f32::NAN), vec![0.0; 4]);
    assert_eq!(
        error.expect_err("NaN").to_string(),
        "NaN at index 0, channel 0, of `last.weight` cannot be quantized"
    );
    let error = stage.set_bias(vec![0.0, f32::INFINITY, 0.0, 0.0]);
    assert!(
        error
            .expect_err("infinite")
            .to_string()
            .contains("`last.bias`")
    );
    assert_eq!(stage.folded(), Ok(before));
    let flatten = prepared.stage_mut("3").expect("it is there");
    assert!(
        flatten
            .set_folded(ArrayD::ones(vec![1, 1]), vec![0.0])
            .is_err()
    );
}
