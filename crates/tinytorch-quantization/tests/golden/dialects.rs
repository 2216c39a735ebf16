//! Each dialect against what its owner's software computes: not one code may differ.

use tinytorch_quantization::{
    CodeRange, Dialect, QParams, Rescale, ValueRange, compare_dialects, compare_requantization,
};

use crate::reader::{Case, Golden};

fn codes_of(case: &Case<'_>) -> CodeRange {
    CodeRange {
        min: case.integer("low"),
        max: case.integer("high"),
    }
}

#[test]
fn litert_quantizes_like_its_reference_kernel() {
    let mut others = [0, 0];
    Golden::open("dialects").each("op", "litert_quantize", |case| {
        let qparams = QParams {
            scale: case.floats("scale")[0],
            zero_point: case.integer("zero_point"),
        };
        let (x, codes) = (case.floats("x"), CodeRange::INT8);
        let reference = Dialect::LiteRt.quantize(&x, qparams, codes);
        assert_eq!(reference, Ok(case.integers("y")), "{}", case.name);
        // The default kernels multiply by the reciprocal and round ties to even.
        let default = Dialect::PyTorch.quantize(&x, qparams, codes);
        assert_eq!(default, Ok(case.integers("y_default")), "{}", case.name);
        for (count, other) in others.iter_mut().zip([Dialect::Onnx, Dialect::PyTorch]) {
            let found = compare_dialects(&x, (Dialect::LiteRt, qparams), (other, qparams), codes);
            *count += found.expect("finite values").count;
        }
    });
    // So these vectors tell the dialects apart.
    assert!(others[0] > 0 && others[1] > 0);
}

fn requantized_alike(op: &str, dialect: Dialect, codes: CodeRange) -> usize {
    let mut different_from_ours = 0;
    Golden::open("dialects").each("op", op, |case| {
        let (sums, weights) = (case.integers("sums"), case.floats("w_scale"));
        let (expected, zero_point) = (case.integers("y"), case.integer("zero_point"));
        let columns = case.shape("sums")[1];
        for column in 0..columns {
            let of = |values: &[i32]| -> Vec<i32> {
                values
                    .iter()
                    .skip(column)
                    .step_by(columns)
                    .copied()
                    .collect()
            };
            let scales = Rescale {
                input: case.floats("x_scale")[0],
                weight: weights[column % weights.len()],
                output: case.floats("y_scale")[0],
            };
            let got = dialect.requantize(&of(&sums), scales, zero_point, codes);
            assert_eq!(got, Ok(of(&expected)), "{}", case.name);
            let both = [Dialect::Onnx, dialect];
            let found = compare_requantization(&of(&sums), both, scales, zero_point, codes);
            different_from_ours += found.expect("good scales").count;
        }
    });
    different_from_ours
}

#[test]
fn litert_requantizes_like_its_reference_kernel() {
    let different = requantized_alike("litert_requantize", Dialect::LiteRt, CodeRange::INT8);
    assert!(different > 0, "the vectors hold no tie");
}

/// Here PyTorch, on the x86 engine, gives the codes of N12 as well: the multipliers may differ in the last bit, which shows only
/// beside a tie, as in the next test.
#[test]
fn pytorch_requantizes_like_its_linear_layer() {
    requantized_alike("torch_requantize", Dialect::PyTorch, CodeRange::UINT8);
}

/// Beside a tie the last bit of the multiplier decides. PyTorch, and ONNX Runtime as well, round every step to `f32`; N12 rounds the
/// multiplier once; LiteRT's reference kernel is exact. ONNX's text leaves it open, and its reference evaluator, which multiplies the
/// sum in `f64`, is a fourth way.
#[test]
fn beside_a_tie_each_dialect_is_its_owner_and_no_other() {
    Golden::open("requantize").each("op", "requantize", |case| {
        let scales = ["x_scale", "w_scale", "y_scale"].map(|name| case.floats(name));
        let sums = case.integers("sums");
        let written = |dialect: Dialect| -> Vec<i32> {
            let code = |(i, &sum): (usize, &i32)| {
                let [input, weight, output] = [0, 1, 2].map(|side: usize| scales[side][i]);
                let scales = Rescale {
                    input,
                    weight,
                    output,
                };
                dialect
                    .requantize(&[sum], scales, 0, CodeRange::INT8)
                    .expect("good scales")[0]
            };
            sums.iter().enumerate().map(code).collect()
        };
        let [ours, litert, torch] = Dialect::ALL.map(written);
        assert_eq!(torch, case.integers("y_torch"));
        assert_eq!(torch, case.integers("y_ort"));
        assert_eq!(litert, case.integers("y_litert"));
        // None of these lies at a tie, so how to round one does not matter here.
        assert_eq!(litert, case.integers("y_exact"));
        let apart = |left: &[i32], right: &[i32]| {
            let pairs = left.iter().zip(right);
            pairs.filter(|(left, right)| left != right).count()
        };
        // `docs/numerics.md` has these numbers.
        let reference = case.integers("y_reference");
        assert_eq!(sums.len(), 400);
        assert_eq!(apart(&ours, &torch), 55);
        assert_eq!([apart(&ours, &litert), apart(&torch, &litert)], [161, 158]);
        assert_eq!(
            [apart(&ours, &reference), apart(&torch, &reference)],
            [183, 130]
        );
    });
}

fn chosen_alike(op: &str, dialect: Dialect) {
    Golden::open("dialects").each("op", op, |case| {
        let codes = codes_of(case);
        let ends = case.floats("min").into_iter().zip(case.floats("max"));
        let expected = case
            .floats("scale")
            .into_iter()
            .zip(case.integers("zero_point"));
        for ((min, max), (scale, zero_point)) in ends.zip(expected) {
            let range = ValueRange { min, max };
            let got = if case.integer("symmetric") == 1 {
                let scale = dialect.symmetric_scale(range.max_abs(), codes);
                scale.map(QParams::symmetric)
            } else {
                dialect.choose_qparams(range, codes)
            };
            assert_eq!(
                got,
                Ok(QParams { scale, zero_point }),
                "{}: {range:?}",
                case.name
            );
        }
    });
}

#[test]
fn litert_chooses_parameters_like_its_quantizer() {
    chosen_alike("litert_qparams", Dialect::LiteRt);
}

#[test]
fn pytorch_chooses_parameters_like_its_observer() {
    chosen_alike("torch_qparams", Dialect::PyTorch);
}

#[test]
fn pytorch_quantizes_and_passes_gradients_like_its_fake_quantization() {
    let mut of_onnx = 0;
    Golden::open("fake_quantize").each("granularity", "tensor", |case| {
        let qparams = QParams {
            scale: case.real("scale"),
            zero_point: case.integer("zero_point"),
        };
        let (x, codes) = (case.floats("x"), codes_of(case));
        let got = Dialect::PyTorch
            .quantize(&x, qparams, codes)
            .expect("finite");
        let reals = got
            .iter()
            .map(|code| (code - qparams.zero_point) as f32 * qparams.scale);
        assert_eq!(
            reals.collect::<Vec<f32>>(),
            case.floats("y"),
            "{}",
            case.name
        );
        let mask = Dialect::PyTorch
            .gradient_mask(&x, qparams, codes)
            .expect("finite");
        let mask: Vec<i32> = mask.into_iter().map(i32::from).collect();
        assert_eq!(mask, case.integers("mask"), "{}", case.name);
        let pair = |dialect| (dialect, qparams);
        let found = compare_dialects(&x, pair(Dialect::Onnx), pair(Dialect::PyTorch), codes);
        of_onnx += found.expect("finite").count;
    });
    assert!(of_onnx > 0, "the vectors do not tell PyTorch from ONNX");
}
