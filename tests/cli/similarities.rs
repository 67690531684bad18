//! Embeddings: similarities of pairs of samples, beside those in the data or the dense model's.

use poda::formats::WriteOptions;
use poda::{DataType, Graph, Tensor, arrays};
use poda_formats::{Dim, Op};

use crate::program::Dir;

/// Tokens `[batch, tokens, 4]` through a matrix of 4 × 6: embeddings of tokens, of which a mask says which count.
fn encoder(dir: &Dir) {
    let mut graph = Graph::default();
    let dims = |last: Option<usize>| {
        let open = ["batch", "tokens"].map(|name| Dim::Symbol(name.into()));
        open.into_iter().chain(last.map(Dim::Fixed)).collect::<Vec<_>>()
    };
    let x = graph.add_input("x", DataType::F32, dims(Some(4)));
    graph.add_input("attention_mask", DataType::I64, dims(None));
    let weights: Vec<f32> = (0..24).map(|i| ((i * 7 % 11) as f32 - 5.0) / 5.0).collect();
    let w = graph.add_weight("w", Tensor::from_slice(&[4, 6], &weights));
    let y = graph.add_node(Op::MatMul, &[x, w], "hidden");
    graph.outputs.push(y);
    poda::formats::write(&graph, dir.path("encoder.onnx"), &WriteOptions::default()).unwrap();
}

/// `count` samples of 3 tokens, the last of which is padding.
fn samples(count: usize) -> Vec<(String, Tensor)> {
    let x =
        (0..count * 3 * 4).map(|i| if i / 4 % 3 == 2 { 1e3 } else { ((i * 37) % 23) as f32 / 11.0 - 1.0 });
    let mask: Vec<i64> = (0..count * 3).map(|i| i64::from(i % 3 < 2)).collect();
    vec![
        ("x".into(), Tensor::from_slice(&[count, 3, 4], &x.collect::<Vec<f32>>())),
        ("attention_mask".into(), Tensor::from_slice(&[count, 3], &mask)),
    ]
}

fn write(dir: &Dir, name: &str, arrays: &[(String, Tensor)]) {
    arrays::write_npz(dir.path(name), arrays).unwrap();
}

#[test]
fn eval_correlates_similarities_with_those_in_the_data_and_of_another_model() {
    let dir = Dir::new();
    encoder(&dir);
    let mut given = samples(5);
    write(&dir, "plain.npz", &given);
    let with_itself = ["eval", "encoder.onnx", "--reference", "encoder.onnx", "--similarities", "--json"];
    let said = dir.poda(&[&with_itself[..], &["--data", "plain.npz"]].concat()).json();
    let found = &said["similarities"][0];
    assert_eq!((&found["output"], &found["with"]), (&"hidden".into(), &"the reference's".into()), "{said}");
    assert_eq!(found["correlation"]["pairs"], 10);
    assert!((found["correlation"]["pearson"].as_f64().unwrap() - 1.0).abs() < 1e-9, "{said}");
    let line = dir.poda(&["eval", "encoder.onnx", "--data", "plain.npz"]).error();
    assert!(line.contains("\"similarities\" of embeddings"), "{line}");
    // Similarities of one's own choice, as a matrix, and as pairs: the same.
    let pairs: Vec<f64> = (0..10).map(|i| f64::from(i * 3 % 7)).collect();
    let mut matrix = vec![0.0; 25];
    let mut next = pairs.iter();
    for row in 0..5 {
        (row + 1..5).for_each(|col| matrix[row * 5 + col] = *next.next().unwrap());
    }
    let mut found = Vec::new();
    for (shape, values) in [(&[10][..], &pairs), (&[5, 5], &matrix)] {
        given.push(("similarities".into(), Tensor::from_slice(shape, values)));
        write(&dir, "judged.npz", &given);
        given.pop();
        let said = dir.poda(&["eval", "encoder.onnx", "--data", "judged.npz", "--json"]).json();
        found.push(said["similarities"][0]["correlation"].clone());
    }
    assert_eq!(found[0], found[1]);
    let said = dir.poda(&["eval", "encoder.onnx", "--data", "judged.npz"]).ok();
    assert!(said.contains("hidden: similarities of 10 pairs beside those in the data: Pearson "), "{said}");
}

#[test]
fn pruning_keeps_similarities_with_labels_and_without() {
    let dir = Dir::new();
    encoder(&dir);
    write(&dir, "plain.npz", &samples(12));
    let prune = ["prune", "encoder.onnx", "-o", "p.safetensors", "--data", "plain.npz", "--json"];
    let measured = |flags: &[&str], name: &str| {
        let report = dir.poda(&[&prune[..], flags].concat()).json();
        let search = &report["search"];
        let taken = &search["trials"][search["taken"].as_u64().expect("half may go") as usize];
        (taken["measured"][name].as_f64().unwrap(), search["dense"].clone())
    };
    for name in ["pearson", "spearman"] {
        let bound = format!("{name}=0.6");
        assert!(measured(&["--keep", &bound], name).0 >= 0.6);
        // The dense model goes with itself.
        let (drop, dense) = measured(&["--measure", name, "--max-drop", "0.4"], "drop");
        assert!(drop <= 0.4 && (dense[name].as_f64().unwrap() - 1.0).abs() < 1e-9, "{drop} {dense}");
    }
    dir.write("r.toml", b"max_drop = 0.4\nmeasure = \"pearson\"");
    assert!(measured(&["--recipe", "r.toml"], "drop").0 <= 0.4);
    let mut judged = samples(4);
    judged.push(("similarities".into(), Tensor::from_slice(&[6], &[0.1, 0.5, 0.3, 0.9, 0.2, 0.4])));
    write(&dir, "judged.npz", &judged);
    let (drop, dense) = measured(&["--max-drop", "0.5", "--validation", "judged.npz"], "drop");
    assert!(drop <= 0.5 && dense["score"].as_f64().unwrap() < 1.0, "{drop} {dense}");
}

#[test]
fn what_has_no_similarities_is_told_what_to_do() {
    let dir = Dir::new();
    encoder(&dir);
    dir.mlp();
    let keep = |model: &str, data: &str| {
        dir.poda(&["prune", model, "-o", "p.onnx", "--keep", "pearson=0.9", "--data", data]).error()
    };
    write(&dir, "two.npz", &samples(2));
    assert!(
        keep("encoder.onnx", "two.npz")
            .contains("2 samples have too few pairs to correlate; give at least 3")
    );
    let mut alike = samples(6);
    alike[0].1 = Tensor::from_slice(&[6, 3, 4], &[1.0_f32; 72]);
    write(&dir, "alike.npz", &alike);
    let line = keep("encoder.onnx", "alike.npz");
    assert!(
        line.contains("similarities are all alike") && line.contains("give samples that differ more"),
        "{line}"
    );
    let mut judged = samples(4);
    judged.push(("similarities".into(), Tensor::from_slice(&[3, 3], &[0.0_f32; 9])));
    write(&dir, "judged.npz", &judged);
    let line = keep("encoder.onnx", "judged.npz");
    assert!(
        line.contains("similarities have shape [3, 3]; of 4 samples, [4, 4] is expected, or [6]"),
        "{line}"
    );
    let none = dir.poda(&["prune", "encoder.onnx", "-o", "p.onnx", "--max-drop", "0.1", "--data", "two.npz"]);
    assert!(none.error().contains("--measure agreement of classes, pearson of embeddings"));
}
