//! Reading: messages become one normalised [`Graph`].
//!
//! Names are resolved through a stack of scopes: one for each graph on the way in (a body of control flow sees the
//! graphs around it), and one for each call of a model-local function (which sees nothing around it, and whose nodes
//! go straight into the graph of the caller). Everything is linear in the size of the file, and what functions and
//! captures expand to is bounded.

mod attributes;
mod builder;
mod call;
mod census;
mod constant;
mod control;
mod error;
mod external;
mod facts;
mod foreign;
mod function;
mod node;
mod scan;
mod scope;
mod tensor;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use prost::Message;

pub(super) use self::attributes::Unsupported;
use self::builder::Builder;
pub(super) use self::call::Call;
use self::external::ExternalData;
use self::function::{Frame, FunctionName};
use self::scope::{Binding, Scope};
use self::tensor::WeightSource;
use super::METADATA_PREFIX;
use super::proto::{
    DimensionValue, FunctionProto, GraphProto, ModelProto, NodeProto, TypeProto, TypeValue, ValueInfoProto,
    data_type,
};
use crate::graph::{Dim, Graph, Value};
use crate::storage::{Load, Storage};
use crate::tensor::Tensor;
use crate::weight::Weight;

pub use self::error::OnnxError;
pub use self::external::{ExternalError, external_locations};
pub use self::tensor::TensorProblem;

/// How deep functions and nested graphs may go, together.
const DEPTH_LIMIT: usize = 64;

/// The highest rank of a tensor.
const RANK_LIMIT: usize = 64;

/// Bytes of memory that a graph may take, roughly: so many whatever the files, and some more for each byte of them. Inlined
/// functions and what bodies capture repeat parts of the file, sparse weights stand for many zeros, unaligned ones are copied; without them, nodes with the shortest names take half.
const GRAPH_LIMIT: (usize, usize) = (1 << 27, 64);

/// Reads the model at `path`, with external data from its folder.
///
/// The file is mapped, and weights that lie aligned in it stay there: see [`Load::Map`] for the contract.
///
/// # Errors
/// When the file cannot be read or is not a valid model. Operators that Poda lacks are no error here.
pub fn read(path: impl AsRef<Path>) -> Result<Graph, OnnxError> {
    let path = path.as_ref();
    let file = Storage::map(path).map_err(|source| OnnxError::Open { path: path.to_owned(), source })?;
    read_file(path, file, Load::Map)
}

/// Reads the model `file`, which is the one at `path`, with external data taken as `load` says.
pub(crate) fn read_file(path: &Path, file: Storage, load: Load) -> Result<Graph, OnnxError> {
    let open = |source| OnnxError::Open { path: path.to_owned(), source };
    read_model(file, ExternalData::beside(path, load).map_err(open)?)
}

/// Reads a model from memory. External data is refused, as there is no folder to find it in.
///
/// # Errors
/// As for [`read`].
pub fn read_storage(file: Storage) -> Result<Graph, OnnxError> {
    read_model(file, ExternalData::none())
}

fn read_model(file: Storage, external: ExternalData) -> Result<Graph, OnnxError> {
    let model = census::decode(file.clone())?;
    let Some(proto) = &model.graph else { return Err(OnnxError::NoGraph) };
    let mut functions = HashMap::new();
    for function in &model.functions {
        if functions.insert(FunctionName::of(function), function).is_some() {
            return Err(OnnxError::DuplicateFunction { function: function.name.clone() });
        }
    }
    let mut reader = Reader {
        functions,
        weights: WeightSource { file, external },
        graphs: Vec::new(),
        scopes: Vec::new(),
        frames: vec![Frame::of_model(&model)?],
        taken: 0,
        overridable: model.ir_version.is_some_and(|version| version >= 4),
    };
    let mut graph = reader.graph(proto)?.graph;
    graph.metadata = metadata(&model);
    graph.normalize()?;
    Ok(graph)
}

fn metadata(model: &ModelProto) -> BTreeMap<String, String> {
    let mut metadata: BTreeMap<String, String> =
        model.metadata_props.iter().map(|entry| (entry.key.clone(), entry.value.clone())).collect();
    let mut note = |key: &str, value: String| {
        if !value.is_empty() {
            metadata.insert(format!("{METADATA_PREFIX}{key}"), value);
        }
    };
    note("ir_version", model.ir_version.map_or_else(String::new, |v| v.to_string()));
    note("producer_name", model.producer_name.clone());
    note("producer_version", model.producer_version.clone());
    note("domain", model.domain.clone());
    note(
        "model_version",
        if model.model_version == 0 { String::new() } else { model.model_version.to_string() },
    );
    for import in &model.opset_import {
        match function::domain(&import.domain) {
            "" => note("opset", import.version.to_string()),
            domain => note(&format!("opset.{domain}"), import.version.to_string()),
        }
    }
    metadata
}

/// The state of reading one model.
struct Reader<'m> {
    functions: HashMap<FunctionName<'m>, &'m FunctionProto>,
    weights: WeightSource,
    /// The graphs being read, each inside the one before.
    graphs: Vec<Builder>,
    scopes: Vec<Scope<'m>>,
    /// The model, then the functions being inlined, each called by the one before.
    frames: Vec<Frame<'m>>,
    /// Bytes that finished bodies, inlined functions and weights not in the file took so far, roughly.
    taken: usize,
    /// Whether an input that is an initializer too may be fed.
    overridable: bool,
}

impl<'m> Reader<'m> {
    /// Reads a graph or a body of control flow; its captures are left in the builder.
    fn graph(&mut self, proto: &'m GraphProto) -> Result<Builder, OnnxError> {
        let level = self.graphs.len();
        self.graphs.push(Builder::default());
        self.graphs[level].graph.name.clone_from(&proto.name);
        self.scopes.push(Scope::of_graph(level));

        let declared: HashMap<&str, &ValueInfoProto> = proto
            .value_info
            .iter()
            .chain(&proto.input)
            .chain(&proto.output)
            .map(|info| (info.name.as_str(), info))
            .collect();
        self.initializers(proto)?;
        self.inputs(proto)?;
        self.declare_outputs(&proto.node, &declared)?;
        for node in &proto.node {
            self.node(node)?;
        }
        for output in &proto.output {
            let id = self.resolve(&output.name, || OnnxError::UndefinedOutput {
                name: output.name.clone(),
                graph: proto.name.clone(),
            })?;
            self.graphs[level].graph.outputs.push(id);
        }
        self.scopes.pop();
        let mut builder = self.graphs.pop().expect("pushed above");
        self.take(builder.bytes())?;
        foreign::remove_unused_sequences(&mut builder.graph);
        Ok(builder)
    }

    fn initializers(&mut self, proto: &'m GraphProto) -> Result<(), OnnxError> {
        for tensor in &proto.initializer {
            let binding = match data_type(tensor.data_type) {
                Ok(_) => {
                    let weight = self.weights.tensor(tensor);
                    self.take(weight.as_ref().map_or(0, own_bytes))?;
                    Binding::Value(Some(self.add_weight(&tensor.name, weight.map(Into::into))?))
                }
                Err(dtype) => Binding::Unsupported(dtype),
            };
            self.bind(proto, &tensor.name, binding)?;
        }
        for sparse in &proto.sparse_initializer {
            let name = sparse.values.as_ref().map_or("", |values| &values.name);
            let left = self.left();
            let weight = self.weights.sparse(sparse, left);
            self.take(weight.as_ref().map_or(0, Weight::bytes))?;
            let id = self.add_weight(name, weight)?;
            self.bind(proto, name, Binding::Value(Some(id)))?;
        }
        Ok(())
    }

    /// Inputs that are initializers too, as all were before IR version 4, only give these a default value: no input, but
    /// since then something else may be fed.
    fn inputs(&mut self, proto: &'m GraphProto) -> Result<(), OnnxError> {
        let weights: HashSet<&str> = self.scope().names.keys().copied().collect();
        for input in &proto.input {
            if weights.contains(input.name.as_str()) {
                if self.overridable {
                    self.override_by(input);
                }
                continue;
            }
            let builder = self.builder();
            let id = builder.add_value(&input.name, declared_value(input.r#type.as_ref()));
            builder.graph.inputs.push(id);
            self.bind(proto, &input.name, Binding::Value(Some(id)))?;
        }
        Ok(())
    }

    /// Lets a run feed something else in place of the weight that `input` gives a default value.
    fn override_by(&mut self, input: &ValueInfoProto) {
        let Some(&Binding::Value(Some(id))) = self.scope().names.get(input.name.as_str()) else { return };
        let declared = declared_value(input.r#type.as_ref());
        let main = self.graphs.len() == 1;
        let value = self.builder().graph.value_mut(id);
        value.overridable = main;
        if declared.shape.as_ref().is_some_and(|shape| value.weight.as_ref().is_some_and(|w| w.fits(shape))) {
            value.shape = declared.shape;
        }
    }

    /// Gives each output of each node a value, so that names resolve whatever the order of nodes, and makes the
    /// outputs of constants weights.
    fn declare_outputs(
        &mut self,
        nodes: &'m [NodeProto],
        declared: &HashMap<&str, &ValueInfoProto>,
    ) -> Result<(), OnnxError> {
        for node in nodes {
            for name in node.output.iter().filter(|name| !name.is_empty()) {
                if self.scope_mut().take_reserved(name) {
                    continue;
                }
                let info = declared.get(name.as_str()).and_then(|info| info.r#type.as_ref());
                let base = format!("{}{name}", self.frame().prefix);
                self.take(0)?;
                let id = self.builder().add_value(&base, declared_value(info));
                if self.scope_mut().names.insert(name, Binding::Value(Some(id))).is_some() {
                    return Err(OnnxError::Duplicate { name: name.clone() });
                }
            }
            if node.op_type == "Constant" && function::domain(&node.domain).is_empty() {
                self.constant(node)?;
            }
        }
        Ok(())
    }

    fn bind(&mut self, graph: &GraphProto, name: &'m str, binding: Binding) -> Result<(), OnnxError> {
        if name.is_empty() {
            return Err(OnnxError::Unnamed { graph: graph.name.clone() });
        }
        match self.scope_mut().names.insert(name, binding) {
            Some(_) => Err(OnnxError::Duplicate { name: name.to_owned() }),
            None => Ok(()),
        }
    }

    fn builder(&mut self) -> &mut Builder {
        self.graphs.last_mut().expect("a graph is being read")
    }

    fn frame(&self) -> &Frame<'m> {
        self.frames.last().expect("the model's frame is always there")
    }

    /// Version of the operator set of `domain` that nodes are of here. A function that imports none takes the model's.
    fn opset(&self, domain: &str) -> Option<i64> {
        [self.frames.last(), self.frames.first()]
            .into_iter()
            .flatten()
            .find_map(|f| f.opsets.get(domain).copied())
    }

    /// Whether a function is being inlined.
    fn in_function(&self) -> bool {
        self.frames.len() > 1
    }

    /// Bytes that the whole graph may take.
    fn limit(&self) -> usize {
        GRAPH_LIMIT.0.saturating_add(self.weights.bytes().saturating_mul(GRAPH_LIMIT.1))
    }

    /// Bytes that may still be taken.
    fn left(&self) -> usize {
        let graphs: usize = self.graphs.iter().map(Builder::bytes).sum();
        self.limit().saturating_sub(self.taken.saturating_add(graphs))
    }

    /// Accounts for memory beyond that of the graphs being read, and checks that all of it is within the limit.
    fn take(&mut self, bytes: usize) -> Result<(), OnnxError> {
        self.taken = self.taken.saturating_add(bytes);
        if self.left() == 0 {
            return Err(OnnxError::Expansion { limit: self.limit() });
        }
        Ok(())
    }
}

/// Bytes of a weight that are not those of a mapped file.
fn own_bytes(tensor: &Tensor) -> usize {
    if tensor.storage().is_mapped() { 0 } else { tensor.bytes().len() }
}

/// What exporters write in place of a name for a dimension of any size.
const NAMELESS: [&str; 3] = ["?", "-1", "None"];

/// A value with the type and shape that the file declares. A negative size, which some exporters write, is any size.
fn declared_value(proto: Option<&TypeProto>) -> Value {
    let other_type = || proto.map(Message::encode_to_vec).filter(|bytes| !bytes.is_empty());
    let Some(TypeValue::Tensor(tensor)) = proto.and_then(|t| t.value.as_ref()) else {
        return Value { other_type: other_type(), ..Value::default() };
    };
    let dim = |dim: &super::proto::Dimension| match &dim.value {
        Some(DimensionValue::DimValue(size)) => {
            usize::try_from(*size).map_or_else(|_| Dim::Symbol(String::new()), Dim::Fixed)
        }
        Some(DimensionValue::DimParam(name)) if !NAMELESS.contains(&name.as_str()) => {
            Dim::Symbol(name.clone())
        }
        Some(DimensionValue::DimParam(_)) | None => Dim::Symbol(String::new()),
    };
    let shape = tensor.shape.as_ref().filter(|shape| shape.dim.len() <= RANK_LIMIT);
    let dtype = data_type(tensor.elem_type).ok();
    Value {
        dtype,
        other_type: if dtype.is_none() && tensor.elem_type != 0 { other_type() } else { None },
        shape: shape.map(|shape| shape.dim.iter().map(dim).collect()),
        ..Value::default()
    }
}
