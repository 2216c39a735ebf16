//! One layer with learned codes and a bias that fits them.
//!
//! In: the folded layer and the moments of its inputs. Out: codes, and the bias with which its outputs are right on average.

use ndarray::{ArrayD, Axis};

use super::moments::{Inputs, Moments};
use super::rounding::{Hessian, RoundingOptions, round_row, shared_scale};
use crate::error::{Error, Result};
use crate::folded::{Folded, Operation};
use crate::framework::Tensor;
use crate::layer::{quantize_parts, smallest_scale};
use crate::qtensor::{Parameters, QTensor};
use crate::scheme::{CodeRange, Granularity, QParams};

/// What was learned of a layer's inputs, group by group.
pub(crate) struct Statistics {
    groups: Vec<Moments>,
}

impl Statistics {
    /// Looks at what flows into the layer, batch by batch: as the real model and as the quantized one sees it.
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

    /// Learns codes for the weight.
    ///
    /// `centred`: the bias will be corrected, so that only what varies counts.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] if inputs were not, those of [`crate::layer::quantize_parts`] for the scheme.
    pub fn learn_codes(
        &self,
        folded: &Folded,
        input_scale: f32,
        centred: bool,
        options: RoundingOptions,
    ) -> Result<QTensor> {
        let codes = folded.scheme.codes;
        let (outputs, columns) = (
            folded.bias.len(),
            folded.weight.len() / folded.bias.len().max(1),
        );
        // Where plain rounding would begin. It checks everything, and its scales leave room for the bias.
        let (plain, _) = quantize_parts(
            folded.weight.view(),
            &folded.bias,
            folded.scheme,
            input_scale,
        )?;
        let mut scales = plain.row_scales();
        // A corrected bias may be somewhat larger than the real one: twice the room is enough for any that could help.
        let floor = |bias: &f32| 2.0 * smallest_scale(*bias, input_scale, columns);
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
        let shared = folded.scheme.granularity == Granularity::PerTensor;
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
        let mut written = Vec::with_capacity(folded.weight.len());
        for (output, target) in targets.iter().enumerate() {
            let hessian = &hessians[output * hessians.len() / outputs];
            let floor = if shared {
                scales[output]
            } else {
                floors[output]
            };
            let scale = scales[output].max(floor);
            let row = round_row(hessian, target, &[scale], columns, floor, codes, options);
            scales[output] = row.scales[0];
            written.extend(row.codes);
        }
        write(written, folded.weight.shape(), shared, scales, codes)
    }
}

fn write(
    written: Vec<i8>,
    shape: &[usize],
    shared: bool,
    scales: Vec<f32>,
    codes: CodeRange,
) -> Result<QTensor> {
    let parameters = if shared {
        Parameters::PerTensor(QParams::symmetric(scales.first().copied().unwrap_or(1.0)))
    } else {
        Parameters::PerChannel {
            axis: 0,
            qparams: scales.into_iter().map(QParams::symmetric).collect(),
        }
    };
    QTensor::new(written, shape, parameters, codes)
}
