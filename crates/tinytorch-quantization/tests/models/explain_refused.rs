//! Explaining a model that cannot be converted as it is.

use rand::SeedableRng;
use tinytorch_core::Tensor;
use tinytorch_core::nn::{Linear, Residual, Sequential};
use tinytorch_quantization::explain::{Explanation, Share};
use tinytorch_quantization::{Precision, PrepareOptions, Scheme, convert};

use super::Rng;
use super::explain::{CHANNEL, calibrated, explained, network, weights};

/// Any layer that could not be quantized made the whole explanation an error, and so hid where the others lose.
#[test]
fn a_layer_that_cannot_be_quantized_is_named_and_the_others_are_explained() {
    let rng = &mut Rng::seed_from_u64(3);
    let model = network(rng);
    let x = Tensor::randn(&[64, 24], rng);
    // Scales that change within a row cannot be taken out of an integer sum.
    let in_groups = Precision::Static {
        weights: Some(Scheme::weights_in_groups(4, 8)),
    };
    let options = PrepareOptions {
        overrides: vec![("second".to_owned(), in_groups)],
        ..weights(4, CHANNEL)
    };
    let prepared = calibrated(&model, &options, &x);
    let error = convert(&prepared).expect_err("no kernel has it");
    let explanation = explained(&prepared, &x);
    let [refused] = &explanation.refused[..] else {
        panic!("{explanation}");
    };
    assert_eq!(
        (refused.layer.as_str(), &refused.why),
        ("second", &error.to_string())
    );
    assert!(
        explanation
            .to_string()
            .contains("`second` cannot be quantized")
    );
    // It is the explanation of the model with that layer in f32.
    let kept = PrepareOptions {
        overrides: vec![("second".to_owned(), Precision::Float)],
        ..weights(4, CHANNEL)
    };
    let kept = explained(&calibrated(&model, &kept, &x), &x);
    assert_eq!(kept.refused, []);
    let shares = |all: &Explanation, layer: &str| {
        let of = |share: &&Share| share.layer == layer;
        all.layers.iter().filter(of).cloned().collect::<Vec<_>>()
    };
    for layer in ["input", "first", "last"] {
        assert!(!shares(&explanation, layer).is_empty(), "{layer}");
    }
    assert_eq!(
        shares(&explanation, "first").len(),
        shares(&kept, "first").len()
    );
    // In the one the ReLU is part of the layer and its output narrower than what is before it in the other.
    assert!(
        explanation.measured <= 1.5 * kept.measured,
        "{explanation} {kept}"
    );
}

/// The same in a way of a sum, whose other way is the input: the sum is one of codes still.
#[test]
fn a_way_that_cannot_be_quantized_is_named_as_well() {
    let rng = &mut Rng::seed_from_u64(4);
    let way = Sequential::new().with_named("inner", Linear::new(24, 24, rng));
    let model = Sequential::new()
        .with_named("sum", Residual::new(way))
        .with_named("last", Linear::new(24, 8, rng));
    let x = Tensor::randn(&[64, 24], rng);
    let options = PrepareOptions {
        overrides: vec![(
            "sum.body.inner".to_owned(),
            Precision::Static {
                weights: Some(Scheme::weights_in_groups(4, 8)),
            },
        )],
        ..weights(4, CHANNEL)
    };
    let explanation = explained(&calibrated(&model, &options, &x), &x);
    assert_eq!(explanation.refused.len(), 1);
    assert_eq!(explanation.refused[0].layer, "sum.body.inner");
    assert!(explanation.is_faithful(), "{explanation}");
}
