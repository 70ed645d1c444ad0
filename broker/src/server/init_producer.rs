//! `InitProducer`: an id to number batches with.

use statecast_proto::v1;

use super::error::Refusal;
use crate::broker::Broker;
use crate::model::ProducerName;

pub(super) async fn init_producer(
    broker: &Broker,
    request: &v1::InitProducerRequest,
) -> Result<v1::InitProducerResponse, Refusal> {
    let name = request.producer_name.as_deref();
    let name = name.map(ProducerName::try_from).transpose()?;
    let registered = broker.register_producer(name).await?;
    Ok(v1::InitProducerResponse {
        producer_id: registered.id,
        epoch: registered.epoch.into(),
    })
}
