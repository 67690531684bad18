//! A model run part by part on all samples, while the weights of the parts that are done change.
//!
//! Where the values that later nodes still need take little memory, they are kept for all samples, so that each node runs
//! once or twice, however many stops there are. Where they take more, the next part runs from the last place where they did not.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use poda_formats::{Graph, Tensor, TensorView, Value, ValueId};
use poda_runtime::analysis::{Analysis, analyze};
use poda_runtime::{Executable, Model, Options};

use super::{CalibrationError, Feeds, Samples};
use crate::check::Failure;
use crate::settings::Shapes;

/// Bytes of values that may be kept between parts, of each lane.
const KEPT: usize = 256 << 20;

/// Samples on their way through a graph.
pub struct Stream<'a> {
    samples: &'a dyn Samples,
    batches: Vec<Batch>,
    /// What is known of the graph for each set of input shapes.
    known: Vec<(Shapes, Analysis)>,
    /// Nodes before this one have run, for what is kept.
    at: usize,
}

struct Batch {
    held_out: bool,
    /// Number of its set of shapes.
    shapes: usize,
    /// Values that nodes after `at` need; the model's inputs at the start are read anew.
    kept: Option<Vec<(ValueId, Tensor)>>,
}

/// Samples on their way through one of several forms of a model.
pub struct Lane<'s, 'a> {
    /// The samples.
    pub stream: &'s mut Stream<'a>,
    /// The form, which has the nodes of the first one and perhaps other weights.
    pub graph: &'s Graph,
    /// Whether the weights of the nodes that run now will not change any more, so that what they give is worth keeping.
    pub keep: bool,
}

/// A value of a batch.
pub struct Shown<'a> {
    /// Whether the batch is kept aside.
    pub held_out: bool,
    /// The value in each lane.
    pub lanes: Vec<TensorView<'a>>,
}

/// Runs the nodes before `to` of every lane, batch by batch side by side, and shows the value `tap` of each batch. What ran
/// already is not run again where its values were kept.
///
/// # Errors
/// When a part does not run.
pub fn run(
    lanes: &mut [Lane<'_, '_>],
    to: usize,
    tap: ValueId,
    show: &mut dyn FnMut(Shown<'_>) -> Result<(), CalibrationError>,
) -> Result<(), CalibrationError> {
    let batches = lanes.first().map_or(0, |lane| lane.stream.batches.len());
    let mut passes: Vec<Pass<'_, '_, '_>> = lanes.iter_mut().map(|lane| Pass::new(lane, to, tap)).collect();
    for number in 0..batches {
        let values: Result<Vec<Tensor>, CalibrationError> =
            passes.iter_mut().map(|pass| pass.run(number)).collect();
        let values = values?;
        let held_out = passes[0].lane.stream.batches[number].held_out;
        show(Shown { held_out, lanes: values.iter().map(Tensor::view).collect() })?;
    }
    passes.into_iter().for_each(Pass::finish);
    Ok(())
}

/// One lane on its way to a node.
struct Pass<'p, 's, 'a> {
    lane: &'p mut Lane<'s, 'a>,
    to: usize,
    tap: ValueId,
    /// By set of shapes.
    parts: HashMap<usize, Part>,
    /// What later nodes need, of the batches so far, and its bytes; `None` once these are too many.
    kept: Option<Vec<Vec<(ValueId, Tensor)>>>,
    bytes: usize,
}

impl<'p, 's, 'a> Pass<'p, 's, 'a> {
    fn new(lane: &'p mut Lane<'s, 'a>, to: usize, tap: ValueId) -> Self {
        let kept = lane.keep.then(Vec::new);
        Self { lane, to, tap, parts: HashMap::new(), kept, bytes: 0 }
    }

    /// The tap of a batch; batches come in order.
    fn run(&mut self, number: usize) -> Result<Tensor, CalibrationError> {
        let (stream, graph) = (&*self.lane.stream, self.lane.graph);
        let shapes = stream.batches[number].shapes;
        let known = &stream.known[shapes].1;
        let part = match self.parts.entry(shapes) {
            Entry::Occupied(part) => part.into_mut(),
            Entry::Vacant(new) => {
                let nodes = stream.at.min(self.to)..self.to;
                new.insert(Part::new(graph, nodes, &[self.tap], known)?)
            }
        };
        let outputs = part.run(graph, &stream.feeds(graph, number)?)?;
        let value = outputs.iter().find(|(id, _)| *id == self.tap).map(|(_, tensor)| tensor);
        let value = value.or_else(|| known.constant(self.tap)).cloned();
        let value =
            value.ok_or_else(|| CalibrationError::NoValue { name: graph.value(self.tap).name.clone() })?;
        if let Some(all) = &mut self.kept {
            let live: Vec<(ValueId, Tensor)> =
                outputs.into_iter().filter(|(id, _)| part.live.contains(id)).collect();
            self.bytes += live.iter().map(|(_, tensor)| tensor.bytes().len()).sum::<usize>();
            all.push(live);
        }
        if self.bytes > KEPT {
            self.kept = None;
        }
        Ok(value)
    }

    fn finish(self) {
        let stream = &mut *self.lane.stream;
        if let Some(kept) = self.kept {
            stream.at = self.to.max(stream.at);
            stream.batches.iter_mut().zip(kept).for_each(|(batch, kept)| batch.kept = Some(kept));
        }
    }
}

impl<'a> Stream<'a> {
    /// Samples before the first node.
    ///
    /// # Errors
    /// When samples cannot be read, or hold a NaN or an infinity.
    pub fn new(graph: &Graph, samples: &'a dyn Samples) -> Result<Self, CalibrationError> {
        let (mut batches, mut known) = (Vec::new(), Vec::<(Shapes, Analysis)>::new());
        for number in 0..samples.batches() {
            let feeds = samples.feeds(number).map_err(CalibrationError::Samples)?;
            super::all_finite(&feeds, number)?;
            let shapes: Shapes = feeds.into_iter().map(|(name, t)| (name, t.shape().to_vec())).collect();
            let place = known.iter().position(|(other, _)| *other == shapes).unwrap_or_else(|| {
                let analysis = analyze(graph, &shapes);
                known.push((shapes, analysis));
                known.len() - 1
            });
            batches.push(Batch { held_out: samples.held_out(number), shapes: place, kept: None });
        }
        if batches.iter().all(|batch| batch.held_out) {
            return Err(CalibrationError::Empty);
        }
        Ok(Self { samples, batches, known, at: 0 })
    }

    /// Batches that are kept aside, or that are not.
    pub fn count(&self, held_out: bool) -> usize {
        self.batches.iter().filter(|batch| batch.held_out == held_out).count()
    }

    /// Of each batch whether it is kept aside, and the number of its set of shapes.
    pub(crate) fn batches(&self) -> impl Iterator<Item = (bool, usize)> + '_ {
        self.batches.iter().map(|batch| (batch.held_out, batch.shapes))
    }

    /// What is known of the graph for each set of shapes.
    pub(crate) fn known(&self) -> impl Iterator<Item = &Analysis> + '_ {
        self.known.iter().map(|(_, analysis)| analysis)
    }

    /// What a batch brings to the nodes from `at` on.
    fn feeds(&self, graph: &Graph, number: usize) -> Result<Vec<(ValueId, Tensor)>, CalibrationError> {
        if let Some(kept) = &self.batches[number].kept {
            return Ok(kept.clone());
        }
        let feeds: Feeds = self.samples.feeds(number).map_err(CalibrationError::Samples)?;
        let of_input = |&id: &ValueId| {
            let name = &graph.value(id).name;
            let tensor = feeds.iter().find(|(other, _)| other == name).map(|(_, tensor)| tensor.clone());
            tensor.map(|tensor| (id, tensor)).ok_or_else(|| CalibrationError::NoInput { name: name.clone() })
        };
        graph.inputs.iter().map(of_input).collect()
    }
}

/// Some nodes of a graph, for one set of shapes.
struct Part {
    executable: Option<Executable>,
    /// What it is fed.
    inputs: Vec<ValueId>,
    /// What it gives.
    outputs: Vec<ValueId>,
    /// Of what it is fed and gives, what later nodes need.
    live: Vec<ValueId>,
}

impl Part {
    fn new(
        graph: &Graph,
        nodes: Range<usize>,
        taps: &[ValueId],
        analysis: &Analysis,
    ) -> Result<Self, CalibrationError> {
        let inputs = live(graph, nodes.start, analysis);
        let live = live(graph, nodes.end, analysis);
        let mut outputs = live.clone();
        outputs.extend(taps.iter().filter(|&id| !live.contains(id) && analysis.constant(*id).is_none()));
        // What passes by is not run.
        let made: Vec<ValueId> = graph.nodes[nodes.clone()]
            .iter()
            .flat_map(|node| node.outputs.iter().flatten().copied())
            .collect();
        let made_outputs: Vec<ValueId> = outputs.iter().copied().filter(|id| made.contains(id)).collect();
        if made_outputs.is_empty() {
            return Ok(Self { executable: None, inputs, outputs, live });
        }
        let part = part(graph, nodes, &made_outputs, analysis);
        let failed = |failure: Failure| CalibrationError::Run { failure };
        let model = Model::from_graph(part).map_err(|error| failed(error.into()))?;
        let options = Options { tune: false, ..Options::default() };
        let executable = model.prepare(options).map_err(|error| failed(error.into()))?;
        Ok(Self { executable: Some(executable), inputs, outputs, live })
    }

    fn run(
        &self,
        graph: &Graph,
        feeds: &[(ValueId, Tensor)],
    ) -> Result<Vec<(ValueId, Tensor)>, CalibrationError> {
        let fed = |id: ValueId| feeds.iter().find(|(other, _)| *other == id).map(|(_, tensor)| tensor);
        let mut results: Vec<(ValueId, Tensor)> =
            self.outputs.iter().filter_map(|&id| Some((id, fed(id)?.clone()))).collect();
        let Some(executable) = &self.executable else { return Ok(results) };
        let mut inputs = Vec::new();
        for &id in &executable.graph().inputs {
            let tensor = self.inputs.contains(&id).then(|| fed(id)).flatten();
            let name = &graph.value(id).name;
            let tensor = tensor.ok_or_else(|| CalibrationError::NoInput { name: name.clone() })?;
            inputs.push((name.as_str(), tensor.view()));
        }
        let outputs =
            executable.run(&inputs).map_err(|error| CalibrationError::Run { failure: error.into() })?;
        let ids = executable.graph().outputs.iter().copied();
        results.extend(ids.zip(outputs.into_iter().map(|(_, tensor)| tensor)));
        Ok(results)
    }
}

/// Some nodes of `graph` as a graph of their own, which gives `outputs`. It has the values of `graph` under the same numbers; what
/// is known of them for these shapes is constant, and what is not is fed.
pub(crate) fn part(graph: &Graph, nodes: Range<usize>, outputs: &[ValueId], analysis: &Analysis) -> Graph {
    let start = nodes.start;
    let mut part = Graph { nodes: graph.nodes[nodes].to_vec(), ..Graph::default() };
    let made: BTreeSet<ValueId> =
        part.nodes.iter().flat_map(|node| node.outputs.iter().flatten().copied()).collect();
    part.outputs = outputs.to_vec();
    let needed = needed(&part, graph.values.len());
    part.nodes.retain(|node| node.outputs.iter().flatten().any(|id| needed[id.index()]));
    let value = |(index, value): (usize, &Value)| {
        let id = ValueId(index as u32);
        let known = analysis.constant(id);
        match known.filter(|_| needed[index] && value.weight.is_none() && !made.contains(&id)) {
            Some(known) => {
                let weight = Some(known.clone().into());
                Value { weight, name: value.name.clone(), ..Value::default() }
            }
            None => {
                let weight = value.weight.clone().filter(|_| needed[index]);
                Value { weight, shape: None, ..value.clone() }
            }
        }
    };
    part.values = graph.values.iter().enumerate().map(value).collect();
    part.inputs = live(graph, start, analysis).into_iter().filter(|id| needed[id.index()]).collect();
    for id in part.inputs.clone() {
        part.value_mut(id).dtype = analysis.infos[id.index()].as_ref().map(|info| info.dtype);
    }
    part
}

/// Values that nodes from `at` on, or the caller, need of what comes before, and that are not constants.
fn live(graph: &Graph, at: usize, analysis: &Analysis) -> Vec<ValueId> {
    let mut made = vec![false; graph.values.len()];
    graph.inputs.iter().for_each(|id| made[id.index()] = true);
    graph.nodes[..at]
        .iter()
        .flat_map(|node| node.outputs.iter().flatten())
        .for_each(|id| made[id.index()] = true);
    let used = graph.nodes[at..].iter().flat_map(|node| node.inputs.iter().flatten()).chain(&graph.outputs);
    let mut live = BTreeSet::new();
    for &id in used.filter(|id| made[id.index()] && analysis.constant(**id).is_none()) {
        live.insert(id);
    }
    live.into_iter().collect()
}

/// By value: whether the outputs need it.
fn needed(part: &Graph, values: usize) -> Vec<bool> {
    let mut needed = vec![false; values];
    part.outputs.iter().for_each(|id| needed[id.index()] = true);
    for node in part.nodes.iter().rev() {
        if node.outputs.iter().flatten().any(|id| needed[id.index()]) {
            node.inputs.iter().flatten().for_each(|id| needed[id.index()] = true);
        }
    }
    needed
}
