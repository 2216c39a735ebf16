//! Channels of very different ranges: where one scale for all of them collapses, and what brings the accuracy back.

use std::fmt;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use tinytorch_core::nn::{BatchNorm2d, Conv2d, Sequential};
use tinytorch_core::no_grad;
use tinytorch_labs::summary::Summary;
use tinytorch_labs::table::Table;
use tinytorch_quantization::{
    Granularity, PrepareOptions, RepairOptions, RoundingOptions, Scheme, calibrate, convert,
    prepare, repair,
};

use crate::experiment::{Experiment, Finding, Result};
use crate::lab::{CALIBRATION, Lab, Test, Writers};
use crate::model;

/// See the file.
pub struct Channels;

/// Ways to write the network, from what collapses to what helps.
const WAYS: [(&str, Granularity, Option<RepairOptions>); 7] = [
    ("per tensor", Granularity::PerTensor, None),
    ("per channel", CHANNEL, None),
    (
        "per tensor, bias corrected",
        Granularity::PerTensor,
        Some(steps(false, true, false)),
    ),
    (
        "per tensor, equalized",
        Granularity::PerTensor,
        Some(steps(true, false, false)),
    ),
    (
        "  and bias corrected",
        Granularity::PerTensor,
        Some(steps(true, true, false)),
    ),
    (
        "  and rounding learned",
        Granularity::PerTensor,
        Some(steps(true, true, true)),
    ),
    (
        "per channel, all of it",
        CHANNEL,
        Some(steps(true, true, true)),
    ),
];

const CHANNEL: Granularity = Granularity::PerChannel { axis: 0 };

const fn steps(equalize: bool, correct_bias: bool, learn: bool) -> RepairOptions {
    let rounding = RoundingOptions {
        damping: 0.01,
        learn_scales: true,
        sweeps: 10,
    };
    RepairOptions {
        equalize,
        correct_bias,
        learn_rounding: if learn { Some(rounding) } else { None },
    }
}

#[derive(Debug, Serialize)]
struct Cell {
    way: &'static str,
    /// Largest factor of a channel over the smallest.
    spread: u32,
    /// Percent, over the networks.
    accuracy: Summary,
}

#[derive(Debug, Serialize)]
struct Report {
    bits: u32,
    /// Percent, over the networks: the same for every spread.
    f32: Summary,
    /// Largest magnitude of a channel's weights over the smallest, the median layer of the trained networks.
    trained_spread: Summary,
    spreads: Vec<u32>,
    cells: Vec<Cell>,
}

impl Experiment for Channels {
    fn name(&self) -> &'static str {
        "channels"
    }

    fn question(&self) -> &'static str {
        "What if channels have very different ranges, as behind the batch norms of depthwise separable networks?"
    }

    fn run(&self, lab: &Lab) -> Result<Box<dyn Finding>> {
        let effort = lab.settings.effort;
        let exponents: &[i32] = effort.pick(&[3], &[0, 3], &[0, 1, 2, 3, 4]);
        let bits = 8;
        let test = lab.test(Writers::Same)?;
        let batches = lab.calibration(Writers::Same, CALIBRATION)?;
        let (mut real, mut trained_spread) = (Vec::new(), Vec::new());
        let mut found = vec![vec![Vec::new(); WAYS.len()]; exponents.len()];
        for seed in 1..=lab.settings.seeds {
            lab.progress.say(&format!("train separable network {seed}"));
            let network = model::separable(seed)?;
            let data = &lab.digits(Writers::Same).train;
            model::train_model(&network, data, seed, lab.settings.epochs, |e| {
                lab.progress.epoch(e)
            })?;
            let scores = test.scores(&network)?;
            real.push(test.accuracy(&scores));
            trained_spread.push(median_spread(&network)?);
            for (&exponent, found) in exponents.iter().zip(&mut found) {
                let before = spread(&network, exponent, seed);
                // Powers of two change no bit: the network in f32 is the same.
                assert_eq!(
                    test.scores(&network)?.to_vec(),
                    scores.to_vec(),
                    "the same function"
                );
                for ((name, granularity, options), found) in WAYS.iter().zip(found) {
                    lab.progress.note(&format!(
                        "network {seed}, spread {}: {}",
                        1 << (2 * exponent),
                        name.trim()
                    ));
                    let weights = Scheme {
                        granularity: *granularity,
                        ..Scheme::weights(bits)
                    };
                    found.push(judge(&network, weights, options.as_ref(), &batches, &test)?);
                }
                restore(&network, before);
            }
        }
        let mut cells = Vec::new();
        for (way, (name, ..)) in WAYS.iter().enumerate() {
            for (&exponent, found) in exponents.iter().zip(&found) {
                cells.push(Cell {
                    way: name.trim(),
                    spread: 1 << (2 * exponent),
                    accuracy: Summary::of(&found[way]),
                });
            }
        }
        Ok(Box::new(Report {
            bits,
            f32: Summary::of(&real),
            trained_spread: Summary::of(&trained_spread),
            spreads: exponents
                .iter()
                .map(|exponent| 1 << (2 * exponent))
                .collect(),
            cells,
        }))
    }
}

fn judge(
    network: &Sequential,
    weights: Scheme,
    options: Option<&RepairOptions>,
    batches: &[tinytorch_core::Tensor],
    test: &Test,
) -> Result<f64> {
    let options_for_model = PrepareOptions {
        weights,
        ..PrepareOptions::default()
    };
    let mut prepared = prepare(network, &options_for_model)?;
    calibrate(&mut prepared, batches.to_vec())?;
    if let Some(options) = options {
        repair(&mut prepared, batches, options)?;
    }
    test.judge(&convert(&prepared)?)
}

/// Gives every channel between two convolutions a factor of 2ᵏ, `|k| ≤ exponent`, in its batch norm, and takes it back in the
/// weights of the convolution behind: another network with the same function. Returns all that was changed, as it was.
fn spread(
    network: &Sequential,
    exponent: i32,
    seed: u64,
) -> Vec<(tinytorch_core::Tensor, tinytorch_core::Tensor)> {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    let layers = network.shared();
    let mut before = Vec::new();
    for (index, (_, layer)) in layers.iter().enumerate() {
        let norm = layer.as_any().downcast_ref::<BatchNorm2d>();
        let behind = layers[index + 1..]
            .iter()
            .find_map(|(_, layer)| layer.as_any().downcast_ref::<Conv2d>());
        let (Some(norm), Some(conv)) = (norm, behind) else {
            continue;
        };
        for tensor in [norm.weight(), norm.bias(), conv.weight()] {
            let copy = tinytorch_core::Tensor::from_array(tensor.array().into_owned());
            before.push((tensor.clone(), copy));
        }
        let channels = norm.weight().len();
        for channel in 0..channels {
            let factor = 2.0_f32.powi(rng.random_range(-exponent..=exponent));
            for tensor in [norm.weight(), norm.bias()] {
                tensor.update(|mut values| values[[channel]] *= factor);
            }
            conv.weight().update(|mut values| {
                // Depthwise: the channel is an output. Else it is an input.
                let depthwise = conv.options().groups == channels;
                let axis = ndarray::Axis(usize::from(!depthwise));
                values
                    .index_axis_mut(axis, channel)
                    .mapv_inplace(|w| w / factor);
            });
        }
    }
    before
}

fn restore(_: &Sequential, before: Vec<(tinytorch_core::Tensor, tinytorch_core::Tensor)>) {
    for (tensor, old) in before.into_iter().rev() {
        tensor.update(|mut values| values.assign(&old.array()));
    }
}

/// Of each convolution folded with its batch norm, the largest magnitude of a channel over the smallest; the median of these.
fn median_spread(network: &Sequential) -> Result<f64> {
    let prepared = no_grad(|| prepare(network, &PrepareOptions::default()))?;
    let mut spreads = Vec::new();
    for stage in prepared.stages() {
        if let Some(folded) = stage.folded()? {
            let rows = folded.weight.axis_iter(ndarray::Axis(0));
            let largest = rows.map(|row| row.iter().fold(0.0_f32, |max, w| max.max(w.abs())));
            let (min, max) = largest.fold((f32::MAX, 0.0_f32), |(min, max), x| {
                (min.min(x), max.max(x))
            });
            spreads.push(f64::from(max) / f64::from(min).max(1e-30));
        }
    }
    Ok(tinytorch_labs::summary::median(&spreads))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "A depthwise separable network with {}-bit weights. In f32: {:.2} ± {:.2} % over {} networks. After training the largest\n\
             channel of a layer has {:.1} times the range of the smallest. Then every channel is multiplied by a random power of two\n\
             in its batch norm and divided by it in the next layer: the same function in f32, to the bit.\n",
            self.bits, self.f32.mean, self.f32.deviation, self.f32.count, self.trained_spread.mean
        )?;
        let header = self.spreads.iter().map(|spread| match spread {
            1 => "as trained".to_owned(),
            spread => format!("spread {spread}"),
        });
        let mut table = Table::new(std::iter::once("accuracy in %".to_owned()).chain(header));
        for (name, ..) in &WAYS {
            let cells = self.cells.iter().filter(|cell| cell.way == name.trim());
            let cells = cells.map(|cell| format!("{:.2}", cell.accuracy));
            table.row(std::iter::once((*name).to_owned()).chain(cells));
        }
        writeln!(f, "{table}")?;
        if let Some(&widest) = self.spreads.last() {
            let lost = |way: &str| {
                let mut cells = self.cells.iter();
                let found = cells.find(|cell| cell.way == way && cell.spread == widest);
                found.map_or(f64::NAN, |cell| cell.accuracy.mean - self.f32.mean)
            };
            writeln!(
                f,
                "At a spread of {widest}, against f32: per tensor {:+.2} points, its biases corrected {:+.2}, equalized instead {:+.2}, equalized and\n\
                 corrected {:+.2}; per channel {:+.2}, and with all of it {:+.2}.",
                lost("per tensor"),
                lost("per tensor, bias corrected"),
                lost("per tensor, equalized"),
                lost("and bias corrected"),
                lost("per channel"),
                lost("per channel, all of it"),
            )?;
        }
        writeln!(
            f,
            "Scales per channel see to the weights; the activations still share one scale, and only equalization helps those.\n\
             Published, MobileNet-v2 on ImageNet, INT8 per tensor (Nagel et al. 2019, arXiv 1906.04721): 0.12 % as it is, 69.91 %\n\
             equalized, 70.92 % with large biases absorbed, 71.19 % with corrected biases; 71.72 % in f32."
        )
    }
}
