//! Sections 4.7 and 4.8: the staircase and its gradient, halves, the loss scale.

use half::{bf16, f16};
use tinytorch_labs::table::Table;
use tinytorch_quantization::{
    CodeRange, LossScaler, QParams, fake_quantize_values, straight_through_gradient,
};

pub fn straight_through() -> String {
    let (qparams, codes) = (QParams::symmetric(0.5), CodeRange::signed(3));
    let values = [-3.0, -2.0, -0.7, 0.0, 0.2, 0.3, 1.4, 1.6, 2.0];
    let back = fake_quantize_values(&values, qparams, codes);
    let gradient = straight_through_gradient(&values, &[1.0; 9], qparams, codes);
    let mut table = Table::new(["value", "after fake quantization", "gradient"]);
    for ((value, back), gradient) in values.iter().zip(&back).zip(&gradient) {
        table.row([
            format!("{value:.1}"),
            format!("{back:.1}"),
            format!("{gradient:.0}"),
        ]);
    }
    table.to_string()
}

pub fn halves() -> String {
    let mut table = Table::new(["value", "fp16", "bf16"]);
    for value in [
        1.0,
        1.001,
        0.333_333_34,
        65_504.0,
        70_000.0,
        1e-5,
        1e-7,
        1e-8,
        1e-30_f32,
    ] {
        let (half, brain) = (
            f16::from_f32(value).to_f32(),
            bf16::from_f32(value).to_f32(),
        );
        let show = |v: f32| {
            if v != 0.0 && !(0.01..100_000.0).contains(&v) {
                format!("{v:.3e}")
            } else {
                format!("{v}")
            }
        };
        table.row([show(value), show(half), show(brain)]);
    }
    table.to_string()
}

pub fn loss_scaling() -> String {
    let mut scaler = LossScaler {
        scale: 1024.0,
        growth_interval: 3,
        ..LossScaler::default()
    };
    let mut table = Table::new([
        "step",
        "scale",
        "largest scaled gradient in fp16",
        "outcome",
        "scale after",
    ]);
    for step in 1..=8 {
        let scale = scaler.scale;
        // The largest gradient of these steps is 10; the fourth has an accident.
        let gradient = if step == 4 { 100.0 } else { 10.0 };
        let stored = f16::from_f32(gradient * scale).to_f32();
        let all_finite = scaler.unscale(&mut [stored]);
        scaler.update(all_finite);
        table.row([
            step.to_string(),
            scale.to_string(),
            stored.to_string(),
            if all_finite { "step" } else { "skipped" }.to_owned(),
            scaler.scale.to_string(),
        ]);
    }
    table.to_string()
}
