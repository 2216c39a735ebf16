//! Learned step sizes, as PyTorch computes them.

use tinytorch_core::Tensor;
use tinytorch_quantization::{CodeRange, fake_quantize_learned, fake_quantize_learned_per_channel};

use crate::reader::{Case, Golden};

fn check(case: &Case<'_>, per_channel: bool) {
    let leaf = |name: &str| {
        let tensor = Tensor::new(case.floats(name), &case.shape(name)).expect("its own shape");
        tensor.with_grad()
    };
    let (x, scale, zero_point) = (leaf("x"), leaf("scale"), leaf("zero_point"));
    let codes = CodeRange {
        min: case.integer("low"),
        max: case.integer("high"),
    };
    let factor = case.real("factor");
    let axis = usize::try_from(case.integer("axis")).expect("an axis");
    let y = if per_channel {
        fake_quantize_learned_per_channel(&x, axis, &scale, &zero_point, codes, factor)
    } else {
        fake_quantize_learned(&x, &scale, &zero_point, codes, factor)
    };
    let y = y.expect("finite values");
    let upstream = case.floats("upstream");
    let weights = Tensor::new(upstream.clone(), x.shape()).expect("its own shape");
    y.try_mul(&weights)
        .expect("the same shape")
        .sum()
        .backward()
        .expect("a scalar");

    // No random value lies next to a border between codes, where PyTorch's reciprocal may round to the other side (N4):
    // values and masks are the same bits.
    assert_eq!(y.to_vec(), case.floats("y"), "{}", case.name);
    let grad = |tensor: &Tensor| tensor.grad().expect("a leaf").to_vec();
    assert_eq!(grad(&x), case.floats("dx"), "{}", case.name);
    // A term is at most `upstream · codes.len()` for the scale, `upstream · s` for the zero point; each has a handful of
    // roundings in f32, and PyTorch sums them in f32, where every one of n additions may be half an ulp off.
    let n = upstream.len() as f32;
    let size: f32 = upstream.iter().map(|u| u.abs()).sum();
    let unit = factor * size * (n + 8.0) * f32::EPSILON / 2.0;
    let widest = scale.to_vec().into_iter().fold(0.0, f32::max);
    for (tensor, name, largest) in [
        (&scale, "ds", codes.len() as f32),
        (&zero_point, "dz", widest),
    ] {
        for (got, expected) in grad(tensor).into_iter().zip(case.floats(name)) {
            let error = (got - expected).abs();
            assert!(
                error <= unit * largest,
                "{} {name}: {got}, not {expected}",
                case.name
            );
        }
    }
}

#[test]
fn learned_steps_per_tensor_have_the_gradients_of_pytorch() {
    Golden::open("learned").each("granularity", "tensor", |case| check(case, false));
}

#[test]
fn learned_steps_per_channel_have_the_gradients_of_pytorch() {
    Golden::open("learned").each("granularity", "channel", |case| check(case, true));
}
