//! Codes to real numbers.

#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::blocks::{Way, convert};
use crate::cpu::{Vectors, vectorized};

/// Dequantizes: `out = (code − zero_point) as f32 * scale`.
///
/// # Panics
///
/// If the lengths differ, or the zero point is not an `i8`.
#[track_caller]
pub fn dequantize_i8_f32(codes: &[i8], scale: f32, zero_point: i32, out: &mut [f32]) {
    assert!(
        (-128..=127).contains(&zero_point),
        "zero point {zero_point} is not an i8"
    );
    let way = Way::of::<i8, f32>(codes.len());
    dequantize(Vectors::chosen(), way, codes, out, |vectors, codes, out| {
        from_signed(vectors, codes, scale, zero_point, out);
    });
}

/// As [`dequantize_i8_f32`] for codes without a sign.
///
/// # Panics
///
/// If the lengths differ, or the zero point is not a `u8`.
#[track_caller]
pub fn dequantize_u8_f32(codes: &[u8], scale: f32, zero_point: i32, out: &mut [f32]) {
    assert!(
        (0..=255).contains(&zero_point),
        "zero point {zero_point} is not a u8"
    );
    let way = Way::of::<u8, f32>(codes.len());
    dequantize(Vectors::chosen(), way, codes, out, |vectors, codes, out| {
        from_unsigned(vectors, codes, scale, zero_point, out);
    });
}

#[track_caller]
pub(super) fn dequantize<C: Sync>(
    vectors: Vectors,
    way: Way,
    codes: &[C],
    out: &mut [f32],
    run: impl Fn(Vectors, &[C], &mut [f32]) + Sync + Send,
) {
    assert_eq!(codes.len(), out.len(), "one value per code");
    convert(way, codes, out, |codes, out| {
        run(vectors, codes, out);
        true
    });
}

pub(super) fn from_signed(
    vectors: Vectors,
    codes: &[i8],
    scale: f32,
    zero_point: i32,
    out: &mut [f32],
) {
    match vectors {
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512(_) => avx512::dequantize(vectors, codes, scale, zero_point, out),
        _ => signed_loop(vectors, codes, scale, zero_point, out),
    }
}

pub(super) fn from_unsigned(
    vectors: Vectors,
    codes: &[u8],
    scale: f32,
    zero_point: i32,
    out: &mut [f32],
) {
    match vectors {
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512(_) => avx512::dequantize(vectors, codes, scale, zero_point, out),
        _ => unsigned_loop(vectors, codes, scale, zero_point, out),
    }
}

vectorized! {
    fn signed_loop(codes: &[i8], scale: f32, zero_point: i32, out: &mut [f32]) {
        for (out, &code) in out.iter_mut().zip(codes) {
            *out = i32::from(code).wrapping_sub(zero_point) as f32 * scale;
        }
    }
}

vectorized! {
    fn unsigned_loop(codes: &[u8], scale: f32, zero_point: i32, out: &mut [f32]) {
        for (out, &code) in out.iter_mut().zip(codes) {
            *out = i32::from(code).wrapping_sub(zero_point) as f32 * scale;
        }
    }
}
