//! rten, with prepacked weights.

use std::sync::Arc;

use anyhow::Context;
use poda_peers::{Elements, Loaded, Output};
use rten::{Model, ModelOptions, NodeId, RunOptions, ThreadPool, Value, ValueOrView};
use rten_tensor::{AsView, Layout};

struct Ready {
    model: Model,
    inputs: Vec<(NodeId, Value)>,
    output: NodeId,
    options: RunOptions,
}

impl Ready {
    fn outputs(&self) -> anyhow::Result<Vec<Value>> {
        let inputs = self.inputs.iter().map(|(id, value)| (*id, ValueOrView::from(value))).collect();
        Ok(self.model.run(inputs, &[self.output], Some(self.options.clone()))?)
    }
}

impl Loaded for Ready {
    fn run(&self) -> anyhow::Result<()> {
        self.outputs().map(drop)
    }

    fn output(&self) -> anyhow::Result<Output> {
        match self.outputs()?.swap_remove(0) {
            Value::FloatTensor(tensor) => Ok((tensor.shape().to_vec(), tensor.to_vec())),
            other => anyhow::bail!("the output is {other:?}, not f32"),
        }
    }
}

fn main() -> anyhow::Result<()> {
    poda_peers::serve("rten", |path, inputs, threads| {
        let model = ModelOptions::with_all_ops().prepack_weights(true).load_file(path)?;
        let inputs = inputs.into_iter().map(|(name, array)| {
            let value = match array.elements {
                Elements::F32(values) => Value::from_shape(&array.shape, values)?,
                // rten's integers have 32 bits.
                Elements::I64(values) => {
                    let values = values.into_iter().map(i32::try_from).collect::<Result<Vec<_>, _>>()?;
                    Value::from_shape(&array.shape, values)?
                }
            };
            Ok((model.node_id(&name)?, value))
        });
        let inputs = inputs.collect::<anyhow::Result<_>>()?;
        let output = *model.output_ids().first().context("the model has no output")?;
        let pool = ThreadPool::with_num_threads(threads);
        let options = RunOptions::default().with_thread_pool(Some(Arc::new(pool)));
        Ok(Ready { model, inputs, output, options })
    })
}
