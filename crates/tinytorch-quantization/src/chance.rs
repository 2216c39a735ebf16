//! The distributions behind the intervals of `confidence.rs`: of a new maximum, of order statistics, of counts.
//!
//! In: how many values there are. Out: where 95 of 100 others lie. What is simulated has a fixed seed and is the same everywhere.

/// The normal quantile of 97.5 %.
const Z: f64 = 1.959_964;

/// Simulated draws behind the prediction of a maximum: the 25th from either end are its 95 %.
const DRAWS: usize = 1000;

/// The largest of `count` values whose density falls exponentially, seen from the `used + 1` largest of `count` others.
///
/// With `u` the value before the `used` largest and `s` their mean distance from it, `(new maximum − u) / s` has a distribution that
/// does not depend on where the tail begins and how fast it falls (Weissman 1978). Its quantiles are found by simulation.
pub(crate) struct Tail {
    used: usize,
    low: f64,
    high: f64,
}

impl Tail {
    pub fn of(count: usize) -> Self {
        // More values say more about how fast the tail falls, and less about the tail.
        let used = ((2.0 * (count as f64).sqrt()).ceil() as usize).min(count - 1);
        let mut random = Random(1978);
        let mut draws = [0.0; DRAWS];
        for draw in &mut draws {
            // A. Rényi 1953: the differences of ordered exponential values are exponential, the i-th from above with mean 1/i.
            let spacing = |random: &mut Random, i: usize| random.exponential() / i as f64;
            let threshold: f64 = (used + 1..=count).map(|i| spacing(&mut random, i)).sum();
            let excess = (0..used).map(|_| random.exponential()).sum::<f64>() / used as f64;
            let new: f64 = (1..=count).map(|i| spacing(&mut random, i)).sum();
            *draw = (new - threshold) / excess;
        }
        draws.sort_by(f64::total_cmp);
        Self {
            used,
            low: draws[DRAWS / 40],
            high: draws[DRAWS - 1 - DRAWS / 40],
        }
    }

    pub fn predict(&self, mut values: Vec<f64>) -> (f64, f64) {
        values.sort_by(|a, b| b.total_cmp(a));
        let threshold = values[self.used];
        let largest = values[..self.used].iter();
        let excess = largest.map(|x| x - threshold).sum::<f64>() / self.used as f64;
        (
            threshold + self.low * excess,
            threshold + self.high * excess,
        )
    }
}

/// Of `count` values, how many lie above the `rank`-th largest of `count` others: between these two in 95 of 100 cases.
///
/// All orders of the `2 · count` values are as likely. Put in order from above, those of the others come up to the `rank`-th with
/// probability
///
/// ```text
/// P(J = 0)     = Π (count − i) / (2 · count − i)                        i = 0 .. rank − 1
/// P(J = j + 1) = P(J = j) · (rank + j) / (j + 1) · (count − j) / (2 · count − rank − j)
/// ```
///
/// the negative hypergeometric distribution; where P(J = 0) would underflow, by the normal one with the same mean and
/// spread. Source: G. J. Hahn, W. Q. Meeker, "Statistical Intervals", 1991, section 5.5.
pub(crate) fn above(count: u64, rank: u64) -> (u64, u64) {
    let (n, m) = (count as f64, rank as f64);
    let factor = |i: u64| ((n - i as f64) / (2.0 * n - i as f64)).ln();
    let none: f64 = (0..rank.min(1001)).map(factor).sum();
    if rank > 1000 || none < f64::MIN_POSITIVE.ln() {
        let spread = Z * (2.0 * m * (1.0 - m / n).max(0.0)).sqrt();
        let within = |x: f64| x.clamp(0.0, n) as u64;
        return (within((m - spread).floor()), within((m + spread).ceil()));
    }
    let mut chance = none.exp();
    let (mut sum, mut least) = (chance, None);
    for j in 0..count {
        if least.is_none() && sum > 0.025 {
            least = Some(j);
        }
        if sum >= 0.975 {
            return (least.unwrap_or(j), j);
        }
        let at = j as f64;
        chance *= (m + at) / (at + 1.0) * (n - at) / (2.0 * n - m - at);
        sum += chance;
    }
    (least.unwrap_or(count), count)
}

/// The quantile of 97.5 % of Student's t, by the expansion in 1/ν of Abramowitz and Stegun, 26.7.5: good to 1 % from ν = 4.
pub(crate) fn student(freedom: usize) -> f64 {
    let v = freedom as f64;
    let (z3, z5) = (Z.powi(3), Z.powi(5));
    Z + (z3 + Z) / (4.0 * v) + (5.0 * z5 + 16.0 * z3 + 3.0 * Z) / (96.0 * v * v)
}

/// SplitMix64 (Steele, Lea and Flood 2014): enough for resampling, and the same everywhere.
pub(crate) struct Random(pub u64);

impl Random {
    /// In `(0, 1]`.
    pub fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (((bits ^ (bits >> 31)) >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    pub fn exponential(&mut self) -> f64 {
        -self.uniform().ln()
    }

    /// A count with this mean: exactly up to 30, beyond by the normal distribution, which is then off by a few percent of the spread.
    pub fn poisson(&mut self, mean: u64) -> u64 {
        if mean == 0 {
            return 0;
        }
        let mean = mean as f64;
        if mean > 30.0 {
            let angle = std::f64::consts::TAU * self.uniform();
            let normal = (2.0 * self.exponential()).sqrt() * angle.cos();
            return (mean + mean.sqrt() * normal).round().max(0.0) as u64;
        }
        // Events that come at exponential distances, counted over a time of length `mean`.
        let (mut events, mut time) = (0, self.exponential());
        while time <= mean {
            events += 1;
            time += self.exponential();
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_the_mean_and_spread_of_poisson() {
        let mut random = Random(5);
        for mean in [1_u64, 12, 1000] {
            let draws: Vec<f64> = (0..4000).map(|_| random.poisson(mean) as f64).collect();
            let average = draws.iter().sum::<f64>() / 4000.0;
            let squares = draws.iter().map(|x| (x - average).powi(2)).sum::<f64>() / 4000.0;
            // Both have the value `mean`; the standard error of the average is √(mean / 4000), that of the variance some
            // mean · √(3 / 4000): four of them.
            let mean = mean as f64;
            assert!(
                (average - mean).abs() < 4.0 * (mean / 4000.0).sqrt(),
                "{average}"
            );
            assert!(
                (squares / mean - 1.0).abs() < 4.0 * (3.0_f64 / 4000.0).sqrt(),
                "{squares}"
            );
        }
        assert_eq!(random.poisson(0), 0);
    }

    #[test]
    fn of_four_values_so_many_lie_above_the_largest_of_four_others() {
        // Of 70 orders of 4 and 4, the largest other is behind j of ours in C(7 − j, 3): 35, 20, 10, 4, 1. 95 %: 0 to 3.
        assert_eq!(above(4, 1), (0, 3));
        // The same the other way round: all 4 lie above the smallest other in 35 of 70 orders.
        assert_eq!(above(4, 4), (1, 4));
        // Of very many, P(J = j) = 2^−(j + 1): 1 − 2⁻⁶ is the first above 97.5 %.
        assert_eq!(above(1 << 40, 1), (0, 5));
        // At the border between the two ways of counting: 1000 ± 1.96 · √2000 and one.
        let (near, far) = (above(1 << 30, 1000), above(1 << 30, 1001));
        assert!(
            near.0.abs_diff(far.0) <= 3 && near.1.abs_diff(far.1) <= 3,
            "{near:?} {far:?}"
        );
    }
}
