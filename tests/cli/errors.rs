//! Bad input: one line that says what is wrong, exit code 1; wrong usage: exit code 2.

use std::fs;
use std::process::{Command, Stdio};

use poda::formats::graph::{Node, Value};
use poda::formats::op::Binary;
use poda::formats::{Dim, Op, WriteOptions};
use poda::{DataType, Graph, Tensor, arrays};
use prost::encoding::{WireType, encode_key, encode_varint};

use crate::program::Dir;

#[test]
fn wrong_usage_exits_with_2() {
    let dir = Dir::new();
    for args in [&[][..], &["prune"], &["run", "m.onnx", "--shape", "x=axb", "--random"], &["frobnicate"]] {
        dir.poda(args).exit(2);
    }
    dir.poda(&["--help"]).ok();
    for command in ["inspect", "convert", "prune", "finetune", "run", "eval", "bench", "demo"] {
        let help = dir.poda(&[command, "--help"]).ok();
        assert!(help.contains("poda "), "{help}");
    }
}

#[test]
fn files_that_are_not_models_are_refused() {
    let dir = Dir::new();
    dir.write("empty.onnx", b"");
    dir.write("noise.onnx", &[0xff; 4096]);
    dir.write("text.safetensors", b"not a model at all");
    dir.write("long.safetensors", &[&u64::MAX.to_le_bytes()[..], b"{}"].concat());
    fs::create_dir(dir.path("folder.onnx")).unwrap();
    for file in [
        "missing.onnx",
        "empty.onnx",
        "noise.onnx",
        "text.safetensors",
        "long.safetensors",
        "folder.onnx",
        "/dev/zero",
    ] {
        for args in [
            &["inspect", file][..],
            &["run", file, "--random"],
            &["convert", file, "-o", "out.onnx"],
            &["bench", file],
        ] {
            let line = dir.poda_within(6 << 20, args).error();
            assert!(line.contains(file), "{line}");
        }
    }
    assert!(!dir.path("out.onnx").exists());
}

#[test]
fn a_truncated_model_is_refused_at_every_length() {
    let dir = Dir::new();
    let whole = fs::read(dir.mlp()).unwrap();
    for length in (1..whole.len()).step_by(whole.len() / 12) {
        dir.write("cut.onnx", &whole[..length]);
        dir.poda_within(6 << 20, &["run", "cut.onnx", "--random"]).error();
    }
    dir.poda(&["convert", "mlp.onnx", "-o", "mlp.safetensors"]).ok();
    let whole = fs::read(dir.path("mlp.safetensors")).unwrap();
    for length in (1..whole.len()).step_by(whole.len() / 12) {
        dir.write("cut.safetensors", &whole[..length]);
        dir.poda_within(6 << 20, &["run", "cut.safetensors", "--random"]).error();
    }
}

#[test]
fn bad_feeds_are_refused() {
    let dir = Dir::new();
    // Two inputs, so that names matter.
    let mut two = crate::program::mlp();
    let b = two.add_input("b", DataType::F32, vec![Dim::Symbol("batch".into()), Dim::Fixed(4)]);
    let y = two.outputs[0];
    two.outputs[0] = two.add_node(Op::Binary(Binary::Add), &[y, b], "sum");
    poda::formats::write(&two, dir.path("two.onnx"), &WriteOptions::default()).unwrap();
    dir.mlp();
    let save = |name: &str, arrays: &[(&str, Tensor)]| {
        let arrays: Vec<_> = arrays.iter().map(|(name, t)| ((*name).to_owned(), t.clone())).collect();
        arrays::write_npz(dir.path(name), &arrays).unwrap();
    };
    let right = Tensor::from_slice(&[1, 16], &[0.5_f32; 16]);
    save("rank.npz", &[("x", Tensor::from_slice(&[16], &[0.5_f32; 16]))]);
    save("size.npz", &[("x", Tensor::from_slice(&[1, 15], &[0.5_f32; 15]))]);
    save("type.npz", &[("x", Tensor::from_slice(&[1, 16], &[1_i64; 16]))]);
    save("extra.npz", &[("x", right.clone()), ("z", right.clone())]);
    dir.write("broken.npz", b"PK\x03\x04 broken");
    dir.write("broken.npy", b"\x93NUMPY\x01\x00");
    for file in ["rank.npz", "size.npz", "type.npz", "extra.npz", "broken.npz", "broken.npy", "none.npz"] {
        dir.poda(&["run", "mlp.onnx", "--input", file]).error();
    }
    save("right.npz", &[("x", right)]);
    for (flags, named) in [
        (&["--input", "right.npz"][..], "\"b\""),
        (&["--input", "extra.npz"], "\"z\""),
        (&["--input", "w=right.npz"], "\"w\""),
        (&[], "\"x\" [batch, 16]"),
    ] {
        let line = dir.poda(&[&["run", "two.onnx"], flags].concat()).error();
        assert!(line.contains(named), "{flags:?}: {line}");
    }
    dir.poda(&["run", "mlp.onnx", "--input", "right.npz", "--input", "right.npz"]).error();
    dir.poda(&["run", "mlp.onnx", "--input", "right.npz", "-o", "no/such/folder/y.npz"]).error();
    dir.poda(&["run", "mlp.onnx", "--random", "--shape", "y=1x16"]).error();
    dir.poda(&["run", "mlp.onnx", "--random", "--shape", "x=1x17"]).error();
    // An empty batch is fine, an absurd one is refused.
    dir.poda(&["run", "mlp.onnx", "--random", "--batch", "0"]).ok();
    dir.poda_within(6 << 20, &["run", "mlp.onnx", "--random", "--batch", "99999999999"]).error();
    dir.poda(&["run", "mlp.onnx", "--random", "--threads", "99999999"]).error();
}

#[test]
fn a_small_file_cannot_take_much_memory() {
    let dir = Dir::new();
    let mut bytes = fs::read(dir.mlp()).unwrap();
    // The graph again, which is merged with the one before: five million nodes with nothing in them.
    let nodes = [0x0a, 0x00].repeat(5_000_000);
    encode_key(7, WireType::LengthDelimited, &mut bytes);
    encode_varint(nodes.len() as u64, &mut bytes);
    bytes.extend(nodes);
    dir.write("nodes.onnx", &bytes);
    for command in ["inspect", "bench"] {
        let line = dir.poda_within(1 << 19, &[command, "nodes.onnx"]).error();
        assert!(line.contains("messages take"), "{line}");
    }
}

#[test]
fn an_endless_loop_stops_when_memory_ends() {
    let dir = Dir::new();
    let mut body = Graph::default();
    body.add_input("i", DataType::I64, vec![]);
    let go = body.add_input("go", DataType::Bool, vec![]);
    let x = body.add_input("x", DataType::F32, vec![Dim::Fixed(1 << 20)]);
    let copy = body.add_node(Op::Identity, &[x], "copy");
    body.outputs = vec![go, copy];
    let mut graph = Graph::default();
    let x = graph.add_input("x", DataType::F32, vec![Dim::Fixed(1 << 20)]);
    let all = graph.add_value(Value { name: "all".into(), ..Value::default() });
    let (inputs, outputs) = (vec![None, None, Some(x)], vec![Some(all)]);
    let op = Op::Loop { body: Box::new(body), carried: 0 };
    graph.nodes.push(Node { name: "forever".into(), op, inputs, outputs });
    graph.outputs.push(all);
    poda::formats::write(&graph, dir.path("loop.onnx"), &WriteOptions::default()).unwrap();
    let line = dir.poda_within(1 << 20, &["run", "loop.onnx", "--random"]).error();
    assert!(line.contains("forever"), "{line}");
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let dir = Dir::new();
    let model = dir.mlp();
    let mut child = Command::new(env!("CARGO_BIN_EXE_poda"))
        .args(["inspect", "--nodes"])
        .arg(model)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_name_cannot_write_to_the_terminal() {
    let dir = Dir::new();
    let mut graph = crate::program::mlp();
    let x = graph.inputs[0];
    graph.value_mut(x).name = "x\u{1b}[31m".into();
    poda::formats::write(&graph, dir.path("red.onnx"), &WriteOptions::default()).unwrap();
    let line = dir.poda(&["run", "red.onnx", "--input", "none.npy"]).error();
    assert!(!line.contains('\u{1b}'));
    assert!(!dir.poda(&["inspect", "red.onnx"]).ok().contains('\u{1b}'));
    fs::copy(dir.path("red.onnx"), dir.path("two\nlines.onnx")).unwrap();
    dir.poda(&["inspect", "two\nlines.onnx"]).ok();
    dir.poda(&["inspect", "no\nlines.onnx"]).error();
}

#[test]
fn a_recipe_is_a_file() {
    let dir = Dir::new();
    dir.mlp();
    dir.write("broken.toml", b"sparsity = nan");
    assert!(Command::new("mkfifo").arg(dir.path("pipe.toml")).status().unwrap().success());
    for recipe in ["broken.toml", "pipe.toml", "none.toml", "/dev/zero"] {
        dir.poda(&["prune", "mlp.onnx", "-o", "out.onnx", "--recipe", recipe]).error();
    }
    assert!(!dir.path("out.onnx").exists());
}

#[test]
fn a_full_disk_is_reported() {
    let dir = Dir::new();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_poda")).arg("inspect").arg(dir.mlp()).stdout(full).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("poda: No space left"), "{output:?}");
}
