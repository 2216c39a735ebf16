//! How much a model from a file may ask for when it runs.
//!
//! In: the layers that were read, and the shape of an input. Out: an error that names the layer whose values would be far more than its
//! numbers and the input account for. A few bytes of a file can ask for any padding, or join a value with itself as often as they like; what was
//! trained holds weights for what it makes.

use crate::composite::{QBranches, QResidual};
use crate::error::{Error, Result};
use crate::folded::Operation;
use crate::framework::nn::{AvgPool2d, Conv2d, Embedding, Flatten, Layer, Linear, MaxPool2d};
use crate::framework::{Conv2dOptions, Pool2dOptions};
use crate::narrow::NarrowOperation;
use crate::qlayer::QLayer;

/// So many values no machine minds: 2²⁴ · 4 B = 64 MiB in `f32`.
const ALWAYS: usize = 1 << 24;

/// How many times inputs · outputs a layer may make. Once is what a convolution makes whose images keep their size; one that pads beyond half of
/// its kernel makes larger ones, of up to twice the height and the width.
const PADDED: usize = 4;

/// What the layers of a file make of the shape of their input.
#[derive(Clone, Debug)]
pub(crate) struct Extents {
    layers: Vec<(String, Extent)>,
    /// The outputs of all layers with weights. Each has at least a byte in the file.
    outputs: usize,
}

/// What one layer makes of a shape.
#[derive(Clone, Debug)]
enum Extent {
    Same,
    /// `[.., in]` to `[.., out]`.
    Last(usize),
    /// `[..]` to `[.., width]`.
    Appended(usize),
    /// `[batch, ..]` to `[batch, everything else]`.
    Flat,
    /// `[batch, channels, height, width]` to the same with so many channels, if they change.
    Windows {
        outputs: Option<usize>,
        kernel: [usize; 2],
        stride: [usize; 2],
        padding: [usize; 2],
    },
    /// All ways have one shape.
    Sum([Vec<(String, Extent)>; 2]),
    /// Along axis 1.
    Joined(Vec<Vec<(String, Extent)>>),
}

/// A shape, or nothing where the layer itself will say that it does not fit.
type Shape = Option<Vec<usize>>;

impl Extents {
    /// Those of a model's layers.
    pub fn of(layers: &[(String, QLayer)]) -> Self {
        let mut outputs = 0;
        let layers = chain(layers, &mut outputs);
        Self { layers, outputs }
    }

    /// Looks at every layer, for an input of this shape.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`], in an [`Error::Layer`].
    pub fn check(&self, input: &[usize]) -> Result<()> {
        let inputs = count(input);
        let made = PADDED.saturating_mul(inputs.saturating_mul(self.outputs.max(1)));
        run(&self.layers, Some(input.to_vec()), ALWAYS.max(made)).map(|_| ())
    }
}

fn chain(layers: &[(String, QLayer)], outputs: &mut usize) -> Vec<(String, Extent)> {
    let layers = layers.iter();
    let extents = layers.map(|(name, layer)| (name.clone(), extent(layer, outputs)));
    extents.collect()
}

fn extent(layer: &QLayer, outputs: &mut usize) -> Extent {
    let extent = match layer {
        QLayer::Linear(layer) => Extent::Last(layer.bias().len()),
        QLayer::Conv2d(layer) => convolution(layer.weight().shape(), layer.options()),
        QLayer::MaxPool2d(options) | QLayer::AvgPool2d(options) => pooling(*options),
        QLayer::Relu => Extent::Same,
        QLayer::Flatten => Extent::Flat,
        QLayer::Float(float) => in_float(&*float.layer),
        QLayer::Embedding(layer) => Extent::Appended(layer.table().shape()[1]),
        QLayer::Narrow(layer) => match (layer.operation(), layer.weight().shape()) {
            (NarrowOperation::Product(Operation::Conv2d(options)), shape) => {
                convolution(shape, options)
            }
            (NarrowOperation::Product(Operation::Linear), shape) => Extent::Last(shape[0]),
            (NarrowOperation::Embedding, shape) => Extent::Appended(shape[1]),
        },
        QLayer::Residual(layer) => {
            let QResidual { body, shortcut, .. } = &**layer;
            Extent::Sum([chain(body, outputs), chain(shortcut, outputs)])
        }
        QLayer::Concat(layer) => {
            let QBranches { branches, .. } = &**layer;
            let branches = branches.iter().map(|branch| chain(branch, outputs));
            Extent::Joined(branches.collect())
        }
    };
    if let Extent::Last(own)
    | Extent::Appended(own)
    | Extent::Windows {
        outputs: Some(own), ..
    } = &extent
    {
        *outputs = outputs.saturating_add(*own);
    }
    extent
}

/// Of the layers in `f32` that a file can hold.
fn in_float(layer: &dyn Layer) -> Extent {
    let any = layer.as_any();
    if let Some(layer) = any.downcast_ref::<Linear>() {
        Extent::Last(layer.weight().shape()[0])
    } else if let Some(layer) = any.downcast_ref::<Conv2d>() {
        convolution(layer.weight().shape(), layer.options())
    } else if let Some(layer) = any.downcast_ref::<Embedding>() {
        Extent::Appended(layer.weight().shape()[1])
    } else if let Some(layer) = any.downcast_ref::<MaxPool2d>() {
        pooling(layer.options())
    } else if let Some(layer) = any.downcast_ref::<AvgPool2d>() {
        pooling(layer.options())
    } else if any.is::<Flatten>() {
        Extent::Flat
    } else {
        // Functions of one value at a time, softmax and batch norm.
        Extent::Same
    }
}

fn convolution(weight: &[usize], options: Conv2dOptions) -> Extent {
    Extent::Windows {
        outputs: Some(weight[0]),
        kernel: [weight[2], weight[3]],
        stride: options.stride,
        padding: options.padding,
    }
}

fn pooling(options: Pool2dOptions) -> Extent {
    Extent::Windows {
        outputs: None,
        kernel: options.kernel,
        stride: options.stride,
        padding: options.padding,
    }
}

/// How many values a tensor of this shape has, or as many as can be counted.
fn count(shape: &[usize]) -> usize {
    shape
        .iter()
        .fold(1, |all, &length| all.saturating_mul(length))
}

fn run(layers: &[(String, Extent)], mut shape: Shape, limit: usize) -> Result<Shape> {
    for (name, extent) in layers {
        let Some(known) = shape else {
            return Ok(None);
        };
        let made = through(extent, known, limit).and_then(|made| {
            allowed("its result", made.as_deref().unwrap_or_default(), limit)?;
            Ok(made)
        });
        shape = made.map_err(|error| error.in_layer(name))?;
    }
    Ok(shape)
}

fn allowed(what: &'static str, shape: &[usize], limit: usize) -> Result<()> {
    let values = count(shape);
    if values <= limit {
        return Ok(());
    }
    Err(Error::TooLarge {
        what,
        values,
        limit,
    })
}

fn through(extent: &Extent, mut shape: Vec<usize>, limit: usize) -> Result<Shape> {
    match extent {
        Extent::Same => {}
        Extent::Last(outputs) => match shape.last_mut() {
            Some(last) => *last = *outputs,
            None => return Ok(None),
        },
        Extent::Appended(width) => shape.push(*width),
        Extent::Flat => {
            let Some((&batch, rest)) = shape.split_first() else {
                return Ok(None);
            };
            shape = vec![batch, count(rest)];
        }
        Extent::Windows {
            outputs,
            kernel,
            stride,
            padding,
        } => {
            let [_, channels, sides @ ..] = shape.as_mut_slice() else {
                return Ok(None);
            };
            let Ok(sides) = <&mut [usize; 2]>::try_from(sides) else {
                return Ok(None);
            };
            for (side, padding) in sides.iter_mut().zip(padding) {
                *side = side.saturating_add(padding.saturating_mul(2));
            }
            let channels = std::mem::replace(channels, outputs.unwrap_or(*channels));
            let padded = [shape[0], channels, shape[2], shape[3]];
            allowed("its input with the padding around it", &padded, limit)?;
            for (axis, side) in shape[2..].iter_mut().enumerate() {
                let steps = side.checked_sub(kernel[axis]);
                let Some(steps) = steps.and_then(|steps| steps.checked_div(stride[axis])) else {
                    return Ok(None);
                };
                *side = steps.saturating_add(1);
            }
        }
        Extent::Sum([body, shortcut]) => {
            let sum = run(body, Some(shape.clone()), limit)?;
            let other = run(shortcut, Some(shape), limit)?;
            return Ok(sum.or(other));
        }
        Extent::Joined(ways) => {
            let mut joined: Shape = None;
            for way in ways {
                let Some(end) = run(way, Some(shape.clone()), limit)? else {
                    return Ok(None);
                };
                joined = match joined {
                    None => Some(end),
                    Some(mut joined) => {
                        let (Some(length), Some(more)) = (joined.get_mut(1), end.get(1)) else {
                            return Ok(None);
                        };
                        *length = length.saturating_add(*more);
                        Some(joined)
                    }
                };
            }
            return Ok(joined);
        }
    }
    Ok(Some(shape))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::composite::Join;
    use crate::join::QConcat;
    use crate::scheme::QParams;

    fn pool(kernel: usize, padding: usize) -> QLayer {
        QLayer::MaxPool2d(Pool2dOptions {
            kernel: [kernel; 2],
            stride: [1; 2],
            padding: [padding; 2],
        })
    }

    fn named(layers: Vec<QLayer>) -> Vec<(String, QLayer)> {
        let layers = layers.into_iter().enumerate();
        layers.map(|(i, layer)| (i.to_string(), layer)).collect()
    }

    #[test]
    fn padding_and_windows_are_counted() {
        let extents = Extents::of(&named(vec![pool(3, 1), pool(2, 1)]));
        // [2, 3, 5, 5] stays as it is, and becomes [2, 3, 6, 6] by 2 · 1 more places less 1.
        let end = run(&extents.layers, Some(vec![2, 3, 5, 5]), 294);
        assert_eq!(end, Ok(Some(vec![2, 3, 6, 6])));
        // 2 · 3 · 7 · 7 with the padding of either.
        let refused = run(&extents.layers, Some(vec![2, 3, 5, 5]), 293);
        let error = Error::TooLarge {
            what: "its input with the padding around it",
            values: 294,
            limit: 293,
        };
        assert_eq!(refused, Err(error.in_layer("0")));
    }

    /// Each joins what comes with itself: 40 layers, some hundred bytes each, made 2^40 times as much of the input.
    #[test]
    fn joining_a_value_with_itself_again_and_again_is_refused() {
        let unit = QParams::symmetric(1.0);
        let twice = || {
            QLayer::Concat(Box::new(QBranches {
                branches: vec![Vec::new(), Vec::new()],
                join: Join::Codes(QConcat::new(vec![unit; 2], unit).expect("one meaning")),
            }))
        };
        let extents = |layers| Extents::of(&named((0..layers).map(|_| twice()).collect()));
        assert_eq!(extents(22).check(&[1, 4]), Ok(()));
        let error = extents(40).check(&[1, 4]).expect_err("2^42 values");
        assert!(
            error.to_string().starts_with("in layer `22`: its result"),
            "{error}"
        );
    }

    #[test]
    fn lengths_that_nobody_can_count_are_too_large() {
        let extents = Extents::of(&named(vec![pool(usize::MAX, usize::MAX / 2)]));
        assert!(extents.check(&[1, 1, 8, 8]).is_err());
    }
}
