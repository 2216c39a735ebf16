//! Layers with narrow weights between real values: dynamic, weight-only, bf16.
//!
//! In: real values. Out: real values. Only the weights are small, and they are all that these layers hold; what is narrow about
//! the activations lasts for one product. So they need no calibration.

use half::bf16;
use ndarray::ArrayViewD;

use crate::error::{Error, Result};
use crate::finite::check_finite;
use crate::folded::Operation;
use crate::framework::Tensor;
use crate::layer::check_weight;
use crate::packed::{CodeType, PackedTensor};
use crate::parameters::Parameters;
use crate::precision::Precision;
use crate::qtensor::QTensor;
use crate::scheme::{CodeRange, QParams, Scheme};

/// What a narrow layer computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NarrowOperation {
    /// `y = x · weightᵀ + bias`, or a convolution.
    Product(Operation),
    /// Rows of a table `[count, width]`.
    Embedding,
}

/// Weights that take fewer bytes than `f32`.
#[derive(Clone, Debug, PartialEq)]
pub enum NarrowWeight {
    /// Codes; the inputs become codes too, when they come.
    Dynamic(QTensor),
    /// Codes; the inputs stay real.
    Codes(PackedTensor),
    /// bf16 in row-major order; the inputs are rounded to bf16.
    Bf16 {
        /// One for each place of the shape; none is subnormal.
        values: Vec<bf16>,
        /// The length of each axis.
        shape: Vec<usize>,
    },
}

/// A layer that takes and gives real values and whose weights are narrow.
#[derive(Clone, Debug, PartialEq)]
pub struct QNarrow {
    pub(crate) weight: NarrowWeight,
    pub(crate) bias: Vec<f32>,
    pub(crate) operation: NarrowOperation,
    pub(crate) relu: bool,
    pub(crate) output: Option<QParams>,
}

impl NarrowWeight {
    /// Writes real weights as codes for products with codes. `[out, in]` or `[out, in / groups, kh, kw]`, which stays.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`], and [`Error::Unsupported`] for a scheme that is not symmetric with at most one scale for each output.
    pub fn dynamic(weight: ArrayViewD<'_, f32>, scheme: Scheme) -> Result<Self> {
        QTensor::quantize(weight, scheme).map(Self::Dynamic)
    }

    /// Writes real weights as codes for products with real values. `[out, in]`, `[out, in / groups, kh, kw]`, or a table
    /// `[count, width]`, which stays.
    ///
    /// # Errors
    ///
    /// Those of [`PackedTensor::quantize`].
    pub fn codes(weight: ArrayViewD<'_, f32>, scheme: Scheme) -> Result<Self> {
        PackedTensor::quantize(weight, scheme).map(Self::Codes)
    }

    /// Rounds real weights to bf16: to nearest, ties to even; what would be subnormal becomes 0, as the product reads it.
    /// Shapes as for [`NarrowWeight::codes`].
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] with the index, also for what only bf16 cannot hold.
    pub fn bf16(weight: ArrayViewD<'_, f32>) -> Result<Self> {
        let narrow = |&value: &f32| {
            let narrow = bf16::from_f32(value);
            match narrow.to_f32().is_subnormal() {
                true => bf16::from_f32(0.0_f32.copysign(value)),
                false => narrow,
            }
        };
        let values: Vec<bf16> = weight.iter().map(narrow).collect();
        let read: Vec<f32> = values.iter().map(|value| value.to_f32()).collect();
        check_finite(&read)?;
        let shape = weight.shape().to_vec();
        Ok(Self::Bf16 { values, shape })
    }

    /// The length of each axis. `[out, in]`, `[out, in / groups, kh, kw]`, or `[count, width]`.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Dynamic(codes) => codes.shape(),
            Self::Codes(codes) => codes.shape(),
            Self::Bf16 { shape, .. } => shape,
        }
    }

    /// The bytes held.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        match self {
            Self::Dynamic(codes) => codes.memory_bytes(),
            Self::Codes(codes) => codes.memory_bytes(),
            Self::Bf16 { values, .. } => size_of_val::<[bf16]>(values),
        }
    }

    /// The real weights they stand for.
    pub(crate) fn dequantize(&self) -> Tensor {
        match self {
            Self::Dynamic(codes) => Tensor::from_array(codes.dequantize()),
            Self::Codes(codes) => Tensor::from_array(codes.dequantize()),
            Self::Bf16 { values, shape } => {
                let values = values.iter().map(|value| value.to_f32()).collect();
                Tensor::new(values, shape).expect("checked when the layer was made")
            }
        }
    }
}

impl Precision {
    /// Writes real weights as this precision has them between real values; `weights` is how codes are written unless it says so
    /// itself.
    ///
    /// # Errors
    ///
    /// Those of [`NarrowWeight::bf16`], [`NarrowWeight::dynamic`] and [`NarrowWeight::codes`].
    pub(crate) fn write(
        self,
        operation: NarrowOperation,
        weight: ArrayViewD<'_, f32>,
        weights: Scheme,
    ) -> Result<NarrowWeight> {
        match (self, self.scheme(weights)) {
            (Self::Bf16, _) | (_, None) => NarrowWeight::bf16(weight),
            (Self::Dynamic, Some(scheme)) if operation != NarrowOperation::Embedding => {
                NarrowWeight::dynamic(weight, scheme)
            }
            (_, Some(scheme)) => NarrowWeight::codes(weight, scheme),
        }
    }
}

impl QNarrow {
    /// Puts a layer together.
    ///
    /// | argument | shape | meaning |
    /// |---|---|---|
    /// | `weight` | `[out, in]`, `[out, in / groups, height, width]`, or `[count, width]` | |
    /// | `bias` | `[out]`; none for an embedding | |
    /// | `output` | | how its output is written for an integer layer behind it |
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`], [`Error::NotFinite`], [`Error::Unsupported`] for codes that are not symmetric, for dynamic codes
    /// with scales that change within a row and for a dynamic table; [`Error::TooManyProducts`] for dynamic codes,
    /// [`Error::BadQParams`].
    pub fn from_parts(
        weight: NarrowWeight,
        bias: Vec<f32>,
        operation: NarrowOperation,
        relu: bool,
        output: Option<QParams>,
    ) -> Result<Self> {
        let shape = weight.shape();
        let (axes, biases) = match operation {
            NarrowOperation::Product(Operation::Linear) => (2, shape.first().copied()),
            NarrowOperation::Product(Operation::Conv2d(_)) => (4, shape.first().copied()),
            NarrowOperation::Embedding => (2, Some(0)),
        };
        if shape.len() != axes || biases != Some(bias.len()) || shape.contains(&0) {
            return Err(Error::ShapeMismatch {
                operation: "QNarrow",
                expected: format!(
                    "a weight of {axes} axes, none empty, and as many outputs as biases, {}",
                    bias.len()
                ),
                got: shape.to_vec(),
            });
        }
        if let NarrowOperation::Product(Operation::Conv2d(options)) = operation {
            crate::conv::check_options(shape, options)?;
        }
        check_finite(&bias)?;
        let products: usize = shape[1..].iter().product();
        match &weight {
            NarrowWeight::Dynamic(_) if operation == NarrowOperation::Embedding => {
                return Err(Error::Unsupported {
                    what: "a table whose inputs become codes",
                });
            }
            NarrowWeight::Dynamic(codes) => {
                check_weight(codes)?;
                let limit = crate::gemm::MAX_K;
                if products > limit {
                    return Err(Error::TooManyProducts { k: products, limit });
                }
            }
            NarrowWeight::Codes(codes) => {
                let pairs = codes.parameters();
                let axis = !matches!(pairs, Parameters::PerChannel { axis, .. } if axis != 0);
                if !axis || pairs.pairs().iter().any(|pair| pair.zero_point != 0) {
                    return Err(Error::Unsupported {
                        what: "narrow weights that are not symmetric, or whose channels do not lie along axis 0",
                    });
                }
            }
            NarrowWeight::Bf16 { values, shape } => {
                let read: Vec<f32> = values.iter().map(|value| value.to_f32()).collect();
                check_finite(&read)?;
                let count = shape.iter().try_fold(1_usize, |all, &n| all.checked_mul(n));
                if count != Some(values.len()) {
                    return Err(Error::ShapeMismatch {
                        operation: "QNarrow",
                        expected: format!("a shape for {} weights", values.len()),
                        got: shape.clone(),
                    });
                }
            }
        }
        if let Some(output) = output {
            output.check(CodeRange::INT8)?;
        }
        Ok(Self {
            weight,
            bias,
            operation,
            relu,
            output,
        })
    }

    /// The weights. `[out, in]`, `[out, in / groups, kh, kw]`, or `[count, width]`.
    #[must_use]
    pub fn weight(&self) -> &NarrowWeight {
        &self.weight
    }

    /// The bias, `[out]`; empty for an embedding.
    #[must_use]
    pub fn bias(&self) -> &[f32] {
        &self.bias
    }

    /// What it computes.
    #[must_use]
    pub fn operation(&self) -> NarrowOperation {
        self.operation
    }

    /// Whether negative outputs become 0.
    #[must_use]
    pub fn has_relu(&self) -> bool {
        self.relu
    }

    /// How its output is written for an integer layer behind it; `None` if none is.
    #[must_use]
    pub fn output(&self) -> Option<QParams> {
        self.output
    }

    /// A word for the kind of layer.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match (&self.weight, self.operation) {
            (_, NarrowOperation::Embedding) => "narrow_embedding",
            (NarrowWeight::Dynamic(_), NarrowOperation::Product(Operation::Linear)) => {
                "dynamic_linear"
            }
            (NarrowWeight::Dynamic(_), _) => "dynamic_conv2d",
            (NarrowWeight::Codes(_), NarrowOperation::Product(Operation::Linear)) => {
                "weight_only_linear"
            }
            (NarrowWeight::Codes(_), _) => "weight_only_conv2d",
            (NarrowWeight::Bf16 { .. }, NarrowOperation::Product(Operation::Linear)) => {
                "bf16_linear"
            }
            (NarrowWeight::Bf16 { .. }, _) => "bf16_conv2d",
        }
    }

    /// The bytes held: weights with their scales, the bias, and the parameters of the output.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.weight.memory_bytes() + self.beside_weights()
    }

    /// The bytes of all but the weights.
    pub(crate) fn beside_weights(&self) -> usize {
        size_of_val::<[f32]>(&self.bias) + self.output.map_or(0, |_| size_of::<QParams>())
    }
}

/// The size of the groups with which the product of 4-bit weights can read these, if it can.
pub(crate) fn int4_group(weight: &PackedTensor) -> Option<usize> {
    let &[_, k] = weight.shape() else {
        return None;
    };
    let four_bits = CodeRange::signed(4);
    let fits = four_bits.contains(weight.range().min) && four_bits.contains(weight.range().max);
    let group = match weight.parameters() {
        Parameters::PerGroup { size, .. } if size < k => size,
        Parameters::PerGroup { .. } | Parameters::PerChannel { .. } => k.next_multiple_of(8),
        Parameters::PerTensor(_) => return None,
    };
    (fits && group.is_multiple_of(8) && (8..=4096).contains(&group)).then_some(group)
}

/// The size of the groups with which the product of 8-bit weights can read these, if it can: what has one scale for all of a row is one
/// group.
pub(crate) fn int8_group(weight: &PackedTensor) -> Option<usize> {
    let &[_, k] = weight.shape() else {
        return None;
    };
    (weight.code_type() == CodeType::I8).then(|| match weight.parameters() {
        Parameters::PerGroup { size, .. } => size,
        Parameters::PerTensor(_) | Parameters::PerChannel { .. } => k.max(1),
    })
}
