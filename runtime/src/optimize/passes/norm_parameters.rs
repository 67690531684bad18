//! A constant scale or bias that follows a normalisation becomes its parameter, where the normalisation has none yet.

use poda_formats::Op;
use poda_formats::op::Binary;

use crate::optimize::matching::{View, input};
use crate::optimize::{Rewrite, Rewriter};

pub(in crate::optimize) fn rewrite(r: &mut Rewriter<'_>, at: usize) -> Option<Rewrite> {
    let output = r.node(at).output(0)?;
    let scaling = matches!(r.node(at).op, Op::Binary(Binary::Mul));
    let (a, b) = r.binary(output, if scaling { Binary::Mul } else { Binary::Add })?;
    let (op, inputs, parameter, sizes) = [(a, b), (b, a)].into_iter().find_map(|(normed, parameter)| {
        let (op, inputs) = r.made_by(normed)?;
        let takes_bias = matches!(op, Op::LayerNormalization { .. });
        let (Op::LayerNormalization { axis, .. } | Op::RmsNormalization { axis, .. }) = op else {
            return None;
        };
        let all = r.facts.sizes(normed)?;
        // The parameter must vary over the axes of the normalisation and not repeat them.
        let own = r.constant(parameter)?.shape();
        let sizes: Option<Vec<usize>> = all.get(usize::try_from(*axis).ok()?..)?.iter().copied().collect();
        let sizes = r.facts.asked(sizes)?;
        let leading = own.len().checked_sub(sizes.len())?;
        let plain = r.f32s(input(inputs, 1)?)?.iter().all(|&s| s == 1.0);
        let fits = r.once(normed)
            && r.f32s(parameter).is_some()
            && own.len() <= all.len()
            && own[..leading].iter().all(|&d| d == 1)
            && own[leading..] == sizes[..]
            && input(inputs, 2).is_none()
            && if scaling { plain } else { takes_bias };
        fits.then(|| (op.clone(), inputs.to_vec(), parameter, sizes))
    })?;
    let tensor = r.constant(parameter)?.reshaped(sizes).ok()?;
    let parameter = Some(r.add_constant(tensor));
    let (x, scale) = (inputs[0], inputs[1]);
    Some((op, if scaling { vec![x, parameter] } else { vec![x, scale, parameter] }))
}
