//! Settings that change while all runs.

use anyhow::Result;

use super::{Live, changed, unless_stopped};
use crate::boot::Boot;
use crate::settings::{Applies, row};
use crate::supervise::{Child, Moment};

impl Live {
    /// Reads all settings again, and does what follows from what has changed.
    pub(super) fn reload(&mut self, boot: &mut Boot<'_>) -> Result<()> {
        boot.engine.log().info("reload", "reading the settings again");
        self.take_settings(boot, true)
    }

    /// The same, quietly where nothing has changed.
    pub(super) fn look_at_metadata(&mut self, boot: &mut Boot<'_>) -> Result<()> {
        self.take_settings(boot, false)
    }

    fn take_settings(&mut self, boot: &mut Boot<'_>, asked: bool) -> Result<()> {
        let read = unless_stopped(boot.read_settings())?;
        let mut settings = match read {
            Ok(settings) => settings,
            Err(error) => {
                // What runs goes on with what it has.
                let text = format!("the settings can't be taken, those of before stay: {error:#}");
                if self.alarms.settings.as_ref() != Some(&text) {
                    boot.engine.log().error("reload", &text);
                }
                self.alarms.settings = Some(text);
                return Ok(());
            }
        };
        self.alarms.settings = None;
        // The port that was chosen stays.
        if settings.listen.port() == 0 {
            settings.listen = boot.settings.listen;
        }
        let names = changed(&boot.read_last, &settings);
        if names.is_empty() && !asked {
            return Ok(());
        }
        for name in &names {
            boot.engine.log().info("reload", format_args!("{name} has changed"));
        }
        let of_boot = |name: &&&str| row(name).is_some_and(|row| row.applies == Applies::Boot);
        for name in names.iter().filter(of_boot) {
            if !boot.pending_of_boot.contains(name) {
                boot.pending_of_boot.push(name);
            }
        }
        boot.read_last = settings.clone();
        boot.take_live(settings);
        self.sink.set_delay(boot.settings.wal_sink_delay);
        match boot.write_layers() {
            Ok(true) => {
                boot.engine.hup(Child::Postgres);
                boot.engine.hup(Child::PgBouncer);
            }
            Ok(false) if asked => {
                boot.engine.hup(Child::Postgres);
                boot.engine.hup(Child::PgBouncer);
            }
            Ok(false) => {}
            Err(error) => {
                let text = format!("the configuration can't be written: {error:#}");
                boot.engine.log().error("reload", &text);
                self.alarms.settings = Some(text);
            }
        }
        boot.show_settings();
        self.due.pending = Moment::ZERO;
        Ok(())
    }
}
