//! A training in a file: saved after an epoch, continued as if it had never stopped.
//!
//! ```text
//! tensors    model.NAME       weights and buffers of the last epoch
//!            optimizer.NAME   what the optimizer remembers
//!            best.NAME        weights and buffers of the best epoch, if early stopping watches
//! note       JSON: everything that is not a tensor (`Note` below)
//! ```
//!
//! It is a safetensors file, so weights can be taken out with any tool that reads those.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::early_stopping::EarlyStopState;
use super::error::TrainError;
use super::metrics::{EpochRecord, bits};
use super::trainer::{Snapshot, Trainer, TrainerState};
use crate::rng::RngState;
use crate::safetensors::{assign_all, check_all, read_tensors, write_tensors};
use crate::{Result, Tensor};

/// Changes when the meaning of a checkpoint changes.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Note {
    format: u32,
    steps: u64,
    #[serde(with = "bits")]
    learning_rate: f64,
    /// The generators inside the model (dropout). Shuffling and transforms have none: their draws follow
    /// from seed and epoch number.
    generators: Vec<(String, RngState)>,
    batches: Option<String>,
    early: EarlyStopState,
    hook: Option<String>,
    history: Vec<EpochRecord>,
}

impl Trainer<'_> {
    /// Saves weights, buffers, optimizer, random generators, schedule, early stopping and history in one
    /// file, atomically.
    ///
    /// # Errors
    ///
    /// Those of [`write_tensors`]; a file that was there before is then unchanged.
    pub fn save_checkpoint(&self, path: impl AsRef<Path>) -> Result<()> {
        let state = &self.state;
        let note = Note {
            format: FORMAT,
            steps: state.steps,
            learning_rate: self.optimizer.learning_rate(),
            generators: self.model.named_rng_states(),
            batches: state.batches.clone(),
            early: state.early.clone(),
            hook: self.hook.as_ref().map(|hook| hook.state()),
            history: state.history.clone(),
        };
        let mut tensors = match &state.last {
            Some(last) => prefixed("model", tensors_of(last)),
            None => prefixed("model", self.model.named_tensors()),
        };
        tensors.extend(prefixed("optimizer", self.optimizer.state()));
        if let Some(best) = &state.best {
            tensors.extend(prefixed("best", tensors_of(best)));
        }
        let path = path.as_ref();
        let note = serde_json::to_string(&note).map_err(|error| mismatch(path, error))?;
        Ok(write_tensors(path, &tensors, Some(&note))?)
    }

    /// Continues the training that a checkpoint was saved of.
    ///
    /// The trainer must be set up as that one was: the same kind of model, optimizer, hook, schedule and
    /// rules. Schedules and rules are not in the file; what is in it is checked against what is here.
    ///
    /// # Errors
    ///
    /// The errors of [`read_tensors`] for a missing or damaged file, [`TrainError::CheckpointMismatch`],
    /// [`WeightsError`](crate::safetensors::WeightsError) or the optimizer's errors if it belongs to another
    /// training. Nothing has changed then.
    pub fn load_checkpoint(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let file = read_tensors(path)?;
        let note: Note = match &file.note {
            Some(text) => serde_json::from_str(text).map_err(|error| mismatch(path, error))?,
            None => return Err(mismatch(path, "it holds weights only").into()),
        };
        if note.format != FORMAT {
            return Err(mismatch(path, format!("format {}, not {FORMAT}", note.format)).into());
        }
        let mut groups = group(path, file.tensors)?;
        let mut take = |prefix: &str| groups.remove(prefix).unwrap_or_default();
        let (model, optimizer, best) = (take("model"), take("optimizer"), take("best"));
        if let Some(other) = groups.keys().next() {
            return Err(mismatch(path, format!("unknown tensors `{other}`")).into());
        }

        // Everything that can fail without changing anything comes first.
        let targets = self.model.named_tensors();
        check_all(path, &targets, &model)?;
        if !best.is_empty() {
            check_all(path, &targets, &best)?;
        }
        let watches = self.early_stopping.is_some();
        if !best.is_empty() && !watches {
            return Err(mismatch(path, "it was made with early stopping").into());
        }
        self.check_generators(path, &note)?;
        match (&mut self.hook, &note.hook) {
            (Some(_), None) => return Err(mismatch(path, "it was made without a hook").into()),
            (None, Some(_)) => return Err(mismatch(path, "it was made with a hook").into()),
            (None, None) => self.optimizer.load_state(&named(optimizer))?,
            (Some(hook), Some(state)) => {
                let before = hook.state();
                hook.load_state(state)?;
                if let Err(error) = self.optimizer.load_state(&named(optimizer)) {
                    hook.load_state(&before)?;
                    return Err(error);
                }
            }
        }

        self.optimizer.set_learning_rate(note.learning_rate);
        assign_all(path, &targets, &model)?;
        self.model.restore_rng_states(&note.generators)?;
        let in_order = |tensors: &BTreeMap<String, Tensor>| -> Snapshot {
            let values = |name: &String| tensors[name].array();
            targets
                .iter()
                .map(|(name, _)| (name.clone(), values(name)))
                .collect()
        };
        self.state = TrainerState {
            steps: note.steps,
            history: note.history,
            early: note.early,
            best: (!best.is_empty()).then(|| in_order(&best)),
            last: None,
            batches: note.batches,
        };
        Ok(())
    }

    fn check_generators(&self, path: &Path, note: &Note) -> Result<(), TrainError> {
        let names = |states: &[(String, RngState)]| -> Vec<String> {
            states.iter().map(|(name, _)| name.clone()).collect()
        };
        let (expected, got) = (
            names(&self.model.named_rng_states()),
            names(&note.generators),
        );
        if expected == got {
            return Ok(());
        }
        let reason = format!("the model's random generators are {expected:?}, the file's {got:?}");
        Err(mismatch(path, reason))
    }
}

fn mismatch(path: &Path, reason: impl ToString) -> TrainError {
    TrainError::CheckpointMismatch {
        path: path.to_path_buf(),
        reason: reason.to_string(),
    }
}

fn prefixed(prefix: &str, tensors: Vec<(String, Tensor)>) -> Vec<(String, Tensor)> {
    let named = tensors.into_iter();
    named
        .map(|(name, tensor)| (format!("{prefix}.{name}"), tensor))
        .collect()
}

fn tensors_of(snapshot: &Snapshot) -> Vec<(String, Tensor)> {
    let values = snapshot.iter();
    values
        .map(|(name, values)| (name.clone(), Tensor::from_array(values.clone())))
        .collect()
}

fn named(tensors: BTreeMap<String, Tensor>) -> Vec<(String, Tensor)> {
    tensors.into_iter().collect()
}

/// Tensors by what stands before the first dot of their names.
fn group(
    path: &Path,
    tensors: BTreeMap<String, Tensor>,
) -> Result<BTreeMap<String, BTreeMap<String, Tensor>>, TrainError> {
    let mut groups: BTreeMap<String, BTreeMap<String, Tensor>> = BTreeMap::new();
    for (name, tensor) in tensors {
        let Some((prefix, rest)) = name.split_once('.') else {
            return Err(mismatch(path, format!("unknown tensor `{name}`")));
        };
        groups
            .entry(prefix.into())
            .or_default()
            .insert(rest.into(), tensor);
    }
    Ok(groups)
}
