//! 15.8, second to fourth part: the quantized linear layer.

use tinytorch_exam::{Answer, Case, Check, Judge, Rng, Stop, Values, Visibility, refused};

use super::common::{INT8, NARROW, qparams, scale};
use super::subject::linear::{QLinear, quantize_bias};
use super::subject::qtensor::{Parameters, QTensor};
use super::subject::scheme::QParams;

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "15.8/bias-steps",
        weight: 2,
        visibility: Visibility::Public,
        what: "biases of several outputs, each output with its own weight scale (calls quantize_bias)",
        why: "The bias is added to the accumulator, so it must count in the accumulator's unit, input scale times weight scale. In any \
              other unit it is multiplied by an arbitrary factor.",
        item: "quantize_bias",
        cases: |rng| {
            vec![
                bias_case(
                    "without its tie, the worked example",
                    vec![1.0, -0.75],
                    0.5,
                    &[0.25, 0.5],
                ),
                random_bias(rng, 5, 3000),
                random_bias(rng, 4, 100_000),
            ]
        },
        run: run_bias,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.8/bias-rounds",
        weight: 1,
        visibility: Visibility::Public,
        what: "biases between two steps, some of them ties (calls quantize_bias)",
        why: "The same rounding as everywhere, to the nearest and ties to even: one rule for the whole model.",
        item: "quantize_bias",
        cases: |rng| {
            vec![
                bias_case(
                    "ties",
                    vec![0.125, 0.375, 0.625, -0.125, -0.375, -0.625],
                    0.5,
                    &[0.5; 6],
                ),
                bias_case(
                    "ties of two outputs",
                    vec![-0.3125, 0.625],
                    0.25,
                    &[0.5, 1.0],
                ),
                random_bias(rng, 8, 4),
            ]
        },
        run: run_bias,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.8/bias-of-many-digits",
        weight: 1,
        visibility: Visibility::Public,
        what: "biases of some hundred million steps (calls quantize_bias)",
        why: "A code of 32 bits has more digits than an f32. With a small step that is an ordinary bias, and in f32 it is off by several \
              steps.",
        item: "quantize_bias",
        cases: |rng| (0..3).map(|_| random_bias(rng, 4, 900_000_000)).collect(),
        run: run_bias,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.8/bias-overflow",
        weight: 1,
        visibility: Visibility::Public,
        what: "a bias that does not fit 32 bits, beside biases that just do (calls quantize_bias)",
        why: "A tiny weight scale beside a normal bias is what dead channels look like. Saturated silently, the channel answers something \
              else; an error that names the channel can be dealt with.",
        item: "quantize_bias",
        cases: |_| {
            vec![
                bias_case("too large", vec![1.0, 1.0], 1e-5, &[1.0, 1e-5]),
                bias_case("too small", vec![-3.0], 1.0, &[1e-9]),
                bias_case(
                    "the ends",
                    vec![-2_147_483_648.0, 2_147_483_520.0],
                    1.0,
                    &[1.0, 1.0],
                ),
            ]
        },
        run: run_bias,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.8/forward",
        weight: 3,
        visibility: Visibility::Public,
        what: "the codes of small layers without bias and with input zero points (this calls forward_definition, which builds on your \
               gemm_i8 and requantize)",
        why: "The whole layer in integers. What the codes of input and output mean is part of it: a zero point that is not passed on \
              shifts every activation.",
        item: "QLinear::forward_definition",
        cases: |rng| {
            vec![
                layer(rng, "one output", [2, 1, 3], 7, false, false),
                layer(rng, "several outputs", [3, 4, 5], -20, false, false),
                layer(rng, "after a ReLU", [2, 3, 6], -128, false, false),
            ]
        },
        run: run_forward,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.8/forward-bias",
        weight: 2,
        visibility: Visibility::Public,
        what: "layers with a bias, several samples (this calls forward_definition, which builds on your gemm_i8 and requantize)",
        why: "The bias belongs to the output, is already in the unit of the sums, and is added before they are rescaled.",
        item: "QLinear::forward_definition",
        cases: |rng| {
            vec![
                layer(rng, "square", [3, 3, 4], 5, true, false),
                layer(rng, "more outputs than samples", [2, 4, 3], 0, true, false),
            ]
        },
        run: run_forward,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.8/forward-relu",
        weight: 2,
        visibility: Visibility::Public,
        what: "layers with a fused ReLU and output zero points below, at and above code 0 (this calls forward_definition, which builds \
               on your gemm_i8 and requantize)",
        why: "A ReLU stops at the real number 0, whose code is the zero point, not at code 0. With a zero point of -128 the difference \
              cuts off half of all activations.",
        item: "QLinear::forward_definition",
        cases: |rng| {
            [-60, 0, 40]
                .into_iter()
                .map(|zero_point| {
                    let case = layer(rng, "fused ReLU", [3, 4, 5], 3, true, true);
                    Case::new(case.note, replace_zero_point(case.inputs, zero_point))
                })
                .collect()
        },
        run: run_forward,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.8/memory",
        weight: 2,
        visibility: Visibility::Public,
        what: "the bytes of layers of several shapes, with one scale for all and with one for each output (calls memory_bytes)",
        why: "The size is what quantization is sold by. Counted as f32 nothing was gained; counted without scales and bias the ratio is \
              prettier than the truth.",
        item: "QLinear::memory_bytes",
        cases: |rng| {
            [
                (4, 3),
                (16, 50),
                (10, 64),
                (rng.size(2, 30), rng.size(2, 30)),
            ]
            .into_iter()
            .enumerate()
            .map(|(i, (outputs, inputs))| memory_case(outputs, inputs, i % 2 == 1))
            .collect()
        },
        run: run_memory,
        judge: || Judge::Equal,
    },
];

pub(super) fn bias_case(
    note: &str,
    bias: Vec<f32>,
    input_scale: f32,
    weight_scales: &[f32],
) -> Case {
    let inputs = Values::new()
        .f32s("bias", bias)
        .float("input_scale", input_scale);
    Case::new(
        note,
        inputs.f32s("weight_scales", weight_scales.iter().copied()),
    )
}

/// Biases of up to `reach` steps, at least a twentieth of a step away from a tie.
pub(super) fn random_bias(rng: &mut Rng, n: usize, reach: i64) -> Case {
    let input_scale = scale(rng);
    let scales: Vec<f32> = (0..n).map(|_| scale(rng)).collect();
    let bias = scales
        .iter()
        .map(|&weight_scale| {
            let step = f64::from(input_scale) * f64::from(weight_scale);
            loop {
                let bias =
                    ((rng.int(-reach, reach) as f64 + f64::from(rng.f32(-0.4, 0.4))) * step) as f32;
                // Rounding to f32 moves a bias of many steps by more than a step, so look again afterwards.
                let steps = f64::from(bias) / step;
                if (steps.rem_euclid(1.0) - 0.5).abs() > 0.05 {
                    return bias;
                }
            }
        })
        .collect();
    bias_case("random", bias, input_scale, &scales)
}

pub(super) fn run_bias(case: &Case) -> Answer {
    let scales = case.f32s("weight_scales")?;
    let codes =
        quantize_bias(case.f32s("bias")?, case.float("input_scale")?, scales).map_err(refused)?;
    Ok(Values::new().ints("bias", codes))
}

/// A layer `[m, k] -> [m, n]` and an input. All scales are powers of two, so every product and every tie is exact.
pub(super) fn layer(
    rng: &mut Rng,
    note: &str,
    [m, n, k]: [usize; 3],
    input_zero: i64,
    bias: bool,
    relu: bool,
) -> Case {
    let power = |rng: &mut Rng, low, high| 2.0_f32.powi(rng.int(low, high) as i32);
    let scales: Vec<f32> = (0..n).map(|_| power(rng, -6, -3)).collect();
    let bias = if bias {
        rng.ints(n, -900, 900)
    } else {
        vec![0; n]
    };
    let inputs = Values::new()
        .ints("x", rng.ints(m * k, -60, 60))
        .shaped(&[m, k])
        .float("input_scale", 0.5)
        .int("input_zero_point", input_zero)
        .ints("weight", rng.ints(n * k, -90, 90))
        .shaped(&[n, k])
        .f32s("weight_scales", scales)
        .ints("bias", bias)
        .float("output_scale", power(rng, -1, 1))
        .int("output_zero_point", rng.int(-40, 40))
        .flag("relu", relu);
    Case::new(note, inputs)
}

fn replace_zero_point(inputs: Values, zero_point: i64) -> Values {
    let mut named: Vec<_> = inputs.iter().cloned().collect();
    for named in named
        .iter_mut()
        .filter(|named| named.name == "output_zero_point")
    {
        named.value = tinytorch_exam::Value::I64(vec![zero_point]);
    }
    named.into()
}

fn qtensor(codes: Vec<i8>, shape: &[usize], parameters: Parameters) -> Result<QTensor, Stop> {
    QTensor::new(codes, shape, parameters, INT8).map_err(refused)
}

pub(super) fn run_forward(case: &Case) -> Answer {
    let pair = |name: &str| -> Result<QParams, Stop> {
        Ok(qparams(
            case.float(&format!("{name}_scale"))?,
            case.int(&format!("{name}_zero_point"))?,
        ))
    };
    let (input, output) = (pair("input")?, pair("output")?);
    let scales = case
        .f32s("weight_scales")?
        .iter()
        .map(|&scale| qparams(scale, 0))
        .collect();
    let per_channel = Parameters::PerChannel {
        axis: 0,
        qparams: scales,
    };
    let weight = qtensor(case.ints("weight")?, &case.shape("weight")?, per_channel)?;
    let layer = QLinear::from_parts(
        weight,
        case.ints("bias")?,
        input,
        output,
        case.flag("relu")?,
    )
    .map_err(refused)?;
    let x = qtensor(
        case.ints("x")?,
        &case.shape("x")?,
        Parameters::PerTensor(input),
    )?;
    let y = layer.forward_definition(&x).map_err(refused)?;
    let values = Values::new()
        .ints("codes", y.as_slice().iter().copied())
        .shaped(y.shape());
    Ok(match y.qparams() {
        Some(meaning) => values
            .float("scale", meaning.scale)
            .int("zero_point", meaning.zero_point),
        None => values,
    })
}

pub(super) fn memory_case(outputs: usize, inputs: usize, per_channel: bool) -> Case {
    let note = if per_channel {
        "one scale for each output"
    } else {
        "one scale for all"
    };
    let values = Values::new()
        .count("outputs", outputs)
        .count("inputs", inputs);
    Case::new(note, values.flag("per_channel", per_channel))
}

pub(super) fn run_memory(case: &Case) -> Answer {
    let (outputs, inputs): (usize, usize) = (case.int("outputs")?, case.int("inputs")?);
    let unit = qparams(0.5, 0);
    let parameters = if case.flag("per_channel")? {
        Parameters::PerChannel {
            axis: 0,
            qparams: vec![unit; outputs],
        }
    } else {
        Parameters::PerTensor(unit)
    };
    let weight = QTensor::new(
        vec![1; outputs * inputs],
        &[outputs, inputs],
        parameters,
        NARROW,
    )
    .map_err(refused)?;
    let layer =
        QLinear::from_parts(weight, vec![3; outputs], unit, unit, false).map_err(refused)?;
    Ok(Values::new().count("bytes", layer.memory_bytes()))
}
