//! Reads and writes never leave the slices: each slice ends (or begins) at a page that may not be touched, so that a
//! kernel that does is killed.
#![cfg(target_os = "linux")]
#![expect(
    unsafe_code,
    reason = "pages are mapped and protected by the operating system"
)]

use tinytorch_kernels::histogram::{BINS, count_magnitudes};
use tinytorch_kernels::{
    Accumulate, Conv2dShape, Dims, DynamicLinear, Finish, Images, InputRange, MatrixMut, MatrixRef,
    PackedBf16, PackedConv2d, PackedConv2dF32, PackedF32, PackedInt4, PackedInt8, PackedWeights,
    Pool2dShape, PoolWindow, Quantize, Requantize, Scale, StaticLinear, Threads, dequantize_i8_f32,
    dequantize_u8_f32, gemm_bf16, gemm_f32, gemm_i4::Codes8, kernels, max_pool_i8, max_pool2d_f32,
    min_max, quantize_f32_i8, quantize_f32_u8, requantize_i32_i8, transpose_f32,
};

/// Numbers between two pages without access; the last element touches the second, or the first element the first.
struct Guarded<T> {
    mapping: *mut libc::c_void,
    mapping_bytes: usize,
    start: *mut T,
    len: usize,
}

#[derive(Clone, Copy)]
enum Touching {
    Before,
    After,
}

impl<T: Copy> Guarded<T> {
    fn new(values: &[T], touching: Touching) -> Self {
        // SAFETY: asks for a number.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let bytes = size_of_val(values);
        let inner = bytes.next_multiple_of(page).max(page);
        let mapping_bytes = inner + 2 * page;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, of no file, at an address of the system's choice.
        let mapping = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapping_bytes,
                libc::PROT_NONE,
                flags,
                -1,
                0,
            )
        };
        assert_ne!(mapping, libc::MAP_FAILED, "mmap");
        let first = mapping.wrapping_byte_add(page);
        // SAFETY: the pages between the first and the last of the mapping just made.
        let result = unsafe { libc::mprotect(first, inner, access) };
        assert_eq!(result, 0, "mprotect");
        let start: *mut T = match touching {
            Touching::Before => first.cast(),
            Touching::After => first.wrapping_byte_add(inner - bytes).cast(),
        };
        // SAFETY: `bytes` fit between the guards, and a page boundary or a whole number of `T` before one is aligned.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), start, values.len()) };
        Self {
            mapping,
            mapping_bytes,
            start,
            len: values.len(),
        }
    }

    fn slice(&self) -> &[T] {
        // SAFETY: `new` has initialized `len` elements there.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    fn slice_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's own, and nothing refers to it any more.
        unsafe { libc::munmap(self.mapping, self.mapping_bytes) };
    }
}

const SIDES: [Touching; 2] = [Touching::Before, Touching::After];

fn codes(len: usize) -> Vec<i8> {
    (0..len).map(|i| (i * 89 % 256) as u8 as i8).collect()
}

#[test]
fn integer_products_stay_inside_their_slices() {
    for side in SIDES {
        for &kernel in kernels() {
            for (m, n, k) in [
                (1, 1, 1),
                (1, 17, 63),
                (3, 31, 65),
                (15, 33, 257),
                (7, 5, 3),
                (2, 48, 64),
                (33, 50, 130),
                (5, 33, 64),
                (33, 50, 1088),
                (7, 40, 1100),
            ] {
                let weights = Guarded::new(&codes(n * k), side);
                let packed = PackedWeights::with_kernel(kernel, n, k, weights.slice());
                let a = Guarded::new(&codes(m * k), side);
                let bias = Guarded::new(&vec![3; n], side);
                let factors = Guarded::new(&vec![0.001; n], side);
                let real_bias = Guarded::new(&vec![0.5; n], side);
                let mut sums = Guarded::new(&vec![0; m * n], side);
                packed.product(m, a.slice(), 5, sums.slice_mut());
                let requantize = Requantize {
                    bias: bias.slice(),
                    multipliers: factors.slice(),
                    zero_point: 0,
                    min: -128,
                    max: 127,
                };
                let mut codes_out = Guarded::new(&vec![0; m * n], side);
                packed.requantized(m, a.slice(), 5, &requantize, codes_out.slice_mut());
                let ending = Scale {
                    scales: factors.slice(),
                    bias: real_bias.slice(),
                    relu: true,
                };
                let mut out = Guarded::new(&vec![0.0; m * n], side);
                packed.scaled(m, a.slice(), 5, &ending, out.slice_mut());
                let reals: Vec<f32> = (0..m * k).map(|i| i as f32 * 0.1 - 7.0).collect();
                let x = Guarded::new(&reals, side);
                let layer = StaticLinear::new(packed.clone(), 5, &requantize);
                let by = Quantize {
                    scale: 0.5,
                    zero_point: 5,
                    min: -128,
                    max: 127,
                };
                let result = layer.forward_real(m, x.slice(), by, codes_out.slice_mut());
                assert_eq!(result, Ok(()));
                let layer = DynamicLinear::new(packed, factors.slice(), real_bias.slice());
                for range in [InputRange::PerRow, InputRange::PerTensor] {
                    let result = layer.forward(m, x.slice(), range, true, out.slice_mut());
                    assert_eq!(result, Ok(()));
                }
            }
        }
    }
}

#[test]
fn convolutions_stay_inside_their_slices() {
    let images = Images {
        batch: 2,
        height: 5,
        width: 6,
    };
    for side in SIDES {
        for &kernel in kernels() {
            for (channels, groups) in [(1, 1), (3, 1), (8, 8), (6, 2), (15, 15), (64, 64), (65, 65)]
            {
                let shape = Conv2dShape {
                    in_channels: channels,
                    out_channels: channels * 3 / if groups == channels { 3 } else { 1 },
                    kernel: [3, 3],
                    stride: [1, 2],
                    padding: [1, 1],
                    groups,
                };
                let weights = Guarded::new(&codes(shape.out_channels * shape.taps()), side);
                let packed = PackedConv2d::with_kernel(kernel, shape, weights.slice());
                let input = Guarded::new(&codes(2 * 5 * 6 * channels), side);
                let mut out = Guarded::new(&vec![0; 2 * 5 * 3 * shape.out_channels], side);
                packed.product(images, input.slice(), -3, out.slice_mut());
                let ending = Requantize {
                    bias: &[],
                    multipliers: &vec![0.01; shape.out_channels],
                    zero_point: 1,
                    min: -128,
                    max: 127,
                };
                // 5 x 3 places become 2 x 1.
                let mut pooled = Guarded::new(&vec![0; 2 * 2 * shape.out_channels], side);
                let out = pooled.slice_mut();
                packed.requantized_pooled(images, input.slice(), -3, &ending, out);
                let mut pooled = Guarded::new(&vec![0; 2 * 2 * 3 * channels], side);
                let shape = Pool2dShape::square(2);
                max_pool_i8(input.slice(), images, channels, shape, pooled.slice_mut());
            }
        }
    }
}

#[test]
fn elementwise_loops_stay_inside_their_slices() {
    for side in SIDES {
        // The last is written past the caches, and counted in tables.
        for len in [1, 15, 17, 127, 129, 1023, (4 << 20) + 7] {
            let reals: Vec<f32> = (0..len).map(|i| i as f32 * 0.1 - 7.0).collect();
            let reals = Guarded::new(&reals, side);
            let mut out = Guarded::new(&vec![0; len], side);
            let by = Quantize {
                scale: 0.1,
                zero_point: 3,
                min: -128,
                max: 127,
            };
            assert_eq!(quantize_f32_i8(reals.slice(), by, out.slice_mut()), Ok(()));
            let mut unsigned = Guarded::new(&vec![0; len], side);
            let unsigned_by = Quantize {
                min: 0,
                max: 255,
                ..by
            };
            let result = quantize_f32_u8(reals.slice(), unsigned_by, unsigned.slice_mut());
            assert_eq!(result, Ok(()));
            let mut back = Guarded::new(&vec![0.0; len], side);
            dequantize_i8_f32(out.slice(), 0.1, 3, back.slice_mut());
            assert!(min_max(back.slice()).is_ok());
            dequantize_u8_f32(unsigned.slice(), 0.1, 3, back.slice_mut());
            let sums = Guarded::new(&vec![40; len], side);
            let (bias, multipliers) = (
                Guarded::new(&vec![2; len], side),
                Guarded::new(&vec![0.5; len], side),
            );
            let requantize = Requantize {
                bias: bias.slice(),
                multipliers: multipliers.slice(),
                zero_point: 1,
                min: -128,
                max: 127,
            };
            requantize_i32_i8(sums.slice(), &requantize, out.slice_mut());
            assert!(out.slice().iter().all(|&code| code == 22));
            let mut counts = Guarded::new(&vec![0; 2 * BINS], side);
            let zeros = count_magnitudes(reals.slice(), 146, counts.slice_mut());
            assert_eq!(counts.slice().iter().sum::<u64>() + zeros, len as u64);
        }
    }
}

#[test]
fn real_products_stay_inside_their_slices() {
    for side in SIDES {
        for (m, n, k) in [(1, 17, 63), (5, 33, 20), (70, 65, 66)] {
            let a = Guarded::new(&vec![1.0; m * k], side);
            let b = Guarded::new(&vec![0.5; n * k], side);
            for b in [
                MatrixRef::row_major(b.slice(), n),
                MatrixRef::row_major(b.slice(), k).transposed(),
            ] {
                let mut c = Guarded::new(&vec![0.0; m * n], side);
                let a = MatrixRef::row_major(a.slice(), k);
                let out = MatrixMut::row_major(c.slice_mut(), n);
                gemm_f32(
                    Dims { m, n, k },
                    a,
                    b,
                    out,
                    Accumulate::Overwrite,
                    Threads::One,
                );
                assert_eq!(c.slice()[m * n - 1], k as f32 * 0.5);
            }
        }
    }
}

#[test]
fn real_products_with_packed_weights_stay_inside_their_slices() {
    for side in SIDES {
        // One row in streams, tiles of every height, panels of one to three lines with whole and broken ends.
        for (m, n, k) in [
            (1, 17, 63),
            (1, 400, 5),
            (7, 10, 9),
            (13, 64, 20),
            (9, 100, 3),
        ] {
            let a = Guarded::new(&vec![1.0; m * k], side);
            let b = Guarded::new(&vec![0.5; n * k], side);
            let bias = Guarded::new(&vec![1.0; n], side);
            let b = MatrixRef::row_major(b.slice(), k).transposed();
            let packed = PackedF32::new(k, n, b);
            let mut c = Guarded::new(&vec![0.0; m * n], side);
            for accumulate in [Accumulate::Overwrite, Accumulate::Add] {
                let finish = Finish {
                    bias: bias.slice(),
                    relu: true,
                    accumulate,
                    ..Finish::NOTHING
                };
                let a = MatrixRef::row_major(a.slice(), k);
                let out = MatrixMut::row_major(c.slice_mut(), n);
                packed.product(m, a, finish, out, Threads::One);
            }
            assert_eq!(c.slice()[m * n - 1], 2.0 * (k as f32 * 0.5 + 1.0));
        }
    }
}

#[test]
fn real_convolutions_stay_inside_their_slices() {
    let images = Images {
        batch: 2,
        height: 5,
        width: 6,
    };
    for side in SIDES {
        // Also without padding, where the images are read in place.
        for (channels, groups, padding) in [(1, 1, 1), (3, 1, 0), (8, 8, 1), (16, 16, 0), (6, 2, 0)]
        {
            let shape = Conv2dShape {
                in_channels: channels,
                out_channels: channels * 3 / if groups == channels { 3 } else { 1 },
                kernel: [3, 3],
                stride: [1, 2],
                padding: [padding; 2],
                groups,
            };
            let output = shape.output_size([5, 6]).expect("it fits");
            let weights = Guarded::new(&vec![0.5; shape.out_channels * shape.taps()], side);
            let packed = PackedConv2dF32::new(shape, weights.slice());
            let input = Guarded::new(&vec![1.0; 2 * 5 * 6 * channels], side);
            let bias = Guarded::new(&vec![1.0; shape.out_channels], side);
            let finish = Finish {
                bias: bias.slice(),
                relu: true,
                accumulate: Accumulate::Overwrite,
                ..Finish::NOTHING
            };
            let pixels = 2 * output[0] * output[1];
            let mut out = Guarded::new(&vec![0.0; pixels * shape.out_channels], side);
            packed.run(images, input.slice(), finish, out.slice_mut(), Threads::One);
            let whole = shape.taps() as f32 * 0.5 + 1.0;
            assert!(out.slice().contains(&whole), "{shape:?}");
            let window = PoolWindow {
                kernel: [2, 2],
                stride: [2, 2],
            };
            let mut pooled = Guarded::new(&vec![0.0; 2 * 2 * 3 * channels], side);
            max_pool2d_f32(window, images, channels, input.slice(), pooled.slice_mut());
            let mut turned = Guarded::new(input.slice(), side);
            transpose_f32(2 * channels, 30, input.slice(), turned.slice_mut());
        }
    }
}

#[test]
fn half_precision_products_stay_inside_their_slices() {
    for side in SIDES {
        for (m, n, k) in [(1, 17, 63), (5, 33, 20), (30, 65, 66), (15, 1, 1)] {
            let dims = Dims { m, n, k };
            let a = Guarded::new(&vec![1.0; m * k], side);
            let b = Guarded::new(&vec![0.5; n * k], side);
            for (a, b) in [
                (
                    MatrixRef::row_major(a.slice(), k),
                    MatrixRef::row_major(b.slice(), n),
                ),
                (
                    MatrixRef::row_major(a.slice(), m).transposed(),
                    MatrixRef::row_major(b.slice(), k).transposed(),
                ),
            ] {
                let (a, b) = (a.into(), b.into());
                let mut c = Guarded::new(&vec![0.0; m * n], side);
                let out = MatrixMut::row_major(c.slice_mut(), n);
                gemm_bf16(dims, a, b, out, Accumulate::Overwrite, Threads::One);
                let out = MatrixMut::row_major(c.slice_mut(), n);
                PackedBf16::new(n, k, b).product(m, a, out, Accumulate::Add, Threads::One);
                assert_eq!(c.slice()[m * n - 1], k as f32);
            }
        }
    }
}

#[test]
fn products_with_weights_of_eight_bits_stay_inside_their_slices() {
    for side in SIDES {
        for (m, n, k, group) in [
            (1, 1, 1_usize, 8),
            (2, 65, 63, 32),
            (3, 64, 65, 64),
            (13, 33, 41, 16),
        ] {
            let codes = Guarded::new(&codes(n * k), side);
            let scales = Guarded::new(&vec![0.5; n * k.div_ceil(group)], side);
            let packed = PackedInt8::new(n, k, group, codes.slice(), scales.slice());
            let bias = Guarded::new(&vec![1.0; n], side);
            let mut out = Guarded::new(&vec![0.0; m * n], side);
            let a = Guarded::new(&vec![1.0; m * k], side);
            packed.product(m, a.slice(), bias.slice(), out.slice_mut(), Threads::One);
            let sum: i32 = codes.slice()[(n - 1) * k..]
                .iter()
                .map(|&code| i32::from(code))
                .sum();
            // Small integers, halved: every step is exact.
            assert_eq!(out.slice()[m * n - 1], 1.0 + 0.5 * sum as f32);
        }
    }
}

#[test]
fn four_bit_products_stay_inside_their_slices() {
    for side in SIDES {
        // Many rows are multiplied by codes that are made real first.
        for (m, n, k, group) in [
            (1, 1, 1_usize, 8),
            (2, 65, 63, 32),
            (3, 64, 65, 64),
            (13, 33, 41, 16),
        ] {
            let codes: Vec<i8> = (0..n * k).map(|i| (i % 16) as i8 - 8).collect();
            let codes = Guarded::new(&codes, side);
            let scales = Guarded::new(&vec![0.5; n * k.div_ceil(group)], side);
            let packed = PackedInt4::new(n, k, group, codes.slice(), scales.slice());
            let bias = Guarded::new(&vec![1.0; n], side);
            let mut out = Guarded::new(&vec![0.0; m * n], side);
            let a = Guarded::new(&vec![1.0; m * k], side);
            packed.product_f32(m, a.slice(), bias.slice(), out.slice_mut(), Threads::One);
            let codes = Guarded::new(&vec![3; m * k], side);
            let (scales, zero_points) = (
                Guarded::new(&vec![0.5; m], side),
                Guarded::new(&vec![1; m], side),
            );
            let a = Codes8 {
                codes: codes.slice(),
                scales: scales.slice(),
                zero_points: zero_points.slice(),
            };
            let mut of_codes = Guarded::new(&vec![0.0; m * n], side);
            packed.product_i8(m, a, bias.slice(), of_codes.slice_mut(), Threads::One);
            // 0.5 · (3 − 1) = 1: the same activations, and every step is exact.
            assert_eq!(out.slice(), of_codes.slice());
        }
    }
}
