use super::super::reason::{Reason, Why};
use super::*;

#[test]
fn parts_of_a_product_are_not_unified_into_a_cycle() {
    let mut t = AxisTable::default();
    let a = t.leaf(4);
    let rows = t.reshape(&[a], &[2, 2], R);
    let halves = t.cut(a, &[2, 2], R);
    t.unify(halves[0], halves[1], R);
    t.unify(rows[1], halves[1], R);
    assert_eq!(units(&t, a).len(), 4);
    assert!(t.block_of(rows[1]).is_none());
    assert!(t.leaves(rows[0]).iter().all(|&l| t.block_of(l).is_some()));
}

const R: Reason = Reason { node: None, why: Why::GraphInput };

/// Units needed by each index, as (leaf number in order of appearance, unit).
fn units(table: &AxisTable, id: AxisId) -> Vec<Vec<(u32, usize)>> {
    let mut all = vec![Vec::new(); table.size(id)];
    table.for_each_unit(id, &mut |index, leaf, unit| all[index].push((leaf.0, unit)));
    all.iter_mut().for_each(|units| units.sort_unstable());
    all
}

#[test]
fn factoring_one_dimension_factors_all_that_share_it() {
    let mut t = AxisTable::default();
    let (rows, batch) = (t.leaf(6), t.blocked(5, R));
    let shaped = t.reshape(&[batch, rows], &[5, 2, 3], R);
    assert_eq!(shaped.iter().map(|&a| t.size(a)).collect::<Vec<_>>(), [5, 2, 3]);
    let (head, dim) = (shaped[1].0, shaped[2].0);
    let want: Vec<_> = (0..6).map(|i| vec![(head, i / 3), (dim, i % 3)]).collect();
    assert_eq!(units(&t, rows), want);
    // Batch and heads as one dimension, and back.
    let merged = t.reshape(&[shaped[0], shaped[1]], &[10], R);
    let apart = t.reshape(&merged, &[5, 2], R);
    assert_eq!(apart, [shaped[0], shaped[1]]);
}

#[test]
fn a_sum_cut_elsewhere_is_refined_on_both_sides() {
    let mut t = AxisTable::default();
    let (a, b) = (t.leaf(4), t.leaf(6));
    let both = t.sum(&[a, b], R);
    let other = t.leaf(10);
    let halves = t.cut(other, &[5, 5], R);
    t.unify(both, other, R);
    assert_eq!(units(&t, both), units(&t, other));
    let mut want = units(&t, a);
    want.push(units(&t, b)[0].clone());
    assert_eq!(units(&t, halves[0]), want);
}

#[test]
fn query_key_and_value_side_by_side_or_stacked_are_the_same() {
    let mut t = AxisTable::default();
    let qkv = t.leaf(24);
    let parts = t.cut(qkv, &[8, 8, 8], R);
    let stacked = t.leaf(24);
    let dims = t.reshape(&[stacked], &[3, 2, 4], R);
    t.unify(qkv, stacked, R);
    assert_eq!(units(&t, qkv), units(&t, stacked));
    let second = t.reshape(&[parts[1]], &[2, 4], R);
    assert_eq!(t.find(second[0]), t.find(dims[1]));
    assert_eq!(t.find(second[1]), t.find(dims[2]));
}

#[test]
fn parts_seen_as_rows_keep_the_same_columns() {
    let mut t = AxisTable::default();
    let (a, b) = (t.leaf(3), t.leaf(3));
    let both = t.sum(&[a, b], R);
    let shaped = t.reshape(&[both], &[2, 3], R);
    assert_eq!(t.find(a), t.find(b));
    assert_eq!(t.find(shaped[1]), t.find(a));
    assert!(t.block_of(shaped[0]).is_some() && t.block_of(shaped[1]).is_none());
}

#[test]
fn selection_takes_units_and_single_units_stay() {
    let mut t = AxisTable::default();
    let a = t.leaf(5);
    let odd = t.select(a, &[3, 1, 1], R);
    let all = units(&t, a);
    assert_eq!(units(&t, odd), [all[3].clone(), all[1].clone(), all[1].clone()]);
    let b = t.leaf(5);
    assert_eq!(t.select(b, &[2], R), ONE);
    let blocks: Vec<_> = t.leaves(b).iter().map(|&l| (t.size(l), t.block_of(l).is_some())).collect();
    assert_eq!(blocks, [(2, false), (1, true), (2, false)]);
}

#[test]
fn what_does_not_line_up_is_blocked() {
    let mut t = AxisTable::default();
    let (a, b) = (t.leaf(6), t.leaf(4));
    let shaped = t.reshape(&[a, b], &[4, 6], R);
    for axis in [a, b, shaped[0], shaped[1]] {
        assert!(t.leaves(axis).iter().all(|&l| t.block_of(l).is_some()));
    }
    let (c, d) = (t.leaf(7), t.leaf(7));
    t.block(c, R);
    t.unify(c, d, R);
    assert_eq!(t.block_of(d), Some(R));
}

/// Units of each index that may go.
fn open_units(table: &AxisTable, id: AxisId) -> Vec<Vec<(u32, usize)>> {
    let mut all = vec![Vec::new(); table.size(id)];
    table.for_each_unit(id, &mut |index, leaf, unit| {
        if table.block_of(leaf).is_none() {
            all[index].push((leaf.0, unit));
        }
    });
    all.iter_mut().for_each(|units| {
        units.sort_unstable();
        units.dedup();
    });
    all
}

/// What must hold in the end.
enum Claim {
    Same(AxisId, AxisId),
    Parts(AxisId, Vec<AxisId>),
    Taken(AxisId, Vec<usize>, AxisId),
    Shaped(Vec<AxisId>, Vec<AxisId>),
}

/// Units of each element of a value with these axes.
fn element_units(table: &AxisTable, axes: &[AxisId]) -> Vec<Vec<(u32, usize)>> {
    let mut elements = vec![Vec::new()];
    for &axis in axes {
        let units = open_units(table, axis);
        let with = |element: &Vec<(u32, usize)>| {
            units.iter().map(|more| [&element[..], more].concat()).collect::<Vec<_>>()
        };
        elements = elements.iter().flat_map(with).collect();
    }
    elements.iter_mut().for_each(|units| {
        units.sort_unstable();
        units.dedup();
    });
    elements
}

fn check(table: &AxisTable, claim: &Claim) {
    match claim {
        Claim::Same(a, b) => assert_eq!(open_units(table, *a), open_units(table, *b)),
        Claim::Parts(whole, parts) => {
            let parts: Vec<_> = parts.iter().flat_map(|&part| open_units(table, part)).collect();
            assert_eq!(open_units(table, *whole), parts);
        }
        Claim::Taken(from, indices, result) => {
            let units = open_units(table, *from);
            let want: Vec<_> = indices.iter().map(|&i| units[i].clone()).collect();
            assert_eq!(open_units(table, *result), want);
        }
        Claim::Shaped(from, to) => assert_eq!(element_units(table, from), element_units(table, to)),
    }
}

proptest::proptest! {
    /// Whatever is coupled in whatever order, both sides of each coupling lose the same indices.
    #[test]
    fn couplings_hold_in_any_order(steps in proptest::collection::vec((0_usize..7, 0_usize..1000, 0_usize..1000), 1..40)) {
        let mut t = AxisTable::default();
        let mut axes: Vec<AxisId> = [12, 12, 24, 6, 4, 12, 24].into_iter().map(|n| t.leaf(n)).collect();
        let mut claims = Vec::new();
        for (kind, i, j) in steps {
            let (a, b) = (axes[i % axes.len()], axes[j % axes.len()]);
            let n = t.size(a);
            match kind {
                0 | 1 => {
                    // An axis of the same size.
                    let fits: Vec<AxisId> = axes.iter().copied().filter(|&c| t.size(c) == n).collect();
                    let b = fits[j % fits.len()];
                    t.unify(a, b, R);
                    claims.push(Claim::Same(a, b));
                }
                2 if n > 1 => {
                    let at = 1 + j % (n - 1);
                    let parts = t.cut(a, &[at, n - at], R);
                    claims.push(Claim::Parts(a, parts.clone()));
                    axes.extend(parts.into_iter().filter(|&p| t.size(p) > 1));
                }
                3 if n > 1 => {
                    let indices: Vec<usize> = (0..n).map(|k| (k * (1 + j % 5) + j) % n).collect();
                    let result = t.select(a, &indices, R);
                    claims.push(Claim::Taken(a, indices, result));
                    axes.push(result);
                }
                4 => {
                    let rows = [1, 2, 3, 4, 6, 8][j % 6];
                    if n.is_multiple_of(rows) {
                        let to = t.reshape(&[a], &[rows, n / rows], R);
                        claims.push(Claim::Shaped(vec![a], to.clone()));
                        axes.extend(to.into_iter().filter(|&p| t.size(p) > 1));
                    }
                }
                5 if n * t.size(b) <= 48 => {
                    let product = t.product(&[a, b]);
                    let to = t.reshape(&[a, b], &[n * t.size(b)], R);
                    claims.push(Claim::Same(product, to[0]));
                    axes.push(product);
                }
                6 if n + t.size(b) <= 48 => {
                    let sum = t.sum(&[a, b], R);
                    claims.push(Claim::Parts(sum, vec![a, b]));
                    axes.push(sum);
                }
                _ => {}
            }
        }
        claims.iter().for_each(|claim| check(&t, claim));
    }
}
