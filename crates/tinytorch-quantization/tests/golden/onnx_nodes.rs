//! The node tests of ONNX that concern us, all of them: each passes exactly, or is listed in `onnx_nodes_not_exact.txt` with
//! the reason why not.

use ndarray::ArrayD;
use serde_json::Value;
use tinytorch_core::Conv2dOptions;
use tinytorch_quantization::{
    Blocks, CodeRange, Dialect, Half, Parameters, QParams, QTensor, ValueRange, conv_integer,
    dequantize_linear, dequantize_linear_blocked, mat_mul_integer, q_linear_conv, q_linear_mat_mul,
    quantize_linear, quantize_linear_blocked,
};

use crate::reader::{Case, Golden};

/// Types that this library does not have.
const NO_SUCH_TYPE: [(&str, &str); 3] = [
    ("float8", "8-bit floating point: no such type"),
    ("float4", "4-bit floating point: no such type"),
    ("float64", "64-bit floating point: no tensor holds it"),
];

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
    let by_type = NO_SUCH_TYPE.iter().find(|(part, _)| has(part));
    by_type.map(|(_, reason)| *reason)
}

/// Which values share a scale: one for all, one for each index along an axis, blocks of a matrix, which are groups here; or blocks along any axis.
fn sharing(
    case: &Case<'_>,
    shape: &[usize],
    scale: &Array,
    zeros: Option<&Array>,
) -> (Option<Parameters>, Option<Blocks>) {
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
    match attribute("block_size").filter(|&size| size > 0) {
        Some(size) => {
            let size = size as usize;
            let groups = Parameters::PerGroup {
                size,
                qparams: qparams.clone(),
            };
            let in_rows = (shape.len(), axis) == (2, 1);
            let blocks = Blocks {
                axis,
                size,
                qparams,
            };
            (in_rows.then_some(groups), Some(blocks))
        }
        None if qparams.len() == 1 => (Some(Parameters::PerTensor(qparams[0])), None),
        None => (Some(Parameters::PerChannel { axis, qparams }), None),
    }
}

fn quantize_linear_case(case: &Case<'_>, input: &[Array], output: &[Array]) {
    let [x, scale, zeros @ ..] = input else {
        panic!("{} has too few inputs", case.name)
    };
    let y = &output[0];
    let (parameters, blocks) = sharing(case, &x.shape, scale, zeros.first());
    assert!(parameters.is_some() || blocks.is_some());
    if let Some(parameters) = parameters {
        let got = quantize_linear(&x.reals(), &x.shape, &parameters, y.codes());
        assert_eq!(got, Ok(y.integers()), "{}", case.name);
    }
    if let Some(blocks) = blocks {
        let got = quantize_linear_blocked(&x.reals(), &x.shape, &blocks, y.codes());
        assert_eq!(got, Ok(y.integers()), "{}", case.name);
    }
}

fn dequantize_linear_case(case: &Case<'_>, input: &[Array], output: &[Array]) {
    let [x, scale, zeros @ ..] = input else {
        panic!("{} has too few inputs", case.name)
    };
    let (parameters, blocks) = sharing(case, &x.shape, scale, zeros.first());
    assert!(parameters.is_some() || blocks.is_some());
    let expected = output[0].reals();
    if let Some(blocks) = blocks {
        let got = dequantize_linear_blocked(&x.integers(), &x.shape, &blocks, x.codes());
        assert_eq!(got.as_ref(), Ok(&expected), "{}", case.name);
    }
    if let Some(parameters) = parameters {
        let got = dequantize_linear(&x.integers(), &x.shape, &parameters, x.codes());
        assert_eq!(got.as_ref(), Ok(&expected), "{}", case.name);
        if !x.kind.ends_with("16") {
            let stored = tensor(x, parameters).dequantize();
            assert_eq!(stored.into_iter().collect::<Vec<f32>>(), expected);
        }
    }
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

/// As the library holds it.
fn tensor(array: &Array, parameters: Parameters) -> QTensor {
    let made = if array.kind == "uint8" {
        QTensor::from_unsigned(&array.bytes, &array.shape, parameters)
    } else {
        let codes = array.integers().into_iter().map(|code| code as i8);
        QTensor::new(codes.collect(), &array.shape, parameters, array.codes())
    };
    made.expect("good codes")
}

/// Codes with one pair; a scale that the operator does not know is 1.
fn codes(input: &[Array], at: usize, scale: Option<usize>, zero: usize) -> QTensor {
    let pair = pair(input, scale, zero);
    tensor(&input[at], Parameters::PerTensor(pair))
}

fn pair(input: &[Array], scale: Option<usize>, zero: usize) -> QParams {
    QParams {
        scale: scale.map_or(1.0, |scale| input[scale].reals()[0]),
        zero_point: input.get(zero).map_or(0, |array| array.integers()[0]),
    }
}

fn mat_mul_integer_case(case: &Case<'_>, input: &[Array], output: &[Array]) {
    let (a, b) = (codes(input, 0, None, 2), codes(input, 1, None, 3));
    let got = mat_mul_integer(&a, &b).expect("they fit");
    same(case, got, &output[0]);
}

fn q_linear_mat_mul_case(case: &Case<'_>, input: &[Array], output: &[Array]) {
    let (a, b) = (codes(input, 0, Some(1), 2), codes(input, 3, Some(4), 5));
    let got = q_linear_mat_mul(&a, &b, pair(input, Some(6), 7), output[0].codes());
    same(case, got.expect("they fit"), &output[0]);
}

fn same(case: &Case<'_>, got: ArrayD<i32>, expected: &Array) {
    assert_eq!(got.shape(), expected.shape, "{}", case.name);
    let got: Vec<i32> = got.into_iter().collect();
    assert_eq!(got, expected.integers(), "{}", case.name);
}

fn options(case: &Case<'_>) -> Conv2dOptions {
    let attributes = case.setting("attributes").as_object().expect("a map");
    let known = |name: &String| name == "pads";
    assert!(attributes.keys().all(known), "{}", case.name);
    let padding = attributes.get("pads").map_or([0; 2], |pads| {
        let [top, left, bottom, right] = shape(pads)[..] else {
            panic!("{}: four pads", case.name)
        };
        assert_eq!((top, left), (bottom, right), "{}", case.name);
        [top, left]
    });
    Conv2dOptions {
        padding,
        ..Conv2dOptions::default()
    }
}

/// The weight of a convolution: one zero point, or one for each output.
fn weight(array: &Array, scale: f32, zeros: Option<&Array>) -> QTensor {
    let zeros = zeros.map_or_else(|| vec![0], Array::integers);
    let pair = |&zero_point: &i32| QParams { scale, zero_point };
    let qparams: Vec<QParams> = zeros.iter().map(pair).collect();
    let parameters = match qparams[..] {
        [pair] => Parameters::PerTensor(pair),
        _ => Parameters::PerChannel { axis: 0, qparams },
    };
    tensor(array, parameters)
}

fn conv_integer_case(case: &Case<'_>, input: &[Array], output: &[Array]) {
    let weight = weight(&input[1], 1.0, input.get(3));
    let got = conv_integer(&codes(input, 0, None, 2), &weight, options(case));
    same(case, got.expect("they fit"), &output[0]);
}

fn q_linear_conv_case(case: &Case<'_>, input: &[Array], output: &[Array]) {
    assert_eq!(input[4].shape, [1], "{}: one weight scale", case.name);
    let weight = weight(&input[3], input[4].reals()[0], input.get(5));
    let x = codes(input, 0, Some(1), 2);
    let bias = input.get(8).map(Array::integers).unwrap_or_default();
    let written = pair(input, Some(6), 7);
    let got = q_linear_conv(
        &x,
        &weight,
        &bias,
        options(case),
        written,
        output[0].codes(),
    );
    same(case, got.expect("they fit"), &output[0]);
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
            Some("QuantizeLinear") => quantize_linear_case,
            Some("DequantizeLinear") => dequantize_linear_case,
            Some("DynamicQuantizeLinear") => dynamic_quantize_linear,
            Some("QLinearMatMul") => q_linear_mat_mul_case,
            Some("QLinearConv") => q_linear_conv_case,
            Some("MatMulInteger") => mat_mul_integer_case,
            Some("ConvInteger") => conv_integer_case,
            Some("Cast" | "CastLike") => cast,
            other => panic!("{}: nobody computes {other:?}", case.name),
        };
        check(case, &input, &output);
        exact += 1;
    });
    // A case that changes sides changes this file, or this number.
    assert_eq!(listed, include_str!("onnx_nodes_not_exact.txt"));
    assert_eq!(exact, 82);
}
