//! From which size of a network on does a step in 16 bits take less time?

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use tinytorch_core::Tensor;
use tinytorch_core::loss::cross_entropy;
use tinytorch_core::nn::{Conv2d, Conv2dConfig, Flatten, Layer, Linear, Relu, Sequential};
use tinytorch_core::optim::{Adam, AdamConfig, Optimizer};
use tinytorch_labs::stopwatch::race;
use tinytorch_labs::table::Table;
use tinytorch_quantization::{Half, HalfModel};

use super::kept_in_f32;
use crate::experiment::Result;
use crate::lab::Lab;

/// Rows of a batch.
pub const ROWS: usize = 256;
/// Images of a batch.
const IMAGES: usize = 32;

/// Median seconds of a step and the bytes of activations kept for the way back, in f32, bf16 and fp16.
#[derive(Debug, Serialize)]
pub struct Row {
    network: String,
    /// Of a multilayer perceptron; none for a network of convolutions.
    width: Option<usize>,
    seconds: [f64; 3],
    bytes: [usize; 3],
}

impl Row {
    /// How many times as fast as f32 a step in bf16 is.
    fn gain(&self) -> f64 {
        self.seconds[0] / self.seconds[1]
    }
}

/// Measures steps of networks that grow: forwards, backwards, Adam on the master weights.
pub fn measure(lab: &Lab) -> Result<Vec<Row>> {
    let effort = lab.settings.effort;
    let widths: &[usize] = effort.pick(&[16], &[64, 256, 1024], &[64, 128, 256, 512, 1024, 2048]);
    let mut rows = Vec::new();
    for &width in widths {
        let rng = &mut ChaCha8Rng::seed_from_u64(width as u64);
        let model = Sequential::new()
            .with(Linear::new(width, width, rng))
            .with(Relu)
            .with(Linear::new(width, width, rng))
            .with(Relu)
            .with(Linear::new(width, 10, rng));
        let x = Tensor::randn(&[ROWS, width], rng);
        let name = format!("linear layers of {width}");
        rows.push(row(lab, name, Some(width), &model, &x)?);
    }
    let channels = effort.pick(4, 64, 64);
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    let config = || Conv2dConfig::new(channels, channels, 3).padding(1);
    let model = Sequential::new()
        .with(Conv2d::new(config(), rng)?)
        .with(Relu)
        .with(Conv2d::new(config(), rng)?)
        .with(Relu)
        .with(Flatten)
        .with(Linear::new(channels * 16 * 16, 10, rng));
    let x = Tensor::randn(&[IMAGES, channels, 16, 16], rng);
    let name = format!("convolutions of {channels} channels");
    rows.push(row(lab, name, None, &model, &x)?);
    Ok(rows)
}

fn row(
    lab: &Lab,
    network: String,
    width: Option<usize>,
    model: &Sequential,
    x: &Tensor,
) -> Result<Row> {
    lab.progress.say(&format!("steps of {network}"));
    let mut plan = lab.settings.stopwatch();
    plan.turns = lab.settings.effort.pick(1, 5, 15);
    let classes: Vec<usize> = (0..x.shape()[0]).map(|i| i % 10).collect();
    let halves = [Half::Bf16, Half::F16].map(|half| HalfModel::new(model, half));
    let models: [&dyn Layer; 3] = [model, &halves[0], &halves[1]];
    let mut steps: Vec<_> = models
        .into_iter()
        .map(|in_it| {
            // Small steps: what the weights become is not what is asked here.
            let config = AdamConfig {
                learning_rate: 1e-5,
                ..AdamConfig::default()
            };
            let mut adam = Adam::new(model.named_parameters(), config);
            let classes = &classes;
            move || -> Result<()> {
                in_it.zero_grad();
                cross_entropy(&in_it.forward(x)?, classes)?.backward()?;
                adam.step()?;
                Ok(())
            }
        })
        .collect();
    let [a, b, c] = steps.as_mut_slice() else {
        unreachable!("three models, three contestants");
    };
    let seconds = race(plan, &mut [a, b, c])?;
    Ok(Row {
        network,
        width,
        seconds: [seconds[0], seconds[1], seconds[2]],
        bytes: [
            kept_in_f32(model, x)?,
            halves[0].saved_bytes(),
            halves[1].saved_bytes(),
        ],
    })
}

/// The rows as a table.
pub fn table(rows: &[Row]) -> Table {
    let mut table = Table::new([
        "network",
        "f32 ms",
        "bf16 ms",
        "fp16 ms",
        "f32 / bf16",
        "KiB kept in f32",
        "in 16 bits",
    ]);
    for row in rows {
        let [f32, bf16, fp16] = row.seconds.map(|seconds| format!("{:.2}", 1e3 * seconds));
        table.row([
            row.network.clone(),
            f32,
            bf16,
            fp16,
            format!("{:.2}", row.gain()),
            format!("{:.0}", row.bytes[0] as f64 / 1024.0),
            format!("{:.0}", row.bytes[1] as f64 / 1024.0),
        ]);
    }
    table
}

/// What the rows say about bf16, in words.
pub fn verdict(rows: &[Row]) -> String {
    let linear = || rows.iter().filter(|row| row.width.is_some());
    let from = linear().rev().take_while(|row| row.gain() > 1.0).last();
    let largest = linear().next_back();
    let mut words = match (from.and_then(|row| row.width), largest) {
        (Some(width), Some(largest)) => format!(
            "A step in bf16 takes less time than in f32 from linear layers of {width} on; at the largest measured it is {:.2} times as fast.",
            largest.gain()
        ),
        (None, Some(largest)) => format!(
            "With linear layers a step in bf16 never took less time than in f32: {:.2} times as fast at the largest measured.",
            largest.gain()
        ),
        _ => String::new(),
    };
    for row in rows.iter().filter(|row| row.width.is_none()) {
        let gain = row.gain();
        words += &format!(" With {} it is {gain:.2} times as fast.", row.network);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_names_the_width_from_which_bf16_always_wins() {
        let row = |width, bf16| Row {
            network: "linear".to_owned(),
            width: Some(width),
            seconds: [1.0, bf16, 2.0],
            bytes: [0; 3],
        };
        let words = verdict(&[row(64, 0.9), row(128, 1.5), row(256, 0.8), row(512, 0.5)]);
        assert!(words.contains("from linear layers of 256 on"), "{words}");
        assert!(words.contains("2.00 times"), "{words}");
        let words = verdict(&[row(64, 0.9), row(128, 1.25)]);
        assert!(words.contains("never"), "{words}");
        assert!(words.contains("0.80 times"), "{words}");
    }
}
