//! The whole way on real data: train a small network on the embedded digits, quantize it, and lose almost nothing.

#[path = "digits/targets.rs"]
mod targets;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tinytorch_core::Tensor;
use tinytorch_core::data::{DataLoader, Dataset, stratified_split};
use tinytorch_core::nn::{
    BatchNorm2d, Conv2d, Conv2dConfig, Flatten, Layer, Linear, MaxPool2d, Relu, Sequential,
};
use tinytorch_core::no_grad;
use tinytorch_core::optim::{Adam, AdamConfig};
use tinytorch_core::safetensors::save_weights;
use tinytorch_core::train::{CrossEntropy, Progress, Trainer};
use tinytorch_quantization::{
    Calibration, CodeRange, Examples, Found, Precision, PrecisionSearch, PrepareOptions, QModel,
    QatRecipe, RepairOptions, Scheme, SearchOptions, calibrate, compare_sizes, convert, metrics,
    prepare, prepare_qat, repair, train_qat,
};

fn network(seed: u64) -> Sequential {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    let conv = |inputs, outputs, rng: &mut _| {
        let config = Conv2dConfig::new(inputs, outputs, 3).padding(1);
        Conv2d::new(config, rng).expect("a good configuration")
    };
    Sequential::new()
        .with(conv(1, 32, rng))
        .with(BatchNorm2d::new(32))
        .with(Relu)
        .with(MaxPool2d::new(2))
        .with(conv(32, 64, rng))
        .with(BatchNorm2d::new(64))
        .with(Relu)
        .with(MaxPool2d::new(2))
        .with(Flatten)
        .with(Linear::new(64 * 2 * 2, 10, rng))
}

/// Images and labels to test on, and a trained model with its quantized version.
fn trained(seed: u64) -> (Sequential, QModel, Tensor, Vec<usize>) {
    trained_for(seed, 5)
}

fn trained_for(seed: u64, epochs: u64) -> (Sequential, QModel, Tensor, Vec<usize>) {
    let split = stratified_split().expect("the digits are built in");
    let calibration: Vec<usize> = (0..128).collect();
    let calibration = split.train.select(&calibration).expect("so many there are");
    let calibration = calibration.all().expect("images").inputs;
    let test = split.test.all().expect("images");
    let labels = test.targets.classes().expect("classes").to_vec();
    let data = DataLoader::new(split.train, 64)
        .expect("a batch size")
        .shuffle(seed);

    let model = network(seed);
    let adam = Adam::new(model.named_parameters(), AdamConfig::default());
    let mut trainer = Trainer::new(&model, adam, CrossEntropy).progress(Progress::Silent);
    trainer.fit(&data, None, epochs).expect("it trains");
    drop(trainer);

    let mut prepared = prepare(&model, &PrepareOptions::default()).expect("known layers");
    calibrate(&mut prepared, [calibration]).expect("good images");
    let quantized = convert(&prepared).expect("calibrated");
    (model, quantized, test.inputs, labels)
}

#[test]
fn int8_costs_less_than_a_point_and_takes_about_a_quarter() {
    let seeds = [0, 1, 2];
    let (mut real, mut int8, mut entropy) = (0.0, 0.0, 0.0);
    let split = stratified_split().expect("the digits are built in");
    let calibration: Vec<usize> = (0..128).collect();
    let calibration = split.train.batch(&calibration).expect("so many there are");
    for seed in seeds {
        let (model, quantized, images, labels) = trained(seed);
        assert_eq!(quantized.in_float().count(), 0, "everything is quantized");
        let expected = no_grad(|| model.forward(&images)).expect("fits").to_vec();
        let got = quantized.forward(&images).expect("fits").to_vec();
        real += metrics::accuracy(&expected, 10, &labels) / seeds.len() as f64;
        int8 += metrics::accuracy(&got, 10, &labels) / seeds.len() as f64;
        // Zeros of a ReLU once made entropy cut off all but the smallest values: 63 to 95 % were left.
        let options = PrepareOptions {
            calibration: Calibration::Entropy,
            ..PrepareOptions::default()
        };
        let mut prepared = prepare(&model, &options).expect("known layers");
        calibrate(&mut prepared, [calibration.inputs.clone()]).expect("good images");
        let by_entropy = convert(&prepared).expect("calibrated").forward(&images);
        let by_entropy = by_entropy.expect("fits").to_vec();
        entropy += metrics::accuracy(&by_entropy, 10, &labels) / seeds.len() as f64;
        let report = metrics::compare(&expected, &got);
        // An 8-bit code keeps some 40 dB of a tensor, and the scores have been through six of them.
        assert!(report.sqnr_db > 30.0, "{report}");

        let sizes = compare_sizes(&model, &quantized);
        assert!(sizes.ratio <= 0.27, "{sizes:?}");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("f32");
        save_weights(&path, &model).expect("a place to write");
        let f32_bytes = std::fs::metadata(path).expect("it is there").len();
        let int8_bytes = quantized
            .save(folder.path().join("int8"))
            .expect("a place to write");
        // Both files begin with a description of a kilobyte or two, which does not shrink.
        assert!(
            int8_bytes as f64 <= 0.28 * f32_bytes as f64,
            "{int8_bytes} of {f32_bytes}"
        );
    }
    assert!(real > 0.97, "trained to {real}");
    assert!(real - int8 < 0.01, "{real} in f32, {int8} in INT8");
    assert!(real - entropy < 0.01, "{real} in f32, {entropy} in INT8");
}

#[test]
fn repair_saves_what_rounding_to_few_bits_loses() {
    let split = stratified_split().expect("the digits are built in");
    let indices: Vec<usize> = (0..256).collect();
    let batches = [split
        .train
        .batch(&indices)
        .expect("so many there are")
        .inputs];
    let (model, _, images, labels) = trained(0);
    let accuracy = |scores: Tensor| 100.0 * metrics::accuracy(&scores.to_vec(), 10, &labels);
    let real = accuracy(no_grad(|| model.forward(&images)).expect("fits"));
    for (bits, target) in [(4, real - 0.5), (3, 95.0)] {
        let options = PrepareOptions {
            weights: Scheme {
                codes: CodeRange::narrow(bits),
                ..Scheme::WEIGHTS
            },
            ..PrepareOptions::default()
        };
        let mut prepared = prepare(&model, &options).expect("known layers");
        calibrate(&mut prepared, batches.clone()).expect("good images");
        let report =
            repair(&mut prepared, &batches, &RepairOptions::default()).expect("good images");
        // Amplitudes, so a tenth of them is a hundredth of the energy; measured: a tenth at both.
        assert!(report.after < report.before / 25.0, "{bits} bits\n{report}");
        let repaired = convert(&prepared).and_then(|model| model.forward(&images));
        let repaired = accuracy(repaired.expect("fits"));
        assert!(repaired >= target, "{bits} bits: {repaired} of {real}");
    }
}

#[test]
fn training_aware_of_two_bit_weights_saves_what_rounding_afterwards_loses() {
    let split = stratified_split().expect("the digits are built in");
    let test = split.test.all().expect("images");
    let labels = test.targets.classes().expect("classes").to_vec();
    let train = split.train.all().expect("images").inputs;
    let data = DataLoader::new(split.train, 64)
        .expect("a batch size")
        .shuffle(0);
    let rng = &mut ChaCha8Rng::seed_from_u64(0);
    let model = Sequential::new()
        .with(Flatten)
        .with(Linear::new(64, 32, rng))
        .with(Relu)
        .with(Linear::new(32, 10, rng));
    let fit = |model: &dyn Layer, epochs| {
        let config = AdamConfig {
            learning_rate: 3e-3,
            ..AdamConfig::default()
        };
        let adam = Adam::new(model.named_parameters(), config);
        let mut trainer = Trainer::new(model, adam, CrossEntropy).progress(Progress::Silent);
        trainer.fit(&data, None, epochs).expect("it trains");
    };
    let accuracy = |model: &QModel| {
        let scores = model.forward(&test.inputs).expect("fits").to_vec();
        metrics::accuracy(&scores, 10, &labels)
    };
    fit(&model, 20);

    let options = PrepareOptions {
        weights: Scheme {
            codes: CodeRange::narrow(2),
            ..Scheme::WEIGHTS
        },
        ..PrepareOptions::default()
    };
    let mut prepared = prepare(&model, &options).expect("known layers");
    calibrate(&mut prepared, [train]).expect("good images");
    let afterwards = accuracy(&convert(&prepared).expect("calibrated"));

    let aware = prepare_qat(&model, &options.clone().into()).expect("known layers");
    fit(&aware, 20);
    let aware = accuracy(&aware.convert().expect("it was trained"));
    assert!(aware > 0.9, "{aware} with training");
    assert!(
        aware > afterwards + 0.1,
        "{afterwards} afterwards, {aware} with training"
    );
}

#[test]
fn a_recipe_of_four_epochs_brings_two_bit_weights_to_almost_what_f32_had() {
    let (model, _, images, labels) = trained(0);
    let split = stratified_split().expect("the digits are built in");
    let data = DataLoader::new(split.train, 64)
        .expect("a batch size")
        .shuffle(1);
    let recipe = QatRecipe {
        epochs: 4,
        ..QatRecipe::new(2)
    };
    let before = model.named_parameters()[0].1.to_vec();
    let mut epochs = 0;
    let trained = train_qat(&model, &data, &recipe, |_| epochs += 1).expect("it trains");
    assert_eq!((epochs, trained.history.len()), (4, 4));
    assert_eq!(
        model.named_parameters()[0].1.to_vec(),
        before,
        "the original stays as it was"
    );
    let integers = trained.model.convert().expect("it was trained");
    let evaluated = no_grad(|| trained.model.forward(&images)).expect("fits");
    let deployed = integers.forward(&images).expect("fits").to_vec();
    assert_eq!(evaluated.to_vec(), deployed);
    // With 20 epochs the example `qat_digits` reaches 98.98 % on average over six seeds; these are four.
    let accuracy = metrics::accuracy(&deployed, 10, &labels);
    assert!(accuracy > 0.955, "{accuracy}");
}

#[test]
fn a_search_over_precisions_holds_an_answer_from_its_start_and_finds_smaller_ones() {
    let (model, _, images, labels) = trained(0);
    let split = stratified_split().expect("the digits are built in");
    let calibration: Vec<usize> = (0..64).collect();
    let calibration = split.train.select(&calibration).expect("so many there are");
    let calibration = vec![calibration.all().expect("images").inputs];
    let examples = Examples {
        inputs: images,
        labels,
        classes: 10,
    };
    let options = SearchOptions {
        turns: 1,
        timed_batch: 1,
        ..SearchOptions::default()
    };
    let search = PrecisionSearch::new(&model, calibration, examples, options);
    let mut search = search.expect("a model with weights");
    assert_eq!(search.layers(), ["0", "4", "9"]);
    assert_eq!(search.frontier().len(), 1);
    assert!(
        matches!(search.fastest_above(2.0), Found::Missed(point) if point.is_f32()),
        "nothing else was tried yet"
    );

    // Three precisions everywhere, three layers in three precisions each, and on from there. What is tried next depends on
    // the times that were measured: where f32 is slow, every neighbour of the frontier may have been tried before the 20th.
    let mut steps = 0;
    while steps < 20 && search.step().expect("a good choice") {
        steps += 1;
    }
    assert!(steps >= 12, "{steps}");
    assert!(search.refused().is_empty(), "{:?}", search.refused());
    assert_eq!(search.points().len(), 1 + steps);
    assert_eq!(search.sensitivities().len(), 9);
    let frontier = search.frontier();
    assert!(frontier.iter().any(|point| point.is_f32()));
    for point in &frontier {
        assert!(point.is_f32() || !frontier.iter().any(|other| other.dominates(point)));
    }
    let kl = |layer: &str, precision| {
        let mut all = search.sensitivities().iter();
        let found = all.find(|s| s.layer == layer && s.precision == precision);
        found.expect("every layer alone").kl
    };
    for layer in search.layers() {
        // 4 bits in groups of 32 are some 16 times as coarse as 8 bits and 8 times as bf16.
        let int4 = kl(layer, Precision::WEIGHT_ONLY_INT4);
        assert!(int4 > kl(layer, Precision::Bf16), "{layer}");
    }
    let small = search.smallest_above(0.95);
    assert!(small.is_met(), "{small:?}");
    let small = small.point();
    let bytes = search.points()[0].bytes;
    assert!(
        small.accuracy >= 0.95 && small.bytes * 3 < bytes,
        "{small:?}"
    );
    let again = search.convert(&small.precisions).expect("it was measured");
    assert_eq!(again.memory_bytes(), small.bytes);
}
