//! An error and what caused it.

use std::error::Error;

/// An error with all its causes in one line, for logs and states. A cause that the text before it ends with is not said twice.
#[must_use]
pub fn in_one_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("read the slot")]
    struct Outer(#[source] Middle);

    #[derive(Debug, thiserror::Error)]
    #[error("ask the server: it is away")]
    struct Middle(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("it is away")]
    struct Inner;

    #[test]
    fn each_cause_is_said_once() {
        assert_eq!(in_one_line(&Outer(Middle(Inner))), "read the slot: ask the server: it is away");
    }
}
