//! The linear layer d -> d with INT8 weights, real inputs and results: the inputs become codes within the call.

use std::cell::RefCell;
use std::rc::Rc;

use tinytorch_kernels::{DynamicLinear, InputRange, PackedWeights};

use crate::Subject;
use crate::data::{check, codes, inputs};

/// Ours with one input range for every row, as LiteRT does it, and with one for all.
pub fn subjects(m: usize, d: usize) -> Vec<Subject> {
    let layer = Rc::new(DynamicLinear::new(
        PackedWeights::new(d, d, &codes(d * d, 91)),
        &vec![1e-2; d],
        &vec![0.5; d],
    ));
    let x = Rc::new(inputs(m * d, 37));
    [
        ("ours", InputRange::PerRow),
        ("ours_per_tensor", InputRange::PerTensor),
    ]
    .map(|(name, range)| {
        let (layer, x) = (layer.clone(), x.clone());
        let out = Rc::new(RefCell::new(vec![0.0_f32; m * d]));
        let to = out.clone();
        Subject {
            name: name.to_owned(),
            work: 2.0 * (m * d * d) as f64,
            run: Box::new(move || {
                let result = layer.forward(m, &x, range, false, &mut to.borrow_mut());
                result.expect("finite inputs");
            }),
            check: Box::new(move || check(&out.borrow())),
        }
    })
    .into()
}
