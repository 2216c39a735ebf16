//! The whole way of a model, from f32 to a file that runs in integers: calibrate in parallel and merge, change the method without data, ask whether
//! the data is enough, mix precisions, explain, repair, search, train for few bits, check a target, save, load; and what a damaged file says.
//!
//! ```text
//! cargo run --release -p tinytorch-quantization --example whole_way
//! ```
//!
//! The network has what makes conversion hard: a sum, a concatenation, a depthwise convolution.

use std::error::Error;
use std::{fs, thread};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tinytorch_core::data::{DataLoader, Dataset, stratified_split};
use tinytorch_core::nn::{
    BatchNorm2d, Concat, Conv2d, Conv2dConfig, Flatten, Layer, Linear, MaxPool2d, Relu, Residual,
    Sequential,
};
use tinytorch_core::optim::{Adam, AdamConfig};
use tinytorch_core::train::{CrossEntropy, Progress, Trainer};
use tinytorch_core::{Tensor, no_grad};
use tinytorch_quantization::explain::{ExplainOptions, explain};
use tinytorch_quantization::metrics::{accuracy, sqnr_db};
use tinytorch_quantization::target::profile;
use tinytorch_quantization::{
    Calibration, Examples, Found, Precision, PrecisionSearch, PrepareOptions, QModel, QatRecipe,
    RepairOptions, SearchOptions, calibrate, check_target, compare_sizes, convert, load_sketches,
    prepare, repair, save_sketches, train_qat,
};

fn network(rng: &mut ChaCha8Rng) -> Result<Sequential, Box<dyn Error>> {
    let mut conv = |config: Conv2dConfig| Conv2d::new(config, rng);
    let same = |inputs, outputs| Conv2dConfig::new(inputs, outputs, 3).padding(1);
    let model = Sequential::new()
        .with_named("stem", conv(same(1, 16))?)
        .with_named("stem_norm", BatchNorm2d::new(16))
        .with_named("stem_relu", Relu)
        .with_named("pool", MaxPool2d::new(2))
        .with_named(
            "sum",
            Residual::new(
                Sequential::new()
                    .with_named("depthwise", conv(same(16, 16).groups(16))?)
                    .with_named("norm", BatchNorm2d::new(16))
                    .with_named("relu", Relu)
                    .with_named("pointwise", conv(Conv2dConfig::new(16, 16, 1))?),
            ),
        )
        .with_named("sum_relu", Relu)
        .with_named(
            "join",
            Concat::new()
                .with_named("wide", conv(same(16, 16))?)
                .with_named("narrow", conv(Conv2dConfig::new(16, 8, 1))?),
        )
        .with_named("join_relu", Relu)
        .with_named("flatten", Flatten);
    Ok(model.with_named("classes", Linear::new(24 * 16, 10, rng)))
}

fn main() -> Result<(), Box<dyn Error>> {
    let rng = &mut ChaCha8Rng::seed_from_u64(0);
    let digits = stratified_split()?;
    let loader = DataLoader::new(digits.train.clone(), 32)?.shuffle(0);
    let model = network(rng)?;
    let adam = Adam::new(model.named_parameters(), AdamConfig::default());
    let trainer = Trainer::new(&model, adam, CrossEntropy);
    trainer.progress(Progress::Silent).fit(&loader, None, 4)?;
    model.set_training(false);

    let test = digits.test.all()?;
    let labels = test.targets.classes()?.to_vec();
    let in_f32 = no_grad(|| model.forward(&test.inputs))?;
    let percent = |y: &Tensor| 100.0 * accuracy(&y.to_vec(), 10, &labels);
    let tell = |what: &str, quantized: &QModel| -> Result<(), Box<dyn Error>> {
        let y = quantized.forward(&test.inputs)?;
        let noise = sqnr_db(&in_f32.to_vec(), &y.to_vec());
        let ratio = 1.0 / compare_sizes(&model, quantized).ratio;
        let right = percent(&y);
        println!("{what:<34} {right:6.2} %  {noise:5.1} dB  {ratio:.2}x smaller");
        Ok(())
    };
    println!("{:<34} {:6.2} %", "f32", percent(&in_f32));

    // Three workers, each with its part of the data and a file for what it saw.
    let folder = tempfile::tempdir()?;
    let parts: Vec<Vec<Tensor>> = (0..3)
        .map(|part| {
            let batch = |number: usize| -> Result<Tensor, tinytorch_core::Error> {
                let indices: Vec<usize> = (number * 32..(number + 1) * 32).collect();
                Ok(digits.train.batch(&indices)?.inputs)
            };
            (part * 4..part * 4 + 4).map(batch).collect()
        })
        .collect::<Result<_, _>>()?;
    thread::scope(|scope| {
        let worker = |(part, batches): (usize, &Vec<Tensor>)| {
            let (batches, path) = (batches.clone(), folder.path().join(part.to_string()));
            let prepared = prepare(&model, &PrepareOptions::default());
            scope.spawn(move || {
                let mut prepared = prepared?;
                prepared.number_batches_from(4 * part as u64);
                calibrate(&mut prepared, batches)?;
                save_sketches(path, &prepared.sketches())
            })
        };
        let workers: Vec<_> = parts.iter().enumerate().map(worker).collect();
        let mut ends = workers.into_iter().map(|worker| worker.join());
        ends.try_for_each(|end| end.expect("no panic").map(|_| ()))
    })?;
    let mut prepared = prepare(&model, &PrepareOptions::default())?;
    for part in 0..3 {
        prepared.merge_sketches(&load_sketches(folder.path().join(part.to_string()))?)?;
    }
    for method in [
        Calibration::MinMax,
        Calibration::Percentile(99.9),
        Calibration::Entropy,
        Calibration::MeanSquaredError,
    ] {
        prepared.recalibrate(method)?;
        tell(&format!("INT8, {method:?}"), &convert(&prepared)?)?;
    }
    prepared.recalibrate(Calibration::MinMax)?;
    println!("\nIs the data enough?");
    for report in prepared.calibration_report()? {
        println!("  {report}");
    }
    println!("\n{}", prepared.ledger());

    let data: Vec<Tensor> = parts.concat();
    let options = PrepareOptions {
        overrides: vec![
            ("sum".to_owned(), Precision::static_bits(4)),
            ("join".to_owned(), Precision::static_bits(3)),
            ("classes".to_owned(), Precision::WEIGHT_ONLY_INT4),
        ],
        ..PrepareOptions::default()
    };
    let mut mixed = prepare(&model, &options)?;
    calibrate(&mut mixed, data.clone())?;
    tell("mixed: 8, 4, 3 bits, 4 alone", &convert(&mixed)?)?;
    println!(
        "\n{}\n",
        explain(&mixed, &data, &ExplainOptions::default())?
    );
    println!(
        "{}\n",
        repair(&mut mixed, &data, &RepairOptions::default())?
    );
    tell("the same, repaired", &convert(&mixed)?)?;

    let examples = Examples {
        inputs: test.inputs.clone(),
        labels: labels.clone(),
        classes: 10,
    };
    let mut search = PrecisionSearch::new(&model, data, examples, SearchOptions::default())?;
    search.run(|search| search.points().len() >= 12)?;
    match search.fastest_above(percent(&in_f32) / 100.0 - 0.005) {
        Found::Met(point) => println!("\nfastest within half a point: {point:#?}"),
        Found::Missed(best) => println!("\nnone is within half a point; the best: {best:#?}"),
    }

    for bits in [8, 4, 2] {
        let recipe = QatRecipe {
            epochs: 3,
            ..QatRecipe::new(bits)
        };
        let trained = train_qat(&model, &loader, &recipe, |_| {})?;
        tell(
            &format!("trained for {bits} bits"),
            &trained.model.convert()?,
        )?;
    }

    let quantized = convert(&prepared)?;
    let tensorrt = profile("tensorrt").ok_or("no such profile")?;
    for finding in check_target(&quantized, tensorrt)?.iter().take(3) {
        println!("TensorRT: {finding}");
    }
    let path = folder.path().join("model.safetensors");
    quantized.save(&path)?;
    let read = QModel::load(&path)?;
    assert_eq!(
        read.forward(&test.inputs)?.to_vec(),
        quantized.forward(&test.inputs)?.to_vec()
    );
    let mut bytes = fs::read(&path)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes)?;
    match QModel::load(&path) {
        Ok(_) => return Err("a damaged file was read".into()),
        Err(error) => println!("one bit was flipped: {error}"),
    }
    Ok(())
}
