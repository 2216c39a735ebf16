//! Module 15: the map of your quantization library.
//!
//! ```text
//!  offline, floats allowed                          run time, integers
//!
//!  values -> Observer -> ValueRange -> QParams      codes -> gemm_i8 -> i32 + bias -> requantize -> codes -> ...
//!    |                                   |
//!    +------------- quantize <-----------+
//! ```
//!
//! The files with exercises are yours, in the order of the lesson. The given ones are taken from the library, so that they
//! work on *your* types; open them, they are there to be read. Outside the markers nothing needs to change, and `tito export`
//! wants it unchanged. `ABOUT.md` is the lesson, `QUESTIONS.md` waits for your answers.

pub use tinytorch_core as framework;
pub use tinytorch_kernels as kernels;

// Yours.
pub mod entropy;
pub mod fake_quantize; // 15.10: feel the rounding while training
pub mod gemm; // 15.7: the integer product
pub mod linear; // 15.8: the quantized layer
pub mod loss_scaling; // 15.11: half precision
pub mod observer; // 15.6: which range?
pub mod per_channel; // 15.5: one scale for every channel
pub mod qparams; // 15.1, 15.2: a range becomes a scale and a zero point
pub mod quantize; // 15.3, 15.4: values and codes
pub mod requantize; // 15.8: sums become codes // 15.12: a bonus

// Given.
#[path = "../../crates/tinytorch-quantization/src/conv.rs"]
pub mod conv;
#[path = "../../crates/tinytorch-quantization/src/error.rs"]
pub mod error;
#[path = "../../crates/tinytorch-quantization/src/finite.rs"]
pub mod finite;
#[path = "../../crates/tinytorch-quantization/src/histogram.rs"]
pub mod histogram;
#[path = "../../crates/tinytorch-quantization/src/layer.rs"]
pub mod layer;
#[path = "../../crates/tinytorch-quantization/src/qtensor.rs"]
pub mod qtensor;
#[path = "../../crates/tinytorch-quantization/src/scheme.rs"]
pub mod scheme;

pub use conv::QConv2d;
pub use entropy::{EMPTY_BIN, EntropyObserver, coarsen, divergence, entropy_range};
pub use error::{Error, NonFinite, Place, Result};
pub use fake_quantize::{fake_quantize_values, straight_through_gradient};
pub use gemm::{MAX_K, MAX_K_BOTH_ASYMMETRIC, gemm_i8};
pub use histogram::Histogram;
pub use linear::{QLinear, quantize_bias};
pub use loss_scaling::LossScaler;
pub use observer::{MinMaxObserver, MovingAverageMinMaxObserver, Observer, PercentileObserver};
pub use per_channel::{choose_qparams_per_channel, quantize_per_channel};
pub use qparams::{choose_qparams, symmetric_scale};
pub use qtensor::{Parameters, QTensor};
pub use quantize::{dequantize, quantize};
pub use requantize::{multipliers, requantize};
pub use scheme::{CodeRange, Dims, Granularity, QParams, Scheme, Symmetry, ValueRange};
