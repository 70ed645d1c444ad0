//! Asks the broker who this producer is.

use statecast_proto::v1::log_client::LogClient;
use statecast_proto::v1::{InitProducerRequest, ProducerIdentity};
use tonic::Code;

use super::sequences::Identity;
use super::shared::Shared;
use crate::error::Error;

/// Gets an identity other than the former one, if there was one; `None` from a
/// broker that is too old to give any.
pub(super) async fn ask(
    shared: &Shared,
    former: Option<Identity>,
) -> Result<Option<Identity>, Error> {
    let name = shared.settings.naming.name();
    let request = InitProducerRequest {
        producer_name: name.map(str::to_owned),
        current: former.map(|former| ProducerIdentity {
            producer_id: former.producer_id,
            epoch: former.epoch,
        }),
    };
    let mut client = LogClient::new(shared.channel.clone());
    let limit = shared.client.settings().request_timeout;
    let answer = match tokio::time::timeout(limit, client.init_producer(request)).await {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(status)) if status.code() == Code::Unimplemented => return too_old(name),
        Ok(Err(status)) => return Err(Error::from_status(&status)),
        Err(_) => {
            return Err(Error::Timeout {
                waited: limit,
                last: "the broker didn't answer".into(),
            });
        }
    };
    let identity = Identity {
        producer_id: answer.producer_id,
        epoch: answer.epoch,
    };
    if identity.producer_id == 0 || Some(identity) == former {
        return Err(Error::protocol(format_args!("{identity:?} for a producer")));
    }
    Ok(Some(identity))
}

/// Without numbers, delivery is at least once; but who has a name relies on
/// being the only one.
fn too_old(name: Option<&str>) -> Result<Option<Identity>, Error> {
    if let Some(name) = name {
        return Err(Error::protocol(format_args!(
            "the broker is too old for a producer with a name, {name}"
        )));
    }
    tracing::warn!("the broker is too old for idempotent producers: records may be appended twice");
    Ok(None)
}
