//! Elementwise functions of f32 that follow each other, tile by tile: what one gives, the next finds in L1.

use poda_formats::op::{Binary, Unary};

use super::broadcast::{Broadcast, combine};
use super::unary_float::{f32_cost, float_f32};
use super::wide::widest;
use crate::kernels::Activation;
use crate::packing::scratch::Scratch;
use crate::threads::share::{cost, for_elements};

/// Elements of a tile: two buffers and an operand stay in L1.
const TILE: usize = 1024;

/// One function of a chain, of the value that the chain has so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Link {
    /// A function of one input that is defined for f32, with f32 as its result.
    Unary(Unary),
    /// With another input of the chain, which comes first when it is swapped.
    #[allow(missing_docs)]
    Binary { function: Arithmetic, other: usize, swapped: bool },
    /// Not below, nor above; NaN passes.
    #[allow(missing_docs)]
    Clip { low: f32, high: f32 },
    /// What a product would have in its epilogue.
    Activation(Activation),
}

/// The functions of two inputs that chains hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Arithmetic {
    Add,
    Sub,
    Mul,
    Div,
    PRelu,
}

impl Arithmetic {
    /// The function as one of these.
    pub(crate) fn new(function: Binary) -> Option<Self> {
        match function {
            Binary::Add => Some(Self::Add),
            Binary::Sub => Some(Self::Sub),
            Binary::Mul => Some(Self::Mul),
            Binary::Div => Some(Self::Div),
            Binary::PRelu => Some(Self::PRelu),
            _ => None,
        }
    }
}

/// Whether a function of one input gives f32 for f32.
pub(crate) fn is_float(function: Unary) -> bool {
    let tests = matches!(function, Unary::IsNan | Unary::IsInf { .. } | Unary::Not | Unary::BitwiseNot);
    !tests
}

/// Functions in a row, each of the same shape.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    pub(crate) links: Vec<Link>,
    /// How each input repeats under the shape of the result.
    layouts: Vec<Broadcast<1>>,
}

impl Chain {
    /// A chain that starts from the first of inputs of these shapes, which all broadcast to `shape`.
    pub(crate) fn new(links: Vec<Link>, shape: &[usize], inputs: &[&[usize]]) -> Self {
        Self { links, layouts: inputs.iter().map(|input| Broadcast::new(shape, [input])).collect() }
    }

    /// Names of the functions, in order.
    pub(crate) fn name(&self) -> String {
        let name = |link: &Link| match link {
            Link::Unary(function) => poda_formats::Op::Unary(*function).name().to_owned(),
            Link::Binary { function, .. } => format!("{function:?}"),
            Link::Clip { .. } => "Clip".to_owned(),
            Link::Activation(_) => "activation".to_owned(),
        };
        self.links.iter().map(name).collect::<Vec<_>>().join("+")
    }

    /// Whether a later function reads the first input once more, which then cannot be overwritten.
    pub(crate) fn reads_first_again(&self) -> bool {
        self.links.iter().any(|link| matches!(link, Link::Binary { other: 0, .. }))
    }

    /// Picoseconds that an element takes.
    fn cost(&self) -> usize {
        let cost = |link: &Link| match link {
            Link::Unary(function) => f32_cost(*function),
            Link::Activation(_) => cost::FUNCTION,
            Link::Binary { .. } | Link::Clip { .. } => cost::ARITHMETIC,
        };
        self.links.iter().map(cost).sum()
    }

    /// Writes the result to `y`, which holds the first input already where that is `None`.
    ///
    /// # Panics
    /// When inputs are not as long as their shapes say.
    pub(crate) fn run(&self, inputs: &[Option<&[f32]>], y: &mut [f32]) {
        for_elements(y, self.cost(), |start, y| {
            let mut scratch = Scratch::new(2 * TILE);
            let (next, operand) = scratch.split_at_mut(TILE);
            for (at, tile) in (start..).step_by(TILE).zip(y.chunks_mut(TILE)) {
                if let Some(x) = inputs[0] {
                    self.layouts[0].spread(at, x, tile);
                }
                let len = tile.len();
                let (mut now, mut next, mut turned) = (&mut *tile, &mut next[..len], false);
                for link in &self.links {
                    match *link {
                        Link::Unary(function) => {
                            float_f32(function, now, next).expect("functions of f32, by the planner");
                        }
                        Link::Binary { function, other, swapped } => {
                            let other_values = inputs[other].expect("only the first input may be in place");
                            let operand = match other_values {
                                [_] => other_values,
                                values if self.layouts[other].is_plain() => &values[at..at + len],
                                values => match self.layouts[other].one(at, len) {
                                    Some(one) => &values[one..=one],
                                    None => {
                                        self.layouts[other].spread(at, values, &mut operand[..len]);
                                        &operand[..len]
                                    }
                                },
                            };
                            if swapped {
                                arithmetic(function, next, operand, now);
                            } else {
                                arithmetic(function, next, now, operand);
                            }
                        }
                        Link::Clip { low, high } => map(next, now, |x| {
                            let x = if x < low { low } else { x };
                            if x > high { high } else { x }
                        }),
                        Link::Activation(activation) => {
                            activation.apply(now);
                            continue;
                        }
                    }
                    std::mem::swap(&mut now, &mut next);
                    turned = !turned;
                }
                if turned {
                    next.copy_from_slice(now);
                }
            }
        });
    }
}

/// `to[i] = function(from[i])`, at the widest vectors.
#[inline(always)]
fn map(to: &mut [f32], from: &[f32], function: impl Fn(f32) -> f32) {
    widest(
        #[inline(always)]
        || to.iter_mut().zip(from).for_each(|(to, &x)| *to = function(x)),
    );
}

fn arithmetic(function: Arithmetic, to: &mut [f32], a: &[f32], b: &[f32]) {
    widest(
        #[inline(always)]
        || match function {
            Arithmetic::Add => combine(to, a, b, |a, b| a + b),
            Arithmetic::Sub => combine(to, a, b, |a, b| a - b),
            Arithmetic::Mul => combine(to, a, b, |a, b| a * b),
            Arithmetic::Div => combine(to, a, b, |a, b| a / b),
            Arithmetic::PRelu => combine(to, a, b, |x, slope| if x < 0.0 { x * slope } else { x }),
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::args::broadcast_strides;
    use crate::threads::Threads;

    fn values(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919 + seed * 31) % 1013) as f32 / 250.0 - 2.0).collect()
    }

    /// Element by element.
    fn reference(links: &[Link], shape: &[usize], inputs: &[(&[usize], Vec<f32>)]) -> Vec<f32> {
        let read = |input: usize, i: usize| {
            let (own, values) = &inputs[input];
            let (mut rest, mut at) = (i, 0);
            for (&dim, stride) in shape.iter().zip(broadcast_strides(own, shape.len())).rev() {
                at += rest % dim * stride;
                rest /= dim;
            }
            values[at]
        };
        let apply = |i: usize, x: f32, link: &Link| match *link {
            Link::Unary(function) => {
                let mut y = [f32::NAN];
                float_f32(function, &[x], &mut y).unwrap();
                y[0]
            }
            Link::Binary { function, other, swapped } => {
                let other = read(other, i);
                let (a, b) = if swapped { (other, x) } else { (x, other) };
                match function {
                    Arithmetic::Add => a + b,
                    Arithmetic::Sub => a - b,
                    Arithmetic::Mul => a * b,
                    Arithmetic::Div => a / b,
                    Arithmetic::PRelu => {
                        if a < 0.0 {
                            a * b
                        } else {
                            a
                        }
                    }
                }
            }
            Link::Clip { low, high } => x.clamp(low, high),
            Link::Activation(activation) => {
                let mut y = [x];
                activation.apply(&mut y);
                y[0]
            }
        };
        let len = shape.iter().product();
        (0..len).map(|i| links.iter().fold(read(0, i), |x, link| apply(i, x, link))).collect()
    }

    #[test]
    fn chains_match_their_functions_one_by_one() {
        let binary = |function, other, swapped| Link::Binary { function, other, swapped };
        let links = [
            Link::Unary(Unary::Sigmoid),
            binary(Arithmetic::Mul, 0, false),
            binary(Arithmetic::Sub, 1, true),
            Link::Activation(Activation::Silu),
            binary(Arithmetic::Div, 2, false),
            Link::Clip { low: -1.0, high: 1.5 },
            binary(Arithmetic::PRelu, 3, false),
            binary(Arithmetic::Add, 4, true),
        ];
        for shape in [[1, 1, 1], [2, 3, 5], [0, 3, 4], [3, 7, 700], [2, 150, 160], [2, 3, 2500]] {
            let [a, b, c] = shape;
            for first in [[a, b, c], [a, 1, c]] {
                let shapes = [&first[..], &[a, b, c], &[], &[b, 1], &[c]];
                let inputs: Vec<(&[usize], Vec<f32>)> =
                    shapes.iter().enumerate().map(|(i, &s)| (s, values(s.iter().product(), i))).collect();
                for count in 0..=links.len() {
                    let expected = reference(&links[..count], &shape, &inputs);
                    let chain = Chain::new(links[..count].to_vec(), &shape, &shapes);
                    let slices: Vec<Option<&[f32]>> = inputs.iter().map(|(_, v)| Some(&v[..])).collect();
                    let mut y = vec![f32::NAN; expected.len()];
                    Threads::new(2).unwrap().install(|| chain.run(&slices, &mut y));
                    let same =
                        |y: &[f32]| y.iter().zip(&expected).all(|(y, e)| (y - e).abs() <= 1e-6 * e.abs());
                    assert!(same(&y), "{count} links, {shape:?}");
                    // In place: nobody else reads the first input.
                    if first == shape && count == 1 {
                        let mut y = inputs[0].1.clone();
                        chain.run(&[None], &mut y);
                        assert!(same(&y), "in place");
                    }
                }
            }
        }
    }
}
