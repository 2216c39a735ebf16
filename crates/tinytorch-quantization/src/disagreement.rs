//! Where two dialects differ, and how often.
//!
//! In: values, or sums of products, and two dialects. Out: the first on which their codes differ, how many do, and by how much.

use crate::dialect::{Dialect, Rescale};
use crate::error::Result;
use crate::scheme::{CodeRange, QParams};

/// A value that two dialects write as different codes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Disagreement {
    /// Its position.
    pub index: usize,
    /// The value.
    pub value: f32,
    /// Its code by the first dialect.
    pub left: i32,
    /// Its code by the second.
    pub right: i32,
}

/// How often two dialects differ on a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Disagreements {
    /// How many values there are.
    pub of: usize,
    /// How many of them have different codes.
    pub count: usize,
    /// The largest distance between two codes of the same value.
    pub largest: u32,
    /// The first such value.
    pub first: Option<Disagreement>,
}

/// Writes values in two dialects and says where the codes differ. Each side has its own parameters; give both the same to compare the rounding
/// alone, or what each dialect chooses by itself to compare the whole.
///
/// With scale 1 and zero point 0, `[0.5, 1.5, 2.5]` differs between ONNX and LiteRT twice, first at index 0: code 0 against 1.
///
/// # Errors
///
/// Those of [`Dialect::quantize`].
pub fn compare_dialects(
    values: &[f32],
    left: (Dialect, QParams),
    right: (Dialect, QParams),
    codes: CodeRange,
) -> Result<Disagreements> {
    let lefts = left.0.quantize(values, left.1, codes)?;
    let rights = right.0.quantize(values, right.1, codes)?;
    let differing = Differing::of(&lefts, &rights);
    Ok(Disagreements {
        of: values.len(),
        count: differing.count,
        largest: differing.largest,
        first: differing.first.map(|index| Disagreement {
            index,
            value: values[index],
            left: lefts[index],
            right: rights[index],
        }),
    })
}

/// A sum of products that two dialects turn into different codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SumDisagreement {
    /// Its position.
    pub index: usize,
    /// The sum.
    pub sum: i32,
    /// Its code by the first dialect.
    pub left: i32,
    /// Its code by the second.
    pub right: i32,
}

/// How often two dialects differ on sums of products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SumDisagreements {
    /// How many sums there are.
    pub of: usize,
    /// How many of them become different codes.
    pub count: usize,
    /// The largest distance between two codes of the same sum.
    pub largest: u32,
    /// The first such sum.
    pub first: Option<SumDisagreement>,
}

/// Turns sums of products into codes in two dialects and says where the codes differ: what [`compare_dialects`] does for the writing
/// of real values, at the other place where codes come about. `sums` have any shape, flattened; all scales are per tensor.
///
/// With a factor of 1/2, the sums 1, 2, 3, 5 are 0.5, 1, 1.5, 2.5 steps: ONNX rounds the ties to 0, 2, 2, LiteRT to 1, 2, 3. They differ twice,
/// first at index 0.
///
/// # Errors
///
/// Those of [`Dialect::requantize`].
pub fn compare_requantization(
    sums: &[i32],
    [left, right]: [Dialect; 2],
    scales: Rescale,
    zero_point: i32,
    codes: CodeRange,
) -> Result<SumDisagreements> {
    let lefts = left.requantize(sums, scales, zero_point, codes)?;
    let rights = right.requantize(sums, scales, zero_point, codes)?;
    let differing = Differing::of(&lefts, &rights);
    Ok(SumDisagreements {
        of: sums.len(),
        count: differing.count,
        largest: differing.largest,
        first: differing.first.map(|index| SumDisagreement {
            index,
            sum: sums[index],
            left: lefts[index],
            right: rights[index],
        }),
    })
}

/// Where two lists of codes differ.
#[derive(Default)]
struct Differing {
    count: usize,
    largest: u32,
    first: Option<usize>,
}

impl Differing {
    fn of(lefts: &[i32], rights: &[i32]) -> Self {
        let mut differing = Self::default();
        for (index, (left, right)) in lefts.iter().zip(rights).enumerate() {
            if left != right {
                differing.count += 1;
                differing.largest = differing.largest.max(left.abs_diff(*right));
                differing.first.get_or_insert(index);
            }
        }
        differing
    }
}
