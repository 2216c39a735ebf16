//! One case: the input of one call, with a note saying what is special about it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::value::{Value, Values};

/// The input of one run of a check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// What is special about this case, for feedback: `ties with an odd zero point`.
    pub note: String,
    /// The input values.
    pub inputs: Values,
}

impl Case {
    /// A case with its note and inputs.
    pub fn new(note: impl Into<String>, inputs: Values) -> Self {
        Self {
            note: note.into(),
            inputs,
        }
    }

    fn find(&self, name: &str, kind: &str) -> Result<&Value, Stop> {
        let named = self
            .inputs
            .find(name)
            .ok_or_else(|| Stop::Malformed(format!("the case has no `{name}`")))?;
        if named.value.kind() == kind {
            Ok(&named.value)
        } else {
            Err(Stop::Malformed(format!(
                "`{name}` of the case is {}, not {kind}",
                named.value.kind()
            )))
        }
    }

    /// The floats called `name`.
    ///
    /// # Errors
    ///
    /// [`Stop::Malformed`] if there are none; so for all that follow.
    pub fn f32s(&self, name: &str) -> Result<&[f32], Stop> {
        match self.find(name, "f32")? {
            Value::F32(values) => Ok(values),
            _ => unreachable!("`find` compares the kind"),
        }
    }

    /// The one float called `name`.
    #[expect(clippy::missing_errors_doc, reason = "as for `f32s`")]
    pub fn float(&self, name: &str) -> Result<f32, Stop> {
        match self.f32s(name)? {
            [value] => Ok(*value),
            other => Err(Stop::Malformed(format!(
                "`{name}` of the case has {} values, not one",
                other.len()
            ))),
        }
    }

    /// The integers called `name`, as the type the subject wants.
    #[expect(clippy::missing_errors_doc, reason = "as for `f32s`")]
    pub fn ints<T: TryFrom<i64>>(&self, name: &str) -> Result<Vec<T>, Stop> {
        match self.find(name, "i64")? {
            Value::I64(values) => values
                .iter()
                .map(|&value| {
                    T::try_from(value).map_err(|_| {
                        Stop::Malformed(format!("`{name}` of the case: {value} does not fit"))
                    })
                })
                .collect(),
            _ => unreachable!("`find` compares the kind"),
        }
    }

    /// The one integer called `name`.
    #[expect(clippy::missing_errors_doc, reason = "as for `f32s`")]
    pub fn int<T: TryFrom<i64>>(&self, name: &str) -> Result<T, Stop> {
        let mut values = self.ints(name)?;
        match (values.pop(), values.is_empty()) {
            (Some(value), true) => Ok(value),
            _ => Err(Stop::Malformed(format!(
                "`{name}` of the case is not one integer"
            ))),
        }
    }

    /// The yes or no called `name`.
    #[expect(clippy::missing_errors_doc, reason = "as for `f32s`")]
    pub fn flag(&self, name: &str) -> Result<bool, Stop> {
        match self.find(name, "bool")? {
            Value::Bool(value) => Ok(*value),
            _ => unreachable!("`find` compares the kind"),
        }
    }

    /// The text called `name`.
    #[expect(clippy::missing_errors_doc, reason = "as for `f32s`")]
    pub fn text(&self, name: &str) -> Result<&str, Stop> {
        match self.find(name, "text")? {
            Value::Text(value) => Ok(value),
            _ => unreachable!("`find` compares the kind"),
        }
    }

    /// The shape of the value called `name`; its length if it has none.
    #[expect(clippy::missing_errors_doc, reason = "as for `f32s`")]
    pub fn shape(&self, name: &str) -> Result<Vec<usize>, Stop> {
        let named = self
            .inputs
            .find(name)
            .ok_or_else(|| Stop::Malformed(format!("the case has no `{name}`")))?;
        Ok(named
            .shape
            .clone()
            .unwrap_or_else(|| vec![named.value.len()]))
    }
}

/// Why a run ended without values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The subject returned an `Err`, which is an answer like any other.
    Refused(String),
    /// The case does not fit the check: a fault of whoever sent it.
    Malformed(String),
}

/// Turns an error of the subject into an answer: its kind (the name of the variant), a colon, its text.
///
/// Kinds are compared, texts are shown.
pub fn refused<E: fmt::Debug + fmt::Display>(error: E) -> Stop {
    let debug = format!("{error:?}");
    let kind: String = debug
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    Stop::Refused(format!("{kind}: {error}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn values_are_found_by_name_and_kind() {
        let case = Case::new(
            "",
            Values::new()
                .f32s("x", [1.0, 2.0])
                .shaped(&[1, 2])
                .int("zero_point", -3),
        );
        assert_eq!(case.f32s("x").unwrap(), [1.0, 2.0]);
        assert_eq!(case.shape("x").unwrap(), [1, 2]);
        assert_eq!(case.int::<i32>("zero_point").unwrap(), -3);
        assert_eq!(case.ints::<i8>("zero_point").unwrap(), [-3]);
    }

    #[test]
    fn what_does_not_fit_is_malformed_and_named() {
        let case = Case::new("", Values::new().f32s("x", [1.0, 2.0]).int("big", 300));
        for stop in [
            case.f32s("y").unwrap_err(),
            case.float("x").unwrap_err(),
            case.int::<i8>("big").unwrap_err(),
            case.f32s("big").unwrap_err(),
            case.flag("x").unwrap_err(),
        ] {
            assert!(
                matches!(&stop, Stop::Malformed(text) if text.contains('`')),
                "{stop:?}"
            );
        }
    }

    #[test]
    fn an_error_keeps_its_kind_and_its_text() {
        let error = "x".parse::<i32>().unwrap_err();
        assert_eq!(
            refused(error),
            Stop::Refused("ParseIntError: invalid digit found in string".to_owned())
        );
    }
}
