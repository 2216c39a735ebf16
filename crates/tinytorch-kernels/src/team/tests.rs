use std::sync::atomic::AtomicUsize;

use super::*;
use crate::testing::{assert_refused, pool};

/// Runs `pieces` tasks on a team of this test's own (the process's may be in use) and returns how often each was done.
fn times_done(team: &mut Team, pieces: usize, members: usize) -> Vec<usize> {
    let done: Vec<AtomicUsize> = (0..pieces).map(|_| AtomicUsize::new(0)).collect();
    let shares = Shares::new(pieces, members);
    team.run(members, &|member| {
        while let Some(piece) = shares.next(member) {
            done[piece].fetch_add(1, Ordering::Relaxed);
            // Long enough for the others to wake up and to steal.
            (0..piece % 7 * 100).for_each(|_| std::hint::spin_loop());
        }
    });
    done.into_iter().map(AtomicUsize::into_inner).collect()
}

fn team_of(helpers: usize) -> Team {
    let helpers = (1..=helpers)
        .map(|member| Helper::start(member).expect("a thread"))
        .collect::<Vec<_>>();
    Team {
        helpers: Box::leak(helpers.into_boxed_slice()),
        _right: None,
    }
}

#[test]
fn the_end_of_another_team_frees_nobodys_helpers() {
    // It did, and a second caller then took a helper whose first one left without its piece.
    let held = loop {
        match Team::free() {
            Some(team) => break team,
            None => thread::yield_now(),
        }
    };
    drop(team_of(0));
    // Nor does asking in vain.
    assert!(Team::free().is_none());
    assert!(Team::free().is_none());
    drop(held);
}

#[test]
fn every_piece_is_done_once() {
    for helpers in 0..4 {
        let mut team = team_of(helpers);
        for round in 0..300 {
            let pieces = 2 + round % 40;
            let members = (helpers + 1).min(pieces);
            assert_eq!(times_done(&mut team, pieces, members), vec![1; pieces]);
            if round % 100 == 99 {
                // The helpers fall asleep.
                thread::sleep(3 * AWAKE);
            }
        }
    }
}

#[test]
fn members_begin_with_their_own_pieces_and_then_take_the_last_of_others() {
    let shares = Shares::new(5, 2);
    let order = [1, 1, 1, 1, 0, 0, 1].map(|member| shares.next(member));
    assert_eq!(
        order,
        [Some(2), Some(3), Some(4), Some(1), Some(0), None, None]
    );
}

#[test]
fn a_panic_of_any_piece_reaches_the_caller_and_the_team_goes_on() {
    let mut team = team_of(1);
    for culprit in [0, 9] {
        for _ in 0..20 {
            let shares = Shares::new(10, 2);
            assert_refused("piece", || {
                team.run(2, &|member| {
                    while let Some(piece) = shares.next(member) {
                        assert!(piece != culprit, "piece {piece}");
                    }
                });
            });
            assert_eq!(times_done(&mut team, 8, 2), [1; 8]);
        }
    }
}

#[test]
fn tasks_are_run_once_inside_and_outside_of_a_pool() {
    let run = || {
        let sum = AtomicUsize::new(0);
        for_each((1..=100).collect(), 2, |task: usize| {
            sum.fetch_add(task, Ordering::Relaxed);
        });
        sum.into_inner()
    };
    assert_eq!(run(), 5050);
    assert_eq!(pool(2).install(run), 5050);
    // From two threads at once: only one of them has the team.
    thread::scope(|scope| {
        let both = [scope.spawn(run), scope.spawn(run)];
        both.into_iter()
            .for_each(|thread| assert_eq!(thread.join().expect("no panic"), 5050));
    });
}

/// Two threads on one core, with another one idle, took as long as one.
#[cfg(all(target_os = "linux", not(miri)))]
#[test]
fn a_helper_is_kept_from_a_core_as_soon_as_it_has_begun() {
    use rustix::thread::sched_getaffinity;
    let cores = || sched_getaffinity(None).map_or(1, |cores| cores.count());
    let mut team = team_of(1);
    let (begun, of_helper) = (cores(), AtomicUsize::new(0));
    // The first offers may come before the helper has said who it is.
    for _ in 0..3 {
        of_helper.store(0, Ordering::Relaxed);
        team.run(2, &|member| match member {
            0 => {
                while of_helper.load(Ordering::Relaxed) == 0 {
                    thread::yield_now();
                }
            }
            _ => of_helper.store(cores() as usize, Ordering::Relaxed),
        });
    }
    assert_eq!(of_helper.into_inner() as u32, begun.max(2) - 1);
}
