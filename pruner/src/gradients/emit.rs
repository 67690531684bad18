//! Nodes under construction: a graph, and what is known of each of its values.

use poda_formats::op::{Binary, ReduceKind, ScalarValue, Unary};
use poda_formats::{DataType, Graph, Node, Op, Tensor, Value, ValueId};
use poda_runtime::{Analysis, Info, ops};

use super::Refusal;

/// A graph that grows, for concrete shapes of its inputs.
#[derive(Debug)]
pub(crate) struct Emit {
    pub(super) graph: Graph,
    infos: Vec<Option<Info>>,
    prefix: String,
    /// By [`ValueId`]: whether its gradient is asked for, directly or on the way to another.
    pub(super) wanted: Vec<bool>,
}

impl Emit {
    pub(super) fn new(graph: Graph, analysis: &Analysis) -> Self {
        let infos = (0..graph.values.len() as u32).map(|id| analysis.info(ValueId(id)).cloned()).collect();
        let mut prefix = "gradient".to_owned();
        while graph.values.iter().any(|value| value.name.starts_with(&prefix)) {
            prefix.push('_');
        }
        let wanted = vec![false; graph.values.len()];
        Self { graph, infos, prefix, wanted }
    }

    /// Whether the gradient of a value is asked for.
    pub(crate) fn wants(&self, id: Option<ValueId>) -> bool {
        id.is_some_and(|id| self.wanted.get(id.index()).copied().unwrap_or(false))
    }

    pub(super) fn info(&self, id: ValueId) -> Option<&Info> {
        self.infos[id.index()].as_ref()
    }

    /// The concrete shape of a value.
    pub(crate) fn shape(&self, id: ValueId) -> Result<Vec<usize>, Refusal> {
        let shape = self.info(id).and_then(|info| info.shape.clone());
        shape.ok_or_else(|| Refusal::Shape { value: self.graph.value(id).name.clone() })
    }

    /// The element type of a value.
    pub(crate) fn dtype(&self, id: ValueId) -> Result<DataType, Refusal> {
        let dtype = self.info(id).map(|info| info.dtype);
        dtype.ok_or_else(|| Refusal::Shape { value: self.graph.value(id).name.clone() })
    }

    /// The integers of a value that is constant; `None` for an input that is left out.
    pub(crate) fn integers(&self, id: Option<ValueId>) -> Result<Option<Vec<i64>>, Refusal> {
        let Some(id) = id else { return Ok(None) };
        let value = self.info(id).and_then(|info| info.value.as_ref());
        let value = value.ok_or_else(|| Refusal::NotConstant { value: self.graph.value(id).name.clone() })?;
        if let Ok(values) = value.as_slice::<i64>() {
            return Ok(Some(values.to_vec()));
        }
        let values = value.as_slice::<i32>().map_err(poda_runtime::ops::OpError::from)?;
        Ok(Some(values.iter().map(|&v| v.into()).collect()))
    }

    fn value(&mut self, info: Info, weight: Option<Tensor>) -> ValueId {
        let name = format!("{}{}", self.prefix, self.infos.len());
        self.infos.push(Some(info));
        self.wanted.push(false);
        self.graph.add_value(Value { name, weight: weight.map(Into::into), ..Value::default() })
    }

    /// A constant.
    pub(crate) fn constant(&mut self, tensor: Tensor) -> ValueId {
        self.value(Info::constant(tensor.clone()), Some(tensor))
    }

    /// A vector of i64.
    pub(crate) fn ints(&mut self, values: &[i64]) -> ValueId {
        self.constant(Tensor::from_slice(&[values.len()], values))
    }

    fn sizes(&mut self, values: &[usize]) -> ValueId {
        let values: Vec<i64> = values.iter().map(|&v| v as i64).collect();
        self.ints(&values)
    }

    /// A number of the type of `like`, of this shape filled with it.
    pub(crate) fn filled(&mut self, value: f64, shape: &[usize], like: ValueId) -> Result<ValueId, Refusal> {
        let len = shape.iter().product();
        let tensor = match self.dtype(like)? {
            DataType::F32 => Tensor::from_slice(shape, &vec![value as f32; len]),
            DataType::F64 => Tensor::from_slice(shape, &vec![value; len]),
            dtype => return Err(Refusal::Type { dtype }),
        };
        Ok(self.constant(tensor))
    }

    /// A scalar of the type of `like`.
    pub(crate) fn number(&mut self, value: f64, like: ValueId) -> Result<ValueId, Refusal> {
        self.filled(value, &[], like)
    }

    /// Numbers of the type of `like`.
    pub(crate) fn numbers(
        &mut self,
        values: &[f64],
        shape: &[usize],
        like: ValueId,
    ) -> Result<ValueId, Refusal> {
        let tensor = match self.dtype(like)? {
            DataType::F64 => Tensor::from_slice(shape, values),
            _ => Tensor::from_slice(shape, &values.iter().map(|&v| v as f32).collect::<Vec<_>>()),
        };
        Ok(self.constant(tensor))
    }

    /// Zeros that no memory holds between runs.
    pub(crate) fn zeros(&mut self, shape: &[usize], like: ValueId) -> Result<ValueId, Refusal> {
        let value = ScalarValue { dtype: self.dtype(like)?, bits: 0 };
        let shape = self.sizes(shape);
        self.node(Op::ConstantOfShape { value }, &[shape])
    }

    /// A node with one output.
    pub(crate) fn node(&mut self, op: Op, inputs: &[ValueId]) -> Result<ValueId, Refusal> {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        Ok(self.node_of(op, inputs, 1)?[0])
    }

    /// A node with several outputs, and inputs that may be left out.
    pub(crate) fn node_of(
        &mut self,
        op: Op,
        inputs: Vec<Option<ValueId>>,
        outputs: usize,
    ) -> Result<Vec<ValueId>, Refusal> {
        let known: Vec<Option<&Info>> = inputs.iter().map(|id| id.and_then(|id| self.info(id))).collect();
        if let Some((id, _)) = inputs.iter().zip(&known).find(|(id, info)| id.is_some() && info.is_none()) {
            let value = id.map_or_else(String::new, |id| self.graph.value(id).name.clone());
            return Err(Refusal::Shape { value });
        }
        let infos = ops::infer(&op, &known, outputs)?;
        let outputs: Vec<ValueId> = infos.into_iter().map(|info| self.value(info, None)).collect();
        let name = self.graph.value(outputs[0]).name.clone();
        let made = outputs.iter().copied().map(Some).collect();
        self.graph.nodes.push(Node { name, op, inputs, outputs: made });
        Ok(outputs)
    }

    /// Gives node `index` its second output, i64 of this shape, where it had one.
    pub(crate) fn further_output(&mut self, index: usize, shape: &[usize]) -> ValueId {
        let id = self.value(Info::new(DataType::I64, shape.to_vec()), None);
        let node = &mut self.graph.nodes[index];
        node.outputs.truncate(1);
        node.outputs.push(Some(id));
        id
    }

    pub(crate) fn unary(&mut self, function: Unary, x: ValueId) -> Result<ValueId, Refusal> {
        self.node(Op::Unary(function), &[x])
    }

    pub(crate) fn add(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, Refusal> {
        self.node(Op::Binary(Binary::Add), &[a, b])
    }

    pub(crate) fn sub(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, Refusal> {
        self.node(Op::Binary(Binary::Sub), &[a, b])
    }

    pub(crate) fn mul(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, Refusal> {
        self.node(Op::Binary(Binary::Mul), &[a, b])
    }

    pub(crate) fn div(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, Refusal> {
        self.node(Op::Binary(Binary::Div), &[a, b])
    }

    /// `x + number`.
    pub(crate) fn shift(&mut self, x: ValueId, number: f64) -> Result<ValueId, Refusal> {
        let number = self.number(number, x)?;
        self.add(x, number)
    }

    /// `x · number`.
    pub(crate) fn scale(&mut self, x: ValueId, number: f64) -> Result<ValueId, Refusal> {
        if number == 1.0 {
            return Ok(x);
        }
        let number = self.number(number, x)?;
        self.mul(x, number)
    }

    /// `condition ? x : y`.
    pub(crate) fn choose(&mut self, condition: ValueId, x: ValueId, y: ValueId) -> Result<ValueId, Refusal> {
        self.node(Op::Where, &[condition, x, y])
    }

    /// `x` where a comparison with a number holds, 0 elsewhere.
    pub(crate) fn keep_where(
        &mut self,
        x: ValueId,
        value: ValueId,
        comparison: Binary,
        number: f64,
    ) -> Result<ValueId, Refusal> {
        let (number, zero) = (self.number(number, value)?, self.number(0.0, x)?);
        let holds = self.node(Op::Binary(comparison), &[value, number])?;
        self.choose(holds, x, zero)
    }

    /// A reduction over axes that stay, with one element.
    pub(crate) fn reduce(
        &mut self,
        kind: ReduceKind,
        x: ValueId,
        axes: &[usize],
    ) -> Result<ValueId, Refusal> {
        if axes.is_empty() && kind != ReduceKind::SumSquare {
            return Ok(x);
        }
        let axes = self.sizes(axes);
        self.node(Op::Reduce { kind, keep_dims: true, noop_with_empty_axes: true }, &[x, axes])
    }

    pub(crate) fn sum(&mut self, x: ValueId, axes: &[usize]) -> Result<ValueId, Refusal> {
        self.reduce(ReduceKind::Sum, x, axes)
    }

    pub(crate) fn mean(&mut self, x: ValueId, axes: &[usize]) -> Result<ValueId, Refusal> {
        self.reduce(ReduceKind::Mean, x, axes)
    }

    pub(crate) fn reshape(&mut self, x: ValueId, shape: &[usize]) -> Result<ValueId, Refusal> {
        if self.shape(x)? == shape {
            return Ok(x);
        }
        let shape = self.sizes(shape);
        self.node(Op::Reshape { allow_zero: true }, &[x, shape])
    }

    pub(crate) fn expand(&mut self, x: ValueId, shape: &[usize]) -> Result<ValueId, Refusal> {
        if self.shape(x)? == shape {
            return Ok(x);
        }
        let shape = self.sizes(shape);
        self.node(Op::Expand, &[x, shape])
    }

    pub(crate) fn transpose(&mut self, x: ValueId, perm: &[usize]) -> Result<ValueId, Refusal> {
        if perm.iter().enumerate().all(|(i, &p)| i == p) {
            return Ok(x);
        }
        self.node(Op::Transpose { perm: perm.to_vec() }, &[x])
    }

    /// With the last two axes swapped.
    pub(crate) fn matrix_transpose(&mut self, x: ValueId) -> Result<ValueId, Refusal> {
        let rank = self.shape(x)?.len();
        let mut perm: Vec<usize> = (0..rank).collect();
        perm.swap(rank - 2, rank - 1);
        self.transpose(x, &perm)
    }

    pub(crate) fn matmul(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, Refusal> {
        self.node(Op::MatMul, &[a, b])
    }

    /// `A' · B'` of matrices, where `'` may transpose.
    pub(crate) fn gemm(
        &mut self,
        a: ValueId,
        trans_a: bool,
        b: ValueId,
        trans_b: bool,
    ) -> Result<ValueId, Refusal> {
        self.node(Op::Gemm { alpha: 1.0, beta: 1.0, trans_a, trans_b }, &[a, b])
    }

    /// The part `start..start + len` along an axis.
    pub(crate) fn slice(
        &mut self,
        x: ValueId,
        axis: usize,
        start: usize,
        len: usize,
    ) -> Result<ValueId, Refusal> {
        if start == 0 && self.shape(x)?[axis] == len {
            return Ok(x);
        }
        let (start, end, axis) = (self.sizes(&[start]), self.sizes(&[start + len]), self.sizes(&[axis]));
        self.node(Op::Slice, &[x, start, end, axis])
    }

    /// Sums over the axes along which a value of `shape` was broadcast to that of `x`.
    pub(crate) fn sum_to(&mut self, x: ValueId, shape: &[usize]) -> Result<ValueId, Refusal> {
        let from = self.shape(x)?;
        if from == shape {
            return Ok(x);
        }
        let lead = from.len() - shape.len();
        let axes: Vec<usize> = (0..from.len())
            .filter(|&axis| axis < lead || (shape[axis - lead] == 1 && from[axis] != 1))
            .collect();
        let sum = self.sum(x, &axes)?;
        self.reshape(sum, shape)
    }

    /// An axis counted from the front.
    pub(crate) fn axis(&self, x: ValueId, axis: i64) -> Result<usize, Refusal> {
        let rank = self.shape(x)?.len();
        Ok(if axis < 0 { (axis + rank as i64) as usize } else { axis as usize })
    }
}
