//! Whole blocks of weights, or all but N of each M, become zero.
//!
//! Both are defined on the matrix `[outputs, inputs]` that a product multiplies with (of a convolution
//! `[out, in · kh · kw]`), however the model stores it.

use poda_formats::weight::SparseError;
use poda_formats::{Graph, MatrixForm, Pattern, ValueId};

use crate::allocation::Shares;
use crate::criterion::OfWeights;
use crate::cut::cuts;
use crate::unstructured::{element_scores, lowest, zero_marked};

/// A matrix of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrix {
    /// The weight.
    pub id: ValueId,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// How it lies in the weight.
    pub form: MatrixForm,
}

impl Matrix {
    /// A weight that lies as `form` says.
    pub fn new(id: ValueId, form: MatrixForm) -> Self {
        let [rows, cols] = form.size();
        Self { id, rows, cols, form }
    }

    /// The same matrix, lying row by row.
    fn in_order(&self) -> Self {
        let form = MatrixForm { parts: 1, rows: self.rows, cols: self.cols, transposed: false };
        Self { form, ..*self }
    }

    /// Place of an element in the weight.
    fn at(&self, row: usize, col: usize) -> usize {
        self.form.at(row, col)
    }
}

/// Those of `weights` that products use directly as their matrix `[outputs, inputs]`, and the others.
pub fn matrices(graph: &Graph, weights: &[ValueId]) -> (Vec<Matrix>, Vec<ValueId>) {
    let uses = graph.matrix_uses();
    let (mut matrices, mut others) = (Vec::new(), Vec::new());
    for &id in weights {
        match uses.get(&id) {
            Some(&form) => matrices.push(Matrix::new(id, form)),
            None => others.push(id),
        }
    }
    (matrices, others)
}

/// `graph` with zeros in `weights` by `pattern`.
///
/// Of blocks, these shares with the lowest scores go (of all weights' together, or of each), rounded to the
/// nearest block. The score of a block is the criterion's of a slice whose sum is the *mean* of its elements' scores, so
/// that the smaller blocks at the edges compare with the others.
///
/// Of N:M, the N highest scores of each group of M inputs stay, whatever `shares` say; a last group of
/// fewer inputs keeps N, too.
///
/// Elements that are zero already go first; equal scores go by position.
///
/// # Errors
/// When a sparse weight cannot be read.
pub fn zero_by_pattern(
    graph: &Graph,
    weights: &[Matrix],
    criterion: &dyn OfWeights,
    seed: u64,
    pattern: Pattern,
    shares: Shares<'_>,
) -> Result<Graph, SparseError> {
    let numbers = pattern.numbers();
    let elements = |at: usize| element_scores(graph, weights[at].id, criterion, seed);
    let ids: Vec<ValueId> = weights.iter().map(|matrix| matrix.id).collect();
    match pattern {
        Pattern::NofM { .. } => {
            zero_marked(graph, &ids, |at| beyond_n_of_m(&weights[at], &elements(at), numbers))
        }
        Pattern::Block { .. } => {
            let blocks = |at: usize| block_scores(&weights[at], &elements(at), numbers, criterion, seed);
            let cuts = cuts(weights.len(), &blocks, shares);
            zero_marked(graph, &ids, |at| {
                of_blocks_to_elements(&weights[at], &cuts[at].marks(&blocks(at)), numbers)
            })
        }
    }
}

/// Marks of what goes of a matrix by `pattern`, from the scores of its elements, both row by row.
pub(crate) fn pattern_marks(
    matrix: &Matrix,
    scores: &[f32],
    pattern: Pattern,
    criterion: &dyn OfWeights,
    seed: u64,
    sparsity: f64,
) -> Vec<bool> {
    let flat = matrix.in_order();
    match pattern {
        Pattern::NofM { .. } => beyond_n_of_m(&flat, scores, pattern.numbers()),
        Pattern::Block { .. } => {
            let blocks = block_scores(&flat, scores, pattern.numbers(), criterion, seed);
            of_blocks_to_elements(&flat, &lowest(&blocks, sparsity), pattern.numbers())
        }
    }
}

/// Scores of what goes at a time by `pattern`, from those of elements, row by row.
pub(crate) fn pattern_scores(
    matrix: &Matrix,
    scores: &[f32],
    pattern: Pattern,
    criterion: &dyn OfWeights,
    seed: u64,
) -> Vec<f32> {
    match pattern {
        Pattern::NofM { .. } => scores.to_vec(),
        Pattern::Block { .. } => block_scores(&matrix.in_order(), scores, pattern.numbers(), criterion, seed),
    }
}

/// Scores of the blocks, row by row; -1 for one that is all zero.
fn block_scores(
    matrix: &Matrix,
    scores: &[f32],
    [r, c]: [usize; 2],
    criterion: &dyn OfWeights,
    seed: u64,
) -> Vec<f32> {
    let mut random = crate::criterion::random_for(seed.wrapping_add(1), matrix.id);
    let mut all = Vec::with_capacity(matrix.rows.div_ceil(r) * matrix.cols.div_ceil(c));
    for row in (0..matrix.rows).step_by(r) {
        for col in (0..matrix.cols).step_by(c) {
            let (mut sum, mut elements, mut zero) = (0.0, 0, true);
            for row in row..matrix.rows.min(row + r) {
                for col in col..matrix.cols.min(col + c) {
                    let score = scores[matrix.at(row, col)];
                    sum += f64::from(score.max(0.0));
                    elements += 1;
                    zero &= score < 0.0;
                }
            }
            let score = criterion.slice(sum / f64::from(elements), &mut random);
            all.push(if zero { -1.0 } else { score as f32 });
        }
    }
    all
}

/// Marks the elements of marked blocks.
fn of_blocks_to_elements(matrix: &Matrix, removed: &[bool], [r, c]: [usize; 2]) -> Vec<bool> {
    let across = matrix.cols.div_ceil(c);
    let mut marks = vec![false; matrix.rows * matrix.cols];
    for row in 0..matrix.rows {
        for col in 0..matrix.cols {
            marks[matrix.at(row, col)] = removed[row / r * across + col / c];
        }
    }
    marks
}

/// Marks all but the `n` highest of each `m`.
fn beyond_n_of_m(matrix: &Matrix, scores: &[f32], [n, m]: [usize; 2]) -> Vec<bool> {
    let mut marks = vec![false; scores.len()];
    for row in 0..matrix.rows {
        for first in (0..matrix.cols).step_by(m) {
            let mut group: Vec<usize> =
                (first..matrix.cols.min(first + m)).map(|col| matrix.at(row, col)).collect();
            // (Stable: of equal scores the first come first.)
            group.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
            let gone = group.len().saturating_sub(n);
            group[..gone].iter().for_each(|&at| marks[at] = true);
        }
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocation::Scope;
    use crate::calibration::Needs;
    use crate::criterion::{CRITERIA, L1, L2};
    use crate::recipe::Recipe;
    use crate::unstructured::prunable_weights;
    use poda_formats::op::{ConvAttributes, Padding};
    use poda_formats::{DataType, Dim, Op, Tensor};

    fn values(len: usize) -> Vec<f32> {
        (0..len).map(|i| ((i as f32 + 1.0) * 12.9898).sin()).collect()
    }

    /// A MatMul `[10, 7]`, a Gemm `[7, 7]` and a convolution `[6, 3, 3, 3]`, each a matrix that blocks of 4 do not divide,
    /// and a weight that is a left factor.
    fn graph() -> Graph {
        let mut g = Graph::default();
        let x = g.add_input("x", DataType::F32, vec![Dim::Fixed(3), Dim::Fixed(10)]);
        let image =
            g.add_input("image", DataType::F32, vec![1, 3, 8, 8].into_iter().map(Dim::Fixed).collect());
        let mut weight = |name: &str, shape: &[usize]| {
            g.add_weight(name, Tensor::from_slice(shape, &values(shape.iter().product())))
        };
        let (w, gemm) = (weight("w", &[10, 7]), weight("gemm", &[7, 7]));
        let (conv, left) = (weight("conv", &[6, 3, 3, 3]), weight("left", &[4, 3]));
        let y = g.add_node(Op::MatMul, &[x, w], "y");
        let y =
            g.add_node(Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: true }, &[y, gemm], "z");
        let y = g.add_node(Op::MatMul, &[left, y], "u");
        let attributes = ConvAttributes {
            group: 1,
            kernel: vec![],
            strides: vec![],
            dilations: vec![],
            padding: Padding::Valid,
        };
        let v = g.add_node(Op::Conv(attributes), &[image, conv], "v");
        g.outputs.extend([y, v]);
        g
    }

    /// Whether each element of `[outputs, inputs]` is zero, before and after.
    fn zeros(graph: &Graph, matrix: &Matrix) -> Vec<Vec<bool>> {
        let dense = graph.weight(matrix.id).unwrap().to_dense().unwrap();
        let values = dense.as_slice::<f32>().unwrap();
        let row = |row| (0..matrix.cols).map(|col| values[matrix.at(row, col)] == 0.0).collect();
        (0..matrix.rows).map(row).collect()
    }

    fn prunable(g: &Graph) -> Vec<Matrix> {
        let (matrices, others) = matrices(g, &prunable_weights(g, &Recipe::default()));
        let names = |ids: Vec<ValueId>| ids.iter().map(|&id| g.value(id).name.clone()).collect::<Vec<_>>();
        assert_eq!(names(matrices.iter().map(|m| m.id).collect()), ["w", "gemm", "left", "conv"]);
        assert!(others.is_empty());
        matrices
    }

    #[test]
    fn exactly_n_of_each_m_stay_and_they_are_the_largest() {
        let g = graph();
        let weights = prunable(&g);
        for (n, m) in [(2, 4), (1, 4), (4, 8), (3, 5)] {
            let pattern = Pattern::n_of_m(n, m).unwrap();
            let of_weights = CRITERIA.iter().filter_map(|criterion| criterion.of_weights());
            let alone = |of: &&dyn OfWeights| of.needs() == Needs::Weights && of.gradients().is_none();
            for criterion in of_weights.filter(alone) {
                let pruned =
                    zero_by_pattern(&g, &weights, criterion, 3, pattern, Shares::all(Scope::Layer, 0.0))
                        .unwrap();
                for matrix in &weights {
                    for row in zeros(&pruned, matrix) {
                        for group in row.chunks(m) {
                            let kept = group.iter().filter(|&&zero| !zero).count();
                            assert_eq!(kept, n.min(group.len()), "{n}:{m} of {matrix:?}");
                        }
                    }
                }
            }
        }
        // [outputs = 7, inputs = 10] of a weight stored as [10, 7].
        let pattern = Pattern::n_of_m(2, 4).unwrap();
        let pruned = zero_by_pattern(&g, &weights, &L1, 0, pattern, Shares::all(Scope::Layer, 0.0)).unwrap();
        let all = values(70);
        let kept = zeros(&pruned, &weights[0]);
        for (row, kept) in kept.iter().enumerate() {
            for first in [0, 4, 8] {
                let group: Vec<usize> = (first..10.min(first + 4)).collect();
                let size = |col: usize| all[col * 7 + row].abs();
                let least_kept =
                    group.iter().filter(|&&col| !kept[col]).map(|&c| size(c)).fold(9.0, f32::min);
                assert!(group.iter().filter(|&&col| kept[col]).all(|&col| size(col) <= least_kept));
            }
        }
    }

    #[test]
    fn blocks_go_whole_and_in_the_number_asked_for() {
        let g = graph();
        let weights = prunable(&g);
        for [r, c] in [[4, 1], [1, 4], [2, 3], [16, 1]] {
            let pattern = Pattern::block(r, c).unwrap();
            for scope in [Scope::Layer, Scope::Global] {
                let pruned = zero_by_pattern(&g, &weights, &L2, 0, pattern, Shares::all(scope, 0.5)).unwrap();
                let mut gone_of_all = [0, 0];
                for matrix in &weights {
                    let zeros = zeros(&pruned, matrix);
                    let (mut gone, mut blocks) = (0, 0);
                    for row in (0..matrix.rows).step_by(r) {
                        for col in (0..matrix.cols).step_by(c) {
                            let block = zeros[row..matrix.rows.min(row + r)].iter();
                            let elements: Vec<bool> =
                                block.flat_map(|row| row[col..matrix.cols.min(col + c)].to_vec()).collect();
                            assert!(
                                elements.iter().all(|zero| *zero == elements[0]),
                                "{pattern}: {matrix:?}"
                            );
                            gone += usize::from(elements[0]);
                            blocks += 1;
                        }
                    }
                    if scope == Scope::Layer {
                        assert_eq!(gone, (blocks as f64 * 0.5).round() as usize);
                    }
                    gone_of_all = [gone_of_all[0] + gone, gone_of_all[1] + blocks];
                }
                if scope == Scope::Global {
                    assert_eq!(gone_of_all[0], (gone_of_all[1] as f64 * 0.5).round() as usize);
                }
            }
        }
    }

    #[test]
    fn blocks_at_the_edge_compare_by_their_mean() {
        // Blocks 4×1 of [5, 2]: the last row is a block of one, of greater mean than the first column's above.
        let w = [0.1, 9.0, 0.1, 9.0, 0.1, 9.0, 0.1, 9.0, 0.3, 0.2];
        let mut g = Graph::default();
        let id = g.add_weight("w", Tensor::from_slice(&[5, 2], &w));
        let matrix = Matrix::new(id, MatrixForm::of(&[5, 2], false).unwrap());
        let pattern = Pattern::block(4, 1).unwrap();
        let pruned =
            zero_by_pattern(&g, &[matrix], &L1, 0, pattern, Shares::all(Scope::Layer, 0.25)).unwrap();
        let kept = [0.0, 9.0, 0.0, 9.0, 0.0, 9.0, 0.0, 9.0, 0.3, 0.2];
        assert_eq!(pruned.weight(id).unwrap().to_dense().unwrap(), Tensor::from_slice(&[5, 2], &kept));
    }
}
