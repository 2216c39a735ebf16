//! What flows through a quantized model as it runs: codes, or real values.
//!
//! In: the input, or what the layer before gave. Out: the same for the next layer. Images lie with their channels last as long
//! as only image layers look at them, because that is how the kernels read them.

use crate::code_memory::CodeMemory;
use crate::error::{Error, Result};
use crate::framework::Pool2dOptions;
use crate::framework::Tensor;
use crate::kernels::{
    Images, NotFinite, Pool2dShape, Quantize, dequantize_i8_f32, max_pool_i8, quantize_f32_i8,
};
use crate::pool::{ImageSize, avg_pool, pooled_size};
use crate::qlayer::{channels_first, channels_last, flattened};
use crate::scheme::{CodeRange, QParams};
use crate::step::{PackedConv2d, PackedLinear, Step};

/// What flows between two layers.
#[derive(Clone)]
pub(crate) enum Flow {
    Real(Tensor),
    Codes(Codes),
}

/// Codes on their way. An image may lie with its channels last; its shape is written channels first all the same.
#[derive(Clone)]
pub(crate) struct Codes {
    pub codes: CodeMemory,
    pub shape: Vec<usize>,
    pub channels_last: bool,
    pub qparams: QParams,
}

impl Flow {
    /// The length of each axis; of an image the channels come first.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Real(tensor) => tensor.shape(),
            Self::Codes(codes) => &codes.shape,
        }
    }

    /// The real values, in the shape they have; an image has its channels first.
    pub fn into_real(self) -> Result<Tensor> {
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
    pub fn into_codes(self, qparams: QParams) -> Result<Codes> {
        let tensor = match self {
            Self::Codes(codes) => return Ok(codes),
            Self::Real(tensor) => tensor,
        };
        let values = tensor.array();
        let values = values.as_standard_layout();
        let mut codes = CodeMemory::new(values.len());
        let values = values.as_slice().expect("the standard layout is a slice");
        quantize_f32_i8(values, quantization(qparams), &mut codes).map_err(not_finite)?;
        Ok(Codes {
            codes,
            shape: tensor.shape().to_vec(),
            channels_last: false,
            qparams,
        })
    }
}

impl Codes {
    /// What `layer` makes of real values whose codes mean `written`. `[.., in]` to `[.., out]`.
    pub fn of_real(x: &Tensor, written: QParams, layer: &PackedLinear) -> Result<Self> {
        let (inputs, outputs) = layer.sizes();
        let mut shape = x.shape().to_vec();
        let rows = layer_rows(&shape, inputs)?;
        if let Some(last) = shape.last_mut() {
            *last = outputs;
        }
        let values = x.array();
        let values = values.as_standard_layout();
        let values = values.as_slice().expect("the standard layout is a slice");
        let codes = layer.forward_real(rows, values, quantization(written));
        Ok(Self {
            codes: codes.map_err(not_finite)?,
            shape,
            channels_last: false,
            qparams: layer.ending.output,
        })
    }

    /// Runs one integer layer.
    pub fn through(self, step: &Step) -> Result<Self> {
        match step {
            Step::Linear(layer) => {
                let (inputs, outputs) = layer.sizes();
                let mut x = self.channels_first();
                let rows = layer_rows(&x.shape, inputs)?;
                x.codes = layer.forward(rows, &x.codes);
                x.shape.pop();
                x.shape.push(outputs);
                x.qparams = layer.ending.output;
                Ok(x)
            }
            Step::Conv2d(layer) => self.convolved(layer, false),
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
                x.codes = avg_pool(&x.codes, x.qparams.zero_point, size, *options, out).into();
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
            _ => Err(Error::Unsupported {
                what: "codes for a layer that takes real values",
            }),
        }
    }

    /// Runs a convolution and the 2x2 max pooling behind it in one, if `next` is one that fits; says whether it was.
    pub fn convolved_and_pooled(self, layer: &PackedConv2d, next: &Step) -> Result<(Self, bool)> {
        let out = layer.output_size(&self.shape)?;
        let two = |options: &Pool2dOptions| *options == Pool2dOptions::square(2);
        let pooled =
            matches!(next, Step::MaxPool2d(options) if two(options)) && out[0] > 1 && out[1] > 1;
        Ok((self.convolved(layer, pooled)?, pooled))
    }

    fn convolved(self, layer: &PackedConv2d, pooled: bool) -> Result<Self> {
        let mut out = layer.output_size(&self.shape)?;
        let (mut x, size) = self.channels_last()?;
        if pooled {
            out = out.map(|size| size / 2);
        }
        x.codes = layer.forward(size, out, &x.codes, pooled);
        x.shape = vec![size.batch, layer.channels(), out[0], out[1]];
        x.qparams = layer.ending.output;
        Ok(x)
    }

    pub fn channels_last(mut self) -> Result<(Self, ImageSize)> {
        let &[batch, channels, height, width] = self.shape.as_slice() else {
            return Err(Error::ShapeMismatch {
                operation: "an image layer",
                expected: "[batch, channels, height, width]".to_owned(),
                got: self.shape,
            });
        };
        if !self.channels_last && channels > 1 && height * width > 1 {
            self.codes = channels_last(&self.codes, [batch, channels, height * width]).into();
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

    pub fn channels_first(mut self) -> Self {
        if let (true, &[batch, channels, height, width]) =
            (self.channels_last, self.shape.as_slice())
            && channels > 1
            && height * width > 1
        {
            self.codes = channels_first(&self.codes, [batch, channels, height * width]).into();
        }
        self.channels_last = false;
        self
    }
}

/// How a kernel writes codes that mean `qparams`.
fn quantization(qparams: QParams) -> Quantize {
    let CodeRange { min, max } = CodeRange::INT8;
    Quantize {
        scale: qparams.scale,
        zero_point: qparams.zero_point,
        min,
        max,
    }
}

fn not_finite(bad: NotFinite) -> Error {
    Error::not_finite(bad.value, bad.index, None)
        .expect("the kernel reports only values that are not finite")
}

/// The rows of what comes to a linear layer of so many inputs.
fn layer_rows(shape: &[usize], inputs: usize) -> Result<usize> {
    match shape {
        [outer @ .., last] if !outer.is_empty() && *last == inputs => Ok(outer.iter().product()),
        _ => Err(Error::ShapeMismatch {
            operation: "QLinear",
            expected: format!("[batch, {inputs}]"),
            got: shape.to_vec(),
        }),
    }
}

fn max_pool(codes: &[i8], size: ImageSize, options: Pool2dOptions, out: [usize; 2]) -> CodeMemory {
    let images = Images {
        batch: size.batch,
        height: size.height,
        width: size.width,
    };
    let shape = Pool2dShape {
        kernel: options.kernel,
        stride: options.stride,
        padding: options.padding,
    };
    let mut result = CodeMemory::new(size.batch * out[0] * out[1] * size.channels);
    max_pool_i8(codes, images, size.channels, shape, &mut result);
    result
}
