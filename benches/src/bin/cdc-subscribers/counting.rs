//! Subscribers that do the least there is to do: they read their streams, and count the changes that each batch has by the lengths before them.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use beyond_cdc_proto::frame::{BATCH_BYTES_MAX, CONTROL_BYTES_MAX, Frames, encode};
use beyond_cdc_proto::prost::Message;
use beyond_cdc_proto::prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use beyond_cdc_proto::v1::subscribe::Start;
use beyond_cdc_proto::v1::{self, ClientMessage, Part, ServerMessage, client_message, server_message};
use beyond_cdc_proto::{ALPN, DATAGRAM_BYTES_MAX};
use beyond_pg_benches::counted::Counter;
use beyond_pg_benches::transport;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream, TokioRuntime};
use rustix::net::sockopt;
use walbus::pem;

use crate::Args;

/// As the client library has it.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
const READ_BYTES: usize = 64 << 10;

/// Fields of `Batch` and of `Transaction`.
const TRANSACTIONS: u32 = 2;
const COMMIT_TIME: u32 = 3;
const PART: u32 = 5;
const CHANGES: u32 = 7;

/// A subscription, with the connection that it is alone on.
pub(crate) struct Subscription {
    _endpoint: Endpoint,
    _connection: Connection,
    _control: (SendStream, RecvStream),
    stream: RecvStream,
    frames: Frames,
}

/// A subscription that the server has agreed to.
pub(crate) async fn open(args: &Args) -> Result<Subscription> {
    let address: SocketAddr = args.url.strip_prefix("quic://").unwrap_or(&args.url).parse().context("--url")?;
    let token = std::fs::read_to_string(&args.token_file).context("--token-file")?.trim().to_owned();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(pem::roots("--ca", &args.ca)?)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport::of_client()));
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES)?;
    let mut endpoint = quinn::EndpointConfig::default();
    endpoint.max_udp_payload_size(DATAGRAM_BYTES_MAX)?;
    let endpoint = Endpoint::new(endpoint, None, socket, Arc::new(TokioRuntime))?;
    let connection = endpoint.connect_with(config, address, &address.ip().to_string())?.await?;
    let (mut send, mut receive) = connection.open_bi().await?;
    let mut control = Frames::new(CONTROL_BYTES_MAX);
    let hello = v1::Hello { version_min: 1, version_max: 1, token, agent: "cdc-subscribers".to_owned(), ..v1::Hello::default() };
    say(&mut send, client_message::Kind::Hello(hello)).await?;
    let answer = heard(&mut receive, &mut control).await?;
    ensure!(matches!(answer, server_message::Kind::Welcome(_)), "{answer:?}");
    let subscribe = v1::Subscribe { subscription: 1, start: Some(Start::Earliest(true)), ..v1::Subscribe::default() };
    say(&mut send, client_message::Kind::Subscribe(subscribe)).await?;
    let answer = heard(&mut receive, &mut control).await?;
    ensure!(matches!(answer, server_message::Kind::Subscribed(_)), "{answer:?}");
    let mut stream = connection.accept_uni().await?;
    stream.read_exact(&mut [0; 4]).await?;
    let frames = Frames::new(BATCH_BYTES_MAX);
    Ok(Subscription { _endpoint: endpoint, _connection: connection, _control: (send, receive), stream, frames })
}

async fn say(send: &mut SendStream, kind: client_message::Kind) -> Result<()> {
    Ok(send.write_all(&encode(&ClientMessage { kind: Some(kind) })).await?)
}

async fn heard(receive: &mut RecvStream, frames: &mut Frames) -> Result<server_message::Kind> {
    loop {
        if let Some(frame) = frames.next()? {
            return ServerMessage::decode(frame)?.kind.context("a message of no kind");
        }
        let chunk = receive.read_chunk(READ_BYTES, true).await?.context("the control stream has ended")?;
        frames.push(&chunk.bytes);
    }
}

pub(crate) async fn count(mut subscription: Subscription, changes: u64) -> Result<Counter> {
    let mut counter = Counter::default();
    while let Some(chunk) = subscription.stream.read_chunk(READ_BYTES, true).await? {
        subscription.frames.push(&chunk.bytes);
        while let Some(batch) = subscription.frames.next()? {
            if batch_of(&batch, &mut counter)? >= changes {
                return Ok(counter);
            }
        }
    }
    bail!("the stream has ended")
}

/// Counts what a batch has. Gives how many changes there were so far.
fn batch_of(mut batch: &[u8], counter: &mut Counter) -> Result<u64> {
    while !batch.is_empty() {
        let (tag, wire) = decode_key(&mut batch)?;
        if tag == TRANSACTIONS {
            transaction_of(part(&mut batch)?, counter)?;
        } else {
            skip_field(wire, tag, &mut batch, DecodeContext::default())?;
        }
    }
    Ok(counter.changes())
}

fn transaction_of(mut transaction: &[u8], counter: &mut Counter) -> Result<()> {
    let (mut commit_time, mut whole) = (0, true);
    while !transaction.is_empty() {
        match decode_key(&mut transaction)? {
            (CHANGES, WireType::LengthDelimited) => {
                part(&mut transaction)?;
                counter.change();
            }
            (COMMIT_TIME, WireType::Varint) => commit_time = decode_varint(&mut transaction)?.cast_signed(),
            (PART, WireType::Varint) => {
                let part = decode_varint(&mut transaction)?;
                whole = [Part::Whole, Part::End].into_iter().any(|end| u64::try_from(i32::from(end)) == Ok(part));
            }
            (tag, wire) => skip_field(wire, tag, &mut transaction, DecodeContext::default())?,
        }
    }
    if whole {
        counter.commit(commit_time);
    }
    Ok(())
}

/// What its length stands before.
fn part<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8]> {
    let len = usize::try_from(decode_varint(bytes)?)?;
    let (part, rest) = bytes.split_at_checked(len).context("a field that is longer than what it is in")?;
    *bytes = rest;
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use beyond_cdc_proto::v1::{Batch, Change, Row, Schema, Transaction, Value};

    #[test]
    fn what_is_counted_is_what_is_there() {
        let change = |ordinal| Change { ordinal, new: Some(Row { values: vec![Value::default(); 3] }), ..Change::default() };
        let transaction = |part: Part, changes: u32| Transaction {
            commit_time: -5,
            part: part.into(),
            changes: (0..changes).map(change).collect(),
            ..Transaction::default()
        };
        let transactions = vec![transaction(Part::Whole, 300), transaction(Part::Begin, 2)];
        let batch = Batch { schemas: vec![Schema::default()], transactions, through: Some(v1::Position::default()) };
        let mut counter = Counter::default();
        assert_eq!(batch_of(&batch.encode_to_vec(), &mut counter).unwrap(), 302);
        assert_eq!(Counter::sum(vec![counter]).commit_micros, 0, "the latest, of one that has ended");
        batch_of(&batch.encode_to_vec()[..100], &mut Counter::default()).unwrap_err();
    }
}
