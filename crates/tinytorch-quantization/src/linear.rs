//! The quantized linear layer: integers in, integers out.
//!
//! In: codes `[batch, in]`. Out: codes `[batch, out]`, ready for the next layer. All that was prepared beforehand:
//! weights as codes, the bias in the unit of the sums, one multiplier for each output.

use crate::error::{Error, Result};
use crate::finite::check_finite;
use crate::qtensor::QTensor;
use crate::requantize::multipliers;
use crate::scheme::{QParams, Scheme};

/// Writes a bias in steps of `input_scale · weight_scale[c]` (N10). **Exercise 15.8, second part**
///
/// # The maths
///
/// The accumulator counts in units of `s_x · s_w[c]`. A bias in the same unit is simply added to it:
///
/// ```text
/// bias_code[c] = round(bias[c] / (s_x · s_w[c]))       ties to even
/// ```
///
/// Computed in `f64`: a code of 32 bits may need more digits than an `f32` has, and the product of two `f32` is exact.
///
/// # Worked example
///
/// `s_x = 0.5`, weight scales `[0.25, 0.5]`, bias `[1, −0.375]`: the steps are 0.125 and 0.25, the codes `[8, −2]`. The
/// second is −1.5 steps, a tie, to the even −2.
///
/// # Errors
///
/// - [`Error::BiasOverflow`] with the channel if a code does not fit an `i32`.
/// - [`Error::NotFinite`] with the index of the first bias that is NaN or infinite.
/// - [`Error::ParameterCount`] if there are not as many scales as biases.
pub fn quantize_bias(bias: &[f32], input_scale: f32, weight_scales: &[f32]) -> Result<Vec<i32>> {
    check_finite(bias)?;
    if bias.len() != weight_scales.len() {
        return Err(Error::ParameterCount {
            axis: 0,
            channels: bias.len(),
            got: weight_scales.len(),
        });
    }
    // BEGIN SOLUTION 15.8b
    let code_of = |(channel, (&bias, &weight_scale)): (usize, (&f32, &f32))| {
        let step = f64::from(weight_scale) * f64::from(input_scale);
        let code = (f64::from(bias) / step).round_ties_even();
        if code >= f64::from(i32::MIN) && code <= f64::from(i32::MAX) {
            return Ok(code as i32);
        }
        Err(Error::BiasOverflow {
            channel,
            bias,
            scale: step as f32,
        })
    };
    bias.iter()
        .zip(weight_scales)
        .enumerate()
        .map(code_of)
        .collect()
    // END SOLUTION
}

/// A linear layer on codes: `y = x · weightᵀ + bias`, with a ReLU behind it if asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct QLinear {
    /// `[out, in]`, symmetric.
    weight: QTensor,
    /// `[out]`, in steps of `input.scale · weight scale`.
    bias: Vec<i32>,
    /// What the codes of the input mean.
    input: QParams,
    /// What the codes of the output mean.
    output: QParams,
    /// Whether negative outputs become 0.
    relu: bool,
}

impl QLinear {
    /// Quantizes a linear layer with real weights.
    ///
    /// | argument | shape | meaning |
    /// |---|---|---|
    /// | `weight` | `[out, in]` | real weights |
    /// | `bias` | `[out]` | real bias; zeros if there is none |
    /// | `weights` | | how to write the weights, usually [`Scheme::WEIGHTS`] |
    /// | `input`, `output` | | what the codes of input and output mean, from calibration |
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] with index and channel, and those of [`QLinear::from_parts`].
    pub fn quantize(
        weight: ndarray::ArrayViewD<'_, f32>,
        bias: &[f32],
        weights: Scheme,
        input: QParams,
        output: QParams,
        relu: bool,
    ) -> Result<Self> {
        let (weight, bias) = crate::layer::quantize_parts(weight, bias, weights, input.scale)?;
        Self::from_parts(weight, bias, input, output, relu)
    }

    /// Puts a layer together from its parts.
    ///
    /// # Errors
    ///
    /// - [`Error::ShapeMismatch`] if the weight is not `[out, in]` with at least one of each, or the bias not `[out]`.
    /// - [`Error::Unsupported`] if the weight is not symmetric, or its channels do not lie along axis 0.
    /// - [`Error::AccumulatorOverflow`] with the channel if weights and bias could overflow the accumulator (N11).
    /// - [`Error::BadMultiplier`], [`Error::BadQParams`].
    pub fn from_parts(
        weight: QTensor,
        bias: Vec<i32>,
        input: QParams,
        output: QParams,
        relu: bool,
    ) -> Result<Self> {
        if weight.shape().len() != 2 {
            return Err(Error::ShapeMismatch {
                operation: "QLinear",
                expected: "a weight [out, in]".to_owned(),
                got: weight.shape().to_vec(),
            });
        }
        crate::layer::check_parts(&weight, &bias, input, output)?;
        Ok(Self {
            weight,
            bias,
            input,
            output,
            relu,
        })
    }

    /// Computes the layer by its definition. **Exercise 15.8, third part**
    ///
    /// | argument | shape | meaning |
    /// |---|---|---|
    /// | `x` | `[batch, in]` | codes with the layer's input parameters |
    /// | result | `[batch, out]` | codes with the layer's output parameters |
    ///
    /// # The maths
    ///
    /// ```text
    /// accumulator = gemm_i8(x, weight) + bias                   exact, in i32
    /// y           = requantize(accumulator, multipliers)        codes of the output
    /// ```
    ///
    /// A ReLU needs no step of its own. Real 0 is the code `zero_point`, so raising the lower bound of the codes to
    /// the output's zero point makes every negative output 0.
    ///
    /// The pieces are all there: [`gemm_i8`](crate::gemm_i8), [`requantize`](crate::requantize()),
    /// [`QLinear::multipliers`], [`QTensor::new`] with [`CodeRange::INT8`](crate::CodeRange::INT8).
    ///
    /// # Worked example
    ///
    /// Input scale 0.5 and zero point 1, weight `[[2, −1]]` with scale 0.25, bias 4, output scale 0.25 and zero
    /// point −3. For `x = [5, 3]`: the accumulator is `(5−1)·2 + (3−1)·(−1) + 4 = 10`, the multiplier
    /// `0.5 · 0.25 / 0.25 = 0.5`, the code `5 − 3 = 2`. In real numbers: `2 · 0.5 − 1 · 0.25 + 0.5 = 1.25`, and code
    /// 2 reads back as `0.25 · (2 + 3) = 1.25`.
    ///
    /// # Errors
    ///
    /// - [`Error::ShapeMismatch`] if `x` is not `[batch, in]`.
    /// - [`Error::OtherQParams`] if its codes do not mean what this layer's input means.
    pub fn forward_definition(&self, x: &QTensor) -> Result<QTensor> {
        let (batch, outputs, inputs) = self.check_input(x)?;
        // BEGIN SOLUTION 15.8c
        let dims = crate::Dims {
            m: batch,
            n: outputs,
            k: inputs,
        };
        let mut sums = vec![0; batch * outputs];
        let zero_point = self.input.zero_point;
        crate::gemm_i8(
            dims,
            x.as_slice(),
            zero_point,
            self.weight.as_slice(),
            0,
            &mut sums,
        );
        for (sum, bias) in sums.iter_mut().zip(self.bias.iter().cycle()) {
            *sum += bias;
        }
        let int8 = crate::CodeRange::INT8;
        let zero = self.output.zero_point;
        let range = crate::CodeRange {
            min: if self.relu { zero } else { int8.min },
            ..int8
        };
        let y = crate::requantize(&sums, &self.multipliers()?, zero, range);
        let meaning = crate::qtensor::Parameters::PerTensor(self.output);
        QTensor::new(y, &[batch, outputs], meaning, int8)
        // END SOLUTION
    }

    /// How many bytes the layer holds. **Exercise 15.8, fourth part**
    ///
    /// | what | bytes |
    /// |---|---|
    /// | weight | 1 for each code, and `size_of::<QParams>()`, which is 8, for each pair of parameters |
    /// | bias | 4 for each output |
    /// | input, output | one pair of parameters each |
    /// | ReLU | 1 |
    ///
    /// # Worked example
    ///
    /// 784 inputs, 128 outputs, a pair for each output: `100,352 + 128·8 + 128·4 + 2·8 + 1 = 101,905` bytes. In `f32`
    /// it is `(100,352 + 128)·4 = 401,920`: 0.254 of it are left, and not quite a quarter.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        // BEGIN SOLUTION 15.8d
        let weight = self.weight.memory_bytes();
        let bias = self.bias.len() * size_of::<i32>();
        let ends = 2 * size_of::<QParams>();
        weight + bias + ends + size_of::<bool>()
        // END SOLUTION
    }
}

impl QLinear {
    /// The factor from accumulator to output, for each output. Shape `[out]`.
    ///
    /// # Errors
    ///
    /// None for a layer that was put together: the multipliers were checked then.
    pub fn multipliers(&self) -> Result<Vec<f32>> {
        multipliers(
            self.input.scale,
            &self.weight.row_scales(),
            self.output.scale,
        )
    }

    /// The weight, `[out, in]`.
    #[must_use]
    pub fn weight(&self) -> &QTensor {
        &self.weight
    }

    /// The bias, `[out]`, in steps of `input.scale · weight scale`.
    #[must_use]
    pub fn bias(&self) -> &[i32] {
        &self.bias
    }

    /// What the codes of the input mean.
    #[must_use]
    pub fn input(&self) -> QParams {
        self.input
    }

    /// What the codes of the output mean.
    #[must_use]
    pub fn output(&self) -> QParams {
        self.output
    }

    /// Whether a ReLU is fused into the layer.
    #[must_use]
    pub fn has_relu(&self) -> bool {
        self.relu
    }

    /// `(batch, out, in)`, if `x` is an input for this layer.
    fn check_input(&self, x: &QTensor) -> Result<(usize, usize, usize)> {
        let (outputs, inputs) = (self.weight.shape()[0], self.weight.shape()[1]);
        let batch = match *x.shape() {
            [batch, got] if got == inputs => batch,
            _ => {
                return Err(Error::ShapeMismatch {
                    operation: "QLinear",
                    expected: format!("[batch, {inputs}]"),
                    got: x.shape().to_vec(),
                });
            }
        };
        if x.qparams() != Some(self.input) {
            return Err(Error::OtherQParams {
                expected: self.input,
                got: x.qparams(),
            });
        }
        Ok((batch, outputs, inputs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qtensor::Parameters;
    use crate::scheme::CodeRange;

    fn codes(codes: &[i8], shape: &[usize], qparams: QParams) -> QTensor {
        let meaning = Parameters::PerTensor(qparams);
        QTensor::new(codes.to_vec(), shape, meaning, CodeRange::INT8).expect("good codes")
    }

    const INPUT: QParams = QParams {
        scale: 0.5,
        zero_point: 1,
    };
    const OUTPUT: QParams = QParams {
        scale: 0.25,
        zero_point: -3,
    };

    fn example(relu: bool) -> QLinear {
        let weight = codes(&[2, -1], &[1, 2], QParams::symmetric(0.25));
        QLinear::from_parts(weight, vec![4], INPUT, OUTPUT, relu).expect("good parts")
    }

    #[test]
    fn worked_example_bias() {
        assert_eq!(
            quantize_bias(&[1.0, -0.375], 0.5, &[0.25, 0.5]),
            Ok(vec![8, -2])
        );
    }

    #[test]
    fn a_bias_of_more_than_32_bits_is_an_error() {
        assert!(quantize_bias(&[1.0], 1e-5, &[1e-5]).is_err());
        assert_eq!(
            quantize_bias(&[i32::MIN as f32], 1.0, &[1.0]),
            Ok(vec![i32::MIN])
        );
    }

    #[test]
    fn worked_example_forward() {
        let y = example(false).forward_definition(&codes(&[5, 3], &[1, 2], INPUT));
        assert_eq!(y, Ok(codes(&[2], &[1, 1], OUTPUT)));
    }

    #[test]
    fn a_fused_relu_stops_at_the_code_of_zero() {
        // Sums −3·2 + 4 = −2 and 6·2 + 4 = 16, rescaled to −1 and 8, at zero point −3.
        let x = codes(&[-2, 1, 7, 1], &[2, 2], INPUT);
        let of = |relu| example(relu).forward_definition(&x).expect("good input");
        assert_eq!(of(false).as_slice(), [-4, 5]);
        assert_eq!(of(true).as_slice(), [-3, 5]);
    }

    #[test]
    fn worked_example_memory() {
        let weight = ndarray::ArrayD::from_elem(vec![128, 784], 0.5);
        let layer = QLinear::quantize(
            weight.view(),
            &[0.1; 128],
            Scheme::WEIGHTS,
            INPUT,
            OUTPUT,
            false,
        );
        assert_eq!(layer.expect("good values").memory_bytes(), 101_905);
    }

    #[test]
    fn an_input_that_means_something_else_is_refused() {
        let other = codes(&[5, 3], &[1, 2], OUTPUT);
        assert!(example(false).forward_definition(&other).is_err());
        let long = codes(&[5, 3, 1], &[1, 3], INPUT);
        assert!(example(false).forward_definition(&long).is_err());
    }
}
