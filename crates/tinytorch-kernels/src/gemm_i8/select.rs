//! Which kernels this CPU has, and which one is used.

use std::fmt;
use std::sync::OnceLock;

use super::GemmI8;
#[cfg(target_arch = "x86_64")]
use super::amx::Amx;
#[cfg(target_arch = "x86_64")]
use super::avx512_vnni::Avx512Vnni;
use super::portable::Portable;
use super::scalar::Scalar;
#[cfg(target_arch = "x86_64")]
use super::ymm::{Avx2, AvxVnni};

/// The environment variable that forces a kernel: a name as printed, or its instruction set (`scalar`, `portable`, ...).
pub const KERNEL_VARIABLE: &str = "TINYTORCH_KERNEL";

/// The kernels that this CPU can run, best first, `scalar` last.
pub fn kernels() -> &'static [&'static dyn GemmI8] {
    static KERNELS: OnceLock<Vec<&'static dyn GemmI8>> = OnceLock::new();
    KERNELS.get_or_init(|| {
        let mut kernels: Vec<&'static dyn GemmI8> = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            // A token has no size, so leaking its box leaks nothing.
            let leak = |kernel| -> &'static dyn GemmI8 { Box::leak(kernel) };
            kernels.extend(Amx::new().map(|kernel| leak(Box::new(kernel))));
            kernels.extend(Avx512Vnni::new().map(|kernel| leak(Box::new(kernel))));
            kernels.extend(AvxVnni::new().map(|kernel| leak(Box::new(kernel))));
            kernels.extend(Avx2::new().map(|kernel| leak(Box::new(kernel))));
        }
        kernels.extend([&Portable as &dyn GemmI8, &Scalar]);
        kernels
    })
}

/// The fastest kernel of this CPU.
pub fn best() -> &'static dyn GemmI8 {
    kernels()[0]
}

/// The kernel that is used: the one that [`KERNEL_VARIABLE`] names, read once, or the best.
///
/// # Errors
///
/// [`UnknownKernel`] if the variable names none of `kernels()`.
pub fn chosen() -> Result<&'static dyn GemmI8, UnknownKernel> {
    static CHOSEN: OnceLock<Result<&'static dyn GemmI8, UnknownKernel>> = OnceLock::new();
    CHOSEN
        .get_or_init(|| match std::env::var_os(KERNEL_VARIABLE) {
            Some(name) if !name.is_empty() => find(&name.to_string_lossy()),
            _ => Ok(best()),
        })
        .clone()
}

/// The kernel with this name, or whose instruction set has it.
fn find(name: &str) -> Result<&'static dyn GemmI8, UnknownKernel> {
    kernels()
        .iter()
        .copied()
        .find(|kernel| kernel.name() == name || instruction_set(kernel.name()) == name)
        .ok_or_else(|| UnknownKernel {
            name: name.to_owned(),
        })
}

/// `avx2` of `i8i8i32-avx2-6x16`.
fn instruction_set(name: &str) -> &str {
    name.split('-').nth(1).unwrap_or(name)
}

/// The environment asks for a kernel that this CPU, or this build, does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownKernel {
    /// What was asked for.
    pub name: String,
}

impl fmt::Display for UnknownKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{KERNEL_VARIABLE}={} names no kernel that this CPU can run; it has",
            self.name
        )?;
        for (i, kernel) in kernels().iter().enumerate() {
            let separator = if i == 0 {
                ' '.to_string()
            } else {
                ", ".to_owned()
            };
            write!(f, "{separator}{}", instruction_set(kernel.name()))?;
        }
        Ok(())
    }
}

impl std::error::Error for UnknownKernel {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_kernel_comes_last_and_is_found_by_its_instruction_set() {
        let last = kernels().last().expect("there is always the scalar one");
        assert_eq!(last.name(), "i8i8i32-scalar-1x1");
        assert_eq!(find("scalar").map(|kernel| kernel.name()), Ok(last.name()));
        assert_eq!(
            find(best().name()).map(|kernel| kernel.name()),
            Ok(best().name())
        );
    }

    #[test]
    fn an_unknown_name_is_an_error_that_lists_the_names() {
        let message = find("sse9")
            .map(|kernel| kernel.name())
            .expect_err("no such kernel")
            .to_string();
        assert!(
            message.starts_with("TINYTORCH_KERNEL=sse9 names no kernel"),
            "{message}"
        );
        assert!(message.ends_with("portable, scalar"), "{message}");
    }
}
