//! What the process' surroundings say, as a value.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Variables, home folder and user's name: what libpq asks the operating system for. `walbus::source::environment` makes one of the
/// process' own.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    home: Option<PathBuf>,
    user: Option<String>,
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Names only: PGPASSWORD is one of them.
        let names: Vec<_> = self.variables.keys().collect();
        f.debug_struct("Environment").field("variables", &names).field("home", &self.home).field("user", &self.user).finish()
    }
}

impl Environment {
    /// One with these variables, of which only those that libpq knows (`PG…`) are kept.
    pub fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let variables = variables.into_iter().filter(|(name, _)| name.starts_with("PG")).collect();
        Self { variables, home: None, user: None }
    }

    /// With this home folder, where `.pgpass` and `.postgresql/` are looked for.
    #[must_use]
    pub fn with_home(mut self, home: impl Into<PathBuf>) -> Self {
        self.home = Some(home.into());
        self
    }

    /// With this operating system user, the default of `user`.
    #[must_use]
    pub fn with_user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    pub(super) fn in_home(&self, name: &str) -> Option<PathBuf> {
        self.home.as_ref().map(|home| home.join(name))
    }

    pub(super) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }
}
