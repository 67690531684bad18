//! Which integers of a graph stand for real numbers in a way that floats can take over: groups of values in the same steps, from
//! where they are quantised (or stored) to where they are dequantised or multiplied.

use std::collections::HashMap;

use poda_formats::op::{Binary, PoolKind};
use poda_formats::{DataType, Graph, Node, Op, Tensor, ValueId, Weight};

use super::steps::{Steps, range};

/// Integers in the same steps.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) dtype: DataType,
    pub(super) of: Scale,
    /// Names of scale and zero point.
    pub(super) names: [Option<String>; 2],
}

/// Where scale and zero point come from.
#[derive(Debug, Clone)]
pub(super) enum Scale {
    Constant(Steps),
    /// From the run: outputs 1 and 2 of the DynamicQuantizeLinear node that makes this value.
    Dynamic {
        quantised: ValueId,
    },
}

/// A product of integers whose result is scaled: `Mul(Cast(MatMulInteger(a, b)), Mul(a's scale, b's scale))`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scaled {
    /// The last Mul, and which of its inputs is the product.
    pub(super) mul: usize,
    pub(super) product: usize,
    pub(super) scale_a: ValueId,
    pub(super) scale_b: ValueId,
}

/// What is known of a graph's integers.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// By value: number of its group.
    members: HashMap<ValueId, usize>,
    pub(super) all: Vec<Group>,
    /// By index of a MatMulInteger or ConvInteger that floats can take over.
    pub(super) scaled: HashMap<usize, Scaled>,
}

impl Groups {
    /// The group of a value whose integers floats can take over.
    pub(super) fn of(&self, id: Option<ValueId>) -> Option<usize> {
        self.members.get(&id?).copied()
    }

    pub(super) fn members(&self) -> impl Iterator<Item = (ValueId, usize)> {
        self.members.iter().map(|(&id, &group)| (id, group))
    }

    pub(super) fn find(graph: &Graph) -> Self {
        Search::new(graph).found()
    }
}

/// The inputs that hold data, of an operator that only moves elements or takes the greatest; `None` of any other.
pub(super) fn moved(node: &Node) -> Option<std::ops::Range<usize>> {
    match &node.op {
        Op::Concat { .. } => Some(0..node.inputs.len()),
        Op::Cast { .. } | Op::CastLike => None,
        Op::Pool(pool) if matches!(pool.kind, PoolKind::Max) && node.output(1).is_none() => Some(0..1),
        op => op.moves().then_some(0..1),
    }
}

/// A place where a node reads or makes integers in steps.
struct Port {
    node: usize,
    value: ValueId,
    scale: Of,
    zero: Option<ValueId>,
    axis: i64,
}

/// What the scale of a port is.
#[derive(Clone, Copy)]
enum Of {
    Value(ValueId),
    /// The product of two: that of a convolution's bias.
    Product(ValueId, ValueId),
}

struct Search<'a> {
    graph: &'a Graph,
    producers: Vec<Option<usize>>,
    consumers: Vec<Vec<usize>>,
    parents: Vec<u32>,
    ports: Vec<Port>,
    scaled: HashMap<usize, Scaled>,
    /// By value that stands for its group: that integers stay.
    stays: Vec<bool>,
}

impl<'a> Search<'a> {
    fn new(graph: &'a Graph) -> Self {
        let values = graph.values.len();
        Self {
            graph,
            producers: graph.producers(),
            consumers: graph.consumers(),
            parents: (0..values as u32).collect(),
            ports: Vec::new(),
            scaled: HashMap::new(),
            stays: vec![false; values],
        }
    }

    fn root(&mut self, id: ValueId) -> usize {
        let mut at = id.index();
        while self.parents[at] as usize != at {
            self.parents[at] = self.parents[self.parents[at] as usize];
            at = self.parents[at] as usize;
        }
        at
    }

    fn stay(&mut self, id: ValueId) {
        let root = self.root(id);
        self.stays[root] = true;
    }

    fn found(mut self) -> Groups {
        for (at, node) in self.graph.nodes.iter().enumerate() {
            if !self.ports_of(at, node) {
                let touched: Vec<ValueId> =
                    node.inputs.iter().chain(&node.outputs).flatten().copied().collect();
                touched.into_iter().for_each(|id| self.stay(id));
            }
        }
        if self.ports.is_empty() {
            return Groups::default();
        }
        for id in self.graph.inputs.iter().chain(&self.graph.outputs) {
            self.stay(*id);
        }
        self.scales_stay_inside();
        let by_root = self.by_root();
        let mut groups: HashMap<usize, Group> = HashMap::new();
        for (root, values) in &by_root {
            match self.group(*root, values) {
                Some(group) => {
                    groups.insert(*root, group);
                }
                None => self.stays[*root] = true,
            }
        }
        self.all_or_none();
        let mut found = Groups::default();
        for (root, values) in by_root {
            let Some(group) = groups.remove(&root).filter(|_| !self.stays[root]) else { continue };
            found.members.extend(values.into_iter().map(|id| (id, found.all.len())));
            found.all.push(group);
        }
        let nodes = &self.graph.nodes;
        let taken = |node: &usize| nodes[*node].inputs[..2].iter().all(|id| found.of(*id).is_some());
        found.scaled = self.scaled.into_iter().filter(|(node, _)| taken(node)).collect();
        found
    }

    /// Notes what a node reads and makes of integers; joins what it moves. Gives whether it takes floats as well.
    fn ports_of(&mut self, at: usize, node: &Node) -> bool {
        if let Some(data) = moved(node) {
            let Some(first) = node.input(data.start) else { return false };
            let root = self.root(first);
            for id in node.inputs[data].iter().chain(&node.outputs).flatten() {
                let other = self.root(*id);
                self.stays[root] |= self.stays[other];
                self.parents[other] = root as u32;
            }
            return true;
        }
        let mut ports = Vec::new();
        let mut port = |value: Option<ValueId>, scale: Option<ValueId>, zero: Option<ValueId>, axis: i64| {
            let (Some(value), Some(scale)) = (value, scale) else { return };
            ports.push(Port { node: at, value, scale: Of::Value(scale), zero, axis });
        };
        let i = |index: usize| node.input(index);
        match &node.op {
            Op::QuantizeLinear { axis, block_size: 0, .. } => port(node.output(0), i(1), i(2), *axis),
            Op::DequantizeLinear { axis, block_size: 0 } => port(i(0), i(1), i(2), *axis),
            Op::DynamicQuantizeLinear => port(node.output(0), node.output(1), node.output(2), 0),
            Op::QLinearMatMul => {
                port(i(0), i(1), i(2), -2);
                port(i(3), i(4), i(5), -1);
                port(node.output(0), i(6), i(7), 0);
            }
            Op::QLinearConv(_) => {
                port(i(0), i(1), i(2), 1);
                port(i(3), i(4), i(5), 0);
                port(node.output(0), i(6), i(7), 1);
                if let (Some(bias), Some(x), Some(w)) = (i(8), i(1), i(4)) {
                    ports.push(Port { node: at, value: bias, scale: Of::Product(x, w), zero: None, axis: 0 });
                }
            }
            Op::MatMulInteger | Op::ConvInteger(_) => {
                let Some(scaled) = self.scaled(node) else { return false };
                // One scale for each filter would lie along another axis than the result's last.
                let axis = if matches!(node.op, Op::MatMulInteger) { -1 } else { i64::MAX };
                port(i(0), Some(scaled.scale_a), i(2), i64::MAX);
                port(i(1), Some(scaled.scale_b), i(3), axis);
                self.scaled.insert(at, scaled);
            }
            _ => return false,
        }
        self.ports.extend(ports);
        true
    }

    /// The one node that uses a value.
    fn only_use(&self, id: ValueId) -> Option<usize> {
        match self.consumers[id.index()][..] {
            [only] if !self.graph.outputs.contains(&id) => Some(only),
            _ => None,
        }
    }

    /// How the result of a product of integers is scaled, where it is as exporters write it.
    fn scaled(&self, node: &Node) -> Option<Scaled> {
        let nodes = &self.graph.nodes;
        let cast = self.only_use(node.output(0)?)?;
        if !matches!(nodes[cast].op, Op::Cast { to: DataType::F32 }) {
            return None;
        }
        let wide = nodes[cast].output(0)?;
        let mul = self.only_use(wide)?;
        let is_product = |node: &Node| matches!(node.op, Op::Binary(Binary::Mul));
        let product = usize::from(nodes[mul].input(1) == Some(wide));
        let scales = nodes[mul].input(1 - product)?;
        let scales = &nodes[self.producers[scales.index()].filter(|_| self.only_use(scales) == Some(mul))?];
        if !is_product(&nodes[mul]) || !is_product(scales) {
            return None;
        }
        let (a, b) = (scales.input(0)?, scales.input(1)?);
        let (scale_a, scale_b) = if self.graph.weight(a).is_some() { (b, a) } else { (a, b) };
        Some(Scaled { mul, product, scale_a, scale_b })
    }

    /// Scales and zero points that a run finds are used by nothing but what floats take over, or else stay with their integers.
    fn scales_stay_inside(&mut self) {
        let products: Vec<usize> = self.scaled.values().map(|scaled| scaled.mul).collect();
        for node in self.graph.nodes.iter().filter(|node| matches!(node.op, Op::DynamicQuantizeLinear)) {
            let Some(quantised) = node.output(0) else { continue };
            let outside = [1, 2].into_iter().filter_map(|at| node.output(at)).any(|id| {
                let taken = |&at: &usize| match &self.graph.nodes[at].op {
                    Op::DequantizeLinear { .. } | Op::MatMulInteger | Op::ConvInteger(_) => true,
                    Op::Binary(Binary::Mul) => {
                        let made = self.graph.nodes[at].output(0);
                        made.and_then(|id| self.only_use(id)).is_some_and(|mul| products.contains(&mul))
                    }
                    _ => false,
                };
                self.graph.outputs.contains(&id) || !self.consumers[id.index()].iter().all(taken)
            });
            if outside {
                self.stay(quantised);
            }
        }
    }

    /// The values of each group that has a port, in order.
    fn by_root(&mut self) -> Vec<(usize, Vec<ValueId>)> {
        let mut by_root: std::collections::BTreeMap<usize, Vec<ValueId>> = std::collections::BTreeMap::new();
        for at in 0..self.ports.len() {
            let root = self.root(self.ports[at].value);
            by_root.entry(root).or_default();
        }
        for index in 0..self.graph.values.len() as u32 {
            let root = self.root(ValueId(index));
            if let Some(values) = by_root.get_mut(&root) {
                values.push(ValueId(index));
            }
        }
        by_root.into_iter().collect()
    }

    /// The steps that all ports of a group agree on.
    fn group(&mut self, root: usize, values: &[ValueId]) -> Option<Group> {
        if self.stays[root] {
            return None;
        }
        let at: Vec<usize> =
            (0..self.ports.len()).filter(|&at| values.contains(&self.ports[at].value)).collect();
        let graph = self.graph;
        let dynamic = values.iter().find(|id| {
            let maker = self.producers[id.index()].map(|at| &graph.nodes[at].op);
            matches!(maker, Some(Op::DynamicQuantizeLinear))
        });
        let weights: Vec<ValueId> = values.iter().copied().filter(|&id| graph.weight(id).is_some()).collect();
        if let Some(&quantised) = dynamic {
            let maker = &graph.nodes[self.producers[quantised.index()]?];
            let same = |port: &Port| {
                matches!(port.scale, Of::Value(id) if Some(id) == maker.output(1))
                    && port.zero == maker.output(2)
            };
            let alike = at.iter().all(|&at| same(&self.ports[at]));
            let names = [1, 2].map(|at| maker.output(at).map(|id| graph.value(id).name.clone()));
            let of = Scale::Dynamic { quantised };
            return (alike && weights.is_empty()).then_some(Group { dtype: DataType::U8, of, names });
        }
        let mut found: Option<Steps> = None;
        for &at in &at {
            let steps = self.steps(&self.ports[at])?;
            match &found {
                Some(known) if !alike(known, &steps) => return None,
                Some(_) => {}
                None => found = Some(steps),
            }
        }
        let steps = found?;
        let mut dtypes = weights.iter().filter_map(|&id| graph.weight(id)).map(Weight::dtype);
        let quantised = at.iter().find_map(|&at| match &graph.nodes[self.ports[at].node].op {
            Op::QuantizeLinear { to, .. } => *to,
            _ => None,
        });
        let of_zero = steps.zero.as_ref().map(Tensor::dtype);
        let dtype = of_zero.or_else(|| dtypes.clone().next()).or(quantised).unwrap_or(DataType::U8);
        range(dtype)?;
        let single = steps.scale.len() == 1 && steps.zero.as_ref().is_none_or(|zero| zero.len() == 1);
        // Scales of their own lie along an axis, which what moves elements may move.
        let fits = dtypes.all(|other| other == dtype) && (single || values.len() == 1 && weights.len() == 1);
        let mut tensors = weights.iter().filter_map(|&id| graph.weight(id));
        let readable =
            tensors.all(|weight| weight.to_dense().is_ok_and(|dense| steps.floats(&dense).is_some()));
        let named = |id: ValueId| graph.value(id).name.clone();
        let scale = at.iter().find_map(|&at| match self.ports[at].scale {
            Of::Value(id) => Some(named(id)),
            Of::Product(..) => None,
        });
        let names = [scale, at.iter().find_map(|&at| self.ports[at].zero).map(named)];
        (fits && readable).then_some(Group { dtype, of: Scale::Constant(steps), names })
    }

    /// The steps of a port, where they are constant f32.
    fn steps(&self, port: &Port) -> Option<Steps> {
        let scale = match port.scale {
            Of::Value(id) => self.scale(id)?,
            Of::Product(a, b) => product(&self.scale(a)?, &self.scale(b)?)?,
        };
        let zero = match port.zero {
            Some(id) => Some(self.constant(id)?),
            None => None,
        };
        let positive = scale.as_slice::<f32>().ok()?.iter().all(|s| s.is_finite() && *s >= 0.0);
        positive.then_some(Steps { scale, zero, axis: port.axis })
    }

    fn constant(&self, id: ValueId) -> Option<Tensor> {
        self.graph.weight(id)?.to_dense().ok()
    }

    /// A constant scale, or the product of two.
    fn scale(&self, id: ValueId) -> Option<Tensor> {
        if let Some(constant) = self.constant(id) {
            return Some(constant);
        }
        let node = &self.graph.nodes[self.producers[id.index()]?];
        if !matches!(node.op, Op::Binary(Binary::Mul)) {
            return None;
        }
        product(&self.constant(node.input(0)?)?, &self.constant(node.input(1)?)?)
    }

    /// An operator on integers takes floats for all of its operands, or for none.
    fn all_or_none(&mut self) {
        let mut of_node: HashMap<usize, Vec<usize>> = HashMap::new();
        for at in 0..self.ports.len() {
            let root = self.root(self.ports[at].value);
            of_node.entry(self.ports[at].node).or_default().push(root);
        }
        let mut changed = true;
        while changed {
            changed = false;
            for roots in of_node.values() {
                if roots.iter().any(|&root| self.stays[root]) && roots.iter().any(|&root| !self.stays[root]) {
                    roots.iter().for_each(|&root| self.stays[root] = true);
                    changed = true;
                }
            }
        }
    }
}

/// The elementwise product of a scalar and a vector of f32, or of two scalars.
fn product(a: &Tensor, b: &Tensor) -> Option<Tensor> {
    let (one, many) = if a.len() == 1 { (a, b) } else { (b, a) };
    let &[factor] = one.as_slice::<f32>().ok()? else { return None };
    let scaled: Vec<f32> = many.as_slice::<f32>().ok()?.iter().map(|s| s * factor).collect();
    Some(Tensor::from_slice(many.shape(), &scaled))
}

/// Whether both mean the same.
fn alike(a: &Steps, b: &Steps) -> bool {
    let zeros = |steps: &Steps| {
        steps
            .zero
            .as_ref()
            .filter(|zero| zero.bytes().iter().any(|&b| b != 0))
            .map(|zero| zero.bytes().to_vec())
    };
    let single = a.scale.len() == 1 && a.zero.as_ref().is_none_or(|zero| zero.len() == 1);
    a.scale.bytes() == b.scale.bytes() && zeros(a) == zeros(b) && (single || a.axis == b.axis)
}
