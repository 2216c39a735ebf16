//! Whole models, f32 and INT8, forward only: what a user of the library calls.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tinytorch_core::nn::{
    Conv2d, Conv2dConfig, Flatten, Layer, Linear, MaxPool2d, Relu, Sequential,
};
use tinytorch_core::{Tensor, no_grad};
use tinytorch_quantization::{PrepareOptions, calibrate, convert, prepare};

use crate::Subject;
use crate::data::{check, inputs, reals};

/// The models of the comparison, by their number in a request: what `runtimes/models.py` calls them, in its order.
fn model(number: usize) -> Result<(Sequential, Vec<usize>)> {
    let rng = &mut ChaCha8Rng::seed_from_u64(0);
    let (model, image) = match number {
        0 => {
            let conv = |inputs, outputs, rng: &mut ChaCha8Rng| {
                let mut config = Conv2dConfig::new(inputs, outputs, 3);
                config.options.padding = [1, 1];
                Conv2d::new(config, rng)
            };
            let model = Sequential::new()
                .with(conv(1, 32, rng)?)
                .with(Relu)
                .with(MaxPool2d::new(2))
                .with(conv(32, 64, rng)?)
                .with(Relu)
                .with(MaxPool2d::new(2))
                .with(Flatten)
                .with(Linear::new(64 * 7 * 7, 10, rng));
            (model, vec![1, 28, 28])
        }
        1 | 2 => {
            let [a, b] = [[1024, 1024], [128, 64]][number - 1];
            let model = Sequential::new()
                .with(Linear::new(784, a, rng))
                .with(Relu)
                .with(Linear::new(a, b, rng))
                .with(Relu)
                .with(Linear::new(b, 10, rng));
            (model, vec![784])
        }
        _ => bail!("no model {number}"),
    };
    for (name, parameter) in model.named_parameters() {
        let (len, outputs) = (parameter.len(), parameter.shape()[0]);
        // Weights as wide as those of a layer that keeps the size of what passes; biases small.
        let factor = if parameter.shape().len() > 1 {
            1.2 / (len as f32 / outputs as f32).sqrt()
        } else {
            0.05
        };
        let values: Vec<f32> = reals(len, 91).iter().map(|value| value * factor).collect();
        let values = Tensor::new(values, parameter.shape()).context(name)?;
        parameter.update(|mut old| old.assign(&values.array()));
    }
    Ok((model, image))
}

/// A call of a model.
type Call = Box<dyn Fn() -> Result<Tensor>>;

/// Ours in f32 without a tape, and in INT8, by name.
fn calls(number: usize, batch: usize) -> Result<[(&'static str, Call); 2]> {
    let (model, image) = model(number)?;
    let shape: Vec<usize> = std::iter::once(batch).chain(image).collect();
    let x = Tensor::new(inputs(shape.iter().product(), 37), &shape)?;
    let mut prepared = prepare(&model, &PrepareOptions::default())?;
    calibrate(&mut prepared, [x.clone()])?;
    let quantized = convert(&prepared)?;
    let input = x.clone();
    let real: Call = Box::new(move || Ok(no_grad(|| model.forward(&input))?));
    let integer: Call = Box::new(move || Ok(quantized.forward(&x)?));
    Ok([("ours_f32", real), ("ours_int8", integer)])
}

/// What each computes.
pub fn values(number: usize, batch: usize) -> Result<Vec<(&'static str, Vec<f32>)>> {
    (calls(number, batch)?.into_iter())
        .map(|(name, call)| Ok((name, call()?.to_vec())))
        .collect()
}

pub fn subjects(number: usize, batch: usize) -> Result<Vec<Subject>> {
    let subject = |(name, call): (&str, Call)| {
        let to = Rc::new(RefCell::new(None));
        let from = to.clone();
        Subject {
            name: name.to_owned(),
            work: 1.0,
            run: Box::new(move || *to.borrow_mut() = Some(call().expect("it fits"))),
            check: Box::new(move || match &*from.borrow() {
                Some(result) => check(&result.to_vec()),
                None => f64::NAN,
            }),
        }
    };
    Ok(calls(number, batch)?.into_iter().map(subject).collect())
}
