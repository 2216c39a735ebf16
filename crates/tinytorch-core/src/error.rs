//! What can go wrong, by the rule that was violated.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// The result of everything in this crate that depends on data.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A violated rule, with what was expected and what was found.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// A file of data, or a data set, that cannot be used.
    #[error(transparent)]
    Data(#[from] crate::data::DataError),

    /// Weights that cannot be saved or loaded.
    #[error(transparent)]
    Weights(#[from] crate::safetensors::WeightsError),

    /// A training that cannot go on as asked.
    #[error(transparent)]
    Train(#[from] crate::train::TrainError),

    /// An error of a layer that was made elsewhere, which keeps its own type.
    #[error(transparent)]
    Foreign(#[from] ForeignError),

    /// The shapes of two operands do not fit together.
    #[error(
        "shape mismatch in {operation}: {left:?} {} {right:?}",
        symbol(operation)
    )]
    ShapeMismatch {
        /// The operation that was asked for.
        operation: &'static str,
        /// Shape of the first operand.
        left: Vec<usize>,
        /// Shape of the second operand.
        right: Vec<usize>,
    },

    /// A shape and a number of values that do not agree.
    #[error(
        "{count} values cannot have shape {shape:?}, which holds {}",
        holds(shape)
    )]
    ValueCount {
        /// The shape that was asked for.
        shape: Vec<usize>,
        /// How many values there are.
        count: usize,
    },

    /// A single operand whose shape the operation cannot use.
    #[error("{operation} needs {expected}, got {got:?}")]
    Shape {
        /// The operation that was asked for.
        operation: &'static str,
        /// The shape it needs, in words: `[batch, features]`.
        expected: String,
        /// The shape it was given.
        got: Vec<usize>,
    },

    /// An axis that the tensor does not have.
    #[error("axis {axis} in {operation} is out of range for a tensor of {rank} axes")]
    Axis {
        /// The operation that was asked for.
        operation: &'static str,
        /// The axis that was named.
        axis: usize,
        /// How many axes there are.
        rank: usize,
    },

    /// An index, or the end of a range, beyond the length of its axis.
    #[error("index {index} in {operation} is out of range for {length} elements")]
    Index {
        /// The operation that was asked for.
        operation: &'static str,
        /// The index, or the end of the range.
        index: usize,
        /// How many elements there are.
        length: usize,
    },

    /// An argument outside the values that make sense.
    #[error("bad argument in {operation}: {reason}")]
    Argument {
        /// The operation or layer that was asked for.
        operation: &'static str,
        /// What is wrong with which argument.
        reason: String,
    },

    /// A single number was wanted from a tensor that holds none or many.
    #[error("{operation} needs a tensor of one element, got shape {shape:?}")]
    NotScalar {
        /// The operation that was asked for.
        operation: &'static str,
        /// The shape of the tensor.
        shape: Vec<usize>,
    },

    /// `backward` on a tensor to which nothing that collects a gradient leads.
    #[error(
        "backward on a tensor that does not depend on anything with a gradient \
         (is it detached, or was it computed under no_grad?)"
    )]
    NothingToDifferentiate,

    /// The tape holds an operation that has no useful derivative.
    #[error("{operation} is not differentiable; detach its result if no gradient should pass it")]
    NotDifferentiable {
        /// The operation on the tape.
        operation: &'static str,
    },

    /// `backward` met a tape that an earlier `backward` has already used up.
    #[error("the tape of {operation} was freed by an earlier backward; run the forward pass again")]
    TapeFreed {
        /// The operation whose record is gone.
        operation: &'static str,
    },

    /// A value on the tape is no longer the value that the operation saw.
    #[error(
        "a tensor of shape {shape:?} in the record of {operation} was changed after it was recorded"
    )]
    ChangedAfterRecording {
        /// The operation that recorded the value.
        operation: &'static str,
        /// The shape of the tensor that was changed.
        shape: Vec<usize>,
    },

    /// A backward function returned something else than one gradient per input.
    #[error("the backward function of {operation} returned {got}, expected {expected}")]
    BackwardContract {
        /// The operation whose backward function it is.
        operation: &'static str,
        /// What it must return.
        expected: String,
        /// What it returned.
        got: String,
    },

    /// A number that must be finite is infinite or not a number.
    #[error("{what} is {value}")]
    NotFinite {
        /// Which number.
        what: String,
        /// `inf`, `-inf` or `NaN`, as text so that errors can be compared.
        value: String,
    },

    /// A named tensor that should be there is not.
    #[error("{what} has no entry named `{name}`")]
    MissingEntry {
        /// The collection that was searched.
        what: &'static str,
        /// The name that was looked for.
        name: String,
    },

    /// A named tensor that nothing asked for.
    #[error("{what} has an entry named `{name}` that belongs to nothing here")]
    UnexpectedEntry {
        /// The collection that holds it.
        what: &'static str,
        /// Its name.
        name: String,
    },

    /// A named tensor with another shape than the place it should go to.
    #[error("`{name}` has shape {got:?}, expected {expected:?}")]
    EntryShape {
        /// Its name.
        name: String,
        /// The shape of the place.
        expected: Vec<usize>,
        /// The shape of the tensor.
        got: Vec<usize>,
    },
}

/// An error of another crate on its way through [`Layer::forward`](crate::nn::Layer::forward).
///
/// ```
/// use tinytorch_core::{Error, ForeignError};
///
/// #[derive(Debug, PartialEq, thiserror::Error)]
/// #[error("row {0} is empty")]
/// struct EmptyRow(usize);
///
/// let Error::Foreign(error) = Error::from(ForeignError::new(EmptyRow(3))) else {
///     unreachable!()
/// };
/// assert_eq!(error.to_string(), "row 3 is empty");
/// assert_eq!(error.downcast_ref(), Some(&EmptyRow(3)));
/// ```
#[derive(Clone)]
pub struct ForeignError(Arc<dyn std::error::Error + Send + Sync>);

impl ForeignError {
    /// Hands an error on.
    pub fn new(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self(Arc::new(error))
    }

    /// The error as it was, if it is of this type.
    pub fn downcast_ref<E: std::error::Error + 'static>(&self) -> Option<&E> {
        self.0.downcast_ref()
    }
}

impl fmt::Debug for ForeignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ForeignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for ForeignError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// Equal if they say the same.
impl PartialEq for ForeignError {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

/// The sign between two shapes in a message: `[2, 3] · [4, 5]`.
fn symbol(operation: &str) -> &'static str {
    match operation {
        "matmul" | "linear" => "·",
        "add" => "+",
        "sub" => "-",
        "mul" => "*",
        "div" => "/",
        "reshape" | "broadcast_to" => "to",
        _ => "and",
    }
}

fn holds(shape: &[usize]) -> String {
    shape
        .iter()
        .try_fold(1usize, |product, &length| product.checked_mul(length))
        .map_or_else(
            || "more than fits in memory".to_owned(),
            |count| count.to_string(),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_show_the_operation_and_both_shapes() {
        let error = Error::ShapeMismatch {
            operation: "matmul",
            left: vec![2, 3],
            right: vec![4, 5],
        };
        assert_eq!(
            error.to_string(),
            "shape mismatch in matmul: [2, 3] · [4, 5]"
        );
    }

    #[test]
    fn a_wrong_number_of_values_says_how_many_the_shape_holds() {
        let error = Error::ValueCount {
            shape: vec![2, 3],
            count: 5,
        };
        assert_eq!(
            error.to_string(),
            "5 values cannot have shape [2, 3], which holds 6"
        );
    }
}
