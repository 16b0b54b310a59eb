//! Where values come from, and what is wrong with them.

use std::fmt;

/// The places that settings come from, those that win first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// The metadata service, with a token (version 2).
    MmdsV2,
    /// The metadata service, without (version 1).
    MmdsV1,
    /// The file that `BEYOND_PG_METADATA_FILE` names.
    File,
    /// The environment of the process.
    Environment,
    /// The kernel's command line.
    KernelCommandLine,
    /// The table: no place has a value.
    Default,
}

impl Origin {
    /// As it is written in JSON and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MmdsV2 => "mmds-v2",
            Self::MmdsV1 => "mmds-v1",
            Self::File => "file",
            Self::Environment => "environment",
            Self::KernelCommandLine => "kernel-command-line",
            Self::Default => "default",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MmdsV2 => "metadata (v2)",
            Self::MmdsV1 => "metadata (v1)",
            Self::File => "file",
            Self::Environment => "environment",
            Self::KernelCommandLine => "kernel command line",
            Self::Default => "default",
        })
    }
}

impl serde::Serialize for Origin {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// What one place says: names and values as they were found, unchecked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// What kind of place.
    pub origin: Origin,
    /// Names with their values. What does not begin with `BEYOND_` is skipped, but in a file, where it is an error.
    pub values: Vec<(String, String)>,
}

impl Source {
    /// What one place says.
    pub fn new<N: Into<String>, V: Into<String>>(origin: Origin, values: impl IntoIterator<Item = (N, V)>) -> Self {
        Self { origin, values: values.into_iter().map(|(name, value)| (name.into(), value.into())).collect() }
    }
}

/// Which value a setting has, and whose it is: what `status` and `plan` show.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Provenance {
    /// The setting.
    pub name: &'static str,
    /// Its value, a secret's as `(hidden)`; `None` where it has none.
    pub value: Option<String>,
    /// Where that is from.
    pub origin: Origin,
}

/// One thing that is wrong with the settings. Nothing is started with one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Two settings that can't be had together, or one that needs another.
    #[error("{0}")]
    Combination(String),
    /// A setting that says where other settings are, found in one of those places.
    #[error(
        "{origin}: {name} says where settings are looked for: it can be set in the environment and on the kernel command line alone"
    )]
    Misplaced {
        /// Where it was found.
        origin: Origin,
        /// The setting.
        name: &'static str,
    },
    /// The same name twice in one place, with two values.
    #[error("{origin}: {name} is there twice, with different values: leave one")]
    Twice {
        /// Where it was found.
        origin: Origin,
        /// The setting.
        name: &'static str,
    },
    /// A name that is none.
    #[error("{origin}: there is no setting {name}{}", nearest.map_or_else(|| ": `beyond-pg plan --settings` lists all".to_owned(), |nearest| format!(": is {nearest} meant? (`beyond-pg plan --settings` lists all)")))]
    Unknown {
        /// Where it was found.
        origin: Origin,
        /// The name.
        name: String,
        /// The setting that it looks like.
        nearest: Option<&'static str>,
    },
    /// A value that can't be.
    #[error("{origin}: {name} = {value}: {allowed}")]
    Value {
        /// Where it was found.
        origin: Origin,
        /// The setting.
        name: &'static str,
        /// The value, quoted; a secret's is hidden.
        value: String,
        /// What can be.
        allowed: String,
    },
}

/// A value that is never shown: neither by `status` and `plan` nor by `{:?}`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// What is shown in the place of a secret.
pub const HIDDEN: &str = "(hidden)";

impl Secret {
    /// Hides a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for what has to be given it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}
