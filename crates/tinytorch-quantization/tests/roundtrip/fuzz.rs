//! No panic on any data: every entry point with any bits, shapes and schemes gives a result or a typed error.

use ndarray::{ArrayD, ArrayViewD, IxDyn};
use proptest::prelude::*;
use tinytorch_core::{Conv2dOptions, Tensor};
use tinytorch_quantization::metrics::{agreement, compare, cosine, sqnr_db};
use tinytorch_quantization::{
    Calibration, CodeRange, Dialect, EntropyObserver, Error, Granularity, Half, Histogram,
    LossScaler, MinMaxObserver, MovingAverageMinMaxObserver, NonFinite, Observer, PackedTensor,
    Parameters, PercentileObserver, QConv2d, QLinear, QParams, QTensor, Rescale, Scheme,
    SketchObserver, Symmetry, ValueRange, choose_qparams, choose_qparams_per_channel,
    compare_dialects, compare_requantization, dequantize, fake_quantize, fake_quantize_per_channel,
    fake_quantize_values, multipliers, quantize, quantize_bias, quantize_per_channel, requantize,
    straight_through_gradient, symmetric_scale, to_half,
};

/// Any bits at all, with the usual suspects more often than chance would bring them.
fn real() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => any::<u32>().prop_map(f32::from_bits),
        4 => -10.0_f32..10.0,
        1 => prop::sample::select(vec![
            0.0, -0.0, 1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN,
            f32::MIN_POSITIVE, f32::from_bits(1), -f32::from_bits(1), f32::EPSILON,
        ]),
    ]
}

/// Mostly values that can be quantized.
fn mostly_finite() -> impl Strategy<Value = f32> {
    prop_oneof![12 => real().prop_filter("finite", |x| x.is_finite()), 1 => real()]
}

fn reals(most: usize) -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(mostly_finite(), 0..most)
}

/// A tensor of up to four axes, some of them empty.
fn array() -> impl Strategy<Value = ArrayD<f32>> {
    prop::collection::vec(0_usize..5, 0..5).prop_flat_map(|shape| {
        let count = shape.iter().product::<usize>();
        prop::collection::vec(mostly_finite(), count).prop_map(move |values| {
            ArrayD::from_shape_vec(IxDyn(&shape), values).expect("as many values")
        })
    })
}

fn code_range() -> impl Strategy<Value = CodeRange> {
    prop_oneof![
        (2_u32..=16).prop_map(CodeRange::signed),
        (2_u32..=16).prop_map(CodeRange::narrow),
        (2_u32..=16).prop_map(CodeRange::unsigned),
        (any::<i32>(), any::<i32>()).prop_map(|(min, max)| CodeRange { min, max }),
        (-300_i32..300, -300_i32..300).prop_map(|(min, max)| CodeRange { min, max }),
    ]
}

/// Mostly the codes that fit a byte.
fn small_codes() -> impl Strategy<Value = CodeRange> {
    prop_oneof![
        4 => (2_u32..=8).prop_map(CodeRange::signed),
        2 => (2_u32..=8).prop_map(CodeRange::unsigned),
        1 => code_range(),
    ]
}

fn qparams() -> impl Strategy<Value = QParams> {
    let zero_point = prop_oneof![4 => -130_i32..260, 1 => any::<i32>()];
    (real(), zero_point).prop_map(|(scale, zero_point)| QParams { scale, zero_point })
}

/// Parameters that can be used.
fn good_qparams() -> impl Strategy<Value = QParams> {
    let scale = prop_oneof![1e-6_f32..1e6, Just(f32::from_bits(1)), Just(f32::MAX)];
    (scale, -128_i32..=127).prop_map(|(scale, zero_point)| QParams { scale, zero_point })
}

fn scheme() -> impl Strategy<Value = Scheme> {
    let granularity = prop_oneof![
        Just(Granularity::PerTensor),
        (0_usize..5).prop_map(|axis| Granularity::PerChannel { axis }),
        prop_oneof![0_usize..7, Just(usize::MAX)].prop_map(|size| Granularity::PerGroup { size }),
    ];
    let symmetry = prop_oneof![Just(Symmetry::Symmetric), Just(Symmetry::Asymmetric)];
    (symmetry, granularity, small_codes()).prop_map(|(symmetry, granularity, codes)| Scheme {
        symmetry,
        granularity,
        codes,
    })
}

fn parameters() -> impl Strategy<Value = Parameters> {
    let pairs = || prop::collection::vec(prop_oneof![3 => good_qparams(), 1 => qparams()], 0..9);
    prop_oneof![
        qparams().prop_map(Parameters::PerTensor),
        (0_usize..5, pairs()).prop_map(|(axis, qparams)| Parameters::PerChannel { axis, qparams }),
        (0_usize..5, pairs()).prop_map(|(size, qparams)| Parameters::PerGroup { size, qparams }),
    ]
}

fn method() -> impl Strategy<Value = Calibration> {
    prop_oneof![
        Just(Calibration::MinMax),
        real().prop_map(Calibration::MovingAverage),
        real().prop_map(|p| Calibration::Percentile(p.into())),
        (0.0_f64..=100.0).prop_map(Calibration::Percentile),
        Just(Calibration::MeanSquaredError),
        Just(Calibration::Entropy),
    ]
}

/// Where the first value that is not finite stands, in row-major order.
fn first_bad(values: ArrayViewD<'_, f32>) -> Option<(usize, NonFinite)> {
    let bad = |(index, &x): (usize, &f32)| NonFinite::of(x).map(|value| (index, value));
    values.iter().enumerate().find_map(bad)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn tensors_of_any_bits_shape_and_scheme(values in array(), scheme in scheme()) {
        let plain = QTensor::quantize(values.view(), scheme);
        let packed = PackedTensor::quantize(values.view(), scheme);
        // N5: what is wrong is named with its index and, along an axis or in rows, its channel.
        for error in [plain.as_ref().err(), packed.as_ref().err()].into_iter().flatten() {
            if let Error::NotFinite { value, place } = error {
                prop_assert_eq!(first_bad(values.view()), Some((place.index, *value)));
                let inner = |axis: usize| values.shape()[axis + 1..].iter().product::<usize>();
                let channel = match scheme.granularity {
                    Granularity::PerChannel { axis } => Some(axis),
                    Granularity::PerGroup { .. } if values.ndim() > 1 => Some(0),
                    _ => None,
                }
                .map(|axis| place.index / inner(axis) % values.shape()[axis]);
                prop_assert_eq!(place.channel, channel);
            }
        }
        if let Ok(packed) = packed {
            prop_assert_eq!(first_bad(values.view()), None);
            let back = packed.dequantize();
            prop_assert_eq!(back.shape(), values.shape());
            prop_assert_eq!(packed.unpack().map(|plain| plain.dequantize()), Ok(packed.dequantize()));
        }
        if let Ok(plain) = plain {
            let back = plain.dequantize();
            prop_assert_eq!(back.shape(), values.shape());
            prop_assert!(plain.memory_bytes() >= values.len());
            let _ = plain.reshape(&[values.len()]);
        }
    }

    #[test]
    fn tensors_with_any_parameters(values in array(), parameters in parameters(), codes in small_codes()) {
        let _ = QTensor::quantize_as(values.view(), parameters.clone(), codes);
        if let Ok(packed) = PackedTensor::quantize_as(values.view(), parameters.clone(), codes) {
            prop_assert_eq!(packed.parameters(), parameters);
        }
    }

    #[test]
    fn codes_from_anywhere(
        bytes in prop::collection::vec(any::<u8>(), 0..30),
        shape in prop::collection::vec(prop_oneof![0_usize..6, Just(usize::MAX)], 0..5),
        parameters in parameters(),
        codes in small_codes(),
    ) {
        if let Ok(packed) = PackedTensor::new(bytes.clone(), &shape, &parameters, codes) {
            prop_assert_eq!(packed.bytes(), bytes.clone());
            let _ = packed.dequantize();
        }
        let signed: Vec<i8> = bytes.iter().map(|&byte| byte as i8).collect();
        if let Ok(plain) = QTensor::new(signed, &shape, parameters, codes) {
            let _ = plain.dequantize();
            let _ = PackedTensor::pack(&plain);
        }
    }

    #[test]
    fn single_functions(
        values in reals(40),
        (a, b) in (real(), real()),
        pair in qparams(),
        codes in code_range(),
        axis in 0_usize..3,
        pairs in prop::collection::vec(good_qparams(), 0..5),
    ) {
        if let Ok(scale) = symmetric_scale(a, codes) {
            prop_assert!(scale > 0.0 && scale.is_finite());
        }
        let range = ValueRange { min: a, max: b };
        if let Ok(chosen) = choose_qparams(range, codes) {
            prop_assert_eq!(chosen.check(codes), Ok(()));
        }
        let bad = values.iter().position(|x| !x.is_finite());
        match quantize(&values, pair, codes) {
            Ok(written) => {
                prop_assert_eq!(bad, None);
                let read = dequantize(&written, pair);
                prop_assert_eq!(read.len(), values.len());
            }
            Err(Error::NotFinite { place, .. }) => prop_assert_eq!(Some(place.index), bad),
            Err(_) => {}
        }
        let matrix = ArrayViewD::from_shape(IxDyn(&[values.len() / 4, 4]), &values[..values.len() / 4 * 4]);
        let matrix = matrix.expect("whole rows");
        let _ = choose_qparams_per_channel(matrix.view(), axis, codes);
        let _ = quantize_per_channel(matrix.view(), axis, &pairs, codes);
        let scales: Vec<f32> = values.iter().map(|x| x.abs()).collect();
        let _ = quantize_bias(&values, a, &scales);
        let _ = multipliers(a, &values, b);
    }

    #[test]
    fn dialects_take_anything(
        values in reals(40),
        sums in prop::collection::vec(any::<i32>(), 0..20),
        pair in qparams(),
        (input, weight, output) in (real(), real(), real()),
        codes in code_range(),
    ) {
        for dialect in Dialect::ALL {
            let range = ValueRange { min: input, max: weight };
            if let Ok(chosen) = dialect.choose_qparams(range, codes) {
                prop_assert_eq!(chosen.check(codes), Ok(()));
            }
            let _ = dialect.symmetric_scale(input, codes);
            if let Ok(written) = dialect.quantize(&values, pair, codes) {
                prop_assert!(written.iter().all(|&code| codes.contains(code)));
            }
            let _ = dialect.gradient_mask(&values, pair, codes);
            let scales = Rescale { input, weight, output };
            if let Ok(written) = dialect.requantize(&sums, scales, pair.zero_point, codes) {
                prop_assert!(written.iter().all(|&code| codes.contains(code)));
            }
            let _ = compare_dialects(&values, (Dialect::Onnx, pair), (dialect, pair), codes);
            let both = [Dialect::Onnx, dialect];
            if let Ok(found) = compare_requantization(&sums, both, scales, pair.zero_point, codes) {
                prop_assert_eq!(found.count > 0, found.first.is_some());
                prop_assert!(found.count <= found.of && (dialect != Dialect::Onnx || found.count == 0));
            }
        }
    }

    #[test]
    fn observers_of_anything(
        batches in prop::collection::vec(reals(20), 0..12),
        method in method(),
        codes in small_codes(),
    ) {
        let mut plain: Vec<Box<dyn Observer>> = vec![
            Box::new(MinMaxObserver::default()),
            Box::new(MovingAverageMinMaxObserver::default()),
            Box::new(PercentileObserver::new(99.0, Histogram::new(16)).expect("good")),
            Box::new(EntropyObserver::default()),
            Box::new(SketchObserver::new(Calibration::MinMax).expect("good")),
        ];
        let mut sketch = SketchObserver::new(Calibration::MinMax).expect("no constant");
        for batch in &batches {
            let bad = batch.iter().position(|x| !x.is_finite());
            for observer in &mut plain {
                match observer.observe(batch) {
                    Ok(()) => prop_assert_eq!(bad, None),
                    Err(Error::NotFinite { place, .. }) => prop_assert_eq!(Some(place.index), bad),
                    Err(error) => prop_assert!(false, "{error}"),
                }
            }
            let _ = sketch.observe(batch);
        }
        // All but entropy, which takes its time: it has the same histogram as the percentile.
        for observer in plain.iter().take(3) {
            let _ = observer.range();
        }
        if sketch.set_method(method).is_ok() {
            let report = sketch.report("any");
            // What can be wrong here is that nothing came, or that it spans more than an f32 can.
            if let Err(error) = &report {
                let expected = match error {
                    Error::NothingObserved { .. } => true,
                    Error::Layer { name, error } => name == "any" && matches!(**error, Error::BadRange { .. }),
                    _ => false,
                };
                prop_assert!(expected, "{error}");
                let seen = sketch.sketch.seen();
                prop_assert!(seen.is_none_or(|seen| !(seen.max - seen.min).is_finite()), "{error}");
            }
            if let Ok(report) = report {
                prop_assert!((0.0..=1.0).contains(&report.clipped), "{report}");
                let seen = sketch.sketch.seen().expect("a report needs values");
                prop_assert!(seen.min <= report.seen.max);
            }
            let _ = sketch.sketch.range(method, codes);
            let _ = sketch.sketch.confidence(method, codes);
        }
    }

    #[test]
    fn layers_of_anything(
        values in prop::collection::vec(mostly_finite(), 24),
        bias in prop::collection::vec(mostly_finite(), 0..5),
        scheme in scheme(),
        (input, output) in (qparams(), qparams()),
        good in any::<bool>(),
        x in prop::collection::vec(any::<i8>(), 12),
    ) {
        let unit = QParams { scale: 0.1, zero_point: -3 };
        let (input, output) = if good { (unit, unit) } else { (input, output) };
        let weight = |shape: &[usize]| ArrayD::from_shape_vec(IxDyn(shape), values.clone()).expect("24");
        let codes = Parameters::PerTensor(input);
        if let Ok(layer) = QLinear::quantize(weight(&[4, 6]).view(), &bias, scheme, input, output, true) {
            let x = QTensor::new(x.clone(), &[2, 6], codes.clone(), CodeRange::INT8).expect("good");
            prop_assert_eq!(layer.forward_definition(&x).map(|y| y.shape().to_vec()), Ok(vec![2, 4]));
        }
        let options = Conv2dOptions { stride: [1, 1], padding: [1, 1], groups: 1 };
        let weight = weight(&[2, 3, 2, 2]);
        if let Ok(layer) = QConv2d::quantize(weight.view(), &bias, options, scheme, input, output, false) {
            let x = QTensor::new(x, &[1, 3, 2, 2], codes, CodeRange::INT8).expect("good");
            prop_assert_eq!(layer.forward_definition(&x).map(|y| y.shape().to_vec()), Ok(vec![1, 2, 3, 3]));
        }
    }

    #[test]
    fn training_and_measures_of_anything(
        values in prop::collection::vec(real(), 1..30),
        pair in good_qparams(),
        factors in prop::collection::vec(real(), 1..4),
        codes in small_codes(),
    ) {
        let _ = fake_quantize_values(&values, pair, codes_or_int8(codes));
        let _ = straight_through_gradient(&values, &values, pair, codes_or_int8(codes));
        let tensor = Tensor::new(values.clone(), &[1, values.len()]).expect("as many values");
        let _ = fake_quantize(&tensor, pair, codes);
        let _ = fake_quantize_per_channel(&tensor, 0, &[pair], codes);
        for half in [Half::F16, Half::Bf16] {
            let _ = to_half(&tensor, half);
        }
        let sums: Vec<i32> = values.iter().map(|x| x.to_bits() as i32).collect();
        // Of multipliers that are not finite, `multipliers` has made an error before they come here.
        let factors: Vec<f32> = factors.into_iter().filter(|factor| factor.is_finite()).collect();
        let whole = sums.len().checked_div(factors.len()).unwrap_or_default() * factors.len();
        let _ = requantize(&sums[..whole], &factors, pair.zero_point, CodeRange::INT8);
        let mut gradients = values.clone();
        let mut scaler = LossScaler::default();
        let finite = scaler.unscale(&mut gradients);
        scaler.update(finite);
        let reversed: Vec<f32> = values.iter().rev().copied().collect();
        let _ = compare(&values, &reversed);
        let _ = (sqnr_db(&values, &reversed), cosine(&values, &reversed));
        let share = agreement(&values, &reversed, values.len());
        prop_assert!((0.0..=1.0).contains(&share));
    }
}

/// Codes whose check is left to the caller by the two functions inside the training loop.
fn codes_or_int8(codes: CodeRange) -> CodeRange {
    if codes.check().is_ok() {
        codes
    } else {
        CodeRange::INT8
    }
}
