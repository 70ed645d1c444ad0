//! A member gives partitions back.
//!
//! What it says may be late: the partition was lost meanwhile, came back, and is to be
//! given back once more, or the member has stalled with it. So it is held against the
//! generation in which the partition was asked for: here, as far as the member was told,
//! and once more by the group, which may be further.

use statecast_proto::reason::Reason;
use statecast_proto::v1;

use super::Session;
use crate::group::{Generation, TopicPartition};
use crate::limits;
use crate::server::error::Refusal;

impl Session {
    pub(super) async fn give_back(&mut self, revoked: &v1::Revoked) {
        let named = &revoked.partitions;
        let answers = revoked.generation.map(Generation);
        if named.len() > limits::PARTITIONS as usize {
            let refusal = Refusal::invalid("more partitions than there can be")
                .beyond(named.len(), limits::PARTITIONS);
            return self.refuse(refusal).await;
        }
        let mut partitions = Vec::with_capacity(named.len());
        let mut refused = None;
        for named in named {
            match self.revoked(named, answers) {
                Ok((partition, asked)) => {
                    self.delivery.lose(partition);
                    partitions.push((partition, asked));
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

    /// Which partition is meant, if the member is to give it back, and in which
    /// generation it was asked to.
    fn revoked(
        &mut self,
        named: &v1::TopicPartition,
        answers: Option<Generation>,
    ) -> Result<(TopicPartition, Generation), Refusal> {
        let topic = self.context.broker.topic(&named.topic)?;
        let partition = TopicPartition {
            topic: topic.meta().id,
            partition: named.partition,
        };
        self.delivery.let_go(partition, answers);
        let (reason, message) = match self.delivery.asked(partition) {
            Some(asked) if answers.is_none_or(|generation| generation >= asked) => {
                return Ok((partition, asked));
            }
            Some(_) => (
                Reason::StaleGeneration,
                "the partition came back since then, and is to be given back once more",
            ),
            None => (
                Reason::NotAssigned,
                "the member has no such partition that it is to give back",
            ),
        };
        Err(Refusal::new(reason, message).about(&named.topic, named.partition))
    }
}
