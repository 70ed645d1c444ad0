//! The records of the internal partition of leases, and what they fold to.
//!
//! A lease is a record whose key is its id, 8 bytes with the highest first; a tombstone
//! ends it. One more key says up to which id numbers may have been given out: they are
//! reserved many at a time, so that no id comes again when the last leases are gone.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use prost::Message;

use super::partition_view::LeaseId;
use crate::model::{LogRecord, NewRecord};

/// The key of the record that reserves ids.
const RESERVED_KEY: &[u8] = b"reserved";

/// What the record of a lease holds.
#[derive(Clone, PartialEq, Message)]
struct StoredLease {
    #[prost(uint64, tag = "1")]
    ttl_ms: u64,
}

/// What the record that reserves ids holds.
#[derive(Clone, PartialEq, Message)]
struct StoredReservation {
    #[prost(uint64, tag = "1")]
    last: u64,
}

/// What the records of leases fold to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LeaseFold {
    /// The time to live of each: milliseconds.
    pub leases: BTreeMap<LeaseId, u64>,
    /// The highest id that may have been given out.
    pub last: u64,
}

/// A record is none of ours.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record of a lease at offset {0} can't be read")]
pub struct UnreadableLease(pub u64);

impl LeaseFold {
    /// Applies the next record.
    pub fn apply(&mut self, record: &LogRecord) -> Result<(), UnreadableLease> {
        let unreadable = || UnreadableLease(record.offset.0);
        if record.key == RESERVED_KEY {
            let value = record.value.as_deref().ok_or_else(unreadable)?;
            let stored = StoredReservation::decode(value).map_err(|_| unreadable())?;
            self.last = self.last.max(stored.last);
            return Ok(());
        }
        let id: [u8; 8] = record.key.as_ref().try_into().map_err(|_| unreadable())?;
        let id = NonZeroU64::new(u64::from_be_bytes(id)).ok_or_else(unreadable)?;
        self.last = self.last.max(id.get());
        match &record.value {
            None => drop(self.leases.remove(&LeaseId(id))),
            Some(value) => {
                let stored = StoredLease::decode(value.as_ref()).map_err(|_| unreadable())?;
                self.leases.insert(LeaseId(id), stored.ttl_ms);
            }
        }
        Ok(())
    }
}

/// The record that grants a lease.
pub fn lease_granted(id: LeaseId, ttl_ms: u64) -> NewRecord {
    NewRecord {
        key: key(id),
        value: Some(StoredLease { ttl_ms }.encode_to_vec().into()),
    }
}

/// The record that ends a lease.
pub fn lease_ended(id: LeaseId) -> NewRecord {
    NewRecord {
        key: key(id),
        value: None,
    }
}

/// The record that reserves ids up to `last`.
pub fn lease_ids_reserved(last: u64) -> NewRecord {
    NewRecord {
        key: RESERVED_KEY.into(),
        value: Some(StoredReservation { last }.encode_to_vec().into()),
    }
}

fn key(id: LeaseId) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(&id.0.get().to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Offset;

    #[test]
    fn records_fold_to_the_leases_there_are_and_the_ids_that_are_used_up() {
        let id = |id| LeaseId(NonZeroU64::new(id).unwrap());
        let mut fold = LeaseFold::default();
        let records = [
            lease_ids_reserved(1000),
            lease_granted(id(1), 5000),
            lease_granted(id(2), 6000),
            lease_ended(id(1)),
        ];
        for (offset, NewRecord { key, value }) in (0..).zip(records) {
            let offset = Offset(offset);
            fold.apply(&LogRecord { offset, key, value }).unwrap();
        }
        let leases = BTreeMap::from([(id(2), 6000)]);
        assert_eq!(fold, LeaseFold { leases, last: 1000 });
        // Used up is used up: by a lease beyond them, too.
        for (NewRecord { key, value }, last) in [
            (lease_ids_reserved(500), 1000),
            (lease_granted(id(1001), 1), 1001),
        ] {
            let offset = Offset(4);
            fold.apply(&LogRecord { offset, key, value }).unwrap();
            assert_eq!(fold.last, last);
        }
        let foreign = LogRecord {
            offset: Offset(7),
            key: bytes::Bytes::from_static(b"x"),
            value: None,
        };
        assert_eq!(fold.apply(&foreign), Err(UnreadableLease(7)));
    }

    /// The bytes of an example of the page.
    fn example(name: &str) -> Vec<u8> {
        let page = include_str!("../../../docs/format.md");
        let block = page.split(&format!("```hex {name}\n")).nth(1);
        let block = block.expect("there is such a block").split("```").next();
        let bytes = block.into_iter().flat_map(str::lines);
        let bytes = bytes.flat_map(|line| line.split_whitespace().skip(1));
        bytes
            .map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal"))
            .collect()
    }

    #[test]
    fn the_page_shows_what_is_written() {
        let record = lease_granted(LeaseId(NonZeroU64::new(258).unwrap()), 10_000);
        assert_eq!(record.key, example("lease-key"));
        assert_eq!(record.value.unwrap(), example("lease-value"));
    }
}
