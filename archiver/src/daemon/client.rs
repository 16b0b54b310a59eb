//! Asking the daemon: with plain blocking calls, before a runtime, TLS or a store is set up, which take longer than the whole exchange.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use walbus::clock::{Clock, SystemClock};

use super::line::{Answer, LINE_BYTES_MAX, Request};

/// How long the daemon may be silent: it says that it is at work once a second.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// What came of asking. While this lives, the daemon leaves a file that it gave where it is.
#[derive(Debug)]
pub enum Asked {
    /// The segment is in this file, which is ours.
    Here(PathBuf, Connection),
    /// No daemon listens there.
    Nobody,
    /// The file is in the archive.
    Stored,
    /// We have to do it ourselves, and why.
    Yourself(String),
}

/// The connection to the daemon, open as long as this lives.
#[derive(Debug)]
pub struct Connection {
    _stream: BufReader<UnixStream>,
}

/// Asks the daemon at `socket`, and waits for up to `timeout`. There is no error: whatever goes wrong, we do it ourselves.
#[must_use]
pub fn ask(socket: &Path, request: &Request, timeout: Duration) -> Asked {
    let stream = match dial(socket) {
        Ok(stream) => stream,
        // ECONNREFUSED: one that was killed has left its socket.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => return Asked::Nobody,
        Err(error) => return Asked::Yourself(format!("the daemon at {} can't be asked: {error}", socket.display())),
    };
    exchange(stream, request, timeout).unwrap_or_else(|error| {
        let problem = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "it does not answer".to_owned(),
            _ => error.to_string(),
        };
        Asked::Yourself(format!("the daemon at {}: {problem}", socket.display()))
    })
}

/// Connects without waiting: where too many wait to be heard, we are not one more of them.
fn dial(path: &Path) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    Ok(stream)
}

fn exchange(mut stream: UnixStream, request: &Request, timeout: Duration) -> io::Result<Asked> {
    let clock = SystemClock::new();
    stream.write_all(request.to_string().as_bytes())?;
    let mut lines = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        lines.by_ref().take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Err(io::Error::other("it ended in the middle of an answer"));
        }
        let answer = std::str::from_utf8(&line).ok().and_then(|line| Answer::parse(line).ok());
        match answer {
            Some(Answer::Here(path)) => return Ok(Asked::Here(path.into(), Connection { _stream: lines })),
            Some(Answer::Stored) => return Ok(Asked::Stored),
            Some(Answer::Wait) if clock.monotonic() < timeout => {}
            Some(Answer::Wait) => return Err(io::Error::other("it has not done it in time (--timeout)")),
            Some(Answer::Yourself(reason)) => return Ok(Asked::Yourself(format!("the daemon says: {reason}"))),
            None => return Err(io::Error::other("it answers what is no answer of this version")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use walbus::SystemId;
    use walbus::archive::envelope::ContentHash;

    fn request() -> Request {
        let segment = "000000010000000000000001".parse().unwrap();
        Request::Fetch { archive: ContentHash([1; 32]), system: SystemId(7), segment }
    }

    /// What is made of a daemon that says this and hangs up.
    fn asked(answer: &'static [u8]) -> Asked {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let daemon = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            stream.write_all(answer).unwrap();
            line
        });
        let asked = ask(&path, &request(), Duration::from_secs(60));
        assert_eq!(daemon.join().unwrap(), request().to_string());
        asked
    }

    #[test]
    fn only_a_clear_yes_is_one() {
        assert!(matches!(asked(b"stored\n"), Asked::Stored));
        assert!(matches!(asked(b"wait\nwait\nstored\n"), Asked::Stored));
        assert!(matches!(asked(b"here /spool/x\n"), Asked::Here(path, _) if path == Path::new("/spool/x")));
        for garbage in [&b""[..], b"stored", b"wait\n", b"wait\nstor", b"yes\n", b"\xff\xff\n", b"HTTP/1.1 400 Bad Request\r\n"] {
            assert!(matches!(asked(garbage), Asked::Yourself(_)), "{garbage:?}");
        }
        assert!(matches!(asked(b"yourself the store is away\n"), Asked::Yourself(reason) if reason.contains("store is away")));
    }

    #[test]
    fn no_daemon_is_told_from_one_that_fails() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        assert!(matches!(ask(&path, &request(), Duration::from_secs(1)), Asked::Nobody));
        drop(UnixListener::bind(&path).unwrap());
        assert!(matches!(ask(&path, &request(), Duration::from_secs(1)), Asked::Nobody), "it left its socket");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "a file").unwrap();
        assert!(!matches!(ask(&path, &request(), Duration::from_secs(1)), Asked::Stored | Asked::Here(..)));
    }
}
