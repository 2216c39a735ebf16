//! Operations that treat every element alike.

use ndarray::ArrayD;

use crate::error::Result;
use crate::ops::array_of;
use crate::ops::broadcast::{broadcast_shape, sum_to, zip};
use crate::recycle;
use crate::tape::records;
use crate::tensor::{Tensor, Values};

/// `gradient ⊙ factor(saved)`, in the storage of the gradient.
fn scale_by(mut gradient: ArrayD<f32>, saved: &Values, factor: impl Fn(f32) -> f32) -> ArrayD<f32> {
    gradient.zip_mut_with(saved, |gradient, &saved| *gradient *= factor(saved));
    gradient
}

/// `f` of every element, where the elements lie in order in storage that was used before.
fn mapped(values: &Values, f: impl Fn(f32) -> f32) -> ArrayD<f32> {
    let Some(elements) = values.as_slice() else {
        return values.mapv(f);
    };
    let mut output = recycle::with_capacity(elements.len());
    output.extend(elements.iter().copied().map(f));
    array_of(output, values.shape())
}

impl Tensor {
    /// `f` of every element. `derivative` is given the element and `f` of it.
    pub(crate) fn unary(
        &self,
        name: &'static str,
        f: impl Fn(f32) -> f32,
        derivative: impl Fn(f32) -> f32 + Send + 'static,
    ) -> Tensor {
        let values = self.array();
        let output = mapped(&values, f);
        Tensor::recorded(name, output, &[self], move |gradient| {
            Ok(vec![Some(scale_by(gradient, &values, derivative))])
        })
    }

    /// As [`Tensor::unary`], where the derivative follows from the result alone.
    pub(crate) fn unary_by_output(
        &self,
        name: &'static str,
        f: impl Fn(f32) -> f32,
        derivative: impl Fn(f32) -> f32 + Send + 'static,
    ) -> Tensor {
        let output = mapped(&self.array(), f).into_shared();
        let saved = output.clone();
        Tensor::recorded(name, output, &[self], move |gradient| {
            Ok(vec![Some(scale_by(gradient, &saved, derivative))])
        })
    }

    /// `f(left, right)` with broadcasting. `to_left` and `to_right` are the partial derivatives.
    fn binary(
        &self,
        other: &Tensor,
        name: &'static str,
        f: impl Fn(f32, f32) -> f32 + Copy,
        to_left: impl Fn(f32, f32) -> f32 + Copy + Send + 'static,
        to_right: impl Fn(f32, f32) -> f32 + Copy + Send + 'static,
    ) -> Result<Tensor> {
        let shape = broadcast_shape(name, self.shape(), other.shape())?;
        let (left, right) = (self.array(), other.array());
        let output = zip(&left, &right, &shape, f);
        let (wants_left, wants_right) = (self.requires_grad(), other.requires_grad());
        Ok(Tensor::recorded(
            name,
            output,
            &[self, other],
            move |gradient| {
                let shape = gradient.shape().to_vec();
                // Each needs the factor in the broadcast shape; the gradient's own storage serves the last.
                let mut second = wants_right.then(|| gradient.clone());
                let first = wants_left.then(|| {
                    let factor = zip(&left, &right, &shape, to_left);
                    sum_to(gradient * factor, left.shape())
                });
                if let Some(gradient) = &mut second {
                    *gradient *= &zip(&left, &right, &shape, to_right);
                }
                Ok(vec![
                    first,
                    second.map(|gradient| sum_to(gradient, right.shape())),
                ])
            },
        ))
    }

    /// Adds, with broadcasting.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) if the shapes do not broadcast.
    pub fn try_add(&self, other: &Tensor) -> Result<Tensor> {
        self.add_scaled("add", other, 1.0)
    }

    /// Subtracts, with broadcasting.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) if the shapes do not broadcast.
    pub fn try_sub(&self, other: &Tensor) -> Result<Tensor> {
        self.add_scaled("sub", other, -1.0)
    }

    /// `self + sign · other`: nothing but shapes need be kept for the way back.
    fn add_scaled(&self, name: &'static str, other: &Tensor, sign: f32) -> Result<Tensor> {
        let shape = broadcast_shape(name, self.shape(), other.shape())?;
        let output = if sign > 0.0 {
            zip(&self.array(), &other.array(), &shape, |l, r| l + r)
        } else {
            zip(&self.array(), &other.array(), &shape, |l, r| l - r)
        };
        if !records(&[self, other]) {
            return Ok(Tensor::from_array(output));
        }
        let (left, right) = (self.shape().to_vec(), other.shape().to_vec());
        let (wants_left, wants_right) = (self.requires_grad(), other.requires_grad());
        Ok(Tensor::recorded(
            name,
            output,
            &[self, other],
            move |gradient| {
                let to_right = |mut gradient: ArrayD<f32>| {
                    if sign < 0.0 {
                        gradient.mapv_inplace(|gradient| -gradient);
                    }
                    sum_to(gradient, &right)
                };
                Ok(match (wants_left, wants_right) {
                    (true, true) => {
                        let second = to_right(gradient.clone());
                        vec![Some(sum_to(gradient, &left)), Some(second)]
                    }
                    (true, false) => vec![Some(sum_to(gradient, &left)), None],
                    _ => vec![None, Some(to_right(gradient))],
                })
            },
        ))
    }

    /// Multiplies element by element, with broadcasting.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) if the shapes do not broadcast.
    pub fn try_mul(&self, other: &Tensor) -> Result<Tensor> {
        let shape = broadcast_shape("mul", self.shape(), other.shape())?;
        let (left, right) = (self.array(), other.array());
        let output = zip(&left, &right, &shape, |l, r| l * r);
        let (wants_left, wants_right) = (self.requires_grad(), other.requires_grad());
        Ok(Tensor::recorded(
            "mul",
            output,
            &[self, other],
            move |gradient| {
                let gradient = gradient.into_shared();
                let back = |wanted: bool, factor: &Values, shape: &[usize]| {
                    wanted.then(|| {
                        sum_to(
                            zip(&gradient, factor, gradient.shape(), |g, f| g * f),
                            shape,
                        )
                    })
                };
                let first = back(wants_left, &right, left.shape());
                Ok(vec![first, back(wants_right, &left, right.shape())])
            },
        ))
    }

    /// Divides element by element, with broadcasting.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) if the shapes do not broadcast.
    pub fn try_div(&self, other: &Tensor) -> Result<Tensor> {
        self.binary(
            other,
            "div",
            |l, r| l / r,
            |_, r| 1.0 / r,
            |l, r| -l / (r * r),
        )
    }

    /// The larger of two elements, with broadcasting; where they are equal each gets half the gradient.
    /// `NaN` if either is.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) if the shapes do not broadcast.
    pub fn maximum(&self, other: &Tensor) -> Result<Tensor> {
        let larger = |l: f32, r: f32| if l >= r || l.is_nan() { l } else { r };
        self.binary(other, "maximum", larger, share, |l, r| share(r, l))
    }

    /// The smaller of two elements, with broadcasting; where they are equal each gets half the gradient.
    /// `NaN` if either is.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) if the shapes do not broadcast.
    pub fn minimum(&self, other: &Tensor) -> Result<Tensor> {
        let smaller = |l: f32, r: f32| if l <= r || l.is_nan() { l } else { r };
        self.binary(other, "minimum", smaller, |l, r| share(r, l), share)
    }

    /// `e` to the power of each element.
    pub fn exp(&self) -> Tensor {
        self.unary_by_output("exp", f32::exp, |y| y)
    }

    /// The natural logarithm of each element.
    pub fn ln(&self) -> Tensor {
        self.unary("ln", f32::ln, |x| 1.0 / x)
    }

    /// The square root of each element.
    pub fn sqrt(&self) -> Tensor {
        self.unary_by_output("sqrt", f32::sqrt, |y| 0.5 / y)
    }

    /// The square of each element.
    pub fn square(&self) -> Tensor {
        self.unary("square", |x| x * x, |x| 2.0 * x)
    }

    /// Each element to the power `exponent`.
    pub fn powf(&self, exponent: f32) -> Tensor {
        let derivative = move |x: f32| {
            // 0 · x⁻¹ would be NaN at 0.
            if exponent == 0.0 {
                0.0
            } else {
                exponent * x.powf(exponent - 1.0)
            }
        };
        self.unary("powf", |x| x.powf(exponent), derivative)
    }

    /// The magnitude of each element. The gradient at 0 is 0.
    pub fn abs(&self) -> Tensor {
        self.unary("abs", f32::abs, sign)
    }

    /// Each element limited to `low..=high`. The gradient is 1 inside and at the limits, and 0 outside.
    ///
    /// # Panics
    ///
    /// If `low > high`, or either is NaN.
    #[track_caller]
    pub fn clamp(&self, low: f32, high: f32) -> Tensor {
        let inside = move |x: f32| f32::from(u8::from((low..=high).contains(&x)));
        self.unary("clamp", |x| x.clamp(low, high), inside)
    }

    /// Each element rounded to the nearest integer, ties to even. Not differentiable.
    pub fn round(&self) -> Tensor {
        Tensor::not_differentiable("round", self.array().mapv(f32::round_ties_even), &[self])
    }

    /// Each element rounded down. Not differentiable.
    pub fn floor(&self) -> Tensor {
        Tensor::not_differentiable("floor", self.array().mapv(f32::floor), &[self])
    }

    /// −1, 0 or 1 by the sign of each element. Not differentiable.
    pub fn sign(&self) -> Tensor {
        Tensor::not_differentiable("sign", self.array().mapv(sign), &[self])
    }
}

/// Sign of a number: unlike [`f32::signum`], 0 at 0, and NaN stays NaN.
fn sign(x: f32) -> f32 {
    if x > 0.0 {
        1.0
    } else if x < 0.0 {
        -1.0
    } else {
        x
    }
}

/// How much of the gradient goes to `a` when the larger of `a` and `b` was taken.
fn share(a: f32, b: f32) -> f32 {
    if a > b {
        1.0
    } else if a == b {
        0.5
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::from_array(ndarray::arr1(values).into_dyn())
    }

    #[test]
    fn a_row_is_added_to_every_row_of_a_matrix() -> Result<()> {
        let matrix = Tensor::new(vec![1.0, 2.0, 3.0, 4.0], &[2, 2])?;
        let row = tensor(&[10.0, 20.0]).with_grad();
        let sum = matrix.try_add(&row)?;
        assert_eq!(sum.to_vec(), [11.0, 22.0, 13.0, 24.0]);
        sum.sum().backward()?;
        assert_eq!(row.grad().expect("row is a leaf").to_vec(), [2.0, 2.0]);
        Ok(())
    }

    #[test]
    fn equal_elements_share_the_gradient_of_their_maximum() -> Result<()> {
        let (a, b) = (
            tensor(&[1.0, 5.0]).with_grad(),
            tensor(&[1.0, 2.0]).with_grad(),
        );
        a.maximum(&b)?.sum().backward()?;
        assert_eq!(a.grad().expect("leaf").to_vec(), [0.5, 1.0]);
        assert_eq!(b.grad().expect("leaf").to_vec(), [0.5, 0.0]);
        Ok(())
    }

    #[test]
    fn ties_round_to_even_and_rounding_has_no_derivative() {
        let x = tensor(&[0.5, 1.5, -2.5]).with_grad();
        let rounded = x.round();
        assert_eq!(rounded.to_vec(), [0.0, 2.0, -2.0]);
        assert_eq!(
            rounded.sum().backward(),
            Err(Error::NotDifferentiable { operation: "round" })
        );
        let signs = x.sign().sum().backward();
        assert_eq!(signs, Err(Error::NotDifferentiable { operation: "sign" }));
    }
}
