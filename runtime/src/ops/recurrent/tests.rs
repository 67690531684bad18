use poda_formats::op::{Direction, Op, RecurrentAttributes, RecurrentKind};
use poda_formats::{Tensor, TensorView};

use super::super::testing::{apply, assert_close, floats, input, noise};

const KINDS: [RecurrentKind; 5] = [
    RecurrentKind::Lstm { input_forget: false },
    RecurrentKind::Lstm { input_forget: true },
    RecurrentKind::Gru { linear_before_reset: false },
    RecurrentKind::Gru { linear_before_reset: true },
    RecurrentKind::Rnn,
];

fn attributes(kind: RecurrentKind, direction: Direction) -> RecurrentAttributes {
    RecurrentAttributes {
        kind,
        hidden_size: 3,
        direction,
        activations: vec![],
        activation_alpha: vec![],
        activation_beta: vec![],
        clip: None,
        batch_first: false,
    }
}

/// W, R and B of a layer with 4 inputs.
fn weights(kind: RecurrentKind, directions: usize) -> [Option<Tensor>; 3] {
    let rows = super::gates(kind) * 3;
    [noise(&[directions, rows, 4], 5), noise(&[directions, rows, 3], 6), noise(&[directions, 2 * rows], 7)]
}

fn outputs(kind: RecurrentKind) -> usize {
    if matches!(kind, RecurrentKind::Lstm { .. }) { 3 } else { 2 }
}

/// Rows `[inner]` of the middle axis of `[a, b, inner]`, one value of it.
fn column(x: &Tensor, at: usize) -> Tensor {
    let &[a, b, inner] = x.shape() else { panic!("{x:?}") };
    let rows: Vec<f32> = (0..a).flat_map(|i| floats(x)[(i * b + at) * inner..][..inner].to_vec()).collect();
    Tensor::from_slice(&[a, 1, inner], &rows)
}

#[test]
fn a_batch_with_lengths_is_each_sequence_alone() {
    let (steps, lengths) = (5, [5_usize, 0, 3]);
    for (kind, directions, direction) in KINDS.iter().flat_map(|&kind| {
        [(kind, 1, Direction::Forward), (kind, 1, Direction::Reverse), (kind, 2, Direction::Bidirectional)]
    }) {
        let op = Op::Recurrent(attributes(kind, direction));
        let [w, r, b] = weights(kind, directions);
        let lstm = outputs(kind) == 3;
        let x = noise(&[steps, 3, 4], 1).unwrap();
        let h = noise(&[directions, 3, 3], 2).unwrap();
        let c = noise(&[directions, 3, 3], 3).unwrap();
        let p = noise(&[directions, 9], 4);
        let lens: Vec<i32> = lengths.iter().map(|&l| l as i32).collect();
        let extra = |h: &Tensor, c: &Tensor| {
            if lstm { vec![Some(h.clone()), Some(c.clone()), p.clone()] } else { vec![Some(h.clone())] }
        };
        let inputs =
            [vec![Some(x.clone()), w.clone(), r.clone(), b.clone(), input(&[3], &lens)], extra(&h, &c)]
                .concat();
        let together = apply(&op, &inputs, outputs(kind)).unwrap();
        for (i, &length) in lengths.iter().enumerate() {
            let alone = column(&x, i);
            let view = TensorView::from_slice(&[length, 1, 4], &floats(&alone)[..length * 4]).to_tensor();
            let inputs = [
                vec![Some(view), w.clone(), r.clone(), b.clone(), None],
                extra(&column(&h, i), &column(&c, i)),
            ];
            let alone = apply(&op, &inputs.concat(), outputs(kind)).unwrap();
            for t in 0..steps {
                for d in 0..directions {
                    let found = &floats(&together[0])[((t * directions + d) * 3 + i) * 3..][..3];
                    let expected = if t < length {
                        &floats(&alone[0])[(t * directions + d) * 3..][..3]
                    } else {
                        &[0.0; 3]
                    };
                    assert_close(found, expected, 1e-6);
                }
            }
            for state in 1..outputs(kind) {
                assert_close(floats(&column(&together[state], i)), floats(&alone[state]), 1e-6);
            }
        }
    }
}

#[test]
fn reverse_is_forward_over_the_reversed_input() {
    for kind in KINDS {
        let [w, r, b] = weights(kind, 1);
        let x = noise(&[4, 1, 4], 1).unwrap();
        let reversed: Vec<f32> = floats(&x).chunks_exact(4).rev().flatten().copied().collect();
        let run = |direction, x: Option<Tensor>| {
            let inputs = [x, w.clone(), r.clone(), b.clone()];
            apply(&Op::Recurrent(attributes(kind, direction)), &inputs, outputs(kind)).unwrap()
        };
        let forward = run(Direction::Forward, Some(x.clone()));
        let reverse = run(Direction::Reverse, input(&[4, 1, 4], &reversed));
        let flipped: Vec<f32> = floats(&reverse[0]).chunks_exact(3).rev().flatten().copied().collect();
        assert_close(floats(&forward[0]), &flipped, 1e-6);
        assert_eq!(forward[1..], reverse[1..]);
    }
}

#[test]
fn an_lstm_step_is_its_equations() {
    let sigmoid = |v: f32| 1.0 / (1.0 + (-v).exp());
    let clip = 0.7_f32;
    let x = [0.3_f32, -0.8];
    let (w, r) = ([0.5_f32, -1.0, 0.25, 2.0, 1.5, -0.5, 0.1, 0.9], [0.4_f32, -0.3, 0.2, 0.6]);
    let (b, h0, c0, p) =
        ([0.1_f32, 0.2, 0.3, 0.4, 0.0, -0.1, 0.05, 0.15], 0.5_f32, -0.25_f32, [0.7_f32, -0.6, 0.8]);
    let gate = |i: usize| w[2 * i] * x[0] + w[2 * i + 1] * x[1] + r[i] * h0 + b[i] + b[4 + i];
    let clipped = |v: f32| v.clamp(-clip, clip);
    let i = sigmoid(clipped(gate(0) + p[0] * c0));
    let f = sigmoid(clipped(gate(2) + p[2] * c0));
    let c = f * c0 + i * clipped(gate(3)).tanh();
    let o = sigmoid(clipped(gate(1) + p[1] * c));
    let h = o * c.tanh();
    let op = Op::Recurrent(RecurrentAttributes {
        hidden_size: 1,
        clip: Some(clip),
        batch_first: true,
        ..attributes(KINDS[0], Direction::Forward)
    });
    let inputs = [
        input(&[1, 1, 2], &x),
        input(&[1, 4, 2], &w),
        input(&[1, 4, 1], &r),
        input(&[1, 8], &b),
        None,
        input(&[1, 1, 1], &[h0]),
        input(&[1, 1, 1], &[c0]),
        input(&[1, 3], &p),
    ];
    let result = apply(&op, &inputs, 3).unwrap();
    assert_eq!(result[0].shape(), [1, 1, 1, 1]);
    for (tensor, expected) in result.iter().zip([h, h, c]) {
        assert_close(floats(tensor), &[expected], 1e-6);
    }
}

#[test]
fn misfits_are_errors() {
    let [w, r, b] = weights(KINDS[0], 1);
    let good = [noise(&[2, 1, 4], 1), w, r, b, None, None, None, None];
    let with = |index: usize, value: Option<Tensor>| {
        let mut inputs = good.clone();
        inputs[index] = value;
        apply(&Op::Recurrent(attributes(KINDS[0], Direction::Forward)), &inputs, 1)
    };
    assert!(with(0, noise(&[2, 1, 4], 1)).is_ok());
    assert!(with(0, noise(&[2, 4], 1)).is_err());
    assert!(with(1, noise(&[1, 12, 5], 1)).is_err());
    assert!(with(2, noise(&[1, 12, 4], 1)).is_err());
    assert!(with(3, noise(&[1, 12], 1)).is_err());
    assert!(with(4, input(&[1], &[3_i32])).is_err());
    assert!(with(4, input(&[1], &[-1_i32])).is_err());
    assert!(with(5, noise(&[1, 2, 3], 1)).is_err());
    assert!(with(7, noise(&[1, 8], 1)).is_err());
    for activations in [vec!["Tanh"; 2], vec!["Tanh", "Tanh", "Cosine"]] {
        let activations = activations.into_iter().map(String::from).collect();
        let op =
            Op::Recurrent(RecurrentAttributes { activations, ..attributes(KINDS[0], Direction::Forward) });
        assert!(apply(&op, &good, 1).is_err());
    }
}
