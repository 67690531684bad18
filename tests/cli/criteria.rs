//! Criteria, whole blocks and shares found by trying, as flags.

use poda::{Tensor, arrays};

use crate::program::Dir;

/// Samples for the network of [`Dir::mlp`], with classes.
fn labelled(dir: &Dir) {
    let x: Vec<f32> = (0..60 * 16).map(|i| ((i * 37 + i / 16 * 11) % 101) as f32 / 50.0 - 1.0).collect();
    let labels: Vec<i64> = (0..60).map(|i| i % 4).collect();
    arrays::write_npz(
        dir.path("x.npz"),
        &[
            ("x".into(), Tensor::from_slice(&[60, 16], &x)),
            ("labels".into(), Tensor::from_slice(&[60], &labels)),
        ],
    )
    .unwrap();
}

#[test]
fn criteria_take_what_they_need_from_the_data() {
    let dir = Dir::new();
    dir.mlp();
    labelled(&dir);
    let prune = |flags: &[&str]| {
        dir.poda(&[&["prune", "mlp.onnx", "-o", "p.onnx", "--data", "x.npz", "--json"], flags].concat())
    };
    let units = ["--granularity", "channel", "--sparsity", "0.5"];
    for criterion in ["taylor-2016", "taylor-signed", "oracle", "mutual-information", "ziplm", "gradient"] {
        let report = prune(&[&units[..], &["--criterion", criterion]].concat()).json();
        let group = &report["groups"][0];
        assert_eq!((&group["units"], &group["removed"]), (&32.into(), &16.into()), "{criterion}: {group}");
    }
    let report = prune(&["--sparsity", "0.5", "--criterion", "obert", "--normalize", "l2"]).json();
    assert!(report["after"]["nnz"].as_u64() < report["before"]["nnz"].as_u64());
    let report = prune(
        &[&units[..], &["--criterion", "flap", "--aggregate", "max", "--flops-penalty", "0.001"]].concat(),
    )
    .json();
    assert_eq!(report["groups"][0]["removed"], 16);
    let help = dir.poda(&["prune", "--help"]).ok();
    for criterion in ["taylor-2016", "obert", "ziplm", "oracle", "block-influence"] {
        assert!(help.contains(&format!("- {criterion}:")), "{criterion}");
    }
}

#[test]
fn what_data_do_not_tell_is_said_before_anything_is_cut() {
    let dir = Dir::new();
    dir.mlp();
    labelled(&dir);
    let x = arrays::read(dir.path("x.npz")).unwrap()["x"].clone();
    let wrong = Tensor::from_slice(&[60], &[7_i64; 60]);
    arrays::write_npz(dir.path("plain.npz"), &[("x".into(), x.clone())]).unwrap();
    arrays::write_npz(dir.path("wrong.npz"), &[("x".into(), x), ("labels".into(), wrong)]).unwrap();
    let prune = |flags: &[&str]| {
        dir.poda(&[&["prune", "mlp.onnx", "-o", "p.onnx", "--sparsity", "0.5"], flags].concat()).error()
    };
    for (flags, says) in [
        (&["--criterion", "snip"][..], "criterion \"snip\" needs calibration data"),
        (&["--criterion", "snip", "--data", "wrong.npz"], "the label 7 is no class: \"y\" has 4"),
        (
            &["--criterion", "mutual-information", "--granularity", "channel", "--data", "plain.npz"],
            "needs labels: class numbers in an array \"labels\"",
        ),
        (&["--criterion", "fpgm"], "criterion \"fpgm\" does not tell single weights apart"),
        (&["--granularity", "depth", "--data", "x.npz"], "no residual block was found"),
        (&["--allocate", "spdy"], "allocation \"spdy\" needs calibration data"),
        (&["--allocate", "spdy", "--data", "x.npz", "--scope", "global"], "give one"),
    ] {
        let error = prune(flags);
        assert!(error.contains(says), "{flags:?}: {error}");
        assert!(!dir.path("p.onnx").exists());
    }
}

#[test]
fn layers_keep_what_they_must() {
    let dir = Dir::new();
    dir.mlp();
    let kept = |flags: &[&str]| {
        let prune = ["prune", "mlp.onnx", "-o", "p.onnx", "--sparsity", "0.7", "--scope", "global", "--json"];
        let report = dir.poda(&[&prune[..], flags].concat()).json();
        let layers = report["layers"].as_array().unwrap().clone();
        let of = |layer: &serde_json::Value| layer["nnz_after"].as_u64().unwrap();
        [of(&layers[0]), of(&layers[1])]
    };
    let (free, bound) = (kept(&[]), kept(&["--floor", "w1=0.35"]));
    assert_eq!(free.iter().sum::<u64>(), bound.iter().sum::<u64>());
    assert!(bound[0] >= 512 * 35 / 100 && bound[0] >= free[0], "{free:?} {bound:?}");
    let high = [
        "prune",
        "mlp.onnx",
        "-o",
        "p.onnx",
        "--sparsity",
        "0.7",
        "--scope",
        "global",
        "--json",
        "--floor",
        "w1=0.4",
    ];
    let notes = dir.poda(&high).json()["notes"].to_string();
    assert!(notes.contains("floors let 68.0 % of the weights go where 70.0 % were asked for"), "{notes}");
    let error =
        dir.poda(&["prune", "mlp.onnx", "-o", "p.onnx", "--sparsity", "0.7", "--floor", "none=0.4"]).error();
    assert!(error.contains("none"), "{error}");
}

#[test]
fn shares_are_found_by_trying() {
    let dir = Dir::new();
    dir.mlp();
    labelled(&dir);
    for allocate in ["spdy", "evopress", "sensitivity"] {
        let flags = ["prune", "mlp.onnx", "-o", "p.onnx", "--data", "x.npz", "--sparsity", "0.6", "--json"];
        let report = dir.poda(&[&flags[..], &["--allocate", allocate]].concat()).json();
        let notes = report["notes"].to_string();
        // Which of the two is a matter of time: layers as small as these take hardly any.
        let told = ["layers alone take ", "no other shares keep to the time of equal ones of 60 %"];
        assert!(told.iter().any(|told| notes.contains(&format!("{allocate}: {told}"))), "{notes}");
    }
}
