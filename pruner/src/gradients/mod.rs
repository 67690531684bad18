//! Gradients as nodes of our own graph (reverse mode: Linnainmaa, 1970; Griewank and Walther, 2008).
//!
//! [`differentiate`] appends to a graph that computes a scalar the nodes that compute its gradient with respect to values of
//! the graph, for concrete shapes of the inputs: one vector-Jacobian rule an operator (`rules`), gone through backwards.
//! The ordinary executor runs the result. Weights that are trained are inputs first ([`Graph::make_input`]), so that each
//! run is fed their present elements.
//!
//! Operators that are sums of others (attention, recurrent layers, …) are first written out in these. What has no rule is
//! refused by name; where an operator gives integers nothing flows back, and a value that the scalar does not depend on in
//! any other way has no gradient.

mod emit;
pub mod loss;
pub mod objective;
mod rules;
pub mod saliency;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use poda_formats::op::Variadic;
use poda_formats::{DataType, Graph, GraphError, Node, Op, ValueId};
use poda_runtime::analysis::analyze;
use poda_runtime::ops::OpError;

pub(crate) use emit::Emit;
use rules::{Call, Rule};

/// Why a graph has no gradient.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum GradientError {
    #[error("node {node:?} ({op}) has no gradient: {reason}")]
    Node { node: String, op: String, reason: Refusal },
    #[error("{name:?} is {shape:?}, one number is expected")]
    NotScalar { name: String, shape: Vec<usize> },
    #[error("node {node:?} ({op}) cannot be analysed: {reason}")]
    Analysis { node: String, op: String, reason: OpError },
    #[error(transparent)]
    Graph(#[from] GraphError),
}

/// Why a rule does not apply.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Refusal {
    #[error("the operator has no rule; exclude what lies before it, or train in another framework")]
    NoRule,
    #[error("{0}")]
    Unsupported(&'static str),
    #[error("the shape of {value:?} depends on a run's data")]
    Shape { value: String },
    #[error("{value:?} is not constant")]
    NotConstant { value: String },
    #[error("it computes in {dtype}, gradients in f32 only")]
    Type { dtype: DataType },
    #[error(transparent)]
    Op(#[from] OpError),
}

/// Appends nodes that compute the gradient of the scalar `of` with respect to each value of `with_respect_to`; gives these
/// gradients, `None` where the scalar does not depend on the value. The graph's outputs stay as they are.
///
/// # Errors
/// When an operator on the way has no rule, naming it, or the shapes do not fit.
pub fn differentiate(
    graph: &mut Graph,
    shapes: &BTreeMap<String, Vec<usize>>,
    of: ValueId,
    with_respect_to: &[ValueId],
) -> Result<Vec<Option<ValueId>>, GradientError> {
    graph.normalize()?;
    let analysis = analyze(graph, shapes);
    if let Some((index, reason)) = analysis.failures.first() {
        let node = &graph.nodes[*index];
        let (node, op) = (node.name.clone(), node.op.name().to_owned());
        return Err(GradientError::Analysis { node, op, reason: reason.clone() });
    }
    let mut emit = Emit::new(std::mem::take(graph), &analysis);
    let result = sweep(&mut emit, of, with_respect_to);
    *graph = emit.graph;
    result
}

fn refuse(node: &Node) -> impl FnOnce(Refusal) -> GradientError {
    let (node, op) = (node.name.clone(), node.op.name().to_owned());
    move |reason| GradientError::Node { node, op, reason }
}

fn sweep(
    emit: &mut Emit,
    of: ValueId,
    with_respect_to: &[ValueId],
) -> Result<Vec<Option<ValueId>>, GradientError> {
    let name = |emit: &Emit| emit.graph.value(of).name.clone();
    let shape = emit.info(of).and_then(|info| info.shape.clone()).unwrap_or_default();
    if shape.iter().product::<usize>() != 1 {
        return Err(GradientError::NotScalar { name: name(emit), shape });
    }
    write_out(emit, with_respect_to)?;
    let scalar = Node { name: name(emit), op: Op::Identity, inputs: vec![], outputs: vec![] };
    let one = emit.filled(1.0, &shape, of).map_err(refuse(&scalar))?;
    let mut parts: Vec<Vec<ValueId>> = vec![Vec::new(); emit.graph.values.len()];
    parts[of.index()].push(one);
    for index in (0..emit.graph.nodes.len()).rev() {
        let node = emit.graph.nodes[index].clone();
        let flows = node.outputs.iter().flatten().any(|id| !parts[id.index()].is_empty());
        if !flows || !node.inputs.iter().any(|&id| emit.wants(id)) {
            continue;
        }
        let refuse = || refuse(&node);
        let mut gradients = Vec::with_capacity(node.outputs.len());
        for output in &node.outputs {
            let given = output.map(|id| std::mem::take(&mut parts[id.index()])).unwrap_or_default();
            gradients.push(total(emit, &given).map_err(refuse())?);
            if let (Some(id), Some(&gradient)) = (output, gradients.last().unwrap_or(&None).as_ref()) {
                // It may be asked for by name.
                parts[id.index()].push(gradient);
            }
        }
        let rule = match rules::rule(&node.op) {
            Rule::Vjp(rule) => rule,
            Rule::Constant => continue,
            Rule::Terms(_) | Rule::None => return Err(refuse()(Refusal::NoRule)),
        };
        let call = Call { index, node: &node, gradients: &gradients };
        let made = rule(emit, &call).map_err(refuse())?;
        for (input, gradient) in node.inputs.iter().zip(made) {
            if let (Some(id), Some(gradient)) = (input, gradient)
                && emit.wants(Some(*id))
            {
                parts[id.index()].push(gradient);
            }
        }
    }
    let totals = with_respect_to.iter().map(|id| total(emit, &parts[id.index()]));
    totals.collect::<Result<_, _>>().map_err(refuse(&scalar))
}

/// The sum of the parts of a gradient.
fn total(emit: &mut Emit, parts: &[ValueId]) -> Result<Option<ValueId>, Refusal> {
    match parts {
        [] => Ok(None),
        [one] => Ok(Some(*one)),
        [a, b] => emit.add(*a, *b).map(Some),
        more => emit.node(Op::Variadic(Variadic::Sum), more).map(Some),
    }
}

/// Marks the values that depend on `with_respect_to`, and writes out the operators among them that have no rule of their own
/// in terms of others.
fn write_out(emit: &mut Emit, with_respect_to: &[ValueId]) -> Result<(), GradientError> {
    with_respect_to.iter().for_each(|id| emit.wanted[id.index()] = true);
    for node in std::mem::take(&mut emit.graph.nodes) {
        let depends = node.inputs.iter().any(|&id| emit.wants(id));
        let start = emit.graph.nodes.len();
        match rules::rule(&node.op) {
            Rule::Terms(terms) if depends => {
                let made = terms(emit, &node).map_err(refuse(&node))?;
                for (&output, made) in node.outputs.iter().zip(made) {
                    let (Some(output), Some(made)) = (output, made) else { continue };
                    let name = node.name.clone();
                    let inputs = vec![Some(made)];
                    emit.graph.nodes.push(Node {
                        name,
                        op: Op::Identity,
                        inputs,
                        outputs: vec![Some(output)],
                    });
                }
            }
            _ => emit.graph.nodes.push(node),
        }
        for index in start..emit.graph.nodes.len() {
            let node = &emit.graph.nodes[index];
            if node.inputs.iter().any(|&id| emit.wants(id)) {
                for id in node.outputs.clone().into_iter().flatten() {
                    // Nothing flows back through integers.
                    emit.wanted[id.index()] = emit.info(id).is_none_or(|info| info.dtype.is_float());
                }
            }
        }
    }
    Ok(())
}
