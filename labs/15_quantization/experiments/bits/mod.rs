//! Accuracy against the bits of a weight: by scheme, and by what is done about the loss.

mod targets;

use std::fmt;
use std::rc::Rc;

use serde::Serialize;
use tinytorch_core::Tensor;
use tinytorch_core::nn::Sequential;
use tinytorch_labs::summary::Summary;
use tinytorch_labs::table::Table;
use tinytorch_quantization::repair::learn_codes;
use tinytorch_quantization::{
    Granularity, Precision, PrepareOptions, Prepared, QTensor, QatOptions, QatRecipe,
    RepairOptions, RoundingOptions, Scheme, calibrate, convert, prepare, repair, train_qat,
};

use crate::experiment::{Experiment, Finding, Result};
use crate::lab::{CALIBRATION, Lab, Test, Writers};
use crate::model;

/// See the file.
pub struct Bits;

/// Columns of a row that share a scale, where groups do.
const GROUP: usize = 32;

/// What stands in a cell that this run left out.
const NOT_RUN: &str = "not run";

/// What is done about the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Method {
    /// Nothing: post-training quantization, every weight to its nearest code.
    Rounded,
    /// Post-training quantization, repaired: equalization, bias correction, learned rounding.
    Repaired,
    /// Quantization-aware training.
    Trained,
}

/// Accuracies of one way to write weights.
#[derive(Debug, Serialize)]
struct Cell {
    tested_on: Writers,
    bits: u32,
    scheme: &'static str,
    method: Method,
    /// Percent, over the networks.
    accuracy: Summary,
    /// In percentage points against f32, network by network.
    change: Summary,
}

#[derive(Debug, Serialize)]
struct Report {
    /// Percent, over the networks, for each kind of test.
    f32: Vec<(Writers, Summary)>,
    cells: Vec<Cell>,
    /// What is promised, and whether it holds.
    targets: Vec<targets::Target>,
    epochs_of_training_aware: u64,
    calibration_images: usize,
}

const SCHEMES: [(&str, Granularity); 3] = [
    ("tensor", Granularity::PerTensor),
    ("channel", Granularity::PerChannel { axis: 0 }),
    ("group", Granularity::PerGroup { size: GROUP }),
];

impl Experiment for Bits {
    fn name(&self) -> &'static str {
        "bits"
    }

    fn question(&self) -> &'static str {
        "How few bits does a weight need, and what helps when they are too few?"
    }

    fn run(&self, lab: &Lab) -> Result<Box<dyn Finding>> {
        let effort = lab.settings.effort;
        let all_bits: &[u32] = effort.pick(&[3], &[8, 4, 3, 2], &[8, 7, 6, 5, 4, 3, 2]);
        let trained_bits: &[u32] = effort.pick(&[3], &[2], all_bits);
        let training_epochs = effort.pick(1, 3, lab.settings.epochs);
        let mut report = Report {
            f32: Vec::new(),
            cells: Vec::new(),
            targets: Vec::new(),
            epochs_of_training_aware: training_epochs,
            calibration_images: CALIBRATION,
        };
        // In a hurry, the easier test alone.
        let tests = [Writers::Same, Writers::Other];
        for &writers in &tests[..effort.pick(1, 1, 2)] {
            let test = lab.test(writers)?;
            let batches = lab.calibration(writers, CALIBRATION)?;
            let mut networks = Vec::new();
            let mut real = Vec::new();
            for seed in 1..=lab.settings.seeds {
                let network = lab.network(writers, seed)?;
                real.push(test.accuracy(&test.scores(&*network)?));
                networks.push((seed, network));
            }
            report.f32.push((writers, Summary::of(&real)));
            for &bits in all_bits {
                for (scheme, granularity) in SCHEMES {
                    for method in [Method::Rounded, Method::Repaired, Method::Trained] {
                        let training = method == Method::Trained;
                        let not_this_width = training && !trained_bits.contains(&bits);
                        let too_long =
                            training && scheme == "tensor" && effort != crate::lab::Effort::Full;
                        // On the harder test train only what is promised.
                        let promised = scheme == "channel" && [2, 4].contains(&bits);
                        let not_here = training && writers == Writers::Other && !promised;
                        if not_this_width || too_long || not_here {
                            continue;
                        }
                        lab.progress.say(&format!(
                            "{bits} bits per {scheme}, {method}, tested on the {}",
                            writers.words()
                        ));
                        let weights = Scheme {
                            granularity,
                            ..Scheme::weights(bits)
                        };
                        let mut accuracies = Vec::new();
                        for (seed, network) in &networks {
                            lab.progress.note(&format!(
                                "{bits} bits per {scheme}, {method}, network {seed}"
                            ));
                            let way = Way {
                                lab,
                                writers,
                                network,
                                test: &test,
                                bits,
                                weights,
                            };
                            accuracies.push(match method {
                                Method::Trained => way.trained(*seed, training_epochs)?,
                                _ => way.after_training(&batches, method == Method::Repaired)?,
                            });
                        }
                        let changes: Vec<f64> =
                            accuracies.iter().zip(&real).map(|(a, r)| a - r).collect();
                        report.cells.push(Cell {
                            tested_on: writers,
                            bits,
                            scheme,
                            method,
                            accuracy: Summary::of(&accuracies),
                            change: Summary::of(&changes),
                        });
                    }
                }
            }
        }
        report.targets = targets::judge(&report);
        Ok(Box::new(report))
    }
}

/// One way to write the weights of one network.
struct Way<'a> {
    lab: &'a Lab,
    writers: Writers,
    network: &'a Rc<Sequential>,
    test: &'a Test,
    bits: u32,
    weights: Scheme,
}

impl Way<'_> {
    fn options(&self) -> PrepareOptions {
        PrepareOptions {
            weights: self.weights,
            ..PrepareOptions::default()
        }
    }

    fn after_training(&self, batches: &[Tensor], repaired: bool) -> Result<f64> {
        let mut prepared = prepare(self.network, &self.options())?;
        if let Granularity::PerGroup { .. } = self.weights.granularity {
            return self.weight_only(prepared, batches, repaired);
        }
        calibrate(&mut prepared, batches.to_vec())?;
        if repaired {
            repair(&mut prepared, batches, &RepairOptions::default())?;
        }
        self.test.judge(&convert(&prepared)?)
    }

    /// Weights are stored as codes and read back as real numbers, with which everything is computed: how groups are used.
    fn weight_only(
        &self,
        mut prepared: Prepared,
        batches: &[Tensor],
        repaired: bool,
    ) -> Result<f64> {
        let mut inputs = batches.to_vec();
        for stage in prepared.stages_mut() {
            let next: Vec<Tensor> = inputs
                .iter()
                .map(|x| stage.forward(x))
                .collect::<std::result::Result<_, _>>()?;
            if let Some(folded) = stage.folded()? {
                let codes = if repaired {
                    learn_codes(&folded, &inputs, RoundingOptions::default())?
                } else {
                    QTensor::quantize(folded.weight.view(), folded.scheme)?
                };
                stage.set_folded(codes.dequantize(), folded.bias)?;
            }
            inputs = next;
        }
        Ok(self.test.accuracy(&prepared.forward(&self.test.inputs)?))
    }

    /// A group's scale cannot be taken out of an integer sum, so that layers with groups train as what they will be: codes
    /// for the weights alone. Their steps follow the weights; those of other layers are learned.
    fn trained(&self, seed: u64, epochs: u64) -> Result<f64> {
        let bits = self.bits;
        let mut prepare = self.options();
        if let Granularity::PerGroup { size } = self.weights.granularity {
            let group = Some(size);
            prepare = PrepareOptions {
                precision: Precision::WeightOnly { bits, group },
                ..PrepareOptions::default()
            };
        }
        let recipe = QatRecipe {
            qat: QatOptions {
                prepare,
                ..QatOptions::learned(bits)
            },
            epochs,
            ..QatRecipe::new(bits)
        };
        let data = model::loader(&self.lab.digits(self.writers).train, seed)?;
        let progress = &self.lab.progress;
        let aware = train_qat(self.network, &data, &recipe, |epoch| progress.epoch(epoch))?.model;
        self.test.judge(&aware.convert()?)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rounded => "rounded",
            Self::Repaired => "repaired",
            Self::Trained => "training-aware",
        })
    }
}

impl Report {
    fn table(&self, writers: Writers) -> Table {
        let cells = || self.cells.iter().filter(|cell| cell.tested_on == writers);
        let mut columns: Vec<(&str, Method)> = Vec::new();
        for cell in cells() {
            if !columns.contains(&(cell.scheme, cell.method)) {
                columns.push((cell.scheme, cell.method));
            }
        }
        columns.sort_by_key(|(scheme, method)| {
            (*method as u8, SCHEMES.iter().position(|s| s.0 == *scheme))
        });
        let header = columns.iter().map(|(scheme, method)| match *scheme {
            "group" => format!("{method}, group*"),
            scheme => format!("{method}, {scheme}"),
        });
        let mut table = Table::new(std::iter::once("bits".to_owned()).chain(header));
        let mut all_bits: Vec<u32> = cells().map(|cell| cell.bits).collect();
        all_bits.dedup();
        for bits in all_bits {
            let row = columns.iter().map(|(scheme, method)| {
                let found =
                    cells().find(|c| (c.bits, c.scheme, c.method) == (bits, *scheme, *method));
                found.map_or_else(|| NOT_RUN.to_owned(), |c| format!("{:.2}", c.accuracy))
            });
            table.row(std::iter::once(bits.to_string()).chain(row));
        }
        table
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (writers, real) in &self.f32 {
            writeln!(
                f,
                "Accuracy in %, {}, mean ± standard deviation over {} networks. In f32: {:.2}.\n",
                writers.words(),
                real.count,
                real
            )?;
            writeln!(f, "{}", self.table(*writers))?;
        }
        writeln!(
            f,
            "Promised and measured, mean over the networks ± its standard error:\n"
        )?;
        writeln!(f, "{}", targets::table(&self.targets))?;
        writeln!(
            f,
            "Rounded: every weight to its nearest code. Repaired: with {} images, no labels, no training. Training-aware: {} more\n\
             epochs with learned steps, the network as it was for a teacher. Activations have 8 bits.\n\
             * {GROUP} weights of a row share a scale, and activations stay real: the weights alone are codes, so that these columns\n\
             have one source of errors less than the others. Trained in groups, steps follow the weights and are not learned.\n\
             {NOT_RUN}: every training takes its time, so this run did without; without --quick more widths are trained, and per tensor.",
            self.calibration_images, self.epochs_of_training_aware
        )?;
        writeln!(
            f,
            "Published, on ImageNet, 4-bit weights per channel (Krishnamoorthi 2018, arXiv 1806.08342): ResNet-50 75.2 % in f32,\n\
             54 % rounded, 73.2 % training-aware; MobileNet-v2 71.9, 0.1, 62. With 4 bits, nearest against learned rounding (Nagel\n\
             et al. 2020, AdaRound, arXiv 2004.10568): ResNet-50 35.60 and 75.23 %."
        )
    }
}
