//! What a pruning did: per layer shapes, elements that are not zero, MACs and bytes, before and after.

pub mod histogram;
pub(crate) mod silent;

use std::collections::{BTreeMap, HashMap};

use poda_formats::{Graph, RoundedWeight, ValueId, Weight};
use poda_runtime::Analysis;
use serde::{Deserialize, Serialize};

use crate::check::Difference;
use crate::dependency::{DependencyGraph, Removal};
use crate::goal::Tried;
use crate::masks::Kept;
use crate::recipe::Granularity;
use crate::stages::Round;
use crate::termination::{Answer, Measured};
use crate::unstructured::weight_behind;
pub use histogram::Histogram;

/// Everything there is to say about a pruning. Serializes to JSON.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What was removed at a time.
    pub granularity: Granularity,
    /// The whole model before.
    pub before: Totals,
    /// The whole model after.
    pub after: Totals,
    /// Every matrix that a product uses, in order of use.
    pub layers: Vec<Layer>,
    /// Groups of units that could go, and how many went.
    pub groups: Vec<Group>,
    /// Groups that must stay whole, and why.
    pub refused: Vec<Refused>,
    /// Whether dead units were looked for.
    #[serde(default)]
    pub looked_for_dead: bool,
    /// Dead units that were removed first, by layer.
    pub dead: Vec<Dead>,
    /// Weights whose values were stored narrower than f32 in the end, and how far they are from it.
    #[serde(default)]
    pub rounded: Vec<RoundedWeight>,
    /// What was fitted to calibration data, layer by layer.
    #[serde(default)]
    pub fits: Vec<Fit>,
    /// Submodules that were then trained to give their dense outputs.
    #[serde(default)]
    pub submodules: Vec<Reconstructed>,
    /// The pruned model's outputs beside the dense one's, on calibration data, once somebody has run both.
    #[serde(default)]
    pub likeness: Option<Likeness>,
    /// Pruned against masked model; `None` when it was not asked for or the model does not run.
    pub check: Option<Difference>,
    /// Ways that were tried for a goal.
    #[serde(default)]
    pub goal: Option<Tried>,
    /// How much goes, where that was to be found: what was tried, and why it ended.
    #[serde(default)]
    pub search: Option<Search>,
    /// How the sizes of weights, or the scores of units, were spread.
    #[serde(default)]
    pub histograms: Vec<Histogram>,
    /// What stays of weights that lost units, by the indices that they had.
    #[serde(default)]
    pub kept: Vec<Kept>,
    /// Rounds of the recipe's stages, where it has any.
    #[serde(default)]
    pub rounds: Vec<Round>,
    /// Bytes of the file before and after, once there is one.
    #[serde(default)]
    pub file: Option<FileBytes>,
    /// What the caller should tell the user: targets missed, checks not made.
    pub notes: Vec<String>,
}

/// Candidates that were measured on the way to a target.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Search {
    /// What was measured of the dense model.
    pub dense: Measured,
    /// What was tried, in that order.
    pub trials: Vec<Trial>,
    /// The trial that was taken; `None` where the model was left as it is.
    pub taken: Option<usize>,
    /// Why it ended there.
    pub stopped: String,
}

/// A candidate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Share removed, in the terms of the recipe's `sparsity`.
    pub sparsity: f64,
    /// What was measured, and what followed.
    #[serde(flatten)]
    pub answer: Answer,
}

/// Bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct FileBytes {
    pub before: u64,
    pub after: u64,
}

/// Sums over a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Elements of weights, in bodies of control flow too; see [`Graph::parameters`].
    pub parameters: u64,
    /// Of these, in tables whose rows are looked up.
    pub embeddings: u64,
    /// Of the parameters, those that are not zero.
    pub nnz: u64,
    /// Multiply-accumulates of one run under the shapes that were analysed.
    pub macs: u64,
    /// Of these, those with a weight that is not zero.
    pub nonzero_macs: u64,
    /// Bytes of all weights as stored.
    pub bytes: u64,
}

/// A matrix before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Layer {
    pub weight: String,
    /// The first operator that uses it.
    pub op: String,
    pub shape_before: Vec<usize>,
    pub shape_after: Vec<usize>,
    pub nnz_before: u64,
    pub nnz_after: u64,
    pub macs_before: u64,
    pub macs_after: u64,
    pub bytes_before: u64,
    pub bytes_after: u64,
}

/// How alike the outputs of two models are, sample by sample.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Likeness {
    /// Samples compared.
    pub samples: usize,
    /// Whether these were kept aside when weights were fitted.
    pub held_out: bool,
    /// Mean cosine of the angle between the outputs of a sample.
    pub mean: f64,
    /// The least.
    pub worst: f64,
}

/// How a layer was fitted to calibration data. Errors are those of its outputs, squared, as a share of the dense ones'
/// squared, on the samples that were kept aside; of too few samples to keep any aside, on those that it was fitted to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Fit {
    pub weight: String,
    pub criterion: String,
    pub updates: Vec<String>,
    /// Rows that it was fitted to, and those kept aside.
    pub rows: u64,
    pub held_out_rows: u64,
    /// Inputs of each output.
    pub inputs: u64,
    /// Once weights had gone, and once those that stay had changed.
    pub error_before: Option<f64>,
    pub error_after: Option<f64>,
}

/// How a submodule was trained to give the dense model's outputs. Errors are mean squared differences as a share of the mean square, on
/// the samples that were kept aside; of too few samples to keep any aside, on those that it was trained on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Reconstructed {
    /// Values that it gives.
    pub outputs: Vec<String>,
    /// Weights that were trained.
    pub weights: usize,
    /// Once its layers had been fitted, each by itself.
    pub error_before: Option<f64>,
    /// Once it had been trained.
    pub error_after: Option<f64>,
    /// Why it was left as it was, where it was.
    pub left: Option<String>,
}

/// A group of units that could go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Group {
    pub name: String,
    pub units: usize,
    pub removed: usize,
    /// Weights that have the units.
    pub weights: Vec<String>,
}

/// A group of units that must stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Refused {
    pub name: String,
    pub units: usize,
    pub reason: String,
}

/// Dead units of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Dead {
    pub name: String,
    pub units: usize,
    pub dead: usize,
}

/// Sums over `graph`, which was analysed under concrete shapes.
pub fn totals(graph: &Graph, analysis: &Analysis) -> Totals {
    let mut totals = of_weights(graph);
    for node in 0..graph.nodes.len() {
        let macs = analysis.macs(graph, node).unwrap_or_default();
        totals.macs += macs.dense;
        totals.nonzero_macs += macs.nonzero;
    }
    totals
}

/// What weights come to, without multiply-accumulates.
pub(crate) fn of_weights(graph: &Graph) -> Totals {
    let parameters = graph.parameters();
    Totals {
        parameters: parameters.count,
        embeddings: parameters.embeddings,
        nnz: parameters.nonzero,
        bytes: weight_bytes(graph),
        ..Totals::default()
    }
}

/// Bytes of all weights as stored.
fn weight_bytes(graph: &Graph) -> u64 {
    let values = graph.with_bodies().into_iter().flat_map(|graph| &graph.values);
    values.filter_map(|value| value.weight.as_ref()).map(|weight| weight.bytes() as u64).sum()
}

/// Rows for every matrix of a product, in order of first use. Weights keep their names, by which they are matched.
pub fn layers(before: &Graph, was: &Analysis, after: &Graph, is: &Analysis) -> Vec<Layer> {
    let new = rows(after, is);
    let mut layers = Vec::new();
    for (name, old) in ordered(rows(before, was)) {
        let gone = Row { op: old.op.clone(), ..Row::default() };
        let new = new.get(&name).unwrap_or(&gone);
        layers.push(Layer {
            op: old.op,
            shape_before: old.shape,
            shape_after: new.shape.clone(),
            nnz_before: old.nnz,
            nnz_after: new.nnz,
            macs_before: old.macs,
            macs_after: new.macs,
            bytes_before: old.bytes,
            bytes_after: new.bytes,
            weight: name,
        });
    }
    layers
}

#[derive(Default)]
struct Row {
    first: usize,
    op: String,
    shape: Vec<usize>,
    nnz: u64,
    macs: u64,
    bytes: u64,
}

fn rows(graph: &Graph, analysis: &Analysis) -> HashMap<String, Row> {
    let mut rows: HashMap<String, Row> = HashMap::new();
    let producers = graph.producers();
    for (index, node) in graph.nodes.iter().enumerate() {
        let macs = analysis.macs(graph, index).unwrap_or_default().nonzero;
        let shapes: Vec<_> = node.inputs.iter().map(|id| analysis.shape((*id)?)).collect();
        for product in node.op.products(&shapes, None) {
            let source = node.input(product.input).and_then(|id| weight_behind(graph, &producers, id));
            let Some((name, weight)) = source.and_then(|id| matrix(graph, id)) else { continue };
            let row = rows.entry(name.to_owned()).or_insert_with(|| Row {
                first: index,
                op: node.op.name().to_owned(),
                shape: weight.shape().to_vec(),
                nnz: weight.nnz() as u64,
                macs: 0,
                bytes: weight.bytes() as u64,
            });
            row.macs += macs;
        }
    }
    rows
}

fn matrix(graph: &Graph, id: ValueId) -> Option<(&str, &Weight)> {
    let value = graph.value(id);
    let weight = value.weight.as_ref()?;
    (weight.shape().len() > 1 && weight.dtype().is_float()).then_some((value.name.as_str(), weight))
}

fn ordered(rows: HashMap<String, Row>) -> Vec<(String, Row)> {
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort_by(|a, b| (a.1.first, &a.0).cmp(&(b.1.first, &b.0)));
    rows
}

/// The groups of `dependencies`, with how many units of each are in `removal`.
pub fn groups(graph: &Graph, dependencies: &DependencyGraph, removal: &Removal) -> Vec<Group> {
    let group = |group: &crate::dependency::ChannelGroup| {
        let mut weights: Vec<String> =
            group.members.iter().map(|m| graph.value(m.weight).name.clone()).collect();
        weights.dedup();
        Group {
            name: group.name.clone(),
            units: group.units.len() + group.fixed,
            removed: group.units.iter().filter(|&&unit| removal.contains(unit)).count(),
            weights,
        }
    };
    dependencies.groups().iter().map(group).collect()
}

/// The refused groups of `dependencies`, in words.
pub fn refused(graph: &Graph, dependencies: &DependencyGraph) -> Vec<Refused> {
    let refused = dependencies.refused().iter().map(|group| Refused {
        name: group.name.clone(),
        units: group.units,
        reason: group.reason.describe(graph),
    });
    refused.collect()
}

/// Rows for each input of a layer below which weights that were fitted to them do much worse on others: held-out error after a
/// fit to 1, 4, 16 and 64 rows for each input was .70, .06, .004 and .002 of that before.
const FEW_ROWS: f64 = 16.0;

/// What to say of layers that were fitted to too few rows.
pub(crate) fn few_rows(fits: &[Fit]) -> Option<String> {
    let few: Vec<&Fit> =
        fits.iter().filter(|fit| !fit.updates.is_empty() && fit.rows_per_input() < FEW_ROWS).collect();
    let worst = few.iter().min_by(|a, b| a.rows_per_input().total_cmp(&b.rows_per_input()))?;
    Some(format!(
        "{} of {} layers were fitted to fewer than {FEW_ROWS} rows for each input, and may do worse on other data; the worst, {}, to \
         {} rows of {} inputs: {:.0} times as many samples would do",
        few.len(),
        fits.len(),
        worst.weight,
        worst.rows,
        worst.inputs,
        (FEW_ROWS / worst.rows_per_input().max(1e-9)).ceil(),
    ))
}

impl Fit {
    /// Fitted rows for each input.
    pub fn rows_per_input(&self) -> f64 {
        self.rows as f64 / self.inputs.max(1) as f64
    }
}

impl Report {
    /// Layers in which no weight is left: what comes after them no longer depends on what comes before.
    pub fn emptied(&self) -> impl Iterator<Item = &Layer> {
        self.layers.iter().filter(|l| l.nnz_after == 0 && l.nnz_before > 0)
    }

    /// Takes the sums over weights, and their bytes, from the model as it was given and as it is now.
    pub(crate) fn count_weights(&mut self, before: &Graph, after: &Graph) {
        for (totals, graph) in [(&mut self.before, before), (&mut self.after, after)] {
            *totals = Totals { macs: totals.macs, nonzero_macs: totals.nonzero_macs, ..of_weights(graph) };
        }
        let bytes = |name: &str| Some(before.weight(before.find(name)?)?.bytes() as u64);
        for layer in &mut self.layers {
            layer.bytes_before = bytes(&layer.weight).unwrap_or(layer.bytes_before);
        }
        self.count_bytes(after);
    }

    /// Takes the bytes of weights from `graph`, the result as it is stored.
    pub fn count_bytes(&mut self, graph: &Graph) {
        self.after.bytes = weight_bytes(graph);
        for layer in &mut self.layers {
            let weight = graph.find(&layer.weight).and_then(|id| graph.weight(id));
            layer.bytes_after = weight.map_or(0, |weight| weight.bytes() as u64);
        }
    }

    /// Header and rows of a table for people: one row for each layer that changed, and the total.
    pub fn table(&self) -> (Vec<&'static str>, Vec<Vec<String>>) {
        let header = vec!["layer", "op", "shape", "pruned", "nnz", "MACs", "bytes"];
        let dims = |shape: &[usize]| {
            if shape.is_empty() {
                return "gone".to_owned();
            }
            shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("×")
        };
        let change = |before: u64, after: u64| format!("{before} → {after}");
        let mut rows: Vec<Vec<String>> = self
            .layers
            .iter()
            .filter(|l| l.nnz_before != l.nnz_after || l.shape_before != l.shape_after)
            .map(|l| {
                vec![
                    l.weight.clone(),
                    l.op.clone(),
                    dims(&l.shape_before),
                    dims(&l.shape_after),
                    change(l.nnz_before, l.nnz_after),
                    change(l.macs_before, l.macs_after),
                    change(l.bytes_before, l.bytes_after),
                ]
            })
            .collect();
        let (b, a) = (&self.before, &self.after);
        rows.push(vec![
            "total".to_owned(),
            String::new(),
            b.parameters.to_string(),
            a.parameters.to_string(),
            change(b.nnz, a.nnz),
            change(b.nonzero_macs, a.nonzero_macs),
            change(b.bytes, a.bytes),
        ]);
        (header, rows)
    }

    /// Share of parameters that have gone (or become zero), embedding tables aside.
    pub fn removed(&self) -> f64 {
        let rest = |t: &Totals| (t.nnz as f64 - t.embeddings as f64).max(0.0);
        if rest(&self.before) > 0.0 { 1.0 - rest(&self.after) / rest(&self.before) } else { 0.0 }
    }

    /// Names of refused groups by reason.
    pub fn refused_by_reason(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for refused in &self.refused {
            by_reason.entry(&refused.reason).or_default().push(&refused.name);
        }
        by_reason
    }
}
