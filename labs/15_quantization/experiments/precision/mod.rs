//! Training in 16 bits: time, bytes and accuracy of f32, bf16 and fp16, with and without loss scaling.

mod width;

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::Instant;

use serde::Serialize;
use tinytorch_core::nn::{Layer, Sequential};
use tinytorch_core::train::{Proceed, StepHook};
use tinytorch_core::{Tensor, no_grad};
use tinytorch_labs::summary::{Summary, median};
use tinytorch_labs::table::Table;
use tinytorch_quantization::{Half, HalfModel, LossScaling};

use crate::experiment::{Experiment, Finding, Result};
use crate::lab::{Lab, Writers};
use crate::model;

/// See the file.
pub struct Precision;

/// What a loss is multiplied by, besides 1: 2⁻²⁰, as if it were averaged over a million pixels or words. To Adam, whose steps do
/// not depend on the size of gradients, that makes no difference; to a format without room below, it does.
const SMALL_LOSS: f32 = 1.0 / (1 << 20) as f32;

/// Ways to train.
const WAYS: [(&str, Option<Half>, bool); 4] = [
    ("f32", None, false),
    ("bf16", Some(Half::Bf16), false),
    ("fp16", Some(Half::F16), false),
    ("fp16, loss scaled", Some(Half::F16), true),
];

#[derive(Debug, Serialize)]
struct Row {
    way: &'static str,
    /// What the loss was multiplied by.
    loss_factor: f32,
    /// Percent, over the networks.
    accuracy: Summary,
    /// Median seconds of a step, over the networks.
    step_seconds: Summary,
    /// Percent of all numbers of all gradients that were exactly 0 in the first epoch.
    zero_gradients: Summary,
    /// Steps that were skipped because of an overflow.
    skipped: Summary,
    /// Bytes of activations that one batch keeps for the way back.
    activation_bytes: usize,
}

#[derive(Debug, Serialize)]
struct Report {
    rows: Vec<Row>,
    epochs: u64,
    /// Bytes of weights, gradients and Adam's moments.
    master_bytes: usize,
    /// Steps of networks that grow.
    widths: Vec<width::Row>,
}

impl Experiment for Precision {
    fn name(&self) -> &'static str {
        "precision"
    }

    fn question(&self) -> &'static str {
        "Can a network be trained in 16 bits, and what is loss scaling for?"
    }

    fn run(&self, lab: &Lab) -> Result<Box<dyn Finding>> {
        let seeds = lab.settings.effort.pick(1, 1, lab.settings.seeds);
        let epochs = lab.settings.effort.pick(1, 2, lab.settings.epochs);
        let test = lab.test(Writers::Same)?;
        let data = &lab.digits(Writers::Same).train;
        let mut rows = Vec::new();
        for loss_factor in [1.0, SMALL_LOSS] {
            for (way, half, scaled) in WAYS {
                let (mut accuracies, mut steps, mut zeros, mut skipped) =
                    (vec![], vec![], vec![], vec![]);
                let mut activation_bytes = 0;
                for seed in 1..=seeds {
                    lab.progress
                        .say(&format!("{way}, loss x {loss_factor:e}, network {seed}"));
                    let master = model::network(seed)?;
                    let batch = &lab.calibration(Writers::Same, model::BATCH)?[0];
                    let watch = Rc::new(RefCell::new(Watch::default()));
                    let hook = Hook {
                        loss_factor,
                        scaling: scaled.then(LossScaling::default),
                        watch: watch.clone(),
                    };
                    let mut epoch = |record: &_| lab.progress.epoch(record);
                    let accuracy = match half {
                        None => {
                            activation_bytes = kept_in_f32(&master, batch)?;
                            model::train_with(&master, data, seed, epochs, hook, &mut epoch)?;
                            test.accuracy(&test.scores(&master)?)
                        }
                        Some(half) => {
                            let model = HalfModel::new(&master, half);
                            model.forward(batch)?;
                            activation_bytes = model.saved_bytes();
                            model::train_with(&model, data, seed, epochs, hook, &mut epoch)?;
                            test.accuracy(&test.scores(&model)?)
                        }
                    };
                    accuracies.push(accuracy);
                    let watch = watch.borrow();
                    steps.push(median(&watch.seconds));
                    zeros.push(100.0 * watch.zeros as f64 / watch.numbers.max(1) as f64);
                    skipped.push(watch.skipped as f64);
                }
                rows.push(Row {
                    way,
                    loss_factor,
                    accuracy: Summary::of(&accuracies),
                    step_seconds: Summary::of(&steps),
                    zero_gradients: Summary::of(&zeros),
                    skipped: Summary::of(&skipped),
                    activation_bytes,
                });
            }
        }
        let parameters = model::network(1)?.named_parameters();
        let numbers: usize = parameters.iter().map(|(_, p)| p.len()).sum();
        let master_bytes = 4 * numbers * size_of::<f32>();
        let widths = width::measure(lab)?;
        Ok(Box::new(Report {
            rows,
            epochs,
            master_bytes,
            widths,
        }))
    }
}

/// What was seen of a training.
#[derive(Default)]
struct Watch {
    /// From one step to the next.
    seconds: Vec<f64>,
    last: Option<Instant>,
    zeros: usize,
    numbers: usize,
    skipped: usize,
}

/// Makes the loss smaller, scales it if asked to, and watches.
struct Hook {
    loss_factor: f32,
    scaling: Option<LossScaling>,
    watch: Rc<RefCell<Watch>>,
}

/// Gradients are looked at in so many steps.
const LOOKED_AT: usize = 32;

impl StepHook for Hook {
    fn check_loss(&mut self, loss: f32) -> tinytorch_core::Result<Proceed> {
        match &mut self.scaling {
            Some(scaling) => scaling.check_loss(loss),
            None => Ok(Proceed::Step),
        }
    }

    fn change_loss(&mut self, loss: Tensor) -> tinytorch_core::Result<Tensor> {
        let loss = &loss * self.loss_factor;
        match &mut self.scaling {
            Some(scaling) => scaling.change_loss(loss),
            None => Ok(loss),
        }
    }

    fn check_gradients(
        &mut self,
        parameters: &[(String, Tensor)],
    ) -> tinytorch_core::Result<Proceed> {
        let mut watch = self.watch.borrow_mut();
        if watch.seconds.len() < LOOKED_AT {
            for gradient in parameters
                .iter()
                .filter_map(|(_, parameter)| parameter.grad())
            {
                let values = gradient.array();
                watch.numbers += values.len();
                watch.zeros += values.iter().filter(|&&g| g == 0.0).count();
            }
        }
        match &mut self.scaling {
            Some(scaling) => scaling.check_gradients(parameters),
            None => Ok(Proceed::Step),
        }
    }

    fn after_step(&mut self, _: &dyn Layer, proceed: Proceed) -> tinytorch_core::Result<()> {
        let mut watch = self.watch.borrow_mut();
        let now = Instant::now();
        if let Some(last) = watch.last.replace(now) {
            watch.seconds.push((now - last).as_secs_f64());
        }
        watch.skipped += usize::from(proceed == Proceed::Skip);
        Ok(())
    }
}

/// Bytes of the values that a forward pass in `f32` keeps for its way back: the input of every layer.
fn kept_in_f32(model: &Sequential, batch: &Tensor) -> Result<usize> {
    let mut x = batch.clone();
    let mut kept = 0;
    for (_, layer) in model.shared() {
        kept += x.len() * size_of::<f32>();
        x = no_grad(|| layer.forward(&x))?;
    }
    Ok(kept)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let networks = self.rows.first().map_or(0, |row| row.accuracy.count);
        writeln!(
            f,
            "{networks} network(s), {} epoch(s). The loss as it is, and multiplied by 2^-20, as if it were averaged over a million words:\n\
             Adam does not notice, but fp16 has nothing below 6e-8.\n",
            self.epochs
        )?;
        let mut table = Table::new([
            "trained in",
            "loss x",
            "accuracy %",
            "gradients that are 0, %",
            "steps skipped",
            "ms per step",
            "KiB kept",
        ]);
        for row in &self.rows {
            table.row([
                row.way.to_owned(),
                if row.loss_factor == 1.0 {
                    "1".to_owned()
                } else {
                    "2^-20".to_owned()
                },
                format!("{:.2}", row.accuracy),
                format!("{:.1}", row.zero_gradients.mean),
                format!("{:.0}", row.skipped.mean),
                format!("{:.2}", 1e3 * row.step_seconds.mean),
                format!("{:.0}", row.activation_bytes as f64 / 1024.0),
            ]);
        }
        writeln!(f, "{table}")?;
        let row = |way: &str, scaled_loss: f32| {
            let mut rows = self.rows.iter();
            rows.find(|row| row.way == way && row.loss_factor == scaled_loss)
        };
        if let (Some(real), Some(plain), Some(scaled), Some(bf16)) = (
            row("f32", SMALL_LOSS),
            row("fp16", SMALL_LOSS),
            row("fp16, loss scaled", SMALL_LOSS),
            row("bf16", SMALL_LOSS),
        ) {
            writeln!(
                f,
                "With the small loss {:.0} % of the gradients in fp16 are 0, and {:.0} % with loss scaling; in bf16, which has the exponents\n\
                 of f32, {:.0} %. Against f32 fp16 has {:+.2} points, with loss scaling {:+.2}, bf16 {:+.2}.\n\
                 Steps that loss scaling skipped because the scale was still too large: {:.0}.\n",
                plain.zero_gradients.mean,
                scaled.zero_gradients.mean,
                bf16.zero_gradients.mean,
                plain.accuracy.mean - real.accuracy.mean,
                scaled.accuracy.mean - real.accuracy.mean,
                bf16.accuracy.mean - real.accuracy.mean,
                scaled.skipped.mean
            )?;
        }
        writeln!(
            f,
            "Kept: the activations of one batch of {} that wait for the way back, in f32 counted, in 16 bits as held. Master weights,\n\
             gradients and Adam's two moments are in f32 in all of them and take {:.0} KiB.\n",
            model::BATCH,
            self.master_bytes as f64 / 1024.0
        )?;
        writeln!(
            f,
            "That network is too small for a product to be what takes the time. Steps of larger ones, {} rows or 32 images:\n",
            width::ROWS
        )?;
        writeln!(f, "{}", width::table(&self.widths))?;
        let fast = if tinytorch_kernels::bf16_is_fast() {
            "This CPU has an instruction for products in bf16"
        } else {
            "This CPU has no instruction for products in bf16"
        };
        writeln!(
            f,
            "{}\n{fast} ({}); fp16 is converted and computed in f32, since few CPUs\n\
             multiply it into sums of f32 and no kernel here asks for that.",
            width::verdict(&self.widths),
            tinytorch_kernels::bf16_kernel_name()
        )
    }
}
