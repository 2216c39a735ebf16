//! Values to codes and back, for all values.

use proptest::prelude::*;
use tinytorch_quantization::{
    CodeRange, Observer, QParams, ValueRange, choose_qparams, dequantize, fake_quantize_values,
    quantize, symmetric_scale,
};

/// Signed codes of 2 to 8 bits, with and without the lowest.
fn code_ranges() -> impl Strategy<Value = CodeRange> {
    (2_u32..=8, any::<bool>()).prop_map(|(bits, narrow)| {
        if narrow {
            CodeRange::narrow(bits)
        } else {
            CodeRange::signed(bits)
        }
    })
}

/// Ranges of many sizes, on either side of zero or across it.
fn ranges() -> impl Strategy<Value = ValueRange> {
    (-1.0_f32..1.0, -1.0_f32..1.0, -20_i32..20).prop_map(|(a, b, exponent)| {
        let size = 2.0_f32.powi(exponent);
        ValueRange {
            min: a.min(b) * size,
            max: a.max(b) * size,
        }
    })
}

/// Any parameters, whether or not an observer would choose them.
fn qparams(codes: CodeRange) -> impl Strategy<Value = QParams> {
    (codes.min..=codes.max, 1e-6_f32..1e6)
        .prop_map(|(zero_point, scale)| QParams { scale, zero_point })
}

fn codes_and_qparams() -> impl Strategy<Value = (CodeRange, QParams)> {
    code_ranges().prop_flat_map(|codes| (Just(codes), qparams(codes)))
}

fn finite() -> impl Strategy<Value = f32> {
    any::<f32>().prop_filter("finite", |value| value.is_finite())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn inside_the_range_the_error_is_at_most_half_a_step(
        range in ranges(),
        codes in code_ranges(),
        place in 0.0_f32..=1.0,
    ) {
        let qparams = choose_qparams(range, codes).expect("a good range");
        let value = range.min + place * (range.max - range.min);
        let code = quantize(&[value], qparams, codes).expect("a finite value");
        let error = (dequantize(&code, qparams)[0] - value).abs();
        let tolerance = qparams.scale * half_a_step(codes);
        prop_assert!(error <= tolerance, "{value} lost {error} with {qparams:?}");
    }

    #[test]
    fn symmetric_codes_lose_at_most_half_a_step(max_abs in 1e-6_f32..1e6, place in -1.0_f32..=1.0) {
        let codes = CodeRange::INT8_NARROW;
        let scale = symmetric_scale(max_abs, codes).expect("a good magnitude");
        let qparams = QParams::symmetric(scale);
        let value = place * max_abs;
        let code = quantize(&[value], qparams, codes).expect("a finite value");
        let error = (dequantize(&code, qparams)[0] - value).abs();
        prop_assert!(error <= scale * half_a_step(codes));
    }

    #[test]
    fn zero_is_exact((codes, qparams) in codes_and_qparams()) {
        let code = quantize(&[0.0], qparams, codes).expect("zero is finite");
        prop_assert_eq!(i32::from(code[0]), qparams.zero_point);
        prop_assert_eq!(dequantize(&code, qparams), [0.0]);
    }

    #[test]
    fn a_larger_value_never_has_a_smaller_code(
        (codes, qparams) in codes_and_qparams(),
        mut values in proptest::collection::vec(finite(), 2..40),
    ) {
        values.sort_by(f32::total_cmp);
        let written = quantize(&values, qparams, codes).expect("finite values");
        prop_assert!(written.is_sorted());
    }

    #[test]
    fn codes_stay_within_their_bounds(
        (codes, qparams) in codes_and_qparams(),
        values in proptest::collection::vec(finite(), 0..40),
    ) {
        let written = quantize(&values, qparams, codes).expect("finite values");
        prop_assert_eq!(written.len(), values.len());
        prop_assert!(written.iter().all(|&code| codes.contains(code.into())));
    }

    #[test]
    fn every_code_survives_the_round_trip((codes, qparams) in codes_and_qparams()) {
        let all: Vec<i8> = (codes.min..=codes.max).map(|code| code as i8).collect();
        prop_assert_eq!(quantize(&dequantize(&all, qparams), qparams, codes), Ok(all));
    }

    #[test]
    fn fake_quantization_is_quantize_and_dequantize(
        (codes, qparams) in codes_and_qparams(),
        values in proptest::collection::vec(finite(), 0..40),
    ) {
        let written = quantize(&values, qparams, codes).expect("finite values");
        prop_assert_eq!(
            fake_quantize_values(&values, qparams, codes),
            dequantize(&written, qparams)
        );
    }

    #[test]
    fn chosen_parameters_are_usable_and_hold_zero_and_both_ends(
        range in ranges(),
        codes in code_ranges(),
    ) {
        let qparams = choose_qparams(range, codes).expect("a good range");
        prop_assert_eq!(qparams.check(codes), Ok(()));
        let ends = fake_quantize_values(&[range.min, range.max], qparams, codes);
        prop_assert!((ends[0] - range.min).abs() <= qparams.scale * half_a_step(codes));
        prop_assert!((ends[1] - range.max).abs() <= qparams.scale * half_a_step(codes));
    }

    #[test]
    fn an_observer_does_not_care_how_values_are_batched(
        values in proptest::collection::vec(finite(), 1..60),
        size in 1_usize..20,
    ) {
        let whole = observed(&[&values]);
        let parts: Vec<&[f32]> = values.chunks(size).collect();
        prop_assert_eq!(observed(&parts), whole);
    }
}

/// How many steps may be lost. Rounding loses half of one. The zero point is rounded too, so either end of the range
/// may lie up to half a step beyond the last code and saturate: no more is lost there. The rest is `f32`: quotient and
/// product are off by at most one part in 2²³ of all steps each.
fn half_a_step(codes: CodeRange) -> f32 {
    0.5 + 2.0 * codes.len() as f32 * f32::EPSILON
}

fn observed(batches: &[&[f32]]) -> ValueRange {
    let mut observer = tinytorch_quantization::MinMaxObserver::default();
    for batch in batches {
        observer.observe(batch).expect("finite values");
    }
    observer.range().expect("values came")
}
