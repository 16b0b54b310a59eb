//! The standby of a primary: whether commits wait for it, and whether it is known to hold what they acknowledged.

/// How the standby is, as the primary's server sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It does not stream.
    Away,
    /// It streams and is near, and commits do not wait for it.
    CaughtUp,
    /// It streams, and is far behind.
    Behind,
    /// Commits wait for it, and it streams.
    Synchronous,
}

impl Seen {
    /// Out of `sync_state` and whether it is near.
    #[must_use]
    pub fn of(sync_state: Option<&str>, caught_up: Option<&str>) -> Self {
        match (sync_state, caught_up) {
            (None, _) => Self::Away,
            (Some("sync" | "quorum"), _) => Self::Synchronous,
            (Some(_), Some("t")) => Self::CaughtUp,
            (Some(_), _) => Self::Behind,
        }
    }

    /// In a word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Behind | Self::CaughtUp => "behind",
            Self::Synchronous => "in step",
        }
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Have commits wait for it again.
    Hold,
    /// Note in the database that it is in step.
    Record,
}

/// Watches the standby: [`Self::handle_seen`] with each look.
#[derive(Clone, Copy, Debug)]
pub struct StandbyWatch {
    released: bool,
    in_a_row: u8,
    recorded: bool,
}

/// Looks that have to agree before it is noted: a server's processes take a new configuration one after the other, and a commit of one
/// that has not taken it yet does not wait.
const LOOKS: u8 = 3;

impl StandbyWatch {
    /// A watch; `released` where commits do not wait, after a promotion.
    #[must_use]
    pub const fn new(released: bool) -> Self {
        Self { released, in_a_row: 0, recorded: false }
    }

    /// Whether commits do not wait for it.
    #[must_use]
    pub const fn is_released(&self) -> bool {
        self.released
    }

    /// A look.
    pub fn handle_seen(&mut self, seen: Seen) -> Option<Order> {
        match seen {
            Seen::CaughtUp if self.released => {
                (self.released, self.in_a_row) = (false, 0);
                Some(Order::Hold)
            }
            Seen::Synchronous if !self.released && !self.recorded => {
                self.in_a_row += 1;
                self.recorded = self.in_a_row == LOOKS;
                self.recorded.then_some(Order::Record)
            }
            Seen::Synchronous => None,
            Seen::Away | Seen::Behind | Seen::CaughtUp => {
                self.in_a_row = 0;
                None
            }
        }
    }

    /// The order could not be carried out: it comes again.
    pub const fn handle_failed(&mut self, order: Order) {
        match order {
            Order::Hold => self.released = true,
            Order::Record => (self.recorded, self.in_a_row) = (false, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_noted_once_and_only_after_it_was_seen_for_a_while() {
        let mut watch = StandbyWatch::new(false);
        let mut look = |seen| watch.handle_seen(seen);
        assert_eq!([Seen::Synchronous, Seen::Synchronous, Seen::Away].map(&mut look), [None; 3]);
        assert_eq!([Seen::Synchronous, Seen::Synchronous].map(&mut look), [None; 2]);
        assert_eq!(look(Seen::Synchronous), Some(Order::Record));
        assert_eq!([Seen::Synchronous, Seen::Away, Seen::Synchronous].map(&mut look), [None; 3]);
    }

    #[test]
    fn after_a_promotion_commits_wait_again_once_there_is_a_standby() {
        let mut watch = StandbyWatch::new(true);
        assert_eq!([Seen::Away, Seen::Behind, Seen::Synchronous].map(|seen| watch.handle_seen(seen)), [None; 3]);
        assert_eq!(watch.handle_seen(Seen::CaughtUp), Some(Order::Hold));
        watch.handle_failed(Order::Hold);
        assert!(watch.is_released());
        assert_eq!(watch.handle_seen(Seen::CaughtUp), Some(Order::Hold));
        assert!(!watch.is_released());
        assert_eq!(watch.handle_seen(Seen::CaughtUp), None, "the server has not taken it yet");
    }

    #[test]
    fn what_the_server_says_is_told_apart() {
        assert_eq!(Seen::of(None, None), Seen::Away);
        assert_eq!(Seen::of(Some("async"), Some("f")), Seen::Behind);
        assert_eq!(Seen::of(Some("async"), Some("t")), Seen::CaughtUp);
        assert_eq!(Seen::of(Some("potential"), None), Seen::Behind);
        assert_eq!(Seen::of(Some("sync"), Some("f")), Seen::Synchronous);
    }
}
