//! `Scan`: a page of keys and values.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use statecast_proto::v1;

use super::encode;
use crate::broker::{Broker, PointsInTime, TopicState};
use crate::limits;
use crate::model::Offset;
use crate::server::call::Call;
use crate::server::error::Refusal;
use crate::server::keyed::check_prefix;
use crate::views::PageRequest;

/// What a page token begins with: how it is laid out.
const TOKEN_LAYOUT: u8 = 1;

pub(super) async fn scan(
    broker: &Broker,
    call: &Call,
    request: v1::ScanRequest,
) -> Result<v1::ScanResponse, Refusal> {
    check_prefix(&request.prefix)?;
    let state = broker.state(&request.topic)?;
    let about = |refusal: Refusal| refusal.with("topic", &request.topic);
    let count = request.page_size.unwrap_or(limits::DEFAULT_SCAN_ENTRIES);
    if !limits::SCAN_ENTRIES.contains(&count) {
        let (low, high) = (limits::SCAN_ENTRIES.start(), limits::SCAN_ENTRIES.end());
        let message = format_args!("page_size is {count}; it must lie within {low} to {high}");
        return Err(about(Refusal::invalid(message).beyond(count, high)));
    }
    let page = PageRequest {
        after: after(&request.page_token)?,
        prefix: request.prefix.clone(),
        count: count as usize,
        bytes: limits::SCAN_BYTES,
    };
    let as_of = points(&state, &request)?;
    for (partition, next) in at_least(&state, &request)? {
        let waited = state.view().wait_for(partition, next).await;
        waited.map_err(|error| Refusal::from(error).about(&request.topic, partition))?;
    }
    // Room first: many pages at once are many megabytes. But few look into the past at
    // a time, and that may take long.
    let room_first = as_of.is_none();
    let take_room = || call.take(&call.memory.sending, limits::SCAN_BYTES);
    let room = match room_first {
        true => Some(take_room().await),
        false => None,
    };
    let found = match as_of {
        None => state.view().scan(&page).await,
        Some(points) => state.scan_as_of(&page, points).await,
    };
    let found = found.map_err(|error| about(error.into()))?;
    let room = match room {
        Some(room) => room,
        None => take_room().await,
    };
    let bytes = found
        .records
        .iter()
        .map(|one| one.key.len() + one.body.len());
    // One record may be larger than a page.
    call.send(call.fit(room, bytes.sum()).await);
    Ok(v1::ScanResponse {
        entries: found.records.into_iter().map(encode::entry).collect(),
        next_page_token: found
            .next
            .map(|(key, partition)| token(&key, partition))
            .unwrap_or_default(),
        next_offsets: encode::positions(&found.next_offsets),
    })
}

/// How far each partition has to be.
fn at_least(
    state: &TopicState,
    request: &v1::ScanRequest,
) -> Result<BTreeMap<u32, Offset>, Refusal> {
    let mut wanted = BTreeMap::new();
    for position in &request.at_least {
        let partition = state.partition_of(&[], Some(position.partition))?;
        let invalid = |message| Refusal::invalid(message).about(&request.topic, partition);
        let next = Offset(position.offset).checked_next();
        let next = next.ok_or_else(|| invalid("at_least is out of bounds"))?;
        if wanted.insert(partition, next).is_some() {
            return Err(invalid("a partition is named twice in `at_least`"));
        }
    }
    Ok(wanted)
}

/// The state that is asked for, if it is not that of now.
fn points(state: &TopicState, request: &v1::ScanRequest) -> Result<Option<PointsInTime>, Refusal> {
    match (&request.as_of_offsets[..], request.as_of_timestamp_ms) {
        ([], None) => Ok(None),
        ([], Some(timestamp_ms)) => Ok(Some(PointsInTime::Timestamp(timestamp_ms))),
        (_, Some(_)) => Err(Refusal::invalid(
            "a scan is as of offsets, or of a time, not both",
        )),
        (positions, None) => {
            let mut offsets = vec![None; state.view().partition_count() as usize];
            for position in positions {
                let partition = state.partition_of(&[], Some(position.partition))?;
                let offset = offsets[partition as usize].replace(Offset(position.offset));
                if offset.is_some() {
                    let message = "a partition is named twice in `as_of_offsets`";
                    return Err(Refusal::invalid(message).about(&request.topic, partition));
                }
            }
            let offsets = offsets.into_iter().map(Option::unwrap_or_default);
            Ok(Some(PointsInTime::Offsets(offsets.collect())))
        }
    }
}

/// The token of the page behind a key.
fn token(key: &[u8], partition: u32) -> Bytes {
    let mut token = BytesMut::with_capacity(1 + size_of::<u32>() + key.len());
    token.put_u8(TOKEN_LAYOUT);
    token.put_u32(partition);
    token.put_slice(key);
    token.freeze()
}

/// The key and partition that a page begins behind.
fn after(token: &Bytes) -> Result<Option<(Bytes, u32)>, Refusal> {
    if token.is_empty() {
        return Ok(None);
    }
    let mut rest = token.clone();
    let has_head = rest.len() >= size_of::<u8>() + size_of::<u32>();
    if !has_head || rest.get_u8() != TOKEN_LAYOUT {
        return Err(Refusal::invalid("this page_token is none that a scan gave"));
    }
    let partition = rest.get_u32();
    Ok(Some((rest, partition)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_lead_back_and_others_are_refused() {
        let after_key = after(&token(b"key", 7)).unwrap();
        assert_eq!(after_key, Some((Bytes::from_static(b"key"), 7)));
        assert_eq!(after(&Bytes::new()).unwrap(), None);
        // Before all keys but the empty one, when a page ended there.
        let before_all = after(&token(b"", u32::MAX)).unwrap();
        assert_eq!(before_all, Some((Bytes::new(), u32::MAX)));
        for bad in [&b"\x01"[..], b"\x01\0\0\0", b"\x02\0\0\0\0key", b"next"] {
            assert!(after(&Bytes::copy_from_slice(bad)).is_err(), "{bad:?}");
        }
    }
}
