//! Requests that wait for a run, and which of them share the next.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::job::Job;
use super::plans::{Form, Plans};
use crate::refusal::Refusal;

/// How requests share runs.
#[derive(Debug, Clone)]
pub(crate) struct Batching {
    /// Samples in a run at most.
    pub(crate) most: usize,
    /// Samples of runs that plans are asked for. Each takes time that requests wait for: what was measured of MiniLM, with 90 % zeros and
    /// powers of two, were pauses of 0.1 to 0.4 s.
    pub(crate) sizes: Vec<usize>,
    /// How long a request may wait for others.
    pub(crate) delay: Duration,
}

/// The queue of a model. Producers are requests whose plan is there; consumers the threads that run. A short request for which nobody
/// has to wait passes it by ([`Queue::turn`]).
#[derive(Debug)]
pub(crate) struct Queue {
    batching: Batching,
    state: Mutex<State>,
    /// What the thread in front waits for.
    front: Condvar,
    /// What the others wait for.
    behind: Condvar,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Turns that there are.
    most_runs: usize,
    /// Turns that are taken.
    runs: usize,
    /// Whether a thread waits in front of the others. Who has run last goes there if nobody does, so that requests that come one by one
    /// are run by one thread, and find its caches warm.
    has_front: bool,
    closed: bool,
}

impl State {
    fn has_turn(&self) -> bool {
        self.runs < self.most_runs
    }
}

/// The right to one run, given back when dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a>(&'a Queue);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.runs -= 1;
        // Those that came meanwhile have woken nobody.
        self.0.wake(&state);
    }
}

/// What a thread is to run next.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    pub(crate) turn: Turn<'a>,
    pub(crate) jobs: Vec<Job>,
    /// A larger batch that waits, for which there is no plan.
    pub(crate) wanted: Option<Form>,
}

impl Queue {
    pub(crate) fn new(batching: Batching, runs: usize) -> Self {
        let state = State { most_runs: runs, ..State::default() };
        Self { batching, state: Mutex::new(state), front: Condvar::new(), behind: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The list is whole between any two operations on it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, job: Job) {
        let mut state = self.lock();
        state.jobs.push_back(job);
        self.wake(&state);
    }

    /// Wakes a thread if it would find something to do.
    fn wake(&self, state: &State) {
        if !state.jobs.is_empty() && state.has_turn() {
            if state.has_front { &self.front } else { &self.behind }.notify_one();
        }
    }

    /// So many runs at a time from now on.
    pub(crate) fn set_runs(&self, runs: usize) {
        let mut state = self.lock();
        state.most_runs = runs;
        self.wake(&state);
    }

    /// A run for whoever asks, where none waits, one is free, and requests are not to wait for one another.
    pub(crate) fn turn(&self) -> Option<Turn<'_>> {
        let mut state = self.lock();
        let free = state.jobs.is_empty() && state.has_turn() && self.batching.delay.is_zero();
        free.then(|| self.take_turn(&mut state))
    }

    fn take_turn(&self, state: &mut State) -> Turn<'_> {
        state.runs += 1;
        Turn(self)
    }

    /// Takes a job out whose client has left.
    pub(crate) fn remove(&self, id: u64) {
        let mut state = self.lock();
        if let Some(at) = state.jobs.iter().position(|job| job.id == id) {
            state.jobs.remove(at);
        }
    }

    /// Takes the newest out, so that no more than so many wait.
    pub(crate) fn shed(&self, most: usize) -> Vec<Job> {
        let mut state = self.lock();
        let most = most.min(state.jobs.len());
        state.jobs.split_off(most).into()
    }

    /// Ends [`Queue::take`] once nothing waits.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.wake_all();
    }

    fn wake_all(&self) {
        self.front.notify_all();
        self.behind.notify_all();
    }

    /// The next run: the oldest request, and those that may share its run, as many as there is a plan for. Waits while there is
    /// none, or as many runs are under way as may be; `None` when the queue is closed and empty.
    pub(crate) fn take(&self, plans: &Plans) -> Option<Batch<'_>> {
        let mut state = self.lock();
        loop {
            let over: Vec<usize> = (0..state.jobs.len()).filter(|&at| state.jobs[at].is_over()).collect();
            for at in over.into_iter().rev() {
                state.jobs.remove(at).expect("just found").answer(Err(Refusal::Deadline));
            }
            let first = match state.jobs.front() {
                Some(first) if state.has_turn() => first,
                None if state.closed => {
                    // Others may wait for a turn.
                    self.wake_all();
                    return None;
                }
                _ => {
                    state = self.wait(state, None);
                    continue;
                }
            };
            let until = first.arrived + self.batching.delay;
            let wait = until.saturating_duration_since(Instant::now());
            let together = self.together(&state.jobs);
            let samples: usize = together.iter().map(|&(_, samples)| samples).sum();
            if first.samples.is_some() && samples < self.batching.most && !wait.is_zero() && !state.closed {
                state = self.wait(state, Some(wait));
                continue;
            }
            let (jobs, wanted) = self.cut(&mut state.jobs, &together, plans);
            let turn = self.take_turn(&mut state);
            // There may be more than this thread was woken for.
            self.wake(&state);
            return Some(Batch { turn, jobs, wanted });
        }
    }

    /// Waits in front of the others, so long at most, or until that is where this thread may wait.
    fn wait<'a>(&self, mut state: MutexGuard<'a, State>, most: Option<Duration>) -> MutexGuard<'a, State> {
        if state.has_front {
            return self.behind.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.has_front = true;
        let mut state = match most {
            Some(most) => self.front.wait_timeout(state, most).unwrap_or_else(PoisonError::into_inner).0,
            None => self.front.wait(state).unwrap_or_else(PoisonError::into_inner),
        };
        state.has_front = false;
        state
    }

    /// Places and samples of the first job and of those that may share its run.
    fn together(&self, jobs: &VecDeque<Job>) -> Vec<(usize, usize)> {
        let first = &jobs[0];
        let mut together = vec![(0, first.samples.unwrap_or(1))];
        let mut total = together[0].1;
        for (at, job) in jobs.iter().enumerate().skip(1) {
            if total >= self.batching.most {
                break;
            }
            if let Some(samples) = job.samples
                && total + samples <= self.batching.most
                && first.shares_with(job)
            {
                total += samples;
                together.push((at, samples));
            }
        }
        together
    }

    /// Takes as many of the first of `together` as there is a plan for; gives the form of a larger batch, too, that waits for a plan.
    fn cut(
        &self,
        jobs: &mut VecDeque<Job>,
        together: &[(usize, usize)],
        plans: &Plans,
    ) -> (Vec<Job>, Option<Form>) {
        let form = |samples: usize| with_samples(&jobs[0].form, samples);
        let sums: Vec<usize> = together
            .iter()
            .scan(0, |sum, &(_, samples)| {
                *sum += samples;
                Some(*sum)
            })
            .collect();
        let count = (2..=sums.len()).rev().find(|&count| plans.has(&form(sums[count - 1]))).unwrap_or(1);
        // The largest that could have been run, if it is larger.
        let sizes = sums.iter().copied().filter(|sum| self.batching.sizes.contains(sum));
        let wanted = sizes.last().filter(|&size| size > sums[count - 1]).map(form);
        let taken: Vec<usize> = together[..count].iter().map(|&(at, _)| at).collect();
        let mut batch: Vec<Job> =
            taken.into_iter().rev().map(|at| jobs.remove(at).expect("it is there")).collect();
        batch.reverse();
        (batch, wanted)
    }
}

/// Shapes with another number of samples.
pub(crate) fn with_samples(form: &Form, samples: usize) -> Form {
    let mut form = form.clone();
    form.iter_mut().filter_map(|shape| shape.first_mut()).for_each(|first| *first = samples);
    form
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::sync::oneshot;

    use super::super::job::Done;
    use super::*;

    type Reply = oneshot::Receiver<Result<Done, Refusal>>;

    fn job(id: u64, shape: &[usize], shared: bool) -> (Job, Reply) {
        let (reply, receiver) = oneshot::channel();
        let now = Instant::now();
        let job = Job {
            id,
            inputs: Vec::new(),
            form: vec![shape.to_vec()],
            samples: shared.then_some(shape[0]),
            arrived: now,
            deadline: now + Duration::from_mins(1),
            cancelled: Arc::new(AtomicBool::new(false)),
            place: None,
            reply,
        };
        (job, receiver)
    }

    fn queue(most: usize) -> (Queue, Plans) {
        let plans = Plans::new(8);
        for n in [1, 2, 4] {
            plans.add(vec![vec![n, 3]]);
        }
        (Queue::new(Batching { most, sizes: vec![2, 4], delay: Duration::ZERO }, 2), plans)
    }

    fn ids(batch: &Batch<'_>) -> Vec<u64> {
        batch.jobs.iter().map(|job| job.id).collect()
    }

    #[test]
    fn requests_of_one_shape_share_a_run_in_their_order() {
        let (queue, plans) = queue(4);
        let shapes: [&[usize]; 7] = [&[1, 3], &[1, 5], &[1, 3], &[1, 3], &[1, 5], &[1, 3], &[1, 3]];
        for (id, shape) in shapes.into_iter().enumerate() {
            queue.push(job(id as u64, shape, true).0);
        }
        let batch = queue.take(&plans).unwrap();
        assert_eq!((ids(&batch), &batch.wanted), (vec![0, 2, 3, 5], &None));
        drop(batch);
        let batch = queue.take(&plans).unwrap();
        assert_eq!(ids(&batch), [1], "there is no plan for two");
        assert_eq!(batch.wanted, Some(vec![vec![2, 5]]));
        drop(batch);
        assert_eq!(ids(&queue.take(&plans).unwrap()), [4]);
        assert_eq!(ids(&queue.take(&plans).unwrap()), [6]);
        queue.close();
        assert!(queue.take(&plans).is_none());
    }

    #[test]
    fn samples_of_requests_add_up_to_a_plan() {
        let (queue, plans) = queue(8);
        for (id, n) in [2, 1, 1, 1].into_iter().enumerate() {
            queue.push(job(id as u64, &[n, 3], true).0);
        }
        assert_eq!(ids(&queue.take(&plans).unwrap()), [0, 1, 2]);
        assert_eq!(ids(&queue.take(&plans).unwrap()), [3]);
        for id in 0..2 {
            queue.push(job(id, &[1, 3], false).0);
        }
        assert_eq!(ids(&queue.take(&plans).unwrap()), [0], "these do not share");
    }

    #[test]
    fn what_nobody_waits_for_is_not_run() {
        let (queue, plans) = queue(4);
        let (mut late, mut reply) = job(1, &[1, 3], true);
        late.deadline = Instant::now();
        let (left, _) = job(2, &[1, 3], true);
        left.cancelled.store(true, Ordering::Relaxed);
        queue.push(late);
        queue.push(left);
        queue.push(job(3, &[1, 3], true).0);
        queue.push(job(4, &[1, 3], true).0);
        queue.remove(4);
        assert_eq!(ids(&queue.take(&plans).unwrap()), [3]);
        assert!(matches!(reply.try_recv(), Ok(Err(Refusal::Deadline))));
    }

    #[test]
    fn the_newest_are_shed() {
        let (queue, plans) = queue(4);
        (0..4).for_each(|id| queue.push(job(id, &[1, 3], false).0));
        assert_eq!(queue.shed(3).iter().map(|job| job.id).collect::<Vec<_>>(), [3]);
        assert!(queue.shed(9).is_empty());
        assert_eq!(queue.shed(1).len(), 2);
        assert_eq!(ids(&queue.take(&plans).unwrap()), [0]);
    }

    #[test]
    fn a_delay_gathers_what_comes_meanwhile() {
        let plans = Plans::new(8);
        plans.add(vec![vec![2, 3]]);
        let queue =
            Arc::new(Queue::new(Batching { most: 2, sizes: vec![2], delay: Duration::from_mins(1) }, 1));
        assert!(queue.turn().is_none(), "it would wait for no other");
        queue.push(job(1, &[1, 3], true).0);
        let other = Arc::clone(&queue);
        let pushing = std::thread::spawn(move || other.push(job(2, &[1, 3], true).0));
        // It would wait a minute for a third.
        assert_eq!(ids(&queue.take(&plans).unwrap()), [1, 2]);
        pushing.join().unwrap();
    }

    #[test]
    fn under_an_overload_fewer_run_at_once_and_all_threads_end() {
        let (queue, plans) = queue(1);
        (0..3).for_each(|id| queue.push(job(id, &[1, 3], false).0));
        queue.set_runs(1);
        let first = queue.take(&plans).unwrap();
        let (taken, batches) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                let (queue, plans, taken) = (&queue, &plans, taken.clone());
                scope.spawn(move || {
                    while let Some(batch) = queue.take(plans) {
                        taken.send(ids(&batch)).unwrap();
                    }
                });
            }
            assert!(batches.try_recv().is_err(), "the only turn is taken");
            drop(first);
            assert_eq!([batches.recv().unwrap(), batches.recv().unwrap()], [[1], [2]]);
            queue.set_runs(2);
            queue.push(job(3, &[1, 3], false).0);
            assert_eq!(batches.recv().unwrap(), [3]);
            queue.close();
        });
    }

    #[test]
    fn no_more_runs_than_may_be_whoever_has_the_turns() {
        let (queue, plans) = queue(1);
        let turns = [queue.turn().unwrap(), queue.turn().unwrap()];
        assert!(queue.turn().is_none());
        (0..2).for_each(|id| queue.push(job(id, &[1, 3], true).0));
        std::thread::scope(|scope| {
            let taking = scope.spawn(|| ids(&queue.take(&plans).unwrap()));
            assert!(!taking.is_finished());
            let [first, second] = turns;
            drop(first);
            assert_eq!(taking.join().unwrap(), [0]);
            assert!(queue.turn().is_none(), "another waits, and came first");
            assert_eq!(ids(&queue.take(&plans).unwrap()), [1]);
            drop(second);
        });
        assert!(queue.turn().is_some());
    }
}
