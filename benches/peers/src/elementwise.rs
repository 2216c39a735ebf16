//! Real numbers to codes and back, in memory that a cache holds and in memory that none does.

use std::cell::RefCell;
use std::rc::Rc;

use tinytorch_kernels::{
    Quantize, dequantize_i8_f32, dequantize_u8_f32, quantize_f32_i8, quantize_f32_u8,
};

use crate::Subject;
use crate::data::{check, inputs};

/// The scale of the codes.
const SCALE: f32 = 0.0161;
/// Their zero point, for `i8`; for `u8` 128 more.
const ZERO_POINT: i32 = 3;
/// Real numbers after which they repeat: the script makes the same ones.
const PERIOD: usize = 1 << 16;

/// `len` values to codes, `u8` if `unsigned` is 1, else `i8`.
pub fn quantize(len: usize, unsigned: usize) -> Vec<Subject> {
    let values = reals(len);
    if unsigned == 1 {
        let by = by(128);
        subject(len, move |out: &mut [u8]| {
            quantize_f32_u8(&values, by, out).expect("finite values");
        })
    } else {
        let by = by(0);
        subject(len, move |out: &mut [i8]| {
            quantize_f32_i8(&values, by, out).expect("finite values");
        })
    }
}

/// The same codes back to real numbers.
pub fn dequantize(len: usize, unsigned: usize) -> Vec<Subject> {
    let values = reals(len);
    if unsigned == 1 {
        let mut codes = vec![0; len];
        quantize_f32_u8(&values, by(128), &mut codes).expect("finite values");
        subject(len, move |out: &mut [f32]| {
            dequantize_u8_f32(&codes, SCALE, ZERO_POINT + 128, out);
        })
    } else {
        let mut codes = vec![0; len];
        quantize_f32_i8(&values, by(0), &mut codes).expect("finite values");
        subject(len, move |out: &mut [f32]| {
            dequantize_i8_f32(&codes, SCALE, ZERO_POINT, out);
        })
    }
}

fn reals(len: usize) -> Vec<f32> {
    inputs(PERIOD, 37).into_iter().cycle().take(len).collect()
}

fn by(shift: i32) -> Quantize {
    Quantize {
        scale: SCALE,
        zero_point: ZERO_POINT + shift,
        min: shift - 128,
        max: shift + 127,
    }
}

/// 5 bytes move for each element, whichever way.
fn subject<T: Copy + Default + Into<f64> + 'static>(
    len: usize,
    run: impl Fn(&mut [T]) + 'static,
) -> Vec<Subject> {
    let out = Rc::new(RefCell::new(vec![T::default(); len]));
    let to = out.clone();
    vec![Subject {
        name: "ours".to_owned(),
        work: 5.0 * len as f64,
        run: Box::new(move || run(&mut to.borrow_mut())),
        check: Box::new(move || check(&out.borrow())),
    }]
}
