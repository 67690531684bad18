//! ONNX's own conformance vectors: each test is a model, inputs and expected outputs.
//!
//! Every test runs three times: node by node through the operators, where what `infer` promises is held against what
//! `run` gives; whole, as a user would run it; and written as ONNX and read again. What is written must be taken by
//! ONNX's checker and ONNX Runtime as well. A test passes, fails, or is refused as unsupported; the refused ones are
//! listed in `tests/data/onnx-unsupported.txt`. A failure breaks the build, and so does any change of that list.
//! With a word as argument (`cargo test --test conformance -- gather`), only tests with that in their names run.

mod compare;
mod interpreter;
mod pack;
mod written;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use poda_formats::onnx::proto::{ModelProto, TensorProto, ValueInfoProto};
use poda_formats::storage::{AlignedBytes, Storage};
use poda_formats::{DataType, Dim, Graph, Op, Tensor, ValueId, onnx};
use poda_runtime::{Model, Options};
use prost::Message;

use written::Written;

/// Why a test did not pass.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Refused, for this reason.
    Unsupported(String),
    /// Wrong, in this way.
    Failed(String),
}

/// One test of the suite.
struct Case {
    graph: Graph,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

impl Case {
    /// From the files of the test's folder, by name.
    fn read(files: &BTreeMap<String, Vec<u8>>) -> Result<Self, Outcome> {
        let model = &files["model.onnx"];
        let storage = Storage::owned(AlignedBytes::copy_of(model));
        let mut graph =
            onnx::read_storage(storage).map_err(|error| refused_by_type(model, &error.to_string()))?;
        if let Some(foreign) = graph.nodes.iter().find_map(|node| match &node.op {
            Op::Foreign(foreign) => Some(foreign),
            _ => None,
        }) {
            return Err(Outcome::Unsupported(format!("{}: {}", foreign.op_type, foreign.reason)));
        }
        let tensors = |prefix: &str, values: &[ValueId]| -> Result<Vec<Tensor>, Outcome> {
            (0..)
                .map_while(|i| files.get(&format!("test_data_set_0/{prefix}_{i}.pb")))
                .enumerate()
                .map(|(i, bytes)| {
                    let declared = values.get(i).and_then(|&id| graph.value(id).dtype);
                    Ok(as_declared(tensor(bytes)?, declared))
                })
                .collect()
        };
        let (inputs, outputs) = (tensors("input", &graph.inputs)?, tensors("output", &graph.outputs)?);
        // Some tests of CastLike give an input another rank than they declare.
        for (&id, tensor) in graph.inputs.clone().iter().zip(&inputs) {
            let declared = &mut graph.value_mut(id).shape;
            if declared.as_ref().is_some_and(|shape| shape.len() != tensor.rank()) {
                *declared = Some(tensor.shape().iter().map(|&size| Dim::Fixed(size)).collect());
            }
        }
        Ok(Self { graph, inputs, outputs })
    }
}

fn beyond_tensors() -> Outcome {
    Outcome::Unsupported("sequences, optional values or strings".to_owned())
}

/// A model that cannot be read is unsupported when it speaks of other things than tensors, or of strings.
fn refused_by_type(model: &[u8], error: &str) -> Outcome {
    let model = ModelProto::decode(model).expect("the suite's models are messages");
    let graph = model.graph.expect("the suite's models have graphs");
    let beyond = format!("{:?}", (&graph.input, &graph.output));
    if ["Sequence", "Optional", "elem_type: 8"].iter().any(|word| beyond.contains(word)) {
        return beyond_tensors();
    }
    Outcome::Failed(format!("not read: {error}"))
}

/// The suite stores bf16 as the u16 of the same bits.
fn as_declared(tensor: Tensor, declared: Option<DataType>) -> Tensor {
    match (tensor.dtype(), declared) {
        (DataType::U16, Some(DataType::BF16)) => {
            Tensor::new(DataType::BF16, tensor.shape().to_vec(), tensor.storage().clone())
                .expect("as many bytes")
        }
        _ => tensor,
    }
}

/// The tensor of a message.
fn tensor(bytes: &[u8]) -> Result<Tensor, Outcome> {
    let proto = TensorProto::decode(bytes).map_err(|_| beyond_tensors())?;
    // The reader knows all encodings of a tensor: let it read a model that is a single weight.
    let name = "tensor".to_owned();
    let proto = TensorProto { name: name.clone(), ..proto };
    let mut model = ModelProto::default();
    let graph = model.graph.get_or_insert_default();
    graph.initializer.push(proto);
    graph.output.push(ValueInfoProto { name, ..ValueInfoProto::default() });
    let storage = Storage::owned(AlignedBytes::copy_of(&model.encode_to_vec()));
    let graph = onnx::read_storage(storage).map_err(|_| beyond_tensors())?;
    let weight = graph.weight(graph.outputs[0]).expect("a weight was read");
    Ok(weight.to_dense().expect("a valid weight"))
}

/// As a user would run it.
fn run_whole(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>, Outcome> {
    let model = Model::from_graph(graph.clone()).map_err(|error| Outcome::Failed(error.to_string()))?;
    let options = Options { threads: Some(1), tune: false, ..Options::default() };
    let executable = model.prepare(options).map_err(|error| Outcome::Failed(error.to_string()))?;
    let names = graph.inputs.iter().map(|&id| graph.value(id).name.as_str());
    let feeds: Vec<_> = names.zip(inputs.iter().map(Tensor::view)).collect();
    let outputs = executable.run(&feeds).map_err(|error| Outcome::Failed(error.to_string()))?;
    Ok(outputs.into_iter().map(|(_, tensor)| tensor).collect())
}

fn check(name: &str, files: &BTreeMap<String, Vec<u8>>, written: &Written) -> Result<(), Outcome> {
    let case = Case::read(files)?;
    let agree = |outputs: &[Tensor], how: &str| {
        compare::outputs(outputs, &case.outputs).map_err(|e| Outcome::Failed(format!("{how}: {e}")))
    };
    agree(&interpreter::run(&case.graph, &case.inputs)?, "node by node")?;
    agree(&run_whole(&case.graph, &case.inputs)?, "whole")?;
    let again = written.add(name, files, &case.graph);
    let again = again.map_err(|error| Outcome::Failed(format!("written: {error}")))?;
    agree(&run_whole(&again, &case.inputs)?, "written")
}

fn main() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let tests = pack::read(&data.join("onnx-tests.tar.zst"));
    let (mut passed, mut failed) = (0, Vec::new());
    let written = Written::new();
    let mut unsupported = BTreeMap::new();
    for (name, files) in tests.iter().filter(|(name, _)| name.contains(&only)) {
        match check(name, files, &written) {
            Ok(()) => passed += 1,
            Err(Outcome::Unsupported(reason)) => {
                unsupported.insert(name.as_str(), reason);
            }
            Err(Outcome::Failed(reason)) => failed.push(format!("{name}: {reason}")),
        }
    }
    println!("ONNX tests: {passed} passed, {} unsupported, {} failed", unsupported.len(), failed.len());
    let refused = written.check();
    assert!(refused.is_ok(), "written models are not taken:\n{}", refused.unwrap_err());
    assert!(failed.is_empty(), "{} ONNX tests failed:\n{}", failed.len(), failed.join("\n"));
    if !only.is_empty() {
        return;
    }

    let list = data.join("onnx-unsupported.txt");
    if std::env::var_os("PODA_BLESS").is_some() {
        let lines = unsupported.iter().map(|(name, reason)| format!("{name}: {reason}\n"));
        std::fs::write(&list, lines.collect::<String>()).expect("the list can be written");
        return;
    }
    let known = std::fs::read_to_string(&list).expect("the list of unsupported tests is there");
    let known: BTreeSet<&str> = known.lines().filter_map(|line| line.split(':').next()).collect();
    let found: BTreeSet<&str> = unsupported.keys().copied().collect();
    let more: Vec<_> = found.difference(&known).map(|name| (name, &unsupported[name])).collect();
    let less: Vec<_> = known.difference(&found).collect();
    assert!(
        more.is_empty() && less.is_empty(),
        "the list of unsupported tests is out of date (PODA_BLESS=1 writes it anew)\nnow unsupported: {more:#?}\n\
         no longer: {less:#?}"
    );
}
