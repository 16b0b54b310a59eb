//! `probe`: whether the store can be reached, and keeps to conditions.

use std::process::ExitCode;

use walbus::archive::store::Probe;

use crate::settings::StoreArgs;

/// Try whether the store can be reached, and keeps to conditions.
///
/// Puts the archive's marker unless it is there, as every push does first: so a new archive is made by this.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Exit codes: 0 the archive can be used; 1 it can't, and stderr says why; 2 wrong usage.")]
pub struct ProbeArgs {
    /// Where the archive is.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Runs the command.
///
/// # Errors
/// Where the archive can't be used.
pub async fn run(args: ProbeArgs) -> anyhow::Result<ExitCode> {
    let archive = args.store.archive()?;
    let said = match archive.probe().await? {
        Probe::Created => "a new archive was made",
        Probe::Found => "an archive",
    };
    println!("{}: {said}; the store keeps to conditions", archive.url());
    Ok(ExitCode::SUCCESS)
}
