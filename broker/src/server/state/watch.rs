//! `Watch`: what is, and then every change.
//!
//! The next event is made when the transport can send it, and there is room for it, and
//! not before: what a watcher that doesn't read holds is its outbox, until that is
//! dropped.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt, stream};
use statecast_proto::v1::watch_request::Start;
use statecast_proto::v1::watch_response::Event;
use statecast_proto::{reason::Reason, v1};
use tonic::Status;

use super::encode;
use crate::broker::TopicState;
use crate::limits;
use crate::model::Offset;
use crate::server::Context;
use crate::server::call::Call;
use crate::server::error::Refusal;
use crate::server::keyed::{check_key, check_prefix};
use crate::views::{Change, Filter, ViewError, Watch, WatchEvent, WatchStart};

/// The responses of one call.
pub(super) type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

pub(super) async fn open(
    context: &Context,
    request: v1::WatchRequest,
    call: Arc<Call>,
) -> Result<WatchStream, Refusal> {
    if context.draining.is_cancelled() {
        return Err(Refusal::stopping());
    }
    let topic = request.topic.clone();
    let state = context.broker.state(&topic)?;
    let start = start(&state, &request)?;
    let filter = filter(request)?;
    let about = |refusal: Refusal| refusal.with("topic", &topic);
    let watch = Watch::open(state.view().clone(), filter, start).await;
    let watch = watch.map_err(|error| about(error.into()))?;
    let draining = context.draining.clone();
    let events = stream::unfold(
        (watch, topic, call),
        |(mut watch, topic, call)| async move {
            let response = match next(&mut watch, &call).await {
                Ok(response) => Ok(response),
                Err(error) => Err(Status::from(Refusal::from(error).with("topic", &topic))),
            };
            Some((response, (watch, topic, call)))
        },
    );
    let stopping = async move {
        draining.cancelled_owned().await;
        Err(Status::from(Refusal::stopping()))
    };
    let stopping = stream::once(stopping);
    // The first error is the last item.
    let responses = stream::select(stopping, events).scan(false, |ended, response| {
        let goes_on = !std::mem::replace(ended, response.is_err());
        std::future::ready(goes_on.then_some(response))
    });
    Ok(Box::pin(responses))
}

fn filter(request: v1::WatchRequest) -> Result<Filter, Refusal> {
    check_prefix(&request.prefix)?;
    if request.keys.is_empty() {
        return Ok(Filter::Prefix(request.prefix));
    }
    if !request.prefix.is_empty() {
        return Err(Refusal::invalid("a watch has a prefix, or keys, not both"));
    }
    let (count, limit) = (request.keys.len(), limits::KEYS_PER_CALL);
    if count > limit {
        let message = format_args!("one watch has {limit} keys at most, not {count}");
        return Err(Refusal::invalid(message).beyond(count, limit));
    }
    for key in &request.keys {
        check_key(key)?;
    }
    let keys: BTreeSet<_> = request.keys.into_iter().collect();
    Ok(Filter::Keys(keys))
}

fn start(state: &TopicState, request: &v1::WatchRequest) -> Result<WatchStart, Refusal> {
    match &request.start {
        None | Some(Start::Snapshot(_)) => Ok(WatchStart::Snapshot),
        Some(Start::Latest(_)) => Ok(WatchStart::Latest),
        Some(Start::From(from)) => {
            let count = state.view().partition_count() as usize;
            let mut offsets = vec![None; count];
            for position in &from.next_offsets {
                let partition = state.partition_of(&[], Some(position.partition))?;
                let offset = offsets[partition as usize].replace(Offset(position.offset));
                if offset.is_some() {
                    let message = "a partition is named twice in `from`";
                    return Err(Refusal::invalid(message).about(&request.topic, partition));
                }
            }
            let missing = offsets.iter().position(Option::is_none);
            if let Some(missing) = missing {
                let message = format_args!("`from` lacks partition {missing}");
                return Err(Refusal::new(Reason::InvalidRequest, message)
                    .with("topic", &request.topic)
                    .with("partition", missing));
            }
            Ok(WatchStart::From(offsets.into_iter().flatten().collect()))
        }
    }
}

/// The next event, and the room that it takes until it was sent.
async fn next(watch: &mut Watch, call: &Call) -> Result<v1::WatchResponse, ViewError> {
    loop {
        // What has to be waited for takes no room.
        watch.ready().await?;
        let room = call.take(&call.memory.sending, ROOM_BYTES).await;
        if let Some(event) = watch.advance().await? {
            let room = call.fit(room, size(&event)).await;
            if room.bytes() > 0 {
                call.send(room);
            }
            return Ok(response(event));
        }
    }
}

/// What an event takes at most, but for one record that may be larger: for that, more is
/// taken once it is there.
const ROOM_BYTES: usize = limits::WATCH_READ_BYTES;

fn size(event: &WatchEvent) -> usize {
    match event {
        WatchEvent::Entries(changes) | WatchEvent::Changes(changes) => {
            let size = |change: &Change| change.key.len() + change.body.len();
            changes.iter().map(size).sum()
        }
        _ => 0,
    }
}

fn response(event: WatchEvent) -> v1::WatchResponse {
    let synced = |offsets: &[Offset]| v1::Synced {
        next_offsets: encode::positions(offsets),
    };
    let event = match event {
        WatchEvent::Opened { snapshot } => Event::Opened(v1::WatchOpened { snapshot }),
        WatchEvent::Entries(changes) => {
            let entries = changes.into_iter().map(encode::entry).collect();
            Event::Entries(v1::Entries { entries })
        }
        WatchEvent::Changes(changes) => {
            let changes = changes.into_iter().map(encode::change).collect();
            Event::Changes(v1::Changes { changes })
        }
        WatchEvent::Synced(offsets) => Event::Synced(synced(&offsets)),
        WatchEvent::Progress(offsets) => Event::Progress(synced(&offsets)),
        WatchEvent::Truncated { partition, start } => Event::Truncated(v1::StateTruncated {
            partition,
            log_start_offset: start.0,
        }),
    };
    v1::WatchResponse { event: Some(event) }
}
