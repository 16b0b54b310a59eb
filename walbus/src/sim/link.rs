//! A connection: what is sent arrives in order, later, or never once it is cut.

use std::collections::VecDeque;
use std::time::Duration;

use super::Random;

/// One direction of a connection. As TCP, it never drops from the middle: after a cut, an end of what was sent is missing.
#[derive(Debug)]
pub struct SimLink<M> {
    under_way: VecDeque<(Duration, M)>,
    delay_max: Duration,
    last_arrival: Duration,
    cut: bool,
}

impl<M> SimLink<M> {
    /// A link on which each message is under way for up to `delay_max`.
    #[must_use]
    pub const fn new(delay_max: Duration) -> Self {
        Self { under_way: VecDeque::new(), delay_max, last_arrival: Duration::ZERO, cut: false }
    }

    /// Sends a message at the moment `now`. After a cut it is lost.
    pub fn send(&mut self, now: Duration, message: M, random: &mut Random) {
        if self.cut {
            return;
        }
        let micros = u64::try_from(self.delay_max.as_micros()).unwrap_or(u64::MAX);
        let arrival = (now + Duration::from_micros(random.below(micros.saturating_add(1)))).max(self.last_arrival);
        self.last_arrival = arrival;
        self.under_way.push_back((arrival, message));
    }

    /// The next message that has arrived by `now`.
    pub fn receive(&mut self, now: Duration) -> Option<M> {
        self.under_way.pop_front_if(|(arrival, _)| *arrival <= now).map(|(_, message)| message)
    }

    /// Cuts the link: of what is under way, some first part still arrives.
    pub fn cut(&mut self, random: &mut Random) {
        self.cut = true;
        let arriving = random.below(self.under_way.len() as u64 + 1);
        self.under_way.truncate(usize::try_from(arriving).unwrap_or(0));
    }

    /// Whether it was cut and has nothing more to give.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.cut && self.under_way.is_empty()
    }
}
