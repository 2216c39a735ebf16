//! Whether deployment targets take a model as it is.
//!
//! ```text
//! cargo run --release -p tinytorch-quantization --example check_target -- [MODEL [TARGET]]
//! ```
//!
//! MODEL is a file written by `QModel::save`; without one, a small untrained network is quantized on the spot. TARGET is a name such as
//! `tensorrt`; without one, all are asked. It ends with 1 if the target refuses the model.

use std::error::Error;
use std::process::ExitCode;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tinytorch_core::Tensor;
use tinytorch_core::nn::{Conv2d, Conv2dConfig, Flatten, Linear, MaxPool2d, Relu, Sequential};
use tinytorch_quantization::target::{PROFILES, profile};
use tinytorch_quantization::{PrepareOptions, QModel, calibrate, check_target, convert, prepare};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = match arguments.next() {
        Some(path) => QModel::load(path)?,
        None => small()?,
    };
    let targets = match arguments.next() {
        Some(name) => match profile(&name) {
            Some(profile) => vec![profile],
            None => {
                let known: Vec<&str> = PROFILES.iter().map(|profile| profile.name).collect();
                eprintln!(
                    "no target is called `{name}`; there are {}",
                    known.join(", ")
                );
                return Ok(ExitCode::from(2));
            }
        },
        None => PROFILES.iter().collect(),
    };
    let mut is_refused = false;
    for target in targets {
        println!("{}: {}", target.name, target.what);
        let findings = check_target(&model, target)?;
        for finding in &findings {
            println!(
                "  {}  {}, {}: {}\n    why:    {}\n    repair: {}",
                finding.severity,
                finding.layer,
                finding.tensor,
                finding.found,
                finding.why,
                finding.repair
            );
        }
        if findings.is_empty() {
            println!("  takes it as it is");
        }
        is_refused |= findings.iter().any(|finding| finding.is_refused());
    }
    Ok(ExitCode::from(u8::from(is_refused)))
}

/// A convolution, a pooling and a linear layer for images `[1, 8, 8]`, in INT8.
fn small() -> Result<QModel, Box<dyn Error>> {
    let rng = &mut ChaCha8Rng::seed_from_u64(0);
    let model = Sequential::new()
        .with_named(
            "conv",
            Conv2d::new(Conv2dConfig::new(1, 8, 3).padding(1), rng)?,
        )
        .with_named("relu", Relu)
        .with_named("pool", MaxPool2d::new(2))
        .with_named("flatten", Flatten)
        .with_named("classes", Linear::new(8 * 4 * 4, 10, rng));
    let mut prepared = prepare(&model, &PrepareOptions::default())?;
    calibrate(&mut prepared, [Tensor::randn(&[32, 1, 8, 8], rng)])?;
    Ok(convert(&prepared)?)
}
