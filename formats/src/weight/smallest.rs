//! Finding zeros: weights that take fewer bytes sparse than dense are stored so.

use std::collections::HashMap;

use half::{bf16, f16};

use super::csr::{CsrMatrix, index_type};
use super::dense::DenseMatrix;
use super::matrix::Matrix;
use super::pattern::NonZeros;
use super::{MatrixWeight, Pattern, Values, Weight, bitmap};
use crate::graph::{Graph, ValueId};
use crate::op::{MatrixForm, Op};
use crate::tensor::Tensor;

/// Sides of the blocks that are looked for, 1 × c, r × 1 and square.
const SIDES: [usize; 5] = [2, 4, 8, 16, 32];
/// M of the N:M that are looked for.
const GROUPS: [usize; 4] = [2, 4, 8, 16];

impl Weight {
    /// `tensor`, which lies as `form` says, in the layout that takes the fewest bytes: dense, CSR, with a bitmap, in blocks or N:M.
    ///
    /// Only f32 and i8 become sparse. Zeros of either sign are left out, so -0.0 becomes 0.0; NaN stays.
    pub fn smallest(tensor: &Tensor, form: MatrixForm) -> Self {
        Self::smallest_by(tensor, form, &[])
    }

    /// [`Weight::smallest`], with patterns to consider beside the common ones.
    pub fn smallest_by(tensor: &Tensor, form: MatrixForm, patterns: &[Pattern]) -> Self {
        let integers = || {
            let values = tensor.as_slice::<i8>().ok().filter(|_| form.fits(tensor.shape()))?;
            let (shape, values) = (form.size(), form.rows_of(values));
            let nonzeros = || NonZeros::of(shape, &values, false);
            let csr = || CsrMatrix::gather(shape, &values, Values::from);
            let matrix = smallest(shape, size_of::<i8>(), nonzeros, csr, patterns)?;
            MatrixWeight::new(tensor.shape().to_vec(), form, matrix).ok()
        };
        let sparse = || {
            let values = tensor.as_slice::<f32>().ok().filter(|_| form.fits(tensor.shape()))?;
            let [rows, cols] = form.size();
            // Of several parts, each is transposed on its own.
            let values = if form.parts > 1 { form.rows_of(values) } else { values.into() };
            let transposed = form.transposed && form.parts <= 1;
            let nonzeros = || NonZeros::of([rows, cols], &values, transposed);
            let csr = || {
                if transposed {
                    CsrMatrix::from_dense_transposed(rows, cols, &values)
                } else {
                    CsrMatrix::from_dense(rows, cols, &values)
                }
            };
            let matrix = smallest([rows, cols], size_of::<f32>(), nonzeros, csr, patterns)?;
            MatrixWeight::new(tensor.shape().to_vec(), form, matrix).ok()
        };
        sparse().or_else(integers).map_or_else(|| tensor.clone().into(), Self::from)
    }
}

impl MatrixWeight {
    /// The same, of which every element is stored, in the layout that takes the fewest bytes.
    pub(super) fn smallest_of(&self, matrix: &DenseMatrix, patterns: &[Pattern]) -> Self {
        let (shape, tensor) = (matrix.shape(), matrix.values().tensor());
        let nonzeros = || {
            if let Ok(values) = tensor.as_slice::<f32>() {
                NonZeros::of(shape, values, false)
            } else if let Ok(values) = tensor.as_slice::<bf16>() {
                NonZeros::of(shape, values, false)
            } else if let Ok(values) = tensor.as_slice::<f16>() {
                NonZeros::of(shape, values, false)
            } else {
                NonZeros::of(shape, tensor.as_slice::<i8>().expect("values that stand for f32"), false)
            }
        };
        let csr = || matrix.to_csr();
        let sparse = smallest(shape, tensor.dtype().size(), nonzeros, csr, patterns);
        let matrix = sparse.unwrap_or_else(|| matrix.clone().into());
        Self::new(self.shape().to_vec(), self.form(), matrix).expect("of the same shape")
    }
}

/// A matrix with values of `size` bytes in the layout that takes the fewest; `None` where that is dense.
fn smallest(
    [rows, cols]: [usize; 2],
    size: usize,
    nonzeros: impl FnOnce() -> NonZeros,
    csr: impl FnOnce() -> CsrMatrix,
    patterns: &[Pattern],
) -> Option<Matrix> {
    // All counts of a sparse matrix take 32 bits.
    let elements = rows.checked_mul(cols)?;
    u32::try_from(rows.max(cols).max(elements)).ok()?;
    let nonzeros = nonzeros();
    let mut smallest = (elements * size, None);
    let csr_bytes = csr_bytes([rows, cols], nonzeros.count(), size);
    if csr_bytes < smallest.0 {
        smallest = (csr_bytes, Some(None));
    }
    for pattern in common([rows, cols], &nonzeros).chain(patterns.iter().copied()) {
        if let Some(bytes) = pattern_bytes([rows, cols], &nonzeros, pattern, size)
            && bytes < smallest.0
        {
            smallest = (bytes, Some(Some(pattern)));
        }
    }
    // A pattern need only take less than CSR, not less than a bitmap: there are kernels for it.
    let with_bits = bitmap::bytes([rows, cols]) + nonzeros.count() * size;
    let pattern = smallest.1.or((with_bits < smallest.0).then_some(None))?;
    let csr = csr();
    match pattern {
        None => Some(csr.smallest()),
        Some(pattern) => csr.by_pattern(pattern),
    }
}

/// The patterns that are looked for in any weight, of each M the least N: those by which at most one in 64 stored elements is
/// zero, so that a mask that only resembles a pattern does not count as one.
fn common([rows, cols]: [usize; 2], nonzeros: &NonZeros) -> impl Iterator<Item = Pattern> + '_ {
    let blocks = SIDES.into_iter().flat_map(|side| [[1, side], [side, 1], [side, side]]);
    let groups = GROUPS.into_iter().map(|m| [nonzeros.most(m), m]);
    blocks
        .filter_map(|[r, c]| Pattern::block(r, c).ok())
        .chain(groups.filter_map(|[n, m]| Pattern::n_of_m(n, m).ok()))
        .filter(move |&pattern| {
            let stored = match (pattern, pattern.numbers()) {
                (Pattern::Block { .. }, block) => nonzeros.elements_of_blocks(block),
                (Pattern::NofM { .. }, [n, m]) => rows * (cols / m * n + n.min(cols % m)),
            };
            (stored - nonzeros.count()) * 64 <= stored
        })
}

fn csr_bytes([rows, cols]: [usize; 2], nnz: usize, size: usize) -> usize {
    (rows + 1) * size_of::<u32>() + nnz * (index_type(cols).size() + size)
}

/// Bytes by a pattern; `None` when the matrix does not keep to it, or 32 bits do not count what is stored.
fn pattern_bytes(
    [rows, cols]: [usize; 2],
    nonzeros: &NonZeros,
    pattern: Pattern,
    size: usize,
) -> Option<usize> {
    let [a, b] = pattern.numbers();
    let stored = match pattern {
        Pattern::Block { .. } => nonzeros.blocks([a, b]).checked_mul(a * b)?,
        Pattern::NofM { .. } if nonzeros.most(b) <= a => rows.checked_mul(cols.div_ceil(b) * a)?,
        Pattern::NofM { .. } => return None,
    };
    u32::try_from(stored).ok()?;
    Some(match pattern {
        // As of a CSR matrix of blocks, whose elements are larger.
        Pattern::Block { .. } => {
            let blocks = stored / (a * b);
            csr_bytes([rows.div_ceil(a), cols.div_ceil(b)], blocks, size) + blocks * (a * b - 1) * size
        }
        Pattern::NofM { .. } => {
            let bits = if b <= 4 { 2 } else { 4 };
            stored * size + rows * (cols.div_ceil(b) * a * bits).div_ceil(8)
        }
    })
}

impl Graph {
    /// Stores the dense weights of products and convolutions sparse where that takes fewer bytes, bodies of control
    /// flow included; their values stay of the type that they are stored as. Returns how many. The graph computes the same.
    ///
    /// A row of each matrix is one output (see [`Op::products`](crate::Op::products)). A weight that has any other use as well
    /// stays dense.
    pub fn store_sparse(&mut self) -> usize {
        self.store_sparse_by(&[])
    }

    /// [`Graph::store_sparse`], with patterns to consider beside the common ones.
    pub fn store_sparse_by(&mut self, patterns: &[Pattern]) -> usize {
        let mut stored = 0;
        let Ok(()) = self.visit_mut(&mut |graph| {
            stored += graph.store_own_sparse(patterns);
            Ok::<(), std::convert::Infallible>(())
        });
        stored
    }

    /// For each weight that this graph itself uses only as the matrix of products, perhaps dequantised: how it lies as
    /// `[outputs, inputs]`.
    pub fn matrix_uses(&self) -> HashMap<ValueId, MatrixForm> {
        // By what is dequantised, the integers.
        let mut integers: HashMap<ValueId, ValueId> = HashMap::new();
        for node in self.nodes.iter().filter(|node| matches!(node.op, Op::DequantizeLinear { .. })) {
            if let (Some(from), Some(to)) = (node.input(0), node.output(0))
                && self.weight(from).is_some()
            {
                integers.insert(to, from);
            }
        }
        let source = |id: ValueId| integers.get(&id).copied().unwrap_or(id);
        // `None` where uses disagree.
        let mut uses: HashMap<ValueId, Option<MatrixForm>> = HashMap::new();
        for node in &self.nodes {
            let dequantised = node.output(0).is_some_and(|id| integers.contains_key(&id));
            let shape = |id: &Option<ValueId>| id.and_then(|id| self.weight(source(id))).map(Weight::shape);
            let products = node.op.products(&node.inputs.iter().map(shape).collect::<Vec<_>>(), None);
            let inputs = node.inputs.iter().enumerate().skip(usize::from(dequantised));
            for (index, id) in inputs.filter_map(|(i, id)| Some((i, source((*id)?)))) {
                let form = products.iter().find(|p| p.input == index).map(|p| p.form);
                let known = uses.entry(id).or_insert(form);
                if *known != form {
                    *known = None;
                }
            }
        }
        for id in &self.outputs {
            uses.insert(source(*id), None);
        }
        uses.into_iter().filter_map(|(id, form)| Some((id, form?))).collect()
    }

    fn store_own_sparse(&mut self, patterns: &[Pattern]) -> usize {
        let uses = self.matrix_uses();
        // Weights that share their bytes go on sharing.
        let mut seen: HashMap<(*const u8, Vec<usize>, MatrixForm), Weight> = HashMap::new();
        let mut stored = 0;
        for (index, value) in self.values.iter_mut().enumerate() {
            let form = uses.get(&ValueId(index as u32));
            let (Some(weight), Some(&form)) = (&value.weight, form) else { continue };
            let dense = match weight {
                Weight::Tensor(tensor) => Ok(tensor),
                Weight::Matrix(matrix) if !weight.is_sparse() && matrix.form() == form => Err(matrix),
                Weight::Matrix(_) => continue,
            };
            let place = dense.unwrap_or_else(|matrix| matrix.values().tensor()).bytes().as_ptr();
            let key = (place, weight.shape().to_vec(), form);
            let weight = seen.entry(key).or_insert_with(|| match dense {
                Ok(tensor) => Weight::smallest_by(tensor, form, patterns),
                Err(weight) => match weight.dense() {
                    Some(dense) => weight.smallest_of(&dense, patterns).into(),
                    None => weight.clone().into(),
                },
            });
            stored += usize::from(weight.is_sparse());
            value.weight = Some(weight.clone());
        }
        stored
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DataType;
    use crate::graph::Dim;
    use crate::op::{Binary, ConvAttributes, Op, Padding};

    /// Of a tensor that is no matrix.
    const NO_FORM: MatrixForm = MatrixForm { parts: 1, rows: 0, cols: 0, transposed: false };

    fn hash(i: usize) -> usize {
        let i = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((i ^ (i >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as usize
    }

    /// About one element in `keep_every`, anywhere, is not zero.
    fn tensor(shape: &[usize], keep_every: usize) -> Tensor {
        let kept = |i: usize| hash(i).is_multiple_of(keep_every);
        let values = (0..shape.iter().product()).map(|i| if kept(i) { i as f32 + 1.0 } else { 0.0 });
        Tensor::from_slice(shape, &values.collect::<Vec<f32>>())
    }

    #[test]
    fn the_smaller_form_is_taken_and_stands_for_the_same() {
        // 6 bytes for each stored value and 4 for each row, or 4 and a bit for each element, against 4 for each element.
        let cases = [
            (vec![8, 64], 1, false, "dense"),
            (vec![8, 64], 2, false, "bitmap"),
            (vec![8, 64], 2, true, "bitmap"),
            (vec![640, 8], 40, true, "csr"),
            (vec![64, 1], 2, false, "bitmap"),
            (vec![4, 2, 3, 3], 5, false, "bitmap"),
            (vec![4, 2, 3, 3], 5, true, "dense"),
            (vec![64], 9, false, "dense"),
            (vec![2, 70000], 3, false, "bitmap"),
            (vec![2, 70000], 40, false, "csr"),
            (vec![0, 8], 1, false, "dense"),
        ];
        for (shape, keep_every, transposed, layout) in cases {
            let dense = tensor(&shape, keep_every);
            let form = MatrixForm::of(&shape, transposed).unwrap_or(NO_FORM);
            let weight = Weight::smallest(&dense, form);
            assert_eq!(weight.layout(), layout, "{shape:?} {keep_every} {transposed}");
            assert_eq!(weight.to_dense().unwrap(), dense);
            assert!(weight.bytes() <= dense.bytes().len());
        }
        for transposed in [false, true] {
            let integers: Vec<i8> =
                (0..64 * 24).map(|i| if hash(i).is_multiple_of(5) { -3 } else { 0 }).collect();
            let integers = Tensor::from_slice(&[64, 24], &integers);
            let weight = Weight::smallest(&integers, MatrixForm::of(&[64, 24], transposed).unwrap());
            assert_eq!((&*weight.layout(), weight.dtype()), ("bitmap", DataType::I8));
            assert_eq!(weight.to_dense().unwrap(), integers);
        }
        let whole = Tensor::from_slice(&[8, 8], &[0_i32; 64]);
        assert_eq!(Weight::smallest(&whole, MatrixForm::of(&[8, 8], false).unwrap()).layout(), "dense");
    }

    #[test]
    fn patterns_are_found_and_take_the_fewest_bytes() {
        // [48, 64], kept where the hash of a block of r × c says so.
        let blocks = |[r, c]: [usize; 2], transposed: bool| {
            let at = |row: usize, col: usize| hash(row / r * 64 + col / c).is_multiple_of(4);
            let shape = if transposed { [64, 48] } else { [48, 64] };
            let kept = |i: usize| {
                let (a, b) = (i / shape[1], i % shape[1]);
                if transposed { at(b, a) } else { at(a, b) }
            };
            let values: Vec<f32> = (0..48 * 64).map(|i| if kept(i) { i as f32 + 1.0 } else { 0.0 }).collect();
            Tensor::from_slice(&shape, &values)
        };
        for transposed in [false, true] {
            for block in [[4, 1], [8, 1], [16, 1], [1, 4], [1, 8], [4, 4], [16, 16]] {
                let dense = blocks(block, transposed);
                let weight = Weight::smallest(&dense, MatrixForm::of(dense.shape(), transposed).unwrap());
                assert_eq!(weight.layout(), format!("block:{}x{}", block[0], block[1]));
                assert_eq!(weight.to_dense().unwrap(), dense);
                let csr = csr_bytes([48, 64], dense_nnz(&dense), 4);
                assert!(weight.bytes() < csr, "{block:?}: {} of {csr}", weight.bytes());
            }
        }
        // No common block: only found when it is named.
        let odd = blocks([6, 2], false);
        let pattern = "block:6x2".parse().unwrap();
        let form = MatrixForm::of(odd.shape(), false).unwrap();
        assert_ne!(Weight::smallest(&odd, form).layout(), "block:6x2");
        let weight = Weight::smallest_by(&odd, form, &[pattern]);
        assert_eq!((&*weight.layout(), weight.to_dense().unwrap()), ("block:6x2", odd));
        for (n, m) in [(2, 4), (1, 4), (4, 8), (1, 2), (2, 16)] {
            // The n columns of a group that follow a place which depends on the group.
            let kept = |i: usize| (i % m + hash(i / m)) % m < n;
            let values: Vec<f32> = (0..48 * 64).map(|i| if kept(i) { 1.5 } else { 0.0 }).collect();
            let dense = Tensor::from_slice(&[48, 8, 8], &values);
            let weight = Weight::smallest(&dense, MatrixForm::of(dense.shape(), false).unwrap());
            assert_eq!(weight.layout(), format!("nm:{n}:{m}"));
            assert_eq!((weight.nnz(), weight.to_dense().unwrap()), (48 * 64 * n / m, dense));
        }
    }

    fn dense_nnz(tensor: &Tensor) -> usize {
        Weight::from(tensor.clone()).nnz()
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
        assert_eq!(g.store_sparse(), 6);
        let after: Vec<_> =
            g.values.iter().map(|v| v.weight.as_ref().map(|w| w.to_dense().unwrap())).collect();
        assert_eq!(before, after);
        let transposed = |name: &str| match g.weight(g.find(name).unwrap()) {
            Some(Weight::Matrix(matrix)) => Some(matrix.form().transposed),
            _ => None,
        };
        let found = names.map(transposed);
        let none = None;
        assert_eq!(
            found,
            [Some(true), Some(false), Some(true), Some(false), none, none, Some(true), none, none]
        );
        assert_eq!(transposed("conv"), Some(false));
        let place = |id| match g.weight(id) {
            Some(Weight::Matrix(matrix)) => matrix.values().tensor().bytes().as_ptr(),
            weight => panic!("{weight:?}"),
        };
        assert_eq!(place(right), place(twin));
    }
}
