//! Connection strings of libpq: what has to be known of one, and what is added. Source: the manual's chapter "Connection Strings".

/// A connection string, in parts.
#[derive(Clone, PartialEq, Eq)]
pub struct Conninfo {
    pairs: Vec<(String, String)>,
}

/// What is in it is a secret.
impl core::fmt::Debug for Conninfo {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Conninfo").finish_non_exhaustive()
    }
}

/// Where a server is, for one that has no connection string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address or name.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How TLS is used, where that is said.
    pub sslmode: Option<String>,
    /// Who signed its certificate, where that is said.
    pub sslrootcert: Option<String>,
}

impl Conninfo {
    /// Takes a connection string apart: `key = value` pairs or a URI. `None` where it is neither.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let uri = ["postgresql://", "postgres://"].iter().find_map(|scheme| text.strip_prefix(scheme));
        let pairs = uri.map_or_else(|| pairs(text), parts)?;
        Some(Self { pairs })
    }

    /// The value of a key; the last one counts.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        self.pairs.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// With this value for this key.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.pairs.retain(|(name, _)| name != key);
        self.pairs.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Without this key; and its value.
    #[must_use]
    pub fn without(mut self, key: &str) -> (Self, Option<String>) {
        let value = self.value(key).map(str::to_owned);
        self.pairs.retain(|(name, _)| name != key);
        (self, value)
    }

    /// The one server that it names.
    ///
    /// # Errors
    /// Where it names none, or more than one.
    pub fn endpoint(&self) -> Result<Endpoint, String> {
        let host = self.value("hostaddr").or_else(|| self.value("host")).ok_or("it names no host")?;
        let port = self.value("port").unwrap_or("5432");
        if host.contains(',') || port.contains(',') {
            return Err("it names more than one host".to_owned());
        }
        let plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:/".contains(&byte));
        if !plain {
            return Err(format!("{host:?} is no host's name or address"));
        }
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(|| format!("{port:?} is no port"))?;
        let text = |key| self.value(key).map(str::to_owned);
        Ok(Endpoint { host: host.to_owned(), port, sslmode: text("sslmode"), sslrootcert: text("sslrootcert") })
    }

    /// As `key='value'` pairs, whatever the values hold.
    #[must_use]
    pub fn text(&self) -> String {
        let quoted = |value: &str| value.replace('\\', "\\\\").replace('\'', "\\'");
        let pairs = self.pairs.iter().map(|(key, value)| format!("{key}='{}'", quoted(value)));
        pairs.collect::<Vec<_>>().join(" ")
    }
}

/// `key = value key='it''s'`, as libpq reads it: a backslash takes the next character as it is.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        let key = key.trim_end();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return None;
        }
        let after = after.trim_start();
        let quoted = after.starts_with('\'');
        let mut characters = after.char_indices().skip(usize::from(quoted));
        let mut value = String::new();
        let end = loop {
            match characters.next() {
                Some((_, '\\')) => value.extend(characters.next().map(|(_, character)| character)),
                Some((at, '\'')) if quoted => break at + 1,
                Some((at, character)) if !quoted && character.is_whitespace() => break at,
                Some((_, character)) => value.push(character),
                None if quoted => return None,
                None => break after.len(),
            }
        };
        pairs.push((key.to_owned(), value));
        rest = after.get(end..)?.trim_start();
    }
    Some(pairs)
}

/// `user:password@host:port/database?key=value`.
fn parts(uri: &str) -> Option<Vec<(String, String)>> {
    let (uri, parameters) = uri.split_once('?').unwrap_or((uri, ""));
    let (authority, database) = uri.split_once('/').unwrap_or((uri, ""));
    let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',') {
        // An IPv6 address is in brackets.
        let (name, port) = match host.strip_prefix('[').and_then(|host| host.split_once(']')) {
            Some((name, port)) => (name, port.strip_prefix(':').unwrap_or_default()),
            None => host.split_once(':').unwrap_or((host, "")),
        };
        names.push(decoded(name)?);
        ports.push(port.to_owned());
    }
    let mut pairs = vec![
        ("user".to_owned(), decoded(user)?),
        ("password".to_owned(), decoded(password)?),
        ("host".to_owned(), names.join(",")),
        ("port".to_owned(), ports.join(",")),
        ("dbname".to_owned(), decoded(database)?),
    ];
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        let (key, value) = parameter.split_once('=')?;
        let key = decoded(key)?;
        // As a pair could not be written: `libpq` knows no such key either.
        if key.is_empty() || key.contains(|c: char| c.is_whitespace() || c == '=') {
            return None;
        }
        pairs.push((key, decoded(value)?));
    }
    pairs.retain(|(_, value)| !value.is_empty());
    Some(pairs)
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let (high, low) = (digit(rest.next())?, digit(rest.next())?);
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pairs_and_uris_say_the_same() {
        for text in [
            r"host=h port = 6000 user='u' password='p\'x y' dbname=d application_name=a",
            "postgresql://u:p%27x%20y@h:6000/d?application_name=a",
        ] {
            let conninfo = Conninfo::parse(text).unwrap();
            assert_eq!(conninfo.value("password"), Some("p'x y"), "{text}");
            assert_eq!(conninfo.value("application_name"), Some("a"), "{text}");
            let endpoint = conninfo.endpoint().unwrap();
            assert_eq!((endpoint.host.as_str(), endpoint.port), ("h", 6000));
        }
        let six = Conninfo::parse("postgres://[fd00::1]:7000").unwrap().endpoint().unwrap();
        assert_eq!((six.host.as_str(), six.port), ("fd00::1", 7000));
        assert_eq!(Conninfo::parse("host=h").unwrap().endpoint().unwrap().port, 5432);
    }

    #[test]
    fn what_names_no_one_server_is_said() {
        assert!(Conninfo::parse("user=x").unwrap().endpoint().unwrap_err().contains("no host"));
        assert!(Conninfo::parse("postgresql://a,b/").unwrap().endpoint().unwrap_err().contains("more than one"));
        assert!(Conninfo::parse("host='x y'").unwrap().endpoint().unwrap_err().contains("no host's name"));
        for broken in ["host", "host='x", "a b=c", "postgresql://h?x", "postgresql://%zz/"] {
            assert_eq!(Conninfo::parse(broken), None, "{broken}");
        }
    }

    #[test]
    fn what_is_added_wins_and_what_is_there_stays() {
        let conninfo = Conninfo::parse(r"host=h password='a\\b\'c' application_name=old").unwrap().with("application_name", "new");
        assert_eq!(conninfo.text(), r"host='h' password='a\\b\'c' application_name='new'");
        let (bare, password) = conninfo.clone().without("password");
        assert_eq!((bare.text().as_str(), password.as_deref()), ("host='h' application_name='new'", Some(r"a\b'c")));
        assert_eq!(bare.without("password").1, None);
        assert_eq!(Conninfo::parse(&conninfo.text()).unwrap(), conninfo);
    }

    proptest! {
        #[test]
        fn values_survive_being_written(value in "\\PC*") {
            let conninfo = Conninfo { pairs: vec![("password".to_owned(), value)] };
            prop_assert_eq!(Conninfo::parse(&conninfo.text()), Some(conninfo));
        }

        #[test]
        fn any_text_is_one_or_is_not(text in "\\PC*") {
            for text in [text.clone(), format!("postgresql://{text}")] {
                let Some(conninfo) = Conninfo::parse(&text) else { continue };
                prop_assert_eq!(Conninfo::parse(&conninfo.text()), Some(conninfo));
            }
        }
    }
}
