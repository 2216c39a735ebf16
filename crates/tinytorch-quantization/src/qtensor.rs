//! Codes in a shape, together with what they mean.
//!
//! In: real values, or codes from elsewhere. Out: one byte for each value and a few parameters beside them. This is
//! what weights are stored in and what flows between quantized layers.

use ndarray::{ArrayD, ArrayViewD, Axis, IxDyn};

use crate::error::{Error, Result};
use crate::finite::{check_finite, check_finite_channels};
use crate::per_channel::quantize_per_channel;
use crate::quantize::{dequantize, quantize};
use crate::scheme::{CodeRange, QParams, Scheme};

pub use crate::parameters::Parameters;

/// A tensor of `i8` codes.
///
/// The codes are contiguous, in row-major order, and all within the code range; the parameters fit the shape. That
/// is checked once, when the tensor is made.
#[derive(Clone, Debug, PartialEq)]
pub struct QTensor {
    codes: ArrayD<i8>,
    parameters: Parameters,
    range: CodeRange,
}

impl QTensor {
    /// Puts codes, in row-major order, into a shape and says what they mean.
    ///
    /// # Errors
    ///
    /// - [`Error::ShapeMismatch`] if the shape holds another number of codes.
    /// - [`Error::CodeOutOfRange`] if a code is not in `range`.
    /// - [`Error::BadCodeRange`] and those of [`Parameters::check`] if the parameters cannot be used.
    pub fn new(
        codes: Vec<i8>,
        shape: &[usize],
        parameters: Parameters,
        range: CodeRange,
    ) -> Result<Self> {
        let count = codes.len();
        let codes =
            ArrayD::from_shape_vec(IxDyn(shape), codes).map_err(|_| Error::ShapeMismatch {
                operation: "QTensor::new",
                expected: format!("a shape for {count} codes"),
                got: shape.to_vec(),
            })?;
        Self::from_array(codes, parameters, range)
    }

    /// Takes codes without a sign, as ONNX likes its activations: codes and zero points are shifted by 128, so that they mean what they
    /// meant (N9). In row-major order, any shape.
    ///
    /// # Errors
    ///
    /// Those of [`QTensor::new`]; the zero points must be in `0..=255`.
    pub fn from_unsigned(codes: &[u8], shape: &[usize], parameters: Parameters) -> Result<Self> {
        let pairs = parameters.pairs().iter();
        pairs
            .copied()
            .try_for_each(|pair| pair.check(CodeRange::UINT8))?;
        let parameters = parameters.map(|pair| QParams {
            zero_point: pair.zero_point - 128,
            ..*pair
        });
        // Flipping the top bit is the shift by 128.
        let codes = codes
            .iter()
            .map(|&code| (code ^ 0x80).cast_signed())
            .collect();
        Self::new(codes, shape, parameters, CodeRange::INT8)
    }

    fn from_array(codes: ArrayD<i8>, parameters: Parameters, range: CodeRange) -> Result<Self> {
        range.check_i8()?;
        parameters.check(codes.shape(), range)?;
        let outside = codes.iter().position(|&code| !range.contains(code.into()));
        if let Some(index) = outside {
            return Err(Error::CodeOutOfRange {
                index,
                min: range.min,
                max: range.max,
            });
        }
        Ok(Self {
            codes,
            parameters,
            range,
        })
    }

    /// Finds the parameters that `scheme` asks for in the values themselves, and writes the values with them. Any shape,
    /// which stays.
    ///
    /// # Errors
    ///
    /// Those of [`Parameters::choose`]; [`Error::BadCodeRange`] if a code does not fit an `i8`. (For codes without a sign
    /// there is [`PackedTensor`](crate::PackedTensor).)
    pub fn quantize(values: ArrayViewD<'_, f32>, scheme: Scheme) -> Result<Self> {
        scheme.codes.check_i8()?;
        let parameters = Parameters::choose(values.view(), scheme)?;
        Self::quantize_as(values, parameters, scheme.codes)
    }

    /// Writes the values with these parameters, whatever their granularity. Any shape that the parameters fit; it stays.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] with index and, unless per tensor, the channel (per group: the row); [`Error::BadCodeRange`]; those of
    /// [`Parameters::check`].
    pub fn quantize_as(
        values: ArrayViewD<'_, f32>,
        parameters: Parameters,
        codes: CodeRange,
    ) -> Result<Self> {
        codes.check_i8()?;
        parameters.check(values.shape(), codes)?;
        match parameters {
            Parameters::PerTensor(qparams) => Self::quantize_with(values, qparams, codes),
            Parameters::PerChannel { axis, qparams } => {
                Self::quantize_per_channel(values, axis, qparams, codes)
            }
            Parameters::PerGroup { .. } => {
                if values.ndim() < 2 {
                    check_finite(values.as_standard_layout().as_slice().unwrap_or_default())?;
                } else {
                    check_finite_channels(&values, 0)?;
                }
                let values = values.as_standard_layout();
                let slice = values.as_slice().unwrap_or_default();
                let mut written = Vec::with_capacity(slice.len());
                for (range, pair) in parameters.runs(values.shape()) {
                    written.extend(quantize(&slice[range], pair, codes)?);
                }
                Self::new(written, values.shape(), parameters, codes)
            }
        }
    }

    /// Writes the values with parameters that are known already, from calibration for instance. Any shape, which stays.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`], [`Error::BadQParams`], [`Error::BadCodeRange`].
    pub fn quantize_with(
        values: ArrayViewD<'_, f32>,
        qparams: QParams,
        codes: CodeRange,
    ) -> Result<Self> {
        let values = values.as_standard_layout();
        let written = quantize(values.as_slice().unwrap_or_default(), qparams, codes)?;
        Self::new(
            written,
            values.shape(),
            Parameters::PerTensor(qparams),
            codes,
        )
    }

    /// Writes every channel along `axis` with its own parameters. Any shape with that axis; `qparams` is as long as the
    /// axis.
    ///
    /// # Errors
    ///
    /// Those of [`quantize_per_channel`].
    pub fn quantize_per_channel(
        values: ArrayViewD<'_, f32>,
        axis: usize,
        qparams: Vec<QParams>,
        codes: CodeRange,
    ) -> Result<Self> {
        let written = quantize_per_channel(values, axis, &qparams, codes)?;
        let shape = written.shape().to_vec();
        // In row-major order, whatever the layout of the values was.
        let written = written.iter().copied().collect();
        Self::new(
            written,
            &shape,
            Parameters::PerChannel { axis, qparams },
            codes,
        )
    }

    /// The real values that the codes stand for. In the shape of the codes.
    #[must_use]
    pub fn dequantize(&self) -> ArrayD<f32> {
        let mut values = ArrayD::zeros(self.codes.raw_dim());
        match &self.parameters {
            Parameters::PerTensor(qparams) => {
                let read = dequantize(self.as_slice(), *qparams);
                for (value, new) in values.iter_mut().zip(read) {
                    *value = new;
                }
            }
            Parameters::PerGroup { .. } => {
                let codes = self.as_slice();
                let read = self.parameters.runs(self.shape());
                let read = read.flat_map(|(range, pair)| dequantize(&codes[range], pair));
                for (value, new) in values.iter_mut().zip(read) {
                    *value = new;
                }
            }
            Parameters::PerChannel { axis, qparams } => {
                for (channel, &pair) in qparams.iter().enumerate() {
                    let codes = self.codes.index_axis(Axis(*axis), channel);
                    let codes: Vec<i8> = codes.iter().copied().collect();
                    let mut target = values.index_axis_mut(Axis(*axis), channel);
                    for (value, new) in target.iter_mut().zip(dequantize(&codes, pair)) {
                        *value = new;
                    }
                }
            }
        }
        values
    }

    /// The codes, in row-major order. One for each place of the shape.
    #[must_use]
    pub fn as_slice(&self) -> &[i8] {
        self.codes.as_slice().unwrap_or_default()
    }

    /// The codes in their shape.
    #[must_use]
    pub fn codes(&self) -> ArrayViewD<'_, i8> {
        self.codes.view()
    }

    /// The length of each axis.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        self.codes.shape()
    }

    /// What the codes mean.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The pair that all codes share; `None` if every channel or group has its own.
    #[must_use]
    pub fn qparams(&self) -> Option<QParams> {
        match &self.parameters {
            Parameters::PerTensor(qparams) => Some(*qparams),
            Parameters::PerChannel { .. } | Parameters::PerGroup { .. } => None,
        }
    }

    /// One scale for every index along axis 0, also when they share one. Per group, all scales: those of the first row, then
    /// those of the second, and so on. Shape `[rows]`, or `[rows · groups of a row]` per group.
    #[must_use]
    pub fn row_scales(&self) -> Vec<f32> {
        match &self.parameters {
            Parameters::PerTensor(qparams) => {
                vec![qparams.scale; self.shape().first().copied().unwrap_or(1)]
            }
            Parameters::PerChannel { qparams, .. } | Parameters::PerGroup { qparams, .. } => {
                qparams.iter().map(|pair| pair.scale).collect()
            }
        }
    }

    /// Which codes may occur.
    #[must_use]
    pub fn range(&self) -> CodeRange {
        self.range
    }

    /// The bytes held: one for each code and eight for each pair of parameters.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.codes.len() * size_of::<i8>() + size_of_val(self.parameters.pairs())
    }

    /// The same codes in another shape. Channels and groups must stay where they are, so only the shape of
    /// codes that share one pair can change.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`], [`Error::Unsupported`].
    pub fn reshape(self, shape: &[usize]) -> Result<Self> {
        if self.qparams().is_none() {
            return Err(Error::Unsupported {
                what: "another shape for codes with parameters per channel or group",
            });
        }
        let Self {
            codes,
            parameters,
            range,
        } = self;
        let expected = format!("a shape for {} codes", codes.len());
        let codes =
            codes
                .into_shape_with_order(IxDyn(shape))
                .map_err(|_| Error::ShapeMismatch {
                    operation: "QTensor::reshape",
                    expected,
                    got: shape.to_vec(),
                })?;
        Ok(Self {
            codes,
            parameters,
            range,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::arr2;

    #[test]
    fn weights_are_one_byte_each_and_read_back_close() {
        let values = arr2(&[[0.5, -1.27], [40.0, 127.0]]).into_dyn();
        let tensor = QTensor::quantize(values.view(), Scheme::WEIGHTS).expect("good values");
        assert_eq!(tensor.as_slice(), [50, -127, 40, 127]);
        assert_eq!(tensor.memory_bytes(), 4 + 2 * 8);
        assert_eq!(tensor.row_scales(), [1.27 / 127.0, 1.0]);
        let back = tensor.dequantize();
        assert!(values.iter().zip(&back).all(|(x, y)| (x - y).abs() <= 1e-6));
    }

    #[test]
    fn a_transposed_view_is_written_in_its_own_order() {
        let values = arr2(&[[1.0_f32, 2.0, 3.0], [4.0, 5.0, 6.0]]).into_dyn();
        let transposed = values.t();
        let unit = QParams::symmetric(1.0);
        let tensor = QTensor::quantize_with(transposed, unit, CodeRange::INT8).expect("good");
        assert_eq!(tensor.as_slice(), [1, 4, 2, 5, 3, 6]);
        let qparams = vec![unit; 3];
        let tensor = QTensor::quantize_per_channel(values.t(), 0, qparams, CodeRange::INT8);
        assert_eq!(tensor.expect("good").as_slice(), [1, 4, 2, 5, 3, 6]);
    }

    #[test]
    fn codes_from_elsewhere_are_checked() {
        let unit = Parameters::PerTensor(QParams::symmetric(1.0));
        let narrow = CodeRange::INT8_NARROW;
        assert_eq!(
            QTensor::new(vec![0, -128], &[2], unit.clone(), narrow),
            Err(Error::CodeOutOfRange {
                index: 1,
                min: -127,
                max: 127
            })
        );
        assert!(QTensor::new(vec![0, 1], &[3], unit, narrow).is_err());
        let channels = Parameters::PerChannel {
            axis: 1,
            qparams: vec![QParams::symmetric(1.0)],
        };
        assert!(QTensor::new(vec![0, 1], &[2], channels, narrow).is_err());
    }

    #[test]
    fn no_values_are_no_codes() {
        let empty = ArrayD::<f32>::zeros(vec![0, 3]);
        for scheme in [Scheme::WEIGHTS, Scheme::ACTIVATIONS] {
            let tensor = QTensor::quantize(empty.view(), scheme).expect("nothing is wrong");
            assert_eq!(tensor.shape(), [0, 3]);
            assert_eq!(tensor.dequantize(), empty);
        }
    }
}
