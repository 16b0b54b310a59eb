//! What the program tells: one line an event on stderr, as text or as JSON; its children's output passes through here too.

use std::fmt::{Display, Write as _};
use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

/// The most bytes of one line; a longer one is cut.
const LINE_MAX: usize = 16 * 1024;

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// For eyes.
    #[default]
    Text,
}

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something failed, and somebody has to look.
    Error,
    /// What happens.
    Info,
    /// Something that went on, but should not be.
    Warn,
}

impl Level {
    const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Info => "info",
            Self::Warn => "warn",
        }
    }
}

/// Where lines go.
#[derive(Clone, Copy, Debug, Default)]
pub struct Log {
    format: Format,
}

impl Log {
    /// A log of this format.
    #[must_use]
    pub const fn new(format: Format) -> Self {
        Self { format }
    }

    /// Tells what happens. `source` is the step or the part that tells it.
    pub fn info(self, source: &str, message: impl Display) {
        self.write(Level::Info, source, &message);
    }

    /// Tells what should not be.
    pub fn warn(self, source: &str, message: impl Display) {
        self.write(Level::Warn, source, &message);
    }

    /// Tells what failed.
    pub fn error(self, source: &str, message: impl Display) {
        self.write(Level::Error, source, &message);
    }

    fn write(self, level: Level, source: &str, message: &dyn Display) {
        let mut line = render(self.format, now(), level, source, &message.to_string());
        line.push('\n');
        // Where stderr is gone there is nowhere left to say so.
        std::io::stderr().write_all(line.as_bytes()).ok();
    }
}

/// The time of day, since 1970.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "lines of a log are the one place that needs the time of day")]
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// One line, without its end.
fn render(format: Format, at: Duration, level: Level, source: &str, message: &str) -> String {
    let message = cut(message);
    match format {
        Format::Json => json!({ "time": timestamp(at), "level": level.name(), "source": source, "message": message }).to_string(),
        Format::Text => {
            let mut line = format!("{} {:5} {source}: ", timestamp(at), level.name());
            // One event is one line: what holds more of them is folded.
            for (number, part) in message.lines().enumerate() {
                let fold = if number == 0 { "" } else { " | " };
                line.push_str(fold);
                line.extend(
                    part.chars().map(|character| if character.is_control() && character != '\t' { ' ' } else { character }),
                );
            }
            line
        }
    }
}

fn cut(message: &str) -> &str {
    let mut end = message.len().min(LINE_MAX);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message.get(..end).unwrap_or_default()
}

/// `2026-11-21T18:24:27.123Z` (RFC 3339), of the time since 1970.
#[must_use]
pub fn timestamp(at: Duration) -> String {
    let seconds = at.as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let mut text = String::with_capacity(24);
    // Writing to a string does not fail.
    write!(text, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", at.subsec_millis()).ok();
    text
}

/// Year, month and day of the Gregorian calendar, of days since 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    // Years begin in March here, so that the leap day is the last of one; an era is 400 years.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_day_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_795_285_467, "2026-11-21T18:24:27.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(timestamp(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn an_event_is_one_line_whatever_it_says() {
        let line = render(Format::Text, Duration::ZERO, Level::Warn, "postgres", "a\nb\u{1b}[31m");
        assert_eq!(line, "1970-01-01T00:00:00.000Z warn  postgres: a | b [31m");
        let line = render(Format::Json, Duration::ZERO, Level::Error, "boot", "a\n\"b\"");
        assert!(!line.contains('\n'));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((value["level"].as_str(), value["message"].as_str()), (Some("error"), Some("a\n\"b\"")));
        assert!(render(Format::Text, Duration::ZERO, Level::Info, "x", &"ü".repeat(LINE_MAX)).len() < LINE_MAX + 64);
    }
}
