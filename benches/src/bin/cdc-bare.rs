//! Writes the same bytes to each of its connections, and does nothing else: no server of QUIC by this library can be faster. For
//! `benches/peers/cdc`.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use beyond_cdc_proto::frame::{CONTROL_BYTES_MAX, Frames, encode};
use beyond_cdc_proto::prost::Message;
use beyond_cdc_proto::v1::value::Kind;
use beyond_cdc_proto::v1::{self, Batch, Change, ClientMessage, Operation, Row, ServerMessage, Transaction, Value, server_message};
use beyond_cdc_proto::{ALPN, DATAGRAM_BYTES_MAX};
use beyond_pg_benches::transport;
use bytes::Bytes;
use clap::Parser;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, EndpointConfig, RecvStream, SendStream, ServerConfig, TokioRuntime};
use rustix::net::sockopt;
use tokio::sync::Barrier;
use walbus::service::tls::{Owner, ServerTls, provision};

/// As beyond-pg-cdc has it.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Rows of one transaction of a backlog.
const TRANSACTION_ROWS: u64 = 1000;
/// How many of those beyond-pg-cdc has in a batch.
const BATCH_TRANSACTIONS: u64 = 3;

/// Takes so many subscribers, then sends each as many rows as it would get out of a backlog.
#[derive(Debug, Parser)]
struct Args {
    /// A folder for certificate and token
    #[arg(long)]
    data_dir: PathBuf,
    /// How many subscribers to wait for
    #[arg(long)]
    subscribers: usize,
    /// How many rows each gets
    #[arg(long)]
    rows: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(&args))
}

async fn serve(args: &Args) -> Result<()> {
    let own = provision(Owner { program: "cdc-bare", names_setting: "--data-dir" }, &args.data_dir, &[])?;
    let alpn = std::str::from_utf8(ALPN)?;
    let tls = ServerTls::open(own.files(), &[alpn])?.current();
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport::of_server()));
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES)?;
    sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES)?;
    let mut endpoint = EndpointConfig::default();
    endpoint.max_udp_payload_size(DATAGRAM_BYTES_MAX)?;
    let endpoint = Endpoint::new(endpoint, Some(config), socket, Arc::new(TokioRuntime))?;
    println!("listening on quic://{}", endpoint.local_addr()?);
    let all_there = Arc::new(Barrier::new(args.subscribers));
    let batch = batch();
    while let Some(incoming) = endpoint.accept().await {
        let (batch, all_there, rows) = (batch.clone(), Arc::clone(&all_there), args.rows);
        tokio::spawn(async move {
            // One that has all it wants hangs up.
            if let Ok(connection) = incoming.await
                && let Err(error) = write(&connection, batch, rows, &all_there).await
                && connection.close_reason().is_none()
            {
                eprintln!("{error:?}");
            }
        });
    }
    Ok(())
}

async fn write(connection: &Connection, batch: Bytes, rows: u64, all_there: &Barrier) -> Result<()> {
    let (mut send, mut receive) = connection.accept_bi().await?;
    let mut control = Frames::new(CONTROL_BYTES_MAX);
    heard(&mut receive, &mut control).await?;
    say(&mut send, server_message::Kind::Welcome(v1::Welcome { version: 1, epoch: vec![1; 16], ..v1::Welcome::default() })).await?;
    heard(&mut receive, &mut control).await?;
    let mut stream = connection.open_uni().await?;
    stream.write_all(&1_u32.to_be_bytes()).await?;
    say(&mut send, server_message::Kind::Subscribed(v1::Subscribed { subscription: 1, ..v1::Subscribed::default() })).await?;
    all_there.wait().await;
    for _ in 0..rows.div_ceil(TRANSACTION_ROWS * BATCH_TRANSACTIONS) {
        stream.write_chunk(batch.clone()).await?;
    }
    stream.finish()?;
    stream.stopped().await?;
    Ok(())
}

async fn say(send: &mut SendStream, kind: server_message::Kind) -> Result<()> {
    Ok(send.write_all(&encode(&ServerMessage { kind: Some(kind) })).await?)
}

async fn heard(receive: &mut RecvStream, frames: &mut Frames) -> Result<ClientMessage> {
    loop {
        if let Some(frame) = frames.next()? {
            return ClientMessage::decode(frame).context("a message of a client");
        }
        let Some(chunk) = receive.read_chunk(CONTROL_BYTES_MAX, true).await? else { bail!("the control stream has ended") };
        frames.push(&chunk.bytes);
    }
}

/// A batch as one of the backlog is, with the length before it.
fn batch() -> Bytes {
    let values = |ordinal: u32| {
        let id = i64::from(ordinal) + 1_000_000;
        [
            Kind::Integer(id),
            Kind::Integer(id % 10_007),
            Kind::Text(format!("{id:032x}")),
            Kind::Timestamp(1_700_000_000_000_000 + id),
        ]
    };
    let change = |ordinal| Change {
        ordinal,
        operation: Operation::Insert.into(),
        schema: 1,
        new: Some(Row { values: values(ordinal).into_iter().map(|kind| Value { kind: Some(kind) }).collect() }),
        ..Change::default()
    };
    let transaction = |number| Transaction {
        commit_lsn: 0x1_6B37_4848 + number,
        end_lsn: 0x1_6B37_4878 + number,
        commit_time: 1_700_000_000_000_000,
        xid: 742,
        changes: (1..=1000).map(change).collect(),
        ..Transaction::default()
    };
    encode(&Batch { transactions: (0..BATCH_TRANSACTIONS).map(transaction).collect(), ..Batch::default() })
}
