//! What a layer computes from its weight once, for all calls until the weight changes.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use crate::ops::{slice, standard};
use crate::tensor::Tensor;

/// A value that was computed from a tensor, and from which version of it.
pub(super) struct Derived<T> {
    last: RwLock<Option<(u64, Arc<T>)>>,
}

impl<T> Derived<T> {
    /// What `make` gives for the tensor's present values, in row-major order. It is called again only after a change.
    ///
    /// Always to be called with the same tensor, and with a `make` that depends on nothing else.
    pub fn get(&self, tensor: &Tensor, make: impl FnOnce(&[f32]) -> T) -> Arc<T> {
        let last = self.last.read().unwrap_or_else(PoisonError::into_inner);
        // A change raises the version before it touches a value: an equal one was not yet changed.
        if let Some((version, value)) = &*last
            && *version == tensor.version()
        {
            return value.clone();
        }
        drop(last);
        // Two threads may both get here and compute the same; neither waits for the other.
        let (values, version) = tensor.snapshot();
        let value = Arc::new(make(slice(&standard(&values))));
        let mut last = self.last.write().unwrap_or_else(PoisonError::into_inner);
        *last = Some((version, value.clone()));
        value
    }
}

impl<T> Default for Derived<T> {
    fn default() -> Self {
        Self {
            last: RwLock::new(None),
        }
    }
}

impl<T> fmt::Debug for Derived<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.last.read().unwrap_or_else(PoisonError::into_inner);
        let version = last.as_ref().map(|(version, _)| version);
        f.debug_struct("Derived")
            .field("of_version", &version)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_computed_again_after_each_change_and_only_then() {
        let tensor = Tensor::new(vec![1.0, 2.0], &[2]).expect("two values");
        let derived = Derived::default();
        let mut calls = 0;
        let mut sum = |tensor: &Tensor| {
            *derived.get(tensor, |values| {
                calls += 1;
                values.iter().sum::<f32>()
            })
        };
        assert_eq!((sum(&tensor), sum(&tensor)), (3.0, 3.0));
        tensor.update(|mut values| values[[0]] = 5.0);
        assert_eq!((sum(&tensor), sum(&tensor.clone())), (7.0, 7.0));
        let other = Tensor::zeros(&[2]);
        tensor.assign(&other).expect("the same shape");
        assert_eq!(sum(&tensor), 0.0);
        assert_eq!(calls, 3);
    }

    #[test]
    fn threads_never_see_the_values_before_a_change_that_they_know_of() {
        let tensor = Tensor::zeros(&[1000]);
        let derived = Derived::default();
        let sum = |tensor: &Tensor| *derived.get(tensor, |values| values.iter().sum::<f32>());
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut before = 0.0;
                    while before < 200_000.0 {
                        // Read first, so at least this much has to be in the sum.
                        let known = 1000.0 * tensor.version().saturating_sub(1) as f32;
                        let now = sum(&tensor);
                        assert!(
                            now >= known && now >= before,
                            "{now} after {known}, {before}"
                        );
                        // Each change is seen whole.
                        assert_eq!(now % 1000.0, 0.0);
                        before = now;
                    }
                });
            }
            for _ in 0..200 {
                tensor.update(|mut values| values += 1.0);
            }
        });
    }
}
