//! Runs the parts of a batch.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use poda_formats::{DataType, TensorView};

use super::{Part, Split, Way};
use crate::ops::OpError;
use crate::options::Stop;
use crate::plan::{Between, Buffers, Halt, Plan, Run, Step};
use crate::threads::Threads;

/// For parts that run beside each other.
static ALONE: Threads = Threads::single();

impl Split {
    /// Runs every part; see [`Split::run_parts`].
    ///
    /// # Errors
    /// When a step fails, or the run is ended early.
    pub(in crate::plan) fn run(
        &self,
        feeds: &[TensorView<'_>],
        buffers: &mut [&mut [u8]],
        threads: &Threads,
        between: &mut Between<'_>,
    ) -> Result<(), Halt> {
        self.run_parts(feeds, buffers, self.parts.len(), threads, between)
    }

    /// Runs the first `limit` parts on the feeds of the whole batch. Each writes its share of `buffers`, which are the results of the
    /// whole. Times of [`Split::steps`] are those of all parts, divided by the threads where these run beside each other.
    ///
    /// # Errors
    /// When a step fails, or the run is ended early.
    pub(super) fn run_parts(
        &self,
        feeds: &[TensorView<'_>],
        buffers: &mut [&mut [u8]],
        limit: usize,
        threads: &Threads,
        between: &mut Between<'_>,
    ) -> Result<(), Halt> {
        let mut rest: Vec<_> =
            buffers.iter_mut().map(|bytes| (bytes.len() / self.samples, &mut **bytes)).collect();
        let mut shares = Vec::with_capacity(limit);
        for part in self.parts.iter().take(limit) {
            let mut own = Buffers::new();
            for (share, bytes) in &mut rest {
                let (first, others) = std::mem::take(bytes).split_at_mut(*share * part.count);
                own.push(first);
                *bytes = others;
            }
            shares.push(Mutex::new(own));
        }
        let spent = between.times.is_some().then(|| Mutex::new(vec![Duration::ZERO; self.steps().len()]));
        let (stop, failed) = (between.stop, Mutex::new(None));
        let run = |i: usize, threads: &Threads| {
            let buffers = std::mem::take(&mut *shares[i].lock().unwrap_or_else(PoisonError::into_inner));
            if let Err(halt) = self.part(self.parts[i], feeds, buffers, threads, stop, spent.as_ref()) {
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(halt);
            }
        };
        match self.way {
            Way::Beside if threads.count() > 1 => threads.for_each(shares.len(), |i| run(i, &ALONE)),
            Way::Beside | Way::InTurn => (0..shares.len()).for_each(|i| run(i, threads)),
        }
        if let (Some(spent), Some(times)) = (spent, between.times.as_deref_mut()) {
            let at_once = if self.way == Way::Beside { threads.count().min(shares.len()) } else { 1 };
            let spent = spent.into_inner().unwrap_or_else(PoisonError::into_inner);
            times.iter_mut().zip(spent).for_each(|(time, spent)| *time += spent / at_once as u32);
        }
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn part(
        &self,
        part: Part,
        feeds: &[TensorView<'_>],
        mut buffers: Buffers<'_>,
        threads: &Threads,
        stop: Stop<'_>,
        spent: Option<&Mutex<Vec<Duration>>>,
    ) -> Result<(), Halt> {
        let failed = |source| Halt::Failed { step: 0, source };
        let shapes = feeds.iter().zip(&self.inputs).map(|(feed, &split)| {
            let mut shape = feed.shape().to_vec();
            if split {
                shape[0] = part.count;
            }
            shape
        });
        let shapes: Vec<Vec<usize>> = shapes.collect();
        let own = feeds.iter().zip(&shapes).zip(&self.inputs).map(|((feed, shape), &split)| {
            let (bytes, share) = (feed.bytes(), feed.bytes().len() / self.samples);
            let bytes = if split { &bytes[share * part.first..][..share * part.count] } else { bytes };
            TensorView::from_bytes(feed.dtype(), shape, bytes)
        });
        let own: Vec<TensorView<'_>> = own.collect::<Result<_, _>>().map_err(|e| failed(e.into()))?;
        let plan: &Plan = &self.plans[part.plan];
        // (No step has this number, which says that memory ran out.)
        let no_memory = OpError::TooLarge { dtype: DataType::U8, shape: vec![plan.arena_bytes] };
        let places = buffers.iter_mut().map(|bytes| &mut **bytes).collect();
        let mut run =
            Run::new(plan, &own, places).ok_or(Halt::Failed { step: usize::MAX, source: no_memory })?;
        let Some(spent) = spent else {
            return run.steps(threads, &mut Between { stop, ..Between::default() });
        };
        let mut times = vec![Duration::ZERO; plan.steps.len()];
        run.steps(threads, &mut Between { stop, times: Some(&mut times), ..Between::default() })?;
        let mut spent = spent.lock().unwrap_or_else(PoisonError::into_inner);
        spent.iter_mut().zip(times).for_each(|(spent, time)| *spent += time);
        Ok(())
    }

    /// The steps of a part.
    pub(in crate::plan) fn steps(&self) -> &[Step] {
        &self.plans[0].steps
    }

    /// How the batch is run, and why so.
    pub(in crate::plan) fn note(&self) -> String {
        let Self { samples, way, timings, .. } = self;
        let timings: Vec<String> =
            timings.iter().map(|(name, took)| format!("{name} {:.3} ms", took.as_secs_f64() * 1e3)).collect();
        let size = self.parts.first().map_or(0, |part| part.count);
        format!("{samples} samples, {size} {way} ({})", timings.join(", "))
    }

    /// Number of parts.
    pub(in crate::plan) fn parts(&self) -> usize {
        self.parts.len()
    }
}
