//! Training: epochs over a data set, measured, stopped in time, saved so that they can go on.
//!
//! ```
//! use rand::SeedableRng;
//! use rand_chacha::ChaCha8Rng;
//! use tinytorch_core::data::{DataLoader, stratified_split};
//! use tinytorch_core::nn::{Flatten, Layer, Linear, Sequential};
//! use tinytorch_core::optim::{Adam, AdamConfig};
//! use tinytorch_core::train::{CrossEntropy, Progress, Trainer, evaluate};
//!
//! # fn main() -> tinytorch_core::Result<()> {
//! let rng = &mut ChaCha8Rng::seed_from_u64(1);
//! let model = Sequential::new().with(Flatten).with(Linear::new(64, 10, rng));
//! let digits = stratified_split()?;
//! let train = DataLoader::new(digits.train, 64)?.shuffle(1);
//! let test = DataLoader::new(digits.test, 360)?;
//!
//! let config = AdamConfig { learning_rate: 1e-2, ..AdamConfig::default() };
//! let adam = Adam::new(model.named_parameters(), config);
//! let mut trainer = Trainer::new(&model, adam, CrossEntropy).progress(Progress::Silent);
//! trainer.fit(&train, None, 3)?;
//! assert!(evaluate(&model, &test, &CrossEntropy)?.accuracy > Some(0.8));
//! # Ok(())
//! # }
//! ```
//!
//! What decides a training is all in the seeds: the number of threads and interruptions change no bit of it.

mod checkpoint;
mod early_stopping;
mod error;
mod evaluate;
mod hook;
mod metrics;
mod objective;
mod progress;
mod trainer;

pub use early_stopping::{EarlyStopping, Monitor};
pub use error::TrainError;
pub use evaluate::evaluate;
pub use hook::{Proceed, StepHook};
pub use metrics::{EpochRecord, Metrics};
pub use objective::{BinaryCrossEntropy, CrossEntropy, MeanSquaredError, Objective};
pub use progress::Progress;
pub use trainer::Trainer;
