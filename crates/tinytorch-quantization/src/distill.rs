//! Distillation: learn from what another model answers, not from the right class alone.
//!
//! In: batches with classes, and a trained model, the teacher. Out: the same batches with the teacher's logits beside the
//! classes, and an objective that reads both. A model with few bits has the `f32` model it came from as its best teacher: how
//! sure that one is of every class says more than one right answer.
//!
//! Sources: Hinton, Vinyals, Dean 2015, arXiv 1503.02531, section 2; for low precision Mishra and Marr 2018, arXiv 1711.05852.

use ndarray::{Array2, ArrayViewD, Axis, Ix2, concatenate};

use crate::framework::data::{Batch, BatchSource, Targets};
use crate::framework::loss::cross_entropy;
use crate::framework::nn::Layer;
use crate::framework::train::{CrossEntropy, Objective};
use crate::framework::{Error, Result, Tensor, no_grad};

/// Batches whose targets also hold what the teacher answers: `[batch, 2 · classes]`, first 1 for the right class and 0 for the
/// others, then the teacher's logits. For [`Distillation`].
pub struct Distilled<'a> {
    batches: &'a dyn BatchSource,
    teacher: &'a dyn Layer,
}

impl<'a> Distilled<'a> {
    /// The batches as `teacher` sees them. It is put into evaluation mode; its logits are `[batch, classes]`.
    #[must_use]
    pub fn new(batches: &'a dyn BatchSource, teacher: &'a dyn Layer) -> Self {
        teacher.set_training(false);
        Self { batches, teacher }
    }

    fn taught(&self, batch: Batch) -> Result<Batch> {
        let logits = no_grad(|| self.teacher.forward(&batch.inputs))?;
        let (rows, classes) = rows_and_classes(&logits)?;
        let labels = batch.targets.classes()?;
        let mut right = Array2::<f32>::zeros((rows, classes));
        for (row, &class) in labels.iter().enumerate() {
            let place = right.get_mut((row, class));
            *place.ok_or_else(|| bad(format!("class {class} of {classes}, example {row}")))? = 1.0;
        }
        let logits = matrix(logits.array().view())?.to_owned();
        let both = concatenate(Axis(1), &[right.view(), logits.view()])
            .map_err(|error| bad(error.to_string()))?;
        Ok(Batch {
            inputs: batch.inputs,
            targets: Targets::Values(Tensor::from_array(both.into_dyn())),
        })
    }
}

impl BatchSource for Distilled<'_> {
    fn batch_count(&self) -> usize {
        self.batches.batch_count()
    }

    fn epoch_batches(&self, epoch: u64) -> Box<dyn Iterator<Item = Result<Batch>> + '_> {
        let batches = self.batches.epoch_batches(epoch);
        Box::new(batches.map(|batch| self.taught(batch?)))
    }

    fn description(&self) -> String {
        format!("{}, taught", self.batches.description())
    }
}

/// The loss for batches of [`Distilled`].
///
/// ```text
/// (1 − share) · cross entropy(y, class)  +  share · T² · KL(softmax(teacher / T) ‖ softmax(y / T))
/// ```
///
/// `T²` keeps the gradients of the second part as large as those of the first when `T` changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distillation {
    /// How much the teacher counts, from 0 to 1.
    pub share: f32,
    /// Above 0. Higher temperatures show more of the classes that are not the likeliest.
    pub temperature: f32,
}

impl Default for Distillation {
    /// Half and half, at temperature 2.
    fn default() -> Self {
        Self {
            share: 0.5,
            temperature: 2.0,
        }
    }
}

impl Objective for Distillation {
    fn loss(&self, outputs: &Tensor, targets: &Targets) -> Result<Tensor> {
        let usable = (0.0..=1.0).contains(&self.share)
            && self.temperature > 0.0
            && self.temperature.is_finite();
        if !usable {
            return Err(bad(format!(
                "{self:?}: a share is in 0..=1, a temperature above 0"
            )));
        }
        let (classes, logits) = parted(outputs, targets)?;
        let hard = cross_entropy(outputs, &classes)?;
        let soften = 1.0 / self.temperature;
        let teacher = (&logits * soften).log_softmax(1)?;
        let student = (outputs * soften).log_softmax(1)?;
        let rows = classes.len().max(1) as f32;
        let weight = self.share * self.temperature * self.temperature / rows;
        let soft = &teacher.exp().try_mul(&teacher.try_sub(&student)?)?.sum() * weight;
        (&hard * (1.0 - self.share)).try_add(&soft)
    }

    fn correct(&self, outputs: &Tensor, targets: &Targets) -> Result<Option<usize>> {
        let (classes, _) = parted(outputs, targets)?;
        CrossEntropy.correct(outputs, &Targets::Classes(classes))
    }
}

/// The right classes, and the teacher's logits.
fn parted(outputs: &Tensor, targets: &Targets) -> Result<(Vec<usize>, Tensor)> {
    let targets = targets.values()?;
    let (rows, classes) = rows_and_classes(outputs)?;
    if targets.shape() != [rows, 2 * classes] {
        return Err(Error::Shape {
            operation: "distillation",
            expected: format!("targets of `Distilled`, [{rows}, {}]", 2 * classes),
            got: targets.shape().to_vec(),
        });
    }
    let array = targets.array();
    let right = matrix(array.view())?;
    let class = |row: usize| (0..classes).find(|&class| right[[row, class]] > 0.5);
    let found = (0..rows)
        .map(|row| class(row).ok_or_else(|| bad(format!("no class is marked in example {row}"))));
    let logits = targets.slice_axis(1, classes..2 * classes)?;
    Ok((found.collect::<Result<_>>()?, logits.detach()))
}

fn rows_and_classes(logits: &Tensor) -> Result<(usize, usize)> {
    match *logits.shape() {
        [rows, classes] => Ok((rows, classes)),
        ref got => Err(Error::Shape {
            operation: "distillation",
            expected: "logits [batch, classes]".to_owned(),
            got: got.to_vec(),
        }),
    }
}

fn matrix(array: ArrayViewD<'_, f32>) -> Result<ndarray::ArrayView2<'_, f32>> {
    array
        .into_dimensionality::<Ix2>()
        .map_err(|error| bad(error.to_string()))
}

fn bad(reason: String) -> Error {
    Error::Argument {
        operation: "distillation",
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framework::data::{DataLoader, TensorDataset};
    use crate::framework::nn::Linear;

    fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
        Tensor::new(values.to_vec(), shape).expect("the shape fits")
    }

    #[test]
    fn targets_hold_classes_and_what_the_teacher_answers() {
        let teacher = Linear::from_parts(tensor(&[1.0, -1.0], &[2, 1]), None).expect("fits");
        let x = tensor(&[3.0, 0.5], &[2, 1]);
        let data = TensorDataset::new(&x, Targets::Classes(vec![1, 0])).expect("fits");
        let loader = DataLoader::new(data, 2).expect("a batch size");
        let taught = Distilled::new(&loader, &teacher);
        let batch = taught.epoch_batches(0).next().expect("one").expect("good");
        let targets = batch.targets.values().expect("values").to_vec();
        assert_eq!(targets, [0.0, 1.0, 3.0, -3.0, 1.0, 0.0, 0.5, -0.5]);
    }

    #[test]
    fn with_equal_logits_only_the_classes_are_left() {
        let y = tensor(&[0.0, 2.0], &[1, 2]);
        let targets = Targets::Values(tensor(&[1.0, 0.0, 0.0, 2.0], &[1, 4]));
        let loss = |share| {
            let objective = Distillation {
                share,
                temperature: 3.0,
            };
            objective
                .loss(&y, &targets)
                .and_then(|loss| loss.item())
                .expect("fits")
        };
        let hard = (1.0 + 2.0_f32.exp()).ln();
        // exp, ln and a division, each within an ulp or two of a value below 8.
        assert!((loss(0.0) - hard).abs() <= 8.0 * f32::EPSILON);
        assert!((loss(0.25) - 0.75 * hard).abs() <= 8.0 * f32::EPSILON);
        assert_eq!(loss(1.0), 0.0);
        assert_eq!(
            Distillation::default().correct(&y, &targets).expect("fits"),
            Some(0)
        );
    }

    #[test]
    fn a_student_that_differs_pays_temperature_squared_times_the_divergence() {
        let y = tensor(&[0.0, 0.0], &[1, 2]);
        let (t, temperature) = (4.0_f32, 2.0_f32);
        let targets = Targets::Values(tensor(&[1.0, 0.0, t, 0.0], &[1, 4]));
        let objective = Distillation {
            share: 1.0,
            temperature,
        };
        let got = objective
            .loss(&y, &targets)
            .and_then(|loss| loss.item())
            .expect("fits");
        let p = 1.0 / (1.0 + (-t / temperature).exp());
        let divergence = p * (2.0 * p).ln() + (1.0 - p) * (2.0 * (1.0 - p)).ln();
        // A dozen operations on values up to 4.
        assert!((got - temperature * temperature * divergence).abs() <= 48.0 * f32::EPSILON);
    }
}
