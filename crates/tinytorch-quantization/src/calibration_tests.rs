//! Every calibration method, from one sketch.

use super::*;

/// 99.9 / 100 · 1000 is 999.0000000000001: the one value too many that this kept was the outlier.
#[test]
fn a_percentile_cuts_all_values_that_it_may_cut() {
    for hundreds in [10, 20, 50, 100, 200, 1000_usize] {
        let mut values: Vec<f32> = (0..100 * hundreds)
            .map(|i| (i % 997) as f32 / 997.0)
            .collect();
        let outliers = hundreds / 10;
        values[..outliers].fill(100.0);
        let mut sketch = Sketch::new();
        sketch.observe(&values).expect("finite");
        let range = sketch.range(Calibration::Percentile(99.9), CodeRange::INT8);
        assert!(range.expect("values came").max < 1.001, "{hundreds}");
    }
    assert_eq!(kept_of(99.9, 1000), 999);
    assert_eq!(kept_of(55.0, 100), 55);
    assert_eq!(kept_of(7.0, 100), 7);
    assert_eq!(
        (kept_of(100.0, 3), kept_of(1e-9, 3), kept_of(50.0, 3)),
        (3, 1, 2)
    );
}

/// The average of 3000 batches was taken over the last 1024 without a word, 15 % beside the one that was asked for.
#[test]
fn an_average_that_would_need_forgotten_batches_is_refused() {
    let mut sketch = Sketch::new();
    let average = |sketch: &Sketch, constant| {
        sketch.range(Calibration::MovingAverage(constant), CodeRange::INT8)
    };
    for number in 0..3000 {
        if number == MAX_BATCHES {
            assert!(average(&sketch, 0.001).is_ok(), "all are remembered");
        }
        sketch.observe(&[number as f32]).expect("finite");
    }
    let Err(Error::ForgottenBatches { constant, weight }) = average(&sketch, 0.001) else {
        panic!("batches were forgotten");
    };
    assert_eq!(constant, 0.001);
    assert!((weight - 0.359).abs() < 0.001, "{weight}");
    // Older ones would weigh less than a bin is wide.
    let mut exact = MovingAverageMinMaxObserver::new(0.01).expect("a constant");
    for number in 0..3000 {
        exact.observe(&[number as f32]).expect("finite");
    }
    let (ours, exact) = (
        average(&sketch, 0.01).expect("good"),
        exact.range().expect("good"),
    );
    assert!((ours.max - exact.max).abs() <= exact.max / 1024.0);
}

#[test]
fn a_range_that_no_scale_can_span_is_refused_by_every_method() {
    let mut sketch = Sketch::new();
    sketch.observe(&[-3e38, 3e38, 3e38]).expect("finite");
    for method in [
        Calibration::MinMax,
        Calibration::MovingAverage(0.1),
        Calibration::Percentile(100.0),
        Calibration::Entropy,
        Calibration::MeanSquaredError,
    ] {
        let range = sketch.range(method, CodeRange::INT8);
        assert!(matches!(range, Err(Error::BadRange { .. })), "{method:?}");
    }
}
use crate::entropy::entropy_range;

const INT8: CodeRange = CodeRange::INT8;

fn sketch(batches: &[&[f32]]) -> Sketch {
    let mut sketch = Sketch::new();
    for batch in batches {
        sketch.observe(batch).expect("finite values");
    }
    sketch
}

fn range(min: f32, max: f32) -> ValueRange {
    ValueRange { min, max }
}

#[test]
fn worked_example_every_method_from_one_sketch() {
    // 1000 values in steps of 0.001 up to 1, and an outlier.
    let steps: Vec<f32> = (1..=1000).map(|i| i as f32 / 1000.0).collect();
    let sketch = sketch(&[&steps, &[-0.25, 8.0]]);
    let found = |method| sketch.range(method, INT8).expect("values came");
    assert_eq!(found(Calibration::MinMax), range(-0.25, 8.0));
    let average = found(Calibration::MovingAverage(0.5));
    assert_eq!(average, range(0.5 * 0.001 + 0.5 * -0.25, 0.5 + 4.0));
    // 99.8 % of 1002 values are 999.996: the 1000th magnitude is 0.999, as 0.25 comes twice. 3 octaves below the top, bins in
    // [0.5, 1) are 2⁻⁸ wide.
    let percentile = found(Calibration::Percentile(99.8));
    assert_eq!(percentile.min, -0.25);
    assert!(0.999 <= percentile.max && percentile.max <= 0.999 + 1.0 / 256.0);
    assert_eq!(sketch.clipped(percentile), 2.0 / 1002.0);
}

/// What lies between zero and values far from it was once called clipped, though every range is widened to hold zero.
#[test]
fn the_range_of_all_values_clips_none() {
    for value in [5.0, 5.3, 100.35, 1e30, 1e-40, -5.3, -1e30] {
        let sketch = sketch(&[&[value, value]]);
        let seen = sketch
            .range(Calibration::MinMax, INT8)
            .expect("values came");
        assert_eq!(sketch.clipped(seen), 0.0, "{value}");
    }
    // Half of the values are beyond 4, which is an edge of bins.
    let sketch = sketch(&[&[3.0, 5.3]]);
    assert_eq!(sketch.clipped(range(1.0, 4.0)), 0.5);
    assert_eq!(sketch.clipped(range(-1.0, 4.0)), 0.5);
}

#[test]
fn the_least_error_weighs_rounding_against_saturation() {
    // 10,000 values evenly over ±1 and one outlier of 3.
    let even: Vec<f32> = (0..10_000)
        .map(|i| (i as f32 + 0.5) / 5000.0 - 1.0)
        .collect();
    let mut values = even.clone();
    values.extend([3.0]);
    // Below −1 there is nothing, so the range is [−1, L] in 255 steps of (1 + L) / 255. Rounding costs a twelfth of a squared
    // step each, saturation (3 − L)² once: 10,001 (1 + L)² / (255² · 12) + (3 − L)². The derivative is 0 where
    // a (1 + L) = 3 − L with a = 10,001 / (255² · 12), so L = (3 − a) / (1 + a).
    let found = sketch(&[&values]).range(Calibration::MeanSquaredError, INT8);
    let a = 10_001.0 / (255.0_f32.powi(2) * 12.0);
    let exact = (3.0 - a) / (1.0 + a);
    let found = found.expect("values came");
    assert_eq!(found.min, -0.9999);
    // The search has steps of 2^(1/256), 0.27 %; the outlier is known to a bin of 2⁻⁹, 0.07 % of it; and the zero point is rounded,
    // which moves the last code by up to half a step, 0.26 % of L.
    assert!(
        (found.max / exact - 1.0).abs() < 0.006,
        "{found:?}, {exact}"
    );
    // With 4 bits, steps are 17 times as wide: the outlier goes.
    let four = sketch(&[&values]).range(Calibration::MeanSquaredError, CodeRange::INT4);
    assert!(four.expect("values came").max < 1.5);
}

#[test]
fn values_far_from_zero_have_a_range_by_every_method() {
    for sign in [1.0, -1.0] {
        let values: Vec<f32> = (0..100).map(|i| sign * (5.0 + i as f32 / 100.0)).collect();
        let sketch = sketch(&[&values]);
        for method in [
            Calibration::MinMax,
            Calibration::MovingAverage(0.5),
            Calibration::Percentile(0.1),
            Calibration::Entropy,
            Calibration::MeanSquaredError,
        ] {
            let found = sketch.range(method, INT8).expect("values came");
            assert!(choose_qparams(found, INT8).is_ok(), "{method:?}: {found:?}");
            assert!(
                found.min <= found.max && found.max_abs() >= 5.0,
                "{method:?}: {found:?}"
            );
        }
    }
}

#[test]
fn the_mean_squared_error_is_that_of_the_values() {
    let values: Vec<f32> = (0..20_000)
        .map(|i| (i as f32 * 0.7137).sin() * 2.0 + 0.3)
        .collect();
    let sketch = sketch(&[&values]);
    for codes in [INT8, CodeRange::INT4] {
        for limit in [range(-1.7, 2.3), range(-1.0, 1.5)] {
            let expected = sketch
                .mean_squared_error(limit, codes)
                .expect("a good range");
            let qparams = choose_qparams(limit, codes).expect("a good range");
            let back = crate::fake_quantize::fake_quantize_values(&values, qparams, codes);
            let errors = values
                .iter()
                .zip(&back)
                .map(|(x, y)| f64::from(x - y).powi(2));
            let exact = errors.sum::<f64>() / values.len() as f64;
            // A bin is at most an eighth of a step of 8 bits wide here, and the values fill it evenly.
            assert!((expected / exact - 1.0).abs() < 0.02, "{expected} {exact}");
        }
    }
}

#[test]
fn what_was_seen_is_kept_where_there_is_nothing_to_choose() {
    for values in [[0.0, 0.0], [1e-40, -1e-41]] {
        let sketch = sketch(&[&values]);
        let seen = sketch.seen().expect("values came");
        for method in [
            Calibration::MinMax,
            Calibration::Percentile(50.0),
            Calibration::Entropy,
            Calibration::MeanSquaredError,
        ] {
            assert_eq!(sketch.range(method, INT8), Ok(seen), "{method:?}");
            assert_eq!(sketch.clipped(seen), 0.0);
        }
    }
    // Zeros alone are enough for 90 %, but a range of nothing would lose all the rest.
    let sparse = sketch(&[&[0.0; 99], &[4.0]]);
    let found = sparse.range(Calibration::Percentile(90.0), INT8);
    assert_eq!(found, Ok(range(0.0, 4.0)));
}

#[test]
fn nothing_seen_and_bad_constants_are_errors() {
    let nothing = Sketch::new();
    for method in [
        Calibration::MinMax,
        Calibration::MovingAverage(0.1),
        Calibration::Percentile(99.0),
        Calibration::Entropy,
        Calibration::MeanSquaredError,
    ] {
        let error = nothing.range(method, INT8);
        assert_eq!(error, Err(Error::NothingObserved { tensor: None }));
    }
    let some = sketch(&[&[1.0]]);
    assert!(some.range(Calibration::Percentile(f64::NAN), INT8).is_err());
    assert!(some.range(Calibration::MovingAverage(0.0), INT8).is_err());
    assert!(SketchObserver::new(Calibration::Percentile(0.0)).is_err());
    let error = SketchObserver::new(Calibration::MinMax).map(|observer| observer.report("fc1"));
    assert!(
        matches!(error, Ok(Err(Error::NothingObserved { tensor: Some(name) })) if name == "fc1")
    );
}

#[test]
fn entropy_is_that_of_the_exercise() {
    // As far to both sides of 0, so 128 levels; and some 400 values in each bin, so they stay as wide as they are.
    let values: Vec<f32> = (0..400_000)
        .map(|i| (i as f32 * 0.37).sin() * (i as f32 * 0.7123).sin().powi(9) * 4.0)
        .chain([5.0, -5.0])
        .collect();
    let sketch = sketch(&[&values]);
    let found = sketch.range(Calibration::Entropy, INT8);
    let histogram = sketch.histogram().expect("values came");
    assert_eq!(found, entropy_range(&histogram, 128));
    assert!(found.expect("values came").max < 4.1);
}
