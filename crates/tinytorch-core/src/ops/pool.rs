//! Pooling: one number for each window of an image.

use std::ops::Range;

use ndarray::ArrayD;

use crate::error::{Error, Result};
use crate::ops::window::Window;
use crate::ops::{array_of, slice, standard, standard_owned};
use crate::recycle;
use crate::tensor::Tensor;

/// The window of a pooling operation. Pairs are `[height, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool2dOptions {
    /// Size of the window.
    pub kernel: [usize; 2],
    /// Distance between neighbouring windows.
    pub stride: [usize; 2],
    /// Elements added on each side, at most half the window.
    pub padding: [usize; 2],
}

impl Pool2dOptions {
    /// Square windows side by side.
    pub fn square(size: usize) -> Self {
        Self {
            kernel: [size; 2],
            stride: [size; 2],
            padding: [0; 2],
        }
    }

    fn window(self, operation: &'static str, x: &Tensor) -> Result<Window> {
        let Self {
            kernel,
            stride,
            padding,
        } = self;
        let window = Window::new(operation, x.shape(), kernel, stride, padding)?;
        // More padding would make windows that meet nothing of the image.
        if padding[0] * 2 > kernel[0] || padding[1] * 2 > kernel[1] {
            let reason = format!("padding {padding:?} is more than half of the window {kernel:?}");
            return Err(Error::Argument { operation, reason });
        }
        Ok(window)
    }
}

/// Rows and columns of an image.
type Part = [Range<usize>; 2];

impl Window {
    /// The part of the image, rows and columns, that the window covers at each output, in order.
    fn covered(&self) -> impl Iterator<Item = Part> + use<> {
        let window = *self;
        let range = move |axis: usize, at: usize| {
            let start = at * window.stride[axis];
            let end = (start + window.kernel[axis]).saturating_sub(window.padding[axis]);
            start.saturating_sub(window.padding[axis])..end.min(window.image[axis])
        };
        (0..window.out[0])
            .flat_map(move |y| (0..window.out[1]).map(move |x| [range(0, y), range(1, x)]))
    }

    /// Where in a plane the first largest element of a part is, or the first NaN.
    fn position(&self, plane: &[f32], [rows, columns]: &Part) -> usize {
        let mut best = rows.start * self.image[1] + columns.start;
        let mut largest = plane[best];
        for y in rows.clone() {
            let start = y * self.image[1];
            for (x, &value) in columns.clone().zip(&plane[start..][columns.clone()]) {
                // Two selections and no branch: which element is largest cannot be predicted.
                let taken = replaces(value, largest);
                best = if taken { start + x } else { best };
                largest = if taken { value } else { largest };
            }
        }
        best
    }

    /// The maximum of every window of a plane without padding. First down the columns, whole rows at a time; then
    /// along the one row that is left.
    fn push_maxima(&self, plane: &[f32], row: &mut [f32], output: &mut Vec<f32>) {
        let ([height, width], [down, across]) = (self.kernel, self.stride);
        for top in (0..self.out[0]).map(|y| y * down * self.image[1]) {
            row.copy_from_slice(&plane[top..][..row.len()]);
            for y in 1..height {
                let below = &plane[top + y * self.image[1]..][..row.len()];
                row.iter_mut()
                    .zip(below)
                    .for_each(|(a, &b)| *a = larger(*a, b));
            }
            if self.is_usual() {
                // The usual window, with sizes that the compiler can see.
                let (pairs, _) = row.as_chunks::<2>();
                output.extend(pairs[..self.out[1]].iter().map(|&[a, b]| larger(a, b)));
                continue;
            }
            for x in (0..self.out[1]).map(|x| x * across) {
                let window = &row[x..x + width];
                output.push(window[1..].iter().fold(window[0], |a, &b| larger(a, b)));
            }
        }
    }

    /// Whether windows are the usual ones: 2 by 2, side by side.
    fn is_usual(&self) -> bool {
        (self.kernel, self.stride, self.padding) == ([2, 2], [2, 2], [0, 0])
    }

    /// Sends each gradient to the largest element of its usual window, as [`Window::position`] would find it, with
    /// selections in place of branches and sizes that the compiler can see.
    fn back_to_maxima(&self, plane: &[f32], gradient: &[f32], back: &mut [f32]) {
        let width = self.image[1];
        let rows = plane
            .chunks_exact(2 * width)
            .zip(back.chunks_exact_mut(2 * width));
        for ((rows, back), gradient) in rows.zip(gradient.chunks_exact(self.out[1])) {
            let (top, bottom) = rows.split_at(width);
            let windows = top.as_chunks().0.iter().zip(bottom.as_chunks().0);
            let (back_top, back_bottom) = back.split_at_mut(width);
            let backs = back_top.as_chunks_mut().0.iter_mut();
            let backs = backs.zip(back_bottom.as_chunks_mut().0);
            for (((&[a, b], &[c, d]), (to_top, to_bottom)), &g) in windows.zip(backs).zip(gradient)
            {
                let largest = larger(larger(a, b), larger(c, d));
                let [a, b, c, d] = [a, b, c, d].map(|value| is_candidate(value, largest));
                *to_top = [keep(g, a), keep(g, b & !a)];
                *to_bottom = [keep(g, c & !(a | b)), keep(g, d & !(a | b | c))];
            }
        }
    }

    fn out_shape(&self) -> [usize; 4] {
        [self.batch, self.channels, self.out[0], self.out[1]]
    }
}

impl Tensor {
    /// The largest element of each window; the gradient goes to the first of equals. NaN if any element is.
    ///
    /// `[batch, channels, height, width]` to `[batch, channels, out height, out width]`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if there are no such images or a window does not fit, [`Error::Argument`] if the padding is
    /// more than half the window.
    pub fn max_pool2d(&self, options: Pool2dOptions) -> Result<Tensor> {
        let window = options.window("max_pool2d", self)?;
        let values = standard(&self.array());
        let planes = slice(&values).chunks_exact(window.plane().max(1));
        let mut output =
            recycle::with_capacity(window.batch * window.channels * window.out_plane());
        if window.padding == [0, 0] {
            let mut row = vec![0.0; window.image[1]];
            planes.for_each(|plane| window.push_maxima(plane, &mut row, &mut output));
        } else {
            let covered: Vec<_> = window.covered().collect();
            for plane in planes {
                output.extend(
                    covered
                        .iter()
                        .map(|part| plane[window.position(plane, part)]),
                );
            }
        }
        let output = array_of(output, &window.out_shape());
        Ok(Tensor::recorded(
            "max_pool2d",
            output,
            &[self],
            move |gradient| {
                // Where each maximum was is found again here: to remember it would slow down the way there.
                let gradient = standard_owned(gradient);
                let covered: Vec<_> = window.covered().collect();
                let mut back = vec![0.0; values.len()];
                let planes = slice(&values).chunks_exact(window.plane());
                let gradients = slice(&gradient).chunks_exact(window.out_plane());
                let backs = back.chunks_exact_mut(window.plane());
                for ((plane, gradient), back) in planes.zip(gradients).zip(backs) {
                    if window.is_usual() {
                        window.back_to_maxima(plane, gradient, back);
                        continue;
                    }
                    for (part, &gradient) in covered.iter().zip(gradient) {
                        back[window.position(plane, part)] += gradient;
                    }
                }
                Ok(vec![Some(array_of(back, values.shape()))])
            },
        ))
    }

    /// The mean of each window. Padding counts as zeros, so every window is divided by its full size.
    ///
    /// `[batch, channels, height, width]` to `[batch, channels, out height, out width]`.
    ///
    /// # Errors
    ///
    /// As [`Tensor::max_pool2d`].
    pub fn avg_pool2d(&self, options: Pool2dOptions) -> Result<Tensor> {
        let window = options.window("avg_pool2d", self)?;
        let values = standard(&self.array());
        let scale = 1.0 / window.kernel_len() as f32;
        let mut output = Vec::with_capacity(window.batch * window.channels * window.out_plane());
        let covered: Vec<_> = window.covered().collect();
        for plane in slice(&values).chunks_exact(window.plane().max(1)) {
            for [rows, columns] in &covered {
                let lines = rows
                    .clone()
                    .map(|y| &plane[y * window.image[1]..][columns.clone()]);
                output.push(lines.flatten().sum::<f32>() * scale);
            }
        }
        let output = array_of(output, &window.out_shape());
        let shape = self.shape().to_vec();
        Ok(Tensor::recorded(
            "avg_pool2d",
            output,
            &[self],
            move |gradient: ArrayD<f32>| {
                let gradient = standard_owned(gradient);
                let mut back = vec![0.0; shape.iter().product()];
                let planes = back.chunks_exact_mut(window.plane());
                for (plane, gradient) in
                    planes.zip(slice(&gradient).chunks_exact(window.out_plane()))
                {
                    for ([rows, columns], &gradient) in covered.iter().zip(gradient) {
                        let share = gradient * scale;
                        for y in rows.clone() {
                            let line = &mut plane[y * window.image[1]..][columns.clone()];
                            line.iter_mut().for_each(|sum| *sum += share);
                        }
                    }
                }
                Ok(vec![Some(array_of(back, &shape))])
            },
        ))
    }
}

/// The larger of two, or NaN if either is.
fn larger(a: f32, b: f32) -> f32 {
    if (b > a) | b.is_nan() { b } else { a }
}

/// Whether the largest element, or NaN, of a window may be this one.
fn is_candidate(value: f32, largest: f32) -> bool {
    (value == largest) | value.is_nan()
}

/// The value, or 0, by its bits: a choice would become a branch that cannot be predicted.
fn keep(value: f32, kept: bool) -> f32 {
    f32::from_bits(value.to_bits() & 0u32.wrapping_sub(u32::from(kept)))
}

/// Whether `value` takes the place of `largest`: a NaN at once, and for good.
fn replaces(value: f32, largest: f32) -> bool {
    (value > largest) | (value.is_nan() & !largest.is_nan())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Tensor {
        let values = vec![1.0, 2.0, 5.0, 3.0, 9.0, 4.0, 7.0, 8.0, 6.0];
        Tensor::new(values, &[1, 1, 3, 3]).expect("nine values")
    }

    #[test]
    fn the_largest_of_each_window_gets_the_gradient() -> Result<()> {
        let x = image().with_grad();
        let options = Pool2dOptions {
            kernel: [2, 2],
            stride: [1, 1],
            padding: [0, 0],
        };
        let y = x.max_pool2d(options)?;
        assert_eq!(y.to_vec(), [9.0, 9.0, 9.0, 9.0]);
        y.sum().backward()?;
        assert_eq!(
            x.grad().expect("leaf").to_vec(),
            [0.0, 0.0, 0.0, 0.0, 4.0, 0.0, 0.0, 0.0, 0.0]
        );
        assert_eq!(image().max_pool2d(options)?.to_vec(), y.to_vec());
        Ok(())
    }

    #[test]
    fn the_usual_window_sends_gradients_where_any_window_would() -> Result<()> {
        // Ties and NaN in all places, and a last column that no window covers.
        let choices = [0.0, 1.0, 1.0, f32::NAN, -1.0, 0.0, 1.0];
        let values: Vec<f32> = (0..8 * 5).map(|i| choices[i * i % 31 % 7]).collect();
        let window = Pool2dOptions::square(2).window("test", &Tensor::zeros(&[1, 1, 8, 5]))?;
        let gradient: Vec<f32> = (1..=8).map(|g| g as f32).collect();
        let (mut fast, mut expected) = (vec![0.0; 40], vec![0.0; 40]);
        window.back_to_maxima(&values, &gradient, &mut fast);
        for (part, &gradient) in window.covered().zip(&gradient) {
            expected[window.position(&values, &part)] += gradient;
        }
        assert_eq!(fast, expected);
        Ok(())
    }

    #[test]
    fn padding_never_wins_and_counts_in_the_mean() -> Result<()> {
        let options = Pool2dOptions {
            kernel: [2, 2],
            stride: [2, 2],
            padding: [1, 1],
        };
        let negative = -image();
        assert_eq!(
            negative.max_pool2d(options)?.to_vec(),
            [-1.0, -2.0, -3.0, -4.0]
        );
        assert_eq!(
            image().avg_pool2d(options)?.to_vec(),
            [0.25, 1.75, 2.5, 6.75]
        );
        Ok(())
    }

    #[test]
    fn too_much_padding_and_too_few_axes_are_errors() {
        let options = Pool2dOptions {
            padding: [2, 0],
            ..Pool2dOptions::square(3)
        };
        let error = image().max_pool2d(options).expect_err("2 · 2 > 3");
        assert_eq!(
            error.to_string(),
            "bad argument in max_pool2d: padding [2, 0] is more than half of the window [3, 3]"
        );
        let error = Tensor::zeros(&[3, 3])
            .avg_pool2d(Pool2dOptions::square(2))
            .expect_err("2 axes");
        assert_eq!(
            error.to_string(),
            "avg_pool2d needs images of shape [batch, channels, height, width], got [3, 3]"
        );
    }
}
