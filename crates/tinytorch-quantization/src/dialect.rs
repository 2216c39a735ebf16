//! Where the world disagrees: the same values, three answers, each exact (N18).
//!
//! In: values, ranges or sums, and whose rules to follow. Out: the codes that owner's software gives. [`Dialect::Onnx`] is the
//! contract of this library (`docs/numerics.md`); the others are here to read, write and check models of other tools, and to show
//! what an "equal" formula does.
//!
//! | | ONNX (ours) | LiteRT, reference kernels | PyTorch, fake quantization |
//! |---|---|---|---|
//! | `x / scale` | divided | divided | times `1 / scale`, rounded first |
//! | rounding of a tie | to the even code | away from zero | to the even code |
//! | scale, asymmetric | `(max − min) / steps` | width at least 10⁻⁹ | at least 2⁻²³ |
//! | scale, symmetric | `amax / max code` | `amax` at least 10⁻⁹ | `amax / (steps / 2)`, at least 2⁻²³ |
//! | zero point | `round(min code − min / scale)` | the same | `min code − round(min / scale)` |
//! | only zeros | scale 1, zero point 0 | as any narrow range | as any narrow range |
//! | requantization | `f32` product, ties to even; the multiplier rounded once (N12) | exact, ties away from zero | `f32` product with a multiplier computed in `f32` |
//!
//! ONNX's text does not say in what precision a multiplier is computed, and its owners' programs part beside ties: ONNX Runtime computes it in
//! `f32`, as PyTorch does, the reference evaluator multiplies in `f64`. There [`Dialect::Onnx`] means N12.
//!
//! LiteRT's default kernels (XNNPACK) are neither: they multiply by `1 / scale` and round ties to even, as [`Dialect::PyTorch`].
//!
//! Sources: ONNX operators QuantizeLinear and QLinearMatMul, ONNX Runtime's for the latter; LiteRT 2.3.0, BUILTIN_REF kernels, and AI Edge Quantizer 0.10.0;
//! PyTorch 2.15.0, `fake_quantize_per_tensor_affine` and `MinMaxObserver`. The tests hold vectors made with all of them.

pub use crate::disagreement::{
    Disagreement, Disagreements, SumDisagreement, SumDisagreements, compare_dialects,
    compare_requantization,
};

use crate::error::{Error, Result};
use crate::finite::check_finite;
use crate::qparams::{choose_qparams, symmetric_scale};
use crate::requantize::multipliers;
use crate::scheme::{CodeRange, QParams, ValueRange};

/// Whose rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// The ONNX operators, and everything else in this library.
    #[default]
    Onnx,
    /// LiteRT's reference kernels, with parameters by the AI Edge Quantizer.
    LiteRt,
    /// PyTorch's fake quantization and observers on the CPU.
    PyTorch,
}

/// The narrowest width of a range in LiteRT's quantizer.
const LITERT_WIDTH: f32 = 1e-9;

/// The smallest scale of PyTorch's observers, `torch.finfo(torch.float32).eps`.
const PYTORCH_SCALE: f32 = f32::EPSILON;

impl Dialect {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Onnx, Self::LiteRt, Self::PyTorch];

    /// Scale and zero point that spread `range`, widened to hold 0, over the codes.
    ///
    /// ONNX and LiteRT round the sum of the lowest code and the steps below zero, PyTorch only the steps. At a tie they part by one if the
    /// lowest code is odd: `[-1.5, 252.5]` over −127..=127 has 1.5 steps below zero; `round(−127 + 1.5)` is −126,
    /// `−127 + round(1.5)` is −125.
    ///
    /// # Errors
    ///
    /// [`Error::BadRange`], [`Error::BadCodeRange`].
    pub fn choose_qparams(self, range: ValueRange, codes: CodeRange) -> Result<QParams> {
        // Checks the arguments, and is the answer of ONNX.
        let ours = choose_qparams(range, codes)?;
        let (min, width) = (range.min.min(0.0), range.max.max(0.0) - range.min.min(0.0));
        let steps = codes.max.abs_diff(codes.min) as f32;
        let (scale, zero_point) = match self {
            Self::Onnx => return Ok(ours),
            Self::LiteRt => {
                let scale = width.max(LITERT_WIDTH) / steps;
                (scale, (codes.min as f32 - min / scale).round_ties_even())
            }
            Self::PyTorch => {
                let scale = (width / steps).max(PYTORCH_SCALE);
                (scale, codes.min as f32 - (min / scale).round_ties_even())
            }
        };
        let zero_point = within(codes, zero_point);
        Ok(QParams { scale, zero_point })
    }

    /// The scale that spreads `[-max_abs, max_abs]` over the codes, with zero point 0.
    ///
    /// 127.5 over −128..=127: PyTorch's scale is `127.5 / 127.5 = 1`, so that 127.5 itself saturates and loses half a step. ONNX and LiteRT
    /// divide by 127.
    ///
    /// # Errors
    ///
    /// [`Error::BadMagnitude`], [`Error::BadCodeRange`].
    pub fn symmetric_scale(self, max_abs: f32, codes: CodeRange) -> Result<f32> {
        let ours = symmetric_scale(max_abs, codes)?;
        Ok(match self {
            Self::Onnx => ours,
            Self::LiteRt => max_abs.max(LITERT_WIDTH) / codes.max as f32,
            Self::PyTorch => {
                let half = (codes.max - codes.min) as f32 / 2.0;
                (max_abs / half).max(PYTORCH_SCALE)
            }
        })
    }

    /// Writes each value as a code; codes may have up to 16 bits. Any shape, flattened; one code for each value, in order.
    ///
    /// 2.5 steps become code 2, in LiteRT 3, of zero point 0.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] with the index; [`Error::BadQParams`], also in PyTorch's dialect for a scale whose reciprocal is
    /// infinite; [`Error::BadCodeRange`].
    pub fn quantize(self, values: &[f32], qparams: QParams, codes: CodeRange) -> Result<Vec<i32>> {
        self.check(qparams, codes)?;
        check_finite(values)?;
        let code = |&value: &f32| within(codes, self.unsaturated(value, qparams));
        Ok(values.iter().map(code).collect())
    }

    /// Where the gradient passes fake quantization: the code, rounded but not yet saturated, is one of the codes (N14). Any shape,
    /// flattened: one answer for each value, in order.
    ///
    /// # Errors
    ///
    /// Those of [`Dialect::quantize`].
    pub fn gradient_mask(
        self,
        values: &[f32],
        qparams: QParams,
        codes: CodeRange,
    ) -> Result<Vec<bool>> {
        self.check(qparams, codes)?;
        check_finite(values)?;
        let inside = codes.min as f32..=codes.max as f32;
        let passed = |&value: &f32| inside.contains(&self.unsaturated(value, qparams));
        Ok(values.iter().map(passed).collect())
    }

    /// Turns sums of products into codes of the output; all scales are per tensor. Any shape, flattened: one code for each sum, in order.
    ///
    /// # Errors
    ///
    /// [`Error::BadMultiplier`] if a scale is not above 0 or the factor is not finite; [`Error::BadCodeRange`];
    /// [`Error::BadQParams`] if the zero point is no code.
    pub fn requantize(
        self,
        sums: &[i32],
        scales: Rescale,
        zero_point: i32,
        codes: CodeRange,
    ) -> Result<Vec<i32>> {
        let Rescale {
            input,
            weight,
            output,
        } = scales;
        codes.check()?;
        QParams {
            scale: output,
            zero_point,
        }
        .check(codes)?;
        // Checks the scales, and is the answer of ONNX.
        let ours = multipliers(input, &[weight], output)?[0];
        let exact = f64::from(input) * f64::from(weight) / f64::from(output);
        let of_torch = input * weight / output;
        if self == Self::PyTorch && !of_torch.is_finite() {
            return Err(Error::BadMultiplier {
                channel: 0,
                input_scale: input,
                weight_scale: weight,
                output_scale: output,
            });
        }
        let rounded = |sum: i32| match self {
            Self::Onnx => f64::from((sum as f32 * ours).round_ties_even()),
            // A sum has 31 bits, the factor 53: only a product within 2⁻²⁰ of a tie could be rounded to one.
            Self::LiteRt => (f64::from(sum) * exact).round(),
            Self::PyTorch => f64::from((sum as f32 * of_torch).round_ties_even()),
        };
        let code = |&sum: &i32| {
            let code = rounded(sum) + f64::from(zero_point);
            code.clamp(f64::from(codes.min), f64::from(codes.max)) as i32
        };
        Ok(sums.iter().map(code).collect())
    }

    fn check(self, qparams: QParams, codes: CodeRange) -> Result<()> {
        codes.check()?;
        qparams.check(codes)?;
        if self == Self::PyTorch && (1.0 / qparams.scale).is_infinite() {
            return Err(Error::BadQParams {
                scale: qparams.scale,
                zero_point: qparams.zero_point,
                why: "its reciprocal, by which PyTorch multiplies, is infinite",
            });
        }
        Ok(())
    }

    /// The code of a value as a float, before it is saturated.
    fn unsaturated(self, value: f32, QParams { scale, zero_point }: QParams) -> f32 {
        let rounded = match self {
            Self::Onnx => (value / scale).round_ties_even(),
            Self::LiteRt => (value / scale).round(),
            Self::PyTorch => (value * (1.0 / scale)).round_ties_even(),
        };
        rounded + zero_point as f32
    }
}

/// The code nearest to a rounded number (N5): saturated as a float, for it may be beyond every integer.
fn within(codes: CodeRange, rounded: f32) -> i32 {
    rounded.clamp(codes.min as f32, codes.max as f32) as i32
}

/// The scales on both sides of a product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rescale {
    /// Scale of the input.
    pub input: f32,
    /// Scale of the weights.
    pub weight: f32,
    /// Scale of the output.
    pub output: f32,
}

#[cfg(test)]
mod tests {
    use super::*;

    const INT8: CodeRange = CodeRange::INT8;
    const UNIT: QParams = QParams::symmetric(1.0);

    #[test]
    fn worked_example_ties() {
        let values = [0.5, 1.5, 2.5, -0.5];
        let codes = |dialect: Dialect| dialect.quantize(&values, UNIT, INT8).expect("finite");
        assert_eq!(codes(Dialect::Onnx), [0, 2, 2, 0]);
        assert_eq!(codes(Dialect::PyTorch), [0, 2, 2, 0]);
        assert_eq!(codes(Dialect::LiteRt), [1, 2, 3, -1]);
        let found = compare_dialects(
            &values,
            (Dialect::Onnx, UNIT),
            (Dialect::LiteRt, UNIT),
            INT8,
        );
        let first = Disagreement {
            index: 0,
            value: 0.5,
            left: 0,
            right: 1,
        };
        assert_eq!(
            found,
            Ok(Disagreements {
                of: 4,
                count: 3,
                largest: 1,
                first: Some(first)
            })
        );
    }

    #[test]
    fn worked_example_requantization() {
        // A factor of 1/2: 0.5, 1, 1.5 and 2.5 steps.
        let half = Rescale {
            input: 0.5,
            weight: 0.25,
            output: 0.25,
        };
        let sums = [1, 2, 3, 5];
        let compare = |left, right| compare_requantization(&sums, [left, right], half, 0, INT8);
        let first = SumDisagreement {
            index: 0,
            sum: 1,
            left: 0,
            right: 1,
        };
        let found = SumDisagreements {
            of: 4,
            count: 2,
            largest: 1,
            first: Some(first),
        };
        assert_eq!(compare(Dialect::Onnx, Dialect::LiteRt), Ok(found));
        let same = compare(Dialect::Onnx, Dialect::PyTorch).expect("good scales");
        assert_eq!((same.count, same.largest, same.first), (0, 0, None));
        let bad = Rescale {
            output: 0.0,
            ..half
        };
        let bad = compare_requantization(&sums, [Dialect::Onnx; 2], bad, 0, INT8);
        assert!(matches!(bad, Err(Error::BadQParams { .. })));
    }

    #[test]
    fn a_reciprocal_is_another_number() {
        // 1 / 0.0123, rounded, is not the inverse: values beside the ties fall on the other side.
        let scale = 0.0123_f32;
        let ties: Vec<f32> = (0..127).map(|code| (code as f32 + 0.5) * scale).collect();
        let pair = QParams::symmetric(scale);
        let found = compare_dialects(&ties, (Dialect::Onnx, pair), (Dialect::PyTorch, pair), INT8);
        let found = found.expect("finite");
        assert!(found.count > 0 && found.largest == 1, "{found:?}");
        let first = found.first.expect("there is one");
        let quotient = (first.value / scale, first.value * (1.0 / scale));
        assert_ne!(quotient.0.round_ties_even(), quotient.1.round_ties_even());
        // A power of two has an exact reciprocal.
        let pair = QParams::symmetric(0.25);
        let found = compare_dialects(&ties, (Dialect::Onnx, pair), (Dialect::PyTorch, pair), INT8);
        assert_eq!(found.map(|found| found.count), Ok(0));
    }

    #[test]
    fn the_largest_value_saturates_in_pytorch() {
        assert_eq!(Dialect::PyTorch.symmetric_scale(127.5, INT8), Ok(1.0));
        assert_eq!(Dialect::Onnx.symmetric_scale(127.0, INT8), Ok(1.0));
        let narrow = CodeRange::INT8_NARROW;
        assert_eq!(Dialect::PyTorch.symmetric_scale(127.0, narrow), Ok(1.0));
    }

    #[test]
    fn zero_points_part_at_a_tie_over_an_odd_code() {
        let range = ValueRange {
            min: -1.5,
            max: 252.5,
        };
        let zero_point = |dialect: Dialect| {
            let pair = dialect.choose_qparams(range, CodeRange::INT8_NARROW);
            pair.expect("good").zero_point
        };
        assert_eq!(Dialect::ALL.map(zero_point), [-126, -126, -125]);
    }

    #[test]
    fn nothing_to_spread_has_three_answers() {
        let zeros = ValueRange { min: 0.0, max: 0.0 };
        let pair = |dialect: Dialect| dialect.choose_qparams(zeros, INT8).expect("good");
        assert_eq!(pair(Dialect::Onnx), UNIT);
        assert_eq!(pair(Dialect::LiteRt).scale, 1e-9 / 255.0);
        assert_eq!(pair(Dialect::PyTorch).scale, f32::EPSILON);
        assert_eq!(pair(Dialect::PyTorch).zero_point, -128);
    }

    #[test]
    fn ours_is_the_dialect_of_onnx() {
        let values: Vec<f32> = (0..2000).map(|i| (i as f32 - 1000.0) / 64.0).collect();
        let range = ValueRange {
            min: -3.0,
            max: 5.0,
        };
        let pair = Dialect::Onnx.choose_qparams(range, INT8).expect("good");
        assert_eq!(Ok(pair), choose_qparams(range, INT8));
        let ours = crate::quantize::quantize(&values, pair, INT8).expect("finite");
        let ours: Vec<i32> = ours.into_iter().map(i32::from).collect();
        assert_eq!(Dialect::Onnx.quantize(&values, pair, INT8), Ok(ours));
        let sums: Vec<i32> = (-3000..3000).map(|sum| sum * 7).collect();
        let scales = Rescale {
            input: 0.02,
            weight: 0.01,
            output: 0.03,
        };
        let factor = multipliers(0.02, &[0.01], 0.03).expect("good");
        let ours = crate::requantize::requantize(&sums, &factor, 3, INT8);
        let ours: Vec<i32> = ours.into_iter().map(i32::from).collect();
        assert_eq!(Dialect::Onnx.requantize(&sums, scales, 3, INT8), Ok(ours));
    }

    #[test]
    fn bad_data_is_an_error_in_every_dialect() {
        for dialect in Dialect::ALL {
            assert!(dialect.quantize(&[f32::NAN], UNIT, INT8).is_err());
            assert!(
                dialect
                    .quantize(&[1.0], QParams::symmetric(0.0), INT8)
                    .is_err()
            );
            let scales = Rescale {
                input: 1.0,
                weight: f32::NAN,
                output: 1.0,
            };
            assert!(dialect.requantize(&[1], scales, 0, INT8).is_err());
            let wide = dialect.quantize(&[f32::MAX, f32::MIN], UNIT, CodeRange::signed(16));
            assert_eq!(wide, Ok(vec![32_767, -32_768]));
        }
        let tiny = QParams::symmetric(1e-40);
        assert!(Dialect::PyTorch.quantize(&[0.0], tiny, INT8).is_err());
        assert_eq!(Dialect::Onnx.quantize(&[0.0], tiny, INT8), Ok(vec![0]));
    }
}
