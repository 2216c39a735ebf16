//! Reads the files that `make_vectors.py` writes.

use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// The bytes of one file, and the settings of its cases.
pub struct Golden {
    bytes: Vec<u8>,
    settings: Vec<Value>,
}

/// One case: its settings and its part of the file.
pub struct Case<'a> {
    pub name: &'a str,
    settings: &'a Value,
    tensors: &'a SafeTensors<'a>,
}

impl Golden {
    /// Reads `tests/golden/<topic>.safetensors`.
    pub fn open(topic: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let path = folder.join(format!("{topic}.safetensors"));
        let bytes = std::fs::read(path).expect("the file is part of the crate");
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("a safetensors header");
        let golden = header.metadata().as_ref().and_then(|map| map.get("golden"));
        let golden: Value = serde_json::from_str(golden.expect("the key `golden`")).expect("JSON");
        let settings = golden["cases"].as_array().expect("a list of cases").clone();
        Self { bytes, settings }
    }

    /// Runs `check` on every case.
    pub fn all(&self, mut check: impl FnMut(&Case<'_>)) {
        let tensors = SafeTensors::deserialize(&self.bytes).expect("a safetensors file");
        for settings in &self.settings {
            let name = settings["name"].as_str().expect("a case has a name");
            check(&Case {
                name,
                settings,
                tensors: &tensors,
            });
        }
    }

    /// Runs `check` on every case whose settings have `key` = `value`; there must be some.
    pub fn each(&self, key: &str, value: &str, mut check: impl FnMut(&Case<'_>)) {
        let tensors = SafeTensors::deserialize(&self.bytes).expect("a safetensors file");
        let chosen = self
            .settings
            .iter()
            .filter(|settings| settings[key] == value);
        let mut checked = 0;
        for settings in chosen {
            let name = settings["name"].as_str().expect("a case has a name");
            check(&Case {
                name,
                settings,
                tensors: &tensors,
            });
            checked += 1;
        }
        assert!(checked > 0, "no case has {key} = {value}");
    }
}

impl Case<'_> {
    /// Anything that stands in the settings.
    pub fn setting(&self, key: &str) -> &Value {
        &self.settings[key]
    }

    /// The bytes as they stand in the file.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        self.view(name).data().to_vec()
    }

    pub fn integer(&self, key: &str) -> i32 {
        let value = self.settings[key]
            .as_i64()
            .unwrap_or_else(|| panic!("{} has no {key}", self.name));
        value.try_into().expect("settings are small")
    }

    pub fn real(&self, key: &str) -> f32 {
        self.settings[key]
            .as_f64()
            .unwrap_or_else(|| panic!("{} has no {key}", self.name)) as f32
    }

    pub fn pair(&self, key: &str) -> [usize; 2] {
        [0, 1].map(|i| {
            let value = self.settings[key][i].as_u64();
            let value = value.unwrap_or_else(|| panic!("{} has no pair {key}", self.name));
            usize::try_from(value).expect("settings are small")
        })
    }

    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.view(name).shape().to_vec()
    }

    pub fn floats(&self, name: &str) -> Vec<f32> {
        let view = self.view(name);
        assert_eq!(view.dtype(), Dtype::F32, "{}/{name}", self.name);
        view.data()
            .as_chunks()
            .0
            .iter()
            .map(|&bytes| f32::from_le_bytes(bytes))
            .collect()
    }

    /// Whatever the integer type.
    pub fn integers(&self, name: &str) -> Vec<i32> {
        let view = self.view(name);
        match view.dtype() {
            Dtype::I8 => view
                .data()
                .iter()
                .map(|&byte| i32::from(byte as i8))
                .collect(),
            Dtype::U8 => view.data().iter().map(|&byte| i32::from(byte)).collect(),
            Dtype::I32 => view
                .data()
                .as_chunks()
                .0
                .iter()
                .map(|&bytes| i32::from_le_bytes(bytes))
                .collect(),
            other => panic!("{}/{name} is {other:?}", self.name),
        }
    }

    /// What to subtract from a code so that it fits an `i8`: 128 if `name` holds `u8` codes.
    ///
    /// A zero point moves by the same amount, so the reals stay what they were; the codes are rounded before the zero
    /// point is added, so the shift changes no code.
    pub fn shift(&self, name: &str) -> i32 {
        if self.view(name).dtype() == Dtype::U8 {
            128
        } else {
            0
        }
    }

    /// Codes as `i8`, those of `u8` shifted.
    pub fn codes(&self, name: &str) -> Vec<i8> {
        let shift = self.shift(name);
        let narrow = |code: i32| i8::try_from(code - shift).expect("a shifted code fits an i8");
        self.integers(name).into_iter().map(narrow).collect()
    }

    fn view(&self, name: &str) -> safetensors::tensor::TensorView<'_> {
        let key = format!("{}/{name}", self.name);
        self.tensors
            .tensor(&key)
            .unwrap_or_else(|_| panic!("no tensor {key}"))
    }
}
