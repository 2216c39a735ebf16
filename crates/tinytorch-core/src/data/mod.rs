//! Data: examples by index ([`Dataset`]), batches of an epoch ([`DataLoader`]), and where examples come from:
//! tensors in memory, the embedded [`digits`], folders of [`mnist`] and [`cifar10`].

mod cifar;
mod dataset;
mod digits;
mod error;
mod idx;
mod images;
mod loader;
mod random;
mod source;
mod split;
mod transform;

pub use cifar::cifar10;
pub use dataset::{Batch, Dataset, Subset, Targets, TensorDataset};
pub use digits::{TEST_COUNT, digits, ordered_split, stratified_split};
pub use error::{DataError, Place};
pub use idx::{Part, mnist};
pub use images::ImageDataset;
pub use loader::{BatchSource, DataLoader, Epoch};
pub use source::MAX_DATA_BYTES;
pub use split::{Split, stratified};
pub use transform::{Normalize, RandomHorizontalFlip, RandomShift, Transform};
