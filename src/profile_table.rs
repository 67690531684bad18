//! The steps of a run, as a table.

use std::collections::BTreeMap;

use anyhow::Result;
use poda::profiling::Profiled;

use crate::table::{self, print};

/// Prints the steps, and the time by operator.
pub(crate) fn show(profiled: &Profiled) -> Result<()> {
    let mut rows = table::table(&["step", "kernel", "ms", "share", "rate", "of roof"], 2);
    for step in &profiled.nodes {
        let rate = match step.node.macs_nonzero {
            0 => format!("{} GB/s", table::ratio(step.gb_per_second)),
            _ => format!("{} GFLOP/s", table::ratio(step.gflops)),
        };
        rows.add_row([
            step.node.name.clone(),
            step.node.kernel.clone(),
            table::ms(step.node.ms),
            table::percent(step.share),
            rate,
            format!("{:.0} %", 100.0 * step.roof),
        ]);
    }
    print(rows)?;
    let mut operators: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
    for step in &profiled.nodes {
        let (count, ms) = operators.entry(&step.node.op).or_default();
        *count += 1;
        *ms += step.node.ms;
    }
    let mut operators: Vec<_> = operators.into_iter().collect();
    operators.sort_by(|(_, (_, a)), (_, (_, b))| b.total_cmp(a));
    let mut rows = table::table(&["operator", "steps", "ms", "share"], 1);
    for (op, (count, ms)) in operators {
        let share = table::percent(ms / profiled.total_ms.max(1e-9));
        rows.add_row([op.to_owned(), count.to_string(), table::ms(ms), share]);
    }
    print("")?;
    print(rows)?;
    let memory = profiled.roofs.bandwidth.iter().map(|level| format!("{:.0}", level.gb_per_second));
    print(format!(
        "{} ms in all, medians of {} runs; activations in {}",
        table::ms(profiled.total_ms),
        profiled.runs,
        table::bytes(profiled.arena_bytes as u64)
    ))?;
    if let Some(batch) = &profiled.batch {
        print(format!("batch: {batch}"))?;
    }
    print(format!(
        "roofs measured now: {:.0} GFLOP/s; caches to memory {} GB/s",
        profiled.roofs.gflops,
        memory.collect::<Vec<_>>().join(", ")
    ))
}
