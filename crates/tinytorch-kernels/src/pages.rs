//! Memory for what is read from front to back in every call.
//!
//! In pages of 4 KiB, finding out where the next page lies costs more than reading it: one thread read the 64 MiB of weights of an `f32` row
//! times 4096 x 4096 with 17 to 22 GB/s, and with 26, all that memory gave, in pages of 2 MiB.
#![expect(
    unsafe_code,
    reason = "advice to the system about memory is given by address"
)]

/// Bytes from which large pages are asked for: less hardly holds a whole one, which begins at a multiple of its size.
const WORTH_ASKING: usize = 4 << 20;

/// Makes room for `len` elements in all, in large pages if the system has them and nothing was written there before.
pub(crate) fn reserve<T>(memory: &mut Vec<T>, len: usize) {
    if memory.capacity() >= len {
        return;
    }
    memory.reserve_exact(len - memory.len());
    let bytes = memory.capacity() * size_of::<T>();
    if bytes >= WORTH_ASKING {
        ask(memory.as_mut_ptr().cast(), bytes);
    }
}

#[cfg(all(target_os = "linux", not(miri)))]
fn ask(start: *mut u8, bytes: usize) {
    use rustix::mm::{Advice, madvise};
    let page = rustix::param::page_size();
    let skipped = start.align_offset(page);
    if skipped < bytes {
        let (first, whole) = (start.wrapping_add(skipped), (bytes - skipped) / page * page);
        // SAFETY: whole pages inside an allocation; this advice changes nothing that a program sees of its memory.
        let asked = unsafe { madvise(first.cast(), whole, Advice::LinuxHugepage) };
        // A system without large pages, or a sandbox, refuses.
        let _ = asked;
    }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
fn ask(_: *mut u8, _: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_and_what_was_there_stays() {
        let mut memory = vec![7_u8];
        for len in [
            1,
            100,
            WORTH_ASKING - 1,
            WORTH_ASKING + 1,
            3 * WORTH_ASKING,
            5,
        ] {
            reserve(&mut memory, len);
            assert!(memory.capacity() >= len);
            assert_eq!(memory, [7]);
        }
    }
}
