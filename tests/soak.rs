//! Many callers, many models, many loads in one process: the outputs stay those of a run alone, nothing grows, nothing gets
//! stuck. The long form: `PODA_SOAK=10000 cargo test --release --test soak`, loads and runs of each caller.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use poda::formats::op::Unary;
use poda::formats::{Dim, Op, artifact};
use poda::memory::resident;
use poda::{DataType, Executable, Graph, Model, Options, Tensor};

/// Loads, and runs of each caller, where `PODA_SOAK` says nothing.
const ROUNDS: usize = 300;

/// After so long without an end, something is stuck.
const STUCK: Duration = Duration::from_hours(1);

fn rounds() -> usize {
    std::env::var("PODA_SOAK").map_or(ROUNDS, |rounds| rounds.parse().expect("PODA_SOAK is a number"))
}

/// The bytes of `y = max(x · W, 0)`, `[batch, 96]` to `[batch, 64]`, with a weight of its own for each `seed`, of which nine
/// in ten elements are zero.
fn bytes(seed: usize) -> Vec<u8> {
    let weight =
        |i: usize| if (i * 7 + seed).is_multiple_of(10) { ((i + seed) % 13) as f32 - 6.0 } else { 0.0 };
    let mut graph = Graph::default();
    let x = graph.add_input("x", DataType::F32, vec![Dim::Symbol("batch".into()), Dim::Fixed(96)]);
    let w =
        graph.add_weight("w", Tensor::from_slice(&[96, 64], &(0..96 * 64).map(weight).collect::<Vec<_>>()));
    let h = graph.add_node(Op::MatMul, &[x, w], "h");
    let y = graph.add_node(Op::Unary(Unary::Relu), &[h], "y");
    graph.outputs.push(y);
    graph.store_sparse();
    let mut bytes = Vec::new();
    artifact::write(&mut bytes, &graph).unwrap();
    bytes
}

fn prepared(bytes: &[u8], threads: usize) -> Executable {
    let options = Options { threads: Some(threads), tune: false, ..Options::default() };
    Model::from_bytes(bytes).unwrap().prepare(options).unwrap()
}

fn input(batch: usize) -> Tensor {
    let values: Vec<f32> = (0..batch * 96).map(|i| (i % 17) as f32 - 8.0).collect();
    Tensor::from_slice(&[batch, 96], &values)
}

fn run(executable: &Executable, x: &Tensor) -> Tensor {
    executable.run(&[("x", x.view())]).unwrap().remove(0).1
}

/// Does `work`, which is to come to its end.
fn ends(work: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    let worker = thread::spawn(move || {
        work();
        let _ = done.send(());
    });
    let stuck = ended.recv_timeout(STUCK) == Err(mpsc::RecvTimeoutError::Timeout);
    assert!(!stuck, "no end after {STUCK:?}");
    worker.join().unwrap();
}

/// Sixteen callers of each of eight models, with batches of their own.
#[test]
fn callers_of_many_models_get_their_own_outputs() {
    ends(|| {
        let models: Vec<Executable> = (0..8).map(|seed| prepared(&bytes(seed), 2)).collect();
        thread::scope(|scope| {
            for caller in 0..16 {
                let models = &models;
                scope.spawn(move || {
                    let x = input(1 + caller % 5);
                    let alone: Vec<Tensor> = models.iter().map(|model| run(model, &x)).collect();
                    for round in 0..rounds() {
                        let at = (round + caller) % models.len();
                        assert_eq!(
                            run(&models[at], &x),
                            alone[at],
                            "caller {caller}, model {at}, round {round}"
                        );
                    }
                });
            }
        });
    });
}

/// Eight models at a time, loaded, run and let go: what stays after the first loads is all that ever stays.
#[test]
fn loading_and_letting_go_leaves_nothing() {
    ends(|| {
        let models: Vec<Vec<u8>> = (0..8).map(bytes).collect();
        let x = input(3);
        let load = |times: usize| {
            for _ in 0..times.div_ceil(models.len()) {
                let loaded: Vec<Executable> = models.iter().map(|bytes| prepared(bytes, 2)).collect();
                loaded.iter().for_each(|model| drop(run(model, &x)));
            }
            (resident().now, files("task"), files("fd"))
        };
        let before = load(ROUNDS);
        let after = load(rounds());
        let grown = after.0.saturating_sub(before.0);
        // (The allocator's own: one load keeps 60 KiB at least.)
        assert!(grown < 4 << 20, "{grown} bytes stay of {} loads", rounds());
        assert_eq!(after.2, before.2, "open files");
        // (The other test's threads come and go.)
        assert!(after.1 <= before.1 + 40, "{} threads, {} before", after.1, before.1);
    });
}

/// How many entries a folder of `/proc/self` has.
fn files(folder: &str) -> usize {
    std::fs::read_dir(format!("/proc/self/{folder}")).map_or(0, Iterator::count)
}
