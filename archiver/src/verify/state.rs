//! What an earlier run found whole.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use walbus::SystemId;
use walbus::archive::store::Listed;
use walbus::disk::{OsDisk, write_whole};

/// The file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    version: u32,
    system_id: String,
    objects: BTreeMap<String, Known>,
}

/// An object as it was when it was found whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Known {
    stored_bytes: u64,
    modified_unix_us: i64,
    /// Whether its content was read.
    full: bool,
}

impl Known {
    pub(super) fn of(listed: &Listed, full: bool) -> Self {
        Self { stored_bytes: listed.stored_bytes, modified_unix_us: listed.modified.to_unix_micros(), full }
    }
}

impl State {
    /// Reads the file; one that is not there yet knows nothing.
    pub(super) fn load(path: &Path, system: SystemId) -> anyhow::Result<Self> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error).with_context(|| format!("read --state {}", path.display())),
        };
        let way_out = || format!("--state {} can't be used: remove it, and everything is looked at anew", path.display());
        let state: Self = serde_json::from_slice(&text).with_context(way_out)?;
        ensure!(state.version == 1, "{}", way_out());
        ensure!(state.system_id == system.to_string(), "--state {} is of cluster {}", path.display(), state.system_id);
        Ok(state)
    }

    /// Writes it, whole or not at all.
    pub(super) fn save(&self, path: &Path, system: SystemId) -> anyhow::Result<()> {
        let doing = || format!("write --state {}", path.display());
        let state = Self { version: 1, system_id: system.to_string(), objects: self.objects.clone() };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        let name = path.file_name().and_then(|name| name.to_str()).context("it is no file's name").with_context(doing)?;
        let disk = OsDisk::open(folder).with_context(doing)?;
        write_whole(&disk, name, &serde_json::to_vec(&state)?).with_context(doing)
    }

    /// Whether it was found whole as it is, and looked at no less than is wanted.
    pub(super) fn has(&self, name: &str, wanted: &Known) -> bool {
        self.objects.get(name).is_some_and(|known| Known { full: wanted.full, ..*known } == *wanted && (known.full || !wanted.full))
    }

    pub(super) fn insert(&mut self, name: String, known: Known) {
        // What was read once stays read.
        let full = known.full || self.has(&name, &Known { full: true, ..known });
        self.objects.insert(name, Known { full, ..known });
    }

    pub(super) fn keep(&mut self, is_there: impl Fn(&str) -> bool) {
        self.objects.retain(|name, _| is_there(name));
    }
}
