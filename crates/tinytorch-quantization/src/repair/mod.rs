mod cholesky;
pub(crate) mod equalize;
pub(crate) mod moments;
pub(crate) mod rounding;
