//! Each rule of each target: a model that breaks it is found by layer and tensor, and its repair silences it.

use tinytorch_core::nn::Residual;
use tinytorch_quantization::target::{
    CORE_ML, EDGE_TPU, JETSON_DLA, LITERT_CPU, LLAMA_CPP, Limit, ONNX_RUNTIME_X86, PROFILES, Rule,
    Severity, TENSORRT, profile,
};
use tinytorch_quantization::{
    Finding, Parameters, Precision, Profile, QLinear, QParams, QTensor, Symmetry, check_target,
};

use super::*;

/// Two linear layers, `[64 -> 32]` with a ReLU and `[32 -> 10]`.
fn model(precision: Precision, weights: Scheme) -> QModel {
    let rng = &mut Rng::seed_from_u64(5);
    let model = Sequential::new()
        .with_named("fc1", Linear::new(64, 32, rng))
        .with_named("relu", Relu)
        .with_named("fc2", Linear::new(32, 10, rng));
    let options = PrepareOptions {
        precision,
        weights,
        ..PrepareOptions::default()
    };
    quantized(&model, &options, &[Tensor::randn(&[16, 64], rng)])
}

fn of(precision: Precision) -> QModel {
    model(precision, Scheme::WEIGHTS)
}

fn found(model: &QModel, profile: &Profile, limit: impl Fn(Limit) -> bool) -> Vec<Finding> {
    let findings = check_target(model, profile).expect("a model that was made");
    let mine = findings.into_iter().filter(|finding| limit(finding.limit));
    mine.collect()
}

/// Where: `fc1.weight`.
fn places(findings: &[Finding]) -> Vec<String> {
    let place = |finding: &Finding| format!("{}.{}", finding.layer, finding.tensor);
    findings.iter().map(place).collect()
}

#[test]
fn a_zero_point_is_found_where_the_target_has_none() {
    for profile in [&TENSORRT, &JETSON_DLA] {
        let is = |limit| limit == Limit::SymmetricActivations;
        let findings = found(&of(Precision::STATIC), profile, is);
        // Behind a ReLU all codes are for positive values: 0 is the lowest.
        let fc1 = findings.iter().find(|finding| finding.layer == "fc1");
        let fc1 = fc1.expect("the ReLU makes it asymmetric");
        assert_eq!(
            (fc1.tensor, fc1.found.as_str()),
            ("output", "zero point -128")
        );
        assert!(fc1.is_refused());
        let text = fc1.to_string();
        assert!(text.starts_with(&format!(
            "{}: refused: fc1: output: zero point -128: ",
            profile.name
        )));
        assert!(text.ends_with(fc1.repair));
        assert_eq!(found(&of(Precision::WEIGHT_ONLY_INT8), profile, is), []);
    }
}

/// There was no way to such a model: the advice was to choose scales anew by hand.
#[test]
fn a_model_of_symmetric_activations_is_taken_where_zero_points_are_refused() {
    let rng = &mut Rng::seed_from_u64(5);
    let network = Sequential::new()
        .with_named("fc1", Linear::new(64, 32, rng))
        .with_named("relu", Relu)
        .with_named("fc2", Linear::new(32, 10, rng));
    let options = PrepareOptions {
        activations: Symmetry::Symmetric,
        ..PrepareOptions::default()
    };
    let x = Tensor::randn(&[16, 64], rng);
    let model = quantized(&network, &options, std::slice::from_ref(&x));
    // The largest magnitude is the last code, on either side.
    let largest = x.to_vec().into_iter().fold(0.0_f32, |m, x| m.max(x.abs()));
    assert_eq!(model.input(), QParams::symmetric(largest / 127.0));
    for profile in [&TENSORRT, &JETSON_DLA] {
        let findings = check_target(&model, profile).expect("a model that was made");
        assert!(!findings.iter().any(Finding::is_refused), "{findings:?}");
    }
}

#[test]
fn signed_codes_cost_time_on_x86() {
    let is = |limit| limit == Limit::SignedActivations;
    let findings = found(&of(Precision::STATIC), &ONNX_RUNTIME_X86, is);
    assert_eq!(places(&findings), ["model.activations"]);
    assert_eq!(findings[0].found, "3 tensors of i8 codes");
    assert_eq!(findings[0].severity, Severity::Slower);
    assert_eq!(
        found(&of(Precision::WEIGHT_ONLY_INT8), &ONNX_RUNTIME_X86, is),
        []
    );
}

#[test]
fn weights_of_seven_bits_cannot_saturate_sixteen() {
    let is = |limit| limit == Limit::PairsFitI16;
    for precision in [Precision::STATIC, Precision::Dynamic] {
        let findings = found(&of(precision), &ONNX_RUNTIME_X86, is);
        assert_eq!(places(&findings), ["fc1.weight", "fc2.weight"]);
    }
    assert_eq!(
        found(&of(Precision::static_bits(7)), &ONNX_RUNTIME_X86, is),
        []
    );
}

#[test]
fn bits_that_a_target_does_not_have() {
    let is = |limit| matches!(limit, Limit::StaticWeightBits(_));
    let four = of(Precision::static_bits(4));
    for profile in [&TENSORRT, &EDGE_TPU, &CORE_ML, &JETSON_DLA] {
        assert_eq!(
            places(&found(&four, profile, is)),
            ["fc1.weight", "fc2.weight"]
        );
        assert_eq!(found(&of(Precision::STATIC), profile, is), []);
    }
    for profile in [&ONNX_RUNTIME_X86, &LITERT_CPU] {
        assert_eq!(found(&four, profile, is), []);
        let three = found(&of(Precision::static_bits(3)), profile, is);
        assert_eq!(three[0].found, "3 bits");
    }
}

#[test]
fn layers_that_a_target_does_not_have() {
    let dynamic = of(Precision::Dynamic);
    for profile in [&TENSORRT, &EDGE_TPU, &CORE_ML, &JETSON_DLA] {
        let findings = found(&dynamic, profile, |limit| limit == Limit::DynamicLayers);
        assert_eq!(
            places(&findings),
            ["fc1.dynamic_linear", "fc2.dynamic_linear"]
        );
    }
    let is = |limit| limit == Limit::FloatLayers;
    for precision in [Precision::Bf16, Precision::Float] {
        let findings = found(&of(precision), &EDGE_TPU, is);
        assert!(
            findings.iter().any(|finding| finding.layer == "fc2"),
            "{findings:?}"
        );
    }
    assert_eq!(found(&of(Precision::STATIC), &EDGE_TPU, is), []);
    let is = |limit| limit == Limit::StaticLayers;
    let findings = found(&of(Precision::STATIC), &LLAMA_CPP, is);
    assert_eq!(places(&findings), ["fc1.linear", "fc2.linear"]);
    assert_eq!(found(&dynamic, &LLAMA_CPP, is), []);
}

#[test]
fn weights_alone_in_bits_and_groups_that_a_target_does_not_have() {
    let is = |limit| matches!(limit, Limit::WeightOnly { .. });
    let group = |size| {
        of(Precision::WeightOnly {
            bits: 4,
            group: Some(size),
        })
    };
    let [int4, int8] = [
        of(Precision::WEIGHT_ONLY_INT4),
        of(Precision::WEIGHT_ONLY_INT8),
    ];
    let refused: [(&Profile, &QModel, &str); 6] = [
        (&TENSORRT, &int4, "weights alone, 4 bits in groups of 32"),
        (&TENSORRT, &int8, "weights alone, 8 bits without groups"),
        (&LLAMA_CPP, &int8, "weights alone, 8 bits without groups"),
        (&EDGE_TPU, &int8, "weights alone, 8 bits without groups"),
        (&JETSON_DLA, &int4, "weights alone, 4 bits in groups of 32"),
        (
            &LITERT_CPU,
            &group(16),
            "weights alone, 4 bits in groups of 16",
        ),
    ];
    for (profile, model, expected) in refused {
        let findings = found(model, profile, is);
        assert_eq!(places(&findings), ["fc1.weight", "fc2.weight"]);
        assert_eq!(findings[0].found, expected);
    }
    let accepted: [(&Profile, &QModel); 6] = [
        (&TENSORRT, &group(64)),
        (&LLAMA_CPP, &int4),
        (&LITERT_CPU, &int4),
        (&LITERT_CPU, &int8),
        (&CORE_ML, &group(7)),
        (&ONNX_RUNTIME_X86, &int4),
    ];
    for (profile, model) in accepted {
        assert_eq!(found(model, profile, is), [], "{}", profile.name);
    }
}

#[test]
fn sizes_that_a_target_minds() {
    let rng = &mut Rng::seed_from_u64(1);
    let odd = Sequential::new().with_named("fc", Linear::new(20, 4, rng));
    let options = PrepareOptions {
        precision: Precision::WEIGHT_ONLY_INT4,
        ..PrepareOptions::default()
    };
    let odd = quantized(&odd, &options, &[Tensor::randn(&[2, 20], rng)]);
    let is = |limit| matches!(limit, Limit::RowMultipleOf(_));
    let findings = found(&odd, &LLAMA_CPP, is);
    assert_eq!(
        (places(&findings), findings[0].found.as_str()),
        (vec!["fc.weight".to_owned()], "rows of 20")
    );
    assert_eq!(found(&of(Precision::WEIGHT_ONLY_INT4), &LLAMA_CPP, is), []);

    // 64 · 32 = 2048 values are enough, 32 · 10 are not.
    let findings = found(&of(Precision::STATIC), &CORE_ML, |limit| {
        matches!(limit, Limit::SmallWeights(_))
    });
    assert_eq!(
        (places(&findings), findings[0].severity),
        (vec!["fc2.weight".to_owned()], Severity::Note)
    );

    let model = of(Precision::STATIC);
    let is = |limit| matches!(limit, Limit::CacheBytes(_));
    assert_eq!(found(&model, &EDGE_TPU, is), []);
    let large = EDGE_TPU.rules.iter().find(|rule| is(rule.limit));
    let rules: &'static [Rule] = Box::leak(Box::new([Rule {
        limit: Limit::CacheBytes(model.memory_bytes() - 1),
        ..*large.expect("it has such a rule")
    }]));
    let small = Profile { rules, ..EDGE_TPU };
    assert_eq!(places(&found(&model, &small, is)), ["model.parameters"]);
}

#[test]
fn a_scale_for_each_output_of_a_linear_layer_is_noted() {
    let is = |limit| limit == Limit::LinearPerChannel;
    let findings = found(&of(Precision::STATIC), &LITERT_CPU, is);
    assert_eq!(places(&findings), ["fc1.weight", "fc2.weight"]);
    let per_tensor = Scheme {
        granularity: Granularity::PerTensor,
        ..Scheme::WEIGHTS
    };
    assert_eq!(
        found(&model(Precision::STATIC, per_tensor), &LITERT_CPU, is),
        []
    );
}

#[test]
fn the_lowest_code_of_weights_is_found() {
    let qparams = QParams::symmetric(0.5);
    let layer = |code: i8, range| {
        let weight = QTensor::new(
            vec![code, 1],
            &[1, 2],
            Parameters::PerTensor(qparams),
            range,
        );
        let layer =
            QLinear::from_parts(weight.expect("in range"), vec![0], qparams, qparams, false);
        let layers = vec![("fc".to_owned(), QLayer::Linear(layer.expect("it fits")))];
        QModel::new(qparams, layers).expect("a model")
    };
    for profile in [&LITERT_CPU, &EDGE_TPU] {
        let is = |limit| limit == Limit::NarrowCodes;
        let findings = found(&layer(-128, CodeRange::INT8), profile, is);
        assert_eq!(places(&findings), ["fc.weight"]);
        assert_eq!(found(&layer(-127, CodeRange::INT8), profile, is), []);
    }
}

#[test]
fn layers_inside_of_sums_are_looked_at_too() {
    let rng = &mut Rng::seed_from_u64(2);
    let body = Sequential::new().with_named("inner", Linear::new(8, 8, rng));
    let model = Sequential::new().with_named("block", Residual::new(body));
    let model = quantized(
        &model,
        &PrepareOptions::default(),
        &[Tensor::randn(&[9, 8], rng)],
    );
    let findings = found(&model, &LLAMA_CPP, |limit| limit == Limit::StaticLayers);
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(findings[0].layer.contains("inner") && findings[1].layer.starts_with("block"));
}

#[test]
fn every_profile_is_known_by_name_and_says_why_and_how() {
    for known in &PROFILES {
        assert_eq!(profile(known.name), Some(known));
        assert!(
            known
                .rules
                .iter()
                .all(|rule| !rule.why.is_empty() && !rule.repair.is_empty())
        );
    }
    assert_eq!(profile("toaster"), None);
    let empty = QModel::new(QParams::symmetric(1.0), Vec::new()).expect("nothing");
    for known in &PROFILES {
        assert_eq!(check_target(&empty, known), Ok(Vec::new()));
    }
}
