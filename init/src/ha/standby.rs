//! The standby of a primary: whether commits wait for it, and whether it is known to hold what they acknowledged.

/// How the standby is, as the primary's server sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It does not stream.
    Away,
    /// It streams and is near, and commits do not wait for it, or not for it alone.
    CaughtUp,
    /// It streams, and is far behind; commits do not wait for it.
    Lagging,
    /// Another copy than the one that commits wait for streams, and is far behind.
    Behind,
    /// Another copy than the one that commits wait for streams and is near, and that one does not stream.
    Anew,
    /// Two connections have the name of the copy that commits wait for: it came back before the server had missed it, or its volume was copied.
    Twice,
    /// Commits wait for it, and it streams.
    Synchronous,
}

impl Seen {
    /// Out of `sync_state` and whether it is near; `is_held` where it is the copy that commits wait for.
    #[must_use]
    pub fn of(is_held: bool, sync_state: Option<&str>, caught_up: Option<&str>) -> Self {
        match (sync_state, caught_up) {
            (None, _) => Self::Away,
            (Some("sync"), _) if is_held => Self::Synchronous,
            (Some(_), Some("t")) if is_held => Self::CaughtUp,
            (Some(_), _) if is_held => Self::Lagging,
            (Some(_), Some("t")) => Self::Anew,
            (Some(_), _) => Self::Behind,
        }
    }

    /// In a word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Behind | Self::CaughtUp | Self::Lagging | Self::Anew => "behind",
            Self::Twice => "there twice",
            Self::Synchronous => "in step",
        }
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Have commits wait for this copy.
    Hold,
    /// Note in the database that it is in step.
    Record,
    /// Take that note back: commits do not wait for it, or not for it alone.
    Forget,
}

/// Watches the standby: [`Self::handle_seen`] with each look.
#[derive(Clone, Copy, Debug)]
pub struct StandbyWatch {
    released: bool,
    /// Whether they were before the last [`Order::Hold`].
    was_released: bool,
    in_a_row: u8,
    /// Looks that have found another copy, or the same one twice.
    odd_in_a_row: u8,
    recorded: bool,
    /// The note may be there: of this run, or of an earlier one.
    may_be_noted: bool,
}

/// Looks that have to agree before it is noted: a server's processes take a new configuration one after the other, and a commit of one
/// that has not taken it yet does not wait.
const LOOKS: u8 = 3;

/// Looks that have to find another copy in its place, or the same one twice, before that counts: longer than the server keeps a connection whose
/// other side is gone (`wal_sender_timeout` of a pair).
const LOOKS_ODD: u8 = 15;

impl StandbyWatch {
    /// A watch; `released` where commits do not wait, after a promotion; `may_be_noted` where an earlier run may have noted that it is in step.
    #[must_use]
    pub const fn new(released: bool, may_be_noted: bool) -> Self {
        Self { released, was_released: released, in_a_row: 0, odd_in_a_row: 0, recorded: false, may_be_noted }
    }

    /// Whether commits do not wait for it.
    #[must_use]
    pub const fn is_released(&self) -> bool {
        self.released
    }

    /// A look.
    pub fn handle_seen(&mut self, seen: Seen) -> Option<Order> {
        let is_odd = matches!(seen, Seen::Anew | Seen::Twice);
        self.odd_in_a_row = if is_odd { self.odd_in_a_row.saturating_add(1) } else { 0 };
        match seen {
            Seen::CaughtUp if self.released => Some(self.hold()),
            // Nobody waits for the one before it.
            Seen::Anew if self.released || self.odd_in_a_row >= LOOKS_ODD => Some(self.hold()),
            Seen::CaughtUp | Seen::Lagging if self.may_be_noted => Some(self.forget()),
            Seen::Twice if self.may_be_noted && self.odd_in_a_row >= LOOKS_ODD => Some(self.forget()),
            Seen::Synchronous if !self.released && !self.recorded => {
                self.in_a_row += 1;
                self.recorded = self.in_a_row == LOOKS;
                self.may_be_noted |= self.recorded;
                self.recorded.then_some(Order::Record)
            }
            Seen::Synchronous => None,
            Seen::Away | Seen::Behind | Seen::CaughtUp | Seen::Lagging | Seen::Anew | Seen::Twice => {
                self.in_a_row = 0;
                None
            }
        }
    }

    const fn hold(&mut self) -> Order {
        self.was_released = self.released;
        (self.released, self.in_a_row, self.odd_in_a_row, self.recorded) = (false, 0, 0, false);
        Order::Hold
    }

    const fn forget(&mut self) -> Order {
        (self.in_a_row, self.recorded, self.may_be_noted) = (0, false, false);
        Order::Forget
    }

    /// The order could not be carried out: it comes again.
    pub const fn handle_failed(&mut self, order: Order) {
        match order {
            Order::Hold => self.released = self.was_released,
            Order::Record => (self.recorded, self.in_a_row) = (false, 0),
            Order::Forget => self.may_be_noted = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_noted_once_and_only_after_it_was_seen_for_a_while() {
        let mut watch = StandbyWatch::new(false, false);
        let mut look = |seen| watch.handle_seen(seen);
        assert_eq!([Seen::Synchronous, Seen::Synchronous, Seen::Away].map(&mut look), [None; 3]);
        assert_eq!([Seen::Synchronous, Seen::Synchronous].map(&mut look), [None; 2]);
        assert_eq!(look(Seen::Synchronous), Some(Order::Record));
        assert_eq!([Seen::Synchronous, Seen::Away, Seen::Synchronous].map(&mut look), [None; 3]);
    }

    #[test]
    fn after_a_promotion_commits_wait_again_once_there_is_a_standby() {
        let mut watch = StandbyWatch::new(true, false);
        assert_eq!([Seen::Away, Seen::Lagging, Seen::Synchronous].map(|seen| watch.handle_seen(seen)), [None; 3]);
        assert_eq!(watch.handle_seen(Seen::CaughtUp), Some(Order::Hold));
        watch.handle_failed(Order::Hold);
        assert!(watch.is_released());
        assert_eq!(watch.handle_seen(Seen::CaughtUp), Some(Order::Hold));
        assert!(!watch.is_released());
        assert_eq!(watch.handle_seen(Seen::CaughtUp), None, "the server has not taken it yet");
        assert_eq!(StandbyWatch::new(true, false).handle_seen(Seen::Anew), Some(Order::Hold), "nobody waits for another");
    }

    #[test]
    fn what_was_noted_is_taken_back_when_commits_stop_waiting_for_it_alone() {
        let recorded = || {
            let mut watch = StandbyWatch::new(false, false);
            assert_eq!([Seen::Synchronous; 3].map(|seen| watch.handle_seen(seen)), [None, None, Some(Order::Record)]);
            watch
        };
        let mut watch = recorded();
        assert_eq!(watch.handle_seen(Seen::CaughtUp), Some(Order::Forget));
        watch.handle_failed(Order::Forget);
        assert_eq!([Seen::CaughtUp; 2].map(|seen| watch.handle_seen(seen)), [Some(Order::Forget), None]);
        assert_eq!([Seen::Synchronous; 3].map(|seen| watch.handle_seen(seen)), [None, None, Some(Order::Record)]);
        let mut watch = StandbyWatch::new(false, true);
        assert_eq!(watch.handle_seen(Seen::Lagging), Some(Order::Forget), "of an earlier run");
        assert_eq!(watch.handle_seen(Seen::Lagging), None);
        let mut watch = recorded();
        let mut twice = || (1..=LOOKS_ODD).find_map(|look| watch.handle_seen(Seen::Twice).map(|order| (look, order)));
        assert_eq!(twice(), Some((LOOKS_ODD, Order::Forget)));
        assert_eq!(twice(), None, "it is taken back once");
    }

    #[test]
    fn another_copy_takes_its_place_and_is_noted_anew() {
        let mut watch = StandbyWatch::new(false, false);
        assert_eq!([Seen::Synchronous; 3].map(|seen| watch.handle_seen(seen)), [None, None, Some(Order::Record)]);
        let mut until_held = || (1..=LOOKS_ODD).find_map(|look| watch.handle_seen(Seen::Anew).map(|order| (look, order)));
        assert_eq!(until_held(), Some((LOOKS_ODD, Order::Hold)), "it may have lost its connection alone");
        watch.handle_failed(Order::Hold);
        assert!(!watch.is_released(), "commits have waited, and still do");
        let mut until_held = || (1..=LOOKS_ODD).find_map(|look| watch.handle_seen(Seen::Anew).map(|order| (look, order)));
        assert_eq!(until_held(), Some((LOOKS_ODD, Order::Hold)));
        assert_eq!([Seen::Synchronous; 3].map(|seen| watch.handle_seen(seen)), [None, None, Some(Order::Record)]);
    }

    #[test]
    fn what_the_server_says_is_told_apart() {
        assert_eq!(Seen::of(false, None, None), Seen::Away);
        assert_eq!(Seen::of(true, Some("async"), Some("f")), Seen::Lagging);
        assert_eq!(Seen::of(true, Some("async"), Some("t")), Seen::CaughtUp);
        assert_eq!(Seen::of(true, Some("potential"), None), Seen::Lagging);
        assert_eq!(Seen::of(true, Some("quorum"), Some("t")), Seen::CaughtUp, "another may be waited for in its place");
        assert_eq!(Seen::of(true, Some("sync"), Some("f")), Seen::Synchronous);
        assert_eq!(Seen::of(false, Some("async"), Some("f")), Seen::Behind);
        assert_eq!(Seen::of(false, Some("async"), Some("t")), Seen::Anew);
        assert_eq!(Seen::of(false, Some("sync"), Some("f")), Seen::Behind);
    }
}
