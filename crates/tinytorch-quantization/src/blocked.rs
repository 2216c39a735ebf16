//! Blocks along any axis, as ONNX has them: to read what other tools wrote, and to check against.
//!
//! In: values or codes, and a pair of parameters for each block. Out: codes or values. The groups of this library lie in rows (N15), so that a
//! kernel reads the scale of a group once; these may lie across them, and no layer computes with them.
//!
//! Source: ONNX operators QuantizeLinear and DequantizeLinear, version 21 and later, attribute `block_size`.

use crate::dialect::Dialect;
use crate::error::{Error, Result};
use crate::scheme::{CodeRange, QParams};

/// Which values share a pair of parameters: `size` neighbours along `axis`, all other indices being the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocks {
    /// The axis along which neighbours share.
    pub axis: usize,
    /// How many do; the last block of an axis may have fewer.
    pub size: usize,
    /// Row-major, of the tensor's shape with `ceil(length / size)` in the place of the axis' length.
    pub qparams: Vec<QParams>,
}

impl Blocks {
    /// For each value of a tensor of this shape, row-major, the index of its pair; and the usability of every pair.
    fn places(
        &self,
        count: usize,
        shape: &[usize],
        codes: CodeRange,
    ) -> Result<impl Iterator<Item = QParams>> {
        let Self {
            axis,
            size,
            qparams,
        } = self;
        let mismatch = || Error::ShapeMismatch {
            operation: "blocks along an axis",
            expected: format!("a shape for {count} values"),
            got: shape.to_vec(),
        };
        let product = |all: usize, &length: &usize| all.checked_mul(length);
        if shape.iter().try_fold(1, product) != Some(count) {
            return Err(mismatch());
        }
        let Some(&length) = shape.get(*axis) else {
            return Err(Error::AxisOutOfRange {
                axis: *axis,
                dimensions: shape.len(),
            });
        };
        if *size == 0 {
            return Err(Error::BadGroupSize);
        }
        // Where there is no value at all, other lengths may be anything.
        let behind = shape[axis + 1..].iter();
        let inside = behind.fold(1, |all: usize, &length| all.saturating_mul(length));
        let blocks = length.div_ceil(*size);
        let groups = count / length.max(1) * blocks;
        if qparams.len() != groups {
            return Err(Error::GroupCount {
                size: *size,
                groups,
                got: qparams.len(),
            });
        }
        qparams.iter().try_for_each(|pair| pair.check(codes))?;
        let (each, size) = (length.saturating_mul(inside), *size);
        Ok((0..count).map(move |index| {
            let (front, along, behind) = (index / each, index % each / inside, index % inside);
            qparams[(front * blocks + along / size) * inside + behind]
        }))
    }
}

/// Writes values as codes of up to 16 bits, in blocks: QuantizeLinear. One code for each value.
///
/// | argument | meaning |
/// |---|---|
/// | `values` | real values of a tensor of this `shape`, row-major |
/// | `blocks` | a pair of parameters for each block |
/// | `codes` | the codes there are |
///
/// # Errors
///
/// [`Error::ShapeMismatch`] if the shape holds another number of values; [`Error::AxisOutOfRange`], [`Error::BadGroupSize`],
/// [`Error::GroupCount`]; [`Error::BadQParams`], [`Error::BadCodeRange`]; [`Error::NotFinite`] with the index.
pub fn quantize_linear_blocked(
    values: &[f32],
    shape: &[usize],
    blocks: &Blocks,
    codes: CodeRange,
) -> Result<Vec<i32>> {
    codes.check()?;
    let pairs = blocks.places(values.len(), shape, codes)?;
    crate::finite::check_finite(values)?;
    let mut written = Vec::with_capacity(values.len());
    for (value, pair) in values.iter().zip(pairs) {
        written.extend(Dialect::Onnx.quantize(std::slice::from_ref(value), pair, codes)?);
    }
    Ok(written)
}

/// Reads codes of up to 16 bits, in blocks, as the real values they stand for: DequantizeLinear. One value for each code:
/// `scale · (code − zero_point)`, the difference exact (N1).
///
/// | argument | meaning |
/// |---|---|
/// | `codes` | the codes of a tensor of this `shape`, row-major |
/// | `blocks` | a pair of parameters for each block |
/// | `range` | the codes there are |
///
/// # Errors
///
/// Those of [`quantize_linear_blocked`], with [`Error::CodeOutOfRange`] in the place of [`Error::NotFinite`].
pub fn dequantize_linear_blocked(
    codes: &[i32],
    shape: &[usize],
    blocks: &Blocks,
    range: CodeRange,
) -> Result<Vec<f32>> {
    range.check()?;
    let pairs = blocks.places(codes.len(), shape, range)?;
    if let Some(index) = codes.iter().position(|&code| !range.contains(code)) {
        let CodeRange { min, max } = range;
        return Err(Error::CodeOutOfRange { index, min, max });
    }
    let real = |(&code, QParams { scale, zero_point }): (&i32, QParams)| {
        scale * (code - zero_point) as f32
    };
    Ok(codes.iter().zip(pairs).map(real).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(axis: usize, size: usize, scales: &[f32]) -> Blocks {
        Blocks {
            axis,
            size,
            qparams: scales.iter().copied().map(QParams::symmetric).collect(),
        }
    }

    #[test]
    fn worked_example_blocks_of_two_down_the_columns() {
        // Three rows of two: the rows 0 and 1 share, row 2 is a block by itself, and each column has its own scales.
        let down = blocks(0, 2, &[1.0, 10.0, 2.0, 20.0]);
        let values = [3.0, 30.0, -4.0, 40.0, 6.0, -60.0];
        let codes = quantize_linear_blocked(&values, &[3, 2], &down, CodeRange::INT8);
        assert_eq!(codes, Ok(vec![3, 3, -4, 4, 3, -3]));
        let codes = codes.expect("as above");
        let back = dequantize_linear_blocked(&codes, &[3, 2], &down, CodeRange::INT8);
        assert_eq!(back, Ok(values.to_vec()));
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let write = |values: &[f32], shape: &[usize], blocks: &Blocks| {
            quantize_linear_blocked(values, shape, blocks, CodeRange::INT8)
        };
        let two = blocks(1, 2, &[1.0, 1.0]);
        assert_eq!(write(&[0.0; 4], &[1, 4], &two), Ok(vec![0; 4]));
        assert!(matches!(
            write(&[0.0; 4], &[2, 4], &two),
            Err(Error::ShapeMismatch { .. })
        ));
        let (axis, dimensions) = (1, 1);
        let no_axis = write(&[0.0; 4], &[4], &two);
        assert_eq!(no_axis, Err(Error::AxisOutOfRange { axis, dimensions }));
        let none = write(&[0.0; 4], &[1, 4], &blocks(1, 0, &[]));
        assert_eq!(none, Err(Error::BadGroupSize));
        let (size, groups, got) = (2, 3, 2);
        let more = write(&[0.0; 6], &[1, 6], &two);
        assert_eq!(more, Err(Error::GroupCount { size, groups, got }));
        let zero = write(&[0.0; 2], &[1, 2], &blocks(1, 2, &[0.0]));
        assert!(matches!(zero, Err(Error::BadQParams { .. })));
        let nan = write(&[0.0, f32::NAN], &[1, 2], &blocks(1, 2, &[1.0]));
        assert!(matches!(nan, Err(Error::NotFinite { .. })));
        assert_eq!(write(&[], &[0, 4], &blocks(1, 2, &[])), Ok(Vec::new()));
        let vast = [0, usize::MAX, usize::MAX];
        assert_eq!(write(&[], &vast, &blocks(0, 2, &[])), Ok(Vec::new()));
        let code = dequantize_linear_blocked(&[128], &[1], &blocks(0, 1, &[1.0]), CodeRange::INT8);
        assert!(matches!(code, Err(Error::CodeOutOfRange { index: 0, .. })));
    }
}
