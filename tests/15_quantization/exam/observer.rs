//! 15.6: what range do the values really take?

use tinytorch_exam::{Answer, Case, Check, Judge, Rng, Stop, Values, Visibility, refused};

use super::subject::histogram::Histogram;
use super::subject::observer::{
    MinMaxObserver, MovingAverageMinMaxObserver, Observer, PercentileObserver,
};

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "15.6/min-max-all-batches",
        weight: 2,
        visibility: Visibility::Public,
        what: "the range after each of several batches, the widest of which is not the last",
        why: "Calibration feeds batch after batch. An observer that remembers only the last one gives ranges that depend on the order \
              of the data.",
        item: "MinMaxObserver::observe",
        cases: |rng| {
            let mut cases = vec![batches_case(
                "the worked example",
                &[vec![1.0, 3.0], vec![-2.0, 2.0]],
            )];
            for _ in 0..2 {
                let mut batches: Vec<_> = (0..4).map(|_| rng.f32s(6, -1.0, 1.0)).collect();
                batches[1] = rng.f32s(6, -9.0, 9.0);
                cases.push(batches_case("wide, then narrow", &batches));
            }
            cases
        },
        run: run_min_max,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.6/min-max-first-batch",
        weight: 1,
        visibility: Visibility::Public,
        what: "batches that lie wholly above or wholly below zero, and an empty batch",
        why: "An observer reports what it saw; widening to hold zero is another function's work. One that starts at [0, 0] hides \
              from every report that a layer never gets near zero.",
        item: "MinMaxObserver::observe",
        cases: |rng| {
            let above = rng.f32s(5, 1.0, 4.0);
            let below = rng.f32s(5, -4.0, -1.0);
            vec![
                batches_case("above zero", std::slice::from_ref(&above)),
                batches_case("below zero", std::slice::from_ref(&below)),
                batches_case("an empty batch in between", &[above, Vec::new(), vec![0.5]]),
            ]
        },
        run: run_min_max,
        judge: || Judge::Equal,
    },
    Check {
        id: "15.6/moving-average-weights",
        weight: 2,
        visibility: Visibility::Public,
        what: "the averaged range after each of several batches, averaging constants from 0.01 to 0.5",
        why: "The constant is the weight of the new batch. With the weights the wrong way round the last batch decides nearly alone, \
              and one outlier ruins the calibration that averaging was to protect.",
        item: "MovingAverageMinMaxObserver::observe",
        cases: |rng| {
            let mut cases = vec![average_case(
                "the worked example",
                0.5,
                &[vec![0.0, 4.0], vec![-2.0, 8.0]],
            )];
            for constant in [0.01, 0.1, 0.25] {
                let batches: Vec<_> = (0..4).map(|_| spread(rng)).collect();
                cases.push(average_case("random batches", constant, &batches));
            }
            cases
        },
        run: run_average,
        judge: judge_average,
    },
    Check {
        id: "15.6/moving-average-first-batch",
        weight: 1,
        visibility: Visibility::Public,
        what: "the averaged range after the first batch, also if an empty batch comes before or after it",
        why: "With the constant 0.01 an average that starts at zero needs hundreds of batches to arrive; calibration rarely has so \
              many, so every range would come out far too narrow.",
        item: "MovingAverageMinMaxObserver::observe",
        cases: |rng| {
            let batch = spread(rng);
            vec![
                average_case("one batch", 0.01, &[vec![10.0, 20.0]]),
                average_case("one random batch", 0.1, std::slice::from_ref(&batch)),
                average_case(
                    "an empty batch first and last",
                    0.25,
                    &[Vec::new(), batch, Vec::new()],
                ),
            ]
        },
        run: run_average,
        judge: judge_average,
    },
    Check {
        id: "15.6/percentile-both-tails",
        weight: 2,
        visibility: Visibility::Public,
        what: "values with outliers on either side, or on both, and the percentiles 75 and 90",
        why: "Magnitudes are what is cut. A percentile of the signed values cuts the largest positive ones and keeps every large \
              negative one, so the worst outlier may survive.",
        item: "PercentileObserver::range",
        cases: |rng| {
            vec![
                percentile_case("the worked example", 75.0, 4, vec![0.5, 0.5, -1.5, 4.0]),
                percentile_case("a negative outlier", 90.0, 64, with_outliers(rng, &[-40.0])),
                percentile_case("a positive outlier", 90.0, 64, with_outliers(rng, &[40.0])),
                percentile_case("both", 90.0, 64, with_outliers(rng, &[-40.0, 33.0])),
                percentile_case(
                    "mostly positive",
                    60.0,
                    16,
                    vec![0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 16.0, -0.5, -9.5],
                ),
            ]
        },
        run: run_percentile,
        judge: judge_percentile,
    },
    Check {
        id: "15.6/percentile-upper-edge",
        weight: 2,
        visibility: Visibility::Public,
        what: "small histograms in which the limit can be counted by hand, at several percentiles",
        why: "The bin in which the last value to be kept lies must be kept whole, up to its upper edge; its lower edge would cut \
              values that were counted as kept.",
        item: "PercentileObserver::range",
        cases: |_| {
            let values = vec![-8.0, -5.5, -0.5, 0.5, 1.5, 1.25, 2.5, 3.5, 4.5, 6.5];
            [30.0, 50.0, 60.0, 80.0, 90.0]
                .into_iter()
                .map(|percentile| {
                    percentile_case("eight bins of width 1", percentile, 8, values.clone())
                })
                .collect()
        },
        run: run_percentile,
        judge: judge_percentile,
    },
    Check {
        id: "15.6/percentile-within-seen",
        weight: 2,
        visibility: Visibility::Public,
        what: "values of one sign only, and the percentile 100",
        why: "After a ReLU nothing is negative. A range that is symmetric around zero, or reaches beyond what was seen, spends \
              up to half of the codes on values that never come.",
        item: "PercentileObserver::range",
        cases: |rng| {
            let positive = rng.f32s(40, 0.0, 3.0);
            let negative = rng.f32s(40, -3.0, 0.0);
            vec![
                percentile_case("after a ReLU", 90.0, 32, positive.clone()),
                percentile_case("never positive", 90.0, 32, negative),
                percentile_case("everything", 100.0, 32, [positive, vec![-0.7]].concat()),
            ]
        },
        run: run_percentile,
        judge: judge_percentile,
    },
];

/// A batch from about −8 to about 8, with both ends at least 1 away from zero, so that averages do not cancel.
pub(super) fn spread(rng: &mut Rng) -> Vec<f32> {
    let mut batch = rng.f32s(4, -1.0, 1.0);
    batch.push(rng.f32(-8.0, -1.0));
    batch.push(rng.f32(1.0, 8.0));
    batch
}

/// 60 values in −1..1 and some far away.
pub(super) fn with_outliers(rng: &mut Rng, outliers: &[f32]) -> Vec<f32> {
    let mut values = rng.f32s(60, -1.0, 1.0);
    values.extend(outliers);
    values
}

/// Batches travel as one list and their lengths.
fn batches(values: Values, batches: &[Vec<f32>]) -> Values {
    let lengths = batches
        .iter()
        .map(|batch| i64::try_from(batch.len()).unwrap_or(i64::MAX));
    values
        .f32s("values", batches.concat())
        .ints("batch_lengths", lengths)
}

fn batches_of(case: &Case) -> Result<Vec<&[f32]>, Stop> {
    let mut rest = case.f32s("values")?;
    let mut found = Vec::new();
    for length in case.ints::<usize>("batch_lengths")? {
        let (batch, after) = rest
            .split_at_checked(length)
            .ok_or_else(|| Stop::Malformed("`batch_lengths` exceed `values`".to_owned()))?;
        found.push(batch);
        rest = after;
    }
    Ok(found)
}

pub(super) fn batches_case(note: &str, of: &[Vec<f32>]) -> Case {
    Case::new(note, batches(Values::new(), of))
}

pub(super) fn average_case(note: &str, constant: f32, of: &[Vec<f32>]) -> Case {
    Case::new(
        note,
        batches(Values::new().float("averaging_constant", constant), of),
    )
}

pub(super) fn percentile_case(note: &str, percentile: f32, bins: usize, values: Vec<f32>) -> Case {
    let inputs = Values::new()
        .float("percentile", percentile)
        .count("bins", bins);
    Case::new(note, batches(inputs, &[values]))
}

/// The range after every batch that leaves the observer with one.
fn observe(observer: &mut dyn Observer, case: &Case) -> Answer {
    let (mut min, mut max) = (Vec::new(), Vec::new());
    for batch in batches_of(case)? {
        observer.observe(batch).map_err(refused)?;
        // An empty batch first leaves nothing to report, which is an error of `range` by its contract.
        if let Ok(range) = observer.range() {
            min.push(range.min);
            max.push(range.max);
        }
    }
    Ok(Values::new().f32s("min", min).f32s("max", max))
}

pub(super) fn run_min_max(case: &Case) -> Answer {
    observe(&mut MinMaxObserver::default(), case)
}

pub(super) fn run_average(case: &Case) -> Answer {
    let mut observer =
        MovingAverageMinMaxObserver::new(case.float("averaging_constant")?).map_err(refused)?;
    observe(&mut observer, case)
}

pub(super) fn run_percentile(case: &Case) -> Answer {
    let histogram = Histogram::new(case.int("bins")?);
    let percentile = f64::from(case.float("percentile")?);
    let mut observer = PercentileObserver::new(percentile, histogram).map_err(refused)?;
    // The given histogram does the observing; the exercise is `range`.
    for batch in batches_of(case)? {
        observer.observe(batch).map_err(refused)?;
    }
    let range = observer.range().map_err(refused)?;
    Ok(Values::new()
        .float("min", range.min)
        .float("max", range.max))
}

pub(super) fn judge_average() -> Judge {
    // At most 5 batches of values below 20, each with at most 4 roundings of half a unit: 5 · 4 · 20 · 2⁻²⁴ = 2.4e-5.
    Judge::within(
        2.4e-5,
        0.0,
        "each batch rounds up to four times, by at most half a unit of a value below 20",
    )
}

pub(super) fn judge_percentile() -> Judge {
    Judge::ulps(
        4,
        "the upper edge of a bin is a product of two rounded numbers",
    )
}
