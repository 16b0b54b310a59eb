//! `beyond-pg-archiver verify`: whether the archive is whole.
//!
//! ```text
//!   always   names, headers (length, hash), histories, backup histories, gaps, indexes and that each fits the one before
//!   --full   content: its hash, every record's CRC across the boundaries, and that the index says what is in it
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use futures_util::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use walbus::Segment;
use walbus::archive::layout::ObjectName;
use walbus::archive::store::{Archive, Listed};

use crate::holdings::Holdings;
use crate::output::print;
use crate::plan::Chain;
use crate::settings::{StoreArgs, SystemArgs};
use crate::window::GapReport;

mod content;
mod facts;
mod state;

use state::{Known, State};

/// Prove that the archive is whole.
///
/// By default a few requests an object: names, headers, the chain of every timeline, histories, and that every segment has an index that fits
/// the one before it. With --full everything is read: its hash, and the CRC of every record, those included that lie in two segments.
///
/// With --state only what is new since the last run is looked at; gaps are always.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Exit codes: 0 whole; 1 something is damaged or missing, or it could not be found out; 2 wrong usage.\n\nExamples:\n  \
                  beyond-pg-archiver verify --state /var/lib/beyond-pg/verify.json\n  \
                  beyond-pg-archiver verify --full --repair"
)]
pub struct VerifyArgs {
    /// Read everything.
    #[arg(long)]
    pub full: bool,

    /// Make indexes that are missing, or that say something else than their segment.
    #[arg(long)]
    pub repair: bool,

    /// Keep in this file what was found whole, and pass over it in the next run.
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,

    /// How many objects are read at once.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub jobs: u8,

    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,

    /// Whose WAL.
    #[command(flatten)]
    pub system: SystemArgs,

    /// Where the archive is.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether all is whole.
    pub whole: bool,
    /// The cluster.
    pub system_id: String,
    /// Whether all content was read.
    pub full: bool,
    /// How many objects were looked at.
    pub checked: usize,
    /// How many were passed over, because an earlier run found them whole.
    pub passed_over: usize,
    /// What is damaged: the object, and what is wrong with it.
    pub damaged: Vec<Damage>,
    /// What is missing, by timeline.
    pub gaps: Vec<TimelineGap>,
    /// Segments without an index, or with one that says something else.
    pub index_missing: Vec<String>,
    /// Indexes that were made.
    pub index_repaired: usize,
    /// Paths below the cluster's folder that are none of an archive's.
    pub foreign: Vec<String>,
}

/// Something that is damaged.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Damage {
    /// Its path below the archive's prefix.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
}

/// A gap on the way to a timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TimelineGap {
    /// The timeline.
    pub timeline: u32,
    /// What is missing.
    #[serde(flatten)]
    pub gap: GapReport,
}

/// A check under way.
#[derive(Debug)]
struct Check<'a> {
    args: &'a VerifyArgs,
    holdings: &'a Holdings,
    objects: BTreeMap<String, Listed>,
    state: State,
    report: Report,
}

/// Runs the command.
///
/// # Errors
/// Where it can't be found out.
pub async fn run(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let archive: Archive = args.store.archive()?;
    let system = args.system.resolve(&archive).await?;
    let holdings = Holdings::open(archive, system, None).await?;
    let state = args.state.as_deref().map(|path| State::load(path, system)).transpose()?.unwrap_or_default();
    let listing = holdings.archive().list(system, None).await.context("list the archive")?;
    let objects = listing.objects.into_iter().map(|listed| (listed.name.to_string(), listed)).collect();
    let report =
        Report { system_id: system.to_string(), full: args.full, foreign: holdings.foreign().to_vec(), ..Report::default() };
    let mut check = Check { args: &args, holdings: &holdings, objects, state, report };
    check.run().await?;
    if let Some(path) = &args.state {
        check.state.save(path, system)?;
    }
    let report = check.report;
    print(args.json, &report.text(), &report)?;
    Ok(if report.whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Check<'_> {
    async fn run(&mut self) -> anyhow::Result<()> {
        let chains = self.chains();
        for name in &self.holdings.inventory().misnamed {
            let problem = "its name was made for a smaller segment size than the cluster's".to_owned();
            self.report.damaged.push(Damage { object: name.clone(), problem });
        }
        for chain in &chains {
            let timeline = chain.timeline().get();
            self.report.gaps.extend(chain.gaps().iter().map(|gap| TimelineGap { timeline, gap: GapReport::of(gap) }));
        }
        let todo: Vec<Listed> = self.objects.values().filter(|listed| !self.is_known(listed)).cloned().collect();
        self.report.passed_over = self.objects.len() - todo.len();
        self.report.checked = todo.len();
        let bar = progress(todo.len());
        let facts = stream::iter(&todo).map(|listed| facts::of(self.holdings, listed)).buffer_unordered(self.args.jobs.into());
        let found: Vec<facts::Fact> = facts.inspect(|_| bar.inc(1)).collect().await;
        bar.finish_and_clear();
        self.take(found)?;
        let segments = self.to_read(&todo);
        if self.args.full {
            content::check(self, &chains, &segments).await?;
        } else {
            content::check_indexes(self, &chains, &segments).await?;
        }
        self.finish(&todo);
        Ok(())
    }

    /// The chain of every timeline; what keeps one from being told is damage.
    fn chains(&mut self) -> Vec<Chain> {
        let mut chains = Vec::new();
        for timeline in self.holdings.inventory().timelines() {
            match self.holdings.inventory().history(timeline) {
                Ok(history) => chains.push(self.holdings.chain_along(history)),
                Err(error) => {
                    let name = ObjectName::History { system: self.holdings.inventory().system, timeline };
                    self.report.damaged.push(Damage { object: name.to_string(), problem: error.to_string() });
                }
            }
        }
        chains
    }

    fn is_known(&self, listed: &Listed) -> bool {
        // An index is looked at beside its segment.
        self.state.has(&listed.name.to_string(), &Known::of(listed, self.args.full))
    }

    fn take(&mut self, found: Vec<facts::Fact>) -> anyhow::Result<()> {
        for fact in found {
            if let Some(problem) = fact.found? {
                self.report.damaged.push(Damage { object: fact.object, problem });
            }
        }
        Ok(())
    }

    /// The whole segments that are to be read, or whose index is, in order.
    fn to_read(&self, todo: &[Listed]) -> BTreeSet<Segment> {
        let size = self.holdings.inventory().size;
        let whole = todo.iter().filter_map(|listed| match &listed.name {
            ObjectName::Segment { segment, .. } => segment.segment(size),
            _ => None,
        });
        let damaged: BTreeSet<&str> = self.report.damaged.iter().map(|damage| damage.object.as_str()).collect();
        whole.filter(|segment| !damaged.contains(self.object(*segment).to_string().as_str())).collect()
    }

    fn object(&self, segment: Segment) -> ObjectName {
        let inventory = self.holdings.inventory();
        ObjectName::Segment { system: inventory.system, segment: inventory.name(segment) }
    }

    fn index_object(&self, segment: Segment) -> ObjectName {
        let inventory = self.holdings.inventory();
        ObjectName::Index { system: inventory.system, segment: inventory.name(segment) }
    }

    /// A segment's index is missing, or says something else.
    fn index_wrong(&mut self, segment: Segment) {
        let name = self.index_object(segment).to_string();
        if !self.report.index_missing.contains(&name) {
            self.report.index_missing.push(name);
        }
    }

    fn damage(&mut self, segment: Segment, problem: String) {
        let object = self.object(segment).to_string();
        self.report.damaged.push(Damage { object, problem });
    }

    fn finish(&mut self, todo: &[Listed]) {
        self.report.damaged.sort();
        self.report.damaged.dedup();
        self.report.index_missing.sort();
        let bad: BTreeSet<&str> = self.report.damaged.iter().map(|damage| damage.object.as_str()).collect();
        let missing: BTreeSet<&str> = self.report.index_missing.iter().map(String::as_str).collect();
        for listed in todo {
            let name = listed.name.to_string();
            let index = name.replace(".zst", ".idx.zst");
            if !bad.contains(name.as_str()) && !missing.contains(index.as_str()) && !missing.contains(name.as_str()) {
                self.state.insert(name, Known::of(listed, self.args.full));
            }
        }
        self.state.keep(|name| self.objects.contains_key(name));
        let report = &mut self.report;
        report.whole = report.damaged.is_empty() && report.gaps.is_empty() && report.index_missing.is_empty();
    }
}

/// A bar on a terminal, nothing elsewhere.
fn progress(objects: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(objects as u64), ProgressDrawTarget::hidden());
    if let (true, Ok(style)) = (std::io::stderr().is_terminal(), ProgressStyle::with_template("{bar:40} {pos}/{len} {eta}")) {
        bar.set_style(style);
        bar.set_draw_target(ProgressDrawTarget::stderr());
    }
    bar
}

impl Report {
    fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |line: String| text.extend([line.as_str(), "\n"]);
        for damage in &self.damaged {
            line(format!("DAMAGED  {}: {}", damage.object, damage.problem));
        }
        for TimelineGap { timeline, gap } in &self.gaps {
            line(format!(
                "GAP      timeline {timeline}: {} to {} are missing ({}), {} to {}",
                gap.first, gap.last, gap.segments, gap.start, gap.end
            ));
        }
        for index in &self.index_missing {
            line(format!("NO INDEX {index}: verify --repair makes it"));
        }
        for path in &self.foreign {
            line(format!("note     {path} is none of the archive's objects"));
        }
        let how = if self.full { "read" } else { "looked at" };
        let repaired = if self.index_repaired > 0 { format!(", {} indexes made", self.index_repaired) } else { String::new() };
        let verdict = if self.whole { "whole" } else { "NOT WHOLE" };
        line(format!(
            "{verdict}: cluster {}, {} objects {how}, {} passed over{repaired}",
            self.system_id, self.checked, self.passed_over
        ));
        text
    }
}
