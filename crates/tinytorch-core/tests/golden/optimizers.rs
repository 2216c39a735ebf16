//! Ten steps of every optimizer on a 6-5-3 network with tanh and cross-entropy.

use tinytorch_core::nn::{Layer, Linear, Sequential, Tanh};
use tinytorch_core::optim::{Adam, AdamConfig, AdamW, Optimizer, Sgd, SgdConfig};
use tinytorch_core::{Tensor, loss};

use crate::close::assert_within;
use crate::reader::{Case, Golden};

const STEPS: usize = 10;
const NAMES: [&str; 4] = ["0.weight", "0.bias", "2.weight", "2.bias"];

/// The batch, the first weights, and the runs of all optimizers.
fn problem_and_runs() -> (Case, Vec<Case>) {
    let (problem, runs): (Vec<_>, Vec<_>) = Golden::open("optimizers")
        .cases
        .into_iter()
        .partition(|case| case.short_name() == "problem");
    (problem.into_iter().next().expect("the problem"), runs)
}

fn number(case: &Case, key: &str) -> f64 {
    case.number(key).unwrap_or(0.0)
}

/// The optimizer of a run, with PyTorch's defaults for what the run does not set.
fn optimizer(case: &Case, parameters: Vec<(String, Tensor)>) -> Box<dyn Optimizer> {
    let (learning_rate, weight_decay) = (number(case, "lr"), number(case, "weight_decay"));
    let [beta1, beta2] = betas(case);
    let adam = AdamConfig {
        learning_rate,
        beta1,
        beta2,
        eps: 1e-8,
        weight_decay,
    };
    match case.text("kind") {
        "sgd" => {
            let config = SgdConfig {
                learning_rate,
                momentum: number(case, "momentum"),
                weight_decay,
            };
            Box::new(Sgd::new(parameters, config))
        }
        "adam" => Box::new(Adam::new(parameters, adam)),
        "adamw" => Box::new(AdamW::new(parameters, adam)),
        other => panic!("unknown optimizer {other}"),
    }
}

fn betas(case: &Case) -> [f64; 2] {
    case.numbers("betas")
        .map_or([0.9, 0.999], |betas| [betas[0], betas[1]])
}

/// The tensors of one step, in the order of [`NAMES`]; `prefix` is `d_` for gradients.
fn of_step<'a>(case: &'a Case, step: usize, prefix: &str) -> Vec<&'a Tensor> {
    NAMES
        .iter()
        .map(|name| case.tensor(&format!("{step}/{prefix}{name}")))
        .collect()
}

fn network(problem: &Case) -> (Sequential, Vec<usize>) {
    let part = |name: &str| problem.tensor(name).clone();
    let linear = |weight: &str, bias: &str| {
        Linear::from_parts(part(weight), Some(part(bias))).expect("shapes that fit")
    };
    let network = Sequential::new()
        .with(linear(NAMES[0], NAMES[1]))
        .with(Tanh)
        .with(linear(NAMES[2], NAMES[3]));
    (network, problem.counts("targets"))
}

/// The loss of the network as it stands; leaves the gradients in its parameters.
fn loss_and_gradients(network: &Sequential, x: &Tensor, targets: &[usize]) -> f32 {
    network.zero_grad();
    let loss = loss::cross_entropy(&network.forward(x).expect("shapes that fit"), targets)
        .expect("valid classes");
    loss.backward().expect("a differentiable loss");
    loss.item().expect("one number")
}

fn largest<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> f64 {
    tensors
        .into_iter()
        .flat_map(Tensor::to_vec)
        .fold(0.0, |max, value| max.max(f64::from(value.abs())))
}

/// How far the computed gradient of a weight of `network` may be from the true one.
///
/// With weights up to w and inputs up to x: the softmax of three logits is off by (3 + 9)·ε of at most 1 (see
/// `pointwise.rs`) plus the errors of the logits, sums of 6 products of at most w (tanh is at most 1): 6·w·ε. A mean over 8
/// rows adds 8·ε. On the way to the first layer come a sum of 3 products with w, (1 − tanh²), a factor x and another mean.
fn gradient_bound(w: f64, x: f64) -> f64 {
    let of_logits = 12.0 + 6.0 * w + 8.0;
    let back = (3.0 * w * x).max(1.0);
    (of_logits + 3.0 + 8.0 + 8.0) * back * f64::from(f32::EPSILON)
}

/// How far weights may be from PyTorch's after `step + 1` steps from gradients that are off by at most `gradient_error`.
///
/// SGD: the velocity is at most V = (g + decay·w) / (1 − momentum), takes in the gradient's error as it takes in the gradient,
/// and is rounded three times a step; the weight is rounded twice and takes in `lr` times that.
///
/// Adam: by Cauchy-Schwarz |m̂| ≤ 1.2·√v̂ for these betas and ten steps, so a step moves a weight by at most 1.2·lr, and a
/// dozen roundings, with one more for each earlier step in either mean, move it by as many ε of that. An error e of the
/// gradient moves it by at most 2·lr·e/√v̂ (through m̂ and through v̂), so `smallest_root` is what matters.
fn weight_bound(
    case: &Case,
    step: usize,
    [w, g]: [f64; 2],
    gradient_error: f64,
    smallest_root: f64,
) -> f64 {
    let (lr, decay) = (number(case, "lr"), number(case, "weight_decay"));
    let (t, epsilon) = ((step + 1) as f64, f64::from(f32::EPSILON));
    let of_one_step = if case.text("kind") == "sgd" {
        let gain = 1.0 / (1.0 - number(case, "momentum"));
        lr * gain * (3.0 * t * epsilon * (g + decay * w) + gradient_error)
    } else {
        let roundings = (12.0 + 2.0 * t) * epsilon * 1.2 + lr * decay * w * epsilon;
        // In Adam the decay is part of the gradient, which is rounded after it is added.
        lr * (roundings + 2.0 * (gradient_error + epsilon * (g + decay * w)) / smallest_root)
    };
    t * (2.0 * epsilon * w + of_one_step)
}

/// √v̂ of every element of the gradients up to each step, smallest first (see [`weight_bound`]).
fn smallest_roots(case: &Case, name: &str, initial: &Tensor) -> Vec<f64> {
    let [_, beta2] = betas(case);
    let decay = if case.text("kind") == "adam" {
        number(case, "weight_decay")
    } else {
        0.0
    };
    let mut squares = vec![0.0; initial.len()];
    let mut weights = initial.to_vec();
    let mut roots = Vec::new();
    for step in 0..STEPS {
        let gradients = case.tensor(&format!("{step}/d_{name}")).to_vec();
        for ((square, gradient), weight) in squares.iter_mut().zip(gradients).zip(&weights) {
            let gradient = f64::from(gradient) + decay * f64::from(*weight);
            *square = beta2 * *square + (1.0 - beta2) * gradient * gradient;
        }
        let correction = 1.0 - beta2.powi(step as i32 + 1);
        roots.push(
            squares
                .iter()
                .map(|square| (square / correction).sqrt())
                .fold(f64::INFINITY, f64::min),
        );
        weights = case.tensor(&format!("{step}/{name}")).to_vec();
    }
    roots
}

#[test]
fn gradients_at_every_step_are_those_of_pytorch() {
    let (problem, runs) = problem_and_runs();
    let (network, targets) = network(&problem);
    let x = problem.tensor("x");
    for case in &runs {
        for step in 0..STEPS {
            // The weights before the step: only the gradient is on trial.
            let before = if step == 0 {
                NAMES.map(|name| problem.tensor(name)).to_vec()
            } else {
                of_step(case, step - 1, "")
            };
            let parameters = network.named_parameters();
            for ((_, parameter), weights) in parameters.iter().zip(&before) {
                parameter.assign(weights).expect("the same shape");
            }
            let loss = loss_and_gradients(&network, x, &targets);
            let bound = gradient_bound(largest(before), largest([x]));
            let expected = case.tensor("losses").to_vec()[step];
            assert!(
                f64::from((loss - expected).abs()) <= bound,
                "{}, step {step}: loss {loss}, {expected}",
                case.name
            );
            for ((name, parameter), expected) in parameters.iter().zip(of_step(case, step, "d_")) {
                let gradient = parameter.grad().expect("a leaf of the tape");
                assert_within(
                    &format!("{}, step {step}, {name}", case.name),
                    &gradient,
                    expected,
                    &[bound as f32],
                );
            }
        }
    }
}

#[test]
fn the_same_gradients_move_the_weights_as_in_pytorch() {
    let (problem, runs) = problem_and_runs();
    for case in &runs {
        for name in NAMES {
            let weight = problem.tensor(name).clone().with_grad();
            let roots = smallest_roots(case, name, &weight);
            let mut optimizer = optimizer(case, vec![(name.to_owned(), weight.clone())]);
            let (mut w, mut g) = (largest([&weight]), 0.0);
            for (step, root) in roots.into_iter().enumerate() {
                let gradient = case.tensor(&format!("{step}/d_{name}"));
                weight.set_grad(gradient).expect("the same shape");
                optimizer.step().expect("optimizers do not fail");
                let expected = case.tensor(&format!("{step}/{name}"));
                (w, g) = (largest([expected]).max(w), largest([gradient]).max(g));
                // The recorded gradients were rounded to f32: half an ulp.
                let rounded = g * f64::from(f32::EPSILON) / 2.0;
                let bound = weight_bound(case, step, [w, g], rounded, root);
                assert_within(
                    &format!("{}, step {step}, {name}", case.name),
                    &weight,
                    expected,
                    &[bound as f32],
                );
            }
        }
    }
}

#[test]
fn ten_steps_of_training_end_where_those_of_pytorch_end() {
    let (problem, runs) = problem_and_runs();
    let x = problem.tensor("x");
    for case in &runs {
        let (network, targets) = network(&problem);
        let mut optimizer = optimizer(case, network.named_parameters());
        let count: usize = NAMES.map(|name| problem.tensor(name).len()).iter().sum();
        let mut drift = 0.0;
        for step in 0..STEPS {
            let loss = loss_and_gradients(&network, x, &targets);
            optimizer.step().expect("optimizers do not fail");
            let gradients = largest(of_step(case, step, "d_"));
            let gradient_error = gradient_bound(largest(of_step(case, step, "")), largest([x]));
            // The loss of weights that have drifted so far, and its own roundings.
            let bound = gradient_error + count as f64 * gradients * drift;
            let expected = case.tensor("losses").to_vec()[step];
            assert!(
                f64::from((loss - expected).abs()) <= bound,
                "{}, step {step}: loss {loss}, {expected}",
                case.name
            );
            for (name, parameter) in network.named_parameters() {
                let roots = smallest_roots(case, &name, problem.tensor(&name));
                let root = roots.into_iter().fold(f64::INFINITY, f64::min);
                let gradients =
                    largest((0..=step).map(|step| case.tensor(&format!("{step}/d_{name}"))));
                let expected = case.tensor(&format!("{step}/{name}"));
                // The gradients are those of weights that have already drifted. Where the loss is convex a step brings
                // such weights together; the factor leaves them room to part elsewhere.
                let bound = 2.0
                    * weight_bound(
                        case,
                        step,
                        [largest([expected]), gradients],
                        gradient_error,
                        root,
                    );
                assert_within(
                    &format!("{}, step {step}, {name}", case.name),
                    &parameter,
                    expected,
                    &[bound as f32],
                );
                drift = bound.max(drift);
            }
        }
    }
}
