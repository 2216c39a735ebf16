//! A window that slides over images: the geometry that convolution and pooling share, and the
//! lowering of windows to the columns of a matrix.
//!
//! ```text
//! out = ⌊(in + 2·padding − kernel) / stride⌋ + 1
//! ```
//!
//! Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", relationship 6.

use std::ops::Range;

use crate::error::{Error, Result};

/// Images `[batch, channels, height, width]` and the window that slides over each. Pairs are `[height, width]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub batch: usize,
    pub channels: usize,
    pub image: [usize; 2],
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub padding: [usize; 2],
    pub out: [usize; 2],
}

impl Window {
    pub fn new(
        operation: &'static str,
        shape: &[usize],
        kernel: [usize; 2],
        stride: [usize; 2],
        padding: [usize; 2],
    ) -> Result<Self> {
        let &[batch, channels, height, width] = shape else {
            let expected = "images of shape [batch, channels, height, width]".to_owned();
            return Err(Error::Shape {
                operation,
                expected,
                got: shape.to_vec(),
            });
        };
        if kernel.contains(&0) || stride.contains(&0) {
            let reason = format!("kernel {kernel:?} and stride {stride:?} must be at least 1");
            return Err(Error::Argument { operation, reason });
        }
        let image = [height, width];
        let mut out = [0; 2];
        for axis in 0..2 {
            let room = image[axis] + 2 * padding[axis];
            let steps = room.checked_sub(kernel[axis]).ok_or_else(|| Error::Shape {
                operation,
                expected: format!("images that hold a {kernel:?} window with padding {padding:?}"),
                got: shape.to_vec(),
            })?;
            out[axis] = steps / stride[axis] + 1;
        }
        Ok(Self {
            batch,
            channels,
            image,
            kernel,
            stride,
            padding,
            out,
        })
    }

    /// Elements of one channel of the input.
    pub fn plane(&self) -> usize {
        self.image[0] * self.image[1]
    }

    /// Elements of one channel of the output.
    pub fn out_plane(&self) -> usize {
        self.out[0] * self.out[1]
    }

    /// Elements under the window.
    pub fn kernel_len(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Whether the windows are the elements themselves.
    pub fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.padding == [0, 0]
    }

    /// The input row that kernel row `ky` meets at output row `oy`, unless that is padding.
    fn row(&self, oy: usize, ky: usize) -> Option<usize> {
        (oy * self.stride[0] + ky)
            .checked_sub(self.padding[0])
            .filter(|&y| y < self.image[0])
    }

    /// The output columns at which kernel column `kx` meets the image, and the input column of the first.
    fn columns(&self, kx: usize) -> (Range<usize>, usize) {
        let (stride, padding) = (self.stride[1], self.padding[1]);
        let first = padding.saturating_sub(kx).div_ceil(stride).min(self.out[1]);
        // ox · stride + kx − padding < width
        let end = (self.image[1] + padding)
            .saturating_sub(kx)
            .div_ceil(stride)
            .min(self.out[1]);
        (
            first..end.max(first),
            (first * stride + kx).saturating_sub(padding),
        )
    }

    /// Writes the windows of one image as columns of a matrix.
    ///
    /// | argument  | shape                                   |
    /// |-----------|-----------------------------------------|
    /// | `image`   | `[channels, height, width]`             |
    /// | `rows`    | which rows of the output                |
    /// | `columns` | `[channels · kernel, row_stride]`, from its first column on |
    pub fn lower(&self, image: &[f32], rows: Range<usize>, columns: &mut [f32], row_stride: usize) {
        let used = rows.len() * self.out[1];
        for (tap, (ky, kx)) in self.taps() {
            let (inside, first) = self.columns(kx);
            let shift = self.shift(ky, kx, &rows);
            for (channel, plane) in image.chunks_exact(self.plane()).enumerate() {
                let start = (channel * self.kernel_len() + tap) * row_stride;
                let line = &mut columns[start..start + used];
                if let Some((to, from)) = shift.clone() {
                    line[..to.start].fill(0.0);
                    line[to.end..].fill(0.0);
                    line[to].copy_from_slice(&plane[from]);
                    self.clear_outside(line, &inside);
                    continue;
                }
                let outputs = line.chunks_exact_mut(self.out[1]);
                for (oy, output) in rows.clone().zip(outputs) {
                    let Some(y) = self.row(oy, ky) else {
                        output.fill(0.0);
                        continue;
                    };
                    output[..inside.start].fill(0.0);
                    output[inside.end..].fill(0.0);
                    let output = &mut output[inside.clone()];
                    if output.is_empty() {
                        continue;
                    }
                    let input = &plane[y * self.image[1]..][..self.image[1]];
                    if self.stride[1] == 1 {
                        output.copy_from_slice(&input[first..first + output.len()]);
                        continue;
                    }
                    let input = input[first..].iter().step_by(self.stride[1]);
                    output
                        .iter_mut()
                        .zip(input)
                        .for_each(|(to, &from)| *to = from);
                }
            }
        }
    }

    /// Adds columns back to where [`Window::lower`] took them from. What belongs to padding is overwritten with zeros.
    pub fn raise(
        &self,
        columns: &mut [f32],
        row_stride: usize,
        rows: Range<usize>,
        image: &mut [f32],
    ) {
        let used = rows.len() * self.out[1];
        for (tap, (ky, kx)) in self.taps() {
            let (inside, first) = self.columns(kx);
            let shift = self.shift(ky, kx, &rows);
            for (channel, plane) in image.chunks_exact_mut(self.plane()).enumerate() {
                let start = (channel * self.kernel_len() + tap) * row_stride;
                let line = &mut columns[start..start + used];
                if let Some((from, to)) = shift.clone() {
                    self.clear_outside(line, &inside);
                    plane[to]
                        .iter_mut()
                        .zip(&line[from])
                        .for_each(|(to, &from)| *to += from);
                    continue;
                }
                let outputs = line.chunks_exact(self.out[1]);
                for (oy, output) in rows.clone().zip(outputs) {
                    let Some(y) = self.row(oy, ky) else { continue };
                    let output = &output[inside.clone()];
                    if output.is_empty() {
                        continue;
                    }
                    let input = &mut plane[y * self.image[1]..][..self.image[1]];
                    if self.stride[1] == 1 {
                        let input = &mut input[first..first + output.len()];
                        input
                            .iter_mut()
                            .zip(output)
                            .for_each(|(to, &from)| *to += from);
                        continue;
                    }
                    let input = input[first..].iter_mut().step_by(self.stride[1]);
                    input.zip(output).for_each(|(to, &from)| *to += from);
                }
            }
        }
    }

    /// When output rows are as wide as the image, at stride 1, a line of columns is the plane itself, shifted: one
    /// copy in place of one per row. Returns which part of the line comes from which part of the plane; the
    /// few elements that wrap around from a neighbouring row are those that [`Window::clear_outside`] clears.
    fn shift(
        &self,
        ky: usize,
        kx: usize,
        rows: &Range<usize>,
    ) -> Option<(Range<usize>, Range<usize>)> {
        let width = self.image[1];
        if self.stride != [1, 1] || self.out[1] != width {
            return None;
        }
        // Rows whose input row exists: 0 ≤ oy + ky − padding < height.
        let top = self.padding[0]
            .saturating_sub(ky)
            .clamp(rows.start, rows.end);
        let bottom = (self.image[0] + self.padding[0])
            .saturating_sub(ky)
            .clamp(top, rows.end);
        // The plane's index is that of the line plus `ahead − behind`.
        let ahead = (rows.start + ky) * width + kx;
        let behind = self.padding[0] * width + self.padding[1];
        let (start, end) = ((top - rows.start) * width, (bottom - rows.start) * width);
        let start = start.max(behind.saturating_sub(ahead));
        let end = end
            .min((self.plane() + behind).saturating_sub(ahead))
            .max(start);
        if start == end {
            return Some((0..0, 0..0));
        }
        Some((start..end, start + ahead - behind..end + ahead - behind))
    }

    /// Zeroes what lies beside the image in every row of a line.
    fn clear_outside(&self, line: &mut [f32], inside: &Range<usize>) {
        // Down each column: along the rows these would be calls to fill one or two elements.
        for x in (0..inside.start).chain(inside.end..self.out[1]) {
            let column = line.get_mut(x..).unwrap_or_default();
            column
                .iter_mut()
                .step_by(self.out[1])
                .for_each(|value| *value = 0.0);
        }
    }

    /// The places under the window, numbered, as `(ky, kx)`.
    fn taps(&self) -> impl Iterator<Item = (usize, (usize, usize))> + use<> {
        let [height, width] = self.kernel;
        (0..height)
            .flat_map(move |ky| (0..width).map(move |kx| (ky, kx)))
            .enumerate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_output_size_follows_the_formula() {
        let out = |kernel, stride, padding| {
            Window::new("conv2d", &[1, 1, 7, 5], kernel, stride, padding).map(|window| window.out)
        };
        assert_eq!(out([3, 3], [1, 1], [1, 1]), Ok([7, 5]));
        assert_eq!(out([3, 2], [2, 3], [0, 0]), Ok([3, 2]));
        let error = out([8, 3], [1, 1], [0, 0]).expect_err("8 is more than 7");
        assert_eq!(
            error.to_string(),
            "conv2d needs images that hold a [8, 3] window with padding [0, 0], got [1, 1, 7, 5]"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn lowered_windows_hold_the_elements_of_the_definition(
            image in [1usize..7, 1usize..7], kernel in [1usize..5, 1usize..5],
            stride in [1usize..4, 1usize..4], padding in [0usize..4, 0usize..4],
            cut in (0usize..8, 0usize..8),
        ) {
            let shape = [1, 2, image[0], image[1]];
            let Ok(window) = Window::new("conv2d", &shape, kernel, stride, padding) else {
                return Ok(());
            };
            let values: Vec<f32> = (0..2 * window.plane()).map(|i| i as f32 + 1.0).collect();
            let (a, b) = (cut.0 % (window.out[0] + 1), cut.1 % (window.out[0] + 1));
            let rows = a.min(b)..a.max(b);
            let row_stride = rows.len() * window.out[1] + 3;
            let lines = 2 * window.kernel_len();
            let mut columns = vec![-1.0; lines * row_stride];
            window.lower(&values, rows.clone(), &mut columns, row_stride);
            let mut counts = vec![0.0; values.len()];
            for line in 0..lines {
                let (channel, tap) = (line / window.kernel_len(), line % window.kernel_len());
                let (ky, kx) = (tap / kernel[1], tap % kernel[1]);
                for (i, oy) in rows.clone().enumerate() {
                    for ox in 0..window.out[1] {
                        let y = (oy * stride[0] + ky).wrapping_sub(padding[0]);
                        let x = (ox * stride[1] + kx).wrapping_sub(padding[1]);
                        let inside = y < image[0] && x < image[1];
                        let mut expected = 0.0;
                        if inside {
                            let at = channel * window.plane() + y * image[1] + x;
                            expected = values[at];
                            counts[at] += 1.0;
                        }
                        let got = columns[line * row_stride + i * window.out[1] + ox];
                        prop_assert_eq!(got, expected, "line {}, output [{}, {}]", line, oy, ox);
                    }
                }
            }
            let mut sums = vec![0.0; values.len()];
            columns.fill(1.0);
            window.raise(&mut columns, row_stride, rows, &mut sums);
            prop_assert_eq!(sums, counts);
        }
    }
}
