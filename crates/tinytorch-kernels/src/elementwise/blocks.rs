//! Long slices: divided among threads, and written past the caches where they would not stay in them anyway.
//!
//! A store to memory that no cache holds first reads the line it will overwrite. From memory, `quantize` then moves 6 bytes for each
//! value instead of 5, and `dequantize` 9 instead of 5. Non-temporal stores do not read. They need whole, aligned lines, so a
//! block is converted into a buffer in the first cache, and copied from there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::team;

/// Bytes read and written together from which stores pass by the caches: half of what the last cache has where it was measured
/// (`cargo bench -p tinytorch-kernels --bench elementwise`).
const STREAM_BYTES: usize = 16 << 20;

/// Elements from which a second thread may pay.
const PARALLEL_LEN: usize = 1 << 20;

/// Elements of one task: small enough for each thread to have several.
const TASK_LEN: usize = 1 << 18;

/// What one thread converts in a microsecond, from the caches.
const PER_MICROSECOND: usize = 12_000;

/// How a loop over elements runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub streamed: bool,
    pub threads: usize,
}

impl Way {
    /// The way for `len` elements of `I` that become as many of `O`.
    pub fn of<I, O>(len: usize) -> Self {
        let bytes = len.saturating_mul(size_of::<I>() + size_of::<O>());
        Self {
            // Miri knows no such stores.
            streamed: bytes >= STREAM_BYTES && cfg!(all(target_arch = "x86_64", not(miri))),
            threads: if len >= PARALLEL_LEN {
                rayon::current_num_threads()
            } else {
                1
            },
        }
    }
}

/// Numbers without padding: all their bytes may be copied.
pub(super) trait Element: Copy + Send + Default {}
impl Element for u8 {}
impl Element for f32 {}

/// Calls `run` for parts of the slices, which cover them. Whether it has returned true for all of them: the others were
/// then not necessarily looked at.
///
/// # Panics
///
/// If the lengths differ.
pub(super) fn convert<I: Sync, O: Element>(
    way: Way,
    input: &[I],
    out: &mut [O],
    run: impl Fn(&[I], &mut [O]) -> bool + Sync + Send,
) -> bool {
    assert_eq!(input.len(), out.len());
    let part = |input: &[I], out: &mut [O]| {
        #[cfg(target_arch = "x86_64")]
        if way.streamed {
            return streamed::convert(input, out, &run);
        }
        run(input, out)
    };
    if way.threads == 1 {
        return part(input, out);
    }
    let len = TASK_LEN.min(input.len().div_ceil(way.threads)).max(1);
    let tasks: Vec<_> = input.chunks(len).zip(out.chunks_mut(len)).collect();
    let time = Duration::from_micros((input.len() / PER_MICROSECOND) as u64);
    let all = AtomicBool::new(true);
    team::for_each_of(time, tasks, way.threads, |(input, out)| {
        if all.load(Ordering::Relaxed) && !part(input, out) {
            all.store(false, Ordering::Relaxed);
        }
    });
    all.into_inner()
}

#[cfg(target_arch = "x86_64")]
mod streamed {
    #![expect(unsafe_code, reason = "stores that pass by the caches")]

    use std::arch::x86_64::*;

    use super::Element;

    /// Elements converted at a time: as many codes are 32 lines, `f32` 128.
    const BLOCK: usize = 2048;
    /// Bytes of a line.
    const LINE: usize = 64;

    #[repr(C, align(64))]
    struct Block<O>([O; BLOCK]);

    /// As [`super::convert`], on this thread.
    pub fn convert<I, O: Element>(
        input: &[I],
        out: &mut [O],
        run: impl Fn(&[I], &mut [O]) -> bool,
    ) -> bool {
        let head = out.as_ptr().align_offset(LINE).min(out.len());
        let (input_head, input) = input.split_at(head);
        let (out_head, out) = out.split_at_mut(head);
        let mut block = Block([O::default(); BLOCK]);
        let (inputs, input_tail) = input.as_chunks::<BLOCK>();
        let (outs, out_tail) = out.as_chunks_mut::<BLOCK>();
        let all = run(input_head, out_head)
            && inputs.iter().zip(outs).all(|(input, out)| {
                let all = run(input, &mut block.0);
                store(&block, out);
                all
            });
        // SAFETY: SSE is part of x86-64.
        unsafe { _mm_sfence() };
        all && run(input_tail, out_tail)
    }

    /// Copies a block.
    fn store<O: Element>(from: &Block<O>, to: &mut [O; BLOCK]) {
        assert!(to.as_ptr().addr().is_multiple_of(16));
        let vectors = size_of_val(to) / size_of::<__m128i>();
        let (from, to) = (
            from.0.as_ptr().cast::<__m128i>(),
            to.as_mut_ptr().cast::<__m128i>(),
        );
        for i in 0..vectors {
            // SAFETY: both have that many vectors, `from` is aligned by its type; numbers have no bytes without a value.
            let vector = unsafe { _mm_load_si128(from.add(i)) };
            // SAFETY: as above, `to` is aligned by the assertion; the fence comes before anyone else can look there.
            unsafe { _mm_stream_si128(to.add(i), vector) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pool;

    #[test]
    fn every_way_covers_slices_of_any_length_and_alignment() {
        for streamed in [false, cfg!(all(target_arch = "x86_64", not(miri)))] {
            for threads in [1, 3] {
                for len in [0, 1, 63, 64, 2111, 2112, 2600, 4161] {
                    for skip in [0, 1, 17] {
                        let input: Vec<u16> = (0..len).map(|i| i * 7).collect();
                        let mut codes = vec![255_u8; usize::from(len) + skip];
                        let mut reals = vec![f32::NAN; usize::from(len) + skip];
                        pool(threads).install(|| {
                            let way = Way { streamed, threads };
                            assert!(convert(way, &input, &mut codes[skip..], |input, out| {
                                out.iter_mut().zip(input).for_each(|(o, i)| *o = *i as u8);
                                true
                            }));
                            assert!(convert(way, &input, &mut reals[skip..], |input, out| {
                                let pairs = out.iter_mut().zip(input);
                                pairs.for_each(|(o, i)| *o = f32::from(*i));
                                true
                            }));
                        });
                        for (i, &input) in input.iter().enumerate() {
                            assert_eq!(codes[skip + i], input as u8, "{i} of {len} from {skip}");
                            assert_eq!(reals[skip + i], f32::from(input));
                        }
                        assert!(codes[..skip].iter().all(|&code| code == 255));
                    }
                }
            }
        }
    }

    #[test]
    fn what_a_part_finds_is_told() {
        for threads in [1, 2] {
            for bad in [0, 2700, 5000] {
                let mut input = vec![0_u8; 5001];
                input[bad] = 1;
                let way = Way {
                    streamed: Way::of::<u8, u8>(STREAM_BYTES).streamed,
                    threads,
                };
                let mut out = vec![0_u8; 5001];
                assert!(!convert(way, &input, &mut out, |input, _| input
                    .iter()
                    .all(|&x| x == 0)));
            }
        }
    }
}
