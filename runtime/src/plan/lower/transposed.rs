//! Transposed convolutions: a product for each pixel of the input, added into the output where its windows lie (col2im).

use poda_formats::op::ConvAttributes;

use crate::kernels::{Activation, Epilogue, Layout, X};
use crate::ops::conv_transpose;
use crate::ops::geometry::Windows;
use crate::packing::scratch::Scratch;
use crate::threads::{self, Threads};
use crate::tune::PackedWeight;

/// Elements of a product that are made before they are added to the output, so that they are still in L2 then; of one filter
/// at least.
const TILE: usize = 1 << 17;

/// Shapes of a transposed convolution of `x` `[images, channels, …]` with `w` `[channels, filters / groups, kernel…]`. The
/// weight's matrix has `[filters, taps]` as rows.
#[derive(Debug, Clone)]
pub(crate) struct Transposed {
    pub(crate) images: usize,
    pub(crate) filters: usize,
    groups: usize,
    /// Those of the convolution from output to input.
    windows: Windows,
}

impl Transposed {
    /// `None` when the shapes do not fit.
    pub(crate) fn new(
        conv: &ConvAttributes,
        output_padding: &[usize],
        output_shape: &[usize],
        [x, w]: [&[usize]; 2],
    ) -> Option<Self> {
        let (filters, windows) = conv_transpose::windows(conv, output_padding, output_shape, x, w).ok()?;
        Some(Self { images: x[0], filters, groups: conv.group, windows })
    }

    /// Elements of a window.
    pub(crate) fn taps(&self) -> usize {
        self.windows.taps()
    }

    /// Elements of a channel of the input.
    pub(crate) fn pixels(&self) -> usize {
        self.windows.outputs()
    }

    /// Filters of each part.
    fn filters_of_parts(&self) -> Vec<usize> {
        let group = self.filters / self.groups;
        let most = (TILE / (self.taps() * self.pixels()).max(1)).clamp(1, group.max(1));
        let parts = group.div_ceil(most);
        (0..self.groups)
            .flat_map(|_| (0..parts).map(move |i| (i + 1) * group / parts - i * group / parts))
            .collect()
    }

    /// Rows of the parts that the weight is cut into: of one group each.
    pub(crate) fn cuts(&self) -> Vec<usize> {
        self.filters_of_parts().into_iter().map(|filters| filters * self.taps()).collect()
    }

    /// One image: `x` `[channels, …]`, `y` `[filters, …]`, of which every element is written.
    pub(crate) fn run(
        &self,
        weights: &[PackedWeight],
        x: &[f32],
        y: &mut [f32],
        epilogue: &Epilogue<'_>,
        threads: &Threads,
    ) {
        let (outputs, n, taps) = (self.windows.inputs(), self.pixels(), self.taps());
        let group_x = x.len() / self.groups;
        let mut first = 0;
        for (i, weight) in weights.iter().enumerate() {
            let [rows, k] = weight.shape();
            let filters = rows / taps;
            let group = i * self.groups / weights.len();
            let mut products = Scratch::new(rows * n);
            let x = X::Matrix { data: &x[group * group_x..][..k * n], layout: Layout::FeatureMajor };
            weight.run(n, x, &mut products, Layout::FeatureMajor, &Epilogue::default(), threads);
            let y = &mut y[first * outputs..][..filters * outputs];
            threads.install(|| {
                threads::for_each_chunk(y, outputs, (1 << 13) / (taps * n).max(1), |f, channel| {
                    let at = (first + f) * outputs;
                    match epilogue.residual {
                        Some(residual) => channel.copy_from_slice(&residual[at..][..outputs]),
                        None => channel.fill(0.0),
                    }
                    if let Some(bias) = epilogue.bias {
                        channel.iter_mut().for_each(|y| *y += bias[first + f]);
                    }
                    for (tap, row) in products[f * taps * n..][..taps * n].chunks_exact(n).enumerate() {
                        self.windows.runs(tap, 0..n, |column, count, at, step| {
                            let to = channel[at..].iter_mut().step_by(step);
                            to.zip(&row[column..column + count]).for_each(|(y, v)| *y += v);
                        });
                    }
                    if epilogue.activation != Activation::None {
                        epilogue.activation.apply(channel);
                    }
                });
            });
            first += filters;
        }
    }
}
