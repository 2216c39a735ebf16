//! Layers that gather places: pooling and flattening.

use std::any::Any;

use super::Layer;
use crate::error::Result;
use crate::ops::pool::Pool2dOptions;
use crate::tensor::Tensor;

macro_rules! pooling_layer {
    ($name:ident, $kind:literal, $method:ident, $what:literal) => {
        #[doc = concat!($what, " of each window; see [`Tensor::", stringify!($method), "`].")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name {
            options: Pool2dOptions,
        }

        impl $name {
            /// Square windows side by side.
            pub fn new(size: usize) -> Self {
                Self {
                    options: Pool2dOptions::square(size),
                }
            }

            /// Windows of any size, stride and padding.
            pub fn with(options: Pool2dOptions) -> Self {
                Self { options }
            }

            /// Size, stride and padding of the windows.
            pub fn options(&self) -> Pool2dOptions {
                self.options
            }
        }

        impl Layer for $name {
            fn forward(&self, x: &Tensor) -> Result<Tensor> {
                x.$method(self.options)
            }

            fn kind(&self) -> &'static str {
                $kind
            }

            fn as_any(&self) -> &dyn Any {
                self
            }
        }
    };
}

pooling_layer!(MaxPool2d, "max_pool2d", max_pool2d, "The largest element");
pooling_layer!(AvgPool2d, "avg_pool2d", avg_pool2d, "The mean");

/// `[batch, ..]` to `[batch, everything else]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flatten;

impl Layer for Flatten {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.flatten_from(1)
    }

    fn kind(&self) -> &'static str {
        "flatten"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
