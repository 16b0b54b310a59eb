//! Where a session starts, or why there can be none.

use crate::ident::{SystemId, Timeline};
use crate::lsn::Lsn;
use crate::proto::history::History;
use crate::segment::SegmentSize;

use super::{Held, Identity};

/// How much held WAL a session begins with at least, where that much is held: enough to hold a commit's time or a transaction's number, which
/// two histories do not share even where their records have the same lengths. Retention must leave it in place.
pub const COMPARED_BYTES_MIN: u64 = 64 << 10;

/// What a primary says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Server {
    /// Its cluster.
    pub system_id: SystemId,
    /// The size of its segments.
    pub segment_size: SegmentSize,
    /// The timeline it writes.
    pub timeline: Timeline,
    /// The end of its durable WAL.
    pub flushed: Lsn,
    /// The slot's oldest WAL and its timeline, where it has reserved any: where to start with nothing held.
    pub reserved: Option<(Lsn, Timeline)>,
}

/// Where a session starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// The timeline to ask for.
    pub timeline: Timeline,
    /// The first byte to ask for: a segment's start.
    pub at: Lsn,
    /// The timeline it forked off and where, if WAL of that is held to compare with.
    pub parent: Option<(Timeline, Lsn)>,
}

/// Why a primary's WAL is not received. All but [`Refusal::Behind`] need a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its WAL ends before what is held: it lost WAL that was acknowledged, or is a standby that lags.
    #[error(
        "the upstream's WAL ends at {server}, but complete records are held up to {held}: it came back without WAL that was acknowledged. \
         Stop it, run `beyond-pg-sink recover --from URL --pgdata DIR` on its data folder, and start it again; nothing is acknowledged \
         until then"
    )]
    Behind {
        /// The end of the complete records held.
        held: Lsn,
        /// The end of its WAL.
        server: Lsn,
    },
    /// Its timeline forked off before the end of the complete records held.
    #[error(
        "divergence: the upstream's timeline {server} left timeline {held} at {switchpoint}, but complete records are held up to {complete}: \
         it was promoted without WAL that was acknowledged. Both are kept; nothing is received from it. To follow it all the same, start \
         with an empty data folder and keep this one"
    )]
    ForkedBefore {
        /// The timeline held.
        held: Timeline,
        /// The end of the complete records held.
        complete: Lsn,
        /// Its timeline.
        server: Timeline,
        /// Where that forked off.
        switchpoint: Lsn,
    },
    /// Its timeline is older than what is held: it was fenced off by a promotion.
    #[error(
        "the upstream is on timeline {server}, but WAL of timeline {held} is held: it is an old primary that was replaced. Point --upstream \
         at the primary of timeline {held}"
    )]
    OlderTimeline {
        /// The timeline held.
        held: Timeline,
        /// Its timeline.
        server: Timeline,
    },
    /// It is another cluster.
    #[error(
        "the upstream's system identifier is {server}, but the data folder holds WAL of {held}: another cluster. Use one --data-dir a cluster"
    )]
    OtherCluster {
        /// Whose WAL is held.
        held: SystemId,
        /// Which cluster it is.
        server: SystemId,
    },
    /// Its segments have another size.
    #[error(
        "the upstream's wal_segment_size is {server}, but the data folder holds segments of {held}. Use one --data-dir a cluster, and a new \
         one after pg_resetwal --wal-segsize"
    )]
    OtherSegmentSize {
        /// The size held.
        held: SegmentSize,
        /// Its size.
        server: SegmentSize,
    },
    /// Its timeline does not descend from the one held.
    #[error(
        "divergence: the upstream's timeline {server} does not descend from timeline {held}, whose WAL is held. Both are kept; nothing is \
         received from it. To follow it all the same, start with an empty data folder and keep this one"
    )]
    NoDescendant {
        /// The timeline held.
        held: Timeline,
        /// Its timeline.
        server: Timeline,
    },
}

impl Refusal {
    /// Whether two histories contradict each other: the stream stops for good.
    #[must_use]
    pub const fn is_divergence(&self) -> bool {
        matches!(
            self,
            Self::ForkedBefore { .. } | Self::NoDescendant { .. } | Self::OlderTimeline { .. } | Self::OtherCluster { .. }
        )
    }
}

/// Where to start, given what is held and what the primary says. `history` is that of its timeline; there is none of timeline 1.
pub(super) fn plan(identity: Identity, held: Option<&Held>, server: &Server, history: Option<&History>) -> Result<Start, Refusal> {
    if server.system_id != identity.system_id {
        return Err(Refusal::OtherCluster { held: identity.system_id, server: server.system_id });
    }
    let size = identity.segment_size;
    if server.segment_size != size {
        return Err(Refusal::OtherSegmentSize { held: size, server: server.segment_size });
    }
    let Some(held) = held else {
        let (from, timeline) = server.reserved.unwrap_or((server.flushed, server.timeline));
        return Ok(Start { timeline, at: size.floor(from), parent: None });
    };
    if server.timeline < held.timeline {
        return Err(Refusal::OlderTimeline { held: held.timeline, server: server.timeline });
    }
    if server.timeline > held.timeline {
        let switchpoint = history.and_then(|history| history.switchpoint(held.timeline));
        let switchpoint = switchpoint.ok_or(Refusal::NoDescendant { held: held.timeline, server: server.timeline })?;
        if switchpoint < held.complete {
            let (held, complete) = (held.timeline, held.complete);
            return Err(Refusal::ForkedBefore { held, complete, server: server.timeline, switchpoint });
        }
    } else if server.flushed < held.complete {
        return Err(Refusal::Behind { held: held.complete, server: server.flushed });
    }
    let compared = Lsn(held.complete.0.saturating_sub(COMPARED_BYTES_MIN)).max(held.oldest);
    Ok(Start { timeline: held.timeline, at: size.floor(compared), parent: None })
}
