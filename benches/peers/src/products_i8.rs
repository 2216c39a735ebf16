//! INT8 products `[m, k] · [k, n]`, weights packed beforehand where a crate can do that.
//!
//! Ours and rten-gemm take the activations as `u8` codes 0..=250 (ours as the same codes minus 128, with zero point −128);
//! gemmkit takes them signed. So two results exist, and the check of the signed one is corrected by nothing: the script
//! knows both.

use std::cell::RefCell;
use std::rc::Rc;

use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions};
use rten_tensor::NdTensorView;
use tinytorch_kernels::{PackedWeights, Requantize};

use crate::Subject;
use crate::data::{check, codes};

/// What a subject writes to, read once by its check.
fn output<T: Copy + Default + 'static>(len: usize) -> Rc<RefCell<Vec<T>>> {
    Rc::new(RefCell::new(vec![T::default(); len]))
}

pub fn subjects(m: usize, k: usize, n: usize) -> Vec<Subject> {
    let work = 2.0 * (m * k * n) as f64;
    // The definition of the weights is [k, n]; ours are one row per output.
    let weights = codes(k * n, 91);
    let transposed: Vec<i8> = (0..n * k).map(|i| weights[i % k * n + i / k]).collect();
    let signed = codes(m * k, 37);
    let unsigned: Vec<u8> = signed
        .iter()
        .map(|&code| (i32::from(code) + 125) as u8)
        .collect();
    let shifted: Vec<i8> = unsigned.iter().map(|&code| (code ^ 0x80) as i8).collect();
    let packed = Rc::new(PackedWeights::new(n, k, &transposed));
    let subject = |name: &str, out: &Rc<RefCell<Vec<i32>>>, run: Box<dyn FnMut()>| {
        let out = out.clone();
        Subject {
            name: name.to_owned(),
            work,
            run,
            check: Box::new(move || check(&out.borrow())),
        }
    };
    let mut subjects = vec![];

    let out = output(m * n);
    let (to, weights_of, a) = (out.clone(), packed.clone(), shifted.clone());
    let run = move || weights_of.product(m, &a, -128, &mut to.borrow_mut());
    subjects.push(subject("ours", &out, Box::new(run)));

    let out = output::<i8>(m * n);
    let to = out.clone();
    let (bias, multipliers) = (vec![5; n], vec![1e-4; n]);
    let run = move || {
        let ending = Requantize {
            bias: &bias,
            multipliers: &multipliers,
            zero_point: 3,
            min: 3,
            max: 127,
        };
        packed.requantized(m, &shifted, -128, &ending, &mut to.borrow_mut());
    };
    subjects.push(Subject {
        name: "ours_requantized".to_owned(),
        work,
        run: Box::new(run),
        check: Box::new(move || check(&out.borrow())),
    });

    let out = output(m * n);
    let to = out.clone();
    let executor = GemmExecutor::<u8, i8, i32>::default();
    let prepacked =
        (m > 1).then(|| executor.prepack_b(NdTensorView::from_data([k, n], &weights[..])));
    let b = weights.clone();
    let run = move || {
        let a = NdTensorView::from_data([m, k], &unsigned[..]);
        let b = match &prepacked {
            Some(packed) => GemmInputB::Packed(packed),
            None => GemmInputB::Unpacked(NdTensorView::from_data([k, n], &b[..])),
        };
        executor
            .gemm(
                &mut to.borrow_mut(),
                GemmInputA::Unpacked(a),
                b,
                GemmOptions::default(),
            )
            .expect("sizes that fit");
    };
    subjects.push(subject("rten-gemm", &out, Box::new(run)));

    // Its prepacked weights want a column-major result.
    let out = output(m * n);
    let to = out.clone();
    let packed = gemmkit::prepack_rhs_i8(gemmkit::MatRef::from_row_major(&weights, k, n));
    let run = move || {
        let mut to = to.borrow_mut();
        let a = gemmkit::MatRef::from_row_major(&signed, m, k);
        let c = gemmkit::MatMut::from_col_major(&mut to, m, n);
        gemmkit::gemm_i8_packed_b(1, a, &packed, 0, c, parallelism());
    };
    let mut gemmkit = subject("gemmkit", &out, Box::new(run));
    gemmkit.check = Box::new(move || {
        let columns = out.borrow();
        let rows: Vec<i32> = (0..m * n).map(|i| columns[i % n * m + i / n]).collect();
        check(&rows)
    });
    subjects.push(gemmkit);
    subjects
}

pub fn parallelism() -> gemmkit::Parallelism {
    match rayon::current_num_threads() {
        1 => gemmkit::Parallelism::Serial,
        threads => gemmkit::Parallelism::Rayon(threads),
    }
}
