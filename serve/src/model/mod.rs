//! A model that is served: its executable, the threads that run it, and the queue in front of them.

pub(crate) mod admission;
pub(crate) mod job;
pub(crate) mod load;
pub(crate) mod plans;
pub(crate) mod queue;
pub(crate) mod run;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use poda_formats::{DataType, Dim, Tensor};
use poda_runtime::feeds::FeedError;
use poda_runtime::{Port, RunError};
use serde::Serialize;
use tokio::sync::oneshot;

use crate::config::Concurrency;
use crate::metrics::ModelMetrics;
use crate::refusal::Refusal;
use crate::text::Text;
use admission::{Full, Place};
use job::{Done, Job};
use run::{Engine, Planning};

/// A version of a model, ready to answer. When the last request that uses it is done, its threads end.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) inputs: Vec<Port>,
    pub(crate) outputs: Vec<Port>,
    pub(crate) facts: Facts,
    /// What turns texts into inputs, where a tokenizer lies beside the model.
    pub(crate) text: Option<Text>,
    /// Names of the classes.
    pub(crate) labels: Option<Vec<String>>,
    pub(crate) metrics: Arc<ModelMetrics>,
    engine: Arc<Engine>,
    planner: Mutex<Sender<Planning>>,
    limits: Limits,
    /// Whether requests may share runs.
    batched: bool,
    next: AtomicU64,
}

/// What is told of a model that does not change.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Facts {
    pub(crate) path: PathBuf,
    pub(crate) file_bytes: u64,
    pub(crate) parameters: u64,
    pub(crate) nonzero_parameters: u64,
    /// Kernels of the products in the first plan, with how often each is used.
    pub(crate) kernels: BTreeMap<String, usize>,
    /// Whether requests share runs, or why not.
    pub(crate) batching: String,
    pub(crate) load_seconds: f64,
}

/// What a model takes from the configuration while it serves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) concurrency: Concurrency,
    pub(crate) max_batch: usize,
    pub(crate) max_client_batch: usize,
}

/// Takes a request out of the queue when its client leaves.
struct Waiting<'a> {
    engine: &'a Engine,
    id: u64,
    cancelled: Arc<AtomicBool>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.cancelled.swap(true, Ordering::Relaxed) {
            self.engine.queue.remove(self.id);
        }
    }
}

impl Served {
    /// Starts the threads.
    fn start(parts: Parts) -> std::io::Result<Self> {
        let Parts { name, version, inputs, outputs, facts, text, labels, engine, limits, batched } = parts;
        let engine = Arc::new(engine);
        let (planner, work) = channel();
        let spawn = |what: &str, f: Box<dyn FnOnce() + Send>| {
            thread::Builder::new().name(format!("{what} {name}").chars().take(15).collect()).spawn(f)
        };
        let own = Arc::clone(&engine);
        // Made first: dropped on an early return, it closes the queue of the threads that did start.
        let served = Self {
            metrics: Arc::clone(&engine.metrics),
            planner: Mutex::new(planner.clone()),
            next: AtomicU64::new(0),
            name: name.clone(),
            version,
            inputs,
            outputs,
            facts,
            text,
            labels,
            engine,
            limits,
            batched,
        };
        spawn("plan", Box::new(move || own.plan(&work)))?;
        for _ in 0..limits.concurrency.runs {
            let (own, planner) = (Arc::clone(&served.engine), planner.clone());
            spawn("run", Box::new(move || own.serve(&planner)))?;
        }
        Ok(served)
    }

    /// Requests that wait for a run.
    pub(crate) fn waiting(&self) -> usize {
        self.engine.admission.waiting()
    }

    /// Whether more requests come than can be run.
    pub(crate) fn is_overloaded(&self) -> bool {
        let (overloaded, change) = self.engine.admission.is_overloaded(Instant::now());
        self.engine.note(change);
        overloaded
    }

    /// Bytes of the packed weights.
    pub(crate) fn packed_bytes(&self) -> usize {
        self.engine.executable.packed_bytes()
    }

    /// Number of plans.
    pub(crate) fn plans(&self) -> usize {
        self.engine.plans.len()
    }

    /// Threads that its runs share.
    pub(crate) fn threads(&self) -> usize {
        self.engine.executable.threads()
    }

    /// Refuses at once where there is no place, before a body is read.
    pub(crate) fn has_room(&self) -> Result<(), Refusal> {
        self.engine.admission.check(Instant::now()).map_err(|(full, change)| {
            self.engine.note(change);
            self.full(full)
        })
    }

    /// A place among those that wait, which all runs for one request share.
    pub(crate) fn admit(&self) -> Result<Arc<Place>, Refusal> {
        match self.engine.admission.take(Instant::now()) {
            Ok((place, change)) => {
                self.engine.note(change);
                Ok(Arc::new(place))
            }
            Err((full, change)) => {
                self.engine.note(change);
                Err(self.full(full))
            }
        }
    }

    fn full(&self, full: Full) -> Refusal {
        let Full { waiting, overloaded } = full;
        if overloaded {
            return Refusal::overloaded(waiting);
        }
        let Limits { concurrency, max_batch, .. } = self.limits;
        let batch = if self.batched { max_batch } else { 1 };
        let retry = run::expected_wait(waiting, self.metrics.run_time(), concurrency.runs, batch);
        Refusal::QueueFull { waiting, retry }
    }

    /// Runs the model on named inputs; gives all outputs, in the order of the model. Takes a place unless it is given one. Dropping the
    /// future takes the request back.
    pub(crate) async fn infer(
        &self,
        place: Option<Arc<Place>>,
        inputs: Vec<(String, Tensor)>,
        deadline: Instant,
    ) -> Result<Answer, Refusal> {
        let arrived = Instant::now();
        let result = self.submit(place, inputs, arrived, deadline).await;
        match &result {
            Ok(answer) => self.metrics.answered(answer.samples, arrived.elapsed(), &answer.done.times),
            Err(_) => self.metrics.failed(arrived.elapsed()),
        }
        result
    }

    async fn submit(
        &self,
        place: Option<Arc<Place>>,
        inputs: Vec<(String, Tensor)>,
        arrived: Instant,
        deadline: Instant,
    ) -> Result<Answer, Refusal> {
        let inputs = self.in_order(inputs)?;
        let form: Vec<Vec<usize>> = inputs.iter().map(|tensor| tensor.shape().to_vec()).collect();
        let samples = self.samples(&form);
        let first = form.iter().find_map(|shape| shape.first()).copied().unwrap_or(1);
        if self.batched && first > self.limits.max_client_batch {
            let (found, limit) = (first as u64, self.limits.max_client_batch as u64);
            return Err(Refusal::TooLarge { what: "a batch", found, limit, flag: "max-client-batch" });
        }
        // (Of several runs for one request none holds up the others.)
        let whole = place.is_none();
        let place = match place {
            Some(place) => place,
            None => self.admit()?,
        };
        let (reply, receiver) = oneshot::channel();
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting { engine: &self.engine, id, cancelled: Arc::new(AtomicBool::new(false)) };
        let cancelled = Arc::clone(&waiting.cancelled);
        let planned = self.engine.plans.has(&form);
        let job = Job { id, inputs, form, samples, arrived, deadline, cancelled, place: Some(place), reply };
        if planned && whole {
            self.engine.run_or_queue(job);
        } else if planned {
            self.engine.queue.push(job);
        } else {
            self.metrics.plan_misses.inc();
            let planner = self.planner.lock().unwrap_or_else(PoisonError::into_inner);
            // The thread that plans lives as long as this.
            planner.send(Planning::For(job)).map_err(|_| Refusal::Closing)?;
        }
        let result = match tokio::time::timeout_at(deadline.into(), receiver).await {
            Ok(Ok(result)) => {
                waiting.cancelled.store(true, Ordering::Relaxed);
                result
            }
            Ok(Err(_)) => Err(Refusal::Panicked),
            Err(_) => Err(Refusal::Deadline),
        };
        Ok(Answer { done: result?, samples: samples.unwrap_or(1) })
    }

    /// The inputs in the order of the model, of the right names, types and shapes.
    fn in_order(&self, mut given: Vec<(String, Tensor)>) -> Result<Vec<Tensor>, Refusal> {
        let feed = |error: FeedError| Refusal::from(RunError::from(error));
        let mut inputs = Vec::with_capacity(self.inputs.len());
        for port in &self.inputs {
            let name = || port.name.clone();
            let Some(at) = given.iter().position(|(name, _)| *name == port.name) else {
                return Err(feed(FeedError::Missing { name: name() }));
            };
            let (_, tensor) = given.swap_remove(at);
            if let Some(expected) = port.dtype.filter(|&dtype| dtype != tensor.dtype()) {
                return Err(feed(FeedError::Type { name: name(), expected, found: tensor.dtype() }));
            }
            let found = tensor.shape();
            let dims = port.shape.as_deref();
            if let Some(expected) = dims.map(<[_]>::len).filter(|&rank| rank != found.len()) {
                return Err(feed(FeedError::Rank { name: name(), expected, found: found.to_vec() }));
            }
            let wrong =
                dims.unwrap_or_default().iter().zip(found).enumerate().find_map(|(axis, (dim, size))| {
                    matches!(dim, Dim::Fixed(fixed) if fixed != size).then_some((axis, dim))
                });
            if let Some((axis, &Dim::Fixed(expected))) = wrong {
                return Err(feed(FeedError::Dimension {
                    name: name(),
                    axis,
                    expected,
                    found: found.to_vec(),
                }));
            }
            inputs.push(tensor);
        }
        match given.pop() {
            Some((name, _)) if self.inputs.iter().any(|port| port.name == name) => {
                Err(feed(FeedError::Duplicate { name }))
            }
            Some((name, _)) => {
                let inputs = self.inputs.iter().map(|port| port.name.clone()).collect();
                Err(feed(FeedError::Unknown { name, inputs }))
            }
            None => Ok(inputs),
        }
    }

    /// Samples of a request that may share a run.
    fn samples(&self, form: &[Vec<usize>]) -> Option<usize> {
        let first = form.first()?.first().copied()?;
        let same = form.iter().all(|shape| shape.first() == Some(&first));
        (self.batched && same && first > 0).then_some(first)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.engine.queue.close();
    }
}

/// What a request is answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) done: Done,
    pub(crate) samples: usize,
}

/// What a model is made of, before its threads start.
pub(crate) struct Parts {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) inputs: Vec<Port>,
    pub(crate) outputs: Vec<Port>,
    pub(crate) facts: Facts,
    pub(crate) text: Option<Text>,
    pub(crate) labels: Option<Vec<String>>,
    pub(crate) engine: Engine,
    pub(crate) limits: Limits,
    pub(crate) batched: bool,
}

/// Types and open dimensions of tensors, which a new version must keep.
pub(crate) fn signature(ports: &[Port]) -> Vec<(String, Option<DataType>, Option<Vec<Option<usize>>>)> {
    let size = |dim: &Dim| match dim {
        Dim::Fixed(size) => Some(*size),
        Dim::Symbol(_) => None,
    };
    let port = |port: &Port| {
        let shape = port.shape.as_ref().map(|dims| dims.iter().map(size).collect());
        (port.name.clone(), port.dtype, shape)
    };
    ports.iter().map(port).collect()
}
