//! Batch normalization: three steps in training mode, then one in evaluation mode.

use tinytorch_core::Tensor;
use tinytorch_core::nn::{BatchNorm2d, Layer};

use crate::close::assert_within;
use crate::reader::{Case, Golden};

const EPSILON: f64 = f32::EPSILON as f64;

/// Mean and variance of one channel, and how wrong a computed one may be.
struct Statistics {
    mean: f64,
    variance: f64,
    mean_error: f64,
    /// Relative.
    variance_error: f64,
}

/// Of the `m` values of one channel in one batch.
///
/// The mean is a sum of `m` values of at most `max|x|`. The variance is a sum of squares of differences from it; an
/// error of the mean enters only squared, since the differences sum to zero. (The textbook short cut E[x²] − E[x]² would
/// be wrong by `m·ε·max|x|²` and fails on the case that is far from zero.)
fn of_batch(x: &[f64]) -> Statistics {
    let m = x.len() as f64;
    let mean = x.iter().sum::<f64>() / m;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / m;
    let largest = x.iter().fold(0.0, |max: f64, x| max.max(x.abs()));
    Statistics {
        mean,
        variance,
        mean_error: m * EPSILON * largest,
        variance_error: (m + 2.0) * EPSILON,
    }
}

/// Bounds for one channel; the vectors have one value per element.
struct Bounds {
    output: Vec<f64>,
    d_x: Vec<f64>,
    d_weight: f64,
    d_bias: f64,
}

/// With s = √(variance + eps), x̂ = (x − mean) / s, output = w·x̂ + b.
fn bounds(
    x: &[f64],
    upstream: &[f64],
    statistics: &Statistics,
    (weight, bias): (f64, f64),
    eps: f64,
    training: bool,
) -> Bounds {
    let m = x.len() as f64;
    let s = (statistics.variance + eps).sqrt();
    let normal: Vec<f64> = x.iter().map(|x| (x - statistics.mean) / s).collect();
    // The difference, the root and the quotient are rounded; the root halves the relative error of the variance.
    let relative = statistics.variance_error / 2.0 + 3.0 * EPSILON;
    let normal_error = |normal: f64| statistics.mean_error / s + normal.abs() * relative;
    let worst = normal
        .iter()
        .fold(0.0, |max: f64, &n| max.max(normal_error(n)));

    let output = normal.iter().map(|&n| {
        weight.abs() * normal_error(n) + 2.0 * EPSILON * ((weight * n).abs() + bias.abs())
    });
    let sum_g: f64 = upstream.iter().map(|g| g.abs()).sum();
    let sum_gn: f64 = upstream
        .iter()
        .zip(&normal)
        .map(|(g, n)| (g * n).abs())
        .sum();
    let d_x = upstream.iter().zip(&normal).map(|(g, n)| {
        if training {
            // w/s · (g − mean(g) − x̂·mean(g·x̂)): two sums of `m` terms, and the error of x̂ in both places it appears.
            let sizes = g.abs() + sum_g / m + n.abs() * sum_gn / m;
            let of_normal = worst * (sum_gn / m + n.abs() * sum_g / m);
            weight.abs() / s * (sizes * (m * EPSILON + relative + 4.0 * EPSILON) + of_normal)
        } else {
            (weight / s * g).abs() * (relative + 2.0 * EPSILON)
        }
    });
    Bounds {
        output: output.collect(),
        d_x: d_x.collect(),
        d_weight: m * EPSILON * sum_gn + worst * sum_g,
        d_bias: m * EPSILON * sum_g,
    }
}

/// The values of `channel` in an `[n, c, h, w]` tensor, in order.
fn channel_of(tensor: &Tensor, channel: usize) -> Vec<f64> {
    let array = tensor.array();
    array
        .index_axis(ndarray::Axis(1), channel)
        .iter()
        .map(|&value| f64::from(value))
        .collect()
}

/// Puts the values of one channel back to where [`channel_of`] found them.
fn put_channel(into: &mut ndarray::ArrayD<f32>, channel: usize, values: &[f64]) {
    let mut view = into.index_axis_mut(ndarray::Axis(1), channel);
    view.iter_mut()
        .zip(values)
        .for_each(|(slot, &value)| *slot = value as f32);
}

fn check_step(
    case: &Case,
    layer: &BatchNorm2d,
    step: usize,
    training: bool,
    running: &mut [Statistics],
) {
    let named = |name: &str| case.tensor(&format!("{step}/{name}"));
    let (momentum, eps) = (
        case.number("momentum").expect("a number"),
        case.number("eps").expect("a number"),
    );
    let x = named("x").clone().with_grad();
    layer.weight().zero_grad();
    layer.bias().zero_grad();
    let output = layer.forward(&x).expect("shapes that fit");
    output
        .backward_from(named("upstream"))
        .expect("batch norm is differentiable");

    let (mut output_bounds, mut x_bounds) = (x.array().into_owned(), x.array().into_owned());
    let mut per_channel: [Vec<f32>; 4] = Default::default();
    for (channel, running) in running.iter_mut().enumerate() {
        let values = channel_of(&x, channel);
        let batch = of_batch(&values);
        if training {
            // (1 − momentum)·old + momentum·new: 1 − momentum, two products and their sum are rounded.
            let m = values.len() as f64;
            let unbiased = batch.variance * m / (m - 1.0);
            let kept = 1.0 - momentum;
            let absolute = kept * running.variance_error * running.variance
                + momentum * unbiased * (batch.variance_error + 2.0 * EPSILON)
                + 3.0 * EPSILON * (running.variance + unbiased);
            running.mean_error = kept * running.mean_error
                + momentum * batch.mean_error
                + 3.0 * EPSILON * (running.mean.abs() + batch.mean.abs());
            running.mean = kept * running.mean + momentum * batch.mean;
            running.variance = kept * running.variance + momentum * unbiased;
            running.variance_error = absolute / running.variance;
        }
        let affine = ["weight", "bias"].map(|name| f64::from(case.tensor(name).to_vec()[channel]));
        let statistics = if training { &batch } else { &*running };
        let bounds = bounds(
            &values,
            &channel_of(named("upstream"), channel),
            statistics,
            affine.into(),
            eps,
            training,
        );
        put_channel(&mut output_bounds, channel, &bounds.output);
        put_channel(&mut x_bounds, channel, &bounds.d_x);
        let variance_error = running.variance_error * running.variance;
        let found = [
            bounds.d_weight,
            bounds.d_bias,
            running.mean_error,
            variance_error,
        ];
        per_channel
            .iter_mut()
            .zip(found)
            .for_each(|(list, bound)| list.push(bound as f32));
    }

    let row_major = |bounds: ndarray::ArrayD<f32>| bounds.iter().copied().collect::<Vec<f32>>();
    let grad = |leaf: &Tensor| leaf.grad().expect("a leaf of the tape");
    let [d_weight, d_bias, mean, variance] = per_channel;
    for (name, got, bound) in [
        ("output", output.clone(), row_major(output_bounds)),
        ("d_x", grad(&x), row_major(x_bounds)),
        ("d_weight", grad(layer.weight()), d_weight),
        ("d_bias", grad(layer.bias()), d_bias),
        ("running_mean", layer.running_mean().clone(), mean),
        ("running_var", layer.running_var().clone(), variance),
    ] {
        assert_within(
            &format!("{}, step {step}, {name}", case.name),
            &got,
            named(name),
            &bound,
        );
    }
}

#[test]
fn batch_norm_trains_and_evaluates_as_in_pytorch() {
    for case in Golden::open("batch_norm").cases {
        let channels = case.tensor("weight").len();
        let steps = case.count("steps");
        let number = |key| case.number(key).expect("a number") as f32;
        let layer = BatchNorm2d::with(channels, number("eps"), number("momentum"));
        layer
            .weight()
            .assign(case.tensor("weight"))
            .expect("one value per channel");
        layer
            .bias()
            .assign(case.tensor("bias"))
            .expect("one value per channel");
        let start = || Statistics {
            mean: 0.0,
            variance: 1.0,
            mean_error: 0.0,
            variance_error: 0.0,
        };
        let mut running: Vec<Statistics> = (0..channels).map(|_| start()).collect();
        for step in 0..=steps {
            let training = step < steps;
            layer.set_training(training);
            check_step(&case, &layer, step, training, &mut running);
        }
    }
}
