//! Pruning in rounds with training between them; masks that go out and come in; goals.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use poda::formats::{DataType, Dim, Graph, Op, safetensors};
use poda::{Tensor, arrays};

use crate::finetune::{DEMO, samples};
use crate::program::Dir;

#[test]
fn rounds_prune_and_train_and_go_on_after_a_kill() {
    let dir = Dir::new();
    samples(&dir);
    let model = format!("{DEMO}/fashion_mnist.onnx");
    let flags = ["--sparsity", "0.98", "--rounds", "3", "--schedule", "linear", "--finetune-epochs", "2"];
    let rate = ["--finetune-rate", "0.002"];
    let data = ["--train", "train.npz", "--validation", "test.npz", "--no-check"];
    let prune = |output: &'static str| [&["prune", &model, "-o", output], &flags[..], &rate, &data].concat();
    let said = dir.poda(&[&prune("whole.safetensors")[..], &["--save-recipe", "r.toml"]].concat()).ok();
    assert!(said.contains("epochs") && said.contains("98.0 %"), "{said}");
    assert!(
        said.lines()
            .filter(|line| !line.contains("->") && !line.starts_with("note: "))
            .all(|line| line.chars().count() <= 80),
        "{said}"
    );
    assert!(!dir.path("whole.safetensors.stages").exists());
    // The file says how it came to be.
    let told = dir.poda(&["inspect", "whole.safetensors", "--json"]).json()["provenance"].clone();
    assert_eq!(told["recipe"].as_str(), fs::read_to_string(dir.path("r.toml")).ok().as_deref());
    assert!(told["model"].as_str().unwrap().starts_with("fashion_mnist.onnx "), "{told}");
    assert!(told["data"].as_str().unwrap().starts_with("train.npz "), "{told}");
    // The same from the recipe, killed after each round that it has written.
    let recipe = fs::read_to_string(dir.path("r.toml")).unwrap();
    assert!(recipe.contains("[stage.prune]") && recipe.contains("rounds = 3"), "{recipe}");
    let again = [&["prune", &model, "-o", "again.safetensors", "--recipe", "r.toml"], &data[..]].concat();
    let state = dir.path("again.safetensors.stages/state.toml");
    let mut kills = 0;
    for _ in 0..2 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_poda"));
        command.args(&again).current_dir(dir.path("")).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let written = || fs::metadata(&state).and_then(|m| m.modified()).ok();
        let (before, start) = (written(), Instant::now());
        while written() == before
            && child.try_wait().unwrap().is_none()
            && start.elapsed() < Duration::from_mins(1)
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        kills += u32::from(child.kill().is_ok() && !child.wait().unwrap().success());
    }
    assert!(kills > 0);
    let report = dir.poda(&[&again[..], &["--json", "--report", "p.html"]].concat()).json();
    let [whole, again] =
        ["whole", "again"].map(|name| fs::read(dir.path(&format!("{name}.safetensors"))).unwrap());
    assert!(whole == again, "the same bits");
    let rounds = report["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 3);
    let last = &rounds[2];
    assert!(last["score"].as_f64().unwrap() > last["pruned"].as_f64().unwrap() + 0.02, "{last}");
    // The states of training are scored on the validation samples.
    for round in rounds {
        assert_eq!(round["finetuned"]["best"], round["score"], "{round}");
    }
    assert!(fs::read_to_string(dir.path("p.html")).unwrap().contains("<h2>Rounds</h2>"));
}

#[test]
fn what_rounds_need_is_said() {
    let dir = Dir::new();
    dir.mlp();
    dir.write("two.toml", b"[[stage]]\nreestimate = true\n[[stage]]\n[stage.prune]\nsparsity = 0.5");
    let prune = |flags: &[&str]| dir.poda(&[&["prune", "mlp.onnx", "-o", "p.onnx"], flags].concat());
    for (flags, says) in [
        (&["--rounds", "2"][..], "nothing to do"),
        (&["--sparsity", "0.5", "--rounds", "0"], "rounds is 0"),
        (&["--recipe", "two.toml"], "no training samples: give some (--train)"),
        (&["--recipe", "two.toml", "--rounds", "2"], "several stages"),
        (&["--goal", "faster", "--rounds", "2"], "--goal tries ways of its own"),
        (&["--sparsity", "0.5", "--train", "nowhere.npz"], "nothing trains on --train"),
    ] {
        let line = prune(flags).error();
        assert!(line.contains(says), "{flags:?}: {line}");
    }
    prune(&["--sparsity", "0.5", "--finetune-epochs", "2"]).exit(2);
    assert!(!dir.path("p.onnx").exists() && !dir.path("p.onnx.stages").exists());
}

#[test]
fn a_vocabulary_is_cut_to_the_ids_in_a_file() {
    let dir = Dir::new();
    let mut graph = Graph::default();
    let ids = graph.add_input("ids", DataType::I64, vec![Dim::Fixed(3)]);
    let rows: Vec<f32> = (0..40).map(|i| i as f32).collect();
    let words = graph.add_weight("words", Tensor::from_slice(&[10, 4], &rows));
    let y = graph.add_node(Op::Gather { axis: 0 }, &[words, ids], "y");
    graph.outputs.push(y);
    poda::formats::write(&graph, dir.path("words.onnx"), &poda::formats::WriteOptions::default()).unwrap();
    fs::write(dir.path("ids.txt"), "9\n2\n[3, 5]\n").unwrap();
    let cut = |more: &[&str]| {
        dir.poda(&[&["prune", "words.onnx", "-o", "cut.onnx", "--keep-ids", "w*=ids.txt"], more].concat())
    };
    let report = cut(&["--unknown-id", "2", "--save-masks", "masks.safetensors", "--json"]).json();
    assert_eq!(report["kept"][0]["indices"], serde_json::json!([2, 3, 5, 9]), "{report}");
    assert_eq!([&report["before"]["embeddings"], &report["before"]["parameters"]], [40, 40]);
    assert_eq!(report["after"]["parameters"], 16);
    let masks = safetensors::read(dir.path("masks.safetensors")).unwrap();
    let kept = masks.tensor("words.kept.0").unwrap();
    assert_eq!(kept.as_slice::<i64>().unwrap(), [2, 3, 5, 9]);
    arrays::write_npz(dir.path("ids.npz"), &[("ids".into(), Tensor::from_slice(&[3], &[9_i64, 4, 3]))])
        .unwrap();
    dir.poda(&["run", "cut.onnx", "--input", "ids.npz", "-o", "y.npz"]).ok();
    let found = &arrays::read(dir.path("y.npz")).unwrap()["y"];
    let row = |id: usize| &rows[id * 4..][..4];
    assert_eq!(found.as_slice::<f32>().unwrap(), [row(9), row(2), row(3)].concat());
    let line = cut(&["--unknown-id", "4"]).error();
    assert!(line.contains("are to be taken for id 4, which does not stay itself"), "{line}");
    cut(&[]).exit(2);
    fs::write(dir.path("ids.txt"), "2\n3\ntwo\n").unwrap();
    let line = cut(&["--unknown-id", "2"]).error();
    assert!(line.contains("ids.txt, line 3: \"two\" is no id; expected a whole number"), "{line}");
}

#[test]
fn masks_go_out_and_come_in() {
    let dir = Dir::new();
    let path = dir.mlp();
    dir.poda(&["prune", "mlp.onnx", "-o", "p.onnx", "--sparsity", "0.5", "--save-masks", "m.safetensors"])
        .ok();
    let masks = safetensors::read(dir.path("m.safetensors")).unwrap();
    let mut names: Vec<&str> = masks.names().collect();
    names.sort_unstable();
    assert_eq!(names, ["w1", "w2"]);
    let kept = masks.tensor("w1").unwrap().bytes().iter().filter(|&&b| b != 0).count();
    assert_eq!(kept, 32 * 16 / 2);
    let back = ["prune", "mlp.onnx", "-o", "q.onnx", "--masks", "m.safetensors"];
    dir.poda(&back).ok();
    let same = dir.poda(&["compare", "p.onnx", "q.onnx", "--json"]).json();
    assert_eq!(same["weights"].as_array().map(Vec::len), Some(0), "{same}");
    // With samples, what stays is fitted, and nothing else changes.
    let x: Vec<f32> = (0..256 * 16).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
    arrays::write_npz(dir.path("x.npz"), &[("x".into(), Tensor::from_slice(&[256, 16], &x))]).unwrap();
    let fitted = ["prune", "mlp.onnx", "-o", "f.onnx", "--masks", "m.safetensors", "--data", "x.npz"];
    let report = dir.poda(&[&fitted[..], &["--save-masks", "f.safetensors", "--json"]].concat()).json();
    let fits = report["fits"].as_array().unwrap();
    assert!(
        fits.len() == 2 && fits.iter().all(|fit| fit["error_after"].as_f64() < fit["error_before"].as_f64())
    );
    let again = safetensors::read(dir.path("f.safetensors")).unwrap();
    for name in ["w1", "w2"] {
        assert_eq!(again.tensor(name).unwrap(), masks.tensor(name).unwrap(), "{name}");
    }
    // Channels: what stays has its indices, and pruning by them is the same.
    let channels =
        ["--granularity", "channel", "--sparsity", "0.5", "--remove-dead", "--save-masks", "c.safetensors"];
    dir.poda(&[&["prune", "mlp.onnx", "-o", "c.onnx"], &channels[..]].concat()).ok();
    let masks = safetensors::read(dir.path("c.safetensors")).unwrap();
    let rows = masks.tensor("w1.kept.0").unwrap();
    let rows = rows.as_slice::<i64>().unwrap();
    assert_eq!(masks.tensor("w2.kept.1").unwrap().as_slice::<i64>().unwrap(), rows);
    let dense = poda::formats::open(&path).unwrap();
    let small = poda::formats::open(dir.path("c.onnx")).unwrap();
    let values = |graph: &poda::Graph| {
        let weight = graph.weight(graph.find("w1").unwrap()).unwrap().to_dense().unwrap();
        weight.as_slice::<f32>().unwrap().to_vec()
    };
    let (dense, small) = (values(&dense), values(&small));
    let sliced: Vec<f32> = rows.iter().flat_map(|&row| dense[row as usize * 16..][..16].to_vec()).collect();
    assert_eq!(sliced, small);
    dir.poda(&["prune", "mlp.onnx", "-o", "d.onnx", "--masks", "c.safetensors"]).ok();
    let same = dir.poda(&["compare", "c.onnx", "d.onnx", "--json"]).json();
    let differ = |row: &serde_json::Value| row["a"]["shape"] != row["b"]["shape"];
    assert!(!same["weights"].as_array().unwrap().iter().any(differ), "{same}");
    // As PyTorch names masks, and what does not fit.
    let ones = |shape: &[usize]| Tensor::from_slice(shape, &vec![1_u8; shape.iter().product()]);
    let write = |name: &str, tensors: &[(String, Tensor)]| {
        let mut file = fs::File::create(dir.path(name)).unwrap();
        safetensors::write_packed(&mut file, tensors).unwrap();
    };
    write("torch.safetensors", &[("w1_mask".into(), ones(&[32, 16]))]);
    let whole =
        dir.poda(&["prune", "mlp.onnx", "-o", "q.onnx", "--masks", "torch.safetensors", "--json"]).json();
    assert_eq!(whole["after"]["nnz"], whole["before"]["nnz"]);
    for (name, tensor, says) in [
        ("w3", ones(&[32, 16]), "mask \"w3\": the model has no weight of this name"),
        ("w1", ones(&[16, 32]), "mask \"w1\" is [16, 32], the weight [32, 16]"),
        ("w1.kept.0", Tensor::from_slice(&[2], &[3_i64, 32]), "expected increasing indices below 32"),
        ("w1.kept.1", Tensor::from_slice(&[2], &[3_i64, 4]), "units of dimension 1 of \"w1\" cannot go"),
    ] {
        write("bad.safetensors", &[(name.to_owned(), tensor)]);
        let line = dir.poda(&["prune", "mlp.onnx", "-o", "bad.onnx", "--masks", "bad.safetensors"]).error();
        assert!(line.contains(says), "{line}");
    }
    assert!(!dir.path("bad.onnx").exists());
}

#[test]
fn weights_go_out_and_come_in() {
    let dir = Dir::new();
    dir.mlp();
    dir.poda(&["prune", "mlp.onnx", "-o", "p.safetensors", "--sparsity", "0.9"]).ok();
    dir.poda(&["convert", "p.safetensors", "-o", "w.safetensors", "--weights-only"]).ok();
    let weights = safetensors::read(dir.path("w.safetensors")).unwrap();
    let tensor = weights.tensor("w1").unwrap();
    assert_eq!(tensor.shape(), [32, 16]);
    // Trained elsewhere: every weight twice what it was.
    let doubled: Vec<f32> = tensor.as_slice::<f32>().unwrap().iter().map(|v| 2.0 * v).collect();
    let write = |name: &str, shape: &[usize]| {
        let mut file = fs::File::create(dir.path("t.safetensors")).unwrap();
        safetensors::write_packed(&mut file, &[(name.to_owned(), Tensor::from_slice(shape, &doubled))])
            .unwrap();
    };
    let convert = ["convert", "p.safetensors", "--weights", "t.safetensors", "-o", "t.onnx"];
    write("w1", &[32, 16]);
    dir.poda(&convert).ok();
    let rows = dir.poda(&["compare", "p.safetensors", "t.onnx", "--json"]).json();
    let changed: Vec<_> =
        rows["weights"].as_array().unwrap().iter().filter(|row| row["relative_difference"] != 0.0).collect();
    assert_eq!(changed.len(), 1, "{rows}");
    assert!((changed[0]["relative_difference"].as_f64().unwrap() - 1.0).abs() < 1e-6);
    write("w1", &[16, 32]);
    assert!(dir.poda(&convert).error().contains("weight \"w1\" is f32 [16, 32], in the model f32 [32, 16]"));
    write("fc", &[32, 16]);
    assert!(dir.poda(&convert).error().contains("the model has no weight \"fc\""));
}

/// A goal keeps what was to be kept, and says what it tried.
#[test]
fn a_goal_tries_ways_and_keeps_what_must_be_kept() {
    let dir = Dir::new();
    samples(&dir);
    let model = format!("{DEMO}/fashion_mnist.onnx");
    let prune = ["prune", &model, "-o", "small.safetensors", "--goal", "smaller", "--no-check"];
    let lines = labelled_lines(&dir);
    let report =
        dir.poda(&[&prune[..], &["--max-drop", "0.02", "--validation", &lines, "--json"]].concat()).json();
    let goal = &report["goal"];
    let best = goal["best"].as_u64().expect("the demo's network has much to lose") as usize;
    let attempts = goal["attempts"].as_array().unwrap();
    let bytes = |outcome: &serde_json::Value| outcome["file_bytes"].as_u64().unwrap();
    let found = attempts.iter().filter(|attempt| attempt["holds"] == true);
    assert!(
        found.clone().all(|attempt| bytes(&attempt["result"]) >= bytes(&attempts[best]["result"])),
        "{goal}"
    );
    assert!(bytes(&attempts[best]["result"]) < bytes(&goal["dense"]) / 4, "{goal}");
    let names: Vec<&str> = attempts.iter().map(|attempt| attempt["way"].as_str().unwrap()).collect();
    assert!(names.contains(&"weights in int8") && names.contains(&"weights, layers compete"), "{names:?}");
    assert!(attempts[best]["measured"]["drop"].as_f64().unwrap() <= 0.02, "{goal}");
    // Where nothing holds, it says what came nearest and what would have to give.
    dir.mlp();
    let x: Vec<f32> = (0..40 * 16).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
    let x = Tensor::from_slice(&[40, 16], &x);
    let labels = Tensor::from_slice(&[40], &[0_i64; 40]);
    arrays::write_npz(dir.path("x.npz"), &[("x".into(), x), ("labels".into(), labels)]).unwrap();
    let strict = ["prune", "mlp.onnx", "-o", "none.safetensors", "--goal", "smaller", "--data", "x.npz"];
    let bounds = ["--keep", "relative-error=0.000001", "--max-drop", "0.00001"];
    let done = dir.poda(&[&strict[..], &bounds].concat());
    assert!(done.error().contains("no way of pruning is better than the dense model and keeps that much"));
    let said = done.stdout();
    assert!(said.contains("nearest: ") && said.contains("relative-error at most 0.0000, found 0."), "{said}");
    assert!(said.contains("--keep relative-error=0.") && said.contains(" would take it"), "{said}");
    assert!(said.contains("40 samples to judge by cannot tell a drop of 0.00001"), "{said}");
    let done = dir.poda(&[&strict[..], &bounds, &["--json"]].concat());
    assert!(done.error().contains("nothing is written"));
    let said: serde_json::Value = serde_json::from_str(&done.stdout()).expect("JSON where it was asked for");
    assert!(
        said["goal"]["best"].is_null() && !said["goal"]["attempts"].as_array().unwrap().is_empty(),
        "{said}"
    );
    assert!(said["notes"][0].as_str().unwrap().contains("40 samples to judge by"), "{said}");
    assert!(!dir.path("none.safetensors").exists());
    let line = dir.poda(&["prune", "mlp.onnx", "-o", "none.onnx", "--goal", "smaller"]).error();
    assert!(line.contains("--goal needs samples to judge by"), "{line}");
}

/// The samples to test as lines of JSON, with their labels; images of two decimals.
fn labelled_lines(dir: &Dir) -> String {
    let all = arrays::read(dir.path("test.npz")).unwrap();
    let (image, labels) = (all["image"].as_slice::<f32>().unwrap(), all["labels"].as_slice::<i64>().unwrap());
    let line = |(image, label): (&[f32], &i64)| {
        let image: Vec<String> = image.iter().map(|v| format!("{v:.2}")).collect();
        format!("{{\"image\": [{}], \"labels\": {label}}}\n", image.join(","))
    };
    let text: String = image.chunks(784).zip(labels).take(200).map(line).collect();
    dir.write("test.jsonl", text.as_bytes());
    "test.jsonl".to_owned()
}
