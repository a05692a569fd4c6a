//! Jobs of one kind that wait for a few workers. Runs none.

use groundskeeper_flow::RequestQueue;

use super::handlers::Capacity;

pub(crate) struct WorkQueue<J> {
    jobs: RequestQueue<J>,
    at_once: usize,
}

impl<J> WorkQueue<J> {
    pub(crate) fn new(capacity: Capacity) -> Self {
        Self { jobs: RequestQueue::new(capacity.waiting), at_once: capacity.at_once.max(1) }
    }

    /// How many workers take from it.
    pub(crate) fn workers(&self) -> usize {
        self.at_once
    }

    /// Takes `job` from a peer with `under_way` open jobs, this one included. One peer takes half of the places at most.
    ///
    /// # Errors
    /// The job, if there is too much to do.
    pub(crate) fn push(&self, job: J, under_way: usize) -> Result<(), J> {
        let share = (self.jobs.capacity() + self.at_once).div_ceil(2);
        if under_way > share {
            return Err(job);
        }
        self.jobs.push(job)
    }

    pub(crate) async fn pop(&self) -> J {
        self.jobs.pop().await
    }
}
