//! The recipe's parts: steps of scales, freezing, and what it refuses.

use tinytorch_core::nn::{Layer, Linear, Relu, Sequential};
use tinytorch_core::optim::Optimizer;
use tinytorch_core::train::{CrossEntropy, Progress, Trainer};
use tinytorch_core::{Tensor, no_grad};
use tinytorch_quantization::{
    Freezing, QatAdam, QatModel, QatOptions, QatRecipe, Steps, prepare_qat, train_qat,
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
