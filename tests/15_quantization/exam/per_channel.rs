//! 15.5: parameters and codes per channel.

use ndarray::{ArrayD, ArrayViewD};
use tinytorch_exam::{Answer, Case, Check, Judge, Rng, Stop, Values, Visibility, refused};

use super::common::{
    FOUR_BITS_NARROW, INT8, NARROW, SCALE_ROUNDING, channel_qparams_of, codes_of, off_tie, qparams,
    scale, with_channel_qparams, with_codes,
};
use super::subject::per_channel::{choose_qparams_per_channel, quantize_per_channel};
use super::subject::scheme::CodeRange;

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "15.5/own-scale",
        weight: 2,
        visibility: Visibility::Public,
        what: "the scales of the rows of weights [out, in], rows of very different size",
        why: "That is what per channel is for: with one scale for all, a row of small weights is written with two or three codes.",
        item: "choose_qparams_per_channel",
        cases: |rng| {
            vec![
                parameters_case(
                    "small numbers, to check by hand",
                    &[2, 2],
                    0,
                    vec![0.01, -0.02, 1.27, 2.54],
                    NARROW,
                ),
                random_parameters(rng, &[4, 6], 0, NARROW),
                random_parameters(rng, &[3, 5], 0, FOUR_BITS_NARROW),
            ]
        },
        run: run_parameters,
        judge: judge_parameters,
    },
    Check {
        id: "15.5/axis",
        weight: 2,
        visibility: Visibility::Public,
        what: "the scales along axes 1, 2 and 3 of tensors with two to four dimensions",
        why: "Linear and Conv2d keep their output channels on axis 0, depthwise and transposed convolutions do not. Along the wrong \
              axis the number of scales may even be right, and the model is silently worse.",
        item: "choose_qparams_per_channel",
        cases: |rng| {
            vec![
                random_parameters(rng, &[3, 3], 1, NARROW),
                random_parameters(rng, &[2, 3, 4], 1, NARROW),
                random_parameters(rng, &[2, 3, 4], 2, NARROW),
                random_parameters(rng, &[2, 2, 2, 2], 3, NARROW),
            ]
        },
        run: run_parameters,
        judge: judge_parameters,
    },
    Check {
        id: "15.5/magnitudes",
        weight: 1,
        visibility: Visibility::Public,
        what: "channels whose largest magnitude is negative, and channels that are all negative",
        why: "The scale follows the magnitude. The largest signed value of a channel can be far smaller than its most negative one, \
              which would then be cut off.",
        item: "choose_qparams_per_channel",
        cases: |rng| {
            let mut values = random_values(rng, &[3, 4], 0);
            values[1] = -9.0;
            (4..8).for_each(|i| values[i] = -values[i].abs() - 0.5);
            vec![
                parameters_case("a large negative value", &[3, 4], 0, values, NARROW),
                parameters_case("by hand", &[2, 2], 0, vec![-2.54, 0.1, -0.1, -1.27], NARROW),
            ]
        },
        run: run_parameters,
        judge: judge_parameters,
    },
    Check {
        id: "15.5/channel-of-zeros",
        weight: 1,
        visibility: Visibility::Public,
        what: "a channel of zeros between others",
        why: "Pruning and dead units make such channels. A scale of 0 turns the channel into NaN or into noise; scale 1 keeps it at zero.",
        item: "choose_qparams_per_channel",
        cases: |rng| {
            let mut values = random_values(rng, &[3, 4], 0);
            values[4..8].fill(0.0);
            vec![
                parameters_case("the middle row", &[3, 4], 0, values, NARROW),
                parameters_case(
                    "the first column",
                    &[2, 2],
                    1,
                    vec![0.0, 1.5, -0.0, -2.5],
                    NARROW,
                ),
            ]
        },
        run: run_parameters,
        judge: judge_parameters,
    },
    Check {
        id: "15.5/codes",
        weight: 2,
        visibility: Visibility::Public,
        what: "the codes of the rows of weights [out, in], each row with its own scale (calls quantize_per_channel, with given parameters)",
        why: "Each value must be divided by the scale of its own channel. With another channel's scale the code means another number, \
              and nothing downstream can tell.",
        item: "quantize_per_channel",
        cases: |rng| {
            let example = [0.02 / 127.0, 2.54 / 127.0].map(|scale| qparams(scale, 0));
            let values = Values::new()
                .f32s("values", [0.012, -0.02, 1.3, 2.54])
                .shaped(&[2, 2])
                .count("axis", 0);
            let example = Case::new(
                "small numbers without ties, to check by hand",
                with_codes(with_channel_qparams(values, &example), NARROW),
            );
            vec![
                example,
                random_codes(rng, &[4, 5], 0, false),
                random_codes(rng, &[3, 2, 2], 0, false),
            ]
        },
        run: run_codes,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.5/codes-any-axis",
        weight: 1,
        visibility: Visibility::Public,
        what: "the codes along the other axes, in the shape of the values (calls quantize_per_channel, with given parameters)",
        why: "The position of a value in memory says nothing about its channel unless the axis is taken into account.",
        item: "quantize_per_channel",
        cases: |rng| {
            vec![
                random_codes(rng, &[3, 3], 1, false),
                random_codes(rng, &[2, 3, 4], 1, false),
                random_codes(rng, &[2, 2, 2, 3], 3, false),
            ]
        },
        run: run_codes,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.5/codes-zero-points",
        weight: 1,
        visibility: Visibility::Public,
        what: "channels that have zero points of their own (calls quantize_per_channel, with given parameters)",
        why: "Weights are symmetric by our contract, but ONNX files with per-channel zero points exist, and the function takes them.",
        item: "quantize_per_channel",
        cases: |rng| {
            vec![
                random_codes(rng, &[4, 4], 0, true),
                random_codes(rng, &[2, 3], 1, true),
            ]
        },
        run: run_codes,
        judge: || Judge::Equal,
    },
];

pub(super) fn parameters_case(
    note: &str,
    shape: &[usize],
    axis: usize,
    values: Vec<f32>,
    codes: CodeRange,
) -> Case {
    Case::new(
        note,
        with_codes(
            Values::new()
                .f32s("values", values)
                .shaped(shape)
                .count("axis", axis),
            codes,
        ),
    )
}

/// Values of which each channel along `axis` has another magnitude, from small to large and back.
pub(super) fn random_values(rng: &mut Rng, shape: &[usize], axis: usize) -> Vec<f32> {
    let sizes: Vec<f32> = (0..shape[axis]).map(|_| scale(rng)).collect();
    let inner: usize = shape[axis + 1..].iter().product();
    let n = shape.iter().product();
    (0..n)
        .map(|i| rng.f32(-1.0, 1.0) * sizes[i / inner % shape[axis]])
        .collect()
}

pub(super) fn random_parameters(
    rng: &mut Rng,
    shape: &[usize],
    axis: usize,
    codes: CodeRange,
) -> Case {
    let values = random_values(rng, shape, axis);
    parameters_case(
        &format!("axis {axis} of {shape:?}"),
        shape,
        axis,
        values,
        codes,
    )
}

pub(super) fn random_codes(rng: &mut Rng, shape: &[usize], axis: usize, zero_points: bool) -> Case {
    let channels = shape[axis];
    let pairs: Vec<_> = (0..channels)
        .map(|_| {
            qparams(
                scale(rng),
                if zero_points {
                    rng.int(-60, 60) as i32
                } else {
                    0
                },
            )
        })
        .collect();
    let inner: usize = shape[axis + 1..].iter().product();
    let n = shape.iter().product::<usize>();
    let values: Vec<f32> = (0..n)
        .map(|i| off_tie(rng, pairs[i / inner % channels].scale, -150, 150))
        .collect();
    let codes = if zero_points { INT8 } else { NARROW };
    let inputs = Values::new()
        .f32s("values", values)
        .shaped(shape)
        .count("axis", axis);
    Case::new(
        format!("axis {axis} of {shape:?}"),
        with_codes(with_channel_qparams(inputs, &pairs), codes),
    )
}

/// The values as an array; with `transposed`, one whose memory order is not that of its axes.
fn array(case: &Case) -> Result<ArrayD<f32>, Stop> {
    ArrayD::from_shape_vec(case.shape("values")?, case.f32s("values")?.to_vec())
        .map_err(|error| Stop::Malformed(error.to_string()))
}

/// The view that the subject gets: the array itself, or its transpose if the case says so.
fn view<'a>(case: &Case, array: &'a ArrayD<f32>) -> ArrayViewD<'a, f32> {
    if case.inputs.find("transposed").is_some() {
        array.t()
    } else {
        array.view()
    }
}

pub(super) fn run_parameters(case: &Case) -> Answer {
    let array = array(case)?;
    let found = choose_qparams_per_channel(view(case, &array), case.int("axis")?, codes_of(case)?)
        .map_err(refused)?;
    Ok(Values::new()
        .f32s("scales", found.iter().map(|pair| pair.scale))
        .ints("zero_points", found.iter().map(|pair| pair.zero_point)))
}

pub(super) fn run_codes(case: &Case) -> Answer {
    let array = array(case)?;
    let pairs = channel_qparams_of(case)?;
    let codes = quantize_per_channel(
        view(case, &array),
        case.int("axis")?,
        &pairs,
        codes_of(case)?,
    )
    .map_err(refused)?;
    let shape = codes.shape().to_vec();
    Ok(Values::new()
        .ints("codes", codes.iter().copied())
        .shaped(&shape))
}

pub(super) fn judge_parameters() -> Judge {
    Judge::ulps(2, SCALE_ROUNDING)
}
