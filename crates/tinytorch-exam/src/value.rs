//! Named values: what goes into a subject and what comes out.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The data of one named value.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Value {
    /// Integers of any width: codes, accumulators, counts.
    I64(Vec<i64>),
    /// Floats; they keep their bits through JSON.
    F32(#[serde(with = "exact_f32")] Vec<f32>),
    /// A text.
    Text(String),
    /// A yes or no.
    Bool(bool),
}

/// Same bits: NaN equals the same NaN, and `0.0` does not equal `-0.0`. Judging is more lenient, see
/// [`compare`](crate::compare).
impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::I64(a), Self::I64(b)) => a == b,
            (Self::F32(a), Self::F32(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
            }
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            _ => false,
        }
    }
}

impl Value {
    /// The number of elements; a text or a bool is one.
    pub fn len(&self) -> usize {
        match self {
            Self::I64(v) => v.len(),
            Self::F32(v) => v.len(),
            Self::Text(_) | Self::Bool(_) => 1,
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name of the kind, as in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::I64(_) => "i64",
            Self::F32(_) => "f32",
            Self::Text(_) => "text",
            Self::Bool(_) => "bool",
        }
    }
}

/// A value with its name and, if it is not one-dimensional, its shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Named {
    /// What the value is called in feedback: `codes`, `scale`.
    pub name: String,
    /// The shape, row-major; `None` for a flat list or a scalar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Vec<usize>>,
    /// The data.
    pub value: Value,
}

/// An ordered list of named values, built by chaining.
///
/// ```
/// use tinytorch_exam::Values;
/// let values = Values::new().f32s("x", [0.5, -0.0]).shaped(&[2, 1]).int("zero_point", 3);
/// assert_eq!(values.names().collect::<Vec<_>>(), ["x", "zero_point"]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Values(Vec<Named>);

impl Values {
    /// No values.
    pub fn new() -> Self {
        Self::default()
    }

    fn with(mut self, name: &str, value: Value) -> Self {
        self.0.push(Named {
            name: name.to_owned(),
            shape: None,
            value,
        });
        self
    }

    /// Adds floats.
    #[must_use]
    pub fn f32s(self, name: &str, values: impl IntoIterator<Item = f32>) -> Self {
        self.with(name, Value::F32(values.into_iter().collect()))
    }

    /// Adds one float.
    #[must_use]
    pub fn float(self, name: &str, value: f32) -> Self {
        self.with(name, Value::F32(vec![value]))
    }

    /// Adds integers of any type that fits an i64 losslessly.
    #[must_use]
    pub fn ints<I: Into<i64>>(self, name: &str, values: impl IntoIterator<Item = I>) -> Self {
        self.with(
            name,
            Value::I64(values.into_iter().map(Into::into).collect()),
        )
    }

    /// Adds one integer.
    #[must_use]
    pub fn int(self, name: &str, value: impl Into<i64>) -> Self {
        self.with(name, Value::I64(vec![value.into()]))
    }

    /// Adds a length or a count.
    #[must_use]
    pub fn count(self, name: &str, value: usize) -> Self {
        self.int(name, i64::try_from(value).unwrap_or(i64::MAX))
    }

    /// Adds a text.
    #[must_use]
    pub fn text(self, name: &str, value: impl Into<String>) -> Self {
        self.with(name, Value::Text(value.into()))
    }

    /// Adds a yes or no.
    #[must_use]
    pub fn flag(self, name: &str, value: bool) -> Self {
        self.with(name, Value::Bool(value))
    }

    /// Gives the value added last a shape.
    #[must_use]
    pub fn shaped(mut self, shape: &[usize]) -> Self {
        if let Some(last) = self.0.last_mut() {
            last.shape = Some(shape.to_vec());
        }
        self
    }

    /// The value called `name`.
    pub fn find(&self, name: &str) -> Option<&Named> {
        self.0.iter().find(|named| named.name == name)
    }

    /// The values in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Named> {
        self.0.iter()
    }

    /// The names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|named| named.name.as_str())
    }

    /// The number of named values.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Vec<Named>> for Values {
    fn from(values: Vec<Named>) -> Self {
        Self(values)
    }
}

/// A panic of the subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Panic {
    /// The text of the panic.
    pub message: String,
    /// The source file, as the compiler was given it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The line in that file, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
}

/// What came out of the subject for one case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    /// The subject answered.
    Values(Values),
    /// The subject returned an `Err`: `Kind: text`, see [`refused`](crate::refused).
    Error(String),
    /// The subject panicked.
    Panicked(Panic),
}

impl Reply {
    /// The tag of the hole that is not filled in yet, such as `15.6b`, if that is why the subject panicked.
    pub fn unfinished(&self) -> Option<&str> {
        match self {
            Self::Panicked(panic) => panic.message.strip_prefix("not yet implemented: exercise "),
            _ => None,
        }
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "panicked")?;
        if let Some(file) = &self.file {
            write!(f, " at {file}")?;
            if let Some(line) = self.line {
                write!(f, ":{line}")?;
            }
        }
        write!(f, ": {}", self.message)
    }
}

/// f32 through JSON without losing a bit.
mod exact_f32 {
    use std::fmt;

    use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
    use serde::ser::{SerializeSeq, Serializer};

    pub fn serialize<S: Serializer>(values: &[f32], serializer: S) -> Result<S::Ok, S::Error> {
        let mut sequence = serializer.serialize_seq(Some(values.len()))?;
        for value in values {
            if value.is_finite() {
                sequence.serialize_element(&f64::from(*value))?;
            } else {
                sequence.serialize_element(&format!("{:#010x}", value.to_bits()))?;
            }
        }
        sequence.end()
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f32>, D::Error> {
        deserializer.deserialize_seq(List)
    }

    struct List;

    impl<'de> Visitor<'de> for List {
        type Value = Vec<f32>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of floats")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<f32>, A::Error> {
            // The hint of a forged sequence is not trusted with an allocation.
            let mut values = Vec::new();
            while let Some(Float(value)) = sequence.next_element()? {
                values.push(value);
            }
            Ok(values)
        }
    }

    struct Float(f32);

    impl<'de> Deserialize<'de> for Float {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(One)
        }
    }

    struct One;

    impl Visitor<'_> for One {
        type Value = Float;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number, or the bits of a float such as \"0x7fc00000\"")
        }

        fn visit_f64<E: Error>(self, value: f64) -> Result<Float, E> {
            Ok(Float(value as f32))
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<Float, E> {
            Ok(Float(value as f32))
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<Float, E> {
            Ok(Float(value as f32))
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Float, E> {
            text.strip_prefix("0x")
                .and_then(|digits| u32::from_str_radix(digits, 16).ok())
                .map(|bits| Float(f32::from_bits(bits)))
                .ok_or_else(|| E::custom(format!("`{text}` is not the bits of a float")))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn there_and_back(bits: &[u32]) {
        let values = Values::new().f32s("x", bits.iter().map(|&b| f32::from_bits(b)));
        let json = serde_json::to_string(&values).unwrap();
        let back: Values = serde_json::from_str(&json).unwrap();
        assert_eq!(values, back, "{json}");
    }

    #[test]
    fn special_floats_keep_their_bits_through_json() {
        let special = [
            0.0,
            -0.0,
            1.0,
            -1.0,
            0.1,
            f32::MIN_POSITIVE,
            f32::MAX,
            f32::MIN,
            f32::EPSILON,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            16_777_216.0,
        ];
        there_and_back(&special.map(f32::to_bits));
        // The smallest subnormal, the largest one, and NaNs with a sign and with a payload.
        there_and_back(&[
            1,
            0x007f_ffff,
            0x8000_0001,
            0xffc0_0000,
            0x7fc0_1234,
            0x7f80_0001,
        ]);
    }

    #[test]
    fn floats_of_every_exponent_keep_their_bits_through_json() {
        // A step that is odd and large visits every exponent with varied fractions.
        there_and_back(
            &(0..40_000u32)
                .map(|i| i.wrapping_mul(107_377))
                .collect::<Vec<_>>(),
        );
    }

    #[test]
    fn integers_of_64_bits_survive() {
        let values = Values::new().ints("n", [i64::MIN, -1, 0, i64::MAX]);
        let json = serde_json::to_string(&values).unwrap();
        assert_eq!(serde_json::from_str::<Values>(&json).unwrap(), values);
    }

    #[test]
    fn the_json_is_the_documented_one() {
        let values = Values::new()
            .ints("codes", [1i8, 2])
            .shaped(&[2, 1])
            .float("x", f32::NAN);
        assert_eq!(
            serde_json::to_string(&values).unwrap(),
            r#"[{"name":"codes","shape":[2,1],"value":{"i64":[1,2]}},{"name":"x","value":{"f32":["0x7fc00000"]}}]"#
        );
    }

    #[test]
    fn an_unfinished_hole_is_recognised_by_its_message() {
        let panic = |message: &str| {
            Reply::Panicked(Panic {
                message: message.to_owned(),
                file: Some("quantize.rs".to_owned()),
                line: Some(7),
            })
        };
        assert_eq!(
            panic("not yet implemented: exercise 15.6b").unfinished(),
            Some("15.6b")
        );
        assert_eq!(panic("index out of bounds").unfinished(), None);
        assert_eq!(
            Reply::Error("not yet implemented: exercise 15.3".to_owned()).unfinished(),
            None
        );
    }
}
