//! A whole model in integers.
//!
//! In: a tensor of real values. Out: another. In between, from the first quantized layer to the last, everything is a
//! code: one `i8` for each activation. Only a layer that stayed in `f32` is given real values.

use std::sync::Arc;

use crate::composite::Chain;
use crate::definition;
use crate::error::Result;
use crate::extent::Extents;
use crate::flow::Flow;
use crate::framework::Tensor;
use crate::graph::{self, Node};
use crate::kernels::in_a_row;
use crate::ledger::{Fate, Ledger};
use crate::qlayer::QLayer;
use crate::scheme::{CodeRange, QParams};

/// A quantized model.
#[derive(Clone, Debug)]
pub struct QModel {
    input: QParams,
    nodes: Vec<Node>,
    ledger: Option<Ledger>,
    /// Of a model from a file: whoever wrote it may ask for anything.
    extents: Option<Arc<Extents>>,
}

impl QModel {
    /// Makes a model of named layers, and packs their weights for the kernels.
    ///
    /// The input is written as codes where the first layer takes codes, perhaps behind some that take either; `input` says
    /// how, and a model all of whose layers take either works on codes. One whose first layer takes real values does not look
    /// at it.
    ///
    /// # Errors
    ///
    /// - [`Error::Layer`] that names the layer whose input does not mean what the output of the one before it means.
    /// - [`Error::BadQParams`] if the input's parameters cannot be used; in an [`Error::Layer`] if those of a layer's
    ///   output cannot.
    /// - [`Error::NoCodes`], in an [`Error::Layer`], if a layer takes codes and what comes are real values for which no codes
    ///   were chosen.
    /// - [`Error::Kernel`] if the environment asks for a kernel that there is not.
    ///
    /// [`Error::Layer`]: crate::Error::Layer
    /// [`Error::BadQParams`]: crate::Error::BadQParams
    /// [`Error::NoCodes`]: crate::Error::NoCodes
    /// [`Error::Kernel`]: crate::Error::Kernel
    pub fn new(input: QParams, layers: Vec<(String, QLayer)>) -> Result<Self> {
        input.check(CodeRange::INT8)?;
        let nodes = graph::model(input, &layers)?;
        Ok(Self {
            input,
            nodes,
            ledger: None,
            extents: None,
        })
    }

    /// A model of a file, no layer of which may make more than `extents` allow.
    pub(crate) fn bounded(mut self, extents: Extents) -> Self {
        self.extents = Some(Arc::new(extents));
        self
    }

    fn check_extent(&self, x: &Tensor) -> Result<()> {
        self.extents
            .as_ref()
            .map_or(Ok(()), |extents| extents.check(x.shape()))
    }

    /// Computes the output, in integers wherever a layer was quantized: `[batch, ..]` to `[batch, ..]`, as the original model, but that
    /// a linear layer needs its batch axis.
    ///
    /// # Errors
    ///
    /// - [`Error::NotFinite`](crate::Error::NotFinite) with the index if a value that is written as a code is NaN or infinite: of the
    ///   input, or behind layers that compute with real values. Where nothing is written as a code (weights alone, bf16, `f32`), such
    ///   a value makes others, as it does in `f32`; and weights alone multiply codes before they scale, so very large inputs
    ///   overflow where `f32` does not (N22).
    /// - [`Error::Layer`](crate::Error::Layer) that names the layer whose input does not have the right shape; or, in a model from a
    ///   file, one that would make far more values than its weights and the input account for
    ///   ([`Error::TooLarge`](crate::Error::TooLarge)).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.check_extent(x)?;
        let x = Flow::Real(x.clone());
        in_a_row(|| graph::run(&self.nodes, x, "input"))?.into_real()
    }

    /// Computes the output layer by layer, by definition: slowly, and with the same codes. `[batch, ..]` to `[batch, ..]`,
    /// as [`QModel::forward`].
    ///
    /// # Errors
    ///
    /// As [`QModel::forward`].
    pub fn forward_definition(&self, x: &Tensor) -> Result<Tensor> {
        self.check_extent(x)?;
        let layers = self.layers()?;
        let input = definition::input(&layers, x, self.input);
        Ok(definition::run(&layers, input, "input")?.into_real())
    }

    /// The layers by name, each as its definition.
    ///
    /// # Errors
    ///
    /// None for a model that was made.
    pub fn layers(&self) -> Result<Chain> {
        graph::layers(&self.nodes)
    }

    /// What the codes of the input mean.
    #[must_use]
    pub fn input(&self) -> QParams {
        self.input
    }

    /// The layers that stay in `f32`, sums and concatenations of real values too: name and reason.
    pub fn in_float(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut found = Vec::new();
        graph::visit(&self.nodes, &mut |node| {
            if let Some(reason) = node.step.in_float() {
                found.push((node.name.as_str(), reason));
            }
        });
        found.into_iter()
    }

    /// Keeps the ledger of the conversion with the model, also in its file.
    #[must_use]
    pub fn with_ledger(mut self, ledger: Ledger) -> Self {
        self.ledger = Some(ledger);
        self
    }

    /// What became of every operation of the original model. A model that was put together without a ledger lists its own
    /// layers: what was folded into them is not known.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        if let Some(ledger) = &self.ledger {
            return ledger.clone();
        }
        let mut ledger = Ledger::default();
        graph::visit(&self.nodes, &mut |node| {
            let (fate, rule) = match node.step.in_float() {
                Some(reason) => (Fate::Float, reason),
                None => (Fate::Quantized, "a layer of the quantized model"),
            };
            ledger.note(&node.name, node.step.kind(), fate, rule);
        });
        ledger
    }

    /// The ledger that was kept, if one was.
    pub(crate) fn own_ledger(&self) -> Option<&Ledger> {
        self.ledger.as_ref()
    }

    /// The bytes of parameters the model holds: codes in the order of the kernels with the padding they need, the sums
    /// of their rows, biases, scales, and `f32` for what was not quantized.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        graph::bytes(&self.nodes) + size_of::<QParams>()
    }
}
