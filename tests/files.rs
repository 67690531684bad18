//! What becomes of a model whose file is written over, cut off or replaced while it is open.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use poda::formats::{Dim, Load, Op, artifact, onnx};
use poda::{DataType, Executable, Graph, Model, Options, Tensor};

const SIZE: usize = 64;

/// A chain of products whose weights are stored in every layout, of what a table holds at constant places.
fn sample() -> Graph {
    let mut g = Graph::default();
    let x = g.add_input("x", DataType::F32, vec![Dim::Symbol("n".into()), Dim::Fixed(SIZE)]);
    let dense = |kept: &dyn Fn(usize, usize) -> bool| -> Vec<f32> {
        let value = |i: usize| ((i * 7919) % 31) as f32 / 64.0 - 0.2;
        (0..SIZE * SIZE).map(|i| if kept(i / SIZE, i % SIZE) { value(i) } else { 0.0 }).collect()
    };
    let kept: [(&str, &dyn Fn(usize, usize) -> bool); 5] = [
        ("dense", &|_, _| true),
        ("csr", &|row, col| (row * 5 + col * 3) % 40 == 0),
        ("bitmap", &|row, col| (row * 5 + col * 3) % 7 == 0),
        ("block:4x4", &|row, col| (row / 4 + col / 4 * 3) % 5 == 0),
        ("nm:2:4", &|row, col| (row % 4 + row / 4 + col) % 4 < 2),
    ];
    let mut y = x;
    for (layout, kept) in kept {
        let w = g.add_weight(layout, Tensor::from_slice(&[SIZE, SIZE], &dense(kept)));
        y = g.add_node(Op::MatMul, &[y, w], format!("after {layout}"));
    }
    g.store_sparse();
    for (layout, _) in kept {
        assert_eq!(g.weight(g.find(layout).unwrap()).unwrap().layout(), layout);
    }
    let table = g.add_weight("table", Tensor::from_slice(&[SIZE], &[0.5_f32; SIZE]));
    let places: Vec<i64> = (0..SIZE as i64).rev().collect();
    let places = g.add_weight("places", Tensor::from_slice(&[SIZE], &places));
    let bias = g.add_node(Op::Gather { axis: 0 }, &[table, places], "bias");
    let y = g.add_node(Op::Binary(poda::formats::op::Binary::Add), &[y, bias], "y");
    g.value_mut(y).dtype = Some(DataType::F32);
    g.outputs.push(y);
    g
}

fn prepare(model: &Model) -> Result<Executable, poda::runtime::PrepareError> {
    model.prepare(Options { threads: Some(1), tune: false, ..Options::default() })
}

fn run(executable: &Executable) -> Option<Tensor> {
    let x = Tensor::from_slice(&[2, SIZE], &[0.25_f32; 2 * SIZE]);
    executable.run(&[("x", x.view())]).ok().map(|outputs| outputs[0].1.clone())
}

/// As `cp` does it: the same file, other bytes.
fn write_over(path: &Path, byte: u8) {
    let len = fs::metadata(path).unwrap().len() as usize;
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all(&vec![byte; len]).unwrap();
}

#[test]
fn a_model_survives_what_is_written_into_its_file() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["model.safetensors", "model.onnx"] {
        for byte in [0x00, 0x7f, 0xff] {
            let path = folder.path().join(name);
            poda::formats::write(&sample(), &path, &poda::formats::WriteOptions::default()).unwrap();
            let model = Model::open(&path).unwrap();
            let executable = prepare(&model).unwrap();
            let before = run(&executable).unwrap();
            assert!(before.as_slice::<f32>().unwrap().iter().all(|y| y.is_finite()));
            write_over(&path, byte);
            // Other numbers perhaps, from an executable; no matrix, perhaps, from the model. Never anything else.
            let after = run(&executable).unwrap();
            assert_eq!(after.shape(), before.shape());
            if let Ok(executable) = prepare(&model) {
                run(&executable);
            }
        }
    }
}

#[test]
fn a_model_that_was_read_has_no_use_for_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let outside = onnx::OnnxOptions { external_data_above: 0, ..onnx::OnnxOptions::default() };
    for name in ["model.safetensors", "model.onnx"] {
        let path = folder.path().join(name);
        if name.ends_with("onnx") {
            onnx::save(&sample(), &path, &outside).unwrap();
        } else {
            artifact::save(&sample(), &path).unwrap();
        }
        let expected = run(&prepare(&Model::open(&path).unwrap()).unwrap()).unwrap();
        let model = Model::open_with(&path, Load::Read).unwrap();
        for entry in folder.path().read_dir().unwrap() {
            OpenOptions::new().write(true).open(entry.unwrap().path()).unwrap().set_len(0).unwrap();
        }
        assert_eq!(run(&prepare(&model).unwrap()).unwrap(), expected, "{name}");
    }
}

#[test]
fn a_model_that_is_replaced_stays_what_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    artifact::save(&sample(), &path).unwrap();
    let model = Model::open(&path).unwrap();
    let expected = run(&prepare(&model).unwrap()).unwrap();
    let mut other = sample();
    other.nodes.pop();
    other.outputs = other.nodes.iter().rev().find_map(|node| node.output(0)).into_iter().collect();
    artifact::save(&other, &path).unwrap();
    assert_eq!(run(&prepare(&model).unwrap()).unwrap(), expected);
    assert_ne!(run(&prepare(&Model::open(&path).unwrap()).unwrap()).unwrap(), expected);
}
