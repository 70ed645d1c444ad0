//! What the member has to say, in the order of how much it matters.

use statecast_proto::v1;
use statecast_proto::v1::consume_request::Request;

use super::{Goodbye, Member, Stay};
use crate::consumer::event::TopicPartition;
use crate::consumer::shares::SentCommit;

/// Commits that may be on their way. While there are as many, what else is to be
/// committed gathers.
const COMMITS_IN_FLIGHT: usize = 16;
/// The broker takes no more positions in one commit.
const POSITIONS_PER_COMMIT: usize = 10_000;
/// Partitions that are given back at once: the broker takes no message of more than
/// 16 MiB, and names may be long.
const PARTITIONS_PER_REVOKED: usize = 10_000;

enum Kind {
    Commit,
    Revoked,
    Goodbye(Goodbye),
    Credit,
    Heartbeat,
}

fn wire_place(place: &TopicPartition) -> v1::TopicPartition {
    v1::TopicPartition {
        topic: place.topic.to_string(),
        partition: place.partition,
    }
}

impl Member {
    /// Whether there is something to say now.
    pub(in crate::consumer) fn has_request(&mut self) -> bool {
        let has = self.next_kind().is_some();
        // A flush is over once there is nothing left to be said.
        self.flush &= has || self.is_leaving();
        has
    }

    fn next_kind(&self) -> Option<Kind> {
        if self.joined.is_none() || self.is_done() {
            return None;
        }
        let flushes = self.flush && self.shares.has_dirty();
        if (flushes || self.shares.has_urgent()) && self.in_flight.len() < COMMITS_IN_FLIGHT {
            return Some(Kind::Commit);
        }
        if self.shares.can_return() {
            return Some(Kind::Revoked);
        }
        let settled = self.in_flight.is_empty() && !self.shares.has_dirty();
        if let Stay::Goes(goodbye) = self.stay
            && settled
        {
            return Some(Kind::Goodbye(goodbye));
        }
        // Whoever hands out no more takes no more.
        if !self.stopped && self.credit.is_due(self.flush || !self.inbox.has_batches()) {
            return Some(Kind::Credit);
        }
        self.silent.then_some(Kind::Heartbeat)
    }

    /// What is to be said next; `None` when that is nothing, or to end the
    /// stream once the member [`is_done`](Self::is_done).
    pub(in crate::consumer) fn next_request(&mut self) -> Option<Request> {
        let kind = self.next_kind()?;
        self.silent = false;
        match kind {
            Kind::Commit => Some(Request::Commit(self.cut_commit())),
            Kind::Revoked => {
                let (generation, given) = self.shares.give_back(PARTITIONS_PER_REVOKED)?;
                Some(Request::Revoked(v1::Revoked {
                    partitions: given.iter().map(wire_place).collect(),
                    generation: Some(generation),
                }))
            }
            Kind::Credit => Some(Request::Credit(self.credit.give())),
            Kind::Goodbye(goodbye) => {
                self.stay = Stay::Gone(goodbye);
                (goodbye == Goodbye::Leave).then_some(Request::Leave(v1::Leave {}))
            }
            Kind::Heartbeat => Some(Request::Heartbeat(v1::MemberHeartbeat {})),
        }
    }

    fn cut_commit(&mut self) -> v1::Commit {
        let commits = self.shares.commit(self.flush, POSITIONS_PER_COMMIT);
        self.last_commit_id += 1;
        let position = |commit: &SentCommit| v1::CommitPosition {
            topic: commit.place.topic.to_string(),
            partition: commit.place.partition,
            offset: commit.offset,
            generation: Some(commit.generation),
        };
        let positions = commits.iter().map(position).collect();
        self.in_flight.push_back((self.last_commit_id, commits));
        v1::Commit {
            commit_id: self.last_commit_id,
            positions,
        }
    }
}

#[cfg(test)]
mod tests {
    use statecast_proto::v1::consume_response::Event;
    use tokio::sync::oneshot;

    use super::*;
    use crate::clock;
    use crate::consumer::credit::Cost;
    use crate::consumer::event::CommitPosition;
    use crate::error::Error;

    /// A member that has t/0, of which everything was handed out.
    fn member() -> Member {
        let mut member = Member::new(Cost {
            bytes: 1000,
            records: 1000,
        });
        member.join();
        let assigned = v1::AssignedPartition {
            topic: "t".to_owned(),
            ..v1::AssignedPartition::default()
        };
        for event in [
            Event::Joined(v1::Joined::default()),
            Event::Assigned(v1::Assigned {
                generation: 1,
                partitions: vec![assigned],
            }),
        ] {
            member.hear(event, clock::now()).unwrap();
        }
        let share = member.shares.find("t", 0).unwrap();
        member.shares.arrive(share, 0..1000);
        member.shares.hand(share, 1000);
        member
    }

    fn position(offset: u64) -> CommitPosition {
        CommitPosition {
            topic: "t".into(),
            partition: 0,
            offset,
        }
    }

    fn commit(member: &mut Member, offset: u64) -> oneshot::Receiver<Result<(), Error>> {
        let (waiter, told) = oneshot::channel();
        member.commit(&position(offset), waiter).unwrap();
        told
    }

    fn answer(member: &mut Member, commit_id: u64) -> Result<(), Error> {
        let result = v1::CommitResult {
            commit_id,
            refused: Vec::new(),
        };
        member.hear(Event::CommitResult(result), clock::now())
    }

    #[test]
    fn commits_gather_while_many_are_on_their_way() {
        let mut member = member();
        for offset in 1..=20 {
            commit(&mut member, offset);
            if member.has_request() {
                member.next_request().unwrap();
            }
        }
        assert_eq!(member.in_flight.len(), COMMITS_IN_FLIGHT);
        answer(&mut member, 1).unwrap();
        let Some(Request::Commit(gathered)) = member.next_request() else {
            panic!("there is room");
        };
        assert_eq!(gathered.positions[0].offset, 20);
        assert!(!member.has_request());
    }

    #[test]
    fn marks_wait_for_a_flush_which_is_over_once_they_are_sent() {
        let mut member = member();
        member.shares.mark(&position(5)).unwrap();
        assert!(!member.has_request());
        member.flush();
        assert!(matches!(member.next_request(), Some(Request::Commit(_))));
        assert!(!member.has_request());
        member.shares.mark(&position(6)).unwrap();
        assert!(!member.has_request(), "the next flush");
    }

    #[test]
    fn answers_out_of_order_and_without_a_commit_are_no_answers() {
        let mut member = member();
        assert!(matches!(answer(&mut member, 1), Err(Error::Protocol(_))));
        commit(&mut member, 1);
        member.next_request();
        assert!(matches!(answer(&mut member, 2), Err(Error::Protocol(_))));
    }

    #[test]
    fn goodbye_waits_for_the_last_answer() {
        let mut member = member();
        member.shares.mark(&position(5)).unwrap();
        member.say_goodbye(Goodbye::Leave);
        let Some(Request::Commit(commit)) = member.next_request() else {
            panic!("what is processed is committed first");
        };
        assert!(!member.has_request());
        answer(&mut member, commit.commit_id).unwrap();
        assert!(matches!(member.next_request(), Some(Request::Leave(_))));
        assert!(member.is_done() && !member.has_request());
        member.farewell().unwrap();
    }

    /// Partitions are revoked that nobody works on.
    fn revoke(member: &mut Member, generation: u64, partitions: &[u32]) {
        let place = |&partition: &u32| v1::TopicPartition {
            topic: "t".to_owned(),
            partition,
        };
        let revoke = v1::Revoke {
            generation,
            partitions: partitions.iter().map(place).collect(),
            ..v1::Revoke::default()
        };
        let revoke = Event::Revoke(revoke);
        member.hear(revoke, clock::now()).unwrap();
    }

    #[test]
    fn what_is_given_back_names_the_generation_in_which_it_was_asked_for() {
        let mut member = member();
        let assigned = |partition| v1::AssignedPartition {
            topic: "t".to_owned(),
            partition,
            ..v1::AssignedPartition::default()
        };
        let assigned = Event::Assigned(v1::Assigned {
            generation: 2,
            partitions: (1..4).map(assigned).collect(),
        });
        member.hear(assigned, clock::now()).unwrap();
        revoke(&mut member, 3, &[1]);
        revoke(&mut member, 4, &[2, 3]);
        for (generation, expected) in [(3, vec![1]), (4, vec![2, 3])] {
            let Some(Request::Revoked(revoked)) = member.next_request() else {
                panic!("nobody works on them");
            };
            assert_eq!(revoked.generation, Some(generation));
            let partitions = revoked.partitions.iter();
            let partitions: Vec<u32> = partitions.map(|p| p.partition).collect();
            assert_eq!(partitions, expected);
        }
        assert!(!member.has_request());
    }

    #[test]
    fn silence_is_broken_by_anything_that_is_said() {
        let mut member = member();
        member.break_silence();
        commit(&mut member, 3);
        assert!(matches!(member.next_request(), Some(Request::Commit(_))));
        assert!(!member.has_request());
        member.break_silence();
        assert!(matches!(member.next_request(), Some(Request::Heartbeat(_))));
        assert!(!member.has_request());
    }
}
