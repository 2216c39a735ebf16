//! Quantized models in files: the safetensors format, with a description of the layers in its metadata.
//!
//! Any tool that reads safetensors finds the codes as I8, the biases as I32 and the scales as F32, under the dotted names
//! of the layers: `features.0.weight`, `features.0.bias`, `features.0.scale`. The description says how they belong together, and
//! has a version. A checksum covers it and all tensors, because the format itself does not notice a changed byte.
//!
//! Source: the safetensors format, <https://huggingface.co/docs/safetensors>.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use flate2::Crc;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::error::Result;
use crate::framework::write_atomically;
use crate::qmodel::QModel;
use crate::record::{self, Description, VERSION};

/// The key of the description in the metadata.
const DESCRIPTION: &str = "tinytorch-quantized";
/// The key of the checksum in the metadata.
const CHECKSUM: &str = "tinytorch-quantized-crc32";

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
    /// Written by another version of this library.
    #[error("{} has version {got} of the format; this library reads version {supported}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version of the file.
        got: u32,
        /// The version that can be read.
        supported: u32,
    },
    /// A tensor is missing, or is not what the description says.
    #[error("tensor `{name}`: expected {expected}, got {got}")]
    Tensor {
        /// Its name.
        name: String,
        /// Type and shape that the description asks for.
        expected: String,
        /// What is there.
        got: String,
    },
    /// The model has a layer that a file cannot hold.
    #[error("layer `{name}` cannot be saved: {reason}")]
    Layer {
        /// Its dotted name.
        name: String,
        /// Why not.
        reason: String,
    },
}

/// The numbers of one tensor as they stand in a file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RawTensor {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
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
        let (description, tensors) = record::describe(self)?;
        let refused = |reason: String| FileError::Io {
            action: "write",
            path: path.to_path_buf(),
            kind: io::ErrorKind::InvalidInput,
            reason,
        };
        let text = serde_json::to_string(&description).map_err(|e| refused(e.to_string()))?;
        let checksum = checksum(&text, tensors.iter().map(|(name, t)| (&**name, &*t.bytes)));
        // One key, because the order of several in the header is not fixed, and a file's bytes should be.
        let own = serde_json::json!({ CHECKSUM: checksum, "layers": text }).to_string();
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
    /// - [`FileError::Io`], [`FileError::Damaged`], [`FileError::Foreign`], [`FileError::Version`],
    ///   [`FileError::Tensor`].
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
        let own: serde_json::Value =
            serde_json::from_str(own).map_err(|e| damaged(format!("{DESCRIPTION}: {e}")))?;
        let text = own["layers"].as_str().unwrap_or_default();
        let mut tensors = BTreeMap::new();
        for (name, view) in file.iter() {
            let tensor = RawTensor {
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                bytes: view.data().to_vec(),
            };
            tensors.insert(name.to_owned(), tensor);
        }
        let got = checksum(text, tensors.iter().map(|(name, t)| (&**name, &*t.bytes)));
        if own[CHECKSUM].as_u64() != Some(got.into()) {
            return Err(damaged("its checksum is wrong".to_owned()).into());
        }
        // The version first: what follows it may look different in another one.
        let version = serde_json::from_str::<record::Version>(text);
        let version = version.map_err(|e| damaged(e.to_string()))?.version;
        if version != VERSION {
            return Err(FileError::Version {
                path: path.to_path_buf(),
                got: version,
                supported: VERSION,
            }
            .into());
        }
        let description: Description =
            serde_json::from_str(text).map_err(|e| damaged(e.to_string()))?;
        record::rebuild(description, &tensors)
    }
}

fn io_error(action: &'static str, path: &Path, error: &io::Error) -> FileError {
    FileError::Io {
        action,
        path: path.to_path_buf(),
        kind: error.kind(),
        reason: error.to_string(),
    }
}

/// Covers the description, and name and content of every tensor in the order of their names.
fn checksum<'a>(text: &str, tensors: impl Iterator<Item = (&'a str, &'a [u8])>) -> u32 {
    let mut crc = Crc::new();
    crc.update(text.as_bytes());
    for (name, bytes) in tensors {
        crc.update(name.as_bytes());
        crc.update(bytes);
    }
    crc.sum()
}
