//! In which numbers each layer computes: what runs fast is the definition, what is not static needs no data, and the ledger
//! tells of everything.

use tinytorch_core::nn::{Concat, Embedding, Residual};
use tinytorch_core::no_grad;
use tinytorch_quantization::{
    Fate, Ledger, NarrowWeight, Precision, Prepared, compare_sizes, metrics,
};

use super::composites::random_tree;
use super::*;

const MODES: [Precision; 8] = [
    Precision::STATIC,
    Precision::static_bits(4),
    Precision::Dynamic,
    Precision::WEIGHT_ONLY_INT8,
    Precision::WEIGHT_ONLY_INT4,
    Precision::WeightOnly {
        bits: 4,
        group: None,
    },
    Precision::Bf16,
    Precision::Float,
];

pub(super) fn options(precision: Precision) -> PrepareOptions {
    PrepareOptions {
        precision,
        ..PrepareOptions::default()
    }
}

/// The model without any calibration.
pub(super) fn uncalibrated(model: &Sequential, options: &PrepareOptions) -> QModel {
    let prepared = prepare(model, options).expect("known layers");
    convert(&prepared).expect("nothing needs to be known")
}

/// All names that may be given to an override.
pub(super) fn names(prepared: &Prepared) -> Vec<String> {
    let all = prepared.all_stages().into_iter();
    all.map(|stage| stage.name().to_owned()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn mixtures_of_modes_give_the_bits_of_the_definition_from_memory_and_from_a_file(seed: u64) {
        let (model, x) = random_tree(seed);
        let rng = &mut Rng::seed_from_u64(seed ^ 1);
        let all = names(&prepare(&model, &PrepareOptions::default()).expect("known layers"));
        let mut options = options(MODES[rng.random_range(0..MODES.len())]);
        for name in all {
            if rng.random_range(0..3) == 0 {
                options.overrides.push((name, MODES[rng.random_range(0..MODES.len())]));
            }
        }
        let quantized = quantized(&model, &options, std::slice::from_ref(&x));
        let fast = quantized.forward(&x).expect("the sizes fit");
        let definition = quantized.forward_definition(&x).expect("the sizes fit");
        prop_assert_eq!(fast.to_vec(), definition.to_vec());
        let expected = model.forward(&x).expect("the sizes fit").to_vec();
        let report = metrics::compare(&expected, &fast.to_vec());
        // A 4-bit code keeps some 16 dB and a dozen of them one behind the other cost a few each: this only tells that the
        // pieces were put together in order.
        prop_assert!(report.sqnr_db > -3.0, "{report:?}");

        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.safetensors");
        quantized.save(&path).expect("it can be saved");
        let read = QModel::load(&path).expect("it can be read");
        prop_assert_eq!(read.forward(&x).expect("the sizes fit").to_vec(), fast.to_vec());
        prop_assert_eq!(read.memory_bytes(), quantized.memory_bytes());
        prop_assert_eq!(read.ledger(), quantized.ledger());
        let again = folder.path().join("again.safetensors");
        read.save(&again).expect("it can be saved");
        prop_assert_eq!(
            std::fs::read(&path).expect("there"),
            std::fs::read(&again).expect("there")
        );
    }

    #[test]
    fn no_damage_to_a_file_panics_or_gives_another_model(seed: u64, at: prop::sample::Index, flip in 1_u8..) {
        let (model, x) = random_tree(seed);
        let rng = &mut Rng::seed_from_u64(seed);
        let options = options(MODES[rng.random_range(0..MODES.len())]);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.safetensors");
        quantized(&model, &options, &[x]).save(&path).expect("it can be saved");
        let mut bytes = std::fs::read(&path).expect("there");
        let at = at.index(bytes.len());
        std::fs::write(&path, &bytes[..at]).expect("a place");
        prop_assert!(QModel::load(&path).is_err(), "cut after {} bytes", at);
        bytes[at] ^= flip;
        std::fs::write(&path, &bytes).expect("a place");
        prop_assert!(QModel::load(&path).is_err(), "byte {} was changed", at);
    }
}

/// An embedding, a branching middle and a linear end.
pub fn words(seed: u64) -> (Sequential, Tensor) {
    let rng = &mut Rng::seed_from_u64(seed);
    let body = Sequential::new()
        .with(Linear::new(16, 40, rng))
        .with(Relu)
        .with(Linear::new(40, 16, rng));
    let model = Sequential::new()
        .with_named("words", Embedding::new(50, 16, rng))
        .with_named("sum", Residual::new(body))
        .with_named("relu", Relu)
        .with_named("drop", Dropout::new(0.2, rng).expect("a probability"))
        .with_named("flatten", Flatten)
        .with_named("last", Linear::new(48, 5, rng));
    let ids = (0..12).map(|i| (i * 7 % 50) as f32).collect();
    (model, Tensor::new(ids, &[4, 3]).expect("twelve"))
}

#[test]
fn what_is_not_static_needs_no_data() {
    let (model, x) = words(0);
    let expected = model.forward(&x);
    // How much each keeps, at least: 8 bits of activations and weights, 8 and 4 bits of weights, 8 bits of a mantissa.
    for (precision, least) in [
        (Precision::Dynamic, 30.0),
        (Precision::WEIGHT_ONLY_INT8, 35.0),
        (Precision::WEIGHT_ONLY_INT4, 12.0),
        (Precision::Bf16, 35.0),
        (Precision::Float, 100.0),
    ] {
        model.set_training(true);
        let quantized = uncalibrated(&model, &options(precision));
        let y = quantized.forward(&x).expect("fits");
        assert_eq!(
            y.to_vec(),
            quantized.forward_definition(&x).expect("fits").to_vec()
        );
        model.set_training(false);
        let expected = model.forward(&x).expect("fits").to_vec();
        let report = metrics::compare(&expected, &y.to_vec());
        assert!(report.sqnr_db > least, "{precision:?}: {report:?}");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.safetensors");
        quantized.save(&path).expect("it can be saved");
        let read = QModel::load(&path).expect("it can be read");
        assert_eq!(read.forward(&x).expect("fits").to_vec(), y.to_vec());
        assert_eq!(
            read.ledger(),
            prepare(&model, &options(precision))
                .expect("known")
                .ledger()
                .clone()
        );
    }
    assert!(expected.is_ok());
    let prepared = prepare(&model, &options(Precision::STATIC)).expect("known layers");
    assert!(matches!(
        convert(&prepared),
        Err(Error::NothingObserved { .. })
    ));
}

/// Every static table used to have 8 bits and one scale, whatever was asked for.
#[test]
fn a_static_table_has_the_bits_that_were_asked_for() {
    let (model, x) = words(9);
    for bits in 2..=8 {
        let overrides = vec![("words".to_owned(), Precision::static_bits(bits))];
        let options = PrepareOptions {
            overrides,
            ..PrepareOptions::default()
        };
        let quantized = quantized(&model, &options, std::slice::from_ref(&x));
        let layers = quantized.layers().expect("made");
        let (rule, kind, packed) = match bits {
            8 => ("8 bits, one scale", "embedding", 800),
            5..8 => ("bits, one scale a row", "narrow_embedding", 800 + 50 * 4),
            _ => ("bits, one scale a row", "narrow_embedding", 400 + 50 * 4),
        };
        assert!(quantized.ledger().entries[0].rule.contains(rule), "{bits}");
        assert_eq!(layers[0].1.kind(), kind);
        // 50 rows of 16; beside them the parameters of the output.
        assert_eq!(layers[0].1.memory_bytes(), packed + 8, "{bits}");
        let y = quantized.forward(&x).expect("fits").to_vec();
        assert_eq!(y, quantized.forward_definition(&x).expect("fits").to_vec());
    }
}

#[test]
fn a_row_does_not_depend_on_its_batch_when_its_range_is_found_at_run_time() {
    let rng = &mut Rng::seed_from_u64(1);
    let model = Sequential::new()
        .with(Conv2d::new(Conv2dConfig::new(2, 4, 3).padding(1), rng).expect("good"))
        .with(Relu)
        .with(Flatten)
        .with(Linear::new(4 * 25, 3, rng));
    let model = uncalibrated(&model, &options(Precision::Dynamic));
    let x = Tensor::randn(&[3, 2, 5, 5], rng);
    // One image is a thousand times as bright.
    x.update(|mut values| {
        values
            .index_axis_mut(ndarray::Axis(0), 1)
            .mapv_inplace(|x| x * 1e3)
    });
    let all = model.forward(&x).expect("fits").to_vec();
    for image in 0..3 {
        let alone = x.slice_axis(0, image..image + 1).expect("there");
        let alone = model.forward(&alone).expect("fits").to_vec();
        assert_eq!(alone, all[image * 3..image * 3 + 3]);
    }
}

#[test]
fn bytes_are_those_that_are_held() {
    let rng = &mut Rng::seed_from_u64(2);
    let model = Sequential::new().with(Linear::new(1024, 256, rng));
    let weights = 1024 * 256;
    let bytes = |precision| {
        let quantized = uncalibrated(&model, &options(precision));
        compare_sizes(&model, &quantized).int8_bytes
    };
    // Half a byte a weight and an f32 for every 32, with the bias and the parameters of the input.
    let int4 = bytes(Precision::WEIGHT_ONLY_INT4);
    assert_eq!(int4, weights / 2 + weights / 32 * 4 + 256 * 4 + 8);
    assert_eq!(bytes(Precision::Bf16), weights * 2 + 256 * 4 + 8);
    assert_eq!(
        bytes(Precision::WEIGHT_ONLY_INT8),
        weights + 256 * 4 + 256 * 4 + 8
    );
    // With few outputs bf16 was held with columns of zeros that fill up a panel, and took more than f32.
    let few = Sequential::new().with(Linear::new(256, 10, rng));
    let quantized = uncalibrated(&few, &options(Precision::Bf16));
    let held = compare_sizes(&few, &quantized).int8_bytes;
    assert_eq!(held, 256 * 10 * 2 + 10 * 4 + 8);
    // The kernel's layout may hold a little more: sums of rows, offsets, padding.
    let dynamic = bytes(Precision::Dynamic);
    assert!(
        (weights..weights + weights / 16).contains(&dynamic),
        "{dynamic}"
    );
}

#[test]
fn the_longest_name_decides_and_the_last_of_equal_ones() {
    let (model, x) = words(3);
    let overrides = vec![
        ("sum.body.2".to_owned(), Precision::Bf16),
        ("sum".to_owned(), Precision::Float),
        ("sum.body".to_owned(), Precision::Dynamic),
        ("last".to_owned(), Precision::Float),
        ("last".to_owned(), Precision::WEIGHT_ONLY_INT4),
    ];
    let options = PrepareOptions {
        overrides,
        ..PrepareOptions::default()
    };
    let quantized = quantized(&model, &options, std::slice::from_ref(&x));
    let mut kinds = Vec::new();
    let layers = quantized.layers().expect("made");
    tinytorch_quantization::composite::visit(&layers, &mut |name, layer| {
        kinds.push(format!("{name}: {}", layer.kind()));
        Ok(())
    })
    .expect("nothing is refused");
    assert_eq!(
        kinds,
        [
            "words: embedding",
            "sum.body.0: dynamic_linear",
            "sum.body.2: bf16_linear",
            "sum: residual",
            "relu: relu",
            "flatten: flatten",
            "last: weight_only_linear",
        ]
    );
    let QLayer::Narrow(last) = &layers[4].1 else {
        panic!("{layers:?}")
    };
    assert!(matches!(last.weight(), NarrowWeight::Codes(_)));

    for bad in [
        vec![("las".to_owned(), Precision::Bf16)],
        vec![(
            "last".to_owned(),
            Precision::WeightOnly {
                bits: 9,
                group: None,
            },
        )],
        vec![(
            "last".to_owned(),
            Precision::WeightOnly {
                bits: 4,
                group: Some(0),
            },
        )],
    ] {
        let options = PrepareOptions {
            overrides: bad,
            ..PrepareOptions::default()
        };
        assert!(prepare(&model, &options).is_err(), "{options:?}");
    }
}

#[test]
fn the_ledger_tells_of_every_operation_and_by_which_rule() {
    let rng = &mut Rng::seed_from_u64(4);
    let model = Sequential::new()
        .with_named(
            "conv",
            Conv2d::new(Conv2dConfig::new(1, 2, 3), rng).expect("good"),
        )
        .with_named("norm", BatchNorm2d::new(2))
        .with_named("drop", Dropout::new(0.5, rng).expect("a probability"))
        .with_named("relu", Relu)
        .with_named("ways", Concat::new().with(Gelu).with(Sequential::new()))
        .with_named("pool", MaxPool2d::new(2))
        .with_named("flatten", Flatten)
        .with_named("last", Linear::new(4, 2, rng))
        .with_named("curve", Gelu)
        .with_named("end", Relu);
    let x = Tensor::randn(&[3, 1, 4, 4], rng);
    let mut prepared = prepare(&model, &PrepareOptions::default()).expect("known layers");
    calibrate(&mut prepared, [x]).expect("good data");
    let quantized = convert(&prepared).expect("calibrated");
    let ledger = quantized.ledger();
    let expected = "\
operation  kind          fate          rule
conv       conv2d        quantized     static: codes in, codes out
drop       dropout       folded        does nothing in evaluation
norm       batch_norm2d  folded        part of `conv`
relu       relu          folded        part of `conv`
ways.0     gelu          float         no integer gelu
ways       concat        quantized     its ways meet on codes
pool       max_pool2d    quantized     works on the codes of its input
flatten    flatten       quantized     works on the codes of its input
last       linear        quantized     static: codes in, codes out
curve      gelu          float         no integer gelu
end        relu          passes reals  has no weights; works on the real values that come
5 quantized, 3 folded, 1 passing reals on, 2 in f32";
    assert_eq!(ledger.to_string(), expected);
    assert_eq!(ledger.count(Fate::Folded), 3);
    let text = serde_json::to_string(&ledger).expect("JSON");
    assert_eq!(serde_json::from_str::<Ledger>(&text).expect("JSON"), ledger);
    // Without the original: what is there.
    let layers = quantized.layers().expect("made");
    let bare = QModel::new(quantized.input(), layers).expect("as before");
    assert_eq!(bare.ledger().entries.len(), 8);
    assert_eq!(bare.ledger().count(Fate::Float), 2);
}

#[test]
fn a_float_left_behind_is_an_error_if_full_coverage_is_required() {
    let rng = &mut Rng::seed_from_u64(5);
    let model = Sequential::new()
        .with(Linear::new(4, 4, rng))
        .with(Residual::new(Sequential::new().with_named("curve", Gelu)));
    let strict = |precision| PrepareOptions {
        precision,
        require_full_coverage: true,
        ..PrepareOptions::default()
    };
    let error = prepare(&model, &strict(Precision::STATIC)).expect_err("there is no integer gelu");
    assert_eq!(
        error.to_string(),
        "layer `1.body.curve` would stay in f32: no integer gelu"
    );
    let (words, _) = words(6);
    assert!(prepare(&words, &strict(Precision::STATIC)).is_ok());
    // What is allowed between narrow layers was counted as `in f32` all the same.
    let model = Sequential::new()
        .with(Linear::new(4, 4, rng))
        .with(Flatten)
        .with(Linear::new(4, 4, rng));
    let prepared = prepare(&model, &strict(Precision::Dynamic)).expect("nothing is left behind");
    let count = |fate| prepared.ledger().count(fate);
    let counts = [Fate::Quantized, Fate::PassesReals, Fate::Float].map(count);
    assert_eq!(counts, [2, 1, 0]);
    let error = prepare(&words, &strict(Precision::Float)).expect_err("everything stays");
    assert!(matches!(error, Error::LeftInFloat { name, .. } if name == "words"));
}

/// A layer that stayed in `f32` was the original's own: training it on, or putting it into training mode, changed the model that had
/// been converted and perhaps measured.
#[test]
fn what_is_done_to_the_original_does_not_reach_the_converted_model() {
    let rng = &mut Rng::seed_from_u64(8);
    let model = Sequential::new()
        .with_named("kept", Linear::new(4, 16, rng))
        .with_named("curve", Gelu)
        .with_named("first", Linear::new(16, 16, rng))
        .with_named(
            "inside",
            Residual::new(Sequential::new().with_named("kept", Linear::new(16, 16, rng))),
        )
        .with_named("last", Linear::new(16, 3, rng));
    let norms = Sequential::new()
        .with_named("norm", BatchNorm2d::new(2))
        .with_named(
            "drop",
            Residual::new(Dropout::new(0.5, rng).expect("a probability")),
        )
        .with_named("flatten", Flatten)
        .with_named("last", Linear::new(8, 3, rng));
    let keep = |names: &[&str]| PrepareOptions {
        keep_float: names.iter().map(|name| (*name).to_owned()).collect(),
        ..PrepareOptions::default()
    };
    let x = Tensor::randn(&[5, 4], rng);
    let images = Tensor::randn(&[5, 2, 2, 2], rng);
    for (model, x, options) in [
        (&model, x, keep(&["kept", "inside.body.kept"])),
        (&norms, images, keep(&["drop"])),
    ] {
        let converted = quantized(model, &options, std::slice::from_ref(&x));
        assert!(converted.in_float().count() >= 2);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model");
        converted.save(&path).expect("a place to write");
        let bytes = std::fs::read(&path).expect("it is there");
        let outputs = || {
            let fast = converted.forward(&x).expect("fits").to_vec();
            let defined = converted.forward_definition(&x).expect("fits").to_vec();
            assert_eq!(fast, defined);
            fast
        };
        let before = outputs();
        for (_, parameter) in model.named_tensors() {
            parameter.update(|mut values| values.mapv_inplace(|x| 2.0 * x + 1.0));
        }
        model.set_training(true);
        assert_eq!(outputs(), before);
        converted.save(&path).expect("a place to write");
        assert!(
            std::fs::read(&path).expect("it is there") == bytes,
            "the file changed"
        );
    }
}

/// Layers in `f32` run together; the one at fault is found all the same.
#[test]
fn a_layer_in_f32_that_does_not_fit_is_named_though_it_runs_with_its_neighbours() {
    let rng = &mut Rng::seed_from_u64(11);
    let model = Sequential::new()
        .with_named("first", conv([1, 2], rng))
        .with_named("curve", Relu)
        .with_named("second", conv([2, 3], rng))
        .with_named("last", Relu);
    let quantized = uncalibrated(&model, &options(Precision::Float));
    assert_eq!(quantized.in_float().count(), 2);
    let x = Tensor::randn(&[2, 1, 6, 7], rng);
    let y = quantized.forward(&x).expect("fits");
    assert_eq!(y.shape(), [2, 3, 2, 3]);
    let expected = no_grad(|| model.forward(&x)).expect("fits");
    assert_eq!(y.to_vec(), expected.to_vec());
    // What the first gives is smaller than the second's windows.
    let error = quantized.forward(&Tensor::zeros(&[1, 1, 4, 4]));
    assert!(matches!(error, Err(Error::Layer { name, .. }) if name == "second"));
}

fn conv([inputs, outputs]: [usize; 2], rng: &mut Rng) -> Conv2d {
    Conv2d::new(Conv2dConfig::new(inputs, outputs, 3), rng).expect("it is consistent")
}
