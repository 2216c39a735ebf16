//! Layers made of layers that do not stand one behind the other: a sum of two ways, and ways side by side.
//!
//! ```text
//! Residual        x ──┬── body ─────(+)── y          Concat        x ──┬── branch 0 ──┐
//!                     └── shortcut ──┘                                 ├── branch 1 ──┼── y, joined along axis 1
//!                                                                      └── branch 2 ──┘
//! ```

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use super::Layer;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The sum of two ways: `y = body(x) + shortcut(x)`. Without a shortcut it is `body(x) + x`.
///
/// | tensor | shape |
/// |---|---|
/// | `x` | what `body` and `shortcut` take |
/// | `body(x)`, `shortcut(x)`, `y` | all the same |
///
/// Source: He et al., "Deep Residual Learning for Image Recognition", equations (1) and (2).
///
/// ```
/// use tinytorch_core::Tensor;
/// use tinytorch_core::nn::{Layer, Relu, Residual};
///
/// # fn main() -> tinytorch_core::Result<()> {
/// let layer = Residual::new(Relu);
/// let y = layer.forward(&Tensor::new(vec![-1.0, 2.0], &[1, 2])?)?;
/// assert_eq!(y.to_vec(), [-1.0, 4.0]);
/// # Ok(())
/// # }
/// ```
pub struct Residual {
    body: Arc<dyn Layer>,
    shortcut: Option<Arc<dyn Layer>>,
}

impl Residual {
    /// `body(x) + x`
    pub fn new(body: impl Layer) -> Self {
        Self {
            body: Arc::new(body),
            shortcut: None,
        }
    }

    /// `body(x) + shortcut(x)`, for a body that changes the shape.
    pub fn with_shortcut(body: impl Layer, shortcut: impl Layer) -> Self {
        Self {
            body: Arc::new(body),
            shortcut: Some(Arc::new(shortcut)),
        }
    }

    /// A residual layer of layers that others may hold too.
    pub fn from_shared(body: Arc<dyn Layer>, shortcut: Option<Arc<dyn Layer>>) -> Self {
        Self { body, shortcut }
    }

    /// The long way, shared with this layer.
    pub fn body(&self) -> &Arc<dyn Layer> {
        &self.body
    }

    /// The short way, shared with this layer; `None` if it is the identity.
    pub fn shortcut(&self) -> Option<&Arc<dyn Layer>> {
        self.shortcut.as_ref()
    }
}

impl Layer for Residual {
    /// # Errors
    ///
    /// Those of the layers inside; [`Error::ShapeMismatch`] if the two ways give different shapes (a sum does not
    /// broadcast here: that would hide a forgotten shortcut).
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let long = self.body.forward(x)?;
        let short = match &self.shortcut {
            Some(shortcut) => shortcut.forward(x)?,
            None => x.clone(),
        };
        if long.shape() != short.shape() {
            return Err(Error::ShapeMismatch {
                operation: "residual",
                left: long.shape().to_vec(),
                right: short.shape().to_vec(),
            });
        }
        long.try_add(&short)
    }

    fn kind(&self) -> &'static str {
        "residual"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn children(&self) -> Vec<(String, &dyn Layer)> {
        let mut children: Vec<(String, &dyn Layer)> = vec![("body".to_owned(), &*self.body)];
        if let Some(shortcut) = &self.shortcut {
            children.push(("shortcut".to_owned(), &**shortcut));
        }
        children
    }
}

impl fmt::Debug for Residual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Residual")
            .field("body", &self.body.kind())
            .field("shortcut", &self.shortcut.as_ref().map(|way| way.kind()))
            .finish()
    }
}

/// What several ways make of the same input, joined along axis 1: the channels of images, the features of rows.
///
/// | tensor | shape |
/// |---|---|
/// | `x` | what all branches take |
/// | `branch(x)` | `[batch, channels of this branch, ..]`, the same but for the channels |
/// | `y` | `[batch, sum of the channels, ..]` |
///
/// A branch is named by its position unless it is given a name. An empty [`Sequential`](super::Sequential) hands `x` itself
/// on.
///
/// Source: Szegedy et al., "Going Deeper with Convolutions", section 4.
#[derive(Default)]
pub struct Concat {
    branches: Vec<(String, Arc<dyn Layer>)>,
}

impl Concat {
    /// No branches yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a branch, named by its position.
    #[must_use]
    pub fn with(self, branch: impl Layer) -> Self {
        let name = self.branches.len().to_string();
        self.with_named(name, branch)
    }

    /// Adds a branch with a name of its own.
    #[must_use]
    pub fn with_named(mut self, name: impl Into<String>, branch: impl Layer) -> Self {
        self.branches.push((name.into(), Arc::new(branch)));
        self
    }

    /// A layer of branches that others may hold too.
    pub fn from_shared(branches: Vec<(String, Arc<dyn Layer>)>) -> Self {
        Self { branches }
    }

    /// The branches by name, in the order of their channels, shared with this layer.
    pub fn shared(&self) -> &[(String, Arc<dyn Layer>)] {
        &self.branches
    }
}

impl Layer for Concat {
    /// # Errors
    ///
    /// Those of the layers inside; [`Error::Argument`] without a branch, [`Error::ShapeMismatch`] if the results differ
    /// in another axis than 1.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let results = self.branches.iter().map(|(_, branch)| branch.forward(x));
        let results = results.collect::<Result<Vec<_>>>()?;
        Tensor::concat(&results.iter().collect::<Vec<_>>(), 1)
    }

    fn kind(&self) -> &'static str {
        "concat"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn children(&self) -> Vec<(String, &dyn Layer)> {
        self.branches
            .iter()
            .map(|(name, branch)| (name.clone(), &**branch))
            .collect()
    }
}

impl fmt::Debug for Concat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let branches = self.branches.iter();
        f.debug_map()
            .entries(branches.map(|(name, branch)| (name, branch.kind())))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Linear, Relu, Sequential};

    fn linear(weight: &[f32], shape: &[usize]) -> Linear {
        let weight = Tensor::new(weight.to_vec(), shape).expect("the shape fits");
        Linear::from_parts(weight, None).expect("[out, in]")
    }

    #[test]
    fn a_residual_adds_what_it_was_given_and_both_ways_get_the_gradient() -> Result<()> {
        let layer = Residual::new(linear(&[2.0, 0.0, 1.0, 3.0], &[2, 2]));
        let x = Tensor::new(vec![1.0, -1.0], &[1, 2])?.with_grad();
        let y = layer.forward(&x)?;
        assert_eq!(y.to_vec(), [2.0 + 1.0, -2.0 - 1.0]);
        y.sum().backward()?;
        // The column sums of the weight, and 1 for the short way.
        assert_eq!(x.grad().expect("leaf").to_vec(), [3.0 + 1.0, 3.0 + 1.0]);
        Ok(())
    }

    #[test]
    fn a_shortcut_may_change_the_shape_and_has_a_name() -> Result<()> {
        let layer = Residual::with_shortcut(
            Sequential::new().with(linear(&[1.0, 1.0], &[1, 2])),
            linear(&[0.5, -1.0], &[1, 2]),
        );
        let x = Tensor::new(vec![2.0, 3.0], &[1, 2])?;
        assert_eq!(layer.forward(&x)?.to_vec(), [5.0 - 2.0]);
        let names: Vec<_> = layer.named_parameters().into_iter().map(|p| p.0).collect();
        assert_eq!(names, ["body.0.weight", "shortcut.weight"]);
        Ok(())
    }

    #[test]
    fn a_sum_of_different_shapes_is_refused_also_where_it_could_broadcast() {
        let layer = Residual::new(linear(&[1.0, 1.0], &[1, 2]));
        let error = layer
            .forward(&Tensor::ones(&[3, 2]))
            .expect_err("1 is not 2");
        assert_eq!(
            error,
            Error::ShapeMismatch {
                operation: "residual",
                left: vec![3, 1],
                right: vec![3, 2],
            }
        );
    }

    #[test]
    fn branches_are_joined_in_order_and_each_gets_its_part_of_the_gradient() -> Result<()> {
        let layer = Concat::new()
            .with(linear(&[1.0, 2.0], &[1, 2]))
            .with_named("same", Sequential::new())
            .with(Relu);
        let x = Tensor::new(vec![1.0, -1.0], &[1, 2])?.with_grad();
        let y = layer.forward(&x)?;
        assert_eq!(y.to_vec(), [-1.0, 1.0, -1.0, 1.0, 0.0]);
        // Weights 1, 2, 3, 4, 5 tell the places apart.
        let weights = Tensor::new(vec![1.0, 2.0, 3.0, 4.0, 5.0], &[1, 5])?;
        y.try_mul(&weights)?.sum().backward()?;
        // 1·1 + 2 + 4 (ReLU passes the first), 1·2 + 3 (and stops the second).
        assert_eq!(x.grad().expect("leaf").to_vec(), [7.0, 5.0]);
        let names: Vec<_> = layer.children().into_iter().map(|child| child.0).collect();
        assert_eq!(names, ["0", "same", "2"]);
        Ok(())
    }

    #[test]
    fn nothing_to_join_is_an_error() {
        assert!(Concat::new().forward(&Tensor::ones(&[1, 1])).is_err());
        let uneven = Concat::new().with(Relu).with(crate::nn::Flatten);
        assert!(uneven.forward(&Tensor::ones(&[1, 2, 2])).is_err());
    }
}
