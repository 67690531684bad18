//! Sentence embeddings: which of some sentences are alike.
//!
//!     cargo run --release --example sentences -- minilm.safetensors TOKENS.npz
//!
//! `TOKENS.npz` is what a tokenizer made of the sentences, an array `[sentences, tokens]` for each input of the model, with
//! `attention_mask` among them. An embedding is the mean over the tokens that the mask keeps, of length one.

use std::error::Error;

use poda::feeds::views;
use poda::{Model, Options, arrays};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, tokens] = &args[..] else { return Err("MODEL TOKENS.npz".into()) };
    let executable = Model::open(model)?.prepare(Options::default())?;
    let tokens = arrays::read(tokens)?.into_iter().collect();

    let outputs = executable.run(&views(&tokens))?;
    let (_, hidden) = outputs.first().ok_or("the model has no output")?;
    let [sentences, length, size] = *hidden.shape() else {
        return Err("expected [sentences, tokens, size]".into());
    };
    let mask = tokens.iter().find(|(name, _)| name == "attention_mask").ok_or("no attention_mask")?;
    let mask = mask.1.as_slice::<i64>()?;

    let hidden = hidden.as_slice::<f32>()?;
    let embedding = |sentence: usize| {
        let mut sum = vec![0.0; size];
        for token in (sentence * length..(sentence + 1) * length).filter(|&token| mask[token] != 0) {
            sum.iter_mut().zip(&hidden[token * size..]).for_each(|(sum, x)| *sum += x);
        }
        let norm = sum.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
        sum.into_iter().map(|x| x / norm).collect::<Vec<f32>>()
    };
    let embeddings: Vec<_> = (0..sentences).map(embedding).collect();
    for (index, a) in embeddings.iter().enumerate() {
        let alike = |b: &Vec<f32>| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let row: Vec<_> = embeddings.iter().map(|b| format!("{:6.3}", alike(b))).collect();
        println!("sentence {index}: {}", row.join(" "));
    }
    Ok(())
}
