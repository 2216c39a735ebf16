//! Files that somebody wrote who knows the format: any field, length, type, shape or record is another one, and all checksums are right. Each is
//! refused by an error, or makes a model that can be used.

use std::sync::LazyLock;

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use serde_json::{Value, json};
use tinytorch_core::Tensor;
use tinytorch_core::nn::{
    AvgPool2d, Concat, Conv2d, Conv2dConfig, Embedding, Flatten, Linear, Relu, Residual, Sequential,
};
use tinytorch_quantization::{
    Calibration, Error, Precision, PrepareOptions, QModel, calibrate, convert, prepare,
};

use crate::contents::{Contents, RawTensor};

type Rng = ChaCha8Rng;

/// A file, and inputs that its model takes.
struct Base {
    contents: Contents,
    x: Tensor,
}

/// Models that together have every record of the format.
static BASES: LazyLock<Vec<Base>> = LazyLock::new(|| {
    let rng = &mut Rng::seed_from_u64(21);
    let conv = |config, rng: &mut Rng| Conv2d::new(config, rng).expect("a good configuration");
    let (model, x) = crate::network();
    let plain = (crate::quantized(&model, &x), x);

    let narrow = Sequential::new()
        .with_named("words", Embedding::new(7, 12, rng))
        .with_named("dynamic", Linear::new(12, 9, rng))
        .with(Relu)
        .with_named("four", Linear::new(9, 16, rng))
        .with_named("half", Linear::new(16, 8, rng))
        .with_named("last", Linear::new(8, 3, rng));
    let four = Precision::WeightOnly {
        bits: 4,
        group: Some(4),
    };
    let of = |name: &str, precision| (name.to_owned(), precision);
    let options = PrepareOptions {
        overrides: vec![
            of("words", four),
            of("dynamic", Precision::Dynamic),
            of("four", four),
            of("half", Precision::Bf16),
        ],
        ..PrepareOptions::default()
    };
    let indices = Tensor::new(vec![0.0, 3.0, 6.0, 1.0], &[4]).expect("four");
    let narrow = (made(&narrow, &options, &indices), indices);

    let ways = Sequential::new()
        .with_named(
            "sum",
            Residual::new(conv(Conv2dConfig::new(2, 2, 3).padding(1), rng)),
        )
        .with(Relu)
        .with_named(
            "join",
            Concat::new()
                .with(conv(Conv2dConfig::new(2, 3, 1), rng))
                .with(Sequential::new()),
        )
        .with(AvgPool2d::new(2))
        .with(Flatten)
        .with_named("last", Linear::new(20, 3, rng));
    let x = Tensor::randn(&[2, 2, 4, 4], rng);
    let ways = (made(&ways, &PrepareOptions::default(), &x), x);

    let table = Sequential::new()
        .with_named("words", Embedding::new(5, 6, rng))
        .with_named("last", Linear::new(6, 2, rng));
    let indices = Tensor::new(vec![4.0, 0.0], &[2]).expect("two");
    let table = (made(&table, &PrepareOptions::default(), &indices), indices);

    let folder = tempfile::tempdir().expect("a folder");
    let all = [plain, narrow, ways, table].into_iter().enumerate();
    all.map(|(index, (model, x))| {
        let path = folder.path().join(index.to_string());
        model.save(&path).expect("a place to write");
        Base {
            contents: Contents::read(&path),
            x,
        }
    })
    .collect()
});

fn made(model: &Sequential, options: &PrepareOptions, x: &Tensor) -> QModel {
    let options = PrepareOptions {
        calibration: Calibration::MinMax,
        ..options.clone()
    };
    let mut prepared = prepare(model, &options).expect("known layers");
    calibrate(&mut prepared, [x.clone()]).expect("good batches");
    convert(&prepared).expect("calibrated")
}

/// The place with this number, counted as [`count`] does.
fn place(value: &mut Value, number: usize) -> Option<&mut Value> {
    fn walk<'a>(value: &'a mut Value, left: &mut usize) -> Option<&'a mut Value> {
        if *left == 0 {
            return Some(value);
        }
        *left -= 1;
        match value {
            Value::Array(items) => items.iter_mut().find_map(|item| walk(item, left)),
            Value::Object(fields) => fields.values_mut().find_map(|item| walk(item, left)),
            _ => None,
        }
    }
    walk(value, &mut { number })
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum(),
        _ => 0,
    }
}

const KINDS: [&str; 20] = [
    "linear",
    "conv2d",
    "max_pool2d",
    "avg_pool2d",
    "relu",
    "flatten",
    "float",
    "residual",
    "concat",
    "embedding",
    "narrow",
    "bf16",
    "codes",
    "dynamic",
    "real",
    "gelu",
    "softmax",
    "batch_norm2d",
    "",
    "last",
];

fn other_number(number: &Value, rng: &mut Rng) -> Value {
    let known = [
        json!(0),
        json!(1),
        json!(-1),
        json!(2),
        json!(3),
        json!(127),
        json!(128),
        json!(-128),
        json!(-129),
        json!(255),
        json!(65_535),
        json!(65_537),
        json!(i32::MAX),
        json!(i32::MIN),
        json!(u32::MAX),
        json!(1_u64 << 40),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(0.5),
        json!(1e300),
        json!(null),
        json!("7"),
        json!(true),
        json!(f32::NAN.to_bits()),
        json!(f32::INFINITY.to_bits()),
        json!((-1.0_f32).to_bits()),
        json!(f32::MAX.to_bits()),
        json!(f32::MIN_POSITIVE.to_bits()),
        json!(1.0_f32.to_bits()),
    ];
    match (rng.random_range(0..4), number.as_i64()) {
        (0, Some(number)) => json!(number.wrapping_add(1)),
        (1, Some(number)) => json!(number.wrapping_sub(1)),
        _ => known[rng.random_range(0..known.len())].clone(),
    }
}

fn change_description(layers: &mut Value, rng: &mut Rng) {
    let (from, to) = (
        rng.random_range(0..count(layers)),
        rng.random_range(0..count(layers)),
    );
    let other = place(layers, from).map(|value| value.clone());
    let Some(value) = place(layers, to) else {
        return;
    };
    // Now and then anything in the place of anything: but not so often that nothing is ever read to its end.
    if rng.random_range(0..8) == 0 {
        *value = other.unwrap_or(Value::Null);
        return;
    }
    match value {
        Value::Number(_) => *value = other_number(value, rng),
        Value::Bool(truth) => *truth = !*truth,
        Value::String(text) => KINDS[rng.random_range(0..KINDS.len())].clone_into(text),
        Value::Null => *value = json!({ "scale_bits": 1.0_f32.to_bits(), "zero_point": 3 }),
        Value::Array(items) if !items.is_empty() => {
            let (a, b) = (
                rng.random_range(0..items.len()),
                rng.random_range(0..items.len()),
            );
            match rng.random_range(0..4) {
                0 => _ = items.remove(a),
                1 => items.insert(a, items[b].clone()),
                2 => items.swap(a, b),
                _ => items.clear(),
            }
        }
        Value::Object(fields) if !fields.is_empty() => {
            let key = fields
                .keys()
                .nth(rng.random_range(0..fields.len()))
                .cloned();
            let removed = key.as_ref().and_then(|key| fields.remove(key));
            if let (Some(removed), true) = (removed, rng.random()) {
                fields.insert("another".to_owned(), removed);
            }
        }
        Value::Array(_) | Value::Object(_) => {}
    }
}

/// Bytes in an element.
fn width(dtype: Dtype) -> usize {
    match dtype {
        Dtype::I8 | Dtype::U8 | Dtype::BOOL => 1,
        Dtype::BF16 | Dtype::F16 | Dtype::I16 | Dtype::U16 => 2,
        Dtype::F32 | Dtype::I32 | Dtype::U32 => 4,
        _ => 8,
    }
}

fn change_tensor((dtype, shape, bytes): &mut RawTensor, rng: &mut Rng) {
    let types = [
        Dtype::I8,
        Dtype::U8,
        Dtype::BF16,
        Dtype::F16,
        Dtype::F32,
        Dtype::I32,
        Dtype::I64,
        Dtype::F64,
        Dtype::BOOL,
    ];
    match rng.random_range(0..8) {
        0 => {
            *dtype = types[rng.random_range(0..types.len())];
            *shape = vec![bytes.len() / width(*dtype)];
        }
        1 => shape.reverse(),
        2 => shape.push(1),
        3 => shape.insert(0, rng.random_range(0..2)),
        4 => *shape = vec![shape.iter().product()],
        5 if !shape.is_empty() => {
            let axis = rng.random_range(0..shape.len());
            shape[axis] = rng.random_range(0..2 * shape[axis] + 2);
        }
        6 => {
            let hostile = [0x00, 0xff, 0x7f, 0x80];
            bytes.fill(hostile[rng.random_range(0..hostile.len())]);
        }
        _ => {
            for _ in 0..bytes.len().min(8) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] = rng.random();
            }
        }
    }
    // As many bytes as the shape says.
    bytes.resize(shape.iter().product::<usize>() * width(*dtype), 1);
}

fn change_tensors(contents: &mut Contents, rng: &mut Rng) {
    let names: Vec<String> = contents.tensors.keys().cloned().collect();
    if names.is_empty() {
        return;
    }
    let (a, b) = (
        rng.random_range(0..names.len()),
        rng.random_range(0..names.len()),
    );
    match rng.random_range(0..8) {
        0 => _ = contents.tensors.remove(&names[a]),
        1 => {
            let copy = contents.tensors[&names[a]].clone();
            contents.tensors.insert(names[b].clone(), copy);
        }
        2 => {
            let copy = contents.tensors[&names[a]].clone();
            contents.tensors.insert(format!("{}.again", names[a]), copy);
        }
        _ => {
            if let Some(tensor) = contents.tensors.get_mut(&names[a]) {
                change_tensor(tensor, rng);
            }
        }
    }
}

/// The most memory that this process ever held, where the system tells. (What it only reserved grows with every thread.)
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(1024 * kib)
}

/// What can be done with a model can be done with this one, or gives an error.
fn use_it(model: &QModel, x: &Tensor, folder: &std::path::Path) {
    let _ = (
        model.memory_bytes(),
        model.ledger(),
        model.in_float().count(),
    );
    let other = Tensor::zeros(&[1, 2, 8, 8]);
    for x in [x, &other, &Tensor::zeros(&[0, 12])] {
        let fast = model.forward(x);
        let defined = model.forward_definition(x);
        if let (Ok(fast), Ok(defined)) = (&fast, &defined) {
            assert_eq!(fast.shape(), defined.shape());
        }
    }
    let again = folder.join("again");
    if model.save(&again).is_ok() {
        let read = QModel::load(&again).expect("what was written can be read");
        assert_eq!(read.memory_bytes(), model.memory_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn a_file_that_was_changed_and_signed_again_is_an_error_or_a_model(
        seed in any::<u64>(),
        base in 0_usize..4,
        changes in 1_usize..4,
    ) {
        let rng = &mut Rng::seed_from_u64(seed);
        let base = &BASES[base];
        let mut contents = base.contents.clone();
        for _ in 0..changes {
            if rng.random_range(0..3) == 0 {
                change_tensors(&mut contents, rng);
            } else {
                change_description(&mut contents.layers, rng);
            }
        }
        contents.sign();
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model");
        contents.write(&path);
        let before = peak_bytes();
        let result: Result<QModel, Error> = QModel::load(&path);
        match result {
            Ok(model) => use_it(&model, &base.x, folder.path()),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
        // The files have some KiB. A length or a padding that is taken at its word would be gibibytes.
        if let (Some(before), Some(after)) = (before, peak_bytes()) {
            prop_assert!(after - before < 1 << 30, "{} bytes", after - before);
        }
    }
}
