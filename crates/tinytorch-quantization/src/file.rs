//! Quantized models in files: the safetensors format, with a description of the layers in its metadata.
//!
//! Any tool that reads safetensors finds the codes as I8, the biases as I32 and the scales as F32, under the dotted names
//! of the layers: `features.0.weight`, `features.0.bias`, `features.0.scale`. The description says how they belong together, and
//! has a version. It has a checksum, and so has every tensor, for its type and shape as well as its bytes, because the
//! format itself does not notice a change. A tensor that the description does not ask for is refused.
//!
//! Source: the safetensors format, <https://huggingface.co/docs/safetensors>.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use flate2::Crc;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::framework::write_atomically;
use crate::qmodel::QModel;
use crate::record::{Description, OLDEST, VERSION, Version};
use crate::{describe, rebuild};

/// The key of our metadata. One key, because the order of several in the header is not fixed, and a file's bytes should
/// be.
const DESCRIPTION: &str = "tinytorch-quantized";

/// Why a quantized model cannot be saved or loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The operating system refused.
    #[error("cannot {action} {}: {reason}", path.display())]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's class of the failure.
        kind: io::ErrorKind,
        /// The system's words.
        reason: String,
    },
    /// The file is not what was written.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not hold.
        reason: String,
    },
    /// A safetensors file, but not one of a quantized model.
    #[error("{} holds no quantized model: its metadata has no `{DESCRIPTION}`", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Not a file of calibration sketches.
    #[error("{} holds no calibration", path.display())]
    NoCalibration {
        /// The file.
        path: PathBuf,
    },
    /// Written by another version of this library.
    #[error("{} has version {got} of the format; this library reads versions {oldest} to {supported}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version of the file.
        got: u32,
        /// The oldest version that can be read.
        oldest: u32,
        /// The newest version that can be read.
        supported: u32,
    },
    /// A tensor is not the one that was saved.
    #[error("`{name}` in {} is damaged: its checksum is {got:#010x}, not {expected:#010x}", path.display())]
    DamagedTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The CRC-32 that was saved with it.
        expected: u32,
        /// The CRC-32 of its type, shape and bytes.
        got: u32,
    },
    /// The file has a tensor that the model does not ask for.
    #[error("{} has a tensor named `{name}`, which belongs to no layer", path.display())]
    Unexpected {
        /// The file.
        path: PathBuf,
        /// The name in the file.
        name: String,
    },
    /// A tensor is missing, or is not what the description says.
    #[error("`{name}` in {}: expected {expected}, got {got}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// Its name.
        name: String,
        /// Type and shape that the description asks for.
        expected: String,
        /// What is there.
        got: String,
    },
    /// The model has a layer that a file cannot hold.
    #[error("layer `{name}` cannot be saved to {}: {reason}", path.display())]
    Layer {
        /// The file that was to be written.
        path: PathBuf,
        /// Its dotted name.
        name: String,
        /// Why not.
        reason: String,
    },
}

/// What stands in the metadata.
#[derive(Serialize, Deserialize)]
struct OwnMetadata {
    /// The [`Description`], as the text that the checksum is of.
    layers: String,
    #[serde(default)]
    layers_crc32: u32,
    /// Of each tensor.
    #[serde(default)]
    crc32: BTreeMap<String, u32>,
}

/// The numbers of one tensor as they stand in a file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RawTensor {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl RawTensor {
    /// Covers type, number of axes, their lengths, and the bytes.
    fn checksum(&self) -> u32 {
        let mut crc = Crc::new();
        crc.update(self.dtype.to_string().as_bytes());
        crc.update(&(self.shape.len() as u64).to_le_bytes());
        for &length in &self.shape {
            crc.update(&(length as u64).to_le_bytes());
        }
        crc.update(&self.bytes);
        crc.sum()
    }
}

impl QModel {
    /// Writes the model to a file, atomically, and says how many bytes it has.
    ///
    /// Equal models give equal bytes.
    ///
    /// # Errors
    ///
    /// [`FileError::Layer`] for a layer of one's own that stayed in `f32`, [`FileError::Io`]; a file that was there
    /// before is then unchanged.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<u64> {
        let path = path.as_ref();
        let (description, tensors) = describe::describe(self, path)?;
        let refused = |reason: String| FileError::Io {
            action: "write",
            path: path.to_path_buf(),
            kind: io::ErrorKind::InvalidInput,
            reason,
        };
        let text = serde_json::to_string(&description).map_err(|e| refused(e.to_string()))?;
        // What is nested too deeply could be written, but not read.
        serde_json::from_str::<Description>(&text).map_err(|e| refused(e.to_string()))?;
        let checksums = tensors.iter().map(|(name, t)| (name.clone(), t.checksum()));
        let own = OwnMetadata {
            layers_crc32: text_checksum(&text),
            layers: text,
            crc32: checksums.collect(),
        };
        let own = serde_json::to_string(&own).map_err(|e| refused(e.to_string()))?;
        let metadata = HashMap::from([(DESCRIPTION.to_owned(), own)]);
        let mut views = Vec::with_capacity(tensors.len());
        for (name, tensor) in &tensors {
            let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes);
            views.push((name, view.map_err(|e| refused(e.to_string()))?));
        }
        let bytes = safetensors::serialize(views, Some(metadata));
        let bytes = bytes.map_err(|e| refused(e.to_string()))?;
        write_atomically(path, &bytes).map_err(|error| io_error("write", path, &error))?;
        let written = std::fs::metadata(path).map_err(|error| io_error("read", path, &error))?;
        Ok(written.len())
    }

    /// Reads a model that [`QModel::save`] wrote.
    ///
    /// # Errors
    ///
    /// - [`FileError::Io`], [`FileError::Damaged`], [`FileError::DamagedTensor`], [`FileError::Foreign`],
    ///   [`FileError::Version`], [`FileError::Tensor`], [`FileError::Unexpected`].
    /// - What [`QModel::new`] and the layers refuse.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|error| io_error("read", path, &error))?;
        let damaged = |reason: String| FileError::Damaged {
            path: path.to_path_buf(),
            reason,
        };
        let file = SafeTensors::deserialize(&bytes).map_err(|e| damaged(e.to_string()))?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(e.to_string()))?;
        let metadata = header.metadata().as_ref();
        let own = metadata.and_then(|metadata| metadata.get(DESCRIPTION));
        let own = own.ok_or_else(|| FileError::Foreign {
            path: path.to_path_buf(),
        })?;
        let own: OwnMetadata =
            serde_json::from_str(own).map_err(|e| damaged(format!("{DESCRIPTION}: {e}")))?;
        // The version first: what follows it may look different in another one.
        let version = serde_json::from_str::<Version>(&own.layers);
        let version = version.map_err(|e| damaged(e.to_string()))?.version;
        if !(OLDEST..=VERSION).contains(&version) {
            return Err(FileError::Version {
                path: path.to_path_buf(),
                got: version,
                oldest: OLDEST,
                supported: VERSION,
            }
            .into());
        }
        if text_checksum(&own.layers) != own.layers_crc32 {
            return Err(damaged("the checksum of its description is wrong".to_owned()).into());
        }
        let description: Description =
            serde_json::from_str(&own.layers).map_err(|e| damaged(e.to_string()))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.iter() {
            let tensor = RawTensor {
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                bytes: view.data().to_vec(),
            };
            let got = tensor.checksum();
            match own.crc32.get(name) {
                Some(&expected) if expected == got => {}
                Some(&expected) => {
                    return Err(FileError::DamagedTensor {
                        path: path.to_path_buf(),
                        name: name.to_owned(),
                        expected,
                        got,
                    }
                    .into());
                }
                None => return Err(unexpected(path, name.to_owned()).into()),
            }
            tensors.insert(name.to_owned(), tensor);
        }
        if let Some(name) = own.crc32.keys().find(|name| !tensors.contains_key(*name)) {
            return Err(damaged(format!("`{name}` has a checksum, but is not there")).into());
        }
        rebuild::rebuild(description, tensors, path)
    }
}

/// A tensor that nobody asked for.
pub(crate) fn unexpected(path: &Path, name: String) -> FileError {
    FileError::Unexpected {
        path: path.to_path_buf(),
        name,
    }
}

pub(crate) fn io_error(action: &'static str, path: &Path, error: &io::Error) -> FileError {
    FileError::Io {
        action,
        path: path.to_path_buf(),
        kind: error.kind(),
        reason: error.to_string(),
    }
}

fn text_checksum(text: &str) -> u32 {
    let mut crc = Crc::new();
    crc.update(text.as_bytes());
    crc.sum()
}
