//! `Produce`: one batch, structured records, for any language.

use statecast_proto::v1;

use super::error::Refusal;
use crate::broker::{BatchChecker, Broker, IncomingBatch};
use crate::model::Offset;
use crate::partition::Append;

pub(super) async fn produce(
    broker: &Broker,
    request: v1::ProduceRequest,
) -> Result<v1::ProduceResponse, Refusal> {
    let v1::ProduceRequest {
        topic,
        partition,
        batch: payload,
        checksum,
        request_id: _,
    } = request;
    let mut checker = BatchChecker::new(broker.clone());
    if let Some(partition) = partition {
        let incoming = IncomingBatch {
            topic: &topic,
            partition,
            payload,
            checksum,
        };
        let refused = |refusal: Refusal| refusal.about(&topic, partition);
        let append = checker
            .check(incoming)
            .map_err(|error| refused(error.into()))?;
        let count = u64::from(append.batch.record_count);
        let bases = append_all(broker, vec![append]).await;
        let bases = bases.map_err(|(_, refusal)| refused(refusal))?;
        let position = |i| v1::RecordPosition {
            partition,
            offset: bases[0].0 + i,
        };
        return Ok(v1::ProduceResponse {
            positions: (0..count).map(position).collect(),
        });
    }
    let refused = |refusal: Refusal| refusal.with("topic", &topic);
    let spread = checker.spread_by_key(&topic, payload, checksum);
    let spread = spread.map_err(|error| refused(error.into()))?;
    let bases = append_all(broker, spread.appends).await;
    let bases = bases
        .map_err(|(index, refusal)| refusal.about(&topic, spread.placement.partitions()[index]))?;
    let positions = spread.placement.positions(&bases).into_iter();
    let position = |(partition, Offset(offset))| v1::RecordPosition { partition, offset };
    Ok(v1::ProduceResponse {
        positions: positions.map(position).collect(),
    })
}

/// The offset of the first record of each append; or which one failed first,
/// and why.
async fn append_all(
    broker: &Broker,
    appends: Vec<Append>,
) -> Result<Vec<Offset>, (usize, Refusal)> {
    let results = broker.engine().append(appends).await.into_iter();
    let failed = |(index, result): (usize, Result<_, _>)| {
        result.map_err(|error| (index, Refusal::from(error)))
    };
    results.enumerate().map(failed).collect()
}
