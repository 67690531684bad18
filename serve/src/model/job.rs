//! A request on its way through a model's queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use poda_formats::Tensor;
use tokio::sync::oneshot;

use super::admission::Place;
use super::plans::Form;
use crate::refusal::Refusal;

/// What is to be run, and who waits for it.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: u64,
    /// In the order of the model's inputs.
    pub(crate) inputs: Vec<Tensor>,
    pub(crate) form: Form,
    /// Samples, where it may share a run with others of the same shapes beyond the first dimension.
    pub(crate) samples: Option<usize>,
    pub(crate) arrived: Instant,
    pub(crate) deadline: Instant,
    /// Set when nobody waits any more.
    pub(crate) cancelled: Arc<AtomicBool>,
    /// Its place in the queue, while it waits, which it may share with other runs of one request.
    pub(crate) place: Option<Arc<Place>>,
    pub(crate) reply: oneshot::Sender<Result<Done, Refusal>>,
}

impl Job {
    /// Whether it need not run: the client has left, or its time is over.
    pub(crate) fn is_over(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed) || Instant::now() >= self.deadline
    }

    /// Whether both may run as one.
    pub(crate) fn shares_with(&self, other: &Self) -> bool {
        let rest =
            |form: &Form| form.iter().map(|shape| shape.get(1..).map(<[_]>::to_vec)).collect::<Vec<_>>();
        self.samples.is_some() && other.samples.is_some() && rest(&self.form) == rest(&other.form)
    }

    /// Answers.
    pub(crate) fn answer(self, result: Result<Done, Refusal>) {
        // Whoever has left needs no answer.
        let _ = self.reply.send(result);
    }
}

/// What a run gave one request.
#[derive(Debug)]
pub(crate) struct Done {
    /// In the order of the model's outputs.
    pub(crate) outputs: Vec<Tensor>,
    pub(crate) times: Times,
}

/// Where the time of a request went.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Times {
    pub(crate) queue: Duration,
    pub(crate) input: Duration,
    pub(crate) infer: Duration,
    pub(crate) output: Duration,
}
