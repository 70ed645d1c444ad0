//! What tells a batch that is sent again from a new one.
//!
//! Two ways to say it share three fields of the batch header. A producer's id has
//! its highest bit clear, and its numbers count records. A request's id has it
//! set; id and number are a hash of the name that the caller gave the request.

use std::hash::Hasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use siphasher::sip128::{Hasher128, SipHasher24};

/// Set in the ids of requests, clear in those of producers.
const REQUEST_BIT: u64 = 1 << 63;

/// Who sent a batch, and which one of theirs it is.
#[derive(Debug, Clone)]
pub enum Stamp {
    /// One of a producer's batches, which follow each other without a gap.
    Producer(ProducerStamp),
    /// What one request has for a partition.
    Request(RequestStamp),
}

/// The place of a batch among all that a producer sends to a partition.
#[derive(Debug, Clone)]
pub struct ProducerStamp {
    /// At least 1, and below 2^63.
    pub id: u64,
    /// Grows each time that a producer with the same name begins.
    pub epoch: u16,
    /// How many records went before it in this epoch, modulo 2^32.
    pub base_sequence: u32,
    /// Which epoch of the producer counts; `None` when it has but one.
    pub fence: Option<Arc<ProducerFence>>,
}

/// A request that is appended once, however often it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestStamp {
    /// The highest bit is set.
    pub id: u64,
    /// More of the same hash.
    pub number: u32,
}

/// The stamp of a batch that was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredStamp {
    /// As [`Stamp::Producer`].
    Producer {
        /// As [`ProducerStamp::id`].
        id: u64,
        /// As [`ProducerStamp::epoch`].
        epoch: u16,
        /// As [`ProducerStamp::base_sequence`].
        base_sequence: u32,
    },
    /// As [`Stamp::Request`].
    Request(RequestStamp),
}

impl RequestStamp {
    /// The stamp of the request with this name.
    pub fn of(name: &[u8]) -> RequestStamp {
        let hash = request_hash(name);
        RequestStamp {
            id: hash.h1 | REQUEST_BIT,
            number: u32::try_from(hash.h2 >> 32).expect("the upper half"),
        }
    }

    /// A number that is the same each time that the request is made, and says
    /// nothing about its stamp.
    pub fn choice(name: &[u8]) -> u32 {
        u32::try_from(request_hash(name).h2 & u64::from(u32::MAX)).expect("the lower half")
    }
}

/// Any good hash would do: 95 bits of it keep requests of one partition apart. It
/// has to be the same for ever, since it lies on disk.
fn request_hash(name: &[u8]) -> siphasher::sip128::Hash128 {
    let mut hasher = SipHasher24::new();
    hasher.write(name);
    hasher.finish128()
}

impl Stamp {
    /// What the batch header has in its fields producer id, producer epoch and
    /// base sequence.
    pub(super) fn fields(&self) -> (u64, u16, u32) {
        match self {
            Stamp::Producer(stamp) => (stamp.id, stamp.epoch, stamp.base_sequence),
            Stamp::Request(stamp) => (stamp.id, 0, stamp.number),
        }
    }
}

impl StoredStamp {
    /// The stamp that those fields say; `None` when there is none.
    pub(super) fn of(id: u64, epoch: u16, sequence: u32) -> Option<StoredStamp> {
        match id {
            0 => None,
            id if id & REQUEST_BIT != 0 => Some(StoredStamp::Request(RequestStamp {
                id,
                number: sequence,
            })),
            id => Some(StoredStamp::Producer {
                id,
                epoch,
                base_sequence: sequence,
            }),
        }
    }
}

/// Which epoch of a named producer counts. Looked at where offsets are given out,
/// so that no batch of an earlier one comes behind the record that ended it.
#[derive(Debug)]
pub struct ProducerFence(AtomicU32);

/// No epoch counts any more. Larger than each of them.
const CLOSED: u32 = u32::MAX;

impl ProducerFence {
    /// Lets batches of this epoch pass.
    pub fn new(epoch: u16) -> ProducerFence {
        ProducerFence(AtomicU32::new(epoch.into()))
    }

    /// Keeps batches of earlier epochs out from now on.
    pub fn raise(&self, epoch: u16) {
        self.0.fetch_max(epoch.into(), Ordering::AcqRel);
    }

    /// Keeps all batches out: the broker forgets the producer.
    pub fn close(&self) {
        self.0.store(CLOSED, Ordering::Release);
    }

    /// The epoch that counts; `None` once it is closed.
    pub fn epoch(&self) -> Option<u16> {
        u16::try_from(self.0.load(Ordering::Acquire)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_stamps_that_are_on_disk() {
        let stamp = RequestStamp::of(b"4be1b2bb-0a4d-4fd4-8a6b-6a5d1ea4e8a0");
        assert_eq!(stamp.id, 0xf150_b967_8d9b_9294);
        assert_eq!(stamp.number, 0xa386_a8bc);
    }

    #[test]
    fn fields_of_the_header_lead_back() {
        let producer = Stamp::Producer(ProducerStamp {
            id: 7,
            epoch: 3,
            base_sequence: u32::MAX,
            fence: None,
        });
        let request = RequestStamp::of(b"");
        let of = |stamp: &Stamp| {
            let (id, epoch, sequence) = stamp.fields();
            StoredStamp::of(id, epoch, sequence)
        };
        assert_eq!(
            of(&producer),
            Some(StoredStamp::Producer {
                id: 7,
                epoch: 3,
                base_sequence: u32::MAX
            })
        );
        assert_eq!(
            of(&Stamp::Request(request)),
            Some(StoredStamp::Request(request))
        );
        assert_eq!(StoredStamp::of(0, 0, 0), None);
    }

    #[test]
    fn a_fence_only_rises_and_stays_closed() {
        let fence = ProducerFence::new(4);
        fence.raise(6);
        fence.raise(5);
        assert_eq!(fence.epoch(), Some(6));
        fence.close();
        fence.raise(7);
        assert_eq!(fence.epoch(), None);
    }
}
