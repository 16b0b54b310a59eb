//! `walcat` as a program.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use harness::{DEADLINE, eventually, program};

use super::{decoding, streaming};

#[tokio::test]
async fn it_ends_with_the_reader_of_its_pipe_though_nothing_comes() -> Result<()> {
    let (cluster, cdc) = streaming(decoding(18)).await?;
    cluster.execute("INSERT INTO t VALUES (1)").await?;
    let mut command = program::command(&program::of_workspace("walcat")?);
    command.arg(cdc.url()).arg("--ca").arg(cdc.data().join("tls/ca.pem")).arg("--token-file").arg(cdc.data().join("token"));
    let mut walcat = command.args(["--from", "earliest"]).stdout(Stdio::piped()).spawn()?;
    let pipe = walcat.stdout.take().context("a pipe")?;
    let line = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        BufReader::new(pipe).read_line(&mut line).map(|_| line)
    });
    // The pipe is closed behind the first line, as `head -1` does.
    let line = line.await??;
    ensure!(line.contains("\"op\":\"insert\""), "{line}");
    let ended = eventually(DEADLINE, "walcat to end", async || Ok(walcat.try_wait()?)).await;
    walcat.kill()?;
    ensure!(ended?.success());
    Ok(())
}
