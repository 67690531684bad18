//! Statistics of batch normalisation, estimated again: those of a pruned or trained network are not those that it was given.
//! Means over batches; a variance is the mean of those within batches and what lies between their means.

use poda_formats::{Graph, Tensor, ValueId};

use super::step::{Forward, batch_norms};
use super::{Data, FineTuneError};

/// Samples that are enough.
const ENOUGH: usize = 1024;

/// Sets mean and variance of each batch normalisation of `graph` from samples, in batches of `size`.
///
/// # Errors
/// When samples do not fit, or a run fails.
pub(super) fn reestimate(
    graph: &mut Graph,
    data: &dyn Data,
    size: usize,
    threads: Option<usize>,
) -> Result<(), FineTuneError> {
    if batch_norms(graph).is_empty() {
        return Ok(());
    }
    let forward = Forward::new(graph, threads)?;
    let mut sums: Vec<Vec<f64>> = Vec::new();
    let (mut squares, mut batches): (Vec<Vec<f64>>, f64) = (Vec::new(), 0.0);
    let samples: Vec<usize> = (0..data.len().min(ENOUGH.max(size))).collect();
    for samples in samples.chunks_exact(size) {
        let batch = data.batch(samples).map_err(FineTuneError::Data)?;
        let found = forward.run(&batch.feeds)?;
        sums.resize_with(found.len(), Vec::new);
        squares.resize_with(found.len(), Vec::new);
        for ((tensor, sum), square) in found.iter().zip(&mut sums).zip(&mut squares) {
            let values = tensor.as_slice::<f32>().map_err(poda_runtime::RunError::from)?;
            sum.resize(values.len(), 0.0);
            square.resize(values.len(), 0.0);
            for ((sum, square), &value) in sum.iter_mut().zip(square).zip(values) {
                *sum += f64::from(value);
                *square += f64::from(value) * f64::from(value);
            }
        }
        batches += 1.0;
    }
    let pooled: Vec<Tensor> = (0..sums.len())
        .map(|i| {
            let mean = |values: &[f64], at: usize| values[at] / batches;
            let value = |at: usize| {
                let within = mean(&sums[i], at);
                if i % 2 == 0 {
                    return within as f32;
                }
                // Means come before their variances.
                let between = mean(&squares[i - 1], at) - mean(&sums[i - 1], at).powi(2);
                (within + between.max(0.0)) as f32
            };
            let values: Vec<f32> = (0..sums[i].len()).map(value).collect();
            Tensor::from_slice(&[values.len()], &values)
        })
        .collect();
    set(graph, &pooled);
    Ok(())
}

/// Sets means and variances, in the order of the nodes. What several nodes share becomes each one's own.
pub(super) fn set(graph: &mut Graph, statistics: &[Tensor]) {
    let places: Vec<(usize, usize)> =
        batch_norms(graph).into_iter().flat_map(|node| [(node, 3), (node, 4)]).collect();
    let mut taken: Vec<ValueId> = Vec::new();
    for ((node, input), tensor) in places.into_iter().zip(statistics) {
        let Some(mut id) = graph.nodes[node].input(input) else { continue };
        if taken.contains(&id) {
            let name = graph.unique_name(&graph.value(id).name.clone());
            id = graph.add_weight(name, tensor.clone());
            graph.nodes[node].inputs[input] = Some(id);
        }
        taken.push(id);
        graph.value_mut(id).weight = Some(tensor.clone().into());
    }
}
