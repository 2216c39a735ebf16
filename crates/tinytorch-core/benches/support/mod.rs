//! What the benches share: the models they measure, and measuring two things in turns.

#![allow(dead_code, reason = "every bench uses a part of it")]

use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use tinytorch_core::nn::{
    Conv2d, Conv2dConfig, Flatten, Layer, Linear, MaxPool2d, Relu, Sequential,
};
use tinytorch_core::optim::{Adam, AdamConfig, Optimizer};
use tinytorch_core::{Tensor, loss};

/// The same numbers in every run.
pub fn rng() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(20)
}

/// Linear layers with ReLU between them.
pub fn mlp(widths: &[usize]) -> Sequential {
    let mut rng = rng();
    let mut model = Sequential::new();
    for (i, pair) in widths.windows(2).enumerate() {
        if i > 0 {
            model = model.with(Relu);
        }
        model = model.with(Linear::new(pair[0], pair[1], &mut rng));
    }
    model
}

/// conv 3x3, ReLU, pool, conv 3x3, ReLU, pool, linear, for `side` x `side` images of one channel. The convolutions are
/// padded, so only pooling shrinks the image. `cnn(8, 16, 32)` is the CNN of the digits.
pub fn cnn(side: usize, first: usize, second: usize) -> Sequential {
    let mut rng = rng();
    let mut conv = |inputs, outputs| {
        Conv2d::new(Conv2dConfig::new(inputs, outputs, 3).padding(1), &mut rng)
            .expect("one group divides everything")
    };
    let (one, two) = (conv(1, first), conv(first, second));
    Sequential::new()
        .with(one)
        .with(Relu)
        .with(MaxPool2d::new(2))
        .with(two)
        .with(Relu)
        .with(MaxPool2d::new(2))
        .with(Flatten)
        .with(Linear::new(second * (side / 4) * (side / 4), 10, &mut rng))
}

/// One step of training on one batch: forward, cross-entropy, backward, Adam.
pub struct Training {
    model: Sequential,
    optimizer: Adam,
    x: Tensor,
    classes: Vec<usize>,
}

impl Training {
    pub fn new(model: Sequential, shape: &[usize]) -> Self {
        let optimizer = Adam::new(model.named_parameters(), AdamConfig::default());
        let classes = (0..shape[0]).map(|i| i % 10).collect();
        Self {
            model,
            optimizer,
            x: Tensor::randn(shape, &mut rng()),
            classes,
        }
    }

    pub fn step(&mut self) {
        self.optimizer.zero_grad();
        let logits = self.model.forward(&self.x).expect("the shapes fit");
        let loss = loss::cross_entropy(&logits, &self.classes).expect("ten classes");
        loss.backward().expect("differentiable");
        self.optimizer.step().expect("Adam does not fail");
    }
}

/// Median times of one call of each, measured in turns so that a slow moment of the machine meets both.
pub fn interleaved(mut first: impl FnMut(), mut second: impl FnMut()) -> [Duration; 2] {
    let once = time(1, &mut first).max(Duration::from_nanos(100));
    // A sample lasts about 0.5 ms, so that the clock's own cost does not show.
    let calls = (Duration::from_micros(500).as_nanos() / once.as_nanos()).clamp(1, 10_000) as u32;
    let (mut firsts, mut seconds) = (Vec::new(), Vec::new());
    for _ in 0..101 {
        firsts.push(time(calls, &mut first));
        seconds.push(time(calls, &mut second));
    }
    [firsts, seconds].map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    })
}

/// The mean time of one of `calls` calls.
pub fn time(calls: u32, run: &mut impl FnMut()) -> Duration {
    let start = Instant::now();
    for _ in 0..calls {
        run();
    }
    start.elapsed() / calls
}

/// One line: two times and their ratio.
pub fn print_ratio(name: &str, [first, second]: [Duration; 2]) {
    let ratio = first.as_secs_f64() / second.as_secs_f64();
    println!(
        "{name:<44} {:>11} {:>11} {ratio:>7.3}",
        format!("{first:.2?}"),
        format!("{second:.2?}")
    );
}

/// The head of a table of such lines.
pub fn print_head(what: &str, first: &str, second: &str) {
    println!("\n{what:<44} {first:>11} {second:>11} {:>7}", "ratio");
}

/// From here on the calling thread is all there is of the global pool. Call it first, and once.
pub fn one_thread() {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .use_current_thread();
    pool.build_global()
        .expect("nothing has used the global pool before");
}
