//! Real numbers to codes and back, in memory that a cache holds and in memory that none does.

use std::cell::RefCell;
use std::rc::Rc;

use tinytorch_kernels::{
    Quantize, dequantize_i8_f32, dequantize_u8_f32, quantize_f32_i8, quantize_f32_u8,
};

use crate::Subject;
use crate::ceilings::{Lines, Plain, of_moving};
use crate::data::{check, inputs};

/// The scale of the codes.
const SCALE: f32 = 0.0161;
/// Their zero point, for `i8`; for `u8` 128 more.
const ZERO_POINT: i32 = 3;
/// Real numbers after which they repeat: the script makes the same ones.
const PERIOD: usize = 1 << 16;

/// `len` values to codes, `u8` if `unsigned` is 1, else `i8`; and moving as many bytes from and to the same memory.
pub fn quantize(len: usize, unsigned: usize) -> Vec<Subject> {
    let values = reals(len);
    if unsigned == 1 {
        subjects(&values, |values, out: &mut [u8]| {
            quantize_f32_u8(values, by(128), out).expect("finite values");
        })
    } else {
        subjects(&values, |values, out: &mut [i8]| {
            quantize_f32_i8(values, by(0), out).expect("finite values");
        })
    }
}

/// The same codes back to real numbers.
pub fn dequantize(len: usize, unsigned: usize) -> Vec<Subject> {
    let values = reals(len);
    if unsigned == 1 {
        let mut codes = Lines::zeroed(len);
        quantize_f32_u8(&values, by(128), &mut codes).expect("finite values");
        subjects(&Rc::new(codes), |codes: &[u8], out: &mut [f32]| {
            dequantize_u8_f32(codes, SCALE, ZERO_POINT + 128, out);
        })
    } else {
        let mut codes = Lines::zeroed(len);
        quantize_f32_i8(&values, by(0), &mut codes).expect("finite values");
        subjects(&Rc::new(codes), |codes: &[i8], out: &mut [f32]| {
            dequantize_i8_f32(codes, SCALE, ZERO_POINT, out);
        })
    }
}

fn reals(len: usize) -> Rc<Lines<f32>> {
    let mut values = Lines::zeroed(len);
    let period = inputs(PERIOD, 37);
    for (value, from) in values.iter_mut().zip(period.into_iter().cycle()) {
        *value = from;
    }
    Rc::new(values)
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
fn subjects<I: Plain, O: Plain + Into<f64>>(
    from: &Rc<Lines<I>>,
    run: impl Fn(&[I], &mut [O]) + 'static,
) -> Vec<Subject> {
    let out = Rc::new(RefCell::new(Lines::zeroed(from.len())));
    let (values, to, result) = (from.clone(), out.clone(), out.clone());
    let mut subjects = vec![Subject {
        name: "ours".to_owned(),
        work: 5.0 * from.len() as f64,
        run: Box::new(move || run(&values, &mut to.borrow_mut())),
        // Looked at before anything else is moved there.
        check: Box::new(move || check(&result.borrow())),
    }];
    subjects.extend(of_moving(from, &out));
    subjects
}
