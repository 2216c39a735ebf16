//! Quantized layers made of layers: two ways that are added, several that are joined.
//!
//! Codes flow into all ways and are rescaled once, where the ways meet. A way may hold layers in `f32`: what they give is
//! written as codes at its end. If all ways give real values, they meet as real values.

use crate::error::Result;
use crate::join::{QAdd, QConcat};
use crate::qlayer::QLayer;
use crate::scheme::QParams;

/// Layers one behind the other, each with its dotted name. None at all: the identity.
pub type Chain = Vec<(String, QLayer)>;

/// Where ways meet.
#[derive(Clone, Debug, PartialEq)]
pub enum Join<T> {
    /// On codes.
    Codes(T),
    /// On real values.
    Real {
        /// Why not on codes.
        reason: String,
        /// How the result is written for an integer layer behind it; `None` if none is.
        output: Option<QParams>,
    },
}

/// `body(x) + shortcut(x)`
#[derive(Clone, Debug)]
pub struct QResidual {
    /// The long way.
    pub body: Chain,
    /// The short way.
    pub shortcut: Chain,
    /// The sum: its left side is the body.
    pub sum: Join<QAdd>,
}

/// `[branch 0(x), branch 1(x), ..]`, joined along axis 1.
#[derive(Clone, Debug)]
pub struct QBranches {
    /// The ways, in the order of their channels.
    pub branches: Vec<Chain>,
    /// The concatenation: one input for each way.
    pub join: Join<QConcat>,
}

/// What a layer must be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Codes that mean what it was made for.
    Codes,
    /// Real values.
    Real,
    /// What comes: it gives codes for codes and real values for real values.
    Either,
}

/// Whether the codes of what enters `layers` are ever looked at, if those of what leaves them are (`after`).
pub(crate) fn demands_codes(layers: &[(String, QLayer)], after: bool) -> bool {
    for (_, layer) in layers {
        match layer.takes() {
            Takes::Codes => return true,
            Takes::Real => return false,
            Takes::Either => {}
        }
    }
    after
}

impl<T> Join<T> {
    pub(crate) fn is_codes(&self) -> bool {
        matches!(self, Self::Codes(_))
    }

    /// Why the ways do not meet as codes, if they do not.
    pub(crate) fn reason(&self) -> Option<&str> {
        match self {
            Self::Codes(_) => None,
            Self::Real { reason, .. } => Some(reason),
        }
    }
}

impl Join<QAdd> {
    /// What the codes of the result mean; `None` if it is real and nobody reads it as codes.
    #[must_use]
    pub fn output(&self) -> Option<QParams> {
        match self {
            Self::Codes(sum) => Some(sum.output()),
            Self::Real { output, .. } => *output,
        }
    }
}

impl Join<QConcat> {
    /// What the codes of the result mean; `None` if it is real and nobody reads it as codes.
    #[must_use]
    pub fn output(&self) -> Option<QParams> {
        match self {
            Self::Codes(join) => Some(join.output()),
            Self::Real { output, .. } => *output,
        }
    }
}

impl QResidual {
    pub(crate) fn takes(&self) -> Takes {
        takes([&self.body, &self.shortcut], self.sum.is_codes())
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        bytes(&self.body) + bytes(&self.shortcut) + self.sum.memory_bytes()
    }
}

impl QBranches {
    pub(crate) fn takes(&self) -> Takes {
        takes(&self.branches, self.join.is_codes())
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.branches.iter().map(bytes).sum::<usize>() + self.join.memory_bytes()
    }
}

impl Join<QAdd> {
    pub(crate) fn memory_bytes(&self) -> usize {
        match self {
            Self::Codes(_) => 3 * size_of::<QParams>(),
            Self::Real { output, .. } => output.map_or(0, |_| size_of::<QParams>()),
        }
    }
}

impl Join<QConcat> {
    pub(crate) fn memory_bytes(&self) -> usize {
        match self {
            Self::Codes(join) => (join.inputs().len() + 1) * size_of::<QParams>(),
            Self::Real { output, .. } => output.map_or(0, |_| size_of::<QParams>()),
        }
    }
}

fn takes<'a>(ways: impl IntoIterator<Item = &'a Chain>, joins_codes: bool) -> Takes {
    let demands = |way: &Chain| demands_codes(way, joins_codes);
    if ways.into_iter().any(demands) {
        Takes::Codes
    } else {
        Takes::Real
    }
}

fn bytes(chain: &Chain) -> usize {
    chain.iter().map(|(_, layer)| layer.memory_bytes()).sum()
}

/// Calls `look` with every layer, those inside of others too, in order of computation.
///
/// # Errors
///
/// The first that `look` returns.
pub fn visit<'a>(
    chain: &'a [(String, QLayer)],
    look: &mut impl FnMut(&'a str, &'a QLayer) -> Result<()>,
) -> Result<()> {
    for (name, layer) in chain {
        match layer {
            QLayer::Residual(residual) => {
                visit(&residual.body, look)?;
                visit(&residual.shortcut, look)?;
            }
            QLayer::Concat(concat) => {
                for branch in &concat.branches {
                    visit(branch, look)?;
                }
            }
            _ => {}
        }
        look(name, layer)?;
    }
    Ok(())
}
