//! Accounts of the machine, as `/etc/passwd` has them. Other sources of names are not asked: at boot there may be none yet.

use std::path::Path;

/// Who a program runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its name, which peer authentication goes by.
    pub name: String,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// Why there is no such account.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum AccountError {
    /// The name or number is not in `/etc/passwd`.
    #[error("BEYOND_PG_OS_USER={0}: no such account in /etc/passwd; name one that is, or add it")]
    Unknown(String),
    /// Postgres refuses to run as root.
    #[error("BEYOND_PG_OS_USER={0}: Postgres does not run as root; name another account")]
    Root(String),
}

/// The account that `named` names: a name, a number, or `UID:GID`.
///
/// # Errors
/// Where there is no such account, or it is root's.
pub fn find(named: &str, passwd: &str) -> Result<Account, AccountError> {
    let (user, group) = named.split_once(':').map_or((named, None), |(user, group)| (user, Some(group)));
    let mut account = accounts(passwd)
        .find(|account| account.name == user || user.parse() == Ok(account.uid))
        .ok_or_else(|| AccountError::Unknown(named.to_owned()))?;
    if let Some(group) = group {
        account.gid = group.parse().map_err(|_error| AccountError::Unknown(named.to_owned()))?;
    }
    if account.uid == 0 { Err(AccountError::Root(named.to_owned())) } else { Ok(account) }
}

/// The account with this number.
#[must_use]
pub fn of_uid(uid: u32, passwd: &str) -> Option<Account> {
    accounts(passwd).find(|account| account.uid == uid)
}

/// The file of accounts, empty where there is none.
#[must_use]
pub fn passwd() -> String {
    std::fs::read_to_string(Path::new("/etc/passwd")).unwrap_or_default()
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account> + '_ {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Account { name, uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\npostgres:x:101:104::/var/lib/postgresql:/bin/sh\n\nbroken\n";

    #[test]
    fn accounts_are_found_by_name_and_by_number() {
        let postgres = Account { name: "postgres".to_owned(), uid: 101, gid: 104 };
        assert_eq!(find("postgres", PASSWD), Ok(postgres.clone()));
        assert_eq!(find("101", PASSWD), Ok(postgres.clone()));
        assert_eq!(find("101:7", PASSWD), Ok(Account { gid: 7, ..postgres.clone() }));
        assert_eq!(of_uid(101, PASSWD), Some(postgres));
    }

    #[test]
    fn root_and_unknown_ones_are_refused_with_the_setting() {
        assert_eq!(find("root", PASSWD), Err(AccountError::Root("root".to_owned())));
        for unknown in ["nobody", "77", "postgres:wheel", ""] {
            let error = find(unknown, PASSWD).unwrap_err();
            assert!(error.to_string().starts_with(&format!("BEYOND_PG_OS_USER={unknown}: no such account")), "{error}");
        }
    }
}
