//! The recipe's parts: steps of scales, freezing, and what it refuses.

use tinytorch_core::nn::{Layer, Linear, Relu, Sequential};
use tinytorch_core::optim::{Adam, AdamConfig, Optimizer};
use tinytorch_core::train::{CrossEntropy, Progress, Trainer};
use tinytorch_core::{Tensor, no_grad};
use tinytorch_quantization::{
    Error, Freezing, Precision, PrepareOptions, QModel, QatAdam, QatModel, QatOptions, QatRecipe,
    Steps, convert, metrics, prepare, prepare_qat, train_qat,
};

use super::{loader, network, rng, stripes};

fn learned_everywhere(seed: u64) -> (QatModel, Tensor) {
    let rng = &mut rng(seed);
    let model = Sequential::new()
        .with(Linear::new(6, 5, rng))
        .with(Relu)
        .with(Linear::new(5, 3, rng));
    let options = QatOptions {
        activation_steps: Steps::Learned,
        ..QatOptions::learned(3)
    };
    let qat = prepare_qat(&model, &options).expect("known layers");
    (qat, Tensor::randn(&[16, 6], rng))
}

fn step(model: &QatModel, optimizer: &mut QatAdam, x: &Tensor) {
    optimizer.zero_grad();
    let y = model.forward(x).expect("fits");
    y.square().sum().backward().expect("a scalar");
    optimizer.step().expect("Adam does not fail");
}

#[test]
fn scales_of_all_sizes_move_by_the_same_share() {
    let (model, x) = learned_everywhere(1);
    let rate = 0.01;
    let mut adam = QatAdam::new(&model, 1e-3, rate);
    // Where they begin is known from the first batch on.
    no_grad(|| model.forward(&x)).expect("fits");
    let scales = |model: &QatModel| -> Vec<f32> {
        let of_weights = model
            .weighted_layers()
            .filter_map(|(_, layer)| layer.weight_scale());
        let of_activations = model
            .activations()
            .filter_map(|a| Some(a.learned_parameters()?.0));
        of_weights
            .chain(of_activations)
            .flat_map(|scale| scale.to_vec())
            .collect()
    };
    let before = scales(&model);
    step(&model, &mut adam, &x);
    let after = scales(&model);
    assert_eq!(before.len(), 5 + 3 + 3);
    let mut moved = 0;
    for (before, after) in before.iter().zip(&after) {
        // Adam's first step has the length of the rate, whatever the gradient, unless that is 0. In f32 a logarithm near
        // −5 and the exponential of it are off by some ulps of 5; Adam's epsilon takes a share of tiny gradients.
        let share = f64::from(after / before).ln().abs();
        assert!(share <= rate * 1.001, "{before} became {after}");
        moved += usize::from(share > rate * 0.9);
    }
    assert!(moved >= 8, "{moved} of {} moved", before.len());
}

#[test]
fn a_saved_optimizer_goes_on_to_the_same_bits() {
    let (one, x) = learned_everywhere(2);
    let mut adam = QatAdam::new(&one, 1e-2, 1e-2);
    step(&one, &mut adam, &x);
    let (other, _) = learned_everywhere(2);
    for ((_, target), (_, source)) in other.named_tensors().iter().zip(one.named_tensors()) {
        target.assign(&source.detach()).expect("the same shapes");
    }
    let mut resumed = QatAdam::new(&other, 1e-2, 1e-2);
    assert!(
        resumed
            .load_state(&[("nobody.step".to_owned(), Tensor::scalar(1.0))])
            .is_err()
    );
    resumed.load_state(&adam.state()).expect("its own state");
    step(&one, &mut adam, &x);
    step(&other, &mut resumed, &x);
    for ((name, a), (_, b)) in one.named_tensors().iter().zip(other.named_tensors()) {
        assert_eq!(a.to_vec(), b.to_vec(), "{name}");
    }
}

#[test]
fn what_is_frozen_stays_and_the_rest_learns_on() {
    let rng = &mut rng(3);
    let model = network(rng);
    let (x, labels) = stripes(64, rng);
    let data = loader(&x, &labels);
    let qat = prepare_qat(&model, &QatOptions::learned(4)).expect("known layers");
    let adam = QatAdam::new(&qat, 1e-3, 1e-3);
    // Two batches an epoch: all is frozen after the first epoch.
    let mut trainer = Trainer::new(&qat, adam, CrossEntropy)
        .hook(Freezing::after(2, 2))
        .progress(Progress::Silent);
    trainer.fit(&data, None, 1).expect("it trains");
    let buffers = |model: &QatModel| -> Vec<Vec<f32>> {
        model
            .named_buffers()
            .iter()
            .map(|(_, tensor)| tensor.to_vec())
            .collect()
    };
    let (frozen, weight) = (buffers(&qat), qat.named_parameters()[0].1.to_vec());
    trainer.fit(&data, None, 2).expect("it trains");
    assert_eq!(buffers(&qat), frozen);
    assert_ne!(qat.named_parameters()[0].1.to_vec(), weight);
}

fn values(model: &dyn Layer) -> Vec<(String, Vec<f32>)> {
    let tensors = model.named_tensors().into_iter();
    tensors
        .map(|(name, tensor)| (name, tensor.to_vec()))
        .collect()
}

fn keeping(name: &str) -> QatRecipe {
    let recipe = QatRecipe::new(4);
    QatRecipe {
        epochs: 2,
        qat: QatOptions {
            prepare: PrepareOptions {
                keep_float: vec![name.to_owned()],
                ..recipe.qat.prepare.clone()
            },
            ..recipe.qat.clone()
        },
        ..recipe
    }
}

#[test]
fn a_teacher_stays_as_it_was_while_a_layer_kept_in_f32_learns() {
    // Kept layers were shared with the original, which is the teacher and the baseline: both changed with every step, and the
    // teacher's batch norm was in training.
    let rng = &mut rng(5);
    let model = network(rng);
    let (x, labels) = stripes(64, rng);
    let before = values(&model);
    let trained =
        train_qat(&model, &loader(&x, &labels), &keeping("0"), |_| {}).expect("it trains");
    assert_eq!(values(&model), before);
    assert!(
        model
            .shared()
            .iter()
            .all(|(_, layer)| layer.own_training() != Some(true)),
        "it was put into evaluation mode"
    );
    // The convolution, and with it the batch norm behind it, stayed in `f32`, and learned.
    let after = values(&trained.model);
    for (name, old) in before
        .iter()
        .filter(|(name, _)| name.starts_with(['0', '1']))
    {
        let new = after.iter().find(|(own, _)| own == name);
        assert_ne!(&new.expect("kept under its name").1, old, "{name}");
    }
    assert_eq!(trained.model.shared_layers().count(), 0);

    // What was converted stays, too, whatever becomes of the model it was converted from.
    let converted = trained.model.convert().expect("it was trained");
    let y = converted.forward(&x).expect("fits").to_vec();
    trained
        .model
        .named_parameters()
        .iter()
        .for_each(|(_, p)| p.update(|mut p| p *= 2.0));
    assert_eq!(converted.forward(&x).expect("fits").to_vec(), y);
}

/// A layer of somebody's own, which says nothing of copies.
struct Factor(Tensor);

impl Layer for Factor {
    fn forward(&self, x: &Tensor) -> tinytorch_core::Result<Tensor> {
        x.try_mul(&self.0)
    }

    fn kind(&self) -> &'static str {
        "factor"
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }

    fn own_parameters(&self) -> Vec<(String, Tensor)> {
        vec![("factor".to_owned(), self.0.clone())]
    }
}

#[test]
fn a_layer_that_cannot_be_copied_has_no_teacher() {
    let rng = &mut rng(6);
    let model = Sequential::new()
        .with_named("own", Factor(Tensor::ones(&[1]).with_grad()))
        .with_named("relu", Relu)
        .with_named("last", Linear::new(6, 3, rng));
    let x = Tensor::randn(&[32, 6], rng);
    let data = loader(&x, &[1; 32]);
    let recipe = QatRecipe {
        epochs: 2,
        ..QatRecipe::new(4)
    };
    let error = train_qat(&model, &data, &recipe, |_| {}).expect_err("it would teach itself");
    assert!(
        matches!(&error, Error::Layer { name, .. } if name == "own"),
        "{error}"
    );
    let alone = QatRecipe {
        distillation: None,
        ..recipe
    };
    let trained = train_qat(&model, &data, &alone, |_| {}).expect("it trains");
    assert_eq!(trained.model.shared_layers().collect::<Vec<_>>(), ["own"]);
    assert_ne!(values(&model)[0].1, [1.0], "both share it");
}

#[test]
fn a_recipe_that_makes_no_sense_is_refused() {
    let rng = &mut rng(4);
    let model = network(rng);
    let (x, labels) = stripes(32, rng);
    let data = loader(&x, &labels);
    let refused = |recipe: QatRecipe| {
        let error = train_qat(&model, &data, &recipe, |_| {}).expect_err("no sense");
        error.to_string()
    };
    let good = QatRecipe::new(2);
    for (recipe, word) in [
        (
            QatRecipe {
                epochs: 0,
                ..good.clone()
            },
            "epochs",
        ),
        (
            QatRecipe {
                freeze_ranges: 1.5,
                ..good.clone()
            },
            "0..=1",
        ),
        (
            QatRecipe {
                learning_rate: f64::NAN,
                ..good
            },
            "learning rate",
        ),
    ] {
        let error = refused(recipe);
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn weights_of_two_bits_in_groups_learn_what_rounding_lost() {
    let rng = &mut rng(11);
    let model = network(rng);
    let (x, labels) = stripes(384, rng);
    let data = loader(&x, &labels);
    let adam = Adam::new(model.named_parameters(), AdamConfig::default());
    let mut trainer = Trainer::new(&model, adam, CrossEntropy).progress(Progress::Silent);
    trainer.fit(&data, None, 8).expect("it trains");
    drop(trainer);
    model.set_training(false);
    let teacher = no_grad(|| model.forward(&x)).expect("fits");

    let precision = Precision::WeightOnly {
        bits: 2,
        group: Some(4),
    };
    let options = PrepareOptions {
        precision,
        ..PrepareOptions::default()
    };
    let rounded =
        convert(&prepare(&model, &options).expect("known layers")).expect("no data needed");
    let recipe = QatRecipe {
        qat: options.into(),
        epochs: 6,
        ..QatRecipe::new(2)
    };
    let trained = train_qat(&model, &data, &recipe, |_| {}).expect("it trains");
    let trained = trained.model.convert().expect("nothing is missing");
    let loss = |model: &QModel| {
        let scores = model.forward(&x).expect("fits").to_vec();
        metrics::mean_cross_entropy(&scores, 3, &labels)
    };
    let (before, after) = (loss(&rounded), loss(&trained));
    assert!(after < before, "{after} is not below {before}");
    assert_eq!(trained.memory_bytes(), rounded.memory_bytes());
    // Of the original nothing was trained.
    let again = no_grad(|| model.forward(&x)).expect("fits");
    assert_eq!(again.to_vec(), teacher.to_vec());
}
