//! A sketch depends on the values alone: not on their order, the threads, or the tree of merges; and it survives a file.

use proptest::prelude::*;
use tinytorch_quantization::{
    Calibration, CodeRange, Error, FileError, Observer, PercentileObserver, Sketch, SketchObserver,
    ValueRange, load_sketches, save_sketches,
};

/// Finite values of all sizes, with many zeros of both signs and repeated ones.
fn value() -> impl Strategy<Value = f32> {
    prop_oneof![
        3 => -4.0_f32..4.0,
        2 => any::<u32>().prop_map(f32::from_bits).prop_filter("finite", |x| x.is_finite()),
        1 => prop_oneof![Just(0.0_f32), Just(-0.0), Just(1.0), Just(-1.0)],
    ]
}

/// Values with the number of their batch.
fn numbered() -> impl Strategy<Value = Vec<(u64, f32)>> {
    proptest::collection::vec((0_u64..6, value()), 1..120)
}

fn bits(sketch: &Sketch) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sketch");
    save_sketches(&path, &[("x".to_owned(), sketch.clone())]).expect("it can be written");
    std::fs::read(path).expect("it was written")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Any split of the values over any number of sketches, any order in each, any tree of merges: the same state, to the last bit.
    #[test]
    fn any_order_split_and_tree_of_merges_gives_the_same_sketch(
        values in numbered(),
        order in any::<prop::sample::Index>(),
        owners in proptest::collection::vec(0_usize..5, 120),
        merges in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 4),
    ) {
        // One pass, batch by batch.
        let mut whole = Sketch::new();
        for number in 0..6 {
            let batch: Vec<f32> = values.iter().filter(|(n, _)| *n == number).map(|(_, x)| *x).collect();
            whole.observe_batch(number, &batch).expect("finite");
        }
        // In another order, in pieces of one value, over five sketches.
        let mut parts = vec![Sketch::new(); 5];
        let mut shuffled = values.clone();
        shuffled.rotate_left(order.index(values.len()));
        let middle = shuffled.len() / 2;
        shuffled[middle..].reverse();
        for ((number, x), owner) in shuffled.into_iter().zip(owners) {
            parts[owner].observe_batch(number, &[x]).expect("finite");
        }
        for (left, right) in merges {
            let taken = parts.swap_remove(left.index(parts.len()));
            let at = right.index(parts.len());
            parts[at].merge(&taken);
        }
        prop_assert_eq!(parts.len(), 1);
        prop_assert_eq!(bits(&parts[0]), bits(&whole));
        prop_assert_eq!(&parts[0], &whole);
    }

    #[test]
    fn a_sketch_survives_a_file(values in numbered()) {
        let mut sketch = Sketch::new();
        for (number, x) in values {
            sketch.observe_batch(number, &[x]).expect("finite");
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("calibration");
        let both = [("input".to_owned(), sketch), ("fc1".to_owned(), Sketch::new())];
        save_sketches(&path, &both).expect("it can be written");
        prop_assert_eq!(load_sketches(&path), Ok(both.to_vec()));
    }

    /// Whatever the bytes behind a checksum that fits: an error or a sketch that can be used, never a panic.
    #[test]
    fn a_file_made_to_deceive_is_an_error_or_a_usable_sketch(
        values in numbered(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut sketch = Sketch::new();
        for (number, x) in values {
            sketch.observe_batch(number, &[x]).expect("finite");
        }
        let mut bytes = bits(&sketch);
        for (at, byte) in changes {
            let at = 16 + at.index(bytes.len() - 16);
            bytes[at] = byte;
        }
        let mut crc = flate2::Crc::new();
        crc.update(&bytes[16..]);
        bytes[12..16].copy_from_slice(&crc.sum().to_le_bytes());
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("calibration");
        std::fs::write(&path, &bytes).expect("it can be written");
        match load_sketches(&path) {
            Ok(sketches) => {
                for (_, mut loaded) in sketches {
                    let other = loaded.clone();
                    loaded.merge(&other);
                    for method in METHODS {
                        let _ = loaded.range(method, CodeRange::INT8);
                    }
                    // What entropy calibration, which takes its time, would look at.
                    let _ = loaded.histogram();
                    let _ = loaded.confidence(Calibration::MinMax, CodeRange::INT8);
                    let _ = loaded.confidence(Calibration::Percentile(99.0), CodeRange::INT8);
                }
            }
            Err(Error::File(FileError::Damaged { .. })) => {}
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    /// Both give the end of the bin of the exact order statistic, and never more than was seen.
    #[test]
    fn percentiles_agree_with_the_observer_within_their_bins(
        values in proptest::collection::vec(-100.0_f32..100.0, 1..300),
        percentile in prop_oneof![50.0_f64..100.0, (1_u32..=1000).prop_map(|tenths| f64::from(tenths) / 10.0)],
    ) {
        let mut sketch = Sketch::new();
        sketch.observe(&values).expect("finite");
        let mut observer = PercentileObserver::new(percentile, tinytorch_quantization::Histogram::default())
            .expect("in (0, 100]");
        observer.observe(&values).expect("finite");
        let mut sizes: Vec<f32> = values.iter().map(|x| x.abs()).collect();
        sizes.sort_by(f32::total_cmp);
        // The fewest values that are this percentile of all.
        let enough = (1..=sizes.len()).find(|&kept| 100.0 * kept as f64 >= percentile * sizes.len() as f64);
        let exact = sizes[enough.expect("all of them are 100 %") - 1];
        let largest = sizes[sizes.len() - 1];
        let ours = sketch.range(Calibration::Percentile(percentile), CodeRange::INT8).expect("values came");
        let theirs = observer.range().expect("values came");
        for range in [ours, theirs] {
            prop_assert!(range.max_abs() >= exact, "{range:?} {exact}");
        }
        // A bin of the sketch is 2⁻¹⁰ of the largest magnitude wide at most; one of 2048 that grew by doubling, twice that.
        prop_assert!(ours.max_abs() <= exact + largest / 1024.0);
        prop_assert!(theirs.max_abs() <= exact + largest / 512.0);
        let seen = sketch.seen().expect("values came");
        prop_assert!(ours.min >= seen.min && ours.max <= seen.max);
    }
}

const METHODS: [Calibration; 4] = [
    Calibration::MinMax,
    Calibration::MovingAverage(0.1),
    Calibration::Percentile(99.0),
    Calibration::MeanSquaredError,
];

#[test]
fn any_damage_is_found_and_any_other_file_is_refused() {
    let mut sketch = Sketch::new();
    sketch.observe(&[1.0, -2.0, 0.0, 3.5]).expect("finite");
    let bytes = bits(&sketch);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("calibration");
    let load = |bytes: &[u8]| {
        std::fs::write(&path, bytes).expect("it can be written");
        load_sketches(&path)
    };
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        let Err(Error::File(error)) = load(&damaged) else {
            panic!("byte {at} was changed and not noticed");
        };
        match (at, error) {
            (0..8, FileError::NoCalibration { .. })
            | (
                8..12,
                FileError::Version {
                    oldest: 1,
                    supported: 1,
                    ..
                },
            )
            | (12.., FileError::Damaged { .. }) => {}
            (_, error) => panic!("byte {at}: {error}"),
        }
        assert!(load(&bytes[..at]).is_err());
    }
    let missing = load_sketches(folder.path().join("nothing"));
    assert!(matches!(missing, Err(Error::File(FileError::Io { .. }))));
    assert_eq!(load(&bytes), Ok(vec![("x".to_owned(), sketch)]));
}

#[test]
fn min_max_and_moving_average_are_those_of_the_exercise() {
    let batches: Vec<Vec<f32>> = (0..50)
        .map(|batch| {
            (0..40)
                .map(|i| ((batch * 40 + i) as f32 * 0.77).sin() * batch as f32)
                .collect()
        })
        .collect();
    let mut observer = SketchObserver::new(Calibration::MinMax).expect("no constant");
    let mut min_max = tinytorch_quantization::MinMaxObserver::default();
    let mut average = tinytorch_quantization::MovingAverageMinMaxObserver::new(0.1).expect("good");
    for batch in &batches {
        observer.observe(batch).expect("finite");
        min_max.observe(batch).expect("finite");
        average.observe(batch).expect("finite");
    }
    assert_eq!(observer.range(), min_max.range());
    observer
        .set_method(Calibration::MovingAverage(0.1))
        .expect("good");
    assert_eq!(observer.range(), average.range());
}

#[test]
fn batches_observed_backwards_on_two_threads_average_as_in_order() {
    let batch = |number: u64| [number as f32, -(number as f32) / 2.0];
    let mut in_order = Sketch::new();
    (0..30).for_each(|number| in_order.observe(&batch(number)).expect("finite"));
    let half = |parity: u64| {
        let mut sketch = Sketch::new();
        for number in (0..30).rev().filter(|number| number % 2 == parity) {
            sketch
                .observe_batch(number, &batch(number))
                .expect("finite");
        }
        sketch
    };
    let mut merged = std::thread::scope(|scope| {
        let odd = scope.spawn(|| half(1));
        let mut even = half(0);
        even.merge(&odd.join().expect("it does not panic"));
        even
    });
    assert_eq!(merged, in_order);
    let method = Calibration::MovingAverage(0.1);
    let found = merged.range(method, CodeRange::INT8);
    assert_eq!(found, in_order.range(method, CodeRange::INT8));
    assert_ne!(
        found,
        Ok(ValueRange {
            min: -14.5,
            max: 29.0
        })
    );
    merged.merge(&Sketch::new());
    assert_eq!(merged, in_order);
}
