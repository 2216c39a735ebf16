//! What this CPU can do at most, on as many threads as the pool has: nothing but one instruction, from registers; nothing
//! but loads, or loads and stores, from and to buffers that the threads divide.
#![expect(
    unsafe_code,
    reason = "a ceiling is measured with a CPU's own instructions"
)]

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use crate::Subject;

/// `vpdpbusd`, where there is a matrix unit its `tdpbusd`, and multiply-add from registers, and reading `bytes` bytes; only those that this CPU has.
pub fn subjects(bytes: usize) -> Vec<Subject> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
        return x86::subjects(bytes);
    }
    let _ = bytes;
    vec![]
}

/// Reading `from` and writing `to`, line by line in turns: with plain stores, and with such as pass by the caches. One length
/// divides the other.
pub fn of_moving<I: Plain, O: Plain>(
    from: &Rc<Lines<I>>,
    to: &Rc<RefCell<Lines<O>>>,
) -> Vec<Subject> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        return x86::of_moving(from, to);
    }
    let _ = (from, to);
    vec![]
}

/// Numbers of which any bytes are one, and whose size divides that of a line.
pub trait Plain: Copy + 'static {}
impl Plain for f32 {}
impl Plain for i8 {}
impl Plain for u8 {}

/// Numbers that fill cache lines: what is measured and its ceiling read and write the same memory.
pub struct Lines<T> {
    lines: Vec<Line>,
    _of: PhantomData<T>,
}

/// Bytes that move together.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u8; 64]);

impl<T: Plain> Lines<T> {
    /// `len` numbers, all bytes of which are 0.
    ///
    /// # Panics
    ///
    /// If they do not fill lines.
    pub fn zeroed(len: usize) -> Self {
        let bytes = len * size_of::<T>();
        assert!(bytes.is_multiple_of(64), "{len} numbers are no whole lines");
        Self {
            lines: vec![Line([0; 64]); bytes / 64],
            _of: PhantomData,
        }
    }

    fn len(&self) -> usize {
        self.lines.len() * (64 / size_of::<T>())
    }
}

impl<T: Plain> Deref for Lines<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: as many numbers as the lines have room for; any bytes are one, and a line's alignment is more than theirs.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len()) }
    }
}

impl<T: Plain> DerefMut for Lines<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len()) }
    }
}

#[cfg(target_arch = "x86_64")]
mod amx;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::cell::RefCell;
    use std::hint::black_box;
    use std::rc::Rc;
    use std::sync::{Barrier, Mutex, PoisonError};

    use super::{Line, Lines, Plain};
    use crate::Subject;

    /// Enough that none waits for its own last result.
    const SUMS: usize = 24;
    const ROUNDS: usize = 50_000;
    /// Bytes that each thread reads per call: small buffers are read more than once.
    const READ_BYTES: usize = 32 << 20;

    /// How often more is done in a call where threads are started for it, so that starting them does not count.
    fn repeats() -> usize {
        match rayon::current_num_threads() {
            1 => 1,
            _ => 16,
        }
    }

    /// Calls `work(thread)` for every thread. This one is one of them; the others begin on other cores, where
    /// the system permits it: it would begin them here and leave them for milliseconds.
    fn on_all(work: &(dyn Fn(usize) + Sync)) {
        let threads = rayon::current_num_threads();
        let core = callers_core();
        let ready = Barrier::new(threads);
        std::thread::scope(|scope| {
            for thread in 1..threads {
                let ready = &ready;
                scope.spawn(move || {
                    leave(core);
                    ready.wait();
                    work(thread);
                });
            }
            ready.wait();
            work(0);
        });
    }

    #[cfg(target_os = "linux")]
    fn callers_core() -> usize {
        rustix::thread::sched_getcpu()
    }

    /// Keeps this thread from a core, if it has another.
    #[cfg(target_os = "linux")]
    fn leave(core: usize) {
        use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
        if let Ok(mut cores) = sched_getaffinity(None)
            && core < CpuSet::MAX_CPU
            && cores.is_set(core)
            && cores.count() > 1
        {
            cores.unset(core);
            // A system that refuses leaves all as it was.
            let _ = sched_setaffinity(None, &cores);
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn callers_core() -> usize {
        0
    }

    #[cfg(not(target_os = "linux"))]
    fn leave(_: usize) {}

    pub fn of_moving<I: Plain, O: Plain>(
        from: &Rc<Lines<I>>,
        to: &Rc<RefCell<Lines<O>>>,
    ) -> Vec<Subject> {
        let bytes = size_of_val(&from.lines[..]) + size_of_val(&to.borrow().lines[..]);
        let passes = (repeats() * READ_BYTES).div_ceil(bytes);
        let work = (passes * bytes) as f64;
        [("moved", false), ("moved_past", true)]
            .map(|(name, past)| {
                let (from, to) = (from.clone(), to.clone());
                Subject {
                    name: name.to_owned(),
                    work,
                    run: Box::new(move || {
                        let mut to = to.borrow_mut();
                        let parts = parts(&from.lines, &mut to.lines);
                        on_all(&|thread| {
                            // Each thread has its own, so nobody waits.
                            let Some(part) = parts.get(thread) else {
                                return;
                            };
                            let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
                            let (from, to) = &mut *part;
                            for _ in 0..passes {
                                // SAFETY: `of_moving` is only called on a CPU that has the feature.
                                unsafe { move_lines(from, to, past) };
                            }
                        });
                    }),
                    check: Box::new(|| 0.0),
                }
            })
            .into()
    }

    /// A part for each thread.
    fn parts<'a>(from: &'a [Line], to: &'a mut [Line]) -> Vec<Mutex<(&'a [Line], &'a mut [Line])>> {
        let threads = rayon::current_num_threads();
        let (of_from, of_to) = (from.len().div_ceil(threads), to.len().div_ceil(threads));
        let parts = from.chunks(of_from).zip(to.chunks_mut(of_to));
        parts.map(Mutex::new).collect()
    }

    /// Reads and writes in the proportion of the lengths, one of which divides the other.
    #[target_feature(enable = "avx512f")]
    fn move_lines(from: &[Line], to: &mut [Line], past: bool) {
        let (reads, writes) = (
            (from.len() / to.len()).max(1),
            (to.len() / from.len()).max(1),
        );
        for (from, to) in from.chunks_exact(reads).zip(to.chunks_exact_mut(writes)) {
            let mut seen = _mm512_setzero_si512();
            for line in from {
                // SAFETY: 64 bytes.
                let line = unsafe { _mm512_load_si512(line.0.as_ptr().cast()) };
                seen = _mm512_or_si512(seen, line);
            }
            for line in to {
                let line = line.0.as_mut_ptr().cast();
                if past {
                    // SAFETY: 64 bytes, aligned by their type; the fence below orders the store.
                    unsafe { _mm512_stream_si512(line, seen) };
                } else {
                    // SAFETY: as above.
                    unsafe { _mm512_store_si512(line.cast(), seen) };
                }
            }
        }
        _mm_sfence();
    }

    pub fn subjects(bytes: usize) -> Vec<Subject> {
        let threads = rayon::current_num_threads();
        let operations = |lanes: usize| (repeats() * threads * ROUNDS * SUMS * lanes * 2) as f64;
        let lines = in_large_pages(bytes.div_ceil(64));
        let subject = |name: &str, work, run| Subject {
            name: name.to_owned(),
            work,
            run,
            check: Box::new(|| 0.0),
        };
        let passes = (repeats() * READ_BYTES).div_ceil(bytes.max(1));
        let part = lines.len().div_ceil(threads).max(1);
        let matrix_unit = super::amx::is_there().then(|| {
            subject(
                "tdpbusd",
                (repeats() * threads * super::amx::OPERATIONS) as f64,
                // SAFETY: the unit is there.
                Box::new(|| {
                    on_all(&|_| (0..repeats()).for_each(|_| unsafe { super::amx::tdpbusd() }))
                }),
            )
        });
        let mut subjects = vec![
            // SAFETY: `subjects` is only called on a CPU that has the features.
            subject(
                "vpdpbusd",
                operations(64),
                Box::new(|| on_all(&|_| (0..repeats()).for_each(|_| unsafe { vpdpbusd() }))),
            ),
            // SAFETY: as above.
            subject(
                "fma",
                operations(16),
                Box::new(|| on_all(&|_| (0..repeats()).for_each(|_| unsafe { fma() }))),
            ),
            subject(
                "read",
                (passes * bytes) as f64,
                Box::new(move || {
                    on_all(&|thread| {
                        if let Some(lines) = lines.chunks(part).nth(thread) {
                            // SAFETY: as above.
                            (0..passes).for_each(|_| unsafe { read(lines) });
                        }
                    });
                }),
            ),
        ];
        subjects.extend(matrix_unit);
        subjects
    }

    /// Lines in large pages if the system has them, as our weights are: in small ones, finding the next page takes longer than
    /// reading it.
    fn in_large_pages(len: usize) -> Vec<Line> {
        let mut lines: Vec<Line> = Vec::with_capacity(len);
        #[cfg(target_os = "linux")]
        {
            use rustix::mm::{Advice, madvise};
            const PAGE: usize = 4096;
            let start: *mut u8 = lines.as_mut_ptr().cast();
            let skipped = start.align_offset(PAGE);
            let bytes = (64 * len).saturating_sub(skipped) / PAGE * PAGE;
            let start = start.wrapping_add(skipped).cast();
            // SAFETY: whole pages inside the allocation; the advice changes nothing that a program sees of its memory.
            let asked = unsafe { madvise(start, bytes, Advice::LinuxHugepage) };
            // A system without large pages refuses.
            let _ = asked;
        }
        lines.resize(len, Line([1; 64]));
        lines
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn vpdpbusd() {
        let a = _mm512_set1_epi32(black_box(0x0102_0304));
        let b = _mm512_set1_epi32(black_box(0x0403_0201));
        let mut sums = [_mm512_setzero_si512(); SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f")]
    fn fma() {
        let a = _mm512_set1_ps(black_box(0.5));
        let mut sums = [_mm512_set1_ps(1.0); SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, a, a);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f")]
    fn read(lines: &[Line]) {
        let mut seen = [_mm512_setzero_si512(); 8];
        let (blocks, rest) = lines.as_chunks::<8>();
        for block in blocks {
            for (seen, line) in seen.iter_mut().zip(block) {
                // SAFETY: 64 bytes.
                let line = unsafe { _mm512_load_si512(line.0.as_ptr().cast()) };
                *seen = _mm512_or_si512(*seen, line);
            }
        }
        for line in rest {
            // SAFETY: 64 bytes.
            let line = unsafe { _mm512_load_si512(line.0.as_ptr().cast()) };
            seen[0] = _mm512_or_si512(seen[0], line);
        }
        black_box(seen);
    }
}
