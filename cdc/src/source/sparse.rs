//! Lines that would come again and again: one of them every so often.

use std::time::Duration;

use tokio::time::Instant;

/// The shortest time from one line to the next.
const INTERVAL: Duration = Duration::from_secs(30);

/// Says when the next line may come.
#[derive(Debug, Default)]
pub(super) struct Sparse {
    last: Option<Instant>,
}

impl Sparse {
    /// Whether a line may come now; if so, it is taken to have come.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let due = self.last.is_none_or(|last| now >= last + INTERVAL);
        if due {
            self.last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_at_once_and_then_every_so_often() {
        let start = Instant::now();
        let mut lines = Sparse::default();
        let at = [0, 1, 29, 30, 31, 59, 60, 1000];
        let due: Vec<_> = at.into_iter().filter(|seconds| lines.is_due(start + Duration::from_secs(*seconds))).collect();
        assert_eq!(due, [0, 30, 60, 1000]);
    }
}
