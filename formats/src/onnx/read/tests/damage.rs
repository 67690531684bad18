//! Damaged models give an error or a graph, and never a panic.

use proptest::prelude::*;

use super::*;
use crate::onnx::proto::FunctionProto;

/// Small models that between them use most of the reader.
fn samples() -> Vec<Vec<u8>> {
    let relu = |input, output| node("Relu", &[input], &[output], vec![]);
    let mut convolution = graph(
        &["x"],
        Some(4),
        vec![
            node("Conv", &["x", "w"], &["c"], vec![ints("pads", &[1, 1, 1, 1]), int("group", 1)]),
            node("Clip", &["c"], &["k"], vec![float("min", 0.0), float("max", 6.0)]),
            node("Softmax", &["k"], &["y"], vec![]),
        ],
        &["y"],
    );
    convolution.initializer = vec![f32s("w", &[1, 1, 2, 2], &[1.0; 4]), i64s("unused", &[1], &[3])];
    let branch = || body("then_branch", graph(&[], None, vec![relu("x", "b")], &["b"]));
    let other = AttributeProto { name: "else_branch".into(), ..branch() };
    let choice = graph(&["c", "x"], None, vec![node("If", &["c"], &["y"], vec![branch(), other])], &["y"]);
    let mut call = model(17, graph(&["x"], None, vec![node("local::F", &["x"], &["y"], vec![])], &["y"]));
    call.opset_import.push(OperatorSetIdProto { domain: "local".into(), version: 1 });
    call.functions.push(FunctionProto {
        name: "F".into(),
        domain: "local".into(),
        input: vec!["a".into()],
        output: vec!["b".into()],
        node: vec![relu("a", "b")],
        ..FunctionProto::default()
    });
    [model(9, convolution), model(13, choice), call].iter().map(Message::encode_to_vec).collect()
}

/// Reads what may be anything; a graph that results is well formed.
fn survives(bytes: &[u8]) {
    if let Ok(mut graph) = read_bytes(bytes) {
        graph.normalize().unwrap();
    }
}

#[test]
fn truncated_at_every_byte() {
    for sample in samples() {
        read_bytes(&sample).unwrap();
        (0..sample.len()).for_each(|len| survives(&sample[..len]));
    }
}

#[test]
fn every_byte_replaced() {
    for sample in samples() {
        for at in 0..sample.len() {
            for byte in [0x00, 0x01, 0x7f, 0x80, 0xff] {
                let mut damaged = sample.clone();
                damaged[at] = byte;
                survives(&damaged);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_damage(
        which in 0..3_usize,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = samples().swap_remove(which);
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        survives(&bytes);
    }
}

#[test]
fn names_that_are_not_text_are_refused() {
    let sample = model(13, graph(&["x"], None, vec![node("Relu", &["x"], &["yy"], vec![])], &["yy"]));
    let mut bytes = sample.encode_to_vec();
    let at = bytes.windows(2).position(|pair| pair == b"yy").unwrap();
    bytes[at] = 0xff;
    let error = read_bytes(&bytes).unwrap_err();
    assert!(matches!(error, OnnxError::Decode(_)), "{error}");
}
