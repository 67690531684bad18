//! A stream with state: what a run gives as its new state is fed to the next one.
//!
//!     cargo run --release --example stream -- MODEL SAMPLES.npy [CHUNK]
//!
//! `SAMPLES.npy` is f32 sound, `[samples]`, taken CHUNK samples (512) at a time as `[1, CHUNK]`. The model has one further
//! input for each state, of floats, which begins with zeros and comes back as the output at the same place after the first,
//! as in Silero's detector of speech (`input`, `state`; `output`, `stateN`) and in denoisers of that kind. Whole
//! numbers among the inputs, such as a sampling rate, are fed 16000.

use std::error::Error;

use poda::shapes::{NamedShape, Sizes};
use poda::{DataType, Model, Options, Tensor, TensorView, arrays};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, samples, chunk @ ..] = &args[..] else { return Err("MODEL SAMPLES.npy [CHUNK]".into()) };
    let chunk: usize = chunk.first().map_or(Ok(512), |text| text.parse())?;
    let sound = arrays::read(samples)?.pop_first().ok_or("no array")?.1;

    let model = Model::open(model)?;
    let executable = model.prepare(Options { threads: Some(1), ..Options::default() })?;
    let inputs = model.inputs();
    let (signal, others) = inputs.split_first().ok_or("the model has no input")?;
    let given = vec![NamedShape { name: signal.name.clone(), shape: vec![1, chunk] }];
    let shapes = Sizes { batch: 1, given }.resolve(model.graph())?.shapes;
    let begin = |port: &poda::Port| match port.dtype {
        Some(DataType::I64) => Tensor::scalar(16_000_i64),
        _ => Tensor::zeros(DataType::F32, &shapes[&port.name]),
    };
    let mut states: Vec<(String, Tensor)> =
        others.iter().map(|port| (port.name.clone(), begin(port))).collect();

    for (at, samples) in sound.as_slice::<f32>()?.chunks_exact(chunk).enumerate() {
        let shape = [1, chunk];
        let mut feeds = vec![(signal.name.as_str(), TensorView::from_slice(&shape, samples))];
        feeds.extend(states.iter().map(|(name, state)| (name.as_str(), state.view())));
        let mut outputs = executable.run(&feeds)?.into_iter();
        let (name, result) = outputs.next().ok_or("the model has no output")?;
        let floats = states.iter_mut().filter(|(_, state)| state.dtype() == DataType::F32);
        for ((_, state), (_, new)) in floats.zip(outputs) {
            *state = new;
        }
        println!("chunk {at}: {name} {:?}", result.as_slice::<f32>()?);
    }
    Ok(())
}
