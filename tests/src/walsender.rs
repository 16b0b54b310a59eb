//! A walsender that says what a real one never would.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use walbus::{Lsn, SegmentSize};

/// The LSN at which its WAL starts.
pub const START: Lsn = Lsn(0x100_0000);

/// The longest message that a client of it has reason to send.
const MESSAGE_MAX: usize = 1 << 20;

/// A server that answers as a primary with 1 MB segments does, up to START_REPLICATION, and then sends the bytes it was given,
/// and nothing more. It ends with the runtime that it was started on.
#[derive(Debug)]
pub struct FakeWalsender {
    port: u16,
    streams: Arc<AtomicU64>,
}

impl FakeWalsender {
    /// Sends `bytes` as they are in each stream, then closes it if `close`, and else stays silent.
    ///
    /// # Errors
    /// Where no port can be had.
    pub async fn start(bytes: Vec<u8>, close: bool) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("bind the walsender")?;
        let port = listener.local_addr()?.port();
        let streams = Arc::new(AtomicU64::new(0));
        let (bytes, count) = (Arc::new(bytes), Arc::clone(&streams));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (bytes, count) = (Arc::clone(&bytes), Arc::clone(&count));
                // How a session ends is up to the client: it is what is tested.
                tokio::spawn(async move { drop(Session { stream }.serve(&bytes, close, &count).await) });
            }
        });
        Ok(Self { port, streams })
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// How many streams it has sent its bytes in.
    #[must_use]
    pub fn streams(&self) -> u64 {
        self.streams.load(Ordering::SeqCst)
    }
}

/// A message: its type, its length, its body.
#[must_use]
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind];
    message.extend(u32::try_from(body.len() + 4).unwrap_or(u32::MAX).to_be_bytes());
    message.extend(body);
    message
}

/// WAL as a walsender sends it: CopyData with an XLogData.
#[must_use]
pub fn xlog_data(at: Lsn, wal: &[u8]) -> Vec<u8> {
    let mut body = vec![b'w'];
    for number in [at.0, at.0 + wal.len() as u64, 0] {
        body.extend(number.to_be_bytes());
    }
    body.extend(wal);
    message(b'd', &body)
}

#[derive(Debug)]
struct Session {
    stream: TcpStream,
}

impl Session {
    async fn serve(mut self, bytes: &[u8], close: bool, streams: &AtomicU64) -> Result<()> {
        self.log_in().await?;
        loop {
            let (kind, body) = self.read().await?;
            let sql = String::from_utf8_lossy(&body).into_owned();
            match kind {
                b'X' => return Ok(()),
                b'Q' if sql.starts_with("START_REPLICATION") => break,
                b'Q' => self.answer(&sql).await?,
                _ => {}
            }
        }
        self.stream.write_all(&message(b'W', &[0, 0, 0])).await?;
        self.stream.write_all(bytes).await?;
        streams.fetch_add(1, Ordering::SeqCst);
        if !close {
            // Until the client goes.
            while self.stream.read(&mut [0; 4096]).await? > 0 {}
        }
        Ok(())
    }

    async fn log_in(&mut self) -> Result<()> {
        loop {
            let body = self.read_body().await?;
            match body.get(..4) {
                // SSLRequest and GSSENCRequest: neither is spoken.
                Some([0x04, 0xD2, 0x16, 0x2F | 0x30]) => self.stream.write_all(b"N").await?,
                Some(_) => break,
                None => bail!("too short for a startup message"),
            }
        }
        let mut answer = message(b'R', &0_u32.to_be_bytes());
        for (name, value) in [("server_version", "18.0"), ("integer_datetimes", "on"), ("server_encoding", "UTF8")] {
            answer.extend(message(b'S', format!("{name}\0{value}\0").as_bytes()));
        }
        answer.extend(message(b'K', &[0, 0, 0, 1, 0, 0, 0, 2]));
        answer.extend(message(b'Z', b"I"));
        Ok(self.stream.write_all(&answer).await?)
    }

    async fn answer(&mut self, sql: &str) -> Result<()> {
        let start = START.to_string();
        let row: &[(&str, &str)] = match sql.split([' ', ';', '\0']).next().unwrap_or_default() {
            "IDENTIFY_SYSTEM" => &[("systemid", "7000000000000000001"), ("timeline", "1"), ("xlogpos", &start), ("dbname", "")],
            "SHOW" => &[("wal_segment_size", "1MB")],
            "READ_REPLICATION_SLOT" => &[("slot_type", "physical"), ("restart_lsn", &start), ("restart_tli", "1")],
            _ => &[("x", "x")],
        };
        let columns = u16::try_from(row.len())?.to_be_bytes();
        let (mut description, mut values) = (columns.to_vec(), columns.to_vec());
        for (name, value) in row {
            description.extend(name.as_bytes());
            // Text, of no table.
            description.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 25, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0]);
            values.extend(u32::try_from(value.len())?.to_be_bytes());
            values.extend(value.as_bytes());
        }
        let mut answer = message(b'T', &description);
        answer.extend(message(b'D', &values));
        answer.extend(message(b'C', b"SELECT 1\0"));
        answer.extend(message(b'Z', b"I"));
        Ok(self.stream.write_all(&answer).await?)
    }

    async fn read(&mut self) -> Result<(u8, Vec<u8>)> {
        let kind = self.stream.read_u8().await?;
        Ok((kind, self.read_body().await?))
    }

    async fn read_body(&mut self) -> Result<Vec<u8>> {
        let len = usize::try_from(self.stream.read_u32().await?)?;
        if !(4..MESSAGE_MAX).contains(&len) {
            bail!("a message of {len} bytes");
        }
        let mut body = vec![0; len - 4];
        self.stream.read_exact(&mut body).await?;
        Ok(body)
    }
}

/// A segment of 1 MB that starts as a real one does, and holds no record.
#[must_use]
pub fn empty_segment(at: Lsn) -> Vec<u8> {
    let mut segment = vec![0; usize::try_from(SegmentSize::MIN.bytes()).unwrap_or_default()];
    // XLogLongPageHeaderData of version 18: magic, info (long header), timeline, page address, remaining length, system
    // identifier, segment size, page size.
    let mut header = Vec::new();
    header.extend(0xD118_u16.to_le_bytes());
    header.extend(2_u16.to_le_bytes());
    header.extend(1_u32.to_le_bytes());
    header.extend(at.0.to_le_bytes());
    header.extend(0_u64.to_le_bytes());
    header.extend(7_000_000_000_000_000_001_u64.to_le_bytes());
    header.extend((1_u32 << 20).to_le_bytes());
    header.extend(8192_u32.to_le_bytes());
    segment[..header.len()].copy_from_slice(&header);
    segment
}
