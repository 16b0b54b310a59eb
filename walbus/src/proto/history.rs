//! Timeline history files: how a timeline came about. Source: `readTimeLineHistory` and `writeTimeLineHistory` in `timeline.c`.
//!
//! One line an ancestor, oldest first: its number, where it was left, and why, separated by tabs or spaces. Empty lines, and those
//! that start with `#`, are passed over.

use std::fmt;

use crate::ident::Timeline;
use crate::lsn::{Lsn, ParseLsnError};

/// The longest history file that is read, in bytes: over 10,000 timelines.
pub const MAX_HISTORY_BYTES: usize = 1 << 20;

/// A timeline, and the ancestors that it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    timeline: Timeline,
    ancestors: Vec<Ancestor>,
}

/// A timeline that another came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ancestor {
    /// Which one.
    pub timeline: Timeline,
    /// Where it was left: the first byte that is of the next one.
    pub end: Lsn,
    /// Why, in the words of the server; where these are no UTF-8, with replacement characters.
    pub reason: String,
}

/// A text that is no timeline history.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// A line names itself or a later timeline as an ancestor's descendant.
    #[error("line {line} of the history of timeline {of}: timeline {found} comes after timeline {after}, expected rising numbers")]
    Order {
        /// Whose history it is.
        of: Timeline,
        /// Counted from 1; one more than there are where the last ancestor is no lower than `of`.
        line: usize,
        /// The timeline before.
        after: Timeline,
        /// The timeline that is not above it.
        found: Timeline,
    },
    /// It is longer than [`MAX_HISTORY_BYTES`].
    #[error("the history of timeline {of} has {found} bytes, more than {MAX_HISTORY_BYTES}")]
    Size {
        /// Whose history it is.
        of: Timeline,
        /// In bytes.
        found: usize,
    },
    /// A line does not have a position in second place.
    #[error("line {line} of the history of timeline {of}: expected where the timeline was left, in second place: {cause}")]
    Switchpoint {
        /// Whose history it is.
        of: Timeline,
        /// Counted from 1.
        line: usize,
        /// What is there.
        cause: ParseLsnError,
    },
    /// A line does not start with a timeline.
    #[error("line {line} of the history of timeline {of}: expected a timeline, a number from 1 on, in first place: {found:?}")]
    Timeline {
        /// Whose history it is.
        of: Timeline,
        /// Counted from 1.
        line: usize,
        /// What is there.
        found: String,
    },
}

impl History {
    /// The history of a timeline without ancestors, such as timeline 1, which has no file.
    #[must_use]
    pub const fn root(timeline: Timeline) -> Self {
        Self { timeline, ancestors: Vec::new() }
    }

    /// Reads the file of `of`'s history.
    ///
    /// # Errors
    /// Where a line is none of such a file, or timelines do not rise up to `of`.
    pub fn parse(of: Timeline, text: &[u8]) -> Result<Self, HistoryError> {
        if text.len() > MAX_HISTORY_BYTES {
            return Err(HistoryError::Size { of, found: text.len() });
        }
        let mut ancestors: Vec<Ancestor> = Vec::new();
        let mut last = 0;
        for (line, text) in (1..).zip(text.split(|byte| *byte == b'\n')) {
            last = line;
            let Some(ancestor) = Ancestor::parse(of, line, text)? else { continue };
            if let Some(before) = ancestors.last().filter(|before| ancestor.timeline <= before.timeline) {
                return Err(HistoryError::Order { of, line, after: before.timeline, found: ancestor.timeline });
            }
            ancestors.push(ancestor);
        }
        match ancestors.last() {
            Some(parent) if of <= parent.timeline => Err(HistoryError::Order { of, line: last, after: parent.timeline, found: of }),
            _ => Ok(Self { timeline: of, ancestors }),
        }
    }

    /// The history of a timeline that leaves this one at `end`. `None` where its number is not above this one's.
    #[must_use]
    pub fn child(&self, timeline: Timeline, end: Lsn, reason: &str) -> Option<Self> {
        let mut ancestors = self.ancestors.clone();
        ancestors.push(Ancestor { timeline: self.timeline, end, reason: reason.replace(['\n', '\r'], " ") });
        (timeline > self.timeline).then_some(Self { timeline, ancestors })
    }

    /// Whose history it is.
    #[must_use]
    pub const fn timeline(&self) -> Timeline {
        self.timeline
    }

    /// The ancestors, oldest first.
    #[must_use]
    pub fn ancestors(&self) -> &[Ancestor] {
        &self.ancestors
    }

    /// Whether `timeline` is this one or one that it comes from.
    #[must_use]
    pub fn contains(&self, timeline: Timeline) -> bool {
        timeline == self.timeline || self.ancestors.iter().any(|ancestor| ancestor.timeline == timeline)
    }

    /// Where this history leaves `timeline`: the first byte that is no longer of it. `None` where it does not, because it is its own
    /// or none of its ancestors.
    ///
    /// A timeline that was made by a recovery to a position before its parent began names that parent, and an end below the
    /// parent's start: the lowest end from `timeline` on is what holds.
    #[must_use]
    pub fn switchpoint(&self, timeline: Timeline) -> Option<Lsn> {
        let from = self.ancestors.iter().position(|ancestor| ancestor.timeline == timeline)?;
        self.ancestors.iter().skip(from).map(|ancestor| ancestor.end).min()
    }

    /// Whose WAL the byte at `lsn` is of, in this history (`tliOfPointInHistory`).
    #[must_use]
    pub fn timeline_at(&self, lsn: Lsn) -> Timeline {
        let mut of = self.timeline;
        for ancestor in self.ancestors.iter().rev() {
            if lsn >= ancestor.end {
                break;
            }
            of = ancestor.timeline;
        }
        of
    }

    /// The file's content as Postgres writes it.
    #[must_use]
    pub fn encode(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ancestors.iter().try_for_each(|ancestor| writeln!(f, "{}\t{}\t{}", ancestor.timeline, ancestor.end, ancestor.reason))
    }
}

impl Ancestor {
    /// Reads a line, `None` for one without content.
    fn parse(of: Timeline, line: usize, text: &[u8]) -> Result<Option<Self>, HistoryError> {
        let text = String::from_utf8_lossy(text);
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            return Ok(None);
        }
        let (number, rest) = split_word(text);
        let timeline = number.parse().ok().and_then(Timeline::new);
        let timeline = timeline.ok_or_else(|| HistoryError::Timeline { of, line, found: number.to_owned() })?;
        let (end, reason) = split_word(rest);
        let end = end.parse().map_err(|cause| HistoryError::Switchpoint { of, line, cause })?;
        Ok(Some(Self { timeline, end, reason: reason.to_owned() }))
    }
}

/// The first word, and what follows the white space behind it.
fn split_word(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (word, rest.trim_start())
}

#[cfg(test)]
mod tests;
