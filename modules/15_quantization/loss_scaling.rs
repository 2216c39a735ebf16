//! Dynamic loss scaling: keep small gradients alive in half precision.
//!
//! In: a loss, then its gradients. Out: gradients of the right size, or the advice to skip the step. Half precision
//! has nothing between 0 and 6e-8, and gradients are often smaller. Multiplying the loss by a large number multiplies
//! every gradient by it; dividing again in `f32` loses nothing. How large is found by trying: grow while all is
//! well, back off when something overflowed.
//!
//! Source: Micikevicius et al. 2018, "Mixed Precision Training", section 3.2; the schedule is that of PyTorch's
//! `GradScaler`, but for the lower bound of 1, which PyTorch does not have.

/// The scale of the loss, and when it changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScaler {
    /// What the loss is multiplied by. At least 1 and finite.
    pub scale: f32,
    /// What the scale is multiplied by when it grows. Above 1.
    pub growth_factor: f32,
    /// What the scale is multiplied by after an overflow. Between 0 and 1.
    pub backoff_factor: f32,
    /// After how many good steps in a row the scale grows. At least 1.
    pub growth_interval: u32,
    /// How many good steps there were since the scale last changed.
    pub good_steps: u32,
}

impl Default for LossScaler {
    /// Starts at 65536, doubles after 2000 good steps, halves after an overflow.
    fn default() -> Self {
        Self {
            scale: 65_536.0,
            growth_factor: 2.0,
            backoff_factor: 0.5,
            growth_interval: 2000,
            good_steps: 0,
        }
    }
}

impl LossScaler {
    /// Multiplies the loss by the scale, before the backward pass.
    #[must_use]
    pub fn scale_loss(&self, loss: f32) -> f32 {
        loss * self.scale
    }

    /// Divides the gradients by the scale, in place, and says whether all are finite. **Exercise 15.11, first part**
    ///
    /// # The maths
    ///
    /// ```text
    /// gradient ← gradient / scale
    /// ```
    ///
    /// The answer is `false` if a single gradient is NaN or infinite: then the step must be skipped. Whatever looks
    /// at the size of gradients, clipping above all, comes after this.
    ///
    /// # Worked example
    ///
    /// Scale 4: `[8, −2]` becomes `[2, −0.5]`, and the answer is `true`. With an infinity among them it is `false`.
    ///
    /// # Edge cases
    ///
    /// No gradients at all are all finite.
    #[must_use]
    pub fn unscale(&self, gradients: &mut [f32]) -> bool {
        // BEGIN SOLUTION 15.11a
        todo!("exercise 15.11a")
        // END SOLUTION
    }

    /// Adjusts the scale after a step. **Exercise 15.11, second part**
    ///
    /// `all_finite` is what [`unscale`](Self::unscale) said.
    ///
    /// # The maths
    ///
    /// ```text
    /// overflow:   scale ← max(scale · backoff_factor, 1)          good_steps ← 0
    /// good step:  good_steps ← good_steps + 1
    ///             and at growth_interval of them:
    ///             scale ← scale · growth_factor                   good_steps ← 0
    /// ```
    ///
    /// # Worked example
    ///
    /// Scale 8, interval 2. Good, good: the scale is 16. Good, overflow: it is 8, and the count starts again. Good:
    /// still 8. Good: 16.
    ///
    /// # Edge cases
    ///
    /// - The scale never falls below 1: smaller would lose gradients instead of saving them.
    /// - A scale that would grow to infinity stays as it is; the count starts again all the same.
    pub fn update(&mut self, all_finite: bool) {
        // BEGIN SOLUTION 15.11b
        todo!("exercise 15.11b")
        // END SOLUTION
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaler(scale: f32, growth_interval: u32) -> LossScaler {
        LossScaler {
            scale,
            growth_interval,
            ..LossScaler::default()
        }
    }

    #[test]
    fn worked_example_unscale() {
        let mut gradients = [8.0, -2.0];
        assert!(scaler(4.0, 2).unscale(&mut gradients));
        assert_eq!(gradients, [2.0, -0.5]);
    }

    #[test]
    fn one_bad_gradient_spoils_the_step() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(!scaler(4.0, 2).unscale(&mut [1.0, bad, 1.0]), "{bad}");
        }
        assert!(scaler(4.0, 2).unscale(&mut []));
    }

    #[test]
    fn worked_example_update() {
        let mut scaler = scaler(8.0, 2);
        let scales = [true, true, true, false, true, true].map(|all_finite| {
            scaler.update(all_finite);
            scaler.scale
        });
        assert_eq!(scales, [8.0, 16.0, 16.0, 8.0, 8.0, 16.0]);
    }

    #[test]
    fn the_scale_never_falls_below_one() {
        let mut scaler = scaler(1.5, 2);
        scaler.update(false);
        assert_eq!(scaler.scale, 1.0);
        scaler.update(false);
        assert_eq!(scaler.scale, 1.0);
    }

    #[test]
    fn the_scale_never_grows_to_infinity() {
        let mut scaler = scaler(f32::MAX, 1);
        scaler.update(true);
        assert_eq!((scaler.scale, scaler.good_steps), (f32::MAX, 0));
    }
}
