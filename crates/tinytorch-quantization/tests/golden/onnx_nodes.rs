//! The node tests of ONNX that concern us, all of them: each passes exactly, or is listed in `onnx_nodes_not_exact.txt` with
//! the reason why not.

use serde_json::Value;
use tinytorch_quantization::{
    CodeRange, Dialect, Dims, Half, Parameters, QParams, Rescale, ValueRange, gemm_i8,
};

use crate::reader::{Case, Golden};

/// Types that this library does not have.
const NO_SUCH_TYPE: [(&str, &str); 3] = [
    ("float8", "8-bit floating point: no such type"),
    ("float4", "4-bit floating point: no such type"),
    ("float64", "64-bit floating point: no tensor holds it"),
];

/// Cases that are not exact for another reason, by name.
const LISTED: [(&str, &str); 1] = [(
    "test_dequantizelinear_blocked",
    "blocks along an axis between others: groups lie along rows (N15)",
)];

/// One input or output: its type in ONNX, its shape, its bytes.
struct Array {
    kind: String,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Array {
    fn all(case: &Case<'_>, group: &str) -> Vec<Self> {
        let list = case.setting(group).as_array().expect("a list");
        let array = |(i, of): (usize, &Value)| Self {
            kind: of["type"].as_str().expect("a type").to_owned(),
            shape: shape(&of["shape"]),
            bytes: case.bytes(&format!("{group}{i}")),
        };
        list.iter().enumerate().map(array).collect()
    }

    fn halves(&self) -> Vec<u16> {
        let pairs = self.bytes.as_chunks().0.iter();
        pairs.map(|&bytes| u16::from_le_bytes(bytes)).collect()
    }

    /// As `f32`, which holds every value of the 16-bit types.
    fn reals(&self) -> Vec<f32> {
        let from = |half: Half| {
            self.halves()
                .into_iter()
                .map(|bits| half.from_bits(bits))
                .collect()
        };
        match self.kind.as_str() {
            "float32" => {
                let words = self.bytes.as_chunks().0.iter();
                words.map(|&bytes| f32::from_le_bytes(bytes)).collect()
            }
            "float16" => from(Half::F16),
            "bfloat16" => from(Half::Bf16),
            other => panic!("{other} is no real type"),
        }
    }

    /// Elements of fewer than 8 bits have a byte each here, with the sign in its top bits or not at all.
    fn integers(&self) -> Vec<i32> {
        let bits = self.codes().bits();
        let signed = self.kind.starts_with('i');
        let byte = |&byte: &u8| {
            let low = i32::from(byte) & ((1 << bits) - 1);
            if signed && low >> (bits - 1) == 1 {
                low - (1 << bits)
            } else {
                low
            }
        };
        match self.kind.as_str() {
            "int32" => {
                let words = self.bytes.as_chunks().0.iter();
                words.map(|&bytes| i32::from_le_bytes(bytes)).collect()
            }
            "int16" => self
                .halves()
                .into_iter()
                .map(|bits| i32::from(bits as i16))
                .collect(),
            "uint16" => self.halves().into_iter().map(i32::from).collect(),
            _ => self.bytes.iter().map(byte).collect(),
        }
    }

    fn codes(&self) -> CodeRange {
        match self.kind.as_str() {
            "int2" => CodeRange::signed(2),
            "uint2" => CodeRange::unsigned(2),
            "int4" => CodeRange::INT4,
            "uint4" => CodeRange::UINT4,
            "int8" => CodeRange::INT8,
            "uint8" => CodeRange::UINT8,
            "int16" | "int32" => CodeRange::signed(16),
            "uint16" => CodeRange::unsigned(16),
            other => panic!("{other} holds no codes"),
        }
    }
}

fn shape(value: &Value) -> Vec<usize> {
    let sizes = value.as_array().expect("a list").iter();
    sizes
        .map(|size| size.as_u64().expect("a size") as usize)
        .collect()
}

/// Why a case cannot pass, if it cannot.
fn reason(case: &Case<'_>) -> Option<&'static str> {
    let arrays = [Array::all(case, "in"), Array::all(case, "out")];
    let has = |part: &str| {
        let mut all = arrays.iter().flatten();
        all.any(|array| array.kind.starts_with(part))
    };
    let by_name = LISTED.iter().find(|(name, _)| *name == case.name);
    let by_type = NO_SUCH_TYPE.iter().find(|(part, _)| has(part));
    by_name.or(by_type).map(|(_, reason)| *reason)
}

/// Which values share a scale: one for all, one for each index along `axis`, or blocks in a matrix.
fn parameters(
    case: &Case<'_>,
    shape: &[usize],
    scale: &Array,
    zeros: Option<&Array>,
) -> Parameters {
    let scales = scale.reals();
    let zeros = zeros.map_or_else(|| vec![0; scales.len()], Array::integers);
    let pair = |(&scale, &zero_point): (&f32, &i32)| QParams { scale, zero_point };
    let qparams: Vec<QParams> = scales.iter().zip(&zeros).map(pair).collect();
    let attribute = |name: &str| case.setting("attributes")[name].as_i64();
    let axis = attribute("axis").unwrap_or(1);
    let axis = if axis < 0 {
        axis + shape.len() as i64
    } else {
        axis
    } as usize;
    match attribute("block_size") {
        Some(size) if size > 0 => {
            assert_eq!((shape.len(), axis), (2, 1), "{}", case.name);
            Parameters::PerGroup {
                size: size as usize,
                qparams,
            }
        }
        _ if qparams.len() == 1 => Parameters::PerTensor(qparams[0]),
        _ => Parameters::PerChannel { axis, qparams },
    }
}

fn quantize_linear(case: &Case<'_>, input: &[Array], output: &[Array]) {
    let [x, scale, zeros @ ..] = input else {
        panic!("{} has too few inputs", case.name)
    };
    let y = &output[0];
    let parameters = parameters(case, &x.shape, scale, zeros.first());
    let (reals, codes) = (x.reals(), y.codes());
    parameters.check(&x.shape, codes).expect("they fit");
    let mut got = vec![0; reals.len()];
    for (range, pair) in parameters.runs(&x.shape) {
        let written = Dialect::Onnx.quantize(&reals[range.clone()], pair, codes);
        got[range].copy_from_slice(&written.expect("finite"));
    }
    assert_eq!(got, y.integers(), "{}", case.name);
}

fn dequantize_linear(case: &Case<'_>, input: &[Array], output: &[Array]) {
    let [x, scale, zeros @ ..] = input else {
        panic!("{} has too few inputs", case.name)
    };
    let parameters = parameters(case, &x.shape, scale, zeros.first());
    let codes = x.integers();
    let mut got = vec![0.0; codes.len()];
    for (range, pair) in parameters.runs(&x.shape) {
        for index in range {
            got[index] = pair.scale * (codes[index] - pair.zero_point) as f32;
        }
    }
    assert_eq!(got, output[0].reals(), "{}", case.name);
}

fn dynamic_quantize_linear(case: &Case<'_>, input: &[Array], output: &[Array]) {
    let reals = input[0].reals();
    let range = ValueRange {
        min: reals.iter().copied().fold(f32::INFINITY, f32::min),
        max: reals.iter().copied().fold(f32::NEG_INFINITY, f32::max),
    };
    let chosen = Dialect::Onnx
        .choose_qparams(range, CodeRange::UINT8)
        .expect("a good range");
    assert_eq!([chosen.scale], *output[1].reals(), "{}", case.name);
    assert_eq!([chosen.zero_point], *output[2].integers(), "{}", case.name);
    let codes = Dialect::Onnx.quantize(&reals, chosen, CodeRange::UINT8);
    assert_eq!(codes, Ok(output[0].integers()), "{}", case.name);
}

/// Codes and zero point moved to fit an `i8` (N9).
fn signed(codes: &Array, zero_point: i32) -> (Vec<i8>, i32) {
    let shift = if codes.kind == "uint8" { 128 } else { 0 };
    let narrow = |code: i32| i8::try_from(code - shift).expect("it fits");
    (
        codes.integers().into_iter().map(narrow).collect(),
        zero_point - shift,
    )
}

fn zero_point(input: &[Array], index: usize) -> i32 {
    input.get(index).map_or(0, |array| array.integers()[0])
}

/// The exact sums of `a [.., m, k] · b [.., k, n]`.
fn sums(a: &Array, a_zero: i32, b: &Array, b_zero: i32) -> Vec<i32> {
    let [.., m, k] = a.shape[..] else {
        panic!("a is no matrix")
    };
    let [.., n] = b.shape[..] else {
        panic!("b is no matrix")
    };
    let ((a, a_zero), (b, b_zero)) = (signed(a, a_zero), signed(b, b_zero));
    let matrices = a.chunks(m * k).zip(b.chunks(k * n));
    let product = |(a, b): (&[i8], &[i8])| {
        let transposed: Vec<i8> = (0..n * k).map(|i| b[i % k * n + i / k]).collect();
        let mut c = vec![0; m * n];
        gemm_i8(Dims { m, n, k }, a, a_zero, &transposed, b_zero, &mut c);
        c
    };
    matrices.flat_map(product).collect()
}

fn mat_mul_integer(case: &Case<'_>, input: &[Array], output: &[Array]) {
    let (a_zero, b_zero) = (zero_point(input, 2), zero_point(input, 3));
    let got = sums(&input[0], a_zero, &input[1], b_zero);
    assert_eq!(got, output[0].integers(), "{}", case.name);
}

fn requantized(sums: &[i32], scales: [&Array; 3], zero_point: i32, y: &Array) -> Vec<i32> {
    let [input, weight, output] = scales.map(|array| array.reals()[0]);
    let scales = Rescale {
        input,
        weight,
        output,
    };
    let codes = Dialect::Onnx.requantize(sums, scales, zero_point, y.codes());
    codes.expect("good scales")
}

fn q_linear_mat_mul(case: &Case<'_>, input: &[Array], output: &[Array]) {
    let sums = sums(
        &input[0],
        zero_point(input, 2),
        &input[3],
        zero_point(input, 5),
    );
    let scales = [&input[1], &input[4], &input[6]];
    let got = requantized(&sums, scales, zero_point(input, 7), &output[0]);
    assert_eq!(got, output[0].integers(), "{}", case.name);
}

/// The exact sums of a convolution with stride 1 and one group: every patch a row, padded with the code of 0.
fn conv_sums(case: &Case<'_>, x: &Array, x_zero: i32, w: &Array, w_zeros: &[i32]) -> Vec<i32> {
    let pads = &case.setting("attributes")["pads"];
    let pads = if pads.is_null() {
        vec![0; 4]
    } else {
        shape(pads)
    };
    let (&[1, c, h, width], &[o, _, kh, kw]) = (&x.shape[..], &w.shape[..]) else {
        panic!("{}: one image", case.name)
    };
    let (rows, columns) = (
        h + pads[0] + pads[2] + 1 - kh,
        width + pads[1] + pads[3] + 1 - kw,
    );
    let (codes, zero) = signed(x, x_zero);
    let padding = i8::try_from(zero).expect("a zero point is a code");
    let mut patches = Vec::new();
    for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
        for i in 0..c * kh * kw {
            let (channel, y, x) = (i / (kh * kw), row + i / kw % kh, column + i % kw);
            let inside =
                (pads[0]..pads[0] + h).contains(&y) && (pads[1]..pads[1] + width).contains(&x);
            let at = || (channel * h + y - pads[0]) * width + x - pads[1];
            patches.push(if inside { codes[at()] } else { padding });
        }
    }
    let k = c * kh * kw;
    let mut sums = Vec::new();
    for output in 0..o {
        let (weights, w_zero) = signed(w, w_zeros[output % w_zeros.len()]);
        let dims = Dims {
            m: rows * columns,
            n: 1,
            k,
        };
        let mut c = vec![0; dims.m];
        gemm_i8(
            dims,
            &patches,
            zero,
            &weights[output * k..][..k],
            w_zero,
            &mut c,
        );
        sums.append(&mut c);
    }
    sums
}

fn conv_integer(case: &Case<'_>, input: &[Array], output: &[Array]) {
    let zeros = input.get(3).map_or_else(|| vec![0], Array::integers);
    let got = conv_sums(case, &input[0], zero_point(input, 2), &input[1], &zeros);
    assert_eq!(got, output[0].integers(), "{}", case.name);
}

fn q_linear_conv(case: &Case<'_>, input: &[Array], output: &[Array]) {
    assert_eq!(input[4].shape, [1], "{}: one weight scale", case.name);
    let zeros = input[5].integers();
    let sums = conv_sums(case, &input[0], zero_point(input, 2), &input[3], &zeros);
    let scales = [&input[1], &input[4], &input[6]];
    let got = requantized(&sums, scales, zero_point(input, 7), &output[0]);
    assert_eq!(got, output[0].integers(), "{}", case.name);
}

/// Bits where a NaN is the one that is a NaN in `f32` as well: which of its many patterns comes is not specified.
fn cast(case: &Case<'_>, input: &[Array], output: &[Array]) {
    let (x, y) = (&input[0], &output[0]);
    if y.kind.contains("int") {
        let whole: Vec<i64> = if x.kind.contains("int") {
            x.integers().into_iter().map(i64::from).collect()
        } else {
            x.reals().into_iter().map(|x| x as i64).collect()
        };
        let got: Vec<i32> = whole.into_iter().map(|x| y.codes().wrap(x)).collect();
        assert_eq!(got, y.integers(), "{}", case.name);
        return;
    }
    // An integer is a code of scale 1.
    let reals = if x.kind.contains("int") {
        x.integers().into_iter().map(|code| code as f32).collect()
    } else {
        x.reals()
    };
    let same = |(got, expected): (f32, f32)| {
        got.is_nan() && expected.is_nan() || got.to_bits() == expected.to_bits()
    };
    let got: Vec<f32> = match y.kind.as_str() {
        "float32" => reals,
        "float16" => reals.iter().map(|&x| Half::F16.round(x)).collect(),
        "bfloat16" => reals.iter().map(|&x| Half::Bf16.round(x)).collect(),
        other => panic!("{}: {other}", case.name),
    };
    assert_eq!(got.len(), y.reals().len());
    assert!(got.into_iter().zip(y.reals()).all(same), "{}", case.name);
}

#[test]
fn every_node_test_is_exact_or_listed_with_its_reason() {
    let (mut exact, mut listed) = (0, String::new());
    Golden::open("onnx_nodes").all(|case| {
        if let Some(reason) = reason(case) {
            listed.push_str(&format!("{}: {reason}\n", case.name));
            return;
        }
        let (input, output) = (Array::all(case, "in"), Array::all(case, "out"));
        let check = match case.setting("op").as_str() {
            Some("QuantizeLinear") => quantize_linear,
            Some("DequantizeLinear") => dequantize_linear,
            Some("DynamicQuantizeLinear") => dynamic_quantize_linear,
            Some("QLinearMatMul") => q_linear_mat_mul,
            Some("QLinearConv") => q_linear_conv,
            Some("MatMulInteger") => mat_mul_integer,
            Some("ConvInteger") => conv_integer,
            Some("Cast" | "CastLike") => cast,
            other => panic!("{}: nobody computes {other:?}", case.name),
        };
        check(case, &input, &output);
        exact += 1;
    });
    // A case that changes sides changes this file, or this number.
    assert_eq!(listed, include_str!("onnx_nodes_not_exact.txt"));
    assert_eq!(exact, 81);
}
