//! What stands in a file, taken apart so that a test can change it and put it together again.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use flate2::Crc;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

/// What a file holds, to be altered: the description, its checksum and those of the tensors, and the tensors.
#[derive(Clone)]
pub struct Contents {
    pub layers: Value,
    pub layers_crc32: u32,
    pub crc32: BTreeMap<String, u32>,
    pub tensors: BTreeMap<String, RawTensor>,
}

/// The type, the shape and the bytes of a tensor.
pub type RawTensor = (Dtype, Vec<usize>, Vec<u8>);

const KEY: &str = "tinytorch-quantized";

pub fn crc32(parts: &[&[u8]]) -> u32 {
    let mut crc = Crc::new();
    parts.iter().for_each(|part| crc.update(part));
    crc.sum()
}

impl Contents {
    pub fn read(path: &Path) -> Self {
        let bytes = fs::read(path).expect("it is there");
        let file = SafeTensors::deserialize(&bytes).expect("a whole file");
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("a whole file");
        let own = &header.metadata().as_ref().expect("it has metadata")[KEY];
        let own: Value = serde_json::from_str(own).expect("JSON");
        let layers = own["layers"].as_str().expect("a text");
        let tensors = file.iter().map(|(name, view)| {
            let tensor = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
            (name.to_owned(), tensor)
        });
        Self {
            layers: serde_json::from_str(layers).expect("JSON"),
            layers_crc32: own["layers_crc32"].as_u64().expect("a number") as u32,
            crc32: serde_json::from_value(own["crc32"].clone()).expect("numbers"),
            tensors: tensors.collect(),
        }
    }

    /// Makes all checksums right, as somebody would who means to write such a file.
    pub fn sign(&mut self) {
        self.layers_crc32 = crc32(&[self.layers.to_string().as_bytes()]);
        let of_tensor = |(name, (dtype, shape, bytes)): (&String, &RawTensor)| {
            let (dtype, axes) = (dtype.to_string(), shape.len() as u64);
            let lengths = shape.iter().map(|&length| length as u64);
            let numbers = std::iter::once(axes).chain(lengths);
            let numbers: Vec<u8> = numbers.flat_map(u64::to_le_bytes).collect();
            (name.clone(), crc32(&[dtype.as_bytes(), &numbers, bytes]))
        };
        self.crc32 = self.tensors.iter().map(of_tensor).collect();
    }

    pub fn write(&self, path: &Path) {
        let own = json!({
            "layers": self.layers.to_string(),
            "layers_crc32": self.layers_crc32,
            "crc32": self.crc32,
        });
        let views = self.tensors.iter().map(|(name, (dtype, shape, bytes))| {
            let view = TensorView::new(*dtype, shape.clone(), bytes);
            (name, view.expect("as many bytes as the shape says"))
        });
        let metadata = HashMap::from([(KEY.to_owned(), own.to_string())]);
        let bytes = safetensors::serialize(views, Some(metadata)).expect("a good header");
        fs::write(path, bytes).expect("a place to write");
    }
}
