//! 15.12, the bonus: the range that loses the least information.

use tinytorch_exam::{Answer, Case, Check, Judge, Rng, Values, Visibility, refused};

use super::subject::entropy::{coarsen, divergence, entropy_range};
use super::subject::histogram::Histogram;

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "15.12/smallest-divergence",
        weight: 2,
        visibility: Visibility::Public,
        what: "bell-shaped values with and without outliers, in histograms of 32 and 64 bins, with 8 levels",
        why: "Of all ranges the one is wanted whose coarse picture resembles the values best. The whole range wastes levels on \
              emptiness, the narrowest piles up everything at its end.",
        item: "entropy_range",
        cases: |rng| {
            let mut cases = vec![case(
                "the worked example",
                4,
                2,
                vec![
                    4.0, 0.5, 0.5, -0.5, -0.5, 1.5, 1.5, 1.5, 1.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
                    0.0,
                ],
            )];
            cases.extend(
                [(32, 0.0), (64, 6.0), (64, 9.0)]
                    .map(|(bins, outlier)| bell(rng, bins, 8, outlier)),
            );
            cases
        },
        run,
        judge,
    },
    Check {
        id: "15.12/outliers-count",
        weight: 2,
        visibility: Visibility::Public,
        what: "values with many outliers, which must pile up in the last bin that is kept",
        why: "Saturation does not remove outliers, it moves them to the end. Left out of the count, the narrowest range always looks best.",
        item: "entropy_range",
        cases: |rng| (0..3).map(|_| heavy(rng, 32, 8)).collect(),
        run,
        judge,
    },
    Check {
        id: "15.12/zeros-are-free",
        weight: 1,
        visibility: Visibility::Public,
        what: "values behind a ReLU, half of them exactly 0",
        why: "Zero has a code of its own in every range. Counted, the many zeros would be spread over the first level, which looks like a \
              large loss, and the narrowest range would win.",
        item: "entropy_range",
        cases: |rng| (0..2).map(|_| rectified(rng, 64, 8)).collect(),
        run,
        judge,
    },
    Check {
        id: "15.12/within-seen",
        weight: 1,
        visibility: Visibility::Public,
        what: "values of one sign only, and values that are all zero",
        why: "The limit is one for both signs, but a range must not reach beyond what was seen: after a ReLU the negative half of the \
              codes would be wasted.",
        item: "entropy_range",
        cases: |rng| {
            let positive = bell(rng, 32, 8, 5.0);
            let values = positive
                .f32s("values")
                .map(|values| values.iter().map(|x| x.abs()).collect());
            let mut cases = vec![case("zeros", 8, 4, vec![0.0, -0.0, 0.0])];
            cases.extend(values.map(|values: Vec<f32>| case("after a ReLU", 32, 8, values)));
            cases
        },
        run,
        judge,
    },
];

pub(super) fn case(note: &str, bins: usize, levels: usize, values: Vec<f32>) -> Case {
    Case::new(
        note,
        Values::new()
            .f32s("values", values)
            .count("bins", bins)
            .count("levels", levels),
    )
}

/// 400 values of a bell and, unless it is 0, an outlier at plus and minus some multiple of the deviation.
pub(super) fn bell(rng: &mut Rng, bins: usize, levels: usize, outlier: f32) -> Case {
    clear(bins, levels, "a bell", || {
        let mut values = rng.normals(400);
        if outlier > 0.0 {
            values.extend([outlier, -0.8 * outlier]);
        }
        values
    })
}

/// A bell behind a ReLU: half of the values are 0.
pub(super) fn rectified(rng: &mut Rng, bins: usize, levels: usize) -> Case {
    clear(bins, levels, "after a ReLU", || {
        rng.normals(400).iter().map(|x| x.max(0.0)).collect()
    })
}

/// A bell with one value in ten far outside.
pub(super) fn heavy(rng: &mut Rng, bins: usize, levels: usize) -> Case {
    clear(bins, levels, "many outliers", || {
        let mut values = rng.normals(300);
        let n = rng.size(20, 40);
        values.extend(rng.f32s(n, 5.0, 9.0));
        values
    })
}

/// Draws until the smallest divergence is clearly smaller than the next: then the order in which someone adds up does
/// not decide.
fn clear(bins: usize, levels: usize, note: &str, mut draw: impl FnMut() -> Vec<f32>) -> Case {
    loop {
        let values = draw();
        let mut histogram = Histogram::new(bins);
        if histogram.add(&values).is_err() {
            continue;
        }
        let (below, above) = (histogram.negative(), histogram.positive());
        let mut both: Vec<f64> = (0..bins)
            .map(|bin| (below[bin] + above[bin]) as f64)
            .collect();
        both[0] -= histogram.zeros() as f64;
        let loss_of = |kept: usize| {
            let (inside, beyond) = both.split_at(kept);
            let mut piled = inside.to_vec();
            piled[kept - 1] += beyond.iter().sum::<f64>();
            divergence(&piled, &coarsen(inside, levels))
        };
        let mut lost: Vec<f64> = (levels..=bins).map(loss_of).collect();
        lost.sort_by(f64::total_cmp);
        if lost[1] - lost[0] > 1e-4 {
            return case(note, bins, levels, values);
        }
    }
}

pub(super) fn run(case: &Case) -> Answer {
    let mut histogram = Histogram::new(case.int("bins")?);
    histogram.add(case.f32s("values")?).map_err(refused)?;
    let range = entropy_range(&histogram, case.int("levels")?).map_err(refused)?;
    Ok(Values::new()
        .float("min", range.min)
        .float("max", range.max))
}

pub(super) fn judge() -> Judge {
    Judge::ulps(
        4,
        "the upper edge of a bin is a product of two rounded numbers",
    )
}
