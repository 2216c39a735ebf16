//! What the INT8 product reaches on this machine: against our own f32, and against the CPU's ceiling.
//!
//! `cargo run --release -p tinytorch-kernels --example int8_against_f32 [THREADS]`
//!
//! For each shape f32 and every INT8 kernel run in turns, in one process; the table shows medians in Gop/s (a multiply
//! and an add count 1 each), the ratio to f32, and, where the CPU has `vpdpbusd`, the share of what a loop of nothing
//! but that instruction reaches, measured in the same turns. The INT8 products end in 8-bit codes, bias and
//! requantization included.
#![expect(
    unsafe_code,
    reason = "the ceiling is measured with a CPU's own instruction"
)]

use std::hint::black_box;
use std::time::Instant;

use tinytorch_kernels::{
    Accumulate, Dims, MatrixMut, MatrixRef, PackedWeights, Requantize, Threads, gemm_f32, kernels,
};

/// `(m, k, n)`.
const SHAPES: [(usize, usize, usize); 9] = [
    (1, 1024, 1024),
    (1, 4096, 4096),
    (8, 768, 768),
    (32, 784, 128),
    (128, 768, 3072),
    (256, 1024, 1024),
    (512, 512, 512),
    (1024, 1024, 1024),
    (2048, 2048, 2048),
];

fn main() {
    let threads = std::env::args()
        .nth(1)
        .map_or(1, |text| text.parse().expect("a number of threads"));
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .expect("a pool");
    let fast: Vec<_> = kernels()
        .iter()
        .copied()
        .filter(|k| !k.name().contains("scalar"))
        .collect();
    println!("{threads} thread(s), median Gop/s, [ratio to f32, share of the vpdpbusd ceiling]");
    print!("{:<16} {:>8} {:>8}", "m x k x n", "ceiling", "f32");
    fast.iter()
        .for_each(|kernel| print!(" {:>28}", kernel.name()));
    println!();
    for (m, k, n) in SHAPES {
        let a: Vec<i8> = (0..m * k).map(|i| (i * 37 % 251) as i8).collect();
        let weights: Vec<i8> = (0..n * k).map(|i| (i * 91 % 253) as i8).collect();
        let real_a: Vec<f32> = a.iter().map(|&code| f32::from(code)).collect();
        let real_weights: Vec<f32> = weights.iter().map(|&code| f32::from(code)).collect();
        let (bias, multipliers) = (vec![5; n], vec![1e-4; n]);
        let ending = Requantize {
            bias: &bias,
            multipliers: &multipliers,
            zero_point: 3,
            min: 3,
            max: 127,
        };
        let mut real_out = vec![0.0; m * n];
        let mut f32_product = || {
            gemm_f32(
                Dims { m, n, k },
                MatrixRef::row_major(&real_a, k),
                MatrixRef::row_major(&real_weights, k).transposed(),
                MatrixMut::row_major(&mut real_out, n),
                Accumulate::Overwrite,
                Threads::Auto,
            );
            black_box(&real_out);
        };
        let mut integer_products: Vec<_> = fast
            .iter()
            .map(|&kernel| {
                let packed = PackedWeights::with_kernel(kernel, n, k, &weights);
                let mut out = vec![0; m * n];
                let (a, ending) = (&a, &ending);
                move || {
                    packed.requantized(m, a, -7, ending, &mut out);
                    black_box(&out);
                }
            })
            .collect();
        let mut runs: Vec<&mut (dyn FnMut() + Send)> = vec![&mut f32_product];
        for product in &mut integer_products {
            runs.push(product);
        }
        let operations = 2.0 * (m * n * k) as f64;
        let (ceiling, seconds) = pool.install(|| measure(&mut runs, operations));
        let speed = |seconds: f64| operations / seconds / 1e9;
        let ceiling = ceiling * threads as f64;
        print!(
            "{:<16} {ceiling:>8.0} {:>8.1}",
            format!("{m}x{k}x{n}"),
            speed(seconds[0])
        );
        for &time in &seconds[1..] {
            let share = 100.0 * speed(time) / ceiling;
            let text = format!(
                "{:.0} [{:.2}, {share:.0} %]",
                speed(time),
                seconds[0] / time
            );
            print!(" {text:>28}");
        }
        println!();
    }
}

/// The ceiling of one thread in Gop/s, and the median seconds of one call of each, measured in turns.
fn measure(runs: &mut [&mut (dyn FnMut() + Send)], operations: f64) -> (f64, Vec<f64>) {
    // A sample lasts about a millisecond at 100 Gop/s; 31 samples of each.
    let calls = (1e8 / operations).ceil() as usize;
    let mut times = vec![Vec::new(); runs.len()];
    let mut ceilings = Vec::new();
    for sample in 0..32 {
        ceilings.push(ceiling());
        for (run, times) in runs.iter_mut().zip(&mut times) {
            let start = Instant::now();
            (0..calls).for_each(|_| run());
            if sample > 0 {
                times.push(start.elapsed().as_secs_f64() / calls as f64);
            }
        }
    }
    (
        median(&mut ceilings),
        times.iter_mut().map(|times| median(times)).collect(),
    )
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Gop/s of `vpdpbusd` alone, not a number where the CPU has none of 512 bits.
fn ceiling() -> f64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
        const ROUNDS: usize = 10_000;
        let start = Instant::now();
        // SAFETY: the two features have just been detected.
        black_box(unsafe { x86::vpdpbusd(ROUNDS) });
        return (ROUNDS * x86::SUMS * 128) as f64 / start.elapsed().as_secs_f64() / 1e9;
    }
    f64::NAN
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// Enough that none waits for its own last result.
    pub const SUMS: usize = 24;

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub fn vpdpbusd(rounds: usize) -> i32 {
        let a = _mm512_set1_epi32(black_box(0x0102_0304));
        let b = _mm512_set1_epi32(black_box(0x0403_0201));
        let mut sums = [_mm512_setzero_si512(); SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        let total = sums
            .into_iter()
            .fold(_mm512_setzero_si512(), |a, b| _mm512_add_epi32(a, b));
        _mm512_reduce_add_epi32(total)
    }
}
