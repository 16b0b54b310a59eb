//! The volume, and a cluster on it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::{Boot, SUPERUSER, check_version};
use crate::ha::Conninfo;
use crate::machine;
use crate::settings::Tier;
use crate::volume::{self, Data, PostmasterPid, Remembered, look, make_folder, remove_folder, rename_durably};

impl Boot<'_> {
    /// The volume's folders and its lock; what runs on it still is stopped; what is not ours is refused.
    pub(super) fn volume(&mut self) -> Result<()> {
        let layout = self.layout.clone();
        make_folder(&layout.root, 0o755, None)?;
        self._lock = Some(volume::lock(&layout)?);
        make_folder(&layout.run, 0o755, self.owner())?;
        self.remembered = Remembered::read(&layout)?;
        self.engine.board.cleared = self.remembered.cleared.clone();
        self.engine.board.set_aside = self.remembered.set_aside.clone();
        self.engine.listen_control(&layout.control)?;
        if let Some(address) = self.settings.health_listen {
            self.engine.listen_health(address)?;
        }
        // A volume that can't be written is found here, and not half-way.
        self.remembered.layout = 1;
        self.remembered.write(&layout)?;
        volume::probe(&layout.root)?;
        if self.settings.tier == Tier::Sink {
            return make_folder(&layout.sink, 0o700, self.owner());
        }
        let data = look(&layout)?;
        self.major = self.major_version()?;
        check_version(&data, self.major, &layout)?;
        self.end_old_server()?;
        self.decide_role()
    }

    /// Asks the programs which version they are of.
    fn major_version(&mut self) -> Result<u32> {
        let outcome = self.engine.run(self.of_postgres("postgres", &["--version"])?.quiet())?;
        let said = outcome.said();
        // "postgres (PostgreSQL) 18.6 (Debian 18.6-3)", or 19beta1.
        let version = said.split(' ').nth(2).unwrap_or_default();
        let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
        let major = digits.parse().ok().with_context(|| {
            format!(
                "{} --version says {said:?}",
                self.programs.as_ref().map_or_else(String::new, |programs| programs.of_postgres("postgres").display().to_string())
            )
        })?;
        if !(15..=18).contains(&major) {
            bail!("Postgres {major}: versions 15 to 18 are known; name one of them by BEYOND_PG_BIN_DIR");
        }
        Ok(major)
    }

    /// What an earlier `beyond-pg` left behind when it was killed: it is on its way down, and is helped.
    fn end_old_server(&mut self) -> Result<()> {
        let Some(named) = PostmasterPid::of(&self.layout.data) else { return self.remove_socket_lock() };
        let (seconds, pid) = (Duration::from_secs, Pid::from_raw(named.pid));
        let mut signals =
            [(Signal::INT, self.settings.stop_timeout), (Signal::QUIT, seconds(15)), (Signal::KILL, seconds(15))].into_iter();
        let mut until = self.engine.now();
        loop {
            let running = servers_of(&self.layout.data);
            if running.is_empty() {
                break;
            }
            if self.engine.now() >= until {
                let Some((signal, time)) = signals.next() else {
                    bail!("a server runs on the volume and does not end: end it by hand")
                };
                self.engine.log().warn(
                    "volume",
                    format_args!("{} processes of a server run on the volume: stopping it by {signal:?}", running.len()),
                );
                // Without their postmaster, the others are told one by one.
                let postmaster: Vec<Pid> = running.iter().copied().filter(|found| Some(*found) == pid).collect();
                for pid in if postmaster.is_empty() { running } else { postmaster } {
                    kill_process(pid, signal).ok();
                }
                until = self.engine.now() + time;
            }
            self.engine.pause_whole(Duration::from_millis(10))?;
        }
        // Of this folder nobody runs. Where the number is another's by now, such as the parent's of this fork, Postgres would not start.
        if pid.is_some_and(|pid| test_kill_process(pid).is_ok()) && PostmasterPid::of(&self.layout.data).as_ref() == Some(&named) {
            self.engine.log().warn(
                "volume",
                format_args!("postmaster.pid names process {}, which is no server of this folder: removed", named.pid),
            );
            std::fs::remove_file(self.layout.data.join("postmaster.pid")).context("remove the stale postmaster.pid")?;
        }
        self.remove_socket_lock()
    }

    /// The lock of the socket of a server of this folder that was killed: Postgres would not start where its number is another's by now.
    fn remove_socket_lock(&self) -> Result<()> {
        let mut lock = self.layout.socket(self.settings.port).into_os_string();
        lock.push(".lock");
        let text = std::fs::read_to_string(&lock).unwrap_or_default();
        // Line 2 is the data folder.
        let is_ours = text.lines().nth(1).is_some_and(|folder| Path::new(folder) == self.layout.data);
        if !is_ours || !servers_of(&self.layout.data).is_empty() {
            return Ok(());
        }
        std::fs::remove_file(&lock).context("remove the stale lock of Postgres' socket")
    }

    /// A cluster, where there is none: made beside, and named when it is whole.
    pub(super) fn initdb(&mut self) -> Result<()> {
        if look(&self.layout)? != Data::Absent {
            return Ok(());
        }
        self.begin_folder()?;
        let folder = self.layout.data_new.display().to_string();
        let mut args = vec!["-D", &folder, "-U", SUPERUSER, "-E", "UTF8", "--auth-local=peer", "--auth-host=scram-sha-256"];
        args.extend(["--data-checksums", "--no-instructions"]);
        if self.major >= 17 {
            // The collation does not change with the machine's libraries, and sorts fast.
            args.extend(["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]);
        } else {
            args.push("--locale=C.UTF-8");
        }
        let outcome = self.engine.run(self.of_postgres("initdb", &args)?)?;
        if !outcome.is_success() {
            bail!("initdb failed: {}", outcome.said());
        }
        self.fresh = true;
        self.name_folder()
    }

    /// On a replica: a copy of its primary, where there is none.
    pub(super) fn base(&mut self) -> Result<()> {
        if look(&self.layout)? == Data::Absent {
            // What an earlier folder of this volume was is over, before the new one has its name.
            self.remembered.begin_as_standby();
            self.remembered.write(&self.layout)?;
            self.copy_primary()?;
        } else if self.was_primary() {
            self.rejoin()?;
        }
        let signal = self.layout.data.join("standby.signal");
        if !signal.exists() {
            volume::write_durably(&signal, b"", 0o600, self.owner())?;
        }
        if self.remembered.copy.is_none() {
            let uuid = machine::kernel_random("uuid").context("make a name for this copy")?;
            self.remembered.copy = uuid.split('-').next().map(str::to_owned);
            self.remembered.write(&self.layout)?;
        }
        Ok(())
    }

    fn copy_primary(&mut self) -> Result<()> {
        let mut wait = Duration::from_millis(500);
        loop {
            self.begin_folder()?;
            let folder = self.layout.data_new.display().to_string();
            let (conninfo, password) = self.primary_without_password()?;
            let args = ["-D", &folder, "-d", &conninfo.text(), "-X", "stream", "-c", "fast", "--no-password"];
            let outcome = self.engine.run(self.of_postgres("pg_basebackup", &args)?.envs(password))?;
            if outcome.is_success() {
                volume::write_durably(&self.layout.data_new.join("standby.signal"), b"", 0o600, self.owner())?;
                return self.name_folder();
            }
            // The primary may not be up yet.
            self.engine.board.not_ready = Some(format!("the primary can't be copied: {}", outcome.said()));
            self.engine
                .log()
                .error("base", format_args!("the primary can't be copied, tried again in {wait:?}: {}", outcome.said()));
            self.engine.pause_whole(wait)?;
            wait = (wait * 2).min(Duration::from_secs(15));
        }
    }

    /// How the primary is reached, and the password for the environment: arguments are for everybody to read.
    pub(super) fn primary_without_password(&self) -> Result<(Conninfo, Option<(String, String)>)> {
        let conninfo = self.settings.primary_conninfo.as_ref().context("BEYOND_PG_PRIMARY_CONNINFO is not set")?;
        let (conninfo, password) =
            Conninfo::parse(conninfo.reveal()).context("BEYOND_PG_PRIMARY_CONNINFO does not parse")?.without("password");
        Ok((conninfo, password.map(|password| ("PGPASSWORD".to_owned(), password))))
    }

    /// An empty `data.new`; what an earlier boot left half-made goes.
    fn begin_folder(&self) -> Result<()> {
        remove_folder(&self.layout.data_new)?;
        make_folder(&self.layout.data_new, 0o700, self.owner())
    }

    fn name_folder(&self) -> Result<()> {
        let layout = &self.layout;
        // An empty folder, as a volume may have it prepared.
        if layout.data.exists() {
            std::fs::remove_dir(&layout.data).with_context(|| format!("remove the empty {}", layout.data.display()))?;
        }
        rename_durably(&layout.data_new, &layout.data)
    }

    /// WAL where the settings have it.
    pub(super) fn wal_dir(&mut self) -> Result<()> {
        let account = self.account.clone();
        let whose = if self.is_fork() { volume::wal::Whose::Fork } else { volume::wal::Whose::Own };
        match volume::wal::place(&self.layout, &mut self.remembered, account.as_ref(), whose)? {
            volume::wal::Placed::Already => {}
            volume::wal::Placed::From(from) => {
                self.engine
                    .log()
                    .info("wal_dir", format_args!("WAL moved from {} to {}", from.display(), self.layout.wal.display()));
            }
        }
        self._wal_lock = Some(volume::lock_wal(&self.layout)?);
        Ok(())
    }
}

/// The processes of a server that runs in this folder: all of them have it as their current one.
fn servers_of(data: &Path) -> Vec<Pid> {
    let (Ok(data), Ok(entries)) = (data.canonicalize(), std::fs::read_dir("/proc")) else { return Vec::new() };
    let of_this = |entry: &std::fs::DirEntry| {
        std::fs::read_link(entry.path().join("cwd")).is_ok_and(|folder| folder == data)
            && std::fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| name.trim() == "postgres")
    };
    let found = entries.filter_map(Result::ok).filter(of_this);
    found.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)).collect()
}
