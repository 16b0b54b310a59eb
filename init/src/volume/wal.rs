//! `data/pg_wal` as a link, and WAL moved from one folder to another: killed at any moment, it goes on where it was.
//!
//! ```text
//!   remember from and to ──▶ copy, sync ──▶ exchange the link, sync ──▶ remove what is left at from ──▶ forget
//! ```
//!
//! Until the link is exchanged, `from` is what counts and `to` is made anew; from then on, `to` is.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};

use super::{Layout, Remembered, is_empty, make_folder, remove_folder, rename_durably, sync_folder};
use crate::account::Account;

/// A move that has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Where the WAL was.
    pub from: PathBuf,
    /// Where it goes.
    pub to: PathBuf,
}

/// Whose volume it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// A copy of another instance's.
    Fork,
    /// This instance's.
    Own,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placed {
    /// It was there.
    Already,
    /// It was moved from there.
    From(PathBuf),
}

/// Sees to it that `data/pg_wal` links to the folder that the settings name, with the WAL in it. The server must not run.
///
/// WAL outside of the volume of a fork is its parent's, wherever that is: it is never moved. A copy of it, where the settings name one, is
/// taken.
///
/// # Errors
/// Where that folder holds something else, or the disk does not take it; nothing is lost then.
pub fn place(layout: &Layout, remembered: &mut Remembered, owner: Option<&Account>, whose: Whose) -> Result<Placed> {
    let link = layout.data.join("pg_wal");
    put_back(layout, &link)?;
    if whose == Whose::Fork
        && let Some(begun) = remembered.wal_move.as_ref().filter(|begun| !layout.holds(&begun.from) || !layout.holds(&begun.to))
    {
        bail!(
            "this volume is a copy of one whose WAL was being moved from {} to {}: copy it again when that is over",
            begun.from.display(),
            begun.to.display()
        );
    }
    if let Some(begun) = remembered.wal_move.clone() {
        finish(layout, remembered, &begun, owner)?;
        if begun.to == layout.wal {
            return Ok(Placed::From(begun.from));
        }
    }
    let from = match std::fs::read_link(&link) {
        Ok(target)
            if layout
                .data
                .join(&target)
                .canonicalize()
                .is_ok_and(|held| layout.wal.canonicalize().is_ok_and(|own| own == held)) =>
        {
            if target != link_text(layout, &layout.wal) {
                exchange(layout, &link, &layout.wal)?;
            }
            return Ok(Placed::Already);
        }
        Ok(target) if target == link_text(layout, &layout.wal) => {
            bail!("{} links to {}, which is not there: is its disk attached?", link.display(), layout.wal.display());
        }
        Ok(target) => {
            let from = layout.data.join(target);
            from.canonicalize().unwrap_or(from)
        }
        Err(_) if link.is_dir() => link.clone(),
        Err(error) => return Err(error).with_context(|| format!("read {}", link.display())),
    };
    if !from.is_dir() {
        bail!("{} is where the WAL is, and it is not there: is its disk attached?", from.display());
    }
    if whose == Whose::Fork && !layout.holds(&from) {
        if is_empty(&layout.wal)? {
            bail!(
                "{} leads to {}, outside of this volume, which is a fork: that WAL is its parent's. Copy it as it was at the same moment as the \
                 volume, and name the copy by BEYOND_PG_WAL_DIR",
                link.display(),
                from.display()
            );
        }
        exchange(layout, &link, &layout.wal)?;
        return Ok(Placed::Already);
    }
    // Held until it is there no more.
    let _lock = super::lock_folder(&from)?;
    if !is_empty(&layout.wal)? {
        bail!(
            "{} is not empty, so the WAL is not moved there from {}: empty it, or set BEYOND_PG_WAL_DIR to another folder",
            layout.wal.display(),
            from.display()
        );
    }
    let begun = Move { from: from.clone(), to: layout.wal.clone() };
    remembered.wal_move = Some(begun.clone());
    remembered.write(layout)?;
    finish(layout, remembered, &begun, owner)?;
    Ok(Placed::From(from))
}

/// Does what is left of a move.
fn finish(layout: &Layout, remembered: &mut Remembered, begun: &Move, owner: Option<&Account>) -> Result<()> {
    let link = layout.data.join("pg_wal");
    let is_there = |link: &Path| std::fs::read_link(link).is_ok_and(|target| target == link_text(layout, &begun.to));
    if !is_there(&link) {
        if begun.from.is_dir() {
            carry(begun, owner).with_context(|| format!("move WAL from {} to {}", begun.from.display(), begun.to.display()))?;
        }
        exchange(layout, &link, &begun.to)?;
    }
    // From here on `to` counts.
    remove_old(&link.with_file_name("pg_wal.new"))?;
    remove_old(&link.with_file_name("pg_wal.old"))?;
    if begun.from != link {
        remove_folder(&begun.from).or_else(|error| {
            // The root of a filesystem stays.
            if is_empty(&begun.from).unwrap_or(false) { Ok(()) } else { Err(error) }
        })?;
    }
    remembered.wal_move = None;
    remembered.write(layout)
}

/// Copies `from` to `to`; on one filesystem it is renamed.
fn carry(begun: &Move, owner: Option<&Account>) -> Result<()> {
    clear(&begun.to)?;
    make_folder(&begun.to, 0o700, owner)?;
    let same_filesystem = begun.from.metadata()?.dev() == begun.to.metadata()?.dev();
    // Over an empty folder, a rename takes its place; it is refused where that is the root of a filesystem.
    if same_filesystem && rename_durably(&begun.from, &begun.to).is_ok() {
        return Ok(());
    }
    copy_folder(&begun.from, &begun.to, owner)?;
    sync_folder(begun.to.parent().unwrap_or_else(|| Path::new("/")))?;
    Ok(())
}

/// Removes what is in a folder.
fn clear(folder: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("read {}", folder.display())),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name() != "lost+found" {
            remove_old(&entry.path())?;
        }
    }
    Ok(())
}

fn copy_folder(from: &Path, to: &Path, owner: Option<&Account>) -> Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_name() == "lost+found" {
            continue;
        }
        if entry.file_type()?.is_dir() {
            make_folder(&target, 0o700, owner)?;
            copy_folder(&source, &target, owner)?;
            continue;
        }
        std::fs::copy(&source, &target).with_context(|| format!("copy {}", source.display()))?;
        if let Some(owner) = owner {
            chown(&target, Some(owner.uid), Some(owner.gid))?;
        }
        File::open(&target)?.sync_all()?;
    }
    sync_folder(to)?;
    Ok(())
}

/// Makes `link` lead to `to`, in one step where there is something at its place.
fn exchange(layout: &Layout, link: &Path, to: &Path) -> Result<()> {
    let new = link.with_file_name("pg_wal.new");
    remove_old(&new)?;
    symlink(link_text(layout, to), &new).with_context(|| format!("make the link {}", new.display()))?;
    match std::fs::symlink_metadata(link) {
        Ok(meta) if meta.is_dir() => {
            if renameat_with(CWD, link, CWD, &new, RenameFlags::EXCHANGE).is_err() {
                // Not every filesystem can. `put_back` undoes the first of the two, where the second does not follow.
                rename_durably(link, &link.with_file_name("pg_wal.old"))?;
                rename_durably(&new, link)?;
            }
        }
        Ok(_) => rename_durably(&new, link)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => rename_durably(&new, link)?,
        Err(error) => return Err(error).with_context(|| format!("read {}", link.display())),
    }
    sync_folder(link.parent().unwrap_or_else(|| Path::new("/"))).with_context(|| format!("sync the folder of {}", link.display()))
}

/// How `data/pg_wal` leads there. Inside the volume it is relative: a copy of the volume at another place has its own WAL, not its parent's.
fn link_text(layout: &Layout, to: &Path) -> PathBuf {
    to.strip_prefix(&layout.root).map_or_else(|_outside| to.to_owned(), |inside| Path::new("..").join(inside))
}

/// Undoes the first of the two renames that stand for an exchange.
fn put_back(layout: &Layout, link: &Path) -> Result<()> {
    let old = layout.data.join("pg_wal.old");
    if std::fs::symlink_metadata(link).is_err() && old.is_dir() { rename_durably(&old, link) } else { Ok(()) }
}

fn remove_old(path: &Path) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => remove_folder(path),
        Ok(_) => std::fs::remove_file(path).with_context(|| format!("remove {}", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Volume {
        _folder: tempfile::TempDir,
        layout: Layout,
    }

    fn volume() -> Volume {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(&folder.path().join("volume"), None, folder.path());
        std::fs::create_dir_all(layout.data.join("pg_wal/archive_status")).unwrap();
        std::fs::write(layout.data.join("pg_wal/000000010000000000000001"), "wal").unwrap();
        Volume { _folder: folder, layout }
    }

    fn place(layout: &Layout) -> Result<Placed> {
        super::place(layout, &mut Remembered::read(layout)?, None, Whose::Own)
    }

    fn assert_placed(layout: &Layout) {
        let link = layout.data.join("pg_wal");
        assert_eq!(std::fs::read_link(&link).unwrap(), link_text(layout, &layout.wal));
        assert_eq!(std::fs::read(link.join("000000010000000000000001")).unwrap(), b"wal");
        assert!(link.join("archive_status").is_dir());
        assert_eq!(Remembered::read(layout).unwrap().wal_move, None);
        let names: Vec<_> = std::fs::read_dir(&layout.data).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["pg_wal"]);
    }

    #[test]
    fn wal_goes_out_and_comes_back() {
        let volume = volume();
        let mut layout = volume.layout.clone();
        assert!(matches!(place(&layout).unwrap(), Placed::From(_)));
        assert_placed(&layout);
        assert_eq!(place(&layout).unwrap(), Placed::Already);
        layout.wal = layout.run.join("elsewhere");
        assert_eq!(place(&layout).unwrap(), Placed::From(volume.layout.wal.clone()));
        assert_placed(&layout);
        assert!(!volume.layout.wal.exists());
        assert_eq!(place(&volume.layout).unwrap(), Placed::From(layout.wal.clone()));
        assert_placed(&volume.layout);
    }

    #[test]
    fn a_copy_of_the_volume_has_its_own_wal() {
        let volume = volume();
        place(&volume.layout).unwrap();
        assert_eq!(std::fs::read_link(volume.layout.data.join("pg_wal")).unwrap(), Path::new("../wal"));
        // As one that was made by another hand.
        std::fs::remove_file(volume.layout.data.join("pg_wal")).unwrap();
        symlink(&volume.layout.wal, volume.layout.data.join("pg_wal")).unwrap();
        assert_eq!(place(&volume.layout).unwrap(), Placed::Already);
        assert_placed(&volume.layout);
    }

    #[test]
    fn a_forks_parent_keeps_its_wal() {
        let parent = volume();
        let mut layout = parent.layout.clone();
        layout.wal = layout.run.join("parents-wal");
        place(&layout).unwrap();
        let fork = volume();
        std::fs::remove_dir_all(&fork.layout.data).unwrap();
        std::fs::create_dir_all(&fork.layout.data).unwrap();
        symlink(&layout.wal, fork.layout.data.join("pg_wal")).unwrap();
        let place_fork = |layout: &Layout| {
            super::place(layout, &mut Remembered::read(layout).unwrap(), None, Whose::Fork).map_err(|error| error.to_string())
        };
        assert!(place_fork(&fork.layout).unwrap_err().contains("its parent's"));
        assert_placed(&layout);
        copy_folder(&layout.wal, &fork.layout.wal, None).unwrap();
        assert_eq!(place_fork(&fork.layout).unwrap(), Placed::Already);
        assert_placed(&fork.layout);
        assert_placed(&layout);
        // Nor is a move gone on with that the parent had begun.
        let begun = Move { from: layout.wal.clone(), to: parent.layout.wal.clone() };
        Remembered { wal_move: Some(begun), ..Remembered::read(&fork.layout).unwrap() }.write(&fork.layout).unwrap();
        assert!(place_fork(&fork.layout).unwrap_err().contains("copy it again"));
    }

    #[test]
    fn wal_that_a_server_holds_is_not_moved() {
        let volume = volume();
        place(&volume.layout).unwrap();
        let held = super::super::lock_wal(&volume.layout).unwrap();
        let mut layout = volume.layout.clone();
        layout.wal = layout.run.join("elsewhere");
        assert!(place(&layout).unwrap_err().to_string().contains("another's, which runs"));
        drop(held);
        place(&layout).unwrap();
        assert_placed(&layout);
    }

    #[test]
    fn a_folder_that_holds_something_is_not_written_to() {
        let volume = volume();
        std::fs::create_dir_all(&volume.layout.wal).unwrap();
        std::fs::write(volume.layout.wal.join("photo"), "x").unwrap();
        assert!(place(&volume.layout).unwrap_err().to_string().contains("is not empty"));
        assert!(volume.layout.wal.join("photo").exists() && volume.layout.data.join("pg_wal").is_dir());
    }

    /// What a kill leaves at each point of a move by copying, made by hand.
    #[test]
    fn a_move_that_was_cut_off_anywhere_ends_the_same() {
        for cut in 0..7 {
            let volume = volume();
            let layout = &volume.layout;
            let (link, from) = (layout.data.join("pg_wal"), layout.data.join("pg_wal"));
            let begun = Move { from: from.clone(), to: layout.wal.clone() };
            Remembered { wal_move: Some(begun), ..Remembered::read(layout).unwrap() }.write(layout).unwrap();
            if cut >= 1 {
                std::fs::create_dir_all(&layout.wal).unwrap();
                std::fs::write(layout.wal.join("000000010000000000000001"), "w").unwrap();
            }
            if cut >= 2 {
                clear(&layout.wal).unwrap();
                copy_folder(&from, &layout.wal, None).unwrap();
            }
            if cut >= 3 {
                symlink("../wal", layout.data.join("pg_wal.new")).unwrap();
            }
            match cut {
                4 => rename_durably(&link, &layout.data.join("pg_wal.old")).unwrap(),
                5 => renameat_with(CWD, &link, CWD, layout.data.join("pg_wal.new"), RenameFlags::EXCHANGE).unwrap(),
                // Renamed as a whole, and no link yet.
                6 => {
                    clear(&layout.wal).unwrap();
                    rename_durably(&from, &layout.wal).unwrap();
                }
                _ => {}
            }
            place(layout).unwrap();
            assert_placed(layout);
        }
    }
}
