//! Weights in the order in which their kernel reads them, ready for any number of products.

use std::cell::RefCell;
use std::time::Duration;

use super::activations::{Activations, Matrix};
use super::block::BlockMut;
use super::ending::{Ending, Requantize, Scale};
use super::lines::Lines;
use super::{GemmI8, MAX_K, Task, chosen};
use crate::cpu::{Vectors, vectorized};
use crate::elements;
use crate::team;

/// Products that take less than this, on one thread of a CPU with `vpdpbusd`, stay on the caller's thread: dividing one
/// costs about a microsecond.
const NANOSECONDS_WORTH_DIVIDING: u64 = 4000;
/// Bytes of weights that such a CPU reads from its second cache in a nanosecond.
const WEIGHT_BYTES: u64 = 90;

/// Weights `[n, k]`, one row per output, packed once for one kernel.
#[derive(Clone, Debug)]
pub struct PackedWeights {
    kernel: &'static dyn GemmI8,
    n: usize,
    k: usize,
    codes: Lines,
    /// Σₚ weights[j, p]: what one unit of zero point adds to the sums of column j.
    sums: Box<[i32]>,
}

impl PackedWeights {
    /// Packs `weights`, `[n, k]`, zero point 0, for the kernel that [`chosen`] names.
    ///
    /// # Panics
    ///
    /// If `weights` is not `[n, k]`, if `k > MAX_K`, or if the environment names an unknown kernel ([`chosen`] tells it
    /// as an error, for programs that want to ask first).
    #[track_caller]
    pub fn new(n: usize, k: usize, weights: &[i8]) -> Self {
        match chosen() {
            Ok(kernel) => Self::with_kernel(kernel, n, k, weights),
            Err(error) => panic!("{error}"),
        }
    }

    /// As [`new`](Self::new), for the kernel given.
    #[track_caller]
    pub fn with_kernel(kernel: &'static dyn GemmI8, n: usize, k: usize, weights: &[i8]) -> Self {
        assert!(k <= MAX_K, "k = {k} may overflow i32; the limit is {MAX_K}");
        assert_eq!(
            Some(weights.len()),
            elements([n, k]),
            "weights must be [n, k] = [{n}, {k}]"
        );
        let sum = |j| {
            weights[j * k..(j + 1) * k]
                .iter()
                .map(|&code| i32::from(code))
                .sum()
        };
        let sums = (0..n).map(sum).collect();
        Self {
            kernel,
            n,
            k,
            codes: kernel.pack(n, k, weights),
            sums,
        }
    }

    /// Outputs.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inputs.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The kernel they are packed for.
    pub fn kernel(&self) -> &'static dyn GemmI8 {
        self.kernel
    }

    /// Bytes held on the heap: codes, with the padding the layout needs, and the sum of each row.
    pub fn bytes(&self) -> usize {
        self.codes.bytes().len() + size_of_val::<[i32]>(&self.sums)
    }

    /// The weights as they were given, `[n, k]`: read back by multiplying the identity with them, so that no kernel
    /// needs the inverse of its layout.
    pub fn unpack(&self) -> Vec<i8> {
        const ROWS: usize = 64;
        let (n, k) = (self.n, self.k);
        let mut weights = vec![0; n * k];
        for first in (0..k).step_by(ROWS) {
            let rows = ROWS.min(k - first);
            let mut identity = vec![0; rows * k];
            for row in 0..rows {
                identity[row * k + first + row] = 1;
            }
            let mut columns = vec![0; rows * n];
            self.product(rows, &identity, 0, &mut columns);
            for (index, code) in columns.into_iter().enumerate() {
                // A sum of one weight and zeros.
                weights[index % n * k + first + index / n] = code as i8;
            }
        }
        weights
    }

    /// The largest magnitude of a bias for which no sum of these weights can overflow.
    pub fn max_bias(&self) -> i32 {
        // k ≤ MAX_K, so the product fits.
        i32::MAX - self.k as i32 * (255 * 128)
    }

    /// Writes the sums `c[i, j] = Σₚ (a[i, p] − a_zero_point) · weights[j, p]`, exactly.
    ///
    /// | argument | shape    |
    /// |----------|----------|
    /// | `a`      | `[m, k]` |
    /// | `c`      | `[m, n]` |
    ///
    /// # Panics
    ///
    /// If a slice does not have its shape, or the zero point is not an `i8`.
    #[track_caller]
    pub fn product(&self, m: usize, a: &[i8], a_zero_point: i32, c: &mut [i32]) {
        let out = self.block(m, c);
        self.run(m, &self.matrix(m, a), a_zero_point, &[], Ending::Sums(out));
    }

    /// Writes 8-bit codes: the sums with bias, requantized (N12), saturated to the ending's bounds.
    ///
    /// | argument | shape    |
    /// |----------|----------|
    /// | `a`      | `[m, k]` |
    /// | `out`    | `[m, n]` |
    ///
    /// # Panics
    ///
    /// If a slice does not have its shape, a zero point or bound is not an `i8`, a multiplier is not finite, or a bias
    /// exceeds [`max_bias`](Self::max_bias).
    #[track_caller]
    pub fn requantized(
        &self,
        m: usize,
        a: &[i8],
        a_zero_point: i32,
        ending: &Requantize<'_>,
        out: &mut [i8],
    ) {
        let out = self.block(m, out);
        ending.check(self.n, self.max_bias());
        let (multipliers, codes) = (ending.multipliers, ending.codes());
        let end = Ending::Codes {
            out,
            multipliers,
            codes,
        };
        self.run(m, &self.matrix(m, a), a_zero_point, ending.bias, end);
    }

    /// Writes real numbers: the sums as f32, times a scale, plus a bias, ReLU if asked for.
    ///
    /// | argument | shape    |
    /// |----------|----------|
    /// | `a`      | `[m, k]` |
    /// | `out`    | `[m, n]` |
    ///
    /// # Panics
    ///
    /// If a slice does not have its shape, or the zero point is not an `i8`.
    #[track_caller]
    pub fn scaled(
        &self,
        m: usize,
        a: &[i8],
        a_zero_point: i32,
        ending: &Scale<'_>,
        out: &mut [f32],
    ) {
        let out = self.block(m, out);
        ending.check(self.n);
        let end = Ending::Reals {
            out,
            scale: *ending,
        };
        self.run(m, &self.matrix(m, a), a_zero_point, &[], end);
    }

    #[track_caller]
    fn block<'a, T>(&self, m: usize, out: &'a mut [T]) -> BlockMut<'a, T> {
        let n = self.n;
        assert_eq!(
            Some(out.len()),
            elements([m, n]),
            "the output must be [m, n] = [{m}, {n}]"
        );
        BlockMut::new(out, m, 0, n, n)
    }

    #[track_caller]
    fn matrix<'a>(&self, m: usize, data: &'a [i8]) -> Matrix<'a> {
        let k = self.k;
        assert_eq!(
            Some(data.len()),
            elements([m, k]),
            "a must be [m, k] = [{m}, {k}]"
        );
        Matrix { data, k }
    }

    /// Folds everything that is added to a sum into one number per column, and divides the work among threads.
    #[track_caller]
    pub(crate) fn run(
        &self,
        m: usize,
        activations: &dyn Activations,
        a_zero_point: i32,
        bias: &[i32],
        ending: Ending<'_>,
    ) {
        assert!(
            (-128..=127).contains(&a_zero_point),
            "zero point {a_zero_point} is not an i8"
        );
        if m == 0 || self.n == 0 {
            return;
        }
        self.with_offsets(a_zero_point, bias, |offsets| {
            self.run_with(activations, offsets, ending, self.threads(m));
        });
    }

    /// Calls `run` with what is added to the sums of each column: the bias, less what zero point and shift have added.
    pub(crate) fn with_offsets(&self, a_zero_point: i32, bias: &[i32], run: impl FnOnce(&[i32])) {
        let shift = a_zero_point + self.kernel.activation_shift();
        // Taken, not borrowed: should this thread run another product meanwhile, it makes its own.
        let mut offsets = OFFSETS.take();
        offsets.clear();
        offsets.resize(self.n, 0);
        fold_offsets(Vectors::chosen(), &self.sums, shift, bias, &mut offsets);
        run(&offsets);
        OFFSETS.set(offsets);
    }

    /// How many threads a product of `m` rows is worth.
    pub(crate) fn threads(&self, m: usize) -> usize {
        self.threads_at(m, self.kernel.multiply_adds(m))
    }

    /// As [`threads`](Self::threads), at so many multiply-adds in a nanosecond.
    pub(crate) fn threads_at(&self, m: usize, multiply_adds: u64) -> usize {
        if self.nanoseconds(m, multiply_adds) >= NANOSECONDS_WORTH_DIVIDING {
            rayon::current_num_threads()
        } else {
            1
        }
    }

    /// The weights in the order of their kernel.
    pub(crate) fn codes(&self) -> &Lines {
        &self.codes
    }

    /// What a product of `m` rows takes one thread, at least.
    pub(crate) fn time(&self, m: usize) -> Duration {
        self.time_at(m, self.kernel.multiply_adds(m))
    }

    /// As [`time`](Self::time), at so many multiply-adds in a nanosecond.
    pub(crate) fn time_at(&self, m: usize, multiply_adds: u64) -> Duration {
        Duration::from_nanos(self.nanoseconds(m, multiply_adds))
    }

    fn nanoseconds(&self, m: usize, multiply_adds: u64) -> u64 {
        let weights = self.n.saturating_mul(self.k) as u64;
        (weights.saturating_mul(m as u64) / multiply_adds).max(weights / WEIGHT_BYTES)
    }

    /// What one unit of activation code adds to the sums of each column.
    pub(crate) fn sums(&self) -> &[i32] {
        &self.sums
    }

    /// Computes a product whose offsets are known, divided among `threads`.
    pub(crate) fn run_with(
        &self,
        activations: &dyn Activations,
        offsets: &[i32],
        ending: Ending<'_>,
        threads: usize,
    ) {
        let task = Task {
            weights: &self.codes,
            k: self.k,
            activations,
            first_row: 0,
            first_column: 0,
            weight_sums: &self.sums,
            offsets,
            ending,
        };
        if threads == 1 {
            self.kernel.run(task);
        } else {
            let time = self.time(task.rows());
            let tasks = divide(task, self.kernel.tile(), threads, time);
            team::for_each_of(time, tasks, threads, |task| self.kernel.run(task));
        }
    }
}

thread_local! {
    /// Kept between calls.
    static OFFSETS: RefCell<Vec<i32>> = const { RefCell::new(vec![]) };
}

vectorized! {
    /// `bias − sum · shift`, wrapping: what the shift adds to a sum, wrapped, is taken off again.
    fn fold_offsets(sums: &[i32], shift: i32, bias: &[i32], offsets: &mut [i32]) {
        for (offset, &sum) in offsets.iter_mut().zip(sums) {
            *offset = sum.wrapping_mul(shift.wrapping_neg());
        }
        for (offset, &bias) in offsets.iter_mut().zip(bias) {
            *offset = offset.wrapping_add(bias);
        }
    }
}

/// Rows of each part from which a product is divided by rows: fewer would leave too much of their last tile idle. High tiles are
/// divided sooner: their kernel is so fast that making the same codes twice, as parts of columns do, would count.
fn rows_worth_dividing(tile_rows: usize) -> usize {
    (4 * tile_rows).min(64)
}

/// Into how many pieces each thread's part of a product of so much time is divided: a thread that comes late, or whose core is taken
/// away, then leaves to the others what it has not begun.
fn pieces(time: Duration, threads: usize) -> usize {
    /// Less would spend too much on codes that several pieces make for themselves.
    const PIECE: Duration = Duration::from_micros(40);
    const MOST: u128 = 4;
    let of_each = time.as_nanos() / (PIECE.as_nanos() * threads as u128);
    of_each.clamp(1, MOST) as usize
}

/// Whether reading these weights from beyond the second cache counts, where each of the threads reads them all in so much time.
fn reading_counts(weights: usize, time: Duration, threads: usize) -> bool {
    const SECOND_CACHE: usize = 1024 * 1024;
    /// What one thread reads from the third cache in a nanosecond, about.
    const BYTES: usize = 20;
    let reading = (weights / BYTES) as u128;
    weights > SECOND_CACHE && reading * 4 * threads as u128 > time.as_nanos()
}

/// Divides a task of so much time among `threads`, into some pieces each: by rows if there are enough of them (each piece then reads
/// its own activations), by columns otherwise, or where the weights are the most to read (each piece then reads its own weights),
/// at whole tiles.
fn divide<'a>(
    task: Task<'a>,
    [tile_rows, tile_columns]: [usize; 2],
    threads: usize,
    time: Duration,
) -> Vec<Task<'a>> {
    let pieces = pieces(time, threads);
    let by_rows = task.rows() >= threads * rows_worth_dividing(tile_rows)
        && !reading_counts(task.columns() * task.k, time, threads);
    // Two low tiles, or a high one, share what they read of the weights. One row is a matter of reading them, in long streams.
    let parts = if by_rows {
        let least = tile_rows.max(rows_worth_dividing(tile_rows) / 2);
        (threads * pieces).min((task.rows() / least).max(threads))
    } else if task.rows() == 1 {
        threads
    } else {
        threads * pieces
    };
    let (len, tile) = if by_rows {
        (task.rows(), tile_rows)
    } else {
        (task.columns(), tile_columns)
    };
    let tiles = len.div_ceil(tile);
    let parts = parts.min(tiles);
    let mut tasks = Vec::with_capacity(parts);
    let mut rest = task;
    for part in 1..parts {
        // Part p begins at tile p · tiles / parts: no part is more than one tile larger than another.
        let size = (part * tiles / parts - (part - 1) * tiles / parts) * tile;
        let (first, after) = if by_rows {
            rest.split_rows(size)
        } else {
            rest.split_columns(size)
        };
        tasks.push(first);
        rest = after;
    }
    tasks.push(rest);
    tasks
}
