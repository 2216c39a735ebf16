//! Quantized models in files: what is written comes back, and what is not ours or not whole is refused.

#[path = "files/contents.rs"]
mod contents;
#[path = "files/structured.rs"]
mod structured;

use std::fs;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use serde_json::json;
use tinytorch_core::Tensor;
use tinytorch_core::nn::{
    BatchNorm2d, Conv2d, Conv2dConfig, Flatten, Gelu, Layer, Linear, MaxPool2d, Relu, Sequential,
};
use tinytorch_core::safetensors::save_weights;
use tinytorch_quantization::{
    Error, FileError, PrepareOptions, QModel, calibrate, compare_sizes, convert, prepare,
};

use contents::{Contents, crc32};

fn network() -> (Sequential, Tensor) {
    let rng = &mut ChaCha8Rng::seed_from_u64(11);
    let conv = |config, rng: &mut _| Conv2d::new(config, rng).expect("a good configuration");
    let model = Sequential::new()
        .with(conv(Conv2dConfig::new(2, 8, 3).padding(1), rng))
        .with(BatchNorm2d::new(8))
        .with(Relu)
        .with(MaxPool2d::new(2))
        .with(Gelu)
        .with(BatchNorm2d::new(8))
        .with_named("kept", conv(Conv2dConfig::new(8, 8, 3).groups(2), rng))
        .with(Flatten)
        .with_named("last", Linear::new(32, 3, rng));
    (model, Tensor::randn(&[4, 2, 8, 8], rng))
}

fn quantized(model: &Sequential, x: &Tensor) -> QModel {
    let options = PrepareOptions {
        keep_float: vec!["kept".to_owned()],
        ..PrepareOptions::default()
    };
    let mut prepared = prepare(model, &options).expect("known layers");
    calibrate(&mut prepared, [x.clone()]).expect("good batches");
    convert(&prepared).expect("calibrated")
}

#[test]
fn a_model_that_is_read_back_computes_the_same_bits() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.safetensors");
    let (model, x) = network();
    let model = quantized(&model, &x);
    let bytes = model.save(&path).expect("a place to write");
    assert_eq!(bytes, fs::metadata(&path).expect("it is there").len());

    let read = QModel::load(&path).expect("a whole file");
    let expected = model.forward(&x).expect("fits").to_vec();
    assert_eq!(read.forward(&x).expect("fits").to_vec(), expected);
    assert_eq!(read.memory_bytes(), model.memory_bytes());
    let reasons: Vec<_> = read.in_float().collect();
    assert_eq!(reasons, model.in_float().collect::<Vec<_>>());

    // Equal models give equal files.
    let again = folder.path().join("again.safetensors");
    read.save(&again).expect("a place to write");
    assert_eq!(
        fs::read(&path).expect("it is there"),
        fs::read(&again).expect("it is there")
    );
}

#[test]
fn a_large_layer_takes_about_a_quarter_on_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    let rng = &mut ChaCha8Rng::seed_from_u64(12);
    let model = Sequential::new().with(Linear::new(784, 128, rng));
    let x = Tensor::randn(&[4, 784], rng);
    let mut prepared = prepare(&model, &PrepareOptions::default()).expect("known layers");
    calibrate(&mut prepared, [x]).expect("good batches");
    let quantized = convert(&prepared).expect("calibrated");

    let paths = ["f32", "int8"].map(|name| folder.path().join(name));
    save_weights(&paths[0], &model).expect("a place to write");
    let int8 = quantized.save(&paths[1]).expect("a place to write");
    let f32 = fs::metadata(&paths[0]).expect("it is there").len();
    let ratio = int8 as f64 / f32 as f64;
    assert!(ratio > 0.25 && ratio < 0.27, "{int8} of {f32} bytes");
    let sizes = compare_sizes(&model, &quantized);
    assert!(sizes.ratio > 0.25 && sizes.ratio < 0.27, "{sizes:?}");
}

#[test]
fn every_damaged_byte_and_every_cut_is_noticed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.safetensors");
    let (model, x) = network();
    quantized(&model, &x).save(&path).expect("a place to write");
    let bytes = fs::read(&path).expect("it is there");
    // Every byte takes long; every 37th meets header, description and each tensor.
    for index in (0..bytes.len()).step_by(37) {
        let mut damaged = bytes.clone();
        damaged[index] ^= 0x10;
        fs::write(&path, damaged).expect("a place to write");
        assert!(QModel::load(&path).is_err(), "byte {index} was changed");
        fs::write(&path, &bytes[..index]).expect("a place to write");
        assert!(QModel::load(&path).is_err(), "cut after {index} bytes");
    }
}

#[test]
fn files_of_others_are_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.safetensors");
    let (model, _) = network();
    save_weights(&path, &model).expect("a place to write");
    let foreign = QModel::load(&path).expect_err("weights in f32");
    assert_eq!(
        foreign,
        Error::File(FileError::Foreign { path: path.clone() })
    );
    let missing = QModel::load(folder.path().join("none")).expect_err("no file");
    assert!(matches!(
        missing,
        Error::File(FileError::Io { action: "read", .. })
    ));
}

/// A layer of one's own.
struct Halve;

impl Layer for Halve {
    fn forward(&self, x: &Tensor) -> tinytorch_core::Result<Tensor> {
        Ok(x * 0.5)
    }

    fn kind(&self) -> &'static str {
        "halve"
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

#[test]
fn a_layer_that_no_file_can_hold_is_named() {
    let rng = &mut ChaCha8Rng::seed_from_u64(13);
    let model = Sequential::new()
        .with(Linear::new(3, 2, rng))
        .with_named("own", Halve);
    let mut prepared = prepare(&model, &PrepareOptions::default()).expect("known layers");
    calibrate(&mut prepared, [Tensor::randn(&[4, 3], rng)]).expect("good batches");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.safetensors");
    let error = convert(&prepared)
        .expect("calibrated")
        .save(&path)
        .expect_err("a layer of one's own");
    assert!(
        error.to_string().starts_with("layer `own` cannot be saved"),
        "{error}"
    );
    assert!(
        error.to_string().contains(&*path.to_string_lossy()),
        "{error}"
    );
    assert!(!path.exists());
}

/// What loading a saved model says after `change`, if all checksums are made right again (`sign`), or are left.
fn refusal(sign: bool, change: impl FnOnce(&mut Contents)) -> (FileError, std::path::PathBuf) {
    match load_changed(sign, change) {
        (Err(Error::File(error)), path) => (error, path),
        (other, _) => panic!("{other:?}"),
    }
}

fn load_changed(
    sign: bool,
    change: impl FnOnce(&mut Contents),
) -> (Result<QModel, Error>, std::path::PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.safetensors");
    let (model, x) = network();
    quantized(&model, &x).save(&path).expect("a place to write");
    let mut contents = Contents::read(&path);
    if sign {
        // The texts of a description may differ in the order of their keys; this one is signed anew anyway.
        contents.sign();
        contents.write(&path);
        QModel::load(&path).expect("unchanged but for the order of keys");
    }
    change(&mut contents);
    if sign {
        contents.sign();
    } else {
        contents.layers_crc32 = crc32(&[contents.layers.to_string().as_bytes()]);
    }
    contents.write(&path);
    (QModel::load(&path), path)
}

#[test]
fn a_scale_of_zero_in_a_file_is_refused_with_its_layer() {
    for (scale_bits, zero_point) in [(0, 0), (f32::NAN.to_bits(), 0), (1.0_f32.to_bits(), 200)] {
        let (result, _) = load_changed(true, |contents| {
            let layers = contents.layers["layers"].as_array_mut().expect("a list");
            let float = layers.iter_mut().find(|layer| layer[1]["kind"] == "float");
            let float = float.expect("a gelu stays in f32");
            float[1]["output"] = json!({ "scale_bits": scale_bits, "zero_point": zero_point });
        });
        let error = result.expect_err("no codes can mean this");
        assert!(
            matches!(&error, Error::Layer { name, error }
                if name == "4" && matches!(**error, Error::BadQParams { .. })),
            "{error}"
        );
    }
}

#[test]
fn another_shape_or_type_of_the_same_bytes_is_told_with_its_tensor() {
    let flipped = |name: &str, change: fn(&mut (Dtype, Vec<usize>, Vec<u8>))| {
        let (error, at) = refusal(false, |contents| {
            change(contents.tensors.get_mut(name).expect("it is there"));
        });
        assert!(
            matches!(&error, FileError::DamagedTensor { path, name: damaged, .. }
                if *path == at && damaged == name),
            "{error}"
        );
    };
    flipped("last.weight", |tensor| tensor.1.reverse());
    flipped("last.weight", |tensor| tensor.1.push(1));
    flipped("last.weight", |tensor| tensor.0 = Dtype::U8);
    flipped("last.bias", |tensor| tensor.0 = Dtype::F32);
    flipped("kept.weight", |tensor| tensor.1.swap(0, 1));
    flipped("kept.weight", |tensor| tensor.2[5] ^= 1);
}

#[test]
fn a_tensor_that_belongs_to_no_layer_is_refused_with_and_without_a_checksum() {
    for sign in [false, true] {
        // The second is of a layer that there is, but that has no such part.
        for name in ["other.weight", "2.weight"] {
            let (error, path) = refusal(sign, |contents| {
                let extra = (Dtype::U8, vec![2], vec![1, 2]);
                contents.tensors.insert(name.to_owned(), extra);
            });
            let name = name.to_owned();
            assert_eq!(error, FileError::Unexpected { path, name });
        }
    }
}

#[test]
fn a_tensor_that_is_missing_or_of_another_type_is_named() {
    let (error, at) = refusal(false, |contents| {
        contents.tensors.remove("last.scale");
    });
    assert!(
        matches!(&error, FileError::Damaged { path, reason }
            if *path == at && reason.contains("`last.scale`")),
        "{error}"
    );
    let (error, path) = refusal(true, |contents| {
        contents.tensors.remove("last.scale");
    });
    let expected = FileError::Tensor {
        path,
        name: "last.scale".to_owned(),
        expected: "F32".to_owned(),
        got: "nothing".to_owned(),
    };
    assert_eq!(error, expected);
    let (error, path) = refusal(true, |contents| {
        contents.tensors.get_mut("last.bias").expect("there").0 = Dtype::F32;
    });
    assert!(error.to_string().contains("`last.bias`"), "{error}");
    assert!(
        error.to_string().contains(&*path.to_string_lossy()),
        "{error}"
    );
}

/// A few bytes of a file once asked for 2 · 131,079 · 131,079 codes of an image of 8 by 8.
#[test]
fn a_padding_that_nobody_trained_is_refused_when_it_would_cost_memory() {
    for kind in ["conv2d", "float"] {
        let (read, _) = load_changed(true, |contents| {
            let layers = contents.layers["layers"].as_array_mut().expect("a list");
            let layer = layers.iter_mut().map(|layer| &mut layer[1]);
            let mut options = layer
                .filter(|layer| layer["kind"] == kind)
                .map(|layer| match kind {
                    "conv2d" => &mut layer["options"],
                    _ => &mut layer["layer"],
                });
            let options = options.find(|options| options.get("padding").is_some());
            options.expect("a convolution")["padding"] = json!([65_535, 65_535]);
        });
        let read = read.expect("it may fit some input");
        let x = Tensor::zeros(&[1, 2, 8, 8]);
        for refused in [read.forward(&x), read.forward_definition(&x)] {
            let error = refused.expect_err("16 GiB for each channel");
            let expected = if kind == "conv2d" { "0" } else { "kept" };
            assert!(
                matches!(&error, Error::Layer { name, error }
                    if name == expected && matches!(**error, Error::TooLarge { .. })),
                "{error}"
            );
        }
    }
}

/// What version 2 can say is said the same way in version 3.
#[test]
fn a_file_of_version_two_is_still_read() {
    let (model, x) = network();
    let expected = quantized(&model, &x).forward(&x).expect("fits").to_vec();
    let (read, _) = load_changed(true, |contents| {
        contents.layers["version"] = json!(2);
        contents
            .layers
            .as_object_mut()
            .expect("an object")
            .remove("ledger");
    });
    let read = read.expect("all of it is known");
    assert_eq!(read.forward(&x).expect("fits").to_vec(), expected);
}

#[test]
fn another_version_of_the_format_is_told() {
    for got in [1, 4] {
        let (error, path) = refusal(true, |contents| contents.layers["version"] = json!(got));
        let expected = FileError::Version {
            path,
            got,
            oldest: 2,
            supported: 3,
        };
        assert_eq!(error, expected);
    }
}
