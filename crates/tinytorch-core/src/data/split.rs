//! Dividing a data set into a part to learn from and a part to be judged on.

use super::error::DataError;
use super::random::{Purpose, generator, shuffle};

/// Two disjoint parts of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split<T> {
    /// To learn from.
    pub train: T,
    /// To be judged on.
    pub test: T,
}

/// Chooses `test_count` examples such that every class has its share of them, as nearly as whole examples
/// allow, and returns both parts' indices in increasing order.
///
/// ```text
/// share of class c = test_count · (examples of class c) / (all examples)
/// ```
///
/// Each class gets its share rounded down; what is missing goes, one each, to the classes with the largest
/// remainders (the lower label first where they are equal).
///
/// # Errors
///
/// [`DataError::Invalid`] if there are fewer than `test_count` examples.
pub fn stratified(
    labels: &[u8],
    test_count: usize,
    seed: u64,
) -> Result<Split<Vec<usize>>, DataError> {
    if test_count > labels.len() {
        return Err(DataError::Invalid(format!(
            "a test part of {test_count} out of {} examples",
            labels.len()
        )));
    }
    let mut members: Vec<Vec<usize>> = vec![Vec::new(); usize::from(u8::MAX) + 1];
    for (index, &label) in labels.iter().enumerate() {
        members[usize::from(label)].push(index);
    }
    let all = labels.len().max(1) as u128;
    let share = |class: &Vec<usize>| test_count as u128 * class.len() as u128;
    let mut counts: Vec<usize> = members.iter().map(|c| (share(c) / all) as usize).collect();
    let mut by_remainder: Vec<usize> = (0..members.len()).collect();
    by_remainder.sort_by_key(|&label| std::cmp::Reverse(share(&members[label]) % all));
    let missing = test_count - counts.iter().sum::<usize>();
    for &label in &by_remainder[..missing] {
        counts[label] += 1;
    }

    let (mut train, mut test) = (Vec::new(), Vec::new());
    for (label, (class, &count)) in members.iter_mut().zip(&counts).enumerate() {
        shuffle(class, &mut generator(seed, Purpose::Split, 0, label as u64));
        let (first, rest) = class.split_at(count);
        test.extend_from_slice(first);
        train.extend_from_slice(rest);
    }
    train.sort_unstable();
    test.sort_unstable();
    Ok(Split { train, test })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn six_of_ten_and_three_of_five_for_two_thirds_and_one_third() {
        // 10 zeros and 5 ones, 9 to be judged on: shares 9 · 10/15 = 6 and 9 · 5/15 = 3.
        let labels = [[0; 10].as_slice(), &[1; 5]].concat();
        let split = stratified(&labels, 9, 1).unwrap();
        let ones = split.test.iter().filter(|&&i| labels[i] == 1).count();
        assert_eq!((split.test.len(), ones), (9, 3));
    }

    #[test]
    fn a_part_larger_than_the_whole_is_refused() {
        assert!(stratified(&[0, 1], 3, 1).is_err());
        let nothing = Split {
            train: vec![],
            test: vec![],
        };
        assert_eq!(stratified(&[], 0, 1).unwrap(), nothing);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn every_example_is_in_one_part_and_every_class_within_one_of_its_share(
            labels in proptest::collection::vec(0_u8..5, 1..200),
            fraction in 0.0_f64..=1.0,
            seed: u64,
        ) {
            let test_count = (labels.len() as f64 * fraction) as usize;
            let split = stratified(&labels, test_count, seed).unwrap();
            prop_assert_eq!(split.test.len(), test_count);
            let mut all = [split.train, split.test.clone()].concat();
            all.sort_unstable();
            prop_assert!(all.into_iter().eq(0..labels.len()));
            for class in 0..5 {
                let members = labels.iter().filter(|&&l| l == class).count();
                let chosen = split.test.iter().filter(|&&i| labels[i] == class).count();
                let share = test_count as f64 * members as f64 / labels.len() as f64;
                prop_assert!((chosen as f64 - share).abs() < 1.0);
            }
        }
    }
}
