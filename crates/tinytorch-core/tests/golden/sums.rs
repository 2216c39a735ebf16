//! Layers whose outputs and gradients are sums of products: linear, convolution, pooling.

use tinytorch_core::nn::{AvgPool2d, Conv2d, Layer, Linear, MaxPool2d};
use tinytorch_core::{Conv2dOptions, Pool2dOptions, Tensor};

use crate::close::{assert_within, magnitude, sum_bounds};
use crate::reader::{Case, Golden};

/// One result of a layer: its name in the file, how many products each of its sums has, the value.
type Computed = (&'static str, usize, Tensor);

/// Runs a layer on the case's tensors, and again on their magnitudes to learn how large its sums can be.
fn check(case: &Case, run: impl Fn(&dyn Fn(&str) -> Option<Tensor>) -> Vec<Computed>) {
    let got = run(&|name| case.get(name).cloned());
    let magnitudes = run(&|name| case.get(name).map(magnitude));
    for ((name, terms, got), (_, _, magnitudes)) in got.iter().zip(&magnitudes) {
        let what = format!("{}, {name}", case.name);
        assert_within(
            &what,
            got,
            case.tensor(name),
            &sum_bounds(*terms, magnitudes),
        );
    }
}

/// Forward and backward; the gradients of the leaves are appended with the given numbers of terms.
fn results(
    output: Tensor,
    terms: usize,
    upstream: &Tensor,
    leaves: &[(&'static str, usize, &Tensor)],
) -> Vec<Computed> {
    output
        .backward_from(upstream)
        .expect("every layer is differentiable");
    let mut computed = vec![("output", terms, output)];
    for &(name, terms, leaf) in leaves {
        computed.push((name, terms, leaf.grad().expect("a leaf of the tape")));
    }
    computed
}

#[test]
fn linear_and_its_gradients_are_those_of_pytorch() {
    for case in Golden::open("linear").cases {
        let [batch, inputs] = shape(case.tensor("x"));
        let [outputs, _] = shape(case.tensor("weight"));
        check(&case, |tensor| {
            let x = tensor("x").expect("an input").with_grad();
            let layer = Linear::from_parts(tensor("weight").expect("a weight"), tensor("bias"))
                .expect("shapes that fit");
            let output = layer.forward(&x).expect("shapes that fit");
            let mut leaves = vec![("d_x", outputs, &x), ("d_weight", batch, layer.weight())];
            leaves.extend(layer.bias().map(|bias| ("d_bias", batch, bias)));
            results(
                output,
                inputs + 1,
                &tensor("upstream").expect("a gradient"),
                &leaves,
            )
        });
    }
}

#[test]
fn conv2d_and_its_gradients_are_those_of_pytorch() {
    for case in Golden::open("conv2d").cases {
        let [batch, ..] = shape::<4>(case.tensor("x"));
        let [outputs, inputs_per_group, height, width] = shape(case.tensor("weight"));
        let [_, _, rows, columns] = shape(case.tensor("output"));
        let groups = case.count("groups");
        check(&case, |tensor| {
            let x = tensor("x").expect("an input").with_grad();
            let options = Conv2dOptions {
                stride: case.pair("stride"),
                padding: case.pair("padding"),
                groups,
            };
            let layer =
                Conv2d::from_parts(tensor("weight").expect("a weight"), tensor("bias"), options);
            let layer = layer.expect("shapes that fit");
            let output = layer.forward(&x).expect("shapes that fit");
            let window = height * width;
            let positions = batch * rows * columns;
            let mut leaves = vec![
                ("d_x", outputs / groups * window, &x),
                ("d_weight", positions, layer.weight()),
            ];
            leaves.extend(layer.bias().map(|bias| ("d_bias", positions, bias)));
            results(
                output,
                inputs_per_group * window + 1,
                &tensor("upstream").expect("a gradient"),
                &leaves,
            )
        });
    }
}

#[test]
fn pooling_and_its_gradients_are_those_of_pytorch() {
    for case in Golden::open("pooling").cases {
        let [kernel, stride, padding] = ["kernel", "stride", "padding"].map(|key| case.pair(key));
        let options = Pool2dOptions {
            kernel,
            stride,
            padding,
        };
        let window = kernel[0] * kernel[1];
        match case.text("kind") {
            "average" => check(&case, |tensor| {
                let x = tensor("x").expect("an input").with_grad();
                let output = AvgPool2d::with(options)
                    .forward(&x)
                    .expect("shapes that fit");
                // One more rounding: the division by the size of the window.
                results(
                    output,
                    window + 1,
                    &tensor("upstream").expect("a gradient"),
                    &[("d_x", window + 1, &x)],
                )
            }),
            "max" => {
                let pooled = |upstream: &Tensor| {
                    let x = case.leaf("x");
                    let output = MaxPool2d::with(options)
                        .forward(&x)
                        .expect("shapes that fit");
                    output
                        .backward_from(upstream)
                        .expect("max pooling is differentiable");
                    (output, x.grad().expect("a leaf"))
                };
                let upstream = case.tensor("upstream");
                let (output, gradient) = pooled(upstream);
                assert_within(
                    &format!("{}, output", case.name),
                    &output,
                    case.tensor("output"),
                    &[0.0],
                );
                // An element is the maximum of at most `window` windows. The winners must stay where they are, so only
                // the upstream gradient is replaced by its magnitude.
                let (_, magnitudes) = pooled(&magnitude(upstream));
                let bounds = sum_bounds(window, &magnitudes);
                assert_within(
                    &format!("{}, d_x", case.name),
                    &gradient,
                    case.tensor("d_x"),
                    &bounds,
                );
            }
            other => panic!("{}: unknown kind {other}", case.name),
        }
    }
}

fn shape<const N: usize>(tensor: &Tensor) -> [usize; N] {
    tensor.shape().try_into().expect("the rank the layer needs")
}
