//! What this instance is told: all places read, in the loop, so that a metadata service that hangs holds nothing up.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};

use super::{Boot, WrongSettings};
use crate::engine::Engine;
use crate::settings::{Lookup, Problem, Settings, Source};
use crate::sources;

/// How long one attempt at the metadata may take.
const ATTEMPT: Duration = Duration::from_secs(2);
/// The same where nobody said that there is a metadata service.
const GUESS: Duration = Duration::from_millis(300);
/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(200);

/// Reads the settings out of all places, and says whether metadata was among them. Waits for metadata that is not there yet.
pub(super) fn read_all(engine: &mut Engine) -> Result<(Settings, bool)> {
    let (mut told, lookup) = read_local()?;
    let metadata = match lookup.metadata {
        Some(address) => wait_for_metadata(engine, address, &lookup)?,
        None => None,
    };
    let there = metadata.is_some();
    told.extend(metadata);
    Ok((resolve(&told)?, there))
}

impl Boot<'_> {
    /// Reads the settings again. Metadata that was there at the boot has to be there.
    pub(crate) fn read_settings(&mut self) -> Result<Settings> {
        let (mut told, lookup) = read_local()?;
        if let Some(address) = lookup.metadata {
            match self.engine.fetch_metadata(address, &lookup.metadata_path, ATTEMPT)? {
                Ok(Some(source)) => {
                    self.metadata_is_there = true;
                    told.push(source);
                }
                Ok(None) | Err(_) if !self.metadata_is_there && !lookup.metadata_is_set => {}
                Ok(None) => bail!("the metadata service {address} has nothing any more"),
                Err(error) => return Err(error.into()),
            }
        }
        resolve(&told)
    }
}

fn read_local() -> Result<(Vec<Source>, Lookup)> {
    let mut told = sources::local()?;
    let lookup = Lookup::resolve(&told).map_err(|problems| wrong(&problems))?;
    if let Some(path) = &lookup.metadata_file {
        told.push(sources::file(path)?);
    }
    Ok((told, lookup))
}

fn wait_for_metadata(engine: &mut Engine, address: SocketAddr, lookup: &Lookup) -> Result<Option<Source>> {
    let until = engine.now() + lookup.metadata_wait;
    let limit = if lookup.metadata_is_set { ATTEMPT } else { GUESS };
    let mut said = String::new();
    loop {
        let why = match engine.fetch_metadata(address, &lookup.metadata_path, limit)? {
            Ok(Some(source)) => return Ok(Some(source)),
            Ok(None) => format!("the metadata service {address} has nothing yet"),
            // Where nobody set it and nobody answers, there is none.
            Err(sources::mmds::FetchError::Away(..)) if !lookup.metadata_is_set => return Ok(None),
            Err(error) => format!("{:#}", anyhow::Error::new(error)),
        };
        if engine.now() >= until {
            bail!(
                "{why} after {:?}: set BEYOND_PG_METADATA=none where there is none, or BEYOND_PG_METADATA_WAIT to wait longer",
                lookup.metadata_wait
            );
        }
        if said != why {
            engine.log().warn("settings", format_args!("{why}: waiting"));
            engine.board.not_ready = Some(format!("step settings: {why}"));
            said = why;
        }
        engine.pause_whole(PAUSE)?;
    }
}

fn resolve(told: &[Source]) -> Result<Settings> {
    Settings::resolve(told).map_err(|problems| wrong(&problems))
}

fn wrong(problems: &[Problem]) -> anyhow::Error {
    WrongSettings(problems.iter().map(ToString::to_string).collect()).into()
}
