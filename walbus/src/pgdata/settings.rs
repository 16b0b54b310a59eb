//! `postgresql.auto.conf`: a block of settings in it that can be taken back.
//!
//! Every Postgres reads that file from its data folder, wherever its other configuration is, and reads it last: what stands last in it
//! wins over all but the command line.
//!
//! `ALTER SYSTEM` writes the file anew: comments are gone, every setting stays where it is, those of the name that is set excepted, which
//! then stands last alone. So the block's ends are settings as well, of a name that means nothing to Postgres:
//!
//! ```text
//!   work_mem = '1MB'                    work_mem = '1MB'
//!   # ours: begin                       ours.block = 'begin'
//!   ours.block = 'begin'      ALTER     restore_command = '...'
//!   restore_command = '...'   ─────▶    ours.block = 'end'
//!   ours.block = 'end'        SYSTEM    jit = 'off'
//!   # ours: end
//! ```

/// The file's name.
pub const AUTO_CONF: &str = "postgresql.auto.conf";

/// A block's lines, and where it stands. Everything around it stays as it is, byte for byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Its first line, with the line's end: a comment that no one else writes.
    pub first: &'static str,
    /// Its last line, likewise.
    pub last: &'static str,
    /// A line in it that says that there was no such file before.
    pub no_file: &'static str,
    /// The name of the setting that marks its ends: two words with a point between them, the first of which no extension has.
    pub marker: &'static str,
}

impl Block {
    /// Where the block begins and ends in `text`, its first and last line included: the last one, where a first line without a block stands
    /// before it. After `ALTER SYSTEM` these are the settings that mark its ends.
    #[must_use]
    pub fn find(&self, text: &[u8]) -> Option<(usize, usize)> {
        let between = |first: &[u8], last: &[u8]| {
            let begin = text.windows(first.len()).rposition(|window| window == first)?;
            let end = begin + position(text.get(begin..)?, last)? + last.len();
            Some((begin, end))
        };
        between(self.first.as_bytes(), self.last.as_bytes())
            .or_else(|| between(self.mark("begin").as_bytes(), self.mark("end").as_bytes()))
    }

    fn mark(&self, end: &str) -> String {
        format!("{} = '{end}'\n", self.marker)
    }

    /// The file's content with the block at its end, `lines` in it, each with its end; `text` is what the file holds, `None` where there
    /// is none. A block that stands there already is replaced.
    #[must_use]
    pub fn append(&self, text: Option<&[u8]>, lines: &str) -> Vec<u8> {
        let had_file = match text {
            None => false,
            Some(text) => self
                .find(text)
                .is_none_or(|(begin, end)| position(text.get(begin..end).unwrap_or_default(), self.no_file.as_bytes()).is_none()),
        };
        let mut new = text.map(|text| self.cut(text)).unwrap_or_default();
        // A last line without an end would swallow the block's first one; that end goes with the block.
        let open_line = new.last().is_some_and(|byte| *byte != b'\n');
        new.extend(if open_line { b"\n".as_slice() } else { b"" });
        new.extend(self.first.as_bytes());
        new.extend(if had_file { b"" } else { self.no_file.as_bytes() });
        new.extend(if open_line { NO_LINE_END.as_bytes() } else { b"" });
        new.extend(self.mark("begin").as_bytes());
        new.extend(lines.as_bytes());
        new.extend(self.mark("end").as_bytes());
        new.extend(self.last.as_bytes());
        new
    }

    /// The file's content without the block: as it was before; `None` where there was no file, and none is to be left.
    #[must_use]
    pub fn remove(&self, text: &[u8]) -> Option<Vec<u8>> {
        let (begin, end) = self.find(text).unwrap_or((0, 0));
        let made = position(text.get(begin..end).unwrap_or_default(), self.no_file.as_bytes()).is_some();
        let rest = self.cut(text);
        if rest.is_empty() && made { None } else { Some(rest) }
    }

    fn cut(&self, text: &[u8]) -> Vec<u8> {
        let Some((begin, end)) = self.find(text) else { return text.to_vec() };
        let opened = position(text.get(begin..end).unwrap_or_default(), NO_LINE_END.as_bytes()).is_some();
        let before = text.get(..begin.saturating_sub(usize::from(opened))).unwrap_or_default();
        [before, text.get(end..).unwrap_or_default()].concat()
    }
}

/// Says in a block that the line end before it is not the file's own.
const NO_LINE_END: &str = "# The last line before this had no end.\n";

fn position(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len().max(1)).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pgdata::{ConfigLine, config_lines};
    use proptest::prelude::*;

    const BLOCK: Block =
        Block { first: "# here: begin\n", last: "# here: end\n", no_file: "# there was none\n", marker: "here.block" };

    #[test]
    fn what_was_there_before_comes_back() {
        for before in [None, Some(""), Some("a = 1\n"), Some("no end = 1"), Some("# here: end\n"), Some("# here: begin\na = 1\n")] {
            let once = BLOCK.append(before.map(str::as_bytes), "x = 'y'\n");
            let again = BLOCK.append(Some(&once), "x = 'z'\n");
            let text = String::from_utf8(again.clone()).unwrap();
            assert_eq!((text.matches("x = ").count(), text.contains("x = 'z'\n")), (1, true), "{text}");
            assert!(text.ends_with("x = 'z'\nhere.block = 'end'\n# here: end\n") && text.lines().all(|line| !line.contains("1#")));
            let after = BLOCK.remove(&again).map(|text| String::from_utf8(text).unwrap());
            assert_eq!(after.as_deref(), before);
        }
    }

    #[test]
    fn what_others_added_behind_stays() {
        let mut text = BLOCK.append(None, "x = 1\n");
        text.extend(b"work_mem = '1GB'\n");
        assert_eq!(BLOCK.remove(&text).unwrap(), b"work_mem = '1GB'\n");
        let again = BLOCK.append(Some(&text), "x = 2\n");
        assert!(again.starts_with(b"work_mem = '1GB'\n# here: begin\n"));
    }

    /// What `ALTER SYSTEM SET name = value` makes of the file (`AlterSystemSetConfigFile`).
    fn alter_system(text: &[u8], name: &str, value: &str) -> Vec<u8> {
        let mut new = b"# Do not edit this file manually!\n# It will be overwritten by the ALTER SYSTEM command.\n".to_vec();
        let lines = config_lines(std::str::from_utf8(text).unwrap()).into_iter();
        let settings =
            lines.filter_map(|(_, line)| if let ConfigLine::Set { name, value } = line { Some((name, value)) } else { None });
        let set = (name.to_owned(), value.to_owned());
        for (name, value) in settings.filter(|(other, _)| other != name).chain([set]) {
            new.extend(format!("{name} = '{}'\n", value.replace('\'', "''")).as_bytes());
        }
        new
    }

    fn name() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["hot_standby", "archive_mode", "work_mem", "jit", "restore_command"]).prop_map(str::to_owned)
    }

    proptest! {
        /// Taken back, the file is as if the block had never been there, whatever was set meanwhile.
        #[test]
        fn alter_system_and_the_block_do_not_know_of_each_other(
            before in prop::collection::vec((name(), "[a-z']{0,3}"), 0..4),
            ours in prop::collection::vec(name(), 0..4),
            deeds in prop::collection::vec((name(), "[a-z']{0,3}", any::<bool>()), 0..4),
        ) {
            let line = |(name, value): &(String, String)| format!("{name} = '{}'\n", value.replace('\'', "''"));
            let mut alone: Vec<u8> = before.iter().map(line).collect::<String>().into();
            let lines: String = ours.iter().map(|name| format!("{name} = 'ours'\n")).collect();
            let mut with = BLOCK.append(Some(&alone), &lines);
            for (name, value, again) in &deeds {
                alone = alter_system(&alone, name, value);
                with = alter_system(&with, name, value);
                if *again {
                    with = BLOCK.append(Some(&with), &lines);
                }
            }
            prop_assert_eq!(String::from_utf8(BLOCK.remove(&with).unwrap()), String::from_utf8(alone));
        }
    }
}
