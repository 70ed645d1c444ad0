//! `InitProducer`: an id to number batches with.

use statecast_proto::v1;

use super::error::Refusal;
use crate::broker::{Broker, Registered};
use crate::model::ProducerName;

pub(super) async fn init_producer(
    broker: &Broker,
    request: &v1::InitProducerRequest,
) -> Result<v1::InitProducerResponse, Refusal> {
    let name = request.producer_name.as_deref();
    let name = name.map(ProducerName::try_from).transpose()?;
    let current = request.current.map(current).transpose()?;
    let registered = broker.register_producer(name, current).await?;
    Ok(v1::InitProducerResponse {
        producer_id: registered.id,
        epoch: registered.epoch.into(),
    })
}

fn current(identity: v1::ProducerIdentity) -> Result<Registered, Refusal> {
    let epoch = u16::try_from(identity.epoch).map_err(|_| {
        Refusal::invalid("an epoch is at most 65535").beyond(identity.epoch, u16::MAX)
    })?;
    Ok(Registered {
        id: identity.producer_id,
        epoch,
    })
}
