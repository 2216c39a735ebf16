//! What few bits cost: the digits network of the lab, trained for weights of 8 to 2 bits, over several seeds.
//!
//! ```text
//! cargo run --release -p tinytorch-quantization --example qat_digits -- [BITS,BITS..] [SEEDS] [EPOCHS]
//! ```
//!
//! Each network is trained in f32 as in the lab, then trained on with [`train_qat`], converted, and judged as integers on
//! the test images of both splits. Accuracies are in percent: mean and standard deviation over the seeds.

#[path = "../../../labs/15_quantization/model.rs"]
#[allow(dead_code, reason = "the lab needs more of it")]
mod model;

use std::error::Error;
use std::time::Instant;

use rayon::prelude::*;
use tinytorch_core::data::{DataLoader, ImageDataset, Split, ordered_split, stratified_split};
use tinytorch_core::nn::Layer;
use tinytorch_core::no_grad;
use tinytorch_quantization::metrics::accuracy;
use tinytorch_quantization::{QatRecipe, train_qat};

/// Epochs in f32, as in the lab.
const F32_EPOCHS: u64 = 12;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let bits = arguments.next().unwrap_or_else(|| "8,4,3,2".to_owned());
    let bits: Vec<u32> = bits
        .split(',')
        .map(str::parse)
        .collect::<std::result::Result<_, _>>()?;
    let seeds: u64 = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let epochs: Option<u64> = arguments.next().map(|text| text.parse()).transpose()?;
    println!(
        "split          weights  epochs  mean    sd    by seed                          seconds"
    );
    for (name, digits) in [
        ("same writers", stratified_split()?),
        ("other writers", ordered_split()?),
    ] {
        let started = Instant::now();
        let models: Vec<_> = (1..=seeds)
            .into_par_iter()
            .map(|seed| Ok(model::train(&digits.train, seed, F32_EPOCHS, |_| {})?))
            .collect::<Result<_>>()?;
        let percent = models.iter().map(|model| {
            let scores = no_grad(|| model.forward(&digits.test.all()?.inputs))?;
            percent_right(&scores.to_vec(), &digits)
        });
        print(
            name,
            "f32",
            F32_EPOCHS,
            &percent.collect::<Result<Vec<_>>>()?,
            started,
        );
        for &bits in &bits {
            let started = Instant::now();
            let mut recipe = QatRecipe::new(bits);
            recipe.epochs = epochs.unwrap_or(recipe.epochs);
            let percent: Vec<f64> = (models.par_iter().zip((1..=seeds).collect::<Vec<_>>()))
                .map(|(model, seed)| {
                    let loader = DataLoader::new(digits.train.clone(), 32)?.shuffle(1000 + seed);
                    let trained = train_qat(model, &loader, &recipe, |_| {})?;
                    let integers = trained.model.convert()?;
                    let scores = integers.forward(&digits.test.all()?.inputs)?;
                    percent_right(&scores.to_vec(), &digits)
                })
                .collect::<Result<_>>()?;
            print(
                name,
                &format!("{bits} bits"),
                recipe.epochs,
                &percent,
                started,
            );
        }
    }
    Ok(())
}

fn percent_right(scores: &[f32], digits: &Split<ImageDataset>) -> Result<f64> {
    let test = digits.test.all()?;
    Ok(100.0 * accuracy(scores, digits.test.classes(), test.targets.classes()?))
}

fn print(split: &str, weights: &str, epochs: u64, percent: &[f64], started: Instant) {
    let count = percent.len() as f64;
    let mean = percent.iter().sum::<f64>() / count;
    let variance = percent.iter().map(|p| (p - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    let each: Vec<String> = percent.iter().map(|p| format!("{p:.2}")).collect();
    println!(
        "{split:<14} {weights:<8} {epochs:>6}  {mean:.2}  {:.2}  {:<32} {:.1}",
        variance.sqrt(),
        each.join(" "),
        started.elapsed().as_secs_f64()
    );
}
