//! What the process' surroundings say.

use std::os::unix::fs::MetadataExt;

use crate::conninfo::Environment;

/// This process' variables, home folder and user, as libpq would find them.
///
/// The user's name comes from `/etc/passwd`, or from `USER` where that does not have it.
#[must_use]
pub fn environment() -> Environment {
    // What is no UTF-8 is nothing that libpq's keywords could hold.
    let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let mut environment = Environment::new(variables);
    if let Some(home) = std::env::home_dir() {
        environment = environment.with_home(home);
    }
    let uid = std::fs::metadata("/proc/self").ok().map(|meta| meta.uid());
    if let Some(user) = uid.and_then(user_name).or_else(|| std::env::var("USER").ok()) {
        environment = environment.with_user(user);
    }
    environment
}

/// The name of the user with this number, `None` where `/etc/passwd` does not have it.
pub(super) fn user_name(uid: u32) -> Option<String> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(uid)).then(|| name.to_owned())
    })
}
