//! How a convolution is cut into blocks that fit the cache, and a batch into parts for threads.

use std::ops::Range;

use tinytorch_kernels::{MatrixRef, Threads};

use super::Conv2dOptions;
use crate::error::{Error, Result};
use crate::ops::window::Window;

/// Columns that are lowered at once: enough for the product to run at full speed.
const BLOCK_COLUMNS: usize = 256;

/// Elements of lowered columns at once: 128 Ki · 4 B = 512 KiB, half of a common second-level cache.
const BLOCK_ELEMENTS: usize = 128 * 1024;

/// Fewer multiply-adds than this stay on the calling thread: waking another costs about as much.
const PARALLEL_THRESHOLD: usize = 1 << 20;

/// Into how many parts a batch is split for threads, at most.
const PARTS: usize = 8;

/// The sizes of a convolution, and how it is cut into blocks.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    pub window: Window,
    pub outputs: usize,
    pub groups: usize,
    /// Images that are lowered together.
    pub images: usize,
    /// Output rows that are lowered together; all of them if `images > 1`.
    pub rows: usize,
    pub threads: Threads,
}

impl Plan {
    pub fn new(x: &[usize], weight: &[usize], options: Conv2dOptions) -> Result<Self> {
        let operation = "conv2d";
        let &[outputs, inputs, kernel_height, kernel_width] = weight else {
            let expected = "a weight of shape [out, in / groups, height, width]".to_owned();
            return Err(Error::Shape {
                operation,
                expected,
                got: weight.to_vec(),
            });
        };
        let Conv2dOptions {
            stride,
            padding,
            groups,
        } = options;
        let window = Window::new(operation, x, [kernel_height, kernel_width], stride, padding)?;
        if groups == 0 || outputs % groups != 0 {
            let reason = format!("{outputs} output channels cannot be split into {groups} groups");
            return Err(Error::Argument { operation, reason });
        }
        if inputs == 0 {
            let expected = "a weight with at least one input channel".to_owned();
            return Err(Error::Shape {
                operation,
                expected,
                got: weight.to_vec(),
            });
        }
        if window.channels != inputs * groups {
            let (left, right) = (x.to_vec(), weight.to_vec());
            return Err(Error::ShapeMismatch {
                operation,
                left,
                right,
            });
        }
        let depth = inputs * window.kernel_len();
        let fitting = (BLOCK_ELEMENTS / depth.max(1)).max(1);
        let plane = window.out_plane();
        let images = (BLOCK_COLUMNS.min(fitting) / plane).clamp(1, window.batch.max(1));
        let rows = if images > 1 {
            window.out[0]
        } else {
            fitting / window.out[1]
        };
        let rows = rows.clamp(1, window.out[0]);
        let plan = Self {
            window,
            outputs,
            groups,
            images,
            rows,
            threads: Threads::One,
        };
        let threads = if plan.is_parallel() {
            Threads::One
        } else {
            Threads::Auto
        };
        Ok(Self { threads, ..plan })
    }

    /// Input elements that one output is computed from.
    pub fn depth(&self) -> usize {
        self.window.channels / self.groups * self.window.kernel_len()
    }

    /// Images per part.
    pub fn part(&self) -> usize {
        let blocks = self.window.batch.div_ceil(self.images).max(1);
        blocks.div_ceil(PARTS) * self.images
    }

    pub fn is_parallel(&self) -> bool {
        let work = self.window.batch * self.outputs * self.depth() * self.window.out_plane();
        // The parts are the same on one thread, which need not hand them to another.
        work >= PARALLEL_THRESHOLD
            && self.part() < self.window.batch
            && rayon::current_num_threads() > 1
    }

    pub fn image_len(&self) -> usize {
        self.window.channels * self.window.plane()
    }

    pub fn out_len(&self) -> usize {
        self.outputs * self.window.out_plane()
    }

    /// Runs `body` on every block of `images` images: which images, and which rows of the output.
    pub fn for_each_block(&self, images: usize, mut body: impl FnMut(Range<usize>, Range<usize>)) {
        for first in (0..images).step_by(self.images) {
            for top in (0..self.window.out[0]).step_by(self.rows) {
                let last = (first + self.images).min(images);
                body(first..last, top..(top + self.rows).min(self.window.out[0]));
            }
        }
    }

    pub fn scratch(&self) -> [usize; 2] {
        let columns = self.images * self.rows * self.window.out[1];
        let lowered = self.depth() * columns;
        [lowered, (self.outputs / self.groups * columns).max(lowered)]
    }

    /// The windows of a block as columns of a matrix, in `scratch` if they are not one already.
    pub fn lower<'a>(
        &self,
        x: &'a [f32],
        block: &Block,
        group: usize,
        scratch: &'a mut [f32],
    ) -> MatrixRef<'a> {
        if let Some(start) = self.direct(block, group) {
            let row_stride = self.window.plane();
            return MatrixRef {
                data: &x[start..],
                row_stride,
                column_stride: 1,
            };
        }
        let channels = self.window.channels / self.groups * self.window.plane();
        for (i, image) in block.images.clone().enumerate() {
            let image = &x[image * self.image_len() + group * channels..][..channels];
            let columns = &mut scratch[i * block.per_image..];
            self.window
                .lower(image, block.rows.clone(), columns, block.columns);
        }
        MatrixRef::row_major(&scratch[..self.depth() * block.columns], block.columns)
    }

    /// Where the matrix starts in the input, when windows are single elements and the image itself is the matrix.
    pub fn direct(&self, block: &Block, group: usize) -> Option<usize> {
        let direct = self.window.is_pointwise() && block.images.len() == 1;
        let channel = block.images.start * self.window.channels + group * self.depth();
        direct.then(|| channel * self.window.plane() + block.rows.start * self.window.out[1])
    }
}

/// Some images, some rows of their output.
pub(super) struct Block {
    pub images: Range<usize>,
    pub rows: Range<usize>,
    /// Windows of one image, and of all.
    pub per_image: usize,
    pub columns: usize,
}

impl Block {
    pub fn new(plan: &Plan, images: Range<usize>, rows: Range<usize>) -> Self {
        let per_image = rows.len() * plan.window.out[1];
        Self {
            columns: per_image * images.len(),
            images,
            rows,
            per_image,
        }
    }

    /// Where, in the output of one image, these rows of channel `channel` start.
    pub fn start(&self, plan: &Plan, image: usize, channel: usize) -> usize {
        let plane = plan.window.out_plane();
        image * plan.out_len() + channel * plane + self.rows.start * plan.window.out[1]
    }
}
