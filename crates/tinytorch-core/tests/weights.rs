//! Weights in files: what is saved comes back, and what is wrong is named, without a change to the model.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tempfile::TempDir;
use tinytorch_core::nn::{BatchNorm2d, Conv2d, Conv2dConfig, Flatten, Layer, Linear, Sequential};
use tinytorch_core::safetensors::{
    WeightsError, load_weights, read_tensors, save_weights, write_tensors,
};
use tinytorch_core::{Error, Result, Tensor};

fn model(seed: u64) -> Sequential {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    let features = Sequential::new()
        .with(Conv2d::new(Conv2dConfig::new(1, 2, 3), rng).unwrap())
        .with(BatchNorm2d::new(2));
    let model = Sequential::new()
        .with_named("features", features)
        .with(Flatten)
        .with(Linear::new(8, 3, rng));
    // One forward pass in training mode, so that the running moments are no longer 0 and 1.
    model.forward(&Tensor::randn(&[4, 1, 4, 4], rng)).unwrap();
    model
}

fn bits(model: &dyn Layer) -> Vec<(String, Vec<u32>)> {
    let tensors = model.named_tensors().into_iter();
    tensors
        .map(|(name, t)| (name, t.to_vec().into_iter().map(f32::to_bits).collect()))
        .collect()
}

struct Saved {
    _folder: TempDir,
    path: PathBuf,
    model: Sequential,
}

fn saved() -> Saved {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let model = model(1);
    save_weights(&path, &model).unwrap();
    Saved {
        _folder: folder,
        path,
        model,
    }
}

/// The error of loading `path`, which must leave the model as it was.
fn refusal(path: &Path) -> WeightsError {
    let model = model(2);
    let before = bits(&model);
    let error = load_weights(path, &model).unwrap_err();
    assert_eq!(bits(&model), before, "a failed load changed the model");
    match error {
        Error::Weights(error) => error,
        other => panic!("not an error of weights: {other}"),
    }
}

/// Saves the tensors of the model after `change`.
fn altered(change: impl FnOnce(&mut Vec<(String, Tensor)>)) -> (Saved, WeightsError) {
    let saved = saved();
    let mut tensors = saved.model.named_tensors();
    change(&mut tensors);
    write_tensors(&saved.path, &tensors, None).unwrap();
    let error = refusal(&saved.path);
    (saved, error)
}

#[test]
fn parameters_and_buffers_come_back_bit_for_bit() -> Result<()> {
    let saved = saved();
    let other = model(2);
    assert_ne!(bits(&other), bits(&saved.model));
    load_weights(&saved.path, &other)?;
    assert_eq!(bits(&other), bits(&saved.model));
    let names: Vec<String> = bits(&other).into_iter().map(|(name, _)| name).collect();
    assert!(
        names.contains(&"features.1.running_mean".to_string()),
        "{names:?}"
    );
    Ok(())
}

#[test]
fn the_same_weights_make_the_same_bytes() -> Result<()> {
    let saved = saved();
    let first = fs::read(&saved.path).unwrap();
    save_weights(&saved.path, &saved.model)?;
    assert_eq!(fs::read(&saved.path).unwrap(), first);
    Ok(())
}

#[test]
fn unusual_numbers_and_shapes_survive() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let values = vec![
        f32::NAN,
        f32::INFINITY,
        -0.0,
        f32::from_bits(1),
        f32::MIN,
        1.0,
    ];
    let tensors = [
        ("odd".to_string(), Tensor::new(values.clone(), &[2, 3])?),
        (
            "turned".to_string(),
            Tensor::new(values, &[2, 3])?.permute(&[1, 0])?,
        ),
        ("scalar".to_string(), Tensor::scalar(2.5)),
        ("empty".to_string(), Tensor::zeros(&[0, 4])),
    ];
    write_tensors(&path, &tensors, Some("a note"))?;
    let file = read_tensors(&path)?;
    assert_eq!(file.note.as_deref(), Some("a note"));
    for (name, tensor) in &tensors {
        let bits = |t: &Tensor| t.to_vec().into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(file.tensors[name].shape(), tensor.shape());
        assert_eq!(bits(&file.tensors[name]), bits(tensor), "{name}");
    }
    Ok(())
}

#[test]
fn a_missing_name_is_told() {
    let (saved, error) = altered(|tensors| tensors.retain(|(name, _)| name != "2.bias"));
    let expected = WeightsError::Missing {
        path: saved.path,
        name: "2.bias".into(),
    };
    assert_eq!(error, expected);
}

#[test]
fn an_unexpected_name_is_told() {
    let (saved, error) = altered(|tensors| tensors.push(("3.bias".into(), Tensor::scalar(0.0))));
    let expected = WeightsError::Unexpected {
        path: saved.path,
        name: "3.bias".into(),
    };
    assert_eq!(error, expected);
}

#[test]
fn a_wrong_shape_is_told_even_if_the_number_of_values_is_right() {
    let (saved, error) = altered(|tensors| {
        let weight = tensors
            .iter_mut()
            .find(|(name, _)| name == "2.weight")
            .unwrap();
        weight.1 = Tensor::zeros(&[8, 3]);
    });
    let expected = WeightsError::Shape {
        path: saved.path,
        name: "2.weight".into(),
        expected: vec![3, 8],
        got: vec![8, 3],
    };
    assert_eq!(error, expected);
}

#[test]
fn a_wrong_type_is_told() {
    let saved = saved();
    let bytes = [0_u8; 2];
    let view = TensorView::new(Dtype::F16, vec![1], &bytes).unwrap();
    let file = safetensors::serialize([("2.bias", view)], None).unwrap();
    fs::write(&saved.path, file).unwrap();
    let expected = WeightsError::Dtype {
        path: saved.path.clone(),
        name: "2.bias".into(),
        got: "F16".into(),
    };
    assert_eq!(refusal(&saved.path), expected);
}

#[test]
fn a_file_of_another_program_without_checksums_is_read() -> Result<()> {
    let saved = saved();
    let tensors = saved.model.named_tensors();
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, t)| t.to_vec().into_iter().flat_map(f32::to_le_bytes).collect())
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, tensor), bytes)| {
        let view = TensorView::new(Dtype::F32, tensor.shape().to_vec(), bytes).unwrap();
        (name, view)
    });
    fs::write(&saved.path, safetensors::serialize(views, None).unwrap()).unwrap();
    let other = model(2);
    load_weights(&saved.path, &other)?;
    assert_eq!(bits(&other), bits(&saved.model));
    Ok(())
}

#[test]
fn a_changed_number_is_told_with_its_tensor() {
    let saved = saved();
    let mut bytes = fs::read(&saved.path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&saved.path, bytes).unwrap();
    let error = refusal(&saved.path);
    assert!(
        matches!(error, WeightsError::DamagedTensor { .. }),
        "{error}"
    );
}

/// Replaces a text in the header of a file by one of the same length.
fn replace_in_header(path: &Path, old: &str, new: &str) {
    assert_eq!(old.len(), new.len());
    let mut bytes = fs::read(path).unwrap();
    let windows = &mut bytes.windows(old.len());
    let at = windows.position(|window| window == old.as_bytes()).unwrap();
    bytes[at..][..new.len()].copy_from_slice(new.as_bytes());
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_changed_shape_of_the_same_size_is_told_without_a_model() {
    let saved = saved();
    replace_in_header(&saved.path, r#""shape":[3,8]"#, r#""shape":[8,3]"#);
    let error = read_tensors(&saved.path).unwrap_err();
    assert!(
        matches!(&error, WeightsError::DamagedTensor { path, name, .. }
            if *path == saved.path && name == "2.weight"),
        "{error}"
    );
}

#[test]
fn checksums_of_bytes_alone_as_the_first_files_had_them_are_checked() -> Result<()> {
    let saved = saved();
    let values = [1.0_f32, -2.0, 0.5];
    let mut bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
    let mut crc = flate2::Crc::new();
    crc.update(&bytes);
    let write = |version: &str, bytes: &[u8]| {
        let own = format!(r#"{{{version}"crc32":{{"a":{}}}}}"#, crc.sum());
        let metadata = Some([("tinytorch".to_string(), own)].into());
        let view = TensorView::new(Dtype::F32, vec![3], bytes).unwrap();
        let file = safetensors::serialize([("a", view)], metadata).unwrap();
        fs::write(&saved.path, file).unwrap();
    };
    write("", &bytes);
    assert_eq!(read_tensors(&saved.path)?.tensors["a"].to_vec(), values);
    write(r#""version":2,"#, &bytes);
    let error = read_tensors(&saved.path).unwrap_err();
    assert!(
        matches!(error, WeightsError::DamagedTensor { .. }),
        "{error}"
    );
    write(r#""version":3,"#, &bytes);
    let error = read_tensors(&saved.path).unwrap_err();
    assert!(error.to_string().contains("version 3"), "{error}");
    bytes[4] ^= 1;
    write("", &bytes);
    let error = read_tensors(&saved.path).unwrap_err();
    assert!(
        matches!(error, WeightsError::DamagedTensor { .. }),
        "{error}"
    );
    Ok(())
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let saved = saved();
    let bytes = fs::read(&saved.path).unwrap();
    for cut in (0..bytes.len()).step_by(5) {
        fs::write(&saved.path, &bytes[..cut]).unwrap();
        let error = read_tensors(&saved.path).unwrap_err();
        assert!(
            matches!(error, WeightsError::Damaged { .. }),
            "cut at {cut}: {error}"
        );
    }
}

#[test]
fn a_bit_flipped_anywhere_is_refused_or_changes_nothing() {
    let saved = saved();
    let good = fs::read(&saved.path).unwrap();
    let other = model(1);
    let expected = bits(&other);
    for at in (0..good.len()).step_by(3) {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 7);
        fs::write(&saved.path, bytes).unwrap();
        // A flip in our own metadata's key hides the checksums; the tensors are then still whole.
        let outcome = load_weights(&saved.path, &other);
        assert_eq!(bits(&other), expected, "byte {at}: {outcome:?}");
    }
}

#[test]
fn a_header_that_claims_an_absurd_length_is_refused() {
    let saved = saved();
    for length in [u64::MAX, 1 << 62, 1 << 40, 99_999_999] {
        let mut bytes = fs::read(&saved.path).unwrap();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        fs::write(&saved.path, bytes).unwrap();
        let error = refusal(&saved.path);
        assert!(matches!(error, WeightsError::Damaged { .. }), "{error}");
    }
}

#[test]
fn a_missing_file_and_a_folder_that_is_not_there_are_errors_of_the_system() {
    let saved = saved();
    let nowhere = saved.path.with_file_name("nowhere");
    let error = refusal(&nowhere);
    assert!(
        matches!(error, WeightsError::Io { action: "read", .. }),
        "{error}"
    );
    let error = save_weights(nowhere.join("file"), &saved.model).unwrap_err();
    assert!(error.to_string().starts_with("cannot write "), "{error}");
}

#[test]
fn two_tensors_of_one_name_are_not_saved_over_each_other() {
    let saved = saved();
    let before = fs::read(&saved.path).unwrap();
    let twice = vec![("a".to_string(), Tensor::scalar(1.0)); 2];
    let error = write_tensors(&saved.path, &twice, None).unwrap_err();
    assert!(matches!(error, WeightsError::Name { .. }), "{error}");
    assert_eq!(fs::read(&saved.path).unwrap(), before);
}
