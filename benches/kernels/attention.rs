//! Attention: encoders, a decoder with a mask, shared heads, and one query over a long cache.

use poda_runtime::Threads;
use poda_runtime::kernels::attention::{
    Attention, Causal, Heads, Mask, MaskValues, Order, Scoring, Undefined,
};

use crate::timing::{Variant, time};
use crate::weights::Random;

/// Name; heads of queries, of keys and values, queries, keys, size; whether a mask of [queries, keys] is added; causal.
const CASES: [(&str, [usize; 5], bool, bool); 9] = [
    ("MiniLM l128", [12, 12, 128, 128, 32], true, false),
    ("BERT-base l128", [12, 12, 128, 128, 64], true, false),
    ("MiniLM l384", [12, 12, 384, 384, 32], false, false),
    ("BERT-base l384", [12, 12, 384, 384, 64], false, false),
    ("ViT-base l197", [12, 12, 197, 197, 64], false, false),
    ("decoder l512, causal", [32, 8, 512, 512, 64], false, true),
    ("size 80 l256", [8, 8, 256, 256, 80], false, false),
    ("one query, cache 4096", [32, 32, 1, 4096, 64], false, false),
    ("one query of 4 heads each, cache 4096", [32, 8, 1, 4096, 128], false, false),
];

pub(crate) fn attention(threads: &Threads, roof: f64) {
    for (name, [heads, kv_heads, queries, keys, size], masked, causal) in CASES {
        let mut random = Random(3);
        let one = queries == 1;
        let shapes = [[1, heads, queries, size], [1, kv_heads, keys, size]];
        let q = random.values(heads * queries * size);
        let [k, v] = [(); 2].map(|()| random.values(kv_heads * keys * size));
        let bias = random.values(queries * keys);
        // A cache lies head by head, projections token by token.
        let own =
            |data, shape| if one { Heads::head_major(data, shape) } else { Heads::token_major(data, shape) };
        let mask = Mask { values: MaskValues::Add(&bias[..]), strides: [0, 0, keys, 1], keys };
        let attention = Attention {
            q: own(&q, shapes[0]),
            k: own(&k, shapes[1]),
            v: own(&v, shapes[1]),
            scoring: Scoring {
                scale: 1.0 / (size as f32).sqrt(),
                softcap: 0.0,
                mask: masked.then_some(mask),
                causal: if causal { Causal::After((keys - queries) as i64) } else { Causal::No },
                lengths: None,
                undefined: Undefined::ZeroUnseen,
            },
        };
        let mut y = vec![0.0; q.len()];
        let mut v = [Variant::new("attention", threads, || attention.run(Order::TokenMajor, &mut y))];
        time(&mut v);
        let t = v[0].median();
        let seen = if causal { keys as f64 - queries as f64 / 2.0 } else { keys as f64 };
        let gflops = 4.0 * (heads * queries * size) as f64 * seen / t * 1e-9;
        let bytes = (8 * kv_heads * keys * size) as f64 / t * 1e-9;
        let speed = if one { format!("{bytes:6.1} GB/s of keys and values") } else { String::new() };
        println!(
            "attention {name:<38} {:9.1} us {gflops:6.1} GFLOP/s {:3.0}% of roof {speed}",
            t * 1e6,
            gflops / roof * 100.0
        );
    }
}
