//! From a volume and settings to ready: step by step, each of which looks at what is there before it acts.
//!
//! ```text
//!   mounts ▶ settings ▶ volume ▶ initdb | base ▶ wal_dir ▶ config ▶ sink_recover ▶ pitr ▶ check ▶ identity
//!          ▶ start ▶ roles ▶ verify ▶ pgbouncer ▶ sidecars ▶ ready
//! ```
//!
//! A fork is told from its parent late, and all the same before anything of it can be used: recovery to a target needs the parent's archive,
//! and only a server that has recovered can drop slots. That server takes no connections but ours (`identity`).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::account::{self, Account};
pub(crate) use crate::conf::SUPERUSER;
use crate::engine::{Engine, Server, Spec, Stopped};
use crate::log::{Format, Log};
use crate::settings::{LogFormat, Origin, OsUser, Settings, Tier};
use crate::status::{Phase, SettingStatus};
use crate::supervise::Patience;
use crate::volume::{Data, Layout, Remembered};

mod cluster;
mod configure;
mod ha;
mod identity;
mod mounts;
mod programs;
mod recovery;
mod rejoin;
mod rendered;
mod start;
mod step;
mod told;

pub(crate) use ha::{field, system_id};
pub use programs::Programs;
pub(crate) use programs::own;
pub use step::Step;

/// What the command line adds to the settings.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Die by SIGKILL right after this step: for the test that kills everywhere.
    pub die_after: Option<Step>,
    /// Turn the machine off when all is over.
    pub power_off: bool,
}

/// What the steps share.
#[derive(Debug)]
pub struct Boot<'a> {
    pub(crate) engine: &'a mut Engine,
    pub(crate) settings: Settings,
    pub(crate) layout: Layout,
    pub(crate) account: Option<Account>,
    pub(crate) programs: Option<Programs>,
    pub(crate) remembered: Remembered,
    /// The major version of the programs.
    pub(crate) major: u32,
    /// Whether this boot has made the cluster.
    pub(crate) fresh: bool,
    /// Whether this boot has found the volume to be a fork.
    pub(crate) fork: bool,
    /// The settings as they were read last; [`Self::settings`] keeps what takes hold at a boot alone.
    pub(crate) read_last: Settings,
    /// Settings that have changed since, and take hold at the next boot.
    pub(crate) pending_of_boot: Vec<&'static str>,
    /// The connections that the server takes, once it has said so.
    pub(crate) max_connections: Option<u64>,
    /// Whether the metadata service has answered.
    pub(crate) metadata_is_there: bool,
    /// Whether this boot has laid WAL of the sink on the folder.
    pub(crate) sink_recovered: bool,
    options: Options,
    // Held until the process ends.
    _lock: Option<std::fs::File>,
    _wal_lock: Option<std::fs::File>,
}

/// Boots, runs, and gives the exit code.
///
/// # Errors
/// Where the loop itself fails; all else is an exit code, and said.
pub fn run(options: Options) -> Result<u8> {
    let signals = crate::sys::block_signals().context("take signals")?;
    #[expect(clippy::disallowed_methods, reason = "the one clock of the program: all else is given the time")]
    let started = Instant::now();
    let mut engine = Engine::new(Log::default(), signals, started);
    let outcome = boot_and_live(&mut engine, options);
    if let Err(error) = &outcome
        && error.downcast_ref::<Stopped>().is_none()
    {
        let wrong_usage = error.downcast_ref::<WrongSettings>().is_some();
        engine.log().error("boot", format_args!("{error:#}"));
        engine.fail(&format!("{error:#}"), if wrong_usage { 2 } else { 1 });
    }
    let code = loop {
        if let Some(code) = engine.exit() {
            break code;
        }
        engine.turn(None, None)?;
    };
    std::fs::remove_file(engine.control_path()).ok();
    engine.log().info("boot", format_args!("ended with {code}"));
    if options.power_off {
        let error = crate::sys::power_off();
        engine.log().error("boot", format_args!("the machine can't be turned off: {error}"));
    }
    Ok(code)
}

/// Settings that are wrong: exit code 2.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
struct WrongSettings(Vec<String>);

fn boot_and_live(engine: &mut Engine, options: Options) -> Result<()> {
    let as_pid_1 = std::process::id() == 1;
    if !as_pid_1 {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("become the reaper of orphans")?;
    }
    let dies = |engine: &Engine, step| die(engine, options, step);
    begin(engine, Step::Mounts);
    if as_pid_1 {
        mounts::mount_all(engine.log());
    }
    dies(engine, Step::Mounts);
    begin(engine, Step::Settings);
    let (settings, metadata_is_there) = told::read_all(engine)?;
    let mut boot = Boot::prepare(engine, settings, options)?;
    boot.metadata_is_there = metadata_is_there;
    dies(boot.engine, Step::Settings);
    boot.steps()?;
    boot.remember_set_aside()?;
    boot.be_ready();
    crate::live::live(&mut boot)
}

fn begin(engine: &mut Engine, step: Step) {
    engine.board.step = Some(step.name().to_owned());
    engine.board.not_ready = Some(format!("step {step}"));
}

fn die(engine: &Engine, options: Options, step: Step) {
    if options.die_after == Some(step) {
        engine.log().warn("boot", format_args!("dying after step {step}, as asked"));
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).ok();
    }
}

impl<'a> Boot<'a> {
    fn prepare(engine: &'a mut Engine, settings: Settings, options: Options) -> Result<Self> {
        let format = match settings.log_format {
            LogFormat::Json => Format::Json,
            LogFormat::Text => Format::Text,
        };
        engine.configure(Log::new(format), Patience::new(settings.stop_timeout));
        let log = engine.log();
        for setting in settings.provenance() {
            let (Some(value), false) = (&setting.value, setting.origin == Origin::Default) else { continue };
            log.info("settings", format_args!("{}={value} ({})", setting.name, setting.origin));
        }
        engine.board.tier = tier_name(settings.tier).to_owned();
        engine.board.settings = setting_statuses(&settings);
        let account = find_account(&settings)?;
        let layout = Layout::new(&settings.volume, settings.wal_dir.as_deref(), &settings.run_dir);
        let programs = (settings.tier != Tier::Sink).then(|| Programs::find(&settings)).transpose()?;
        let remembered = Remembered::default();
        Ok(Self {
            engine,
            read_last: settings.clone(),
            pending_of_boot: Vec::new(),
            settings,
            layout,
            account,
            programs,
            remembered,
            major: 0,
            fresh: false,
            fork: false,
            max_connections: None,
            metadata_is_there: false,
            sink_recovered: false,
            options,
            _lock: None,
            _wal_lock: None,
        })
    }

    /// All steps, in order.
    fn steps(&mut self) -> Result<()> {
        self.step(Step::Volume, Self::volume)?;
        if self.settings.tier == Tier::Sink {
            self.step(Step::Start, Self::start_sink)?;
            return self.step(Step::Ready, Self::sink_is_ready);
        }
        let is_primary = self.settings.tier == Tier::Primary;
        if is_primary {
            self.step(Step::Initdb, Self::initdb)?;
        } else {
            self.step(Step::Base, Self::base)?;
        }
        self.step(Step::WalDir, Self::wal_dir)?;
        self.step(Step::Config, Self::config)?;
        if is_primary {
            self.step(Step::SinkRecover, Self::sink_recover)?;
            self.step(Step::Pitr, Self::pitr)?;
        }
        self.step(Step::Check, Self::check)?;
        self.step(Step::Identity, Self::identity)?;
        self.step(Step::Start, Self::start)?;
        if is_primary {
            self.step(Step::Roles, Self::roles)?;
            self.step(Step::Verify, Self::verify)?;
        }
        self.step(Step::PgBouncer, Self::pgbouncer)?;
        self.step(Step::Sidecars, Self::sidecars)?;
        self.step(Step::Ready, Self::ready)
    }

    fn step(&mut self, step: Step, act: fn(&mut Self) -> Result<()>) -> Result<()> {
        self.engine.go_on()?;
        begin(self.engine, step);
        act(self).with_context(|| format!("step {step}")).map_err(|error| {
            // The end that somebody asked for is no failure of the step.
            if error.downcast_ref::<Stopped>().is_some() { Stopped.into() } else { error }
        })?;
        die(self.engine, self.options, step);
        Ok(())
    }

    fn be_ready(&mut self) {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let total = self.engine.now();
        let board = &mut self.engine.board;
        board.phase = Phase::Running;
        board.step = None;
        board.ready = true;
        board.not_ready = None;
        board.boot_ms = Some(millis(total));
        let listen = board.listen.clone().map(|listen| format!(" on {listen}")).unwrap_or_default();
        self.engine.log().info("boot", format_args!("ready{listen} after {} ms", millis(total)));
    }

    /// Takes of new settings what takes hold while all runs.
    pub(crate) fn take_live(&mut self, settings: Settings) {
        let held = std::mem::replace(&mut self.settings, settings);
        let now = &mut self.settings;
        (now.tier, now.identity, now.pitr_target, now.pitr_store) = (held.tier, held.identity, held.pitr_target, held.pitr_store);
        (now.volume, now.wal_dir, now.run_dir) = (held.volume, held.wal_dir, held.run_dir);
        (now.os_user, now.bin_dir, now.pgbouncer, now.programs) = (held.os_user, held.bin_dir, held.pgbouncer, held.programs);
        (now.listen, now.port, now.health_listen) = (held.listen, held.port, held.health_listen);
    }

    /// Tells the settings of the last reading.
    pub(crate) fn show_settings(&mut self) {
        self.engine.board.settings = setting_statuses(&self.read_last);
    }

    /// Postgres' programs; a sink has none.
    pub(crate) fn programs(&self) -> Result<&Programs> {
        self.programs.as_ref().context("this tier runs no Postgres")
    }

    /// One of Postgres' programs, as its account.
    pub(crate) fn of_postgres(&self, name: &'static str, args: &[&str]) -> Result<Spec> {
        let program = self.programs()?.of_postgres(name);
        Ok(Spec::new(program, args.iter().copied(), self.account.as_ref()).named(name))
    }

    /// PGDATA as an argument.
    pub(crate) fn data_arg(&self) -> String {
        self.layout.data.display().to_string()
    }

    /// Postgres, over its socket, as its superuser: never waiting for a sink or a standby, and never for long.
    pub(crate) fn server(&self, database: &str) -> Server {
        let event_triggers = if self.major >= 17 { " -c event_triggers=off" } else { "" };
        Server {
            socket: self.layout.socket(self.settings.port),
            user: SUPERUSER.to_owned(),
            database: database.to_owned(),
            options: format!(
                "-c synchronous_commit=local -c statement_timeout=60s -c lock_timeout=30s -c client_min_messages=warning \
                 -c default_transaction_read_only=off -c log_statement=none -c log_min_error_statement=panic -c search_path=pg_catalog{event_triggers}"
            ),
        }
    }

    /// Where what Postgres is has to be owned by its account.
    pub(crate) const fn owner(&self) -> Option<&Account> {
        self.account.as_ref()
    }

    /// The name of the account that Postgres runs as.
    pub(crate) fn os_name(&self) -> String {
        let own = || account::of_uid(rustix::process::geteuid().as_raw(), &account::passwd()).map(|account| account.name);
        self.account.as_ref().map(|account| account.name.clone()).or_else(own).unwrap_or_default()
    }
}

/// How long one statement of a boot may take.
pub(crate) const ANSWER: Duration = Duration::from_secs(60);

const fn tier_name(tier: Tier) -> &'static str {
    match tier {
        Tier::Primary => "primary",
        Tier::Replica => "replica",
        Tier::Sink => "sink",
    }
}

fn setting_statuses(settings: &Settings) -> Vec<SettingStatus> {
    let with_value = settings.provenance().iter().filter_map(|one| Some((one, one.value.clone()?)));
    with_value
        .map(|(one, value)| SettingStatus { name: one.name.to_owned(), value, source: one.origin.as_str().to_owned() })
        .collect()
}

/// Who runs what is not ours: the account of the settings where we are root, and else we ourselves.
fn find_account(settings: &Settings) -> Result<Option<Account>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let named = match &settings.os_user {
        OsUser::Ids { uid, gid } => format!("{uid}:{gid}"),
        OsUser::Name(name) => name.clone(),
    };
    Ok(Some(account::find(&named, &account::passwd())?))
}

/// Refuses what the programs can't run.
fn check_version(data: &Data, major: u32, layout: &Layout) -> Result<()> {
    if let Data::Cluster(held) = data
        && *held != major
    {
        bail!(
            "{} is of Postgres {held}, and the programs are of {major}: name those of {held} by BEYOND_PG_BIN_DIR, or upgrade the folder by pg_upgrade",
            layout.data.display()
        );
    }
    Ok(())
}
