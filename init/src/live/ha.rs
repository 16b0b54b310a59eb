//! A pair while it runs: the primary watches its standby, each watches the other, and a promotion is done when it is asked for.

use std::time::Duration;

use anyhow::{Result, bail};

use super::{Live, unless_stopped};
use crate::boot::{ANSWER, Boot, field, system_id};
use crate::ha::{self, Order, Own, Role, Seen, StandbyStatus, StandbyWatch, Verdict};
use crate::settings::Tier;
use crate::supervise::{Child, Moment};

/// How often.
pub(super) const HA: Duration = Duration::from_secs(1);
/// How often peers are asked of which one has not answered: each such question takes its time.
const SILENT: Duration = Duration::from_secs(3);

/// How long a checkpoint is waited for at a time: nothing else is looked at meanwhile. The server goes on with it, and the next one is short.
const SETTLE: Duration = Duration::from_secs(10);

/// What is known of the pair.
#[derive(Debug)]
pub(super) struct PairWatch {
    pub(super) due: Moment,
    pub(super) alarms: Vec<String>,
    standby: StandbyWatch,
    name: Option<String>,
    peers_due: Moment,
    own: Option<Own>,
}

impl PairWatch {
    pub(super) fn new(boot: &Boot<'_>) -> Self {
        Self {
            due: Moment::ZERO,
            alarms: Vec::new(),
            standby: StandbyWatch::new(boot.remembered.without_standby, boot.remembered.in_step_noted),
            name: boot.settings.ha_standby.clone(),
            peers_due: Moment::ZERO,
            own: None,
        }
    }
}

impl Live {
    /// Makes this the primary, where somebody has asked for it.
    pub(super) fn promote(&mut self, boot: &mut Boot<'_>, force: bool) -> Result<()> {
        let outcome = unless_stopped(boot.promote(force))?.unwrap_or_else(|error| Err(vec![format!("{error:#}")]));
        if let Err(reasons) = &outcome {
            boot.engine.log().error("ha", format_args!("not promoted: {}", reasons.join("; ")));
        }
        boot.engine.answer_promotion(&outcome);
        self.talk = None;
        self.pair = PairWatch::new(boot);
        Ok(())
    }

    /// Looks at the other one.
    pub(super) fn look_at_pair(&mut self, boot: &mut Boot<'_>) -> Result<()> {
        if self.pair.name != boot.settings.ha_standby {
            self.pair = PairWatch::new(boot);
        }
        self.pair.due = boot.engine.now() + HA;
        self.pair.alarms.clear();
        let is_primary = boot.settings.tier == Tier::Primary;
        if is_primary && boot.settings.ha_standby.is_none() && boot.remembered.in_step_noted {
            self.forget_standby(boot)?;
        }
        if !boot.has_ha() {
            boot.engine.board.ha = None;
            return Ok(());
        }
        if is_primary {
            // Where a server ended in the middle of it.
            if let Err(error) = unless_stopped(boot.finish_promotion())? {
                self.pair.alarms.push(format!("the promotion is not carried out yet: {error:#}"));
            }
            self.look_at_standby(boot)?;
        } else {
            self.look_at_self(boot)?;
        }
        self.look_at_peers(boot, is_primary)
    }

    fn look_at_standby(&mut self, boot: &mut Boot<'_>) -> Result<()> {
        let name = boot.settings.ha_standby.clone();
        let held = boot.standby_name();
        let Some(rows) = self.ask(boot, &ha::primary_sql(name.as_deref(), held.as_deref()))? else { return Ok(()) };
        let (Some(system_id), Some(timeline)) =
            (field(&rows, 0).and_then(system_id), field(&rows, 1).and_then(|text| text.parse().ok()))
        else {
            return Ok(());
        };
        let own = Own { system_id, timeline };
        self.pair.own = Some(own);
        boot.show_role(Role::Primary, own);
        let copy = field(&rows, 2).map(str::to_owned);
        let seen = match Seen::of(copy == held, field(&rows, 3), field(&rows, 4)) {
            Seen::Synchronous if field(&rows, 5) == Some("t") => Seen::Twice,
            // Names of somebody else's, in which it is one of several.
            Seen::Synchronous if field(&rows, 6) != Some(&boot.synchronous_names()) => Seen::CaughtUp,
            seen => seen,
        };
        if let (Some(name), Some(copy)) = (&name, &copy)
            && let Some(order) = self.pair.standby.handle_seen(seen)
            && let Err(error) = unless_stopped(self.carry_out(boot, order, copy, timeline))?
        {
            self.pair.standby.handle_failed(order);
            self.pair.alarms.push(format!("the standby {name}: {error:#}"));
        }
        let commits_wait = !self.pair.standby.is_released();
        if let Some(ha) = &mut boot.engine.board.ha {
            ha.in_step = false;
            ha.standby =
                name.as_ref().map(|name| StandbyStatus { name: name.clone(), state: seen.name().to_owned(), commits_wait });
        }
        let Some(name) = name else { return Ok(()) };
        match (seen, commits_wait) {
            (Seen::Synchronous, true) => {}
            (Seen::CaughtUp | Seen::Lagging, true) => self.pair.alarms.push(format!(
                "the standby {name} streams, and commits do not wait for it alone: synchronous_standby_names is set elsewhere, by ALTER SYSTEM or a file of yours"
            )),
            (Seen::Twice, true) => self.pair.alarms.push(format!(
                "two connections have the name of the standby {name}: where one is a copy of the other's volume, give it a BEYOND_PG_IDENTITY of its own"
            )),
            (_, true) => self.pair.alarms.push(format!("the standby {name} is {}: commits wait for it", seen.name())),
            (_, false) => self.pair.alarms.push(format!(
                "no standby {name} since the promotion: commits do not wait for one, and are lost with this host until one has caught up"
            )),
        }
        Ok(())
    }

    fn carry_out(&mut self, boot: &mut Boot<'_>, order: Order, copy: &str, timeline: u32) -> Result<()> {
        let server = boot.server("postgres");
        match order {
            Order::Hold => {
                // First of all, and in WAL before any commit that waits for this copy alone: the one before it is in step no more.
                boot.engine.ask_once(&server, ha::FORGET_SQL, ANSWER)?;
                boot.remembered.in_step_noted = false;
                let before = (boot.remembered.without_standby, boot.remembered.standby.clone());
                (boot.remembered.without_standby, boot.remembered.standby) = (false, Some(copy.to_owned()));
                if let Err(error) = boot.remembered.write(&boot.layout).and_then(|()| boot.write_layers()) {
                    (boot.remembered.without_standby, boot.remembered.standby) = before;
                    return Err(error);
                }
                boot.engine.hup(Child::Postgres);
                boot.engine.log().info("ha", format_args!("the standby {copy} has caught up: commits wait for it from now on"));
            }
            Order::Record => {
                boot.remembered.in_step_noted = true;
                boot.remembered.write(&boot.layout)?;
                let rows = boot.engine.ask_once(&server, ha::NAMES_SQL, ANSWER)?;
                let (names, wanted) = (field(&rows, 0).unwrap_or_default(), boot.synchronous_names());
                if names != wanted {
                    boot.engine.ask_once(&server, ha::FORGET_SQL, ANSWER)?;
                    bail!(
                        "synchronous_standby_names is {names:?}, and not {wanted:?}: ALTER SYSTEM or a file of yours in conf.d sets it: take that out"
                    );
                }
                // What commits before this may not have waited, and lies before the row; what commits after it does.
                boot.engine.ask_once(&server, ha::SETTLE_SQL, SETTLE)?;
                boot.engine.ask_once(&server, &ha::record_sql(copy, timeline), ANSWER)?;
                boot.engine.log().info("ha", format_args!("the standby {copy} is in step on timeline {timeline}"));
            }
            Order::Forget => {
                boot.engine.ask_once(&server, ha::FORGET_SQL, ANSWER)?;
                boot.remembered.in_step_noted = false;
                boot.remembered.write(&boot.layout)?;
                boot.engine.log().error(
                    "ha",
                    format_args!("the standby {copy} is in step no more: commits do not wait for it, or not for it alone"),
                );
            }
        }
        Ok(())
    }

    /// Commits do not wait for a standby any more: it is not to be promoted as if they did.
    fn forget_standby(&mut self, boot: &mut Boot<'_>) -> Result<()> {
        if self.ask(boot, ha::FORGET_SQL)?.is_some() {
            boot.remembered.in_step_noted = false;
            boot.remembered.write(&boot.layout)?;
        }
        Ok(())
    }

    fn look_at_self(&mut self, boot: &mut Boot<'_>) -> Result<()> {
        if self.talk.is_none() {
            self.talk = unless_stopped(boot.engine.open(&boot.server("postgres"), ANSWER))?.ok();
        }
        let Some(talk) = &mut self.talk else { return Ok(()) };
        let name = boot.standby_name();
        let Ok(look) = unless_stopped(boot.look_as_standby(talk, name.as_deref()))? else {
            self.talk = None;
            return Ok(());
        };
        let own = Own { system_id: look.system_id, timeline: look.timeline };
        self.pair.own = Some(own);
        boot.show_role(Role::Standby, own);
        if let Some(ha) = &mut boot.engine.board.ha {
            (ha.in_step, ha.standby) = (look.in_step, None);
        }
        if !look.streams {
            let safe = if look.in_step { "; it has all that was acknowledged: beyond-pg promote" } else { "" };
            self.pair.alarms.push(format!("the primary does not stream to this standby{safe}"));
        } else if name.is_some() && !look.in_step {
            self.pair.alarms.push("the primary has not seen this standby in step yet: its loss could lose commits".to_owned());
        }
        Ok(())
    }

    fn look_at_peers(&mut self, boot: &mut Boot<'_>, is_primary: bool) -> Result<()> {
        let now = boot.engine.now();
        if boot.settings.peers.is_empty() || self.pair.peers_due > now {
            return Ok(());
        }
        let answers = boot.ask_peers()?;
        let Some(own) = self.pair.own else { return Ok(()) };
        let verdict = ha::decide(own, &answers);
        let silent = matches!(&verdict, Verdict::Go(odd) if !odd.is_empty());
        self.pair.peers_due = boot.engine.now() + if silent { SILENT } else { HA };
        if !is_primary {
            return Ok(());
        }
        match verdict {
            Verdict::Fenced { by, timeline } => boot.fence(by, timeline, own.timeline),
            Verdict::Go(_) => Ok(()),
            Verdict::Rival { by, timeline } => {
                let text = format!("the peer {by} is a primary of this cluster as well, on timeline {timeline}");
                boot.engine.log().error("ha", &text);
                self.pair.alarms.push(text);
                Ok(())
            }
        }
    }
}
