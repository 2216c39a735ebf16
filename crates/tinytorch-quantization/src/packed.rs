//! Codes in as few bytes as they need: two to a byte if four bits are enough.
//!
//! In: values and a [`Scheme`], or codes from elsewhere. Out: a [`PackedTensor`], the form in which weights of four bits are held
//! and saved. A nibble is half a byte. The first code lies in the lower half, and an odd count leaves the upper half of
//! the last byte 0, as in ONNX's INT4 and UINT4 (N16):
//!
//! ```text
//! codes  1  -2   7            byte 0: 0xE1   (-2 is 0xE in two's complement)   byte 1: 0x07
//! ```

use ndarray::ArrayViewD;

use crate::error::{Error, Result};
use crate::parameters::Parameters;
use crate::qtensor::QTensor;
use crate::scheme::{CodeRange, Granularity, QParams, Scheme};

/// Packs codes two to a byte; of each only the lower four bits are kept, which for `-8..=7` and `0..=15` lose nothing.
///
/// `[1, -2, 7]` becomes `[0xE1, 0x07]`.
#[must_use]
pub fn pack_nibbles(codes: &[i8]) -> Vec<u8> {
    let low = |code: i8| code as u8 & 0x0F;
    let pair = |pair: &[i8]| low(pair[0]) | pair.get(1).map_or(0, |&code| low(code) << 4);
    codes.chunks(2).map(pair).collect()
}

/// Reads `count` codes `-8..=7` that [`pack_nibbles`] wrote. Shape `[count]`.
///
/// # Panics
///
/// If `bytes` is not `count / 2` long, rounded up.
#[must_use]
#[track_caller]
pub fn unpack_i4(bytes: &[u8], count: usize) -> Vec<i8> {
    // Shifted to the top and back, the sign bit of four becomes that of eight.
    let signed = |nibble: u8| (nibble << 4) as i8 >> 4;
    nibbles(bytes, count).map(signed).collect()
}

/// Reads `count` codes `0..=15` that [`pack_nibbles`] wrote. Shape `[count]`.
///
/// # Panics
///
/// If `bytes` is not `count / 2` long, rounded up.
#[must_use]
#[track_caller]
pub fn unpack_u4(bytes: &[u8], count: usize) -> Vec<u8> {
    nibbles(bytes, count).collect()
}

#[track_caller]
fn nibbles(bytes: &[u8], count: usize) -> impl Iterator<Item = u8> {
    assert_eq!(bytes.len(), count.div_ceil(2), "two codes to a byte");
    let both = bytes.iter().flat_map(|&byte| [byte & 0x0F, byte >> 4]);
    both.take(count)
}

/// How a code is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CodeType {
    /// Four bits with a sign, two to a byte.
    I4,
    /// Four bits without a sign, two to a byte.
    U4,
    /// A byte with a sign.
    I8,
    /// A byte without a sign.
    U8,
}

impl CodeType {
    /// The smallest that holds all of `codes`. Two and three bits take four: there is no narrower type.
    ///
    /// # Errors
    ///
    /// [`Error::BadCodeRange`] if a byte cannot hold them.
    pub fn for_codes(codes: CodeRange) -> Result<Self> {
        codes.check()?;
        let types = [Self::I4, Self::U4, Self::I8, Self::U8];
        let fits = |of: &Self| codes.is_within(of.range());
        types.into_iter().find(fits).ok_or(Error::BadCodeRange {
            min: codes.min,
            max: codes.max,
            why: "do not fit a byte",
        })
    }

    /// All that it can hold.
    #[must_use]
    pub const fn range(self) -> CodeRange {
        match self {
            Self::I4 => CodeRange::INT4,
            Self::U4 => CodeRange::UINT4,
            Self::I8 => CodeRange::INT8,
            Self::U8 => CodeRange::UINT8,
        }
    }

    /// How many bytes `count` codes take.
    #[must_use]
    pub const fn bytes(self, count: usize) -> usize {
        match self {
            Self::I4 | Self::U4 => count.div_ceil(2),
            Self::I8 | Self::U8 => count,
        }
    }

    /// The code at `index`.
    pub(crate) fn read(self, bytes: &[u8], index: usize) -> i32 {
        match self {
            Self::I8 => i32::from(bytes[index] as i8),
            Self::U8 => i32::from(bytes[index]),
            Self::I4 | Self::U4 => {
                let nibble = bytes[index / 2] >> (index % 2 * 4) & 0x0F;
                if self == Self::I4 {
                    i32::from((nibble << 4) as i8 >> 4)
                } else {
                    i32::from(nibble)
                }
            }
        }
    }

    /// Codes moved by −128 if a sign would not leave them room in an `i8`: N9 says that this changes nothing else.
    const fn shift(self) -> i32 {
        match self {
            Self::U8 => 128,
            _ => 0,
        }
    }
}

/// A tensor of codes held in as few bytes as their range needs, with as few bytes for its parameters.
///
/// It is for storage, and for products that read the codes as they go; [`QTensor`] has a byte for each code and is what integer
/// layers compute with.
#[derive(Clone, Debug, PartialEq)]
pub struct PackedTensor {
    pub(crate) code_type: CodeType,
    pub(crate) bytes: Vec<u8>,
    pub(crate) shape: Vec<usize>,
    pub(crate) granularity: Granularity,
    pub(crate) scales: Vec<f32>,
    /// Codes like the others, as many as scales; none if all are 0.
    zero_points: Vec<u8>,
    range: CodeRange,
}

impl PackedTensor {
    /// Finds the parameters that `scheme` asks for in the values themselves, and packs the codes. Any shape, which stays.
    ///
    /// # Errors
    ///
    /// Those of [`Parameters::choose`]; [`Error::BadCodeRange`] if a byte cannot hold the codes.
    pub fn quantize(values: ArrayViewD<'_, f32>, scheme: Scheme) -> Result<Self> {
        CodeType::for_codes(scheme.codes)?;
        let parameters = Parameters::choose(values.view(), scheme)?;
        Self::quantize_as(values, parameters, scheme.codes)
    }

    /// Writes the values with these parameters, and packs the codes. Any shape that the parameters fit; it stays.
    ///
    /// # Errors
    ///
    /// Those of [`QTensor::quantize_as`]; [`Error::BadCodeRange`] if a byte cannot hold the codes.
    pub fn quantize_as(
        values: ArrayViewD<'_, f32>,
        parameters: Parameters,
        codes: CodeRange,
    ) -> Result<Self> {
        let code_type = CodeType::for_codes(codes)?;
        parameters.check(values.shape(), codes)?;
        let shift = code_type.shift();
        let signed = QTensor::quantize_as(values, moved(&parameters, -shift), by(codes, -shift))?;
        Self::of(&signed, shift)
    }

    /// Packs codes that are a byte each. The shape stays.
    ///
    /// # Errors
    ///
    /// None for a `QTensor` as it should be; the type says so because its parts are checked again.
    pub fn pack(tensor: &QTensor) -> Result<Self> {
        Self::of(tensor, 0)
    }

    /// Packs the codes of `tensor` moved up by `shift`.
    fn of(tensor: &QTensor, shift: i32) -> Result<Self> {
        let range = by(tensor.range(), shift);
        let code_type = CodeType::for_codes(range)?;
        let codes = tensor.as_slice();
        let bytes = match code_type {
            CodeType::I4 | CodeType::U4 => pack_nibbles(codes),
            CodeType::I8 | CodeType::U8 => {
                let moved = codes.iter().map(|&code| (i32::from(code) + shift) as u8);
                moved.collect()
            }
        };
        let parameters = moved(tensor.parameters(), shift);
        Self::new(bytes, tensor.shape(), &parameters, range)
    }

    /// Puts packed codes, in row-major order, into a shape and says what they mean: `range` decides how they are packed, see
    /// [`CodeType::for_codes`].
    ///
    /// # Errors
    ///
    /// - [`Error::ShapeMismatch`] if the shape needs another number of bytes, or a half of the last byte that is not in use is
    ///   not 0.
    /// - [`Error::CodeOutOfRange`] if a code is not in `range`.
    /// - [`Error::BadCodeRange`], and those of [`Parameters::check`].
    pub fn new(
        bytes: Vec<u8>,
        shape: &[usize],
        parameters: &Parameters,
        range: CodeRange,
    ) -> Result<Self> {
        let code_type = CodeType::for_codes(range)?;
        let mismatch = |expected: String| Error::ShapeMismatch {
            operation: "PackedTensor::new",
            expected,
            got: shape.to_vec(),
        };
        let count = shape
            .iter()
            .try_fold(1_usize, |count, &size| count.checked_mul(size))
            .filter(|&count| code_type.bytes(count) == bytes.len())
            .ok_or_else(|| mismatch(format!("a shape for {} packed bytes", bytes.len())))?;
        let is_nibble = matches!(code_type, CodeType::I4 | CodeType::U4);
        if is_nibble && count % 2 == 1 && bytes.last().is_some_and(|byte| byte >> 4 != 0) {
            return Err(mismatch("0 in the unused half of the last byte".to_owned()));
        }
        parameters.check(shape, range)?;
        let outside = |&index: &usize| !range.contains(code_type.read(&bytes, index));
        if let Some(index) = (0..count).find(outside) {
            return Err(Error::CodeOutOfRange {
                index,
                min: range.min,
                max: range.max,
            });
        }
        let pairs = parameters.pairs();
        let zero_points = if pairs.iter().all(|pair| pair.zero_point == 0) {
            Vec::new()
        } else {
            pairs.iter().map(|pair| pair.zero_point as u8).collect()
        };
        Ok(Self {
            code_type,
            bytes,
            shape: shape.to_vec(),
            granularity: parameters.granularity(),
            scales: pairs.iter().map(|pair| pair.scale).collect(),
            zero_points,
            range,
        })
    }

    /// The codes a byte each, ready to compute with. Codes `0..=255` and their zero points move by −128 to fit an `i8`, which
    /// leaves every real value what it was (N9). The shape stays.
    ///
    /// # Errors
    ///
    /// None for a tensor that was made here; the type says so because its parts are checked again.
    pub fn unpack(&self) -> Result<QTensor> {
        let shift = self.code_type.shift();
        let codes = (0..self.len()).map(|index| (self.code(index) - shift) as i8);
        QTensor::new(
            codes.collect(),
            &self.shape,
            moved(&self.parameters(), -shift),
            by(self.range, -shift),
        )
    }

    /// The code at `index`, counted in row-major order.
    ///
    /// # Panics
    ///
    /// If there is no such code.
    #[must_use]
    #[track_caller]
    pub fn code(&self, index: usize) -> i32 {
        assert!(index < self.len(), "there are {} codes", self.len());
        self.code_type.read(&self.bytes, index)
    }

    /// The codes as they are held. Flat, in row-major order.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How a code is held.
    #[must_use]
    pub fn code_type(&self) -> CodeType {
        self.code_type
    }

    /// The length of each axis.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How many codes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Which codes may occur.
    #[must_use]
    pub fn range(&self) -> CodeRange {
        self.range
    }

    /// The scales in the order of [`Parameters::pairs`]. One per tensor, `[channels]` per channel,
    /// `[rows · groups of a row]` per group.
    #[must_use]
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// The zero point of the pair at `index` in the order of [`Parameters::pairs`].
    #[must_use]
    pub fn zero_point(&self, index: usize) -> i32 {
        let held = self.zero_points.get(index);
        held.map_or(0, |&byte| match self.code_type {
            CodeType::I4 | CodeType::I8 => i32::from(byte as i8),
            CodeType::U4 | CodeType::U8 => i32::from(byte),
        })
    }

    /// What the codes mean.
    #[must_use]
    pub fn parameters(&self) -> Parameters {
        let pair = |(index, &scale): (usize, &f32)| QParams {
            scale,
            zero_point: self.zero_point(index),
        };
        let qparams: Vec<QParams> = self.scales.iter().enumerate().map(pair).collect();
        match self.granularity {
            Granularity::PerTensor => Parameters::PerTensor(qparams[0]),
            Granularity::PerChannel { axis } => Parameters::PerChannel { axis, qparams },
            Granularity::PerGroup { size } => Parameters::PerGroup { size, qparams },
        }
    }

    /// The bytes held: those of the codes, four for each scale, and one for each zero point unless all are 0.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.bytes.len() + self.scales.len() * size_of::<f32>() + self.zero_points.len()
    }
}

/// The same parameters for codes moved by `shift`.
fn moved(parameters: &Parameters, shift: i32) -> Parameters {
    parameters.map(|pair| QParams {
        zero_point: pair.zero_point + shift,
        ..*pair
    })
}

fn by(codes: CodeRange, shift: i32) -> CodeRange {
    CodeRange {
        min: codes.min + shift,
        max: codes.max + shift,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheme::Symmetry;
    use ndarray::{ArrayD, arr2};

    #[test]
    fn worked_example_two_codes_to_a_byte() {
        assert_eq!(pack_nibbles(&[1, -2, 7]), [0xE1, 0x07]);
        assert_eq!(unpack_i4(&[0xE1, 0x07], 3), [1, -2, 7]);
        assert_eq!(unpack_u4(&[0xE1, 0x07], 3), [1, 14, 7]);
        assert!(unpack_i4(&pack_nibbles(&[]), 0).is_empty());
    }

    #[test]
    fn every_pair_of_nibbles_comes_back() {
        for byte in 0..=255_u8 {
            assert_eq!(pack_nibbles(&unpack_i4(&[byte], 2)), [byte]);
            let unsigned: Vec<i8> = unpack_u4(&[byte], 2).iter().map(|&x| x as i8).collect();
            assert_eq!(pack_nibbles(&unsigned), [byte]);
        }
    }

    #[test]
    fn four_bits_in_groups_hold_half_a_byte_for_each_weight_and_four_for_each_group() {
        let values = ArrayD::from_shape_fn(vec![3, 10], |i| (i[0] * 10 + i[1]) as f32 - 15.0);
        let scheme = Scheme::weights_in_groups(4, 4);
        let packed = PackedTensor::quantize(values.view(), scheme).expect("good values");
        assert_eq!(packed.code_type(), CodeType::I4);
        assert_eq!(packed.memory_bytes(), 30 / 2 + 4 * (3 * 3));
        let plain = QTensor::quantize(values.view(), scheme).expect("good values");
        assert_eq!(packed.unpack(), Ok(plain.clone()));
        assert_eq!(packed.dequantize(), plain.dequantize());
        assert_eq!(PackedTensor::pack(&plain), Ok(packed));
    }

    #[test]
    fn unsigned_bytes_are_the_signed_ones_moved_by_128() {
        let values = arr2(&[[-1.0_f32, 0.0, 0.5], [1.0, 1.5, 2.0]]).into_dyn();
        let unsigned = Scheme {
            codes: CodeRange::UINT8,
            ..Scheme::ACTIVATIONS
        };
        let packed = PackedTensor::quantize(values.view(), unsigned).expect("good values");
        // [-1, 2] over 0..=255: the zero point is 85; 0.5 and 1.5 are 42.5 and 127.5 steps, to the even 42 and 128.
        assert_eq!(packed.bytes(), [0, 85, 127, 170, 213, 255]);
        assert_eq!(packed.zero_point(0), 85);
        assert_eq!(packed.memory_bytes(), 6 + 4 + 1);
        let signed = QTensor::quantize(values.view(), Scheme::ACTIVATIONS).expect("good values");
        assert_eq!(packed.unpack(), Ok(signed.clone()));
        assert_eq!(packed.dequantize(), signed.dequantize());
    }

    #[test]
    fn bytes_from_elsewhere_are_checked() {
        let unit = Parameters::PerTensor(QParams::symmetric(1.0));
        let new = |bytes: &[u8], shape: &[usize], range| {
            PackedTensor::new(bytes.to_vec(), shape, &unit, range)
        };
        assert!(new(&[0x21, 0x03], &[3], CodeRange::INT4).is_ok());
        assert!(new(&[0x21, 0x03], &[5], CodeRange::INT4).is_err());
        assert!(new(&[0x21, 0x13], &[3], CodeRange::INT4).is_err());
        assert!(new(&[], &[usize::MAX, usize::MAX], CodeRange::INT4).is_err());
        assert_eq!(
            new(&[0x81], &[2], CodeRange::INT4_NARROW),
            Err(Error::CodeOutOfRange {
                index: 1,
                min: -7,
                max: 7
            })
        );
        assert!(new(&[0], &[1], CodeRange::signed(9)).is_err());
    }

    #[test]
    fn the_smallest_type_that_fits_is_taken() {
        for (codes, expected) in [
            (CodeRange::narrow(2), CodeType::I4),
            (CodeRange::UINT4, CodeType::U4),
            (CodeRange::signed(5), CodeType::I8),
            (CodeRange::unsigned(7), CodeType::I8),
            (CodeRange::UINT8, CodeType::U8),
        ] {
            assert_eq!(CodeType::for_codes(codes), Ok(expected));
        }
        let symmetric = Scheme {
            symmetry: Symmetry::Symmetric,
            codes: CodeRange::UINT4,
            ..Scheme::WEIGHTS
        };
        let values = ArrayD::<f32>::zeros(vec![2, 2]);
        assert!(PackedTensor::quantize(values.view(), symmetric).is_err());
    }
}
