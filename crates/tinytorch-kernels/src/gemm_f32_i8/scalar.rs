//! The definition: what every kernel must give, bit for bit.

use std::ops::Range;

/// The most products that are summed before their sum is multiplied by its scale, whatever shares that scale: so many weights of 64
/// outputs, once real, take 128 KiB, a part of the second cache. Sums of several parts are also nearer to the true one.
pub const PIECE: usize = 512;

/// The inner dimension in pieces: groups, in parts of at most [`PIECE`].
pub fn pieces(k: usize, group: usize) -> impl Iterator<Item = Range<usize>> {
    let groups = (0..k).step_by(group.max(1));
    groups.flat_map(move |first| {
        let end = k.min(first.saturating_add(group));
        (first..end)
            .step_by(PIECE)
            .map(move |start| start..end.min(start + PIECE))
    })
}

/// One output: the weights of one output, `codes`, with a scale for every `group` of them.
///
/// # The maths
///
/// ```text
/// total = Σ over pieces  scale · (Σ over the piece  a · code)      each step one fused multiply-add, in order, from +0
/// ```
///
/// where a piece is what shares a scale, in parts of at most [`PIECE`] codes.
///
/// # Panics
///
/// If there are fewer scales than groups, or fewer codes than activations.
pub fn dot_f32_i8(a: &[f32], codes: &[i8], group: usize, scales: &[f32]) -> f32 {
    pieces(a.len(), group).fold(0.0, |total: f32, piece| {
        let pairs = a[piece.clone()].iter().zip(&codes[piece.clone()]);
        let sum = pairs.fold(0.0_f32, |sum, (&a, &code)| a.mul_add(f32::from(code), sum));
        sum.mul_add(scales[piece.start / group], total)
    })
}
