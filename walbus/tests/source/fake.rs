//! Servers that are none, or mean harm.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use walbus::proto::replication::StandbyStatus;
use walbus::source::{Class, CopyStream, Event, SourceError};
use walbus::{Lsn, Timeline};

use crate::cluster::connect_to;

const AUTHENTICATION_OK: &[u8] = b"R\0\0\0\x08\0\0\0\0";
const READY: &[u8] = b"Z\0\0\0\x05I";
const COPY_BOTH: &[u8] = b"W\0\0\0\x07\0\0\0";

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag], &(u32::try_from(body.len()).unwrap() + 4).to_be_bytes()[..], body].concat()
}

fn wal(start: u64, data: &[u8]) -> Vec<u8> {
    let header = [&b"w"[..], &start.to_be_bytes(), &[0; 16]].concat();
    frame(b'd', &[&header, data].concat())
}

/// Reads what the client sends once.
async fn hear(stream: &mut TcpStream) {
    let mut heard = [0; 4096];
    assert_ne!(stream.read(&mut heard).await.unwrap(), 0);
}

/// Answers each thing heard with the next thing to say, then closes.
async fn say(listener: TcpListener, said: Vec<Vec<u8>>) {
    let (mut stream, _) = listener.accept().await.unwrap();
    for message in said {
        hear(&mut stream).await;
        if stream.write_all(&message).await.is_err() {
            return;
        }
    }
}

/// What a client that talks to such a server fails with.
async fn failure(said: &[&[u8]], options: &str) -> SourceError {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let conninfo = format!("host=127.0.0.1 port={} user=u password=secret {options}", listener.local_addr().unwrap().port());
    let said = said.iter().map(|message| message.to_vec()).collect();
    let server = tokio::spawn(say(listener, said));
    let outcome = tokio::time::timeout(Duration::from_secs(30), connect_to(&conninfo)).await.unwrap();
    let error = outcome.unwrap_err();
    server.abort();
    error
}

#[tokio::test]
async fn garbage_is_named() {
    for (said, options, class, text) in [
        (&[&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..]][..], "sslmode=disable", Class::Other, "unknown message type 'H'"),
        (&[b"SSH-2.0-OpenSSH\r\n"], "sslmode=disable", Class::Other, "ParameterStatus of"),
        (&[b"R\0\0\0\x02"], "sslmode=disable", Class::Other, "malformed Authentication"),
        (&[b"R\0\0\0\x06\0\0"], "sslmode=disable", Class::Other, "it ends early"),
        (&[b"R\0\0"], "sslmode=disable", Class::Retry, "closed the connection"),
        (&[b""], "sslmode=disable", Class::Retry, "closed the connection"),
        (&[b"Ecould not fork new process for connection\n\0"], "sslmode=disable", Class::Retry, "ould not fork new process"),
        (&[READY], "sslmode=disable", Class::Other, "unexpected ReadyForQuery"),
        (&[b"R\0\0\0\x08\0\0\0\x07"], "sslmode=disable", Class::Authentication, "GSSAPI, which is not supported"),
        (&[b"R\0\0\0\x08\0\0\0\x09"], "sslmode=disable", Class::Authentication, "SSPI, which is not supported"),
        (&[b"R\0\0\0\x08\0\0\0\x63"], "sslmode=disable", Class::Authentication, "method 99"),
        (&[b"R\0\0\0\x0C\0\0\0\x0Cx=yz"], "sslmode=disable", Class::Other, "out of its order"),
        (
            &[b"v\0\0\0\x0C\0\0\0\0\0\0\0\0"],
            "sslmode=disable min_protocol_version=3.2",
            Class::Authentication,
            "protocol 3.0 at most",
        ),
        (&[b"v\0\0\0\x0C\0\x03\0\x02\0\0\0\0"], "sslmode=disable", Class::Other, "answers what was not asked"),
        (&[b"H"], "sslmode=require", Class::Other, "unknown message type 'H'"),
        (&[b"E"], "sslmode=require", Class::Retry, "see the server's log"),
        (&[b"N"], "sslmode=require", Class::Configuration, "the server has no TLS"),
        (&[b"S", b"what is this?"], "sslmode=require", Class::Configuration, "no TLS"),
        (&[b"HTTP/1.1 400 Bad Request\r\n\r\n"], "sslmode=require sslnegotiation=direct", Class::Configuration, "no TLS"),
    ] {
        let error = failure(said, options).await;
        let message = error.to_string();
        assert!(error.class() == class && message.contains(text), "{options}: {:?}: {message}", error.class());
    }
}

#[tokio::test]
async fn bytes_before_the_handshake_are_refused() {
    let stuffed = [b"S", AUTHENTICATION_OK].concat();
    for mode in ["prefer", "require", "verify-full sslrootcert=system"] {
        let error = failure(&[&stuffed], &format!("sslmode={mode}")).await;
        assert!(error.to_string().contains("in the clear after the answer"), "{mode}: {error}");
    }
}

#[tokio::test]
async fn a_server_must_prove_itself() {
    let sasl = frame(b'R', b"\0\0\0\x0ASCRAM-SHA-256\0\0");
    for (said, options, text) in [
        (&[&sasl, AUTHENTICATION_OK][..], "", "without proving"),
        (&[&sasl, &frame(b'R', b"\0\0\0\x0Br=other,s=AAAA,i=4096")], "", "challenge is not valid"),
        (&[&sasl, &frame(b'R', b"\0\0\0\x0Bnonsense")], "", "challenge is not valid"),
        (&[&frame(b'R', b"\0\0\0\x0ASCRAM-SHA-256-PLUS\0\0")], "", "in the clear"),
        (&[&frame(b'R', b"\0\0\0\x0ASCRAM-SHA-1\0\0")], "", "SASL by SCRAM-SHA-1"),
        (&[AUTHENTICATION_OK], "require_auth=scram-sha-256", "by none, which require_auth"),
        (&[AUTHENTICATION_OK], "channel_binding=require", "without channel binding"),
        (&[AUTHENTICATION_OK], "sslcertmode=require", "did not ask for a client certificate"),
    ] {
        let error = failure(said, &format!("sslmode=disable {options}")).await;
        assert!(error.class() == Class::Authentication && error.to_string().contains(text), "{text}: {error}");
    }
}

#[tokio::test]
async fn a_server_that_is_silent_is_waited_for_only_so_long() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let conninfo = format!("host=127.0.0.1 port={} user=u connect_timeout=1", listener.local_addr().unwrap().port());
    let error = connect_to(&conninfo).await.unwrap_err();
    assert!(matches!(error, SourceError::Timeout { .. }) && error.is_retryable(), "{error}");
}

/// A stream from a server that then says this, in these pieces, and the server's end of it.
async fn streaming() -> (CopyStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let conninfo = format!("host=127.0.0.1 port={} user=u sslmode=disable", listener.local_addr().unwrap().port());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        hear(&mut stream).await;
        stream.write_all(&[AUTHENTICATION_OK, READY].concat()).await.unwrap();
        hear(&mut stream).await;
        stream.write_all(COPY_BOTH).await.unwrap();
        stream
    });
    let client = connect_to(&conninfo).await.unwrap();
    let stream = client.start_physical(None, Lsn(0), Timeline::FIRST).await.unwrap();
    (stream, server.await.unwrap())
}

#[tokio::test]
async fn broken_streams_are_named() {
    for (said, class, text) in [
        (&b"X\0\0\0\x04"[..], Class::Other, "unknown message type 'X'"),
        (&frame(b'd', b""), Class::Other, "malformed CopyData"),
        (&frame(b'd', b"q123"), Class::Other, "unknown replication message 'q'"),
        (&frame(b'd', b"w123"), Class::Other, "malformed XLogData"),
        (&frame(b'd', b"k123"), Class::Other, "malformed keepalive"),
        (b"d\x7F\0\0\0", Class::Other, "longer than the limit of 16777216"),
        (b"d\0\0\0\x64w", Class::Retry, "closed the connection"),
        (&wal(0, b"abc")[..20], Class::Retry, "closed the connection"),
        (READY, Class::Other, "unexpected ReadyForQuery"),
        (&frame(b'E', b"SERROR\0C58P01\0Mgone\0\0"), Class::WalRemoved, "gone (SQLSTATE 58P01)"),
        (&frame(b'C', b"COPY 0\0"), Class::Retry, "as it is shutting down"),
    ] {
        let (mut stream, mut server) = streaming().await;
        server.write_all(said).await.unwrap();
        drop(server);
        let error = stream.next().await.unwrap_err();
        assert!(error.class() == class && error.to_string().contains(text), "{text}: {:?}: {error}", error.class());
    }
}

#[tokio::test]
async fn messages_in_pieces_come_out_whole() {
    let (mut stream, mut server) = streaming().await;
    let said = [wal(0, b"abc"), frame(b'N', b"SNOTICE\0C00000\0Mhm\0\0"), wal(3, &[7; 300_000]), frame(b'c', b"")].concat();
    let speak = async {
        for piece in said.chunks(9_999) {
            server.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        server
    };
    let listen = async {
        let mut heard = Vec::new();
        loop {
            // Dropped now and then, before anything came.
            match tokio::time::timeout(Duration::ZERO, stream.next()).await {
                Err(_) => tokio::task::yield_now().await,
                Ok(Ok(Event::End)) => return heard,
                Ok(event) => heard.push(event.unwrap()),
            }
        }
    };
    let (server, heard) = tokio::join!(speak, listen);
    drop(server);
    let [Event::Wal(first), Event::Wal(second)] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((first.start, &first.data[..]), (Lsn(0), &b"abc"[..]));
    assert_eq!((second.start, second.data.len()), (Lsn(3), 300_000));
    assert!(second.data.iter().all(|byte| *byte == 7));
}

#[tokio::test]
async fn of_statuses_that_wait_only_the_newest_is_sent() {
    let (mut stream, mut server) = streaming().await;
    let status = |number: u64| StandbyStatus { write: Lsn(number), flush: Lsn(number), ..StandbyStatus::default() };
    let mut sent = 0;
    // The server reads nothing: at some point the socket takes no more.
    while stream.try_send_status(&status(sent)) {
        sent += 1;
        assert!(sent < 10_000_000, "the socket never fills");
    }
    for number in sent + 1..=sent + 1000 {
        assert!(!stream.try_send_status(&status(number)));
    }
    let newest = sent + 1000;
    let hear = async {
        let mut last = 0;
        let mut count = 0_u64;
        while last < newest {
            let mut message = [0; 39];
            server.read_exact(&mut message).await.unwrap();
            let status = StandbyStatus::parse(&message[5..]).unwrap();
            assert!(status.write.0 >= last, "statuses go forward");
            last = status.write.0;
            count += 1;
        }
        count
    };
    // `next` sends what waits while it waits itself.
    let count = tokio::select! {
        count = hear => count,
        event = stream.next() => panic!("{event:?}"),
    };
    assert!(count <= sent + 3, "{count} statuses for {sent} that the socket took");
}

#[tokio::test]
async fn a_stream_without_a_pause_keeps_nobody_waiting() {
    let (mut stream, server) = streaming().await;
    let server = server.into_std().unwrap();
    server.set_nonblocking(false).unwrap();
    let mut reader = server.try_clone().unwrap();
    // Ends with the connection.
    let writer = std::thread::spawn(move || {
        let said: Vec<u8> = (0..100).flat_map(|_| wal(0, &[7; 100])).collect();
        while std::io::Write::write_all(&mut &server, &said).is_ok() {}
    });
    let reader = std::thread::spawn(move || {
        let mut last = 0;
        let mut message = [0; 39];
        while last < 20_001 && std::io::Read::read_exact(&mut reader, &mut message).is_ok() {
            last = StandbyStatus::parse(&message[5..]).unwrap().write.0;
        }
        last
    });
    let listen = async move {
        for number in 1..=20_000 {
            assert!(matches!(stream.next().await.unwrap(), Event::Wal(_)));
            stream.try_send_status(&StandbyStatus { write: Lsn(number), ..StandbyStatus::default() });
        }
        stream.send_status(&StandbyStatus { write: Lsn(20_001), ..StandbyStatus::default() }).await;
        stream
    };
    let other_task = tokio::time::sleep(Duration::from_millis(1));
    tokio::pin!(listen, other_task);
    tokio::select! {
        // First, or what the stream leaves of the task's budget would be too little for it.
        biased;
        () = other_task => {}
        _ = &mut listen => panic!("the timer never ran"),
    }
    let stream = listen.await;
    assert_eq!(reader.join().unwrap(), 20_001);
    drop(stream);
    writer.join().unwrap();
}

#[tokio::test]
async fn what_the_server_said_before_it_went_is_heard() {
    let (mut stream, mut server) = streaming().await;
    server.write_all(&[wal(0, b"abc"), frame(b'E', b"SFATAL\0C57P01\0Mbye\0\0")].concat()).await.unwrap();
    drop(server);
    // Writes into a closed connection fail, at once or after the first.
    for _ in 0..10 {
        stream.send_status(&StandbyStatus::default()).await;
    }
    let first = stream.next().await;
    if let Ok(event) = first {
        assert!(matches!(event, Event::Wal(_)), "{event:?}");
        let error = stream.next().await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
    } else {
        // A reset may take what was not read yet with it.
        assert!(first.unwrap_err().is_retryable());
    }
}
