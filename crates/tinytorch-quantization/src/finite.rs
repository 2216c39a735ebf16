//! N5: NaN and infinity have no code, so they are looked for before anything is computed.

use ndarray::{ArrayViewD, Axis};

use crate::error::{Error, Result};

/// Checks that every value is finite. Any shape, flattened in row-major order.
///
/// # Errors
///
/// [`Error::NotFinite`] with the index of the first value that is not.
pub fn check_finite(values: &[f32]) -> Result<()> {
    // One pass without a branch answers for good data; only bad data is searched.
    if !values.iter().fold(false, |bad, x| bad | !x.is_finite()) {
        return Ok(());
    }
    let error = values
        .iter()
        .enumerate()
        .find_map(|(index, &value)| Error::not_finite(value, index, None));
    error.map_or(Ok(()), Err)
}

/// Checks that every value is finite, and that `axis` exists. Any shape with that axis.
///
/// # Errors
///
/// - [`Error::AxisOutOfRange`].
/// - [`Error::NotFinite`] with the index, in row-major order, of the first value that is not, and its channel.
pub fn check_finite_channels(values: &ArrayViewD<'_, f32>, axis: usize) -> Result<()> {
    if axis >= values.ndim() {
        return Err(Error::AxisOutOfRange {
            axis,
            dimensions: values.ndim(),
        });
    }
    // In row-major order the channel repeats every `inner · channels` values.
    let channels = values.len_of(Axis(axis));
    let inner: usize = values.shape()[axis + 1..].iter().product();
    let error = values.iter().enumerate().find_map(|(index, &value)| {
        let channel = index / inner.max(1) % channels.max(1);
        Error::not_finite(value, index, Some(channel))
    });
    error.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{NonFinite, Place};
    use ndarray::ArrayD;

    #[test]
    fn the_first_bad_value_is_named() {
        let error = check_finite(&[1.0, f32::NEG_INFINITY, f32::NAN]);
        assert_eq!(
            error,
            Err(Error::NotFinite {
                value: NonFinite::NegativeInfinity,
                place: Place {
                    tensor: None,
                    channel: None,
                    index: 1
                },
            })
        );
        assert_eq!(check_finite(&[f32::MAX, f32::MIN, -0.0]), Ok(()));
        assert_eq!(check_finite(&[]), Ok(()));
    }

    #[test]
    fn the_channel_is_counted_along_its_axis() {
        let mut values = ArrayD::<f32>::zeros(vec![2, 3, 4]);
        values[[1, 2, 3]] = f32::NAN;
        for (axis, channel) in [(0, 1), (1, 2), (2, 3)] {
            let Err(Error::NotFinite { place, .. }) = check_finite_channels(&values.view(), axis)
            else {
                panic!("NaN was not found along axis {axis}");
            };
            assert_eq!((place.channel, place.index), (Some(channel), 23));
        }
        assert!(check_finite_channels(&values.view(), 3).is_err());
    }
}
