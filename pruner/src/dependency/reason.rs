//! Why units must stay.

use poda_formats::Graph;

/// What keeps units in place, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reason {
    /// Index of the node, if one is to blame.
    pub node: Option<u32>,
    /// What it does.
    pub why: Why,
}

/// What keeps units in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[allow(missing_docs)]
pub enum Why {
    #[error("it is an input of the model")]
    GraphInput,
    #[error("it is an output of the model")]
    GraphOutput,
    #[error("it is the window or the image of a convolution or a pool")]
    Spatial,
    #[error("softmax is taken over it")]
    Softmax,
    #[error("its mean and variance are taken, and would change")]
    Normalised,
    #[error("a maximum, minimum, product or search is taken over it")]
    Searched,
    #[error("it is summed where a removed unit would not be zero")]
    NotZero,
    #[error("its entries are looked up at run time")]
    LookedUp,
    #[error("it holds a shape, axes, or another parameter of the operator")]
    Parameter,
    #[error("its elements are padded, cut or scattered at run time")]
    DataDependent,
    #[error("its size is known only during a run")]
    DynamicShape,
    #[error("it is split into pieces that do not line up with its units")]
    NotAligned,
    #[error("it lists parts side by side that are used as rows")]
    Concatenated,
    #[error("single entries are picked from it")]
    Picked,
    #[error("it is quantised")]
    Quantised,
    #[error("its order matters to the operator")]
    Ordered,
    #[error("it enters or leaves a body of control flow")]
    ControlFlow,
    #[error("the operator is not known")]
    Foreign,
    #[error("it is coupled to a dimension of another structure")]
    Coupled,
}

impl Reason {
    /// The same place with another cause.
    #[must_use]
    pub fn because(self, why: Why) -> Self {
        Self { why, ..self }
    }

    /// As a sentence that names the node.
    pub fn describe(&self, graph: &Graph) -> String {
        let Some(node) = self.node.and_then(|n| graph.nodes.get(n as usize)) else {
            return self.why.to_string();
        };
        let output = node.outputs.iter().flatten().next().map_or("", |&id| graph.value(id).name.as_str());
        let name = if node.name.is_empty() { output } else { &node.name };
        format!("{} (node {name:?})", self.why)
    }
}
