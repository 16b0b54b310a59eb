//! Who a client is, by token or certificate, and what it may read.
//!
//! The file of principals:
//!
//! ```toml
//! [[principal]]
//! name = "reports"                       # what logs and lists call it
//! token-file = "reports.token"           # the token that it shows; relative to this file
//! tables = ["public.*", "sales.order_*"]
//!
//! [[principal]]
//! name = "billing"
//! common-name = "billing.example.com"    # the common name of its certificate
//! tables = ["billing.*"]
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use walbus::service::stamp::Stamp;
use walbus::service::token::{TokenFile, Verdict};

use super::session::Principal;
use crate::fanout::pattern::TablePattern;

/// Where principals come from.
#[derive(Debug)]
pub enum Authority {
    /// Whoever has the token, or a certificate of the clients' authority, reads all tables.
    All(TokenFile),
    /// A file says who there is.
    Principals(PrincipalsFile),
}

/// Why an authority can't be set up.
#[derive(Debug, thiserror::Error)]
#[error("{setting} {}: {problem}", path.display())]
pub struct AuthorityError {
    /// The setting that names the file.
    pub setting: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub problem: String,
}

/// A file of principals, read again when it changes.
#[derive(Debug)]
pub struct PrincipalsFile {
    path: PathBuf,
    last: Mutex<(Option<Stamp>, Arc<Vec<Known>>)>,
}

/// A principal, and how it is known.
#[derive(Debug)]
struct Known {
    principal: Principal,
    token: Option<TokenFile>,
    common_name: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    principal: Vec<Item>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Item {
    name: String,
    token_file: Option<PathBuf>,
    common_name: Option<String>,
    tables: Vec<String>,
}

impl Authority {
    /// An authority from its files. With a file of principals, the token is none by itself.
    ///
    /// # Errors
    /// Where one can't be read or makes no sense.
    pub fn open(token: PathBuf, principals: Option<PathBuf>) -> Result<Self, AuthorityError> {
        if let Some(path) = principals {
            return PrincipalsFile::open(path).map(Self::Principals);
        }
        let failed = |error: io::Error| AuthorityError { setting: "--token-file", path: token.clone(), problem: error.to_string() };
        TokenFile::open(token.clone()).map(Self::All).map_err(failed)
    }

    /// Who it is that shows a token, empty for none, and comes with a certificate of that common name, `None` for none. Reads files where they
    /// have changed. A certificate that TLS let pass is one of the clients' authority.
    ///
    /// # Errors
    /// With what to tell a client that is nobody.
    pub fn authenticate(&self, token: &str, certificate: Option<&str>) -> Result<Principal, String> {
        match self {
            Self::All(file) if !token.is_empty() => match file.check(token.as_bytes()) {
                Verdict::Right => Ok(anyone("token")),
                Verdict::Unreadable => Err("the server's token file can't be read; its log says why".to_owned()),
                Verdict::Wrong => Err("the token is not this server's: see its data folder's file `token`".to_owned()),
            },
            Self::All(_) => certificate.map(anyone).ok_or_else(nobody),
            Self::Principals(file) => file.find(token, certificate),
        }
    }
}

fn anyone(name: &str) -> Principal {
    Principal { name: name.to_owned(), tables: vec![TablePattern::all()] }
}

fn nobody() -> String {
    "a token or a client certificate is needed".to_owned()
}

impl PrincipalsFile {
    fn open(path: PathBuf) -> Result<Self, AuthorityError> {
        // Stamped before it is read: what changes in between is read once more.
        let stamp = Stamp::of(&path).ok();
        let known = read(&path)?;
        Ok(Self { path, last: Mutex::new((stamp, Arc::new(known))) })
    }

    fn find(&self, token: &str, certificate: Option<&str>) -> Result<Principal, String> {
        let known = self.current();
        if token.is_empty() {
            let name = certificate.ok_or_else(nobody)?;
            let found = known.iter().find(|known| known.common_name.as_deref() == Some(name));
            return found
                .map(|known| known.principal.clone())
                .ok_or_else(|| format!("no principal has a certificate named {name:?}"));
        }
        let mut found = None;
        // All are looked at, so that the time tells nothing of which one it is.
        for known in known.iter() {
            if known.token.as_ref().is_some_and(|file| file.check(token.as_bytes()) == Verdict::Right) {
                found = Some(known.principal.clone());
            }
        }
        found.ok_or_else(|| "no principal has this token".to_owned())
    }

    fn current(&self) -> Arc<Vec<Known>> {
        let now = Stamp::of(&self.path).ok();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0 != now {
            match read(&self.path) {
                Ok(known) => {
                    tracing::info!(principals = known.len(), path = %self.path.display(), "the principals were read again");
                    last.1 = Arc::new(known);
                }
                Err(error) => tracing::error!(%error, "the principals can't be read; those before stay in force"),
            }
            last.0 = now;
        }
        Arc::clone(&last.1)
    }
}

fn read(path: &Path) -> Result<Vec<Known>, AuthorityError> {
    let failed = |problem: String| AuthorityError { setting: "--principals", path: path.to_owned(), problem };
    let text = fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let file: File = toml::from_str(&text).map_err(|error| failed(error.to_string()))?;
    if file.principal.is_empty() {
        return Err(failed("it names nobody, so that nobody could read anything: add a [[principal]]".to_owned()));
    }
    file.principal.into_iter().map(|item| known(path, item).map_err(failed)).collect()
}

fn known(path: &Path, item: Item) -> Result<Known, String> {
    let of = |problem: String| format!("principal {:?}: {problem}", item.name);
    if item.token_file.is_none() && item.common_name.is_none() {
        return Err(of("it has neither token-file nor common-name".to_owned()));
    }
    let tables = item.tables.iter().map(|text| TablePattern::parse(text)).collect::<Result<Vec<_>, _>>();
    let tables = tables.map_err(|error| of(error.to_string()))?;
    let token = item.token_file.as_ref().map(|file| path.parent().unwrap_or_else(|| Path::new("")).join(file));
    let token = match token {
        None => None,
        Some(file) => {
            let opened = TokenFile::open(file.clone());
            Some(opened.map_err(|error| of(format!("token-file {}: {error}", file.display())))?)
        }
    };
    Ok(Known { principal: Principal { name: item.name, tables }, token, common_name: item.common_name })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
        [[principal]]
        name = 'reports'
        token-file = 'reports.token'
        tables = ['public.*']
        [[principal]]
        name = 'billing'
        common-name = 'billing.example.com'
        tables = ['billing.*', 'public.users']
    ";

    fn dir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("token"), "sesame\n").unwrap();
        fs::write(dir.path().join("reports.token"), "report!").unwrap();
        fs::write(dir.path().join("principals.toml"), FILE).unwrap();
        dir
    }

    #[test]
    fn without_principals_the_token_or_a_certificate_reads_all() {
        let dir = dir();
        let authority = Authority::open(dir.path().join("token"), None).unwrap();
        assert_eq!(authority.authenticate("sesame", None).unwrap().tables, [TablePattern::all()]);
        assert_eq!(authority.authenticate("", Some("a.example.com")).unwrap().name, "a.example.com");
        authority.authenticate("sesame!", Some("a.example.com")).unwrap_err();
        authority.authenticate("", None).unwrap_err();
    }

    #[test]
    fn principals_read_what_they_may() {
        let dir = dir();
        let authority = Authority::open(dir.path().join("none"), Some(dir.path().join("principals.toml"))).unwrap();
        let reports = authority.authenticate("report!", None).unwrap();
        assert_eq!((reports.name.as_str(), reports.tables[0].to_string()), ("reports", "public.*".to_owned()));
        assert_eq!(authority.authenticate("", Some("billing.example.com")).unwrap().tables.len(), 2);
        for (token, name) in
            [("sesame", None), ("", None), ("", Some("other")), ("", Some("reports")), ("billing.example.com", None)]
        {
            authority.authenticate(token, name).unwrap_err();
        }
        // Read again, and a broken one leaves what was in force.
        let changed = FILE.replace("billing.example.com", "b.example.com");
        fs::write(dir.path().join("principals.toml"), changed).unwrap();
        authority.authenticate("", Some("b.example.com")).unwrap();
        authority.authenticate("", Some("billing.example.com")).unwrap_err();
        fs::write(dir.path().join("principals.toml"), "junk").unwrap();
        authority.authenticate("", Some("b.example.com")).unwrap();
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let dir = dir();
        let path = dir.path().join("principals.toml");
        for (text, word) in [
            ("", "nobody"),
            ("[[principal]]\nname='a'\ntables=[]\n", "neither"),
            ("[[principal]]\nname='a'\ncommon-name='x'\ntables=['x']\n", "schema.table"),
            ("[[principal]]\nname='a'\ntoken-file='none'\ntables=[]\n", "none"),
            ("[[principal]]\nname='a'\ncommon_name='x'\ntables=[]\n", "common_name"),
        ] {
            fs::write(&path, text).unwrap();
            let error = Authority::open(dir.path().join("token"), Some(path.clone())).unwrap_err().to_string();
            assert!(error.contains("--principals") && error.contains(word), "{error}");
        }
    }
}
