//! What the records of the producers partition fold to: which ids were given out,
//! and who has which name. Pure: no clock, no disk.
//!
//! Two kinds of keys, told apart by their first byte:
//!
//! | key | value |
//! |---|---|
//! | `i` | an [`StoredIds`]: ids are given out up to there. One record for many ids |
//! | `n` and a name | a [`StoredName`]: who has the name, in which epoch; a tombstone when it is forgotten |
//!
//! Only the last record of a key counts, so compaction keeps the partition small.
//! `docs/format.md` lists the fields, whose numbers are never used again.
//!
//! Ids are numbers, counted up, times two; those without a name have 1 added. So it
//! can be seen of an id whether it needs a name, even when the name is forgotten,
//! and a higher id was given out later.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use prost::Message;

use super::ReplayError;
use crate::model::{LogRecord, NewRecord, Offset, ProducerName};

/// Numbers that one record reserves: a restart leaves out up to so many.
pub const RESERVED_AT_ONCE: u64 = 1000;

/// More than are ever given out. Ids have one bit more, and one is left for others.
const NUMBERS: u64 = 1 << 61;

const IDS_KEY: &[u8] = b"i";
const NAME_PREFIX: u8 = b'n';

/// A producer's id. At least 2, and below 2^63.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerId(u64);

impl ProducerId {
    /// The id of the producer with this number, which has a name or not.
    pub fn new(number: u64, is_named: bool) -> ProducerId {
        ProducerId(number << 1 | u64::from(!is_named))
    }

    /// The id as it goes over the wire.
    pub fn get(self) -> u64 {
        self.0
    }

    /// How many were given out before it, in all.
    pub fn number(self) -> u64 {
        self.0 >> 1
    }

    /// Whether it belongs to a name.
    pub fn is_named(self) -> bool {
        self.0 & 1 == 0
    }
}

impl From<u64> for ProducerId {
    fn from(id: u64) -> ProducerId {
        ProducerId(id)
    }
}

/// Who has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamedProducer {
    /// Its id.
    pub id: ProducerId,
    /// Which of those that had the id counts; from 1 on.
    pub epoch: u16,
    /// Who it was before, if it began anew by itself; nobody else had the name in
    /// between.
    pub former: Option<(ProducerId, u16)>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct StoredIds {
    /// Numbers below are given out, or may be.
    #[prost(uint64, tag = "1")]
    below: u64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct StoredName {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint32, tag = "2")]
    epoch: u32,
    /// 0 when it is not the one that had the name before.
    #[prost(uint64, tag = "3")]
    former_id: u64,
    #[prost(uint32, tag = "4")]
    former_epoch: u32,
}

/// The ids that were given out, and the names.
#[derive(Debug)]
pub struct Producers {
    /// Numbers below are given out, or may be. From 1 on.
    reserved_below: u64,
    names: HashMap<ProducerName, (NamedProducer, Offset)>,
    /// By the record that says who has it, each name: the one that began the longest
    /// ago is first.
    by_age: BTreeMap<Offset, ProducerName>,
}

impl Default for Producers {
    fn default() -> Producers {
        Producers {
            reserved_below: 1,
            names: HashMap::new(),
            by_age: BTreeMap::new(),
        }
    }
}

impl Producers {
    /// Applies the next record of the log.
    pub fn apply(&mut self, record: &LogRecord) -> Result<(), ReplayError> {
        let unreadable = |cause: &str| ReplayError::Unreadable {
            offset: record.offset,
            cause: cause.to_owned(),
        };
        let value = record.value.as_deref();
        match (record.key.split_first(), value) {
            (Some((&NAME_PREFIX, name)), value) => {
                let name = std::str::from_utf8(name).ok();
                let name = name.and_then(|name| ProducerName::try_from(name).ok());
                let name = name.ok_or_else(|| unreadable("its key is not a producer's name"))?;
                let producer = value.map(named).transpose().map_err(unreadable)?;
                self.put(name, producer, record.offset);
            }
            (Some(_), Some(value)) if record.key == IDS_KEY => {
                let ids = StoredIds::decode(value).ok();
                let ids = ids.filter(|ids| ids.below <= NUMBERS);
                let ids = ids.ok_or_else(|| unreadable("its value is none of ids"))?;
                self.reserved_below = self.reserved_below.max(ids.below);
            }
            _ => {
                return Err(unreadable(
                    "it holds something that this version doesn't know",
                ));
            }
        }
        Ok(())
    }

    fn put(&mut self, name: ProducerName, producer: Option<NamedProducer>, offset: Offset) {
        if let Some((_, before)) = self.names.remove(&name) {
            self.by_age.remove(&before);
        }
        if let Some(producer) = producer {
            // Its record may have come through when that of the ids was lost.
            self.reserved_below = self.reserved_below.max(producer.id.number() + 1);
            self.by_age.insert(offset, name.clone());
            self.names.insert(name, (producer, offset));
        }
    }

    /// So many records of the log are lost: each may have reserved numbers, which
    /// nobody gets again, or begun an epoch of a name. An epoch that is given out
    /// twice would make new batches seem to be repeated, so the names that were known
    /// before are forgotten: they begin anew with other ids.
    pub fn skip_lost(&mut self, records: u64) {
        self.names.clear();
        self.by_age.clear();
        let lost = records.saturating_mul(RESERVED_AT_ONCE);
        self.reserved_below = self.reserved_below.saturating_add(lost).min(NUMBERS);
    }

    /// Numbers below are given out, or may be.
    pub fn reserved_below(&self) -> u64 {
        self.reserved_below
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are no names.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Who has the name.
    pub fn named(&self, name: &ProducerName) -> Option<NamedProducer> {
        self.names.get(name).map(|(producer, _)| *producer)
    }

    /// All names, and who has them: those that began the longest ago first.
    pub fn names(&self) -> impl Iterator<Item = (&ProducerName, NamedProducer)> {
        let producer = |name| self.names.get(name).map(|(producer, _)| (name, *producer));
        self.by_age.values().filter_map(producer)
    }

    /// The record that reserves numbers below `below`.
    pub fn reserve(below: u64) -> NewRecord {
        NewRecord {
            key: Bytes::from_static(IDS_KEY),
            value: Some(StoredIds { below }.encode_to_vec().into()),
        }
    }

    /// The record that gives a name to a producer.
    pub fn begin(name: &ProducerName, producer: NamedProducer) -> NewRecord {
        let former = producer.former;
        let stored = StoredName {
            id: producer.id.get(),
            epoch: producer.epoch.into(),
            former_id: former.map_or(0, |(id, _)| id.get()),
            former_epoch: former.map_or(0, |(_, epoch)| epoch.into()),
        };
        NewRecord {
            key: key_of(name),
            value: Some(stored.encode_to_vec().into()),
        }
    }

    /// The record that forgets a name.
    pub fn forget(name: &ProducerName) -> NewRecord {
        NewRecord {
            key: key_of(name),
            value: None,
        }
    }
}

fn key_of(name: &ProducerName) -> Bytes {
    let mut key = vec![NAME_PREFIX];
    key.extend(name.as_str().as_bytes());
    key.into()
}

fn named(value: &[u8]) -> Result<NamedProducer, &'static str> {
    let stored = StoredName::decode(value).map_err(|_| "its value is no name's")?;
    let epoch = |epoch| u16::try_from(epoch).map_err(|_| "its epoch is out of bounds");
    let former = (ProducerId(stored.former_id), epoch(stored.former_epoch)?);
    let id = ProducerId(stored.id);
    match id.is_named() && (1..NUMBERS).contains(&id.number()) {
        true => Ok(NamedProducer {
            id,
            epoch: epoch(stored.epoch)?,
            former: (stored.former_id != 0).then_some(former),
        }),
        false => Err("its id is none of a name"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ProducerName {
        ProducerName::try_from(name).unwrap()
    }

    fn producer(number: u64, epoch: u16) -> NamedProducer {
        NamedProducer {
            id: ProducerId::new(number, true),
            epoch,
            former: (epoch > 1).then_some((ProducerId::new(number, true), epoch - 1)),
        }
    }

    /// Applies new records as they lie in a log.
    fn fold(records: Vec<NewRecord>) -> Producers {
        let mut producers = Producers::default();
        for (offset, NewRecord { key, value }) in records.into_iter().enumerate() {
            let offset = Offset(offset as u64);
            producers.apply(&LogRecord { offset, key, value }).unwrap();
        }
        producers
    }

    #[test]
    fn the_last_record_of_a_name_says_who_has_it() {
        let producers = fold(vec![
            Producers::reserve(1001),
            Producers::begin(&name("a"), producer(1, 1)),
            Producers::begin(&name("b"), producer(2, 1)),
            Producers::begin(&name("c"), producer(3, 1)),
            Producers::begin(&name("a"), producer(1, 2)),
            Producers::forget(&name("b")),
            Producers::forget(&name("never-there")),
        ]);
        assert_eq!(producers.reserved_below(), 1001);
        assert_eq!(producers.named(&name("a")), Some(producer(1, 2)));
        assert_eq!(producers.named(&name("b")), None);
        let by_age: Vec<&str> = producers.names().map(|(name, _)| name.as_str()).collect();
        assert_eq!(by_age, ["c", "a"]);
        assert_eq!(producers.len(), 2);
    }

    #[test]
    fn numbers_of_lost_records_are_left_out() {
        let mut producers = fold(vec![
            Producers::reserve(1001),
            Producers::begin(&name("a"), producer(1, 1)),
        ]);
        producers.skip_lost(3);
        assert_eq!(producers.named(&name("a")), None, "it may have begun again");
        assert_eq!(producers.names().count(), 0);
        assert_eq!(producers.reserved_below(), 4001);
        // A later record may know less than what was feared.
        let NewRecord { key, value } = Producers::reserve(2001);
        let offset = Offset(4);
        producers.apply(&LogRecord { offset, key, value }).unwrap();
        assert_eq!(producers.reserved_below(), 4001);
        producers.skip_lost(u64::MAX);
        assert_eq!(producers.reserved_below(), NUMBERS);
    }

    #[test]
    fn an_id_says_whether_it_has_a_name() {
        let (named, anonymous) = (ProducerId::new(7, true), ProducerId::new(7, false));
        assert_eq!((named.get(), anonymous.get()), (14, 15));
        assert!(named.is_named() && !anonymous.is_named());
        assert_eq!((named.number(), anonymous.number()), (7, 7));
        assert_eq!(ProducerId::from(15), anonymous);
    }

    #[test]
    fn what_is_none_of_ours_is_refused() {
        let good = Producers::begin(&name("a"), producer(1, 1));
        let id = |id, epoch| {
            let stored = StoredName {
                id,
                epoch,
                ..StoredName::default()
            };
            Some(stored.encode_to_vec().into())
        };
        let cases = [
            (&b""[..], good.value.clone()),
            (b"x", good.value.clone()),
            (b"i", None),
            (b"i", Some(Bytes::from_static(b"\xff"))),
            (b"i", Producers::reserve(NUMBERS + 1).value),
            (b"na/b", good.value.clone()),
            (b"n\xff", None),
            (b"na", Some(Bytes::from_static(b"\xff"))),
            (b"na", id(3, 1)),
            (b"na", id(0, 1)),
            (b"na", id(2, 65_536)),
        ];
        for (key, value) in cases {
            let record = LogRecord {
                offset: Offset(3),
                key: Bytes::copy_from_slice(key),
                value,
            };
            let error = Producers::default().apply(&record).unwrap_err();
            assert!(error.to_string().contains("offset 3"), "{error}");
        }
    }
}
