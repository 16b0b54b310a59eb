//! Whether the store answers; when it is tried again, and what is said of it. Pure.

use std::time::Duration;

/// The first pause. Each one after is twice as long, up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often it is said that it lasts.
const NOTICE_INTERVAL: Duration = Duration::from_mins(1);

/// What is to be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The store does not answer as it should, for this reason.
    Began(String),
    /// It does again, after so long.
    Ended(Duration),
    /// It does not for so long, last for this reason.
    Lasts(Duration, String),
}

/// Whether the store answers. All times are of one monotonic clock.
#[derive(Debug, Default)]
pub struct Outage {
    away: Option<Away>,
    answered: Option<Duration>,
    notices: Vec<Notice>,
}

#[derive(Debug)]
struct Away {
    since: Duration,
    reason: String,
    pause: Duration,
    next_try: Duration,
    next_notice: Duration,
}

impl Outage {
    /// The store has answered: whatever it said, it is there.
    pub fn handle_answer(&mut self, now: Duration) {
        self.answered = Some(now);
        if let Some(away) = self.away.take() {
            self.notices.push(Notice::Ended(now.saturating_sub(away.since)));
        }
    }

    /// The store has failed. `chance` is a number from 0 to 1, so that many that failed at once do not come back at once.
    pub fn handle_failure(&mut self, now: Duration, reason: &str, chance: f64) {
        let shortened = |pause: Duration| now + pause.mul_f64(1.0 - chance.clamp(0.0, 1.0) / 2.0);
        match &mut self.away {
            // Several that were under way at once are one failure.
            Some(away) if now < away.next_try => reason.clone_into(&mut away.reason),
            Some(away) => {
                away.pause = PAUSE_MAX.min(away.pause * 2);
                away.next_try = shortened(away.pause);
                reason.clone_into(&mut away.reason);
            }
            None => {
                self.notices.push(Notice::Began(reason.to_owned()));
                self.away = Some(Away {
                    since: now,
                    reason: reason.to_owned(),
                    pause: PAUSE_MIN,
                    next_try: shortened(PAUSE_MIN),
                    next_notice: now + NOTICE_INTERVAL,
                });
            }
        }
    }

    /// Why the store does not answer; `None` while it does.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.away.as_ref().map(|away| away.reason.as_str())
    }

    /// Whether it may be asked for something now: always while it answers; while it does not, when the pause is over.
    #[must_use]
    pub fn may_try(&self, now: Duration) -> bool {
        self.away.as_ref().is_none_or(|away| now >= away.next_try)
    }

    /// How long it does not answer.
    #[must_use]
    pub fn lasts(&self, now: Duration) -> Option<Duration> {
        self.away.as_ref().map(|away| now.saturating_sub(away.since))
    }

    /// How long ago it last answered; `None` before it first has.
    #[must_use]
    pub fn since_answer(&self, now: Duration) -> Option<Duration> {
        self.answered.map(|answered| now.saturating_sub(answered))
    }

    /// What is to be said now.
    pub fn poll_notice(&mut self, now: Duration) -> Option<Notice> {
        if !self.notices.is_empty() {
            return Some(self.notices.remove(0));
        }
        let away = self.away.as_mut().filter(|away| now >= away.next_notice)?;
        away.next_notice = now + NOTICE_INTERVAL;
        Some(Notice::Lasts(now.saturating_sub(away.since), away.reason.clone()))
    }

    /// When there is something to do next. A try whose time has come is under way or waits for another's end, and needs no clock.
    #[must_use]
    pub fn poll_timeout(&self, now: Duration) -> Option<Duration> {
        let away = self.away.as_ref()?;
        [away.next_try, away.next_notice].into_iter().filter(|at| *at > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn its_begin_its_length_and_its_end_are_told() {
        let mut outage = Outage::default();
        outage.handle_answer(s(1));
        assert_eq!((outage.poll_notice(s(1)), outage.may_try(s(1))), (None, true));
        outage.handle_failure(s(10), "503", 0.0);
        assert_eq!(outage.poll_notice(s(10)), Some(Notice::Began("503".into())));
        assert_eq!((outage.poll_notice(s(10)), outage.reason()), (None, Some("503")));
        outage.handle_failure(s(20), "timeout", 0.0);
        assert_eq!(outage.poll_notice(s(69)), None);
        assert_eq!(outage.poll_notice(s(70)), Some(Notice::Lasts(s(60), "timeout".into())));
        assert_eq!(outage.poll_notice(s(71)), None, "once a minute");
        outage.handle_answer(s(75));
        assert_eq!(outage.poll_notice(s(75)), Some(Notice::Ended(s(65))));
        assert_eq!((outage.poll_notice(s(900)), outage.reason(), outage.poll_timeout(s(900))), (None, None, None));
        assert_eq!(outage.since_answer(s(80)), Some(s(5)));
    }

    #[test]
    fn pauses_grow_to_their_limit_and_are_shortened_by_chance() {
        let mut outage = Outage::default();
        let mut now = Duration::ZERO;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            outage.handle_failure(now, "away", 0.0);
            assert!(!outage.may_try(now));
            let next = (0..).map(|ms| now + Duration::from_millis(ms * 100)).find(|at| outage.may_try(*at)).unwrap();
            pauses.push((next - now).as_millis());
            now = next;
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        let mut outage = Outage::default();
        outage.handle_failure(now, "away", 1.0);
        assert!(outage.may_try(now + Duration::from_millis(250)) && !outage.may_try(now + Duration::from_millis(249)));
    }

    #[test]
    fn many_that_fail_at_once_are_one_failure() {
        let mut outage = Outage::default();
        for _ in 0..8 {
            outage.handle_failure(s(10), "away", 0.0);
        }
        assert!(outage.may_try(s(11)));
        assert_eq!(outage.poll_notice(s(10)), Some(Notice::Began("away".into())));
        assert_eq!(outage.poll_notice(s(10)), None);
    }
}
