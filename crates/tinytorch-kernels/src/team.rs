//! Work divided among threads, for pieces of some microseconds.
//!
//! rayon hands work from a thread outside its pool to the pool and puts that thread to sleep: two sleepers to wake, and
//! for a moment three threads on two cores. For a product of 20 µs that costs more than a second core saves. Here the caller
//! works itself, and helpers, one less than there are threads, join in if they are awake in time: they look for work for
//! a while after their last, then sleep. A helper that comes too late finds its offer withdrawn, so a call is never slower
//! than the caller alone by more than the call that wakes one.
//!
//! Within a rayon pool (the thread is one of its workers) the work is given to that pool. How many threads there are is
//! rayon's to say in either case: `RAYON_NUM_THREADS`, or the pool's size.
//!
//! Every thread begins with pieces of its own, the same in every call of the same size, so that the weights it reads are
//! still in its cache; when it has none left it takes the last ones of others. Where a helper may run is said in `place.rs`.
#![expect(
    unsafe_code,
    reason = "a helper is lent a closure that lives on the caller's stack"
)]

mod place;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use rayon::prelude::*;

use place::Place;

/// How long a helper looks for its next work before it sleeps: longer than what a model does between two products.
const AWAKE: Duration = Duration::from_micros(100);

/// Looks at an atomic between two looks at the clock, or before a waiting thread gives its core away.
const LOOKS: usize = 64;

/// Work that takes one thread less than this does not wake a helper that sleeps, unless work comes in a row: waking one
/// took 10 µs where it was measured, and saves at most half of the work.
const WORTH_WAKING: Duration = Duration::from_micros(60);

/// Executes every task once, `run(task)`, on up to `threads` threads.
///
/// # Panics
///
/// If a task panics.
pub(crate) fn for_each<T: Send>(tasks: Vec<T>, threads: usize, run: impl Fn(T) + Send + Sync) {
    for_each_of(Duration::MAX, tasks, threads, run);
}

/// As [`for_each`], for work that takes one thread about `time`.
pub(crate) fn for_each_of<T: Send>(
    time: Duration,
    tasks: Vec<T>,
    threads: usize,
    run: impl Fn(T) + Send + Sync,
) {
    if threads < 2 || tasks.len() < 2 {
        return tasks.into_iter().for_each(run);
    }
    if rayon::current_thread_index().is_some() {
        return tasks.into_par_iter().for_each(run);
    }
    let Some(mut team) = Team::free() else {
        // Someone else's product has the helpers.
        return tasks.into_iter().for_each(run);
    };
    let in_a_row = team.in_a_row();
    if time < WORTH_WAKING && !in_a_row && team.sleeps() {
        return tasks.into_iter().for_each(run);
    }
    let members = threads.min(tasks.len()).min(team.helpers.len() + 1);
    let shares = Shares::new(tasks.len(), members);
    let tasks: Vec<Mutex<Option<T>>> = tasks
        .into_iter()
        .map(|task| Mutex::new(Some(task)))
        .collect();
    team.run(members, &|member| {
        while let Some(piece) = shares.next(member) {
            // Poisoned is impossible: nothing runs while it is locked.
            let task = tasks[piece]
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            task.into_iter().for_each(&run);
        }
    });
}

/// Which pieces are left to whom.
struct Shares {
    /// Of each member: first piece left (upper half) and the end (lower half).
    left: Vec<AtomicU64>,
}

impl Shares {
    fn new(pieces: usize, members: usize) -> Self {
        assert!(u32::try_from(pieces).is_ok(), "{pieces} pieces");
        let bound = |member: usize| (member * pieces / members) as u64;
        let share = |member| AtomicU64::new(bound(member) << 32 | bound(member + 1));
        Self {
            left: (0..members).map(share).collect(),
        }
    }

    /// A piece nobody else has got: the first of one's own, or the last of another's.
    fn next(&self, member: usize) -> Option<usize> {
        let take = |of: usize, first: bool| {
            let taken = self.left[of].fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                let (start, end) = (left >> 32, left & 0xffff_ffff);
                (start < end).then(|| if first { left + (1 << 32) } else { left - 1 })
            });
            let left = taken.ok()?;
            Some(
                (if first {
                    left >> 32
                } else {
                    (left & 0xffff_ffff) - 1
                }) as usize,
            )
        };
        let others = || (1..self.left.len()).map(|step| (member + step) % self.left.len());
        take(member, true).or_else(|| others().find_map(|other| take(other, false)))
    }
}

/// What a helper is lent; `'static` is a lie that [`Offers`] makes harmless: it takes the offer back before it ends.
type Work = &'static (dyn Fn(usize) + Sync);

/// No offer: the cell belongs to the caller.
const NOTHING: u8 = 0;
/// An offer that may still be withdrawn.
const OFFERED: u8 = 1;
/// The helper is at work: the cell is the helper's.
const ACCEPTED: u8 = 2;

/// What caller and helper share.
struct Helper {
    state: AtomicU8,
    asleep: AtomicBool,
    work: UnsafeCell<Option<Work>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    place: Place,
}

// SAFETY: `work` is written by the caller in state `NOTHING` and read by the helper in state `ACCEPTED`; the changes of
// state between release the one and acquire the other.
unsafe impl Sync for Helper {}

/// Helpers, and the right to use them.
struct Team {
    helpers: &'static [(&'static Helper, Thread)],
    /// Where they are those of the process.
    _right: Option<Right>,
}

/// The right to use the helpers of this process, until dropped.
struct Right;

/// Whether somebody has it.
static BUSY: AtomicBool = AtomicBool::new(false);

impl Right {
    /// The right, unless another thread has it.
    fn free() -> Option<Self> {
        // Only made where it is had: dropping one frees the helpers.
        (!BUSY.swap(true, Ordering::Acquire)).then(|| Self)
    }
}

impl Drop for Right {
    fn drop(&mut self) {
        BUSY.store(false, Ordering::Release);
    }
}

/// When the team was last asked for, in microseconds since its first time.
static LAST: AtomicU64 = AtomicU64::new(0);

impl Team {
    /// The team, unless another thread is using it.
    fn free() -> Option<Self> {
        let right = Right::free()?;
        static HELPERS: OnceLock<Vec<(&'static Helper, Thread)>> = OnceLock::new();
        let helpers = HELPERS.get_or_init(|| {
            // The pool's size is asked for once: helpers are never ended. A thread that cannot be had is done without.
            (1..rayon::current_num_threads())
                .map_while(|member| Helper::start(member).ok())
                .collect()
        });
        Some(Self {
            helpers,
            _right: Some(right),
        })
    }

    /// Whether the team was asked for a moment ago, too: then helpers, once awake, stay so.
    fn in_a_row(&self) -> bool {
        static START: OnceLock<Instant> = OnceLock::new();
        let now = START.get_or_init(Instant::now).elapsed();
        let last = LAST.swap(now.as_micros() as u64, Ordering::Relaxed);
        now.saturating_sub(Duration::from_micros(last)) < AWAKE
    }

    /// Whether a helper is asleep.
    fn sleeps(&self) -> bool {
        self.helpers
            .iter()
            .any(|(helper, _)| helper.asleep.load(Ordering::Relaxed))
    }

    /// Calls `work(member)` for member 0 here, and for the others on the helpers that come in time.
    fn run(&mut self, members: usize, work: &(dyn Fn(usize) + Sync)) {
        // SAFETY: only the lifetime changes. `Offers` keeps every helper from using the reference after this call: its
        // drop, also if `work` panics, withdraws the offer or waits until the helper is done.
        let lent = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), Work>(work) };
        let offers = Offers {
            helpers: &self.helpers[..members - 1],
        };
        for (helper, thread) in offers.helpers {
            helper.offer(lent, thread);
        }
        work(0);
        drop(offers);
        for (helper, _) in &self.helpers[..members - 1] {
            let panic = helper
                .panic
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            if let Some(panic) = panic {
                resume_unwind(panic);
            }
        }
    }
}

/// Offers that are out.
struct Offers<'a> {
    helpers: &'a [(&'static Helper, Thread)],
}

impl Drop for Offers<'_> {
    fn drop(&mut self) {
        for (helper, _) in self.helpers {
            helper.take_back();
        }
    }
}

impl Helper {
    /// Starts the helper that is member number `member`.
    fn start(member: usize) -> std::io::Result<(&'static Helper, Thread)> {
        let helper: &Helper = Box::leak(Box::new(Helper {
            state: AtomicU8::new(NOTHING),
            asleep: AtomicBool::new(false),
            work: UnsafeCell::new(None),
            panic: Mutex::new(None),
            place: Place::new(),
        }));
        let handle = thread::Builder::new()
            .name(format!("tinytorch-{member}"))
            .spawn(move || helper.live(member))?;
        Ok((helper, handle.thread().clone()))
    }

    fn offer(&self, work: Work, thread: &Thread) {
        // What is left of a call that panicked on the caller's side as well.
        *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // SAFETY: the state is `NOTHING` (the last offer was taken back), so the helper does not look at the cell.
        unsafe { *self.work.get() = Some(work) };
        self.place.avoid_callers_core();
        // In one order with the helper's going to sleep: either it sees the offer, or this sees it asleep.
        self.state.store(OFFERED, Ordering::SeqCst);
        if self.asleep.swap(false, Ordering::SeqCst) {
            thread.unpark();
        }
    }

    /// Withdraws the offer, or waits for the end of the work. The state is `NOTHING` afterwards.
    fn take_back(&self) {
        let withdrawn =
            self.state
                .compare_exchange(OFFERED, NOTHING, Ordering::Acquire, Ordering::Acquire);
        if withdrawn.is_ok() {
            return;
        }
        let mut looks = 0;
        while self.state.load(Ordering::Acquire) != NOTHING {
            looks += 1;
            if looks % LOOKS == 0 && looks > 100 * LOOKS {
                // Its core may have been taken from the helper.
                thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }

    fn live(&self, member: usize) {
        self.place.begin();
        loop {
            self.wait_for_offer();
            let accepted = self.state.compare_exchange(
                OFFERED,
                ACCEPTED,
                Ordering::Acquire,
                Ordering::Relaxed,
            );
            if accepted.is_err() {
                continue;
            }
            // SAFETY: in state `ACCEPTED` the cell is this thread's to read.
            let work = unsafe { *self.work.get() };
            if let Some(work) = work
                && let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(member)))
            {
                *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
            }
            self.state.store(NOTHING, Ordering::Release);
        }
    }

    /// Returns when there may be an offer.
    fn wait_for_offer(&self) {
        let start = Instant::now();
        loop {
            for _ in 0..LOOKS {
                if self.state.load(Ordering::Relaxed) == OFFERED {
                    return;
                }
                std::hint::spin_loop();
            }
            if start.elapsed() > AWAKE {
                break;
            }
        }
        self.asleep.store(true, Ordering::SeqCst);
        while self.asleep.load(Ordering::SeqCst) && self.state.load(Ordering::SeqCst) != OFFERED {
            thread::park();
        }
        self.asleep.store(false, Ordering::SeqCst);
    }
}
