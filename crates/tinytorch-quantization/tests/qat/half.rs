//! Training in half precision: what it computes, what it keeps, and what goes wrong without its precautions.

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tinytorch_core::nn::{
    BatchNorm2d, Concat, Conv2d, Conv2dConfig, Dropout, Embedding, Flatten, Gelu, Layer, Linear,
    MaxPool2d, Relu, Residual, Sequential,
};
use tinytorch_core::{Tensor, no_grad};
use tinytorch_quantization::{Half, HalfModel, to_half};

type Rng = ChaCha8Rng;

/// Whole numbers from −2 to 2: their products and the sums of those are exact in `f32`, in whatever order.
fn whole(shape: &[usize], rng: &mut Rng) -> Tensor {
    let tensor = Tensor::zeros(shape);
    tensor.update(|mut values| values.mapv_inplace(|_| rng.random_range(-2..=2) as f32));
    tensor
}

fn made_whole(model: &Sequential, rng: &mut Rng) {
    for (_, parameter) in model.named_parameters() {
        parameter
            .assign(&whole(parameter.shape(), rng))
            .expect("its own shape");
    }
}

/// A network of products in 16 bits, with at most one layer in `f32`, at its end, behind which nothing is whole.
fn random_network(rng: &mut Rng) -> (Sequential, Tensor) {
    let groups = rng.random_range(1..=3);
    let channels = groups * rng.random_range(1..=2);
    let outputs = groups * rng.random_range(1..=3);
    let [height, width] = [rng.random_range(4..=9), rng.random_range(4..=9)];
    let config = Conv2dConfig::new(channels, outputs, rng.random_range(1..=3))
        .padding(rng.random_range(0..=2))
        .stride(rng.random_range(1..=3))
        .groups(groups)
        .bias(rng.random());
    let mut model = Sequential::new().with(Conv2d::new(config, rng).expect("a good configuration"));
    if rng.random() {
        model = model.with(Relu).with(MaxPool2d::new(1));
    }
    let x = whole(&[3, channels, height, width], rng);
    let same_size = |outputs_of_it: usize, rng: &mut Rng| {
        let config = Conv2dConfig::new(outputs, outputs_of_it, 3).padding(1);
        Conv2d::new(config, rng).expect("a good configuration")
    };
    model = match rng.random_range(0..6) {
        0 | 1 => model.with(same_size(2, rng)),
        2 => model.with(Residual::new(
            Sequential::new().with(same_size(outputs, rng)).with(Relu),
        )),
        3 => {
            // A sum within a sum, and a shortcut.
            let inner = Residual::new(same_size(outputs, rng));
            let body = Sequential::new().with(inner).with(Relu);
            model.with(Residual::with_shortcut(body, same_size(outputs, rng)))
        }
        4 => model.with(
            Concat::new()
                .with(Sequential::new())
                .with(same_size(2, rng))
                .with(Sequential::new().with(Relu).with(same_size(1, rng))),
        ),
        _ => model,
    };
    let end = rng.random_range(0..4);
    if end == 0 {
        made_whole(&model, rng);
        let shape = no_grad(|| model.forward(&x))
            .expect("fits")
            .shape()
            .to_vec();
        return (model.with(BatchNorm2d::new(shape[1])), x);
    }
    model = model.with(Flatten);
    let size = no_grad(|| model.forward(&x)).expect("fits").len() / 3;
    model = model
        .with(Linear::new(size, 5, rng))
        .with(Relu)
        .with(Linear::without_bias(5, 4, rng));
    made_whole(&model, rng);
    (if end == 1 { model.with(Gelu) } else { model }, x)
}

/// The same by rounding at every place on the framework's own tape. Rounding what is rounded changes no value, but the gradient
/// of each way is rounded before those of several ways are added, as tensors of 16 bits would be.
fn by_rounding(layer: &dyn Layer, half: Half, x: &Tensor) -> Tensor {
    let x = to_half(x, half);
    let any = layer.as_any();
    let rounded = |t: Option<&Tensor>| t.map(|t| to_half(t, half));
    let way = |layer: &dyn Layer| by_rounding(layer, half, &x);
    if let Some(model) = any.downcast_ref::<Sequential>() {
        let layers = model.shared().iter();
        return layers.fold(x.clone(), |x, (_, layer)| by_rounding(&**layer, half, &x));
    }
    let y = if let Some(linear) = any.downcast_ref::<Linear>() {
        let weight = to_half(linear.weight(), half);
        x.linear(&weight, rounded(linear.bias()).as_ref())
    } else if let Some(conv) = any.downcast_ref::<Conv2d>() {
        let weight = to_half(conv.weight(), half);
        x.conv2d(&weight, rounded(conv.bias()).as_ref(), conv.options())
    } else if let Some(residual) = any.downcast_ref::<Residual>() {
        let shortcut = residual
            .shortcut()
            .map_or_else(|| to_half(&x, half), |shortcut| way(&**shortcut));
        way(&**residual.body()).try_add(&shortcut)
    } else if let Some(concat) = any.downcast_ref::<Concat>() {
        let ways: Vec<Tensor> = concat.shared().iter().map(|(_, l)| way(&**l)).collect();
        Tensor::concat(&ways.iter().collect::<Vec<_>>(), 1)
    } else {
        layer.forward(&x)
    };
    to_half(&y.expect("fits"), half)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn values_and_gradients_are_those_of_rounding_at_every_place(seed: u64, bf16: bool) {
        let rng = &mut Rng::seed_from_u64(seed);
        let half = if bf16 { Half::Bf16 } else { Half::F16 };
        let (model, x) = random_network(rng);
        let x = x.with_grad();
        let half_model = HalfModel::new(&model, half);
        let run = |forward: &dyn Fn() -> Tensor| {
            model.zero_grad();
            x.zero_grad();
            let y = forward();
            let upstream = whole(y.shape(), &mut Rng::seed_from_u64(seed));
            y.backward_from(&upstream).expect("recorded");
            let grads = model.named_parameters().into_iter().map(|(_, p)| p);
            let grads = grads.chain([x.clone()]).map(|p| p.grad().expect("a leaf").to_vec());
            (y.to_vec(), grads.collect::<Vec<_>>())
        };
        let expected = run(&|| by_rounding(&model, half, &x));
        let got = run(&|| half_model.forward(&x).expect("fits"));
        prop_assert_eq!(&got.0, &expected.0);
        let whole_to_the_end = model.shared().last().is_some_and(|(_, layer)| layer.as_any().is::<Linear>());
        for (got, expected) in got.1.iter().zip(&expected.1) {
            // Behind a layer in `f32` gradients are not whole: sums differ by their order, so that a rounding to 8 bits (2^-9
            // of a value) may fall to the other side. There are at most four in a row.
            let largest = expected.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
            let tolerance = if whole_to_the_end { 0.0 } else { largest * 4.0 / 256.0 };
            let close = got.iter().zip(expected).all(|(a, b)| (a - b).abs() <= tolerance);
            prop_assert!(close && got.len() == expected.len());
        }
    }
}

#[test]
fn activations_are_kept_once_in_two_bytes_each() {
    let rng = &mut Rng::seed_from_u64(1);
    let model = Sequential::new()
        .with(Linear::new(8, 16, rng))
        .with(Relu)
        .with(Linear::new(16, 4, rng));
    let half = HalfModel::new(&model, Half::Bf16);
    let y = half.forward(&Tensor::randn(&[10, 8], rng)).expect("fits");
    // The input, and the output of the ReLU, which is the input of the last layer.
    assert_eq!(half.saved_bytes(), 2 * (10 * 8 + 10 * 16));
    y.sum().backward().expect("a scalar");
}

#[test]
fn a_layer_that_is_computed_again_leaves_no_second_trace() {
    let rng = &mut Rng::seed_from_u64(2);
    let model = Sequential::new()
        .with(BatchNorm2d::new(2))
        .with(Dropout::new(0.5, rng).expect("a probability"));
    let x = Tensor::randn(&[4, 2, 3, 3], rng).with_grad();
    let half = HalfModel::new(&model, Half::Bf16);
    let y = half.forward(&x).expect("fits");
    let moments = |model: &Sequential| -> Vec<Vec<f32>> {
        model
            .named_buffers()
            .iter()
            .map(|(_, buffer)| buffer.to_vec())
            .collect()
    };
    let (buffers, generators) = (moments(&model), model.named_rng_states());
    y.sum().backward().expect("a scalar");
    assert_eq!(moments(&model), buffers);
    assert_eq!(model.named_rng_states(), generators);
    // The bias of the batch norm is told how many of its channel's values were kept, doubled by the dropout: only with
    // the same mask as before is that the number of outputs that are not 0.
    let kept = y.array();
    let bias = model.named_parameters()[1]
        .1
        .grad()
        .expect("a leaf")
        .to_vec();
    for (channel, bias) in bias.into_iter().enumerate() {
        let values = kept.index_axis(ndarray::Axis(1), channel);
        let count = values.iter().filter(|value| **value != 0.0).count();
        assert_eq!(bias, 2.0 * count as f32);
    }
}

#[test]
fn indices_of_an_embedding_are_never_rounded() {
    // Rounded to bf16, 257 would look up row 256, and in f16 4999 would be no row at all.
    let rng = &mut Rng::seed_from_u64(3);
    let model = Sequential::new()
        .with(Embedding::new(5000, 4, rng))
        .with(Flatten);
    let x = Tensor::new(vec![257.0, 2049.0, 4999.0], &[3, 1]).expect("three");
    let expected = model.forward(&x).expect("rows that exist").to_vec();
    for half in [Half::Bf16, Half::F16] {
        let y = HalfModel::new(&model, half).forward(&x);
        let y = y.expect("rows that exist");
        let rounded: Vec<f32> = expected.iter().map(|&value| half.round(value)).collect();
        assert_eq!(y.to_vec(), rounded, "{half:?}");
        y.sum().backward().expect("a scalar");
        let gradient = model.named_parameters()[0].1.grad().expect("a leaf");
        let rows = gradient.array();
        let touched: Vec<usize> = (rows.outer_iter().enumerate())
            .filter(|(_, row)| row.sum() != 0.0)
            .map(|(index, _)| index)
            .collect();
        assert_eq!(touched, [257, 2049, 4999], "{half:?}");
        model.zero_grad();
    }
}

/// Adds whole numbers, as a model does that keeps several vocabularies in one table; it is taken apart by nobody.
struct Offset(f32, Sequential);

impl Layer for Offset {
    fn forward(&self, x: &Tensor) -> tinytorch_core::Result<Tensor> {
        self.1.forward(&(x + self.0))
    }

    fn kind(&self) -> &'static str {
        "offset"
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }

    fn children(&self) -> Vec<(String, &dyn Layer)> {
        vec![("then".to_owned(), &self.1)]
    }
}

#[test]
fn indices_stay_exact_wherever_an_embedding_stands() {
    // Only the input of a whole model was spared: behind another layer, or inside of one, word 4999 was word 4992 in bf16.
    let rng = &mut Rng::seed_from_u64(8);
    let table = |rng: &mut _| Embedding::new(5000, 2, rng);
    let same = |layer: Offset| Sequential::new().with(layer);
    let linear = Linear::from_parts(Tensor::ones(&[1, 2]), None).expect("[out, in]");
    let models = [
        Sequential::new().with(Relu).with(table(rng)).with(Flatten),
        same(Offset(2.0, Sequential::new()))
            .with(table(rng))
            .with(Flatten),
        same(Offset(2.0, Sequential::new().with(table(rng)))).with(Flatten),
        Sequential::new().with(
            Concat::new()
                .with(
                    Sequential::new()
                        .with(Flatten)
                        .with(table(rng))
                        .with(Flatten),
                )
                .with(linear)
                .with(Sequential::new()),
        ),
    ];
    let x = Tensor::new(vec![257.0, 4997.0], &[1, 2]).expect("two");
    for (index, model) in models.iter().enumerate() {
        for half in [Half::Bf16, Half::F16] {
            let expected = model.forward(&x).expect("rows that exist").to_vec();
            let mut expected: Vec<f32> = expected.iter().map(|&y| half.round(y)).collect();
            if index == 3 {
                // The linear layer beside it computes in 16 bits, from the same values in 16 bits.
                expected[4] = half.round(half.round(257.0) + half.round(4997.0));
            }
            let y = HalfModel::new(model, half).forward(&x).expect("rows");
            assert_eq!(y.to_vec(), expected, "model {index}, {half:?}");
            model.zero_grad();
            y.sum().backward().expect("a scalar");
            let gradient = model.named_parameters()[0].1.grad().expect("a leaf");
            let shift = if index == 1 || index == 2 { 2 } else { 0 };
            let rows = gradient.array();
            let touched: Vec<usize> = (rows.outer_iter().enumerate())
                .filter(|(_, row)| row.sum() != 0.0)
                .map(|(index, _)| index)
                .collect();
            assert_eq!(touched, [257 + shift, 4997 + shift], "model {index}");
        }
    }
}

#[test]
fn a_mask_inside_of_a_sum_is_the_same_on_the_way_back() {
    // The generator of a layer inside of another was left where it was: another mask was drawn.
    let rng = &mut Rng::seed_from_u64(4);
    let dropout = |rng: &mut _| Dropout::new(0.5, rng).expect("a probability");
    let model = Sequential::new()
        .with(Residual::new(Sequential::new().with(dropout(rng))))
        .with(Concat::new().with(dropout(rng)).with(Sequential::new()));
    let x = Tensor::ones(&[4, 32]).with_grad();
    let y = HalfModel::new(&model, Half::Bf16)
        .forward(&x)
        .expect("fits");
    y.sum().backward().expect("a scalar");
    // With x = 1 each value is its own derivative: the sum over both halves is the gradient.
    let values = y.array();
    let gradient = x.grad().expect("a leaf");
    for ((row, column), gradient) in gradient
        .array()
        .indexed_iter()
        .map(|(i, g)| ((i[0], i[1]), g))
    {
        assert_eq!(
            *gradient,
            values[[row, column]] + values[[row, column + 32]]
        );
    }
    assert!(values.iter().any(|&value| value == 0.0) && values.iter().any(|&value| value == 3.0));
}

#[test]
fn ways_compute_in_16_bits_too() {
    let rng = &mut Rng::seed_from_u64(5);
    let conv = |inputs, outputs, rng: &mut _| {
        Conv2d::new(Conv2dConfig::new(inputs, outputs, 3).padding(1), rng).expect("good")
    };
    let body = Sequential::new().with(conv(4, 4, rng)).with(Relu);
    let side = Sequential::new().with(conv(4, 2, rng));
    let model = Sequential::new()
        .with(Residual::with_shortcut(body, conv(4, 4, rng)))
        .with(Concat::new().with(side).with(Sequential::new()));
    made_whole(&model, rng);
    let x = whole(&[2, 4, 5, 5], rng).with_grad();
    let upstream = whole(&[2, 6, 5, 5], rng);
    let gradients = |model: &dyn Layer| {
        model.zero_grad();
        x.zero_grad();
        let y = model.forward(&x).expect("fits");
        y.backward_from(&upstream).expect("recorded");
        let parameters = model.named_parameters().into_iter().map(|(_, p)| p);
        let all = parameters.chain([x.clone()]);
        let all: Vec<Vec<f32>> = all.map(|p| p.grad().expect("a leaf").to_vec()).collect();
        (y.to_vec(), all)
    };
    let expected = gradients(&model);
    let half = HalfModel::new(&model, Half::F16);
    // Whole numbers: sums of at most 4 · 9 products up to 4, twice over 36 inputs up to 288, stay below 2^11 only where
    // they are small; the values are rounded to 11 bits once per layer, three in a row.
    let got = gradients(&half);
    let close = |got: &[f32], expected: &[f32]| {
        let largest = expected.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
        let mut pairs = got.iter().zip(expected);
        pairs.all(|(a, b)| (a - b).abs() <= largest * 4.0 / 2048.0)
    };
    assert!(close(&got.0, &expected.0));
    for (got, expected) in got.1.iter().zip(&expected.1) {
        assert!(close(got, expected) && got.len() == expected.len());
    }
    // What was kept is in two bytes each: the input, the sum, the output of the ReLU. Nothing is computed again in `f32`.
    assert_eq!(half.saved_bytes(), 2 * (3 * 2 * 4 * 25));
}
