//! What a person can do about what the primary says.

use walbus::proto::backend::SqlState;
use walbus::source::{Class, SourceError};

/// What to do about a failed conversation with the primary, naming the settings; `None` where it passes by itself.
pub(super) fn way_out(error: &SourceError, slot: &str) -> Option<String> {
    let text = match error.class() {
        Class::Authentication => {
            "Check the user and password of --upstream (or its passfile), that the role has REPLICATION, and that the primary's pg_hba.conf lets \
             it in to the database replication"
                .to_owned()
        }
        Class::Configuration if matches!(error, SourceError::Tls { .. }) => {
            "Check sslmode, sslrootcert, sslcert and sslkey in --upstream".to_owned()
        }
        Class::Configuration => "Check --upstream".to_owned(),
        Class::NoSuchSlot => {
            format!("Create it with SELECT pg_create_physical_replication_slot('{slot}', true), or name another by --slot")
        }
        Class::Retry if error.sqlstate() == Some(SqlState::OBJECT_IN_USE) => {
            format!("Another receiver uses the slot: stop it, or give this sink a slot of its own by --slot, instead of {slot:?}")
        }
        Class::SlotUnusable => format!(
            "The slot {slot:?} (--slot) is of no use any more: drop it with SELECT pg_drop_replication_slot('{slot}') on the primary, and it is made \
             anew; and raise max_slot_wal_keep_size there, which is what invalidates a slot that lags"
        ),
        Class::WalRemoved => format!(
            "What follows the WAL held is gone from the primary's pg_wal, so it can't be received without a gap. Bring it back there from an archive; or \
             take a new base backup of the primary and start with an empty --data-dir, and keep this one. The slot {slot:?} was dropped, or \
             invalidated (max_slot_wal_keep_size): else it had kept that WAL"
        ),
        Class::Other | Class::Retry => return None,
    };
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_by_itself_needs_nobody() {
        let gone = SourceError::Closed { doing: "stream", orderly: true };
        assert_eq!(gone.class(), Class::Retry);
        assert_eq!(way_out(&gone, "s"), None);
    }

    #[test]
    fn tls_settings_are_named() {
        let tls = SourceError::Tls { host: "h".to_owned(), problem: "p".to_owned() };
        assert!(way_out(&tls, "s").unwrap().contains("sslrootcert"));
    }
}
