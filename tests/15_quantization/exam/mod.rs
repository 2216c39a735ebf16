//! The checks of module 15, one file per exercise.
//!
//! Each file has the `run` functions, which call the subject, and the public checks. `hidden/` has the same runs on
//! other inputs. A check calls the function of its own exercise only, unless its `what` says otherwise, so that one
//! unfinished exercise costs the points of that exercise.
//!
//! How inputs are chosen: a tie must be a tie in the arithmetic of anyone who follows the contract, and anything that is
//! not meant to be a tie stays clear of one. So a correct solution that rounds in another place is not punished for it.

use tinytorch_exam::Check;

use super::subject;

mod common;
mod convert;
#[cfg(hidden)]
mod hidden;

mod choose_qparams;
mod dequantize;
mod entropy;
mod fake_quantize;
mod gemm;
mod linear;
mod loss_scaling;
mod observer;
mod per_channel;
mod quantize;
mod requantize;
mod symmetric_scale;

/// All checks, public ones first within each exercise's file, hidden ones (if compiled in) at the end.
pub fn checks() -> Vec<Check> {
    let public = [
        symmetric_scale::CHECKS,
        choose_qparams::CHECKS,
        quantize::CHECKS,
        dequantize::CHECKS,
        per_channel::CHECKS,
        observer::CHECKS,
        gemm::CHECKS,
        requantize::CHECKS,
        linear::CHECKS,
        convert::CHECKS,
        fake_quantize::CHECKS,
        loss_scaling::CHECKS,
        entropy::CHECKS,
    ];
    #[allow(unused_mut, reason = "mutable where hidden checks are compiled in")]
    let mut checks = public.concat();
    #[cfg(hidden)]
    checks.extend(hidden::checks());
    checks
}
