//! `keyword = value` pairs.

use super::ConninfoError;
use super::keyword;

/// What a string says, in its order; of a keyword said twice the last counts. The keywords are known ones.
pub(super) type Pairs = Vec<(&'static str, String)>;

/// Reads pairs. Values stand as they are up to the next white space, or in single quotes; a backslash takes the next character as
/// it is, in quotes and out of them.
pub(super) fn parse(text: &str) -> Result<Pairs, ConninfoError> {
    let mut pairs = Pairs::new();
    let mut left = text.trim_start_matches(is_space);
    while !left.is_empty() {
        let end = left.find(|c| c == '=' || is_space(c)).unwrap_or(left.len());
        let (name, rest) = left.split_at(end);
        let Some(rest) = rest.trim_start_matches(is_space).strip_prefix('=') else {
            return Err(ConninfoError::new(shown(name), "there is no \"=\" after it"));
        };
        let name = known(name)?;
        let (value, rest) = value(name, rest.trim_start_matches(is_space))?;
        pairs.push((name, value));
        left = rest.trim_start_matches(is_space);
    }
    Ok(pairs)
}

/// libpq's own keyword of this name.
pub(super) fn known(name: &str) -> Result<&'static str, ConninfoError> {
    keyword::find(name)
        .map(|keyword| keyword.name)
        .ok_or_else(|| ConninfoError::new(shown(name), "is no connection option that libpq 18 knows"))
}

/// A name that may in truth be a piece of a password with a space in it: cut short.
fn shown(name: &str) -> String {
    match name.char_indices().nth(32) {
        Some((cut, _)) => format!("{}…", &name[..cut]),
        None if name.is_empty() => "an option without a name".to_owned(),
        None => name.to_owned(),
    }
}

fn value<'a>(name: &str, text: &'a str) -> Result<(String, &'a str), ConninfoError> {
    let (quoted, text) = text.strip_prefix('\'').map_or((false, text), |text| (true, text));
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' => value.extend(characters.next().map(|(_, c)| c)),
            '\'' if quoted => return Ok((value, &text[at + 1..])),
            c if !quoted && is_space(c) => return Ok((value, &text[at..])),
            c => value.push(c),
        }
    }
    if quoted { Err(ConninfoError::new(name, "its value's quote is not closed")) } else { Ok((value, "")) }
}

/// C's `isspace` in the C locale.
const fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\x0B' | '\x0C' | '\r')
}
