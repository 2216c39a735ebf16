//! The checks that students do not see: the same runs on other inputs.

use tinytorch_exam::Check;

mod layers;
mod parameters;
mod training;
mod values;

/// All hidden checks.
pub(super) fn checks() -> Vec<Check> {
    [
        parameters::CHECKS,
        values::CHECKS,
        layers::CHECKS,
        training::CHECKS,
    ]
    .concat()
}
