//! `postgresql.auto.conf`: a block of settings in it that can be taken back.
//!
//! Every Postgres reads that file from its data folder, wherever its other configuration is, and reads it last: what stands last in it
//! wins over all but the command line.

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
}

impl Block {
    /// Where the block begins and ends in `text`, its first and last line included: the last one, where a first line without a block stands
    /// before it.
    #[must_use]
    pub fn find(&self, text: &[u8]) -> Option<(usize, usize)> {
        let begin = text.windows(self.first.len()).rposition(|window| window == self.first.as_bytes())?;
        let end = begin + position(text.get(begin..)?, self.last.as_bytes())? + self.last.len();
        Some((begin, end))
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
        new.extend(lines.as_bytes());
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

    const BLOCK: Block = Block { first: "# here: begin\n", last: "# here: end\n", no_file: "# there was none\n" };

    #[test]
    fn what_was_there_before_comes_back() {
        for before in [None, Some(""), Some("a = 1\n"), Some("no end = 1"), Some("# here: end\n"), Some("# here: begin\na = 1\n")] {
            let once = BLOCK.append(before.map(str::as_bytes), "x = 'y'\n");
            let again = BLOCK.append(Some(&once), "x = 'z'\n");
            let text = String::from_utf8(again.clone()).unwrap();
            assert_eq!((text.matches("x = ").count(), text.contains("x = 'z'\n")), (1, true), "{text}");
            assert!(text.ends_with("x = 'z'\n# here: end\n") && text.lines().all(|line| !line.contains("1#")), "{text}");
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
}
