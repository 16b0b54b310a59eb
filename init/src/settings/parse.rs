//! Values as people write them. Each returns `None` for what it does not take; the table says what it does.

use core::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::passed::Program;
use super::{LogFormat, OsUser, PitrTarget, PoolTarget, SinkPolicy, Tier};

/// The port of the metadata service.
const METADATA_PORT: u16 = 80;

/// The most peers: each is asked in turn.
const PEERS_MAX: usize = 8;

/// The longest name that Postgres takes, in bytes (`NAMEDATALEN` - 1).
const NAME_BYTES_MAX: usize = 63;

pub(super) fn tier(text: &str) -> Option<Tier> {
    match text {
        "primary" => Some(Tier::Primary),
        "replica" => Some(Tier::Replica),
        "sink" => Some(Tier::Sink),
        _ => None,
    }
}

pub(super) fn policy(text: &str) -> Option<SinkPolicy> {
    match text {
        "preferred" => Some(SinkPolicy::Preferred),
        "required" => Some(SinkPolicy::Required),
        _ => None,
    }
}

pub(super) fn pool_target(text: &str) -> Option<PoolTarget> {
    match text {
        "local" => Some(PoolTarget::Local),
        "primary" => Some(PoolTarget::Primary),
        _ => None,
    }
}

pub(super) fn log_format(text: &str) -> Option<LogFormat> {
    match text {
        "json" => Some(LogFormat::Json),
        "text" => Some(LogFormat::Text),
        _ => None,
    }
}

/// A switch, as Postgres spells them.
pub(super) fn flag(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "on" | "yes" => Some(true),
        "0" | "false" | "off" | "no" => Some(false),
        _ => None,
    }
}

/// A whole number of a range. No sign, no unit.
pub(super) fn count(text: &str, min: u64, max: u64) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = plain.then(|| text.parse::<u64>().ok())??;
    (min..=max).contains(&number).then_some(number)
}

pub(super) fn port(text: &str) -> Option<u16> {
    count(text, 1, u64::from(u16::MAX)).and_then(|port| u16::try_from(port).ok())
}

/// What a duration is written in, in microseconds, as Postgres has them, and `m`.
const DURATION_UNITS: [(&str, u64); 7] = [
    ("us", 1),
    ("ms", 1_000),
    ("s", 1_000_000),
    ("min", 60_000_000),
    ("m", 60_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
];

/// A duration with its unit (`30s`) of a range.
pub(super) fn duration(text: &str, min: Duration, max: Duration) -> Option<Duration> {
    let micros = scaled(text, &DURATION_UNITS)?;
    let duration = Duration::from_micros(micros);
    (min..=max).contains(&duration).then_some(duration)
}

/// What a number of bytes is written in: powers of 1024, as Postgres has them.
const SIZE_UNITS: [(&str, u64); 5] = [("B", 1), ("kB", 1 << 10), ("MB", 1 << 20), ("GB", 1 << 30), ("TB", 1 << 40)];

/// A number of bytes with its unit: `512MB`.
#[must_use]
pub fn bytes(text: &str) -> Option<u64> {
    scaled(text, &SIZE_UNITS)
}

/// A whole number with one of these units; 0 needs none.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let number = text.strip_suffix(unit)?.parse::<u64>().ok()?;
    let unit = unit.trim_start();
    if unit.is_empty() {
        return (number == 0).then_some(0);
    }
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor)
}

/// An absolute path: relative to what would be guessed.
pub(super) fn path(text: &str) -> Option<PathBuf> {
    text.starts_with('/').then(|| PathBuf::from(text))
}

/// `ADDRESS:PORT`, in numbers.
pub(super) fn socket(text: &str) -> Option<SocketAddr> {
    text.parse().ok()
}

/// `ADDRESS:PORT`, or `none`.
pub(super) fn socket_or_none(text: &str) -> Option<Option<SocketAddr>> {
    if text == "none" { Some(None) } else { socket(text).map(Some) }
}

/// `ADDRESS` or `ADDRESS:PORT` of the metadata service, or `none`.
pub(super) fn metadata(text: &str) -> Option<Option<SocketAddr>> {
    match text.parse::<IpAddr>() {
        Ok(ip) => Some(Some(SocketAddr::new(ip, METADATA_PORT))),
        Err(_) => socket_or_none(text).filter(|address| address.is_none_or(|address| address.port() != 0)),
    }
}

/// `ADDRESS` or `ADDRESS:PORT`: the port is compared with Postgres' own afterwards.
pub(super) fn address(text: &str) -> Option<(IpAddr, Option<u16>)> {
    match text.parse::<IpAddr>() {
        Ok(ip) => Some((ip, None)),
        Err(_) => socket(text).map(|socket| (socket.ip(), Some(socket.port()))),
    }
}

/// The path of a URL: from a slash on, without what would end a request's line.
pub(super) fn url_path(text: &str) -> Option<String> {
    (text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic())).then(|| text.to_owned())
}

/// Where a sink is: `https://HOST:PORT`, with nothing behind.
pub(super) fn sink_url(text: &str) -> Option<String> {
    let text = text.trim_end_matches('/');
    let (host, port) = text.strip_prefix("https://")?.rsplit_once(':')?;
    let plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte));
    let v6 = host.starts_with('[') && host.ends_with(']');
    (!host.is_empty() && plain && (v6 || !host.contains(':')) && self::port(port).is_some()).then(|| text.to_owned())
}

/// A name or the numbers `UID:GID` of a user of the system.
pub(super) fn os_user(text: &str) -> Option<OsUser> {
    if let Some((uid, gid)) = text.split_once(':') {
        let id = |text| count(text, 0, u64::from(u32::MAX - 1)).and_then(|id| u32::try_from(id).ok());
        return Some(OsUser::Ids { uid: id(uid)?, gid: id(gid)? });
    }
    let first = text.bytes().next()?;
    let name = (first.is_ascii_alphabetic() || first == b'_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    name.then(|| OsUser::Name(text.to_owned()))
}

/// What a standby or a slot is called: what needs quotes nowhere.
pub(super) fn plain_name(text: &str) -> Option<String> {
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    (plain && (1..=NAME_BYTES_MAX).contains(&text.len())).then(|| text.to_owned())
}

/// Of a pair of servers.
pub(super) fn pair_name(text: &str) -> Option<String> {
    plain_name(text).filter(|name| name.len() <= crate::ha::NAME_BYTES_MAX)
}

/// The URL of a store, which the archiver takes apart.
pub(super) fn store(text: &str) -> Option<String> {
    let plain = !text.chars().any(|character| character.is_control() || character.is_whitespace());
    (plain && text.contains("://")).then(|| text.to_owned())
}

/// What Postgres lets a slot be called.
pub(super) fn slot(text: &str) -> Option<String> {
    let plain = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    (plain && (1..=NAME_BYTES_MAX).contains(&text.len())).then(|| text.to_owned())
}

/// A role: not one of Postgres' own, and not one of ours.
pub(super) fn role(text: &str) -> Option<String> {
    let reserved = ["pg_", "beyond_pg"].iter().any(|prefix| text.starts_with(prefix)) || ["none", "public"].contains(&text);
    (!reserved && (1..=NAME_BYTES_MAX).contains(&text.len())).then(|| text.to_owned())
}

/// A database: not one that `initdb` makes as a template, and not PgBouncer's console.
pub(super) fn database(text: &str) -> Option<String> {
    let reserved = ["template0", "template1", "pgbouncer", "replication", "all"].contains(&text);
    (!reserved && (1..=NAME_BYTES_MAX).contains(&text.len())).then(|| text.to_owned())
}

/// Health ports of peers, with commas between them.
pub(super) fn peers(text: &str) -> Option<Vec<SocketAddr>> {
    let peers: Option<Vec<_>> = text.split(',').map(|peer| socket(peer.trim()).filter(|peer| peer.port() != 0)).collect();
    peers.filter(|peers| peers.len() <= PEERS_MAX)
}

/// Any text. Control characters are refused for all settings alike.
pub(super) fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

/// Sidecars, with commas between them.
pub(super) fn sidecars(text: &str) -> Option<Vec<Program>> {
    let mut found = Vec::new();
    for name in text.split(',').map(str::trim) {
        found.push(match name {
            "archiver" => Program::Archiver,
            "cdc" => Program::Cdc,
            _ => return None,
        });
    }
    found.sort_unstable();
    found.dedup();
    Some(found)
}

/// An LSN, or a moment with its zone.
pub(super) fn pitr_target(text: &str) -> Option<PitrTarget> {
    if is_lsn(text) {
        return Some(PitrTarget::Lsn(text.to_ascii_uppercase()));
    }
    is_moment(text).then(|| PitrTarget::Time(text.to_owned()))
}

fn is_lsn(text: &str) -> bool {
    let half = |half: &str| (1..=8).contains(&half.len()) && half.bytes().all(|byte| byte.is_ascii_hexdigit());
    text.split_once('/').is_some_and(|(high, low)| half(high) && half(low))
}

/// `2026-11-20 14:30:00.5+02`, as RFC 3339 and Postgres have it. A moment without its zone would be somebody's guess.
fn is_moment(text: &str) -> bool {
    let Some((date, time)) = text.split_once([' ', 'T']) else { return false };
    let Some(zone_at) = time.find(['Z', '+', '-']) else { return false };
    let (clock, zone) = time.split_at(zone_at);
    is_date(date) && is_clock(clock) && is_zone(zone)
}

fn is_date(date: &str) -> bool {
    let parts: Vec<&str> = date.split('-').collect();
    let [year, month, day] = parts[..] else { return false };
    let (Some(year), Some(month), Some(day)) = (digits(year, 4), digits(month, 2), digits(day, 2)) else { return false };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    (1..=12).contains(&month) && (1..=last).contains(&day)
}

fn is_clock(clock: &str) -> bool {
    let (whole, fraction) = clock.split_once('.').map_or((clock, "0"), |(whole, fraction)| (whole, fraction));
    let parts: Vec<&str> = whole.split(':').collect();
    let [hour, minute, second] = parts[..] else { return false };
    let below = |part, limit| digits(part, 2).is_some_and(|number| number < limit);
    let fraction_is = (1..=9).contains(&fraction.len()) && fraction.bytes().all(|byte| byte.is_ascii_digit());
    below(hour, 24) && below(minute, 60) && below(second, 60) && fraction_is
}

fn is_zone(zone: &str) -> bool {
    if zone == "Z" {
        return true;
    }
    let offset = &zone[1..];
    let (hours, minutes) = offset.split_once(':').map_or((offset, "00"), |(hours, minutes)| (hours, minutes));
    digits(hours, 2).is_some_and(|hours| hours < 16) && digits(minutes, 2).is_some_and(|minutes| minutes < 60)
}

fn digits(text: &str, length: usize) -> Option<u32> {
    (text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}
