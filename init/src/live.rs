//! While all runs: what is asked for is done.

use anyhow::Result;

use crate::boot::Boot;

/// Runs until all ends.
///
/// # Errors
/// [`crate::engine::Stopped`] when it does.
pub(crate) fn live(boot: &mut Boot<'_>) -> Result<()> {
    loop {
        boot.engine.go_on()?;
        boot.engine.turn(None, None)?;
    }
}
