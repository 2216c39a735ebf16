//! The ledger of a conversion: what became of every operation of the original model, and by which rule.
//!
//! In: a prepared model. Out: one line for each operation, those that leave no trace too, so that nothing stays in `f32`
//! without a word.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::prepare::Prepared;
use crate::qmodel::QModel;

/// What became of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It computes with codes, or with narrow weights.
    Quantized,
    /// It is part of another layer, or does nothing in evaluation.
    Folded,
    /// It has no weights that could be narrow, and works on the real values that come: a ReLU behind a layer that takes and gives
    /// real values. It costs no bytes and no accuracy, so it is nothing that was left behind.
    PassesReals,
    /// It computes in `f32`.
    Float,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Quantized => "quantized",
            Self::Folded => "folded",
            Self::PassesReals => "passes reals",
            Self::Float => "float",
        })
    }
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// Its dotted name.
    pub name: String,
    /// Its kind: `conv2d`, `batch_norm2d`, `dropout`.
    pub kind: String,
    /// What became of it.
    pub fate: Fate,
    /// The rule that decided it, in words.
    pub rule: String,
}

/// Every operation of a model, in order of computation. It prints as a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// One for each operation.
    pub entries: Vec<LedgerEntry>,
}

impl Ledger {
    /// How many operations have this fate.
    #[must_use]
    pub fn count(&self, fate: Fate) -> usize {
        self.with_fate(fate).count()
    }

    /// The operations that have this fate.
    pub fn with_fate(&self, fate: Fate) -> impl Iterator<Item = &LedgerEntry> {
        self.entries.iter().filter(move |entry| entry.fate == fate)
    }

    pub(crate) fn note(&mut self, name: &str, kind: &str, fate: Fate, rule: impl Into<String>) {
        self.entries.push(LedgerEntry {
            name: name.to_owned(),
            kind: kind.to_owned(),
            fate,
            rule: rule.into(),
        });
    }

    /// Writes down for an operation that it works on real values after all.
    pub(crate) fn works_on_reals(&mut self, name: &str) {
        for entry in self.entries.iter_mut().filter(|entry| entry.name == name) {
            entry.fate = Fate::PassesReals;
            entry.rule = "has no weights; works on the real values that come".to_owned();
        }
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: fn(&LedgerEntry) -> usize, title: &str| {
            let longest = self.entries.iter().map(column).max();
            longest.unwrap_or(0).max(title.len())
        };
        let name = width(|entry| entry.name.chars().count(), "operation");
        let kind = width(|entry| entry.kind.chars().count(), "kind");
        writeln!(
            f,
            "{:name$}  {:kind$}  {:12}  rule",
            "operation", "kind", "fate"
        )?;
        for entry in &self.entries {
            let LedgerEntry {
                name: own,
                kind: what,
                fate,
                rule,
            } = entry;
            writeln!(f, "{own:name$}  {what:kind$}  {fate:12}  {rule}")?;
        }
        write!(
            f,
            "{} quantized, {} folded, {} passing reals on, {} in f32",
            self.count(Fate::Quantized),
            self.count(Fate::Folded),
            self.count(Fate::PassesReals),
            self.count(Fate::Float)
        )
    }
}

/// Writes a calibrated model in integers, as [`convert`](crate::convert::convert()) does, and keeps the ledger with it:
/// [`QModel::ledger`].
///
/// A model none of whose layers is static needs no calibration.
///
/// # Errors
///
/// Those of [`convert`](crate::convert::convert()).
pub fn convert(prepared: &Prepared) -> Result<QModel> {
    let model = crate::convert::convert(prepared)?;
    Ok(model.with_ledger(prepared.ledger().clone()))
}
