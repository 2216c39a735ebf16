//! Bytes of a file, gzipped or not, read without ever believing its header.
//!
//! Memory grows with the bytes that really arrive, never with a number in the file, and no more is
//! decompressed than was asked for. So a header that claims 2^40 images, or a gzip bomb, costs nothing.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use super::error::{DataError, Place};

/// The first two bytes of every gzip file. Source: RFC 1952, section 2.3.1.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Deflate cannot do better than 258 bytes in 2 bits. Source: zlib, "Technical details", maximum
/// compression factor 1032:1.
const DEFLATE_MAX_RATIO: u64 = 1032;

/// No file of a data set may be larger, decompressed: 1 GiB. MNIST's largest has 47,040,016 bytes.
pub const MAX_DATA_BYTES: u64 = 1 << 30;

/// First allocation for bytes whose number only the file claims.
const FIRST_ALLOCATION: u64 = 1 << 20;

/// A file (or embedded bytes) being read from front to back.
pub(crate) struct Source<'a> {
    path: PathBuf,
    reader: Box<dyn Read + 'a>,
    offset: u64,
    decompressed: bool,
    /// The file cannot hold more bytes than this, whatever it claims.
    most: u64,
}

impl Source<'static> {
    /// Opens a regular file; whether it is gzipped is seen from its first bytes.
    pub(crate) fn open(path: &Path) -> Result<Self, DataError> {
        let failed = |error| DataError::io(path, &error);
        // Looked at before opening: opening a named pipe would wait for a writer.
        let metadata = std::fs::metadata(path).map_err(failed)?;
        if !metadata.is_file() {
            return Err(DataError::Io {
                path: path.to_path_buf(),
                kind: std::io::ErrorKind::InvalidInput,
                reason: "not a regular file".into(),
            });
        }
        let file = BufReader::new(File::open(path).map_err(failed)?);
        Self::from_reader(path.to_path_buf(), file, metadata.len())
    }
}

impl<'a> Source<'a> {
    /// Reads embedded bytes; `name` stands for the file in errors.
    pub(crate) fn from_bytes(name: &str, bytes: &'a [u8]) -> Result<Self, DataError> {
        Self::from_reader(PathBuf::from(name), bytes, bytes.len() as u64)
    }

    fn from_reader<R: BufRead + 'a>(
        path: PathBuf,
        mut reader: R,
        len: u64,
    ) -> Result<Self, DataError> {
        let start = reader.fill_buf().map_err(|e| DataError::io(&path, &e))?;
        let decompressed = start.starts_with(&GZIP_MAGIC);
        let (reader, most): (Box<dyn Read + 'a>, u64) = if decompressed {
            (
                Box::new(MultiGzDecoder::new(reader)),
                len.saturating_mul(DEFLATE_MAX_RATIO).min(MAX_DATA_BYTES),
            )
        } else {
            (Box::new(reader), len.min(MAX_DATA_BYTES))
        };
        Ok(Self {
            path,
            reader,
            offset: 0,
            decompressed,
            most,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The place of a byte that was already read, or of the next one.
    pub(crate) fn place(&self, offset: u64) -> Place {
        Place {
            path: self.path.clone(),
            offset,
            decompressed: self.decompressed,
        }
    }

    pub(crate) fn here(&self) -> Place {
        self.place(self.offset)
    }

    /// Reads exactly `count` bytes of `what`. `claim` is where the file claims that many.
    ///
    /// # Errors
    ///
    /// `TooLarge` before anything is read if the file cannot hold them, `Truncated` if it ends early.
    pub(crate) fn read(
        &mut self,
        count: u64,
        what: &str,
        claim: u64,
    ) -> Result<Vec<u8>, DataError> {
        let left = self.most.saturating_sub(self.offset);
        if count > left {
            // A plain file shows where it ends; of a gzipped one only the bound is known yet.
            if !self.decompressed && count <= MAX_DATA_BYTES {
                return Err(DataError::Truncated {
                    place: self.place(self.most),
                    what: what.into(),
                    missing: count - left,
                });
            }
            return Err(DataError::TooLarge {
                place: self.place(claim),
                what: what.into(),
                claimed: count,
                limit: left,
            });
        }
        let mut bytes = Vec::with_capacity(count.min(FIRST_ALLOCATION) as usize);
        self.fill(count, &mut bytes)?;
        let missing = count - bytes.len() as u64;
        if missing > 0 {
            return Err(DataError::Truncated {
                place: self.here(),
                what: what.into(),
                missing,
            });
        }
        Ok(bytes)
    }

    /// Reads whatever is left, but no more than `limit` bytes.
    pub(crate) fn read_to_end(&mut self, limit: u64, what: &str) -> Result<Vec<u8>, DataError> {
        let mut bytes = Vec::new();
        self.fill(limit.saturating_add(1), &mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(DataError::TrailingBytes {
                place: self.place(limit),
                what: what.into(),
            });
        }
        Ok(bytes)
    }

    /// A big-endian `u32`.
    pub(crate) fn read_u32(&mut self, what: &str) -> Result<u32, DataError> {
        let bytes = self.read(4, what, self.offset)?;
        Ok(bytes.iter().fold(0, |value, &b| value << 8 | u32::from(b)))
    }

    /// Makes sure that nothing follows the last `what`. Also verifies a gzip checksum.
    pub(crate) fn finish(mut self, what: &str) -> Result<(), DataError> {
        let place = self.here();
        let mut one = Vec::new();
        self.fill(1, &mut one)?;
        if one.is_empty() {
            Ok(())
        } else {
            Err(DataError::TrailingBytes {
                place,
                what: what.into(),
            })
        }
    }

    /// Appends up to `count` bytes; fewer only at the end of the file.
    fn fill(&mut self, count: u64, bytes: &mut Vec<u8>) -> Result<(), DataError> {
        let before = bytes.len() as u64;
        let outcome = self.reader.by_ref().take(count).read_to_end(bytes);
        self.offset += bytes.len() as u64 - before;
        match outcome {
            Ok(_) => Ok(()),
            Err(error) if self.decompressed => Err(DataError::DamagedGzip {
                place: self.here(),
                reason: error.to_string(),
            }),
            Err(error) => Err(DataError::io(&self.path, &error)),
        }
    }
}
