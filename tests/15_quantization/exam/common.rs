//! What the checks share: how parameters travel in a case, and inputs that stay clear of ties.

use tinytorch_exam::{Case, Rng, Stop, Values};

use super::subject::scheme::{CodeRange, QParams};

pub(super) const INT8: CodeRange = CodeRange {
    min: -128,
    max: 127,
};
pub(super) const NARROW: CodeRange = CodeRange {
    min: -127,
    max: 127,
};
pub(super) const FOUR_BITS: CodeRange = CodeRange { min: -8, max: 7 };
pub(super) const FOUR_BITS_NARROW: CodeRange = CodeRange { min: -7, max: 7 };
pub(super) const TWO_BITS: CodeRange = CodeRange { min: -2, max: 1 };

/// Adds a code range to the inputs of a case, as `codes: [min, max]`.
pub(super) fn with_codes(values: Values, codes: CodeRange) -> Values {
    values.ints("codes", [codes.min, codes.max])
}

/// Takes it out again.
pub(super) fn codes_of(case: &Case) -> Result<CodeRange, Stop> {
    match case.ints::<i32>("codes")?[..] {
        [min, max] => Ok(CodeRange { min, max }),
        _ => Err(Stop::Malformed("`codes` are two integers".to_owned())),
    }
}

/// Adds parameters to the inputs of a case.
pub(super) fn with_qparams(values: Values, qparams: QParams) -> Values {
    values
        .float("scale", qparams.scale)
        .int("zero_point", qparams.zero_point)
}

/// Takes them out again.
pub(super) fn qparams_of(case: &Case) -> Result<QParams, Stop> {
    Ok(QParams {
        scale: case.float("scale")?,
        zero_point: case.int("zero_point")?,
    })
}

/// Adds one pair of parameters per channel.
pub(super) fn with_channel_qparams(values: Values, qparams: &[QParams]) -> Values {
    values
        .f32s("scales", qparams.iter().map(|pair| pair.scale))
        .ints("zero_points", qparams.iter().map(|pair| pair.zero_point))
}

/// Takes them out again.
pub(super) fn channel_qparams_of(case: &Case) -> Result<Vec<QParams>, Stop> {
    let zero_points = case.ints::<i32>("zero_points")?;
    let pairs = case.f32s("scales")?.iter().zip(zero_points);
    Ok(pairs
        .map(|(&scale, zero_point)| QParams { scale, zero_point })
        .collect())
}

/// Parameters with a zero point.
pub(super) fn qparams(scale: f32, zero_point: i32) -> QParams {
    QParams { scale, zero_point }
}

/// A float of random digits with an exponent of two in `low..=high`.
///
/// Made of products only: the exponential function differs in its last digit from system to system, and with it the cases would.
pub(super) fn magnitude(rng: &mut Rng, low: i64, high: i64) -> f32 {
    let exponent = rng.int(low, high) as i32;
    rng.f32(1.0, 2.0) * 2.0_f32.powi(exponent)
}

/// A scale between 1e-4 and 16, spread evenly over the magnitudes.
pub(super) fn scale(rng: &mut Rng) -> f32 {
    magnitude(rng, -13, 3)
}

/// A value whose quotient by `scale` lies at least 0.05 away from a tie, with the quotient in `low..high`.
pub(super) fn off_tie(rng: &mut Rng, scale: f32, low: i64, high: i64) -> f32 {
    (rng.int(low, high) as f32 + rng.f32(-0.45, 0.45)) * scale
}

/// `n` of these.
pub(super) fn off_ties(rng: &mut Rng, n: usize, scale: f32, low: i64, high: i64) -> Vec<f32> {
    (0..n).map(|_| off_tie(rng, scale, low, high)).collect()
}

/// Why a scale may be off by two units in the last place.
pub(super) const SCALE_ROUNDING: &str = "the scale is one division, rounded once; another order of the same operations rounds once more";
