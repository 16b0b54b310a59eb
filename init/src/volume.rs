//! The volume: what lies where, what state it is in, and files that are whole or not there.

use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, FlockOperation, OFlags};
use serde::{Deserialize, Serialize};

use crate::account::Account;

pub mod wal;

/// Where everything is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The volume itself.
    pub root: PathBuf,
    /// PGDATA.
    pub data: PathBuf,
    /// A data folder that is being made.
    pub data_new: PathBuf,
    /// The layers of Postgres' configuration.
    pub conf: PathBuf,
    /// What `data/pg_wal` shall link to.
    pub wal: PathBuf,
    /// What is remembered of the volume.
    pub state: PathBuf,
    /// The data of the sink tier.
    pub sink: PathBuf,
    /// Space that is given back when the disk is full.
    pub ballast: PathBuf,
    /// Sockets, and what does not outlive a boot.
    pub run: PathBuf,
    /// Where `status`, `stop` and `reload` are heard.
    pub control: PathBuf,
}

impl Layout {
    /// Whether this lies in the volume, so that a copy of the volume has its own.
    #[must_use]
    pub fn holds(&self, path: &Path) -> bool {
        let known = |path: &Path| path.canonicalize().unwrap_or_else(|_missing| path.to_owned());
        known(path).starts_with(known(&self.root))
    }

    /// The layout of a volume, with its WAL elsewhere where `wal` says so.
    #[must_use]
    pub fn new(root: &Path, wal: Option<&Path>, run: &Path) -> Self {
        let data = root.join("data");
        Self {
            conf: data.join("conf.d"),
            data,
            data_new: root.join("data.new"),
            wal: wal.map_or_else(|| root.join("wal"), Path::to_owned),
            state: root.join("beyond-pg.json"),
            sink: root.join("sink"),
            ballast: root.join("ballast"),
            control: run.join("control.sock"),
            root: root.to_owned(),
            run: run.to_owned(),
        }
    }

    /// The socket of Postgres or PgBouncer at this port.
    #[must_use]
    pub fn socket(&self, port: u16) -> PathBuf {
        self.run.join(format!(".s.PGSQL.{port}"))
    }
}

/// What is remembered of a volume: it goes with it, into a fork as well.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remembered {
    /// The version of this file.
    pub layout: u32,
    /// Whose volume it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// The recovery target that was reached: it is not recovered to again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pitr_done: Option<String>,
    /// The recovery target that the server was prepared for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pitr_begun: Option<String>,
    /// Whether the WAL sink has ever held WAL of this volume: an empty one is then none to start without.
    #[serde(default)]
    pub sink_has_wal: bool,
    /// The store that WAL is archived to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive_store: Option<String>,
    /// The stores of the databases that this is a fork of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents_stores: Vec<String>,
    /// What a promotion has made of this standby, from the moment that it was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promotion: Option<Promotion>,
    /// Who else is the primary: this one is none any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fenced: Option<Fenced>,
    /// Whether commits do without a standby, since there has been none after the promotion.
    #[serde(default, skip_serializing_if = "is_false")]
    pub without_standby: bool,
    /// On a primary: the copy of the standby that commits wait for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby: Option<String>,
    /// On a standby: which copy of the primary this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<String>,
    /// Set while a former primary is turned into a standby of the present one.
    #[serde(default, skip_serializing_if = "is_false")]
    pub rejoining: bool,
    /// The run of the kernel in which that was begun: what is not synced is lost with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejoin_boot: Option<String>,
    /// Whether the database says of a standby that it is in step.
    #[serde(default, skip_serializing_if = "is_false")]
    pub in_step_noted: bool,
    /// Set while WAL is moved from one folder to another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_move: Option<wal::Move>,
    /// What was taken from this fork when it was found to be one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cleared: Vec<String>,
    /// The user's files that were set aside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set_aside: Vec<String>,
}

/// A promotion. It stands above the setting of the tier, which may be set anew much later.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promotion {
    /// The timeline that is left.
    pub from: u32,
    /// The timeline that was begun; `None` until it is.
    pub to: Option<u32>,
    /// What may be missing, where it was forced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub in_spite_of: Vec<String>,
}

/// The end of a primary: another has taken over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fenced {
    /// Its health port.
    pub by: String,
    /// Its timeline.
    pub timeline: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// The version of [`Remembered`] that is written.
const LAYOUT: u32 = 1;

impl Remembered {
    /// What the file says; the default where there is none.
    ///
    /// # Errors
    /// Where it can't be read, or is of a later version.
    pub fn read(layout: &Layout) -> Result<Self> {
        let path = &layout.state;
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self { layout: LAYOUT, ..Self::default() }),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let remembered: Self = serde_json::from_slice(&text).with_context(|| {
            format!("{} is not what this version writes: a later version has, or it is damaged", path.display())
        })?;
        if remembered.layout != LAYOUT {
            bail!(
                "{} is of layout {}, this version knows {LAYOUT}: use the version that wrote it",
                path.display(),
                remembered.layout
            );
        }
        Ok(remembered)
    }

    /// Forgets what it was to others, as a primary or as another copy of one: it is a standby from now on.
    pub fn begin_as_standby(&mut self) {
        (self.standby, self.copy, self.rejoin_boot) = (None, None, None);
        (self.promotion, self.fenced, self.rejoining) = (None, None, false);
        (self.without_standby, self.in_step_noted) = (false, false);
    }

    /// Writes it, durably.
    ///
    /// # Errors
    /// Where the volume can't be written.
    pub fn write(&self, layout: &Layout) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        write_durably(&layout.state, &text, 0o600, None)?;
        Ok(())
    }
}

/// What a data folder is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// Nothing is there.
    Absent,
    /// A cluster of this major version.
    Cluster(u32),
}

/// Looks at the data folder.
///
/// # Errors
/// Where something else is there: it is never touched.
pub fn look(layout: &Layout) -> Result<Data> {
    let data = &layout.data;
    let version = data.join("PG_VERSION");
    match std::fs::read_to_string(&version) {
        Ok(text) => {
            let text = text.trim();
            let major =
                text.parse().ok().with_context(|| format!("{} says {text:?}: no version of Postgres", version.display()))?;
            Ok(Data::Cluster(major))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if is_empty(data)? {
                return Ok(Data::Absent);
            }
            bail!(
                "{} holds files but no PG_VERSION: it is not a data folder of Postgres. Move what is there elsewhere, or name another \
                 volume by BEYOND_PG_VOLUME",
                data.display()
            )
        }
        Err(error) => Err(error).with_context(|| format!("read {}", version.display())),
    }
}

/// Whether there is nothing in the folder, or no folder.
///
/// # Errors
/// Where it can't be read.
pub fn is_empty(folder: &Path) -> Result<bool> {
    match std::fs::read_dir(folder) {
        // A folder that is the root of a filesystem has this one in it.
        Ok(entries) => Ok(entries.filter_map(Result::ok).all(|entry| entry.file_name() == "lost+found")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error).with_context(|| format!("read {}", folder.display())),
    }
}

/// Makes a folder where there is none, and gives it its mode and owner.
///
/// # Errors
/// Where the disk does not take it.
pub fn make_folder(folder: &Path, mode: u32, owner: Option<&Account>) -> Result<()> {
    let what = || format!("make the folder {}", folder.display());
    DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(|error| full_or(error, folder)).with_context(what)?;
    let meta = folder.metadata().with_context(what)?;
    if let Some(owner) = owner.filter(|owner| (owner.uid, owner.gid) != (meta.uid(), meta.gid())) {
        chown(folder, Some(owner.uid), Some(owner.gid)).with_context(what)?;
    }
    if meta.permissions().mode() & 0o7777 != mode
        && owner.is_none_or(|owner| owner.uid == meta.uid() || rustix::process::geteuid().is_root())
    {
        std::fs::set_permissions(folder, Permissions::from_mode(mode)).with_context(what)?;
    }
    Ok(())
}

/// The same for a folder within one that the owner has: as root, a link that the owner put there is not followed.
///
/// # Errors
/// Where the disk does not take it, or there is a link, or no folder.
pub fn make_folder_within(folder: &Path, mode: u32, owner: Option<&Account>) -> Result<()> {
    let what = || format!("make the folder {}", folder.display());
    let mode = rustix::fs::Mode::from_raw_mode(mode);
    match rustix::fs::mkdir(folder, mode) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(full_or(error.into(), folder)).with_context(what),
    }
    let held = open_folder(folder, owner).with_context(what)?;
    if let Some(owner) = owner {
        chown_file(&held, owner).with_context(what)?;
    }
    rustix::fs::fchmod(&held, mode).with_context(what)
}

/// Opens a folder that files are put into. One that an account owns may have been exchanged for a link by it: that is not followed.
fn open_folder(folder: &Path, owner: Option<&Account>) -> io::Result<OwnedFd> {
    let no_link = if owner.is_some() { OFlags::NOFOLLOW } else { OFlags::empty() };
    Ok(rustix::fs::open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | no_link, rustix::fs::Mode::empty())?)
}

fn chown_file(file: impl AsFd, owner: &Account) -> io::Result<()> {
    let (uid, gid) = (rustix::fs::Uid::from_raw(owner.uid), rustix::fs::Gid::from_raw(owner.gid));
    Ok(rustix::fs::fchown(file, Some(uid), Some(gid))?)
}

/// Gives the file these contents: after a crash it has either the old or the new ones. `false` where it has them already.
///
/// # Errors
/// Where the disk does not take it.
pub fn write_durably(path: &Path, contents: &[u8], mode: u32, owner: Option<&Account>) -> Result<bool> {
    if std::fs::read(path).is_ok_and(|held| held == contents) {
        return Ok(false);
    }
    let what = || format!("write {}", path.display());
    let folder = path.parent().context("a file lies in a folder")?;
    let name = path.file_name().context("a file has a name")?.to_string_lossy();
    let draft = format!(".{name}.tmp");
    let write = || -> io::Result<()> {
        let folder = open_folder(folder, owner)?;
        // Of a boot that was killed; or what somebody put there for us to write through.
        match rustix::fs::unlinkat(&folder, &draft, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&folder, &draft, flags, rustix::fs::Mode::from_raw_mode(0o600))?;
        let mut file = File::from(file);
        file.write_all(contents)?;
        if let Some(owner) = owner {
            chown_file(&file, owner)?;
        }
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        rustix::fs::renameat(&folder, &draft, &folder, &*name)?;
        Ok(rustix::fs::fsync(&folder)?)
    };
    write().map_err(|error| full_or(error, path)).with_context(what)?;
    Ok(true)
}

/// Renames, durably.
///
/// # Errors
/// Where the disk does not take it.
pub fn rename_durably(from: &Path, to: &Path) -> Result<()> {
    let rename = || -> io::Result<()> {
        rustix::fs::rename(from, to)?;
        sync_folder(to.parent().unwrap_or_else(|| Path::new("/")))
    };
    rename().with_context(|| format!("rename {} to {}", from.display(), to.display()))
}

/// Proves that the folder can be written.
///
/// # Errors
/// Where it can't, with the way out.
pub fn probe(folder: &Path) -> Result<()> {
    let path = folder.join(".beyond-pg.probe");
    let write = || -> io::Result<()> {
        let mut file = File::create(&path)?;
        file.write_all(&[0; 4096])?;
        file.sync_all()?;
        std::fs::remove_file(&path)
    };
    write().map_err(|error| full_or(error, &path)).with_context(|| format!("write to {}", folder.display()))
}

/// Removes a folder with all that is in it, where it is there.
///
/// # Errors
/// Where the disk does not let it go.
pub fn remove_folder(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("remove {}", folder.display())),
    }
}

/// Makes the names in a folder durable.
///
/// # Errors
/// Where fsync fails.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Removes a file for good. `true` where there was one.
///
/// # Errors
/// Where it can't be removed.
pub fn remove_durably(path: &Path) -> Result<bool> {
    let what = || format!("remove {}", path.display());
    match std::fs::remove_file(path) {
        Ok(()) => sync_folder(path.parent().context("a file lies in a folder")?).map(|()| true).with_context(what),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(what),
    }
}

/// Bytes that are free for users other than root, and all bytes.
///
/// # Errors
/// Where there is no such folder.
pub fn space(folder: &Path) -> Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(folder).with_context(|| format!("read how much of {} is free", folder.display()))?;
    Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
}

/// Holds the volume for this process alone, until the file is closed. The kernel lets go when the process dies.
///
/// # Errors
/// Where another process holds it.
pub fn lock(layout: &Layout) -> Result<File> {
    let path = layout.root.join(".beyond-pg.lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(|error| full_or(error, &path))?;
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!("the volume {} is in use: another beyond-pg runs on it; stop that one first", layout.root.display());
    }
    Ok(file)
}

/// Holds the folder of the WAL for this process alone: a fork may lead to its parent's.
///
/// # Errors
/// Where another process holds it.
pub fn lock_wal(layout: &Layout) -> Result<File> {
    lock_folder(&layout.wal)
}

fn lock_folder(wal: &Path) -> Result<File> {
    let folder = File::open(wal).with_context(|| format!("open {}", wal.display()))?;
    if rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!(
            "the WAL in {} is another's, which runs: this volume is a copy of its. Copy that folder too, and name the copy by BEYOND_PG_WAL_DIR",
            wal.display()
        );
    }
    Ok(folder)
}

/// What `postmaster.pid` says. Source: `src/include/utils/pidfile.h`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostmasterPid {
    /// Line 1.
    pub pid: i32,
    /// Line 8: `starting`, `stopping`, `ready` or `standby`; empty where it is not there yet.
    pub status: String,
}

impl PostmasterPid {
    /// Reads the text of the file; `None` where not even the number is there.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let pid = lines.next()?.trim().parse().ok().filter(|pid| *pid > 0)?;
        Some(Self { pid, status: lines.nth(6).unwrap_or_default().trim().to_owned() })
    }

    /// The one of this data folder.
    #[must_use]
    pub fn of(data: &Path) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(data.join("postmaster.pid")).ok()?)
    }
}

/// Says of an error that it means a full or read-only disk, with the way out.
fn full_or(error: io::Error, path: &Path) -> anyhow::Error {
    let way_out = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "the disk is full: give it space, then start again",
        io::ErrorKind::ReadOnlyFilesystem => "the filesystem is read-only: mount it for writing (its log says why it is not)",
        io::ErrorKind::PermissionDenied => {
            "this account may not write there: give it the folder, or name another by BEYOND_PG_VOLUME"
        }
        _ => return error.into(),
    };
    anyhow::Error::new(error).context(format!("{}: {way_out}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_folder_is_a_cluster_absent_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path(), None, folder.path());
        assert_eq!(look(&layout).unwrap(), Data::Absent);
        make_folder(&layout.data, 0o700, None).unwrap();
        assert_eq!(look(&layout).unwrap(), Data::Absent);
        std::fs::write(layout.data.join("diary"), "").unwrap();
        assert!(look(&layout).unwrap_err().to_string().contains("no PG_VERSION"));
        std::fs::write(layout.data.join("PG_VERSION"), "18\n").unwrap();
        assert_eq!(look(&layout).unwrap(), Data::Cluster(18));
        std::fs::write(layout.data.join("PG_VERSION"), "eighteen\n").unwrap();
        assert!(look(&layout).unwrap_err().to_string().contains("no version of Postgres"));
    }

    #[test]
    fn what_is_remembered_comes_back_and_what_is_unknown_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path(), None, folder.path());
        let fresh = Remembered::read(&layout).unwrap();
        assert_eq!(fresh.identity, None);
        let known = Remembered { identity: Some("i-1".to_owned()), pitr_done: Some("0/1".to_owned()), ..fresh };
        known.write(&layout).unwrap();
        assert_eq!(Remembered::read(&layout).unwrap(), known);
        std::fs::write(&layout.state, r#"{"layout":1,"future":true}"#).unwrap();
        assert!(Remembered::read(&layout).is_err());
        std::fs::write(&layout.state, r#"{"layout":2}"#).unwrap();
        assert!(Remembered::read(&layout).unwrap_err().to_string().contains("layout 2"));
    }

    #[test]
    fn the_same_contents_are_not_written_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        assert!(write_durably(&path, b"a", 0o600, None).unwrap());
        assert!(!write_durably(&path, b"a", 0o600, None).unwrap());
        assert!(write_durably(&path, b"b", 0o600, None).unwrap());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn one_program_holds_a_volume() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path(), None, folder.path());
        let held = lock(&layout).unwrap();
        assert!(lock(&layout).unwrap_err().to_string().contains("is in use"));
        drop(held);
        lock(&layout).unwrap();
    }

    #[test]
    fn a_pid_file_is_read_as_far_as_it_is_written() {
        let text = "42\n/data\n1700000000\n5433\n/run\n127.0.0.1\n  1 2\nready   \n";
        assert_eq!(PostmasterPid::parse(text), Some(PostmasterPid { pid: 42, status: "ready".to_owned() }));
        assert_eq!(PostmasterPid::parse("42\n/data\n"), Some(PostmasterPid { pid: 42, status: String::new() }));
        for broken in ["", "\n", "-1\n", "x\n"] {
            assert_eq!(PostmasterPid::parse(broken), None);
        }
    }
}
