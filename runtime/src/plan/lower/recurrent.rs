//! Recurrent layers with constant weights: the input's share of all steps is one wide product, the state's share of each step
//! one of few columns, both by the kernels of packed weights. (Weights that are computed, and types other than f32, keep the
//! general form of `ops::recurrent`.)

use std::sync::Arc;

use poda_formats::{DataType, Op, TensorView, ValueId};

use super::call::{Call, Lowered, Preparation};
use super::packed::weight_profile;
use super::{Rewrite, Rewriter};
use crate::info::Info;
use crate::kernels::{Epilogue, Layout, Problem, X};
use crate::ops::OpError;
use crate::ops::recurrent::{Layer, Parameters, Part, Products};
use crate::output::Output;
use crate::plan::build::Context;
use crate::plan::draft::{Draft, DraftNode, Explanation, Kind};
use crate::plan::weights::{Packed, Source};
use crate::threads::Threads;
use crate::tune::PackedWeight;

pub(super) fn rewrite(r: &mut Rewriter<'_, '_>, at: usize) -> Option<Rewrite> {
    let (layer, inputs) = RecurrentNode::lower(r.draft, r.node(at))?;
    Some(Rewrite::new(Kind::lowered(layer), inputs))
}

/// A recurrent layer. Inputs are the operator's, without weights and biases.
#[derive(Debug, Clone)]
pub(crate) struct RecurrentNode {
    layer: Layer,
    parameters: Parameters<f32>,
    /// `[directions · gates · hidden, inputs]`
    input: Source,
    /// `[directions · gates · hidden, hidden]`
    state: Source,
}

impl RecurrentNode {
    /// The layer of a node that is one, with constant f32 weights, and its inputs.
    fn lower(draft: &Draft<'_>, node: &DraftNode) -> Option<(Self, Vec<Option<ValueId>>)> {
        let Kind::Op(Op::Recurrent(attributes)) = &node.kind else { return None };
        let (w, r) = (node.input(1)?, node.input(2)?);
        let typed = node.input(0).and_then(|x| draft.dtype(x)) == Some(DataType::F32);
        if !typed || !draft.is_weight(w) || !draft.is_weight(r) {
            return None;
        }
        let infos: Vec<Option<&Info>> = node.inputs.iter().map(|id| draft.info((*id)?)).collect();
        let layer = Layer::new(attributes, &infos).ok().flatten()?;
        // (A layer without units, or of no sequence, is not worth packing.)
        let sizes = layer.sizes;
        if [sizes.batch, sizes.hidden, sizes.inputs, sizes.steps].contains(&0) {
            return None;
        }
        let constant = |input: usize| match node.input(input) {
            Some(id) => draft.f32s(id).map(Some),
            None => Some(None),
        };
        let parameters = Parameters::new(&layer, constant(3)?, constant(7)?);
        let shapes: Vec<_> = node.inputs.iter().map(|id| draft.shape((*id)?)).collect();
        let products = Op::Recurrent(attributes.clone()).products(&shapes, None);
        let [input, state] = products[..] else { return None };
        let node_inputs = (0..node.inputs.len().max(1)).map(|i| match i {
            1 | 2 | 3 | 7 => None,
            i => node.input(i),
        });
        let lowered =
            Self { layer, parameters, input: Source::new(w, input.form), state: Source::new(r, state.form) };
        Some((lowered, node_inputs.collect()))
    }
}

impl Lowered for RecurrentNode {
    fn prepare(&self, with: &Preparation<'_>) -> Result<Box<dyn Call>, OpError> {
        static ALONE: Threads = Threads::single();
        let Context { weights, threads, .. } = with.context;
        let sizes = self.layer.sizes;
        // Two directions keep two threads busy without waiting for each other at every step.
        let apart = sizes.directions > 1 && (2..4).contains(&threads.count());
        let threads = if apart { &ALONE } else { threads };
        let layout = Layout::TokenMajor;
        let pack = |source: &Source, n: usize, parts: &[usize]| {
            let weight = with.draft.weight(source.value).expect("a layer has weights");
            let problem = Problem::matrix(n, layout, layout);
            weights.product(source, &weight, parts, &problem, threads)
        };
        let (rows, hidden) = (sizes.rows(), sizes.hidden);
        let of_direction = if self.layer.resets_first() { vec![rows - hidden, hidden] } else { vec![rows] };
        let input = pack(&self.input, sizes.steps * sizes.batch, &vec![rows; sizes.directions])?;
        let state = pack(&self.state, sizes.batch, &of_direction.repeat(sizes.directions))?;
        let (layer, parameters) = (self.layer.clone(), self.parameters.clone());
        Ok(Box::new(PackedRecurrent { layer, parameters, input, state, apart }))
    }
}

/// A layer whose weights are packed.
#[derive(Debug)]
pub(crate) struct PackedRecurrent {
    layer: Layer,
    parameters: Parameters<f32>,
    /// One for each direction.
    input: Arc<Packed>,
    /// One for each direction, or two where the reset gate comes before the product.
    state: Arc<Packed>,
    apart: bool,
}

impl Call for PackedRecurrent {
    fn run(
        &self,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [Output<'_>],
        threads: &Threads,
    ) -> Result<(), OpError> {
        static ALONE: Threads = Threads::single();
        let threads = if self.apart { &ALONE } else { threads };
        let [input, state] = [&self.input, &self.state].map(|packed| packed.products());
        let products = ByKernels { layer: &self.layer, input, state, threads, apart: self.apart };
        self.layer.run(&products, &self.parameters, DataType::F32, inputs, outputs)
    }

    fn explain(&self) -> Explanation {
        let sizes = self.layer.sizes;
        let columns = (sizes.steps * sizes.batch) as u64;
        let mut explanation = Explanation::default();
        for weight in self.input.products().iter().chain(self.state.products()) {
            let [m, k] = weight.shape();
            explanation.macs += columns * (m * k) as u64;
            explanation.macs_nonzero += columns * weight.nnz() as u64;
            explanation.weight_bytes += weight.bytes();
        }
        let [input, state] = [self.input.products(), self.state.products()];
        explanation.name = format!("{}: {}, {}", self.layer.name(), input[0].kernel(), state[0].kernel());
        state[0].reason().clone_into(&mut explanation.reason);
        explanation.weight = weight_profile(state);
        explanation
    }
}

/// The products of a layer by packed weights.
struct ByKernels<'a> {
    layer: &'a Layer,
    input: &'a [PackedWeight],
    state: &'a [PackedWeight],
    threads: &'a Threads,
    apart: bool,
}

impl Products<f32> for ByKernels<'_> {
    fn input(&self, d: usize, x: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
        let (layout, n) = (Layout::TokenMajor, self.layer.sizes.steps * self.layer.sizes.batch);
        let epilogue = Epilogue { bias, ..Epilogue::default() };
        self.input[d].run(n, X::Matrix { data: x, layout }, y, layout, &epilogue, self.threads);
    }

    fn state(&self, d: usize, part: Part, state: &[f32], y: &mut [f32]) {
        let layout = Layout::TokenMajor;
        let weight = match (self.layer.resets_first(), part) {
            (false, _) => &self.state[d],
            (true, Part::Gates) => &self.state[2 * d],
            (true, Part::Candidate) => &self.state[2 * d + 1],
        };
        let x = X::Matrix { data: state, layout };
        weight.run(self.layer.sizes.batch, x, y, layout, &Epilogue::default(), self.threads);
    }

    fn one_thread_each(&self) -> bool {
        self.apart
    }
}
