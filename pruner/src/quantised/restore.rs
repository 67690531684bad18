//! The integers put back, into whatever has become of a graph: values are known by their names, what is gone is gone, and where
//! one of another kind has come in between, it is quantised or dequantised.

use std::collections::{HashMap, HashSet};

use poda_formats::op::Binary;
use poda_formats::{DataType, Dim, Graph, GraphError, Node, Op, Tensor, Value, ValueId, Weight};

use super::groups::moved;
use super::steps::{self, Steps};
use super::{Made, Quantised, Was};
use crate::compact::UniqueNames;

impl Quantised {
    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// `graph`, which has come of the one that was separated, with integers again.
    ///
    /// # Errors
    /// When the result is not well formed.
    pub(crate) fn restore(&self, graph: &Graph) -> Result<Graph, GraphError> {
        let mut graph = graph.clone();
        if self.is_empty() {
            return Ok(graph);
        }
        // Names of constants that nothing uses are free.
        graph.remove_unused();
        let names = UniqueNames::of(&graph);
        let nodes = std::mem::take(&mut graph.nodes);
        let mut restore = Restore {
            was: self,
            names,
            live: HashMap::new(),
            steps: HashMap::new(),
            constants: HashMap::new(),
            dequantised: HashMap::new(),
            scaled: HashMap::new(),
            gone: HashSet::new(),
            made: Vec::with_capacity(nodes.len()),
            graph,
        };
        restore.find_live(&nodes);
        let uses = Uses::of(&restore.graph, &nodes);
        for (at, node) in nodes.iter().enumerate() {
            restore.node(at, node, &nodes, &uses);
        }
        let Restore { mut graph, made, .. } = restore;
        graph.nodes = made;
        graph.remove_unused();
        graph.normalize()?;
        Ok(graph)
    }
}

/// Who uses a value.
struct Uses {
    nodes: HashMap<ValueId, Vec<usize>>,
    outputs: HashSet<ValueId>,
}

impl Uses {
    fn of(graph: &Graph, nodes: &[Node]) -> Self {
        let mut uses: HashMap<ValueId, Vec<usize>> = HashMap::new();
        for (at, node) in nodes.iter().enumerate() {
            node.inputs.iter().flatten().for_each(|id| uses.entry(*id).or_default().push(at));
        }
        Self { nodes: uses, outputs: graph.outputs.iter().copied().collect() }
    }

    /// The one node that uses a value.
    fn only(&self, id: ValueId) -> Option<usize> {
        match self.nodes.get(&id)?[..] {
            [only] if !self.outputs.contains(&id) => Some(only),
            _ => None,
        }
    }
}

struct Restore<'a> {
    was: &'a Quantised,
    graph: Graph,
    names: UniqueNames,
    /// Values that are integers again, and their groups.
    live: HashMap<ValueId, usize>,
    /// Of weights among them, the steps that they are in now.
    steps: HashMap<ValueId, Steps>,
    /// Scales and zero points that were added, by the name that they were to have.
    constants: HashMap<String, Vec<ValueId>>,
    dequantised: HashMap<ValueId, ValueId>,
    /// By what scales a product of integers, both scales.
    scaled: HashMap<ValueId, [ValueId; 2]>,
    /// Nodes that became part of another.
    gone: HashSet<usize>,
    made: Vec<Node>,
}

impl Restore<'_> {
    fn made(&self, id: Option<ValueId>) -> Option<&Made> {
        self.was.made.get(&self.graph.value(id?).name)
    }

    /// Finds the values that can be integers again, and makes them of weights.
    fn find_live(&mut self, nodes: &[Node]) {
        let made = |(at, node): (usize, &Node)| {
            node.outputs.iter().flatten().map(move |id| (*id, at)).collect::<Vec<_>>()
        };
        let makers: HashMap<ValueId, usize> = nodes.iter().enumerate().flat_map(made).collect();
        let outside: HashSet<ValueId> =
            self.graph.inputs.iter().chain(&self.graph.outputs).copied().collect();
        let mut biases = Vec::new();
        for index in 0..self.graph.values.len() as u32 {
            let id = ValueId(index);
            let value = self.graph.value(id);
            let group = self.was.members.get(&value.name).copied();
            let Some(group) = group.filter(|_| !outside.contains(&id)) else { continue };
            if value.weight.is_some() {
                if self.was.groups[group].dtype == DataType::I32 {
                    biases.push((id, group));
                } else {
                    self.weight(id, group);
                }
                continue;
            }
            let Some(maker) = makers.get(&id).map(|&at| &nodes[at]) else { continue };
            let fits = match self.made(Some(id)) {
                Some(Made::Quantised(_) | Made::Whole) => matches!(maker.op, Op::Clip),
                Some(Made::Dynamic) => matches!(maker.op, Op::Identity),
                _ => moved(maker).is_some(),
            };
            if fits {
                self.live.insert(id, group);
            }
        }
        // Steps that a run finds are gone with what found them.
        let names: HashSet<&str> = self.live.keys().map(|id| self.graph.value(*id).name.as_str()).collect();
        let found: Vec<bool> = self
            .was
            .groups
            .iter()
            .map(|group| group.steps.as_ref().err().is_none_or(|maker| names.contains(maker.as_str())))
            .collect();
        self.live.retain(|_, group| found[*group]);
        for (id, group) in biases {
            self.bias(id, group, nodes);
        }
        for (id, group) in &self.live {
            self.graph.value_mut(*id).dtype = Some(self.was.groups[*group].dtype);
        }
    }

    /// The floats that a weight is now.
    fn floats(&self, id: ValueId) -> Option<Tensor> {
        let dense = self.graph.weight(id)?.to_dense().ok()?;
        (dense.dtype() == DataType::F32).then_some(dense)
    }

    fn weight(&mut self, id: ValueId, group: usize) {
        let stored = self.was.weights.get(&self.graph.value(id).name);
        let Some((was, values)) = stored.zip(self.floats(id)) else { return };
        let Some((tensor, steps)) = was.steps.integers(&was.tensor, &values) else { return };
        // A weight among what else is in its group keeps the steps of that.
        let shared = self.was.members.values().filter(|&&other| other == group).count() > 1;
        if !shared || steps == was.steps {
            self.store(id, group, tensor, steps);
        }
    }

    fn store(&mut self, id: ValueId, group: usize, tensor: Tensor, steps: Steps) {
        let value = self.graph.value_mut(id);
        value.shape = Some(tensor.shape().iter().map(|&d| Dim::Fixed(d)).collect());
        value.weight = Some(Weight::Tensor(tensor));
        self.live.insert(id, group);
        self.steps.insert(id, steps);
    }

    /// A bias is in steps of its product's operands.
    fn bias(&mut self, id: ValueId, group: usize, nodes: &[Node]) {
        let users = nodes.iter().filter(|node| node.inputs.contains(&Some(id)));
        let [user] = users.collect::<Vec<_>>()[..] else { return };
        if !matches!(user.op, Op::Conv(_) | Op::Gemm { .. }) || user.input(2) != Some(id) {
            return;
        }
        let steps = |id: Option<ValueId>| self.constant_steps(id?);
        let (Some(input), Some(weights)) = (steps(user.input(0)), steps(user.input(1))) else { return };
        let (&[input], Some(values)) = (input.scale.as_slice::<f32>().unwrap_or(&[]), self.floats(id)) else {
            return;
        };
        let Some((tensor, new)) = steps::bias(&values, input, &weights) else { return };
        // What has not changed is what it was, bit by bit.
        let Some(was) = self.was.weights.get(&self.graph.value(id).name) else { return };
        let same = was.steps.floats(&was.tensor).as_ref() == Some(&values)
            && was.steps.scale.bytes() == new.scale.bytes();
        if same {
            self.store(id, group, was.tensor.clone(), was.steps.clone());
        } else {
            self.store(id, group, tensor, new);
        }
    }

    /// The steps that integers are in, where they are constant.
    fn constant_steps(&self, id: ValueId) -> Option<Steps> {
        let group = *self.live.get(&id)?;
        let steps = self.steps.get(&id).or(self.was.groups[group].steps.as_ref().ok());
        steps.cloned()
    }

    /// Scale, zero point and axis of a group, or of a weight of its own steps.
    fn scale(&mut self, id: Option<ValueId>, group: usize) -> (ValueId, Option<ValueId>, i64) {
        let was = &self.was.groups[group];
        let [scale, zero] = was.names.clone();
        let steps = id.and_then(|id| self.steps.get(&id)).or(was.steps.as_ref().ok()).cloned();
        let Some(steps) = steps else {
            let mut of_run = |name: Option<String>, dtype| {
                let name = name.unwrap_or_default();
                if let Some(known) = self.constants.get(&name) {
                    return known[0];
                }
                let value = Value { dtype: Some(dtype), shape: Some(Vec::new()), ..Value::default() };
                let id = self.graph.add_value(Value { name: self.names.unique(&name), ..value });
                self.constants.insert(name, vec![id]);
                id
            };
            return (of_run(scale, DataType::F32), Some(of_run(zero, DataType::U8)), 0);
        };
        let base = id.map(|id| self.graph.value(id).name.clone()).unwrap_or_default();
        let axis = if steps.scale.len() > 1 { steps.axis } else { 1 };
        let scale = self.constant(&scale.unwrap_or_else(|| format!("{base}.scale")), &steps.scale);
        let zero_name = zero.unwrap_or_else(|| format!("{base}.zero_point"));
        let zero = steps.zero.as_ref().map(|zero| self.constant(&zero_name, zero));
        (scale, zero, axis)
    }

    /// A constant of that name if no other has it.
    fn constant(&mut self, name: &str, tensor: &Tensor) -> ValueId {
        let is =
            |id: &ValueId| self.graph.weight(*id).and_then(|w| w.to_dense().ok()).as_ref() == Some(tensor);
        if let Some(id) = self.constants.get(name).into_iter().flatten().find(|id| is(id)) {
            return *id;
        }
        if let Some(id) = self.graph.find(name).filter(is) {
            return id;
        }
        let unique = self.names.unique(name);
        let id = self.graph.add_weight(unique, tensor.clone());
        self.constants.entry(name.to_owned()).or_default().push(id);
        id
    }

    fn node(&mut self, at: usize, node: &Node, nodes: &[Node], uses: &Uses) {
        if self.gone.contains(&at) || self.whole(node, nodes, uses) || self.integers(node, nodes, uses) {
            return;
        }
        let output = node.output(0);
        let group = output.and_then(|id| self.live.get(&id).copied());
        let made = self.made(output);
        if let (Some(Made::Scaled { product, scales }), Some(both)) =
            (made, output.and_then(|id| self.scaled.get(&id).copied()))
        {
            let (product, name) = (*product, scales.clone());
            let name = self.names.unique(&name);
            let value = Value { name: name.clone(), dtype: Some(DataType::F32), ..Value::default() };
            let scales = self.graph.add_value(value);
            let op = || Op::Binary(Binary::Mul);
            let (inputs, outputs) = (both.map(Some).to_vec(), vec![Some(scales)]);
            self.made.push(Node { name, op: op(), inputs, outputs });
            let mut inputs = vec![node.input(0), Some(scales)];
            inputs.swap(0, product);
            self.made.push(Node { op: op(), inputs, ..node.clone() });
            return;
        }
        match (made, group) {
            (Some(Made::Quantised(op)), Some(group)) => {
                let op = op.clone();
                self.quantise(node, op, group);
            }
            (Some(Made::Whole), Some(group)) => {
                let op = self.quantising(group);
                self.quantise(node, op, group);
            }
            (Some(Made::Dynamic), Some(group)) => {
                let input = self.float(node.input(0));
                let (scale, zero, _) = self.scale(None, group);
                let outputs = vec![output, Some(scale), zero];
                let op = Op::DynamicQuantizeLinear;
                self.made.push(Node { name: node.name.clone(), op, inputs: vec![input], outputs });
            }
            (Some(Made::Dequantised(op)), None)
                if matches!(node.op, Op::Identity)
                    && node.input(0).is_some_and(|id| self.live.contains_key(&id)) =>
            {
                let (op, id) = (op.clone(), node.input(0).expect("a live value"));
                let (scale, zero, _) = self.scale(Some(id), self.live[&id]);
                let inputs = with_zero(id, scale, zero);
                self.made.push(Node { name: node.name.clone(), op, inputs, outputs: node.outputs.clone() });
            }
            (_, Some(group)) => {
                let mut node = node.clone();
                let data = moved(&node).unwrap_or(0..0);
                for input in &mut node.inputs[data] {
                    *input = self.in_steps(*input, group);
                }
                self.made.push(node);
            }
            _ => {
                let mut node = node.clone();
                for input in &mut node.inputs {
                    *input = self.float(*input);
                }
                self.made.push(node);
            }
        }
    }

    /// The operator that quantises to a group's type.
    fn quantising(&self, group: usize) -> Op {
        let Was { dtype, steps, .. } = &self.was.groups[group];
        let typed = steps.as_ref().is_ok_and(|steps| steps.zero.is_some()) || *dtype == DataType::U8;
        let to = if typed { None } else { Some(*dtype) };
        Op::QuantizeLinear { axis: 1, block_size: 0, saturate: true, to }
    }

    fn quantise(&mut self, node: &Node, op: Op, group: usize) {
        let input = self.float(node.input(0));
        let (scale, zero, _) = self.scale(None, group);
        let mut inputs = vec![input, Some(scale)];
        inputs.extend(zero.map(Some));
        self.made.push(Node { name: node.name.clone(), op, inputs, outputs: node.outputs.clone() });
    }

    /// A value as floats.
    fn float(&mut self, id: Option<ValueId>) -> Option<ValueId> {
        let id = id?;
        let Some(&group) = self.live.get(&id) else { return Some(id) };
        if let Some(found) = self.dequantised.get(&id) {
            return Some(*found);
        }
        let (scale, zero, axis) = self.scale(Some(id), group);
        let Value { name, shape, .. } = self.graph.value(id).clone();
        let (node, result) = self.was.floats.get(&name).cloned().unwrap_or_else(|| {
            let name = format!("{name}.dequantized");
            (name.clone(), name)
        });
        let name = self.names.unique(&result);
        let result =
            self.graph.add_value(Value { name, dtype: Some(DataType::F32), shape, ..Value::default() });
        let op = Op::DequantizeLinear { axis, block_size: 0 };
        self.made.push(Node {
            name: node,
            op,
            inputs: with_zero(id, scale, zero),
            outputs: vec![Some(result)],
        });
        self.dequantised.insert(id, result);
        Some(result)
    }

    /// A value in the steps of a group.
    fn in_steps(&mut self, id: Option<ValueId>, group: usize) -> Option<ValueId> {
        let id = id?;
        if self.live.get(&id) == Some(&group) {
            return Some(id);
        }
        let float = self.float(Some(id))?;
        let base = format!("{}.quantized", self.graph.value(id).name);
        let name = self.names.unique(&base);
        let shape = self.graph.value(id).shape.clone();
        let dtype = Some(self.was.groups[group].dtype);
        let result = self.graph.add_value(Value { name: name.clone(), dtype, shape, ..Value::default() });
        let node = Node { name, op: Op::Identity, inputs: vec![Some(float)], outputs: vec![Some(result)] };
        let op = self.quantising(group);
        self.quantise(&node, op, group);
        Some(result)
    }

    /// A product of floats whose result is quantised as one of integers, where all operands are some again.
    fn whole(&mut self, node: &Node, nodes: &[Node], uses: &Uses) -> bool {
        let op = match &node.op {
            Op::Conv(attributes) => Op::QLinearConv(attributes.clone()),
            Op::MatMul => Op::QLinearMatMul,
            _ => return false,
        };
        let Some(clip) = node.output(0).and_then(|id| uses.only(id)) else { return false };
        let output = nodes[clip].output(0);
        let group = output.and_then(|id| self.live.get(&id).copied());
        let (Some(Made::Whole), Some(group)) = (self.made(output), group) else { return false };
        let constant = |id: &Option<ValueId>| id.is_none_or(|id| self.constant_steps(id).is_some());
        let single = |id: Option<ValueId>| {
            id.and_then(|id| self.constant_steps(id)).is_some_and(|steps| steps.scale.len() == 1)
        };
        if !node.inputs.iter().all(constant) || !single(node.input(0)) {
            return false;
        }
        let mut inputs = Vec::new();
        for id in node.inputs.iter().take(2).copied() {
            let (scale, zero, _) = self.scale(id, self.live[&id.expect("operands of a product")]);
            let zero = zero.unwrap_or_else(|| self.no_zero(id));
            inputs.extend([id, Some(scale), Some(zero)]);
        }
        let (scale, zero, _) = self.scale(None, group);
        let zero = zero.unwrap_or_else(|| self.no_zero(output));
        inputs.extend([Some(scale), Some(zero)]);
        inputs.extend(node.input(2).map(Some));
        self.made.push(Node { name: node.name.clone(), op, inputs, outputs: vec![output] });
        self.gone.insert(clip);
        true
    }

    /// The zero point of integers that have none.
    fn no_zero(&mut self, like: Option<ValueId>) -> ValueId {
        let dtype = like.and_then(|id| self.graph.value(id).dtype).unwrap_or(DataType::U8);
        self.constant("zero_point", &Tensor::zeros(dtype, &[]))
    }

    /// A product of floats as one of integers that is scaled afterwards, where both are some again.
    fn integers(&mut self, node: &Node, nodes: &[Node], uses: &Uses) -> bool {
        if !matches!(self.made(node.output(0)), Some(Made::Integers)) {
            return false;
        }
        let op = match &node.op {
            Op::Conv(attributes) if node.input(2).is_none() => Op::ConvInteger(attributes.clone()),
            Op::MatMul => Op::MatMulInteger,
            _ => return false,
        };
        let cast = node.output(0).and_then(|id| uses.only(id)).map(|at| &nodes[at]);
        let cast = cast.filter(|cast| matches!(cast.op, Op::Cast { to: DataType::F32 }));
        let scaled = cast.and_then(|cast| uses.only(cast.output(0)?)).map(|at| &nodes[at]);
        let scaled = scaled.filter(|node| matches!(node.op, Op::Identity)).and_then(|node| node.output(0));
        let (Some(scaled), (Some(a), Some(b))) = (scaled, (node.input(0), node.input(1))) else {
            return false;
        };
        let groups = (self.live.get(&a).copied(), self.live.get(&b).copied());
        let (Some(Made::Scaled { .. }), (Some(of_a), Some(of_b))) = (self.made(Some(scaled)), groups) else {
            return false;
        };
        let (scale_a, zero_a, _) = self.scale(Some(a), of_a);
        let (scale_b, zero_b, _) = self.scale(Some(b), of_b);
        let zero_a = zero_a.unwrap_or_else(|| self.no_zero(Some(a)));
        let mut inputs = vec![Some(a), Some(b), Some(zero_a)];
        inputs.extend(zero_b.map(Some));
        if let Some(id) = node.output(0) {
            self.graph.value_mut(id).dtype = Some(DataType::I32);
        }
        self.made.push(Node { op, inputs, ..node.clone() });
        self.scaled.insert(scaled, [scale_a, scale_b]);
        true
    }
}

fn with_zero(id: ValueId, scale: ValueId, zero: Option<ValueId>) -> Vec<Option<ValueId>> {
    let mut inputs = vec![Some(id), Some(scale)];
    inputs.extend(zero.map(Some));
    inputs
}
