//! What must hold for all values, schemes and codes, not only for the examples.

mod exhaustive;
mod fuzz;
mod schemes;
mod sketches;
mod values;
