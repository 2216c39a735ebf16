//! What is measured of a network and its integer version: accuracy, bytes, noise, time.

use std::rc::Rc;

use serde::Serialize;
use tinytorch_core::data::{Dataset, ImageDataset};
use tinytorch_core::nn::{Layer, Sequential};
use tinytorch_core::safetensors::save_weights;
use tinytorch_core::{Tensor, no_grad};
use tinytorch_labs::stopwatch::{Plan, race};
use tinytorch_quantization::metrics::{accuracy, agreement, sqnr_db};
use tinytorch_quantization::{
    CodeRange, PrepareOptions, Prepared, QLayer, QModel, QTensor, calibrate, compare_sizes,
    convert, prepare,
};

/// Batches whose latency is measured.
const BATCHES: [usize; 2] = [1, 64];

use crate::experiment::Result;
use crate::lab::{CALIBRATION, Lab, Writers};

/// One trained network, its quantized version, and how the two compare.
pub struct Trial {
    /// The network as it was trained.
    pub model: Rc<Sequential>,
    /// The same in integers.
    pub quantized: QModel,
    /// Percent of the test images.
    pub f32_accuracy: f64,
    /// Percent of the test images.
    pub int8_accuracy: f64,
    /// Percent of the test images on which both answer the same.
    pub agreement: f64,
    /// Images both were judged on.
    pub test_images: usize,
    /// Images that calibration saw.
    pub calibration_images: usize,
    /// Bytes of both.
    pub sizes: Sizes,
    /// Noise behind each layer.
    pub layers: Vec<LayerNoise>,
    /// Layers that were not quantized, with the reason.
    pub left_in_float: Vec<String>,
}

/// Bytes of a network in f32 and in INT8.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sizes {
    /// 4 for each weight of a linear layer or convolution.
    pub f32_weights: u64,
    /// 1 for each weight, and what says how to read the codes.
    pub int8_weights: u64,
    /// All parameters and buffers.
    pub f32_memory: u64,
    /// Codes as the kernels hold them, padding and row sums included, scales and biases.
    pub int8_memory: u64,
    /// The file, as written.
    pub f32_disk: u64,
    /// The file, as written.
    pub int8_disk: u64,
}

/// Median seconds for one batch.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    /// Images at a time.
    pub batch: usize,
    /// In f32.
    pub f32_seconds: f64,
    /// In INT8, from real numbers to real numbers.
    pub int8_seconds: f64,
}

/// The signal-to-quantization-noise ratio behind a layer.
#[derive(Clone, Debug, Serialize)]
pub struct LayerNoise {
    /// Its name in the network.
    pub name: String,
    /// What it was before conversion.
    pub kinds: String,
    /// Integers or f32.
    pub arithmetic: &'static str,
    /// In decibels; `None` if there is no noise at all.
    pub sqnr_db: Option<f64>,
}

/// Quantizes a trained network and compares the two.
pub fn trial(lab: &Lab, writers: Writers, model: Rc<Sequential>) -> Result<Trial> {
    let digits = lab.digits(writers);
    let calibration = lab.calibration(writers, CALIBRATION)?;
    let calibration_images = calibration.iter().map(|batch| batch.shape()[0]).sum();
    let mut prepared = prepare(&model, &PrepareOptions::default())?;
    calibrate(&mut prepared, calibration)?;
    let quantized = convert(&prepared)?;

    let test = digits.test.all()?;
    let (before, after) =
        no_grad(|| (model.forward(&test.inputs), quantized.forward(&test.inputs)));
    let (before, after) = (before?.to_vec(), after?.to_vec());
    let (labels, classes) = (test.targets.classes()?, digits.test.classes());
    Ok(Trial {
        f32_accuracy: 100.0 * accuracy(&before, classes, labels),
        int8_accuracy: 100.0 * accuracy(&after, classes, labels),
        agreement: 100.0 * agreement(&before, &after, classes),
        test_images: test.len(),
        calibration_images,
        sizes: sizes(&model, &quantized)?,
        layers: noise(&prepared, &quantized, &test.inputs)?,
        left_in_float: left_in_float(&quantized),
        model,
        quantized,
    })
}

fn left_in_float(quantized: &QModel) -> Vec<String> {
    let layers = quantized.in_float();
    layers
        .map(|(name, reason)| format!("{name}: {reason}"))
        .collect()
}

fn sizes(model: &Sequential, quantized: &QModel) -> Result<Sizes> {
    let folder = tempfile::tempdir()?;
    let (f32_file, int8_file) = (folder.path().join("f32"), folder.path().join("int8"));
    save_weights(&f32_file, model)?;
    let int8_disk = quantized.save(&int8_file)?;
    let mut weights = [0_u64, 0];
    for (_, layer) in quantized.layers()? {
        let weight = match &layer {
            QLayer::Linear(layer) => layer.weight(),
            QLayer::Conv2d(layer) => layer.weight(),
            _ => continue,
        };
        weights[0] += (weight.as_slice().len() * size_of::<f32>()) as u64;
        weights[1] += weight.memory_bytes() as u64;
    }
    let report = compare_sizes(model, quantized);
    Ok(Sizes {
        f32_weights: weights[0],
        int8_weights: weights[1],
        f32_memory: report.f32_bytes as u64,
        int8_memory: report.int8_bytes as u64,
        f32_disk: std::fs::metadata(f32_file)?.len(),
        int8_disk,
    })
}

/// Runs both networks side by side, each on its own values, and compares them behind every layer.
fn noise(prepared: &Prepared, quantized: &QModel, images: &Tensor) -> Result<Vec<LayerNoise>> {
    let mut real = images.clone();
    let mut codes =
        QTensor::quantize_with(images.array().view(), quantized.input(), CodeRange::INT8)?;
    let compare = |real: &Tensor, codes: &QTensor| -> Result<Option<f64>> {
        let back = Tensor::from_array(codes.dequantize());
        let sqnr = sqnr_db(&real.to_vec(), &back.to_vec());
        Ok(sqnr.is_finite().then_some(sqnr))
    };
    let mut rows = vec![LayerNoise {
        name: "input".to_owned(),
        kinds: "images".to_owned(),
        arithmetic: "i8",
        sqnr_db: compare(&real, &codes)?,
    }];
    for (stage, (name, layer)) in prepared.stages().iter().zip(quantized.layers()?) {
        real = stage.forward(&real)?;
        codes = layer.forward_definition(&codes)?;
        rows.push(LayerNoise {
            name,
            kinds: stage.kinds().join(" + "),
            arithmetic: match layer {
                QLayer::Float(_) => "f32",
                QLayer::Linear(_) | QLayer::Conv2d(_) => "i8 · i8 -> i32 -> i8",
                _ => "i8",
            },
            sqnr_db: compare(&real, &codes)?,
        });
    }
    Ok(rows)
}

/// Times both networks of a trial, taking turns.
pub fn latencies(trial: &Trial, images: &ImageDataset, plan: Plan) -> Result<Vec<Latency>> {
    let mut rows = Vec::new();
    for batch in BATCHES {
        let indices: Vec<usize> = (0..batch).collect();
        let inputs = images.batch(&indices)?.inputs;
        let mut in_f32 = || -> Result<()> {
            std::hint::black_box(no_grad(|| trial.model.forward(&inputs))?);
            Ok(())
        };
        let mut in_int8 = || -> Result<()> {
            std::hint::black_box(trial.quantized.forward(&inputs)?);
            Ok(())
        };
        let seconds = race(plan, &mut [&mut in_f32, &mut in_int8])?;
        rows.push(Latency {
            batch,
            f32_seconds: seconds[0],
            int8_seconds: seconds[1],
        });
    }
    Ok(rows)
}
