//! Weights in files: the safetensors format, read with suspicion and written atomically.
//!
//! Any tool that reads safetensors reads these files. In their metadata stands, beside what a checkpoint adds,
//! a CRC-32 of each tensor, of its type, shape and bytes, because the format itself does not notice a changed byte among
//! the numbers, or a shape of equal size. Files of others have no checksums and are read without.
//!
//! Source: the safetensors format, <https://huggingface.co/docs/safetensors>.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use flate2::Crc;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::atomic::write_atomically;
use crate::nn::Layer;
use crate::{Result, Tensor};

/// The key of our metadata. One key, because their order in a file is not fixed and a file's bytes should be.
const METADATA_KEY: &str = "tinytorch";

/// The version of our metadata that is written.
const VERSION: u32 = 2;

/// Why weights cannot be saved or loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
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
    /// The file is not a whole safetensors file.
    #[error("{} is damaged or not a safetensors file: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not hold.
        reason: String,
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
    /// The model has a tensor that the file has not.
    #[error("{} has no tensor named `{name}`", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The name in the model.
        name: String,
    },
    /// The file has a tensor that the model has not.
    #[error("{} has a tensor named `{name}`, which the model does not have", path.display())]
    Unexpected {
        /// The file.
        path: PathBuf,
        /// The name in the file.
        name: String,
    },
    /// A tensor has another shape than in the model.
    #[error("`{name}` in {} has shape {got:?}, the model's has {expected:?}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape in the model.
        expected: Vec<usize>,
        /// Its shape in the file.
        got: Vec<usize>,
    },
    /// A tensor is not of 32-bit floats.
    #[error("`{name}` in {} has dtype {got}, expected F32", path.display())]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type in the file.
        got: String,
    },
    /// A name that a file cannot hold, or two tensors with one name.
    #[error("cannot save a tensor named `{name}`: {reason}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// What a file holds.
#[derive(Clone, Debug, Default)]
pub struct TensorFile {
    /// The tensors by name.
    pub tensors: BTreeMap<String, Tensor>,
    /// The note that [`write_tensors`] put beside them.
    pub note: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct OwnMetadata {
    /// What the checksums are of; see [`checksum`]. The first files did not say.
    #[serde(default = "first_version")]
    version: u32,
    crc32: BTreeMap<String, u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<Note>,
}

#[derive(Serialize, Deserialize)]
struct Note {
    crc32: u32,
    text: String,
}

/// Saves the parameters and buffers of a model, atomically.
///
/// # Errors
///
/// [`WeightsError::Io`], or [`WeightsError::Name`] if two tensors of the model share a name; a file that was
/// there before is then unchanged.
pub fn save_weights(path: impl AsRef<Path>, model: &dyn Layer) -> Result<()> {
    Ok(write_tensors(path, &model.named_tensors(), None)?)
}

/// Loads the parameters and buffers of a model from a file that holds exactly these.
///
/// # Errors
///
/// A [`WeightsError`] that names file and tensor: damaged, missing, unexpected, of another shape or type.
/// The model is then unchanged.
pub fn load_weights(path: impl AsRef<Path>, model: &dyn Layer) -> Result<()> {
    let path = path.as_ref();
    let file = read_tensors(path)?;
    assign_all(path, &model.named_tensors(), &file.tensors)
}

/// Gives each of the `targets` the values of its name; all or none.
pub(crate) fn assign_all(
    path: &Path,
    targets: &[(String, Tensor)],
    sources: &BTreeMap<String, Tensor>,
) -> Result<()> {
    check_all(path, targets, sources)?;
    for (name, target) in targets {
        target.assign(&sources[name])?;
    }
    Ok(())
}

/// Whether names and shapes of `sources` are exactly those of `targets`.
pub(crate) fn check_all(
    path: &Path,
    targets: &[(String, Tensor)],
    sources: &BTreeMap<String, Tensor>,
) -> Result<(), WeightsError> {
    let path = || path.to_path_buf();
    for (name, target) in targets {
        let Some(source) = sources.get(name) else {
            return Err(WeightsError::Missing {
                path: path(),
                name: name.clone(),
            });
        };
        if source.shape() != target.shape() {
            return Err(WeightsError::Shape {
                path: path(),
                name: name.clone(),
                expected: target.shape().to_vec(),
                got: source.shape().to_vec(),
            });
        }
    }
    let known = |name: &&String| targets.iter().any(|(target, _)| target == *name);
    match sources.keys().find(|name| !known(name)) {
        Some(name) => Err(WeightsError::Unexpected {
            path: path(),
            name: name.clone(),
        }),
        None => Ok(()),
    }
}

/// Writes named tensors, and perhaps a note for who reads them, atomically.
///
/// Equal content gives equal bytes.
///
/// # Errors
///
/// [`WeightsError::Name`] or [`WeightsError::Io`]; a file that was there before is then unchanged.
pub fn write_tensors(
    path: impl AsRef<Path>,
    tensors: &[(String, Tensor)],
    note: Option<&str>,
) -> Result<(), WeightsError> {
    let path = path.as_ref();
    let bytes = serialize(path, tensors, note)?;
    write_atomically(path, &bytes).map_err(|error| WeightsError::Io {
        action: "write",
        path: path.to_path_buf(),
        kind: error.kind(),
        reason: error.to_string(),
    })
}

fn serialize(
    path: &Path,
    tensors: &[(String, Tensor)],
    note: Option<&str>,
) -> Result<Vec<u8>, WeightsError> {
    let mut contents: BTreeMap<&str, (&[usize], Vec<u8>)> = BTreeMap::new();
    for (name, tensor) in tensors {
        let refused = |reason| WeightsError::Name {
            name: name.clone(),
            reason,
        };
        if name == "__metadata__" {
            return Err(refused("the format keeps this name for itself"));
        }
        let values = tensor.to_vec().into_iter();
        let bytes = values.flat_map(f32::to_le_bytes).collect();
        if contents.insert(name, (tensor.shape(), bytes)).is_some() {
            return Err(refused("another tensor has the same name"));
        }
    }
    let metadata = OwnMetadata {
        version: VERSION,
        crc32: contents
            .iter()
            .map(|(name, (shape, bytes))| ((*name).into(), checksum(Dtype::F32, shape, bytes)))
            .collect(),
        note: note.map(|text| Note {
            crc32: crc32(text.as_bytes()),
            text: text.into(),
        }),
    };
    let metadata = serde_json::to_string(&metadata).map_err(|e| e.to_string());
    let views: Result<Vec<_>, String> = contents
        .iter()
        .map(|(name, (shape, bytes))| {
            let view = TensorView::new(Dtype::F32, shape.to_vec(), bytes);
            Ok((*name, view.map_err(|e| e.to_string())?))
        })
        .collect();
    metadata
        .and_then(|metadata| {
            let metadata = HashMap::from([(METADATA_KEY.to_string(), metadata)]);
            safetensors::serialize(views?, Some(metadata)).map_err(|e| e.to_string())
        })
        .map_err(|reason| WeightsError::Io {
            action: "write",
            path: path.to_path_buf(),
            kind: io::ErrorKind::InvalidInput,
            reason,
        })
}

/// Reads all tensors of a file.
///
/// # Errors
///
/// [`WeightsError::Io`], [`WeightsError::Damaged`], [`WeightsError::DamagedTensor`] or [`WeightsError::Dtype`].
pub fn read_tensors(path: impl AsRef<Path>) -> Result<TensorFile, WeightsError> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(|error| WeightsError::Io {
        action: "read",
        path: path.to_path_buf(),
        kind: error.kind(),
        reason: error.to_string(),
    })?;
    let damaged = |reason: String| WeightsError::Damaged {
        path: path.to_path_buf(),
        reason,
    };
    let file = SafeTensors::deserialize(&bytes).map_err(|e| damaged(e.to_string()))?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(e.to_string()))?;
    let own = header
        .metadata()
        .as_ref()
        .and_then(|metadata| metadata.get(METADATA_KEY));
    let own: Option<OwnMetadata> = match own {
        Some(text) => {
            let parsed = serde_json::from_str(text);
            Some(parsed.map_err(|e| damaged(format!("metadata of {METADATA_KEY}: {e}")))?)
        }
        None => None,
    };

    if let Some(own) = &own {
        let version = own.version;
        if !(first_version()..=VERSION).contains(&version) {
            let reason = format!("its metadata has version {version}, not {VERSION} or below");
            return Err(damaged(reason));
        }
        let mut names = file.names();
        names.sort_unstable();
        if !own.crc32.keys().eq(names) {
            return Err(damaged("its checksums are not those of its tensors".into()));
        }
    }

    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        if view.dtype() != Dtype::F32 {
            return Err(WeightsError::Dtype {
                path: path.to_path_buf(),
                name: name.into(),
                got: view.dtype().to_string(),
            });
        }
        let got = match &own {
            Some(own) if own.version == first_version() => crc32(view.data()),
            _ => checksum(view.dtype(), view.shape(), view.data()),
        };
        let saved = own.as_ref().and_then(|own| own.crc32.get(name));
        if let Some(&expected) = saved.filter(|&&saved| saved != got) {
            return Err(WeightsError::DamagedTensor {
                path: path.to_path_buf(),
                name: name.into(),
                expected,
                got,
            });
        }
        let (numbers, _) = view.data().as_chunks::<4>();
        let values = numbers
            .iter()
            .map(|&bytes| f32::from_le_bytes(bytes))
            .collect();
        let tensor = Tensor::new(values, view.shape()).map_err(|e| damaged(e.to_string()))?;
        tensors.insert(name.to_string(), tensor);
    }
    let note = own.and_then(|own| own.note);
    if note
        .as_ref()
        .is_some_and(|note| crc32(note.text.as_bytes()) != note.crc32)
    {
        return Err(damaged("the checksum of its note is wrong".into()));
    }
    Ok(TensorFile {
        tensors,
        note: note.map(|note| note.text),
    })
}

/// Covers type, number of axes, their lengths, and the bytes. In version 1 it was the bytes alone.
fn checksum(dtype: Dtype, shape: &[usize], bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(dtype.to_string().as_bytes());
    crc.update(&(shape.len() as u64).to_le_bytes());
    for &length in shape {
        crc.update(&(length as u64).to_le_bytes());
    }
    crc.update(bytes);
    crc.sum()
}

fn first_version() -> u32 {
    1
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}
