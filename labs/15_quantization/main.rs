//! The experiment of module 15: train, quantize, and set f32 beside INT8.
//!
//! Several networks are trained from different seeds; each is calibrated, converted, and judged on images it has not
//! seen: first from the writers it learned from, then from other writers, which is harder and more honest. Bytes and
//! latencies are those of the first network. Nothing that is printed was known before.

mod measure;
mod model;
mod progress;
mod report;

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use tinytorch_core::data::{ordered_split, stratified_split};
use tinytorch_labs::stopwatch::Plan;

use progress::Progress;
use report::Report;

/// Train a small CNN on handwritten digits, quantize it, and measure f32 against INT8.
#[derive(Parser)]
#[command(name = "tito lab 15_quantization")]
struct Arguments {
    /// How many networks to train on each split of the data, each from its own seed; fewer than 3 show no spread
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(3..=100))]
    seeds: u64,
    /// Epochs per network
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(1..=1000))]
    epochs: u64,
    /// Three seeds, fewer epochs, shorter timing
    #[arg(long)]
    quick: bool,
    /// Print one JSON document instead of text
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(3)
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let started = Instant::now();
    // Asked for before the training: a kernel that does not exist should not cost a minute.
    let kernel = tinytorch_kernels::gemm_i8::chosen()?.name().to_owned();
    let (seeds, epochs) = match arguments.quick {
        true => (arguments.seeds.min(3), arguments.epochs.min(6)),
        false => (arguments.seeds, arguments.epochs),
    };
    let plan = Plan {
        turns: if arguments.quick { 11 } else { 51 },
        turn: Duration::from_millis(10),
    };
    let splits = [
        ("same writers", stratified_split()?),
        ("other writers", ordered_split()?),
    ];
    let progress = Progress::new(splits.len() as u64 * seeds * epochs, arguments.json);
    let mut groups = Vec::new();
    for (name, digits) in &splits {
        let mut trials = Vec::new();
        for seed in 1..=seeds {
            progress.say(&format!("train {seed} of {seeds}, tested on the {name}"));
            let model = model::train(&digits.train, seed, epochs, |epoch| progress.epoch(epoch))?;
            trials.push(measure::trial(model, digits)?);
        }
        groups.push((*name, trials));
    }
    progress.say("measure latencies");
    let latencies = measure::latencies(&groups[0].1[0], &splits[0].1.test, plan)?;
    progress.finish();
    let report = Report::new(&groups, latencies, kernel, epochs, started.elapsed());
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}
