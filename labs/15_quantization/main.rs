//! The experiments of module 15: each asks one question of the lesson and answers it with what it measures on the spot.
//!
//! Networks are trained here, from several seeds, on handwritten digits; those that several experiments need are trained
//! once. Nothing that is printed was known before, but for figures that others published, which say so and where.

mod experiment;
mod experiments;
mod lab;
mod model;
mod progress;

use std::collections::BTreeMap;
use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use serde::Serialize;

use experiment::{Experiment, Finding};
use lab::{Effort, Lab, Settings};

/// Train small networks on handwritten digits, quantize them, and measure what that costs and what it brings.
#[derive(Parser)]
#[command(name = "tito lab 15_quantization")]
struct Arguments {
    /// Which experiments to run, by name; all of them unless one is named
    experiments: Vec<String>,
    /// List the experiments and the question each answers
    #[arg(long)]
    list: bool,
    /// How many networks to train for each comparison, each from its own seed; fewer than 3 show no spread [default: 5]
    #[arg(long, value_parser = clap::value_parser!(u64).range(3..=100))]
    seeds: Option<u64>,
    /// Epochs per network [default: 12]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1000))]
    epochs: Option<u64>,
    /// Unless asked otherwise three seeds and six epochs; fewer settings, shorter timing: under a minute
    #[arg(long)]
    quick: bool,
    /// The least that still runs everything: for tests
    #[arg(long, hide = true)]
    smoke: bool,
    /// Print one JSON document instead of text; docs/lab_json.md describes it
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::Usage(message)) => {
            eprintln!("error: {message}");
            ExitCode::from(2)
        }
        Err(Stop::Failed(error)) => {
            eprintln!("error: {error}");
            ExitCode::from(3)
        }
    }
}

/// Why the lab ended early.
enum Stop {
    Usage(String),
    Failed(Box<dyn Error>),
}

impl<E: Into<Box<dyn Error>>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// The version of the document: it changes when a key goes, or means something else.
const SCHEMA: u32 = 1;

/// Everything that was measured, for programs; `docs/lab_json.md` describes every key.
#[derive(Serialize)]
struct Document {
    schema: u32,
    lab: &'static str,
    effort: Effort,
    seeds: u64,
    epochs: u64,
    kernel: String,
    threads: usize,
    seconds: f64,
    experiments: BTreeMap<&'static str, Entry>,
}

/// One experiment in the document.
#[derive(Serialize)]
struct Entry {
    question: &'static str,
    seconds: f64,
    finding: serde_json::Value,
}

fn run(arguments: &Arguments) -> Result<(), Stop> {
    let chosen = choose(&arguments.experiments)?;
    if arguments.list {
        return list(&chosen, arguments.json);
    }
    let started = Instant::now();
    // Asked for before the training: a kernel that does not exist should not cost a minute.
    let kernel = tinytorch_kernels::gemm_i8::chosen()?.name().to_owned();
    let settings = Settings::new(arguments.effort(), arguments.seeds, arguments.epochs);
    let lab = Lab::new(
        settings,
        progress::Progress::new(chosen.len(), arguments.json),
    )?;
    let mut entries = BTreeMap::new();
    for experiment in &chosen {
        lab.progress.begin(experiment.name());
        let begun = Instant::now();
        let finding: Box<dyn Finding> = experiment.run(&lab)?;
        if !arguments.json {
            lab.progress.pause(|| {
                println!("\n{}\n{}\n", experiment.name(), experiment.question());
                println!("{finding}");
            });
        }
        let entry = Entry {
            question: experiment.question(),
            seconds: begun.elapsed().as_secs_f64(),
            finding: finding.json()?,
        };
        entries.insert(experiment.name(), entry);
    }
    lab.progress.finish();
    let (seconds, threads) = (
        started.elapsed().as_secs_f64(),
        rayon::current_num_threads(),
    );
    if arguments.json {
        let document = Document {
            schema: SCHEMA,
            lab: "15_quantization",
            effort: lab.settings.effort,
            seeds: lab.settings.seeds,
            epochs: lab.settings.epochs,
            kernel,
            threads,
            seconds,
            experiments: entries,
        };
        println!("{}", serde_json::to_string_pretty(&document)?);
    } else {
        println!(
            "Every figure was measured in this run of {seconds:.0} s, with {threads} thread(s) and the INT8 kernel {kernel}, but for those\n\
             that are called published.\n\n\
             Next: write it yourself.   {} start 15_quantization",
            tito()
        );
    }
    Ok(())
}

impl Arguments {
    fn effort(&self) -> Effort {
        match (self.smoke, self.quick) {
            (true, _) => Effort::Smoke,
            (false, true) => Effort::Quick,
            (false, false) => Effort::Full,
        }
    }
}

/// The experiments of these names; all if there are none.
fn choose(names: &[String]) -> Result<Vec<Box<dyn Experiment>>, Stop> {
    let all = experiments::all();
    if names.is_empty() {
        return Ok(all);
    }
    for name in names {
        if !all.iter().any(|experiment| experiment.name() == name) {
            let known: Vec<_> = all.iter().map(|experiment| experiment.name()).collect();
            return Err(Stop::Usage(format!(
                "there is no experiment `{name}`; there are {}",
                known.join(", ")
            )));
        }
    }
    let mut chosen = all;
    chosen.retain(|experiment| names.iter().any(|name| name == experiment.name()));
    Ok(chosen)
}

fn list(experiments: &[Box<dyn Experiment>], json: bool) -> Result<(), Stop> {
    if json {
        let pairs = experiments
            .iter()
            .map(|e| (e.name().to_owned(), e.question().into()));
        let map: serde_json::Map<String, serde_json::Value> = pairs.collect();
        println!("{}", serde_json::to_string_pretty(&map)?);
    } else {
        for experiment in experiments {
            println!("{:<12} {}", experiment.name(), experiment.question());
        }
    }
    Ok(())
}

/// How the reader calls `tito`: it tells us when it starts the lab.
fn tito() -> String {
    std::env::var("TITO_INVOCATION").unwrap_or_else(|_| "cargo tito".to_owned())
}
