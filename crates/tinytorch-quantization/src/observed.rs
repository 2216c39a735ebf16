//! What calibration data shows of a model in `f32`, kept for all the precisions that it is tried in.
//!
//! In: the same model prepared in one way after another. Out: observers that have seen the data, although it flows again only where
//! layers are joined to stages as never before.

use std::sync::{Mutex, PoisonError};

use crate::convert::calibrate;
use crate::error::Result;
use crate::framework::Tensor;
use crate::prepare::Prepared;
use crate::sketch::Sketch;

/// The sketches of all places that were observed so far.
#[derive(Debug, Default)]
pub(crate) struct Observed(Mutex<Vec<(Place, Sketch)>>);

/// The input, or what leaves a stage. Under one name there are several: a layer that is kept in `f32` is a stage alone, otherwise with
/// the batch norm and the ReLU behind it.
#[derive(Clone, Debug, PartialEq)]
struct Place {
    name: String,
    kinds: Vec<&'static str>,
}

impl Observed {
    /// Gives the observers what they would see of these batches, if anything is written as codes whose range must be known: whatever a
    /// layer will compute in, calibration sees the model in `f32`. Each batch is `[batch, ..]`.
    ///
    /// # Errors
    ///
    /// Those of [`calibrate`].
    pub fn observe(&self, prepared: &mut Prepared, batches: &[Tensor]) -> Result<()> {
        if !prepared.needs_ranges() {
            return Ok(());
        }
        let wanted = places(prepared);
        let mut observed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |place: &Place| {
            let (place, sketch) = observed.iter().find(|(known, _)| known == place)?;
            Some((place.name.clone(), sketch.clone()))
        };
        if let Some(sketches) = wanted.iter().map(known).collect::<Option<Vec<_>>>() {
            return prepared.merge_sketches(&sketches);
        }
        calibrate(prepared, batches.iter().cloned())?;
        for (place, (_, sketch)) in wanted.into_iter().zip(prepared.sketches()) {
            if observed.iter().all(|(known, _)| *known != place) {
                observed.push((place, sketch));
            }
        }
        Ok(())
    }
}

/// In the order of [`Prepared::sketches`].
fn places(prepared: &Prepared) -> Vec<Place> {
    let input = (prepared.input_name(), Vec::new());
    let stages = prepared.all_stages().into_iter();
    let stages = stages.map(|stage| (stage.name(), stage.kinds()));
    let place = |(name, kinds): (&str, Vec<&'static str>)| Place {
        name: name.to_owned(),
        kinds,
    };
    std::iter::once(input).chain(stages).map(place).collect()
}

#[cfg(test)]
mod tests {
    use std::any::Any;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::framework;
    use crate::framework::nn::{Layer, Linear, Relu, Sequential};
    use crate::ledger::convert;
    use crate::precision::Precision;
    use crate::prepare::{PrepareOptions, prepare};

    /// Gives what comes, and counts how often.
    struct Counts(Arc<AtomicUsize>);

    impl Layer for Counts {
        fn kind(&self) -> &'static str {
            "counts"
        }

        fn forward(&self, x: &Tensor) -> framework::Result<Tensor> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(x.clone())
        }

        fn as_any(&self) -> &dyn Any {
            self
        }
    }

    fn linear(weight: &[f32]) -> Linear {
        let weight = Tensor::new(weight.to_vec(), &[2, 2]).expect("four values");
        Linear::from_parts(weight, None).expect("a matrix")
    }

    /// Data flowed once more for every choice of precisions, though it shows the same each time.
    #[test]
    fn data_flows_once_for_every_way_in_which_layers_are_joined() {
        let flowed = Arc::new(AtomicUsize::new(0));
        let model = Sequential::new()
            .with_named("counts", Counts(flowed.clone()))
            .with_named("first", linear(&[1.0, -2.0, 3.0, 0.5]))
            .with_named("relu", Relu)
            .with_named("last", linear(&[-1.0, 2.0, 0.25, 4.0]));
        let batches: Vec<Tensor> = [[1.0, -1.0], [0.5, 3.0]]
            .map(|x| Tensor::new(x.to_vec(), &[1, 2]).expect("two values"))
            .into();
        let observed = Observed::default();
        let all = [Precision::STATIC, Precision::Bf16, Precision::Dynamic];
        let firsts = all.into_iter().chain([Precision::Float]);
        for first in firsts.flat_map(|first| all.map(|last| [first, last])) {
            let [one, two] = first;
            let options = PrepareOptions {
                overrides: vec![("first".to_owned(), one), ("last".to_owned(), two)],
                ..PrepareOptions::default()
            };
            let mut prepared = prepare(&model, &options).expect("known layers");
            observed.observe(&mut prepared, &batches).expect("finite");
            let mut anew = prepare(&model, &options).expect("known layers");
            let before = flowed.load(Ordering::Relaxed);
            calibrate(&mut anew, batches.clone()).expect("finite");
            flowed.store(before, Ordering::Relaxed);
            // Where no range is needed nothing is observed.
            let same = prepared.sketches() == anew.sketches();
            assert_eq!(same, anew.needs_ranges(), "{first:?}");
            let [ours, anew] = [prepared, anew].map(|p| convert(&p).expect("calibrated"));
            let outputs =
                |model: &crate::QModel| model.forward(&batches[1]).expect("fits").to_vec();
            let seen = flowed.load(Ordering::Relaxed);
            assert_eq!(outputs(&ours), outputs(&anew), "{first:?}");
            flowed.store(seen, Ordering::Relaxed);
        }
        // Two batches for the layer with its ReLU, two for the layer that stays in f32 and the ReLU behind it.
        assert_eq!(flowed.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn without_data_there_is_nothing_to_keep() {
        let model = Sequential::new().with_named("a", linear(&[1.0; 4]));
        let mut prepared = prepare(&model, &PrepareOptions::default()).expect("known layers");
        let observed = Observed::default();
        let empty = observed.observe(&mut prepared, &[]);
        assert_eq!(empty, Err(crate::Error::EmptyCalibration));
        // Where nothing is written as codes none is needed.
        let options = PrepareOptions {
            precision: Precision::Dynamic,
            ..PrepareOptions::default()
        };
        let mut dynamic = prepare(&model, &options).expect("known layers");
        assert_eq!(observed.observe(&mut dynamic, &[]), Ok(()));
        let batch = Tensor::ones(&[1, 2]);
        assert_eq!(observed.observe(&mut prepared, &[batch]), Ok(()));
    }
}
