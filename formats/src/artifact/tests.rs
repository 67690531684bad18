use proptest::prelude::*;

use super::*;
use crate::dtype::Boolean;
use crate::op::{Binary, Op, Unary};
use crate::sparse::CsrMatrix;
use crate::storage::{ALIGNMENT, AlignedBytes, Storage};

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
    let sparse = g.add_weight("w", CsrWeight::new(vec![3, 3], true, matrix).unwrap());
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
        let weights = g.values.iter().filter_map(|v| v.weight.clone());
        weights
            .flat_map(|weight| match weight {
                Weight::Dense(tensor) => vec![tensor],
                Weight::Csr(csr) => {
                    let arrays = csr.arrays();
                    vec![arrays.indptr().clone(), arrays.indices().clone(), arrays.values().clone()]
                }
            })
            .collect()
    };
    for tensor in back.with_bodies().into_iter().flat_map(tensors) {
        assert!(tensor.is_empty() || (tensor.bytes().as_ptr() as usize).is_multiple_of(ALIGNMENT));
    }
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
fn every_truncation_is_refused() {
    let bytes = bytes_of(&sample());
    for len in 0..bytes.len() {
        assert!(parse_bytes(&bytes[..len]).is_err(), "{len} of {} bytes", bytes.len());
    }
}

#[test]
fn what_this_version_does_not_know_is_refused_by_name() {
    let cases = [
        ("\"poda.version\":\"1\"", "\"poda.version\":\"2\"", "version \"2\""),
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
    fn mutations_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = bytes_of(&sample());
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
