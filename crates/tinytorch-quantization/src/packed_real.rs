//! Packed codes as real values: all of them, or some rows at a time.
//!
//! In: a [`PackedTensor`]. Out: `f32`, `scale · (code − zero point)` (N1). Loops over whole runs of one pair, so that compilers make
//! them vectors: products of layers whose weights alone are narrow read their weights through here.

use std::ops::Range;

use ndarray::{ArrayD, IxDyn};

use crate::packed::{CodeType, PackedTensor};
use crate::scheme::{Granularity, QParams};

impl PackedTensor {
    /// The real values that the codes stand for. In the shape of the codes.
    #[must_use]
    pub fn dequantize(&self) -> ArrayD<f32> {
        let mut values = vec![0.0; self.len()];
        for (run, pair) in self.parameters().runs(&self.shape) {
            self.dequantize_run(run.clone(), pair, &mut values[run]);
        }
        // The runs cover the shape once: it was checked when the tensor was made.
        ArrayD::from_shape_vec(IxDyn(&self.shape), values).unwrap_or_default()
    }

    /// Some rows (along axis 0) of a tensor whose scales do not lie along another axis, as real values.
    ///
    /// # Panics
    ///
    /// If there are no such rows, or `out` does not have as many values.
    pub(crate) fn dequantize_rows(&self, rows: Range<usize>, out: &mut [f32]) {
        let width: usize = self.shape[1..].iter().product();
        assert_eq!(out.len(), rows.len() * width, "a value for each code");
        // How many pairs a row has, and how many values share one; with one pair for all, every row has it.
        let (per_row, size) = match self.granularity {
            Granularity::PerTensor => (0, width),
            Granularity::PerChannel { .. } => (1, width),
            Granularity::PerGroup { size } => (width.div_ceil(size), size),
        };
        for (row, out) in rows.zip(out.chunks_mut(width.max(1))) {
            for (group, out) in out.chunks_mut(size.max(1)).enumerate() {
                let index = if per_row == 0 {
                    0
                } else {
                    row * per_row + group
                };
                let pair = QParams {
                    scale: self.scales[index],
                    zero_point: self.zero_point(index),
                };
                let first = row * width + group * size;
                self.dequantize_run(first..first + out.len(), pair, out);
            }
        }
    }

    /// Neighbours with one pair, as real values (N1).
    fn dequantize_run(&self, run: Range<usize>, pair: QParams, out: &mut [f32]) {
        let QParams { scale, zero_point } = pair;
        let real = |code: i32| scale * (code - zero_point) as f32;
        match self.code_type {
            CodeType::I8 => {
                let codes = self.bytes[run].iter();
                (out.iter_mut().zip(codes))
                    .for_each(|(out, &code)| *out = real(i32::from(code as i8)));
            }
            CodeType::U8 => {
                let codes = self.bytes[run].iter();
                (out.iter_mut().zip(codes)).for_each(|(out, &code)| *out = real(i32::from(code)));
            }
            CodeType::I4 | CodeType::U4 => {
                let one = |index: usize| real(self.code_type.read(&self.bytes, index));
                // Up to a whole byte, byte by byte, and what is left.
                let odd = (run.start % 2).min(out.len());
                let (first, rest) = out.split_at_mut(odd);
                first.iter_mut().for_each(|out| *out = one(run.start));
                let bytes = &self.bytes[(run.start + odd) / 2..];
                let (pairs, last) = rest.as_chunks_mut::<2>();
                let signed = self.code_type == CodeType::I4;
                for (out, &byte) in pairs.iter_mut().zip(bytes) {
                    let codes = match signed {
                        true => [
                            i32::from((byte << 4) as i8 >> 4),
                            i32::from(byte as i8 >> 4),
                        ],
                        false => [i32::from(byte & 0x0F), i32::from(byte >> 4)],
                    };
                    *out = codes.map(real);
                }
                last.iter_mut().for_each(|out| *out = one(run.end - 1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qtensor::QTensor;
    use crate::scheme::{CodeRange, Scheme, Symmetry};

    #[test]
    fn rows_and_runs_that_begin_within_a_byte_become_the_real_values_of_their_codes() {
        let values = ArrayD::from_shape_fn(vec![5, 7], |i| (i[0] * 7 + i[1]) as f32 - 11.0);
        let groups = |codes, size, symmetry| Scheme {
            codes,
            symmetry,
            granularity: Granularity::PerGroup { size },
        };
        let channels = Granularity::PerChannel { axis: 0 };
        for scheme in [
            groups(CodeRange::INT4, 3, Symmetry::Symmetric),
            groups(CodeRange::UINT4, 2, Symmetry::Asymmetric),
            groups(CodeRange::INT8, 7, Symmetry::Asymmetric),
            groups(CodeRange::UINT8, 4, Symmetry::Asymmetric),
            Scheme {
                granularity: channels,
                ..Scheme::weights(3)
            },
            Scheme {
                granularity: Granularity::PerTensor,
                ..Scheme::weights(8)
            },
        ] {
            let packed = PackedTensor::quantize(values.view(), scheme).expect("good values");
            let plain = QTensor::quantize(values.view(), scheme);
            let by_code = packed.unpack().expect("made here").dequantize();
            assert_eq!(packed.dequantize(), by_code, "{scheme:?}");
            assert!(plain.is_err() || plain.is_ok_and(|plain| plain.dequantize() == by_code));
            let mut rows = [0.0; 14];
            packed.dequantize_rows(2..4, &mut rows);
            assert_eq!(
                rows[..],
                by_code.as_slice().expect("dense")[14..28],
                "{scheme:?}"
            );
        }
    }
}
