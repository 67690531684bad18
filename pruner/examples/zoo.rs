//! Prunes every model of a folder with an `index.json` (`[{"file", "feed_shapes"?}, …]`) and prints a table.
//!
//!     ZOO=folder cargo run -p poda-pruner --example zoo -- [part of a name]…
//!
//! `DEAD=1` only removes dead units. `OUT=folder` also writes each pruned model there, with a `.json` and a `.bin` of random feeds and the outputs that
//! Poda computes from them, for comparison with another engine. `SPARSITY` (0.3), `GIVEN=1` to use the feed shapes of the index instead of guessing sizes, `VERBOSE=1` for groups
//! and refusals.

use std::path::Path;
use std::time::Instant;

use poda_formats::Graph;
use poda_formats::onnx::OnnxOptions;
use poda_pruner::settings::{Settings, Shapes};
use poda_pruner::{Granularity, Recipe, prune};
use poda_runtime::random_feeds::random_feeds;
use poda_runtime::{Model, Options};

/// Writes a model, feeds and outputs.
fn save(graph: &Graph, given: &Shapes, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new("")))?;
    poda_formats::onnx::save(graph, path, &OnnxOptions::default())?;
    let shapes = Settings::find(graph, given).shapes;
    let feeds = random_feeds(graph, &shapes, 1)?;
    let executable =
        Model::from_graph(graph.clone())?.prepare(Options { tune: false, ..Options::default() })?;
    let views: Vec<_> = feeds.iter().map(|(name, tensor)| (name.as_str(), tensor.view())).collect();
    let outputs = executable.run(&views)?;
    let (mut bytes, mut index) = (Vec::new(), Vec::new());
    let tagged = feeds.iter().map(|t| ("feed", t)).chain(outputs.iter().map(|t| ("output", t)));
    for (kind, (name, tensor)) in tagged {
        let (dtype, shape) = (tensor.dtype().name(), tensor.shape());
        index.push(serde_json::json!({"kind": kind, "name": name, "dtype": dtype, "shape": shape, "at": bytes.len()}));
        bytes.extend_from_slice(tensor.bytes());
    }
    std::fs::write(path.with_extension("json"), serde_json::to_vec(&index)?)?;
    std::fs::write(path.with_extension("bin"), bytes)?;
    Ok(())
}

fn main() {
    let folder = std::env::var("ZOO").expect("ZOO names a folder");
    let index = std::fs::read_to_string(Path::new(&folder).join("index.json")).expect("index.json");
    let index: serde_json::Value = serde_json::from_str(&index).expect("JSON");
    let sparsity = std::env::var("SPARSITY").map_or(0.3, |s| s.parse().expect("a number"));
    let verbose = std::env::var_os("VERBOSE").is_some();
    let parts: Vec<String> = std::env::args().skip(1).collect();
    let dead = std::env::var_os("DEAD").is_some();
    let recipe = Recipe {
        granularity: Granularity::Channel,
        sparsity: (!dead).then_some(sparsity),
        remove_dead: dead,
        ..Recipe::default()
    };
    let (mut total, mut good) = (0, 0);
    for entry in index.as_array().expect("a list") {
        let file = entry["file"].as_str().expect("a name");
        if !parts.is_empty() && !parts.iter().any(|part| file.contains(part.as_str())) {
            continue;
        }
        total += 1;
        let start = Instant::now();
        let mut shapes = Shapes::new();
        if std::env::var_os("GIVEN").is_some() {
            shapes = serde_json::from_value(entry["feed_shapes"].clone()).unwrap_or_default();
        }
        let graph = match poda_formats::onnx::read(Path::new(&folder).join(file)) {
            Ok(graph) => graph,
            Err(error) => {
                println!("{file:44} READ {error}");
                continue;
            }
        };
        match prune(&graph, &recipe, &shapes, &mut |_| (), None) {
            Ok((pruned, report)) => {
                if let Some(out) = std::env::var_os("OUT")
                    && let Err(error) = save(&pruned, &shapes, &Path::new(&out).join(file))
                {
                    println!("{file:44} not written or run: {error}");
                }
                let removed = report.removed();
                let checked = report.check.as_ref().map(|c| c.relative);
                let fine = removed >= 0.15 && checked.is_some();
                good += usize::from(fine);
                println!(
                    "{file:44} {} {:5.1} % of {:9} gone, {:4} groups, {:3} refused, differs {}, {:.1} s {}",
                    if fine { "ok  " } else { "MISS" },
                    removed * 100.0,
                    report.before.parameters,
                    report.groups.len(),
                    report.refused.len(),
                    checked.map_or("?".to_owned(), |d| format!("{d:.1e}")),
                    start.elapsed().as_secs_f64(),
                    report.notes.join("; "),
                );
                for layer in &report.dead {
                    println!("    {:5} of {:5} dead: {}", layer.dead, layer.units, layer.name);
                }
                if verbose {
                    for group in &report.groups {
                        println!(
                            "    {:5} of {:5} go: {} {:?}",
                            group.removed, group.units, group.name, group.weights
                        );
                    }
                    for refused in &report.refused {
                        println!("    {:5} stay: {}: {}", refused.units, refused.name, refused.reason);
                    }
                }
            }
            Err(error) => println!("{file:44} FAIL {error}"),
        }
    }
    println!("{good} of {total} lose at least 15 % of their parameters");
}
