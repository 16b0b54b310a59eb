//! Which cluster and which timeline a command is about.

use anyhow::Context;
use walbus::Timeline;

use crate::holdings::Holdings;
use crate::settings::{StoreArgs, SystemArgs};

/// What the archive holds of the cluster that is meant.
///
/// # Errors
/// Where it is not told which one, or nothing is held of it.
pub async fn open(store: &StoreArgs, system: &SystemArgs) -> anyhow::Result<Holdings> {
    let archive = store.archive()?;
    let system = system.resolve(&archive).await?;
    Holdings::open(archive, system, None).await
}

/// A timeline as people write it: its number, decimal, or in the eight hexadecimal digits of a file's name.
///
/// # Errors
/// Where it is none.
pub fn parse_timeline(text: &str) -> Result<Timeline, String> {
    let number = if text.len() == 8 { u32::from_str_radix(text, 16).ok() } else { text.parse().ok() };
    number
        .and_then(Timeline::new)
        .ok_or_else(|| format!("{text:?} is no timeline: expected a number from 1 on, or 8 hexadecimal digits"))
}

/// The timeline that is named, or the newest of which segments are held.
///
/// # Errors
/// Where none is held.
pub fn chosen_timeline(holdings: &Holdings, named: Option<Timeline>) -> anyhow::Result<Timeline> {
    let held = holdings.inventory().timelines();
    match named {
        Some(timeline) => {
            let known: Vec<String> = held.iter().map(ToString::to_string).collect();
            anyhow::ensure!(
                held.contains(&timeline),
                "the archive holds nothing of timeline {timeline}; it has: {}",
                known.join(", ")
            );
            Ok(timeline)
        }
        None => {
            holdings.inventory().timelines_with_wal().last().copied().context("the archive holds no segment of this cluster yet")
        }
    }
}
