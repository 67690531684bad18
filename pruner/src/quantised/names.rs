//! Names that no value has yet.

use std::collections::HashSet;

use poda_formats::Graph;

pub(super) struct Names(HashSet<String>);

impl Names {
    pub(super) fn of(graph: &Graph) -> Self {
        let nodes = graph.nodes.iter().map(|node| node.name.clone());
        Self(graph.values.iter().map(|value| value.name.clone()).chain(nodes).collect())
    }

    /// `base`, or `base` with a number.
    pub(super) fn unique(&mut self, base: &str) -> String {
        let numbered = (2_usize..).map(|number| format!("{base}_{number}"));
        let mut names = std::iter::once(base.to_owned()).chain(numbered);
        names.find(|name| self.0.insert(name.clone())).expect("numbers do not end")
    }
}
