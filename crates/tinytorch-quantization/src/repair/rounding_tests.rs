use super::*;
use crate::repair::numbers;

const NARROW3: CodeRange = CodeRange::narrow(3);

fn exact() -> RoundingOptions {
    RoundingOptions {
        damping: 0.0,
        learn_scales: false,
        sweeps: 10,
    }
}

/// Mean of x·xᵀ over `samples`, each of `size` values.
fn moments(samples: &[f64], size: usize) -> Vec<f64> {
    let mut sum = vec![0.0; size * size];
    for x in samples.chunks_exact(size) {
        for i in 0..size {
            for j in 0..size {
                sum[i * size + j] += x[i] * x[j] * size as f64 / samples.len() as f64;
            }
        }
    }
    sum
}

#[test]
fn worked_example_two_inputs_that_are_always_equal() {
    // Both inputs are 1: the output is the sum of the weights, 0.8. Each weight alone is nearest to 0, and the output would
    // be 0; one of them rounded up gives 1, an error of 0.2² instead of 0.8².
    let hessian = Hessian::new(&[1.0; 4], 2, 0.0).expect("finite");
    let row = round_row(&hessian, &[0.4, 0.4], &[1.0], 2, 0.0, NARROW3, exact());
    assert_eq!(row.codes.iter().sum::<i8>(), 1);
    // The smallest damping adds 1e-9 · ((0.4 − 1)² + 0.4²) to the error.
    assert!((row.error - 0.04).abs() < 1e-8, "{}", row.error);
}

#[test]
fn inputs_that_were_always_zero_leave_the_nearest_codes() {
    let hessian = Hessian::new(&[0.0; 4], 2, 0.01).expect("finite");
    let row = round_row(&hessian, &[0.4, -2.6], &[1.0], 2, 0.0, NARROW3, exact());
    assert_eq!(row.codes, [0, -3]);
}

#[test]
fn moments_that_are_not_finite_have_no_factor() {
    assert!(Hessian::new(&[f64::NAN], 1, 0.01).is_none());
    assert!(Hessian::new(&[f64::INFINITY], 1, 0.01).is_none());
}

#[test]
fn one_large_weight_is_cut_off_if_scales_may_be_learned() {
    // One weight of eight is ten times as large: with its scale all others would be 0.
    let mut target = vec![0.1; 8];
    target[3] = 1.0;
    let identity: Vec<f64> = (0..64).map(|i| f64::from(u8::from(i % 9 == 0))).collect();
    let mut important = identity.clone();
    important[3 * 9] = 1e-3;
    let hessian = Hessian::new(&important, 8, 0.0).expect("finite");
    let start = [1.0 / 3.0];
    let kept = round_row(&hessian, &target, &start, 8, 0.0, NARROW3, exact());
    let learned = RoundingOptions {
        learn_scales: true,
        ..exact()
    };
    let learned = round_row(&hessian, &target, &start, 8, 0.0, NARROW3, learned);
    assert!(learned.scales[0] < start[0]);
    assert!(learned.error < 0.5 * kept.error, "{learned:?} {kept:?}");
}

#[test]
fn a_scale_never_falls_below_the_floor() {
    let hessian = Hessian::new(&[1.0], 1, 0.0).expect("finite");
    let options = RoundingOptions {
        learn_scales: true,
        ..exact()
    };
    let row = round_row(&hessian, &[0.5], &[1.0], 1, 0.9, NARROW3, options);
    assert!(row.scales[0] >= 0.9);
}

/// GPTQ by the book (Frantar et al. 2022, section 3.1): invert H, round one column after another, spread its error over
/// those still to come, and take the column out of the inverse.
fn by_the_book(moments: &[f64], order: &[usize], target: &[f64], scale: f32) -> Vec<i8> {
    let size = target.len();
    let factor = Cholesky::new(moments, size).expect("positive definite");
    let mut inverse = vec![0.0; size * size];
    for i in 0..size {
        let mut unit = vec![0.0; size];
        unit[i] = 1.0;
        factor.solve(&mut unit);
        inverse[i * size..(i + 1) * size].copy_from_slice(&unit);
    }
    let mut w = target.to_vec();
    let mut codes = vec![0; size];
    for (done, &j) in order.iter().enumerate() {
        let code = (w[j] / f64::from(scale)).round_ties_even().clamp(-3.0, 3.0);
        codes[j] = code as i8;
        let error = (w[j] - code * f64::from(scale)) / inverse[j * size + j];
        for &k in &order[done + 1..] {
            w[k] -= error * inverse[j * size + k];
        }
        let removed: Vec<f64> = inverse[j * size..(j + 1) * size].to_vec();
        for a in 0..size {
            for b in 0..size {
                inverse[a * size + b] -= removed[a] * removed[b] / removed[j];
            }
        }
    }
    codes
}

/// Random moments and a random row of `size` weights.
fn random_case(seed: u64, size: usize) -> (Vec<f64>, Vec<f64>) {
    let samples = numbers(2 * seed, 4 * size * size);
    (moments(&samples, size), numbers(2 * seed + 1, size))
}

#[test]
fn the_order_of_columns_is_that_of_gptq() {
    for seed in 0..64 {
        let (moments, target) = random_case(seed, 6);
        let hessian = Hessian::new(&moments, 6, 0.01).expect("finite");
        let row = Row {
            hessian: &hessian,
            target: &target,
            codes: NARROW3,
            block: 6,
        };
        let order: Vec<usize> = hessian.order.iter().rev().copied().collect();
        let expected = by_the_book(&hessian.matrix, &order, &target, 0.25);
        assert_eq!(
            row.round_in_order(vec![0.25]).codes,
            expected,
            "seed {seed}"
        );
    }
}

#[test]
fn never_worse_than_the_nearest_codes_nor_better_than_the_best() {
    let (mut nearest_sum, mut got_sum, mut best_sum) = (0.0, 0.0, 0.0);
    for seed in 0..64 {
        let (moments, target) = random_case(seed, 4);
        let hessian = Hessian::new(&moments, 4, 0.01).expect("finite");
        let row = Row {
            hessian: &hessian,
            target: &target,
            codes: NARROW3,
            block: 4,
        };
        let nearest = row.round_to_nearest(vec![0.25]).error;
        let options = RoundingOptions {
            learn_scales: seed % 2 == 0,
            ..exact()
        };
        let got = round_row(&hessian, &target, &[0.25], 4, 0.0, NARROW3, options);
        assert!(got.error <= nearest, "seed {seed}");
        // All 7⁴ rows there are, with the scale that was chosen.
        let best = (0..7_i32.pow(4)).map(|n| {
            let codes = (0..4).map(|j| (n / 7_i32.pow(j) % 7 - 3) as i8).collect();
            row.judged(codes, got.scales.clone()).error
        });
        let best = best.fold(f64::INFINITY, f64::min);
        // The same sum in the same order gives the same bits, so there is nothing to tolerate.
        assert!(got.error >= best, "seed {seed}");
        nearest_sum += nearest;
        got_sum += got.error;
        best_sum += best;
    }
    // With independent inputs there is less to win than on real data; of what there is, most is won.
    assert!(
        got_sum - best_sum < 0.2 * (nearest_sum - best_sum),
        "{nearest_sum} {got_sum} {best_sum}"
    );
}

#[test]
fn blocks_of_columns_have_scales_of_their_own() {
    for seed in 0..64 {
        let (moments, target) = random_case(seed, 6);
        let hessian = Hessian::new(&moments, 6, 0.01).expect("finite");
        let row = Row {
            hessian: &hessian,
            target: &target,
            codes: NARROW3,
            block: 4,
        };
        let start = vec![0.3, 0.2];
        let nearest = row.round_to_nearest(start.clone());
        let learned = RoundingOptions::default();
        let got = round_row(&hessian, &target, &start, 4, 0.0, NARROW3, learned);
        assert_eq!(got.scales.len(), 2);
        assert!(got.error <= nearest.error, "seed {seed}");
        assert!(got.codes.iter().all(|&code| NARROW3.contains(code.into())));
    }
}

#[test]
fn rows_that_share_a_scale_choose_it_together() {
    // In the first row one weight is large and never used; the second row is well served by the scale 0.3.
    let mut unused = vec![0.0; 16];
    for i in 1..4 {
        unused[i * 5] = 1.0;
    }
    let identity: Vec<f64> = (0..16).map(|i| f64::from(u8::from(i % 5 == 0))).collect();
    let (first, second) = (
        Hessian::new(&unused, 4, 0.0).expect("finite"),
        Hessian::new(&identity, 4, 0.0).expect("finite"),
    );
    let rows = [[1.5, 0.3, 0.3, 0.3], [0.6, 0.3, 0.0, -0.3]];
    let rows: Vec<(&Hessian, &[f64])> = [&first, &second]
        .into_iter()
        .zip(rows.iter().map(|r| &r[..]))
        .collect();
    let scale = shared_scale(&rows, 0.5, 0.0, NARROW3);
    assert!((scale - 0.3).abs() < 0.02, "{scale}");
    assert_eq!(shared_scale(&rows, 0.5, 0.5, NARROW3), 0.5);
}
