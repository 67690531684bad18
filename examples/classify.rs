//! Names the five likeliest classes of each image.
//!
//!     cargo run --release --example classify -- MODEL IMAGES.npy [LABELS.txt]
//!
//! `IMAGES.npy` holds f32 numbers as the network was trained on them, `[images, …]`; line N of `LABELS.txt` names class N.
//! How many images the model takes at once is the model's affair: `Dataset` cuts them into its batches.

use std::collections::BTreeMap;
use std::error::Error;

use poda::dataset::Dataset;
use poda::{Model, Options, arrays};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, images, labels @ ..] = &args[..] else { return Err("MODEL IMAGES.npy [LABELS.txt]".into()) };
    let labels = labels.first().map(std::fs::read_to_string).transpose()?.unwrap_or_default();
    let labels: Vec<&str> = labels.lines().collect();

    let model = Model::open(model)?;
    let executable = model.prepare(Options::default())?;
    let images = arrays::read(images)?.pop_first().ok_or("no array")?.1;
    let data = Dataset::new(BTreeMap::from([("input".to_owned(), images)]));
    let samples = data.bind(model.graph())?;
    let batch = samples.batch_size(16)?;

    for start in (0..samples.len()).step_by(batch) {
        let range = start..(start + batch).min(samples.len());
        let outputs = samples.outputs(&executable, batch, range.clone())?;
        let (_, scores) = outputs.first().ok_or("the model has no output")?;
        let classes = scores.len() / range.len();
        for (image, scores) in range.zip(scores.as_slice::<f32>()?.chunks(classes)) {
            let mut ranked: Vec<usize> = (0..classes).collect();
            ranked.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            let name =
                |class: usize| labels.get(class).map_or_else(|| class.to_string(), |l| (*l).to_owned());
            let best = ranked.iter().take(5).map(|&class| format!("{} ({:.3})", name(class), scores[class]));
            println!("image {image}: {}", best.collect::<Vec<_>>().join(", "));
        }
    }
    Ok(())
}
