//! Agreement: the convolution on every kernel of this CPU against the definition, bit for bit.

use super::scalar::conv2d_i8_scalar;
use super::*;
use crate::gemm_i8::kernels;
use crate::gemm_i8::scalar::{requantize, scale};
use crate::testing::{Random, assert_refused, pool};

fn assert_kernels_agree(shape: Conv2dShape, images: Images, random: &mut Random) {
    let Images {
        batch,
        height,
        width,
    } = images;
    let [out_height, out_width] = shape.output_size([height, width]).expect("the window fits");
    let (rows, n) = (batch * out_height * out_width, shape.out_channels);
    let input = random.codes(batch * height * width * shape.in_channels);
    let weights = random.codes(n * shape.taps());
    let zero_point = random.code().into();
    let mut expected = vec![0; rows * n];
    conv2d_i8_scalar(shape, images, &input, zero_point, &weights, &mut expected);

    let bias: Vec<i32> = (0..n).map(|_| random.below(2001) as i32 - 1000).collect();
    let multipliers: Vec<f32> = (0..n).map(|_| 0.001 * (0.5 + random.unit())).collect();
    let real_bias: Vec<f32> = (0..n).map(|_| random.unit() - 0.5).collect();
    let requantize_by = Requantize {
        bias: &bias,
        multipliers: &multipliers,
        zero_point: -5,
        min: -5,
        max: 127,
    };
    let scale_by = Scale {
        scales: &multipliers,
        bias: &real_bias,
        relu: true,
    };
    for &kernel in kernels() {
        let what = format!("{}, {shape:?}, {images:?}", kernel.name());
        let packed = PackedConv2d::with_kernel(kernel, shape, &weights);
        assert_eq!(packed.unpack(), weights, "weights of {what}");
        let mut sums = vec![i32::MIN; rows * n];
        packed.product(images, &input, zero_point, &mut sums);
        assert_eq!(sums, expected, "sums of {what}");
        let mut codes = vec![99; rows * n];
        packed.requantized(images, &input, zero_point, &requantize_by, &mut codes);
        assert_pooled_agrees(&packed, images, &input, zero_point, &requantize_by, &codes);
        let mut reals = vec![f32::NAN; rows * n];
        packed.scaled(images, &input, zero_point, &scale_by, &mut reals);
        for (i, &sum) in expected.iter().enumerate() {
            let j = i % n;
            assert_eq!(
                codes[i],
                requantize(sum + bias[j], multipliers[j], -5, -5, 127),
                "code {i} of {what}"
            );
            assert_eq!(
                reals[i],
                scale(sum, multipliers[j], real_bias[j], true),
                "{i} of {what}"
            );
        }
    }
}

/// Pooled codes are those of all, pooled: also where a negative multiplier makes the largest sum the smallest code.
fn assert_pooled_agrees(
    packed: &PackedConv2d,
    images: Images,
    input: &[i8],
    zero_point: i32,
    ending: &Requantize<'_>,
    codes: &[i8],
) {
    let [height, width] = (packed.shape())
        .output_size([images.height, images.width])
        .expect("the window fits");
    let n = packed.shape().out_channels;
    let places = images.batch * (height / 2) * (width / 2);
    let mut negative = ending.multipliers.to_vec();
    negative[n / 2] *= -1.0;
    let by_negative = Requantize {
        multipliers: &negative,
        ..*ending
    };
    let mut all_by_negative = vec![99; codes.len()];
    packed.requantized(
        images,
        input,
        zero_point,
        &by_negative,
        &mut all_by_negative,
    );
    for (ending, codes) in [(ending, codes), (&by_negative, &all_by_negative)] {
        let mut pooled = vec![99; places * n];
        packed.requantized_pooled(images, input, zero_point, ending, &mut pooled);
        for (i, &got) in pooled.iter().enumerate() {
            let (place, channel) = (i / n, i % n);
            let (image, y, x) = (
                place / (width / 2) / (height / 2),
                place / (width / 2) % (height / 2),
                place % (width / 2),
            );
            let code =
                |dy, dx| codes[((image * height + 2 * y + dy) * width + 2 * x + dx) * n + channel];
            let four = [code(0, 0), code(0, 1), code(1, 0), code(1, 1)];
            assert_eq!(
                Some(got),
                four.into_iter().max(),
                "pooled code {i} of {:?}, {images:?}",
                packed.shape()
            );
        }
    }
}

fn square(in_channels: usize, out_channels: usize, kernel: usize) -> Conv2dShape {
    Conv2dShape {
        in_channels,
        out_channels,
        kernel: [kernel; 2],
        stride: [1; 2],
        padding: [0; 2],
        groups: 1,
    }
}

#[test]
fn worked_example() {
    // One image 2 x 2, one window of 2 x 2 with one column of padding left and right: three places.
    let shape = Conv2dShape {
        padding: [0, 1],
        ..square(1, 1, 2)
    };
    let images = Images {
        batch: 1,
        height: 2,
        width: 2,
    };
    let packed = PackedConv2d::new(shape, &[1, 10, 2, 20]);
    let mut out = [0; 3];
    packed.product(images, &[2, 3, 4, 5], 1, &mut out);
    // Zero point 1: the image means [[1, 2], [3, 4]], the padding 0.
    assert_eq!(out, [10 + 60, 1 + 20 + 6 + 80, 2 + 8]);
}

#[test]
fn every_kernel_agrees_over_windows_strides_and_padding() {
    let random = &mut Random::new(11);
    for kernel in [[1, 1], [3, 3], [2, 5]] {
        for stride in [[1, 1], [2, 1], [3, 2]] {
            for padding in [[0, 0], [1, 1], [2, 3]] {
                let shape = Conv2dShape {
                    kernel,
                    stride,
                    padding,
                    ..square(3, 5, 1)
                };
                assert_kernels_agree(
                    shape,
                    Images {
                        batch: 2,
                        height: 6,
                        width: 7,
                    },
                    random,
                );
            }
        }
    }
}

#[test]
fn every_kernel_agrees_over_channels_and_groups() {
    let random = &mut Random::new(12);
    let images = Images {
        batch: 1,
        height: 5,
        width: 4,
    };
    for (in_channels, out_channels, groups) in [
        (1, 1, 1),
        (1, 33, 1),
        (16, 64, 1),
        (65, 17, 1),
        (6, 9, 3),
        (4, 8, 4),
        (8, 8, 4),
    ] {
        let padding = [1, 1];
        let shape = Conv2dShape {
            groups,
            padding,
            ..square(in_channels, out_channels, 3)
        };
        assert_kernels_agree(shape, images, random);
    }
}

#[test]
fn images_in_several_strips_agree() {
    // A padded row has 62 · 65 = 4030 codes, so a strip of 20 KiB holds five: two rows of the result.
    let random = &mut Random::new(16);
    let shape = Conv2dShape {
        padding: [1, 1],
        ..square(65, 33, 3)
    };
    assert_kernels_agree(shape, images(2, 9, 60), random);
    let shape = Conv2dShape {
        stride: [2, 1],
        ..shape
    };
    assert_kernels_agree(shape, images(1, 11, 40), random);
}

#[test]
fn a_stride_beyond_the_image_gives_one_place() {
    let shape = Conv2dShape {
        stride: [usize::MAX, usize::MAX - 1],
        ..square(3, 5, 2)
    };
    assert_kernels_agree(shape, images(2, 4, 3), &mut Random::new(17));
}

#[test]
fn depthwise_agrees_over_channels_strides_and_padding() {
    let random = &mut Random::new(13);
    // At and beside whole vectors of channels; 2, 5, 9 and 16 taps fill groups of two and of four or not.
    for channels in [2, 15, 16, 33, 63, 64, 65, 129] {
        for (kernel, stride, padding) in [
            ([3, 3], [1, 1], [1, 1]),
            ([3, 3], [2, 3], [0, 2]),
            ([1, 2], [1, 1], [0, 1]),
            ([5, 1], [2, 1], [3, 0]),
            ([4, 4], [1, 1], [2, 2]),
        ] {
            let shape = Conv2dShape {
                groups: channels,
                kernel,
                stride,
                padding,
                ..square(channels, channels, 3)
            };
            assert_kernels_agree(
                shape,
                Images {
                    batch: 2,
                    height: 6,
                    width: 5,
                },
                random,
            );
        }
    }
}

#[test]
fn the_largest_sums_of_a_depthwise_window_are_exact() {
    let shape = Conv2dShape {
        groups: 70,
        ..square(70, 70, 3)
    };
    for (code, zero_point, weight) in [(-128, 127, -128), (127, -128, -128), (127, -128, 127)] {
        let (input, weights) = (vec![code; 9 * 70], vec![weight; 9 * 70]);
        let expected = 9 * (i32::from(code) - zero_point) * i32::from(weight);
        for &kernel in kernels() {
            let packed = PackedConv2d::with_kernel(kernel, shape, &weights);
            let mut out = vec![0; 70];
            packed.product(images(1, 3, 3), &input, zero_point, &mut out);
            assert_eq!(out, [expected; 70], "{}", kernel.name());
        }
    }
}

#[test]
fn a_window_wholly_in_the_padding_sees_zeros() {
    let shape = Conv2dShape {
        padding: [3, 3],
        ..square(2, 3, 2)
    };
    let random = &mut Random::new(14);
    assert_kernels_agree(
        shape,
        Images {
            batch: 1,
            height: 1,
            width: 1,
        },
        random,
    );
}

#[test]
fn work_divided_among_threads_agrees() {
    let random = &mut Random::new(15);
    let images = Images {
        batch: 3,
        height: 20,
        width: 20,
    };
    pool(3).install(|| {
        assert_kernels_agree(
            Conv2dShape {
                padding: [1, 1],
                ..square(16, 24, 3)
            },
            images,
            random,
        );
        let shape = Conv2dShape {
            groups: 40,
            ..square(40, 40, 3)
        };
        assert_kernels_agree(shape, images, random);
    });
}

#[test]
#[should_panic(expected = "the window [3, 3] does not fit images of [2, 2]")]
fn a_window_that_does_not_fit_is_refused() {
    let packed = PackedConv2d::new(square(1, 1, 3), &[0; 9]);
    packed.product(
        Images {
            batch: 1,
            height: 2,
            width: 2,
        },
        &[0; 4],
        0,
        &mut [],
    );
}

fn images(batch: usize, height: usize, width: usize) -> Images {
    Images {
        batch,
        height,
        width,
    }
}

/// The convolution, and its definition, of empty slices.
fn assert_empty_slices_are_refused(
    shape: Conv2dShape,
    weights: &[i8],
    images: Images,
    [message, by_definition]: [&str; 2],
) {
    for &kernel in kernels() {
        let packed = PackedConv2d::with_kernel(kernel, shape, weights);
        assert_refused(message, || packed.product(images, &[], 0, &mut []));
    }
    assert_refused(by_definition, || {
        conv2d_i8_scalar(shape, images, &[], 0, weights, &mut []);
    });
}

#[test]
fn images_whose_elements_wrap_are_refused() {
    let message = ["input must be", "input"];
    for (in_channels, groups) in [(1, 1), (4, 1), (2, 2)] {
        let shape = Conv2dShape {
            groups,
            ..square(in_channels, 2, 1)
        };
        let weights = vec![1; 2 * shape.taps()];
        // 2⁶⁴ elements, and 2⁶⁴ before the channels are counted.
        let sizes = images(1 << 32, 1 << 16, (1 << 16) / in_channels);
        assert_empty_slices_are_refused(shape, &weights, sizes, message);
        let sizes = images(1 << 32, 1 << 16, 1 << 16);
        assert_empty_slices_are_refused(shape, &weights, sizes, message);
    }
}

#[test]
fn results_whose_elements_wrap_are_refused() {
    // No column of the image: each of its results sees padding only, and the input is empty for any batch.
    let shape = Conv2dShape {
        padding: [0, 8],
        ..square(1, 16, 1)
    };
    let rows = [
        "a result of 1152921504606846976 times [1, 16] is too large",
        "out",
    ];
    assert_empty_slices_are_refused(shape, &[1; 16], images(1 << 60, 1, 0), rows);
    // 2⁶⁰ rows, times 16 channels.
    let out = ["out must be [1152921504606846976, 16]", "out"];
    assert_empty_slices_are_refused(shape, &[1; 16], images(1 << 56, 1, 0), out);
    let depthwise = Conv2dShape {
        groups: 16,
        ..square(16, 16, 1)
    };
    let depthwise = Conv2dShape {
        padding: [0, 8],
        ..depthwise
    };
    assert_empty_slices_are_refused(depthwise, &[1; 16], images(1 << 56, 1, 0), out);
}

#[test]
fn weights_whose_number_wraps_are_refused() {
    let window = |kernel, out_channels| Conv2dShape {
        kernel,
        ..square(1, out_channels, 1)
    };
    let taps = window([1 << 32, 1 << 32], 1);
    assert_refused("has too many taps", || _ = taps.taps());
    for (shape, message) in [
        (taps, "has too many taps"),
        (window([1 << 4, 1], 1 << 60), "weights"),
    ] {
        for &kernel in kernels() {
            assert_refused(message, || {
                PackedConv2d::with_kernel(kernel, shape, &[]);
            });
        }
        assert_refused(message, || {
            conv2d_i8_scalar(shape, images(0, 1 << 40, 1 << 40), &[], 0, &[], &mut []);
        });
    }
}

#[test]
fn a_padded_image_too_large_to_count_has_no_output_size() {
    for padding in [usize::MAX, usize::MAX / 2 + 1, usize::MAX / 2] {
        let shape = Conv2dShape {
            padding: [0, padding],
            ..square(1, 1, 1)
        };
        assert_eq!(shape.output_size([2, 2]), None, "padding {padding}");
    }
    let whole = Conv2dShape {
        kernel: [0, 1],
        ..square(1, 1, 1)
    };
    assert_eq!(whole.output_size([usize::MAX, 1]), None);
    assert_eq!(
        square(1, 1, 1).output_size([usize::MAX, 1]),
        Some([usize::MAX, 1])
    );
}

#[test]
fn a_convolution_without_channels_is_refused() {
    for (in_channels, out_channels) in [(0, 1), (1, 0), (0, 0)] {
        let shape = square(in_channels, out_channels, 1);
        let message = format!(
            "a convolution of {in_channels} to {out_channels} channels has nothing to compute"
        );
        assert_refused(&message, || {
            PackedConv2d::new(shape, &[]);
        });
        assert_refused(&message, || {
            conv2d_i8_scalar(shape, images(1 << 40, 1, 1), &[], 0, &[], &mut []);
        });
    }
}
