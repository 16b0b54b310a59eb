//! A round: a random story, random targets, and the rows that each must have.

use std::fmt;

use anyhow::{Context, Result, ensure};
use walbus::sim::Random;

use super::story::{Base, Event, Story};

/// What a round is like.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// Fixes what happens.
    pub seed: u64,
    /// The version of Postgres.
    pub version: u32,
    /// How many targets are recovered to.
    pub targets: u64,
    /// Whether all of them are moments.
    pub only_times: bool,
}

/// How a round went, all rows being right.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Transactions' ends.
    pub events: usize,
    /// Of these, how many were at an earlier time than one before them.
    pub out_of_order: usize,
    /// Restores that were exact.
    pub restored: u64,
    /// Of these, by time, with `locate` agreeing with where Postgres stopped.
    pub located: u64,
    /// Targets that were refused, as they had to be.
    pub refused: u64,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { events, out_of_order, restored, located, refused } = self;
        write!(f, "{events} transactions ({out_of_order} back in time), {restored} restores exact to the row, ")?;
        write!(f, "{located} of them where locate said, {refused} refused before they could fail")
    }
}

/// Plays one round.
///
/// # Errors
/// Where a row is missing or too many, `locate` and Postgres disagree, or anything on the way fails: with the folders, which are kept.
pub async fn play(round: Round) -> Result<Outcome> {
    let mut random = Random::new(round.seed);
    let mut story = Story::begin(round.version).await?;
    let played = Box::pin(play_story(round, &mut random, &mut story)).await;
    played.map_err(|error| {
        let evidence = [story.primary.keep().to_owned(), story.archive.keep().to_owned()];
        error.context(format!("evidence: {evidence:?}"))
    })
}

async fn play_story(round: Round, random: &mut Random, story: &mut Story) -> Result<Outcome> {
    tell(random, story).await?;
    let mut outcome = Outcome { events: story.events.len(), ..Outcome::default() };
    let mut latest = i64::MIN;
    for event in &story.events {
        outcome.out_of_order += usize::from(event.from_us < latest);
        latest = latest.max(event.to_us);
    }
    for number in 0..round.targets {
        let (base, aimed) = aim_at_any(random, story, round.only_times)?;
        hit(story, &base, &aimed, &mut outcome)
            .await
            .with_context(|| format!("target {number}: {:?} from {base:?}", aimed.args))?;
    }
    Ok(outcome)
}

/// What happens.
async fn tell(random: &mut Random, story: &mut Story) -> Result<()> {
    // Before or after the second base backup.
    let promotion = if random.chance(1, 2) { 20 + random.below(10) } else { 31 + random.below(12) };
    for step in 0..60 {
        let shift_us = if random.chance(1, 2) { 0 } else { i64::try_from(random.below(20_000_000))? - 10_000_000 };
        match random.below(10) {
            0 => story.roll_back(shift_us).await?,
            1 => story.commit_prepared(shift_us, u32::try_from(random.below(90))?).await?,
            2 => story.name(&format!("point {}", random.below(3))).await?,
            3 => story.commit(shift_us, 1_500_000).await?,
            _ => story.commit(shift_us, random.below(40_000)).await?,
        }
        match step {
            5 | 30 => story.back_up().await?,
            12 | 45 => story.snapshot().await?,
            step if step == promotion => story.promote().await?,
            _ => {}
        }
        if random.chance(1, 12) {
            story.primary.switch_wal().await?;
        }
    }
    // Something later than every target, so that a time is always passed.
    story.commit(30_000_000, 0).await?;
    story.archived().await
}

/// A target, and what must come of it.
#[derive(Debug)]
struct Aimed {
    args: Vec<String>,
    /// How many events must be there.
    count: usize,
    /// For `locate`.
    locate: Option<Vec<String>>,
}

/// How often another target is drawn where what must come of one can't be told.
const DRAWS: usize = 1000;

fn aim_at_any(random: &mut Random, story: &Story, only_times: bool) -> Result<(Base, Aimed)> {
    for _ in 0..DRAWS {
        let base = &story.bases[usize::try_from(random.below(story.bases.len() as u64))?];
        let at = usize::try_from(random.below(story.events.len() as u64))?;
        let Some(aimed) = aim(random, story, base, at, only_times) else { continue };
        // Now and then one that must be refused.
        if aimed.count >= base.consistent || random.chance(1, 8) {
            return Ok((base.clone(), aimed));
        }
    }
    anyhow::bail!("no target in {DRAWS} draws")
}

fn aim(random: &mut Random, story: &Story, base: &Base, at: usize, only_times: bool) -> Option<Aimed> {
    let event = &story.events[at];
    let inclusive = random.chance(1, 2);
    let mut args;
    let mut locate = None;
    let count = match if only_times { 7 } else { random.below(8) } {
        0 => {
            let (name, _) = &story.names[usize::try_from(random.below(story.names.len().max(1) as u64)).ok()?..].first()?;
            args = vec!["--target-name".to_owned(), name.clone()];
            // The first of that name that replay comes by.
            let count = story.names.iter().find(|(other, count)| other == name && *count >= base.begun)?.1;
            return Some(Aimed { args, count, locate: None });
        }
        1 | 2 => {
            args = vec!["--target-xid".to_owned(), event.xid.to_string()];
            if at < base.begun {
                return None;
            }
            at + usize::from(inclusive)
        }
        3 => {
            // Between the positions around a commit, other processes may write: only what lies outside is known.
            args = vec!["--target-lsn".to_owned(), event.before.to_string()];
            if !inclusive { at } else { return None }
        }
        _ => {
            let time_us = time_around(random, event);
            let time = time_text(time_us);
            args = vec!["--target-time".to_owned(), time.clone()];
            let held = story.events[..base.begun].iter().rev().find(|event| event.row.is_some());
            let holds_later = held.is_some_and(|event| if inclusive { event.from_us > time_us } else { event.from_us >= time_us });
            // What the base holds already can't be taken back: that must be refused.
            let count = if holds_later { 0 } else { story.count_at(time_us, inclusive, base.begun)? };
            if count == story.events.len() {
                return None;
            }
            locate = Some(vec!["--time".to_owned(), time]);
            count
        }
    };
    if !inclusive {
        args.push("--exclusive".to_owned());
        if let Some(locate) = &mut locate {
            locate.push("--exclusive".to_owned());
        }
    }
    Some(Aimed { args, count, locate })
}

fn time_around(random: &mut Random, event: &Event) -> i64 {
    match random.below(4) {
        0 => event.to_us,
        1 => event.to_us - 1,
        2 => event.to_us + 1,
        _ => event.to_us + i64::try_from(random.below(4_000_000)).unwrap_or(0) - 2_000_000,
    }
}

/// A moment as the program takes it, by Postgres' own arithmetic of seconds since 1970.
fn time_text(unix_us: i64) -> String {
    let (days, us) = (unix_us.div_euclid(86_400_000_000), unix_us.rem_euclid(86_400_000_000));
    // Days to a date of the Gregorian calendar, counted from March.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (us / 3_600_000_000, us / 60_000_000 % 60, us / 1_000_000 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{:06}+00", us % 1_000_000)
}

/// Recovers to the target and looks at the rows; a target that the base can't reach must be refused.
async fn hit(story: &Story, base: &Base, aimed: &Aimed, outcome: &mut Outcome) -> Result<()> {
    let mut args: Vec<&str> = aimed.args.iter().map(String::as_str).collect();
    if aimed.count < base.consistent {
        story.refusal(base, &args).await?;
        outcome.refused += 1;
        return Ok(());
    }
    args.extend(["--action", "pause"]);
    let mut restored = match story.restore(base, &args).await {
        // At the very edge of the base, its end record or its own last record decides.
        Err(error) if aimed.count == base.consistent && format!("{error:#}").contains("Use an older base") => {
            outcome.refused += 1;
            return Ok(());
        }
        restored => restored?,
    };
    restored.recover().await?;
    let (rows, expected) = (restored.rows().await?, story.rows_before(aimed.count));
    ensure!(rows == expected, "{} rows, expected {}: {:?}; {}", rows.len(), expected.len(), restored.stop(), restored.report);
    outcome.restored += 1;
    let Some(locate) = &aimed.locate else { return Ok(()) };
    let redo = restored.report["redo"].as_str().context("a redo point")?.to_owned();
    let locate: Vec<&str> = ["locate", "--from", &redo].into_iter().chain(locate.iter().map(String::as_str)).collect();
    let located = story.archive.json(&locate).await?;
    let stop = restored.stop()?;
    let said = located["xid"].as_u64().and_then(|xid| u32::try_from(xid).ok());
    ensure!(said == stop.xid && said.is_some(), "locate says {located}, Postgres: {}", stop.line);
    outcome.located += 1;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        assert_eq!(time_text(0), "1970-01-01 00:00:00.000000+00");
        assert_eq!(time_text(1_795_184_999_500_000), "2026-11-20 14:29:59.500000+00");
        assert_eq!(time_text(951_782_400_000_001), "2000-02-29 00:00:00.000001+00");
    }
}
