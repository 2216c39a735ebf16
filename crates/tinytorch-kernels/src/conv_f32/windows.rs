//! Where the windows of a convolution are in a padded image with channels last.

#![expect(
    unsafe_code,
    reason = "a promise about steps on which the product's reads rely"
)]

use std::cell::RefCell;

use crate::gemm_f32::panels::Left;
use crate::{Conv2dShape, elements};

/// Windows of images of one size: what is the same for all images, and for all groups of channels.
#[derive(Debug)]
pub(super) struct Geometry {
    /// Height and width of an image.
    size: [usize; 2],
    padding: [usize; 2],
    channels: usize,
    /// Elements of a pixel of the padded image, at least its channels.
    pixel: usize,
    /// For each pixel of the result, in order, where its window begins.
    corners: Vec<usize>,
    /// For each element that a window of the first group sees, in the order (row, column, channel), how far from the
    /// window's beginning it is.
    steps: Vec<usize>,
    /// One more than the largest step.
    reach: usize,
}

impl Geometry {
    /// For images of this size whose padded copies have `pixel` elements for each pixel. The window fits, and the sizes of the
    /// result can be counted.
    ///
    /// # Panics
    ///
    /// If the elements of a padded image cannot be counted: steps would wrap, and reads rely on the largest of them.
    pub fn new(shape: &Conv2dShape, size: [usize; 2], pixel: usize) -> Self {
        let Conv2dShape {
            in_channels: channels,
            kernel,
            stride,
            padding,
            groups,
            ..
        } = *shape;
        let output = shape.output_size(size).expect("the window fits");
        let [high, wide] = [0, 1].map(|axis| size[axis] + 2 * padding[axis]);
        assert!(
            elements([high, wide, pixel]).is_some(),
            "a padded image of [{high}, {wide}, {pixel}] is too large"
        );
        let row = wide * pixel;
        let corners = (0..output[0])
            .flat_map(|y| (0..output[1]).map(move |x| y * stride[0] * row + x * stride[1] * pixel));
        let seen = channels / groups;
        let steps: Vec<usize> = (0..kernel[0])
            .flat_map(|ky| (0..kernel[1]).map(move |kx| ky * row + kx * pixel))
            .flat_map(|step| (step..).take(seen))
            .collect();
        Self {
            size,
            padding,
            channels,
            pixel,
            corners: corners.collect(),
            reach: steps.last().map_or(0, |last| last + 1),
            steps,
        }
    }

    pub fn is_for(&self, size: [usize; 2]) -> bool {
        self.size == size
    }

    /// The windows as rows of a matrix, for the group whose first channel `padded` begins with.
    pub fn windows<'a>(&'a self, padded: &'a [f32]) -> Windows<'a> {
        Windows {
            padded,
            geometry: self,
        }
    }

    /// Whether an image is its own padded copy.
    fn is_plain(&self) -> bool {
        self.padding == [0, 0] && self.pixel == self.channels
    }

    /// Elements of a padded image.
    fn padded_len(&self) -> usize {
        let [height, width] = [0, 1].map(|axis| self.size[axis] + 2 * self.padding[axis]);
        height * width * self.pixel
    }

    /// Copies an image to where its padding already is.
    fn copy_image(&self, image: &[f32], padded: &mut [f32]) {
        let [height, width] = self.size;
        let row = (width + 2 * self.padding[1]) * self.pixel;
        let rows = padded.chunks_exact_mut(row).skip(self.padding[0]);
        for (y, padded) in rows.take(height).enumerate() {
            let padded = &mut padded[self.padding[1] * self.pixel..][..width * self.pixel];
            let image = &image[y * width * self.channels..][..width * self.channels];
            if self.pixel == self.channels {
                padded.copy_from_slice(image);
                continue;
            }
            let pixels = padded.chunks_exact_mut(self.pixel);
            for (padded, pixel) in pixels.zip(image.chunks_exact(self.channels)) {
                padded[..self.channels].copy_from_slice(pixel);
            }
        }
    }
}

/// Calls `body(number, padded image)` for each image of a batch.
pub(super) fn with_padded(
    geometry: &Geometry,
    input: &[f32],
    batch: usize,
    mut body: impl FnMut(usize, &[f32]),
) {
    thread_local! {
        /// Kept between calls: fresh memory would cost page faults each time.
        static PADDED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    let image = geometry.size[0] * geometry.size[1] * geometry.channels;
    if geometry.is_plain() {
        return (0..batch).for_each(|i| body(i, &input[i * image..][..image]));
    }
    // Taken, not borrowed: should this thread run another convolution meanwhile, it makes its own.
    let mut padded = PADDED.take();
    padded.clear();
    padded.resize(geometry.padded_len(), 0.0);
    for i in 0..batch {
        geometry.copy_image(&input[i * image..][..image], &mut padded);
        body(i, &padded);
    }
    if padded.capacity() <= KEPT {
        PADDED.set(padded);
    }
}

/// Elements of a padded image that a thread keeps: 16 MiB.
const KEPT: usize = 4 << 20;

/// The windows of one padded image as rows of a matrix.
#[derive(Clone, Copy)]
pub(super) struct Windows<'a> {
    padded: &'a [f32],
    geometry: &'a Geometry,
}

impl<'a> Windows<'a> {
    /// The memory from the corner of a window to the last element it sees, and `more` elements.
    #[inline(always)]
    pub fn window(&self, row: usize, more: usize) -> &'a [f32] {
        &self.padded[self.geometry.corners[row]..][..self.geometry.reach + more]
    }

    /// How far from a corner each element is.
    pub fn steps(&self) -> &'a [usize] {
        &self.geometry.steps
    }
}

// SAFETY: a row has `reach` elements, and every step is below that: they ascend, since none of them wraps (`Geometry::new`).
unsafe impl<'a> Left<'a> for Windows<'a> {
    #[inline(always)]
    fn k(&self) -> usize {
        self.geometry.steps.len()
    }

    #[inline(always)]
    fn row(&self, row: usize) -> &'a [f32] {
        self.window(row, 0)
    }

    #[inline(always)]
    unsafe fn step(&self, p: usize) -> usize {
        // SAFETY: `p < k`, the caller says.
        unsafe { *self.geometry.steps.get_unchecked(p) }
    }
}
