//! Copies of layers, whose tensors are their own.

use std::any::Any;
use std::sync::Arc;

use super::{
    AvgPool2d, BatchNorm2d, Concat, Conv2d, Dropout, Embedding, Flatten, Gelu, Layer, Linear,
    LogSoftmax, MaxPool2d, Relu, Residual, Sequential, Sigmoid, Softmax, Tanh,
};
use crate::error::Result;
use crate::tensor::Tensor;

/// A copy of a layer of this crate; `None` for any other, and if a layer inside has none.
pub(super) fn copied(layer: &dyn Any) -> Option<Arc<dyn Layer>> {
    if let Some(linear) = layer.downcast_ref::<Linear>() {
        let copy = Linear::from_parts(own(linear.weight()), linear.bias().map(own));
        return Some(Arc::new(copy.ok()?));
    }
    if let Some(conv) = layer.downcast_ref::<Conv2d>() {
        let (weight, bias) = (own(conv.weight()), conv.bias().map(own));
        let copy = Conv2d::from_parts(weight, bias, conv.options());
        return Some(Arc::new(copy.ok()?));
    }
    if let Some(embedding) = layer.downcast_ref::<Embedding>() {
        return Some(Arc::new(
            Embedding::from_parts(own(embedding.weight())).ok()?,
        ));
    }
    if let Some(norm) = layer.downcast_ref::<BatchNorm2d>() {
        return Some(Arc::new(batch_norm(norm).ok()?));
    }
    if let Some(dropout) = layer.downcast_ref::<Dropout>() {
        return Some(Arc::new(dropout.copy()));
    }
    if let Some(model) = layer.downcast_ref::<Sequential>() {
        return Some(Arc::new(Sequential::from_shared(all(model.shared())?)));
    }
    if let Some(concat) = layer.downcast_ref::<Concat>() {
        return Some(Arc::new(Concat::from_shared(all(concat.shared())?)));
    }
    if let Some(residual) = layer.downcast_ref::<Residual>() {
        let shortcut = match residual.shortcut() {
            Some(shortcut) => Some(shortcut.copied()?),
            None => None,
        };
        let copy = Residual::from_shared(residual.body().copied()?, shortcut);
        return Some(Arc::new(copy));
    }
    fixed::<Relu>(layer)
        .or_else(|| fixed::<Gelu>(layer))
        .or_else(|| fixed::<Sigmoid>(layer))
        .or_else(|| fixed::<Tanh>(layer))
        .or_else(|| fixed::<Softmax>(layer))
        .or_else(|| fixed::<LogSoftmax>(layer))
        .or_else(|| fixed::<MaxPool2d>(layer))
        .or_else(|| fixed::<AvgPool2d>(layer))
        .or_else(|| fixed::<Flatten>(layer))
}

/// A layer that nothing changes.
fn fixed<L: Layer + Copy>(layer: &dyn Any) -> Option<Arc<dyn Layer>> {
    let layer: L = *layer.downcast_ref()?;
    Some(Arc::new(layer))
}

/// The values as they are now. Storage is shared until one of the two is changed.
fn own(tensor: &Tensor) -> Tensor {
    Tensor::from_array(tensor.array())
}

fn all(layers: &[(String, Arc<dyn Layer>)]) -> Option<Vec<(String, Arc<dyn Layer>)>> {
    let copy = |(name, layer): &(String, Arc<dyn Layer>)| Some((name.clone(), layer.copied()?));
    layers.iter().map(copy).collect()
}

fn batch_norm(norm: &BatchNorm2d) -> Result<BatchNorm2d> {
    let copy = BatchNorm2d::with(norm.weight().len(), norm.eps(), norm.momentum());
    for ((_, target), (_, source)) in copy.named_tensors().iter().zip(norm.named_tensors()) {
        target.assign(&own(&source))?;
    }
    copy.set_training(norm.own_training() == Some(true));
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Conv2dConfig;
    use crate::tape::no_grad;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    /// One of every kind.
    fn model() -> Result<Sequential> {
        let rng = &mut ChaCha8Rng::seed_from_u64(1);
        let conv =
            |inputs, rng: &mut _| Conv2d::new(Conv2dConfig::new(inputs, 2, 3).padding(1), rng);
        let norm = BatchNorm2d::new(2);
        norm.running_mean().assign(&Tensor::randn(&[2], rng))?;
        Ok(Sequential::new()
            .with(conv(1, rng)?)
            .with(norm)
            .with(Residual::with_shortcut(Relu, conv(2, rng)?))
            .with(Concat::new().with(Tanh).with(Sigmoid))
            .with(Residual::new(Gelu))
            .with(MaxPool2d::new(2))
            .with(AvgPool2d::new(2))
            .with(Flatten)
            .with(Dropout::new(0.5, rng)?)
            .with(Linear::new(4, 3, rng))
            .with(Softmax)
            .with(LogSoftmax))
    }

    #[test]
    fn a_copy_computes_the_same_and_drops_the_same() -> Result<()> {
        let model = model()?;
        let copy = model.copied().expect("all layers are of this crate");
        let x = Tensor::randn(&[3, 1, 4, 4], &mut ChaCha8Rng::seed_from_u64(2));
        for training in [true, false] {
            model.set_training(training);
            copy.set_training(training);
            let (expected, got) = (model.forward(&x)?, copy.forward(&x)?);
            assert_eq!(got.to_vec(), expected.to_vec());
        }
        model.set_training(false);
        let again = model.copied().expect("as before");
        assert_eq!(again.forward(&x)?.to_vec(), model.forward(&x)?.to_vec());
        Ok(())
    }

    #[test]
    fn what_is_trained_in_a_copy_stays_there() -> Result<()> {
        let model = model()?;
        let values = |model: &dyn Layer| -> Vec<Vec<f32>> {
            let tensors = model.named_tensors().into_iter();
            tensors.map(|(_, tensor)| tensor.to_vec()).collect()
        };
        let before = values(&model);
        let copy = model.copied().expect("all layers are of this crate");
        for (_, tensor) in copy.named_tensors() {
            tensor.update(|mut values| values.mapv_inplace(|x| x + 1.0));
        }
        let x = Tensor::randn(&[3, 1, 4, 4], &mut ChaCha8Rng::seed_from_u64(3));
        copy.forward(&x)?.sum().backward()?;
        assert_eq!(values(&model), before);
        let gradients = |model: &dyn Layer| {
            let parameters = model.named_parameters().into_iter();
            parameters.filter(|(_, p)| p.grad().is_some()).count()
        };
        assert_eq!((gradients(&model), gradients(&*copy)), (0, 8));
        Ok(())
    }

    #[test]
    fn indices_have_a_table_of_their_own_and_a_strange_layer_has_no_copy() -> Result<()> {
        struct Strange;
        impl Layer for Strange {
            fn forward(&self, x: &Tensor) -> Result<Tensor> {
                Ok(x.clone())
            }
            fn kind(&self) -> &'static str {
                "strange"
            }
            fn as_any(&self) -> &dyn Any {
                self
            }
        }
        let table = Embedding::from_parts(Tensor::ones(&[2, 1]))?;
        let copy = table.copied().expect("it is of this crate");
        table.weight().assign(&Tensor::zeros(&[2, 1]))?;
        let row = no_grad(|| copy.forward(&Tensor::zeros(&[1])))?;
        assert_eq!(row.to_vec(), [1.0]);
        assert!(
            Sequential::new()
                .with(Relu)
                .with(Strange)
                .copied()
                .is_none()
        );
        Ok(())
    }
}
