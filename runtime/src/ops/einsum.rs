//! Einsum: sums of products over named axes, two operands at a time as batched matrix products.

use std::borrow::Cow;
use std::collections::BTreeMap;

use poda_formats::TensorView;
use poda_formats::op::einsum::{Equation, Term};
use poda_formats::tensor::checked_bytes;

use super::args::{Infos, one, required, strides};
use super::facts::{Fact, bad_shape, known, same_type};
use super::real::{Mat, Product, load, store, with_product};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::memory::filled;
use crate::output::Output;
use crate::threads;

/// Name of an axis: a letter, or [`ELLIPSIS`] plus the place, counted from the right, of an axis behind `...`.
pub(crate) type Label = u32;

/// Above all letters.
const ELLIPSIS: Label = 0x0011_0000;

/// The axes of each operand and of the result, and their sizes.
pub(crate) struct Axes {
    pub(crate) inputs: Vec<Vec<Label>>,
    pub(crate) output: Vec<Label>,
    pub(crate) sizes: BTreeMap<Label, usize>,
}

/// A term as labels; `...` becomes `hidden` of them.
fn labels(term: &Term, hidden: usize) -> Vec<Label> {
    let of = |letters: &[char]| letters.iter().map(|&c| u32::from(c)).collect::<Vec<_>>();
    let mut labels = of(&term.before);
    if let Some(after) = &term.after {
        labels.extend((0..hidden).rev().map(|i| ELLIPSIS + i as u32));
        labels.extend(of(after));
    }
    labels
}

impl Axes {
    /// The axes of `equation` for operands of these shapes.
    ///
    /// # Errors
    /// When it is not well formed, or does not fit the shapes.
    pub(crate) fn new(equation: &str, shapes: &[&[usize]]) -> Result<Self, OpError> {
        let parsed = Equation::parse(equation).map_err(|error| OpError::Invalid(error.to_string()))?;
        if parsed.inputs.len() != shapes.len() {
            let (found, expected) = (shapes.len(), parsed.inputs.len());
            return Err(OpError::Invalid(format!(
                "einsum {equation:?} takes {expected} inputs, found {found}"
            )));
        }
        let mut sizes = BTreeMap::new();
        let mut inputs = Vec::new();
        for (index, (term, dims)) in parsed.inputs.iter().zip(shapes).enumerate() {
            let labels = labels(term, dims.len().saturating_sub(term.letters().count()));
            if labels.len() != dims.len() {
                let reason = format!("its rank does not fit term {} of {equation:?}", index + 1);
                return Err(bad_shape(index, dims, reason));
            }
            for (&label, &dim) in labels.iter().zip(*dims) {
                let size = sizes.entry(label).or_insert(dim);
                if *size == 1 {
                    *size = dim;
                }
                if dim != *size && dim != 1 {
                    return Err(bad_shape(
                        index,
                        dims,
                        format!("an axis of {equation:?} has sizes {size} and {dim}"),
                    ));
                }
            }
            inputs.push(labels);
        }
        let hidden = sizes.keys().filter(|&&l| l >= ELLIPSIS).count();
        let output = match &parsed.output {
            Some(term) => labels(term, hidden),
            None => {
                let letters = parsed.output_letters().into_iter().map(u32::from);
                (0..hidden as u32).rev().map(|i| ELLIPSIS + i).chain(letters).collect()
            }
        };
        for (i, label) in output.iter().enumerate() {
            if !sizes.contains_key(label) || output[..i].contains(label) {
                return Err(OpError::Invalid(format!(
                    "einsum {equation:?}: an axis of the result is unknown or twice"
                )));
            }
        }
        Ok(Self { inputs, output, sizes })
    }

    fn shape(&self) -> Vec<usize> {
        self.output.iter().map(|l| self.sizes[l]).collect()
    }
}

fn infos<'a, F: Fact<'a>>(equation: &str, inputs: &[Option<F>]) -> Result<Vec<Info>, OpError> {
    let dtype = required(inputs, 0)?.element_type();
    same_type(inputs, 1..inputs.len(), dtype)?;
    let mut shapes = Vec::new();
    for index in 0..inputs.len() {
        match required(inputs, index)?.dims() {
            Some(dims) => shapes.push(dims),
            None => return Ok(one(dtype, None)),
        }
    }
    Ok(one(dtype, Some(Axes::new(equation, &shapes)?.shape())))
}

pub(super) fn infer_einsum(equation: &str, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    infos(equation, inputs)
}

pub(super) fn einsum(equation: &str, inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let infos = infos(equation, inputs)?;
    let views: Vec<TensorView<'_>> = inputs.iter().copied().flatten().collect();
    let shapes: Vec<&[usize]> = views.iter().map(TensorView::shape).collect();
    let plan = Axes::new(equation, &shapes)?;
    with_product!(infos[0].dtype, "Einsum", T => store::<T>(&mut outputs[0], infos[0].dtype, known(&infos, 0), |y| {
        y.copy_from_slice(&evaluate::<T>(&plan, &views)?);
        Ok(())
    }))
}

/// A tensor with named axes.
struct Operand<'a, T: Clone> {
    labels: Vec<Label>,
    dims: Vec<usize>,
    values: Cow<'a, [T]>,
}

impl<T: Product> Operand<'_, T> {
    /// The axes `wanted`, in this order: others are summed over, and axes of one name give the diagonal.
    fn arrange(self, wanted: &[Label]) -> Self {
        if self.labels == wanted {
            return self;
        }
        let steps = strides(&self.dims);
        let mut axes: BTreeMap<Label, (usize, usize)> = BTreeMap::new();
        for ((&label, &dim), step) in self.labels.iter().zip(&self.dims).zip(steps) {
            let axis = axes.entry(label).or_insert((dim, 0));
            axis.1 += step;
        }
        let kept: Vec<(usize, usize)> = wanted.iter().map(|label| axes[label]).collect();
        let summed: Vec<(usize, usize)> =
            axes.iter().filter(|(label, _)| !wanted.contains(label)).map(|(_, &axis)| axis).collect();
        let inner = offsets(&summed);
        let values = offsets(&kept)
            .into_iter()
            .map(|at| inner.iter().fold(T::default(), |sum, i| sum.add(self.values[at + i])))
            .collect();
        Self { labels: wanted.to_vec(), dims: kept.iter().map(|a| a.0).collect(), values: Cow::Owned(values) }
    }

    /// Sum of products with `other` over the axes that are not in `keep`.
    ///
    /// # Errors
    /// When memory does not hold it: it may be larger than the operands and the result.
    fn contract(self, other: Self, keep: &[Label]) -> Result<Self, OpError> {
        let shared = |l: &&Label| self.labels.contains(l) && other.labels.contains(l);
        let mut all: Vec<Label> = [&self.labels[..], &other.labels].concat();
        all.sort_unstable();
        all.dedup();
        let pick = |f: &dyn Fn(&&Label) -> bool| all.iter().filter(f).copied().collect::<Vec<_>>();
        let batch = pick(&|l| shared(l) && keep.contains(l));
        let inner = pick(&|l| shared(l) && !keep.contains(l));
        let left = pick(&|l| keep.contains(l) && !other.labels.contains(l));
        let right = pick(&|l| keep.contains(l) && !self.labels.contains(l));
        let a = self.arrange(&[&batch[..], &left, &inner].concat());
        let b = other.arrange(&[&batch[..], &inner, &right].concat());
        let size = |dims: &[usize]| dims.iter().product::<usize>();
        let m = size(&a.dims[batch.len()..][..left.len()]);
        let (k, n) =
            (size(&b.dims[batch.len()..][..inner.len()]), size(&b.dims[batch.len() + inner.len()..]));
        let dims = [&a.dims[..batch.len() + left.len()], &b.dims[batch.len() + inner.len()..]].concat();
        let too_large = || OpError::TooLarge { dtype: T::DTYPE, shape: dims.clone() };
        let len = checked_bytes(T::DTYPE, &dims).ok_or_else(too_large)? / size_of::<T>();
        let mut values = filled(T::default(), len).ok_or_else(too_large)?;
        let product = |i: usize, c: &mut [T]| {
            T::product(
                Mat::new(&a.values[i * m * k..][..m * k], m, k),
                Mat::new(&b.values[i * k * n..][..k * n], k, n),
                c,
            );
        };
        if m * n > 0 {
            threads::for_each_chunk(&mut values, m * n, 1, product);
        }
        Ok(Operand { labels: [batch, left, right].concat(), dims, values: Cow::Owned(values) })
    }
}

/// The offset of every place in axes of (size, stride), row-major.
fn offsets(axes: &[(usize, usize)]) -> Vec<usize> {
    let mut all = vec![0];
    for &(dim, step) in axes {
        all = all.iter().flat_map(|&base| (0..dim).map(move |i| base + i * step)).collect();
    }
    all
}

fn evaluate<T: Product>(plan: &Axes, views: &[TensorView<'_>]) -> Result<Vec<T>, OpError> {
    let mut operands: Vec<Operand<'_, T>> = views
        .iter()
        .zip(&plan.inputs)
        .map(|(view, labels)| {
            // An axis of one element that repeats is no axis.
            let real = |axis: &(&Label, &usize)| *axis.1 == plan.sizes[axis.0];
            let (labels, dims) = labels.iter().zip(view.shape()).filter(real).map(|(&l, &d)| (l, d)).unzip();
            Operand { labels, dims, values: load::<T>(*view) }
        })
        .collect();
    operands.reverse();
    let mut result = operands.pop().unwrap_or(Operand {
        labels: vec![],
        dims: vec![],
        values: Cow::Owned(vec![T::default()]),
    });
    while let Some(next) = operands.pop() {
        let keep: Vec<Label> =
            plan.output.iter().chain(operands.iter().flat_map(|o| &o.labels)).copied().collect();
        result = result.contract(next, &keep)?;
    }
    Ok(result.arrange(&plan.output).values.into_owned())
}

#[cfg(test)]
mod tests {
    use poda_formats::op::Op;

    use super::super::testing::{apply, assert_close, floats, input, noise};
    use super::*;

    #[test]
    fn what_memory_does_not_hold_on_the_way_is_refused() {
        let long = || input(&[1 << 20], &vec![1_u32; 1 << 20]);
        let op = Op::Einsum { equation: "a,b,a,b->".into() };
        let result = apply(&op, &[long(), long(), long(), long()], 1);
        assert!(matches!(result, Err(OpError::TooLarge { .. })), "{result:?}");
    }

    #[test]
    fn equations_are_sums_of_products() {
        let cases: [(&str, &[&[usize]], &[usize]); 12] = [
            ("ij,jk->ik", &[&[2, 3], &[3, 4]], &[2, 4]),
            ("ij,jk", &[&[2, 3], &[3, 4]], &[2, 4]),
            ("ij->ji", &[&[2, 3]], &[3, 2]),
            ("ii->i", &[&[3, 3]], &[3]),
            ("ii", &[&[3, 3]], &[]),
            ("ij->", &[&[2, 3]], &[]),
            ("i,j->ij", &[&[2], &[3]], &[2, 3]),
            ("bhqd,bhkd->bhqk", &[&[2, 2, 3, 4], &[2, 2, 5, 4]], &[2, 2, 3, 5]),
            ("...ij,...jk->...ik", &[&[5, 1, 2, 3], &[4, 3, 2]], &[5, 4, 2, 2]),
            ("... i j , j -> ... i", &[&[2, 2, 3], &[3]], &[2, 2]),
            ("ab,bc,cd->ad", &[&[2, 3], &[3, 4], &[4, 2]], &[2, 2]),
            ("ij,jk->ik", &[&[2, 0], &[0, 4]], &[2, 4]),
        ];
        for (equation, shapes, expected) in cases {
            let inputs: Vec<_> = shapes.iter().enumerate().map(|(i, s)| noise(s, i)).collect();
            let op = Op::Einsum { equation: equation.to_owned() };
            let result = apply(&op, &inputs, 1).unwrap();
            assert_eq!(result[0].shape(), expected, "{equation}");
            let tensors: Vec<_> = inputs.iter().flatten().collect();
            let plan = Axes::new(equation, shapes).unwrap();
            // Over all values of all labels.
            let labels: Vec<Label> = plan.sizes.keys().copied().collect();
            let total: usize = plan.sizes.values().product();
            let mut sums = vec![0.0; expected.iter().product()];
            for i in 0..total {
                let mut rest = i;
                let at: BTreeMap<Label, usize> = labels
                    .iter()
                    .map(|l| {
                        let place = rest % plan.sizes[l];
                        rest /= plan.sizes[l];
                        (*l, place)
                    })
                    .collect();
                let place = |labels: &[Label], dims: &[usize]| {
                    labels.iter().zip(dims).fold(0, |p, (l, &d)| p * d + if d == 1 { 0 } else { at[l] })
                };
                let product: f32 =
                    tensors.iter().zip(&plan.inputs).map(|(t, l)| floats(t)[place(l, t.shape())]).product();
                sums[place(&plan.output, expected)] += product;
            }
            assert_close(floats(&result[0]), &sums, 1e-5);
        }
    }

    #[test]
    fn bad_equations_are_errors() {
        let x = || noise(&[2, 3], 1);
        for equation in
            ["ij,jk->ik", "i->i", "ij->k", "ij->ii", "i1->i", "ij->i->j", "i...j...->i", "", "ijk"]
        {
            let op = Op::Einsum { equation: equation.to_owned() };
            assert!(apply(&op, &[x()], 1).is_err(), "{equation}");
        }
        let op = Op::Einsum { equation: "ij,jk->ik".to_owned() };
        assert!(apply(&op, &[x(), input(&[4, 1], &[1.0_f32; 4])], 1).is_err());
    }
}
