//! A volume that is full when the boot comes to a step: it says so, harms nothing, and goes on when there is room.

use anyhow::{Context, Result, ensure};
use harness::init::Init;
use harness::{DEADLINE, FullDisk, eventually};

use super::{STEPS, assert_works};

/// The part of the volume that a cluster takes, and room for what a boot writes.
const MEGABYTES: u32 = 300;

/// Boots, and waits until it is said that there is no space: by a boot that has ended, by one that waits for some, or by one that serves reads.
async fn says_that_there_is_no_space(init: &mut Init) -> Result<()> {
    let said = |text: &str| ["No space left", "free disk space"].iter().any(|words| text.contains(words));
    let from = init.log().len();
    init.launch(&[])?;
    let waited = eventually(DEADLINE, "the want of space to be said", async || {
        let is_over = init.process()?.ended()?.is_some();
        let serves_reads = init.status().await.is_ok_and(|status| status["ready"] == true && status["disk"]["read_only"] == true);
        Ok((serves_reads || said(init.log().get(from..).unwrap_or_default())).then_some(is_over))
    });
    let is_over = waited.await.with_context(|| init.log())?;
    if is_over { Ok(()) } else { init.kill() }
}

#[tokio::test]
async fn a_volume_that_is_full_at_any_step_is_named_and_harmed_by_nothing() -> Result<()> {
    let Some(disk) = FullDisk::new(MEGABYTES)? else { return Ok(()) };
    let mut init = Init::new().await?;
    init.set_volume(&disk.path().join("volume")).env("BEYOND_PG_MEMORY_MB", "256");
    for step in STEPS.into_iter().skip_while(|step| *step != "volume") {
        let (status, log) = init.end_of(&["--die-after", step]).await?;
        ensure!(status.code().is_none() && log.contains(&format!("dying after step {step}")), "{step}: {status} {log}");
        disk.fill(0)?;
        says_that_there_is_no_space(&mut init).await.with_context(|| format!("full after step {step}"))?;
        disk.free()?;
    }
    init.start().await?;
    assert_works(&init).await?;
    ensure!(init.stop().await?.success());
    Ok(())
}
