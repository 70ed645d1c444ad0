//! Chains of hand-overs that make a plan more balanced.
//!
//! The search goes by interests and kinds, not by members and topics: a group of
//! thousands that read the same is one interest and one kind.
//!
//! Invariant: once no chain leads from the members that have most to one with at
//! least two fewer, none ever will. What can be reached from them has at most one
//! fewer; it keeps what it has, and nothing else gains by giving it more. Such
//! interests are settled, and the search goes on among the others.

use super::shares::{Kind, Shares};
use crate::group::interest::InterestId;
use crate::limits::SUBSCRIPTIONS_PER_GROUP;

/// A hand-over of a seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) kind: Kind,
    pub(super) from: usize,
    pub(super) to: usize,
}

/// Hand-overs after which the first giver has one less, the last taker one more, and
/// everybody between as many as before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) links: Vec<Link>,
}

/// The search for chains.
#[derive(Debug)]
pub(super) struct Chains {
    /// The interests that are not settled.
    open: Vec<InterestId>,
    /// Of the search that is going on, by kind: who gives a seat of it.
    givers: Vec<Option<usize>>,
    /// By interest: what its members would get.
    gets: Vec<Option<Kind>>,
    /// Interests that would get something, in the order in which they were found.
    reached: Vec<InterestId>,
}

impl Chains {
    pub(super) fn new(shares: &Shares) -> Chains {
        Chains {
            open: shares.interests().collect(),
            givers: Vec::new(),
            gets: Vec::new(),
            reached: Vec::new(),
        }
    }

    /// A shortest chain from those who have most, if there is one from anybody.
    pub(super) fn shortest(&mut self, shares: &Shares) -> Option<Chain> {
        loop {
            let loads = self.open.iter().map(|open| shares.heaviest_load(*open));
            let most = loads.max()?;
            if let Some(taker) = self.search(shares, most) {
                return Some(self.chain_to(taker, shares, most));
            }
            let gets = &self.gets;
            self.open
                .retain(|open| gets[open.index()].is_none() && shares.heaviest_load(*open) < most);
        }
    }

    /// Looks for somebody to whom a chain leads from those who have `most`.
    fn search(&mut self, shares: &Shares, most: usize) -> Option<usize> {
        self.givers.clear();
        self.givers.resize(shares.kinds(), None);
        self.gets.clear();
        self.gets.resize(SUBSCRIPTIONS_PER_GROUP, None);
        self.reached.clear();
        for at in 0..self.open.len() {
            for giver in shares.with_load(self.open[at], most) {
                for kind in shares.kinds_of(giver) {
                    if let Some(taker) = self.give(kind, giver, shares, most) {
                        return Some(taker);
                    }
                }
            }
        }
        let mut next = 0;
        while let Some(&interest) = self.reached.get(next) {
            for (kind, giver) in shares.kinds_among(interest) {
                if let Some(taker) = self.give(kind, giver, shares, most) {
                    return Some(taker);
                }
            }
            next += 1;
        }
        None
    }

    /// Somebody would give a seat of this kind: whom does that reach, and is there
    /// somebody among them who has so little that the chain ends there?
    fn give(&mut self, kind: Kind, giver: usize, shares: &Shares, most: usize) -> Option<usize> {
        if self.givers[kind].is_some() {
            return None;
        }
        self.givers[kind] = Some(giver);
        for &interest in &self.open {
            let gets = &mut self.gets[interest.index()];
            if gets.is_some() || !shares.reads(interest, kind) {
                continue;
            }
            *gets = Some(kind);
            self.reached.push(interest);
            let (load, member) = shares.lightest(interest);
            if load + 2 <= most {
                return Some(member);
            }
        }
        None
    }

    /// The chain that was found, from its end to its beginning: nobody gets a seat
    /// before the one that it gives is gone.
    fn chain_to(&self, taker: usize, shares: &Shares, most: usize) -> Chain {
        let mut links = Vec::new();
        let mut to = taker;
        loop {
            let kind = self.gets[shares.interest(to).index()].expect("it was reached");
            let from = self.givers[kind].expect("it is given");
            links.push(Link { kind, from, to });
            // Whoever has most is looked at first: what they have is theirs to give.
            if shares.load(from) == most {
                return Chain { links };
            }
            to = from;
        }
    }
}
