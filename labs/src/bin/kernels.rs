//! `kernels`: the INT8 kernels that this CPU has, which of them is used, and what each reaches here: products, depthwise
//! convolutions beside our `f32`, and the loops over elements beside moving as many bytes.
//!
//! `cargo run --release -p tinytorch-labs --bin kernels`; with `--names` only the names, without measuring.

use std::convert::Infallible;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tinytorch_kernels::gemm_i8::chosen;
use tinytorch_kernels::histogram::{BINS, count_magnitudes, octave};
use tinytorch_kernels::{
    Conv2dShape, Finish, GemmI8, Images, PackedConv2d, PackedConv2dF32, PackedWeights, Quantize,
    Requantize, Threads, bf16_kernel_name, bf16_sum_order, dequantize_i8_f32, kernels, min_max,
    quantize_f32_i8,
};
use tinytorch_labs::stopwatch::{Plan, race};
use tinytorch_labs::table::Table;

/// `(m, k, n)`: one row, which is a matter of reading weights, and many.
const SHAPES: [(usize, usize, usize); 3] = [(1, 1024, 1024), (32, 784, 128), (128, 1024, 1024)];

/// `(height and width, channels, stride)` of depthwise convolutions with windows of 3x3, as networks for phones have them.
const DEPTHWISE: [(usize, usize, usize); 3] = [(56, 128, 1), (28, 256, 2), (14, 512, 1)];

/// Values of the loops over elements: in cache, and from memory.
const LENGTHS: [usize; 2] = [1 << 16, 1 << 24];

type Contestant<'a> = Box<dyn FnMut() -> Result<(), Infallible> + 'a>;

fn main() -> ExitCode {
    let chosen = match chosen() {
        Ok(kernel) => kernel,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(3);
        }
    };
    if std::env::args().any(|argument| argument == "--names") {
        kernels()
            .iter()
            .for_each(|kernel| println!("{}", kernel.name()));
        return ExitCode::SUCCESS;
    }
    let threads = rayon::current_num_threads();
    println!(
        "The INT8 kernels this CPU can run, best first, and what each reaches here with {threads} thread(s): medians, in Gop/s (a multiplication
and an addition count 1 each), measured in turns in this run. The ceiling is the kernel's own instruction and nothing else, from
registers, times the threads; a share is of that. One row has to read all weights for itself, so it cannot come near.

Products, rows x inputs x outputs, that end in 8-bit codes:\n"
    );
    let shapes = SHAPES.map(|(m, k, n)| format!("{m} x {k} x {n}"));
    let names: Vec<&str> = kernels().iter().map(|kernel| kernel.name()).collect();
    let (ceilings, speeds) = measure_products(threads);
    print_products(&names, chosen.name(), &ceilings, shapes, &speeds);
    println!(
        "-> is used. TINYTORCH_KERNEL=NAME forces another; the middle of a name is enough (TINYTORCH_KERNEL={}).\n",
        chosen.name().split('-').nth(1).unwrap_or(chosen.name())
    );
    println!(
        "With it, products in bf16 use {}; the order of their sums is {:?} (docs/numerics.md, N24).\n",
        bf16_kernel_name(),
        bf16_sum_order()
    );

    println!(
        "Depthwise convolutions, windows of 3x3, height x width x channels / stride, that end in 8-bit codes; below, ours in f32 (Gop/s):\n"
    );
    let shapes = DEPTHWISE
        .map(|(size, channels, stride)| format!("{size} x {size} x {channels} / {stride}"));
    let names: Vec<&str> = names.into_iter().chain(["f32"]).collect();
    print_table(
        &names,
        chosen.name(),
        shapes,
        DEPTHWISE.map(measure_depthwise),
    );
    println!("Each kernel stands for its instructions here, not for its product.\n");

    println!(
        "Element by element (GB/s, bytes read and written; what memory allows is the first row):\n"
    );
    let lengths = LENGTHS.map(|len| format!("{} Ki values", len >> 10));
    print_table(&ELEMENTWISE, "", lengths, LENGTHS.map(measure_elementwise));
    ExitCode::SUCCESS
}

/// A row for each name, with an arrow at `chosen`; a column for each shape.
fn print_table<const N: usize>(
    names: &[&str],
    chosen: &str,
    shapes: [String; N],
    speeds: [Vec<f64>; N],
) {
    let header = [String::new()].into_iter().chain(shapes);
    let mut table = Table::new(header);
    for (index, &name) in names.iter().enumerate() {
        let arrow = if name == chosen { "->" } else { "  " };
        let cells = speeds.iter().map(|speeds| format!("{:.1}", speeds[index]));
        table.row([format!("{arrow} {name}")].into_iter().chain(cells));
    }
    println!("{table}");
}

/// As [`print_table`], with ceilings and shares of them.
fn print_products<const N: usize>(
    names: &[&str],
    chosen: &str,
    ceilings: &[Option<f64>],
    shapes: [String; N],
    speeds: &[Vec<f64>; N],
) {
    let header = [String::new(), "ceiling".to_owned()].into_iter();
    let mut table = Table::new(header.chain(shapes));
    for (index, &name) in names.iter().enumerate() {
        let arrow = if name == chosen { "->" } else { "  " };
        let ceiling = ceilings[index];
        let first = [
            format!("{arrow} {name}"),
            ceiling.map_or_else(|| "-".to_owned(), |ceiling| format!("{ceiling:.0}")),
        ];
        let cell = |speeds: &Vec<f64>| match (speeds[index], ceiling) {
            (speed, Some(ceiling)) => format!("{speed:.0} ({:.0} %)", 100.0 * speed / ceiling),
            (speed, None) => format!("{speed:.1}"),
        };
        table.row(first.into_iter().chain(speeds.iter().map(cell)));
    }
    println!("{table}");
}

/// How much of `work` each does in a nanosecond, measured in turns.
fn in_turns(work: f64, mut contestants: Vec<Contestant<'_>>) -> Vec<f64> {
    let mut contestants: Vec<&mut dyn FnMut() -> Result<(), Infallible>> = contestants
        .iter_mut()
        .map(|contestant| &mut **contestant as &mut dyn FnMut() -> Result<(), Infallible>)
        .collect();
    let plan = Plan {
        turns: 9,
        turn: Duration::from_millis(5),
    };
    let Ok(seconds) = race(plan, &mut contestants);
    seconds
        .into_iter()
        .map(|seconds| work / seconds / 1e9)
        .collect()
}

fn codes(len: usize, step: usize) -> Vec<i8> {
    (0..len).map(|i| (i * step % 255) as u8 as i8).collect()
}

/// An ending in codes, by these multipliers.
fn requantize(multipliers: &[f32]) -> Requantize<'_> {
    Requantize {
        bias: &[],
        multipliers,
        zero_point: 0,
        min: -128,
        max: 127,
    }
}

/// Gop/s of every kernel's instruction on all threads, and of its products.
fn measure_products(threads: usize) -> (Vec<Option<f64>>, [Vec<f64>; SHAPES.len()]) {
    let mut ceilings = vec![None; kernels().len()];
    let speeds = SHAPES.map(|shape| {
        // Beside each shape, for the clock of a CPU changes; the best of them is the ceiling.
        for (ceiling, kernel) in ceilings.iter_mut().zip(kernels()) {
            let start = Instant::now();
            let operations = kernel.ceiling();
            let seconds = start.elapsed().as_secs_f64();
            if let Some(operations) = operations {
                let speed = threads as f64 * operations as f64 / seconds / 1e9;
                *ceiling = Some(ceiling.map_or(speed, |before: f64| before.max(speed)));
            }
        }
        measure(shape)
    });
    (ceilings, speeds)
}

/// Gop/s of every kernel.
fn measure((m, k, n): (usize, usize, usize)) -> Vec<f64> {
    let (a, weights, multipliers) = (codes(m * k, 37), codes(n * k, 91), vec![1e-4; n]);
    let product = |&kernel: &&'static dyn GemmI8| -> Contestant<'_> {
        let packed = PackedWeights::with_kernel(kernel, n, k, &weights);
        let mut out = vec![0; m * n];
        let (a, multipliers) = (&a, &multipliers);
        Box::new(move || {
            packed.requantized(m, a, 3, &requantize(multipliers), &mut out);
            black_box(&out);
            Ok(())
        })
    };
    let operations = 2.0 * (m * k * n) as f64;
    in_turns(operations, kernels().iter().map(product).collect())
}

/// Gop/s of every kernel, and of `f32`, for one image.
fn measure_depthwise((size, channels, stride): (usize, usize, usize)) -> Vec<f64> {
    let shape = Conv2dShape {
        in_channels: channels,
        out_channels: channels,
        kernel: [3, 3],
        stride: [stride; 2],
        padding: [1, 1],
        groups: channels,
    };
    let images = Images {
        batch: 1,
        height: size,
        width: size,
    };
    let places = size.div_ceil(stride).pow(2);
    let (input, weights) = (codes(size * size * channels, 37), codes(9 * channels, 91));
    let multipliers = vec![1e-3; channels];
    let convolution = |&kernel: &&'static dyn GemmI8| -> Contestant<'_> {
        let packed = PackedConv2d::with_kernel(kernel, shape, &weights);
        let mut out = vec![0; places * channels];
        let (input, multipliers) = (&input, &multipliers);
        Box::new(move || {
            packed.requantized(images, input, 3, &requantize(multipliers), &mut out);
            black_box(&out);
            Ok(())
        })
    };
    let mut contestants: Vec<_> = kernels().iter().map(convolution).collect();
    let reals = |codes: &[i8]| -> Vec<f32> { codes.iter().map(|&code| f32::from(code)).collect() };
    let packed = PackedConv2dF32::new(shape, &reals(&weights));
    let (input, mut out) = (reals(&input), vec![0.0; places * channels]);
    contestants.push(Box::new(move || {
        packed.run(images, &input, Finish::NOTHING, &mut out, Threads::Auto);
        black_box(&out);
        Ok(())
    }));
    in_turns(2.0 * (places * 9 * channels) as f64, contestants)
}

/// What [`measure_elementwise`] measures.
const ELEMENTWISE: [&str; 6] = [
    "copy f32",
    "quantize",
    "dequantize",
    "min and max",
    "histogram",
    "histogram, half zeros",
];

/// GB/s of each loop.
fn measure_elementwise(len: usize) -> Vec<f64> {
    let values: Vec<f32> = (0..len)
        .map(|i| (i * 7919 % 10_007) as f32 / 1000.0 - 5.0)
        .collect();
    let positive: Vec<f32> = values.iter().map(|value| value.max(0.0)).collect();
    let by = Quantize {
        scale: 0.0403,
        zero_point: 3,
        min: -128,
        max: 127,
    };
    let mut codes = vec![0; len];
    let (mut reals, mut back, mut copied) = (vec![0; len], vec![0.0; len], vec![0.0; len]);
    let mut counts = vec![0; 2 * BINS];
    let mut others = vec![0; 2 * BINS];
    let top = octave(5.0);
    // Made before, so that codes are there to be made real again.
    let finite = quantize_f32_i8(&values, by, &mut reals).is_ok();
    let loops: [(f64, Contestant<'_>); 6] = [
        (
            8.0,
            Box::new(|| {
                copied.copy_from_slice(&values);
                black_box(&copied);
                Ok(())
            }),
        ),
        (
            5.0,
            Box::new(|| {
                black_box(quantize_f32_i8(&values, by, &mut codes).is_ok());
                Ok(())
            }),
        ),
        (
            5.0,
            Box::new(|| {
                dequantize_i8_f32(&reals, by.scale, by.zero_point, &mut back);
                black_box(&back);
                Ok(())
            }),
        ),
        (
            4.0,
            Box::new(|| {
                black_box(min_max(&values).is_ok());
                Ok(())
            }),
        ),
        (
            4.0,
            Box::new(|| {
                black_box(count_magnitudes(&values, top, &mut counts));
                Ok(())
            }),
        ),
        (
            4.0,
            Box::new(|| {
                black_box(count_magnitudes(&positive, top, &mut others));
                Ok(())
            }),
        ),
    ];
    assert!(finite, "the values are finite");
    let (bytes, contestants): (Vec<f64>, Vec<_>) = loops.into_iter().unzip();
    let elements = in_turns(len as f64, contestants);
    elements
        .iter()
        .zip(bytes)
        .map(|(speed, bytes)| speed * bytes)
        .collect()
}
