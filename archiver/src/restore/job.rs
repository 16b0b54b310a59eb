//! The steps. Each change is whole or not there, and the server can't start between the first and the last: killed anywhere and run again,
//! it ends in the same place.

use std::path::Path;

use anyhow::{Context, ensure};
use walbus::disk::{Disk, write_whole};
use walbus::pgdata::{AUTO_CONF, read_whole, refuse_running};
use walbus::proto::control::DbState;

use super::folder::{Folder, remove_if_there};
use super::proof::{Proof, prove};
use super::settings::{Action, BLOCK, GUARD, TARGETS, lines, restore_command};
use super::{Report, RestoreArgs};
use crate::holdings::Holdings;
use crate::locate::CommitReport;
use crate::plan::{Kind, Side, Target};

/// What makes Postgres recover from an archive.
const SIGNAL: &str = "recovery.signal";

/// Says in the block what the folder was before, since recovery changes that.
const WAS_RECOVERING: &str = "# The folder was in recovery before.\n";

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
    let mut holdings = Holdings::open(archive, local.control.system, Some(local.control.segment)).await?.with_folder(&folder.wal());
    for timeline in [local.base.timeline, local.base.own_timeline] {
        if let Some(history) = folder.history(timeline)? {
            holdings.learn(history);
        }
    }
    let proof = prove(&holdings, &folder, &local, &goal, args.timeline).await?;
    let mut settings = String::from(if local.base.kind == Kind::Recovering { WAS_RECOVERING } else { "" });
    settings += &lines(&goal, proof.timeline.get(), args.action(), &restore_command(&args.store)?, folder.archives_always()?);
    if !args.dry_run {
        refuse_running(&folder.path)?;
        write(&folder.disk, &settings)?;
    }
    Ok(report(args, &local.base, &goal.to_string(), proof, settings))
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
    write_whole(disk, SIGNAL, b"").with_context(|| format!("write {SIGNAL}"))?;
    put(settings)
}

/// Takes the settings back; says whether there were any.
pub(super) fn undo(pgdata: &Path) -> anyhow::Result<bool> {
    let folder = Folder::open(pgdata)?;
    refuse_running(&folder.path)?;
    let Some(text) = read_whole(&folder.disk, AUTO_CONF).with_context(|| format!("read {AUTO_CONF}"))? else { return Ok(false) };
    let Some((begin, end)) = BLOCK.find(&text) else { return rewritten(&folder.disk, &text) };
    let was_recovering = String::from_utf8_lossy(&text[begin..end]).contains(WAS_RECOVERING);
    let state = folder.control()?.state;
    let label = folder.path.join("backup_label").exists();
    ensure!(
        was_recovering || label || !matches!(state, DbState::ArchiveRecovery | DbState::ShutDownInRecovery),
        "recovery has begun in this folder and is not over: without its settings Postgres would start in the middle of it. Let it come to its \
         end, run restore again with another target, or take a new copy of the base"
    );
    // Without the signal the settings mean nothing.
    remove_if_there(&folder.disk, SIGNAL)?;
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

/// `ALTER SYSTEM` writes the file anew, without comments: then the settings are known by their names and by our `restore_command`.
fn rewritten<D: Disk>(disk: &D, text: &[u8]) -> anyhow::Result<bool> {
    let text = String::from_utf8_lossy(text);
    let name = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
    let is_ours = |line: &&str| name(line) == "restore_command" && line.contains(" fetch %f ");
    if !text.lines().any(|line| is_ours(&line)) {
        return Ok(false);
    }
    let others = [
        "restore_command",
        "recovery_target_inclusive",
        "recovery_target_timeline",
        "recovery_target_action",
        "recovery_min_apply_delay",
        "hot_standby",
    ];
    let keep = |line: &&str| !TARGETS.iter().chain(&others).any(|ours| name(line) == *ours);
    let rest: String = text.lines().filter(keep).flat_map(|line| [line, "\n"]).collect();
    remove_if_there(disk, SIGNAL)?;
    write_whole(disk, AUTO_CONF, rest.as_bytes()).with_context(|| format!("write {AUTO_CONF}"))?;
    Ok(true)
}

#[cfg(test)]
mod tests;
