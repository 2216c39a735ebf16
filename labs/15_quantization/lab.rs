//! What all experiments share: how much to do, the data, and networks that are trained once.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;
use tinytorch_core::data::{Dataset, ImageDataset, Split, ordered_split, stratified_split};
use tinytorch_core::nn::{Layer, Sequential};
use tinytorch_core::{Tensor, no_grad};
use tinytorch_labs::stopwatch::Plan;
use tinytorch_quantization::QModel;
use tinytorch_quantization::metrics::accuracy;

use crate::experiment::Result;
use crate::model;
use crate::progress::Progress;

/// Images that calibration sees. They are training images: the test set is for judging only.
pub const CALIBRATION: usize = 256;

/// How much to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effort {
    /// The least that runs everything.
    Smoke,
    /// Under a minute for all.
    Quick,
    /// As much as the questions deserve.
    Full,
}

impl Effort {
    /// One of three.
    pub fn pick<T>(self, smoke: T, quick: T, full: T) -> T {
        match self {
            Self::Smoke => smoke,
            Self::Quick => quick,
            Self::Full => full,
        }
    }
}

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How much to do.
    pub effort: Effort,
    /// Networks for each comparison.
    pub seeds: u64,
    /// Epochs per network.
    pub epochs: u64,
}

impl Settings {
    /// What was asked for; where nothing was, as much as the effort is worth.
    pub fn new(effort: Effort, seeds: Option<u64>, epochs: Option<u64>) -> Self {
        let usual = effort.pick((1, 1), (3, 6), (5, 12));
        Self {
            effort,
            seeds: seeds.unwrap_or(usual.0),
            epochs: epochs.unwrap_or(usual.1),
        }
    }

    /// How long to measure a time.
    pub fn stopwatch(&self) -> Plan {
        let (turns, milliseconds) = self.effort.pick((1, 1), (7, 5), (31, 10));
        Plan {
            turns,
            turn: Duration::from_millis(milliseconds),
        }
    }
}

/// Whose images a network is judged on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Writers {
    /// Of the writers it learned from.
    Same,
    /// Of others: harder, and more honest.
    Other,
}

impl Writers {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Same => "same writers",
            Self::Other => "other writers",
        }
    }
}

/// The lab.
pub struct Lab {
    /// What was asked for.
    pub settings: Settings,
    /// Shows that the lab is at work.
    pub progress: Progress,
    same: Split<ImageDataset>,
    other: Split<ImageDataset>,
    networks: RefCell<HashMap<(Writers, u64), Rc<Sequential>>>,
}

impl Lab {
    /// Unpacks the data.
    ///
    /// # Errors
    ///
    /// None for data that is built in.
    pub fn new(settings: Settings, progress: Progress) -> Result<Self> {
        let few = |mut split: Split<ImageDataset>| -> Result<_> {
            if settings.effort == Effort::Smoke {
                split.train = split.train.select(&(0..128).collect::<Vec<_>>())?;
            }
            Ok(split)
        };
        Ok(Self {
            settings,
            progress,
            same: few(stratified_split()?)?,
            other: few(ordered_split()?)?,
            networks: RefCell::default(),
        })
    }

    /// Images to learn from and images to be judged on.
    pub fn digits(&self, writers: Writers) -> &Split<ImageDataset> {
        match writers {
            Writers::Same => &self.same,
            Writers::Other => &self.other,
        }
    }

    /// The CNN of the lab, trained from `seed`: once, however many ask.
    ///
    /// # Errors
    ///
    /// Those of the training.
    pub fn network(&self, writers: Writers, seed: u64) -> Result<Rc<Sequential>> {
        let key = (writers, seed);
        if let Some(network) = self.networks.borrow().get(&key) {
            return Ok(network.clone());
        }
        let words = writers.words();
        self.progress.say(&format!(
            "train network {seed}, to be tested on the {words}"
        ));
        let data = &self.digits(writers).train;
        let after_epoch = |epoch: &_| self.progress.epoch(epoch);
        let network = model::train(data, seed, self.settings.epochs, after_epoch)?;
        let network = Rc::new(network);
        self.networks.borrow_mut().insert(key, network.clone());
        Ok(network)
    }

    /// Batches of the first training images.
    ///
    /// # Errors
    ///
    /// None for data that is built in.
    pub fn calibration(&self, writers: Writers, images: usize) -> Result<Vec<Tensor>> {
        let train = &self.digits(writers).train;
        let indices: Vec<usize> = (0..images.min(train.len())).collect();
        let mut batches = Vec::new();
        for part in indices.chunks(64) {
            batches.push(train.batch(part)?.inputs);
        }
        Ok(batches)
    }

    /// The images to be judged on, all at once.
    ///
    /// # Errors
    ///
    /// None for data that is built in.
    pub fn test(&self, writers: Writers) -> Result<Test> {
        let data = &self.digits(writers).test;
        let all = data.all()?;
        Ok(Test {
            labels: all.targets.classes()?.to_vec(),
            classes: data.classes(),
            inputs: all.inputs,
        })
    }
}

/// Images to be judged on.
pub struct Test {
    /// `[images, 1, 8, 8]`.
    pub inputs: Tensor,
    /// The class of each.
    pub labels: Vec<usize>,
    /// How many classes there are.
    pub classes: usize,
}

impl Test {
    /// Percent of the images that these scores get right.
    pub fn accuracy(&self, scores: &Tensor) -> f64 {
        100.0 * accuracy(&scores.to_vec(), self.classes, &self.labels)
    }

    /// What a model in `f32` makes of the images.
    ///
    /// # Errors
    ///
    /// Those of its layers.
    pub fn scores(&self, model: &dyn Layer) -> Result<Tensor> {
        Ok(no_grad(|| model.forward(&self.inputs))?)
    }

    /// Percent of the images that an integer model gets right.
    ///
    /// # Errors
    ///
    /// Those of its layers.
    pub fn judge(&self, model: &QModel) -> Result<f64> {
        Ok(self.accuracy(&model.forward(&self.inputs)?))
    }
}
