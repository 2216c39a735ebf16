//! `+ - * /` between tensors and numbers. They panic where their fallible twins return an error.

use std::ops::{Add, Div, Mul, Neg, Sub};

use crate::tensor::Tensor;

impl Tensor {
    fn add_number(&self, number: f32) -> Tensor {
        let output = self.array().mapv(|x| x + number);
        Tensor::recorded("add", output, &[self], |gradient| Ok(vec![Some(gradient)]))
    }

    fn mul_number(&self, factor: f32) -> Tensor {
        let output = self.array().mapv(|x| x * factor);
        Tensor::recorded("mul", output, &[self], move |mut gradient| {
            gradient.mapv_inplace(|gradient| gradient * factor);
            Ok(vec![Some(gradient)])
        })
    }

    fn div_number(&self, divisor: f32) -> Tensor {
        // Division by each element, not a product with 1/divisor, which rounds twice.
        let output = self.array().mapv(|x| x / divisor);
        Tensor::recorded("div", output, &[self], move |mut gradient| {
            gradient.mapv_inplace(|gradient| gradient / divisor);
            Ok(vec![Some(gradient)])
        })
    }
}

/// The four combinations of owned and borrowed operands, and a number on either side.
macro_rules! operator {
    ($trait:ident, $method:ident, $fallible:ident, $by_number:expr, $number_first:expr) => {
        operator!(@pair $trait, $method, $fallible, &Tensor, &Tensor);
        operator!(@pair $trait, $method, $fallible, &Tensor, Tensor);
        operator!(@pair $trait, $method, $fallible, Tensor, &Tensor);
        operator!(@pair $trait, $method, $fallible, Tensor, Tensor);
        operator!(@number $trait, $method, $by_number, $number_first, &Tensor);
        operator!(@number $trait, $method, $by_number, $number_first, Tensor);
    };
    (@pair $trait:ident, $method:ident, $fallible:ident, $left:ty, $right:ty) => {
        /// Panics with the text of the fallible method's error if the shapes do not broadcast.
        impl $trait<$right> for $left {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, other: $right) -> Tensor {
                match self.$fallible(&other) {
                    Ok(tensor) => tensor,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    (@number $trait:ident, $method:ident, $by_number:expr, $number_first:expr, $tensor:ty) => {
        impl $trait<f32> for $tensor {
            type Output = Tensor;
            fn $method(self, number: f32) -> Tensor {
                $by_number(&self, number)
            }
        }
        impl $trait<$tensor> for f32 {
            type Output = Tensor;
            fn $method(self, tensor: $tensor) -> Tensor {
                $number_first(self, &tensor)
            }
        }
    };
}

operator!(
    Add,
    add,
    try_add,
    Tensor::add_number,
    |number, tensor: &Tensor| tensor.add_number(number)
);
operator!(
    Sub,
    sub,
    try_sub,
    |tensor: &Tensor, number: f32| tensor.add_number(-number),
    |number, tensor: &Tensor| { tensor.unary("sub", |x| number - x, |_| -1.0) }
);
operator!(
    Mul,
    mul,
    try_mul,
    Tensor::mul_number,
    |number, tensor: &Tensor| tensor.mul_number(number)
);
operator!(
    Div,
    div,
    try_div,
    Tensor::div_number,
    |number: f32, tensor: &Tensor| {
        tensor.unary("div", move |x| number / x, move |x| -number / (x * x))
    }
);

impl Neg for &Tensor {
    type Output = Tensor;
    fn neg(self) -> Tensor {
        self.unary("neg", |x| -x, |_| -1.0)
    }
}

impl Neg for Tensor {
    type Output = Tensor;
    fn neg(self) -> Tensor {
        -&self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::from_array(ndarray::arr1(values).into_dyn())
    }

    #[test]
    #[should_panic(expected = "shape mismatch in add: [2] + [3]")]
    fn an_operator_panics_with_the_text_of_its_fallible_twin() {
        let _ = tensor(&[1.0, 2.0]) + tensor(&[1.0, 2.0, 3.0]);
    }

    #[test]
    fn numbers_combine_with_tensors_on_both_sides() {
        let x = tensor(&[1.0, 2.0]);
        assert_eq!((1.0 - &x).to_vec(), [0.0, -1.0]);
        assert_eq!((&x - 1.0).to_vec(), [0.0, 1.0]);
        assert_eq!((2.0 / &x).to_vec(), [2.0, 1.0]);
        assert_eq!((2.0 * x / 4.0 + 1.0).to_vec(), [1.5, 2.0]);
    }
}
