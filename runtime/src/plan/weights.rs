//! Weights of products: from how the graph holds them to how kernels want them, packed once for all plans.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use poda_formats::{
    CsrMatrix, DenseMatrix, Matrix, MatrixForm, Places, SparseError, Tensor, ValueId, Weight,
};

use super::kept::{self, Kept};
use crate::kernels::{
    self, Depthwise, Grid, KernelError, Layout, Level, Packing, Params, Problem, Sums, WeightMatrix,
};
use crate::ops::OpError;
use crate::packing::ConvGeometry;
use crate::threads::Threads;
use crate::tune::{PackedWeight, Tuner};

/// A dense weight with at least this fraction of zeros is also offered to the sparse kernels; below it none of them has
/// been measured to win.
const SPARSE_FROM: f64 = 0.3;

/// The matrix `[m, k]` of a product: a constant of the graph, perhaps with scaled rows.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) value: ValueId,
    /// How the constant lies.
    pub(crate) form: MatrixForm,
    /// Factor of each row, `[m]`: a folded batch-norm.
    pub(crate) scale: Option<Vec<f32>>,
}

impl Source {
    /// The constant as it is.
    pub(crate) fn new(value: ValueId, form: MatrixForm) -> Self {
        Self { value, form, scale: None }
    }

    /// Number of rows.
    pub(crate) fn m(&self) -> usize {
        self.form.size()[0]
    }

    /// Number of columns.
    pub(crate) fn k(&self) -> usize {
        self.form.cols
    }

    /// Multiplies row `i` by `factors[i]`.
    pub(crate) fn scale_rows(&mut self, factors: &[f32]) {
        match &mut self.scale {
            Some(scale) => scale.iter_mut().zip(factors).for_each(|(s, f)| *s *= f),
            None => self.scale = Some(factors.to_vec()),
        }
    }

    /// The matrix in parts of so many rows. Zeros are found here.
    fn matrices(&self, weight: &Weight, parts: &[usize]) -> Result<Vec<WeightMatrix>, OpError> {
        debug_assert_eq!(parts.iter().sum::<usize>(), self.m(), "parts of {:?}", self.form);
        let mut start = 0;
        let ranges = parts.iter().map(|rows| {
            start += rows;
            start - rows..start
        });
        let ranges: Vec<Range<usize>> = ranges.collect();
        if let Some(matrices) = self.stored(weight, &ranges)? {
            return Ok(matrices);
        }
        let tensor = weight.to_dense().map_err(invalid)?;
        let values = tensor.as_slice::<f32>()?;
        let zeros = values.iter().filter(|&&w| w == 0.0).count();
        let sparse = zeros as f64 >= SPARSE_FROM * values.len() as f64 && zeros > 0;
        // A model pruned elsewhere may keep to a pattern, too.
        if sparse
            && ranges.len() == 1
            && let Weight::Matrix(stored) = Weight::smallest(&tensor, self.form)
            && stored.layout().pattern().is_some()
        {
            return Ok(vec![self.scaled(&stored.matrix().map_err(invalid)?)?.into()]);
        }
        let k = self.k();
        let tensor = match (&self.scale, self.form.transposed) {
            (None, false) => tensor.clone(),
            _ => self.rows_scaled(values),
        };
        let values = tensor.as_slice::<f32>()?;
        let part = |rows: &Range<usize>| {
            let elements = rows.start * k..rows.end * k;
            if sparse {
                return Ok(WeightMatrix::Csr(CsrMatrix::from_dense(rows.len(), k, &values[elements])));
            }
            let bytes = elements.start * size_of::<f32>()..elements.end * size_of::<f32>();
            let storage = tensor.storage().slice(bytes).expect("within the tensor");
            Tensor::new(tensor.dtype(), vec![rows.len(), k], storage).map(WeightMatrix::Dense)
        };
        Ok(ranges.iter().map(part).collect::<Result<_, _>>()?)
    }

    /// As [`Source::matrices`], of a weight that is stored as this product uses it; `None` of others.
    fn stored(&self, weight: &Weight, parts: &[Range<usize>]) -> Result<Option<Vec<WeightMatrix>>, OpError> {
        let Weight::Matrix(stored) = weight else { return Ok(None) };
        let pattern = stored.layout().pattern().is_some();
        if stored.form() != self.form || pattern && parts.len() != 1 {
            return Ok(None);
        }
        let matrix = stored.matrix().map_err(invalid)?;
        if let Some(dense) = matrix.dense() {
            return Ok(Some(self.narrow_matrices(&dense, parts)?));
        }
        if pattern || parts.len() == 1 {
            return Ok(Some(vec![self.scaled(&matrix)?.into()]));
        }
        let matrix = self.scaled(&matrix.to_csr())?;
        let part = |rows: &Range<usize>| {
            if parts.len() == 1 { matrix.clone() } else { matrix.row_range(rows.clone()) }
        };
        Ok(Some(parts.iter().map(|rows| WeightMatrix::Csr(part(rows))).collect()))
    }

    /// As [`Source::matrices`], of a matrix of which every element is stored: narrow values stay so.
    fn narrow_matrices(
        &self,
        matrix: &DenseMatrix,
        parts: &[Range<usize>],
    ) -> Result<Vec<WeightMatrix>, OpError> {
        let matrix = self.scaled(matrix)?;
        let zeros = matrix.values().len() - matrix.values().nonzeros();
        let sparse = zeros as f64 >= SPARSE_FROM * matrix.values().len() as f64 && zeros > 0;
        let part = |rows: &Range<usize>| {
            let part = matrix.row_range(rows.clone());
            if sparse { WeightMatrix::Csr(part.to_csr()) } else { Matrix::from(part).into() }
        };
        Ok(parts.iter().map(part).collect())
    }

    /// `[m, k]`, scaled.
    fn rows_scaled(&self, values: &[f32]) -> Tensor {
        let [m, k] = self.form.size();
        let mut out = self.form.rows_of(values).into_owned();
        if let (Some(scale), true) = (&self.scale, k > 0) {
            for (row, factor) in out.chunks_exact_mut(k).zip(scale) {
                for w in row {
                    *w *= factor;
                }
            }
        }
        Tensor::from_slice(&[m, k], &out)
    }

    fn scaled<L: Places>(&self, matrix: &Matrix<L>) -> Result<Matrix<L>, OpError> {
        match &self.scale {
            Some(scale) => Ok(matrix.scaled(scale)?),
            None => Ok(matrix.clone()),
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "what `map_err` takes")]
fn invalid(error: SparseError) -> OpError {
    OpError::Invalid(error.to_string())
}

/// A weight ready for its kernel.
#[derive(Debug)]
pub(crate) enum Packed {
    /// One matrix for each group.
    Product(Vec<PackedWeight>),
    /// The weights of a depthwise convolution.
    Depthwise(Depthwise),
}

impl Packed {
    /// The matrices of a product.
    ///
    /// # Panics
    /// When it is a depthwise convolution's.
    pub(crate) fn products(&self) -> &[PackedWeight] {
        match self {
            Self::Product(weights) => weights,
            Self::Depthwise(_) => unreachable!("asked for the matrices of a depthwise convolution"),
        }
    }
}

/// What a packed weight is made of, whatever the number of columns.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub(super) value: ValueId,
    pub(super) form: MatrixForm,
    pub(super) scale: Option<Vec<u32>>,
    /// Rows of each.
    pub(super) parts: Vec<usize>,
    pub(super) layouts: (Layout, Layout),
    pub(super) window: Option<[[usize; 2]; 3]>,
    pub(super) sums: Sums,
    pub(super) grid: Option<Grid>,
    pub(super) depthwise: bool,
}

impl Identity {
    /// Of a matrix that is multiplied with columns of pixels.
    fn new(source: &Source, parts: Vec<usize>) -> Self {
        Self {
            value: source.value,
            form: source.form,
            scale: source.scale.as_ref().map(|s| s.iter().map(|f| f.to_bits()).collect()),
            parts,
            layouts: (Layout::FeatureMajor, Layout::FeatureMajor),
            window: None,
            sums: Sums::Near,
            grid: None,
            depthwise: false,
        }
    }
}

/// What tells packed weights apart: the number of columns counts by [`size_class`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    identity: Arc<Identity>,
    class: usize,
}

/// What tells packings of a matrix apart: classes that chose the same kernel share one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct PackingKey {
    pub(super) identity: Arc<Identity>,
    pub(super) group: usize,
    pub(super) kernel: &'static str,
    pub(super) params: Params,
    /// Whether the packing is for fewer columns than fill a few vectors.
    pub(super) few: bool,
}

/// The number of columns for which a kernel is chosen for all numbers of its class: the least of them. Kernels take about as many
/// vectors for each, so that the least favours dense most: where a sparse kernel wins there, it wins everywhere in the class.
/// Whole vectors, which are the usual numbers, are classes of their own.
fn size_class(n: usize) -> usize {
    let step = match n {
        0..=16 => 1,
        17..=256 => 16,
        257..=1024 => 64,
        // An eighth to a quarter of the number.
        _ => n.next_power_of_two() / 8,
    };
    if n.is_multiple_of(step) { n } else { n / step * step + 1 }
}

fn window(conv: &ConvGeometry) -> [[usize; 2]; 3] {
    [conv.kernel(), conv.stride(), conv.dilation()]
}

/// All packed weights of an executable, kept alive by the plans that use them.
#[derive(Debug, Clone)]
pub(crate) struct Weights {
    tuner: Arc<Tuner>,
    /// By [`ValueId`]: constants that do not depend on the shapes of the inputs. Only these are packed once for all plans.
    stable: Arc<[bool]>,
    packed: Arc<Shelf<Key, Packed>>,
    packings: Arc<Shelf<PackingKey, Packing>>,
    kept: Arc<Kept>,
    /// Whether kernels may be timed.
    timing: bool,
}

impl Weights {
    /// No weights yet.
    pub(crate) fn new(tuner: Tuner, stable: Vec<bool>) -> Self {
        Self::with(Arc::new(tuner), stable)
    }

    /// No weights yet of a body of control flow; kernels are chosen by the same tuner.
    pub(crate) fn of_body(&self, stable: Vec<bool>) -> Self {
        Self::with(Arc::clone(&self.tuner), stable)
    }

    fn with(tuner: Arc<Tuner>, stable: Vec<bool>) -> Self {
        Self {
            tuner,
            stable: stable.into(),
            packed: Arc::default(),
            packings: Arc::default(),
            kept: Arc::default(),
            timing: true,
        }
    }

    /// The same weights, for who must not time kernels: what is not known of them is an error.
    pub(crate) fn untimed(&self) -> Self {
        Self { timing: false, ..self.clone() }
    }

    /// Bytes of all that is packed, for whatever plans.
    pub(crate) fn bytes(&self) -> usize {
        let depthwise = |(_, packed): &(Key, Arc<Packed>)| match &**packed {
            Packed::Product(_) => 0,
            Packed::Depthwise(depthwise) => depthwise.bytes(),
        };
        let products: usize = self.packings.all().iter().map(|(_, packing)| packing.bytes()).sum();
        products + self.packed.all().iter().map(depthwise).sum::<usize>()
    }

    /// What was found of the packings that the file keeps.
    pub(crate) fn kept(&self) -> &Kept {
        &self.kept
    }

    /// What a file may keep of each packing that is there, by its weight.
    pub(crate) fn to_keep<'a>(
        &self,
        weight: impl Fn(ValueId) -> Option<&'a Weight>,
    ) -> Vec<(ValueId, poda_formats::Packing)> {
        let keep = |(key, packing): (PackingKey, Arc<Packing>)| {
            let value = key.identity.value;
            Some((value, kept::to_keep(&key, &packing, weight(value)?)?))
        };
        self.packings.all().into_iter().filter_map(keep).collect()
    }

    /// Whether kernels may be timed.
    pub(crate) fn timing(&self) -> bool {
        self.timing
    }

    /// What chooses the kernels.
    pub(crate) fn tuner(&self) -> &Tuner {
        &self.tuner
    }

    /// The weight packed for a problem, cut into parts of so many rows.
    ///
    /// # Errors
    /// When the weight cannot be read, or its kernel would have to be timed and must not.
    pub(crate) fn product(
        &self,
        source: &Source,
        weight: &Weight,
        parts: &[usize],
        problem: &Problem,
        threads: &Threads,
    ) -> Result<Arc<Packed>, OpError> {
        let identity = Arc::new(Identity {
            layouts: (problem.x_layout, problem.y_layout),
            window: problem.conv.as_ref().map(window),
            sums: problem.sums,
            grid: problem.grid,
            ..Identity::new(source, parts.to_vec())
        });
        let class = size_class(problem.n);
        // An image has the columns that it has.
        let n = if problem.conv.is_some() { problem.n } else { class };
        let problem = &Problem { n, ..problem.clone() };
        let few = n < 4 * Level::best().lanes();
        let stable = self.is_stable(source);
        let choose = |matrix: &kernels::Source<'_>| self.tuner.choose(matrix, problem, threads, self.timing);
        let make = || {
            let matrices = source.matrices(weight, parts)?;
            let packed = matrices.iter().enumerate().map(|(group, matrix)| {
                PackedWeight::prepare_with(matrix, problem, choose, |kernel, params, pack| {
                    if !stable {
                        return pack().map(Arc::new);
                    }
                    let identity = Arc::clone(&identity);
                    let key = PackingKey { identity, group, kernel: kernel.name, params, few };
                    let kept = self.kept.find(&key, kernel, weight, matrix.shape()?);
                    self.packings.get(key, || kept.map_or_else(pack, Ok))
                })
            });
            let packed = packed.collect::<Result<_, _>>();
            Ok(Packed::Product(packed.map_err(|e: KernelError| OpError::Invalid(e.to_string()))?))
        };
        self.pack(Key { identity: Arc::clone(&identity), class }, weight, stable, make)
    }

    /// The weight of a depthwise convolution, packed.
    ///
    /// # Errors
    /// As [`Weights::product`].
    pub(crate) fn depthwise(
        &self,
        source: &Source,
        weight: &Weight,
        geometry: &ConvGeometry,
    ) -> Result<Arc<Packed>, OpError> {
        let identity = Identity {
            window: Some(window(geometry)),
            depthwise: true,
            ..Identity::new(source, vec![geometry.channels()])
        };
        let make = || {
            let tensor = weight.to_dense().map_err(invalid)?;
            let tensor = match &source.scale {
                Some(_) => source.rows_scaled(tensor.as_slice()?),
                None => tensor,
            };
            Ok(Packed::Depthwise(Depthwise::prepare(tensor.as_slice()?, geometry)))
        };
        self.pack(Key { identity: Arc::new(identity), class: 0 }, weight, self.is_stable(source), make)
    }

    fn is_stable(&self, source: &Source) -> bool {
        self.stable.get(source.value.index()).copied().unwrap_or(false)
    }

    fn pack(
        &self,
        key: Key,
        weight: &Weight,
        stable: bool,
        make: impl FnOnce() -> Result<Packed, OpError>,
    ) -> Result<Arc<Packed>, OpError> {
        let make = || {
            let packed = crate::ops::guard(make)?;
            // From here on its packed form is what is read.
            weight.release();
            Ok(packed)
        };
        if stable { self.packed.get(key, make) } else { make().map(Arc::new) }
    }
}

/// Things that are made once, whoever asks first, and are kept alive by those who use them.
struct Shelf<K, T>(Mutex<HashMap<K, Arc<Mutex<Weak<T>>>>>);

impl<K, T> fmt::Debug for Shelf<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shelf")
    }
}

impl<K, T> Default for Shelf<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash, T> Shelf<K, T> {
    /// What is there by this key, or what `make` gives. Who wants the same meanwhile waits; who wants something else does not.
    fn get<E>(&self, key: K, make: impl FnOnce() -> Result<T, E>) -> Result<Arc<T>, E> {
        let place = {
            let mut all = self.lock();
            // Places that nobody looks at and where nothing is left.
            all.retain(|_, place| {
                Arc::strong_count(place) > 1 || place.try_lock().is_ok_and(|weak| weak.strong_count() > 0)
            });
            Arc::clone(all.entry(key).or_default())
        };
        // Things come whole, so a panic elsewhere leaves a valid place.
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = place.upgrade() {
            return Ok(kept);
        }
        let made = Arc::new(make()?);
        *place = Arc::downgrade(&made);
        Ok(made)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Arc<Mutex<Weak<T>>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that is there and not being made.
    fn all(&self) -> Vec<(K, Arc<T>)> {
        let there =
            |(key, place): (&K, &Arc<Mutex<Weak<T>>>)| Some((key.clone(), place.try_lock().ok()?.upgrade()?));
        self.lock().iter().filter_map(there).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    #[test]
    fn classes_are_named_by_their_least_number_and_whole_vectors_stand_alone() {
        for n in 1..5000 {
            let class = size_class(n);
            assert!(class <= n && n < 2 * class, "{n} in the class of {class}");
            assert_eq!(size_class(class), class, "{n}");
            assert!(n > 256 || n.div_ceil(16) == class.div_ceil(16), "{n}: as many vectors as {class}");
            let whole = n <= 16 || n <= 256 && n.is_multiple_of(16) || n.is_power_of_two();
            assert!(class == n || !whole, "{n} in the class of {class}");
        }
        assert_eq!(size_class(0), 0);
        let classes: BTreeSet<usize> = (1..=1024).map(size_class).collect();
        assert!(classes.len() <= 70, "{}", classes.len());
    }

    #[test]
    fn a_thing_is_made_once_while_others_are_had() {
        let shelf: Shelf<u32, String> = Shelf::default();
        let (begun, ends) = (Barrier::new(2), Barrier::new(2));
        thread::scope(|scope| {
            let slow = scope.spawn(|| {
                shelf.get(1, || {
                    begun.wait();
                    ends.wait();
                    Ok::<_, ()>("one".to_owned())
                })
            });
            begun.wait();
            let same = scope.spawn(|| shelf.get(1, || Ok::<_, ()>("made twice".to_owned())));
            let other = shelf.get(2, || Ok::<_, ()>("two".to_owned())).unwrap();
            assert_eq!((other.as_str(), shelf.all().len()), ("two", 1));
            ends.wait();
            let slow = slow.join().unwrap().unwrap();
            assert_eq!(*slow, "one");
            assert!(Arc::ptr_eq(&slow, &same.join().unwrap().unwrap()));
        });
        // Nobody uses them any more.
        assert!(shelf.all().is_empty());
        assert_eq!(shelf.get(1, || Err("anew")), Err("anew"));
        assert_eq!(*shelf.get(1, || Ok::<_, ()>("again".to_owned())).unwrap(), "again");
        assert_eq!(shelf.lock().len(), 1, "places of what nobody uses are let go");
    }
}
