//! How values are written so that they are read as what they are.

use std::path::Path;

use super::ConfError;

/// A value of `postgresql.conf`, as `GUC_scanstr` (guc-file.l) reads it: in single quotes, with quotes and backslashes doubled.
pub(super) fn quoted(name: &str, value: &str) -> Result<String, ConfError> {
    if value.chars().any(char::is_control) {
        return Err(ConfError::Control(name.to_owned()));
    }
    Ok(format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''")))
}

/// A word of a shell's command line.
pub(super) fn shell_word(word: &str) -> String {
    let plain = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte));
    if plain { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

/// A path that stands in lists and connection strings, where quoting differs: without what would need any.
pub(super) fn plain_path(setting: &'static str, path: &Path) -> Result<String, ConfError> {
    plain(setting, &path.to_string_lossy())
}

/// A text without what any file gives a meaning to.
pub(super) fn plain(setting: &'static str, value: &str) -> Result<String, ConfError> {
    let plain = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte));
    if plain { Ok(value.to_owned()) } else { Err(ConfError::Plain { setting, value: value.to_owned() }) }
}

/// A user's name in `pg_ident.conf`: in double quotes, so that it is no keyword, and no expression.
pub(super) fn ident_name(setting: &'static str, name: &str) -> Result<String, ConfError> {
    if name.is_empty() || name.starts_with('/') || name.chars().any(|c| c.is_control() || c == '"' || c == ',') {
        return Err(ConfError::Plain { setting, value: name.to_owned() });
    }
    Ok(format!("\"{name}\""))
}
