//! A batch of the log, as readers get it.

use statecast_proto::batch;
use statecast_proto::v1;

use crate::model::Offset;
use crate::partition::StoredBatch;

/// The batch for a reader of partition `number` that is at `position`, which lies
/// within it. `None` when compaction has removed all of its records from there on:
/// then there is nothing to send.
pub(super) fn fetched(
    number: u32,
    position: Offset,
    stored: StoredBatch,
    high_watermark: Offset,
) -> Option<v1::FetchedBatch> {
    let skip_records = records_before(position, &stored);
    let StoredBatch { header, payload } = stored;
    (skip_records < header.record_count).then(|| v1::FetchedBatch {
        partition: number,
        base_offset: header.base_offset.0,
        skip_records,
        append_time_ms: header.append_time_ms,
        checksum: header.payload_crc,
        batch: payload,
        high_watermark: high_watermark.0,
        next_offset: header.next_offset().0,
    })
}

/// How many records of a batch lie before `position`.
fn records_before(position: Offset, stored: &StoredBatch) -> u32 {
    let header = &stored.header;
    let distance = position.0.saturating_sub(header.base_offset.0);
    let distance = u32::try_from(distance).unwrap_or(u32::MAX);
    if distance == 0 || header.offset_span == header.record_count {
        return distance;
    }
    // Compaction has removed some: only the records tell.
    let Ok(records) = batch::uncompressed(stored.payload.clone()) else {
        return 0;
    };
    let mut next = header.base_offset;
    let mut count = 0;
    for record in batch::decode_ref(&records).map_while(Result::ok) {
        let offset = next.advanced(record.offset_gap.into());
        if offset >= position {
            break;
        }
        next = offset.advanced(1);
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use statecast_proto::batch::{BatchBuilder, Compression, RecordRef, pack, split};

    use super::*;
    use crate::model::{BatchHeader, CheckedBatch};

    /// A batch that begins at offset 100 and covers `span` offsets, with records
    /// behind gaps.
    fn batch(gaps: &[u32], span: u32, compression: Compression) -> StoredBatch {
        let mut builder = BatchBuilder::new(Compression::None);
        for _ in gaps {
            let value = [7; 100];
            builder.push(&RecordRef::new(b"key", &value)).unwrap();
        }
        let dense = builder.finish();
        let mut moved = BytesMut::new();
        for (record, &gap) in split(&dense.payload).zip(gaps) {
            record.unwrap().put_moved(gap, None, &mut moved);
        }
        let (payload, _) = pack(moved, dense.record_count, compression);
        let checked = CheckedBatch {
            payload_crc: 0,
            payload: payload.clone(),
            record_count: dense.record_count,
            max_timestamp_ms: None,
            all_timed: false,
            uncompressed_len: 0,
            attributes: 0,
            stamp: None,
            key_hashes: Vec::new(),
        };
        let header = BatchHeader {
            offset_span: span,
            ..checked.header(Offset(100), 1)
        };
        StoredBatch { header, payload }
    }

    #[test]
    fn records_before_the_position_are_counted_where_offsets_are_missing() {
        for compression in Compression::ALL {
            // Offsets 102, 103, 107 of 100 to 110.
            let batch = batch(&[2, 0, 3], 10, compression);
            let skipped = |position: u64| {
                let fetched = fetched(3, Offset(position), batch.clone(), Offset(200));
                fetched.map(|fetched| fetched.skip_records)
            };
            let expected = [
                (100, Some(0)),
                (102, Some(0)),
                (103, Some(1)),
                (104, Some(2)),
                (107, Some(2)),
                (108, None),
                (109, None),
            ];
            for (position, skip) in expected {
                assert_eq!(skipped(position), skip, "{position}");
            }
        }
    }

    #[test]
    fn batch_without_a_record_is_not_sent() {
        let mut empty = batch(&[0], 1, Compression::None);
        empty.header.record_count = 0;
        empty.header.offset_span = 1000;
        empty.payload = Bytes::new();
        for position in [100, 500] {
            assert_eq!(
                fetched(3, Offset(position), empty.clone(), Offset(2000)),
                None
            );
        }
    }

    #[test]
    fn dense_batch_is_not_looked_into() {
        let mut dense = batch(&[0, 0, 0], 3, Compression::None);
        dense.payload = Bytes::from_static(b"\xff");
        let fetched = fetched(3, Offset(102), dense, Offset(200)).unwrap();
        assert_eq!(fetched.skip_records, 2);
    }
}
