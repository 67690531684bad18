//! How much goes from each layer.
//!
//! A share for all, or one of its own for layers whose name fits a pattern, or shares by Erdős–Rényi: the density of a layer is
//! in proportion to (outputs + inputs) / (outputs · inputs), with the sides of a convolution's window counted on both sides of the
//! fraction (the kernel form): small layers keep more. Mocanu et al., Nature Communications 2018,
//! <https://arxiv.org/abs/1707.04780>; Evci et al., "RigL", ICML 2020, <https://arxiv.org/abs/1911.11134>.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Scope;
use crate::names;

/// The share that goes from the layers whose name fits. Written `encoder.*.ffn*=0.8`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LayerShare {
    /// Of weights or nodes; `*` is any text, `?` any character.
    pub pattern: String,
    /// What goes of them, 0 to 1.
    pub share: f64,
}

/// Why a text is no share of layers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum LayerShareError {
    #[error("{text:?} is no share of layers; write PATTERN=SHARE, such as 'encoder.*=0.8'")]
    Syntax { text: String },
    #[error("{text:?}: expected a share from 0 to less than 1")]
    Range { text: String },
}

impl FromStr for LayerShare {
    type Err = LayerShareError;

    fn from_str(text: &str) -> Result<Self, LayerShareError> {
        let syntax = || LayerShareError::Syntax { text: text.to_owned() };
        // Names may have an equals sign, shares have none.
        let (pattern, share) = text.rsplit_once('=').ok_or_else(syntax)?;
        let share: f64 = share.parse().map_err(|_| syntax())?;
        if !(0.0..1.0).contains(&share) || pattern.is_empty() {
            return Err(LayerShareError::Range { text: text.to_owned() });
        }
        Ok(Self { pattern: pattern.to_owned(), share })
    }
}

impl TryFrom<String> for LayerShare {
    type Error = LayerShareError;

    fn try_from(text: String) -> Result<Self, LayerShareError> {
        text.parse()
    }
}

impl From<LayerShare> for String {
    fn from(share: LayerShare) -> Self {
        format!("{}={}", share.pattern, share.share)
    }
}

/// How much goes of each of several layers.
#[derive(Debug, Clone, Copy)]
pub struct Shares<'a> {
    /// Among what scores compete.
    pub scope: Scope,
    /// Of all, or of each, of the layers that have no share of their own.
    pub share: f64,
    /// Shares of their own, by layer; may be shorter than there are layers.
    pub own: &'a [Option<f64>],
    /// The most that may go of each layer; may be shorter, too.
    pub most: &'a [f64],
}

impl Shares<'_> {
    /// The same for all layers.
    pub fn all(scope: Scope, share: f64) -> Self {
        Self { scope, share, own: &[], most: &[] }
    }

    /// The share of a layer of its own.
    pub fn own(&self, layer: usize) -> Option<f64> {
        self.own.get(layer).copied().flatten()
    }

    /// The most that may go of a layer.
    pub fn most(&self, layer: usize) -> f64 {
        self.most.get(layer).copied().unwrap_or(1.0)
    }

    /// The share of a layer where layers do not compete.
    pub fn of(&self, layer: usize) -> f64 {
        self.own(layer).unwrap_or(self.share).min(self.most(layer))
    }
}

/// The share of the last pattern that fits one of a layer's names.
pub fn share_of(shares: &[LayerShare], layer: &[&str]) -> Option<f64> {
    let fits = |share: &&LayerShare| layer.iter().any(|name| names::fits(&share.pattern, name));
    shares.iter().rev().find(fits).map(|share| share.share)
}

/// Shares by Erdős–Rényi, such that `share` of the elements of all layers goes: of a layer of this shape, `[outputs, inputs,
/// window…]`. No layer becomes denser than whole: what is too much for some is taken from the others.
pub fn erdos_renyi(shapes: &[Vec<usize>], share: f64) -> Vec<f64> {
    let elements: Vec<f64> = shapes.iter().map(|shape| shape.iter().product::<usize>() as f64).collect();
    let raw: Vec<f64> = shapes
        .iter()
        .zip(&elements)
        .map(|(shape, elements)| shape.iter().sum::<usize>() as f64 / elements.max(1.0))
        .collect();
    let mut whole = vec![false; shapes.len()];
    let keep = elements.iter().sum::<f64>() * (1.0 - share);
    loop {
        let dense: f64 = elements.iter().zip(&whole).filter(|(_, whole)| **whole).map(|(n, _)| n).sum();
        let open = || (0..shapes.len()).filter(|&at| !whole[at]);
        let sum: f64 = open().map(|at| raw[at] * elements[at]).sum();
        let scale = if sum > 0.0 { (keep - dense).max(0.0) / sum } else { 0.0 };
        let over: Vec<usize> = open().filter(|&at| raw[at] * scale > 1.0).collect();
        if over.is_empty() {
            let density = |at: usize| if whole[at] { 1.0 } else { raw[at] * scale };
            return (0..shapes.len()).map(|at| 1.0 - density(at)).collect();
        }
        over.into_iter().for_each(|at| whole[at] = true);
    }
}

/// Inputs of an output below which a layer is left whole where the rest can make up for it: what is left of 9 weights of a
/// depthwise window cannot stand for those that go.
pub const FEW_INPUTS: usize = 32;

/// Most of the weights that layers of few inputs may hold to be left whole.
const SMALL_PART: f64 = 0.1;

/// Shares of layers of these numbers of elements and inputs, such that `share` of all elements goes: layers of less than
/// [`FEW_INPUTS`] keep what they have, and the others lose more, up to half of what they would keep. `None` where there are no such
/// layers, or where they hold too much of the model.
pub fn spare_few_inputs(layers: &[[usize; 2]], share: f64) -> Option<Vec<f64>> {
    let few = |layer: &&[usize; 2]| layer[1] < FEW_INPUTS;
    let all = layers.iter().map(|layer| layer[0] as f64).sum::<f64>();
    let spared = layers.iter().filter(few).map(|layer| layer[0] as f64).sum::<f64>();
    if spared == 0.0 || spared > SMALL_PART * all {
        return None;
    }
    let others = (share * all / (all - spared)).min(share.midpoint(1.0));
    let of_few = (share * all - others * (all - spared)) / spared;
    Some(layers.iter().map(|layer| if few(&layer) { of_few.max(0.0) } else { others }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_of_few_inputs_are_spared_and_the_total_is_exact() {
        let layers = [[32 * 9, 9], [32 * 64, 32], [64 * 64, 64]];
        for share in [0.0, 0.3, 0.5, 0.9, 0.96, 0.99] {
            let shares = spare_few_inputs(&layers, share).unwrap();
            let gone: f64 = layers.iter().zip(&shares).map(|(layer, share)| layer[0] as f64 * share).sum();
            let all: usize = layers.iter().map(|layer| layer[0]).sum();
            assert!((gone / all as f64 - share).abs() < 1e-9, "{share}: {shares:?}");
            assert!(shares.iter().all(|share| (0.0..1.0).contains(share)), "{shares:?}");
            assert!(share > 0.9 || shares[0] < 1e-9, "{share}: {shares:?}");
        }
        assert_eq!(spare_few_inputs(&layers[1..], 0.5), None);
        assert_eq!(spare_few_inputs(&[[90, 9], [500, 50]], 0.5), None, "a fifth of the model");
    }

    #[test]
    fn shares_are_read_and_the_last_that_fits_counts() {
        let shares: Vec<LayerShare> =
            ["encoder.*=0.8", "*.query=0.5"].iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(share_of(&shares, &["encoder.0.ffn"]), Some(0.8));
        assert_eq!(share_of(&shares, &["encoder.0.query", "MatMul_3"]), Some(0.5));
        assert_eq!(share_of(&shares, &["head"]), None);
        for text in ["head", "head=", "head=1", "head=-0.1", "=0.5", "head=nan"] {
            assert!(text.parse::<LayerShare>().is_err(), "{text}");
        }
    }

    #[test]
    fn small_layers_keep_more_and_the_total_is_exact() {
        let shapes = [vec![300, 784], vec![100, 300], vec![10, 100], vec![64, 32, 3, 3]];
        let elements = |shape: &Vec<usize>| shape.iter().product::<usize>() as f64;
        for share in [0.0, 0.3, 0.5, 0.9, 0.99] {
            let shares = erdos_renyi(&shapes, share);
            let gone: f64 = shapes.iter().zip(&shares).map(|(shape, share)| elements(shape) * share).sum();
            let all: f64 = shapes.iter().map(elements).sum();
            assert!((gone / all - share).abs() < 1e-9, "{share}: {shares:?}");
            assert!(shares.iter().all(|share| (-1e-12..=1.0).contains(share)), "{shares:?}");
        }
        let shares = erdos_renyi(&shapes, 0.9);
        assert!(shares[0] > shares[1] && shares[1] > shares[2] && shares[2] < 0.1, "{shares:?}");
    }
}
