//! f32 products `[m, k] · [k, n]`: ours with the weights as a linear layer keeps them, peers as they like them best.
//!
//! Each has weights of its own, as the runtimes have: of peers that share them, whoever comes second would find them in the cache.
#![expect(unsafe_code, reason = "the gemm crate takes raw pointers")]

use std::cell::RefCell;
use std::rc::Rc;

use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions};
use rten_tensor::NdTensorView;
use tinytorch_kernels::{
    Accumulate, Dims, Finish, MatrixMut, MatrixRef, PackedF32, Threads, gemm_f32,
};

use crate::Subject;
use crate::data::{check, reals};
use crate::products_i8::parallelism;

pub fn subjects(m: usize, k: usize, n: usize) -> Vec<Subject> {
    let work = 2.0 * (m * k * n) as f64;
    let a = Rc::new(reals(m * k, 37));
    let weights = reals(k * n, 91);
    let transposed: Vec<f32> = (0..n * k).map(|i| weights[i % k * n + i / k]).collect();
    let threads = rayon::current_num_threads();
    let mut subjects = vec![];
    let mut add = |name: &str, mut run: Box<dyn FnMut(&mut [f32])>| {
        let out = Rc::new(RefCell::new(vec![0.0_f32; m * n]));
        let to = out.clone();
        subjects.push(Subject {
            name: name.to_owned(),
            work,
            run: Box::new(move || run(&mut to.borrow_mut())),
            check: Box::new(move || check(&out.borrow())),
        });
    };

    let left = a.clone();
    let packed = PackedF32::new(k, n, MatrixRef::row_major(&transposed, k).transposed());
    add(
        "ours",
        Box::new(move |out| {
            let (left, out) = (MatrixRef::row_major(&left, k), MatrixMut::row_major(out, n));
            packed.product(m, left, Finish::NOTHING, out, Threads::Auto);
        }),
    );

    let left = a.clone();
    add(
        "ours_unpacked",
        Box::new(move |out| {
            gemm_f32(
                Dims { m, n, k },
                MatrixRef::row_major(&left, k),
                MatrixRef::row_major(&transposed, k).transposed(),
                MatrixMut::row_major(out, n),
                Accumulate::Overwrite,
                Threads::Auto,
            );
        }),
    );

    let (left, right) = (a.clone(), weights.clone());
    add(
        "gemm",
        Box::new(move |out| {
            let parallelism = match threads {
                1 => gemm::Parallelism::None,
                threads => gemm::Parallelism::Rayon(threads),
            };
            let (n_stride, k_stride) = (n as isize, k as isize);
            // SAFETY: three dense row-major matrices of these sizes, the first borrowed exclusively.
            unsafe {
                gemm::gemm(
                    m,
                    n,
                    k,
                    out.as_mut_ptr(),
                    1,
                    n_stride,
                    false,
                    left.as_ptr(),
                    1,
                    k_stride,
                    right.as_ptr(),
                    1,
                    n_stride,
                    0.0,
                    1.0,
                    false,
                    false,
                    false,
                    parallelism,
                );
            }
        }),
    );

    let (left, right) = (a.clone(), weights.clone());
    add(
        "faer",
        Box::new(move |out| {
            faer::linalg::matmul::matmul(
                faer::MatMut::from_row_major_slice_mut(out, m, n),
                faer::Accum::Replace,
                faer::MatRef::from_row_major_slice(&left, m, k),
                faer::MatRef::from_row_major_slice(&right, k, n),
                1.0,
                if threads == 1 {
                    faer::Par::Seq
                } else {
                    faer::Par::rayon(threads)
                },
            );
        }),
    );

    let (left, right) = (a.clone(), weights.clone());
    let executor = GemmExecutor::<f32, f32, f32>::default();
    let packed = (m > 1).then(|| executor.prepack_b(NdTensorView::from_data([k, n], &weights[..])));
    add(
        "rten-gemm",
        Box::new(move |out| {
            let a = NdTensorView::from_data([m, k], &left[..]);
            let b = match &packed {
                Some(packed) => GemmInputB::Packed(packed),
                None => GemmInputB::Unpacked(NdTensorView::from_data([k, n], &right[..])),
            };
            executor
                .gemm(out, GemmInputA::Unpacked(a), b, GemmOptions::default())
                .expect("sizes that fit");
        }),
    );

    add(
        "gemmkit",
        Box::new(move |out| {
            gemmkit::gemm(
                1.0,
                gemmkit::MatRef::from_row_major(&a, m, k),
                gemmkit::MatRef::from_row_major(&weights, k, n),
                0.0,
                gemmkit::MatMut::from_row_major(out, m, n),
                parallelism(),
            );
        }),
    );
    subjects
}
