//! What keeps Postgres from starting on a folder that is half recovered.
//!
//! Started between two of the steps, Postgres would find the old end of the WAL, and write over what commits were acknowledged with. So
//! before the first step a setting that no Postgres knows is put into `postgresql.auto.conf`, which every Postgres reads from its data
//! folder, wherever its other configuration is; it then ends with `unrecognized configuration parameter` and the setting's name, which says
//! what to do. The last step takes it out again.

use walbus::disk::{Disk, write_whole};

use super::error::RecoverError;
use super::folder::read_whole;

/// The file that it stands in.
const AUTO_CONF: &str = "postgresql.auto.conf";

/// What Postgres names in its error.
pub(super) const SETTING: &str = "beyond_pg_sink_recover_has_not_finished_run_it_again";

const FIRST_LINE: &str = "# beyond-pg-sink recover: begin\n";
const LAST_LINE: &str = "# beyond-pg-sink recover: end\n";
const NO_FILE_LINE: &str = "# There was no postgresql.auto.conf before.\n";

fn block(had_file: bool) -> String {
    let no_file = if had_file { "" } else { NO_FILE_LINE };
    format!(
        "{FIRST_LINE}\
         # WAL that commits were acknowledged with is being written to pg_wal, and not all of it is there. If Postgres started now, it would\n\
         # write over them. Run `beyond-pg-sink recover --from URL --pgdata DIR` again: it goes on, and takes this out when it is done.\n\
         # To start without that WAL all the same, and lose those commits: `beyond-pg-sink recover --abandon --pgdata DIR`.\n\
         {no_file}\
         {SETTING} = on\n\
         {LAST_LINE}"
    )
}

/// Whether the folder is guarded.
pub(super) fn is_up<D: Disk>(pgdata: &D) -> Result<bool, RecoverError> {
    Ok(content(pgdata)?.is_some_and(|text| find(&text).is_some()))
}

/// Puts the guard up, where it is not. Durable on return.
pub(super) fn put_up<D: Disk>(pgdata: &D) -> Result<(), RecoverError> {
    let old = content(pgdata)?;
    if old.as_ref().is_some_and(|text| find(text).is_some()) {
        // An earlier run may have been killed before its name was durable.
        return pgdata.sync_dir().map_err(RecoverError::folder("sync the data folder"));
    }
    let mut new = block(old.is_some()).into_bytes();
    new.extend_from_slice(old.as_deref().unwrap_or_default());
    write_whole(pgdata, AUTO_CONF, &new).map_err(RecoverError::folder(format!("write {AUTO_CONF}")))
}

/// Takes the guard down, where it is up. Durable on return.
pub(super) fn take_down<D: Disk>(pgdata: &D) -> Result<(), RecoverError> {
    let Some(text) = content(pgdata)? else { return Ok(()) };
    let Some((begin, end)) = find(&text) else { return Ok(()) };
    let rest = [&text[..begin], &text[end..]].concat();
    if rest.is_empty() && contains(&text[begin..end], NO_FILE_LINE.as_bytes()) {
        let doing = || RecoverError::folder(format!("remove {AUTO_CONF}"));
        pgdata.remove(AUTO_CONF).map_err(doing())?;
        return pgdata.sync_dir().map_err(doing());
    }
    write_whole(pgdata, AUTO_CONF, &rest).map_err(RecoverError::folder(format!("write {AUTO_CONF}")))
}

fn content<D: Disk>(pgdata: &D) -> Result<Option<Vec<u8>>, RecoverError> {
    read_whole(pgdata, AUTO_CONF)
}

/// Where the guard's lines begin and end.
fn find(text: &[u8]) -> Option<(usize, usize)> {
    let begin = position(text, FIRST_LINE.as_bytes())?;
    let end = begin + position(&text[begin..], LAST_LINE.as_bytes())? + LAST_LINE.len();
    Some((begin, end))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    position(text, part).is_some()
}

fn position(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use walbus::sim::SimDisk;

    #[test]
    fn settings_are_as_before_when_it_is_down_again() {
        for before in [None, Some(""), Some("work_mem = '64MB'\n"), Some("no newline at the end = 1")] {
            let disk = SimDisk::new(1);
            if let Some(text) = before {
                write_whole(&disk, AUTO_CONF, text.as_bytes()).unwrap();
            }
            put_up(&disk).unwrap();
            put_up(&disk).unwrap();
            assert!(is_up(&disk).unwrap());
            let text = String::from_utf8(content(&disk).unwrap().unwrap()).unwrap();
            assert_eq!(text.matches(SETTING).count(), 1);
            assert!(text.ends_with(before.unwrap_or_default()), "{text}");
            take_down(&disk).unwrap();
            assert!(!is_up(&disk).unwrap());
            assert_eq!(content(&disk).unwrap(), before.map(|text| text.as_bytes().to_vec()));
            take_down(&disk).unwrap();
        }
    }
}
