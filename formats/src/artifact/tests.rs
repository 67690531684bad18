use proptest::prelude::*;

use super::*;
use crate::dtype::Boolean;
use crate::graph::Dim;
use crate::op::{Binary, MatrixForm, Op, Unary};
use crate::storage::{ALIGNMENT, AlignedBytes, Storage};
use crate::weight::{CsrMatrix, DenseMatrix, Matrix, ValueType};

/// Dense, sparse and shared weights, an If whose bodies have weights and a capture, odd names and attributes.
fn sample() -> Graph {
    let mut branch = Graph { name: "branch".into(), ..Graph::default() };
    let captured = branch.add_input("x", DataType::F32, vec![Dim::Symbol("batch".into()), Dim::Fixed(3)]);
    let bias = branch.add_weight("bias", Tensor::from_slice(&[3], &[1.0_f32, f32::NAN, -0.0]));
    let y = branch.add_node(Op::Binary(Binary::Add), &[captured, bias], "y");
    branch.outputs.push(y);

    let mut g = Graph { name: "main".into(), ..Graph::default() };
    g.metadata.insert("producer".into(), "test\u{0}\u{1b}[0m".into());
    let x = g.add_input("x", DataType::F32, vec![Dim::Symbol("batch".into()), Dim::Fixed(3)]);
    let condition = g.add_weight("condition", Tensor::scalar(Boolean(1)));
    let matrix = CsrMatrix::from_dense(3, 3, &[0.0, 1.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, f32::INFINITY]);
    let sparse = g.add_weight(
        "w",
        MatrixWeight::new(vec![3, 3], MatrixForm::of(&[3, 3], true).unwrap(), matrix).unwrap(),
    );
    let clash = g.add_weight("w.values", Tensor::from_slice(&[3], &[1.0_f32, 2.0, 3.0]));
    let reserved = g.add_weight("__metadata__", Tensor::from_slice(&[0], &[0.0_f32; 0]));
    let shared = g.weight(clash).unwrap().clone();
    let twin = g.add_weight("twin", shared);
    let product = g.add_node(Op::MatMul, &[x, sparse], "product");
    let sum = g.add_node(Op::Binary(Binary::Add), &[product, clash], "sum");
    let sum = g.add_node(Op::Binary(Binary::Mul), &[sum, twin], "odd \"name\"\n");
    let odd =
        g.add_node(Op::Unary(Unary::HardSigmoid { alpha: f32::NEG_INFINITY, beta: 0.1 }), &[sum], "odd");
    let op = Op::If { then_branch: Box::new(branch.clone()), else_branch: Box::new(branch) };
    let chosen = g.add_node(op, &[condition, odd], "chosen");
    g.outputs.extend([chosen, reserved]);
    g
}

fn bytes_of(graph: &Graph) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out, graph).unwrap();
    out
}

fn parse_bytes(bytes: &[u8]) -> Result<Graph, ArtifactError> {
    parse(&SafeTensors::parse(Storage::owned(AlignedBytes::copy_of(bytes)))?)
}

/// The sample with one text in its file replaced by another of the same length.
fn patched(from: &str, to: &str) -> Result<Graph, ArtifactError> {
    assert_eq!(from.len(), to.len());
    let mut bytes = bytes_of(&sample());
    let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
    bytes[at..][..to.len()].copy_from_slice(to.as_bytes());
    parse_bytes(&bytes)
}

#[test]
fn a_graph_comes_back_equal_and_aligned() {
    let graph = sample();
    let bytes = bytes_of(&graph);
    let back = parse_bytes(&bytes).unwrap();
    assert_eq!(back, graph);
    assert_eq!(bytes_of(&back), bytes, "writing is deterministic");
    let tensors = |g: &Graph| -> Vec<Tensor> {
        let weights = g.values.iter().filter_map(|v| v.weight.as_ref());
        weights.flat_map(|weight| weight.tensors().into_iter().cloned().collect::<Vec<_>>()).collect()
    };
    assert!(version_of(&bytes) == "1", "older versions read what they know");
    for tensor in back.with_bodies().into_iter().flat_map(tensors) {
        assert!(tensor.is_empty() || (tensor.bytes().as_ptr() as usize).is_multiple_of(ALIGNMENT));
    }
}

fn version_of(bytes: &[u8]) -> String {
    let file = SafeTensors::parse(Storage::owned(AlignedBytes::copy_of(bytes))).unwrap();
    file.metadata()["poda.version"].clone()
}

/// A dense and a sparse weight with values of type `to`, and a bias.
fn narrow_sample(to: ValueType) -> Graph {
    let mut g = Graph { name: "narrow".into(), ..Graph::default() };
    let x = g.add_input("x", DataType::F32, vec![Dim::Fixed(1), Dim::Fixed(4)]);
    let full: Vec<f32> = (1..=160).map(|i| i as f32 / 7.0).collect();
    let dense = g.add_weight("d", Tensor::from_slice(&[4, 40], &full));
    let mut few = vec![0.0_f32; 40 * 5];
    few.iter_mut().step_by(11).for_each(|w| *w = 0.3);
    let sparse = g.add_weight("s", Tensor::from_slice(&[40, 5], &few));
    let bias = g.add_weight("b", Tensor::from_slice(&[40], &[0.1_f32; 40]));
    let y = g.add_node(Op::MatMul, &[x, dense], "y");
    let y = g.add_node(Op::Binary(Binary::Add), &[y, bias], "sum");
    let z = g.add_node(Op::MatMul, &[y, sparse], "z");
    g.outputs.push(z);
    assert_eq!(g.round_weights(to), Ok(2));
    assert_eq!(g.store_sparse(), 1);
    g
}

#[test]
fn narrower_values_and_bitmaps_come_back_equal_and_need_newer_versions() {
    for to in &ValueType::ALL[1..] {
        let graph = narrow_sample(*to);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        save(&graph, &path).unwrap();
        let back = read(&path).unwrap();
        assert_eq!(back, graph);
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes_of(&back), bytes, "writing is deterministic");
        assert_eq!(version_of(&bytes), "3", "older versions refuse what they would misread");
        let mut older = graph.clone();
        let s = older.find("s").unwrap();
        let Some(Weight::Matrix(bits)) = older.weight(s).cloned() else { panic!() };
        assert_eq!(bits.layout().name(), "bitmap");
        let csr =
            MatrixWeight::new(bits.shape().to_vec(), bits.form(), bits.matrix().unwrap().to_csr()).unwrap();
        older.values[s.index()].weight = Some(csr.into());
        assert_eq!(version_of(&bytes_of(&older)), "2");
        let Some(Weight::Matrix(narrow)) = back.weight(back.find("d").unwrap()) else { panic!() };
        assert!(narrow.values().tensor().storage().is_mapped());
        let file = SafeTensors::parse(Storage::owned(AlignedBytes::copy_of(&bytes))).unwrap();
        assert_eq!(file.tensor("d").unwrap().shape(), [40, 4], "a row for each output");
        assert_eq!(file.tensor("d").unwrap().dtype(), to.dtype());
        assert_eq!(file.names().any(|name| name == "s.scales"), *to == ValueType::Int8);
    }
}

#[test]
fn damaged_narrow_weights_are_refused_by_name() {
    let file = bytes_of(&narrow_sample(ValueType::Int8));
    // (Of the header, so that lengths stay: one text by another of the same length.)
    let cases = [
        ("\\\"d.scales\\\"", "\\\"s.bitmap\\\"", "weight \"d\": tensor holds u8, expected f32"),
        ("\\\"d.scales\\\"", "\\\"s.scales\\\"", "weight \"d\": 5 scales for 40 rows"),
        (
            "\\\"s.values\\\",\\\"s.scales\\\"",
            "\\\"s.values\\\",\\\"d.scales\\\"",
            "weight \"s\": 40 scales for 5 rows",
        ),
        (
            "\\\"tensors\\\":[\\\"d\\\",\\\"d.scales\\\"]",
            "\\\"tensors\\\":[\\\"d\\\"]             ",
            "weight \"d\": i8 values need scales",
        ),
        (
            "\\\"tensors\\\":[\\\"d\\\",",
            "\\\"tensors\\\":[\\\"b\\\",",
            "weight \"d\": values rounded from f32 are bf16, f16 or i8, found f32",
        ),
        (
            "\\\"shape\\\":[4,40],\\\"tr",
            "\\\"shape\\\":[9,40],\\\"tr",
            "40 rows of 9 columns, but 160 values",
        ),
        ("\\\"shape\\\":[4,40],\\\"tr", "\\\"shape\\\":[455,],\\\"tr", "trailing comma"),
        ("\\\"rounded\\\":{\\\"max\\\":0", "\\\"rounded\\\":{\\\"max\\\":-", "invalid number"),
        ("\\\"rounded\\\":", "\\\"rounder\\\":", "weight \"d\" is stored as \"dense\" over 2 tensors"),
    ];
    for (from, to, expected) in cases {
        assert_eq!(from.len(), to.len(), "{from} {to}");
        let mut bytes = file.clone();
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes());
        let at = at.unwrap_or_else(|| panic!("no {from} in {}", String::from_utf8_lossy(&file[8..4000])));
        bytes[at..][..to.len()].copy_from_slice(to.as_bytes());
        let Err(error) = parse_bytes(&bytes) else { panic!("{to} is accepted") };
        let shown = error.to_string();
        assert!(shown.contains(expected), "{shown} lacks {expected:?}");
    }
    let mut bytes = file.clone();
    let Some(Weight::Matrix(narrow)) = narrow_sample(ValueType::Int8).weight(ValueId(1)).cloned() else {
        panic!()
    };
    let scales = narrow.values().scales_tensor().unwrap().bytes();
    let at = bytes.windows(scales.len()).rposition(|w| w == scales).unwrap();
    bytes[at + 4..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let error = parse_bytes(&bytes).unwrap_err().to_string();
    assert_eq!(error, "weight \"d\": scale NaN of row 1 is not finite");
}

#[test]
fn shared_weights_are_stored_once() {
    let file = bytes_of(&sample());
    let file = safetensors::SafeTensors::parse(Storage::owned(AlignedBytes::copy_of(&file))).unwrap();
    let mut names: Vec<_> = file.names().filter(|name| !name.starts_with("__padding__")).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["__metadata__~1", "bias", "condition", "w.indices", "w.indptr", "w.values", "w.values~1"]
    );
}

#[test]
fn matrices_of_several_parts_come_back() {
    let elements: Vec<f32> = (0..24).map(|i| if i % 5 == 0 { i as f32 } else { 0.0 }).collect();
    let tensor = Tensor::from_slice(&[2, 3, 4], &elements);
    for (form, version) in [
        (MatrixForm::of(&[2, 3, 4], false).unwrap(), "1"),
        (MatrixForm::split(&[2, 3, 4], 2, false).unwrap(), "4"),
        (MatrixForm { parts: 2, rows: 4, cols: 3, transposed: true }, "4"),
    ] {
        let mut g = Graph::default();
        let [rows, cols] = form.size();
        let csr = CsrMatrix::from_dense(rows, cols, &form.rows_of(&elements));
        let id = g.add_weight("w", MatrixWeight::new(vec![2, 3, 4], form, csr).unwrap());
        g.outputs.push(id);
        let bytes = bytes_of(&g);
        let text = format!("\"poda.version\":\"{version}\"");
        assert!(bytes.windows(text.len()).any(|w| w == text.as_bytes()), "{form:?}");
        let read = parse_bytes(&bytes).unwrap();
        assert_eq!(read, g);
        assert_eq!(read.weight(id).unwrap().to_dense().unwrap(), tensor);
    }
}

#[test]
fn every_truncation_is_refused() {
    let bytes = bytes_of(&sample());
    for len in 0..bytes.len() {
        assert!(parse_bytes(&bytes[..len]).is_err(), "{len} of {} bytes", bytes.len());
    }
}

#[test]
fn what_this_version_does_not_know_is_refused_by_name() {
    let cases = [
        ("\"poda.version\":\"1\"", "\"poda.version\":\"9\"", "version \"9\""),
        ("\"poda.version\":\"1\"", "\"poda.version\":\"x\"", "version \"x\""),
        ("poda.graph", "poda.graqh", "metadata lack \"poda.graph\""),
        ("\\\"kind\\\":\\\"csr\\\"", "\\\"kind\\\":\\\"nm4\\\"", "\"w\" is stored as \"nm4\""),
        ("HardSigmoid", "SoftSigmoid", "unknown variant `SoftSigmoid`"),
        ("\\\"transposed\\\":true", "\\\"transposed\\\":1e10", "invalid type"),
        ("\\\"shape\\\":[3,3]", "\\\"shape\\\":[4,3]", "is declared as f32 [4, 3], stored as f32 [3, 3]"),
        ("w.indices\\\",", "w.indicez\\\",", "no tensor \"w.indicez\""),
        ("\\\"graph\\\":0,", "\\\"graph\\\":9,", "value 1 of graph 9"),
    ];
    for (from, to, expected) in cases {
        let Err(error) = patched(from, to) else { panic!("{to} is accepted") };
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(expected), "{shown} lacks {expected:?}");
    }
}

#[test]
fn a_plain_safetensors_file_says_what_it_lacks() {
    let mut out = Vec::new();
    safetensors::write(&mut out, &BTreeMap::new(), &[("w".to_owned(), Tensor::scalar(1.0_f32))]).unwrap();
    let error = parse_bytes(&out).unwrap_err().to_string();
    assert!(error.contains("lack \"poda.version\""), "{error}");
}

#[test]
fn damaged_indices_are_found_before_use_and_never_written() {
    let mut bytes = bytes_of(&sample());
    let find = |pattern: &[u8]| bytes.windows(pattern.len()).rposition(|w| w == pattern).unwrap();
    // The columns 1, 0, 2 as u16.
    let at = find(&[1, 0, 0, 0, 2, 0]);
    bytes[at] = 9;
    let graph = parse_bytes(&bytes).unwrap();
    let weight = graph.weight(graph.find("w").unwrap()).unwrap();
    assert!(matches!(weight.to_dense(), Err(SparseError::Column { col: 9, .. })));
    assert!(matches!(write(&mut Vec::new(), &graph), Err(ArtifactError::Csr { .. })));
}

#[test]
fn damaged_bitmaps_are_found_before_use_and_never_written() {
    let file = bytes_of(&narrow_sample(ValueType::Bf16));
    let graph = parse_bytes(&file).unwrap();
    let Some(Weight::Matrix(stored)) = graph.weight(graph.find("s").unwrap()) else { panic!() };
    let bits = stored.arrays()[0].1.bytes().to_vec();
    let at = file.windows(bits.len()).rposition(|w| w == bits).unwrap();
    for (byte, flip) in [(0, 1), (7, 0xff)] {
        let mut bytes = file.clone();
        bytes[at + byte] ^= flip;
        let graph = parse_bytes(&bytes).unwrap();
        let weight = graph.weight(graph.find("s").unwrap()).unwrap();
        assert!(matches!(weight.to_dense(), Err(SparseError::Bits { values: 19, .. })), "{weight:?}");
        assert!(matches!(write(&mut Vec::new(), &graph), Err(ArtifactError::Csr { .. })));
    }
}

#[test]
fn a_file_is_replaced_by_what_was_read_from_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    save(&sample(), &path).unwrap();
    let graph = read(&path).unwrap();
    save(&graph, &path).unwrap();
    assert_eq!(read(&path).unwrap(), sample());
    assert_eq!(graph, sample(), "the old file is still mapped");
}

#[test]
fn a_failing_writer_gives_an_error() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let taken = bytes.len().min(self.0).min(7);
            self.0 -= taken;
            Ok(taken)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let graph = sample();
    let size = bytes_of(&graph).len();
    write(&mut Full(size), &graph).unwrap();
    for room in 0..size {
        assert!(write(&mut Full(room), &graph).is_err(), "{room} of {size} bytes");
    }
}

proptest! {
    #[test]
    fn mutations_never_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        narrow in 0..4_usize,
    ) {
        let mut bytes = match narrow {
            0 => bytes_of(&sample()),
            to => bytes_of(&narrow_sample(ValueType::ALL[to])),
        };
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(graph) = parse_bytes(&bytes) {
            for weight in graph.with_bodies().into_iter().flat_map(|g| &g.values).filter_map(|v| v.weight.as_ref()) {
                let _ = weight.to_dense();
            }
        }
    }
}

/// A product for each pattern, with a weight `[40, 24]` stored by it.
fn structured_sample() -> Graph {
    let mut g = Graph { name: "structured".into(), ..Graph::default() };
    let x = g.add_input("x", DataType::F32, vec![Dim::Fixed(2), Dim::Fixed(40)]);
    for (name, r, c) in [("tall", 8, 1), ("wide", 1, 4), ("square", 4, 4), ("nm", 1, 1)] {
        // Of `[24, 40]`: each other block, or the first two of four.
        let kept = |row: usize, col: usize| match name {
            "nm" => col % 4 < 2,
            _ => (row / r * 7 + col / c).is_multiple_of(3),
        };
        let at = |i: usize| if kept(i % 24, i / 24) { i as f32 + 1.0 } else { 0.0 };
        let w = g.add_weight(name, Tensor::from_slice(&[40, 24], &(0..960).map(at).collect::<Vec<_>>()));
        let y = g.add_node(Op::MatMul, &[x, w], format!("y.{name}"));
        g.outputs.push(y);
    }
    assert_eq!(g.store_sparse(), 4);
    g
}

#[test]
fn structured_weights_come_back_mapped_and_equal() {
    let graph = structured_sample();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    save(&graph, &path).unwrap();
    let back = read(&path).unwrap();
    assert_eq!(back, graph);
    assert_eq!(bytes_of(&back), std::fs::read(&path).unwrap(), "writing is deterministic");
    for (name, layout) in
        [("tall", "block:8x1"), ("wide", "block:1x4"), ("square", "block:4x4"), ("nm", "nm:2:4")]
    {
        let weight = back.weight(back.find(name).unwrap()).unwrap();
        assert_eq!(weight.layout(), layout);
        assert!(weight.tensors().iter().all(|tensor| tensor.storage().is_mapped()), "{name}");
    }
    let file = safetensors::read(&path).unwrap();
    assert_eq!(file.tensor("tall.values").unwrap().shape()[1..], [8, 1]);
    assert_eq!(file.tensor("nm.positions").unwrap().shape(), [24, 5]);
}

#[test]
fn damaged_structure_is_found_before_use_and_never_written() {
    let file = bytes_of(&structured_sample());
    // Of the header, so that lengths stay.
    let cases = [
        ("\\\"pattern\\\":[8,1]", "\\\"pattern\\\":[7,1]", "need"),
        ("\\\"pattern\\\":[8,1]", "\\\"pattern\\\":[0,1]", "1 to 255"),
        ("\\\"pattern\\\":[2,4]", "\\\"pattern\\\":[4,2]", "less than M"),
        ("\\\"pattern\\\":[2,4]", "\\\"pattern\\\":[1,4]", "24 rows of 10 slots, but 480 values"),
        ("\\\"pattern\\\":[2,4]", "\\\"patterm\\\":[2,4]", "at least 1"),
        ("\\\"nm.positions\\\"", "\\\"tall.indptr\\\"  ", "tensor holds u32, expected u8"),
    ];
    for (from, to, expected) in cases {
        let mut bytes = file.clone();
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        let to = &to.as_bytes()[..from.len()];
        bytes[at..][..to.len()].copy_from_slice(to);
        let error = parse_bytes(&bytes).unwrap_err().to_string();
        assert!(error.contains(expected), "{error} lacks {expected}");
    }
    // Of the arrays: what opens, and is refused when it is first used.
    let graph = parse_bytes(&file).unwrap();
    for (name, part) in [("tall", ".indices"), ("wide", ".indptr"), ("nm", ".positions")] {
        let weight = graph.weight(graph.find(name).unwrap()).unwrap();
        let Weight::Matrix(structured) = weight else { panic!("{weight:?}") };
        let tensor = structured.arrays().into_iter().find(|(found, _)| *found == part).unwrap().1;
        let pattern = tensor.bytes().to_vec();
        let mut bytes = file.clone();
        let at = bytes.windows(pattern.len()).position(|w| w == pattern).unwrap();
        bytes[at + 1] = 0x77;
        let damaged = parse_bytes(&bytes).unwrap();
        let weight = damaged.weight(damaged.find(name).unwrap()).unwrap();
        assert!(weight.to_dense().is_err(), "{name}");
        assert!(matches!(write(&mut Vec::new(), &damaged), Err(ArtifactError::Csr { .. })), "{name}");
    }
}

proptest! {
    #[test]
    fn mutations_of_structure_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = bytes_of(&structured_sample());
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(graph) = parse_bytes(&bytes) {
            for weight in graph.values.iter().filter_map(|v| v.weight.as_ref()) {
                let _ = (weight.nnz(), weight.to_dense());
            }
        }
    }
}

/// What `fixtures/VERSION.safetensors`, written by the code of that time, holds: every kind of weight that the version has.
fn fixture(version: u32) -> Graph {
    let dense: Vec<f32> = (0..24).map(|i| if i % 4 < 2 { i as f32 / 2.0 - 3.0 } else { 0.0 }).collect();
    let csr = CsrMatrix::from_dense(4, 6, &dense);
    let mut g = Graph { name: format!("version {version}"), ..Graph::default() };
    let x = g.add_input("x", DataType::F32, vec![Dim::Symbol("n".into()), Dim::Fixed(6)]);
    let stored = |transposed: bool, matrix: Matrix| -> Weight {
        let shape = if transposed { vec![6, 4] } else { vec![4, 6] };
        let form = MatrixForm::of(&shape, transposed).unwrap();
        MatrixWeight::new(shape, form, matrix).unwrap().into()
    };
    let by = |csr: &CsrMatrix, pattern: &str| csr.by_pattern(pattern.parse().unwrap()).unwrap();
    let narrow = |to: ValueType| DenseMatrix::new(4, 6, Values::round(&dense, [4, 6], to).unwrap()).unwrap();
    g.add_weight("dense", Tensor::from_slice(&[4, 6], &dense));
    g.add_weight("integers", Tensor::from_slice(&[3], &[1_i64, -2, 3]));
    g.add_weight("csr", stored(true, csr.clone().into()));
    g.add_weight("blocks", stored(true, by(&csr, "block:2x2")));
    g.add_weight("nm", stored(true, by(&csr, "nm:2:4")));
    if version >= 2 {
        g.add_weight("int8", stored(true, narrow(ValueType::Int8).into()));
        g.add_weight("bf16", stored(false, narrow(ValueType::Bf16).into()));
        g.add_weight("bf16 csr", stored(false, narrow(ValueType::Bf16).to_csr().into()));
    }
    if version >= 3 {
        g.add_weight("bits", stored(true, csr.with_bitmap().into()));
        g.add_weight("int8 bits", stored(false, narrow(ValueType::Int8).to_csr().with_bitmap().into()));
    }
    if version >= 4 {
        g.add_weight("int8 blocks", stored(true, by(&narrow(ValueType::Int8).to_csr(), "block:2x2")));
        g.add_weight("bf16 nm", stored(false, by(&narrow(ValueType::Bf16).to_csr(), "nm:2:4")));
        let form = MatrixForm::split(&[2, 2, 6], 2, false).unwrap();
        g.add_weight("directions", MatrixWeight::new(vec![2, 2, 6], form, csr.clone()).unwrap());
        let form = MatrixForm { parts: 2, rows: 2, cols: 6, transposed: true };
        let matrix = narrow(ValueType::F16);
        g.add_weight("groups", MatrixWeight::new(vec![2, 6, 2], form, matrix).unwrap());
    }
    let y = g.add_node(Op::Binary(Binary::Add), &[x, x], "y");
    g.outputs.push(y);
    g
}

#[test]
fn files_of_older_versions_still_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/artifact/fixtures");
    for version in 1..=VERSION {
        let (path, graph) = (folder.join(format!("{version}.safetensors")), fixture(version));
        if std::env::var_os("PODA_BLESS").is_some() && !path.exists() {
            save(&graph, &path).unwrap();
        }
        let file = safetensors::read(&path).unwrap();
        assert_eq!(file.metadata()[VERSION_KEY], version.to_string());
        assert_eq!(parse(&file).unwrap(), graph);
        // What needs no newer version is written as the old one.
        let mut bytes = Vec::new();
        write(&mut bytes, &graph).unwrap();
        assert_eq!(bytes, std::fs::read(&path).unwrap(), "version {version}");
    }
}
