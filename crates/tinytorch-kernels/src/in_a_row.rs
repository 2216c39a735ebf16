//! Products that a thread computes one after the other.

/// Calls `products`, and leaves what one product of this thread prepares for itself to the next one.
///
/// That is the registers of a matrix unit, where there is one: preparing them takes longer than a small product. The system saves them
/// with the thread's other registers meanwhile, so this is for a model's layers, not for a program.
pub fn in_a_row<R>(products: impl FnOnce() -> R) -> R {
    let _held = Held::new();
    products()
}

/// What is prepared is kept while one lives.
struct Held;

impl Held {
    fn new() -> Self {
        #[cfg(target_arch = "x86_64")]
        crate::amx::hold();
        Self
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        #[cfg(target_arch = "x86_64")]
        crate::amx::let_go();
    }
}
