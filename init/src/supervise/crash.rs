//! Why a child has ended, read off how it ended and what it said last.

/// The class of an end, by what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// It does not start with the settings that it finds: those of the user are set aside.
    Configuration,
    /// Its data is damaged: no further start makes it better.
    Corrupt,
    /// The disk is full: no start helps before there is space.
    DiskFull,
    /// Anything else: started again after a while.
    Other,
    /// The kernel or an allocation says so: started again after a while, and said.
    OutOfMemory,
    /// The data is of another major version, or of another build.
    WrongVersion,
}

impl Class {
    /// Its name in status and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Corrupt => "corrupt",
            Self::DiskFull => "disk-full",
            Self::Other => "other",
            Self::OutOfMemory => "out-of-memory",
            Self::WrongVersion => "wrong-version",
        }
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this exit code.
    Code(i32),
    /// It could not be started at all.
    NotStarted,
    /// By this signal.
    Signal(i32),
}

/// The end of a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// What follows from it.
    pub class: Class,
    /// How, as the kernel says.
    pub ended: Ended,
    /// How, and what it said last, for people.
    pub text: String,
}

/// What is said, and what that is. The first that is found counts. Texts of Postgres 15 to 18 in English, which is what it is started in.
const SAID: [(&str, Class); 23] = [
    ("No space left on device", Class::DiskFull),
    ("Disk quota exceeded", Class::DiskFull),
    ("Check free disk space", Class::DiskFull),
    ("database files are incompatible with server", Class::WrongVersion),
    ("was initialized by PostgreSQL version", Class::WrongVersion),
    ("is not compatible with this version", Class::WrongVersion),
    ("could not locate a valid checkpoint record", Class::Corrupt),
    ("could not locate required checkpoint record", Class::Corrupt),
    ("invalid checkpoint record", Class::Corrupt),
    ("invalid primary checkpoint record", Class::Corrupt),
    ("is not a valid data directory", Class::Corrupt),
    ("incorrect checksum in control file", Class::Corrupt),
    ("calculated CRC checksum does not match value stored in", Class::Corrupt),
    ("WAL ends before end of online backup", Class::Corrupt),
    ("WAL ends before consistent recovery point", Class::Corrupt),
    ("requested timeline", Class::Corrupt),
    ("Cannot allocate memory", Class::OutOfMemory),
    ("out of memory", Class::OutOfMemory),
    ("contains errors", Class::Configuration),
    ("unrecognized configuration parameter", Class::Configuration),
    ("invalid value for parameter", Class::Configuration),
    ("could not access file", Class::Configuration),
    ("could not load library", Class::Configuration),
];

/// What the kernel kills with when memory is short, and people when patience is.
const SIGKILL: i32 = 9;

/// Why it ended. `lines` are the last ones that it said; `memory_was_short` is whether the kernel has killed for memory meanwhile.
#[must_use]
pub fn classify<'a>(ended: Ended, lines: impl DoubleEndedIterator<Item = &'a str> + Clone, memory_was_short: bool) -> Death {
    let grave = |line: &&str| ["FATAL", "PANIC", "error:", "ERROR"].iter().any(|word| line.contains(word));
    let said = lines.clone().rev().find(grave).or_else(|| lines.clone().next_back());
    let by_text = SAID.iter().find(|(text, _)| lines.clone().any(|line| line.contains(text) && !is_of_a_session(line)));
    let class = match (by_text, ended) {
        (Some((_, class)), _) => *class,
        (None, Ended::Signal(SIGKILL)) if memory_was_short => Class::OutOfMemory,
        (None, _) => Class::Other,
    };
    let how = match ended {
        Ended::Code(code) => format!("ended with exit code {code}"),
        Ended::NotStarted => "could not be started".to_owned(),
        Ended::Signal(SIGKILL) if memory_was_short => "was killed by the kernel, for want of memory".to_owned(),
        Ended::Signal(signal) => format!("was ended by signal {signal}"),
    };
    let text = said.map_or_else(|| how.clone(), |said| format!("{how}: {}", said.trim()));
    Death { class, ended, text }
}

/// A session's error says nothing about the server: it is no reason for an end.
fn is_of_a_session(line: &str) -> bool {
    line.contains("ERROR:") || line.contains("STATEMENT:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_apart_by_what_was_said() {
        for (line, class) in [
            ("LOG: could not write to file \"pg_wal/x\": No space left on device", Class::DiskFull),
            ("FATAL:  database files are incompatible with server", Class::WrongVersion),
            ("PANIC:  could not locate a valid checkpoint record at 0/1234", Class::Corrupt),
            ("FATAL:  could not map anonymous shared memory: Cannot allocate memory", Class::OutOfMemory),
            ("FATAL:  configuration file \"/x/postgresql.conf\" contains errors", Class::Configuration),
            ("FATAL:  could not access file \"nothing\": No such file or directory", Class::Configuration),
            ("ERROR:  could not extend file: No space left on device", Class::Other),
            ("LOG:  database system is shut down", Class::Other),
        ] {
            let death = classify(Ended::Code(1), ["LOG:  starting", line].into_iter(), true);
            assert_eq!(death.class, class, "{line}");
            assert!(death.text.contains(line.trim()) || class == Class::DiskFull, "{}", death.text);
        }
        assert_eq!(classify(Ended::Signal(9), std::iter::empty(), true).class, Class::OutOfMemory);
        assert_eq!(classify(Ended::Signal(9), std::iter::empty(), false).class, Class::Other);
        assert_eq!(classify(Ended::Signal(11), ["LOG: fine"].into_iter(), true).class, Class::Other);
    }
}
