//! Reads the files that `make_vectors.py` writes.

use std::collections::HashMap;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tinytorch_core::Tensor;

/// One file: the cases of a topic.
pub struct Golden {
    pub cases: Vec<Case>,
}

/// The settings and tensors of one case.
pub struct Case {
    /// `topic/case`, for messages.
    pub name: String,
    settings: Value,
    tensors: HashMap<String, Tensor>,
}

impl Golden {
    /// Opens `tests/golden/<topic>.safetensors`.
    pub fn open(topic: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let bytes = std::fs::read(folder.join(format!("{topic}.safetensors")))
            .expect("the file is part of the crate");
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("a safetensors header");
        let golden = header
            .metadata()
            .as_ref()
            .and_then(|map| map.get("golden"))
            .expect("the key `golden`");
        let golden: Value = serde_json::from_str(golden).expect("JSON");

        let mut tensors: HashMap<String, HashMap<String, Tensor>> = HashMap::new();
        for (key, view) in SafeTensors::deserialize(&bytes)
            .expect("a safetensors file")
            .iter()
        {
            assert_eq!(view.dtype(), Dtype::F32, "{topic}: {key}");
            let (case, name) = key.split_once('/').expect("case/name");
            let values = view
                .data()
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            let tensor = Tensor::new(values.collect(), view.shape())
                .expect("as many values as the shape holds");
            tensors
                .entry(case.to_owned())
                .or_default()
                .insert(name.to_owned(), tensor);
        }

        let settings = golden["cases"].as_array().expect("a list of cases");
        let cases: Vec<Case> = settings
            .iter()
            .map(|settings| {
                let name = settings["name"].as_str().expect("a case has a name");
                Case {
                    name: format!("{topic}/{name}"),
                    settings: settings.clone(),
                    tensors: tensors.remove(name).expect("a case has tensors"),
                }
            })
            .collect();
        assert!(!cases.is_empty(), "{topic} has no cases");
        assert!(tensors.is_empty(), "{topic}: tensors without a case");
        Self { cases }
    }
}

impl Case {
    /// The case's own name, without the topic.
    pub fn short_name(&self) -> &str {
        self.name
            .split_once('/')
            .map_or(&self.name, |(_, name)| name)
    }

    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    pub fn tensor(&self, name: &str) -> &Tensor {
        self.get(name)
            .unwrap_or_else(|| panic!("{} has no tensor {name}", self.name))
    }

    /// A fresh leaf that collects a gradient.
    pub fn leaf(&self, name: &str) -> Tensor {
        self.tensor(name).clone().with_grad()
    }

    pub fn text(&self, key: &str) -> &str {
        self.settings[key]
            .as_str()
            .unwrap_or_else(|| panic!("{} has no text {key}", self.name))
    }

    pub fn number(&self, key: &str) -> Option<f64> {
        self.settings[key].as_f64()
    }

    pub fn numbers(&self, key: &str) -> Option<Vec<f64>> {
        let list = self.settings[key].as_array()?;
        Some(
            list.iter()
                .map(|value| value.as_f64().expect("a list of numbers"))
                .collect(),
        )
    }

    pub fn count(&self, key: &str) -> usize {
        self.as_count(key, &self.settings[key])
    }

    pub fn pair(&self, key: &str) -> [usize; 2] {
        [
            self.as_count(key, &self.settings[key][0]),
            self.as_count(key, &self.settings[key][1]),
        ]
    }

    pub fn counts(&self, key: &str) -> Vec<usize> {
        let list = self.settings[key]
            .as_array()
            .unwrap_or_else(|| panic!("{} has no list {key}", self.name));
        list.iter().map(|value| self.as_count(key, value)).collect()
    }

    fn as_count(&self, key: &str, value: &Value) -> usize {
        let number = value
            .as_u64()
            .unwrap_or_else(|| panic!("{}: {key} is no count: {value}", self.name));
        usize::try_from(number).expect("counts are small")
    }
}
