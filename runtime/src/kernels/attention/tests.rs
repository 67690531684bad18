use poda_formats::dtype::Boolean;
use proptest::prelude::*;

use super::part::{KEYS, Part};
use super::*;
use crate::simd::Level;
use crate::threads::Threads;

/// Some of everything that [`Attention`] takes.
#[derive(Debug, Clone)]
struct Case {
    batch: usize,
    heads: usize,
    kv_heads: usize,
    queries: usize,
    keys: usize,
    size: usize,
    value_size: usize,
    /// Axes of the memory of q, k and v, outermost first: `[batch, heads, sequence, size]` permuted.
    layouts: [[usize; 4]; 3],
    mask: Kind,
    /// Which axes the mask lacks.
    lacks: [bool; 4],
    /// Keys that the mask does not speak of.
    short: usize,
    causal: Option<i64>,
    lengths: Option<i64>,
    softcap: f32,
    order: Order,
    undefined: Undefined,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    None,
    Add,
    /// Added, of 0 and −∞.
    Forbid,
    Allow,
}

const HEAD_MAJOR: [usize; 4] = [0, 1, 2, 3];
const TOKEN_MAJOR: [usize; 4] = [0, 2, 1, 3];
const TRANSPOSED: [usize; 4] = [0, 1, 3, 2];

const BASE: Case = Case {
    batch: 1,
    heads: 2,
    kv_heads: 2,
    queries: 5,
    keys: 7,
    size: 16,
    value_size: 16,
    layouts: [HEAD_MAJOR; 3],
    mask: Kind::None,
    lacks: [false; 4],
    short: 0,
    causal: None,
    lengths: None,
    softcap: 0.0,
    order: Order::HeadMajor,
    undefined: Undefined::ZeroUnseen,
};

fn noise(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 + seed * 104_729 + 13) % 1009) as f32 / 252.0 - 2.0).collect()
}

/// Strides of a tensor whose memory has the axes in the given order.
fn strides(shape: [usize; 4], layout: [usize; 4]) -> [usize; 4] {
    let (mut strides, mut step) = ([0; 4], 1);
    for axis in layout.into_iter().rev() {
        strides[axis] = step;
        step *= shape[axis];
    }
    strides
}

struct Data {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    bias: Vec<f32>,
    allow: Vec<Boolean>,
    lengths: Vec<i64>,
}

impl Case {
    fn data(&self) -> Data {
        let count = |shape: [usize; 4]| shape.iter().product::<usize>();
        let [q, k, v] = self.shapes();
        let mask = count(self.mask_shape());
        let forbidden = |i: usize| i * 31 % 7 > 3;
        let mut bias = noise(mask, 4);
        if self.mask == Kind::Forbid {
            bias.iter_mut()
                .enumerate()
                .for_each(|(i, b)| *b = if forbidden(i) { f32::NEG_INFINITY } else { 0.0 });
        }
        let lengths = (0..self.batch).map(|b| self.lengths.unwrap_or(0) - b as i64).collect();
        Data {
            q: noise(count(q), 1),
            k: noise(count(k), 2),
            v: noise(count(v), 3),
            bias,
            allow: (0..mask).map(|i| Boolean::from(!forbidden(i))).collect(),
            lengths,
        }
    }

    fn shapes(&self) -> [[usize; 4]; 3] {
        let Self { batch, heads, kv_heads, queries, keys, size, value_size, .. } = *self;
        [[batch, heads, queries, size], [batch, kv_heads, keys, size], [batch, kv_heads, keys, value_size]]
    }

    fn mask_shape(&self) -> [usize; 4] {
        let full = [self.batch, self.heads, self.queries, self.keys - self.short.min(self.keys)];
        std::array::from_fn(|axis| if self.lacks[axis] { 1 } else { full[axis] })
    }

    fn attention<'a>(&self, data: &'a Data) -> Attention<'a, f32> {
        let shapes = self.shapes();
        let heads = |i: usize, data: &'a [f32]| Heads {
            data,
            shape: shapes[i],
            strides: strides(shapes[i], self.layouts[i]),
        };
        let shape = self.mask_shape();
        let own = strides(shape, HEAD_MAJOR);
        let values = match self.mask {
            Kind::None => None,
            Kind::Add | Kind::Forbid => Some(MaskValues::Add(&data.bias[..])),
            Kind::Allow => Some(MaskValues::Allow(&data.allow[..])),
        };
        let mask = values.map(|values| Mask {
            values,
            strides: std::array::from_fn(|axis| if self.lacks[axis] { 0 } else { own[axis] }),
            keys: self.keys - self.short.min(self.keys),
        });
        Attention {
            q: heads(0, &data.q),
            k: heads(1, &data.k),
            v: heads(2, &data.v),
            scoring: Scoring {
                scale: 0.3,
                softcap: self.softcap,
                mask,
                causal: self.causal.map_or(Causal::No, Causal::After),
                lengths: self.lengths.map(|_| &data.lengths[..]),
                undefined: self.undefined,
            },
        }
    }

    /// Compares every instruction set with the definition, and threads with none.
    fn check(&self) {
        let data = self.data();
        let attention = self.attention(&data);
        let expected = reference(&attention, self.order);
        let close = |found: &[f32], what: &str| {
            assert_eq!(found.len(), expected.len());
            for (i, (&f, &e)) in found.iter().zip(&expected).enumerate() {
                let same = (f - e).abs() <= 2e-5 * (1.0 + e.abs()) || f.is_nan() && e.is_nan() || f == e;
                assert!(same, "{what}: element {i} is {f}, not {e}: {self:?}");
            }
        };
        for level in [Level::Portable, Level::Avx2, Level::Avx512].into_iter().filter_map(Level::supported) {
            let mut y = vec![f32::NAN; expected.len()];
            let (rows, units) = (attention.group() * self.queries, self.batch * self.kv_heads);
            for unit in 0..if y.is_empty() { 0 } else { units } {
                let [batch, kv_head] = [unit / self.kv_heads, unit % self.kv_heads];
                let y = SyncPtr(y.as_mut_ptr());
                let (of, order) = (&attention, self.order);
                level.run(Part { of, batch, kv_head, rows: 0..rows / 2, order, y });
                level.run(Part { of, batch, kv_head, rows: rows / 2..rows, order, y });
            }
            close(&y, &format!("{level:?}"));
        }
        let mut y = vec![f32::NAN; expected.len()];
        Threads::new(2).unwrap().install(|| attention.run(self.order, &mut y));
        close(&y, "two threads");
    }
}

/// The definition, one score at a time.
fn reference(of: &Attention<'_, f32>, order: Order) -> Vec<f32> {
    let ([batch, heads, queries, size], [_, _, keys, value_size]) = (of.q.shape, of.v.shape);
    let at = |heads: &Heads<'_, f32>, index: [usize; 4]| {
        f64::from(heads.data[index.iter().zip(heads.strides).map(|(i, s)| i * s).sum::<usize>()])
    };
    let mut y = vec![f32::NAN; batch * heads * queries * value_size];
    for (b, h, i) in
        (0..batch).flat_map(|b| (0..heads).flat_map(move |h| (0..queries).map(move |i| (b, h, i))))
    {
        let kv = h / of.group();
        let visible = of.visible(b, i);
        let score = |j: usize| {
            let dot: f64 = (0..size).map(|d| at(&of.q, [b, h, i, d]) * at(&of.k, [b, kv, j, d])).sum();
            let (dot, cap) = (dot * f64::from(of.scoring.scale), f64::from(of.scoring.softcap));
            let dot = if cap > 0.0 { cap * (dot / cap).tanh() } else { dot };
            let Some(mask) = &of.scoring.mask else { return dot };
            let at = [b, h, i, j].iter().zip(mask.strides).map(|(i, s)| i * s).sum::<usize>();
            match mask.values {
                _ if j >= mask.keys => f64::NEG_INFINITY,
                MaskValues::Add(values) => dot + f64::from(values[at]),
                MaskValues::Allow(values) if values[at].get() => dot,
                MaskValues::Allow(_) => f64::NEG_INFINITY,
            }
        };
        let scores: Vec<f64> = (0..visible).map(score).collect();
        let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let nothing = scores.iter().all(|&s| s == f64::NEG_INFINITY);
        let weights: Vec<f64> = scores.iter().map(|s| (s - greatest).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for d in 0..value_size {
            let total: f64 = weights.iter().enumerate().map(|(j, w)| w * at(&of.v, [b, kv, j, d])).sum();
            let value = match nothing {
                true if keys > 0 && of.scoring.undefined == Undefined::Nan => f32::NAN,
                true => 0.0,
                false => (total / sum) as f32,
            };
            let row = match order {
                Order::HeadMajor => (b * heads + h) * queries + i,
                Order::TokenMajor => (b * queries + i) * heads + h,
            };
            y[row * value_size + d] = value;
        }
    }
    y
}

/// Sizes on both sides of every tile: rows of 4, 6, 12, panels of 8 to 32 keys, blocks of [`KEYS`], vectors of 4, 8, 16.
#[test]
fn every_size_matches_the_definition() {
    for queries in [0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 25, 49] {
        Case { queries, ..BASE }.check();
        Case { queries, keys: KEYS + 1, ..BASE }.check();
    }
    for keys in [0, 1, 2, 4, 8, 15, 16, 17, 31, 32, 33, 63, KEYS - 1, KEYS, KEYS + 1, 2 * KEYS + 33] {
        Case { keys, ..BASE }.check();
        Case { keys, queries: 1, ..BASE }.check();
        Case { keys, queries: 17, causal: Some(keys as i64 - 17), ..BASE }.check();
    }
    for size in [0, 1, 3, 4, 7, 8, 15, 16, 17, 24, 32, 33, 64, 80, 128] {
        for queries in [1, 14] {
            Case { queries, size, ..BASE }.check();
            Case { queries, value_size: size, ..BASE }.check();
            let layouts = [TOKEN_MAJOR; 3];
            Case { size, value_size: size, queries, layouts, order: Order::TokenMajor, ..BASE }.check();
        }
    }
    for [batch, heads, kv_heads] in [[0, 2, 2], [2, 0, 0], [2, 3, 3], [2, 6, 2], [3, 8, 1]] {
        for queries in [1, 5, 13] {
            Case { batch, heads, kv_heads, queries, ..BASE }.check();
            Case { batch, heads, kv_heads, queries, causal: Some(2), lengths: Some(6), ..BASE }.check();
        }
    }
}

#[test]
fn masks_of_every_form_and_any_strides() {
    for mask in [Kind::Add, Kind::Forbid, Kind::Allow] {
        for lacks in (0..16).map(|bits| [0, 1, 2, 3].map(|axis| bits >> axis & 1 == 1)) {
            for (queries, keys) in [(1, 40), (14, 40), (5, KEYS + 20)] {
                // A mask without an axis of keys speaks of all.
                let short = if lacks[3] { 0 } else { 3 };
                let base = Case { batch: 2, heads: 4, mask, lacks, queries, keys, short, ..BASE };
                Case { undefined: Undefined::Nan, ..base.clone() }.check();
                Case { causal: Some(20), softcap: 1.5, ..base }.check();
            }
        }
    }
}

/// Keys that are one element apart (a cache that is kept transposed), and values so.
#[test]
fn rows_may_lie_in_any_order() {
    for layout in [TOKEN_MAJOR, TRANSPOSED, [3, 2, 1, 0], [2, 0, 3, 1]] {
        for i in 0..3 {
            for queries in [1, 3, 14] {
                let mut layouts = [HEAD_MAJOR; 3];
                layouts[i] = layout;
                Case { batch: 2, queries, keys: 37, size: 9, value_size: 20, layouts, ..BASE }.check();
                Case { kv_heads: 1, queries, size: 0, layouts, ..BASE }.check();
            }
        }
    }
}

#[test]
fn queries_that_see_nothing_give_what_was_asked_for() {
    for undefined in [Undefined::ZeroUnseen, Undefined::Nan, Undefined::Zero] {
        for queries in [2, 14] {
            // The first query sees no key, then none of the batch's second entry does.
            Case { queries, causal: Some(-1), undefined, ..BASE }.check();
            Case { queries, batch: 2, lengths: Some(1), undefined, ..BASE }.check();
            Case { queries, keys: 0, undefined, ..BASE }.check();
        }
    }
}

/// What is not a number in a query spoils that query, in a key the queries that see it, and nothing else.
#[test]
fn nan_and_infinity_stay_where_they_are() {
    for queries in [2, 14] {
        for bad in [f32::NAN, f32::INFINITY] {
            let case = Case { heads: 1, kv_heads: 1, queries, keys: 40, causal: Some(10), ..BASE };
            let mut data = case.data();
            data.q[16] = bad;
            data.k[16 * 39] = f32::NAN;
            let mut attention = case.attention(&data);
            let mut y = vec![9.0; queries * 16];
            attention.scoring.undefined = Undefined::Zero;
            attention.run(Order::HeadMajor, &mut y);
            assert!(y.iter().all(|v| !v.is_nan()) && y[16..32] == [0.0; 16], "a guard makes zeros of NaN");
            attention.scoring.undefined = Undefined::Nan;
            attention.run(Order::HeadMajor, &mut y);
            for (query, row) in y.chunks_exact(16).enumerate() {
                // Key 39 is beyond the last query.
                assert_eq!(row.iter().all(|v| v.is_nan()), query == 1, "{bad}: query {query}: {row:?}");
                assert_eq!(row.iter().any(|v| v.is_nan()), query == 1);
            }
        }
    }
}

#[test]
fn scores_far_apart_neither_overflow_nor_vanish() {
    let mut case = Case { heads: 1, kv_heads: 1, queries: 14, keys: KEYS + 5, mask: Kind::Add, ..BASE };
    for (from, to) in [(0, 1e30), (KEYS, 1e30), (0, -1e30), (3, f32::MIN)] {
        case.lacks = [true, true, true, false];
        let mut data = case.data();
        data.bias[from..].iter_mut().for_each(|b| *b += to);
        let attention = case.attention(&data);
        let mut y = vec![f32::NAN; 14 * 16];
        attention.run(Order::HeadMajor, &mut y);
        let expected = reference(&attention, Order::HeadMajor);
        for (f, e) in y.iter().zip(&expected) {
            assert!((f - e).abs() < 1e-4, "{from} {to}: {f} {e}");
        }
    }
}

#[test]
#[should_panic(expected = "beyond the data")]
fn strides_beyond_the_data_are_refused() {
    let data = BASE.data();
    let mut attention = BASE.attention(&data);
    attention.k.strides[2] += 1;
    attention.run(Order::HeadMajor, &mut vec![0.0; 2 * 5 * 16]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn anything_matches_the_definition(
        (batch, kv_heads, group) in (1_usize..3, 1_usize..3, 1_usize..4),
        (queries, keys) in (0_usize..30, 0_usize..90),
        (size, value_size) in (0_usize..40, 0_usize..40),
        layouts in prop::array::uniform3(prop::sample::select(vec![HEAD_MAJOR, TOKEN_MAJOR, TRANSPOSED])),
        mask in prop::sample::select(vec![Kind::None, Kind::Add, Kind::Forbid, Kind::Allow]),
        lacks in prop::array::uniform4(any::<bool>()),
        causal in prop::option::of(-5_i64..60),
        lengths in prop::option::of(0_i64..60),
        (softcap, nan, token_major) in (prop::sample::select(vec![0.0_f32, 2.0]), any::<bool>(), any::<bool>()),
    ) {
        let order = if token_major { Order::TokenMajor } else { Order::HeadMajor };
        let undefined = if nan { Undefined::Nan } else { Undefined::Zero };
        let heads = kv_heads * group;
        Case {
            batch, heads, kv_heads, queries, keys, size, value_size, layouts, mask, lacks, causal, lengths, softcap, order,
            undefined, ..BASE
        }
        .check();
    }
}
