//! Finding zeros: weights that take fewer bytes sparse than dense are stored so.

use std::collections::HashMap;

use crate::graph::{Graph, Node};
use crate::op::Op;
use crate::sparse::{CsrMatrix, index_type};
use crate::tensor::Tensor;
use crate::weight::{CsrWeight, Weight};

impl Weight {
    /// `tensor` as CSR if that takes fewer bytes, otherwise dense. `transposed` is as in [`CsrWeight::new`].
    ///
    /// Only f32 becomes sparse. Zeros of either sign are left out, so -0.0 becomes 0.0; NaN stays.
    pub fn smallest(tensor: &Tensor, transposed: bool) -> Self {
        Self::sparse_if_smaller(tensor, transposed).unwrap_or_else(|| tensor.clone().into())
    }

    fn sparse_if_smaller(tensor: &Tensor, transposed: bool) -> Option<Self> {
        let values = tensor.as_slice::<f32>().ok()?;
        let (rows, cols) = CsrWeight::matrix_shape(tensor.shape(), transposed)?;
        // All counts of a CSR matrix take 32 bits.
        u32::try_from(rows.max(cols).max(values.len())).ok()?;
        let nnz = values.iter().filter(|&&w| w != 0.0).count();
        let bytes = (rows + 1) * size_of::<u32>() + nnz * (index_type(cols).size() + size_of::<f32>());
        if bytes >= tensor.bytes().len() {
            return None;
        }
        let matrix = if transposed {
            CsrMatrix::from_dense_transposed(rows, cols, values)
        } else {
            CsrMatrix::from_dense(rows, cols, values)
        };
        CsrWeight::new(tensor.shape().to_vec(), transposed, matrix).ok().map(Self::from)
    }
}

impl Graph {
    /// Stores the dense weights of products and convolutions sparse where that takes fewer bytes, bodies of control
    /// flow included; their values stay of the type that they are stored as. Returns how many. The graph computes the same.
    ///
    /// A row of each matrix is one output: the right-hand weights of MatMul, and of Gemm where it does not transpose
    /// them itself, are stored transposed. A weight that has any other use as well stays dense.
    pub fn store_sparse(&mut self) -> usize {
        let mut stored = 0;
        let Ok(()) = self.visit_mut(&mut |graph| {
            stored += graph.store_own_sparse();
            Ok::<(), std::convert::Infallible>(())
        });
        stored
    }

    fn store_own_sparse(&mut self) -> usize {
        let uses = self.matrix_uses();
        // Weights that share their bytes go on sharing.
        let mut seen: HashMap<(*const u8, Vec<usize>, bool), Weight> = HashMap::new();
        let mut stored = 0;
        for (index, value) in self.values.iter_mut().enumerate() {
            let (Some(weight), Some(Some(transposed))) = (&value.weight, uses.get(&index)) else { continue };
            let place = match weight {
                Weight::Dense(tensor) => tensor.bytes().as_ptr(),
                Weight::Narrow(narrow) if narrow.is_transposed() == *transposed => {
                    narrow.matrix().values().tensor().bytes().as_ptr()
                }
                Weight::Narrow(_) | Weight::Csr(_) => continue,
            };
            let key = (place, weight.shape().to_vec(), *transposed);
            let weight = seen.entry(key).or_insert_with(|| match weight {
                Weight::Dense(tensor) => Weight::smallest(tensor, *transposed),
                Weight::Narrow(narrow) => Weight::smallest_narrow(narrow),
                Weight::Csr(_) => unreachable!("left out above"),
            });
            stored += usize::from(matches!(weight, Weight::Csr(_)));
            value.weight = Some(weight.clone());
        }
        stored
    }

    /// How each value is used: as a transposed matrix of a product or as it is; `None` where it is something else, or
    /// where uses disagree.
    pub(crate) fn matrix_uses(&self) -> HashMap<usize, Option<bool>> {
        let mut uses: HashMap<usize, Option<bool>> = HashMap::new();
        for node in &self.nodes {
            for (index, id) in node.inputs.iter().enumerate().filter_map(|(i, id)| Some((i, (*id)?))) {
                let transposed = matrix_use(node, index);
                let known = uses.entry(id.index()).or_insert(transposed);
                if *known != transposed {
                    *known = None;
                }
            }
        }
        for id in &self.outputs {
            uses.insert(id.index(), None);
        }
        uses
    }
}

/// Whether input `index` of `node` would be a transposed matrix if it were a sparse weight; `None` if it cannot be one.
fn matrix_use(node: &Node, index: usize) -> Option<bool> {
    match (&node.op, index) {
        (Op::MatMul, 1) => Some(true),
        (Op::Gemm { trans_b, .. }, 1) => Some(!trans_b),
        (Op::Conv(_), 1) => Some(false),
        (_, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DataType;
    use crate::graph::Dim;
    use crate::op::{Binary, ConvAttributes, Padding};

    /// `[m, n]` with one element in `keep_every` not zero.
    fn tensor(shape: &[usize], keep_every: usize) -> Tensor {
        let values =
            (0..shape.iter().product()).map(|i| if i % keep_every == 0 { i as f32 + 1.0 } else { 0.0 });
        Tensor::from_slice(shape, &values.collect::<Vec<f32>>())
    }

    #[test]
    fn the_smaller_form_is_taken_and_stands_for_the_same() {
        // 6 bytes for each stored value and 4 for each row, against 4 for each element.
        let cases = [
            (vec![8, 64], 1, false, "dense"),
            (vec![8, 64], 2, false, "csr"),
            (vec![8, 64], 2, true, "csr"),
            (vec![64, 1], 2, false, "dense"),
            (vec![4, 2, 3, 3], 5, false, "csr"),
            (vec![4, 2, 3, 3], 5, true, "dense"),
            (vec![64], 9, false, "dense"),
            (vec![2, 70000], 3, false, "csr"),
            (vec![0, 8], 1, false, "dense"),
        ];
        for (shape, keep_every, transposed, layout) in cases {
            let dense = tensor(&shape, keep_every);
            let weight = Weight::smallest(&dense, transposed);
            assert_eq!(weight.layout(), layout, "{shape:?} {keep_every} {transposed}");
            assert_eq!(weight.to_dense().unwrap(), dense);
            assert!(weight.bytes() <= dense.bytes().len());
        }
        let whole = Tensor::from_slice(&[8, 8], &[0_i32; 64]);
        assert_eq!(Weight::smallest(&whole, false).layout(), "dense");
    }

    #[test]
    fn weights_are_stored_as_their_use_wants_them() {
        let mut g = Graph::default();
        let x = g.add_input("x", DataType::F32, vec![Dim::Fixed(32), Dim::Fixed(32)]);
        let shared = tensor(&[32, 32], 10);
        let names = ["right", "left", "gemm", "gemm_t", "both", "added", "twin", "full", "given"];
        let ids = names.map(|name| g.add_weight(name, shared.clone()));
        let [right, left, gemm, gemm_t, both, added, twin, full, given] = ids;
        g.value_mut(full).weight = Some(tensor(&[32, 32], 1).into());
        let conv = g.add_weight("conv", tensor(&[8, 4, 3, 3], 10));
        let image = g.add_input("image", DataType::F32, vec![]);
        let op = |trans_b| Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b };
        g.add_node(Op::MatMul, &[x, right], "1");
        g.add_node(Op::MatMul, &[left, x], "2");
        g.add_node(op(false), &[x, gemm], "3");
        g.add_node(op(true), &[x, gemm_t], "4");
        g.add_node(op(true), &[x, both], "5");
        g.add_node(Op::MatMul, &[x, both], "6");
        g.add_node(Op::Binary(Binary::Add), &[x, added], "7");
        g.add_node(Op::MatMul, &[x, twin], "8");
        g.add_node(Op::MatMul, &[x, full], "9");
        g.add_node(Op::MatMul, &[x, given], "10");
        let attributes = ConvAttributes {
            group: 1,
            kernel: vec![],
            strides: vec![],
            dilations: vec![],
            padding: Padding::Valid,
        };
        g.add_node(Op::Conv(attributes), &[image, conv], "11");
        g.outputs.push(given);

        let before: Vec<_> =
            g.values.iter().map(|v| v.weight.as_ref().map(|w| w.to_dense().unwrap())).collect();
        assert_eq!(g.store_sparse(), 5);
        let after: Vec<_> =
            g.values.iter().map(|v| v.weight.as_ref().map(|w| w.to_dense().unwrap())).collect();
        assert_eq!(before, after);
        let transposed = |name: &str| match g.weight(g.find(name).unwrap()) {
            Some(Weight::Csr(csr)) => Some(csr.is_transposed()),
            _ => None,
        };
        let found = names.map(transposed);
        let none = None;
        assert_eq!(found, [Some(true), none, Some(true), Some(false), none, none, Some(true), none, none]);
        assert_eq!(transposed("conv"), Some(false));
        let place = |id| match g.weight(id) {
            Some(Weight::Csr(csr)) => csr.arrays().values().tensor().bytes().as_ptr(),
            weight => panic!("{weight:?}"),
        };
        assert_eq!(place(right), place(twin));
    }
}
