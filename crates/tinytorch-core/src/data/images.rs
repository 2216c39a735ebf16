//! Images kept as the bytes they came in; a batch of them becomes floats when it is asked for.

use super::dataset::{Batch, Dataset, Targets, check_indices};
use super::error::DataError;
use crate::{Result, Tensor};

/// Images `[n, channels, height, width]` of bytes with a class each.
///
/// A byte takes a quarter of an `f32`: MNIST's 60,000 images are 47 MB here and would be 188 MB as floats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageDataset {
    pixels: Vec<u8>,
    shape: [usize; 3],
    labels: Vec<u8>,
    classes: usize,
    largest: u8,
}

impl ImageDataset {
    /// Takes pixels `[n, channels, height, width]`, row-major, each in `0..=largest`, and `n` labels.
    ///
    /// # Errors
    ///
    /// [`DataError::Invalid`] if the numbers do not fit together, a label is not below `classes`, or a pixel
    /// is above `largest`.
    pub fn new(
        pixels: Vec<u8>,
        shape: [usize; 3],
        labels: Vec<u8>,
        classes: usize,
        largest: u8,
    ) -> Result<Self, DataError> {
        let invalid = |reason: String| Err(DataError::Invalid(reason));
        let size = shape.iter().try_fold(1_usize, |n, &d| n.checked_mul(d));
        let needed = size.and_then(|size| size.checked_mul(labels.len()));
        if needed != Some(pixels.len()) || size == Some(0) {
            return invalid(format!(
                "{} pixels for {} images of shape {shape:?}",
                pixels.len(),
                labels.len(),
            ));
        }
        if let Some(i) = labels.iter().position(|&l| usize::from(l) >= classes) {
            return invalid(format!(
                "label {} of image {i}: {classes} classes",
                labels[i]
            ));
        }
        if largest == 0 || pixels.iter().any(|&p| p > largest) {
            return invalid(format!("a pixel is above the largest, {largest}"));
        }
        Ok(Self {
            pixels,
            shape,
            labels,
            classes,
            largest,
        })
    }

    /// `[channels, height, width]` of one image.
    pub fn image_shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The bytes of one image, `[channels, height, width]`.
    ///
    /// # Panics
    ///
    /// If there is no such image.
    pub fn image(&self, index: usize) -> &[u8] {
        let size = self.image_size();
        &self.pixels[index * size..(index + 1) * size]
    }

    /// The class of each image.
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// The number of classes; labels are `0..classes`.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The byte that means 1.0.
    pub fn largest_pixel(&self) -> u8 {
        self.largest
    }

    /// A data set of its own with the images of these indices.
    ///
    /// # Errors
    ///
    /// [`DataError::IndexOutOfRange`] if there is no such image.
    pub fn select(&self, indices: &[usize]) -> Result<Self, DataError> {
        check_indices(indices, self.labels.len())?;
        Ok(Self {
            pixels: indices
                .iter()
                .flat_map(|&i| self.image(i))
                .copied()
                .collect(),
            labels: indices.iter().map(|&i| self.labels[i]).collect(),
            ..*self
        })
    }

    /// All images as one batch.
    ///
    /// # Errors
    ///
    /// None at present; a `Result` because making a tensor may fail.
    pub fn all(&self) -> Result<Batch> {
        self.batch(&(0..self.labels.len()).collect::<Vec<_>>())
    }

    fn image_size(&self) -> usize {
        self.shape.iter().product()
    }
}

impl Dataset for ImageDataset {
    fn len(&self) -> usize {
        self.labels.len()
    }

    /// Inputs are `pixel / largest_pixel`, in `0.0..=1.0`.
    fn batch(&self, indices: &[usize]) -> Result<Batch> {
        check_indices(indices, self.labels.len())?;
        let largest = f32::from(self.largest);
        let mut values = Vec::with_capacity(indices.len() * self.image_size());
        for &index in indices {
            values.extend(self.image(index).iter().map(|&p| f32::from(p) / largest));
        }
        let [channels, height, width] = self.shape;
        let classes = indices.iter().map(|&i| usize::from(self.labels[i]));
        Ok(Batch {
            inputs: Tensor::new(values, &[indices.len(), channels, height, width])?,
            targets: Targets::Classes(classes.collect()),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn pixels_become_fractions_of_the_largest() {
        let images = ImageDataset::new(vec![0, 4, 8, 16], [1, 1, 2], vec![1, 0], 2, 16).unwrap();
        let batch = images.batch(&[1, 0]).unwrap();
        assert_eq!(batch.inputs.shape(), [2, 1, 1, 2]);
        assert_eq!(batch.inputs.to_vec(), [0.5, 1.0, 0.0, 0.25]);
        assert_eq!(batch.targets.classes().unwrap(), [0, 1]);
    }

    #[test]
    fn numbers_that_do_not_fit_together_are_refused() {
        assert!(ImageDataset::new(vec![0; 3], [1, 1, 2], vec![0, 0], 2, 16).is_err());
        assert!(ImageDataset::new(vec![0; 2], [1, 1, 2], vec![2], 2, 16).is_err());
        assert!(ImageDataset::new(vec![17; 2], [1, 1, 2], vec![0], 2, 16).is_err());
        assert!(ImageDataset::new(vec![], [0, 1, 2], vec![0], 2, 16).is_err());
        assert!(ImageDataset::new(vec![], [usize::MAX, 2, 2], vec![0], 2, 16).is_err());
    }

    #[test]
    fn selected_images_keep_bytes_and_labels_together() {
        let images = ImageDataset::new(vec![1, 2, 3], [1, 1, 1], vec![0, 1, 0], 2, 16).unwrap();
        let selected = images.select(&[2, 1]).unwrap();
        assert_eq!(
            (selected.image(0), selected.labels()),
            (&[3][..], &[0, 1][..])
        );
        assert!(images.select(&[3]).is_err());
    }
}
