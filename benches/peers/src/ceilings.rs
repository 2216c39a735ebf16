//! What this CPU can do at most, on as many threads as the pool has: nothing but one instruction, from registers; nothing
//! but loads, or loads and stores, from and to buffers that the threads divide.
#![expect(
    unsafe_code,
    reason = "a ceiling is measured with a CPU's own instructions"
)]

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

/// Reading `reads` bytes and writing `writes`, line by line in turns: with plain stores, and with such as pass by the caches.
pub fn of_moving(reads: usize, writes: usize) -> Vec<Subject> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        return x86::of_moving(reads, writes);
    }
    let _ = (reads, writes);
    vec![]
}

#[cfg(target_arch = "x86_64")]
mod amx;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::cell::RefCell;
    use std::hint::black_box;
    use std::rc::Rc;

    use crate::Subject;

    /// Bytes that move together.
    #[derive(Clone, Copy)]
    #[repr(align(64))]
    struct Line([u8; 64]);

    /// Enough that none waits for its own last result.
    const SUMS: usize = 24;
    const ROUNDS: usize = 50_000;
    /// Bytes read per call, so that waking the threads does not count: small buffers are read more than once.
    const READ_BYTES: usize = 32 << 20;

    /// Calls `work(thread)` for every thread. This one is one of them: if all were woken they would begin on one core.
    fn on_all(work: &(dyn Fn(usize) + Sync)) {
        std::thread::scope(|scope| {
            for thread in 1..rayon::current_num_threads() {
                scope.spawn(move || work(thread));
            }
            work(0);
        });
    }

    pub fn of_moving(reads: usize, writes: usize) -> Vec<Subject> {
        let line = |_| Line([1; 64]);
        let from: Rc<[Line]> = (0..reads / 64).map(line).collect();
        let to = Rc::new(RefCell::new(
            (0..writes / 64).map(line).collect::<Vec<Line>>(),
        ));
        let passes = READ_BYTES.div_ceil(reads + writes);
        [("moved", false), ("moved_past", true)]
            .map(|(name, past)| {
                let (from, to) = (from.clone(), to.clone());
                Subject {
                    name: name.to_owned(),
                    work: (passes * (reads + writes)) as f64,
                    run: Box::new(move || {
                        let (from, mut to) = (&from[..], to.borrow_mut());
                        for_each_part(from, &mut to, &|from, to| {
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

    fn for_each_part(from: &[Line], to: &mut [Line], work: &(dyn Fn(&[Line], &mut [Line]) + Sync)) {
        let threads = rayon::current_num_threads();
        let (of_from, of_to) = (from.len().div_ceil(threads), to.len().div_ceil(threads));
        let mut parts = from.chunks(of_from).zip(to.chunks_mut(of_to));
        std::thread::scope(|scope| {
            let first = parts.next();
            for (from, to) in parts {
                scope.spawn(move || work(from, to));
            }
            if let Some((from, to)) = first {
                work(from, to);
            }
        });
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
        let operations = |lanes: usize| (threads * ROUNDS * SUMS * lanes * 2) as f64;
        let lines = vec![[1_u8; 64]; bytes.div_ceil(64)];
        let subject = |name: &str, work, run| Subject {
            name: name.to_owned(),
            work,
            run,
            check: Box::new(|| 0.0),
        };
        let passes = READ_BYTES.div_ceil(bytes.max(1));
        let part = lines.len().div_ceil(threads).max(1);
        let matrix_unit = super::amx::is_there().then(|| {
            subject(
                "tdpbusd",
                (threads * super::amx::OPERATIONS) as f64,
                // SAFETY: the unit is there.
                Box::new(move || on_all(&|_| unsafe { super::amx::tdpbusd() })),
            )
        });
        let mut subjects = vec![
            // SAFETY: `subjects` is only called on a CPU that has the features.
            subject(
                "vpdpbusd",
                operations(64),
                Box::new(move || on_all(&|_| unsafe { vpdpbusd() })),
            ),
            // SAFETY: as above.
            subject(
                "fma",
                operations(16),
                Box::new(move || on_all(&|_| unsafe { fma() })),
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
    fn read(lines: &[[u8; 64]]) {
        let mut seen = [_mm512_setzero_si512(); 8];
        let (blocks, rest) = lines.as_chunks::<8>();
        for block in blocks {
            for (seen, line) in seen.iter_mut().zip(block) {
                // SAFETY: 64 bytes.
                let line = unsafe { _mm512_loadu_si512(line.as_ptr().cast()) };
                *seen = _mm512_or_si512(*seen, line);
            }
        }
        for line in rest {
            // SAFETY: 64 bytes.
            let line = unsafe { _mm512_loadu_si512(line.as_ptr().cast()) };
            seen[0] = _mm512_or_si512(seen[0], line);
        }
        black_box(seen);
    }
}
