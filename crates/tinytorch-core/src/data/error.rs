//! What can be wrong with a file of data, and where in it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A byte of a file: the place an error speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// Counted from 0. Of the decompressed bytes if `decompressed`.
    pub offset: u64,
    /// The file is gzipped, and `offset` counts what comes out of it.
    pub decompressed: bool,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, byte {}", self.path.display(), self.offset)?;
        if self.decompressed {
            write!(f, " of the decompressed data")?;
        }
        Ok(())
    }
}

/// Why a data set cannot be read, or not be used as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The operating system refused, or the path is not a regular file.
    #[error("cannot read {}: {reason}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's class of the failure.
        kind: io::ErrorKind,
        /// The system's words.
        reason: String,
    },
    /// None of the usual names of a file is in the folder.
    #[error("{} has none of: {}", folder.display(), names.join(", "))]
    FileMissing {
        /// The folder that was searched.
        folder: PathBuf,
        /// The names that were tried.
        names: Vec<String>,
    },
    /// The first bytes belong to another kind of file.
    #[error("{place}: wrong magic number for {what}: expected {expected:#010x}, got {got:#010x}")]
    WrongMagic {
        /// Where the magic number stands.
        place: Place,
        /// The kind of file that was expected.
        what: String,
        /// The magic number of that kind.
        expected: u32,
        /// The magic number in the file.
        got: u32,
    },
    /// The file ends too early. `place` is where it ends.
    #[error("{place}: the file ends, but {what} needs {missing} more bytes")]
    Truncated {
        /// One past the last byte there is.
        place: Place,
        /// What was being read.
        what: String,
        /// Bytes that are not there.
        missing: u64,
    },
    /// The file goes on after its last item. `place` is the first byte too many.
    #[error("{place}: the file goes on after its last {what}")]
    TrailingBytes {
        /// The first byte that belongs to nothing.
        place: Place,
        /// What the file is made of.
        what: String,
    },
    /// The header claims more than the file can hold, or more than a reader accepts.
    #[error("{place}: claims {claimed} bytes of {what}, at most {limit} are possible")]
    TooLarge {
        /// Where the claim stands.
        place: Place,
        /// What is claimed.
        what: String,
        /// Bytes claimed; `u64::MAX` also stands for any larger number.
        claimed: u64,
        /// Bytes that the file can hold, or that the reader accepts.
        limit: u64,
    },
    /// The file holds no example.
    #[error("{place}: holds no {what}")]
    Empty {
        /// Where an example was expected.
        place: Place,
        /// What was expected.
        what: String,
    },
    /// The gzip container is damaged.
    #[error("{place}: damaged gzip data: {reason}")]
    DamagedGzip {
        /// How far decompression came.
        place: Place,
        /// The decompressor's words.
        reason: String,
    },
    /// A label that is no class.
    #[error("{place}: label {label} of example {example}, but there are only {classes} classes")]
    LabelOutOfRange {
        /// Where the label stands.
        place: Place,
        /// Index of the example in this file.
        example: usize,
        /// The label found.
        label: u8,
        /// The number of classes; labels are `0..classes`.
        classes: usize,
    },
    /// A pixel above the data set's largest.
    #[error("{place}: pixel {pixel} of example {example}, but the largest is {largest}")]
    PixelOutOfRange {
        /// Where the pixel stands.
        place: Place,
        /// Index of the example in this file.
        example: usize,
        /// The pixel found.
        pixel: u8,
        /// The largest that is allowed.
        largest: u8,
    },
    /// Images and labels do not belong together. `place` is the count of the labels.
    #[error("{place}: {labels} labels, but {} holds {images} images", images_path.display())]
    CountsDiffer {
        /// Where the number of labels stands.
        place: Place,
        /// The file with the images.
        images_path: PathBuf,
        /// The number of images.
        images: usize,
        /// The number of labels.
        labels: usize,
    },
    /// An example that the data set does not have.
    #[error("example {index} of a data set of {len}")]
    IndexOutOfRange {
        /// The index asked for.
        index: usize,
        /// The number of examples.
        len: usize,
    },
    /// Something was asked for that this data set or loader cannot give.
    #[error("{0}")]
    Invalid(String),
}

impl DataError {
    pub(crate) fn io(path: &Path, error: &io::Error) -> Self {
        Self::Io {
            path: path.to_path_buf(),
            kind: error.kind(),
            reason: error.to_string(),
        }
    }
}
