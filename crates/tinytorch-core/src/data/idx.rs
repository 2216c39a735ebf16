//! The IDX format of MNIST: a magic number, the size of each dimension, then bytes.
//!
//! ```text
//! offset 0   0x0000 08 rr     two zero bytes, 08 = unsigned byte, rr = number of dimensions
//! offset 4   u32 · rr         the dimensions, big-endian
//! then       u8 · product     the values, the last dimension fastest
//! ```
//!
//! Source: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits", file formats.

use std::path::Path;

use super::error::DataError;
use super::images::ImageDataset;
use super::source::{MAX_DATA_BYTES, Source};

/// MNIST and its relatives have ten classes.
const MNIST_CLASSES: usize = 10;

/// Which half of a data set that its authors have split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// To learn from.
    Train,
    /// To be judged on.
    Test,
}

/// The bytes of an IDX file and their shape.
pub(crate) struct Idx {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<u8>,
}

/// Offset of the first value of an IDX file with that many dimensions.
pub(crate) fn values_start(dimensions: usize) -> u64 {
    4 + 4 * dimensions as u64
}

/// Reads a whole IDX file of unsigned bytes with `dimensions` dimensions.
pub(crate) fn read_idx(
    mut source: Source<'_>,
    dimensions: usize,
    what: &str,
) -> Result<Idx, DataError> {
    let expected = 0x0800 | dimensions as u32;
    let got = source.read_u32("the magic number")?;
    if got != expected {
        return Err(DataError::WrongMagic {
            place: source.place(0),
            what: format!("IDX {what}"),
            expected,
            got,
        });
    }
    let mut shape = Vec::with_capacity(dimensions);
    let mut count = Some(1_u64);
    for _ in 0..dimensions {
        let place = source.here();
        let size = source.read_u32("a dimension")?;
        if size == 0 {
            return Err(DataError::Empty {
                place,
                what: what.into(),
            });
        }
        shape.push(size as usize);
        count = count.and_then(|c| c.checked_mul(u64::from(size)));
    }
    let count = count.unwrap_or(u64::MAX);
    if count > MAX_DATA_BYTES {
        return Err(DataError::TooLarge {
            place: source.place(4),
            what: what.into(),
            claimed: count,
            limit: MAX_DATA_BYTES,
        });
    }
    let values = source.read(count, what, 4)?;
    source.finish("value")?;
    Ok(Idx { shape, values })
}

/// Reads images `[n, height, width]` and labels `[n]` that belong together.
pub(crate) fn read_pair(
    images: Source<'_>,
    labels: Source<'_>,
    largest_pixel: u8,
) -> Result<ImageDataset, DataError> {
    let (images_path, pixel_place) = (images.path().to_path_buf(), images.place(0));
    let label_place = labels.place(0);
    let at = |place: &super::Place, offset| super::Place {
        offset,
        ..place.clone()
    };

    // The labels first: they are small, so a pair that does not fit costs little to refuse.
    let labels = read_idx(labels, 1, "labels")?;
    if let Some(example) = labels
        .values
        .iter()
        .position(|&label| usize::from(label) >= MNIST_CLASSES)
    {
        return Err(DataError::LabelOutOfRange {
            place: at(&label_place, values_start(1) + example as u64),
            example,
            label: labels.values[example],
            classes: MNIST_CLASSES,
        });
    }
    let images = read_idx(images, 3, "images")?;
    if images.shape[0] != labels.shape[0] {
        return Err(DataError::CountsDiffer {
            place: at(&label_place, 4),
            images_path,
            images: images.shape[0],
            labels: labels.shape[0],
        });
    }
    let (height, width) = (images.shape[1], images.shape[2]);
    if let Some(index) = images.values.iter().position(|&p| p > largest_pixel) {
        return Err(DataError::PixelOutOfRange {
            place: at(&pixel_place, values_start(3) + index as u64),
            example: index / (height * width),
            pixel: images.values[index],
            largest: largest_pixel,
        });
    }
    ImageDataset::new(
        images.values,
        [1, height, width],
        labels.values,
        MNIST_CLASSES,
        largest_pixel,
    )
}

/// Reads MNIST (or Fashion-MNIST, or any pair of its form) from a folder.
///
/// Looks for `train-images-idx3-ubyte` and `train-labels-idx1-ubyte`, or `t10k-...` for the test part;
/// also with a dot (`train-images.idx3-ubyte`) and with `.gz`. Whether a file is gzipped is seen from its
/// content, not from its name.
///
/// # Errors
///
/// A [`DataError`] that names file and byte if one is missing, cut, too long, of another kind, damaged,
/// has a label above 9, or if the two hold different numbers.
pub fn mnist(folder: impl AsRef<Path>, part: Part) -> Result<ImageDataset, DataError> {
    let stem = match part {
        Part::Train => "train",
        Part::Test => "t10k",
    };
    let images = find(folder.as_ref(), &format!("{stem}-images"), "idx3-ubyte")?;
    let labels = find(folder.as_ref(), &format!("{stem}-labels"), "idx1-ubyte")?;
    read_pair(images, labels, u8::MAX)
}

fn find(folder: &Path, stem: &str, kind: &str) -> Result<Source<'static>, DataError> {
    let names = [
        format!("{stem}-{kind}"),
        format!("{stem}-{kind}.gz"),
        format!("{stem}.{kind}"),
        format!("{stem}.{kind}.gz"),
    ];
    // A folder that is not there, or may not be read, is another mistake than a wrong name in it.
    std::fs::read_dir(folder).map_err(|error| DataError::io(folder, &error))?;
    match names.iter().find(|name| folder.join(name).exists()) {
        Some(name) => Source::open(&folder.join(name)),
        None => Err(DataError::FileMissing {
            folder: folder.to_path_buf(),
            names: names.to_vec(),
        }),
    }
}
