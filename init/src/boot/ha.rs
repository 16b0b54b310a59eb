//! Who of a pair is the primary: asked before a server starts, decided anew by a promotion, and remembered on the volume.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{ANSWER, Boot};
use crate::engine::Talk;
use crate::ha::{self, Answer, Control, Endpoint, HaStatus, Own, PeerStatus, Role, Verdict};
use crate::machine;
use crate::settings::{PoolTarget, Tier};
use crate::sql::Rows;
use crate::supervise::Child;
use crate::volume::{Fenced, Promotion, remove_durably, write_durably};

/// How long a peer may take to answer.
const PEER: Duration = Duration::from_millis(500);
/// How long what the primary has sent last may take to be replayed, before a standby is said not to be in step.
const REPLAY: Duration = Duration::from_secs(3);

impl Boot<'_> {
    /// Whether this is one of a pair.
    pub(crate) fn has_ha(&self) -> bool {
        let settings = &self.settings;
        settings.tier != Tier::Sink
            && (settings.ha_standby.is_some() || !settings.peers.is_empty() || self.remembered.promotion.is_some())
    }

    /// The name of one copy of the pair's standby: on a primary the one that commits wait for, on a standby its own. The pair's, where none is
    /// known.
    pub(crate) fn standby_name(&self) -> Option<String> {
        let pair = self.settings.ha_standby.as_ref()?;
        let held = match self.settings.tier {
            Tier::Replica => self.remembered.copy.as_ref().map(|copy| ha::copy_name(pair, copy)),
            Tier::Primary | Tier::Sink => self.remembered.standby.clone().filter(|name| ha::is_of_pair(name, pair)),
        };
        Some(held.unwrap_or_else(|| pair.clone()))
    }

    /// Who commits wait for at present, as our layers have it.
    pub(crate) fn synchronous_names(&self) -> String {
        let has_sink = self.settings.wal_sink.is_some() && !self.layout.conf.join(crate::live::SINK_LAYER).exists();
        let sink = has_sink.then_some(self.settings.wal_sink_name.as_str());
        ha::synchronous_names(self.standby_name().filter(|_| !self.remembered.without_standby).as_deref(), sink)
    }

    /// Decides what this server is: what the settings say, unless a promotion has made it the primary since, or another is it.
    pub(super) fn decide_role(&mut self) -> Result<()> {
        if self.is_fork() {
            // A database of its own: what its parent was to others is not its business.
            self.remembered.begin_as_standby();
            return Ok(());
        }
        let Some(control) = self.control()? else {
            if self.remembered.promotion.is_some() && self.remembered.fenced.is_none() {
                bail!(
                    "this standby was promoted, and now its data folder is gone: put it back, or remove {} to begin anew with a copy of \
                     the primary",
                    self.layout.state.display()
                );
            }
            return Ok(());
        };
        let own = Own { system_id: control.system_id, timeline: self.known_timeline(&control) };
        let is_replica = self.settings.tier == Tier::Replica;
        if is_replica && self.remembered.promotion.is_none() && self.remembered.fenced.is_none() {
            self.show_role(Role::Standby, own);
            return Ok(());
        }
        if self.remembered.fenced.is_none() {
            self.ask_before_start(own, is_replica)?;
        }
        if let Some(fenced) = self.remembered.fenced.clone() {
            self.show_role(Role::Standby, own);
            if !is_replica {
                bail!(fenced_text(&fenced, own.timeline));
            }
            self.engine.log().warn("ha", format_args!("{} is the primary now: this becomes its standby", fenced.by));
            (self.remembered.promotion, self.remembered.rejoining) = (None, true);
            return self.remembered.write(&self.layout);
        }
        if is_replica && self.remembered.promotion.is_none() {
            self.show_role(Role::Standby, own);
            return Ok(());
        }
        if let Some(promotion) = self.remembered.promotion.clone() {
            self.take_role(Tier::Primary);
            if is_replica {
                let timeline = promotion.to.map_or_else(String::new, |timeline| format!(" since timeline {timeline}"));
                self.engine
                    .log()
                    .warn("ha", format_args!("BEYOND_PG_TIER = replica, but this was promoted: it is the primary{timeline}"));
            }
        }
        self.show_role(Role::Primary, own);
        Ok(())
    }

    /// What the peers say of a primary that is about to start.
    fn ask_before_start(&mut self, own: Own, is_replica: bool) -> Result<()> {
        let answers = self.ask_peers()?;
        match ha::decide(own, &answers) {
            Verdict::Fenced { by, timeline } => {
                self.remembered.fenced = Some(Fenced { by: by.to_string(), timeline });
                self.remembered.write(&self.layout)
            }
            Verdict::Go(odd) => {
                let standby = self.settings.ha_standby.is_some() && !self.remembered.without_standby;
                let safe =
                    if standby { "; commits wait for the standby, so that nothing is acknowledged that could be lost" } else { "" };
                for line in odd {
                    self.engine.log().warn("ha", format_args!("{line}{safe}"));
                }
                Ok(())
            }
            Verdict::Rival { by, timeline } => {
                // No timeline was begun, and none can be without the file being gone.
                let untouched = |held: &Promotion| held.to.is_none() && held.from == own.timeline;
                let untouched = self.remembered.promotion.as_ref().is_some_and(untouched);
                if untouched && is_replica && self.layout.data.join("standby.signal").exists() {
                    self.engine.log().warn(
                        "ha",
                        format_args!("a promotion was begun and not carried out, and {by} is the primary: this stays a standby"),
                    );
                    (self.remembered.promotion, self.remembered.without_standby) = (None, false);
                    return self.remembered.write(&self.layout);
                }
                if timeline == own.timeline {
                    bail!(
                        "the peer {by} is the primary of this cluster already, on the same timeline {timeline}: this volume is a copy of its. \
                         Give the copy a BEYOND_PG_IDENTITY of its own and no BEYOND_PG_PEERS, or set BEYOND_PG_TIER = replica"
                    );
                }
                self.engine.log().warn("ha", format_args!("the peer {by} is still a primary, on the earlier timeline {timeline}"));
                Ok(())
            }
        }
    }

    /// What each peer says; this one itself is left out, should it be among them.
    pub(crate) fn ask_peers(&mut self) -> Result<Vec<(SocketAddr, Answer)>> {
        let mut answers = Vec::new();
        for address in self.settings.peers.clone() {
            let answer = match self.engine.ask_peer(address, PEER)? {
                // A fork has its parent's system identifier, and may be on a later timeline: it fences nobody.
                Answer::Said(said)
                    if (said.is_fork || !self.remembered.cleared.is_empty())
                        && matches!((&said.identity, &self.settings.identity), (Some(its), Some(own)) if its != own) =>
                {
                    Answer::Nothing("it has another BEYOND_PG_IDENTITY: it is a fork of this, or this one of it".to_owned())
                }
                answer => answer,
            };
            let own = self.engine.board.ha.as_ref().map(|ha| ha.instance.clone());
            match &answer {
                Answer::Said(said) if Some(&said.instance) == own.as_ref() => {}
                _ => answers.push((address, answer)),
            }
        }
        if let Some(ha) = &mut self.engine.board.ha {
            let seen = answers.iter().map(|(address, answer)| PeerStatus {
                address: address.to_string(),
                said: match answer {
                    Answer::Nothing(why) => format!("no answer: {why}"),
                    Answer::Said(said) => said.as_peer(),
                },
            });
            ha.peers = seen.collect();
        }
        Ok(answers)
    }

    /// Ends this primary: another has taken over. Durable first, so that no later start forgets it.
    pub(crate) fn fence(&mut self, by: SocketAddr, timeline: u32, own: u32) -> Result<()> {
        let fenced = Fenced { by: by.to_string(), timeline };
        self.remembered.fenced = Some(fenced.clone());
        self.remembered.write(&self.layout)?;
        let text = fenced_text(&fenced, own);
        self.engine.log().error("ha", &text);
        self.engine.fail(&text, 1);
        Ok(())
    }

    /// What the data folder says of its cluster; `None` where there is none.
    pub(super) fn control(&self) -> Result<Option<Control>> {
        let path = self.layout.data.join("global/pg_control");
        let file = match std::fs::read(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let control = Control::parse(&file);
        if control.is_none() && self.has_ha() {
            bail!("{} is not of Postgres 15 to 18, or damaged: which timeline this is can't be told", path.display());
        }
        Ok(control)
    }

    /// The newest timeline that the folder knows of. After a promotion `pg_control` lags behind until the next checkpoint.
    fn known_timeline(&self, control: &Control) -> u32 {
        let entries = std::fs::read_dir(self.layout.data.join("pg_wal"));
        let names: Vec<String> = entries
            .map(|entries| entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
            .unwrap_or_default();
        let promoted = self.remembered.promotion.as_ref().and_then(|promotion| promotion.to);
        [Some(control.timeline), promoted, ha::newest_history(names.iter().map(String::as_str))]
            .into_iter()
            .flatten()
            .max()
            .unwrap_or_default()
    }

    /// Tells peers and people what this is.
    pub(crate) fn show_role(&mut self, role: Role, own: Own) {
        if !self.has_ha() {
            return;
        }
        let ha = self.engine.board.ha.get_or_insert_with(|| {
            // One for each run: by it a server knows itself among its peers.
            HaStatus { instance: machine::kernel_random("uuid").unwrap_or_default(), ..HaStatus::default() }
        });
        (ha.role, ha.system_id, ha.timeline) = (role, own.system_id.to_string(), own.timeline);
        ha.identity.clone_from(&self.settings.identity);
        ha.is_fork = !self.remembered.cleared.is_empty();
        ha.promoted = self.remembered.promotion.as_ref().and_then(|promotion| promotion.to);
    }

    fn take_role(&mut self, tier: Tier) {
        self.settings.tier = tier;
        super::tier_name(tier).clone_into(&mut self.engine.board.tier);
    }

    /// Writes or removes the layer that has commits not wait for the standby. `true` where that has changed something.
    pub(crate) fn write_ha_layer(&self) -> Result<bool> {
        let path = self.layout.conf.join(ha::LAYER);
        let settings = &self.settings;
        if settings.tier == Tier::Primary && settings.ha_standby.is_some() && self.remembered.without_standby {
            let sink = settings.wal_sink.as_ref().filter(|_| !self.layout.conf.join(crate::live::SINK_LAYER).exists());
            let text = ha::layer(sink.map(|_| settings.wal_sink_name.as_str()));
            return write_durably(&path, text.as_bytes(), 0o600, self.owner());
        }
        remove_durably(&path)
    }

    /// Where PgBouncer sends to, if not to this machine's server.
    pub(crate) fn pool_primary(&self) -> Option<Endpoint> {
        let follows = self.settings.tier == Tier::Replica && self.settings.pgbouncer_target == PoolTarget::Primary;
        follows.then(|| self.settings.primary_endpoint().ok()).flatten()
    }

    /// Makes this standby the primary, or says why not.
    pub(crate) fn promote(&mut self, force: bool) -> Result<Result<String, Vec<String>>> {
        if self.settings.tier != Tier::Replica {
            let since = self.remembered.promotion.as_ref().and_then(|promotion| promotion.to);
            let since = since.map(|timeline| format!(" since timeline {timeline}")).unwrap_or_default();
            return Ok(Err(vec![format!("this is the primary already{since}")]));
        }
        let from = self.engine.now();
        let (timeline, reasons) = self.reasons_against()?;
        if !reasons.is_empty() && !force {
            return Ok(Err(reasons));
        }
        for reason in &reasons {
            self.engine.log().error("ha", format_args!("promoted by force, in spite of: {reason}"));
        }
        // From here on it is the primary, wherever this ends: a boot carries on.
        self.remembered.promotion = Some(Promotion { from: timeline, to: None, in_spite_of: reasons });
        self.remembered.without_standby = true;
        self.remembered.write(&self.layout)?;
        self.engine.log().warn("ha", format_args!("promotion begins, on timeline {timeline}"));
        self.take_role(Tier::Primary);
        // Before it takes writes: they are not to wait for a standby that there is not.
        self.write_layers()?;
        self.engine.hup(Child::Postgres);
        self.finish_promotion()?;
        let to = self.remembered.promotion.as_ref().and_then(|promotion| promotion.to).unwrap_or_default();
        let took = self.engine.now().saturating_sub(from);
        Ok(Ok(format!(
            "promoted: the primary on timeline {to}, after {} ms; commits wait for no standby until there is one",
            took.as_millis()
        )))
    }

    /// The timeline that is left, and why it should not be.
    fn reasons_against(&mut self) -> Result<(u32, Vec<String>)> {
        let server = self.server("postgres");
        let mut talk = self.engine.open(&server, ANSWER)?;
        let until = self.engine.now() + REPLAY;
        let Some(name) = self.standby_name() else {
            let standby = self.look_as_standby(&mut talk, None)?;
            let mut reasons = self.rivals(&standby)?;
            reasons.push(format!(
                "BEYOND_PG_HA_STANDBY is not set: commits of the primary have not waited for this standby, and those after {} ({}) may be lost",
                standby.replayed, standby.last_commit
            ));
            return Ok((standby.timeline, reasons));
        };
        let standby = loop {
            let standby = self.look_as_standby(&mut talk, Some(&name))?;
            // What was received is replayed soon.
            if standby.in_step || standby.streams || self.engine.now() >= until {
                break standby;
            }
            self.engine.pause_whole(Duration::from_millis(50))?;
        };
        let mut reasons = self.rivals(&standby)?;
        if !standby.in_step {
            reasons.push(format!(
                "the primary has not seen this standby ({name}) in step on timeline {}: what it acknowledged after {} (last commit here: {}) may \
                 be lost",
                standby.timeline, standby.replayed, standby.last_commit
            ));
        }
        Ok((standby.timeline, reasons))
    }

    /// Who is the primary still, or already.
    fn rivals(&mut self, standby: &StandbyLook) -> Result<Vec<String>> {
        let mut reasons = Vec::new();
        if standby.streams {
            reasons.push(
                "the primary streams to this standby, so it runs: stop it first (beyond-pg stop), or there are two".to_owned(),
            );
        }
        let own = Own { system_id: standby.system_id, timeline: standby.timeline };
        match ha::decide(own, &self.ask_peers()?) {
            Verdict::Fenced { by, timeline } => {
                reasons.push(format!("the peer {by} is the primary on the later timeline {timeline}: follow it instead"));
            }
            Verdict::Go(_) => {}
            Verdict::Rival { by, timeline } => {
                reasons.push(format!("the peer {by} is the primary on timeline {timeline} and its server runs: stop it first"));
            }
        }
        Ok(reasons)
    }

    /// Asks this standby how it is.
    pub(crate) fn look_as_standby(&mut self, talk: &mut Talk, name: Option<&str>) -> Result<StandbyLook> {
        let rows = self.engine.ask(talk, ha::STANDBY_SQL, ANSWER)?;
        let mut look = StandbyLook::of(&rows).context("the server does not say which cluster and timeline it is of")?;
        if let Some(name) = name.filter(|_| look.has_notes) {
            look.in_step = !self.engine.ask(talk, &ha::in_step_sql(name, look.timeline), ANSWER)?.is_empty();
        }
        Ok(look)
    }

    /// Before the start of a server whose promotion is not known to have ended: it starts as a standby, and is promoted once more.
    ///
    /// A server that dies between the removal of `standby.signal` and the first record of its new timeline would go on on the old one,
    /// beside the old primary. As a standby it replays what it has, on whichever timeline, and begins a new one.
    pub(super) fn begin_promotion_anew(&self) -> Result<()> {
        if self.remembered.promotion.as_ref().is_some_and(|promotion| promotion.to.is_none()) {
            write_durably(&self.layout.data.join("standby.signal"), b"", 0o600, self.owner())?;
        }
        Ok(())
    }

    /// Carries a promotion that was decided to its end. May be called again wherever it was left.
    pub(crate) fn finish_promotion(&mut self) -> Result<()> {
        let Some(from) = self.remembered.promotion.as_ref().filter(|promotion| promotion.to.is_none()).map(|held| held.from) else {
            return Ok(());
        };
        let to = loop {
            let to = self.leave_recovery_now()?;
            if to > from {
                break to;
            }
            self.engine.log().warn("ha", format_args!("the server died in its promotion and is on timeline {to} still: once more"));
            self.engine.unwant(Child::Postgres)?;
            self.begin_promotion_anew()?;
            let spec = self.postgres_spec(&self.own_settings())?;
            self.engine.want(Child::Postgres, spec);
            self.await_postgres()?;
        };
        self.note_promotion(to)
    }

    /// Promotes the server, and says which timeline it is on then.
    fn leave_recovery_now(&mut self) -> Result<u32> {
        let server = self.server("postgres");
        let mut talk = self.engine.open(&server, ANSWER)?;
        let mut asked = false;
        while field(&self.engine.ask(&mut talk, "select pg_is_in_recovery()", ANSWER)?, 0) == Some("t") {
            if !std::mem::replace(&mut asked, true) {
                self.engine.ask(&mut talk, "select pg_promote(false)", ANSWER)?;
            }
            self.engine.pause_whole(Duration::from_millis(10))?;
        }
        let rows = self.engine.ask(&mut talk, &format!("select {}", ha::TIMELINE_SQL), ANSWER)?;
        field(&rows, 0).and_then(|text| text.parse().ok()).context("the server does not say its timeline")
    }

    fn note_promotion(&mut self, to: u32) -> Result<()> {
        let server = self.server("postgres");
        // That its old standby was in step says nothing of this timeline.
        self.engine.ask_once(&server, ha::FORGET_SQL, ANSWER)?;
        if let Some(promotion) = &mut self.remembered.promotion {
            promotion.to = Some(to);
        }
        self.remembered.in_step_noted = false;
        self.remembered.write(&self.layout)?;
        self.engine.log().warn("ha", format_args!("promoted: the primary, on timeline {to}"));
        if let Some(ha) = &mut self.engine.board.ha {
            (ha.role, ha.timeline, ha.promoted, ha.in_step) = (Role::Primary, to, Some(to), false);
        }
        // Connections to the old primary are left; where it does not run yet, it reads its file when it starts.
        self.engine.hup(Child::PgBouncer);
        Ok(())
    }
}

/// How a standby is.
#[derive(Clone, Debug)]
pub(crate) struct StandbyLook {
    pub(crate) system_id: u64,
    pub(crate) timeline: u32,
    /// Whether its primary streams to it.
    pub(crate) streams: bool,
    /// Whether the primary has seen it in step on this timeline.
    pub(crate) in_step: bool,
    replayed: String,
    last_commit: String,
    has_notes: bool,
}

impl StandbyLook {
    fn of(rows: &Rows) -> Option<Self> {
        Some(Self {
            system_id: system_id(field(rows, 0)?)?,
            timeline: field(rows, 1)?.parse().ok()?,
            streams: field(rows, 2) == Some("streaming"),
            in_step: false,
            replayed: field(rows, 3).unwrap_or_default().to_owned(),
            last_commit: field(rows, 4).unwrap_or_default().to_owned(),
            has_notes: field(rows, 5) == Some("t"),
        })
    }
}

/// A field of the first row.
pub(crate) fn field(rows: &Rows, at: usize) -> Option<&str> {
    rows.first()?.get(at)?.as_deref()
}

/// SQL has no unsigned numbers: one above 2^63 comes out negative.
pub(crate) fn system_id(text: &str) -> Option<u64> {
    text.parse::<u64>().ok().or_else(|| text.parse::<i64>().ok().map(i64::cast_unsigned))
}

fn fenced_text(fenced: &Fenced, own: u32) -> String {
    format!(
        "fenced: {} is the primary of this cluster since timeline {}, and this was it on timeline {own}. To have it back as the standby, set \
         BEYOND_PG_TIER = replica and BEYOND_PG_PRIMARY_CONNINFO to the new primary and boot: pg_rewind takes back what the other has not. \
         Or boot an empty volume, which takes a new copy",
        fenced.by, fenced.timeline
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_the_same_from_the_file_and_from_sql() {
        assert_eq!(system_id("7437289143"), Some(7_437_289_143));
        assert_eq!(system_id("-1"), Some(u64::MAX));
        assert_eq!(system_id("x"), None);
    }

    #[test]
    fn a_standby_is_read_off_its_row() {
        let row = |fields: [Option<&str>; 6]| vec![fields.map(|field| field.map(str::to_owned)).to_vec()];
        let look = StandbyLook::of(&row([Some("7"), Some("2"), None, Some("0/3"), Some("ever"), Some("t")])).unwrap();
        assert_eq!((look.system_id, look.timeline, look.streams, look.has_notes), (7, 2, false, true));
        assert!(StandbyLook::of(&row([Some("7"), Some("2"), Some("streaming"), None, None, None])).unwrap().streams);
        assert!(StandbyLook::of(&row([Some("7"), None, None, None, None, None])).is_none());
    }

    #[test]
    fn who_is_fenced_is_told_the_way_out() {
        let text = fenced_text(&Fenced { by: "10.0.0.2:8431".to_owned(), timeline: 2 }, 1);
        assert!(text.starts_with("fenced: 10.0.0.2:8431 is the primary of this cluster since timeline 2"), "{text}");
        assert!(text.contains("BEYOND_PG_TIER = replica") && text.contains("pg_rewind"), "{text}");
    }
}
