//! What goes wrong with a store, by what there is to do about it.

use std::error::Error;
use std::io::ErrorKind;

use object_store::client::HttpError;

use crate::archive::envelope::{ContentHash, OpenError};

/// What went wrong with a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is another content under that name. A person has to find out whose it is.
    #[error(
        "{object} is there with other content: {theirs} ({theirs_bytes} bytes), not {ours} ({ours_bytes} bytes). It is never replaced. \
         Two servers archive under one name: one of them runs on the other's data, or was restored without a new timeline"
    )]
    Conflict {
        /// Where it is.
        object: String,
        /// The SHA-256 of what was to be put.
        ours: ContentHash,
        /// Its length.
        ours_bytes: u64,
        /// The SHA-256 of what is there.
        theirs: ContentHash,
        /// Its length.
        theirs_bytes: u64,
    },
    /// The store does not know us, or does not let us. New credentials are needed.
    #[error("{doing} {object}: {problem}")]
    Credentials {
        /// What was being done.
        doing: &'static str,
        /// To what.
        object: String,
        /// What is wrong, and the way out.
        problem: String,
    },
    /// What is there is not what was put.
    #[error("{object} can't be used: {problem}")]
    Damaged {
        /// Where it is.
        object: String,
        /// What is wrong.
        problem: String,
    },
    /// The store is away, slow, busy or full. To be tried again later.
    #[error("{doing} {object}: {problem}")]
    Retry {
        /// What was being done.
        doing: &'static str,
        /// To what.
        object: String,
        /// What the store says.
        problem: String,
    },
    /// A setting is wrong: it has to be changed.
    #[error("{problem}")]
    Settings {
        /// What is wrong, and the way out.
        problem: String,
    },
    /// The store can't do what an archive needs. Another one has to be used.
    #[error("{problem}")]
    Unsupported {
        /// What it can't do, and the way out.
        problem: String,
    },
}

/// Why [`Archive::get_into`](super::Archive::get_into) did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// The store, or what is there.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What it was to be written to.
    #[error("write what is fetched: {0}")]
    Write(#[source] std::io::Error),
}

impl StoreError {
    /// What an error of the library means. `NotFound` is the caller's to understand, who knows what was to be there.
    pub(super) fn of(error: object_store::Error, doing: &'static str, object: String) -> Self {
        use object_store::Error as Store;
        let problem = chain(&error);
        match &error {
            Store::PermissionDenied { .. } | Store::Unauthenticated { .. } => Self::refused(doing, object, &problem),
            Store::NotImplemented { .. } | Store::NotSupported { .. } => {
                Self::Unsupported { problem: format!("{doing} {object}: the store can't do that: {problem}") }
            }
            Store::NotFound { .. } => {
                let problem = format!("{doing} {object}: there is no such bucket or folder; look at --store ({problem})");
                Self::Settings { problem }
            }
            Store::InvalidPath { .. } | Store::UnknownConfigurationKey { .. } => {
                Self::Settings { problem: format!("{doing} {object}: {problem}") }
            }
            _ => Self::of_answer(&error, doing, object, problem),
        }
    }

    /// What an answer means that the library has no kind for.
    fn of_answer(error: &object_store::Error, doing: &'static str, object: String, problem: String) -> Self {
        const EXPIRED: [&str; 5] =
            ["ExpiredToken", "InvalidToken", "TokenRefreshRequired", "RequestTimeTooSkewed", "AuthorizationHeaderMalformed"];
        // The instance's metadata and what tasks and pods have in its place: asked only where there are no other credentials.
        if problem.contains("169.254.") || problem.contains("instance metadata") {
            let problem = format!(
                "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this instance a role \
                 ({problem})"
            );
            return Self::Credentials { doing, object, problem };
        }
        if EXPIRED.iter().any(|code| problem.contains(code)) {
            return Self::refused(doing, object, &problem);
        }
        match status(&problem) {
            Some(501) => Self::Unsupported { problem: format!("{doing} {object}: the store can't do that: {problem}") },
            Some(408 | 425 | 429 | 500..) => Self::Retry { doing, object, problem },
            Some(300..400) => Self::Settings {
                problem: format!("{doing} {object}: the bucket is in another region: set AWS_REGION to it ({problem})"),
            },
            Some(400..500) => Self::Settings { problem: format!("{doing} {object}: {problem}") },
            _ if problem.contains("Received redirect") => Self::Settings {
                problem: format!("{doing} {object}: the bucket is in another region: set AWS_REGION to it ({problem})"),
            },
            _ => match find::<std::io::Error>(error).map(std::io::Error::kind) {
                Some(ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) if find::<HttpError>(error).is_none() => {
                    Self::Credentials { doing, object, problem }
                }
                // Timeouts, connections that break, full disks, and what nobody has thought of: nothing was acknowledged, and none of it is
                // proof that it will never go.
                _ => Self::Retry { doing, object, problem },
            },
        }
    }

    fn refused(doing: &'static str, object: String, problem: &str) -> Self {
        let way_out = if problem.contains("RequestTimeTooSkewed") {
            "this machine's clock is wrong: set it"
        } else if problem.contains("Expired") {
            "the credentials have expired: renew them"
        } else if doing == "get" {
            "the credentials are not allowed to; without s3:ListBucket, S3 says so of an object that is not there as well, and fetch can't \
             know that it is not"
        } else {
            "the credentials are wrong, or not allowed to"
        };
        Self::Credentials { doing, object, problem: format!("{way_out} ({problem})") }
    }

    /// What it means that an object can't be opened.
    pub(super) fn of_open(error: OpenError, object: String) -> Self {
        match error {
            OpenError::Key { .. } => Self::Settings { problem: format!("{object}: {error}") },
            OpenError::Damaged(_) | OpenError::Header(_) | OpenError::Plain => Self::Damaged { object, problem: error.to_string() },
        }
    }

    /// Whether it may come right by itself.
    #[must_use]
    pub const fn is_retry(&self) -> bool {
        matches!(self, Self::Retry { .. })
    }
}

/// An error and what is behind it, in one line.
fn chain(error: &object_store::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = error.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The HTTP status that an error tells of.
fn status(problem: &str) -> Option<u16> {
    problem.split_once("status code: ")?.1.get(..3)?.parse().ok()
}

/// The first error of that type in the chain.
fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}
