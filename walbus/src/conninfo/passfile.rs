//! `.pgpass`: the manual's chapter "The Password File".

use super::Secret;

/// Which connection a password is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// `host`, or `hostaddr` where there is none, or `localhost` for the default unix socket.
    pub host: &'a str,
    /// The port.
    pub port: u16,
    /// The database; `replication` for physical replication.
    pub dbname: &'a str,
    /// The role.
    pub user: &'a str,
}

/// The password of the first line that matches: `hostname:port:database:username:password`, where `*` matches anything and a
/// backslash keeps a colon or a backslash from its meaning. Lines that start with `#`, and those that are no such line, are passed
/// over, as libpq does.
#[must_use]
pub fn find(content: &[u8], wanted: Wanted<'_>) -> Option<Secret> {
    let port = wanted.port.to_string();
    let fields = [wanted.host, &port, wanted.dbname, wanted.user];
    content.split(|byte| *byte == b'\n').find_map(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.starts_with(b"#") {
            return None;
        }
        let rest = fields.iter().try_fold(line, |line, field| match_field(line, field.as_bytes()))?;
        let password = unescape(rest);
        (!password.is_empty()).then(|| Secret::new(password))
    })
}

/// What follows the first field of `line` and its colon, where that field is `*` or stands for `wanted`.
fn match_field<'a>(line: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    if let Some(rest) = line.strip_prefix(b"*:") {
        return Some(rest);
    }
    let (mut line, mut wanted) = (line.iter(), wanted.iter());
    loop {
        match (line.next()?, wanted.as_slice().is_empty()) {
            (b':', true) => return Some(line.as_slice()),
            (b'\\', _) => {
                if Some(line.next()?) != wanted.next() {
                    return None;
                }
            }
            (byte, _) => {
                if Some(byte) != wanted.next() {
                    return None;
                }
            }
        }
    }
}

/// A password up to the next colon that has no backslash before it.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut password = Vec::new();
    let mut bytes = field.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b':' => break,
            b'\\' => password.push(*bytes.next().unwrap_or(byte)),
            byte => password.push(*byte),
        }
    }
    password
}
