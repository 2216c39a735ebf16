//! Where ways of a model meet: sums and concatenations of codes that mean different things.
//!
//! In: codes of the ways, each with its own parameters. Out: codes with one pair of parameters. One factor for each way is
//! all that is left of the real numbers (N19).
//!
//! ```text
//! sum              y = a + b           s_y · (q_y − z_y) = s_a · (q_a − z_a) + s_b · (q_b − z_b)
//!
//!                  q_y = saturate(round((q_a − z_a) · s_a/s_y + (q_b − z_b) · s_b/s_y) + z_y)
//!
//! concatenation    q_y = saturate(round((q_x − z_x) · s_x/s_y) + z_y)        for each way x; nothing if x and y mean the same
//! ```
//!
//! Source: TensorFlow, `lite/g3doc/performance/quantization_spec.md`, ADD (inputs and output with parameters of their own) and
//! CONCATENATION (all the same: preparing a model gives its ways the output's parameters wherever a layer can still choose).
//! LiteRT adds with integer multipliers; the factors in `f32` are those of ONNX Runtime's QLinearAdd.

use crate::error::{Error, Result};
use crate::qtensor::{Parameters, QTensor};
use crate::scheme::{CodeRange, QParams};

/// The factor that turns steps of `from` into steps of `to`: computed in `f64`, rounded to `f32` (N12, N19).
///
/// # Errors
///
/// [`Error::BadRescale`] if 255 steps, twice, are not finite in `f32`.
pub fn rescale_factor(from: QParams, to: QParams) -> Result<f32> {
    let factor = (f64::from(from.scale) / f64::from(to.scale)) as f32;
    if (factor * 512.0).is_finite() {
        return Ok(factor);
    }
    Err(Error::BadRescale {
        input_scale: from.scale,
        output_scale: to.scale,
    })
}

/// `y = left + right` on codes, with a ReLU behind it if asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QAdd {
    left: QParams,
    right: QParams,
    output: QParams,
    relu: bool,
}

impl QAdd {
    /// A sum of codes that mean `left` and `right`, written as `output`.
    ///
    /// # Errors
    ///
    /// [`Error::BadQParams`], [`Error::BadRescale`].
    pub fn new(left: QParams, right: QParams, output: QParams, relu: bool) -> Result<Self> {
        for qparams in [left, right, output] {
            qparams.check(CodeRange::INT8)?;
        }
        rescale_factor(left, output)?;
        rescale_factor(right, output)?;
        Ok(Self {
            left,
            right,
            output,
            relu,
        })
    }

    /// What the codes of both ways mean.
    #[must_use]
    pub fn inputs(&self) -> [QParams; 2] {
        [self.left, self.right]
    }

    /// What the codes of the sum mean.
    #[must_use]
    pub fn output(&self) -> QParams {
        self.output
    }

    /// Whether negative sums become 0.
    #[must_use]
    pub fn has_relu(&self) -> bool {
        self.relu
    }

    /// Computes the sum by its definition.
    ///
    /// | argument | shape |
    /// |---|---|
    /// | `left`, `right`, result | all the same |
    ///
    /// In `f32`, each product rounded once and the sum once more:
    ///
    /// ```text
    /// q_y = saturate(round((q_a − z_a) · (s_a/s_y) + (q_b − z_b) · (s_b/s_y)) + z_y)
    /// ```
    ///
    /// with ties to even, and the zero point added after rounding (N2, N3). For a ReLU the lowest code is `z_y`.
    ///
    /// # Worked example
    ///
    /// Scales 0.5 and 0.25 and output 0.5, zero points 1, 0 and −3: the codes 5 and 6 mean 2.0 and 1.5. Their sum is
    /// `4 · 1 + 6 · 0.5 = 7` steps, the code `7 − 3 = 4`, which reads back as 3.5.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`], [`Error::OtherQParams`].
    pub fn forward_definition(&self, left: &QTensor, right: &QTensor) -> Result<QTensor> {
        check_shapes(left.shape(), right.shape())?;
        check_meaning(left, self.left)?;
        check_meaning(right, self.right)?;
        let (a, b) = self.factors()?;
        let (lowest, highest) = self.bounds();
        let code = |(&left, &right): (&i8, &i8)| {
            let left = (i32::from(left) - self.left.zero_point) as f32 * a;
            let right = (i32::from(right) - self.right.zero_point) as f32 * b;
            let steps = (left + right).round_ties_even();
            (steps + self.output.zero_point as f32).clamp(lowest, highest) as i8
        };
        let pairs = left.as_slice().iter().zip(right.as_slice());
        let meaning = Parameters::PerTensor(self.output);
        QTensor::new(
            pairs.map(code).collect(),
            left.shape(),
            meaning,
            CodeRange::INT8,
        )
    }

    /// The same codes as the definition, in `left`. Equal lengths.
    pub(crate) fn add(&self, left: &mut [i8], right: &[i8]) -> Result<()> {
        let (a, b) = self.factors()?;
        let (lowest, highest) = self.bounds();
        let zero_point = self.output.zero_point as f32;
        for (left, &right) in left.iter_mut().zip(right) {
            let l = (i32::from(*left) - self.left.zero_point) as f32 * a;
            let r = (i32::from(right) - self.right.zero_point) as f32 * b;
            let steps = round_bounded(l + r);
            *left = (steps + zero_point).clamp(lowest, highest) as i8;
        }
        Ok(())
    }

    fn factors(&self) -> Result<(f32, f32)> {
        Ok((
            rescale_factor(self.left, self.output)?,
            rescale_factor(self.right, self.output)?,
        ))
    }

    fn bounds(&self) -> (f32, f32) {
        let CodeRange { min, max } = CodeRange::INT8;
        let min = if self.relu {
            self.output.zero_point
        } else {
            min
        };
        (min as f32, max as f32)
    }
}

/// Rounds to the nearest whole number, ties to even, after bounding by ±512, far outside of what any zero point brings
/// back to the codes.
///
/// Adding 1.5 · 2²³ leaves no bit for a fraction, so the addition itself rounds; without SSE4.1 `round_ties_even` is a
/// call for every number, and this is four instructions that the compiler vectorizes.
fn round_bounded(steps: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    (steps.clamp(-512.0, 512.0) + SHIFT) - SHIFT
}

/// Several ways joined along axis 1, on codes.
#[derive(Clone, Debug, PartialEq)]
pub struct QConcat {
    inputs: Vec<QParams>,
    output: QParams,
}

impl QConcat {
    /// A concatenation of codes that mean `inputs`, written as `output`.
    ///
    /// # Errors
    ///
    /// [`Error::BadQParams`], [`Error::BadRescale`]; [`Error::Unsupported`] without an input.
    pub fn new(inputs: Vec<QParams>, output: QParams) -> Result<Self> {
        if inputs.is_empty() {
            return Err(Error::Unsupported {
                what: "a concatenation of nothing",
            });
        }
        output.check(CodeRange::INT8)?;
        for &input in &inputs {
            input.check(CodeRange::INT8)?;
            rescale_factor(input, output)?;
        }
        Ok(Self { inputs, output })
    }

    /// What the codes of each way mean, in order.
    #[must_use]
    pub fn inputs(&self) -> &[QParams] {
        &self.inputs
    }

    /// What the codes of the result mean.
    #[must_use]
    pub fn output(&self) -> QParams {
        self.output
    }

    /// Computes the concatenation by its definition.
    ///
    /// | argument | shape |
    /// |---|---|
    /// | `ways` | each `[batch, channels of the way, ..]` |
    /// | result | `[batch, sum of the channels, ..]` |
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`], [`Error::OtherQParams`].
    pub fn forward_definition(&self, ways: &[QTensor]) -> Result<QTensor> {
        if ways.len() != self.inputs.len() {
            return Err(Error::ShapeMismatch {
                operation: "QConcat",
                expected: format!("{} tensors", self.inputs.len()),
                got: vec![ways.len()],
            });
        }
        let shapes: Vec<_> = ways.iter().map(QTensor::shape).collect();
        let shape = joined_shape(&shapes)?;
        let mut written = Vec::with_capacity(ways.len());
        for (way, &input) in ways.iter().zip(&self.inputs) {
            check_meaning(way, input)?;
            let factor = rescale_factor(input, self.output)?;
            let codes = way.as_slice().iter();
            let code = |&code| rescaled(code, input, factor, self.output);
            written.push(codes.map(code).collect::<Vec<i8>>());
        }
        let parts: Vec<_> = written.iter().map(Vec::as_slice).collect();
        let blocks: Vec<_> = shapes.iter().map(|s| s[1..].iter().product()).collect();
        let codes = interleave(&parts, &blocks, shape[0]);
        let meaning = Parameters::PerTensor(self.output);
        QTensor::new(codes, &shape, meaning, CodeRange::INT8)
    }

    /// Writes the codes of way number `index` as codes of the output: nothing to do if they mean the same, and otherwise a
    /// table of 256.
    pub(crate) fn rescale(&self, index: usize, codes: &mut [i8]) -> Result<()> {
        let input = self.inputs[index];
        if input == self.output {
            return Ok(());
        }
        let factor = rescale_factor(input, self.output)?;
        let table: [i8; 256] =
            std::array::from_fn(|byte| rescaled(byte as u8 as i8, input, factor, self.output));
        for code in codes {
            *code = table[usize::from(*code as u8)];
        }
        Ok(())
    }
}

fn rescaled(code: i8, input: QParams, factor: f32, output: QParams) -> i8 {
    let steps = ((i32::from(code) - input.zero_point) as f32 * factor).round_ties_even();
    let CodeRange { min, max } = CodeRange::INT8;
    (steps + output.zero_point as f32).clamp(min as f32, max as f32) as i8
}

/// Both ways of a sum must have one shape.
pub(crate) fn check_shapes(left: &[usize], right: &[usize]) -> Result<()> {
    if left == right {
        return Ok(());
    }
    Err(Error::ShapeMismatch {
        operation: "QAdd",
        expected: format!("two tensors of one shape, {left:?}"),
        got: right.to_vec(),
    })
}

fn check_meaning(x: &QTensor, expected: QParams) -> Result<()> {
    if x.qparams() == Some(expected) {
        return Ok(());
    }
    Err(Error::OtherQParams {
        expected,
        got: x.qparams(),
    })
}

/// The shape of tensors joined along axis 1, in which alone they may differ.
pub(crate) fn joined_shape(shapes: &[&[usize]]) -> Result<Vec<usize>> {
    let mismatch = |got: &[usize], expected: String| Error::ShapeMismatch {
        operation: "QConcat",
        expected,
        got: got.to_vec(),
    };
    let Some((&first, others)) = shapes.split_first() else {
        return Err(mismatch(&[], "at least one tensor".to_owned()));
    };
    if first.len() < 2 {
        return Err(mismatch(first, "[batch, channels, ..]".to_owned()));
    }
    let mut joined = first.to_vec();
    for &shape in others {
        let fits = shape.len() == first.len() && shape[0] == first[0] && shape[2..] == first[2..];
        if !fits {
            return Err(mismatch(shape, format!("{first:?} but for axis 1")));
        }
        joined[1] += shape[1];
    }
    Ok(joined)
}

/// Joins parts that are `count` blocks each: a block of the first part, one of the second, and so on.
pub(crate) fn interleave(parts: &[&[i8]], blocks: &[usize], count: usize) -> Vec<i8> {
    let mut joined = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
    for index in 0..count {
        for (part, &block) in parts.iter().zip(blocks) {
            joined.extend_from_slice(&part[index * block..][..block]);
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn qparams(scale: f32, zero_point: i32) -> QParams {
        QParams { scale, zero_point }
    }

    fn codes(values: &[i8], shape: &[usize], meaning: QParams) -> QTensor {
        let meaning = Parameters::PerTensor(meaning);
        QTensor::new(values.to_vec(), shape, meaning, CodeRange::INT8).expect("good codes")
    }

    #[test]
    fn worked_example() {
        let (left, right, output) = (qparams(0.5, 1), qparams(0.25, 0), qparams(0.5, -3));
        let sum = QAdd::new(left, right, output, false).expect("good parameters");
        let y = sum.forward_definition(&codes(&[5], &[1], left), &codes(&[6], &[1], right));
        assert_eq!(y, Ok(codes(&[4], &[1], output)));
    }

    #[test]
    fn a_relu_stops_at_the_zero_point_and_a_large_sum_at_the_last_code() {
        let unit = qparams(1.0, 10);
        let sum = QAdd::new(unit, unit, unit, true).expect("good parameters");
        let (left, right) = (
            codes(&[-100, 100], &[2], unit),
            codes(&[0, 100], &[2], unit),
        );
        let y = sum.forward_definition(&left, &right).expect("fits");
        assert_eq!(y.as_slice(), [10, 127]);
    }

    #[test]
    fn the_fast_sum_has_the_codes_of_the_definition_for_every_pair() {
        // Ties (0.5), factors above and below one, and one so large that everything saturates.
        let parameters = [
            qparams(0.5, 1),
            qparams(0.013, -128),
            qparams(3.7, 127),
            qparams(1e30, 0),
        ];
        let all: Vec<i8> = (i8::MIN..=i8::MAX).collect();
        let left: Vec<i8> = all.iter().flat_map(|&code| [code; 256]).collect();
        let right: Vec<i8> = all.iter().cycle().copied().take(256 * 256).collect();
        for a in parameters {
            for b in parameters {
                for output in [qparams(1.0, -7), qparams(0.02, 127)] {
                    let sum = QAdd::new(a, b, output, false).expect("good parameters");
                    let mut fast = left.clone();
                    sum.add(&mut fast, &right).expect("good parameters");
                    let shape = [256, 256];
                    let y =
                        sum.forward_definition(&codes(&left, &shape, a), &codes(&right, &shape, b));
                    assert_eq!(y.expect("fits").as_slice(), fast, "{sum:?}");
                }
            }
        }
    }

    #[test]
    fn a_sum_is_within_half_a_step_of_the_real_one() {
        let (a, b, output) = (qparams(0.037, 5), qparams(0.0021, -90), qparams(0.05, 3));
        let sum = QAdd::new(a, b, output, false).expect("good parameters");
        for (left, right) in [(-128, 127), (17, -3), (100, 100), (-5, 126)] {
            let y = sum.forward_definition(&codes(&[left], &[1], a), &codes(&[right], &[1], b));
            let y = y.expect("fits").dequantize()[0];
            let real = 0.037 * (f64::from(left) - 5.0) + 0.0021 * (f64::from(right) + 90.0);
            // Half a step of the output; each of the two factors is off by 2^-24 of itself and so is each product and
            // the sum: 5 · 2^-24 of 255 steps is below 1e-4 steps.
            assert!(
                (f64::from(y) - real).abs() <= 0.05 * 0.5001,
                "{left} {right}"
            );
        }
    }

    #[test]
    fn joined_ways_are_written_alike() {
        let (fine, coarse) = (qparams(0.25, 0), qparams(0.5, 1));
        let joined = QConcat::new(vec![fine, coarse], coarse).expect("good parameters");
        let ways = [
            // 0.5, 0.75 (a tie: 1.5 steps, to the even 2), -1.0, 0.0
            codes(&[2, 3, -4, 0], &[2, 2], fine),
            codes(&[7, 8], &[2, 1], coarse),
        ];
        let y = joined.forward_definition(&ways).expect("fits");
        assert_eq!(y, codes(&[2, 3, 7, -1, 1, 8], &[2, 3], coarse));
        let mut fast = [2, 3, -4, 0];
        joined.rescale(0, &mut fast).expect("good parameters");
        assert_eq!(fast, [2, 3, -1, 1]);
        let uneven = [ways[0].clone(), codes(&[7], &[1, 1], coarse)];
        assert!(joined.forward_definition(&uneven).is_err());
    }

    #[test]
    fn factors_that_are_too_large_are_refused() {
        let error = QAdd::new(qparams(1e30, 0), qparams(1.0, 0), qparams(1e-30, 0), false);
        assert!(matches!(error, Err(Error::BadRescale { .. })), "{error:?}");
        assert!(QConcat::new(Vec::new(), qparams(1.0, 0)).is_err());
        assert!(QConcat::new(vec![qparams(f32::NAN, 0)], qparams(1.0, 0)).is_err());
    }
}
