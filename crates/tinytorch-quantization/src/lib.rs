//! INT8 quantization: calibrate, quantize, train quantization-aware, measure.
//!
//! ```text
//!  offline, floats allowed                          run time, integers
//!
//!  values -> Observer -> ValueRange -> QParams      codes -> gemm_i8 -> i32 + bias -> requantize -> codes -> ...
//!    |                                   |
//!    +------------- quantize <-----------+
//! ```
//!
//! The files, in the order of the flow:
//!
//! | file | what it is for |
//! |---|---|
//! | [`scheme`], [`error`], [`finite`] | the words, what can be wrong, NaN and infinity |
//! | [`qparams`], [`quantize`](mod@quantize), [`per_channel`], [`parameters`], [`qtensor`], [`packed`] | a range becomes parameters, values become codes |
//! | [`observer`], [`histogram`], [`entropy`] | which range? One method after another |
//! | [`sketch`], [`calibration`], [`confidence`], [`sketch_file`] | which range? All methods from one pass, and how sure it is |
//! | [`gemm`], [`requantize`](mod@requantize), [`linear`], [`conv`], [`layer`], [`fold`], [`embedding`], [`narrow`], [`join`], [`composite`], [`qlayer`] | layers in integers, by definition |
//! | [`precision`], [`prepare`](mod@prepare), [`stage`], [`folded`], [`convert`](mod@convert), [`ledger`], [`qmodel`], [`file`](mod@file) | whole models: take apart, calibrate, convert, run, save |
//! | [`fake_quantize`](mod@fake_quantize), [`learned`], [`qat`], [`qat_layer`], [`qat_train`], [`distill`] | training that feels the rounding |
//! | [`loss_scaling`], [`mixed_precision`] | training in half precision |
//! | [`explain`](mod@explain) | where a model loses, and what would help |
//! | [`target`] | whether TensorRT, LiteRT and others take it as it is |
//! | [`repair`](mod@repair) | winning back what rounding lost, without training |
//! | [`dialect`], [`operators`], [`blocked`] | how ONNX, LiteRT and PyTorch differ, and where; ONNX's integer operators |
//! | [`precision_search`], [`frontier`] | which layer in which precision? |
//! | [`metrics`], [`latency`] | what it costs |
//!
//! The rules N1, N2, ... that the code cites are in `docs/numerics.md`. What [`linear`], [`gemm`] and
//! [`requantize`](mod@requantize) compute is from Jacob et al. 2018, arXiv 1712.05877, sections 2.2 to 2.4, with the multiplier in
//! `f32` (N12).
//!
//! ```
//! use rand::SeedableRng;
//! use tinytorch_core::Tensor;
//! use tinytorch_core::nn::{Linear, Relu, Sequential};
//! use tinytorch_quantization::{PrepareOptions, calibrate, compare_sizes, convert, prepare};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let rng = &mut rand_chacha::ChaCha8Rng::seed_from_u64(0);
//! let model = Sequential::new()
//!     .with(Linear::new(784, 128, rng))
//!     .with(Relu)
//!     .with(Linear::new(128, 10, rng));
//! let samples = Tensor::randn(&[32, 784], rng);
//!
//! let mut prepared = prepare(&model, &PrepareOptions::default())?;
//! calibrate(&mut prepared, [samples.clone()])?;
//! let quantized = convert(&prepared)?;
//!
//! assert_eq!(quantized.forward(&samples)?.shape(), [32, 10]);
//! assert!(compare_sizes(&model, &quantized).ratio < 0.27);
//! # Ok(())
//! # }
//! ```
//!
//! # Modes
//!
//! In which numbers a layer computes is a value, [`Precision`]: one for the model, others for layers by name. Only static layers
//! need calibration.
//!
//! Dynamic: 8-bit weights, and inputs that become codes when they come.
//!
//! ```
//! # use rand::SeedableRng;
//! # use tinytorch_core::{Tensor, nn::{Linear, Relu, Sequential}};
//! # use tinytorch_quantization::{Precision, PrepareOptions, convert, prepare};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let rng = &mut rand_chacha::ChaCha8Rng::seed_from_u64(0);
//! # let model = Sequential::new().with(Linear::new(64, 32, rng)).with(Relu).with(Linear::new(32, 10, rng));
//! let options = PrepareOptions { precision: Precision::Dynamic, ..PrepareOptions::default() };
//! let quantized = convert(&prepare(&model, &options)?)?;
//! assert_eq!(quantized.forward(&Tensor::randn(&[8, 64], rng))?.shape(), [8, 10]);
//! # Ok(())
//! # }
//! ```
//!
//! Weight-only: 4 bits in groups of 32, or 8 bits a row; the inputs stay real.
//!
//! ```
//! # use rand::SeedableRng;
//! # use tinytorch_core::nn::{Embedding, Linear, Sequential};
//! # use tinytorch_quantization::{Precision, PrepareOptions, compare_sizes, convert, prepare};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let rng = &mut rand_chacha::ChaCha8Rng::seed_from_u64(0);
//! let model = Sequential::new()
//!     .with_named("words", Embedding::new(1000, 64, rng))
//!     .with_named("scores", Linear::new(64, 1024, rng));
//! let options = PrepareOptions { precision: Precision::WEIGHT_ONLY_INT4, ..PrepareOptions::default() };
//! let quantized = convert(&prepare(&model, &options)?)?;
//! // Half a byte of four and an f32 for 32 weights; the bias stays as it is.
//! assert!(compare_sizes(&model, &quantized).ratio < 0.17);
//! # Ok(())
//! # }
//! ```
//!
//! A mixture: bf16 for the model, its last layer static with 4-bit weights, and an error if anything stayed in `f32`. The ledger tells
//! what became of every operation.
//!
//! ```
//! # use rand::SeedableRng;
//! # use tinytorch_core::{Tensor, nn::{Dropout, Linear, Relu, Sequential}};
//! # use tinytorch_quantization::{Fate, Precision, PrepareOptions, calibrate, convert, prepare};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let rng = &mut rand_chacha::ChaCha8Rng::seed_from_u64(0);
//! let model = Sequential::new()
//!     .with_named("first", Linear::new(64, 32, rng))
//!     .with_named("relu", Relu)
//!     .with_named("drop", Dropout::new(0.1, rng)?)
//!     .with_named("last", Linear::new(32, 10, rng));
//! let options = PrepareOptions {
//!     precision: Precision::Bf16,
//!     overrides: vec![("last".to_owned(), Precision::static_bits(4))],
//!     require_full_coverage: true,
//!     ..PrepareOptions::default()
//! };
//! let mut prepared = prepare(&model, &options)?;
//! calibrate(&mut prepared, [Tensor::randn(&[32, 64], rng)])?;
//! let ledger = convert(&prepared)?.ledger();
//! println!("{ledger}");
//! assert_eq!((ledger.count(Fate::Quantized), ledger.count(Fate::Folded)), (2, 2));
//! # Ok(())
//! # }
//! ```

#![warn(clippy::missing_errors_doc, clippy::missing_panics_doc)]

pub use tinytorch_core as framework;
pub use tinytorch_kernels as kernels;

pub mod blocked;
pub mod calibration;
mod chance;
mod code_memory;
pub mod composite;
pub mod confidence;
pub mod conv;
pub mod convert;
mod definition;
mod describe;
pub mod dialect;
mod disagreement;
pub mod distill;
pub mod embedding;
pub mod entropy;
pub mod error;
pub mod explain;
mod extent;
pub mod fake_quantize;
pub mod file;
pub mod finite;
mod flow;
pub mod fold;
pub mod folded;
pub mod frontier;
pub mod gemm;
mod graph;
mod half_model;
mod half_number;
mod half_ops;
mod half_storage;
mod half_tape;
pub mod histogram;
pub mod join;
pub mod latency;
pub mod layer;
pub mod learned;
pub mod ledger;
pub mod linear;
pub mod loss_scaling;
pub mod metrics;
pub mod mixed_precision;
pub mod narrow;
mod narrow_definition;
mod narrow_step;
mod observed;
pub mod observer;
pub mod operators;
pub mod packed;
mod packed_real;
pub mod parameters;
pub mod per_channel;
mod pool;
pub mod precision;
pub mod precision_search;
pub mod prepare;
pub mod qat;
mod qat_activation;
pub mod qat_layer;
mod qat_narrow;
mod qat_part;
pub mod qat_train;
pub mod qlayer;
pub mod qmodel;
pub mod qparams;
pub mod qtensor;
pub mod quantize;
mod real_run;
mod rebuild;
mod record;
pub mod repair;
pub mod requantize;
pub mod scheme;
mod search_options;
pub mod sketch;
mod sketch_bins;
pub mod sketch_file;
pub mod sketch_observer;
pub mod stage;
mod stage_layer;
mod step;
mod take_apart;
pub mod target;

pub use blocked::{Blocks, dequantize_linear_blocked, quantize_linear_blocked};
pub use calibration::{Calibration, CalibrationReport, SketchObserver};
pub use composite::{Chain, Join, QBranches, QResidual};
pub use confidence::{Confidence, Interval, MIN_BATCHES};
pub use conv::QConv2d;
pub use convert::{SizeReport, calibrate, compare_sizes};
pub use dialect::{
    Dialect, Disagreement, Disagreements, Rescale, SumDisagreement, SumDisagreements,
    compare_dialects, compare_requantization,
};
pub use distill::{Distillation, Distilled};
pub use embedding::QEmbedding;
pub use entropy::{
    EMPTY_BIN, EntropyObserver, VALUES_PER_BIN, coarsen, divergence, entropy_range,
    trusted_entropy_range,
};
pub use error::{Error, NonFinite, Place, Result};
pub use fake_quantize::{
    fake_quantize, fake_quantize_per_channel, fake_quantize_values, straight_through_gradient,
};
pub use file::FileError;
pub use fold::fold_batch_norm;
pub use folded::{Folded, Operation};
pub use frontier::{Found, PrecisionPoint};
pub use gemm::{MAX_K, MAX_K_BOTH_ASYMMETRIC, gemm_i8};
pub use histogram::Histogram;
pub use join::{QAdd, QConcat};
pub use latency::Latency;
pub use learned::{fake_quantize_learned, fake_quantize_learned_per_channel};
pub use ledger::{Fate, Ledger, LedgerEntry, convert};
pub use linear::{QLinear, quantize_bias};
pub use loss_scaling::LossScaler;
pub use mixed_precision::{
    AUTOCAST, Autocast, Half, HalfModel, HalfWeights, LossScaling, autocast, to_half,
};
pub use narrow::{NarrowOperation, NarrowWeight, QNarrow};
pub use observer::{MinMaxObserver, MovingAverageMinMaxObserver, Observer, PercentileObserver};
pub use operators::{
    conv_integer, dequantize_linear, mat_mul_integer, q_linear_conv, q_linear_mat_mul,
    quantize_linear,
};
pub use packed::{CodeType, PackedTensor, pack_nibbles, unpack_i4, unpack_u4};
pub use parameters::Parameters;
pub use per_channel::{choose_qparams_per_channel, quantize_per_channel};
pub use precision::Precision;
pub use precision_search::{Examples, PrecisionSearch, Refused, SearchOptions, Sensitivity};
pub use prepare::{PrepareOptions, Prepared, prepare};
pub use qat::{
    BatchNormTraining, FakeQuantize, QatLayer, QatModel, QatNarrow, QatOptions, Steps, prepare_qat,
};
pub use qat_train::{Freezing, QatAdam, QatRecipe, QatTraining, train_qat};
pub use qlayer::{FloatLayer, QLayer, f32_bytes};
pub use qmodel::QModel;
pub use qparams::{choose_qparams, symmetric_scale};
pub use qtensor::QTensor;
pub use quantize::{dequantize, quantize};
pub use repair::{RepairOptions, RepairReport, RoundingOptions, repair};
pub use requantize::{multipliers, requantize};
pub use scheme::{CodeRange, Dims, Granularity, QParams, Scheme, Symmetry, ValueRange};
pub use sketch::{Batch, Bin, MAX_BATCHES, Sketch};
pub use sketch_file::{load_sketches, save_sketches};
pub use stage::Stage;
pub use target::{Finding, Profile, check_target};
