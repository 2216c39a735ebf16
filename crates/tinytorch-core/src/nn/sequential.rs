//! Layers one after the other.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use super::{Layer, fused};
use crate::error::Result;
use crate::tape::is_recording;
use crate::tensor::Tensor;

/// Runs its layers in order. A layer is named by its position unless it is given a name.
///
/// Under [`no_grad`](crate::no_grad) some neighbouring layers run as one, with the same bits as one after the other.
#[derive(Default)]
pub struct Sequential {
    layers: Vec<(String, Arc<dyn Layer>)>,
}

impl Sequential {
    /// No layers: the identity.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a layer, named by its position.
    #[must_use]
    pub fn with(self, layer: impl Layer) -> Self {
        let name = self.layers.len().to_string();
        self.with_named(name, layer)
    }

    /// Adds a layer with a name of its own.
    #[must_use]
    pub fn with_named(mut self, name: impl Into<String>, layer: impl Layer) -> Self {
        self.push(name, Box::new(layer));
        self
    }

    /// Adds a boxed layer.
    pub fn push(&mut self, name: impl Into<String>, layer: Box<dyn Layer>) {
        self.layers.push((name.into(), layer.into()));
    }

    /// A model of layers that others may hold too.
    pub fn from_shared(layers: Vec<(String, Arc<dyn Layer>)>) -> Self {
        Self { layers }
    }

    /// The layers by name, shared with this model: so that a model made from this one can keep some of them.
    pub fn shared(&self) -> &[(String, Arc<dyn Layer>)] {
        &self.layers
    }

    /// The number of layers.
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// Whether there are no layers.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Its layers, and in place of a sequence inside its own.
    fn flatten_into<'a>(&'a self, layers: &mut Vec<&'a dyn Layer>) {
        for (_, layer) in &self.layers {
            match layer.as_any().downcast_ref::<Sequential>() {
                Some(inner) => inner.flatten_into(layers),
                None => layers.push(&**layer),
            }
        }
    }
}

impl Layer for Sequential {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if is_recording() {
            let mut layers = self.layers.iter();
            return layers.try_fold(x.clone(), |x, (_, layer)| layer.forward(&x));
        }
        let mut layers = Vec::with_capacity(self.layers.len());
        self.flatten_into(&mut layers);
        fused::forward(&layers, x)
    }

    fn kind(&self) -> &'static str {
        "sequential"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn children(&self) -> Vec<(String, &dyn Layer)> {
        self.layers
            .iter()
            .map(|(name, layer)| (name.clone(), &**layer))
            .collect()
    }
}

impl fmt::Debug for Sequential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.layers.iter().map(|(name, layer)| (name, layer.kind())))
            .finish()
    }
}
