use poda_formats::dtype::Boolean;
use poda_formats::op::{AttentionAttributes, Op};
use poda_formats::{DataType, Tensor};

use super::super::testing::{apply, assert_close, floats, input, noise};

fn attributes() -> AttentionAttributes {
    AttentionAttributes {
        is_causal: false,
        q_num_heads: 0,
        kv_num_heads: 0,
        scale: None,
        softcap: 0.0,
        qk_matmul_output_mode: 0,
    }
}

/// The definition, one score at a time; `allowed` and `bias` stand for masks of every kind.
fn reference([q, k, v]: [&Tensor; 3], softcap: f64, bias: impl Fn([usize; 4]) -> f64) -> Vec<f32> {
    let (&[batch, heads, queries, size], &[_, kv_heads, keys, _]) = (q.shape(), k.shape()) else { panic!() };
    let value_size = v.shape()[3];
    let (q, k, v) = (floats(q), floats(k), floats(v));
    let mut y = Vec::new();
    for (b, h, i) in
        (0..batch).flat_map(|b| (0..heads).flat_map(move |h| (0..queries).map(move |i| (b, h, i))))
    {
        let kv = b * kv_heads + h / (heads / kv_heads);
        let score = |j: usize| {
            let dot: f64 = (0..size)
                .map(|d| {
                    f64::from(q[((b * heads + h) * queries + i) * size + d])
                        * f64::from(k[(kv * keys + j) * size + d])
                })
                .sum();
            let dot = dot / (size as f64).sqrt();
            (if softcap > 0.0 { softcap * (dot / softcap).tanh() } else { dot }) + bias([b, h, i, j])
        };
        let weights: Vec<f64> = (0..keys).map(|j| score(j).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for d in 0..value_size {
            let total: f64 =
                (0..keys).map(|j| weights[j] * f64::from(v[(kv * keys + j) * value_size + d])).sum();
            y.push(if sum == 0.0 { 0.0 } else { (total / sum) as f32 });
        }
    }
    y
}

/// `[batch, heads, sequence, size]` as `[batch, sequence, heads · size]`.
fn token_major(x: &Tensor) -> Tensor {
    let &[batch, heads, sequence, size] = x.shape() else { panic!() };
    let values = floats(x);
    let mut out = Vec::new();
    for (b, s, h) in
        (0..batch).flat_map(|b| (0..sequence).flat_map(move |s| (0..heads).map(move |h| (b, s, h))))
    {
        out.extend_from_slice(&values[((b * heads + h) * sequence + s) * size..][..size]);
    }
    Tensor::from_slice(&[batch, sequence, heads * size], &out)
}

#[test]
fn heads_are_shared_and_both_layouts_agree() {
    // batch, heads, kv heads, queries, keys, size, value size
    let cases = [
        [1, 1, 1, 1, 1, 1, 1],
        [2, 4, 2, 5, 7, 8, 3],
        [1, 6, 1, 3, 3, 4, 4],
        [2, 2, 2, 1, 9, 16, 16],
        [1, 2, 1, 300, 700, 4, 5],
        [0, 2, 1, 3, 3, 4, 4],
    ];
    for [b, h, kv, s, t, d, dv] in cases {
        for softcap in [0.0, 0.5] {
            let q = noise(&[b, h, s, d], 1).unwrap();
            let (k, v) = (noise(&[b, kv, t, d], 2).unwrap(), noise(&[b, kv, t, dv], 3).unwrap());
            let expected = reference([&q, &k, &v], softcap, |_| 0.0);
            let op = |heads, kv_heads| {
                Op::Attention(AttentionAttributes {
                    q_num_heads: heads,
                    kv_num_heads: kv_heads,
                    softcap: softcap as f32,
                    ..attributes()
                })
            };
            let four = apply(&op(0, 0), &[&q, &k, &v].map(|t| Some(t.clone())), 1).unwrap();
            assert_close(floats(&four[0]), &expected, 1e-5);
            let three = apply(&op(h, kv), &[&q, &k, &v].map(|t| Some(token_major(t))), 1).unwrap();
            assert_eq!(three[0], token_major(&four[0]));
        }
    }
}

#[test]
fn masks_limits_and_past_hide_keys() {
    let (q, k, v) = (noise(&[2, 2, 3, 4], 1), noise(&[2, 2, 5, 4], 2), noise(&[2, 2, 5, 4], 3));
    let [qt, kt, vt] = [&q, &k, &v].map(|t| t.clone().unwrap());
    let hide = |hidden: bool| if hidden { f64::NEG_INFINITY } else { 0.0 };
    let run = |attributes: AttentionAttributes, rest: &[Option<Tensor>]| {
        let inputs = [&[q.clone(), k.clone(), v.clone()], rest].concat();
        floats(&apply(&Op::Attention(attributes), &inputs, 1).unwrap()[0]).to_vec()
    };
    // Boolean, shorter than the keys, and hiding everything from query 1.
    let allow: Vec<Boolean> = (0..12).map(|i| Boolean::from(i / 4 != 1 && i % 3 != 0)).collect();
    let allow_at = allow.clone();
    let expected = reference([&qt, &kt, &vt], 0.0, |[_, _, i, j]| hide(j >= 4 || !allow_at[i * 4 + j].get()));
    assert_close(&run(attributes(), &[input(&[3, 4], &allow)]), &expected, 1e-5);
    // Additive, for each head.
    let bias = noise(&[2, 3, 5], 9);
    let values = floats(bias.as_ref().unwrap()).to_vec();
    let expected = reference([&qt, &kt, &vt], 0.0, |[_, h, i, j]| f64::from(values[(h * 3 + i) * 5 + j]));
    assert_close(&run(attributes(), std::slice::from_ref(&bias)), &expected, 1e-5);
    // Causal, without and with the number of valid keys.
    let causal = AttentionAttributes { is_causal: true, ..attributes() };
    let expected = reference([&qt, &kt, &vt], 0.0, |[_, _, i, j]| hide(j > i));
    assert_close(&run(causal.clone(), &[]), &expected, 1e-5);
    let lengths = [4_i64, 2];
    let rest = [None, None, None, input(&[2], &lengths)];
    let expected = reference([&qt, &kt, &vt], 0.0, |[b, _, _, j]| hide(j as i64 >= lengths[b]));
    assert_close(&run(attributes(), &rest), &expected, 1e-5);
    let expected = reference([&qt, &kt, &vt], 0.0, |[b, _, i, j]| {
        hide(j as i64 >= lengths[b] || j as i64 > i as i64 + lengths[b] - 3)
    });
    assert_close(&run(causal.clone(), &rest), &expected, 1e-5);

    // The last three of five keys as new ones after a past of two.
    let part = |t: &Tensor, from: usize, len: usize| {
        let rows: Vec<f32> =
            floats(t).chunks_exact(20).flat_map(|head| head[from * 4..][..len * 4].to_vec()).collect();
        input(&[2, 2, len, 4], &rows)
    };
    let inputs = [q.clone(), part(&kt, 2, 3), part(&vt, 2, 3), None, part(&kt, 0, 2), part(&vt, 0, 2)];
    let outputs =
        apply(&Op::Attention(AttentionAttributes { qk_matmul_output_mode: 3, ..causal }), &inputs, 4);
    let outputs = outputs.unwrap();
    let expected = reference([&qt, &kt, &vt], 0.0, |[_, _, i, j]| hide(j > i + 2));
    assert_close(floats(&outputs[0]), &expected, 1e-5);
    assert_eq!((&outputs[1], &outputs[2]), (&kt, &vt));
    let sums: Vec<f32> = floats(&outputs[3]).chunks_exact(5).map(|row| row.iter().sum()).collect();
    assert_close(&sums, &[1.0; 12], 1e-5);
}

#[test]
fn misfits_are_errors() {
    let x = |dims: &[usize]| noise(dims, 1);
    let four = [x(&[1, 4, 2, 8]), x(&[1, 2, 3, 8]), x(&[1, 2, 3, 8])];
    let cases: [(usize, Option<Tensor>); 9] = [
        (1, x(&[1, 3, 3, 8])),
        (1, x(&[1, 2, 3, 7])),
        (1, x(&[1, 2, 4, 8])),
        (2, x(&[1, 2, 3])),
        (3, x(&[2, 4])),
        (3, x(&[3, 3])),
        (4, x(&[1, 2, 5, 8])),
        (5, x(&[1, 2, 5, 8])),
        (6, Some(Tensor::zeros(DataType::I64, &[2]))),
    ];
    for (index, bad) in cases {
        let mut inputs = [&four[..], &[None, None, None, None]].concat();
        inputs[index] = bad.clone();
        let result = apply(&Op::Attention(attributes()), &inputs, 1);
        assert!(result.is_err(), "input {index}: {bad:?}");
    }
    let three = [x(&[1, 2, 8]), x(&[1, 2, 8]), x(&[1, 2, 8])];
    assert!(apply(&Op::Attention(attributes()), &three, 1).is_err(), "no number of heads");
}
