use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;

use super::*;

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(thread::panicking(), "dropped");
    }
}

#[test]
fn every_part_runs_once() {
    for count in [1, 2, 3] {
        let threads = Threads::new(count).unwrap();
        assert_eq!(threads.count(), count);
        for parts in [0, 1, 2, 7, 64, 65, 1000] {
            let hits: Vec<AtomicUsize> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
            threads.for_each(parts, |i| {
                hits[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1));
        }
    }
    assert!(Threads::available() >= 1);
    assert!(matches!(Threads::new(1 << 20), Err(ThreadsError::TooMany { .. })));
}

/// A panic's message.
fn caught(f: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(f)).expect_err("it panics");
    *panic.downcast::<String>().expect("a formatted message")
}

/// Panics in the bad part, without a message on the screen.
fn fail_at(i: usize, bad: usize) {
    if i == bad {
        std::panic::resume_unwind(Box::new(format!("part {i}")));
    }
}

#[test]
fn a_panic_in_any_part_reaches_the_caller_once_all_are_done() {
    let threads = Threads::new(3).unwrap();
    for bad in 0..9 {
        let done = AtomicUsize::new(0);
        let message = caught(|| {
            threads.for_each(9, |i| {
                done.fetch_add(1, Ordering::Relaxed);
                fail_at(i, bad);
            });
        });
        assert_eq!(message, format!("part {bad}"));
        assert_eq!(done.load(Ordering::Relaxed), 9);
        // The pool works as before.
        let sum = AtomicUsize::new(0);
        threads.for_each(100, |i| {
            sum.fetch_add(i, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 4950);
    }
    // All of them at once, with what panics again when it is dropped.
    for _ in 0..20 {
        let panic = catch_unwind(AssertUnwindSafe(|| {
            threads.for_each(9, |_| std::panic::resume_unwind(Box::new(Bomb)));
        }));
        std::mem::forget(panic.expect_err("it panics"));
    }
    let parts = AtomicUsize::new(0);
    threads.for_each(9, |_| {
        parts.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(parts.into_inner(), 9);
}

#[test]
fn a_panic_between_sections_ends_the_run() {
    let threads = Threads::new(2).unwrap();
    assert_eq!(caught(|| threads.install(|| panic!("{}", "between"))), "between");
    assert_eq!(current(), 1);
    threads.install(|| assert_eq!(current(), 2));
}

#[test]
fn nested_sections_run_where_they_are() {
    let (outer, inner) = (Threads::new(2).unwrap(), Threads::new(3).unwrap());
    let hits: Vec<AtomicUsize> = (0..8 * 5 * 3).map(|_| AtomicUsize::new(0)).collect();
    outer.install(|| {
        outer.for_each(8, |i| {
            let own = thread::current().id();
            // Another pool's, and through it the same again.
            inner.for_each(5, |j| {
                assert_eq!(thread::current().id(), own);
                assert_eq!(current(), 1);
                outer.for_each(3, |k| {
                    hits[(i * 5 + j) * 3 + k].fetch_add(1, Ordering::Relaxed);
                });
            });
        });
    });
    assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1));
}

#[test]
fn callers_count_among_the_threads() {
    let threads = Threads::new(2).unwrap();
    let seen = Mutex::new(HashSet::new());
    let both = Barrier::new(2);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                threads.install(|| {
                    both.wait();
                    // A worker may have begun a part before it saw the second caller.
                    (0..10).for_each(|_| threads.for_each(4, |_| ()));
                    both.wait();
                    for _ in 0..200 {
                        threads.for_each(4, |_| {
                            seen.lock().unwrap().insert(thread::current().id());
                        });
                    }
                    both.wait();
                });
            });
        }
    });
    assert_eq!(seen.into_inner().unwrap().len(), 2);
    assert_eq!(threads.pool.as_ref().unwrap().pool().callers(), 0);
}

/// Callers of all kinds at once, some of which panic, nest or come and go; more of them than threads.
#[test]
fn many_callers_share_a_pool() {
    const ROUNDS: usize = 300;
    for count in [2, 3, 4] {
        let threads = Threads::new(count).unwrap();
        let sums: Vec<AtomicUsize> = (0..6).map(|_| AtomicUsize::new(0)).collect();
        thread::scope(|scope| {
            for (caller, sum) in sums.iter().enumerate() {
                let threads = &threads;
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let parts = (round * 7 + caller) % 90;
                        let add = |i: usize| {
                            sum.fetch_add(i + 1, Ordering::Relaxed);
                        };
                        match caller {
                            0 => threads.for_each(parts, add),
                            1 => threads.install(|| (0..3).for_each(|_| for_each(parts, 1 + round % 3, add))),
                            2 if parts > 0 => {
                                let bad = round % parts;
                                let message = caught(|| {
                                    threads.for_each(parts, |i| {
                                        fail_at(i, bad);
                                        add(i);
                                    });
                                });
                                assert_eq!(message, format!("part {bad}"));
                            }
                            3 => threads.for_each(parts, |i| threads.for_each(1 + i % 2, |_| add(i))),
                            4 => {
                                let mut values = vec![0_usize; parts];
                                threads.install(|| {
                                    for_each_chunk(&mut values, 3, 1, |i, chunk| chunk.fill(i));
                                });
                                assert!(values.iter().enumerate().all(|(at, &i)| i == at / 3));
                            }
                            _ => {
                                threads.for_each(parts, add);
                                thread::yield_now();
                            }
                        }
                    }
                });
            }
        });
        let parts = |caller: usize| (0..ROUNDS).map(move |round| (round * 7 + caller) % 90);
        let sum = |caller: usize| parts(caller).map(|n| n * (n + 1) / 2).sum::<usize>();
        let mut found: Vec<usize> = sums.into_iter().map(AtomicUsize::into_inner).collect();
        // Where the caller is on its own, what comes after a panic is left out.
        assert!(found[2] < sum(2), "{count} threads");
        found[2] = 0;
        let nested: usize = parts(3).flat_map(|n| (0..n).map(|i| (i + 1) * (1 + i % 2))).sum();
        assert_eq!(found, [sum(0), 3 * sum(1), 0, nested, 0, sum(5)], "{count} threads");
    }
}

#[test]
fn idle_threads_sleep_and_are_found_again() {
    let threads = Threads::new(2).unwrap();
    let helped = AtomicBool::new(false);
    let caller = thread::current().id();
    for _ in 0..3 {
        helped.store(false, Ordering::Relaxed);
        // Longer than a worker stays awake.
        thread::sleep(Duration::from_millis(2));
        threads.install(|| {
            while !helped.load(Ordering::Relaxed) {
                threads.for_each(2, |_| {
                    if thread::current().id() != caller {
                        helped.store(true, Ordering::Relaxed);
                    }
                    thread::sleep(Duration::from_micros(100));
                });
            }
        });
    }
}

#[test]
fn nothing_spins_after_a_run() {
    let threads = Threads::new(3).unwrap();
    let pool = threads.pool.as_ref().unwrap().pool();
    for round in 0..3 {
        threads.for_each(100, |i| {
            std::hint::black_box(i);
        });
        // Also after a panic, and where a caller has gone without any work.
        if round == 1 {
            caught(|| threads.for_each(9, |i| fail_at(i, 4)));
        } else if round == 2 {
            threads.install(|| ());
        }
        let mut looks = 0;
        while pool.awake() > 0 {
            looks += 1;
            assert!(looks < 10_000, "a worker is still awake");
            thread::sleep(Duration::from_millis(1));
        }
    }
}
