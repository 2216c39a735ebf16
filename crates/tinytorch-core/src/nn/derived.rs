//! What a layer computes from its tensors once, for all calls until one of them changes.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use crate::ops::{slice, standard};
use crate::tensor::Tensor;

/// A value that was computed from some tensors, and from which version of each.
pub(super) struct Derived<T, const N: usize = 1> {
    last: RwLock<Option<([u64; N], Arc<T>)>>,
}

impl<T, const N: usize> Derived<T, N> {
    /// What `make` gives for the tensors' present values, in row-major order. It is called again only after a change.
    ///
    /// Always to be called with the same tensors, and with a `make` that depends on nothing else.
    pub fn get(&self, tensors: [&Tensor; N], make: impl FnOnce([&[f32]; N]) -> T) -> Arc<T> {
        let last = self.last.read().unwrap_or_else(PoisonError::into_inner);
        // A change raises the version before it touches a value: an equal one was not yet changed.
        if let Some((versions, value)) = &*last
            && *versions == tensors.map(Tensor::version)
        {
            return value.clone();
        }
        drop(last);
        // Two threads may both get here and compute the same; neither waits for the other.
        let snapshots = tensors.map(Tensor::snapshot);
        let versions = snapshots.each_ref().map(|(_, version)| *version);
        let values = snapshots.map(|(values, _)| standard(&values));
        let value = Arc::new(make(values.each_ref().map(slice)));
        let mut last = self.last.write().unwrap_or_else(PoisonError::into_inner);
        *last = Some((versions, value.clone()));
        value
    }
}

impl<T, const N: usize> Default for Derived<T, N> {
    fn default() -> Self {
        Self {
            last: RwLock::new(None),
        }
    }
}

impl<T, const N: usize> fmt::Debug for Derived<T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.last.read().unwrap_or_else(PoisonError::into_inner);
        let versions = last.as_ref().map(|(versions, _)| versions);
        f.debug_struct("Derived")
            .field("of_versions", &versions)
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
            *derived.get([tensor], |[values]| {
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
    fn a_change_of_any_of_some_tensors_is_seen() {
        let tensors = [1.0, 2.0].map(|value| Tensor::full(&[1], value));
        let derived = Derived::default();
        let both = |[a, b]: [&[f32]; 2]| [a[0], b[0]];
        let now = || *derived.get(tensors.each_ref(), both);
        assert_eq!(now(), [1.0, 2.0]);
        tensors[1].update(|mut values| values += 1.0);
        assert_eq!(now(), [1.0, 3.0]);
        tensors[0].update(|mut values| values += 3.0);
        assert_eq!(now(), [4.0, 3.0]);
    }

    #[test]
    fn threads_never_see_the_values_before_a_change_that_they_know_of() {
        let tensor = Tensor::zeros(&[1000]);
        let derived = Derived::default();
        let sum = |tensor: &Tensor| *derived.get([tensor], |[values]| values.iter().sum::<f32>());
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
