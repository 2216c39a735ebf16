//! What 16 bits lose of small gradients and updates, and how loss scaling and master weights keep it.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tinytorch_core::Tensor;
use tinytorch_core::data::{DataLoader, Targets, TensorDataset};
use tinytorch_core::nn::{Layer, Linear, Sequential};
use tinytorch_core::optim::{Sgd, SgdConfig};
use tinytorch_core::train::{MeanSquaredError, Objective, Progress, Trainer};
use tinytorch_quantization::{Half, HalfModel, HalfWeights, LossScaler, LossScaling};

type Rng = ChaCha8Rng;

/// The mean square, made so small that its gradients are less than what f16 can hold.
struct Tiny;

const TINY: f32 = 1e-8;

impl Objective for Tiny {
    fn loss(&self, outputs: &Tensor, targets: &Targets) -> tinytorch_core::Result<Tensor> {
        Ok(&MeanSquaredError.loss(outputs, targets)? * TINY)
    }
}

#[test]
fn training_in_half_precision_needs_its_loss_scaled() {
    let rng = &mut Rng::seed_from_u64(7);
    let x = Tensor::randn(&[64, 8], rng);
    let target = x.slice_axis(1, 0..1).expect("a column");
    let dataset = TensorDataset::new(&x, Targets::Values(target)).expect("fits");
    let data = DataLoader::new(dataset, 64).expect("a batch size");
    let trained = |half: Half, scaling: Option<LossScaling>| {
        let linear = Linear::from_parts(Tensor::zeros(&[1, 8]), None).expect("[out, in]");
        let model = Sequential::new().with(linear);
        let half = HalfModel::new(&model, half);
        let config = SgdConfig {
            learning_rate: 0.25 / f64::from(TINY),
            ..SgdConfig::default()
        };
        let sgd = Sgd::new(half.named_parameters(), config);
        let mut trainer = Trainer::new(&half, sgd, Tiny).progress(Progress::Silent);
        if let Some(scaling) = scaling {
            trainer = trainer.hook(scaling);
        }
        trainer.fit(&data, None, 60).expect("it trains");
        let skipped: u64 = trainer
            .history()
            .iter()
            .map(|epoch| epoch.skipped_steps)
            .sum();
        (model.named_parameters()[0].1.to_vec(), skipped)
    };
    let (lost, skipped) = trained(Half::F16, None);
    assert_eq!(
        (lost, skipped),
        (vec![0.0; 8], 0),
        "every gradient vanished"
    );

    // 2^50 · 2 · 1e-8 / 64 is some 350,000 for an error of 1: more than f16 can hold.
    let scaling = LossScaling::new(LossScaler {
        scale: 2.0_f32.powi(50),
        ..LossScaler::default()
    })
    .expect("good numbers");
    let (learned, skipped) = trained(Half::F16, Some(scaling.clone()));
    assert!(skipped > 0, "so large a scale overflows first");
    assert_eq!(scaling.scaler().scale, 2.0_f32.powi(50 - skipped as i32));
    let target = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    for (weight, target) in learned.iter().zip(target) {
        // Weights around 1 are 2^-10 apart in f16, and errors of that size are all the outputs can tell.
        assert!((weight - target).abs() <= 2.0 / 1024.0, "{learned:?}");
    }
    // bf16 has the range of f32: nothing vanishes, and nothing need be scaled. Weights around 1 are 2^-7 apart.
    let (learned, skipped) = trained(Half::Bf16, None);
    assert_eq!(skipped, 0);
    for (weight, target) in learned.iter().zip(target) {
        assert!((weight - target).abs() <= 2.0 / 128.0, "{learned:?}");
    }
}

#[test]
fn gradients_vanish_and_overflow_exactly_where_the_format_ends() {
    // The gradient of a weight at x = 1 is what comes from above.
    let arrives = |half: Half, gradient: f32| {
        let linear = Linear::from_parts(Tensor::zeros(&[1, 1]), None).expect("[out, in]");
        let model = Sequential::new().with(linear);
        let y = HalfModel::new(&model, half).forward(&Tensor::ones(&[1, 1]));
        let upstream = Tensor::full(&[1, 1], gradient);
        y.expect("fits").backward_from(&upstream).expect("recorded");
        model.named_parameters()[0]
            .1
            .grad()
            .expect("a leaf")
            .to_vec()[0]
    };
    let power = |exponent: i32| 2.0_f32.powi(exponent);
    // The smallest number of f16 is 2^-24: half of it is a tie, and goes to 0, which is even; anything above goes up.
    assert_eq!(arrives(Half::F16, power(-24)), power(-24));
    assert_eq!(arrives(Half::F16, power(-25)), 0.0);
    assert_eq!(arrives(Half::F16, power(-25).next_up()), power(-24));
    assert_eq!(arrives(Half::Bf16, power(-40)), power(-40));
    // The largest is 65504, and the next would be 65536: halfway is a tie again, and goes up.
    assert_eq!(arrives(Half::F16, 65_520.0_f32.next_down()), 65_504.0);
    assert_eq!(arrives(Half::F16, 65_520.0), f32::INFINITY);
    assert_eq!(arrives(Half::Bf16, 65_536.0), 65_536.0);
}

/// The loss `w`, whose gradient is 1 everywhere.
struct Slope;

impl Objective for Slope {
    fn loss(&self, outputs: &Tensor, _targets: &Targets) -> tinytorch_core::Result<Tensor> {
        Ok(outputs.mean())
    }
}

#[test]
fn small_updates_are_lost_without_master_weights() {
    let x = Tensor::ones(&[4, 1]);
    let dataset = TensorDataset::new(&x, Targets::Values(x.clone())).expect("fits");
    let data = DataLoader::new(dataset, 4).expect("a batch size");
    // Numbers just below 1 are 2^-11 apart in f16 and 2^-8 in bf16: an eighth of that is lost in rounding.
    for (half, apart) in [
        (Half::F16, 2.0_f64.powi(-11)),
        (Half::Bf16, 2.0_f64.powi(-8)),
    ] {
        let trained = |master: bool| {
            let linear = Linear::from_parts(Tensor::ones(&[1, 1]), None).expect("[out, in]");
            let model = Sequential::new().with(linear);
            let half_model = HalfModel::new(&model, half);
            let config = SgdConfig {
                learning_rate: apart / 8.0,
                ..SgdConfig::default()
            };
            let sgd = Sgd::new(half_model.named_parameters(), config);
            let mut trainer = Trainer::new(&half_model, sgd, Slope).progress(Progress::Silent);
            if !master {
                trainer = trainer.hook(HalfWeights(half));
            }
            trainer.fit(&data, None, 64).expect("it trains");
            f64::from(model.named_parameters()[0].1.to_vec()[0])
        };
        assert_eq!(trained(false), 1.0, "{half:?}: all 64 updates are lost");
        // A power of two each time: exact in f32.
        assert_eq!(trained(true), 1.0 - 64.0 * apart / 8.0, "{half:?}");
    }
}
