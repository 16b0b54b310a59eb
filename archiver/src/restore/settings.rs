//! The recovery settings: a block at the end of `postgresql.auto.conf`.

use std::ffi::OsString;

use anyhow::Context;
use walbus::pgdata::Block;

use crate::moment;
use crate::plan::{Goal, Target};
use crate::settings::StoreArgs;

/// What the server does at the target: `recovery_target_action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Action {
    /// Pause, and take queries.
    Pause,
    /// Become a primary on a new timeline.
    Promote,
    /// Stop.
    Shutdown,
}

impl Action {
    /// As the setting has it.
    pub(super) const fn setting(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Promote => "promote",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Where the settings stand.
pub(super) const BLOCK: Block = Block {
    first: "# beyond-pg-archiver restore: begin\n",
    last: "# beyond-pg-archiver restore: end\n",
    no_file: "# There was no postgresql.auto.conf before.\n",
    marker: "beyond_pg_archiver.restore",
};

/// What no Postgres knows: it does not start while this stands in its settings, and names it in its error.
pub(super) const GUARD: &str = "beyond_pg_archiver_restore_has_not_finished_run_it_again = on\n";

/// What the folder was before its recovery was set up, as far as recovery changes that. Says so in the block, as a setting that means
/// nothing to Postgres: those stay when `ALTER SYSTEM` writes the file anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Before {
    /// It was in recovery already.
    pub recovering: bool,
    /// It had `recovery.signal` already.
    pub signal: bool,
}

impl Before {
    const RECOVERING: &str = "beyond_pg_archiver.was_recovering = 'on'\n";
    const SIGNAL: &str = "beyond_pg_archiver.had_recovery_signal = 'on'\n";

    /// What a block says.
    pub(super) fn of(block: &[u8]) -> Self {
        let block = String::from_utf8_lossy(block);
        Self { recovering: block.contains(Self::RECOVERING), signal: block.contains(Self::SIGNAL) }
    }

    /// Its lines in the block.
    pub(super) fn lines(self) -> String {
        let line = |said: bool, line| if said { line } else { "" };
        [line(self.recovering, Self::RECOVERING), line(self.signal, Self::SIGNAL)].concat()
    }
}

/// The settings that name a target.
const TARGETS: [&str; 5] =
    ["recovery_target", "recovery_target_lsn", "recovery_target_name", "recovery_target_time", "recovery_target_xid"];

/// The block's lines. Every setting that could contradict them is in it, since Postgres takes the last one of a name: but it takes one target
/// alone, in the order of the lines, so that the others are cleared before it is set.
///
/// `overrules`: what else stands in the way in the server's own configuration.
pub(super) fn lines(goal: &Goal, timeline: u32, action: Action, restore_command: &str, overrules: &[(&str, String)]) -> String {
    let wanted = match &goal.target {
        Target::Immediate => Some(("recovery_target", "immediate".to_owned())),
        Target::Latest => None,
        Target::Lsn(lsn) => Some(("recovery_target_lsn", lsn.to_string())),
        Target::Name(name) => Some(("recovery_target_name", name.clone())),
        Target::Time(time) => Some(("recovery_target_time", moment::text(*time))),
        Target::Xid(xid) => Some(("recovery_target_xid", xid.to_string())),
    };
    let mut text = String::from(
        "# Recovery to a point, proven to be reached. `beyond-pg-archiver restore --undo --pgdata DIR` takes this block out. The store's\n\
         # credentials are not in it: restore_command finds them in the environment of the server.\n",
    );
    let mut set = |name: &str, value: &str| text.push_str(&format!("{name} = {}\n", quoted(value)));
    set("restore_command", restore_command);
    for name in TARGETS.iter().filter(|name| wanted.as_ref().is_none_or(|(wanted, _)| wanted != *name)) {
        set(name, "");
    }
    if let Some((name, value)) = &wanted {
        set(name, value);
    }
    set("recovery_target_inclusive", if goal.inclusive { "on" } else { "off" });
    set("recovery_target_timeline", &timeline.to_string());
    set("recovery_target_action", action.setting());
    // A standby that lags on purpose would lag here as well.
    set("recovery_min_apply_delay", "0");
    // Without it a server that is to pause shuts down.
    set("hot_standby", "on");
    for (name, value) in overrules {
        set(name, value);
    }
    text
}

/// A value as Postgres reads it in its configuration files.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

/// What Postgres runs for each file: this program, by its whole path, with what it needs to find the same store. What the environment alone
/// holds, credentials above all, is not in it: the server must have the same environment.
pub(super) fn restore_command(store: &StoreArgs) -> anyhow::Result<String> {
    let program = std::env::current_exe().context("find this program")?;
    command(program.into_os_string(), store)
}

fn command(program: OsString, store: &StoreArgs) -> anyhow::Result<String> {
    let mut arguments: Vec<OsString> = Vec::new();
    let mut add = |flag: &str, value: OsString| arguments.extend([OsString::from(flag), value]);
    add("--store", store.store.clone().unwrap_or_default().into());
    for file in &store.key_file {
        add("--key-file", std::path::absolute(file).context("find --key-file")?.into_os_string());
    }
    if store.allow_plain {
        arguments.push("--allow-plain=true".into());
    }
    if store.allow_http {
        arguments.push("--allow-http=true".into());
    }
    let words = arguments.iter().map(word).collect::<anyhow::Result<Vec<String>>>()?;
    Ok(format!("{} fetch %f \"%p\" {}", word(&program)?, words.join(" ")))
}

/// A word as the shell reads it, and Postgres before that.
fn word(word: &OsString) -> anyhow::Result<String> {
    let word = word.to_str().with_context(|| format!("{} is no UTF-8, so that it can't stand in a setting", word.display()))?;
    anyhow::ensure!(!word.contains(['\n', '\r']), "{word:?} has a line end in it, so that it can't stand in a setting");
    Ok(shell_quoted(word).replace('%', "%%"))
}

/// A word as the shell reads it.
fn shell_quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=@,+".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use walbus::{Lsn, PgTime};

    #[derive(Debug, Parser)]
    struct Store {
        #[command(flatten)]
        store: StoreArgs,
    }

    #[test]
    fn the_target_comes_after_what_it_contradicts() {
        let goal = Goal { target: Target::Time(PgTime(0)), inclusive: false };
        let text = lines(&goal, 3, Action::Promote, "fetch %f", &[]);
        let at = |needle: &str| text.find(needle).unwrap_or_else(|| panic!("{needle} in {text}"));
        let target = at("recovery_target_time = '2000-01-01 00:00:00+00'\n");
        assert!(TARGETS.iter().filter(|name| **name != "recovery_target_time").all(|name| at(&format!("{name} = ''\n")) < target));
        assert_eq!(text.matches("recovery_target_time =").count(), 1);
        assert!(text.contains("recovery_target_inclusive = 'off'\n") && text.contains("recovery_target_timeline = '3'\n"));
    }

    #[test]
    fn latest_has_no_target() {
        let text = lines(&Goal::inclusive(Target::Latest), 1, Action::Pause, "x", &[]);
        assert!(TARGETS.iter().all(|name| text.contains(&format!("{name} = ''\n"))), "{text}");
        let lsn = lines(&Goal::inclusive(Target::Lsn(Lsn(0x300_0028))), 1, Action::Pause, "x", &[]);
        assert!(lsn.contains("recovery_target_lsn = '0/3000028'\n"));
    }

    #[test]
    fn what_would_end_a_pause_is_overruled() {
        let overrules = [("archive_mode", "on".to_owned()), ("max_connections", "300".to_owned())];
        let text = |overrules| lines(&Goal::inclusive(Target::Immediate), 1, Action::Pause, "x", overrules);
        assert!(text(&[]).contains("hot_standby = 'on'\n") && !text(&[]).contains("archive_mode"));
        assert!(text(&overrules).ends_with("archive_mode = 'on'\nmax_connections = '300'\n"));
    }

    #[test]
    fn what_the_folder_was_is_read_again() {
        for (recovering, signal) in [(false, false), (false, true), (true, false), (true, true)] {
            let before = Before { recovering, signal };
            assert_eq!(Before::of(&BLOCK.append(None, &before.lines())), before);
        }
    }

    #[test]
    fn names_and_commands_are_quoted() {
        let goal = Goal::inclusive(Target::Name("it's 100\\%".to_owned()));
        assert!(lines(&goal, 1, Action::Pause, "x", &[]).contains("recovery_target_name = 'it''s 100\\\\%'\n"));
        let store = Store::try_parse_from(["x", "--store", "file:///a%20b", "--key-file", "/etc/its key"]).unwrap().store;
        let command = |program: &str| command(program.into(), &store);
        assert_eq!(
            command("/opt/beyond pg/archiver").unwrap(),
            "'/opt/beyond pg/archiver' fetch %f \"%p\" --store 'file:///a%%20b' --key-file '/etc/its key'"
        );
        assert!(command("a\nb").is_err());
        let store = Store::try_parse_from(["x", "--store", "file:///a", "--allow-plain"]).unwrap().store;
        assert_eq!(super::command("/x".into(), &store).unwrap(), "/x fetch %f \"%p\" --store file:///a --allow-plain=true");
    }
}
