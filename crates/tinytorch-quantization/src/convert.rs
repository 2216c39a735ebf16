//! A whole model: watch it at work, then write it in integers.
//!
//! ```text
//! prepare(model) -> Prepared     observers at the input and behind every stage
//! calibrate(...)                 real data flows through; the observers learn the ranges
//! convert(...)   -> QModel       weights, biases and activations become integers
//! ```
//!
//! In: a trained model and some of the data it was made for. Out: a model that computes in integers from its first
//! quantized layer to its last.

use crate::error::Result;
use crate::framework::Tensor;
use crate::framework::nn::Layer;
use crate::prepare::Prepared;
use crate::qmodel::QModel;

/// Runs calibration data through a prepared model, so that its observers see every activation. **Exercise 15.9, first
/// part**
///
/// For each batch:
///
/// 1. show it to the observer of the input: [`Prepared::observe_input`];
/// 2. run it through the stages in order, each taking the output of the one before: [`Stage::forward`];
/// 3. show each output to the observer of its stage: [`Stage::observe`].
///
/// All batches count, not only the last. Labels are not needed: only ranges are learned here, and no weight changes.
///
/// # Worked example
///
/// A model `[Linear]` that doubles its input, and the batches `[[1]]`, `[[−3]]`: afterwards the input's range is
/// `[−3, 1]`, and that of the only stage `[−6, 2]`.
///
/// # Edge cases
///
/// A batch without values is passed over.
///
/// # Errors
///
/// - [`crate::Error::EmptyCalibration`] if no batch had a value: every range would be unknown.
/// - [`crate::Error::NotFinite`] that names the stage, or the input, whose values are not finite.
/// - [`crate::Error::Framework`] if a batch does not fit the model.
///
/// [`Stage::forward`]: crate::prepare::Stage::forward
/// [`Stage::observe`]: crate::prepare::Stage::observe
pub fn calibrate(prepared: &mut Prepared, batches: impl IntoIterator<Item = Tensor>) -> Result<()> {
    // BEGIN SOLUTION 15.9a
    let mut any = false;
    for batch in batches {
        if batch.is_empty() {
            continue;
        }
        any = true;
        prepared.observe_input(&batch)?;
        let mut x = batch;
        for stage in prepared.stages_mut() {
            x = stage.forward(&x)?;
            stage.observe(&x)?;
        }
    }
    if any {
        Ok(())
    } else {
        Err(crate::Error::EmptyCalibration)
    }
    // END SOLUTION
}

/// Writes a calibrated model in integers. **Exercise 15.9, second part**
///
/// The codes that leave one layer are the codes that enter the next, so their meaning is handed on:
///
/// 1. begin with the parameters of the input: [`Prepared::input_qparams`];
/// 2. for each stage, in order, find what its output shall mean, [`Stage::output_qparams`], and make its quantized
///    layer from both ends, [`Stage::quantize`];
/// 3. what was the output is the input of the next stage;
/// 4. give the parameters of the input and the layers, each with the name of its stage, to [`QModel::new`].
///
/// # Worked example
///
/// The model `[Linear, ReLU, MaxPool2d, Flatten, Linear]` becomes four layers: linear with the ReLU in it, pooling, flatten,
/// linear. Pooling and flatten keep the parameters they are given, so the last linear layer expects the codes that
/// the first one writes.
///
/// # Errors
///
/// - [`crate::Error::NothingObserved`] that names the place, if the model was not calibrated.
/// - [`crate::Error::NotFinite`] that names a weight or bias, with channel and index.
///
/// [`Stage::output_qparams`]: crate::prepare::Stage::output_qparams
/// [`Stage::quantize`]: crate::prepare::Stage::quantize
pub fn convert(prepared: &Prepared) -> Result<QModel> {
    // BEGIN SOLUTION 15.9b
    let of_the_input = prepared.input_qparams()?;
    let mut before = of_the_input;
    let mut named_layers = Vec::new();
    for stage in prepared.stages() {
        let after = stage.output_qparams(before)?;
        let layer = stage.quantize(before, after)?;
        named_layers.push((stage.name().to_owned(), layer));
        before = after;
    }
    QModel::new(of_the_input, named_layers)
    // END SOLUTION
}

/// How much memory two versions of a model hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SizeReport {
    /// Bytes of all parameters and buffers of the model in `f32`.
    pub f32_bytes: usize,
    /// Bytes that the quantized model holds.
    pub int8_bytes: usize,
    /// `int8_bytes / f32_bytes`.
    pub ratio: f64,
}

/// Compares the bytes that a model and its quantized version hold. **Exercise 15.9, third part**
///
/// # The maths
///
/// Every value of [`Layer::named_tensors`] takes the 4 bytes of an `f32`. What the quantized model really holds is
/// [`QModel::memory_bytes`]: codes, scales, biases and what the kernels need beside them, so the ratio is a little more
/// than a quarter.
///
/// # Worked example
///
/// A model with a weight `[128, 784]` and a bias `[128]` in `f32`: `(100,352 + 128) · 4 = 401,920` bytes.
///
/// # Edge cases
///
/// A model without parameters holds nothing either way: the ratio is 1.
#[must_use]
pub fn compare_sizes(model: &dyn Layer, quantized: &QModel) -> SizeReport {
    // BEGIN SOLUTION 15.9c
    let tensors = model.named_tensors();
    let values: usize = tensors.iter().map(|(_, tensor)| tensor.len()).sum();
    let f32_bytes = values * size_of::<f32>();
    let int8_bytes = quantized.memory_bytes();
    let ratio = if f32_bytes == 0 {
        1.0
    } else {
        int8_bytes as f64 / f32_bytes as f64
    };
    SizeReport {
        f32_bytes,
        int8_bytes,
        ratio,
    }
    // END SOLUTION
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framework::nn::{Flatten, Gelu, Linear, MaxPool2d, Relu, Sequential};
    use crate::prepare::{PrepareOptions, prepare};
    use crate::scheme::ValueRange;

    fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
        Tensor::new(values.to_vec(), shape).expect("the shape fits")
    }

    fn linear(weight: &[f32], shape: &[usize], bias: &[f32]) -> Linear {
        let bias = tensor(bias, &[bias.len()]);
        Linear::from_parts(tensor(weight, shape), Some(bias)).expect("the shapes fit")
    }

    fn prepared(model: &Sequential) -> Prepared {
        prepare(model, &PrepareOptions::default()).expect("a model of known layers")
    }

    #[test]
    fn worked_example_calibrate() {
        let mut prepared = prepared(&Sequential::new().with(linear(&[2.0], &[1, 1], &[0.0])));
        let batches = [tensor(&[1.0], &[1, 1]), tensor(&[-3.0], &[1, 1])];
        calibrate(&mut prepared, batches).expect("good batches");
        let stage = &prepared.stages()[0];
        assert_eq!(
            stage.range(),
            Ok(ValueRange {
                min: -6.0,
                max: 2.0
            })
        );
        // [−3, 1] over 255 steps; −3 is code −128, so 0 is 192 steps above: 191.25, rounded, is 191.
        let input = prepared.input_qparams().expect("observed");
        assert_eq!((input.scale, input.zero_point), (4.0 / 255.0, 63));
    }

    #[test]
    fn calibration_needs_data() {
        let model = Sequential::new().with(linear(&[2.0], &[1, 1], &[0.0]));
        let mut prepared = prepared(&model);
        let empty = calibrate(&mut prepared, [Tensor::zeros(&[0, 1])]);
        assert_eq!(empty, Err(crate::Error::EmptyCalibration));
        assert!(convert(&prepared).is_err());
    }

    /// `[1, 1, 2, 2]` images to two numbers.
    fn example() -> (Sequential, Vec<Tensor>) {
        let model = Sequential::new()
            .with(linear(&[1.0, -1.0, 0.5, 0.5], &[2, 2], &[0.25, 0.0]))
            .with(Relu)
            .with(MaxPool2d::new(2))
            .with(Flatten)
            .with(linear(&[1.0, -2.0], &[2, 1], &[0.0, 1.0]));
        let images = [[0.0, 1.0, 2.0, -1.0], [3.0, 0.5, -1.0, 0.0]];
        let batches = images.iter().map(|image| tensor(image, &[1, 1, 2, 2]));
        (model, batches.collect())
    }

    #[test]
    fn worked_example_convert() {
        let (model, batches) = example();
        let mut prepared = prepared(&model);
        calibrate(&mut prepared, batches.clone()).expect("good batches");
        let quantized = convert(&prepared).expect("calibrated");
        let layers = quantized.layers().expect("a model that was made");
        let kinds: Vec<_> = layers.iter().map(|(_, layer)| layer.kind()).collect();
        assert_eq!(kinds, ["linear", "max_pool2d", "flatten", "linear"]);
        for x in batches {
            let (y, expected) = (quantized.forward(&x), model.forward(&x).expect("fits"));
            let y = y.expect("fits");
            for (y, expected) in y.to_vec().iter().zip(expected.to_vec()) {
                // Values up to 7 in 255 steps, and three roundings on the way: input, hidden, output.
                assert!(
                    (y - expected).abs() <= 3.0 * 7.0 / 255.0,
                    "{y}, not {expected}"
                );
            }
        }
    }

    #[test]
    fn what_has_no_integer_version_is_listed() {
        let model = Sequential::new()
            .with_named("first", linear(&[2.0], &[1, 1], &[0.0]))
            .with_named("curve", Gelu);
        let mut prepared = prepared(&model);
        calibrate(&mut prepared, [tensor(&[1.0, -1.0], &[2, 1])]).expect("good batches");
        let quantized = convert(&prepared).expect("calibrated");
        let floats: Vec<_> = quantized.in_float().collect();
        assert_eq!(floats, [("curve", "no integer gelu")]);
    }

    #[test]
    fn a_large_layer_holds_about_a_quarter() {
        let weight = vec![0.5; 128 * 784];
        let model = Sequential::new().with(linear(&weight, &[128, 784], &[0.5; 128]));
        let mut prepared = prepared(&model);
        calibrate(&mut prepared, [Tensor::ones(&[1, 784])]).expect("good batches");
        let sizes = compare_sizes(&model, &convert(&prepared).expect("calibrated"));
        assert_eq!(sizes.f32_bytes, 401_920);
        assert!(sizes.ratio > 0.25 && sizes.ratio < 0.27, "{sizes:?}");
    }
}
