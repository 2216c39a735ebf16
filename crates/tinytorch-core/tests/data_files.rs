//! The readers of MNIST and CIFAR-10 on files written here: good ones, and each way to be bad.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use tempfile::TempDir;
use tinytorch_core::Error;
use tinytorch_core::data::{DataError, Dataset, MAX_DATA_BYTES, Part, Place, cifar10, mnist};

const IMAGES: &str = "train-images-idx3-ubyte";
const LABELS: &str = "train-labels-idx1-ubyte";

fn idx(magic: u32, dimensions: &[u32], values: &[u8]) -> Vec<u8> {
    let mut bytes = magic.to_be_bytes().to_vec();
    dimensions
        .iter()
        .for_each(|d| bytes.extend(d.to_be_bytes()));
    bytes.extend(values);
    bytes
}

/// Two images of 2 · 3 pixels, with labels 7 and 2.
fn images() -> Vec<u8> {
    let pixels: Vec<u8> = (0..12).map(|i| i * 20).collect();
    idx(0x803, &[2, 2, 3], &pixels)
}

fn labels() -> Vec<u8> {
    idx(0x801, &[2], &[7, 2])
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

fn mnist_error(images: &[u8], labels: &[u8]) -> (TempDir, DataError) {
    let folder = folder(&[(IMAGES, images), (LABELS, labels)]);
    let error = data_error(mnist(folder.path(), Part::Train).unwrap_err());
    (folder, error)
}

fn data_error(error: impl Into<Error>) -> DataError {
    match error.into() {
        Error::Data(error) => error,
        other => panic!("not an error of data: {other}"),
    }
}

fn place(folder: &TempDir, name: &str, offset: u64) -> Place {
    Place {
        path: folder.path().join(name),
        offset,
        decompressed: false,
    }
}

#[test]
fn a_small_mnist_folder_is_read() {
    let folder = folder(&[(IMAGES, &images()), (LABELS, &labels())]);
    let data = mnist(folder.path(), Part::Train).unwrap();
    assert_eq!(data.image_shape(), [1, 2, 3]);
    assert_eq!(data.labels(), [7, 2]);
    assert_eq!(data.image(1), [120, 140, 160, 180, 200, 220]);
    let batch = data.batch(&[0]).unwrap();
    assert_eq!(batch.inputs.to_vec()[1], 20.0 / 255.0);
}

#[test]
fn gzipped_files_are_known_by_their_bytes_and_not_by_their_names() {
    let plain = folder(&[(IMAGES, &images()), (LABELS, &labels())]);
    let expected = mnist(plain.path(), Part::Train).unwrap();
    for names in [
        [IMAGES, LABELS],
        ["train-images-idx3-ubyte.gz", "train-labels.idx1-ubyte.gz"],
    ] {
        let zipped = folder(&[(names[0], &gzip(&images())), (names[1], &gzip(&labels()))]);
        assert_eq!(mnist(zipped.path(), Part::Train).unwrap(), expected);
    }
}

#[test]
fn a_missing_file_is_listed_with_the_names_that_were_tried() {
    let folder = folder(&[(IMAGES, &images())]);
    let error = mnist(folder.path(), Part::Test).unwrap_err();
    let DataError::FileMissing { names, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(names[0], "t10k-images-idx3-ubyte");
    let nowhere = mnist(folder.path().join("nowhere"), Part::Train).unwrap_err();
    assert!(matches!(nowhere, DataError::Io { .. }), "{nowhere}");
}

#[test]
fn images_in_the_place_of_labels_have_the_wrong_magic_number() {
    let (folder, error) = mnist_error(&images(), &images());
    let expected = DataError::WrongMagic {
        place: place(&folder, LABELS, 0),
        what: "IDX labels".into(),
        expected: 0x801,
        got: 0x803,
    };
    assert_eq!(error, expected);
    assert!(
        error
            .to_string()
            .contains("expected 0x00000801, got 0x00000803")
    );
}

#[test]
fn a_cut_file_is_reported_where_it_ends() {
    let whole = images();
    let (folder, error) = mnist_error(&whole[..20], &labels());
    let expected = DataError::Truncated {
        place: place(&folder, IMAGES, 20),
        what: "images".into(),
        missing: 8,
    };
    assert_eq!(error, expected);
}

#[test]
fn a_file_that_goes_on_is_reported_where_it_should_end() {
    let mut long = images();
    long.push(0);
    let (folder, error) = mnist_error(&long, &labels());
    let expected = DataError::TrailingBytes {
        place: place(&folder, IMAGES, 28),
        what: "value".into(),
    };
    assert_eq!(error, expected);
}

#[test]
fn a_header_that_claims_absurd_sizes_is_refused_before_anything_is_allocated() {
    // (2^32 - 1)^3 does not even fit in 64 bits.
    let (folder, error) = mnist_error(&idx(0x803, &[u32::MAX; 3], &[0; 100]), &labels());
    let expected = DataError::TooLarge {
        place: place(&folder, IMAGES, 4),
        what: "images".into(),
        claimed: u64::MAX,
        limit: MAX_DATA_BYTES,
    };
    assert_eq!(error, expected);
    // 1 GiB is accepted as a claim, but is not there.
    let (_, error) = mnist_error(
        &idx(0x803, &[1 << 10, 1 << 10, 1 << 10], &[0; 100]),
        &labels(),
    );
    assert!(matches!(error, DataError::Truncated { .. }), "{error}");
}

#[test]
fn a_gzipped_header_cannot_claim_more_than_gzip_can_hold() {
    let claim = gzip(&idx(0x803, &[1 << 10, 1 << 10, 1 << 10], &[0; 100]));
    let (_, error) = mnist_error(&claim, &labels());
    let limit = claim.len() as u64 * 1032 - 16;
    let DataError::TooLarge {
        place,
        claimed,
        limit: got,
        ..
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!((claimed, got), (1 << 30, limit));
    assert!(place.decompressed);
}

#[test]
fn a_gzip_bomb_is_not_unpacked_beyond_its_own_header() {
    // 64 MiB of zeros behind a header that claims 12 bytes: the 13th is refused.
    let mut bomb = images();
    bomb.resize(64 << 20, 0);
    let (_, error) = mnist_error(&gzip(&bomb), &labels());
    let DataError::TrailingBytes { place, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(place.offset, 28);
}

#[test]
fn damaged_gzip_data_is_an_error_even_where_the_bytes_look_right() {
    let mut bad_checksum = gzip(&images());
    let crc = bad_checksum.len() - 8;
    bad_checksum[crc] ^= 1;
    let (_, error) = mnist_error(&bad_checksum, &labels());
    assert!(matches!(error, DataError::DamagedGzip { .. }), "{error}");

    let cut = gzip(&images());
    let (_, error) = mnist_error(&cut[..cut.len() - 12], &labels());
    assert!(matches!(error, DataError::DamagedGzip { .. }), "{error}");
}

#[test]
fn a_label_above_nine_is_reported_with_its_byte() {
    let (folder, error) = mnist_error(&images(), &idx(0x801, &[2], &[7, 10]));
    let expected = DataError::LabelOutOfRange {
        place: place(&folder, LABELS, 9),
        example: 1,
        label: 10,
        classes: 10,
    };
    assert_eq!(error, expected);
}

#[test]
fn images_and_labels_of_different_number_do_not_belong_together() {
    let (folder, error) = mnist_error(&images(), &idx(0x801, &[3], &[1, 2, 3]));
    let expected = DataError::CountsDiffer {
        place: place(&folder, LABELS, 4),
        images_path: folder.path().join(IMAGES),
        images: 2,
        labels: 3,
    };
    assert_eq!(error, expected);
}

#[test]
fn a_dimension_of_zero_is_reported() {
    let (folder, error) = mnist_error(&idx(0x803, &[2, 0, 3], &[]), &labels());
    let expected = DataError::Empty {
        place: place(&folder, IMAGES, 8),
        what: "images".into(),
    };
    assert_eq!(error, expected);
}

#[test]
fn a_folder_in_the_place_of_a_file_is_an_error() {
    let folder = folder(&[(LABELS, &labels())]);
    fs::create_dir(folder.path().join(IMAGES)).unwrap();
    let error = mnist(folder.path(), Part::Train).unwrap_err();
    assert!(matches!(error, DataError::Io { .. }), "{error}");
}

fn cifar_record(label: u8) -> Vec<u8> {
    let mut record = vec![label];
    record.extend([10; 1024]);
    record.extend([20; 1024]);
    record.extend([30; 1024]);
    record
}

fn cifar_error(bytes: &[u8]) -> (TempDir, DataError) {
    let folder = folder(&[("test_batch.bin", bytes)]);
    let error = cifar10(folder.path(), Part::Test).unwrap_err();
    (folder, error)
}

#[test]
fn five_small_cifar_files_make_one_training_set() {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: PathBuf, bytes: &[u8]| fs::write(path, bytes).unwrap();
    for i in 1..=5_u8 {
        let path: &Path = folder.path();
        let records = [cifar_record(i), cifar_record(0)].concat();
        if i == 3 {
            write(path.join("data_batch_3.bin.gz"), &gzip(&records));
        } else {
            write(path.join(format!("data_batch_{i}.bin")), &records);
        }
    }
    let data = cifar10(folder.path(), Part::Train).unwrap();
    assert_eq!(data.labels(), [1, 0, 2, 0, 3, 0, 4, 0, 5, 0]);
    assert_eq!(data.image_shape(), [3, 32, 32]);
    assert_eq!(
        (data.image(9)[0], data.image(9)[1024], data.image(9)[3071]),
        (10, 20, 30)
    );
    let missing = cifar10(folder.path(), Part::Test).unwrap_err();
    assert!(
        matches!(missing, DataError::FileMissing { .. }),
        "{missing}"
    );
}

#[test]
fn a_cifar_file_cut_within_a_record_says_how_much_is_missing() {
    let bytes = [cifar_record(1), cifar_record(2)].concat();
    let (folder, error) = cifar_error(&bytes[..3073 + 100]);
    let expected = DataError::Truncated {
        place: place(&folder, "test_batch.bin", 3173),
        what: "record 1".into(),
        missing: 2973,
    };
    assert_eq!(error, expected);
}

#[test]
fn a_cifar_label_above_nine_is_reported_with_its_byte() {
    let (folder, error) = cifar_error(&[cifar_record(1), cifar_record(99)].concat());
    let expected = DataError::LabelOutOfRange {
        place: place(&folder, "test_batch.bin", 3073),
        example: 1,
        label: 99,
        classes: 10,
    };
    assert_eq!(error, expected);
}

#[test]
fn a_cifar_file_is_empty_or_too_long() {
    let (_, error) = cifar_error(&[]);
    assert!(matches!(error, DataError::Empty { .. }), "{error}");
    let long = vec![0; 10_000 * 3073 + 1];
    for bytes in [gzip(&long), long] {
        let (_, error) = cifar_error(&bytes);
        let DataError::TrailingBytes { place, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(place.offset, 10_000 * 3073);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_changed_or_cut_file_is_an_error_or_other_data_but_never_a_panic(
        at in 0_usize..28,
        byte: u8,
        cut in 0_usize..=28,
        zipped: bool,
    ) {
        let mut bytes = images();
        bytes[at] = byte;
        bytes.truncate(cut);
        if zipped {
            bytes = gzip(&bytes);
        }
        let folder = folder(&[(IMAGES, &bytes), (LABELS, &labels())]);
        let outcome = mnist(folder.path(), Part::Train);
        prop_assert!(cut == 28 || outcome.is_err());
    }
}
