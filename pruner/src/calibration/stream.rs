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

/// Bytes of values that may be kept between parts.
const KEPT: usize = 512 << 20;

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

/// One value of a batch.
pub struct Shown<'a> {
    /// Which of the values asked for.
    pub tap: usize,
    /// Whether the batch is kept aside.
    pub held_out: bool,
    /// The value.
    pub tensor: TensorView<'a>,
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

    /// Runs the nodes before `to` of `graph`, which has the nodes of the first one and perhaps other weights, and shows
    /// `taps` of each batch. What ran already is not run again where its values were kept; what runs now is kept, for the next
    /// time, if `keep` says that its weights will not change any more.
    ///
    /// # Errors
    /// When a part does not run.
    pub fn run(
        &mut self,
        graph: &Graph,
        to: usize,
        taps: &[ValueId],
        keep: bool,
        show: &mut dyn FnMut(Shown<'_>) -> Result<(), CalibrationError>,
    ) -> Result<(), CalibrationError> {
        let from = self.at.min(to);
        let mut parts: HashMap<usize, Part> = HashMap::new();
        let (mut kept, mut bytes) = (keep.then(Vec::new), 0);
        for number in 0..self.batches.len() {
            let batch = &self.batches[number];
            let part = match parts.entry(batch.shapes) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    new.insert(Part::new(graph, from..to, taps, &self.known[batch.shapes].1)?)
                }
            };
            let outputs = part.run(graph, &self.feeds(graph, number)?)?;
            for (tap, id) in taps.iter().enumerate() {
                let constant = || self.known[batch.shapes].1.constant(*id);
                let value = outputs.iter().find(|(other, _)| other == id).map(|(_, tensor)| tensor);
                let Some(tensor) = value.or_else(constant) else {
                    return Err(CalibrationError::NoValue { name: graph.value(*id).name.clone() });
                };
                show(Shown { tap, held_out: batch.held_out, tensor: tensor.view() })?;
            }
            if let Some(all) = &mut kept {
                let live: Vec<(ValueId, Tensor)> =
                    outputs.into_iter().filter(|(id, _)| part.live.contains(id)).collect();
                bytes += live.iter().map(|(_, tensor)| tensor.bytes().len()).sum::<usize>();
                all.push(live);
            }
            if bytes > KEPT {
                kept = None;
            }
        }
        if let Some(kept) = kept {
            self.at = to.max(self.at);
            self.batches.iter_mut().zip(kept).for_each(|(batch, kept)| batch.kept = Some(kept));
        }
        Ok(())
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
        let mut part = Graph { nodes: graph.nodes[nodes].to_vec(), ..Graph::default() };
        part.outputs = made_outputs;
        let needed = needed(&part, graph.values.len());
        part.values = graph
            .values
            .iter()
            .enumerate()
            .map(|(index, value)| {
                let id = ValueId(index as u32);
                let known = analysis
                    .constant(id)
                    .filter(|_| needed[index] && value.weight.is_none() && !made.contains(&id));
                match known {
                    Some(known) => Value {
                        weight: Some(known.clone().into()),
                        name: value.name.clone(),
                        ..Value::default()
                    },
                    None => Value {
                        weight: value.weight.clone().filter(|_| needed[index]),
                        shape: None,
                        ..value.clone()
                    },
                }
            })
            .collect();
        part.inputs = inputs.iter().copied().filter(|id| needed[id.index()]).collect();
        for id in part.inputs.clone() {
            part.value_mut(id).dtype = analysis.infos[id.index()].as_ref().map(|info| info.dtype);
        }
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
