//! The lines on the daemon's socket. Pure.
//!
//! ```text
//!   beyond-pg-archiver/1 push ARCHIVE NAME DEVICE INODE BYTES MODIFIED_NS CHANGED_NS        one request a connection
//!   beyond-pg-archiver/1 fetch ARCHIVE SYSTEM SEGMENT
//!
//!   wait                  it is being done; at least once a second
//!   stored                that file is in the archive
//!   here PATH             the segment is in that file, which is the asker's to move away before it closes the connection
//!   yourself REASON       do it yourself
//! ```
//!
//! `ARCHIVE` is a hash over what says where the archive is and how it is encrypted: who was told of another one is not answered for.

use std::fmt;
use std::str::FromStr;

use walbus::archive::envelope::ContentHash;
use walbus::{SegmentName, SystemId};

/// What each request begins with: another version is another word.
const GREETING: &str = "beyond-pg-archiver/1";

/// The longest line either side takes, with its end.
pub const LINE_BYTES_MAX: usize = 8 << 10;

/// The longest name of a file that Postgres archives: a backup history file's.
const NAME_BYTES_MAX: usize = 40;

/// What tells a file from every other, and from itself with other content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileIdentity {
    /// Its file system.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// Its length.
    pub bytes: u64,
    /// When its content last changed, in nanoseconds since 1970.
    pub modified_ns: i128,
    /// When it was last changed in any way, its name included: a recycled segment is renamed.
    pub changed_ns: i128,
}

/// What is asked of the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Have this segment at hand.
    Fetch {
        /// The hash over where the archive is.
        archive: ContentHash,
        /// The cluster.
        system: SystemId,
        /// The segment.
        segment: SegmentName,
    },
    /// Have this file in the archive.
    Push {
        /// The hash over where the archive is.
        archive: ContentHash,
        /// The file's name in `pg_wal`.
        name: String,
        /// Which file it is.
        identity: FileIdentity,
    },
}

/// What the daemon answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The segment is in this file.
    Here(String),
    /// The file is in the archive.
    Stored,
    /// It is being done.
    Wait,
    /// Do it yourself.
    Yourself(String),
}

/// A line that is none of the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// It begins with another word than this version's.
    #[error("it is no request of {GREETING}: another version of this program, or none of it")]
    Greeting,
    /// A field is missing, one too many, or not what it should be.
    #[error("its {0} is missing or wrong")]
    Field(&'static str),
}

/// The words of a line; each is given once, with its name for the error.
struct Words<'a>(std::str::Split<'a, char>);

impl<'a> Words<'a> {
    fn next(&mut self, field: &'static str) -> Result<&'a str, LineError> {
        self.0.next().filter(|word| !word.is_empty()).ok_or(LineError::Field(field))
    }

    /// A number as it is printed: one text for each.
    fn number<T: FromStr + fmt::Display>(&mut self, field: &'static str) -> Result<T, LineError> {
        let word = self.next(field)?;
        word.parse().ok().filter(|number: &T| number.to_string() == word).ok_or(LineError::Field(field))
    }

    fn archive(&mut self) -> Result<ContentHash, LineError> {
        let word = self.next("archive")?;
        word.parse().ok().filter(|hash: &ContentHash| hash.to_string() == word).ok_or(LineError::Field("archive"))
    }

    fn end(mut self) -> Result<(), LineError> {
        if self.0.next().is_none() { Ok(()) } else { Err(LineError::Field("end")) }
    }
}

impl Request {
    /// The request in a line, without its end.
    ///
    /// # Errors
    /// Where it is none.
    pub fn parse(line: &str) -> Result<Self, LineError> {
        let mut words = Words(line.split(' '));
        if words.next("greeting").ok() != Some(GREETING) {
            return Err(LineError::Greeting);
        }
        match words.next("verb")? {
            "fetch" => {
                let archive = words.archive()?;
                let system = SystemId(words.number("system")?);
                let segment = words.next("segment")?.parse().map_err(|_| LineError::Field("segment"))?;
                words.end()?;
                Ok(Self::Fetch { archive, system, segment })
            }
            "push" => {
                let archive = words.archive()?;
                let name = words.next("name").and_then(name)?;
                let identity = FileIdentity {
                    device: words.number("device")?,
                    inode: words.number("inode")?,
                    bytes: words.number("length")?,
                    modified_ns: words.number("time of modification")?,
                    changed_ns: words.number("time of change")?,
                };
                words.end()?;
                Ok(Self::Push { archive, name, identity })
            }
            _ => Err(LineError::Field("verb")),
        }
    }

    /// The hash over where the archive is, as the asker was told.
    #[must_use]
    pub const fn archive(&self) -> ContentHash {
        match self {
            Self::Fetch { archive, .. } | Self::Push { archive, .. } => *archive,
        }
    }
}

/// A name that leads to no other folder.
fn name(word: &str) -> Result<String, LineError> {
    let plain = word.len() <= NAME_BYTES_MAX && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.');
    if plain && !word.starts_with('.') { Ok(word.to_owned()) } else { Err(LineError::Field("name")) }
}

impl fmt::Display for Request {
    /// The line, with its end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fetch { archive, system, segment } => writeln!(f, "{GREETING} fetch {archive} {system} {segment}"),
            Self::Push { archive, name, identity } => {
                let FileIdentity { device, inode, bytes, modified_ns, changed_ns } = identity;
                writeln!(f, "{GREETING} push {archive} {name} {device} {inode} {bytes} {modified_ns} {changed_ns}")
            }
        }
    }
}

impl Answer {
    /// The answer in a line, without its end.
    ///
    /// # Errors
    /// Where it is none.
    pub fn parse(line: &str) -> Result<Self, LineError> {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("here", path) if path.starts_with('/') => Ok(Self::Here(path.to_owned())),
            ("stored", "") if line == "stored" => Ok(Self::Stored),
            ("wait", "") if line == "wait" => Ok(Self::Wait),
            ("yourself", reason) => Ok(Self::Yourself(reason.to_owned())),
            _ => Err(LineError::Field("answer")),
        }
    }
}

impl fmt::Display for Answer {
    /// The line, with its end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(path) => writeln!(f, "here {path}"),
            Self::Stored => f.write_str("stored\n"),
            Self::Wait => f.write_str("wait\n"),
            Self::Yourself(reason) => {
                // A reason is for people: its first words are enough, and it stays in its line.
                let line: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LINE_BYTES_MAX / 8).collect();
                writeln!(f, "yourself {line}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ARCHIVE: ContentHash = ContentHash([0xAB; 32]);

    fn push() -> Request {
        Request::Push {
            archive: ARCHIVE,
            name: "000000010000000000000002".to_owned(),
            identity: FileIdentity { device: 1, inode: 2, bytes: 3, modified_ns: 4, changed_ns: -5 },
        }
    }

    #[test]
    fn lines_are_those_of_the_documentation() {
        let hash = "ab".repeat(32);
        let line = format!("beyond-pg-archiver/1 push {hash} 000000010000000000000002 1 2 3 4 -5");
        assert_eq!(push().to_string(), format!("{line}\n"));
        assert_eq!(Request::parse(&line), Ok(push()));
        let fetch = Request::Fetch { archive: ARCHIVE, system: SystemId(7), segment: "00000002000000000000000A".parse().unwrap() };
        let line = format!("beyond-pg-archiver/1 fetch {hash} 7 00000002000000000000000A");
        assert_eq!(fetch.to_string(), format!("{line}\n"));
        assert_eq!(Request::parse(&line), Ok(fetch));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let hash = "ab".repeat(32);
        for (line, error) in [
            (String::new(), LineError::Greeting),
            ("GET / HTTP/1.1".to_owned(), LineError::Greeting),
            (format!("beyond-pg-archiver/2 fetch {hash} 7 000000010000000000000002"), LineError::Greeting),
            ("beyond-pg-archiver/1".to_owned(), LineError::Field("verb")),
            (format!("beyond-pg-archiver/1 drop {hash}"), LineError::Field("verb")),
            ("beyond-pg-archiver/1 fetch abc 7 000000010000000000000002".to_owned(), LineError::Field("archive")),
            (format!("beyond-pg-archiver/1 fetch {hash} -7 000000010000000000000002"), LineError::Field("system")),
            (format!("beyond-pg-archiver/1 fetch {hash} 7 00000002.history"), LineError::Field("segment")),
            (format!("beyond-pg-archiver/1 fetch {hash} 7 000000010000000000000002 x"), LineError::Field("end")),
            (format!("beyond-pg-archiver/1 push {hash} ../../passwd 1 2 3 4 5"), LineError::Field("name")),
            (format!("beyond-pg-archiver/1 push {hash} .. 1 2 3 4 5"), LineError::Field("name")),
            (format!("beyond-pg-archiver/1 push {hash} a 1 2 +3 4 5"), LineError::Field("length")),
            (format!("beyond-pg-archiver/1 push {hash} a 1 2 3 4"), LineError::Field("time of change")),
        ] {
            assert_eq!(Request::parse(&line), Err(error), "{line}");
        }
        for line in ["", "here", "here relative", "stored ", "stored x", "waiting", "ok"] {
            assert_eq!(Answer::parse(line), Err(LineError::Field("answer")), "{line}");
        }
    }

    #[test]
    fn a_reason_stays_in_its_line() {
        let answer = Answer::Yourself(format!("two\nlines{}", "x".repeat(2 * LINE_BYTES_MAX)));
        let line = answer.to_string();
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.len() < LINE_BYTES_MAX && line.starts_with("yourself two linesx"), "{} bytes", line.len());
    }

    proptest! {
        #[test]
        fn what_is_read_is_printed_as_it_was(line in "(beyond-pg-archiver/1 )?(push|fetch|here|wait|stored|yourself)?[ -~]{0,120}") {
            if let Ok(request) = Request::parse(&line) {
                prop_assert_eq!(request.to_string(), format!("{line}\n"));
            }
            if let Ok(answer) = Answer::parse(&line) {
                prop_assert_eq!(Answer::parse(answer.to_string().trim_end_matches('\n')), Ok(answer));
            }
        }

        #[test]
        fn identities_are_kept(device: u64, inode: u64, bytes: u64, modified_ns: i128, changed_ns: i128) {
            let identity = FileIdentity { device, inode, bytes, modified_ns, changed_ns };
            let request = Request::Push { archive: ARCHIVE, name: "00000002.history".to_owned(), identity };
            prop_assert_eq!(Request::parse(request.to_string().trim_end()), Ok(request));
        }
    }
}
