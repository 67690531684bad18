//! Symmetric positive definite systems, by faer's Cholesky, one thread each: whoever has many shares them out.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::{factor, inverse as of_factor, solve};
use faer::{MatMut, MatRef, Par, Spec};

/// Memory for systems that are solved one after the other.
#[derive(Debug, Default)]
pub(crate) struct Factor {
    matrix: Vec<f64>,
    /// Places that it is a factor of, of the matrix that lies there.
    of: Option<(*const f64, Vec<usize>)>,
}

impl Factor {
    /// `x` with `matrix[places, places] · x = right`, of a matrix `[size, size]`; `None` where it is not positive definite.
    pub(crate) fn solve(
        &mut self,
        matrix: &[f64],
        size: usize,
        places: &[usize],
        mut right: Vec<f64>,
    ) -> Option<Vec<f64>> {
        let n = places.len();
        if n == 0 {
            return Some(right);
        }
        // (The matrix outlives all systems that are solved in this memory.)
        let same = self.of.as_ref().is_some_and(|(at, of)| *at == matrix.as_ptr() && of == places);
        if !same {
            self.of = None;
            self.factorize(matrix, size, places)?;
            self.of = Some((matrix.as_ptr(), places.to_vec()));
        }
        let l = MatRef::from_column_major_slice(&self.matrix[..n * n], n, n);
        let x = MatMut::from_column_major_slice_mut(&mut right, n, 1);
        let mut memory = MemBuffer::new(solve::solve_in_place_scratch::<f64>(n, 1, Par::Seq));
        solve::solve_in_place(l, x, Par::Seq, MemStack::new(&mut memory));
        right.iter().all(|v| v.is_finite()).then_some(right)
    }

    /// The factor of `matrix[places, places]`.
    fn factorize(&mut self, matrix: &[f64], size: usize, places: &[usize]) -> Option<()> {
        let n = places.len();
        self.matrix.resize(n * n, 0.0);
        // Column major: what lies below the diagonal of a column is read from a row of the symmetric matrix.
        for (j, &col) in places.iter().enumerate() {
            let from = &matrix[col * size..][..size];
            let to = &mut self.matrix[j * n..][..n];
            places[j..].iter().zip(&mut to[j..]).for_each(|(&row, to)| *to = from[row]);
        }
        factorize(&mut self.matrix[..n * n], n)
    }
}

/// The lower Cholesky factor in place, column major.
fn factorize(matrix: &mut [f64], n: usize) -> Option<()> {
    let params: Spec<factor::LltParams, f64> = Spec::default();
    let mut memory = MemBuffer::new(factor::cholesky_in_place_scratch::<f64>(n, Par::Seq, params));
    let l = MatMut::from_column_major_slice_mut(matrix, n, n);
    factor::cholesky_in_place(
        l,
        factor::LltRegularization::default(),
        Par::Seq,
        MemStack::new(&mut memory),
        params,
    )
    .ok()?;
    Some(())
}

/// The inverse of a matrix `[n, n]`; `None` where it is not positive definite.
pub(crate) fn inverse(matrix: &[f64], n: usize) -> Option<Vec<f64>> {
    if n == 0 {
        return Some(Vec::new());
    }
    let mut l = matrix.to_vec();
    factorize(&mut l, n)?;
    let mut out = vec![0.0; n * n];
    let mut memory = MemBuffer::new(of_factor::inverse_scratch::<f64>(n, Par::Seq));
    of_factor::inverse(
        MatMut::from_column_major_slice_mut(&mut out, n, n),
        MatRef::from_column_major_slice(&l, n, n),
        Par::Seq,
        MemStack::new(&mut memory),
    );
    // Only what lies on and below the diagonal is written: column major, so `out[col * n + row]` for `row ≥ col`.
    for col in 0..n {
        for row in 0..col {
            out[col * n + row] = out[row * n + col];
        }
    }
    out.iter().all(|v| v.is_finite()).then_some(out)
}

/// The upper Cholesky factor `U` of the inverse, `H⁻¹ = UᵀU`, row major; `None` where `matrix` is not positive definite.
pub(crate) fn upper_of_inverse(matrix: &[f64], n: usize) -> Option<Vec<f64>> {
    let mut l = inverse(matrix, n)?;
    if n > 0 {
        factorize(&mut l, n)?;
    }
    // Column major below the diagonal is row major above it.
    (0..n).for_each(|row| l[row * n..][..row].fill(0.0));
    Some(l)
}
