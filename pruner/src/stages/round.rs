//! Going back to the weights of the start.

use poda_formats::{DataType, Graph, Tensor};

use super::StagesError;
use crate::finetune;

/// `graph` with its trainable weights as in `start`, zeros of matrices aside, which stay.
pub(super) fn rewound(graph: &Graph, start: &Graph) -> Result<Graph, StagesError> {
    let mut rewound = graph.clone();
    for id in finetune::candidates(graph, &[]) {
        let name = || graph.value(id).name.clone();
        let dense = |graph: &Graph, id| graph.weight(id).and_then(|weight| weight.to_dense().ok());
        let Some(now) = dense(graph, id) else { continue };
        let first = start.find(&name()).and_then(|id| dense(start, id));
        let first = first.ok_or_else(|| StagesError::NotAtStart { weight: name() })?;
        if first.shape() != now.shape() || first.dtype() != DataType::F32 {
            let (found, start) = (now.shape().to_vec(), first.shape().to_vec());
            return Err(StagesError::Rewind { weight: name(), found, start });
        }
        let (Ok(values), Ok(first)) = (now.as_slice::<f32>(), first.as_slice::<f32>()) else { continue };
        let masked = now.rank() > 1;
        let both = values.iter().zip(first);
        let back: Vec<f32> = both.map(|(&v, &first)| if masked && v == 0.0 { 0.0 } else { first }).collect();
        rewound.value_mut(id).weight = Some(Tensor::from_slice(now.shape(), &back).into());
    }
    Ok(rewound)
}
