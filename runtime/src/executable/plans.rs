//! The plans of an executable, one for each set of shapes: made once, whoever asks first, and kept while they are used.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::plan::{Plan, PlanError, Request};

/// Plans by what they were made for.
#[derive(Debug)]
pub(super) struct Plans {
    /// Number of plans kept.
    most: usize,
    /// The most recently used last.
    entries: Mutex<Vec<Arc<Entry>>>,
}

#[derive(Debug)]
struct Entry {
    request: Request,
    /// Empty while somebody makes it, for whom the others wait.
    plan: OnceLock<Result<Arc<Plan>, PlanError>>,
}

impl Plans {
    /// Keeps at most `most` plans, and at least one.
    pub(super) fn new(most: usize) -> Self {
        Self { most: most.max(1), entries: Mutex::default() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Entry>>> {
        // Entries come and go whole, so a panic elsewhere leaves the list valid.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of plans, with those that are being made.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// The plan that `fits`, kept from before or made now for the request: once, however many ask at the same time. Other plans
    /// are had meanwhile.
    ///
    /// # Errors
    /// What `make` gives, to all who wait for it. The next to ask makes it anew.
    pub(super) fn get(
        &self,
        fits: impl Fn(&Request) -> bool,
        request: impl FnOnce() -> Request,
        make: impl FnOnce(&Request) -> Result<Plan, PlanError>,
    ) -> Result<Arc<Plan>, PlanError> {
        let entry = {
            let mut entries = self.lock();
            if let Some(at) = entries.iter().rposition(|entry| fits(&entry.request)) {
                entries[at..].rotate_left(1);
            } else {
                if entries.len() >= self.most {
                    entries.remove(0);
                }
                entries.push(Arc::new(Entry { request: request(), plan: OnceLock::new() }));
            }
            Arc::clone(entries.last().expect("found or pushed"))
        };
        let plan = entry.plan.get_or_init(|| make(&entry.request).map(Arc::new));
        if plan.is_err() {
            self.lock().retain(|kept| !Arc::ptr_eq(kept, &entry));
        }
        plan.clone()
    }

    /// Lets the plans go that were not used for longest, but for the latest, while `too_much` says so.
    pub(super) fn shrink(&self, too_much: impl Fn() -> bool) {
        let mut entries = self.lock();
        while entries.len() > 1 && too_much() {
            entries.remove(0);
        }
    }
}
