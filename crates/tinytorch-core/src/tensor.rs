//! The tensor: numbers in a shape, behind a handle that is cheap to clone.
//!
//! A [`Tensor`] is an `Arc`, so clones are the *same* tensor: an optimizer that holds a clone of a
//! layer's weight updates the layer. The numbers themselves are an [`ndarray::ArcArray`], so a snapshot
//! ([`Tensor::array`]) or a view (reshape, permute, slice) shares storage until somebody writes;
//! the writer then gets storage of its own, and no snapshot ever changes under its holder.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use ndarray::{ArcArray, ArrayD, ArrayViewMutD, IxDyn};
use rand::{Rng, RngExt};
use rand_distr::StandardNormal;

use crate::error::{Error, Result};
use crate::tape::Record;

/// The numbers of a tensor: an n-dimensional array with shared, copy-on-write storage.
pub type Values = ArcArray<f32, IxDyn>;

/// An n-dimensional array of `f32` that can collect gradients.
///
/// ```
/// use tinytorch_core::Tensor;
///
/// # fn main() -> tinytorch_core::Result<()> {
/// let w = Tensor::new(vec![1.0, 2.0, 3.0], &[3])?.with_grad();
/// let loss = (&w * &w).sum();
/// loss.backward()?;
/// assert_eq!(w.grad().expect("w is a leaf").to_vec(), [2.0, 4.0, 6.0]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Tensor {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    shape: Box<[usize]>,
    pub(crate) values: RwLock<Values>,
    /// How often the values were changed: the tape compares it with what an operation saw.
    version: AtomicU64,
    requires_grad: bool,
    grad: Mutex<Option<Values>>,
    pub(crate) record: Mutex<Record>,
}

/// A lock whose holder panicked still guards whole arrays: each is replaced or written element by element.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tensor {
    pub(crate) fn build(values: Values, requires_grad: bool, record: Record) -> Self {
        Self {
            inner: Arc::new(Inner {
                shape: values.shape().into(),
                values: RwLock::new(values),
                version: AtomicU64::new(0),
                requires_grad,
                grad: Mutex::new(None),
                record: Mutex::new(record),
            }),
        }
    }

    /// Puts `values`, in row-major order, into `shape`.
    ///
    /// # Errors
    ///
    /// [`Error::ValueCount`] if the shape holds another number of values.
    pub fn new(values: Vec<f32>, shape: &[usize]) -> Result<Self> {
        let count = values.len();
        ArrayD::from_shape_vec(IxDyn(shape), values)
            .map(Self::from_array)
            .map_err(|_| Error::ValueCount {
                shape: shape.to_vec(),
                count,
            })
    }

    /// Takes over an array; nothing is copied.
    pub fn from_array(array: impl Into<Values>) -> Self {
        Self::build(array.into(), false, Record::Leaf)
    }

    /// A tensor of zeros.
    pub fn zeros(shape: &[usize]) -> Self {
        Self::full(shape, 0.0)
    }

    /// A tensor of ones.
    pub fn ones(shape: &[usize]) -> Self {
        Self::full(shape, 1.0)
    }

    /// A tensor in which every element is `value`.
    ///
    /// # Panics
    ///
    /// If the shape holds more elements than `isize::MAX`.
    pub fn full(shape: &[usize], value: f32) -> Self {
        Self::from_array(ArrayD::from_elem(IxDyn(shape), value))
    }

    /// One number, shape `[]`.
    pub fn scalar(value: f32) -> Self {
        Self::full(&[], value)
    }

    /// Draws from the normal distribution with mean 0 and variance 1.
    pub fn randn(shape: &[usize], rng: &mut (impl Rng + ?Sized)) -> Self {
        let draw = || rng.sample(StandardNormal);
        Self::from_array(ArrayD::from_shape_simple_fn(IxDyn(shape), draw))
    }

    /// Draws uniformly from `low..high`.
    pub fn uniform(shape: &[usize], low: f32, high: f32, rng: &mut (impl Rng + ?Sized)) -> Self {
        let draw = || low + (high - low) * rng.random::<f32>();
        Self::from_array(ArrayD::from_shape_simple_fn(IxDyn(shape), draw))
    }

    /// A new leaf with these values that collects a gradient.
    ///
    /// What the values were computed from is forgotten, as by [`Tensor::detach`].
    #[must_use]
    pub fn with_grad(self) -> Self {
        Self::build(self.array(), true, Record::Leaf)
    }

    /// A new leaf with these values through which no gradient flows. Shares storage.
    #[must_use]
    pub fn detach(&self) -> Self {
        Self::from_array(self.array())
    }

    /// The length of each axis. A tensor keeps its shape for life.
    pub fn shape(&self) -> &[usize] {
        &self.inner.shape
    }

    /// The number of axes.
    pub fn rank(&self) -> usize {
        self.inner.shape.len()
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.inner.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A snapshot of the values, without a copy. Its layout is whatever the last operation left,
    /// so ask for `as_standard_layout` before `as_slice`.
    pub fn array(&self) -> Values {
        self.inner
            .values
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The values and their version, which belong together: no change comes between.
    pub(crate) fn snapshot(&self) -> (Values, u64) {
        let values = self
            .inner
            .values
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        (values.clone(), self.version())
    }

    /// The values in row-major order.
    pub fn to_vec(&self) -> Vec<f32> {
        let values = self.array();
        match values.as_slice() {
            Some(slice) => slice.to_vec(),
            None => values.iter().copied().collect(),
        }
    }

    /// The only value.
    ///
    /// # Errors
    ///
    /// [`Error::NotScalar`] if there is not exactly one.
    pub fn item(&self) -> Result<f32> {
        let values = self.array();
        match values.first() {
            Some(&value) if values.len() == 1 => Ok(value),
            _ => Err(Error::NotScalar {
                operation: "item",
                shape: self.shape().to_vec(),
            }),
        }
    }

    /// Changes the values in place, for this handle and all its clones; snapshots keep the old values.
    ///
    /// A tape that saw the old values refuses to run afterwards.
    ///
    /// # Panics
    ///
    /// May panic or never return if `change` reads this same tensor: it is locked meanwhile.
    pub fn update<R>(&self, change: impl FnOnce(ArrayViewMutD<'_, f32>) -> R) -> R {
        let mut values = self
            .inner
            .values
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        self.inner.version.fetch_add(1, Ordering::Release);
        change(values.view_mut())
    }

    /// Replaces the values by those of `source`, which it then shares storage with.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] if the shapes differ.
    pub fn assign(&self, source: &Tensor) -> Result<()> {
        self.check_same_shape("assign", source)?;
        let new = source.array();
        let mut values = self
            .inner
            .values
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        self.inner.version.fetch_add(1, Ordering::Release);
        *values = new;
        Ok(())
    }

    /// How often the values were changed by [`Tensor::update`] or [`Tensor::assign`].
    pub fn version(&self) -> u64 {
        self.inner.version.load(Ordering::Acquire)
    }

    /// Whether gradients flow to or through this tensor.
    pub fn requires_grad(&self) -> bool {
        self.inner.requires_grad
    }

    /// Whether two handles are one tensor.
    pub fn is_same(&self, other: &Tensor) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// The gradient that `backward` collected; only leaves made by [`Tensor::with_grad`] have one.
    pub fn grad(&self) -> Option<Tensor> {
        lock(&self.inner.grad).clone().map(Tensor::from_array)
    }

    /// Forgets the collected gradient.
    pub fn zero_grad(&self) {
        *lock(&self.inner.grad) = None;
    }

    /// Replaces the collected gradient.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] if it has not the shape of the tensor.
    pub fn set_grad(&self, gradient: &Tensor) -> Result<()> {
        self.check_same_shape("set_grad", gradient)?;
        *lock(&self.inner.grad) = Some(gradient.array());
        Ok(())
    }

    /// Changes the collected gradient in place; `None` if there is none.
    pub fn update_grad<R>(&self, change: impl FnOnce(ArrayViewMutD<'_, f32>) -> R) -> Option<R> {
        lock(&self.inner.grad)
            .as_mut()
            .map(|gradient| change(gradient.view_mut()))
    }

    pub(crate) fn add_to_grad(&self, gradient: ArrayD<f32>) {
        let mut slot = lock(&self.inner.grad);
        match slot.as_mut() {
            Some(sum) => *sum += &gradient,
            None => {
                // Optimizers walk slices: a gradient that came through a permutation is laid out
                // afresh once here, not at every step.
                let standard = if gradient.is_standard_layout() {
                    gradient
                } else {
                    gradient.as_standard_layout().into_owned()
                };
                *slot = Some(standard.into_shared());
            }
        }
    }

    pub(crate) fn check_same_shape(&self, operation: &'static str, other: &Tensor) -> Result<()> {
        if self.shape() == other.shape() {
            return Ok(());
        }
        Err(Error::ShapeMismatch {
            operation,
            left: self.shape().to_vec(),
            right: other.shape().to_vec(),
        })
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tensor")
            .field("shape", &self.shape())
            .field("values", &format_args!("{}", self.array()))
            .field("requires_grad", &self.requires_grad())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn values_fill_the_shape_row_by_row() -> Result<()> {
        let t = Tensor::new(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3])?;
        assert_eq!(t.array()[[1, 0]], 4.0);
        assert_eq!((t.shape(), t.rank(), t.len()), (&[2, 3][..], 2, 6));
        Ok(())
    }

    #[test]
    fn a_wrong_number_of_values_is_an_error() {
        let error = Tensor::new(vec![1.0; 5], &[2, 3]).expect_err("5 is not 6");
        assert_eq!(
            error,
            Error::ValueCount {
                shape: vec![2, 3],
                count: 5
            }
        );
    }

    #[test]
    fn a_snapshot_keeps_its_values_when_the_tensor_changes() {
        let t = Tensor::zeros(&[2]);
        let (snapshot, same) = (t.array(), t.clone());
        t.update(|mut values| values.fill(7.0));
        assert_eq!(snapshot.as_slice(), Some(&[0.0, 0.0][..]));
        assert_eq!(same.to_vec(), [7.0, 7.0]);
        assert_eq!(same.version(), 1);
    }

    #[test]
    fn item_wants_exactly_one_value() {
        assert_eq!(Tensor::scalar(3.5).item(), Ok(3.5));
        let error = Tensor::zeros(&[2]).item().expect_err("two values");
        assert_eq!(
            error,
            Error::NotScalar {
                operation: "item",
                shape: vec![2]
            }
        );
    }

    #[test]
    fn a_seed_fixes_the_random_values() {
        let draw = |seed| Tensor::randn(&[3, 4], &mut ChaCha8Rng::seed_from_u64(seed)).to_vec();
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn a_tensor_may_cross_threads() {
        fn check<T: Send + Sync + 'static>() {}
        check::<Tensor>();
    }
}
