//! What a partition knows of the requests with names that were made lately.
//!
//! Invariants:
//! - the queue has them in the order of their offsets, which is that of their
//!   times unless the clock was set back.
//! - the index leads from each stamp to the last request in the queue that has it.
//!   One that was made again after its time is in the queue twice.

use std::collections::{HashMap, VecDeque};

use crate::limits;
use crate::model::{Offset, RequestStamp};

/// A request that was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) stamp: RequestStamp,
    /// How many records it has in this partition.
    pub(super) count: u32,
    /// Where the first one lies.
    pub(super) base_offset: Offset,
    /// When it was appended: milliseconds since the Unix epoch.
    pub(super) time_ms: i64,
}

impl Request {
    /// Whether its time is over.
    fn is_past(&self, now_ms: i64) -> bool {
        let age = now_ms.saturating_sub(self.time_ms);
        u128::try_from(age).is_ok_and(|age| age > limits::REQUEST_MEMORY.as_millis())
    }
}

/// The last requests, as many as the bounds allow.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// Oldest first.
    queue: VecDeque<Request>,
    /// By stamp, the number of a request. Numbers count all that were ever queued.
    index: HashMap<RequestStamp, u64>,
    /// The number of `queue[0]`.
    first: u64,
}

impl Requests {
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Request> {
        self.queue.iter()
    }

    /// The request with this stamp, if it is remembered.
    pub(super) fn find(&self, stamp: RequestStamp, now_ms: i64) -> Option<&Request> {
        let number = self.index.get(&stamp)?;
        let at = usize::try_from(number - self.first).expect("it is in the queue");
        let found = &self.queue[at];
        (!found.is_past(now_ms)).then_some(found)
    }

    /// Remembers a request, behind all others.
    pub(super) fn push(&mut self, request: Request) {
        let number = self.first + self.queue.len() as u64;
        self.queue.push_back(request);
        self.index.insert(request.stamp, number);
    }

    /// Takes back the last one that was pushed.
    pub(super) fn take_back(&mut self) {
        let last = self.queue.pop_back().expect("a request was pushed");
        self.index.remove(&last.stamp);
        // Of one that was made again after its time, nothing is lost: it is past.
    }

    /// Forgets the oldest one.
    pub(super) fn forget_oldest(&mut self) {
        let Some(oldest) = self.queue.pop_front() else {
            return;
        };
        if self.index.get(&oldest.stamp) == Some(&self.first) {
            self.index.remove(&oldest.stamp);
        }
        self.first += 1;
    }

    /// Forgets what is past.
    pub(super) fn expire(&mut self, now_ms: i64) {
        while self
            .queue
            .front()
            .is_some_and(|oldest| oldest.is_past(now_ms))
        {
            self.forget_oldest();
        }
        if self.queue.capacity() > 4 * self.queue.len() + 64 {
            self.queue.shrink_to(2 * self.queue.len());
            self.index.shrink_to(2 * self.index.len());
        }
    }

    /// When each was made, oldest first.
    pub(super) fn times(&mut self) -> impl Iterator<Item = &mut i64> {
        self.queue.iter_mut().map(|request| &mut request.time_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY_MS: i64 = 600_000;

    fn request(name: &str, nth: i64) -> Request {
        Request {
            stamp: RequestStamp::of(name.as_bytes()),
            count: 2,
            base_offset: Offset(nth.unsigned_abs() * 2),
            time_ms: nth,
        }
    }

    fn offset(requests: &Requests, name: &str, now_ms: i64) -> Option<u64> {
        let found = requests.find(RequestStamp::of(name.as_bytes()), now_ms);
        found.map(|request| request.base_offset.0)
    }

    #[test]
    fn a_request_is_found_for_its_time() {
        let mut requests = Requests::default();
        requests.push(request("a", 1));
        requests.push(request("b", 2));
        assert_eq!(offset(&requests, "a", 1 + MEMORY_MS), Some(2));
        assert_eq!(offset(&requests, "a", 2 + MEMORY_MS), None);
        assert_eq!(offset(&requests, "b", 2 + MEMORY_MS), Some(4));
        assert_eq!(offset(&requests, "c", 2), None);
        requests.expire(2 + MEMORY_MS);
        assert_eq!((requests.len(), requests.index.len()), (1, 1));
        requests.times().for_each(|ms| *ms += 100);
        assert_eq!(offset(&requests, "b", 100 + MEMORY_MS), Some(4));
    }

    #[test]
    fn one_that_is_made_again_after_its_time_is_a_new_one() {
        let mut requests = Requests::default();
        requests.push(request("a", 1));
        let later = 2 + MEMORY_MS;
        assert_eq!(offset(&requests, "a", later), None);
        requests.push(request("a", later));
        assert_eq!(
            offset(&requests, "a", later),
            Some(later.unsigned_abs() * 2)
        );
        requests.expire(later);
        assert_eq!(requests.len(), 1);
        assert_eq!(
            offset(&requests, "a", later),
            Some(later.unsigned_abs() * 2)
        );
    }

    #[test]
    fn what_is_taken_back_is_unknown() {
        let mut requests = Requests::default();
        requests.push(request("a", 1));
        requests.push(request("b", 2));
        requests.take_back();
        assert_eq!(offset(&requests, "b", 2), None);
        requests.push(request("b", 3));
        assert_eq!(offset(&requests, "b", 3), Some(6));
        requests.forget_oldest();
        assert_eq!(offset(&requests, "a", 3), None);
        assert_eq!(offset(&requests, "b", 3), Some(6));
    }
}
