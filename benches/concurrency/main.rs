//! What runs at the same time cost each other, and what a second thread gains beside a busy neighbour.
//!
//!     cargo bench -p poda-runtime --bench concurrency                       # the shape of MobileNetV2, 90 % zeros
//!     cargo bench -p poda-runtime --bench concurrency -- model.safetensors  # a model of one's own
//!     ROUNDS=11 TURN_MS=300 cargo bench -p poda-runtime --bench concurrency -- neighbour   # only what is named so
//!
//! Cases take turns in one process. The neighbour is a loop on one of the CPUs, 2 ms on, 2 ms off: half of that CPU. Each line
//! gives runs per second over those of one caller with one thread (and beside a neighbour, over the same beside it), and the
//! latency.

mod mobilenet;

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use poda_formats::{Tensor, TensorView};
use poda_runtime::random_feeds::random_feeds;
use poda_runtime::{Executable, Model, Options, analysis};

/// Who runs what at the same time.
struct Case {
    name: &'static str,
    threads: usize,
    callers: usize,
    neighbour: bool,
}

const CASES: &[Case] = &[
    Case { name: "1 caller, 1 thread", threads: 1, callers: 1, neighbour: false },
    Case { name: "1 caller, 2 threads", threads: 2, callers: 1, neighbour: false },
    Case { name: "2 callers, 1 thread", threads: 1, callers: 2, neighbour: false },
    Case { name: "2 callers, 2 threads", threads: 2, callers: 2, neighbour: false },
    Case { name: "4 callers, 2 threads", threads: 2, callers: 4, neighbour: false },
    Case { name: "neighbour, 1 thread", threads: 1, callers: 1, neighbour: true },
    Case { name: "neighbour, 2 threads", threads: 2, callers: 1, neighbour: true },
];

/// Runs per second and latencies in ms.
#[derive(Default)]
struct Seen {
    rates: Vec<f64>,
    latencies: Vec<f64>,
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Keeps one CPU busy, 2 ms of every 4, until told to stop.
fn neighbour(stop: &AtomicBool) {
    // SAFETY: the set is a local, of the size given; CPU numbers are below its capacity.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let size = size_of::<libc::cpu_set_t>();
        assert_eq!(libc::sched_getaffinity(0, size, &raw mut set), 0);
        let last = (0..libc::CPU_SETSIZE as usize).rev().find(|&cpu| libc::CPU_ISSET(cpu, &set));
        libc::CPU_ZERO(&mut set);
        libc::CPU_SET(last.expect("a CPU to run on"), &mut set);
        assert_eq!(libc::sched_setaffinity(0, size, &raw const set), 0);
    }
    let half = Duration::from_millis(2);
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        while start.elapsed() < half {
            std::hint::spin_loop();
        }
        thread::sleep(half);
    }
}

/// Lets the callers run for a while.
fn turn(
    case: &Case,
    executable: &Executable,
    feeds: &[(&str, TensorView<'_>)],
    time: Duration,
    seen: &mut Seen,
) {
    let (stop, together) = (AtomicBool::new(false), Barrier::new(case.callers));
    thread::scope(|scope| {
        if case.neighbour {
            scope.spawn(|| neighbour(&stop));
        }
        let call = || {
            // Warm caches, and what is learnt from the first runs.
            for _ in 0..8 {
                executable.run(feeds).expect("it runs");
            }
            together.wait();
            let (begun, mut latencies) = (Instant::now(), Vec::new());
            while begun.elapsed() < time {
                let start = Instant::now();
                executable.run(feeds).expect("it runs");
                latencies.push(start.elapsed().as_secs_f64() * 1e3);
            }
            (latencies.len() as f64 / begun.elapsed().as_secs_f64(), latencies)
        };
        let callers: Vec<_> = (0..case.callers).map(|_| scope.spawn(call)).collect();
        let results: Vec<_> = callers.into_iter().map(|caller| caller.join().expect("no panic")).collect();
        stop.store(true, Ordering::Relaxed);
        seen.rates.push(results.iter().map(|(rate, _)| rate).sum());
        seen.latencies.extend(results.into_iter().flat_map(|(_, latencies)| latencies));
    });
}

fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * q) as usize]
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let (paths, only): (Vec<_>, Vec<_>) = arguments.iter().partition(|a| std::path::Path::new(a).is_file());
    let model = match paths.first() {
        Some(path) => Model::open(path).expect("a model"),
        None => Model::from_graph(mobilenet::graph(0.9)).expect("a valid graph"),
    };
    let (rounds, time) = (number("ROUNDS", 7), Duration::from_millis(number("TURN_MS", 300)));
    let executables = [1, 2].map(|threads| {
        model.prepare(Options { threads: Some(threads), ..Options::default() }).expect("a supported model")
    });
    let shapes: BTreeMap<_, _> = analysis::default_shapes(model.graph(), 1).expect("shapes to run with");
    let feeds: Vec<(String, Tensor)> = random_feeds(model.graph(), &shapes, 1).expect("inputs of known type");
    let feeds: Vec<_> = feeds.iter().map(|(name, tensor)| (name.as_str(), tensor.view())).collect();
    let cases: Vec<&Case> =
        CASES.iter().filter(|case| only.iter().all(|name| case.name.contains(name.as_str()))).collect();
    let mut all: Vec<Seen> = cases.iter().map(|_| Seen::default()).collect();
    for _ in 0..rounds {
        for (case, seen) in cases.iter().zip(&mut all) {
            turn(case, &executables[case.threads - 1], &feeds, time, seen);
        }
    }
    println!("{:<22} {:>8} {:>7} {:>15} {:>8} {:>8}", "", "runs/s", "ratio", "of pairs", "p50 ms", "p99 ms");
    for (case, seen) in cases.iter().zip(&all) {
        let base = cases
            .iter()
            .position(|base| base.neighbour == case.neighbour && base.threads == 1 && base.callers == 1);
        let base = &all[base.unwrap_or(0)];
        // Neighbouring turns are compared: the machine is not as fast now as it was a second ago.
        let ratios: Vec<f64> = seen.rates.iter().zip(&base.rates).map(|(a, b)| a / b).collect();
        println!(
            "{:<22} {:>8.1} {:>6.2}x {:>6.2}x..{:>5.2}x {:>8.2} {:>8.2}",
            case.name,
            quantile(&seen.rates, 0.5),
            quantile(&ratios, 0.5),
            quantile(&ratios, 0.0),
            quantile(&ratios, 1.0),
            quantile(&seen.latencies, 0.5),
            quantile(&seen.latencies, 0.99)
        );
    }
}
