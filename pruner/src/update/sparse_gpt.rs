//! SparseGPT: from left to right, what is lost with a weight goes to those to its right. Frantar & Alistarh, ICML 2023,
//! <https://arxiv.org/abs/2301.00774>.

use rayon::prelude::*;

use super::{Freedom, Job, UpdateError, WeightUpdate, least_squares::damped};
use crate::calibration::Needs;
use crate::solve;
use crate::unstructured::lowest;

/// Columns that are done at a time, and among which the paper chooses the mask anew.
const BLOCK: usize = 128;

/// The paper's: the mask is chosen block by block, among weights that have taken over what others lost.
#[derive(Debug)]
pub struct SparseGpt;

/// The same for a mask that stays.
#[derive(Debug)]
pub struct SparseGptFixed;

impl WeightUpdate for SparseGpt {
    fn name(&self) -> &'static str {
        "sparsegpt"
    }

    fn description(&self) -> &'static str {
        "from left to right, what is lost goes to the right; chooses the mask anew on the way"
    }

    fn needs(&self) -> Needs {
        Needs::Gram
    }

    fn update(&self, job: &mut Job<'_>) -> Result<(), UpdateError> {
        if job.freedom == Freedom::None {
            return Err(UpdateError::Blocks { update: self.name() });
        }
        sweep(job, true)
    }
}

impl WeightUpdate for SparseGptFixed {
    fn name(&self) -> &'static str {
        "sparsegpt-fixed"
    }

    fn description(&self) -> &'static str {
        "as sparsegpt, for the mask that there is"
    }

    fn needs(&self) -> Needs {
        Needs::Gram
    }

    fn update(&self, job: &mut Job<'_>) -> Result<(), UpdateError> {
        sweep(job, false)
    }
}

fn sweep(job: &mut Job<'_>, choose: bool) -> Result<(), UpdateError> {
    let statistics = job.statistics.expect("what an update needs");
    let [rows, cols] = job.size;
    if rows == 0 || cols == 0 {
        return Ok(());
    }
    let (per_group, freedom, damping) = (rows / statistics.groups, job.freedom, job.damping);
    let groups = job.weights.par_chunks_mut(per_group * cols).zip(job.kept.par_chunks_mut(per_group * cols));
    let groups = groups.zip(job.dense.par_chunks(per_group * cols)).enumerate();
    groups.try_for_each(|(group, ((weights, kept), dense))| {
        let singular = UpdateError::Singular { row: group * per_group, damping };
        let upper = solve::upper_of_inverse(&damped(statistics, group, damping), cols).ok_or(singular)?;
        // What is left to give away is of the dense weights.
        let mut current: Vec<f64> = dense.iter().map(|&w| f64::from(w)).collect();
        for first in (0..cols).step_by(BLOCK) {
            let block = first..cols.min(first + BLOCK);
            if choose {
                choose_block(&current, kept, &upper, cols, block.clone(), freedom);
            }
            current.par_chunks_mut(cols).zip(kept.par_chunks(cols)).for_each(|(row, kept)| {
                for col in block.clone().filter(|&col| !kept[col]) {
                    let error = row[col] / upper[col * cols + col];
                    let factors = &upper[col * cols..][..cols];
                    row[col..].iter_mut().zip(&factors[col..]).for_each(|(w, u)| *w -= error * u);
                    row[col] = 0.0;
                }
            });
        }
        weights.iter_mut().zip(current.iter().zip(kept.iter())).for_each(|(to, (&w, &kept))| {
            *to = if kept { w as f32 } else { 0.0 };
        });
        Ok(())
    })
}

/// Chooses the mask within a block of columns, as many as the mask that there is keeps there.
fn choose_block(
    current: &[f64],
    kept: &mut [bool],
    upper: &[f64],
    cols: usize,
    block: std::ops::Range<usize>,
    freedom: Freedom,
) {
    let score = |row: usize, col: usize| {
        let scaled = current[row * cols + col] / upper[col * cols + col];
        (scaled * scaled) as f32
    };
    let mut choose = |places: Vec<(usize, usize)>| {
        let gone = places.iter().filter(|&&(row, col)| !kept[row * cols + col]).count();
        let scores: Vec<f32> = places.iter().map(|&(row, col)| score(row, col)).collect();
        let marks = lowest(&scores, gone as f64 / places.len().max(1) as f64);
        places.iter().zip(marks).for_each(|(&(row, col), gone)| kept[row * cols + col] = !gone);
    };
    let rows = current.len() / cols;
    match freedom {
        Freedom::Layer => {
            choose((0..rows).flat_map(|row| block.clone().map(move |col| (row, col))).collect());
        }
        Freedom::Row => (0..rows).for_each(|row| choose(block.clone().map(|col| (row, col)).collect())),
        Freedom::Group(size) => {
            // Groups that begin in this block; the columns of the next have yet to take over anything.
            for first in block.clone().filter(|col| col.is_multiple_of(size.max(1))) {
                let group = first..cols.min(first + size);
                (0..rows).for_each(|row| choose(group.clone().map(|col| (row, col)).collect()));
            }
        }
        Freedom::None => {}
    }
}
