//! Windows of images that a kernel multiplies where they lie, instead of rows that are copied together first.
//!
//! The images are a copy with padding, whose codes have the kernel's shift already. A window is one place in it: its inputs
//! are found by the same steps from there, four codes at each, and read only once per tile.

#![cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "no kernel of this architecture reads windows")
)]

use std::fmt::Debug;

use super::ending::Ending;
use super::lines::Lines;

/// The distances from a window's first code to the first of each group of four, in the order of the packed weights.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    distances: Vec<usize>,
    reach: usize,
}

impl Steps {
    /// A window of `runs` runs, `row` codes apart, each of `run` codes, a multiple of four.
    pub fn set(&mut self, runs: usize, row: usize, run: usize) {
        self.distances.clear();
        let starts = (0..runs).flat_map(|y| (0..run).step_by(4).map(move |x| y * row + x));
        self.distances.extend(starts);
        // Private and computed here, so that kernels may rely on it.
        self.reach = self.distances.iter().max().map_or(0, |last| last + 4);
    }

    /// One for each group.
    #[inline]
    pub fn distances(&self) -> &[usize] {
        &self.distances
    }

    /// How many codes from its first on a window may read.
    #[inline]
    pub fn reach(&self) -> usize {
        self.reach
    }
}

/// Windows side by side, for all columns of some weights.
#[derive(Debug)]
pub(crate) struct WindowTask<'t, 'a> {
    pub weights: &'t Lines,
    /// A part of the images with its padding, shifted; at least the steps' reach from every place on.
    pub codes: &'t [i8],
    pub steps: &'t Steps,
    /// Where the windows begin in `codes`. Four at a time give one row of the result if `pooled`, otherwise each gives one.
    pub places: &'t [usize],
    /// Whether only the largest of each four becomes a code. Multipliers must then not be negative, so that the largest sum
    /// becomes the largest code.
    pub pooled: bool,
    /// One per column: bias minus what zero point and shift have added to the sum.
    pub offsets: &'t [i32],
    pub ending: &'t mut Ending<'a>,
    /// The row of the ending that the first place belongs to.
    pub first_row: usize,
}

/// A kernel that can do that.
#[doc(hidden)]
pub trait WindowKernel: Debug + Sync {
    /// Computes and ends all sums.
    #[doc(hidden)]
    #[expect(private_interfaces, reason = "only this crate makes tasks and kernels")]
    fn run_windows(&self, task: WindowTask<'_, '_>);
}
