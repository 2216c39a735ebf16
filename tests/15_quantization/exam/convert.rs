//! 15.9: a whole model, calibrated and written in integers.
//!
//! Weights and inputs are small whole numbers, so that every f32 sum is exact and the ranges do not depend on how a
//! machine adds up. Nothing that is compared depends on which kernel the machine's processor gets.

use tinytorch_exam::{Answer, Case, Check, Judge, Rng, Stop, Values, Visibility, refused};

use super::common::{NARROW, SCALE_ROUNDING, qparams};
use super::subject::convert::{calibrate, compare_sizes, convert};
use super::subject::framework::Tensor;
use super::subject::framework::nn::{Flatten, Linear, MaxPool2d, Relu, Sequential};
use super::subject::linear::QLinear;
use super::subject::prepare::{PrepareOptions, Prepared, prepare};
use super::subject::qlayer::QLayer;
use super::subject::qmodel::QModel;
use super::subject::qtensor::{Parameters, QTensor};

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "15.9/calibrate-all-batches",
        weight: 2,
        visibility: Visibility::Public,
        what: "the ranges after calibrating with several batches, the widest of which is neither first nor last (calls calibrate, which \
               builds on MinMaxObserver and, for the input, choose_qparams)",
        why: "One batch is a few samples. Ranges from the first or the last batch alone cut off what the others would have shown.",
        item: "calibrate",
        cases: |rng| {
            let mut cases = vec![by_hand()];
            cases.extend((0..2).map(|_| network(rng, 3, 2)));
            cases
        },
        run: run_calibrate,
        judge,
    },
    Check {
        id: "15.9/calibrate-in-order",
        weight: 2,
        visibility: Visibility::Public,
        what: "the ranges of the stages of square networks, in which every stage would also take the input itself (calls calibrate, which \
               builds on MinMaxObserver and, for the input, choose_qparams)",
        why: "An activation is what the stages before have made of the input. Fed with anything else the observers learn the ranges \
              of values that never occur.",
        item: "calibrate",
        cases: |rng| (0..3).map(|_| network(rng, 3, 3)).collect(),
        run: run_calibrate,
        judge,
    },
    Check {
        id: "15.9/calibrate-needs-data",
        weight: 1,
        visibility: Visibility::Public,
        what: "no batches, only empty ones, and empty ones among others (calls calibrate, which builds on MinMaxObserver and, for the \
               input, choose_qparams)",
        why: "A calibration that saw nothing must say so there and then. Otherwise the error comes later, from somewhere else, or not at all.",
        item: "calibrate",
        cases: |rng| {
            let with_lengths = |case: &Case, note: &str, rows: Vec<i64>| {
                let values = case
                    .inputs
                    .iter()
                    .filter(|named| named.name != "batch_rows")
                    .cloned()
                    .collect::<Vec<_>>();
                let mut values = Values::from(values);
                if rows.iter().all(|&rows| rows == 0) {
                    let others = values
                        .iter()
                        .filter(|named| named.name != "batches")
                        .cloned()
                        .collect::<Vec<_>>();
                    values = Values::from(others).f32s("batches", []);
                }
                Case::new(note, values.ints("batch_rows", rows))
            };
            let case = network(rng, 2, 2);
            let all = case
                .ints::<i64>("batch_rows")
                .map_or(0, |rows| rows.iter().sum());
            vec![
                with_lengths(&case, "no batches", Vec::new()),
                with_lengths(&case, "an empty batch", vec![0]),
                with_lengths(&case, "an empty batch first", vec![0, all]),
                with_lengths(&case, "an empty batch last", vec![all, 0]),
            ]
        },
        run: run_calibrate,
        judge,
    },
    Check {
        id: "15.9/convert-hands-on",
        weight: 3,
        visibility: Visibility::Public,
        what: "names, kinds and output parameters of the layers of converted models (this calls convert, which builds on the quantized \
               linear layer and all that it is made of)",
        why: "The codes that leave one layer enter the next. If the two do not agree on what they mean, every layer is right and the \
              model is wrong.",
        item: "convert",
        cases: |rng| vec![images(rng), network(rng, 3, 2), network(rng, 2, 4)],
        run: run_convert,
        judge,
    },
    Check {
        id: "15.9/convert-answers",
        weight: 2,
        visibility: Visibility::Public,
        what: "what converted models answer to their calibration data (this calls convert, which builds on the quantized linear layer and \
               all that it is made of)",
        why: "In the end only the answers count: calibrated, quantized, computed in integers and read back.",
        item: "convert",
        cases: |rng| vec![images(rng), network(rng, 3, 2)],
        run: run_answers,
        judge: || {
            Judge::ulps(
                8,
                "the scale of the output is rounded once or twice, and multiplied once",
            )
        },
    },
    Check {
        id: "15.9/convert-needs-calibration",
        weight: 1,
        visibility: Visibility::Public,
        what: "converting a model that was not calibrated, beside one that was (this calls convert, which builds on the quantized linear \
               layer and all that it is made of)",
        why: "Made-up ranges would give a model that runs and answers nonsense. The error names the place that saw nothing.",
        item: "convert",
        cases: |rng| {
            let mut without = network(rng, 2, 2);
            without.note = "not calibrated".to_owned();
            without.inputs = without.inputs.flag("skip_calibration", true);
            vec![without, network(rng, 2, 2)]
        },
        run: run_convert,
        judge,
    },
    Check {
        id: "15.9/sizes",
        weight: 2,
        visibility: Visibility::Public,
        what: "the bytes of models of several sizes in f32 and in integers, and their ratio; also of a model without parameters",
        why: "The ratio is the number everybody quotes. It compares bytes with bytes, of everything that is held, small over large.",
        item: "compare_sizes",
        cases: |rng| {
            [
                (2, 3),
                (16, 8),
                (rng.size(2, 40), rng.size(2, 40)),
                (0, 0),
                (10, 64),
            ]
            .into_iter()
            .map(|(outputs, inputs)| sizes(outputs, inputs))
            .collect()
        },
        run: run_sizes,
        judge: || Judge::Equal,
    },
];

/// `[Linear]` that doubles, and the batches of the worked example.
fn by_hand() -> Case {
    let inputs = Values::new()
        .f32s("weight1", [2.0])
        .shaped(&[1, 1])
        .f32s("bias1", [0.0])
        .f32s("weight2", [1.0])
        .shaped(&[1, 1])
        .f32s("bias2", [0.0])
        .f32s("batches", [1.0, -3.0])
        .ints("batch_rows", [1i64, 1]);
    Case::new("doubles", inputs)
}

/// Whole numbers.
fn whole(rng: &mut Rng, n: usize, reach: i64) -> Vec<f32> {
    rng.ints(n, -reach, reach)
        .into_iter()
        .map(|value| value as f32)
        .collect()
}

/// `[Linear, ReLU, Linear]` and four batches, the second of which is the widest.
pub(super) fn network(rng: &mut Rng, features: usize, hidden: usize) -> Case {
    loop {
        let batches: Vec<f32> = [2, 6, 2, 1]
            .into_iter()
            .flat_map(|reach| whole(rng, 2 * features, reach))
            .collect();
        let values = Values::new()
            .f32s("weight1", whole(rng, hidden * features, 3))
            .shaped(&[hidden, features])
            .f32s("bias1", whole(rng, hidden, 2))
            .f32s("weight2", whole(rng, features * hidden, 3))
            .shaped(&[features, hidden])
            .f32s("bias2", whole(rng, features, 2))
            .f32s("batches", batches)
            .ints("batch_rows", [2i64; 4]);
        let case = Case::new(format!("{features} features, {hidden} hidden"), values);
        if is_clear(&case).unwrap_or(false) {
            return case;
        }
    }
}

/// Images `[n, 1, 2, 2]` through `[Linear, ReLU, MaxPool2d, Flatten, Linear]`.
pub(super) fn images(rng: &mut Rng) -> Case {
    loop {
        let values = Values::new()
            .f32s("weight1", whole(rng, 4, 3))
            .shaped(&[2, 2])
            .f32s("bias1", whole(rng, 2, 2))
            .f32s("weight2", whole(rng, 3, 3))
            .shaped(&[3, 1])
            .f32s("bias2", whole(rng, 3, 2))
            .flag("images", true)
            .f32s("batches", whole(rng, 16, 5))
            .ints("batch_rows", [2i64, 2]);
        let case = Case::new("images", values);
        if is_clear(&case).unwrap_or(false) {
            return case;
        }
    }
}

/// Whether no range is empty, and no zero point, input or weight is near a tie: then nothing depends on how someone
/// rounds a scale.
fn is_clear(case: &Case) -> Result<bool, Stop> {
    let (mut prepared, batches) = (model(case)?, batches(case)?);
    // What the input and each stage showed, the input first.
    let mut shown = vec![Vec::new(); 1 + prepared.stages().len()];
    for batch in batches {
        let mut x = batch;
        shown[0].extend(x.to_vec());
        for (stage, values) in prepared.stages_mut().iter_mut().zip(&mut shown[1..]) {
            x = stage.forward(&x).map_err(refused)?;
            values.extend(x.to_vec());
        }
    }
    let off_tie = |steps: f64| (steps.rem_euclid(1.0) - 0.5).abs() > 0.01;
    let widths: Vec<(f64, f64)> = shown
        .iter()
        .map(|values| {
            let (min, max) = values.iter().fold((0.0_f32, 0.0_f32), |(min, max), &x| {
                (min.min(x), max.max(x))
            });
            (f64::from(min), f64::from(max - min))
        })
        .collect();
    let zeros_are = widths
        .iter()
        .all(|&(min, width)| width > 0.0 && off_tie(min * 255.0 / width));
    let inputs_are = shown[0]
        .iter()
        .all(|&x| off_tie(f64::from(x) * 255.0 / widths[0].1));
    // Half of an even maximum is 63.5 steps.
    let mut weights_are = true;
    for name in ["weight1", "weight2"] {
        let columns = case.shape(name)?[1];
        weights_are &= case.f32s(name)?.chunks(columns).all(|row| {
            let max_abs = row
                .iter()
                .fold(0.0_f32, |max, weight| max.max(weight.abs()));
            max_abs as i32 % 2 == 1
        });
    }
    Ok(zeros_are && inputs_are && weights_are)
}

fn tensor(values: &[f32], shape: &[usize]) -> Result<Tensor, Stop> {
    Tensor::new(values.to_vec(), shape).map_err(|error| Stop::Malformed(error.to_string()))
}

fn linear(case: &Case, number: u8) -> Result<Linear, Stop> {
    let (weight, bias) = (format!("weight{number}"), format!("bias{number}"));
    let bias = case.f32s(&bias)?;
    let weight = tensor(case.f32s(&weight)?, &case.shape(&weight)?)?;
    Linear::from_parts(weight, Some(tensor(bias, &[bias.len()])?))
        .map_err(|error| Stop::Malformed(error.to_string()))
}

fn is_images(case: &Case) -> bool {
    case.inputs.find("images").is_some()
}

/// The model of a case, prepared with min-max observers.
fn model(case: &Case) -> Result<Prepared, Stop> {
    let model = Sequential::new()
        .with_named("first", linear(case, 1)?)
        .with_named("relu", Relu);
    let model = if is_images(case) {
        model
            .with_named("pool", MaxPool2d::new(2))
            .with_named("flatten", Flatten)
    } else {
        model
    };
    let model = model.with_named("last", linear(case, 2)?);
    prepare(&model, &PrepareOptions::default()).map_err(refused)
}

fn batches(case: &Case) -> Result<Vec<Tensor>, Stop> {
    let shape: &[usize] = if is_images(case) {
        &[1, 2, 2]
    } else {
        &[case.shape("weight1")?[1]]
    };
    let row: usize = shape.iter().product();
    let mut rest = case.f32s("batches")?;
    let mut found = Vec::new();
    for rows in case.ints::<usize>("batch_rows")? {
        let (batch, after) = rest
            .split_at_checked(rows * row)
            .ok_or_else(|| Stop::Malformed("`batch_rows` exceed `batches`".to_owned()))?;
        found.push(tensor(batch, &[&[rows], shape].concat())?);
        rest = after;
    }
    Ok(found)
}

pub(super) fn run_calibrate(case: &Case) -> Answer {
    let mut prepared = model(case)?;
    calibrate(&mut prepared, batches(case)?).map_err(refused)?;
    let input = prepared.input_qparams().map_err(refused)?;
    let (mut min, mut max) = (Vec::new(), Vec::new());
    for stage in prepared.stages() {
        let range = stage.range().map_err(refused)?;
        min.push(range.min);
        max.push(range.max);
    }
    Ok(Values::new()
        .f32s("stage_min", min)
        .f32s("stage_max", max)
        .float("input_scale", input.scale)
        .int("input_zero_point", input.zero_point))
}

/// Calibrates without the exercise's `calibrate`, so that this exercise's parts can be solved in any order.
fn calibrated(case: &Case) -> Result<Prepared, Stop> {
    let mut prepared = model(case)?;
    if case.inputs.find("skip_calibration").is_some() {
        return Ok(prepared);
    }
    for batch in batches(case)? {
        prepared.observe_input(&batch).map_err(refused)?;
        let mut x = batch;
        for at in 0..prepared.stages().len() {
            let stage = &mut prepared.stages_mut()[at];
            x = stage.forward(&x).map_err(refused)?;
            stage.observe(&x).map_err(refused)?;
        }
    }
    Ok(prepared)
}

pub(super) fn run_convert(case: &Case) -> Answer {
    let quantized = convert(&calibrated(case)?).map_err(refused)?;
    let mut current = quantized.input();
    let (mut kinds, mut scales, mut zero_points) =
        (Vec::new(), vec![current.scale], vec![current.zero_point]);
    for (name, layer) in quantized.layers().map_err(refused)? {
        kinds.push(format!("{name}: {}", layer.kind()));
        current = layer.output(current);
        scales.push(current.scale);
        zero_points.push(current.zero_point);
    }
    Ok(Values::new()
        .text("layers", kinds.join(", "))
        .f32s("scales", scales)
        .ints("zero_points", zero_points))
}

pub(super) fn run_answers(case: &Case) -> Answer {
    let quantized = convert(&calibrated(case)?).map_err(refused)?;
    let mut answers = Vec::new();
    for batch in batches(case)? {
        // By definition, layer by layer: what the fast kernels answer is the library's business.
        answers.extend(
            quantized
                .forward_definition(&batch)
                .map_err(refused)?
                .to_vec(),
        );
    }
    Ok(Values::new().f32s("answers", answers))
}

pub(super) fn sizes(outputs: usize, inputs: usize) -> Case {
    let note = if outputs == 0 {
        "no parameters"
    } else {
        "one linear layer"
    };
    Case::new(
        note,
        Values::new()
            .count("outputs", outputs)
            .count("inputs", inputs),
    )
}

pub(super) fn run_sizes(case: &Case) -> Answer {
    let (outputs, inputs): (usize, usize) = (case.int("outputs")?, case.int("inputs")?);
    let unit = qparams(0.5, 0);
    let (mut model, mut layers) = (
        Sequential::new().with(Flatten),
        vec![("0".to_owned(), QLayer::Flatten)],
    );
    if outputs > 0 {
        let weight = tensor(&vec![0.5; outputs * inputs], &[outputs, inputs])?;
        let bias = tensor(&vec![0.5; outputs], &[outputs])?;
        model = model.with(Linear::from_parts(weight, Some(bias)).map_err(refused)?);
        let channels = Parameters::PerChannel {
            axis: 0,
            qparams: vec![unit; outputs],
        };
        let weight = QTensor::new(
            vec![1; outputs * inputs],
            &[outputs, inputs],
            channels,
            NARROW,
        )
        .map_err(refused)?;
        let layer =
            QLinear::from_parts(weight, vec![3; outputs], unit, unit, false).map_err(refused)?;
        layers.push(("1".to_owned(), QLayer::Linear(layer)));
    }
    let quantized = QModel::new(unit, layers).map_err(refused)?;
    let report = compare_sizes(&model, &quantized);
    // How many bytes the integers take depends on how this machine's kernel pads them, so that is compared here.
    let ratio = if report.f32_bytes == 0 {
        1.0
    } else {
        report.int8_bytes as f64 / report.f32_bytes as f64
    };
    Ok(Values::new()
        .count("f32_bytes", report.f32_bytes)
        .flag(
            "int8_bytes_are_all_that_is_held",
            report.int8_bytes == quantized.memory_bytes(),
        )
        .flag(
            "ratio_is_int8_over_f32",
            (report.ratio - ratio).abs() < 1e-6,
        ))
}

pub(super) fn judge() -> Judge {
    Judge::ulps(2, SCALE_ROUNDING)
}
