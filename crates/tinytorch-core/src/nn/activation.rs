//! Activations as layers.

use std::any::Any;

use super::Layer;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

macro_rules! activation_layer {
    ($name:ident, $method:ident) => {
        #[doc = concat!("[`Tensor::", stringify!($method), "`] as a layer.")]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name;

        impl Layer for $name {
            fn forward(&self, x: &Tensor) -> Result<Tensor> {
                Ok(x.$method())
            }

            fn kind(&self) -> &'static str {
                stringify!($method)
            }

            fn as_any(&self) -> &dyn Any {
                self
            }
        }
    };
    ($name:ident, $method:ident along the last axis) => {
        #[doc = concat!("[`Tensor::", stringify!($method), "`] along the last axis, as a layer.")]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name;

        impl Layer for $name {
            fn forward(&self, x: &Tensor) -> Result<Tensor> {
                let operation = stringify!($method);
                let last = x.rank().checked_sub(1);
                x.$method(last.ok_or(Error::Axis {
                    operation,
                    axis: 0,
                    rank: 0,
                })?)
            }

            fn kind(&self) -> &'static str {
                stringify!($method)
            }

            fn as_any(&self) -> &dyn Any {
                self
            }
        }
    };
}

activation_layer!(Relu, relu);
activation_layer!(Sigmoid, sigmoid);
activation_layer!(Tanh, tanh);
activation_layer!(Gelu, gelu);
activation_layer!(Softmax, softmax along the last axis);
activation_layer!(LogSoftmax, log_softmax along the last axis);
