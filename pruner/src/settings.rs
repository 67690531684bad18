//! Settings of a model's open sizes, under which all shapes are known.
//!
//! A size that no setting changes is the model's own; one that changes with some symbol is the input's, and must stay
//! open in a pruned model. Each symbol is varied on its own where the model takes that, and together with others where sizes
//! are related (a mask as long as past and present together); one that no setting can change (a width that a matrix binds)
//! is fixed, whatever the model calls it.

mod symbols;

use std::collections::BTreeMap;

use poda_formats::{Dim, Graph};
use poda_runtime::analysis::{Analysis, analyze, is_batch};

use crate::dependency::Facts;
use symbols::Symbols;

/// Concrete shapes of the inputs, by name.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// A model's shapes under several settings of its open sizes.
#[derive(Debug)]
pub struct Settings {
    /// Input shapes of the first setting.
    pub shapes: Shapes,
    first: Analysis,
    /// Input shapes of the others, which change each size that can change.
    others: Vec<Shapes>,
    analyses: Vec<Analysis>,
    /// Further input shapes that the model takes: with one of a size that is open.
    singles: Vec<Shapes>,
}

/// Sizes of symbols that are no batch, tried in turn: sequences first, then images and signals.
const BASES: [usize; 6] = [8, 16, 32, 64, 128, 224];

/// Settings with one of something that are looked for at most.
const MOST_SINGLES: usize = 4;

impl Settings {
    /// Sizes for the symbols of `graph` with which as many nodes as possible can be analysed. `given` shapes make the
    /// first setting where there are some.
    pub fn find(graph: &Graph, given: &Shapes) -> Self {
        let symbols = Symbols::of(graph, given);
        let bases = if symbols.need_sizes() { &BASES[..] } else { &BASES[..1] };
        let mut best: Option<(Vec<usize>, Analysis)> = None;
        for (base, step) in bases.iter().flat_map(|&base| [-1, 1, 0].map(|step| (base, step))) {
            let sizes = symbols.sizes(base, step);
            let analysis = analyze(graph, &symbols.shapes(&sizes));
            let failures = analysis.failures.len();
            if best.as_ref().is_none_or(|(_, best)| failures < best.failures.len()) {
                best = Some((sizes, analysis));
            }
            if failures == 0 || !symbols.need_sizes() {
                break;
            }
        }
        let (sizes, first) = best.expect("at least one setting is tried");
        let shapes = symbols.shapes(&sizes);
        let mut settings =
            Self { shapes, first, others: Vec::new(), analyses: Vec::new(), singles: Vec::new() };
        settings.vary(graph, &symbols, &sizes);
        settings.reduce_to_one(graph, &symbols, &sizes);
        settings
    }

    /// Finds settings in which every symbol that can change does: all at once, else by halves, and what cannot change
    /// alone in step with others.
    fn vary(&mut self, graph: &Graph, symbols: &Symbols, sizes: &[usize]) {
        let all: Vec<usize> = (0..sizes.len()).collect();
        let mut open = if all.is_empty() { Vec::new() } else { vec![all] };
        let mut bound = Vec::new();
        while let Some(set) = open.pop() {
            if self.try_changes(graph, symbols, sizes, &set, true) {
                continue;
            }
            if let [only] = set[..] {
                bound.push(only);
            } else {
                let (left, right) = set.split_at(set.len() / 2);
                open.extend([right.to_vec(), left.to_vec()]);
            }
        }
        bound.sort_unstable();
        if bound.len() > 1 && !self.try_changes(graph, symbols, sizes, &bound, false) {
            const MOST: usize = 6;
            for (i, &a) in bound.iter().enumerate().take(MOST) {
                for &b in bound.iter().take(MOST).skip(i + 1) {
                    self.try_changes(graph, symbols, sizes, &[a, b], false);
                }
            }
        }
    }

    /// Adds a setting in which the symbols of `set` change, each by its own factor if `apart`, when the model takes it.
    fn try_changes(
        &mut self,
        graph: &Graph,
        symbols: &Symbols,
        sizes: &[usize],
        set: &[usize],
        apart: bool,
    ) -> bool {
        // Multiples first: they keep to whatever divides the size now.
        let changes: [fn(usize, usize) -> usize; 3] = [
            |size, k| if size < 64 { size * (2 + k % 7) } else { size / 2 * [1, 3, 4, 5, 6, 7][k % 6] },
            |size, k| size + 8 + k,
            |size, k| size + 1 + k,
        ];
        changes.iter().any(|change| {
            let mut changed = sizes.to_vec();
            for (k, &symbol) in set.iter().enumerate() {
                changed[symbol] = change(sizes[symbol], if apart { k } else { 0 });
            }
            let all_change = set.iter().all(|&symbol| changed[symbol] != sizes[symbol]);
            let shapes = symbols.shapes(&changed);
            let Some(analysis) = all_change.then(|| self.taken(graph, &shapes)).flatten() else {
                return false;
            };
            self.others.push(shapes);
            self.analyses.push(analysis);
            true
        })
    }

    /// The analysis under `shapes`, when no more of it fails than in the first setting.
    fn taken(&self, graph: &Graph, shapes: &Shapes) -> Option<Analysis> {
        let analysis = analyze(graph, shapes);
        (analysis.failures.len() <= self.first.failures.len()).then_some(analysis)
    }

    fn reduce_to_one(&mut self, graph: &Graph, symbols: &Symbols, sizes: &[usize]) {
        for symbol in (0..sizes.len()).filter(|&symbol| sizes[symbol] > 1).take(MOST_SINGLES) {
            let mut changed = sizes.to_vec();
            changed[symbol] = 1;
            let shapes = symbols.shapes(&changed);
            if self.taken(graph, &shapes).is_some() {
                self.singles.push(shapes);
            }
        }
    }

    /// Input shapes at which a pruned model must do what the dense one does; the first setting first.
    pub fn runs(&self) -> Vec<Shapes> {
        const MOST: usize = 4;
        let others = self.others.iter().take(MOST);
        std::iter::once(&self.shapes).chain(others).chain(&self.singles).cloned().collect()
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

    /// The facts of all settings.
    pub fn facts(&self) -> Facts<'_> {
        Facts::new(&self.first, &self.analyses)
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
}

#[cfg(test)]
mod tests {
    use poda_formats::{DataType, Op, Tensor};

    use super::*;

    fn open(names: &[&str]) -> Vec<Dim> {
        names
            .iter()
            .map(|name| name.parse().map_or_else(|_| Dim::Symbol((*name).into()), Dim::Fixed))
            .collect()
    }

    /// For each dimension of the output whether it is taken as fixed.
    fn fixed(graph: &Graph, given: &Shapes) -> Vec<bool> {
        let settings = Settings::find(graph, given);
        let output = graph.outputs[0];
        let rank = settings.facts().shape(output).expect("its shape follows").len();
        (0..rank).map(|dim| settings.facts().is_fixed(output, dim)).collect()
    }

    fn product(names: &[&str]) -> Graph {
        let mut graph = Graph::default();
        let x = graph.add_input("x", DataType::F32, open(names));
        let w = graph.add_weight("w", Tensor::from_slice(&[8, 3], &[1.0_f32; 24]));
        let y = graph.add_node(Op::MatMul, &[x, w], "y");
        graph.outputs.push(y);
        graph
    }

    #[test]
    fn a_width_that_a_matrix_binds_does_not_bind_the_others() {
        let given = Shapes::from([("x".to_owned(), vec![2, 5, 8])]);
        for names in [["b", "l", "c"], ["d0", "d1", "d2"], ["", "", ""], ["?", "?", "?"], ["2", "l", "c"]] {
            let batch = names[0] == "2";
            assert_eq!(fixed(&product(&names), &given), [batch, false, true], "{names:?}");
        }
        assert_eq!(fixed(&product(&["b", "l", "c"]), &Shapes::new()), [false, false, true]);
    }

    #[test]
    fn one_name_for_several_sizes_is_several_symbols() {
        let given = Shapes::from([("x".to_owned(), vec![2, 5, 8])]);
        assert_eq!(fixed(&product(&["s", "s", "s"]), &given), [false, false, true]);
    }

    #[test]
    fn related_sizes_change_together() {
        let mut graph = Graph::default();
        let past = graph.add_input("past", DataType::F32, open(&["p", "4"]));
        let x = graph.add_input("x", DataType::F32, open(&["s", "4"]));
        let mask = graph.add_input("mask", DataType::F32, open(&["t", "4"]));
        let all = graph.add_node(Op::Concat { axis: 0 }, &[past, x], "all");
        let y = graph.add_node(Op::Binary(poda_formats::op::Binary::Add), &[all, mask], "y");
        graph.outputs.push(y);
        let given = [("past", 3), ("x", 2), ("mask", 5)].map(|(name, n)| (name.to_owned(), vec![n, 4]));
        assert_eq!(fixed(&graph, &Shapes::from(given)), [false, true]);
    }
}
