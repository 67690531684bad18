//! The lowest scores of many weights, without holding all scores at once.
//!
//! A cut is found from histograms of the scores' bits, first the high half, then the low half within the bin that the cut
//! falls in; scores are computed anew for each pass, in parallel, one weight a thread.

use rayon::prelude::*;

use crate::allocation::{Scope, Shares};

/// Where the lowest scores of a weight end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Scores below go.
    threshold: u32,
    /// So many of those at the threshold go too, the first ones.
    ties: usize,
}

/// Scores of the weight with this number.
pub(crate) type Scores<'a> = &'a (dyn Fn(usize) -> Vec<f32> + Sync);

/// Cuts off exactly these shares of the scores of each of `weights` weights, or of all together, rounded to the nearest count.
/// Ties go to the first.
pub(crate) fn cuts(weights: usize, scores: Scores<'_>, shares: Shares<'_>) -> Vec<Cut> {
    let count = |n: usize, share: f64| ((n as f64 * share).round() as usize).min(n);
    let each = |at: usize| {
        let scores = scores(at);
        Cut::of(&scores, count(scores.len(), shares.of(at)))
    };
    match shares.scope {
        Scope::Auto | Scope::Row | Scope::Layer | Scope::ErdosRenyi => {
            (0..weights).into_par_iter().map(each).collect()
        }
        Scope::Global => {
            let mut all: Vec<Option<Cut>> = vec![None; weights];
            let mut open: Vec<usize> = (0..weights).filter(|&at| shares.own(at).is_none()).collect();
            let total = open.par_iter().map(|&at| scores(at).len()).sum();
            let mut wanted = count(total, shares.share);
            loop {
                let among = global(open.len(), &|at| scores(open[at]), wanted);
                // Layers that would lose more than they may lose that much, and the others make up for it.
                let over = |(&at, cut): (&usize, &Cut)| {
                    let (scores, most) = (scores(at), shares.most(at));
                    let most = (scores.len() as f64 * most) as usize;
                    let gone = cut.marks(&scores).iter().filter(|&&gone| gone).count();
                    (gone > most).then(|| (at, Cut::of(&scores, most), most))
                };
                let over: Vec<(usize, Cut, usize)> = match shares.most {
                    [] => Vec::new(),
                    _ => open.par_iter().zip(&among).filter_map(over).collect(),
                };
                if over.is_empty() {
                    open.iter().zip(among).for_each(|(&at, cut)| all[at] = Some(cut));
                    break;
                }
                for (at, cut, gone) in over {
                    all[at] = Some(cut);
                    wanted -= gone.min(wanted);
                    open.retain(|&other| other != at);
                }
                let left = open.par_iter().map(|&at| scores(at).len()).sum();
                wanted = wanted.min(left);
            }
            all.into_par_iter().enumerate().map(|(at, cut)| cut.unwrap_or_else(|| each(at))).collect()
        }
    }
}

fn global(weights: usize, scores: Scores<'_>, count: usize) -> Vec<Cut> {
    if count == 0 {
        return vec![Cut { threshold: 0, ties: 0 }; weights];
    }
    let histogram = |bin: &(dyn Fn(u32) -> Option<usize> + Sync)| {
        let add = |mut all: Vec<usize>, scores: Vec<f32>| {
            scores.into_iter().filter_map(|score| bin(key(score))).for_each(|bin| all[bin] += 1);
            all
        };
        let merge = |a: Vec<usize>, b: Vec<usize>| a.into_iter().zip(b).map(|(a, b)| a + b).collect();
        let empty = || vec![0; 1 << 16];
        (0..weights).into_par_iter().map(scores).fold(empty, add).reduce(empty, merge)
    };
    let (high, before) = bin_of(&histogram(&|key| Some((key >> 16) as usize)), count);
    let low = histogram(&|key| ((key >> 16) as usize == high).then_some((key & 0xffff) as usize));
    let (low, below) = bin_of(&low, count - before);
    let threshold = (high << 16 | low) as u32;
    let mut left = count - before - below;
    let ties = |at| scores(at).into_iter().filter(|&score| key(score) == threshold).count();
    let ties: Vec<usize> = (0..weights).into_par_iter().map(ties).collect();
    let cut = |ties: usize| {
        let ties = ties.min(left);
        left -= ties;
        Cut { threshold, ties }
    };
    ties.into_iter().map(cut).collect()
}

/// The bin that holds the `count`th element, and how many there are in the bins before.
fn bin_of(histogram: &[usize], count: usize) -> (usize, usize) {
    let mut before = 0;
    for (bin, &n) in histogram.iter().enumerate() {
        if before + n >= count {
            return (bin, before);
        }
        before += n;
    }
    unreachable!("a histogram of at least as many elements")
}

/// A number in the order of `f32::total_cmp`.
fn key(score: f32) -> u32 {
    let bits = score.to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

impl Cut {
    /// Cuts off the `count` lowest.
    pub(crate) fn of(scores: &[f32], count: usize) -> Self {
        if count == 0 {
            return Self { threshold: 0, ties: 0 };
        }
        let mut keys: Vec<u32> = scores.iter().map(|&score| key(score)).collect();
        let (below, &mut threshold, _) = keys.select_nth_unstable(count - 1);
        let below = below.iter().filter(|&&key| key < threshold).count();
        Self { threshold, ties: count - below }
    }

    /// Marks what is cut off.
    pub(crate) fn marks(self, scores: &[f32]) -> Vec<bool> {
        let mut ties = self.ties;
        let mark = |&score: &f32| {
            let tie = key(score) == self.threshold && ties > 0;
            ties -= usize::from(tie);
            key(score) < self.threshold || tie
        };
        scores.iter().map(mark).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Marks by sorting everything.
    fn reference(all: &[Vec<f32>], count: usize) -> Vec<Vec<bool>> {
        let mut flat: Vec<(f32, usize, usize)> = Vec::new();
        for (at, scores) in all.iter().enumerate() {
            flat.extend(scores.iter().enumerate().map(|(i, &score)| (score, at, i)));
        }
        flat.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        let mut marks: Vec<Vec<bool>> = all.iter().map(|scores| vec![false; scores.len()]).collect();
        flat.iter().take(count).for_each(|&(_, at, i)| marks[at][i] = true);
        marks
    }

    fn marks(all: &[Vec<f32>], scope: Scope, share: f64) -> Vec<Vec<bool>> {
        let cuts = cuts(all.len(), &|at| all[at].clone(), Shares::all(scope, share));
        cuts.into_iter().zip(all).map(|(cut, scores)| cut.marks(scores)).collect()
    }

    #[test]
    fn exactly_as_many_go_as_asked_for() {
        let all = [vec![1.0, 1.0, 1.0, 3.0], vec![0.5, 1.0], vec![]];
        let want = [vec![true, true, false, false], vec![true, false], vec![]];
        assert_eq!(marks(&all, Scope::Global, 0.5), want);
        assert_eq!(marks(&all, Scope::Layer, 0.5)[..2], [vec![true, true, false, false], vec![true, false]]);
        // Infinities (weights that are no numbers) go last.
        assert_eq!(marks(&[vec![f32::INFINITY, 2.0]], Scope::Layer, 0.5), [[false, true]]);
        assert_eq!(marks(&[vec![]], Scope::Global, 0.9), [[false; 0]]);
    }

    #[test]
    fn what_a_layer_must_keep_others_make_up_for() {
        let all = [vec![1.0, 1.5, 2.0, 2.5], vec![3.0, 4.0, 5.0, 6.0], vec![7.0, 8.0, 9.0, 10.0]];
        let gone = |share: f64, own: &[Option<f64>], most: &[f64]| -> Vec<usize> {
            let shares = Shares { scope: Scope::Global, share, own, most };
            let cuts = cuts(3, &|at| all[at].clone(), shares);
            let count =
                |(cut, scores): (Cut, &Vec<f32>)| cut.marks(scores).iter().filter(|&&gone| gone).count();
            cuts.into_iter().zip(&all).map(count).collect()
        };
        assert_eq!(gone(0.5, &[], &[]), [4, 2, 0]);
        assert_eq!(gone(0.5, &[], &[0.5]), [2, 4, 0]);
        assert_eq!(gone(0.5, &[], &[0.5, 0.25, 1.0]), [2, 1, 3]);
        // What has a share of its own has no part in it, and all that may go is not always enough.
        assert_eq!(gone(0.5, &[Some(0.25)], &[1.0, 0.5]), [1, 2, 2]);
        assert_eq!(gone(0.9, &[], &[0.5, 0.5, 0.25]), [2, 2, 1]);
    }

    proptest! {
        #[test]
        fn cuts_are_those_of_sorting(
            all in prop::collection::vec(
                prop::collection::vec(prop_oneof![-1.0_f32..4.0, (-1_i8..3).prop_map(f32::from)], 0..30), 1..5),
            share in 0.0_f64..1.0,
        ) {
            let total: usize = all.iter().map(Vec::len).sum();
            let count = (total as f64 * share).round() as usize;
            prop_assert_eq!(marks(&all, Scope::Global, share), reference(&all, count));
            for (scores, marks) in all.iter().zip(marks(&all, Scope::Layer, share)) {
                let count = (scores.len() as f64 * share).round() as usize;
                prop_assert_eq!(&[marks][..], &reference(std::slice::from_ref(scores), count)[..]);
            }
        }
    }
}
