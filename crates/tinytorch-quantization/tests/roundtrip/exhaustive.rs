//! Where the space is small, all of it: every 16-bit number, every product of two codes.

use tinytorch_quantization::kernels::{PackedWeights, kernels};
use tinytorch_quantization::{Dims, Half, gemm_i8};

/// The value of a binary number with one sign bit, `exponent` bits of exponent and `fraction` bits of fraction, by its definition in IEEE
/// 754, section 3.4; `None` is NaN.
fn value(bits: u16, exponent: u32, fraction: u32) -> Option<f64> {
    let sign = if bits >> (exponent + fraction) == 1 {
        -1.0
    } else {
        1.0
    };
    let e = i32::from(bits >> fraction) & ((1 << exponent) - 1);
    let f = f64::from(bits & ((1 << fraction) - 1)) / 2.0_f64.powi(fraction as i32);
    let bias = (1 << (exponent - 1)) - 1;
    if e == (1 << exponent) - 1 {
        return (f == 0.0).then_some(sign * f64::INFINITY);
    }
    let leading = if e == 0 { f } else { 1.0 + f };
    Some(sign * leading * 2.0_f64.powi(e.max(1) - bias))
}

const FORMATS: [(Half, u32, u32); 2] = [(Half::F16, 5, 10), (Half::Bf16, 8, 7)];

#[test]
fn every_half_is_its_value_by_definition_and_comes_back() {
    for (half, exponent, fraction) in FORMATS {
        for bits in 0..=u16::MAX {
            let got = half.from_bits(bits);
            match value(bits, exponent, fraction) {
                None => {
                    assert!(got.is_nan(), "{half:?} {bits:#06x}");
                    assert!(half.from_bits(half.to_bits(got)).is_nan());
                }
                Some(value) => {
                    assert_eq!(
                        f64::from(got).to_bits(),
                        value.to_bits(),
                        "{half:?} {bits:#06x}"
                    );
                    assert_eq!(half.to_bits(got), bits, "{half:?} {bits:#06x}");
                }
            }
        }
    }
}

/// Rounding is decided in each gap between neighbours by three values: the middle, which goes to the even one, and the `f32` on either side
/// of it. A rounding that never goes down when the value goes up is right everywhere if it is right at these.
#[test]
fn every_gap_between_halves_rounds_to_the_nearest_and_its_middle_to_the_even() {
    for (half, exponent, fraction) in FORMATS {
        let infinity = ((1_u16 << exponent) - 1) << fraction;
        for low in 0..infinity {
            let high = low + 1;
            // Beyond the largest number lies, for rounding, the next power of two (IEEE 754, section 4.3.1).
            let below = value(low, exponent, fraction).expect("finite");
            let above = if high == infinity {
                2.0_f64.powi(1 << (exponent - 1))
            } else {
                value(high, exponent, fraction).expect("finite")
            };
            let middle = f64::midpoint(below, above) as f32;
            assert_eq!(
                f64::from(middle),
                f64::midpoint(below, above),
                "it is an f32"
            );
            let even = if low % 2 == 0 { low } else { high };
            for (sign, flip) in [(1.0, 0), (-1.0, 1 << 15)] {
                let round = |x: f32| half.to_bits(sign * x);
                assert_eq!(round(middle), even | flip, "{half:?} {middle:e}");
                assert_eq!(
                    round(middle.next_down()),
                    low | flip,
                    "{half:?} below {middle:e}"
                );
                assert_eq!(
                    round(middle.next_up()),
                    high | flip,
                    "{half:?} above {middle:e}"
                );
            }
        }
        assert_eq!(half.to_bits(f32::MAX), infinity);
        assert_eq!(half.to_bits(f32::INFINITY), infinity);
    }
}

fn every_code() -> Vec<i8> {
    (i8::MIN..=i8::MAX).collect()
}

#[test]
fn every_product_of_two_codes_by_definition() {
    let codes = every_code();
    let dims = Dims {
        m: 256,
        n: 256,
        k: 1,
    };
    for (a_zero, b_zero) in [(0, 0), (-128, 0), (127, 0), (-37, 5), (-128, 127)] {
        let mut c = vec![0; 256 * 256];
        gemm_i8(dims, &codes, a_zero, &codes, b_zero, &mut c);
        for (row, &a) in c.chunks(256).zip(&codes) {
            for (&got, &b) in row.iter().zip(&codes) {
                assert_eq!(got, (i32::from(a) - a_zero) * (i32::from(b) - b_zero));
            }
        }
    }
}

/// With `k` equal products in a row, each of them passes through each lane of a vector.
#[test]
fn every_product_of_two_codes_in_every_lane_of_every_kernel() {
    let codes = every_code();
    for kernel in kernels() {
        for k in [1, 4, 67] {
            let repeated: Vec<i8> = codes.iter().flat_map(|&code| vec![code; k]).collect();
            let weights = PackedWeights::with_kernel(*kernel, 256, k, &repeated);
            for a_zero in [0, -128, 127] {
                let mut c = vec![0; 256 * 256];
                weights.product(256, &repeated, a_zero, &mut c);
                for (row, &a) in c.chunks(256).zip(&codes) {
                    for (&got, &b) in row.iter().zip(&codes) {
                        let expected = k as i32 * (i32::from(a) - a_zero) * i32::from(b);
                        assert_eq!(got, expected, "{}: {a} {b}", kernel.name());
                    }
                }
            }
        }
    }
}
