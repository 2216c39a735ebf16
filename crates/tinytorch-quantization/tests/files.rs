//! Quantized models in files: what is written comes back, and what is not ours or not whole is refused.

use std::fs;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tinytorch_core::Tensor;
use tinytorch_core::nn::{
    BatchNorm2d, Conv2d, Conv2dConfig, Flatten, Gelu, Layer, Linear, MaxPool2d, Relu, Sequential,
};
use tinytorch_core::safetensors::save_weights;
use tinytorch_quantization::{
    Error, FileError, PrepareOptions, QModel, calibrate, compare_sizes, convert, prepare,
};

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
    assert!(!path.exists());
}
