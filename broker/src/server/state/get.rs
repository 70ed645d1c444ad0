//! `Get`: the value of a key.

use statecast_proto::v1;
use statecast_proto::v1::get_request::AsOf;

use super::encode;
use crate::broker::{Broker, PointInTime};
use crate::model::Offset;
use crate::server::call::Call;
use crate::server::error::Refusal;
use crate::server::keyed::check_key;

pub(super) async fn get(
    broker: &Broker,
    call: &Call,
    request: &v1::GetRequest,
) -> Result<v1::GetResponse, Refusal> {
    check_key(&request.key)?;
    let state = broker.state(&request.topic)?;
    let partition = state.partition_of(&request.key, request.partition)?;
    let about = |refusal: Refusal| refusal.about(&request.topic, partition);
    let at_least = request
        .at_least_offset
        .map(|offset| Offset(offset).checked_next());
    let at_least = match at_least {
        Some(None) => return Err(about(Refusal::invalid("at_least_offset is out of bounds"))),
        Some(next) => next,
        None => None,
    };
    let found = match request.as_of {
        None => state.view().get(partition, &request.key, at_least).await,
        Some(as_of) => {
            if let Some(at_least) = at_least {
                let waited = state.view().wait_for(partition, at_least).await;
                waited.map_err(|error| about(error.into()))?;
            }
            let point = match as_of {
                AsOf::AsOfOffset(offset) => PointInTime::Offset(Offset(offset)),
                AsOf::AsOfTimestampMs(timestamp_ms) => PointInTime::Timestamp(timestamp_ms),
            };
            state.get_as_of(partition, &request.key, point).await
        }
    };
    let found = found.map_err(|error| about(error.into()))?;
    let entry = found.record.map(encode::entry);
    if let Some(entry) = &entry {
        let room = call.take(&call.memory.sending, entry.value.len()).await;
        call.send(room);
    }
    Ok(v1::GetResponse {
        entry,
        partition,
        next_offset: found.next_offset.0,
    })
}
