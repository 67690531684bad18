//! Activation functions of recurrent cells.

use poda_formats::op::{Direction, RecurrentAttributes, RecurrentKind};

use super::super::OpError;
use super::super::real::Real;

/// A function and its parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Activation {
    function: Function,
    alpha: f32,
    beta: f32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    Relu,
    Tanh,
    Sigmoid,
    Affine,
    LeakyRelu,
    ThresholdedRelu,
    ScaledTanh,
    HardSigmoid,
    Elu,
    Softsign,
    Softplus,
}

/// Names, whether there is an alpha and a beta, and what they are by default.
const FUNCTIONS: [(&str, Function, Option<f32>, Option<f32>); 11] = [
    ("Relu", Function::Relu, None, None),
    ("Tanh", Function::Tanh, None, None),
    ("Sigmoid", Function::Sigmoid, None, None),
    ("Affine", Function::Affine, Some(1.0), Some(0.0)),
    ("LeakyRelu", Function::LeakyRelu, Some(0.01), None),
    ("ThresholdedRelu", Function::ThresholdedRelu, Some(1.0), None),
    ("ScaledTanh", Function::ScaledTanh, Some(1.0), Some(1.0)),
    ("HardSigmoid", Function::HardSigmoid, Some(0.2), Some(0.5)),
    ("Elu", Function::Elu, Some(1.0), None),
    ("Softsign", Function::Softsign, None, None),
    ("Softplus", Function::Softplus, None, None),
];

/// The functions f, g and h of each direction (those that the cell has).
///
/// # Errors
/// When there are too few names, or one is unknown.
pub(super) fn activations(attributes: &RecurrentAttributes) -> Result<Vec<Vec<Activation>>, OpError> {
    let defaults: &[&str] = match attributes.kind {
        RecurrentKind::Lstm { .. } => &["Sigmoid", "Tanh", "Tanh"],
        RecurrentKind::Gru { .. } => &["Sigmoid", "Tanh"],
        RecurrentKind::Rnn => &["Tanh"],
    };
    let directions = if attributes.direction == Direction::Bidirectional { 2 } else { 1 };
    let defaults: Vec<&str> = defaults.iter().copied().cycle().take(directions * defaults.len()).collect();
    let given: Vec<&str> = attributes.activations.iter().map(String::as_str).collect();
    let names = if given.is_empty() { &defaults } else { &given };
    if names.len() != defaults.len() {
        return Err(OpError::Invalid(format!(
            "{} activations {names:?}, expected {}",
            names.len(),
            defaults.len()
        )));
    }
    // Parameters are listed only for the functions that have them.
    let (mut alphas, mut betas) = (attributes.activation_alpha.iter(), attributes.activation_beta.iter());
    let mut next = |name: &&str| {
        let known = FUNCTIONS.iter().find(|(known, ..)| known.eq_ignore_ascii_case(name));
        let Some(&(_, function, alpha, beta)) = known else {
            return Err(OpError::Invalid(format!("activation {name:?} is unknown")));
        };
        let alpha = alpha.map_or(0.0, |default| alphas.next().copied().unwrap_or(default));
        let beta = beta.map_or(0.0, |default| betas.next().copied().unwrap_or(default));
        Ok(Activation { function, alpha, beta })
    };
    let all = names.iter().map(&mut next).collect::<Result<Vec<_>, _>>()?;
    Ok(all.chunks_exact(defaults.len() / directions).map(<[_]>::to_vec).collect())
}

impl Activation {
    /// Applies the function to each value.
    pub(super) fn apply<R: Real>(&self, values: &mut [R]) {
        let (alpha, beta) = (R::from_f64(self.alpha.into()), R::from_f64(self.beta.into()));
        let (zero, one) = (R::default(), R::from_f64(1.0));
        let mut map = |f: &dyn Fn(R) -> R| values.iter_mut().for_each(|v| *v = f(*v));
        match self.function {
            Function::Tanh => R::tanh_all(values),
            Function::Sigmoid => R::sigmoid_all(values),
            Function::Relu => map(&|v| v.larger(zero)),
            Function::Affine => map(&|v| alpha * v + beta),
            Function::LeakyRelu => map(&|v| if v < zero { alpha * v } else { v }),
            Function::ThresholdedRelu => map(&|v| if v > alpha { v } else { zero }),
            Function::ScaledTanh => map(&|v| alpha * (beta * v).tanh()),
            Function::HardSigmoid => map(&|v| (alpha * v + beta).larger(zero).smaller(one)),
            Function::Elu => map(&|v| if v < zero { alpha * (v.exp() - one) } else { v }),
            Function::Softsign => map(&|v| v / (one + v.abs())),
            Function::Softplus => map(&|v| v.larger(zero) + (one + (-v.abs()).exp()).ln()),
        }
    }
}
