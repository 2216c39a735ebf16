//! The binary version of CIFAR-10: records of one label and 32 · 32 red, green and blue bytes.
//!
//! ```text
//! record = label u8 | red u8 · 1024 | green u8 · 1024 | blue u8 · 1024        3,073 bytes
//! ```
//!
//! There is no header; a file has at most 10,000 records. Source: A. Krizhevsky, "The CIFAR-10 dataset",
//! binary version.

use std::path::Path;

use super::Place;
use super::error::DataError;
use super::idx::Part;
use super::images::ImageDataset;
use super::source::Source;

const CLASSES: usize = 10;
const IMAGE_BYTES: usize = 3 * 32 * 32;
const RECORD_BYTES: usize = 1 + IMAGE_BYTES;
const MAX_RECORDS: usize = 10_000;

/// Reads CIFAR-10 from a folder: `data_batch_1.bin` to `data_batch_5.bin`, or `test_batch.bin`, each also
/// gzipped (then also with `.gz` at the end of its name).
///
/// # Errors
///
/// A [`DataError`] that names file and byte if a file is missing, empty, cut within a record, has more
/// than 10,000 records, or a label above 9.
pub fn cifar10(folder: impl AsRef<Path>, part: Part) -> Result<ImageDataset, DataError> {
    let folder = folder.as_ref();
    let files = match part {
        Part::Train => (1..=5).map(|i| format!("data_batch_{i}.bin")).collect(),
        Part::Test => vec!["test_batch.bin".to_string()],
    };
    std::fs::read_dir(folder).map_err(|error| DataError::io(folder, &error))?;
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for name in files {
        let names = [name.clone(), name + ".gz"];
        let Some(found) = names.iter().find(|name| folder.join(name).exists()) else {
            return Err(DataError::FileMissing {
                folder: folder.to_path_buf(),
                names: names.to_vec(),
            });
        };
        read_records(Source::open(&folder.join(found))?, &mut pixels, &mut labels)?;
    }
    ImageDataset::new(pixels, [3, 32, 32], labels, CLASSES, u8::MAX)
}

fn read_records(
    mut source: Source<'_>,
    pixels: &mut Vec<u8>,
    labels: &mut Vec<u8>,
) -> Result<(), DataError> {
    let bytes = source.read_to_end((MAX_RECORDS * RECORD_BYTES) as u64, "of 10,000 records")?;
    let place = |offset: usize| -> Place { source.place(offset as u64) };
    if bytes.is_empty() {
        return Err(DataError::Empty {
            place: place(0),
            what: "CIFAR-10 record".into(),
        });
    }
    // Labels before the length: in a file of another kind the first wrong label says more.
    for (example, record) in bytes.chunks(RECORD_BYTES).enumerate() {
        if usize::from(record[0]) >= CLASSES {
            return Err(DataError::LabelOutOfRange {
                place: place(example * RECORD_BYTES),
                example,
                label: record[0],
                classes: CLASSES,
            });
        }
    }
    let (records, rest) = bytes.as_chunks::<RECORD_BYTES>();
    if !rest.is_empty() {
        return Err(DataError::Truncated {
            place: place(bytes.len()),
            what: format!("record {}", records.len()),
            missing: (RECORD_BYTES - rest.len()) as u64,
        });
    }
    pixels.reserve_exact(records.len() * IMAGE_BYTES);
    for record in records {
        labels.push(record[0]);
        pixels.extend_from_slice(&record[1..]);
    }
    Ok(())
}
