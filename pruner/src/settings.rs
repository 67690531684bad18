//! Two settings of the symbolic sizes of a model, under which all shapes are known.

use std::collections::BTreeMap;

use poda_formats::{Dim, Graph};
use poda_runtime::analysis::{Analysis, analyze, is_batch};

use crate::dependency::Facts;

/// Concrete shapes of the inputs, by name.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// What follows from two settings. Sizes that agree are the model's own, sizes that differ are the input's.
#[derive(Debug)]
pub struct Settings {
    /// Input shapes of the first setting.
    pub shapes: Shapes,
    first: Analysis,
    second: Analysis,
}

/// Sizes of symbols that are no batch, tried in turn: sequences first, then images and signals.
const BASES: [usize; 6] = [8, 16, 32, 64, 128, 224];

impl Settings {
    /// Sizes for the symbols of `graph` with which as many nodes as possible can be analysed. `given` shapes make the
    /// first setting where there are some.
    pub fn find(graph: &Graph, given: &Shapes) -> Self {
        let symbols = symbols(graph, given);
        let open = symbols.iter().any(|s| s.size.is_none() && !s.batch);
        let mut best: Option<Self> = None;
        let bases = if open { &BASES[..] } else { &BASES[..1] };
        for (base, step) in bases.iter().flat_map(|&base| [-1, 1, 0].map(|step| (base, step))) {
            let first = sizes(&symbols, base, step);
            let shapes = shapes(graph, given, &first);
            let analysis = analyze(graph, &shapes);
            let second = Self::second(graph, &symbols, &first, &analysis);
            let found = Self { shapes, first: analysis, second };
            let failures = found.failures();
            if best.as_ref().is_none_or(|best| failures < best.failures()) {
                best = Some(found);
            }
            if failures == 0 || !open {
                break;
            }
        }
        best.expect("at least one setting is tried")
    }

    /// An analysis with other sizes for the symbols, in the same relation if there seems to be one.
    fn second(
        graph: &Graph,
        symbols: &[Symbol],
        first: &BTreeMap<String, usize>,
        was: &Analysis,
    ) -> Analysis {
        let changes: [fn(usize) -> usize; 3] = [|size| size + 8, |size| size * 2, |size| size];
        let mut best: Option<Analysis> = None;
        for change in changes {
            let size = |s: &Symbol| if s.batch { first[&s.name] + 2 } else { change(first[&s.name]) };
            let other = symbols.iter().map(|s| (s.name.clone(), size(s))).collect();
            let analysis = analyze(graph, &shapes(graph, &Shapes::new(), &other));
            let failures = analysis.failures.len();
            if best.as_ref().is_none_or(|best| failures < best.failures.len()) {
                best = Some(analysis);
            }
            if failures <= was.failures.len() {
                break;
            }
        }
        best.expect("at least one change is tried")
    }

    /// What follows from the first setting's shapes with a batch of one, for figures that people read.
    pub fn one_sample(&self, graph: &Graph) -> Analysis {
        let mut shapes = self.shapes.clone();
        for &id in &graph.inputs {
            let value = graph.value(id);
            let Some(shape) = shapes.get_mut(&value.name) else { continue };
            for (axis, (dim, size)) in value.shape.iter().flatten().zip(shape).enumerate() {
                if matches!(dim, Dim::Symbol(symbol) if is_batch(symbol, axis)) {
                    *size = 1;
                }
            }
        }
        analyze(graph, &shapes)
    }

    /// The facts of both settings.
    pub fn facts(&self) -> Facts<'_> {
        Facts::new(&self.first.infos, &self.second.infos)
    }

    /// The analysis of the first setting.
    pub fn analysis(&self) -> &Analysis {
        &self.first
    }

    /// What could not be analysed and so stays as it is, in one sentence; `None` when everything could.
    pub fn unknown(&self, graph: &Graph) -> Option<String> {
        let failures = &self.first.failures;
        let (node, error) = failures.first()?;
        let node = &graph.nodes[*node];
        let count = failures.len();
        Some(format!(
            "{count} of {} nodes could not be analysed, and what follows from them stays; the first is {:?} ({}): {error}",
            graph.nodes.len(),
            node.name,
            node.op.name()
        ))
    }

    fn failures(&self) -> usize {
        self.first.failures.len() + self.second.failures.len()
    }
}

struct Symbol {
    name: String,
    batch: bool,
    /// In the shapes given.
    size: Option<usize>,
}

/// Sizes that no layer has for batches, so that nothing fits by chance; for other symbols `base`, a `step` apart.
fn sizes(symbols: &[Symbol], base: usize, step: isize) -> BTreeMap<String, usize> {
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
    let sizes: Vec<usize> = symbols.iter().map(size).collect();
    symbols.iter().map(|s| s.name.clone()).zip(sizes).collect()
}

/// Symbols in order of appearance; unnamed ones are named after their place.
fn symbols(graph: &Graph, given: &Shapes) -> Vec<Symbol> {
    let mut found: Vec<Symbol> = Vec::new();
    for &id in &graph.inputs {
        let value = graph.value(id);
        let given = given.get(&value.name);
        for (axis, dim) in value.shape.iter().flatten().enumerate() {
            let Dim::Symbol(symbol) = dim else { continue };
            let name = symbol_name(&value.name, axis, symbol);
            if !found.iter().any(|s| s.name == name) {
                let size = given.and_then(|shape| shape.get(axis).copied());
                found.push(Symbol { batch: is_batch(symbol, axis), name, size });
            }
        }
    }
    found
}

fn symbol_name(input: &str, axis: usize, symbol: &str) -> String {
    if symbol.is_empty() && axis == 0 {
        "batch".to_owned()
    } else if symbol.is_empty() {
        format!("{input}.{axis}")
    } else {
        symbol.to_owned()
    }
}

fn shapes(graph: &Graph, given: &Shapes, sizes: &BTreeMap<String, usize>) -> Shapes {
    let mut shapes = Shapes::new();
    for &id in &graph.inputs {
        let value = graph.value(id);
        let dims = value.shape.iter().flatten().enumerate();
        let own = || {
            dims.map(|(axis, dim)| match dim {
                Dim::Fixed(size) => *size,
                Dim::Symbol(symbol) => {
                    sizes.get(&symbol_name(&value.name, axis, symbol)).copied().unwrap_or(1)
                }
            })
            .collect()
        };
        let shape = given.get(&value.name).cloned().unwrap_or_else(own);
        shapes.insert(value.name.clone(), shape);
    }
    shapes
}
