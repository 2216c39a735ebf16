//! `kernels`: the INT8 kernels that this CPU has, which of them is used, and what each reaches here.
//!
//! `cargo run --release -p tinytorch-labs --bin kernels`; with `--names` only the names, without measuring.

use std::convert::Infallible;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::Duration;

use tinytorch_kernels::gemm_i8::chosen;
use tinytorch_kernels::{GemmI8, PackedWeights, Requantize, kernels};
use tinytorch_labs::stopwatch::{Plan, race};
use tinytorch_labs::table::Table;

/// `(m, k, n)`: one row, which is a matter of reading weights, and many.
const SHAPES: [(usize, usize, usize); 3] = [(1, 1024, 1024), (32, 784, 128), (128, 1024, 1024)];

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
    println!(
        "INT8 products requantized to 8 bits, median Gop/s (a multiplication and an addition count 1 each), {} thread(s):\n",
        rayon::current_num_threads()
    );
    let speeds = SHAPES.map(measure);
    let shapes = SHAPES.map(|(m, k, n)| format!("{m} x {k} x {n}"));
    let mut table = Table::new(
        [String::new(), "kernel".to_owned()]
            .into_iter()
            .chain(shapes),
    );
    for (index, kernel) in kernels().iter().enumerate() {
        let used = kernel.name() == chosen.name();
        let name = format!("{} {}", if used { "->" } else { "  " }, kernel.name());
        let cells = speeds
            .each_ref()
            .map(|speeds| format!("{:.1}", speeds[index]));
        table.row([name].into_iter().chain(cells));
    }
    println!(
        "{table}\n-> is used. TINYTORCH_KERNEL=NAME forces another; the middle of a name is enough."
    );
    ExitCode::SUCCESS
}

/// Gop/s of every kernel, measured in turns.
fn measure((m, k, n): (usize, usize, usize)) -> Vec<f64> {
    let codes = |len: usize, step: usize| -> Vec<i8> {
        (0..len).map(|i| (i * step % 255) as u8 as i8).collect()
    };
    let (a, weights, multipliers) = (codes(m * k, 37), codes(n * k, 91), vec![1e-4; n]);
    let product = |&kernel: &&'static dyn GemmI8| {
        let packed = PackedWeights::with_kernel(kernel, n, k, &weights);
        let mut out = vec![0; m * n];
        let (a, multipliers) = (&a, &multipliers);
        move || {
            let ending = Requantize {
                bias: &[],
                multipliers,
                zero_point: 0,
                min: -128,
                max: 127,
            };
            packed.requantized(m, a, 3, &ending, &mut out);
            black_box(&out);
            Ok::<(), Infallible>(())
        }
    };
    let mut products: Vec<_> = kernels().iter().map(product).collect();
    let mut contestants: Vec<&mut dyn FnMut() -> Result<(), Infallible>> = vec![];
    for product in &mut products {
        contestants.push(product);
    }
    let plan = Plan {
        turns: 9,
        turn: Duration::from_millis(5),
    };
    let Ok(seconds) = race(plan, &mut contestants);
    let operations = 2.0 * (m * k * n) as f64;
    seconds
        .into_iter()
        .map(|seconds| operations / seconds / 1e9)
        .collect()
}
