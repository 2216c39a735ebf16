//! Every code of every scheme comes back, and what has no obvious answer has a stated one.

use ndarray::{ArrayD, IxDyn};
use proptest::prelude::*;
use tinytorch_quantization::{
    CodeRange, Error, Granularity, PackedTensor, Parameters, QParams, QTensor, Scheme, Symmetry,
};

const SYMMETRIES: [Symmetry; 2] = [Symmetry::Symmetric, Symmetry::Asymmetric];
const GRANULARITIES: [Granularity; 4] = [
    Granularity::PerTensor,
    Granularity::PerChannel { axis: 0 },
    Granularity::PerChannel { axis: 1 },
    Granularity::PerGroup { size: 3 },
];

/// All that a byte or less can hold: 2 to 8 bits, with a sign, without the lowest code, and without a sign.
fn code_ranges() -> Vec<CodeRange> {
    (2..=8)
        .flat_map(|bits| {
            [
                CodeRange::signed(bits),
                CodeRange::narrow(bits),
                CodeRange::unsigned(bits),
            ]
        })
        .collect()
}

fn all_schemes() -> Vec<Scheme> {
    let mut schemes = Vec::new();
    for codes in code_ranges() {
        for symmetry in SYMMETRIES {
            for granularity in GRANULARITIES {
                let scheme = Scheme {
                    symmetry,
                    granularity,
                    codes,
                };
                if scheme.check().is_ok() {
                    schemes.push(scheme);
                }
            }
        }
    }
    // 2..=8 bits: three kinds of codes, of which those without a sign are asymmetric only, in four granularities.
    assert_eq!(schemes.len(), 7 * (2 + 2 + 1) * 4);
    schemes
}

/// Codes of all values in a shape of several rows, whose last group is short: `[5, codes]` or `[5, codes + 1]`.
fn every_code(codes: CodeRange) -> (Vec<usize>, Vec<i32>) {
    let row = codes.len() + usize::from(codes.len().is_multiple_of(3));
    let code = |index: usize| codes.min + (index % row % codes.len()) as i32;
    (vec![5, row], (0..5 * row).map(code).collect())
}

/// Parameters of the granularity with odd scales and all sorts of zero points.
fn parameters(scheme: Scheme, shape: &[usize]) -> Parameters {
    let zeros = ArrayD::<f32>::zeros(IxDyn(shape));
    let scheme_of_zeros = Parameters::choose(zeros.view(), scheme).expect("zeros are finite");
    let mut index = 0_i32;
    scheme_of_zeros.map(|_| {
        index += 1;
        let zero_point = scheme.codes.min + index * 7 % scheme.codes.len() as i32;
        QParams {
            scale: 0.3 * 1.7_f32.powi(index % 40 - 20),
            zero_point: match scheme.symmetry {
                Symmetry::Symmetric => 0,
                Symmetry::Asymmetric => zero_point,
            },
        }
    })
}

#[test]
fn every_code_of_every_scheme_comes_back() {
    for scheme in all_schemes() {
        let (shape, codes) = every_code(scheme.codes);
        let parameters = parameters(scheme, &shape);
        let mut reals = vec![0.0; codes.len()];
        for (range, pair) in parameters.runs(&shape) {
            for index in range {
                reals[index] = pair.scale * (codes[index] - pair.zero_point) as f32;
            }
        }
        let reals = ArrayD::from_shape_vec(shape.clone(), reals).expect("its shape");
        let packed = PackedTensor::quantize_as(reals.view(), parameters.clone(), scheme.codes)
            .expect("finite values");
        let got: Vec<i32> = (0..packed.len()).map(|index| packed.code(index)).collect();
        assert_eq!(got, codes, "{scheme:?}");
        assert_eq!(packed.dequantize(), reals, "{scheme:?}");
        assert_eq!(packed.parameters(), parameters);
        // Held twice as densely, or not at all more densely, and the same through the form that integer layers use.
        let unpacked = packed.unpack().expect("its codes fit an i8");
        assert_eq!(unpacked.dequantize(), reals, "{scheme:?}");
        if scheme.codes.check_i8().is_ok() {
            assert_eq!(PackedTensor::pack(&unpacked), Ok(packed));
        }
    }
}

#[test]
fn zeros_have_scale_one_and_stay_zero_in_every_scheme() {
    for scheme in all_schemes() {
        let mut values = ArrayD::<f32>::zeros(vec![4, 6]);
        // Channel 2 is all zero, the others are not.
        values.index_axis_mut(ndarray::Axis(0), 0).fill(1.0);
        values[[3, 5]] = -2.0;
        let packed = PackedTensor::quantize(values.view(), scheme).expect("finite values");
        let back = packed.dequantize();
        assert!(
            back.index_axis(ndarray::Axis(0), 2)
                .iter()
                .all(|&x| x == 0.0)
        );
        let unspread = packed.parameters();
        let of_zeros = match scheme.granularity {
            Granularity::PerTensor | Granularity::PerChannel { axis: 1 } => continue,
            Granularity::PerChannel { .. } => unspread.pairs()[2],
            Granularity::PerGroup { .. } => unspread.pairs()[4],
        };
        assert_eq!(of_zeros, QParams::symmetric(1.0), "{scheme:?}");
    }
}

/// A constant is an end of its own range, so it lies on a code up to the rounding of the scale: half an ulp of the scale and
/// half an ulp of the product, relatively 2⁻²³ together. With an asymmetric range of which one side is 0, it is exactly the
/// last or the first code.
#[test]
fn a_constant_comes_back_within_an_ulp_in_every_scheme() {
    for scheme in all_schemes() {
        for constant in [5.0_f32, -5.0, 1e-30, -3e30] {
            let values = ArrayD::from_elem(vec![2, 4], constant);
            let packed = PackedTensor::quantize(values.view(), scheme).expect("finite values");
            for real in packed.dequantize() {
                let lost = ((real - constant) / constant).abs();
                assert!(lost <= f32::EPSILON, "{scheme:?}: {constant} became {real}");
            }
        }
    }
}

/// N7: the scale does not go below the smallest normal number, so values that small have the code of 0 or its neighbour; they
/// are not lost by more than half of that scale.
#[test]
fn a_denormal_range_is_written_with_the_smallest_normal_scale() {
    for scheme in all_schemes() {
        let values = ArrayD::from_shape_fn(vec![2, 3], |i| {
            f32::from_bits(1 + 1000 * i[1] as u32) * if i[0] == 0 { 1.0 } else { -1.0 }
        });
        let packed = PackedTensor::quantize(values.view(), scheme).expect("finite values");
        for pair in packed.parameters().pairs() {
            assert_eq!(pair.scale, f32::MIN_POSITIVE);
        }
        for (real, value) in packed.dequantize().iter().zip(&values) {
            assert!(
                (real - value).abs() <= 0.5 * f32::MIN_POSITIVE,
                "{scheme:?}"
            );
        }
    }
}

#[test]
fn a_count_of_channels_that_does_not_match_is_an_error_that_says_both() {
    let values = ArrayD::<f32>::zeros(vec![4, 6]);
    let qparams = vec![QParams::symmetric(1.0); 3];
    let channels = Parameters::PerChannel { axis: 0, qparams };
    let error = QTensor::quantize_as(values.view(), channels, CodeRange::INT8);
    assert_eq!(
        error.map_err(|error| error.to_string()),
        Err("4 channels along axis 0 need as many parameters, got 3".to_owned())
    );
    let scheme = Scheme {
        granularity: Granularity::PerChannel { axis: 2 },
        ..Scheme::WEIGHTS
    };
    let error = QTensor::quantize(values.view(), scheme);
    assert_eq!(
        error,
        Err(Error::AxisOutOfRange {
            axis: 2,
            dimensions: 2
        })
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// The range holds every value, so rounding loses half a step. For an asymmetric pair the zero point was rounded too, which
    /// can push an end half a step beyond the last code, where it saturates: no more is lost there. The rest is `f32`:
    /// quotient, product and scale are off by at most 2⁻²⁴ of all steps each.
    #[test]
    fn no_scheme_loses_more_than_half_a_step(
        choice in 0_usize..1000,
        rows in 1_usize..4,
        values in proptest::collection::vec(-100.0_f32..100.0, 1..40),
    ) {
        let schemes = all_schemes();
        let scheme = schemes[choice % schemes.len()];
        let row = values.len() / rows;
        let shape = vec![rows, row];
        let values = ArrayD::from_shape_vec(shape.clone(), values[..rows * row].to_vec())
            .expect("whole rows");
        let packed = PackedTensor::quantize(values.view(), scheme).expect("finite values");
        let back: Vec<f32> = packed.dequantize().iter().copied().collect();
        let values: Vec<f32> = values.iter().copied().collect();
        let steps = 0.5 + 2.0 * scheme.codes.len() as f32 * f32::EPSILON;
        for (range, pair) in packed.parameters().runs(&shape) {
            for index in range {
                let lost = (values[index] - back[index]).abs();
                prop_assert!(lost <= pair.scale * steps, "{scheme:?} lost {lost} of {}", values[index]);
            }
        }
    }
}
