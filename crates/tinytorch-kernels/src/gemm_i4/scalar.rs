//! The definitions: what every kernel must give, bit for bit.

use super::Codes8;

/// One output for real activations: the weights of one output, `codes` in −8..=7, with a scale for every `group` of them.
///
/// # The maths
///
/// ```text
/// total = Σ over groups  scale · (Σ over the group  a · code)      each step one fused multiply-add, in order, from +0
/// ```
///
/// # Panics
///
/// If there are fewer scales than groups.
pub fn dot_f32_i4(a: &[f32], codes: &[i8], group: usize, scales: &[f32]) -> f32 {
    let groups = a.chunks(group).zip(codes.chunks(group)).enumerate();
    groups.fold(0.0, |total: f32, (g, (a, codes))| {
        let sum = a
            .iter()
            .zip(codes)
            .fold(0.0_f32, |sum, (&a, &code)| a.mul_add(f32::from(code), sum));
        sum.mul_add(scales[g], total)
    })
}

/// One output for 8-bit activations of row `row`: the sums of the groups are integers and exact, the rest is as above, and
/// the total is multiplied by the scale of the row.
///
/// # Panics
///
/// If there are fewer scales than groups, or there is no such row.
pub fn dot_i8_i4(a: Codes8<'_>, row: usize, codes: &[i8], group: usize, scales: &[f32]) -> f32 {
    let k = codes.len();
    let zero_point = a.zero_points[row];
    let a_row = &a.codes[row * k..(row + 1) * k];
    let groups = a_row.chunks(group).zip(codes.chunks(group)).enumerate();
    let total = groups.fold(0.0, |total: f32, (g, (a, codes))| {
        let sum: i32 = a
            .iter()
            .zip(codes)
            .map(|(&a, &code)| (i32::from(a) - zero_point) * i32::from(code))
            .sum();
        (sum as f32).mul_add(scales[g], total)
    });
    total * a.scales[row]
}
