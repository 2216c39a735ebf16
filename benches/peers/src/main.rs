//! Serves timed calls of our kernels and of other Rust crates, one line per request, so that a script can measure them in
//! turns with what it runs itself.
//!
//! ```text
//! > i8 256 1024 1024                    prepares the subjects of section i8 for m, k, n = 256, 1024, 1024
//! < ours 536870912 3.5e9                one line per subject: name, work of one call (operations or bytes), check
//! < .
//! > run ours 12                         calls it twelve times
//! < 0.00123                             seconds
//! > model_values 0 1                    computes a whole model
//! < ours_f32 0.25 -1.5 ...              one line per kind of numbers: the whole result
//! < .
//! > end
//! ```
//!
//! The check is a number that depends on the whole result, by which the script sees that two subjects computed the same. A
//! failure is one line that begins with `error`. Threads: `RAYON_NUM_THREADS` (and `RTEN_NUM_THREADS`), 1 or more.

mod ceilings;
mod data;
mod elementwise;
mod linear;
mod models;
mod products_f32;
mod products_i8;

use std::io::{BufRead, Write};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// Something to measure.
pub struct Subject {
    name: String,
    /// Operations (a multiplication and an addition count 1 each) or bytes of one call.
    work: f64,
    run: Box<dyn FnMut()>,
    /// A number that depends on the whole result of the last call.
    check: Box<dyn Fn() -> f64>,
}

fn main() -> Result<()> {
    let mut subjects = vec![];
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        match answer(&line, &mut subjects) {
            Ok(answer) => writeln!(out, "{answer}")?,
            Err(error) => writeln!(out, "error: {error:#}")?,
        }
        out.flush()?;
    }
    Ok(())
}

fn answer(line: &str, subjects: &mut Vec<Subject>) -> Result<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["run", name, calls] => {
            let calls: usize = calls.parse().context("the number of calls")?;
            let subject = subjects
                .iter_mut()
                .find(|subject| subject.name == name)
                .with_context(|| format!("no subject {name}"))?;
            let start = Instant::now();
            (0..calls).for_each(|_| (subject.run)());
            Ok(format!("{:e}", start.elapsed().as_secs_f64()))
        }
        ["model_values", number, batch] => {
            let [number, batch] = [number, batch].map(|size| size.parse().context("a size"));
            let mut lines = String::new();
            for (name, values) in models::values(number?, batch?)? {
                let values: Vec<String> = values.iter().map(f32::to_string).collect();
                lines += &format!("{name} {}\n", values.join(" "));
            }
            Ok(lines + ".")
        }
        ["end"] => {
            subjects.clear();
            Ok(".".to_owned())
        }
        [section, ref sizes @ ..] => {
            let sizes: Vec<usize> = sizes
                .iter()
                .map(|size| size.parse().with_context(|| format!("size {size}")))
                .collect::<Result<_>>()?;
            *subjects = prepare(section, &sizes)?;
            let mut lines = String::new();
            for subject in subjects {
                (subject.run)();
                let check = (subject.check)();
                lines += &format!("{} {:e} {check:e}\n", subject.name, subject.work);
            }
            Ok(lines + ".")
        }
        [] => bail!("an empty request"),
    }
}

fn prepare(section: &str, sizes: &[usize]) -> Result<Vec<Subject>> {
    Ok(match (section, sizes) {
        ("ceilings", &[bytes]) => ceilings::subjects(bytes),
        ("quantize", &[len, unsigned]) => elementwise::quantize(len, unsigned),
        ("dequantize", &[len, unsigned]) => elementwise::dequantize(len, unsigned),
        ("i8", &[m, k, n]) => products_i8::subjects(m, k, n),
        ("linear", &[m, d]) => linear::subjects(m, d),
        ("model", &[number, batch]) => models::subjects(number, batch)?,
        ("f32", &[m, k, n]) => products_f32::subjects(m, k, n),
        _ => bail!("no section {section} with {} sizes", sizes.len()),
    })
}
