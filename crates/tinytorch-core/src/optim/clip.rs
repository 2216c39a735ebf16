//! Clipping: all gradients made shorter together when they are too long.

use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Scales the gradients of all parameters so that their common norm is at most `max_norm`; returns the norm they had.
///
/// ```text
/// norm = √(Σ g²)        g ← g · min(1, max_norm / (norm + 1e-6))
/// ```
///
/// Parameters without a gradient are left out.
///
/// Source: PyTorch, `torch.nn.utils.clip_grad_norm_` with `error_if_nonfinite`.
///
/// # Errors
///
/// [`Error::NotFinite`] if the norm is infinite or NaN, naming the first parameter to blame; [`Error::Argument`] if
/// `max_norm` is negative or NaN. Then no gradient has changed.
pub fn clip_grad_norm(parameters: &[(String, Tensor)], max_norm: f32) -> Result<f32> {
    let operation = "clip_grad_norm";
    if max_norm.is_nan() || max_norm < 0.0 {
        let reason = format!("the largest norm {max_norm} is not a length");
        return Err(Error::Argument { operation, reason });
    }
    let mut square = 0f64;
    for (name, parameter) in parameters {
        let Some(gradient) = parameter.grad() else {
            continue;
        };
        // In f64 the squares of finite f32 values cannot overflow, and neither can any sum that fits in memory.
        let own: f64 = gradient
            .array()
            .iter()
            .map(|&g| f64::from(g) * f64::from(g))
            .sum();
        if !own.is_finite() {
            let what = format!("the norm of the gradient of `{name}`");
            return Err(Error::NotFinite {
                what,
                value: own.sqrt().to_string(),
            });
        }
        square += own;
    }
    let norm = square.sqrt();
    let factor = (f64::from(max_norm) / (norm + 1e-6)) as f32;
    if factor < 1.0 {
        for (_, parameter) in parameters {
            parameter.update_grad(|mut gradient| gradient.mapv_inplace(|g| g * factor));
        }
    }
    Ok(norm as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(gradients: [f32; 2]) -> Vec<(String, Tensor)> {
        let leaf = |gradient: f32| {
            let leaf = Tensor::zeros(&[1]).with_grad();
            leaf.set_grad(&Tensor::full(&[1], gradient))
                .expect("one shape");
            leaf
        };
        let without = ("c".to_owned(), Tensor::zeros(&[2]).with_grad());
        let [a, b] = gradients.map(leaf);
        vec![("a".to_owned(), a), ("b".to_owned(), b), without]
    }

    fn grads(parameters: &[(String, Tensor)]) -> Vec<f32> {
        parameters
            .iter()
            .filter_map(|(_, p)| p.grad())
            .flat_map(|g| g.to_vec())
            .collect()
    }

    #[test]
    fn long_gradients_are_shortened_together() -> Result<()> {
        let long = parameters([3.0, 4.0]);
        assert_eq!(clip_grad_norm(&long, 1.0)?, 5.0);
        let factor = (1.0f64 / (5.0 + 1e-6)) as f32;
        assert_eq!(grads(&long), [3.0 * factor, 4.0 * factor]);
        Ok(())
    }

    #[test]
    fn short_gradients_stay_as_they_are() -> Result<()> {
        let short = parameters([0.3, 0.4]);
        clip_grad_norm(&short, 1.0)?;
        assert_eq!(grads(&short), [0.3, 0.4]);
        Ok(())
    }

    #[test]
    fn a_gradient_that_is_not_finite_is_an_error_that_names_it() {
        for (bad, text) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
            let bad = parameters([1.0, bad]);
            let error = clip_grad_norm(&bad, 1.0).expect_err("not finite");
            assert_eq!(
                error.to_string(),
                format!("the norm of the gradient of `b` is {text}")
            );
            assert_eq!(grads(&bad)[0], 1.0);
        }
    }

    #[test]
    fn huge_but_finite_gradients_do_not_overflow() -> Result<()> {
        let huge = parameters([1e30, 0.0]);
        assert_eq!(clip_grad_norm(&huge, 1.0)?, 1e30);
        Ok(())
    }
}
