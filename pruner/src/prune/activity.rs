//! What units are worth on samples, where layers read them.

use poda_formats::{Graph, ValueId};
use poda_runtime::{Model, Options, RunOptions};

use super::PruneError;
use crate::calibration::{CalibrationError, Samples, each_example};
use crate::check::Failure;
use crate::criterion::{Activity, float_values};
use crate::dependency::{DependencyGraph, Facts, UnitId};

/// Runs the examples that are not kept aside and gives what was seen of each unit; with the classes of the examples, where they
/// are for a criterion of this name.
pub(super) fn observe(
    graph: &Graph,
    dependencies: &DependencyGraph,
    facts: Facts<'_>,
    samples: &dyn Samples,
    by_class: Option<&'static str>,
) -> Result<(Vec<Seen>, Option<Vec<i64>>), PruneError> {
    let places = places(graph, dependencies, facts);
    let taps: Vec<ValueId> = places.iter().map(|place| place.value).collect();
    let failed = |failure: Failure| CalibrationError::Run { failure };
    let options = Options { tune: false, ..Options::default() };
    let model = Model::from_graph(graph.clone())?;
    let executable = model.prepare(options).map_err(|error| failed(error.into()))?;
    let mut seen: Vec<Seen> = vec![Seen::default(); dependencies.unit_count()];
    let mut classes = by_class.map(|_| Vec::new());
    each_example(samples, 1, &mut |_, example| {
        if let (Some(classes), Some(criterion)) = (&mut classes, by_class) {
            let label = example.labels.as_ref().and_then(|labels| labels.as_slice::<i64>().ok()?.first());
            classes.push(*label.ok_or(PruneError::NoLabels { criterion })?);
        }
        let feeds: Vec<_> = example.feeds.iter().map(|(name, t)| (name.as_str(), t.view())).collect();
        let options = RunOptions { extra: &taps, ..RunOptions::default() };
        let outputs = executable.run_with(&feeds, &options).map_err(|error| failed(error.into()))?;
        let own = outputs.len() - taps.len();
        for (place, (_, tensor)) in places.iter().zip(&outputs[own..]) {
            let Some(values) = float_values(tensor) else { continue };
            place.add(&values, tensor.shape(), &mut seen);
        }
        seen.iter_mut().for_each(Seen::end_of_example);
        Ok::<_, PruneError>(())
    })?;
    Ok((seen, classes))
}

/// A dimension of a value that holds units.
struct Place {
    value: ValueId,
    dim: usize,
    /// Units by index along it.
    units: Vec<Vec<UnitId>>,
}

/// Where weights of products read units; of units that none reads, where they are summed.
fn places(graph: &Graph, dependencies: &DependencyGraph, facts: Facts<'_>) -> Vec<Place> {
    let mut known = vec![false; dependencies.unit_count()];
    let mut places: Vec<Place> = Vec::new();
    for by_weights in [true, false] {
        let mut found = Vec::new();
        for contraction in dependencies.contractions() {
            let constant = |(id, _): &(ValueId, usize)| facts.constant(*id).is_some();
            if contraction.operands.iter().any(constant) != by_weights {
                continue;
            }
            for (id, dim) in crate::mask::summed(facts, contraction) {
                let Some(layout) = dependencies.layout(id) else { continue };
                let axis = layout.axes[dim];
                let old = places.iter().chain(&found).any(|place| (place.value, place.dim) == (id, dim));
                if old || !dependencies.can_shrink(axis) || graph.weight(id).is_some() {
                    continue;
                }
                let mut units = vec![Vec::new(); dependencies.size(axis)];
                dependencies.for_each_unit(axis, &mut |index, unit| {
                    if !known[unit] {
                        units[index].push(unit);
                    }
                });
                found.push(Place { value: id, dim, units });
            }
        }
        found.iter().flat_map(|place| place.units.iter().flatten()).for_each(|&unit| known[unit] = true);
        places.extend(found);
    }
    places
}

impl Place {
    fn add(&self, values: &[f32], shape: &[usize], seen: &mut [Seen]) {
        let inner: usize = shape[self.dim + 1..].iter().product();
        if inner == 0 {
            return;
        }
        for (row, values) in values.chunks_exact(inner).enumerate() {
            let units = &self.units[row % shape[self.dim]];
            if units.is_empty() {
                continue;
            }
            let mut of = Sums { count: inner as f64, ..Sums::default() };
            for &v in values {
                of.sum += f64::from(v);
                of.size += f64::from(v.abs());
                of.square += f64::from(v).powi(2);
                of.zeros += f64::from(u8::from(v == 0.0));
            }
            units.iter().for_each(|&unit| seen[unit].now.add(of));
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    count: f64,
    sum: f64,
    size: f64,
    square: f64,
    zeros: f64,
}

impl Sums {
    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.sum += other.sum;
        self.size += other.size;
        self.square += other.square;
        self.zeros += other.zeros;
    }
}

/// What was seen of a unit.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    all: Sums,
    now: Sums,
    means: Vec<f32>,
}

impl Seen {
    fn end_of_example(&mut self) {
        let now = std::mem::take(&mut self.now);
        self.means.push((now.sum / now.count.max(1.0)) as f32);
        self.all.add(now);
    }

    pub(super) fn activity<'a>(&'a self, classes: Option<&'a [i64]>) -> Option<Activity<'a>> {
        let Sums { count, sum, size, square, zeros } = self.all;
        let mean = sum / count;
        (count > 0.0).then(|| Activity {
            size: size / count,
            deviation: (square / count - mean * mean).max(0.0).sqrt(),
            zeros: zeros / count,
            means: &self.means,
            classes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibration::testing::{LABELS, Labelled, ROWS, hidden, perceptron};
    use crate::criterion::{self, OfUnits};
    use crate::settings::{Settings, Shapes};

    #[test]
    fn statistics_of_activations_are_as_defined() {
        let graph = perceptron();
        let settings = Settings::find(&graph, &Shapes::new());
        let dependencies = DependencyGraph::new(&graph, settings.facts());
        let (seen, classes) =
            observe(&graph, &dependencies, settings.facts(), &Labelled(true), Some("mutual-information"))
                .unwrap();
        assert_eq!(classes.as_deref(), Some(&LABELS[..]));
        let count = ROWS.len() as f64;
        for (unit, seen) in seen.iter().enumerate() {
            let values: Vec<f64> = ROWS.iter().map(|x| hidden(x)[unit]).collect();
            let mean = values.iter().sum::<f64>() / count;
            let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count).sqrt();
            let nonzero = values.iter().filter(|&&v| v != 0.0).count() as f64 / count;
            let activity = seen.activity(classes.as_deref()).unwrap();
            for (name, expected) in [("mean-activation", mean), ("deviation", deviation), ("apoz", nonzero)] {
                let of_units = criterion::find(name).unwrap().of_units();
                let Some(OfUnits::Activations { labels: false, score }) = of_units else { panic!("{name}") };
                let found = score(&activity);
                assert!((found - expected).abs() < 1e-5, "{name}, unit {unit}: {found} {expected}");
            }
            assert_eq!(activity.means.len(), ROWS.len());
        }
        let error =
            observe(&graph, &dependencies, settings.facts(), &Labelled(false), Some("mutual-information"));
        assert!(error.unwrap_err().to_string().contains("needs labels"));
    }
}
