//! Losses: one number that says how wrong, averaged over the batch (or over all elements).

use ndarray::{ArrayD, IxDyn};

use crate::error::{Error, Result};
use crate::ops::activation::{log_softmax_line, sigmoid};
use crate::ops::broadcast::sum;
use crate::ops::{array_of, slice, standard};
use crate::tensor::Tensor;

fn scalar(value: f64) -> ArrayD<f32> {
    ArrayD::from_elem(IxDyn(&[]), value as f32)
}

/// The mean of squared differences; both tensors have one shape.
///
/// # Errors
///
/// [`Error::ShapeMismatch`] if they do not: broadcasting here would hide a mistake.
pub fn mse_loss(prediction: &Tensor, target: &Tensor) -> Result<Tensor> {
    prediction.check_same_shape("mse_loss", target)?;
    let mut distances = standard(&prediction.array()).into_owned();
    distances -= &target.array();
    let squares: Vec<f32> = distances.iter().map(|d| d * d).collect();
    let count = squares.len() as f64;
    let output = scalar(sum(&squares) / count);
    let wanted = [prediction.requires_grad(), target.requires_grad()];
    Ok(Tensor::recorded(
        "mse_loss",
        output,
        &[prediction, target],
        move |gradient| {
            let scale = gradient.sum() * (2.0 / count) as f32;
            let to_target = wanted[1].then(|| distances.mapv(|d| -d * scale));
            distances.mapv_inplace(|d| d * scale);
            Ok(vec![Some(distances), to_target])
        },
    ))
}

/// The mean, over the batch, of minus the logarithm of the softmax of the logit of the right class.
///
/// | argument  | shape               |
/// |-----------|---------------------|
/// | `logits`  | `[batch, classes]`  |
/// | `classes` | `batch` indices     |
///
/// ```text
/// loss = −1/batch · Σ_i log_softmax(logits[i])[classes[i]]
/// ∂loss/∂logits[i] = (softmax(logits[i]) − one_hot(classes[i])) / batch
/// ```
///
/// # Errors
///
/// [`Error::Shape`] if the logits have another shape or the batch is empty, [`Error::Argument`] if there is not one class
/// per row, [`Error::Index`] if there is no such class.
pub fn cross_entropy(logits: &Tensor, classes: &[usize]) -> Result<Tensor> {
    let operation = "cross_entropy";
    let &[batch, width] = logits.shape() else {
        let expected = "logits of shape [batch, classes]".to_owned();
        return Err(Error::Shape {
            operation,
            expected,
            got: logits.shape().to_vec(),
        });
    };
    if batch == 0 {
        let expected = "at least one row of logits".to_owned();
        return Err(Error::Shape {
            operation,
            expected,
            got: logits.shape().to_vec(),
        });
    }
    if classes.len() != batch {
        let reason = format!("{} classes for {batch} rows of logits", classes.len());
        return Err(Error::Argument { operation, reason });
    }
    if let Some(&index) = classes.iter().find(|&&class| class >= width) {
        return Err(Error::Index {
            operation,
            index,
            length: width,
        });
    }
    let mut log_probabilities = standard(&logits.array()).into_owned();
    let lines = log_probabilities
        .as_slice_mut()
        .expect("the array is in row-major order");
    lines.chunks_exact_mut(width).for_each(log_softmax_line);
    let chosen: f64 = (lines.chunks_exact(width).zip(classes))
        .map(|(line, &class)| f64::from(line[class]))
        .sum();
    let output = scalar(-chosen / batch as f64);
    let classes = classes.to_vec();
    Ok(Tensor::recorded(
        operation,
        output,
        &[logits],
        move |gradient| {
            let scale = gradient.sum() / batch as f32;
            log_probabilities.mapv_inplace(|y| y.exp() * scale);
            let lines = log_probabilities
                .as_slice_mut()
                .expect("the array is in row-major order");
            for (line, class) in lines.chunks_exact_mut(width).zip(classes) {
                line[class] -= scale;
            }
            Ok(vec![Some(log_probabilities)])
        },
    ))
}

/// The mean binary cross-entropy between `sigmoid(logits)` and targets in `0..=1`; both tensors have one shape.
///
/// ```text
/// loss = mean( max(x, 0) − x·t + ln(1 + e^−|x|) )        ∂loss/∂x = (sigmoid(x) − t) / n
/// ```
///
/// The targets are constants: no gradient flows to them.
///
/// # Errors
///
/// [`Error::ShapeMismatch`] if the shapes differ, [`Error::NotDifferentiable`] if the targets require a gradient.
pub fn bce_with_logits(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let operation = "bce_with_logits";
    logits.check_same_shape(operation, targets)?;
    if targets.requires_grad() {
        return Err(Error::NotDifferentiable {
            operation: "bce_with_logits in its targets",
        });
    }
    let (x, t) = (standard(&logits.array()), standard(&targets.array()));
    let losses: Vec<f32> = (slice(&x).iter().zip(slice(&t)))
        .map(|(&x, &t)| x.max(0.0) - x * t + (-x.abs()).exp().ln_1p())
        .collect();
    let count = losses.len() as f64;
    let output = scalar(sum(&losses) / count);
    Ok(Tensor::recorded(
        operation,
        output,
        &[logits],
        move |gradient| {
            let scale = gradient.sum() / count as f32;
            let back = slice(&x)
                .iter()
                .zip(slice(&t))
                .map(|(&x, &t)| (sigmoid(x) - t) * scale);
            Ok(vec![Some(array_of(back.collect(), x.shape()))])
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_logits_cost_the_logarithm_of_the_number_of_classes() -> Result<()> {
        let logits = Tensor::zeros(&[2, 4]).with_grad();
        let loss = cross_entropy(&logits, &[1, 3])?;
        assert_eq!(loss.item()?, 4f32.ln());
        loss.backward()?;
        // (1/4 − one_hot) / 2
        let (low, high) = (0.125, -0.375);
        let expected = [low, high, low, low, low, low, low, high];
        assert_eq!(logits.grad().expect("leaf").to_vec(), expected);
        Ok(())
    }

    #[test]
    fn squared_distances_are_averaged_over_all_elements() -> Result<()> {
        let prediction = Tensor::new(vec![1.0, 4.0], &[2, 1])?.with_grad();
        let loss = mse_loss(&prediction, &Tensor::zeros(&[2, 1]))?;
        assert_eq!(loss.item()?, 8.5);
        loss.backward()?;
        assert_eq!(prediction.grad().expect("leaf").to_vec(), [1.0, 4.0]);
        Ok(())
    }

    #[test]
    fn extreme_logits_cost_their_distance_and_do_not_overflow() -> Result<()> {
        let logits = Tensor::new(vec![1000.0, -1000.0, 0.0], &[3])?;
        let targets = Tensor::new(vec![0.0, 0.0, 1.0], &[3])?;
        let expected = (1000.0 + 0.0 + 2f32.ln()) / 3.0;
        assert_eq!(bce_with_logits(&logits, &targets)?.item()?, expected);
        Ok(())
    }

    #[test]
    fn a_class_beyond_the_logits_or_a_missing_one_is_an_error() {
        let logits = Tensor::zeros(&[2, 3]);
        let text = |classes: &[usize]| match cross_entropy(&logits, classes) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        assert_eq!(
            text(&[0, 3]),
            "index 3 in cross_entropy is out of range for 3 elements"
        );
        assert_eq!(
            text(&[0]),
            "bad argument in cross_entropy: 1 classes for 2 rows of logits"
        );
        let error = mse_loss(&logits, &Tensor::zeros(&[3])).expect_err("no broadcasting");
        assert_eq!(
            error.to_string(),
            "shape mismatch in mse_loss: [2, 3] and [3]"
        );
    }
}
