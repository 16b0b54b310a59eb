//! The daemon's socket: one request a connection, one answer.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};
use walbus::archive::envelope::ContentHash;

use super::engine::Command;
use crate::daemon::line::{Answer, LINE_BYTES_MAX, Request};

/// How many connections are open at once. More wait in the kernel, and then are refused: who asks does it alone.
const CONNECTIONS_MAX: usize = 64;
/// How long a request may take to come, and an answer to be read.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is said that something is being done.
const WAIT_INTERVAL: Duration = Duration::from_secs(1);
/// How long who was given a file may take to move it away.
const TAKEN_MAX: Duration = Duration::from_mins(1);

/// Listens on a socket that only its owner can connect to, in place of one that a daemon left which was killed. Nobody else may listen
/// there: the caller holds the lock.
///
/// # Errors
/// Of the operating system.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Accepts connections until told to stop; each is a task of `connections`.
pub async fn run(
    listener: UnixListener,
    archive: ContentHash,
    commands: mpsc::Sender<Command>,
    connections: TaskTracker,
    mut stop: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut id = 0;
    loop {
        let accepted = tokio::select! {
            accepted = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (listener.accept().await, place)
            } => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            (Ok((stream, _)), Ok(place)) => {
                id += 1;
                let commands = commands.clone();
                connections.spawn(async move {
                    if let Err(error) = Box::pin(serve(stream, id, archive, commands)).await {
                        debug!(%error, "a connection ended early");
                    }
                    drop(place);
                });
            }
            (Err(error), _) => {
                // As a rule, too many files are open.
                warn!(%error, "a connection can't be accepted");
                tokio::time::sleep(WAIT_INTERVAL).await;
            }
            (Ok(_), Err(_)) => return,
        }
    }
}

async fn serve(stream: UnixStream, id: u64, archive: ContentHash, commands: mpsc::Sender<Command>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    let mut limited = (&mut stream).take(LINE_BYTES_MAX as u64);
    tokio::time::timeout(PATIENCE, limited.read_until(b'\n', &mut line)).await??;
    let request = match parse(&line, archive) {
        Ok(request) => request,
        Err(reason) => return send(&mut stream, &Answer::Yourself(reason)).await,
    };
    let (reply, mut answer) = oneshot::channel();
    let command = match request {
        Request::Fetch { system, segment, .. } => Command::Fetch { id, system, segment, reply },
        Request::Push { name, identity, .. } => Command::Push { id, name, identity, reply },
    };
    // Without an engine there is no answer either, which is told below.
    drop(commands.send(command).await);
    let waited = wait(&mut stream, &mut answer).await;
    if !matches!(waited, Ok(Some(_))) {
        drop(commands.send(Command::Gone(id)).await);
    }
    let answer = match waited {
        Ok(Some(answer)) => answer,
        Ok(None) => Answer::Yourself("it is being stopped".to_owned()),
        Err(error) => {
            // An answer that came in this moment is nobody's.
            answer.close();
            if let Ok(Answer::Here(path)) = answer.try_recv() {
                remove(&path);
            }
            return Err(error);
        }
    };
    let sent = send(&mut stream, &answer).await;
    if let Answer::Here(path) = answer {
        // It is moved away before the other side closes. Whatever it does, the file does not stay.
        drop(tokio::time::timeout(TAKEN_MAX, stream.read_u8()).await);
        remove(&path);
    }
    sent
}

fn parse(line: &[u8], archive: ContentHash) -> Result<Request, String> {
    let line = line.strip_suffix(b"\n").and_then(|line| std::str::from_utf8(line).ok());
    let line = line.ok_or_else(|| format!("a request is one line of up to {LINE_BYTES_MAX} bytes"))?;
    let request = Request::parse(line).map_err(|error| error.to_string())?;
    if request.archive() != archive {
        return Err("it was told of another archive: compare --store, --key-file and AWS_ENDPOINT_URL here and there".to_owned());
    }
    Ok(request)
}

/// Waits for the answer, and says once a second that it is being worked on; `None` where none will come. An error where the other side is
/// gone.
async fn wait(stream: &mut BufReader<UnixStream>, answer: &mut oneshot::Receiver<Answer>) -> io::Result<Option<Answer>> {
    loop {
        let mut byte = [0];
        tokio::select! {
            biased;
            answer = &mut *answer => return Ok(answer.ok()),
            read = stream.read(&mut byte) => return match read? {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                _ => Err(io::Error::other("it sends more than a request")),
            },
            () = tokio::time::sleep(WAIT_INTERVAL) => send(stream, &Answer::Wait).await?,
        }
    }
}

async fn send(stream: &mut BufReader<UnixStream>, answer: &Answer) -> io::Result<()> {
    tokio::time::timeout(PATIENCE, stream.get_mut().write_all(answer.to_string().as_bytes())).await?
}

/// Removes a file that was given away, if it is still there.
fn remove(path: &str) {
    match std::fs::remove_file(PathBuf::from(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => warn!(path, %error, "a fetched segment can't be removed"),
        _ => {}
    }
}
