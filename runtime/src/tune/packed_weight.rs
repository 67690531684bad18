//! A weight packed for the kernel that was chosen for it: the one way to run a product.

use std::sync::Arc;

use super::{Candidate, Choice, Tuner};
use crate::kernels::{Call, Epilogue, Kernel, KernelError, Packing, Params, Problem, Source, WeightMatrix};
use crate::packing::image::PaddedImage;
use crate::packing::{ConvGeometry, Layout, Right, X};
use crate::threads::Threads;

/// A weight `[m, k]` packed for the kernel that was chosen for it.
pub struct PackedWeight {
    m: usize,
    k: usize,
    nnz: usize,
    smallest_bytes: usize,
    kernel: &'static Kernel,
    choice: Choice,
    packed: Arc<Packing>,
}

impl std::fmt::Debug for PackedWeight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedWeight([{}, {}], nnz {}, {})", self.m, self.k, self.nnz, self.kernel.name)
    }
}

impl PackedWeight {
    /// Chooses a kernel for a weight and packs it.
    ///
    /// # Errors
    /// When the weight is not an f32 matrix.
    pub fn prepare(
        weight: &WeightMatrix,
        problem: &Problem,
        tuner: &Tuner,
        threads: &Threads,
    ) -> Result<Self, KernelError> {
        let choose = |source: &Source<'_>| tuner.choose(source, problem, threads, true);
        Self::prepare_with(weight, problem, choose, |_, _, pack| pack().map(Arc::new))
    }

    /// The same by what [`Tuner::choose`] says; `get` may know a packing of the weight for a kernel with some measures.
    ///
    /// # Errors
    /// When the weight is not an f32 matrix, or `choose` or `get` fails.
    pub(crate) fn prepare_with(
        weight: &WeightMatrix,
        problem: &Problem,
        choose: impl FnOnce(&Source<'_>) -> Result<(&'static Kernel, Choice), KernelError>,
        get: impl FnOnce(
            &'static Kernel,
            Params,
            &dyn Fn() -> Result<Packing, KernelError>,
        ) -> Result<Arc<Packing>, KernelError>,
    ) -> Result<Self, KernelError> {
        let [m, k] = weight.shape()?;
        let source = Source::new(weight);
        let (kernel, mut choice) = choose(&source)?;
        let params = choice.candidates[0].params;
        let packed = get(kernel, params, &|| kernel.pack(&source, problem, params))?;
        choice.candidates[0].bytes = Some(packed.bytes());
        let (nnz, smallest_bytes) = (weight.nnz(), weight.smallest_bytes());
        Ok(Self { m, k, nnz, smallest_bytes, kernel, choice, packed })
    }

    /// Packs a weight for a kernel with some of its [`Kernel::variants`].
    ///
    /// # Errors
    /// When the kernel does not take this weight on this CPU, or has no such measures.
    pub fn with_kernel(
        weight: &WeightMatrix,
        problem: &Problem,
        kernel: &'static Kernel,
        params: Params,
    ) -> Result<Self, KernelError> {
        let [m, k] = weight.shape()?;
        let name = kernel.name.to_owned();
        if !kernel.takes(weight, problem) {
            return Err(KernelError::Refused { name });
        }
        let packed = Arc::new(kernel.pack(&Source::new(weight), problem, params)?);
        let candidate = Candidate { kernel: name, params, micros: None, bytes: Some(packed.bytes()) };
        let choice = Choice { candidates: vec![candidate], reason: "asked for".to_owned() };
        let (nnz, smallest_bytes) = (weight.nnz(), weight.smallest_bytes());
        Ok(Self { m, k, nnz, smallest_bytes, kernel, choice, packed })
    }

    /// `y = activation(W · x + bias + residual)` for `n` columns; writes every element of `y`.
    ///
    /// # Panics
    /// When a slice has not the length that `[m, k]`, `n` and the geometry give it.
    pub fn run(
        &self,
        n: usize,
        x: X<'_>,
        y: &mut [f32],
        y_layout: Layout,
        epilogue: &Epilogue<'_>,
        threads: &Threads,
    ) {
        match x {
            X::Matrix { data, .. } => assert_eq!(data.len(), self.k * n, "x is not [{}, {n}]", self.k),
            X::Image { data, geometry } => {
                assert_eq!([geometry.k(), geometry.n()], [self.k, n], "{geometry:?}");
                assert_eq!(data.len(), geometry.image_len(), "{geometry:?}");
            }
        }
        assert_eq!(y.len(), self.m * n, "y is not [{}, {n}]", self.m);
        if let Some(bias) = epilogue.bias {
            assert_eq!(bias.len(), self.m, "bias");
        }
        if let Some(residual) = epilogue.residual {
            assert_eq!(residual.len(), y.len(), "residual");
        }
        if !y.is_empty() {
            x.with_right(self.packed.tile(), |x| {
                self.packed.run(Call { n, x, y, y_layout, epilogue, threads });
            });
        }
    }

    /// Whether [`PackedWeight::run_images`] takes several images.
    pub(crate) fn takes_images(&self) -> bool {
        self.packed.takes_images()
    }

    /// Convolves `x` `[images, channels, h, w]` to `y` `[images, m, oh, ow]`, all columns in one product; a residual lies as `y`.
    ///
    /// # Panics
    /// When a slice has not the length that `[m, k]` and the geometry give it, or the kernel does not take several images.
    pub(crate) fn run_images(
        &self,
        images: usize,
        x: &[f32],
        geometry: &ConvGeometry,
        y: &mut [f32],
        epilogue: &Epilogue<'_>,
        threads: &Threads,
    ) {
        let pixels = geometry.n();
        assert!(images <= 1 || self.takes_images(), "{} takes one image", self.kernel.name);
        assert_eq!(geometry.k(), self.k, "{geometry:?}");
        assert_eq!(x.len(), images * geometry.image_len(), "{geometry:?}");
        assert_eq!(y.len(), images * self.m * pixels, "y is not [{images}, {}, {pixels}]", self.m);
        assert!(epilogue.bias.is_none_or(|bias| bias.len() == self.m), "bias");
        assert!(epilogue.residual.is_none_or(|residual| residual.len() == y.len()), "residual");
        if y.is_empty() {
            return;
        }
        let (n, y_layout) = (images * pixels, Layout::FeatureMajor);
        let padded;
        let x = if geometry.is_pointwise() {
            Right::Images { data: x, pixels }
        } else {
            padded = PaddedImage::new(x, geometry, self.packed.tile());
            Right::Image(&padded)
        };
        self.packed.run(Call { n, x, y, y_layout, epilogue, threads });
    }

    /// Name of the kernel.
    pub fn kernel(&self) -> &'static str {
        self.kernel.name
    }

    /// Why that kernel.
    pub fn reason(&self) -> &str {
        &self.choice.reason
    }

    /// Why that kernel, and the others that were considered.
    pub fn choice(&self) -> &Choice {
        &self.choice
    }

    /// Rows and columns, `[m, k]`.
    pub fn shape(&self) -> [usize; 2] {
        [self.m, self.k]
    }

    /// Stored values.
    pub fn nnz(&self) -> usize {
        self.nnz
    }

    /// Bytes of the packed weight.
    pub fn bytes(&self) -> usize {
        self.packed.bytes()
    }

    /// Bytes of the smallest lossless format: dense, a bitmap or CSR.
    pub fn smallest_bytes(&self) -> usize {
        self.smallest_bytes
    }
}
