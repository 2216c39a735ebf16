//! Activations and losses: functions of single values or single rows.

use tinytorch_core::{Tensor, loss};

use crate::close::assert_within;
use crate::reader::{Case, Golden};

const EPSILON: f64 = f32::EPSILON as f64;
/// What may be lost where results underflow.
const TINY: f64 = f32::MIN_POSITIVE as f64;

fn apply(kind: &str, x: &Tensor) -> Tensor {
    match kind {
        "relu" => x.relu(),
        "sigmoid" => x.sigmoid(),
        "tanh" => x.tanh(),
        "gelu" => x.gelu(),
        "softmax" => x.softmax(1).expect("two axes"),
        "log_softmax" => x.log_softmax(1).expect("two axes"),
        other => panic!("unknown activation {other}"),
    }
}

/// Bounds for output and gradient of a function of one value, from `(x, y, upstream)`.
///
/// `exp`, `tanh` and the like are taken to be within 2 ulp; sums and products add half an ulp each.
fn elementwise_bounds(kind: &str, x: f64, y: f64, upstream: f64) -> (f64, f64) {
    let (output, gradient) = match kind {
        "relu" => (0.0, 0.0),
        // 1 / (1 + exp(-x)): relative, since the sum of positive numbers cannot cancel. Its gradient y(1 − y) inherits
        // the absolute error of y.
        "sigmoid" => (4.0 * y.abs(), 8.0 * y.abs()),
        "tanh" => (4.0 * y.abs(), 8.0),
        // x·Φ(x): the tail 1 + erf cancels, so the bound is relative to x, not to y. The gradient Φ(x) + x·φ(x) likewise.
        "gelu" => (8.0 * x.abs(), 8.0 * (1.0 + x.abs())),
        other => panic!("unknown activation {other}"),
    };
    (
        output * EPSILON + TINY,
        gradient * EPSILON * upstream.abs() + TINY,
    )
}

/// Bounds for a row of (log-)softmax, from its logarithms `log_p` and the upstream gradient.
///
/// With `c` values in the row, the relative error of p = exp(x − max) / Σ is r = (|ln p| + c + 4)·ε: the rounding of
/// x − max counts in full as an absolute error of the exponent.
fn row_bounds(kind: &str, log_p: &[f64], upstream: &[f64]) -> Vec<(f64, f64)> {
    let c = log_p.len() as f64;
    let total: f64 = upstream.iter().map(|g| g.abs()).sum();
    let bounds = log_p.iter().zip(upstream).map(|(&log_p, &g)| {
        let (p, relative) = (log_p.exp(), log_p.abs() + c + 4.0);
        match kind {
            "softmax" => (
                p * relative,
                p * (relative * (g.abs() + total) + (2.0 * c + c.ln()) * total),
            ),
            // x − max and ln Σ are rounded, then their difference.
            "log_softmax" => (
                2.0 * log_p.abs() + c + 4.0,
                2.0 * g.abs() + p * total * (relative + c),
            ),
            other => panic!("unknown activation {other}"),
        }
    });
    bounds
        .map(|(output, gradient)| (output * EPSILON + TINY, gradient * EPSILON + TINY))
        .collect()
}

fn bounds_of(kind: &str, case: &Case) -> Vec<(f64, f64)> {
    let [x, y, upstream] = ["x", "output", "upstream"].map(|name| doubles(case.tensor(name)));
    if !kind.ends_with("softmax") {
        let triples = x.iter().zip(&y).zip(&upstream);
        return triples
            .map(|((&x, &y), &g)| elementwise_bounds(kind, x, y, g))
            .collect();
    }
    let columns = case.tensor("x").shape()[1];
    let rows = x.chunks(columns).zip(upstream.chunks(columns));
    rows.flat_map(|(x, upstream)| row_bounds(kind, &log_softmax(x), upstream))
        .collect()
}

#[test]
fn activations_and_their_gradients_are_those_of_pytorch() {
    for case in Golden::open("activations").cases {
        let kind = case.text("kind");
        let x = case.leaf("x");
        let output = apply(kind, &x);
        output
            .backward_from(case.tensor("upstream"))
            .expect("every activation is differentiable");
        let (outputs, gradients): (Vec<_>, Vec<_>) = bounds_of(kind, &case)
            .into_iter()
            .map(|(o, g)| (o as f32, g as f32))
            .unzip();
        assert_within(
            &format!("{}, output", case.name),
            &output,
            case.tensor("output"),
            &outputs,
        );
        let gradient = x.grad().expect("a leaf");
        assert_within(
            &format!("{}, d_x", case.name),
            &gradient,
            case.tensor("d_x"),
            &gradients,
        );
    }
}

#[test]
fn losses_and_their_gradients_are_those_of_pytorch() {
    for case in Golden::open("losses").cases {
        let x = case.leaf("x");
        let logits = doubles(&x);
        let n = logits.len() as f64;
        let (value, loss_bound, gradient_bounds) = match case.text("kind") {
            "cross_entropy" => {
                let targets = case.counts("targets");
                let (rows, c) = (targets.len() as f64, n / targets.len() as f64);
                // Each row's −ln p as in `row_bounds`; then `rows` roundings of their mean.
                let log_p: Vec<Vec<f64>> = logits.chunks(c as usize).map(log_softmax).collect();
                let of_rows = log_p
                    .iter()
                    .zip(&targets)
                    .map(|(row, &t)| (2.0 + rows) * row[t].abs() + c + 4.0);
                // (p − [target]) / rows: p within p·(|ln p| + c + 4)·ε, the difference rounded, the quotient rounded.
                let gradients = log_p
                    .iter()
                    .flatten()
                    .map(|l| (l.exp() * (l.abs() + c + 4.0) + 2.0) / rows)
                    .collect();
                (
                    loss::cross_entropy(&x, &targets),
                    of_rows.sum::<f64>() / rows,
                    gradients,
                )
            }
            "mse" => {
                let target = doubles(case.tensor("target"));
                let differences: Vec<f64> =
                    logits.iter().zip(&target).map(|(x, t)| x - t).collect();
                let mean = differences.iter().map(|d| d * d).sum::<f64>() / n;
                let gradients = differences
                    .iter()
                    .map(|d| 4.0 * 2.0 * d.abs() / n)
                    .collect();
                (
                    loss::mse_loss(&x, case.tensor("target")),
                    (n + 4.0) * mean,
                    gradients,
                )
            }
            "bce_with_logits" => {
                // max(x, 0) − x·t + ln(1 + exp(−|x|)): terms of at most |x|, |x| and ln 2, five roundings, `n` in the mean.
                let mean = logits.iter().map(|x| 2.0 * x.abs() + 0.7).sum::<f64>() / n;
                // (σ(x) − t) / n: σ within 4 ε, the difference and the quotient rounded.
                (
                    loss::bce_with_logits(&x, case.tensor("target")),
                    (n + 5.0) * mean,
                    vec![6.0 / n; logits.len()],
                )
            }
            other => panic!("unknown loss {other}"),
        };
        let value = value.expect("shapes that fit");
        value.backward().expect("every loss is differentiable");
        let expected =
            Tensor::new(case.tensor("loss").to_vec(), value.shape()).expect("a loss is one number");
        assert_within(
            &case.name,
            &value,
            &expected,
            &[(loss_bound * EPSILON + TINY) as f32],
        );
        let bounds: Vec<f32> = gradient_bounds
            .iter()
            .map(|b| (b * EPSILON + TINY) as f32)
            .collect();
        assert_within(
            &format!("{}, d_x", case.name),
            &x.grad().expect("a leaf"),
            case.tensor("d_x"),
            &bounds,
        );
    }
}

fn doubles(tensor: &Tensor) -> Vec<f64> {
    tensor.to_vec().into_iter().map(f64::from).collect()
}

fn log_softmax(row: &[f64]) -> Vec<f64> {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = row.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
    row.iter().map(|x| x - max - log_sum).collect()
}
