//! Proves that samples of a batch can be computed apart, and makes the graph that does so.
//!
//! The nodes are walked twice at once, for the whole batch and for a part of it. Operators have a rule each
//! ([`rules`](super::rules)); constants are compared: one that is the same in both, or that repeats the part's, is no matter how
//! it was made. Whatever no rule covers leaves the batch whole.

use std::borrow::Cow;

use poda_formats::graph::Node;
use poda_formats::{Graph, Op, Tensor, ValueId};

use super::rules::{Case, Class, Fact, integers, separates};
use crate::analysis::Analysis;
use crate::info::Info;
use crate::plan::{Request, Wants};

/// A graph that computes some samples of a batch.
#[derive(Debug)]
pub(super) struct Separated<'a> {
    pub(super) graph: Cow<'a, Graph>,
    /// With the shapes that the inputs have for these samples.
    pub(super) request: Request,
    /// By input: whether it is split; the others are fed whole.
    pub(super) split: Vec<bool>,
}

/// The number of samples in a request: the first dimension of the first input that has one.
pub(super) fn samples(request: &Request) -> Option<usize> {
    request.shapes.iter().find_map(|shape| shape.first().copied())
}

/// The graph for `size` samples of a batch of `samples`, if they can be computed apart. `whole` is the analysis of the graph for
/// the request.
pub(super) fn separate<'a>(
    graph: &'a Graph,
    whole: &Analysis,
    request: &Request,
    [samples, size]: [usize; 2],
) -> Option<Separated<'a>> {
    if request.wanted != Wants::Results(Vec::new()) || !whole.failures.is_empty() || graph.outputs.is_empty()
    {
        return None;
    }
    let split: Vec<bool> = request.shapes.iter().map(|shape| shape.first() == Some(&samples)).collect();
    let shapes = request.shapes.iter().zip(&split).map(|(shape, &split)| {
        let mut shape = shape.clone();
        if split {
            shape[0] = size;
        }
        shape
    });
    let request = Request { shapes: shapes.collect(), wanted: Wants::Results(Vec::new()) };
    let mut walk = Walk::new(graph, whole, &request, &split, [samples, size]);
    for node in &graph.nodes {
        walk.node(node)?;
    }
    let apart = |id: &ValueId| walk.classes[id.index()] == Some(Class::Batched);
    graph.outputs.iter().all(apart).then_some(())?;
    Some(Separated { graph: walk.graph, request, split })
}

struct Walk<'a, 'w> {
    /// With shapes that name the number of samples made smaller.
    graph: Cow<'a, Graph>,
    whole: &'w Analysis,
    part: Analysis,
    classes: Vec<Option<Class>>,
    samples: usize,
    size: usize,
}

impl<'a, 'w> Walk<'a, 'w> {
    fn new(
        graph: &'a Graph,
        whole: &'w Analysis,
        request: &Request,
        split: &[bool],
        [samples, size]: [usize; 2],
    ) -> Self {
        let mut classes: Vec<Option<Class>> =
            graph.values.iter().map(|value| value.weight.as_ref().map(|_| Class::Same)).collect();
        for (id, &split) in graph.inputs.iter().zip(split) {
            classes[id.index()] = Some(if split { Class::Batched } else { Class::Same });
        }
        let infos = graph.inputs.iter().zip(&request.shapes).map(|(&id, shape)| {
            let dtype = graph.value(id).dtype?;
            Some(Info::new(dtype, shape.clone()))
        });
        let part = Analysis::of_inputs(graph, infos.collect());
        Self { graph: Cow::Borrowed(graph), whole, part, classes, samples, size }
    }

    /// Classifies the outputs of a node; `None` where nothing more can be said of the graph.
    fn node(&mut self, node: &Node) -> Option<()> {
        let known = node.inputs.iter().flatten().all(|id| self.classes[id.index()].is_some());
        if !known {
            // What follows from it is not told apart either; it may be of no importance.
            return Some(());
        }
        let smaller = self.smaller(node);
        let node = smaller.as_ref().unwrap_or(node);
        self.part.visit(node).ok()?;
        for (index, id) in node.outputs.iter().enumerate() {
            if let Some(id) = id {
                self.classes[id.index()] = self.class(node, index);
            }
        }
        if let Some(node) = smaller {
            let same = |other: &&mut Node| other.outputs == node.outputs;
            let place = self.graph.to_mut().nodes.iter_mut().find(same)?;
            *place = node;
        }
        Some(())
    }

    fn class(&self, node: &Node, index: usize) -> Option<Class> {
        let id = node.output(index)?;
        let (whole, part) = (self.whole.info(id)?, self.part.info(id)?);
        if let (Some(whole), Some(part)) = (&whole.value, &part.value) {
            return Some(if whole == part {
                Class::Same
            } else if self.in_proportion(whole.shape(), part.shape()) && self.repeats(whole, part) {
                Class::Batched
            } else {
                Class::Size
            });
        }
        let inputs: Option<Vec<_>> =
            node.inputs.iter().map(|id| id.map_or(Some(None), |id| self.fact(id).map(Some))).collect();
        let inputs = inputs?;
        let shape = whole.shape.as_deref()?;
        if inputs.iter().flatten().all(|fact| fact.class == Class::Same) {
            return (part.shape.as_deref() == Some(shape)).then_some(Class::Same);
        }
        let output = self.whole.shape(node.outputs.iter().flatten().next().copied()?)?;
        let case = Case { inputs, output, used: node.outputs.iter().map(Option::is_some).collect() };
        (self.in_proportion(shape, part.shape.as_deref()?) && separates(&node.op, &case))
            .then_some(Class::Batched)
    }

    fn fact(&self, id: ValueId) -> Option<Fact<'_>> {
        let (class, part) = (self.classes[id.index()]?, self.part.info(id)?);
        // What was added for parts is the same for all.
        Some(Fact { class, whole: self.whole.info(id).unwrap_or(part), part })
    }

    /// Whether the first dimension counts samples, and the others are the same.
    fn in_proportion(&self, whole: &[usize], part: &[usize]) -> bool {
        let ([first, rest @ ..], [part, part_rest @ ..]) = (whole, part) else { return false };
        first % self.samples == 0 && first / self.samples * self.size == *part && rest == part_rest
    }

    /// Whether a constant is the same for each sample.
    fn repeats(&self, whole: &Tensor, part: &Tensor) -> bool {
        let (whole, part) = (whole.bytes(), part.bytes());
        let Some(share) = whole.len().checked_div(self.samples).filter(|&share| share > 0) else {
            return true;
        };
        let first = &whole[..share];
        whole.chunks(share).chain(part.chunks(share)).all(|one| one == first)
    }

    /// A node whose constant shape names the whole number of samples, with that of the part, or with the axes that Squeeze
    /// would otherwise find by the sizes.
    fn smaller(&mut self, node: &Node) -> Option<Node> {
        let data = node.input(0)?;
        if self.classes[data.index()] != Some(Class::Batched) {
            return None;
        }
        let constant = match (&node.op, node.input(1)) {
            (Op::Reshape { .. } | Op::Expand, Some(target))
                if self.classes[target.index()] == Some(Class::Same) =>
            {
                let mut target = integers(self.part.constant(target)?)?;
                let first = *self.whole.shape(node.output(0)?)?.first()?;
                if target.first() != Some(&i64::try_from(first).ok()?) || first % self.samples != 0 {
                    return None;
                }
                target[0] = i64::try_from(first / self.samples * self.size).ok()?;
                target
            }
            (Op::Squeeze, None) => {
                let shape = self.whole.shape(data)?;
                (0..shape.len() as i64).filter(|&axis| shape[axis as usize] == 1).collect()
            }
            _ => return None,
        };
        let tensor = Tensor::from_slice(&[constant.len()], &constant);
        let graph = self.graph.to_mut();
        let name = graph.unique_name("samples");
        let id = graph.add_weight(name, tensor.clone());
        self.classes.push(Some(Class::Same));
        self.part.infos.push(Some(Info::constant(tensor)));
        let mut node = node.clone();
        node.inputs.truncate(1);
        node.inputs.push(Some(id));
        Some(node)
    }
}
