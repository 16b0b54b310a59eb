//! `plan` and `tune`: what would be done, and what would be said. They change nothing.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::account;
use crate::boot::{Programs, own};
use crate::conf::{Inputs, render_shown};
use crate::machine::Resources;
use crate::plan::{Held, Plan, plan};
use crate::settings::{Lookup, OsUser, Problem, Program, Settings, TABLE, Tier, parse_bytes};
use crate::sources::{self, mmds};
use crate::tier;
use crate::tune::{Floor, MEMORY_BYTES_MAX, MEMORY_BYTES_MIN, Machine, Tuning, tune};
use crate::volume::{Data, Layout, Remembered, look, space};

/// How long the metadata service may take to answer.
const METADATA: Duration = Duration::from_millis(500);
/// The version that is assumed where none can be found out.
const ASSUMED: u32 = 18;

/// The arguments of `plan`.
#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Print the table of all settings instead: names, what they take, defaults
    #[arg(long)]
    settings: bool,
}

/// The arguments of `tune`.
#[derive(Debug, Args)]
pub(super) struct TuneArgs {
    /// Memory, as in 512MB or 16GB
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    memory: u64,
    /// CPUs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=512))]
    cpus: u32,
    /// The major version of Postgres
    #[arg(long, value_name = "N", default_value_t = ASSUMED, value_parser = clap::value_parser!(u32).range(15..=18))]
    pg_version: u32,
    /// The size of the filesystem that WAL lies on, as in 100GB: it bounds max_wal_size
    #[arg(long, value_name = "SIZE", value_parser = size)]
    wal_volume: Option<u64>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

fn size(text: &str) -> Result<u64, String> {
    parse_bytes(text).ok_or_else(|| "write a whole number and one of kB, MB, GB, TB, as in 512MB".to_owned())
}

fn memory(text: &str) -> Result<u64, String> {
    size(text).and_then(|bytes| {
        let fits = (MEMORY_BYTES_MIN..=MEMORY_BYTES_MAX).contains(&bytes);
        if fits { Ok(bytes) } else { Err("from 64MB to 4TB".to_owned()) }
    })
}

pub(super) fn show_tuning(args: &TuneArgs) -> Result<ExitCode> {
    let machine = Machine { wal_volume_bytes: args.wal_volume, ..Machine::new(args.memory, args.cpus, args.pg_version) };
    let tuning = tune(&machine, Floor::default());
    let text = if args.json {
        serde_json::to_string_pretty(&tuning)? + "\n"
    } else {
        let line = |one: &crate::tune::Tuned| format!("{} = {}  # {} ({})\n", one.name, one.value, one.formula, one.source);
        tuning.settings.iter().map(line).collect()
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn show_plan(args: &PlanArgs) -> Result<ExitCode> {
    if args.settings {
        print(&settings_table(args.json)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut assumed = Vec::new();
    let settings = match read(&mut assumed)? {
        Ok(settings) => settings,
        Err(problems) => {
            for problem in problems {
                eprintln!("beyond-pg: {problem}");
            }
            return Ok(ExitCode::from(2));
        }
    };
    let plan = planned(&settings, assumed)?;
    print(&if args.json { serde_json::to_string_pretty(&plan)? + "\n" } else { plan.text() })?;
    Ok(ExitCode::SUCCESS)
}

fn settings_table(json: bool) -> Result<String> {
    let passed: Vec<(&str, &str)> =
        Program::ALL.iter().flat_map(|program| program.names().iter().map(|name| (*name, program.file_name()))).collect();
    if json {
        let passed: Vec<_> = passed.iter().map(|(name, program)| serde_json::json!({"name": name, "passed_to": program})).collect();
        return Ok(serde_json::to_string_pretty(&serde_json::json!({"settings": TABLE, "passed": passed}))? + "\n");
    }
    let mut text = String::new();
    for row in TABLE {
        let default = row.default.map(|default| format!(" [default: {default}]")).unwrap_or_default();
        text.push_str(&format!("{}{default}\n    {}\n    {}\n", row.name, row.doc, row.allowed));
    }
    text.push_str("\nPassed on as they are:\n");
    for (name, program) in passed {
        text.push_str(&format!("{name}  ({program})\n"));
    }
    Ok(text)
}

/// Reads the settings as a boot would, without waiting.
fn read(assumed: &mut Vec<String>) -> Result<Result<Settings, Vec<Problem>>> {
    let mut told = sources::local()?;
    let lookup = match Lookup::resolve(&told) {
        Ok(lookup) => lookup,
        Err(problems) => return Ok(Err(problems)),
    };
    if let Some(address) = lookup.metadata {
        match mmds::fetch(address, &lookup.metadata_path, METADATA) {
            Ok(Some(source)) => told.push(source),
            Ok(None) => assumed.push(format!("no metadata: {address} has none yet; a boot waits for it")),
            Err(mmds::FetchError::Away(..)) if !lookup.metadata_is_set => {}
            Err(error) => return Err(error).context("BEYOND_PG_METADATA"),
        }
    }
    if let Some(path) = &lookup.metadata_file {
        told.push(sources::file(path)?);
    }
    Ok(Settings::resolve(&told))
}

fn planned(settings: &Settings, mut assumed: Vec<String>) -> Result<Plan> {
    let layout = Layout::new(&settings.volume, settings.wal_dir.as_deref(), &settings.run_dir);
    let settings = &as_promoted(settings, &layout, &mut assumed)?;
    let tier = tier::plan(settings, None);
    let held = held(settings, &layout)?;
    if settings.tier == Tier::Sink {
        let mut plan = plan(settings, &tier, held, None, None);
        plan.assumed = assumed;
        return Ok(plan);
    }
    let major = held.cluster.map_or_else(|| of_programs(settings, &mut assumed), Ok)?;
    let resources = Resources::find(settings)?;
    let machine = Machine {
        wal_volume_bytes: [&layout.wal, &layout.root].into_iter().find_map(|folder| space(folder).ok()).map(|(_, all)| all),
        ..Machine::new(resources.memory_bytes.value, resources.cpus.value, major)
    };
    let tuning = tune(&machine, Floor::default());
    let files = files(settings, &tier, &tuning, major, &layout.run, &mut assumed)?;
    let mut plan = plan(settings, &tier, held, Some(resources), Some(tuning));
    (plan.files, plan.assumed) = (files, assumed);
    Ok(plan)
}

/// The settings, with what a promotion has made of the tier.
fn as_promoted(settings: &Settings, layout: &Layout, assumed: &mut Vec<String>) -> Result<Settings> {
    let mut settings = settings.clone();
    let remembered = if layout.state.exists() { Remembered::read(layout)? } else { Remembered::default() };
    let is_replica = settings.tier == Tier::Replica;
    match (&remembered.fenced, &remembered.promotion) {
        (Some(fenced), _) if settings.tier == Tier::Primary => {
            assumed.push(format!("fenced: {} is the primary since timeline {}, a boot is refused", fenced.by, fenced.timeline));
        }
        (None, Some(_)) if is_replica => {
            settings.tier = Tier::Primary;
            assumed.push("BEYOND_PG_TIER = replica, but this was promoted: it is the primary, unless a peer is since".to_owned());
        }
        _ => {}
    }
    Ok(settings)
}

fn held(settings: &Settings, layout: &Layout) -> Result<Held> {
    // What the volume holds is its user's alone: as another one, only an empty one can be told.
    let cluster = match look(layout)? {
        Data::Absent => None,
        Data::Cluster(major) => Some(major),
    };
    let remembered = if layout.state.exists() { Remembered::read(layout)? } else { Remembered::default() };
    let is_fork = matches!((&settings.identity, &remembered.identity), (Some(now), Some(then)) if now != then);
    let target = settings.pitr_target.as_ref().map(|target| target.as_str());
    let target_is_done = target.is_some() && remembered.pitr_done.as_deref() == target;
    Ok(Held { cluster, target_is_done, is_fork, is_pid_1: std::process::id() == 1 })
}

fn of_programs(settings: &Settings, assumed: &mut Vec<String>) -> Result<u32> {
    let programs = match Programs::find(settings) {
        Ok(programs) => programs,
        Err(error) => {
            assumed.push(format!("Postgres {ASSUMED}: {error:#}"));
            return Ok(ASSUMED);
        }
    };
    let program = programs.of_postgres("postgres");
    let output =
        std::process::Command::new(&program).arg("--version").output().with_context(|| format!("run {}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // "postgres (PostgreSQL) 18.6 (Debian 18.6-3)"
    let version = said.split(' ').nth(2).unwrap_or_default();
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    match digits.parse() {
        Ok(major) => Ok(major),
        Err(_) => bail!("{} --version says {said:?}", program.display()),
    }
}

fn files(
    settings: &Settings,
    tier: &tier::TierPlan,
    tuning: &Tuning,
    major: u32,
    run: &Path,
    assumed: &mut Vec<String>,
) -> Result<Vec<crate::conf::RenderedFile>> {
    let passwd = account::passwd();
    let own_account = account::of_uid(rustix::process::geteuid().as_raw(), &passwd);
    let own_name = own_account.map_or_else(|| "nobody".to_owned(), |account| account.name);
    let named = match &settings.os_user {
        OsUser::Ids { uid, gid } => format!("{uid}:{gid}"),
        OsUser::Name(name) => name.clone(),
    };
    let os_name = if own_name == "root" {
        account::find(&named, &passwd).map_or_else(
            |error| {
                assumed.push(format!("{error}"));
                named.clone()
            },
            |account| account.name,
        )
    } else {
        own_name.clone()
    };
    let archiver = settings.has_archive().then(|| {
        own(settings, Program::Archiver).unwrap_or_else(|error| {
            assumed.push(format!("{error:#}"));
            Program::Archiver.file_name().into()
        })
    });
    let inputs = Inputs {
        settings,
        tuning,
        tier,
        major,
        run,
        os_name: &os_name,
        own_name: &own_name,
        archiver: archiver.as_deref(),
        max_connections: tuning.max_connections,
        primary: None,
    };
    Ok(render_shown(&inputs)?)
}

fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        // Whoever reads has enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}
