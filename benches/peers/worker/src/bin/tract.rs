//! tract, with its multi-threaded matrix products.

use std::sync::Arc;

use anyhow::Context;
use poda_peers::{Elements, Loaded, Output};
use tract_linalg::multithread::Executor;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::runtime::RunOptions;

struct Ready {
    plan: Arc<TypedRunnableModel>,
    inputs: TVec<TValue>,
}

impl Loaded for Ready {
    fn run(&self) -> anyhow::Result<()> {
        self.plan.run(self.inputs.clone())?;
        Ok(())
    }

    fn output(&self) -> anyhow::Result<Output> {
        let outputs = self.plan.run(self.inputs.clone())?;
        let first = outputs[0].to_plain_array_view::<f32>()?;
        Ok((first.shape().to_vec(), first.iter().copied().collect()))
    }
}

fn main() -> anyhow::Result<()> {
    poda_peers::serve("tract-onnx", |path, mut arrays, threads| {
        let mut model = tract_onnx::onnx().model_for_path(path)?;
        let mut inputs = TVec::new();
        for (index, outlet) in model.input_outlets()?.to_vec().into_iter().enumerate() {
            let name = &model.node(outlet.node).name;
            let array = arrays.remove(name).with_context(|| format!("input {name} is not given"))?;
            let tensor = match &array.elements {
                Elements::F32(values) => Tensor::from_shape(&array.shape, values)?,
                Elements::I64(values) => Tensor::from_shape(&array.shape, values)?,
            };
            model.set_input_fact(index, InferenceFact::dt_shape(tensor.datum_type(), &array.shape))?;
            inputs.push(tensor.into_tvalue());
        }
        let options = RunOptions { executor: Some(Executor::multithread(threads)), ..RunOptions::default() };
        let plan = model.into_optimized()?.into_runnable_with_options(&options)?;
        Ok(Ready { plan, inputs })
    })
}
