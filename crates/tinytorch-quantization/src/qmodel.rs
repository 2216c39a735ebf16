//! A whole model in integers, as it runs.
//!
//! In: a tensor of real values. Out: another. In between, from the first quantized layer to the last, everything is a
//! code: one `i8` for each activation. Only a layer that stayed in `f32` is given real values.

use crate::error::{Error, Result};
use crate::framework::Tensor;
use crate::kernels::{Quantize, dequantize_i8_f32, quantize_f32_i8};
use crate::pool::{ImageSize, avg_pool, max_pool, pooled_size};
use crate::qlayer::{QLayer, channels_first, channels_last, flattened};
use crate::qtensor::QTensor;
use crate::scheme::{CodeRange, QParams};
use crate::step::{PackedConv2d, PackedLinear, Step};

/// A quantized model.
#[derive(Clone, Debug)]
pub struct QModel {
    input: QParams,
    steps: Vec<(String, Step)>,
}

impl QModel {
    /// Makes a model of named layers, and packs their weights for the kernels.
    ///
    /// # Errors
    ///
    /// - [`Error::Layer`] that names the layer whose input does not mean what the output of the one before it means.
    /// - [`Error::BadQParams`] if the input's parameters cannot be used; in an [`Error::Layer`] if those of a layer's
    ///   output cannot.
    /// - [`Error::Kernel`] if the environment asks for a kernel that there is not.
    pub fn new(input: QParams, layers: Vec<(String, QLayer)>) -> Result<Self> {
        input.check(CodeRange::INT8)?;
        let mut current = input;
        let mut steps = Vec::with_capacity(layers.len());
        // The channels of what flows, while it is known to be an image.
        let mut channels = None;
        let mut rest = layers.into_iter().peekable();
        while let Some((name, layer)) = rest.next() {
            let expected = match &layer {
                QLayer::Linear(layer) => layer.input(),
                QLayer::Conv2d(layer) => layer.input(),
                _ => current,
            };
            if expected != current {
                let error = Error::OtherQParams {
                    expected,
                    got: Some(current),
                };
                return Err(error.in_layer(&name));
            }
            current = layer.output(current);
            // Those of a layer in `f32` came from the caller or a file, and nobody has looked at them yet.
            let usable = current.check(CodeRange::INT8);
            usable.map_err(|error| error.in_layer(&name))?;
            let step = match &layer {
                QLayer::Linear(layer) => {
                    let step = PackedLinear::new(layer, channels);
                    channels = None;
                    Step::Linear(step?)
                }
                QLayer::Conv2d(layer) => {
                    let step = PackedConv2d::new(layer)?;
                    channels = Some(step.channels());
                    Step::Conv2d(step)
                }
                QLayer::MaxPool2d(options) => Step::MaxPool2d(*options),
                QLayer::AvgPool2d(options) => Step::AvgPool2d(*options),
                QLayer::Relu => Step::Relu,
                QLayer::Flatten => {
                    // Where a linear layer follows, its columns are reordered once instead of every image.
                    let inputs = match rest.peek() {
                        Some((_, QLayer::Linear(next))) => next.weight().shape()[1],
                        _ => 0,
                    };
                    channels = channels.filter(|&c| inputs > 0 && inputs.is_multiple_of(c));
                    Step::Flatten {
                        keep: channels.is_some(),
                    }
                }
                QLayer::Float(layer) => {
                    channels = None;
                    Step::Float(layer.clone())
                }
            };
            // A linear layer right behind a convolution works on the last axis, not on flattened images.
            if matches!(rest.peek(), Some((_, QLayer::Linear(_))))
                && !matches!(step, Step::Flatten { .. })
            {
                channels = None;
            }
            steps.push((name, step));
        }
        Ok(Self { input, steps })
    }

    /// Computes the output, in integers wherever a layer was quantized.
    ///
    /// # Errors
    ///
    /// - [`Error::NotFinite`] with the index if a value of the input is NaN or infinite.
    /// - [`Error::Layer`] that names the layer whose input does not have the right shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut flow = Flow::Real(x.clone());
        let mut current = self.input;
        let mut source = "input";
        for (name, step) in &self.steps {
            flow = match (flow, step) {
                (flow, Step::Float(float)) => {
                    let real = flow.into_real().and_then(|x| float.forward(&x));
                    current = float.output;
                    Flow::Real(real.map_err(|error| error.in_layer(name))?)
                }
                (flow, step) => {
                    let codes = flow.into_codes(current).map_err(|e| e.in_tensor(source))?;
                    let codes = codes.through(step).map_err(|error| error.in_layer(name))?;
                    current = codes.qparams;
                    Flow::Codes(codes)
                }
            };
            source = name;
        }
        flow.into_real()
    }

    /// Computes the output layer by layer, by definition: slowly, and with the same codes.
    ///
    /// # Errors
    ///
    /// As [`QModel::forward`].
    pub fn forward_definition(&self, x: &Tensor) -> Result<Tensor> {
        let mut real = Some(x.clone());
        let mut codes = QTensor::quantize_with(x.array().view(), self.input, CodeRange::INT8)
            .map_err(|error| error.in_tensor("input"))?;
        for (name, layer) in self.layers()? {
            if let QLayer::Float(float) = &layer {
                let x = real
                    .take()
                    .unwrap_or_else(|| Tensor::from_array(codes.dequantize()));
                let y = float.forward(&x).map_err(|error| error.in_layer(&name))?;
                codes = QTensor::quantize_with(y.array().view(), float.output, CodeRange::INT8)
                    .map_err(|error| error.in_tensor(&name))?;
                real = Some(y);
            } else {
                real = None;
                codes = layer
                    .forward_definition(&codes)
                    .map_err(|error| error.in_layer(&name))?;
            }
        }
        Ok(real.unwrap_or_else(|| Tensor::from_array(codes.dequantize())))
    }

    /// The layers by name, each as its definition.
    ///
    /// # Errors
    ///
    /// None for a model that was made.
    pub fn layers(&self) -> Result<Vec<(String, QLayer)>> {
        let layer = |(name, step): &(String, Step)| {
            let layer = match step {
                Step::Linear(layer) => QLayer::Linear(layer.unpack()?),
                Step::Conv2d(layer) => QLayer::Conv2d(layer.unpack()?),
                Step::MaxPool2d(options) => QLayer::MaxPool2d(*options),
                Step::AvgPool2d(options) => QLayer::AvgPool2d(*options),
                Step::Relu => QLayer::Relu,
                Step::Flatten { .. } => QLayer::Flatten,
                Step::Float(layer) => QLayer::Float(layer.clone()),
            };
            Ok((name.clone(), layer))
        };
        self.steps.iter().map(layer).collect()
    }

    /// What the codes of the input mean.
    #[must_use]
    pub fn input(&self) -> QParams {
        self.input
    }

    /// The layers that stay in `f32`: name and reason.
    pub fn in_float(&self) -> impl Iterator<Item = (&str, &str)> {
        self.steps.iter().filter_map(|(name, step)| match step {
            Step::Float(float) => Some((name.as_str(), float.reason.as_str())),
            _ => None,
        })
    }

    /// The bytes of parameters the model holds: codes in the order of the kernels with the padding they need, the sums
    /// of their rows, biases, scales, and `f32` for what was not quantized.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let steps: usize = self.steps.iter().map(|(_, step)| step.bytes()).sum();
        steps + size_of::<QParams>()
    }
}

/// What flows between two layers.
enum Flow {
    Real(Tensor),
    Codes(Codes),
}

/// Codes on their way. An image may lie with its channels last; its shape is written channels first all the same.
struct Codes {
    codes: Vec<i8>,
    shape: Vec<usize>,
    channels_last: bool,
    qparams: QParams,
}

impl Flow {
    fn into_real(self) -> Result<Tensor> {
        match self {
            Self::Real(tensor) => Ok(tensor),
            Self::Codes(codes) => {
                let Codes {
                    codes,
                    shape,
                    qparams,
                    ..
                } = codes.channels_first();
                let mut values = vec![0.0; codes.len()];
                dequantize_i8_f32(&codes, qparams.scale, qparams.zero_point, &mut values);
                Ok(Tensor::new(values, &shape)?)
            }
        }
    }

    /// Codes that mean `qparams`, which those that flow already do.
    fn into_codes(self, qparams: QParams) -> Result<Codes> {
        let tensor = match self {
            Self::Codes(codes) => return Ok(codes),
            Self::Real(tensor) => tensor,
        };
        let values = tensor.array();
        let values = values.as_standard_layout();
        let CodeRange { min, max } = CodeRange::INT8;
        let by = Quantize {
            scale: qparams.scale,
            zero_point: qparams.zero_point,
            min,
            max,
        };
        let mut codes = vec![0; values.len()];
        let values = values.as_slice().expect("the standard layout is a slice");
        quantize_f32_i8(values, by, &mut codes).map_err(|bad| {
            Error::not_finite(bad.value, bad.index, None)
                .expect("the kernel reports only values that are not finite")
        })?;
        Ok(Codes {
            codes,
            shape: tensor.shape().to_vec(),
            channels_last: false,
            qparams,
        })
    }
}

impl Codes {
    /// Runs one integer layer.
    fn through(self, step: &Step) -> Result<Self> {
        match step {
            Step::Linear(layer) => {
                let (inputs, outputs) = layer.sizes();
                let mut x = self.channels_first();
                if x.shape.len() < 2 || x.shape.last() != Some(&inputs) {
                    return Err(Error::ShapeMismatch {
                        operation: "QLinear",
                        expected: format!("[batch, {inputs}]"),
                        got: x.shape,
                    });
                }
                let rows = x.shape[..x.shape.len() - 1].iter().product();
                x.codes = layer.forward(rows, &x.codes)?;
                x.shape.pop();
                x.shape.push(outputs);
                x.qparams = layer.ending.output;
                Ok(x)
            }
            Step::Conv2d(layer) => {
                let out = layer.output_size(&self.shape)?;
                let (mut x, size) = self.channels_last()?;
                x.codes = layer.forward(size, out, &x.codes)?;
                x.shape = vec![size.batch, layer.channels(), out[0], out[1]];
                x.qparams = layer.ending.output;
                Ok(x)
            }
            Step::MaxPool2d(options) => {
                let out = pooled_size("max_pool2d", *options, &self.shape)?;
                let (mut x, size) = self.channels_last()?;
                x.codes = max_pool(&x.codes, size, *options, out);
                x.shape[2..].copy_from_slice(&out);
                Ok(x)
            }
            Step::AvgPool2d(options) => {
                let out = pooled_size("avg_pool2d", *options, &self.shape)?;
                let (mut x, size) = self.channels_last()?;
                x.codes = avg_pool(&x.codes, x.qparams.zero_point, size, *options, out);
                x.shape[2..].copy_from_slice(&out);
                Ok(x)
            }
            Step::Relu => {
                let mut x = self;
                let zero = x.qparams.zero_point as i8;
                x.codes.iter_mut().for_each(|code| *code = zero.max(*code));
                Ok(x)
            }
            Step::Flatten { keep } => {
                let mut x = if *keep { self } else { self.channels_first() };
                x.shape = flattened(&x.shape)?.to_vec();
                x.channels_last = false;
                Ok(x)
            }
            Step::Float(_) => unreachable!("`QModel::forward` gives real values to these"),
        }
    }

    fn channels_last(mut self) -> Result<(Self, ImageSize)> {
        let &[batch, channels, height, width] = self.shape.as_slice() else {
            return Err(Error::ShapeMismatch {
                operation: "an image layer",
                expected: "[batch, channels, height, width]".to_owned(),
                got: self.shape,
            });
        };
        if !self.channels_last && channels > 1 && height * width > 1 {
            self.codes = channels_last(&self.codes, [batch, channels, height * width]);
        }
        self.channels_last = true;
        let size = ImageSize {
            batch,
            height,
            width,
            channels,
        };
        Ok((self, size))
    }

    fn channels_first(mut self) -> Self {
        if let (true, &[batch, channels, height, width]) =
            (self.channels_last, self.shape.as_slice())
            && channels > 1
            && height * width > 1
        {
            self.codes = channels_first(&self.codes, [batch, channels, height * width]);
        }
        self.channels_last = false;
        self
    }
}
