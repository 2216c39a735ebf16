//! Per channel: every output channel gets a scale of its own.
//!
//! In: a weight of any shape and the axis of its channels. Out: one [`QParams`] for each channel, and the codes. One
//! channel with large weights no longer makes the steps of all the others coarse.
//!
//! ```text
//!                    one scale for all        a scale for each row
//! [  0.5, -1.27 ]    codes [  0,  -1 ]        codes [ 50, -127 ]
//! [ 40.0, 127.0 ]    codes [ 40, 127 ]        codes [ 40,  127 ]
//! ```

use ndarray::{ArrayD, ArrayViewD, Axis};

use crate::error::{Error, Result};
use crate::finite::check_finite_channels;
use crate::scheme::{CodeRange, QParams};

/// Finds symmetric parameters for every channel along `axis` (N8). **Exercise 15.5, first part**
///
/// | argument | shape | meaning |
/// |---|---|---|
/// | `values` | any | `[out, in]` for a linear layer, `[out, in, h, w]` for a convolution |
/// | `axis` | | the axis of the channels: 0 for both of these |
/// | result | `[channels]` | one pair for every index along `axis`, in order |
///
/// # The maths
///
/// For every channel `c`, with the maximum over all values whose index along `axis` is `c`:
///
/// ```text
/// scale[c] = symmetric_scale(max |values[c]|)          zero_point[c] = 0
/// ```
///
/// # Worked example
///
/// `[[0.5, −1.27], [40, 127]]` over −127..=127: along axis 0 the scales are `1.27 / 127 = 0.01` and `127 / 127 = 1`;
/// along axis 1 they are `40 / 127` and 1.
///
/// # Edge cases
///
/// A channel that is all zeros, or holds no values, gets scale 1 (N7).
///
/// # Errors
///
/// - [`Error::AxisOutOfRange`], [`Error::BadCodeRange`].
/// - [`Error::NotFinite`] with channel and index.
pub fn choose_qparams_per_channel(
    values: ArrayViewD<'_, f32>,
    axis: usize,
    codes: CodeRange,
) -> Result<Vec<QParams>> {
    codes.check()?;
    check_finite_channels(&values, axis)?;
    // BEGIN SOLUTION 15.5a
    values
        .axis_iter(Axis(axis))
        .map(|channel| {
            let max_abs = channel
                .iter()
                .fold(0.0_f32, |max, value| max.max(value.abs()));
            let scale = crate::qparams::symmetric_scale(max_abs, codes)?;
            Ok(QParams::symmetric(scale))
        })
        .collect()
    // END SOLUTION
}

/// Writes every channel along `axis` in codes of its own scale. **Exercise 15.5, second part**
///
/// | argument | shape | meaning |
/// |---|---|---|
/// | `values` | any | what is to be quantized |
/// | `axis` | | the axis of the channels |
/// | `qparams` | `[channels]` | one pair for every index along `axis` |
/// | result | that of `values` | the codes, in the place of their values |
///
/// # The maths
///
/// ```text
/// code[i] = saturate(round(value[i] / scale[c]) + zero_point[c])         c: the index of value i along axis
/// ```
///
/// # Worked example
///
/// `[[0.5, −1.27], [40, 127]]`, axis 0, scales 0.01 and 1: the codes are `[[50, −127], [40, 127]]`. With scale 1 for
/// both rows the first would be `[0, −1]`.
///
/// # Errors
///
/// - [`Error::AxisOutOfRange`], [`Error::BadCodeRange`], [`Error::BadQParams`].
/// - [`Error::ParameterCount`] if there are not as many parameters as channels.
/// - [`Error::NotFinite`] with channel and index.
pub fn quantize_per_channel(
    values: ArrayViewD<'_, f32>,
    axis: usize,
    qparams: &[QParams],
    codes: CodeRange,
) -> Result<ArrayD<i8>> {
    codes.check_i8()?;
    check_finite_channels(&values, axis)?;
    let channels = values.len_of(Axis(axis));
    if channels != qparams.len() {
        return Err(Error::ParameterCount {
            axis,
            channels,
            got: qparams.len(),
        });
    }
    qparams.iter().try_for_each(|pair| pair.check(codes))?;
    // BEGIN SOLUTION 15.5b
    let mut all_codes = ArrayD::zeros(values.raw_dim());
    let reals = values.axis_iter(Axis(axis));
    let written = all_codes.axis_iter_mut(Axis(axis));
    for ((reals, mut own), &pair) in reals.zip(written).zip(qparams) {
        let reals: Vec<f32> = reals.iter().copied().collect();
        let written = crate::quantize::quantize(&reals, pair, codes)?;
        for (code, new) in own.iter_mut().zip(written) {
            *code = new;
        }
    }
    Ok(all_codes)
    // END SOLUTION
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::arr2;

    const NARROW: CodeRange = CodeRange::INT8_NARROW;

    fn example() -> ArrayD<f32> {
        arr2(&[[0.5, -1.27], [40.0, 127.0]]).into_dyn()
    }

    fn scales(axis: usize) -> Vec<f32> {
        let qparams = choose_qparams_per_channel(example().view(), axis, NARROW);
        let qparams = qparams.expect("the example is good");
        assert!(qparams.iter().all(|pair| pair.zero_point == 0));
        qparams.iter().map(|pair| pair.scale).collect()
    }

    #[test]
    fn worked_example_parameters() {
        assert_eq!(scales(0), [1.27 / 127.0, 1.0]);
        assert_eq!(scales(1), [40.0 / 127.0, 1.0]);
    }

    #[test]
    fn a_channel_of_zeros_has_scale_one() {
        let values = arr2(&[[0.0, 0.0], [1.27, 0.0]]).into_dyn();
        let qparams = choose_qparams_per_channel(values.view(), 0, NARROW);
        assert_eq!(
            qparams,
            Ok(vec![
                QParams::symmetric(1.0),
                QParams::symmetric(1.27 / 127.0)
            ])
        );
    }

    #[test]
    fn worked_example_codes() {
        let qparams = [0.01, 1.0].map(QParams::symmetric);
        assert_eq!(
            quantize_per_channel(example().view(), 0, &qparams, NARROW),
            Ok(arr2(&[[50, -127], [40, 127]]).into_dyn())
        );
    }

    #[test]
    fn channels_may_lie_along_any_axis() {
        let values = ArrayD::from_shape_fn(vec![2, 3, 2], |index| (index[1] + 1) as f32);
        let qparams = [1.0, 2.0, 3.0].map(QParams::symmetric);
        assert_eq!(
            quantize_per_channel(values.view(), 1, &qparams, NARROW),
            Ok(ArrayD::ones(vec![2, 3, 2]))
        );
    }

    #[test]
    fn a_bad_value_is_named_with_its_channel() {
        let values = arr2(&[[1.0, 2.0], [3.0, f32::NAN]]).into_dyn();
        let Err(Error::NotFinite { place, .. }) =
            choose_qparams_per_channel(values.view(), 0, NARROW)
        else {
            panic!("NaN was accepted");
        };
        assert_eq!((place.channel, place.index), (Some(1), 3));
    }
}
