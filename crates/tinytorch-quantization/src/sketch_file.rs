//! Calibration sketches in a file: what was observed once need not be observed again.
//!
//! ```text
//! "TTSKETCH"   version: u32   CRC-32 of all that follows: u32
//! count: u32   for each sketch, all numbers little-endian:
//!   length: u32, name in UTF-8
//!   top exponent: u32   zeros: u64   seen: u8 (0 or 1), then smallest and largest value: f32, f32
//!   count: u32 of bins that are not empty, for each   index: u32, count: u64
//!   count: u32 of batches, for each                   number: u64, samples: u64, smallest and largest value: f32, f32
//! ```
//!
//! Equal sketches give equal bytes. A file is checked twice: the checksum finds what was damaged by accident, and the parts must fit
//! together, so that also a file made on purpose gives an error or a usable sketch.

use std::path::Path;

use flate2::Crc;

use crate::error::Result;
use crate::file::{FileError, io_error};
use crate::framework::write_atomically;
use crate::scheme::ValueRange;
use crate::sketch::{Batch, MAX_BATCHES, Sketch, hull};
use crate::sketch_bins::{BINS, LOW, bin, edges, octave};

const MAGIC: &[u8; 8] = b"TTSKETCH";

/// The version of the format that is written and read.
pub const SKETCH_VERSION: u32 = 1;

/// More values than this a sketch from a file may not claim: up to here every count is exact in `f64` as well.
const MAX_SAMPLES: u64 = 1 << 53;

/// Writes sketches with their names to a file, atomically, and says how many bytes it has.
///
/// # Errors
///
/// [`FileError::Io`]; a file that was there before is then unchanged.
pub fn save_sketches(path: impl AsRef<Path>, sketches: &[(String, Sketch)]) -> Result<u64> {
    let path = path.as_ref();
    let mut body = Vec::new();
    body.extend(length(sketches.len()));
    for (name, sketch) in sketches {
        body.extend(length(name.len()));
        body.extend(name.as_bytes());
        write(&mut body, sketch);
    }
    let mut bytes = MAGIC.to_vec();
    bytes.extend(SKETCH_VERSION.to_le_bytes());
    bytes.extend(checksum(&body).to_le_bytes());
    bytes.append(&mut body);
    write_atomically(path, &bytes).map_err(|error| io_error("write", path, &error))?;
    Ok(bytes.len() as u64)
}

/// Reads what [`save_sketches`] wrote.
///
/// # Errors
///
/// [`FileError::Io`], [`FileError::NoCalibration`], [`FileError::Version`], [`FileError::Damaged`].
pub fn load_sketches(path: impl AsRef<Path>) -> Result<Vec<(String, Sketch)>> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(|error| io_error("read", path, &error))?;
    let damaged = |reason: &str| FileError::Damaged {
        path: path.to_path_buf(),
        reason: reason.to_owned(),
    };
    let Some(rest) = bytes.strip_prefix(MAGIC) else {
        let path = path.to_path_buf();
        return Err(FileError::NoCalibration { path }.into());
    };
    let mut reader = Reader(rest);
    let got = reader.u32().map_err(damaged)?;
    if got != SKETCH_VERSION {
        return Err(FileError::Version {
            path: path.to_path_buf(),
            got,
            oldest: SKETCH_VERSION,
            supported: SKETCH_VERSION,
        }
        .into());
    }
    let expected = reader.u32().map_err(damaged)?;
    if checksum(reader.0) != expected {
        return Err(damaged("its checksum is another").into());
    }
    Ok(read_all(&mut reader).map_err(damaged)?)
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// As 32 bits: nothing here is that long.
fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}

fn write(out: &mut Vec<u8>, sketch: &Sketch) {
    out.extend(sketch.top.to_le_bytes());
    out.extend(sketch.zeros.to_le_bytes());
    let range = |out: &mut Vec<u8>, range: ValueRange| {
        out.extend(range.min.to_le_bytes());
        out.extend(range.max.to_le_bytes());
    };
    out.push(u8::from(sketch.seen.is_some()));
    range(
        out,
        sketch.seen.unwrap_or(ValueRange { min: 0.0, max: 0.0 }),
    );
    let filled = sketch.counts.iter().enumerate();
    let filled: Vec<_> = filled.filter(|(_, count)| **count > 0).collect();
    out.extend(length(filled.len()));
    for (index, count) in filled {
        out.extend(length(index));
        out.extend(count.to_le_bytes());
    }
    out.extend(length(sketch.batches.len()));
    for batch in &sketch.batches {
        out.extend(batch.number.to_le_bytes());
        out.extend(batch.samples.to_le_bytes());
        range(out, batch.range);
    }
}

type Parsed<T> = std::result::Result<T, &'static str>;

fn read_all(reader: &mut Reader<'_>) -> Parsed<Vec<(String, Sketch)>> {
    let mut sketches = Vec::new();
    for _ in 0..reader.u32()? {
        let length = reader.u32()? as usize;
        let name = std::str::from_utf8(reader.take(length)?).map_err(|_| "a name is no text")?;
        sketches.push((name.to_owned(), read(reader)?));
    }
    if reader.0.is_empty() {
        Ok(sketches)
    } else {
        Err("there is more after the last sketch")
    }
}

fn read(reader: &mut Reader<'_>) -> Parsed<Sketch> {
    let mut sketch = Sketch::new();
    sketch.top = reader.u32()?;
    sketch.zeros = reader.u64()?;
    let seen = match reader.take(1)? {
        [0] => None,
        [1] => Some(()),
        _ => return Err("whether anything was seen is neither yes nor no"),
    };
    let range = reader.range()?;
    sketch.seen = seen.map(|()| range);
    let mut next = 0;
    for _ in 0..reader.u32()? {
        let index = reader.u32()? as usize;
        let count = reader.u64()?;
        if index < next || index >= 2 * BINS || count == 0 {
            return Err("the bins are not in order");
        }
        next = index + 1;
        sketch.counts[index] = count;
    }
    let batches = reader.u32()? as usize;
    if batches > MAX_BATCHES {
        return Err("there are too many batches");
    }
    for _ in 0..batches {
        sketch.batches.push(Batch {
            number: reader.u64()?,
            samples: reader.u64()?,
            range: reader.range()?,
        });
    }
    check(&sketch)?;
    Ok(sketch)
}

/// Checks all that the other functions of a sketch rely on.
fn check(sketch: &Sketch) -> Parsed<()> {
    let total = sketch
        .counts
        .iter()
        .try_fold(sketch.zeros, |sum, &count| sum.checked_add(count))
        .filter(|&total| total <= MAX_SAMPLES)
        .ok_or("there are more than 2⁵³ values")?;
    let Some(seen) = sketch.seen else {
        let is_empty = total == 0 && sketch.top == 1 && sketch.batches.is_empty();
        return if is_empty {
            Ok(())
        } else {
            Err("values are counted, but none was seen")
        };
    };
    let is_range = |range: ValueRange| {
        range.min.is_finite() && range.max.is_finite() && range.min <= range.max
    };
    if !is_range(seen) || sketch.top != octave(seen.max_abs()) {
        return Err("the bins do not fit what was seen");
    }
    // Of each sign the largest magnitude, and the smallest if all values have this sign.
    let ends = [(seen.max, seen.min), (-seen.min, -seen.max)];
    for (counts, (end, least)) in sketch.counts.chunks(BINS).zip(ends) {
        // The largest of each sign has its bin, and nothing lies beyond.
        let last = (end > 0.0).then(|| bin(end, sketch.top));
        let beyond = last.map_or(0, |last| last + 1);
        let filled = last.is_none_or(|last| counts[last] > 0);
        if !filled || counts[beyond..].iter().any(|&count| count > 0) {
            return Err("the bins do not fit what was seen");
        }
        if least > 0.0 {
            let first = bin(least, sketch.top);
            if counts[first] == 0 || counts[..first].iter().any(|&count| count > 0) {
                return Err("the bins do not fit what was seen");
            }
        }
        let unused = |bin: usize| bin != LOW && edges(bin, sketch.top).0 < f32::MIN_POSITIVE;
        if (0..BINS).any(|bin| counts[bin] > 0 && unused(bin)) {
            return Err("a bin is counted that no value can be in");
        }
    }
    // Zeros lie within what was seen, and where an end is 0 there was one.
    let holds_zero = (seen.min..=seen.max).contains(&0.0);
    let ends_at_zero = seen.min == 0.0 || seen.max == 0.0;
    if (sketch.zeros > 0 && !holds_zero) || (sketch.zeros == 0 && ends_at_zero) {
        return Err("the zeros do not fit what was seen");
    }
    let sum = sketch.batches.iter().try_fold(0_u64, |sum, batch| {
        let fits = is_range(batch.range)
            && seen.min <= batch.range.min
            && batch.range.max <= seen.max
            && batch.samples > u64::from(batch.range.min < batch.range.max);
        sum.checked_add(batch.samples).filter(|_| fits)
    });
    let ordered = sketch.batches.is_sorted_by(|a, b| a.number < b.number);
    let Some(sum) = sum.filter(|&sum| sum <= total && ordered) else {
        return Err("the batches do not fit what was seen");
    };
    // As long as no batch was forgotten, all values are in one of them.
    let all = sketch.batches.iter().map(|batch| batch.range).reduce(hull);
    let complete = sum == total && all == Some(seen);
    if !complete && (sketch.batches.len() < MAX_BATCHES || sum == total) {
        return Err("the batches do not fit what was seen");
    }
    Ok(())
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Parsed<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("it ends too early")?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| "it ends too early")
    }

    fn u32(&mut self) -> Parsed<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Parsed<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn range(&mut self) -> Parsed<ValueRange> {
        let mut end = || self.array().map(f32::from_le_bytes);
        // −0.0 is not written; one that comes nevertheless is 0.
        Ok(ValueRange {
            min: end()? + 0.0,
            max: end()? + 0.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sketch(values: &[f32]) -> Sketch {
        let mut sketch = Sketch::new();
        sketch.observe(values).expect("finite");
        sketch
    }

    /// Each of these was accepted: the checksum only finds what was damaged by accident.
    #[test]
    fn parts_that_contradict_each_other_are_refused() {
        let good = sketch(&[1.0, 2.0, 1.5]);
        assert_eq!(check(&good), Ok(()));
        let mut zeros = good.clone();
        zeros.zeros = 5;
        assert_eq!(check(&zeros), Err("the zeros do not fit what was seen"));
        let mut none = sketch(&[0.0, 2.0]);
        assert_eq!(check(&none), Ok(()));
        none.zeros = 0;
        none.batches[0].samples = 1;
        assert_eq!(check(&none), Err("the zeros do not fit what was seen"));
        // A value below the smallest, and a smallest that is in no bin.
        let mut below = good.clone();
        below.counts[bin(0.0007, good.top)] += 1;
        below.batches[0].samples += 1;
        let bins = Err("the bins do not fit what was seen");
        assert_eq!(check(&below), bins);
        let mut negative = sketch(&[-1.0, -2.0]);
        assert_eq!(check(&negative), Ok(()));
        negative.counts[BINS + bin(1.0, negative.top)] = 0;
        negative.counts[BINS + bin(1.25, negative.top)] = 1;
        assert_eq!(check(&negative), bins);
        // Batches that do not hold what was seen, or are fewer values than have two ends.
        let batches = Err("the batches do not fit what was seen");
        let changed = |change: &dyn Fn(&mut Batch)| {
            let mut sketch = good.clone();
            change(&mut sketch.batches[0]);
            check(&sketch)
        };
        assert_eq!(changed(&|batch| batch.samples = 1), batches);
        assert_eq!(changed(&|batch| batch.samples = 2), batches);
        assert_eq!(changed(&|batch| batch.range.max = 1.5), batches);
        let mut empty = good.clone();
        empty.batches.clear();
        assert_eq!(check(&empty), batches);
    }

    #[test]
    fn sketches_that_were_made_are_accepted_also_where_batches_were_forgotten() {
        let mut many = Sketch::new();
        for number in 0..MAX_BATCHES as u64 + 10 {
            let x = number as f32;
            many.observe_batch(number, &[-x, x, 0.5]).expect("finite");
            assert!(check(&many) == Ok(()), "{number}");
        }
        let mut merged = sketch(&[0.0, 3.0, 1e-41]);
        merged.merge(&many);
        assert_eq!(check(&merged), Ok(()));
    }
}
