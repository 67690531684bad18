//! The open sizes of a model's inputs, by name or by place.

use std::collections::BTreeMap;

use poda_formats::{Dim, Graph};
use poda_runtime::analysis::is_batch;

use super::Shapes;

/// An open size.
struct Symbol {
    name: String,
    batch: bool,
    /// In the shapes given.
    size: Option<usize>,
}

/// A dimension of an input: its size, or the number of its symbol.
enum Extent {
    Fixed(usize),
    Open(usize),
}

pub(super) struct Symbols {
    symbols: Vec<Symbol>,
    inputs: Vec<(String, Vec<Extent>)>,
}

impl Symbols {
    /// Symbols in order of appearance. Unnamed ones are named after their place, and so are those of a name that stands for
    /// several sizes in the shapes given. An input without a shape has the one given, all of it open; else it is left out.
    pub(super) fn of(graph: &Graph, given: &Shapes) -> Self {
        let several = names_of_several_sizes(graph, given);
        let mut symbols: Vec<Symbol> = Vec::new();
        let mut inputs = Vec::new();
        for &id in &graph.inputs {
            let value = graph.value(id);
            let shape = given.get(&value.name);
            let unnamed = || shape.map(|shape| vec![Dim::Symbol(String::new()); shape.len()]);
            let Some(dims) = value.shape.clone().or_else(unnamed) else { continue };
            let extent = |(axis, dim): (usize, &Dim)| {
                let size = shape.and_then(|shape| shape.get(axis).copied());
                let symbol = match dim {
                    Dim::Fixed(fixed) => return Extent::Fixed(size.unwrap_or(*fixed)),
                    Dim::Symbol(symbol) => symbol,
                };
                let name = name(&value.name, axis, symbol);
                let name = if several.contains(&name) { format!("{}.{axis}", value.name) } else { name };
                let known = symbols.iter().position(|s| s.name == name);
                Extent::Open(known.unwrap_or_else(|| {
                    symbols.push(Symbol { name, batch: is_batch(symbol, axis), size });
                    symbols.len() - 1
                }))
            };
            let extents = dims.iter().enumerate().map(extent).collect();
            inputs.push((value.name.clone(), extents));
        }
        Self { symbols, inputs }
    }

    /// Whether some size is neither given nor a batch.
    pub(super) fn need_sizes(&self) -> bool {
        self.symbols.iter().any(|s| s.size.is_none() && !s.batch)
    }

    /// Sizes by symbol: 3 for batches, which no layer has, so that nothing fits by chance; for others `base`, a `step` apart.
    pub(super) fn sizes(&self, base: usize, step: isize) -> Vec<usize> {
        let mut next = base;
        let size = |s: &Symbol| match s.size {
            Some(size) => size,
            None if s.batch => 3,
            None => {
                let size = next;
                next = next.saturating_add_signed(step);
                size.max(1)
            }
        };
        self.symbols.iter().map(size).collect()
    }

    /// Input shapes with these sizes of the symbols.
    pub(super) fn shapes(&self, sizes: &[usize]) -> Shapes {
        let size = |extent: &Extent| match *extent {
            Extent::Fixed(size) => size,
            Extent::Open(symbol) => sizes[symbol],
        };
        self.inputs.iter().map(|(name, extents)| (name.clone(), extents.iter().map(size).collect())).collect()
    }
}

fn name(input: &str, axis: usize, symbol: &str) -> String {
    match (symbol, axis) {
        ("" | "?", 0) => "batch".to_owned(),
        ("" | "?", _) => format!("{input}.{axis}"),
        _ => symbol.to_owned(),
    }
}

fn names_of_several_sizes(graph: &Graph, given: &Shapes) -> Vec<String> {
    let mut sizes: BTreeMap<String, usize> = BTreeMap::new();
    let mut several = Vec::new();
    for value in graph.inputs.iter().map(|&id| graph.value(id)) {
        let Some(shape) = given.get(&value.name) else { continue };
        for (axis, (dim, &size)) in value.shape.iter().flatten().zip(shape).enumerate() {
            let Dim::Symbol(symbol) = dim else { continue };
            let name = name(&value.name, axis, symbol);
            if *sizes.entry(name.clone()).or_insert(size) != size {
                several.push(name);
            }
        }
    }
    several
}
