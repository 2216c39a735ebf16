//! One loop, compiled for several instruction sets, chosen at run time.
//!
//! For loops that compilers vectorize on their own: the copies differ only in the instructions they may use, so all of
//! them give the same bits.

use std::sync::OnceLock;

use crate::gemm_i8::chosen;

/// The vectors a loop may use. A value other than `Baseline` is the proof that this CPU has them: only
/// [`Vectors::available`] makes one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Vectors {
    /// Those that every CPU of this architecture has.
    Baseline,
    /// 256 bits.
    #[cfg(target_arch = "x86_64")]
    Avx2(Detected),
    /// 512 bits: AVX-512 F, BW, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512(Detected),
}

/// What makes a variant of [`Vectors`] impossible to write down elsewhere.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Detected(());

impl Vectors {
    /// All that this CPU has, widest first.
    pub fn available() -> Vec<Vectors> {
        let mut available = vec![];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            available.extend(avx512.then_some(Vectors::Avx512(Detected(()))));
            available.extend(avx2.then_some(Vectors::Avx2(Detected(()))));
        }
        available.push(Vectors::Baseline);
        available
    }

    /// The widest that the chosen kernel would use itself: forcing `portable` forces it for these loops too.
    ///
    /// # Panics
    ///
    /// If the environment names an unknown kernel, as products do ([`chosen`] tells it as an error).
    #[track_caller]
    pub fn chosen() -> Vectors {
        static CHOSEN: OnceLock<Vectors> = OnceLock::new();
        *CHOSEN.get_or_init(|| {
            let name = match chosen() {
                Ok(kernel) => kernel.name(),
                Err(error) => panic!("{error}"),
            };
            let allowed = |vectors: &Vectors| match vectors {
                Vectors::Baseline => true,
                #[cfg(target_arch = "x86_64")]
                Vectors::Avx2(_) => name.contains("-avx"),
                #[cfg(target_arch = "x86_64")]
                Vectors::Avx512(_) => name.contains("-avx512"),
            };
            Self::available()
                .into_iter()
                .find(allowed)
                .unwrap_or(Vectors::Baseline)
        })
    }
}

/// Defines a function whose first argument, a [`Vectors`], says with which instructions the body is compiled.
macro_rules! vectorized {
    (
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block
    ) => {
        $(#[$attribute])*
        #[expect(unsafe_code, reason = "calls that need CPU features")]
        $visibility fn $name(vectors: $crate::cpu::Vectors, $($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            fn body($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($argument: $type),*) $(-> $result)? {
                body($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
            fn avx512($($argument: $type),*) $(-> $result)? {
                body($($argument),*)
            }

            match vectors {
                $crate::cpu::Vectors::Baseline => body($($argument),*),
                // SAFETY: `Vectors::Avx2` is only made on CPUs that have these features.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::Vectors::Avx2(_) => unsafe { avx2($($argument),*) },
                // SAFETY: `Vectors::Avx512` is only made on CPUs that have these features.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::Vectors::Avx512(_) => unsafe { avx512($($argument),*) },
            }
        }
    };
}

pub(crate) use vectorized;
