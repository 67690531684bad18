//! What names mean, and where.

use std::collections::{HashMap, HashSet};

use super::{OnnxError, Reader};
use crate::graph::ValueId;
use crate::weight::Weight;

use super::tensor::TensorProblem;

/// What a name stands for.
#[derive(Clone, Copy)]
pub(super) enum Binding {
    /// A value, or nothing: an input that the caller of a function left out.
    Value(Option<ValueId>),
    /// A constant of an element type that Poda has not: an error if anything uses it.
    Unsupported(&'static str),
}

/// The names of a graph or of a function.
pub(super) struct Scope<'m> {
    pub(super) names: HashMap<&'m str, Binding>,
    /// Names bound to outputs of a function's call that still wait for the node that makes them.
    reserved: HashSet<&'m str>,
    /// Which graph the values are of.
    graph: usize,
    /// Whether names that are not here are looked up further out.
    open: bool,
}

impl<'m> Scope<'m> {
    /// The scope of a graph, within those around it.
    pub(super) fn of_graph(graph: usize) -> Self {
        Self { names: HashMap::new(), reserved: HashSet::new(), graph, open: true }
    }

    /// The scope of a call of a function whose nodes go into `graph`.
    pub(super) fn of_function(graph: usize) -> Self {
        Self { open: false, ..Self::of_graph(graph) }
    }

    /// Binds the name of a function's output to the value that the caller wants it in.
    pub(super) fn reserve(&mut self, name: &'m str, id: ValueId) {
        self.names.insert(name, Binding::Value(Some(id)));
        self.reserved.insert(name);
    }

    /// Whether `name` was reserved; it is no longer.
    pub(super) fn take_reserved(&mut self, name: &str) -> bool {
        self.reserved.remove(name)
    }

    /// Whether names were reserved that no node makes.
    pub(super) fn first_reserved(&self) -> Option<&'m str> {
        self.reserved.iter().min().copied()
    }
}

impl<'m> Reader<'m> {
    pub(super) fn scope(&self) -> &Scope<'m> {
        self.scopes.last().expect("a graph is being read")
    }

    pub(super) fn scope_mut(&mut self) -> &mut Scope<'m> {
        self.scopes.last_mut().expect("a graph is being read")
    }

    /// What `name` means here, as a value of the current graph: captured through the graphs in between if need be.
    /// `None` when nothing has the name.
    pub(super) fn lookup(&mut self, name: &str) -> Option<Binding> {
        let mut level = None;
        for scope in self.scopes.iter().rev() {
            if let Some(&binding) = scope.names.get(name) {
                level = Some((scope.graph, binding));
                break;
            }
            if !scope.open {
                break;
            }
        }
        let (level, binding) = level?;
        let Binding::Value(Some(mut id)) = binding else { return Some(binding) };
        for inner in level + 1..self.graphs.len() {
            let value = self.graphs[inner - 1].graph.value(id).clone();
            id = self.graphs[inner].capture(id, &value);
        }
        Some(Binding::Value(Some(id)))
    }

    /// The value that an output of a graph names.
    pub(super) fn resolve(
        &mut self,
        name: &str,
        undefined: impl Fn() -> OnnxError,
    ) -> Result<ValueId, OnnxError> {
        match self.lookup(name) {
            Some(Binding::Value(Some(id))) => Ok(id),
            Some(Binding::Unsupported(dtype)) => {
                Err(OnnxError::ElementType { name: name.to_owned(), node: String::new(), dtype })
            }
            Some(Binding::Value(None)) | None => Err(undefined()),
        }
    }

    /// Adds a weight to the current graph.
    pub(super) fn add_weight(
        &mut self,
        name: &str,
        weight: Result<Weight, TensorProblem>,
    ) -> Result<ValueId, OnnxError> {
        let weight = weight.map_err(|problem| OnnxError::Tensor { name: name.to_owned(), problem })?;
        let builder = self.builder();
        let id = builder.add_value(name, crate::graph::Value::default());
        builder.set_weight(id, weight);
        Ok(id)
    }
}
