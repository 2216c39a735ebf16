//! A seed fixes every bit of a trained model, whatever the number of threads, in any process.

use std::process::Command;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use tinytorch_core::nn::{
    BatchNorm2d, Conv2d, Conv2dConfig, Dropout, Flatten, Layer, Linear, MaxPool2d, Relu, Sequential,
};
use tinytorch_core::optim::{Adam, AdamConfig, Optimizer};
use tinytorch_core::{Result, Tensor, loss};

/// Set in the processes that the test starts: they only report.
const REPORT: &str = "TINYTORCH_REPORT_BITS";

/// Every layer that draws random numbers or shares out work, and sizes beyond which work is shared out: the second
/// convolution has 96 · 32 · 144 · 64 = 28 M multiply-adds, the first linear layer 96 · 512 · 64 = 3 M.
fn model(rng: &mut ChaCha8Rng) -> Result<Sequential> {
    let mut conv =
        |inputs, outputs| Conv2d::new(Conv2dConfig::new(inputs, outputs, 3).padding(1), rng);
    let (first, second) = (conv(1, 16)?, conv(16, 32)?);
    Ok(Sequential::new()
        .with(first)
        .with(BatchNorm2d::new(16))
        .with(Relu)
        .with(second)
        .with(Relu)
        .with(MaxPool2d::new(2))
        .with(Flatten)
        .with(Linear::new(512, 64, rng))
        .with(Dropout::new(0.2, rng)?)
        .with(Relu)
        .with(Linear::new(64, 10, rng)))
}

/// Trains for a few steps; returns the bits of every parameter and buffer.
fn train(seed: u64) -> Result<Vec<u32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let model = model(&mut rng)?;
    let mut optimizer = Adam::new(model.named_parameters(), AdamConfig::default());
    let classes: Vec<usize> = (0..96).map(|i| i % 10).collect();
    for _ in 0..3 {
        let x = Tensor::randn(&[96, 1, 8, 8], &mut rng);
        optimizer.zero_grad();
        loss::cross_entropy(&model.forward(&x)?, &classes)?.backward()?;
        optimizer.step()?;
    }
    let tensors = model.named_tensors();
    Ok(tensors
        .iter()
        .flat_map(|(_, tensor)| tensor.to_vec())
        .map(f32::to_bits)
        .collect())
}

/// One number for many (FNV-1a), to send through a pipe.
fn digest(bits: &[u32]) -> String {
    let bytes = bits.iter().flat_map(|bits| bits.to_le_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("digest {hash:016x}")
}

#[test]
fn a_pool_of_any_size_trains_the_same_bits() -> Result<()> {
    let in_pool = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("threads can be started").install(|| train(7))
    };
    let one = in_pool(1)?;
    assert_eq!(one, in_pool(2)?);
    assert_eq!(one, in_pool(5)?);
    assert_ne!(one, train(8)?, "another seed is another model");
    Ok(())
}

#[test]
fn another_process_with_any_number_of_threads_trains_the_same_bits() -> Result<()> {
    let ours = digest(&train(7)?);
    if std::env::var_os(REPORT).is_some() {
        println!("{ours}");
        return Ok(());
    }
    for threads in ["1", "2"] {
        let this = std::env::current_exe().expect("a test binary has a path");
        let output = Command::new(this)
            .args([
                "--exact",
                "another_process_with_any_number_of_threads_trains_the_same_bits",
                "--nocapture",
            ])
            .env(REPORT, "1")
            .env("RAYON_NUM_THREADS", threads)
            .output()
            .expect("the test binary can be started again");
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{threads} threads: {printed}");
        assert!(
            printed.contains(&ours),
            "{threads} threads: expected {ours} in\n{printed}"
        );
    }
    Ok(())
}
