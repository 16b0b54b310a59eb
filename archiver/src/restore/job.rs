//! The steps. Each change is whole or not there, and the server can't start between the first and the last: killed anywhere and run again,
//! it ends in the same place.

use std::path::Path;

use anyhow::{Context, ensure};
use walbus::disk::{Disk, write_whole};
use walbus::pgdata::{AUTO_CONF, read_whole, refuse_running};
use walbus::proto::control::DbState;

use super::configuration::Configuration;
use super::folder::{Folder, Local, remove_if_there};
use super::proof::{Proof, prove};
use super::settings::{Action, BLOCK, Before, GUARD, lines, restore_command};
use super::{Report, RestoreArgs};
use crate::holdings::Holdings;
use crate::locate::CommitReport;
use crate::plan::parameters::{Lack, lacking};
use crate::plan::{Kind, Side, Target};

/// What makes Postgres recover from an archive.
const SIGNAL: &str = "recovery.signal";

/// Proves, and writes the settings.
pub(super) async fn restore(args: &RestoreArgs) -> anyhow::Result<Report> {
    let archive = args.store.archive()?;
    let goal = args.goal();
    ensure!(
        goal.target != Target::Latest || matches!(args.action, None | Some(Action::Promote)),
        "--latest has no target to {} at: Postgres promotes at the end of the WAL. Name a target, such as the LSN of the last commit",
        args.action.unwrap_or(Action::Promote).setting()
    );
    let folder = Folder::open(&args.pgdata)?;
    refuse_running(&folder.path)?;
    let local = folder.read()?;
    let configuration = Configuration::read(&folder.path, args.config_file.as_deref())?;
    let mut holdings = Holdings::open(archive, local.control.system, Some(local.control.segment)).await?.with_folder(&folder.wal());
    for timeline in [local.base.timeline, local.base.own_timeline] {
        if let Some(history) = folder.history(timeline)? {
            holdings.learn(history);
        }
    }
    let mut proof = prove(&holdings, &folder, &local, &goal, args.timeline).await?;
    proof.warnings.extend(configuration.warnings());
    let lacks = lacking(local.control.parameters, &proof.parameter_changes, |name| configuration.value(name));
    proof.warnings.extend(lacks.iter().map(raised));
    let mut overrules: Vec<(&str, String)> = lacks.iter().map(|lack| (lack.name, lack.needed.to_string())).collect();
    if configuration.archives_always() {
        // What was fetched would be archived again, a tail with zeros behind as a whole segment.
        overrules.push(("archive_mode", "on".to_owned()));
    }
    let mut settings = before(&folder, &local)?.lines();
    settings += &lines(&goal, proof.timeline.get(), args.action(), &restore_command(&args.store)?, &overrules);
    if !args.dry_run {
        refuse_running(&folder.path)?;
        write(&folder.disk, &settings)?;
    }
    Ok(report(args, &local.base, &goal.to_string(), proof, settings))
}

/// What the folder was before `restore` was run on it for the first time.
fn before(folder: &Folder, local: &Local) -> anyhow::Result<Before> {
    let text = read_whole(&folder.disk, AUTO_CONF).with_context(|| format!("read {AUTO_CONF}"))?.unwrap_or_default();
    let now = Before { recovering: local.base.kind == Kind::Recovering, signal: folder.path.join(SIGNAL).exists() };
    // What an earlier run has begun is ours.
    let said = BLOCK.find(&text).map_or(now, |(begin, end)| Before::of(&text[begin..end]));
    Ok(Before { recovering: now.recovering && said.recovering, signal: now.signal && said.signal })
}

fn raised(lack: &Lack) -> String {
    let Lack { name, needed, configured } = lack;
    let has = configured.map_or_else(|| "does not say so".to_owned(), |number| format!("has {number}"));
    format!(
        "{name} = {needed} stands in the block: the server that wrote the WAL had as much, recovery would pause or end with less, and the \
         configuration {has}"
    )
}

fn report(args: &RestoreArgs, base: &crate::plan::Base, target: &str, proof: Proof, settings: String) -> Report {
    Report {
        dry_run: args.dry_run,
        system_id: base.system.to_string(),
        folder: match base.kind {
            Kind::Backup => "backup",
            Kind::Crashed => "crashed",
            Kind::Recovering => "recovering",
            Kind::ShutDown => "shut_down",
        },
        target: target.to_owned(),
        timeline: proof.timeline.get(),
        redo: base.redo.to_string(),
        consistent: proof.consistent.to_string(),
        stop: proof.found.as_ref().map(|found| found.lsn.to_string()),
        stops: proof.found.as_ref().map(|found| match found.side {
            Side::After => "after",
            Side::Before => "before",
        }),
        replayed: proof.replayed.to_string(),
        commit_before: proof.commit_before.map(CommitReport::from),
        commit_after: proof.commit_after.map(CommitReport::from),
        segments: proof.segments,
        settings,
        warnings: proof.warnings,
    }
}

/// Writes the block and the signal. Until all is there, the block has a line in it that no Postgres starts with.
pub(super) fn write<D: Disk>(disk: &D, settings: &str) -> anyhow::Result<()> {
    let put = |lines: &str| -> anyhow::Result<()> {
        let text = read_whole(disk, AUTO_CONF).with_context(|| format!("read {AUTO_CONF}"))?;
        write_whole(disk, AUTO_CONF, &BLOCK.append(text.as_deref(), lines)).with_context(|| format!("write {AUTO_CONF}"))
    };
    put(&format!("{GUARD}{settings}"))?;
    // One of the user's own is left as it is.
    if !disk.list().context("list the data folder")?.iter().any(|(name, _)| name == SIGNAL) {
        write_whole(disk, SIGNAL, b"").with_context(|| format!("write {SIGNAL}"))?;
    }
    put(settings)
}

/// Takes the settings back; says whether there were any.
pub(super) fn undo(pgdata: &Path) -> anyhow::Result<bool> {
    let folder = Folder::open(pgdata)?;
    refuse_running(&folder.path)?;
    let Some(text) = read_whole(&folder.disk, AUTO_CONF).with_context(|| format!("read {AUTO_CONF}"))? else { return Ok(false) };
    let Some((begin, end)) = BLOCK.find(&text) else { return Ok(false) };
    let before = Before::of(&text[begin..end]);
    let state = folder.control()?.state;
    let label = folder.path.join("backup_label").exists();
    ensure!(
        before.recovering || label || !matches!(state, DbState::ArchiveRecovery | DbState::ShutDownInRecovery),
        "recovery has begun in this folder and is not over: without its settings Postgres would start in the middle of it. Let it come to its \
         end, run restore again with another target, or take a new copy of the base"
    );
    // Without the signal the settings mean nothing.
    if !before.signal {
        remove_if_there(&folder.disk, SIGNAL)?;
    }
    take_out(&folder.disk, &text)?;
    Ok(true)
}

/// Takes the block out of the file.
fn take_out<D: Disk>(disk: &D, text: &[u8]) -> anyhow::Result<()> {
    match BLOCK.remove(text) {
        Some(rest) => write_whole(disk, AUTO_CONF, &rest).with_context(|| format!("write {AUTO_CONF}")),
        None => remove_if_there(disk, AUTO_CONF).map(drop),
    }
}

#[cfg(test)]
mod tests;
