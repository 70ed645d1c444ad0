//! The failures that nobody was told of yet: the deliveries of the records were
//! dropped, or not asked. `flush` and `close` tell.

use std::sync::Arc;

use super::completion::Completion;

/// More failures than this are not remembered at once; one is enough to tell.
const MAX_REMEMBERED: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Failures {
    /// Oldest first. Some may have been told since; some may yet be about to be
    /// settled.
    failed: Vec<Arc<Completion>>,
}

impl Failures {
    /// Remembers a batch that fails. Whoever takes it out of the queue adds it
    /// here first, so that a flush finds it in one of both.
    pub(super) fn add(&mut self, completion: &Arc<Completion>) {
        if self.failed.len() == MAX_REMEMBERED {
            self.forget_told();
        }
        if self.failed.len() < MAX_REMEMBERED {
            self.failed.push(Arc::clone(completion));
        }
    }

    pub(super) fn add_all<'a>(&mut self, completions: impl Iterator<Item = &'a Arc<Completion>>) {
        for completion in completions {
            self.add(completion);
        }
    }

    /// Those that nobody was told of, oldest first.
    pub(super) fn untold(&mut self) -> Vec<Arc<Completion>> {
        self.forget_told();
        self.failed.clone()
    }

    fn forget_told(&mut self) {
        self.failed.retain(|failed| !failed.is_told());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn failed() -> Arc<Completion> {
        let completion = Completion::new(0);
        completion.settle(Err(Error::Closed));
        completion
    }

    #[test]
    fn failures_are_kept_until_a_delivery_tells() {
        let mut failures = Failures::default();
        let (first, second) = (failed(), failed());
        failures.add(&first);
        failures.add(&second);
        assert_eq!(failures.untold().len(), 2);
        first.delivery(0).now().unwrap().unwrap_err();
        assert_eq!(failures.untold().len(), 1);
        second.delivery(7).now().unwrap().unwrap_err();
        assert!(failures.untold().is_empty());
    }

    #[test]
    fn failures_that_were_told_make_room_for_others() {
        let mut failures = Failures::default();
        let all: Vec<_> = (0..MAX_REMEMBERED).map(|_| failed()).collect();
        for completion in &all {
            failures.add(completion);
        }
        failures.add(&failed());
        assert_eq!(failures.untold().len(), MAX_REMEMBERED);
        for completion in &all {
            completion.delivery(0).now().unwrap().unwrap_err();
        }
        failures.add(&failed());
        assert_eq!(failures.untold().len(), 1);
    }
}
