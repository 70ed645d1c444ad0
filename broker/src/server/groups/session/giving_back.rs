//! A member gives partitions back.

use statecast_proto::reason::Reason;
use statecast_proto::v1;

use super::Session;
use crate::group::TopicPartition;
use crate::limits;
use crate::server::error::Refusal;

impl Session {
    pub(super) async fn give_back(&mut self, named: &[v1::TopicPartition]) {
        if named.len() > limits::PARTITIONS as usize {
            let refusal = Refusal::invalid("more partitions than there can be")
                .beyond(named.len(), limits::PARTITIONS);
            return self.refuse(refusal).await;
        }
        let mut partitions = Vec::with_capacity(named.len());
        let mut refused = None;
        for named in named {
            match self.revoked(named) {
                Ok(partition) => {
                    self.delivery.lose(partition);
                    partitions.push(partition);
                }
                Err(refusal) => refused = refused.or(Some(refusal)),
            }
        }
        self.member.revoked(partitions).await;
        // Also when it was too late: whoever works on nothing any more isn't stuck.
        if self.delivery.has_let_go(&self.context.broker) {
            self.show_life().await;
        }
        if let Some(refusal) = refused {
            self.refuse(refusal).await;
        }
    }

    /// Which partition is meant, if the member is to give it back.
    fn revoked(&mut self, named: &v1::TopicPartition) -> Result<TopicPartition, Refusal> {
        let topic = self.context.broker.topic(&named.topic)?;
        let partition = TopicPartition {
            topic: topic.meta().id,
            partition: named.partition,
        };
        self.delivery.let_go(partition);
        if self.delivery.is_revoked(partition) {
            return Ok(partition);
        }
        let message = "the member has no such partition that it is to give back";
        Err(Refusal::new(Reason::NotAssigned, message).about(&named.topic, named.partition))
    }
}
