//! One layer with learned codes and a bias that fits them.
//!
//! In: the folded layer and the moments of its inputs. Out: codes, and the bias with which its outputs are right on average.

use ndarray::{ArrayD, Axis};

use super::moments::{Inputs, Moments};
use super::rounding::{Hessian, RoundingOptions, round_row, shared_scale};
use crate::error::{Error, Result};
use crate::finite::check_finite;
use crate::folded::{Folded, Operation};
use crate::framework::Tensor;
use crate::layer::{quantize_parts, smallest_scale};
use crate::parameters::Parameters;
use crate::qtensor::QTensor;
use crate::scheme::{Granularity, QParams, Symmetry};

/// Learns codes for the weight of a layer from what flows into it: for weights that are stored as codes and multiplied as real
/// numbers (weight-only), so groups of columns may have scales of their own. The weight is `[out, in]` or
/// `[out, in / groups, kh, kw]`, and so are the codes.
///
/// `inputs` are batches as the layer takes them, `[.., in]` or `[batch, in, height, width]`. The codes read back as the
/// weights whose outputs on these are nearest to those of the real ones, or nearly so; what they cannot do on average, the
/// bias could ([`repair`](super::repair) sees to both for a whole integer model).
///
/// # Errors
///
/// [`Error::EmptyCalibration`] if no batch has a value; [`Error::ShapeMismatch`] if one does not fit the layer;
/// [`Error::NotFinite`]; [`Error::Unsupported`] for codes that are not symmetric; [`Error::BadCodeRange`].
pub fn learn_codes(
    folded: &Folded,
    inputs: &[Tensor],
    options: RoundingOptions,
) -> Result<QTensor> {
    if inputs.iter().all(Tensor::is_empty) {
        return Err(Error::EmptyCalibration);
    }
    for batch in inputs {
        check_finite(&batch.to_vec()).map_err(|error| error.in_tensor("input"))?;
    }
    let flow: Vec<_> = inputs.iter().map(|x| (x.clone(), x.clone())).collect();
    Statistics::of(folded, &flow)?.learn_codes(folded, None, false, options)
}

/// What was learned of a layer's inputs, group by group.
pub(crate) struct Statistics {
    groups: Vec<Moments>,
}

impl Statistics {
    /// Looks at what flows into the layer, batch by batch: as the real model and as the quantized one sees it. `[.., in]`
    /// or `[batch, in, height, width]`, both of a pair alike.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] if that does not fit the layer.
    pub fn of(folded: &Folded, flow: &[(Tensor, Tensor)]) -> Result<Self> {
        let shape = folded.weight.shape();
        let columns = shape.iter().skip(1).product();
        let (inputs, groups) = match folded.operation {
            Operation::Linear => (Inputs::Rows, 1),
            Operation::Conv2d(options) => {
                let kernel = [shape[2], shape[3]];
                (Inputs::Patches { kernel, options }, options.groups)
            }
        };
        let mut groups = Moments::new(columns, groups);
        for (real, got) in flow {
            inputs.add_to(&mut groups, real, got)?;
        }
        Ok(Self { groups })
    }

    /// The group that an output channel belongs to.
    fn group(&self, output: usize, outputs: usize) -> &Moments {
        &self.groups[output * self.groups.len() / outputs]
    }

    /// The bias with which the outputs of `weight` (what the integer layer multiplies with) on the quantized inputs have the
    /// mean that those of the real layer have on the real ones:
    ///
    /// ```text
    /// bias[c] + Σ w[c]·E[x] − Σ ŵ[c]·E[x̂]
    /// ```
    ///
    /// Source: Nagel et al. 2019, section 4.2, with means from data in place of batch-norm statistics (their appendix D).
    ///
    /// `weight` is `[out, ..]`, the bias `[out]`.
    pub fn corrected_bias(&self, folded: &Folded, weight: &ArrayD<f32>) -> Vec<f32> {
        let means: Vec<_> = self
            .groups
            .iter()
            .map(|g| (g.mean_real(), g.mean_got()))
            .collect();
        let dot = |row: ndarray::ArrayViewD<'_, f32>, mean: &[f64]| -> f64 {
            row.iter().zip(mean).map(|(w, m)| f64::from(*w) * m).sum()
        };
        let outputs = folded.bias.len();
        let rows = folded
            .weight
            .axis_iter(Axis(0))
            .zip(weight.axis_iter(Axis(0)));
        rows.zip(&folded.bias)
            .enumerate()
            .map(|(output, ((real, got), bias))| {
                let (mean_real, mean_got) = &means[output * means.len() / outputs];
                (f64::from(*bias) + dot(real, mean_real) - dot(got, mean_got)) as f32
            })
            .collect()
    }

    /// Learns codes for the weight. `[out, in]` or `[out, in / groups, kh, kw]`.
    ///
    /// `centred`: the bias will be corrected, so that only what varies counts.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] if inputs were not, those of [`crate::layer::quantize_parts`] for the scheme.
    pub fn learn_codes(
        &self,
        folded: &Folded,
        input_scale: Option<f32>,
        centred: bool,
        options: RoundingOptions,
    ) -> Result<QTensor> {
        let codes = folded.scheme.codes;
        let (outputs, columns) = (
            folded.bias.len(),
            folded.weight.len() / folded.bias.len().max(1),
        );
        // Where plain rounding would begin.
        let parameters = starting_parameters(folded, input_scale)?;
        let block = match parameters {
            Parameters::PerGroup { size, .. } => size.min(columns.max(1)),
            Parameters::PerTensor(_) | Parameters::PerChannel { .. } => columns.max(1),
        };
        let blocks = columns.div_ceil(block);
        let shared = matches!(parameters, Parameters::PerTensor(_));
        let mut scales: Vec<f32> = parameters.pairs().iter().map(|pair| pair.scale).collect();
        if shared {
            scales = vec![scales[0]; outputs];
        }
        // A corrected bias may be somewhat larger than the real one: twice the room is enough for any that could help.
        let floor = |bias: &f32| match input_scale {
            Some(input) => 2.0 * smallest_scale(*bias, input, columns),
            None => 0.0,
        };
        let floors: Vec<f32> = folded.bias.iter().map(floor).collect();
        let not_finite = || Error::Unsupported {
            what: "learning from inputs whose second moments overflow",
        };
        let mut hessians = Vec::with_capacity(self.groups.len());
        for group in &self.groups {
            hessians.push(
                group
                    .hessian(centred, options.damping)
                    .ok_or_else(not_finite)?,
            );
        }
        let targets: Vec<Vec<f64>> = folded
            .weight
            .axis_iter(Axis(0))
            .enumerate()
            .map(|(output, row)| {
                let row: Vec<f64> = row.iter().map(|&w| w.into()).collect();
                let hessian = &hessians[output * hessians.len() / outputs];
                self.group(output, outputs).retarget(&row, hessian, centred)
            })
            .collect();
        if shared && options.learn_scales {
            let rows = targets.iter().enumerate();
            let rows: Vec<(&Hessian, &[f64])> = rows
                .map(|(output, row)| (&hessians[output * hessians.len() / outputs], row.as_slice()))
                .collect();
            let floor = floors.iter().copied().fold(0.0, f32::max);
            let scale = shared_scale(&rows, scales[0].max(floor), floor, codes);
            scales.fill(scale);
        }
        let options = RoundingOptions {
            learn_scales: options.learn_scales && !shared,
            ..options
        };
        // Rows have nothing to do with each other: each thread takes some.
        let learn = |(output, (target, own)): (usize, (&Vec<f64>, &mut [f32]))| {
            let hessian = &hessians[output * hessians.len() / outputs];
            let floor = if shared { own[0] } else { floors[output] };
            own.iter_mut().for_each(|scale| *scale = scale.max(floor));
            let row = round_row(hessian, target, own, block, floor, codes, options);
            own.copy_from_slice(&row.scales);
            row.codes
        };
        let rows = targets.iter().zip(scales.chunks_exact_mut(blocks));
        let mut rows: Vec<_> = rows.enumerate().collect();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = outputs.div_ceil(threads).max(1);
        let mut written = Vec::with_capacity(folded.weight.len());
        std::thread::scope(|scope| {
            let mut parts = Vec::new();
            while !rows.is_empty() {
                let part: Vec<_> = rows.drain(..share.min(rows.len())).collect();
                let learn = &learn;
                parts.push(scope.spawn(move || part.into_iter().flat_map(learn).collect()));
            }
            for part in parts {
                let codes: Vec<i8> = part
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                written.extend(codes);
            }
        });
        let mut pairs = scales.into_iter().map(QParams::symmetric);
        let parameters = parameters.map(|pair| pairs.next().unwrap_or(*pair));
        QTensor::new(written, folded.weight.shape(), parameters, codes)
    }
}

/// What plain rounding would write with. It checks weight, bias and scheme; for an integer layer, whose input has a scale, its
/// scales leave room for the bias.
fn starting_parameters(folded: &Folded, input_scale: Option<f32>) -> Result<Parameters> {
    let weight = folded.weight.view();
    match input_scale {
        Some(input) => {
            let (plain, _) = quantize_parts(weight, &folded.bias, folded.scheme, input)?;
            Ok(plain.parameters().clone())
        }
        None if folded.scheme.symmetry == Symmetry::Symmetric
            && !matches!(
                folded.scheme.granularity,
                Granularity::PerChannel { axis: 1.. }
            ) =>
        {
            folded.scheme.codes.check_i8()?;
            Parameters::choose(weight, folded.scheme)
        }
        None => Err(Error::Unsupported {
            what: "learned rounding for weights that are not symmetric, or whose channels do not lie along axis 0",
        }),
    }
}
