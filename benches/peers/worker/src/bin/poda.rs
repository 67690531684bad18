//! Poda, as a program that embeds it would run a model.

use poda::{Executable, Model, Options, Tensor, TensorView};
use poda_peers::{Elements, Loaded, Output};

struct Ready {
    executable: Executable,
    inputs: Vec<(String, Tensor)>,
}

impl Ready {
    fn feeds(&self) -> Vec<(&str, TensorView<'_>)> {
        self.inputs.iter().map(|(name, tensor)| (name.as_str(), tensor.view())).collect()
    }
}

impl Loaded for Ready {
    fn run(&self) -> anyhow::Result<()> {
        self.executable.run(&self.feeds())?;
        Ok(())
    }

    fn output(&self) -> anyhow::Result<Output> {
        let outputs = self.executable.run(&self.feeds())?;
        let first = &outputs[0].1;
        Ok((first.shape().to_vec(), first.as_slice::<f32>()?.to_vec()))
    }
}

fn main() -> anyhow::Result<()> {
    poda_peers::serve("poda", |model, inputs, threads| {
        let inputs = inputs.into_iter().map(|(name, array)| {
            let tensor = match &array.elements {
                Elements::F32(values) => Tensor::from_slice(&array.shape, values),
                Elements::I64(values) => Tensor::from_slice(&array.shape, values),
            };
            (name, tensor)
        });
        let inputs = inputs.collect();
        let executable =
            Model::open(model)?.prepare(Options { threads: Some(threads), ..Options::default() })?;
        Ok(Ready { executable, inputs })
    })
}
