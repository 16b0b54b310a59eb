//! What the server is configured with, as far as its files say.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use walbus::pgdata::{AUTO_CONF, ConfigLine, config_lines};

use super::settings::BLOCK;

/// The configuration's first file, where it is in the data folder.
const CONF: &str = "postgresql.conf";

/// How deep files may include each other, `CONF_FILE_MAX_DEPTH`.
const DEPTH_MAX: u32 = 10;

/// What stands in a server's configuration files, without our own block.
#[derive(Debug, Default)]
pub(super) struct Configuration {
    values: BTreeMap<String, String>,
    /// Whether only what is in `postgresql.auto.conf` is known.
    is_elsewhere: bool,
    /// What is wrong with the files.
    notes: Vec<String>,
}

impl Configuration {
    /// Reads what a server on that folder starts with: `config_file`, or else the folder's own, and then `postgresql.auto.conf`.
    ///
    /// # Errors
    /// Where a file can't be read, or the named one is not there.
    pub(super) fn read(pgdata: &Path, config_file: Option<&Path>) -> anyhow::Result<Self> {
        let mut configuration = Self::default();
        let own = pgdata.join(CONF);
        match config_file {
            Some(file) => {
                let file = std::path::absolute(file).context("find --config-file")?;
                let text = read(&file)?.with_context(|| format!("{} is not there: check --config-file", file.display()))?;
                configuration.take(&file, &text, 0)?;
            }
            None => match read(&own)? {
                Some(text) => configuration.take(&own, &text, 0)?,
                None => configuration.is_elsewhere = true,
            },
        }
        let auto = pgdata.join(AUTO_CONF);
        if let Some(text) = read(&auto)? {
            configuration.take(&auto, &BLOCK.remove(&text).unwrap_or_default(), 0)?;
        }
        Ok(configuration)
    }

    /// A setting's value, `None` where the files do not set it.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Whether a server with it archives what it recovers.
    pub(super) fn archives_always(&self) -> bool {
        self.value("archive_mode").is_some_and(|mode| mode.eq_ignore_ascii_case("always"))
    }

    /// What a person should know of it.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        let elsewhere = self.is_elsewhere.then(|| {
            format!(
                "the folder has no {CONF}: what the server's configuration elsewhere says is not known. Name that file by --config-file \
                 (on Debian /etc/postgresql/VERSION/NAME/{CONF}), or make sure that it has no archive_mode = always"
            )
        });
        elsewhere.into_iter().chain(self.notes.iter().cloned())
    }

    fn take(&mut self, file: &Path, text: &[u8], depth: u32) -> anyhow::Result<()> {
        if depth > DEPTH_MAX {
            bail!("{} is included more than {DEPTH_MAX} deep: Postgres does not start with that", file.display());
        }
        let around = file.parent().unwrap_or_else(|| Path::new("."));
        for (number, line) in config_lines(&String::from_utf8_lossy(text)) {
            match line {
                ConfigLine::Include { file: included, must_exist } => {
                    let path = around.join(included);
                    match read(&path)? {
                        Some(text) => self.take(&path, &text, depth + 1)?,
                        None if must_exist => {
                            self.note(file, number, format!("{}, which it includes, is not there", path.display()))
                        }
                        None => {}
                    }
                }
                ConfigLine::IncludeFolder(folder) => {
                    let folder = around.join(folder);
                    match files(&folder) {
                        Ok(files) => {
                            for path in files {
                                let text = read(&path)?.unwrap_or_default();
                                self.take(&path, &text, depth + 1)?;
                            }
                        }
                        Err(error) if error.kind() == ErrorKind::NotFound => {
                            self.note(file, number, format!("{}, which it includes, is not there", folder.display()));
                        }
                        Err(error) => return Err(error).with_context(|| format!("list {}", folder.display())),
                    }
                }
                ConfigLine::Set { name, value } => {
                    self.values.insert(name, value);
                }
                ConfigLine::Unreadable => self.note(file, number, "it can't be read".to_owned()),
            }
        }
        Ok(())
    }

    fn note(&mut self, file: &Path, number: usize, problem: String) {
        self.notes.push(format!("line {number} of {}: {problem}: Postgres does not start with that", file.display()));
    }
}

/// The files of a folder that `include_dir` takes, in its order.
fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.ends_with(".conf") && !name.starts_with('.') && !path.is_dir() {
            found.push(path);
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn read(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    #[test]
    fn files_are_read_in_the_order_in_which_postgres_reads_them() {
        let folder = folder(&[
            (
                "postgresql.conf",
                "a = 1\nb = 1\ninclude_dir 'conf.d'\nd = 1\ninclude_if_exists 'none.conf'\nc = 1\ninclude = 'x/y.conf'",
            ),
            ("conf.d/2.conf", "b = 2\nd = 2\n"),
            ("conf.d/1.conf", "b = 3\n"),
            ("conf.d/.hidden.conf", "b = 4\n"),
            ("conf.d/3.conf.old", "b = 5\n"),
            ("unread.conf", "archive_mode = always\n"),
            ("x/y.conf", "c = 2\ninclude 'z.conf'\n"),
            ("x/z.conf", "e = 1\n"),
        ]);
        let auto = String::from_utf8(BLOCK.append(Some(b"a = '9'\n"), "archive_mode = 'always'\ne = '7'\n")).unwrap();
        fs::write(folder.path().join(AUTO_CONF), auto).unwrap();
        let read = Configuration::read(folder.path(), None).unwrap();
        let values = ["a", "b", "c", "d", "e"].map(|name| read.value(name));
        assert_eq!(values, [Some("9"), Some("2"), Some("2"), Some("1"), Some("1")]);
        assert!(!read.archives_always() && read.warnings().next().is_none());
    }

    #[test]
    fn a_configuration_elsewhere_is_named_or_said_not_to_be_known() {
        let data = folder(&[(AUTO_CONF, "a = '9'\n")]);
        let read = Configuration::read(data.path(), None).unwrap();
        assert!(read.value("a") == Some("9") && read.warnings().any(|said| said.contains("--config-file")));
        let etc = folder(&[("main.conf", "archive_mode = 'always'\na = 1\n")]);
        let read = Configuration::read(data.path(), Some(&etc.path().join("main.conf"))).unwrap();
        assert!(read.archives_always() && read.value("a") == Some("9") && read.warnings().next().is_none());
        let error = Configuration::read(data.path(), Some(&etc.path().join("none.conf"))).unwrap_err();
        assert!(format!("{error:#}").contains("check --config-file"), "{error:#}");
    }

    #[test]
    fn what_postgres_would_not_start_with_is_said() {
        let folder = folder(&[("postgresql.conf", "a = \ninclude 'none'\ninclude_dir 'none.d'\n")]);
        let said: Vec<String> = Configuration::read(folder.path(), None).unwrap().warnings().collect();
        assert!(
            said.len() == 3 && said[0].contains("line 1") && said[1].contains("none") && said[2].contains("none.d"),
            "{said:?}"
        );
        fs::write(folder.path().join("postgresql.conf"), "include 'postgresql.conf'").unwrap();
        assert!(Configuration::read(folder.path(), None).unwrap_err().to_string().contains("deep"));
    }
}
