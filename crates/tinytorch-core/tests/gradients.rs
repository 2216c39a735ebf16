//! Every differentiable operation against central differences.
//!
//! An operation is composed to one number whose derivative is different for every element of its result,
//!
//! ```text
//! L(x) = Σ wᵢ · exp(yᵢ / 2)        wᵢ = 1 + sin(i) / 2
//! ```
//!
//! and the gradient of L is compared with `(L(x + h) − L(x − h)) / 2h` for every element of every input.
//!
//! The tolerance, with S = Σ |wᵢ exp(yᵢ / 2)| over the terms that change with `x`, and ε the epsilon of `f32`:
//!
//! - rounding: each of the two values carries some roundings, at most [`ROUNDINGS`] half-epsilons of S, so the
//!   quotient is off by `ROUNDINGS · ε · S / 2h`; the gradient is rounded as often, which is less by a factor of h;
//! - truncation: the difference D(h) is off by `h² / 6 · L‴` and so D(2h) by four times that, so `|D(2h) − D(h)|` is
//!   three times the error of D(h).

#![allow(clippy::unwrap_used)]

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tinytorch_core::loss::{bce_with_logits, cross_entropy, mse_loss};
use tinytorch_core::nn::{BatchNorm2d, Layer};
use tinytorch_core::{Conv2dOptions, Error, Pool2dOptions, Result, Tensor, no_grad};

/// Roundings between an input and L, in half-epsilons of S: products, exponentials and sums of a few dozen terms.
const ROUNDINGS: f32 = 8.0;

/// Small enough for the truncation, large enough for the rounding; below the cube root of `ROUNDINGS · ε`.
const H: f32 = 1.0 / 256.0;

fn weighted(y: &Tensor) -> Tensor {
    let weights = (0..y.len()).map(|i| 1.0 + 0.5 * (i as f32).sin()).collect();
    let weights = Tensor::new(weights, y.shape()).unwrap();
    weights.try_mul(&(y * 0.5).exp()).unwrap()
}

/// The central difference of a sum of terms, and how far it may be off.
fn central_difference(terms: impl Fn(f32) -> Vec<f32>) -> (f32, f32) {
    let difference = |h: f32| {
        let (high, low) = (terms(h), terms(-h));
        // In f64, so that adding up is no source of error.
        let change = |(high, low): (&f32, &f32)| f64::from(*high) - f64::from(*low);
        let quotient = high.iter().zip(&low).map(change).sum::<f64>() / f64::from(2.0 * h);
        let changed = high.iter().zip(&low).filter(|(high, low)| high != low);
        let magnitude: f32 = changed.map(|(high, low)| high.abs().max(low.abs())).sum();
        (quotient as f32, magnitude)
    };
    let ((near, magnitude), (far, _)) = (difference(H), difference(2.0 * H));
    (
        near,
        ROUNDINGS * f32::EPSILON * magnitude / (2.0 * H) + (far - near).abs(),
    )
}

/// Compares the gradient that a tensor has collected with central differences of `terms`.
fn compare(name: &str, tensor: &Tensor, terms: impl Fn() -> Vec<f32>) {
    let gradient = tensor
        .grad()
        .unwrap_or_else(|| panic!("{name}: no gradient"));
    assert_eq!(gradient.shape(), tensor.shape(), "{name}");
    let original = tensor.to_vec();
    for (i, got) in gradient.to_vec().into_iter().enumerate() {
        let set = |x: f32| tensor.update(|mut values| *values.iter_mut().nth(i).unwrap() = x);
        let (expected, tolerance) = central_difference(|h| {
            set(original[i] + h);
            terms()
        });
        set(original[i]);
        assert!(
            (got - expected).abs() <= tolerance,
            "{name}, element {i}: gradient {got}, central difference {expected} ± {tolerance}"
        );
    }
}

/// Compares the gradients of `f` at `inputs` with central differences.
fn check(name: &str, inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let leaves: Vec<Tensor> = inputs
        .iter()
        .map(|input| input.clone().with_grad())
        .collect();
    let terms = || weighted(&f(&leaves).unwrap());
    terms().sum().backward().unwrap();
    for (number, leaf) in leaves.iter().enumerate() {
        compare(&format!("{name}, input {number}"), leaf, || {
            no_grad(terms).to_vec()
        });
    }
}

/// Values in −1..1 of which no two are within 2 h, and none within h of 0 or ±½, so that no maximum changes and no kink
/// lies between the points of a near difference.
fn distinct(shape: &[usize], seed: u64) -> Tensor {
    use rand::seq::SliceRandom;
    let count: usize = shape.iter().product();
    let mut values: Vec<f32> = (0..count)
        .map(|i| (i as f32 + 0.5) / count as f32 * 2.0 - 1.0)
        .collect();
    assert!(
        2.0 / count as f32 >= 2.0 * H,
        "too many elements to keep them apart"
    );
    values.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    Tensor::new(values, shape).unwrap()
}

fn check_unary(name: &str, f: impl Fn(&Tensor) -> Tensor) {
    check(name, &[distinct(&[3, 4], 1)], |x| Ok(f(&x[0])));
}

#[test]
fn elementwise_functions_of_one_tensor() {
    check_unary("exp", Tensor::exp);
    check_unary("square", Tensor::square);
    check_unary("abs", Tensor::abs);
    check_unary("neg", |x| -x);
    check_unary("relu", Tensor::relu);
    check_unary("sigmoid", Tensor::sigmoid);
    check_unary("tanh", Tensor::tanh);
    check_unary("gelu", Tensor::gelu);
    check_unary("clamp", |x| x.clamp(-0.5, 0.5));
    // Where these are defined, away from the pole: 0.5..2.5.
    check_unary("ln", |x| (x + 1.5).ln());
    check_unary("sqrt", |x| (x + 1.5).sqrt());
    check_unary("powf", |x| (x + 1.5).powf(-1.5));
    check_unary("number / x", |x| 2.0 / (x + 1.5));
    check_unary("numbers", |x| (3.0 - x) * 0.7 / 2.0 - 1.0);
}

#[test]
fn elementwise_functions_of_two_tensors_with_and_without_broadcasting() {
    for (left, right) in [
        (&[2usize, 3][..], &[2usize, 3][..]),
        (&[2, 3], &[3]),
        (&[2, 1], &[1, 3]),
        (&[], &[2, 2]),
        (&[2, 3, 2], &[1, 3, 1]),
    ] {
        // Away from 0 as divisors; moved back below so that each operand has some of the maxima.
        let inputs = [distinct(left, 1), &distinct(right, 2) * 0.5 + 2.0];
        let name = |operation: &str| format!("{operation} {left:?} {right:?}");
        check(&name("add"), &inputs, |x| x[0].try_add(&x[1]));
        check(&name("sub"), &inputs, |x| x[0].try_sub(&x[1]));
        check(&name("mul"), &inputs, |x| x[0].try_mul(&x[1]));
        check(&name("div"), &inputs, |x| x[0].try_div(&x[1]));
        check(&name("maximum"), &inputs, |x| {
            (&x[0] + 2.1 * &x[0]).maximum(&(&x[1] - 1.6))
        });
        check(&name("minimum"), &inputs, |x| {
            (&x[0] + 2.1 * &x[0]).minimum(&(&x[1] - 1.6))
        });
    }
}

#[test]
fn an_input_used_twice() {
    check("x · x", &[distinct(&[4], 1)], |x| x[0].try_mul(&x[0]));
    check("x · xᵀ", &[distinct(&[2, 3], 1)], |x| {
        x[0].matmul(&x[0].transpose()?)
    });
}

#[test]
fn products_of_matrices() {
    for (left, right) in [
        (&[2usize, 3][..], &[3usize, 4][..]),
        (&[2, 2, 3], &[3, 2]),
        (&[2, 3], &[2, 3, 2]),
        (&[2, 1, 2, 3], &[2, 3, 2]),
    ] {
        let inputs = [distinct(left, 1), distinct(right, 2)];
        check(&format!("matmul {left:?} {right:?}"), &inputs, |x| {
            x[0].matmul(&x[1])
        });
    }
    let inputs = [distinct(&[3, 2], 1), distinct(&[4, 3], 2)];
    check("matmul of transposed", &inputs, |x| {
        x[0].transpose()?.matmul(&x[1].transpose()?)
    });
    let inputs = [
        distinct(&[2, 2, 3], 1),
        distinct(&[4, 3], 2),
        distinct(&[4], 3),
    ];
    check("linear", &inputs, |x| x[0].linear(&x[1], Some(&x[2])));
    check("linear without bias", &inputs[..2], |x| {
        x[0].linear(&x[1], None)
    });
}

#[test]
fn reductions() {
    let x = [distinct(&[2, 3, 2], 1)];
    check("sum", &x, |x| Ok(x[0].sum() * 0.3));
    check("mean", &x, |x| Ok(x[0].mean()));
    for axis in 0..3 {
        for keep in [false, true] {
            let name = |operation: &str| format!("{operation} along {axis}, keep {keep}");
            check(&name("sum"), &x, |x| x[0].sum_axis(axis, keep));
            check(&name("mean"), &x, |x| x[0].mean_axis(axis, keep));
            check(&name("max"), &x, |x| x[0].max_axis(axis, keep));
        }
        check(&format!("softmax along {axis}"), &x, |x| x[0].softmax(axis));
        check(&format!("log_softmax along {axis}"), &x, |x| {
            x[0].log_softmax(axis)
        });
    }
}

#[test]
fn moves() {
    let x = [distinct(&[2, 3, 2], 1)];
    check("reshape", &x, |x| x[0].reshape(&[4, 3]));
    check("flatten_from", &x, |x| x[0].flatten_from(1));
    check("unsqueeze", &x, |x| x[0].unsqueeze(1));
    check("squeeze", &x, |x| x[0].unsqueeze(3)?.squeeze(3));
    check("permute", &x, |x| x[0].permute(&[2, 0, 1]));
    check("permute and reshape", &x, |x| {
        x[0].permute(&[2, 0, 1])?.reshape(&[3, 4])
    });
    check("transpose", &x, |x| x[0].transpose());
    check("broadcast_to", &[distinct(&[3, 1], 2)], |x| {
        x[0].broadcast_to(&[2, 3, 2])
    });
    check("slice", &x, |x| x[0].slice(&[0..2, 1..3, 1..2]));
    check("index_select", &x, |x| x[0].index_select(1, &[2, 0, 2]));
    let two = [distinct(&[2, 2], 1), distinct(&[2, 1], 2)];
    check("concat", &two, |x| {
        Tensor::concat(&[&x[0], &x[1], &x[0]], 1)
    });
    let two = [distinct(&[2, 2], 1), distinct(&[2, 2], 2)];
    check("stack", &two, |x| Tensor::stack(&[&x[0], &x[1]], 1));
}

#[test]
fn convolutions() {
    let cases = [
        ([1, 1], [0, 0], 1, [2, 3, 5, 4], [2, 3, 3, 2]),
        ([2, 1], [1, 2], 1, [2, 2, 5, 4], [3, 2, 3, 3]),
        ([1, 2], [1, 1], 2, [2, 4, 3, 3], [2, 2, 2, 3]),
        ([1, 1], [1, 1], 3, [1, 3, 4, 4], [3, 1, 3, 3]),
        ([1, 1], [0, 0], 1, [2, 3, 3, 3], [2, 3, 1, 1]),
    ];
    for (stride, padding, groups, x, weight) in cases {
        let options = Conv2dOptions {
            stride,
            padding,
            groups,
        };
        let inputs = [
            distinct(&x, 1),
            &distinct(&weight, 2) * 0.5,
            distinct(&[weight[0]], 3),
        ];
        let name = format!("conv2d {options:?} {x:?} {weight:?}");
        check(&name, &inputs, |x| x[0].conv2d(&x[1], Some(&x[2]), options));
        check(&name, &inputs[..2], |x| x[0].conv2d(&x[1], None, options));
    }
}

#[test]
fn pooling() {
    let x = [distinct(&[2, 2, 4, 5], 1)];
    for (kernel, stride, padding) in [
        ([2, 2], [2, 2], [0, 0]),
        ([3, 2], [1, 2], [1, 1]),
        ([2, 3], [2, 1], [0, 1]),
    ] {
        let options = Pool2dOptions {
            kernel,
            stride,
            padding,
        };
        check(&format!("max_pool2d {options:?}"), &x, |x| {
            x[0].max_pool2d(options)
        });
        check(&format!("avg_pool2d {options:?}"), &x, |x| {
            x[0].avg_pool2d(options)
        });
    }
}

#[test]
fn batch_norm_in_training_and_evaluation() {
    for training in [true, false] {
        let layer = BatchNorm2d::new(2);
        layer
            .weight()
            .assign(&Tensor::new(vec![0.7, -1.2], &[2]).unwrap())
            .unwrap();
        layer
            .bias()
            .assign(&Tensor::new(vec![0.3, 0.1], &[2]).unwrap())
            .unwrap();
        layer.set_training(training);
        check("batch_norm2d", &[distinct(&[3, 2, 2, 2], 1)], |x| {
            layer.forward(&x[0])
        });
        // The parameters are the layer's own leaves.
        let x = distinct(&[3, 2, 2, 2], 1);
        let terms = || weighted(&layer.forward(&x).unwrap());
        layer.zero_grad();
        terms().sum().backward().unwrap();
        for (name, parameter) in layer.named_parameters() {
            compare(&name, &parameter, || no_grad(terms).to_vec());
        }
    }
}

#[test]
fn losses() {
    let two = [distinct(&[3, 4], 1), distinct(&[3, 4], 2)];
    check("mse_loss", &two, |x| mse_loss(&x[0], &x[1]));
    check("cross_entropy", &two[..1], |x| {
        cross_entropy(&(&x[0] * 2.0), &[1, 0, 3])
    });
    let targets = distinct(&[3, 4], 3).abs();
    check("bce_with_logits", &two[..1], |x| {
        bce_with_logits(&(&x[0] * 2.0), &targets)
    });
}

#[test]
fn a_wrong_gradient_is_noticed() {
    let wrong = std::panic::catch_unwind(|| {
        check("wrong", &[distinct(&[3], 1)], |x| {
            let values = x[0].array();
            Ok(Tensor::from_op(
                "wrong",
                values.mapv(f32::exp),
                &[&x[0]],
                move |gradient| Ok(vec![Some(gradient * &values.mapv(|x| 1.01 * x.exp()))]),
            ))
        });
    });
    assert!(wrong.is_err(), "one percent off and not noticed");
}

#[test]
fn what_has_no_derivative_says_so() {
    let x = distinct(&[2, 3], 1).with_grad();
    let cases: [(&str, Tensor); 4] = [
        ("round", x.round()),
        ("floor", x.floor()),
        ("sign", x.sign()),
        ("argmax", x.argmax(1).unwrap()),
    ];
    for (operation, y) in cases {
        assert_eq!(
            (&y * 2.0).sum().backward(),
            Err(Error::NotDifferentiable { operation })
        );
    }
    assert!(x.grad().is_none());
}
