use super::*;
use crate::gemm_f32::Accumulate;
use crate::gemm_f32::packed::Normalize;
use crate::testing::{Random, assert_refused, pool};

/// The definition: channels last, each sum in `f64`, then bias, what was there, ReLU.
fn definition(
    shape: Conv2dShape,
    images: Images,
    input: &[f32],
    weights: &[f32],
    finish: Finish<'_>,
    before: &[f32],
) -> Vec<f64> {
    let Images { height, width, .. } = images;
    let [out_height, out_width] = shape.output_size([height, width]).expect("it fits");
    let (inputs, outputs) = (
        shape.in_channels / shape.groups,
        shape.out_channels / shape.groups,
    );
    let mut out = vec![];
    for (index, &before) in before.iter().enumerate() {
        let (pixel, o) = (index / shape.out_channels, index % shape.out_channels);
        let (x, y, b) = (
            pixel % out_width,
            pixel / out_width % out_height,
            pixel / out_width / out_height,
        );
        let mut sum = f64::from(finish.bias.get(o).copied().unwrap_or(0.0));
        for c in 0..inputs {
            for ky in 0..shape.kernel[0] {
                for kx in 0..shape.kernel[1] {
                    let y = (y * shape.stride[0] + ky).wrapping_sub(shape.padding[0]);
                    let x = (x * shape.stride[1] + kx).wrapping_sub(shape.padding[1]);
                    if y >= height || x >= width {
                        continue;
                    }
                    let channel = o / outputs * inputs + c;
                    let at = ((b * height + y) * width + x) * shape.in_channels + channel;
                    let weight = ((o * inputs + c) * shape.kernel[0] + ky) * shape.kernel[1] + kx;
                    sum += f64::from(input[at]) * f64::from(weights[weight]);
                }
            }
        }
        if finish.accumulate == Accumulate::Add {
            sum += f64::from(before);
        }
        out.push(if finish.relu { sum.max(0.0) } else { sum });
    }
    out
}

/// Values in [-1, 1).
fn values(random: &mut Random, len: usize) -> Vec<f32> {
    (0..len).map(|_| 2.0 * random.unit() - 1.0).collect()
}

fn assert_agreement(shape: Conv2dShape, images: Images, random: &mut Random) {
    let [height, width] = shape
        .output_size([images.height, images.width])
        .expect("it fits");
    let pixels = images.batch * images.height * images.width;
    let input = values(random, pixels * shape.in_channels);
    let weights = values(random, shape.out_channels * shape.taps());
    let bias = values(random, shape.out_channels);
    let before = values(random, images.batch * height * width * shape.out_channels);
    let packed = PackedConv2dF32::new(shape, &weights);
    for (bias, relu, accumulate) in [
        (&[][..], false, Accumulate::Overwrite),
        (&bias, true, Accumulate::Overwrite),
        (&bias, false, Accumulate::Add),
    ] {
        let finish = Finish {
            bias,
            relu,
            accumulate,
            ..Finish::NOTHING
        };
        let mut out = before.clone();
        packed.run(images, &input, finish, &mut out, Threads::Auto);
        let expected = definition(shape, images, &input, &weights, finish, &before);
        // Products of at most 1 and two sums, each rounded once (twice without a fused multiply-add): at most (k + 2)² · ε.
        let k = shape.taps() as f64 + 2.0;
        let tolerance = k * k * f64::from(f32::EPSILON);
        for (i, (&got, &expected)) in out.iter().zip(&expected).enumerate() {
            assert!(
                (f64::from(got) - expected).abs() <= tolerance,
                "{shape:?} {images:?} at {i}: expected {expected}, got {got}"
            );
        }
    }
}

#[test]
fn normalizing_where_sums_end_gives_the_bits_of_a_pass_of_its_own() {
    let random = &mut Random::new(37);
    let images = Images {
        batch: 2,
        height: 5,
        width: 6,
    };
    // Plain, in groups, depthwise with a whole line of channels and with a broken one.
    for (channels, outputs, groups) in [(3, 35, 1), (4, 6, 2), (16, 16, 16), (21, 21, 21)] {
        let shape = Conv2dShape {
            in_channels: channels,
            out_channels: outputs,
            kernel: [3, 3],
            stride: [1, 1],
            padding: [1, 1],
            groups,
        };
        let weights = values(random, outputs * shape.taps());
        let packed = PackedConv2dF32::new(shape, &weights);
        let input = values(random, 2 * 5 * 6 * channels);
        let [bias, mean, scale, shift] = std::array::from_fn(|_| values(random, outputs));
        let run = |finish: Finish<'_>| {
            let mut out = vec![7.0; 2 * 5 * 6 * outputs];
            packed.run(images, &input, finish, &mut out, Threads::Auto);
            out
        };
        let plain = Finish {
            bias: &bias,
            ..Finish::NOTHING
        };
        let expected = run(plain).into_iter().enumerate().map(|(i, x)| {
            let j = i % outputs;
            let x = (x - mean[j]) * scale[j] + shift[j];
            (if x < 0.0 { 0.0 } else { x }).to_bits()
        });
        let normalize = Normalize {
            mean: &mean,
            scale: &scale,
            shift: &shift,
        };
        let got = run(Finish {
            normalize: Some(normalize),
            relu: true,
            ..plain
        });
        let got: Vec<u32> = got.into_iter().map(f32::to_bits).collect();
        assert_eq!(got, expected.collect::<Vec<_>>(), "{shape:?}");
    }
}

#[test]
fn worked_example() {
    // Two channels that are added, one pixel to the right subtracted: 1·x₀ + 1·x₁ − 2·x₀[x + 1].
    let shape = Conv2dShape {
        in_channels: 2,
        out_channels: 1,
        kernel: [1, 2],
        stride: [1, 1],
        padding: [0, 0],
        groups: 1,
    };
    let packed = PackedConv2dF32::new(shape, &[1.0, -2.0, 1.0, 0.0]);
    let images = Images {
        batch: 1,
        height: 1,
        width: 3,
    };
    let mut out = [0.0; 2];
    let input = [1.0, 10.0, 2.0, 20.0, 3.0, 30.0];
    packed.run(images, &input, Finish::NOTHING, &mut out, Threads::One);
    assert_eq!(out, [1.0 + 10.0 - 4.0, 2.0 + 20.0 - 6.0]);
}

#[test]
fn convolutions_agree_with_the_definition() {
    let random = &mut Random::new(61);
    let shape = |channels: [usize; 2], groups, kernel, stride, padding| Conv2dShape {
        in_channels: channels[0],
        out_channels: channels[1],
        kernel,
        stride,
        padding,
        groups,
    };
    let sizes = [(1, 1, 1), (1, 5, 7), (3, 9, 4), (2, 12, 11)];
    for (batch, height, width) in sizes {
        let images = Images {
            batch,
            height,
            width,
        };
        for (kernel, stride, padding) in [
            ([3, 3], [1, 1], [1, 1]),
            ([1, 1], [1, 1], [0, 0]),
            ([2, 3], [2, 1], [1, 2]),
            ([1, 1], [2, 3], [0, 0]),
            ([5, 1], [1, 2], [2, 0]),
        ] {
            for (channels, groups) in [
                ([1, 32], 1),
                ([3, 7], 1),
                ([20, 70], 1),
                ([6, 4], 2),
                ([5, 5], 5),
                ([32, 32], 32),
                ([33, 33], 33),
                ([4, 8], 4),
            ] {
                let shape = shape(channels, groups, kernel, stride, padding);
                assert_agreement(shape, images, random);
            }
        }
    }
}

#[test]
fn the_bits_depend_neither_on_the_threads_nor_on_the_batch() {
    let random = &mut Random::new(62);
    for (channels, groups) in [([16, 40], 1), ([48, 48], 48)] {
        let shape = Conv2dShape {
            in_channels: channels[0],
            out_channels: channels[1],
            kernel: [3, 3],
            stride: [1, 1],
            padding: [1, 1],
            groups,
        };
        let (size, batch) = ([33, 29], 2);
        let image = size[0] * size[1] * channels[0];
        let input = values(random, batch * image);
        let packed = PackedConv2dF32::new(shape, &values(random, channels[1] * shape.taps()));
        let run = |threads, first: usize, batch: usize| {
            let images = Images {
                batch,
                height: size[0],
                width: size[1],
            };
            let mut out = vec![0.0; batch * size[0] * size[1] * channels[1]];
            let input = &input[first * image..][..batch * image];
            pool(threads).install(|| {
                packed.run(images, input, Finish::NOTHING, &mut out, Threads::Auto);
            });
            out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let whole = run(1, 0, 2);
        assert_eq!(run(2, 0, 2), whole);
        assert_eq!(run(3, 1, 1), whole[whole.len() / 2..]);
    }
}

#[test]
fn images_of_another_size_are_computed_anew() {
    let random = &mut Random::new(63);
    let shape = Conv2dShape {
        in_channels: 2,
        out_channels: 3,
        kernel: [2, 2],
        stride: [1, 1],
        padding: [1, 0],
        groups: 1,
    };
    let packed = PackedConv2dF32::new(shape, &values(random, 3 * 8));
    let weights_of_ones = PackedConv2dF32::new(shape, &[1.0; 3 * 8]);
    for size in [[3, 4], [4, 3], [3, 4]] {
        let images = Images {
            batch: 1,
            height: size[0],
            width: size[1],
        };
        let [height, width] = shape.output_size(size).expect("it fits");
        let mut out = vec![0.0; height * width * 3];
        let ones = vec![1.0; size[0] * size[1] * 2];
        packed.run(images, &ones, Finish::NOTHING, &mut out, Threads::One);
        weights_of_ones.run(images, &ones, Finish::NOTHING, &mut out, Threads::One);
        // Inside, a window sees 8 ones; the first and the last row see one row of padding.
        let rows: Vec<f32> = out.chunks(width * 3).map(|row| row[0]).collect();
        let mut expected = vec![8.0; height];
        (expected[0], expected[height - 1]) = (4.0, 4.0);
        assert_eq!(rows, expected, "{size:?}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let shape = Conv2dShape {
        in_channels: 1,
        out_channels: 1,
        kernel: [2, 2],
        stride: [1, 1],
        padding: [0, 0],
        groups: 1,
    };
    assert_refused("weights must be [1, 4]", || {
        PackedConv2dF32::new(shape, &[0.0; 3]);
    });
    let packed = PackedConv2dF32::new(shape, &[0.0; 4]);
    let run = |height: usize, len: usize, bias: &[f32], out: usize| {
        let images = Images {
            batch: 1,
            height,
            width: 2,
        };
        let finish = Finish {
            bias,
            ..Finish::NOTHING
        };
        let (input, mut out) = (vec![0.0; len], vec![0.0; out]);
        packed.run(images, &input, finish, &mut out, Threads::One);
    };
    assert_refused("does not fit images of [1, 2]", || run(1, 2, &[], 1));
    assert_refused("input must be [1, 2, 2, 1]", || run(2, 3, &[], 1));
    assert_refused("out must be [1, 1, 1, 1]", || run(2, 4, &[], 2));
    assert_refused("bias must be [1]", || run(2, 4, &[0.0; 2], 1));
}

/// The steps of such an image once wrapped, and what was read lay beyond the slice.
#[test]
fn a_padded_image_that_cannot_be_counted_is_refused() {
    // Three rows have 2^64 + 2 elements.
    let row = usize::MAX / 3 + 1;
    let shape = Conv2dShape {
        in_channels: 1,
        out_channels: 1,
        kernel: [4, 1],
        stride: [usize::MAX; 2],
        padding: [0, (row - 2) / 2],
        groups: 1,
    };
    let packed = PackedConv2dF32::new(shape, &[1.0; 4]);
    let images = Images {
        batch: 1,
        height: 6,
        width: 2,
    };
    assert_refused("is too large", || {
        packed.run(
            images,
            &[0.0; 12],
            Finish::NOTHING,
            &mut [0.0],
            Threads::One,
        );
    });
}
