//! What each member is to have while a plan is made.

use std::collections::{BTreeMap, BTreeSet};

use super::Seat;
use super::chain::Chain;
use crate::group::interest::{InterestId, InterestSet};

/// Members with equally few, or topics of one member, that are looked at to choose
/// the one that spreads a topic best. Bounds what each choice costs.
const LOOKED_AT: usize = 32;

/// Topics that the same members read; an index.
pub(super) type Kind = usize;

/// What one member is to have.
#[derive(Debug, Default)]
struct Share {
    load: usize,
    /// Its seats, by kind. None is empty.
    kinds: BTreeMap<Kind, Pile>,
}

impl Share {
    fn count(&self, kind: Kind, topic: usize) -> usize {
        self.kinds.get(&kind).map_or(0, |pile| pile.count(topic))
    }
}

/// Seats of one kind.
#[derive(Debug, Default)]
struct Pile {
    /// By topic. None is empty.
    topics: BTreeMap<usize, Vec<usize>>,
    /// The topics by the number of their seats.
    by_count: BTreeSet<(usize, usize)>,
}

impl Pile {
    fn count(&self, topic: usize) -> usize {
        self.topics.get(&topic).map_or(0, Vec::len)
    }

    fn put(&mut self, topic: usize, seat: usize) {
        let seats = self.topics.entry(topic).or_default();
        self.by_count.remove(&(seats.len(), topic));
        seats.push(seat);
        self.by_count.insert((seats.len(), topic));
    }

    fn take(&mut self, topic: usize) -> usize {
        let seats = self.topics.get_mut(&topic).expect("there are seats of it");
        self.by_count.remove(&(seats.len(), topic));
        let seat = seats.pop().expect("no topic is empty");
        if seats.is_empty() {
            self.topics.remove(&topic);
        } else {
            self.by_count.insert((seats.len(), topic));
        }
        seat
    }

    /// The topics with their counts and one seat of each; those first that have most.
    fn most_first(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        self.by_count.iter().rev().map(|&(count, topic)| {
            let seat = self.topics[&topic].last();
            (topic, count, *seat.expect("no topic is empty"))
        })
    }
}

/// What all members are to have. Every seat is in at most one share.
#[derive(Debug)]
pub(super) struct Shares<'a> {
    members: &'a [InterestId],
    seats: &'a [Seat],
    /// Of each topic.
    kind_of: Vec<Kind>,
    /// Who reads each kind.
    readers: Vec<InterestSet>,
    by_member: Vec<Share>,
    /// By interest: load and member of those who share it.
    by_load: BTreeMap<InterestId, BTreeSet<(usize, usize)>>,
    /// Which members have seats of a kind, by interest.
    holders: BTreeSet<(InterestId, Kind, usize)>,
}

impl<'a> Shares<'a> {
    /// Each member has what it owns.
    pub(super) fn new(members: &'a [InterestId], seats: &'a [Seat]) -> Shares<'a> {
        let mut kinds: BTreeMap<InterestSet, Kind> = BTreeMap::new();
        let mut kind_of = Vec::new();
        for seat in seats {
            let next = kinds.len();
            if seat.topic >= kind_of.len() {
                kind_of.resize(seat.topic + 1, 0);
                kind_of[seat.topic] = *kinds.entry(seat.readers).or_insert(next);
            }
        }
        let mut readers = vec![InterestSet::default(); kinds.len()];
        for (set, kind) in kinds {
            readers[kind] = set;
        }
        let mut shares = Shares {
            members,
            seats,
            kind_of,
            readers,
            by_member: members.iter().map(|_| Share::default()).collect(),
            by_load: BTreeMap::new(),
            holders: BTreeSet::new(),
        };
        for (member, interest) in members.iter().enumerate() {
            shares
                .by_load
                .entry(*interest)
                .or_default()
                .insert((0, member));
        }
        for (at, seat) in seats.iter().enumerate() {
            if let Some(owner) = seat.owner {
                shares.place(at, owner);
            }
        }
        shares
    }

    /// The seats that nobody owns, those first that the fewest members read: what
    /// comes later can still make up for what only they get.
    pub(super) fn scarcest_first(&self) -> Vec<usize> {
        let reading = |kind: Kind| -> usize {
            let crowds = self.by_load.iter();
            let reading = crowds.filter(|(interest, _)| self.readers[kind].contains(**interest));
            reading.map(|(_, crowd)| crowd.len()).sum()
        };
        let reading: Vec<usize> = (0..self.readers.len()).map(reading).collect();
        let mut free: Vec<usize> = (0..self.seats.len()).collect();
        free.retain(|at| self.seats[*at].owner.is_none());
        free.sort_by_key(|at| reading[self.kind(*at)]);
        free
    }

    /// The member that has least of those who read this seat; of those that have
    /// equally little, one that has least of its topic.
    pub(super) fn neediest(&self, seat: usize) -> Option<usize> {
        let kind = self.kind(seat);
        let topic = self.seats[seat].topic;
        let crowds = self.by_load.iter();
        let crowds = crowds.filter(|(interest, _)| self.readers[kind].contains(**interest));
        let least = crowds.clone().filter_map(|(_, crowd)| crowd.first());
        let least = least.map(|(load, _)| *load).min()?;
        let mut best = None;
        let candidates = crowds.flat_map(|(_, crowd)| crowd.range((least, 0)..(least + 1, 0)));
        for &(_, member) in candidates.take(LOOKED_AT) {
            let count = self.by_member[member].count(kind, topic);
            if best.is_none_or(|(fewest, _)| count < fewest) {
                best = Some((count, member));
            }
            if count == 0 {
                break;
            }
        }
        best.map(|(_, member)| member)
    }

    /// Puts a seat, which is in no share, into that of a member.
    pub(super) fn place(&mut self, seat: usize, member: usize) {
        let kind = self.kind(seat);
        self.holders.insert((self.members[member], kind, member));
        let pile = self.by_member[member].kinds.entry(kind).or_default();
        pile.put(self.seats[seat].topic, seat);
        self.change_load(member, |load| load + 1);
    }

    /// Takes a seat of this kind out of a member's share: one that moves anyway, if
    /// there is one, or else of the topic of which the taker lacks most.
    fn take(&mut self, kind: Kind, from: usize, to: usize) -> usize {
        let worth = |&(topic, count, seat): &(usize, usize, usize)| {
            let owner = self.seats[seat].owner;
            let taker_lacks = count + self.seats.len() - self.by_member[to].count(kind, topic);
            (owner == Some(to), owner != Some(from), taker_lacks, count)
        };
        let pile = &self.by_member[from].kinds[&kind];
        let best = pile.most_first().take(LOOKED_AT).max_by_key(worth);
        let (topic, _, _) = best.expect("no pile is empty");

        let pile = self.by_member[from].kinds.get_mut(&kind);
        let pile = pile.expect("it was looked at");
        let seat = pile.take(topic);
        if pile.topics.is_empty() {
            self.by_member[from].kinds.remove(&kind);
            self.holders.remove(&(self.members[from], kind, from));
        }
        self.change_load(from, |load| load - 1);
        seat
    }

    /// Carries out a chain.
    pub(super) fn hand_over(&mut self, chain: &Chain) {
        for link in &chain.links {
            let seat = self.take(link.kind, link.from, link.to);
            self.place(seat, link.to);
        }
    }

    fn change_load(&mut self, member: usize, change: impl FnOnce(usize) -> usize) {
        let crowd = self.by_load.get_mut(&self.members[member]);
        let crowd = crowd.expect("each member is in one");
        let load = &mut self.by_member[member].load;
        crowd.remove(&(*load, member));
        *load = change(*load);
        crowd.insert((*load, member));
    }

    fn kind(&self, seat: usize) -> Kind {
        self.kind_of[self.seats[seat].topic]
    }

    /// Who has each seat.
    pub(super) fn into_plan(self) -> Vec<Option<usize>> {
        let mut plan = vec![None; self.seats.len()];
        for (member, share) in self.by_member.into_iter().enumerate() {
            let piles = share.kinds.into_values();
            let topics = piles.flat_map(|pile| pile.topics.into_values());
            for seat in topics.flatten() {
                plan[seat] = Some(member);
            }
        }
        plan
    }
}

/// What looking for chains needs to know.
impl Shares<'_> {
    pub(super) fn kinds(&self) -> usize {
        self.readers.len()
    }

    /// The interests that members have.
    pub(super) fn interests(&self) -> impl Iterator<Item = InterestId> {
        self.by_load.keys().copied()
    }

    pub(super) fn reads(&self, interest: InterestId, kind: Kind) -> bool {
        self.readers[kind].contains(interest)
    }

    pub(super) fn interest(&self, member: usize) -> InterestId {
        self.members[member]
    }

    pub(super) fn load(&self, member: usize) -> usize {
        self.by_member[member].load
    }

    /// The member of this interest that has least, and how much that is.
    pub(super) fn lightest(&self, interest: InterestId) -> (usize, usize) {
        *self.by_load[&interest].first().expect("somebody shares it")
    }

    /// How much the member of this interest has that has most.
    pub(super) fn heaviest_load(&self, interest: InterestId) -> usize {
        self.by_load[&interest]
            .last()
            .expect("somebody shares it")
            .0
    }

    /// The members of this interest that have so much.
    pub(super) fn with_load(
        &self,
        interest: InterestId,
        load: usize,
    ) -> impl Iterator<Item = usize> {
        let range = self.by_load[&interest].range((load, 0)..(load + 1, 0));
        range.map(|(_, member)| *member)
    }

    /// The kinds of which a member has seats.
    pub(super) fn kinds_of(&self, member: usize) -> impl Iterator<Item = Kind> {
        self.by_member[member].kinds.keys().copied()
    }

    /// The kinds of which members of this interest have seats, each with one of
    /// those who have.
    pub(super) fn kinds_among(&self, interest: InterestId) -> impl Iterator<Item = (Kind, usize)> {
        let mut next = Some(0);
        std::iter::from_fn(move || {
            let from = (interest, next?, 0);
            let found = self.holders.range(from..).next();
            let found = found.filter(|(other, _, _)| *other == interest);
            next = found.map(|(_, kind, _)| kind + 1);
            found.map(|(_, kind, member)| (*kind, *member))
        })
    }
}
