//! The quantized embedding: a table of codes.
//!
//! In: indices, as real numbers. Out: codes, the rows of the table as they are. Nothing is computed and nothing is lost but
//! what was lost when the table was written.

use ndarray::ArrayViewD;

use crate::error::{Error, Result};
use crate::finite::check_finite;
use crate::framework::Tensor;
use crate::framework::nn::indices;
use crate::parameters::pair_for;
use crate::qtensor::{Parameters, QTensor};
use crate::scheme::{CodeRange, QParams, Symmetry, ValueRange};

/// A table whose rows are the codes of activations: one pair of parameters for all, which is that of the output.
///
/// Source: TensorFlow, `lite/g3doc/performance/quantization_spec.md`, GATHER: input and output have the same parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct QEmbedding {
    table: QTensor,
    output: QParams,
}

impl QEmbedding {
    /// The parameters that a table of real numbers asks for: its range over the 256 codes. `weight` is `[count, width]`.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] with the index, [`Error::BadRange`].
    pub fn qparams(weight: ArrayViewD<'_, f32>) -> Result<QParams> {
        Self::qparams_as(weight, Symmetry::Asymmetric)
    }

    /// The same for activations that are symmetric, or not. `weight` is `[count, width]`.
    pub(crate) fn qparams_as(weight: ArrayViewD<'_, f32>, symmetry: Symmetry) -> Result<QParams> {
        let weight = weight.as_standard_layout();
        let values = weight.as_slice().unwrap_or_default();
        check_finite(values)?;
        let range = values
            .iter()
            .fold(ValueRange { min: 0.0, max: 0.0 }, |range, &x| ValueRange {
                min: range.min.min(x),
                max: range.max.max(x),
            });
        pair_for(range, symmetry, CodeRange::INT8)
    }

    /// Writes a table `[count, width]` of real numbers as codes that mean `output`.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] with the index, [`Error::BadQParams`], [`Error::ShapeMismatch`].
    pub fn quantize(weight: ArrayViewD<'_, f32>, output: QParams) -> Result<Self> {
        Self::from_parts(QTensor::quantize_with(weight, output, CodeRange::INT8)?)
    }

    /// An embedding of this table, `[count, width]`, one pair of parameters for all.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`], [`Error::BadQParams`]; [`Error::Unsupported`] if every channel has parameters of its own.
    pub fn from_parts(table: QTensor) -> Result<Self> {
        if table.shape().len() != 2 {
            return Err(Error::ShapeMismatch {
                operation: "QEmbedding",
                expected: "a table [count, width]".to_owned(),
                got: table.shape().to_vec(),
            });
        }
        let output = table.qparams().ok_or(Error::Unsupported {
            what: "a table of activations with parameters per channel",
        })?;
        output.check(CodeRange::INT8)?;
        table.range().check_i8()?;
        Ok(Self { table, output })
    }

    /// The table, `[count, width]`.
    #[must_use]
    pub fn table(&self) -> &QTensor {
        &self.table
    }

    /// What the codes of the output mean, which is what those of the table mean.
    #[must_use]
    pub fn output(&self) -> QParams {
        self.output
    }

    /// Looks up the rows.
    ///
    /// | argument | shape | meaning |
    /// |---|---|---|
    /// | `x` | `[..]` | indices, whole numbers |
    /// | result | `[.., width]` | codes |
    ///
    /// # Errors
    ///
    /// [`Error::Framework`] with the place if a value is not the number of a row.
    pub fn forward_definition(&self, x: &Tensor) -> Result<QTensor> {
        let (codes, shape) = self.rows(x)?;
        let meaning = Parameters::PerTensor(self.output);
        QTensor::new(codes, &shape, meaning, CodeRange::INT8)
    }

    /// The codes of the rows and the shape they have.
    pub(crate) fn rows(&self, x: &Tensor) -> Result<(Vec<i8>, Vec<usize>)> {
        let &[count, width] = self.table.shape() else {
            unreachable!("checked when the table was made");
        };
        let rows = indices(x, count)?;
        let table = self.table.as_slice();
        let mut codes = Vec::with_capacity(rows.len() * width);
        for row in rows {
            codes.extend_from_slice(&table[row * width..][..width]);
        }
        Ok((codes, [x.shape(), &[width]].concat()))
    }

    /// The bytes held.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.table.memory_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::arr2;

    #[test]
    fn rows_come_back_within_half_a_step() {
        let weight = arr2(&[[-1.0_f32, 0.0], [0.25, 1.55]]).into_dyn();
        let output = QEmbedding::qparams(weight.view()).expect("finite");
        assert_eq!((output.scale, output.zero_point), (2.55 / 255.0, -28));
        let layer = QEmbedding::quantize(weight.view(), output).expect("finite");
        let x = Tensor::new(vec![1.0, 0.0, 1.0], &[3]).expect("three");
        let y = layer.forward_definition(&x).expect("rows");
        assert_eq!(y.shape(), [3, 2]);
        assert_eq!(y.as_slice(), [-3, 127, -128, -28, -3, 127]);
        assert_eq!(layer.memory_bytes(), 4 + 8);
        let beyond = Tensor::new(vec![2.0], &[1]).expect("one");
        assert!(layer.forward_definition(&beyond).is_err());
    }

    #[test]
    fn bad_tables_are_refused() {
        let weight = arr2(&[[f32::NAN]]).into_dyn();
        assert!(QEmbedding::qparams(weight.view()).is_err());
        let flat = QTensor::new(
            vec![0],
            &[1],
            Parameters::PerTensor(QParams::symmetric(1.0)),
            CodeRange::INT8,
        );
        assert!(QEmbedding::from_parts(flat.expect("good")).is_err());
    }
}
