//! When INT8 wins: what a linear layer costs in f32 and in integers, by its size and by how many rows come at once.

use std::fmt;
use std::hint::black_box;

use serde::Serialize;
use tinytorch_kernels::{
    Finish, MatrixMut, MatrixRef, PackedF32, PackedWeights, Quantize, Requantize, Scale,
    StaticLinear, Threads, quantize_f32_i8, requantize_i32_i8,
};
use tinytorch_labs::stopwatch::{Plan, race};
use tinytorch_labs::table::Table;

use crate::experiment::{Experiment, Finding, Result};
use crate::lab::Lab;

/// See the file.
pub struct Crossover;

/// Median seconds for one layer `[size, size]` on `batch` rows.
#[derive(Clone, Copy, Debug, Serialize)]
struct Row {
    size: usize,
    batch: usize,
    /// The product in f32, with weights packed once as those of the codes are: what a linear layer runs.
    f32: f64,
    /// Real inputs become codes.
    quantize: f64,
    /// The product of codes, to sums of 32 bits.
    product: f64,
    /// Sums become codes.
    requantize: f64,
    /// A layer between two others: codes in, codes out, product and requantization in one pass.
    inside: f64,
    /// A layer alone: real numbers in, real numbers out.
    alone: f64,
}

#[derive(Debug, Serialize)]
struct Crossing {
    batch: usize,
    /// The smallest size measured from which INT8 is faster at every larger one; none if it is not.
    inside: Option<usize>,
    alone: Option<usize>,
}

#[derive(Debug, Serialize)]
struct Report {
    rows: Vec<Row>,
    crossings: Vec<Crossing>,
}

impl Experiment for Crossover {
    fn name(&self) -> &'static str {
        "crossover"
    }

    fn question(&self) -> &'static str {
        "When is INT8 faster: from which size of a layer on, and for how many rows?"
    }

    fn run(&self, lab: &Lab) -> Result<Box<dyn Finding>> {
        let effort = lab.settings.effort;
        let sizes: &[usize] = effort.pick(
            &[16, 64],
            &[16, 64, 256, 1024],
            &[16, 32, 64, 128, 256, 512, 1024, 2048],
        );
        let batches: &[usize] = effort.pick(&[1], &[1, 64], &[1, 8, 64, 256]);
        let mut rows = Vec::new();
        for &batch in batches {
            for &size in sizes {
                lab.progress
                    .say(&format!("a layer of {size} x {size}, {batch} rows"));
                rows.push(measure(size, batch, lab.settings.stopwatch())?);
            }
        }
        let crossings = batches.iter().map(|&batch| Crossing {
            batch,
            inside: crossing(&rows, batch, |row| row.inside),
            alone: crossing(&rows, batch, |row| row.alone),
        });
        Ok(Box::new(Report {
            crossings: crossings.collect(),
            rows,
        }))
    }
}

/// The smallest size from which on the integers win at every size measured.
fn crossing(rows: &[Row], batch: usize, int8: impl Fn(&Row) -> f64) -> Option<usize> {
    let rows = rows.iter().filter(|row| row.batch == batch).rev();
    rows.take_while(|row| int8(row) < row.f32)
        .map(|row| row.size)
        .last()
}

fn measure(size: usize, batch: usize, plan: Plan) -> Result<Row> {
    let (m, n, k) = (batch, size, size);
    let weights: Vec<i8> = (0..n * k).map(|i| (i * 37 % 255) as i8).collect();
    let real_weights: Vec<f32> = weights.iter().map(|&code| 0.01 * f32::from(code)).collect();
    let inputs: Vec<f32> = (0..m * k)
        .map(|i| (i * 31 % 509) as f32 * 0.01 - 2.5)
        .collect();
    let by = Quantize {
        scale: 0.02,
        zero_point: -3,
        min: -128,
        max: 127,
    };
    let mut codes = vec![0; m * k];
    quantize_f32_i8(&inputs, by, &mut codes).map_err(|error| error.to_string())?;
    let packed = PackedWeights::new(n, k, &weights);
    let (bias, multipliers, scales) = (vec![5; n], vec![1e-3 / size as f32; n], vec![2e-4; n]);
    let ending = Requantize {
        bias: &bias,
        multipliers: &multipliers,
        zero_point: 0,
        min: -128,
        max: 127,
    };
    let real_weights = PackedF32::new(k, n, MatrixRef::row_major(&real_weights, k).transposed());
    let layer = StaticLinear::new(PackedWeights::new(n, k, &weights), -3, &ending);
    let (mut sums, mut ready, mut out) = (vec![0; m * n], vec![0; m * k], vec![0; m * n]);
    packed.product(m, &codes, -3, &mut sums);
    let fixed_sums = sums.clone();
    let (mut out_alone, mut real_out, mut codes_out) =
        (vec![0.0; m * n], vec![0.0; m * n], vec![0; m * k]);
    let mut in_f32 = || -> Result<()> {
        real_weights.product(
            m,
            MatrixRef::row_major(black_box(&inputs), k),
            Finish::NOTHING,
            MatrixMut::row_major(&mut real_out, n),
            Threads::Auto,
        );
        black_box(&mut real_out);
        Ok(())
    };
    let mut quantize = || -> Result<()> {
        quantize_f32_i8(black_box(&inputs), by, &mut codes_out)
            .map_err(|error| error.to_string())?;
        black_box(&mut codes_out);
        Ok(())
    };
    let mut product = || -> Result<()> {
        packed.product(m, black_box(&codes), -3, &mut sums);
        black_box(&mut sums);
        Ok(())
    };
    let mut requantize = || -> Result<()> {
        requantize_i32_i8(black_box(&fixed_sums), &ending, &mut out);
        black_box(&mut out);
        Ok(())
    };
    let mut inside_out = vec![0; m * n];
    let mut inside = || -> Result<()> {
        layer.forward(m, black_box(&codes), &mut inside_out);
        black_box(&mut inside_out);
        Ok(())
    };
    let scale = Scale {
        scales: &scales,
        bias: &[],
        relu: false,
    };
    let mut alone = || -> Result<()> {
        quantize_f32_i8(black_box(&inputs), by, &mut ready).map_err(|error| error.to_string())?;
        packed.scaled(m, &ready, -3, &scale, &mut out_alone);
        black_box(&mut out_alone);
        Ok(())
    };
    let seconds = race(
        plan,
        &mut [
            &mut in_f32,
            &mut quantize,
            &mut product,
            &mut requantize,
            &mut inside,
            &mut alone,
        ],
    )?;
    Ok(Row {
        size,
        batch,
        f32: seconds[0],
        quantize: seconds[1],
        product: seconds[2],
        requantize: seconds[3],
        inside: seconds[4],
        alone: seconds[5],
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "A linear layer of size x size on some rows: median microseconds, and how many times faster INT8 is, inside of an integer\n\
             network (codes in, codes out, requantized in the same pass) and alone (real numbers in and out). Weights are packed once\n\
             for either. Quantize, product and requantize are the three parts of it, each by itself.\n"
        )?;
        let mut table = Table::new([
            "rows",
            "size",
            "f32",
            "quantize",
            "product",
            "requantize",
            "inside",
            "f32 / inside",
            "alone",
            "f32 / alone",
        ]);
        for row in &self.rows {
            let time = |seconds: f64| format!("{:.2}", 1e6 * seconds);
            table.row([
                row.batch.to_string(),
                row.size.to_string(),
                time(row.f32),
                time(row.quantize),
                time(row.product),
                time(row.requantize),
                time(row.inside),
                format!("{:.2}", row.f32 / row.inside),
                time(row.alone),
                format!("{:.2}", row.f32 / row.alone),
            ]);
        }
        writeln!(f, "{table}")?;
        for crossing in &self.crossings {
            let from = |size: Option<usize>| match size {
                Some(size) => format!("from size {size} on"),
                None => "not even at the largest size measured".to_owned(),
            };
            writeln!(
                f,
                "{:>4} row(s): INT8 is faster inside a network {}, alone {}.",
                crossing.batch,
                from(crossing.inside),
                from(crossing.alone)
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crossing_is_the_smallest_size_behind_which_integers_always_win() {
        let row = |size, int8| Row {
            size,
            batch: 1,
            f32: 1.0,
            quantize: 0.0,
            product: 0.0,
            requantize: 0.0,
            inside: int8,
            alone: 2.0,
        };
        let rows = [row(16, 0.5), row(32, 1.5), row(64, 0.9), row(128, 0.4)];
        assert_eq!(crossing(&rows, 1, |row| row.inside), Some(64));
        assert_eq!(crossing(&rows, 1, |row| row.alone), None);
        assert_eq!(crossing(&rows, 2, |row| row.inside), None);
    }
}
