//! Fake quantization, as PyTorch computes it.
//!
//! One difference is by contract (N4): PyTorch multiplies by `1 / scale`, which it rounds first, where we divide. So a value
//! next to a border between two codes may fall on the other side. Every difference must be such a value.

use tinytorch_quantization::{CodeRange, QParams, fake_quantize_values, straight_through_gradient};

use crate::reader::{Case, Golden};

/// Whether dividing by the scale and multiplying by its rounded reciprocal may round `value` to different codes.
///
/// The reciprocal is off by at most half an ulp (ε/2 relative), its product with the value and the quotient each by half
/// an ulp more: three halves of ε of the quotient, from the tie between two codes.
fn is_next_to_a_border(value: f32, scale: f32) -> bool {
    let exact = f64::from(value) / f64::from(scale);
    let to_tie = (exact - exact.floor() - 0.5).abs();
    to_tie <= 1.5 * f64::from(f32::EPSILON) * exact.abs()
}

/// Checks some values that share one scale; returns how many differ from PyTorch, and of how many.
fn check(name: &str, values: [&[f32]; 3], qparams: QParams, codes: CodeRange) -> (usize, usize) {
    let [x, y, mask] = values;
    let got_y = fake_quantize_values(x, qparams, codes);
    let got_mask = straight_through_gradient(x, &vec![1.0; x.len()], qparams, codes);
    let mut different = 0;
    for (i, &x) in x.iter().enumerate() {
        if got_y[i] == y[i] && got_mask[i] == mask[i] {
            continue;
        }
        different += 1;
        assert!(
            is_next_to_a_border(x, qparams.scale),
            "{name}, element {i}: {x:e} became {:e} with gradient {}, in PyTorch {:e} with {}",
            got_y[i],
            got_mask[i],
            y[i],
            mask[i],
        );
        let step = f64::from((got_y[i] - y[i]).abs()) / f64::from(qparams.scale);
        assert!(step < 1.5, "{name}, element {i}: {step} steps apart");
    }
    (different, x.len())
}

fn codes_of(case: &Case<'_>) -> CodeRange {
    CodeRange {
        min: case.integer("low"),
        max: case.integer("high"),
    }
}

fn mask_of(case: &Case<'_>) -> Vec<f32> {
    case.integers("mask")
        .iter()
        .map(|&passed| passed as f32)
        .collect()
}

#[test]
fn fake_quantization_per_tensor_is_that_of_pytorch_up_to_its_reciprocal() {
    Golden::open("fake_quantize").each("granularity", "tensor", |case| {
        let qparams = QParams {
            scale: case.real("scale"),
            zero_point: case.integer("zero_point"),
        };
        let (x, y, mask) = (case.floats("x"), case.floats("y"), mask_of(case));
        let (different, of) = check(case.name, [&x, &y, &mask], qparams, codes_of(case));
        println!("{}: {different} of {of} values differ", case.name);
        if qparams.scale.log2().fract() == 0.0 {
            // The reciprocal of a power of two is exact: nothing may differ, not even at a tie.
            assert_eq!(different, 0, "{}", case.name);
        }
    });
}

#[test]
fn fake_quantization_per_channel_is_that_of_pytorch_up_to_its_reciprocal() {
    Golden::open("fake_quantize").each("granularity", "channel", |case| {
        let (x, y, mask) = (case.floats("x"), case.floats("y"), mask_of(case));
        let axis = usize::try_from(case.integer("axis")).expect("an axis");
        let shape = case.shape("x");
        let inner: usize = shape[axis + 1..].iter().product();
        for (channel, &scale) in case.floats("scale").iter().enumerate() {
            let of_channel = |values: &[f32]| -> Vec<f32> {
                let all = values.iter().enumerate();
                all.filter(|(i, _)| i / inner % shape[axis] == channel)
                    .map(|(_, &value)| value)
                    .collect()
            };
            let [x, y, mask] = [&x, &y, &mask].map(|values| of_channel(values));
            let qparams = QParams {
                scale,
                zero_point: 0,
            };
            let (different, of) = check(case.name, [&x, &y, &mask], qparams, codes_of(case));
            // Random values: one in a million or so is next to a border.
            assert_eq!(different, 0, "{}, channel {channel}: of {of}", case.name);
        }
    });
}
