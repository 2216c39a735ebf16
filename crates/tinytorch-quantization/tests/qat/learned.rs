//! The gradients of learned steps, by finite differences.

use proptest::prelude::*;
use tinytorch_core::Tensor;
use tinytorch_quantization::{CodeRange, fake_quantize_learned};

/// What LSQ differentiates: rounding adds a number that does not change, and all else is as it is.
struct Surrogate {
    /// `round(x / s) − x / s` where the derivative is taken.
    residual: f64,
    codes: CodeRange,
}

impl Surrogate {
    fn value(&self, x: f64, scale: f64, zero_point: f64) -> f64 {
        let code = x / scale + self.residual + zero_point;
        let (min, max) = (f64::from(self.codes.min), f64::from(self.codes.max));
        scale * (code.clamp(min, max) - zero_point)
    }
}

proptest! {
    #[test]
    fn the_gradients_are_the_slopes_of_the_surrogate(
        scale in 0.01_f32..10.0,
        zero_point in -8_i32..=7,
        place in -20.0_f32..20.0,
    ) {
        let codes = CodeRange::signed(4);
        let x = place * scale;
        let steps = f64::from(x) / f64::from(scale);
        // Away from ties, where the rounding of `x / s` itself decides.
        prop_assume!((steps - steps.floor() - 0.5).abs() > 1e-4);
        let surrogate = Surrogate { residual: steps.round() - steps, codes };
        let leaf = |value: f32| Tensor::full(&[1], value).with_grad();
        let at = [leaf(x), leaf(scale), leaf(zero_point as f32)];
        let y = fake_quantize_learned(&at[0], &at[1], &at[2], codes, 1.0).expect("finite");
        y.sum().backward().expect("a scalar");
        let point = [f64::from(x), f64::from(scale), f64::from(zero_point)];
        for (i, leaf) in at.iter().enumerate() {
            let gradient = f64::from(leaf.grad().expect("a leaf").to_vec()[0]);
            let slope = |width: f64| {
                let moved = |by: f64| {
                    let mut point = point;
                    point[i] += by;
                    surrogate.value(point[0], point[1], point[2])
                };
                (moved(width) - moved(-width)) / (2.0 * width)
            };
            // Between whole codes the surrogate has no kink nearer than half a step, and it is linear in x and z, and
            // in s but for x / s, whose part cancels: only roundings remain, of f32 in the gradient (x / s has up to 20
            // steps) and of f64 in a difference over 2e-6 of a step.
            let width = 1e-6 * f64::from(scale);
            let tolerance = 20.0 * f64::from(f32::EPSILON) * f64::from(scale).max(1.0) + 1e-7 * f64::from(scale).max(1.0);
            // At the last codes the clamp itself has a kink: the code is exactly the bound there.
            let code = steps.round() + f64::from(zero_point);
            prop_assume!(code != f64::from(codes.min) && code != f64::from(codes.max));
            prop_assert!((gradient - slope(width)).abs() <= tolerance, "{i}: {gradient}, not {}", slope(width));
        }
    }
}
