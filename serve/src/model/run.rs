//! The threads of a model: those that run batches, and the one that plans.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use poda_formats::storage::{AlignedBytes, Storage};
use poda_formats::tensor::checked_bytes;
use poda_formats::{Tensor, TensorView};
use poda_runtime::{Executable, RunError, RunOptions, Stop};
use tracing::{debug, error, info, warn};

use super::admission::{Admission, Change};
use super::job::{Done, Job, Times};
use super::plans::{Form, Plans};
use super::queue::Queue;
use crate::config::Concurrency;
use crate::metrics::ModelMetrics;
use crate::refusal::Refusal;

/// What the threads of a model share. It does not hold the model's handle, so that they end with it.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) name: String,
    pub(crate) executable: Executable,
    /// Names of the inputs, in order.
    pub(crate) inputs: Vec<String>,
    pub(crate) queue: Queue,
    pub(crate) admission: Admission,
    pub(crate) plans: Plans,
    pub(crate) metrics: Arc<ModelMetrics>,
}

/// Work for the thread that plans.
#[derive(Debug)]
pub(crate) enum Planning {
    /// A request of shapes for which there is no plan.
    For(Job),
    /// A batch that would have been run, had there been a plan.
    Ahead(Form),
}

/// A run that a thread that speaks with clients may do itself: others that it speaks with wait no longer for that.
const SHORT: Duration = Duration::from_millis(1);

impl Engine {
    /// Runs batches until the queue is closed.
    pub(crate) fn serve(&self, planner: &Sender<Planning>) {
        while let Some(batch) = self.queue.take(&self.plans) {
            if let Some(form) = batch.wanted.filter(|form| self.plans.ask(form)) {
                // Without the thread that plans smaller batches do.
                let _ = planner.send(Planning::Ahead(form));
            }
            self.run(batch.jobs);
            drop(batch.turn);
        }
    }

    /// Runs a request on the thread that asks, where it is known to be short and nobody waits: to wake another thread, and
    /// that this one, would take about as long. Otherwise it waits in the queue.
    pub(crate) fn run_or_queue(&self, job: Job) {
        let turn = self.plans.is_shorter(&job.form, SHORT).then(|| self.queue.turn()).flatten();
        match turn {
            Some(_turn) => self.run(vec![job]),
            None => self.queue.push(job),
        }
    }

    /// Makes plans until all that could ask are gone.
    pub(crate) fn plan(&self, work: &Receiver<Planning>) {
        for planning in work {
            match planning {
                Planning::For(job) if job.is_over() => job.answer(Err(Refusal::Deadline)),
                Planning::For(job) => {
                    if !self.plans.has(&job.form)
                        && let Err(refusal) = self.warm(&job.form)
                    {
                        // It is not for want of runs that it is not run.
                        self.note(self.admission.ran(1, Instant::now()));
                        job.answer(Err(refusal));
                        continue;
                    }
                    self.queue.push(job);
                }
                Planning::Ahead(form) => {
                    if let Err(refusal) = self.warm_batch(&form) {
                        debug!(model = self.name, ?form, %refusal, "no plan for this batch");
                    }
                }
            }
        }
    }

    /// Plans for these shapes.
    pub(crate) fn warm(&self, form: &Form) -> Result<(), Refusal> {
        let shapes: Vec<(&str, &[usize])> =
            self.inputs.iter().map(String::as_str).zip(form.iter().map(Vec::as_slice)).collect();
        let planned = catch_unwind(AssertUnwindSafe(|| self.executable.warm(&shapes)));
        planned.map_err(|_| self.panicked("planning"))??;
        self.plans.add(form.clone());
        self.metrics.packed_bytes.set(self.executable.packed_bytes() as i64);
        Ok(())
    }

    /// Plans for a batch, if strangers' requests may share it.
    pub(crate) fn warm_batch(&self, form: &Form) -> Result<bool, Refusal> {
        let shapes: Vec<(&str, &[usize])> =
            self.inputs.iter().map(String::as_str).zip(form.iter().map(Vec::as_slice)).collect();
        let apart = self.executable.samples_apart(&shapes)?;
        if apart {
            self.warm(form)?;
        }
        Ok(apart)
    }

    /// Tells of an overload that begins or ends; where one begins, those are refused that wait and are too many.
    pub(crate) fn note(&self, change: Option<Change>) {
        match change {
            None => {}
            Some(Change::Entered { limit }) => {
                let shed = self.queue.shed(limit);
                let (model, shed_now) = (&self.name, shed.len());
                warn!(
                    model,
                    limit, shed_now, "overloaded: more requests come than can be run, and most are refused"
                );
                shed.into_iter().for_each(|job| job.answer(Err(Refusal::overloaded(limit))));
            }
            Some(Change::Left) => info!(model = self.name, "no longer overloaded"),
        }
        if let Some(change) = change {
            let overloaded = change != Change::Left;
            let Concurrency { runs, overloaded_runs, .. } = self.admission.concurrency();
            self.queue.set_runs(if overloaded { overloaded_runs } else { runs });
            self.metrics.overloaded.set(i64::from(overloaded));
        }
    }

    fn panicked(&self, doing: &'static str) -> Refusal {
        error!(model = self.name, doing, "internal error: a panic; please report it");
        self.metrics.panics.inc();
        Refusal::Panicked
    }

    /// Runs jobs as one, or, where that fails, each by itself: one's input is no reason to refuse another's.
    fn run(&self, mut jobs: Vec<Job>) {
        // They no longer wait.
        let ran = jobs.iter_mut().filter_map(|job| Arc::into_inner(job.place.take()?)).count();
        self.note(self.admission.ran(ran as u64, Instant::now()));
        match self.attempt(&jobs) {
            Ok(done) => jobs.into_iter().zip(done).for_each(|(job, done)| job.answer(Ok(done))),
            Err(refusal) if jobs.len() == 1 => {
                jobs.into_iter().for_each(|job| job.answer(Err(refusal.clone())));
            }
            Err(refusal) => {
                warn!(model = self.name, requests = jobs.len(), %refusal, "a batch failed; its requests run alone");
                for job in jobs {
                    let alone = self.attempt(std::slice::from_ref(&job));
                    job.answer(alone.map(|mut done| done.remove(0)));
                }
            }
        }
    }

    /// The outcome for each job.
    fn attempt(&self, jobs: &[Job]) -> Result<Vec<Done>, Refusal> {
        let start = Instant::now();
        let samples: Vec<usize> = jobs.iter().map(|job| job.samples.unwrap_or(1)).collect();
        let together = match jobs {
            [_] => None,
            _ => Some(gather(jobs).ok_or_else(|| Refusal::from_memory(jobs))?),
        };
        let tensors = together.as_ref().unwrap_or(&jobs[0].inputs);
        let views: Vec<(&str, TensorView<'_>)> =
            self.inputs.iter().map(String::as_str).zip(tensors.iter().map(Tensor::view)).collect();
        let stop = Stop {
            cancelled: (jobs.len() == 1).then(|| &*jobs[0].cancelled),
            deadline: jobs.iter().map(|job| job.deadline).max(),
        };
        let started = Instant::now();
        let run = || self.executable.run_with(&views, &RunOptions { stop, ..RunOptions::default() });
        let outputs = catch_unwind(AssertUnwindSafe(run)).map_err(|_| self.panicked("a run"))?;
        let infer = started.elapsed();
        let outputs: Vec<Tensor> = outputs?.into_iter().map(|(_, tensor)| tensor).collect();
        let finished = Instant::now();
        let shares = if jobs.len() == 1 { vec![outputs] } else { scatter(&outputs, &samples)? };
        let output = finished.elapsed();
        let total: usize = samples.iter().sum();
        self.metrics.ran(total, infer);
        self.admission.took(total, infer);
        if let [job] = jobs {
            self.plans.took(&job.form, infer);
        }
        let done = jobs.iter().zip(shares).map(|(job, outputs)| {
            let queue = start.saturating_duration_since(job.arrived);
            Done { outputs, times: Times { queue, input: started - start, infer, output } }
        });
        Ok(done.collect())
    }
}

impl Refusal {
    fn from_memory(jobs: &[Job]) -> Self {
        let bytes: usize = jobs.iter().flat_map(|job| &job.inputs).map(|tensor| tensor.bytes().len()).sum();
        Self::from(RunError::from(poda_formats::tensor::TensorError::Memory { bytes }))
    }
}

/// The inputs of all jobs one after another along the first dimension; `None` where memory does not hold them.
fn gather(jobs: &[Job]) -> Option<Vec<Tensor>> {
    let together = |at: usize| {
        let first = &jobs[0].inputs[at];
        let mut shape = first.shape().to_vec();
        *shape.first_mut()? = jobs.iter().map(|job| job.inputs[at].shape()[0]).sum();
        let mut bytes = AlignedBytes::try_zeroed(checked_bytes(first.dtype(), &shape)?)?;
        let mut start = 0;
        for job in jobs {
            let own = job.inputs[at].bytes();
            bytes[start..start + own.len()].copy_from_slice(own);
            start += own.len();
        }
        Tensor::new(first.dtype(), shape, Storage::owned(bytes)).ok()
    };
    (0..jobs[0].inputs.len()).map(together).collect()
}

/// The outputs of each job, which share the memory of the whole.
fn scatter(outputs: &[Tensor], samples: &[usize]) -> Result<Vec<Vec<Tensor>>, Refusal> {
    let total: usize = samples.iter().sum();
    let mut shares: Vec<Vec<Tensor>> = samples.iter().map(|_| Vec::with_capacity(outputs.len())).collect();
    for tensor in outputs {
        let mut first = 0;
        for (share, &count) in shares.iter_mut().zip(samples) {
            let mut shape = tensor.shape().to_vec();
            // As `samples_apart` has proved.
            let rows = shape.first().copied().unwrap_or(0) / total;
            let bytes = tensor.bytes().len() / total;
            if let Some(rows_of_all) = shape.first_mut() {
                *rows_of_all = rows * count;
            }
            let part = tensor.storage().slice(bytes * first..bytes * (first + count));
            let part = part.and_then(|storage| Tensor::new(tensor.dtype(), shape, storage).ok());
            share.push(part.ok_or(Refusal::Panicked)?);
            first += count;
        }
    }
    Ok(shares)
}

/// About how long until one of so many that wait is served.
pub(crate) fn expected_wait(waiting: usize, run: Duration, runs: usize, batch: usize) -> Duration {
    run.saturating_mul((waiting / (runs * batch).max(1)) as u32 + 1)
        .clamp(Duration::from_secs(1), Duration::from_mins(1))
}
