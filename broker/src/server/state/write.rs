//! `Put` and `Delete`.

use statecast_proto::v1;

use crate::broker::Broker;
use crate::server::error::Refusal;

pub(super) async fn put(
    _broker: &Broker,
    _request: v1::PutRequest,
) -> Result<v1::PutResponse, Refusal> {
    Err(Refusal::invalid("not yet"))
}

pub(super) async fn delete(
    _broker: &Broker,
    _request: v1::DeleteRequest,
) -> Result<v1::DeleteResponse, Refusal> {
    Err(Refusal::invalid("not yet"))
}
