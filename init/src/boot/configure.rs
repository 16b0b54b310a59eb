//! Configuration: our layers are written, the user's are checked, and what does not work is set aside.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::Boot;
use crate::account::Account;
use crate::live::SINK_LAYER;
use crate::settings::Tier;
use crate::supervise::Notch;
use crate::volume::{Layout, make_folder_within, remove_durably, rename_durably, write_durably};

/// The line of ours in `postgresql.conf`.
const INCLUDE: &str = "include_dir = 'conf.d'";

/// What a file that is set aside is called: a name that Postgres does not read.
const ASIDE: &str = "set-aside";

/// Names of the layers that are ours.
const OURS: [&str; 6] = ["10-fixed.conf", "20-tuning.conf", "30-tier.conf", "40-disk.conf", SINK_LAYER, crate::ha::LAYER];

/// Settings that no Postgres knows, by which `recover` and `restore` keep it from starting on what they have not ended, and what ends it.
const GUARDS: [(&str, &str); 2] = [
    (
        "beyond_pg_sink_recover_has_not_finished_run_it_again",
        "boot with the BEYOND_PG_WAL_SINK and the BEYOND_PG_IDENTITY that it had, which goes on with it; or, to lose the commits that only the \
         sink has, beyond-pg-sink recover --abandon --pgdata DIR",
    ),
    (
        "beyond_pg_archiver_restore_has_not_finished_run_it_again",
        "boot with the BEYOND_PG_PITR_TARGET that it had, which goes on with it; or take it back by beyond-pg-archiver restore --undo --pgdata DIR",
    ),
];

impl Boot<'_> {
    /// Writes our layers, where they have changed.
    pub(super) fn config(&mut self) -> Result<()> {
        self.remember_store()?;
        self.write_layers()?;
        let (layout, account) = (self.layout.clone(), self.account.clone());
        self.engine.on_set_aside(Box::new(move |notch| set_aside_notch(&layout, account.as_ref(), notch).unwrap_or_default()));
        Ok(())
    }

    /// Renders and writes all layers. `true` where one has changed.
    pub(crate) fn write_layers(&mut self) -> Result<bool> {
        let files = self.render()?;
        let owner = self.owner();
        make_folder_within(&self.layout.conf, 0o700, owner)?;
        include_layers(&self.layout.data, owner)?;
        let mut changed = self.write_ha_layer()?;
        if self.layout.conf.join(SINK_LAYER).exists() {
            changed |= self.write_sink_layer()?;
        }
        for file in files {
            changed |= write_durably(&self.place_of(&file), file.text.as_bytes(), 0o600, owner)?;
        }
        Ok(changed)
    }

    /// Writes the layer that has commits not wait for the sink: with who they wait for still. Without a sink there is none.
    pub(crate) fn write_sink_layer(&self) -> Result<bool> {
        let path = self.layout.conf.join(SINK_LAYER);
        if self.settings.wal_sink.is_none() || self.settings.tier != Tier::Primary {
            return remove_durably(&path);
        }
        let names = crate::ha::synchronous_names(self.standby_name().as_deref(), None);
        let text = format!("# The WAL sink is away. Taken back when it has caught up.\nsynchronous_standby_names = '{names}'\n");
        write_durably(&path, text.as_bytes(), 0o600, self.owner())
    }

    /// Whether Postgres takes all of its configuration; what of the user's it does not take is set aside.
    pub(super) fn check(&mut self) -> Result<()> {
        // Once for each file that may be wrong, and a bound where that does not end.
        for _ in 0..64 {
            let outcome =
                self.engine.run(self.of_postgres("postgres", &["-D", &self.data_arg(), "-C", "data_directory"])?.quiet())?;
            if outcome.is_success() {
                return Ok(());
            }
            let (blamed, setters) = (blamed(&outcome.lines), self.setters(&outcome.lines));
            let users: Vec<PathBuf> = match (blamed.as_slice(), setters.is_empty()) {
                ([], true) => user_files(&self.layout),
                ([], false) => setters,
                (blamed, _) => blamed.iter().filter(|path| is_users(&self.layout, path)).cloned().collect(),
            };
            if let Some((_, way_out)) = GUARDS.iter().find(|(setting, _)| outcome.lines.iter().any(|line| line.contains(setting))) {
                bail!("the volume is half recovered, and Postgres must not start on it: {way_out}");
            }
            if users.is_empty() {
                bail!("Postgres does not take its configuration: {}", outcome.said());
            }
            if self.remembered.pitr_begun.is_some() && users.contains(&self.layout.data.join("postgresql.auto.conf")) {
                bail!(
                    "what ALTER SYSTEM has set is wrong, and can't be set aside: the settings of the recovery are in the same file. Correct \
                     postgresql.auto.conf: {}",
                    outcome.said()
                );
            }
            for path in users {
                self.set_aside(&path, &outcome.said())?;
            }
        }
        bail!("Postgres does not take its configuration, whatever is set aside")
    }

    /// The user's files that set what has a value that can't be: Postgres names the parameter then, and no file.
    fn setters(&self, lines: &[String]) -> Vec<PathBuf> {
        let invalid = lines.iter().filter_map(|line| line.split_once("invalid value for parameter \"")?.1.split('"').next());
        let names: Vec<&str> = invalid.collect();
        let mut files = user_files(&self.layout);
        files.extend(["postgresql.conf", "postgresql.auto.conf"].map(|name| self.layout.data.join(name)));
        files.retain(|path| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            names.iter().any(|name| super::identity::sets(&text, name))
        });
        files
    }

    /// Remembers what was set aside while the server was started.
    pub(crate) fn remember_set_aside(&mut self) -> Result<()> {
        let said = self.engine.board.set_aside.clone();
        if said.iter().all(|file| self.remembered.set_aside.contains(file)) {
            return Ok(());
        }
        said.into_iter().try_for_each(|file| self.note_set_aside(file))
    }

    fn set_aside(&mut self, path: &Path, why: &str) -> Result<()> {
        let aside = set_aside(&self.layout, self.account.as_ref(), path)?;
        self.engine.log().error("check", format_args!("{} is set aside as {}: {why}", path.display(), aside.display()));
        self.note_set_aside(aside.display().to_string())
    }

    pub(crate) fn note_set_aside(&mut self, file: String) -> Result<()> {
        if !self.remembered.set_aside.contains(&file) {
            self.remembered.set_aside.push(file);
            self.remembered.write(&self.layout)?;
        }
        self.engine.board.set_aside = self.remembered.set_aside.clone();
        Ok(())
    }
}

/// Sees to it that `postgresql.conf` reads the layers.
fn include_layers(data: &Path, owner: Option<&Account>) -> Result<()> {
    let path = data.join("postgresql.conf");
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    if text.lines().any(|line| line.trim() == INCLUDE) {
        return Ok(());
    }
    let text =
        format!("{text}\n# What beyond-pg writes, and what you add: files are read in the order of their names.\n{INCLUDE}\n");
    write_durably(&path, text.as_bytes(), 0o600, owner)?;
    Ok(())
}

/// The files that Postgres names as wrong.
fn blamed(lines: &[String]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in lines {
        // `in file "X" line 3`, `syntax error in file "X" line 3`; `could not open configuration file "X"`.
        let Some(from) = line.find("file \"") else { continue };
        if line.contains("configuration file") && line.contains("contains errors") {
            continue;
        }
        let name = line.get(from + 6..).and_then(|rest| rest.split('"').next()).unwrap_or_default();
        let path = PathBuf::from(name);
        if path.is_absolute() && !files.contains(&path) {
            files.push(path);
        }
    }
    files
}

fn is_users(layout: &Layout, path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    let in_layers = path.parent() == Some(&layout.conf) && !OURS.iter().any(|ours| name == *ours);
    in_layers || path == layout.data.join("postgresql.conf") || path == layout.data.join("postgresql.auto.conf")
}

/// The user's files among the layers.
pub(super) fn user_files(layout: &Layout) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(&layout.conf) else { return Vec::new() };
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "conf") && is_users(layout, path)).collect()
}

fn set_aside_notch(layout: &Layout, account: Option<&Account>, notch: Notch) -> Result<Vec<String>> {
    let files = match notch {
        Notch::AlterSystem => vec![layout.data.join("postgresql.auto.conf")],
        Notch::Files => user_files(layout),
    };
    files.iter().map(|path| set_aside(layout, account, path).map(|aside| aside.display().to_string())).collect()
}

/// Gives a file a name that is not read; an older one of that name goes.
pub(super) fn set_aside(layout: &Layout, account: Option<&Account>, path: &Path) -> Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.with_file_name(format!("{name}.{ASIDE}"));
    rename_durably(path, &aside)?;
    if path == layout.data.join("postgresql.conf") {
        include_layers(&layout.data, account)?;
    }
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_to_blame_are_named_by_postgres() {
        let lines = [
            "2026 LOG:  invalid value for parameter \"work_mem\": \"lots\"",
            "2026 LOG:  syntax error in file \"/v/data/conf.d/90-user.conf\" line 1, near token \"=\"",
            "2026 LOG:  unrecognized configuration parameter \"x\" in file \"/v/data/conf.d/91.conf\" line 4",
            "2026 FATAL:  configuration file \"/v/data/postgresql.conf\" contains errors",
        ];
        let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        assert_eq!(blamed(&lines), [PathBuf::from("/v/data/conf.d/90-user.conf"), PathBuf::from("/v/data/conf.d/91.conf")]);
    }

    #[test]
    fn the_users_files_are_told_from_ours_and_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path(), None, folder.path());
        std::fs::create_dir_all(&layout.conf).unwrap();
        for name in ["10-fixed.conf", "90-user.conf", "note.txt"] {
            std::fs::write(layout.conf.join(name), "").unwrap();
        }
        assert_eq!(user_files(&layout), [layout.conf.join("90-user.conf")]);
        let aside = set_aside_notch(&layout, None, Notch::Files).unwrap();
        assert_eq!(aside, [layout.conf.join("90-user.conf.set-aside").display().to_string()]);
        assert!(user_files(&layout).is_empty());
        include_layers(&layout.data, None).unwrap();
        include_layers(&layout.data, None).unwrap();
        let text = std::fs::read_to_string(layout.data.join("postgresql.conf")).unwrap();
        assert_eq!(text.matches(INCLUDE).count(), 1);
    }
}
