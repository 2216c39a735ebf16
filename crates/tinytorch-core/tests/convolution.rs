//! Convolution against its definition, at sizes that are cut into blocks of rows, blocks of images and parts for threads.

#![allow(clippy::unwrap_used)]

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tinytorch_core::{Conv2dOptions, Error, Tensor};

/// One multiplication of the definition: the places in `x`, in the weight and in the output.
fn for_each_product(
    [batch, channels, height, width]: [usize; 4],
    [outputs, inputs, kernel_height, kernel_width]: [usize; 4],
    options: Conv2dOptions,
    mut visit: impl FnMut(usize, usize, usize),
) -> [usize; 4] {
    let Conv2dOptions {
        stride,
        padding,
        groups,
    } = options;
    let out_height = (height + 2 * padding[0] - kernel_height) / stride[0] + 1;
    let out_width = (width + 2 * padding[1] - kernel_width) / stride[1] + 1;
    let mut output = 0;
    for n in 0..batch {
        for o in 0..outputs {
            let first = o / (outputs / groups) * inputs;
            for oy in 0..out_height {
                for ox in 0..out_width {
                    for c in 0..inputs {
                        for ky in 0..kernel_height {
                            for kx in 0..kernel_width {
                                let y = (oy * stride[0] + ky).wrapping_sub(padding[0]);
                                let x = (ox * stride[1] + kx).wrapping_sub(padding[1]);
                                if y < height && x < width {
                                    let at = ((n * channels + first + c) * height + y) * width + x;
                                    let tap =
                                        ((o * inputs + c) * kernel_height + ky) * kernel_width + kx;
                                    visit(at, tap, output);
                                }
                            }
                        }
                    }
                    output += 1;
                }
            }
        }
    }
    [batch, outputs, out_height, out_width]
}

/// Compares sums of products with `f32` values that were summed in another order: `terms` products of magnitude
/// at most 1, each sum rounded once, is at most `terms² · ε / 2`; but errors of both signs meet, and the bound
/// that is used grows as `terms · ε`.
fn assert_close(name: &str, got: &[f32], expected: &[f64], terms: usize) {
    assert_eq!(got.len(), expected.len(), "{name}");
    let tolerance = terms as f64 * f64::from(f32::EPSILON);
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(got) - expected).abs();
        assert!(
            error <= tolerance,
            "{name}[{i}]: got {got}, expected {expected} ± {tolerance}"
        );
    }
}

struct Results {
    shape: Vec<usize>,
    output: Vec<f32>,
    gradients: [Vec<f32>; 3],
}

fn run([x, weight, bias, upstream]: &[Tensor; 4], options: Conv2dOptions) -> Results {
    let leaves = [x, weight, bias].map(|tensor| tensor.clone().with_grad());
    let y = leaves[0]
        .conv2d(&leaves[1], Some(&leaves[2]), options)
        .unwrap();
    y.backward_from(upstream).unwrap();
    let gradients = leaves.map(|leaf| leaf.grad().unwrap().to_vec());
    Results {
        shape: y.shape().to_vec(),
        output: y.to_vec(),
        gradients,
    }
}

fn check(x: [usize; 4], weight: [usize; 4], options: Conv2dOptions) {
    let name = format!("x {x:?}, weight {weight:?}, {options:?}");
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    let mut draw = |shape: &[usize]| Tensor::uniform(shape, -1.0, 1.0, rng);
    let (xs, ws, bs) = (draw(&x), draw(&weight), draw(&weight[..1]));
    let shape = for_each_product(x, weight, options, |_, _, _| {});
    let upstream = draw(&shape);

    let [xv, wv, bv, gv] = [&xs, &ws, &bs, &upstream].map(|tensor| {
        tensor
            .to_vec()
            .into_iter()
            .map(f64::from)
            .collect::<Vec<_>>()
    });
    let (plane, outputs) = (shape[2] * shape[3], shape[1]);
    let channel = |output: usize| output / plane % outputs;
    let mut y: Vec<f64> = (0..gv.len()).map(|output| bv[channel(output)]).collect();
    let (mut dx, mut dw, mut db) = (
        vec![0.0; xv.len()],
        vec![0.0; wv.len()],
        vec![0.0; bv.len()],
    );
    for_each_product(x, weight, options, |at, tap, output| {
        y[output] += xv[at] * wv[tap];
        dx[at] += gv[output] * wv[tap];
        dw[tap] += gv[output] * xv[at];
    });
    for (output, gradient) in gv.iter().enumerate() {
        db[channel(output)] += gradient;
    }

    let inputs = [xs, ws, bs, upstream];
    let pool = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
    };
    let got = pool(1).install(|| run(&inputs, options));
    assert_eq!(got.shape, shape, "{name}");
    let taps = weight[1] * weight[2] * weight[3];
    assert_close(&format!("output of {name}"), &got.output, &y, taps + 1);
    let [to_x, to_weight, to_bias] = &got.gradients;
    assert_close(
        &format!("dx of {name}"),
        to_x,
        &dx,
        weight[0] * weight[2] * weight[3],
    );
    assert_close(&format!("dw of {name}"), to_weight, &dw, x[0] * plane);
    assert_close(&format!("db of {name}"), to_bias, &db, x[0] * plane);

    let other = pool(3).install(|| run(&inputs, options));
    assert!(
        got.output == other.output && got.gradients == other.gradients,
        "threads: {name}"
    );
}

fn options(stride: usize, padding: usize, groups: usize) -> Conv2dOptions {
    Conv2dOptions {
        stride: [stride; 2],
        padding: [padding; 2],
        groups,
    }
}

#[test]
fn blocks_of_rows() {
    // 64 · 9 · 20 · 20 lowered elements are more than one block holds.
    check([2, 64, 20, 20], [4, 64, 3, 3], options(1, 1, 1));
    check([1, 64, 21, 20], [4, 64, 3, 3], options(1, 0, 1));
}

#[test]
fn blocks_of_images_and_parts_of_the_batch() {
    check([40, 16, 8, 8], [32, 16, 3, 3], options(1, 1, 1));
    // 37 images of 4 by 4: two full blocks of 16 and a rest.
    check([37, 3, 4, 4], [5, 3, 3, 3], options(1, 1, 1));
}

#[test]
fn strides_and_groups_in_blocks() {
    check([20, 8, 9, 7], [12, 4, 3, 2], options(2, 1, 2));
    check([9, 6, 10, 10], [6, 1, 3, 3], options(1, 2, 6));
}

#[test]
fn single_elements_as_windows() {
    // Large planes are used where they are, small ones are gathered.
    check([3, 70, 18, 18], [20, 70, 1, 1], options(1, 0, 1));
    check([20, 8, 3, 3], [6, 4, 1, 1], options(1, 0, 2));
}

#[test]
fn an_empty_batch_gives_an_empty_result() {
    let y =
        Tensor::zeros(&[0, 2, 4, 4]).conv2d(&Tensor::zeros(&[3, 2, 3, 3]), None, options(1, 1, 1));
    assert_eq!(y.unwrap().shape(), [0, 3, 4, 4]);
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let x = Tensor::zeros(&[1, 4, 5, 5]);
    let text = |weight: &[usize], bias: Option<&Tensor>, options| {
        let error = x.conv2d(&Tensor::zeros(weight), bias, options);
        error.map(|_| ()).map_err(|error: Error| error.to_string())
    };
    let is = |text: &str| Err(text.to_owned());
    assert_eq!(
        text(&[2, 3, 3, 3], None, options(1, 0, 1)),
        is("shape mismatch in conv2d: [1, 4, 5, 5] and [2, 3, 3, 3]")
    );
    assert_eq!(
        text(&[3, 2, 3, 3], None, options(1, 0, 2)),
        is("bad argument in conv2d: 3 output channels cannot be split into 2 groups")
    );
    assert_eq!(
        text(&[2, 4, 6, 3], None, options(1, 0, 1)),
        is("conv2d needs images that hold a [6, 3] window with padding [0, 0], got [1, 4, 5, 5]")
    );
    assert_eq!(
        text(&[2, 4, 3, 3], Some(&Tensor::zeros(&[3])), options(1, 0, 1)),
        is("shape mismatch in conv2d: [2, 4, 3, 3] and [3]")
    );
    assert_eq!(
        text(&[2, 0, 3, 3], None, options(1, 0, 1)),
        is("conv2d needs a weight with at least one input channel, got [2, 0, 3, 3]")
    );
}
