//! One executable, called from many threads: they share its weights, its plans and its pool.
//!
//!     cargo run --release --example threads -- MODEL [CALLERS]
//!
//! Each caller makes its own inputs; outputs that differ from those of a run alone are an error.

use std::error::Error;
use std::time::Instant;

use poda::feeds::{self, views};
use poda::shapes::Sizes;
use poda::{Model, Options};

/// Runs of each caller.
const RUNS: usize = 100;

type Any = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Any> {
    let mut args = std::env::args().skip(1);
    let model = args.next().ok_or("MODEL [CALLERS]")?;
    let callers: u64 = args.next().map_or(Ok(4), |n| n.parse())?;

    let model = Model::open(model)?;
    let shapes = Sizes::default().resolve(model.graph())?.shapes;
    // A thread a run, so that callers need not wait for each other.
    let executable = model.prepare(Options { threads: Some(1), ..Options::default() })?;

    let begun = Instant::now();
    std::thread::scope(|scope| {
        let call = |seed| -> Result<(), Any> {
            let feeds = feeds::random(model.graph(), &shapes, seed)?;
            let alone = executable.run(&views(&feeds))?;
            for _ in 1..RUNS {
                if executable.run(&views(&feeds))? != alone {
                    return Err(format!("caller {seed} got another's outputs").into());
                }
            }
            Ok(())
        };
        let callers: Vec<_> = (0..callers).map(|seed| scope.spawn(move || call(seed))).collect();
        callers.into_iter().try_for_each(|caller| caller.join().map_err(|_| "a caller panicked")?)
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    println!("{callers} callers, {:.0} runs a second", callers as f64 * RUNS as f64 / seconds);
    Ok(())
}
