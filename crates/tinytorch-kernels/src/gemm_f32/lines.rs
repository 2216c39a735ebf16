//! f32 in whole cache lines, so that no vector straddles two.

/// One cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Line(pub [f32; Line::LEN]);

impl Line {
    /// Elements of a line.
    pub const LEN: usize = 16;
    /// A line of zeros.
    pub const ZERO: Line = Line([0.0; Line::LEN]);
}
