//! `postgresql://[user[:password]@][host[:port],…][/dbname][?keyword=value&…]`.

use super::ConninfoError;
use super::syntax::{Pairs, known};

const SCHEMES: [&str; 2] = ["postgresql://", "postgres://"];

pub(super) fn is_uri(text: &str) -> bool {
    SCHEMES.iter().any(|scheme| text.starts_with(scheme))
}

pub(super) fn parse(text: &str) -> Result<Pairs, ConninfoError> {
    let rest = SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme)).unwrap_or(text);
    let mut pairs = Pairs::new();

    // As libpq: credentials end at the first @, unless a slash comes before it.
    let rest = match rest.find(['@', '/']).map(|at| rest.split_at(at)) {
        Some((credentials, rest)) if rest.starts_with('@') => {
            let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
            push(&mut pairs, "user", user)?;
            push(&mut pairs, "password", password)?;
            &rest[1..]
        }
        _ => rest,
    };
    let (rest, params) = rest.split_once('?').unwrap_or((rest, ""));
    let (hosts, dbname) = rest.split_once('/').unwrap_or((rest, ""));
    parse_hosts(hosts, &mut pairs)?;
    push(&mut pairs, "dbname", dbname)?;
    for param in params.split('&').filter(|param| !param.is_empty()) {
        parse_param(param, &mut pairs)?;
    }
    Ok(pairs)
}

fn parse_hosts(text: &str, pairs: &mut Pairs) -> Result<(), ConninfoError> {
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for one in text.split(',') {
        let (host, port) = match one.strip_prefix('[') {
            None => one.split_once(':').unwrap_or((one, "")),
            Some(literal) => {
                let (host, rest) = literal.split_once(']').filter(|(host, _)| !host.is_empty()).ok_or_else(|| {
                    ConninfoError::new("host", format!("{one:?} is no IPv6 address in brackets, as in [::1]:5432"))
                })?;
                match rest.strip_prefix(':') {
                    Some(port) => (host, port),
                    None if rest.is_empty() => (host, ""),
                    None => {
                        return Err(ConninfoError::new(
                            "host",
                            format!("{rest:?} follows an address in brackets: expected : and a port"),
                        ));
                    }
                }
            }
        };
        hosts.push(host);
        ports.push(port);
    }
    push(pairs, "host", &hosts.join(","))?;
    if ports.iter().any(|port| !port.is_empty()) {
        push(pairs, "port", &ports.join(","))?;
    }
    Ok(())
}

fn parse_param(param: &str, pairs: &mut Pairs) -> Result<(), ConninfoError> {
    let Some((name, value)) = param.split_once('=') else {
        return Err(ConninfoError::new(param.get(..32).unwrap_or(param), "there is no \"=\" after it"));
    };
    if value.contains('=') {
        return Err(ConninfoError::new(name, "there is a second \"=\" in its value: write it %3D"));
    }
    let name = decode("a parameter's name", name)?;
    // JDBC's spelling, which libpq takes too.
    if (name.as_str(), value) == ("ssl", "true") {
        pairs.push(("sslmode", "require".to_owned()));
        return Ok(());
    }
    let name = known(&name)?;
    pairs.push((name, decode(name, value)?));
    Ok(())
}

/// Keeps what is said; what is left empty is not said.
fn push(pairs: &mut Pairs, name: &'static str, encoded: &str) -> Result<(), ConninfoError> {
    if !encoded.is_empty() {
        pairs.push((name, decode(name, encoded)?));
    }
    Ok(())
}

fn decode(name: &str, text: &str) -> Result<String, ConninfoError> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digit =
            |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16)).and_then(|digit| u8::try_from(digit).ok());
        match (digit(bytes.next()), digit(bytes.next())) {
            (Some(0), Some(0)) => return Err(ConninfoError::new(name, "%00 can't be a part of a value")),
            (Some(high), Some(low)) => decoded.push(high << 4 | low),
            _ => return Err(ConninfoError::new(name, "a \"%\" without two hexadecimal digits: write a percent sign as %25")),
        }
    }
    String::from_utf8(decoded).map_err(|_| ConninfoError::new(name, "is no UTF-8 once its percent signs are decoded"))
}
