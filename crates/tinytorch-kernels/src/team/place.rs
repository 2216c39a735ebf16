//! Where a helper runs: not on the core of the thread that it helps.
//!
//! A scheduler may wake a thread where its waker runs, though another core is idle, and leave both there for some milliseconds: of
//! f32 products of 512 x 512 x 512 in `benches/peers/compare.py`, two threads took now half as long as one, now as long. So a
//! caller takes its own core from those that a helper may run on, before it wakes it.

#[cfg(all(target_os = "linux", not(miri)))]
pub(super) use linux::Place;
#[cfg(not(all(target_os = "linux", not(miri))))]
pub(super) use nowhere::Place;

#[cfg(all(target_os = "linux", not(miri)))]
mod linux {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rustix::thread::{CpuSet, Pid, gettid, sched_getaffinity, sched_getcpu, sched_setaffinity};

    /// What is known of where one helper may run.
    #[derive(Debug)]
    pub struct Place {
        /// The helper, and the cores that it began with.
        began: OnceLock<(Pid, CpuSet)>,
        /// The core that was taken from it last, if any was.
        taken: AtomicUsize,
    }

    impl Place {
        pub const fn new() -> Self {
            Self {
                began: OnceLock::new(),
                taken: AtomicUsize::new(usize::MAX),
            }
        }

        /// For the helper to say who it is.
        pub fn begin(&self) {
            if let Ok(cores) = sched_getaffinity(None) {
                let _ = self.began.set((gettid(), cores));
            }
        }

        /// Keeps the helper from the caller's core, if it has another. A system that refuses, as a sandbox may, leaves all as it was.
        pub fn avoid_callers_core(&self) {
            let core = sched_getcpu();
            if self.taken.load(Ordering::Relaxed) == core {
                return;
            }
            let Some(&(helper, mut cores)) = self.began.get() else {
                return;
            };
            self.taken.store(core, Ordering::Relaxed);
            if core < CpuSet::MAX_CPU && cores.is_set(core) && cores.count() > 1 {
                cores.unset(core);
                let _ = sched_setaffinity(Some(helper), &cores);
            }
        }
    }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
mod nowhere {
    /// Elsewhere the system decides alone.
    #[derive(Debug)]
    pub struct Place;

    impl Place {
        pub const fn new() -> Self {
            Self
        }

        pub fn begin(&self) {}

        pub fn avoid_callers_core(&self) {}
    }
}
