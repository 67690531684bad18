//! `poda sweep`: runs that are over are not done again, parts share a folder, figures are those of the runs.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::finetune::{DEMO, samples};
use crate::program::Dir;

fn lines(dir: &Dir, name: &str) -> Vec<Value> {
    let text = fs::read_to_string(dir.path(&format!("sweep/{name}"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Method, ratio and seed of the runs of a journal.
fn runs(dir: &Dir, name: &str) -> Vec<(String, String, u64)> {
    let all = lines(dir, name);
    let runs = all.iter().filter_map(|line| line.get("run"));
    let of = |run: &Value| {
        (run["method"].as_str().unwrap().to_owned(), run["ratio"].to_string(), run["seed"].as_u64().unwrap())
    };
    runs.map(of).collect()
}

#[test]
fn a_sweep_goes_on_after_a_kill_and_in_parts() {
    let dir = Dir::new();
    samples(&dir);
    let model = format!("{DEMO}/fashion_mnist.onnx");
    let sweep =
        ["sweep", &model, "--folder", "sweep", "--test", "test.npz", "--ratios", "4,64", "--seeds", "2"];
    let train = ["--train", "train.npz", "--finetune-epochs", "1"];
    let methods = ["--method", "random:global", "--method", "magnitude-l1:global"];
    let all = [&sweep[..], &train, &methods].concat();
    let first = [&all[..], &["--shard", "1/2"]].concat();
    let journal = dir.path("sweep/journal-1-of-2.jsonl");
    let mut command = Command::new(env!("CARGO_BIN_EXE_poda"));
    command.args(&first).current_dir(dir.path("")).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let (written, start) =
        (|| fs::read_to_string(&journal).unwrap_or_default().lines().count(), Instant::now());
    while written() < 2 && child.try_wait().unwrap().is_none() && start.elapsed() < Duration::from_mins(1) {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(child.kill().is_ok() && !child.wait().unwrap().success(), "killed while it ran");
    let before = runs(&dir, "journal-1-of-2.jsonl");
    assert!(!before.is_empty() && before.len() < 4);
    dir.poda(&first).ok();
    let after = runs(&dir, "journal-1-of-2.jsonl");
    assert_eq!((after.len(), &after[..before.len()]), (4, &before[..]));
    let said = dir.poda(&[&all[..], &["--shard", "2/2", "--report", "s.html"]].concat()).ok();
    let second = runs(&dir, "journal-2-of-2.jsonl");
    let both: BTreeSet<_> = after.iter().chain(&second).cloned().collect();
    assert_eq!(both.len(), 8, "every run once: {after:?} {second:?}");
    assert!(said.contains("8 of 8 runs are over") && said.contains("trained"), "{said}");
    let table = |line: &&str| !line.starts_with("note: ");
    assert!(said.lines().filter(table).all(|line| line.chars().count() <= 80), "{said}");
    let page = fs::read_to_string(dir.path("s.html")).unwrap();
    assert!(page.contains("☑ 2 seeds") || page.contains("☐ 2 seeds"), "{page}");
    assert_eq!(page.matches("<circle").count(), 4 * 4, "four charts of two methods at two ratios");
    // Nothing is left to do, and the figures are means of the runs.
    let found = dir.poda(&[&all[..], &["--json"]].concat()).json();
    let figures = found["figures"].as_array().unwrap();
    assert_eq!(figures.len(), 4);
    let of = |method: &str, ratio: f64| {
        figures.iter().find(|f| f["method"] == method && f["ratio"] == ratio).unwrap().clone()
    };
    let figure = of("magnitude-l1:global", 4.0);
    assert!((figure["compression"].as_f64().unwrap() - 4.0).abs() < 0.05, "{figure}");
    let scores: Vec<f64> = ["journal-1-of-2.jsonl", "journal-2-of-2.jsonl"]
        .iter()
        .flat_map(|name| lines(&dir, name))
        .filter_map(|line| line.get("run").cloned())
        .filter(|run| run["method"] == "magnitude-l1:global" && run["ratio"] == 4.0)
        .map(|run| run["after"].as_f64().unwrap())
        .collect();
    assert!((figure["after"]["mean"].as_f64().unwrap() - f64::midpoint(scores[0], scores[1])).abs() < 1e-12);
    let random = of("random:global", 64.0);
    let mean = |figure: &Value, when: &str| figure[when]["mean"].as_f64().unwrap();
    assert!(mean(&of("magnitude-l1:global", 64.0), "before") > mean(&random, "before") + 0.2, "{found}");
    // Other data are another sweep.
    let other = [&sweep[..5], &["train.npz"], &sweep[6..], &methods].concat();
    assert!(dir.poda(&other).error().contains("is of another sweep"));
}

#[test]
fn plans_are_read_and_what_is_wrong_is_said() {
    let dir = Dir::new();
    samples(&dir);
    let model = format!("{DEMO}/fashion_mnist.onnx");
    let sweep = |plan: &str| {
        dir.write("plan.toml", plan.as_bytes());
        dir.poda(&["sweep", &model, "--folder", "sweep", "--test", "test.npz", "--plan", "plan.toml"])
    };
    for (plan, says) in [
        ("[[method]]\n[method.prune]", "method 1 has no name"),
        ("[[method]]\nname = \"a\"", "method \"a\" prunes nothing"),
        ("[[method]]\nname = \"a\"\n[method.prune]\nsparsity = 0.5", "says how much goes; the ratios do"),
        ("ratios = [0.5]\n[[method]]\nname = \"a\"\n[method.prune]", "ratio 0.5: compression is 1 or more"),
        (
            "[[method]]\nname = \"a\"\n[method.prune]\ncriterion = \"b\"",
            "method \"a\": criterion \"b\" is not known",
        ),
        (
            "[[method]]\nname = \"a\"\n[method.prune]\n[method.finetune]",
            "no training samples: give some (--train)",
        ),
        ("[[methods]]", "unknown field `methods`"),
    ] {
        let line = sweep(plan).error();
        assert!(line.contains(says), "{line}");
    }
    assert!(!dir.path("sweep").exists());
    // What cannot be compressed so far is a run without a result; the others go on.
    let plan = "ratios = [2, 2000]\nseeds = [0]\n[[method]]\nname = \"channels\"\n[method.prune]\n\
                granularity = \"channel\"\ncheck = false\n[[method]]\nname = \"weights\"\n[method.prune]\ncheck = false";
    let said = sweep(plan).ok();
    assert!(said.contains("failed") && said.contains("weights at 2000× failed: ratio is 2000"), "{said}");
    // A flag that holds for methods of the plan too.
    let spared = ["--exclude", "fc3.weight", "--save-plan", "saved.toml", "--ratios", "2"];
    let all = ["sweep", &model, "--folder", "spared", "--test", "test.npz", "--plan", "plan.toml"];
    dir.poda(&[&all[..], &spared].concat()).ok();
    let saved = fs::read_to_string(dir.path("saved.toml")).unwrap();
    assert_eq!(saved.matches("exclude = [\"fc3.weight\"]").count(), 2, "{saved}");
    let line = dir.poda(&["sweep", &model, "--folder", "other"]).error();
    assert!(line.contains("nothing to score by"), "{line}");
    dir.poda(&["sweep", &model, "--folder", "other", "--test", "test.npz", "--shard", "3/2"]).exit(2);
}
