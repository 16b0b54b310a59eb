//! A server with a log that the test writes, and the ways to talk to it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use beyond_cdc_client::proto::frame::{Frames, encode};
use beyond_cdc_client::proto::prost::Message;
use beyond_cdc_client::proto::v1::value::Kind;
use beyond_cdc_client::proto::v1::{
    Batch, Change, ClientMessage, Column, Hello, Operation, Part, Row, Schema, ServerMessage, Transaction, Value, client_message,
    server_message,
};
use beyond_cdc_client::{Client, Options, connect};
use bytes::Bytes;
use cdc::fanout::consumers::Consumers;
use cdc::log::{BatchMeta, Epoch, EventLog, Identity, Settings, Writer, start_epoch};
use cdc::quic::{self, Handle, Limits, PrimaryLsn};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use walbus::disk::OsDisk;
use walbus::service::tls::{Owner, provision};
use walbus::{Lsn, Position, SystemId, pem};

pub(crate) const EPOCH: Epoch = Epoch::new([0xE1; 16]);
pub(crate) const SYSTEM_ID: u64 = 7_301_122;
const OWNER: Owner = Owner { program: "beyond-pg-cdc", names_setting: "--quic-name" };

/// How long anything may take that does not wait for anybody.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A server, its log's writer, and its folder.
pub(crate) struct Server {
    pub(crate) dir: TempDir,
    pub(crate) options: quic::Options,
    pub(crate) log: EventLog<OsDisk>,
    pub(crate) writer: Writer<OsDisk>,
    pub(crate) consumers: Arc<Consumers<OsDisk>>,
    pub(crate) primary: PrimaryLsn,
    pub(crate) handle: Handle<OsDisk, OsDisk>,
    driver: JoinHandle<()>,
    next_lsn: u64,
    defined: bool,
}

pub(crate) fn at(lsn: u64, ordinal: u32) -> Position {
    Position { commit_lsn: Lsn(lsn), ordinal }
}

pub(crate) fn settings() -> Settings {
    Settings { segment_bytes: 64 << 10, ring_bytes: 256 << 10, ..Settings::default() }
}

/// Two tables: `public.users` is 1, `public.orders` is 2; each has `id` (the key) and `name`.
pub(crate) fn tables() -> Vec<Schema> {
    let column = |name: &str, type_oid, key| Column { name: name.to_owned(), type_oid, key, ..Column::default() };
    let columns = vec![column("id", 20, true), column("name", 25, false)];
    let table = |id, table: &str| Schema {
        id,
        oid: 16_000 + id,
        schema: "public".to_owned(),
        table: table.to_owned(),
        columns: columns.clone(),
        ..Schema::default()
    };
    vec![table(1, "users"), table(2, "orders")]
}

pub(crate) fn insert(ordinal: u32, table: u32, name: &str) -> Change {
    let values = vec![Value { kind: Some(Kind::Integer(ordinal.into())) }, Value { kind: Some(Kind::Text(name.to_owned())) }];
    Change { ordinal, operation: Operation::Insert.into(), schema: table, new: Some(Row { values }), ..Change::default() }
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}, settings()).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut quic::Options), settings: Settings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity { system_id: SystemId(SYSTEM_ID), slot: "slot".to_owned() };
        for folder in ["log", "consumers"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let disk = Arc::new(OsDisk::open(&dir.path().join("log")).unwrap());
        start_epoch(&*disk, &identity, EPOCH, Lsn(0x10)).unwrap();
        let (log, writer) = EventLog::open(disk, settings, &identity).unwrap();
        let own = provision(OWNER, dir.path(), &[]).unwrap();
        let mut options = quic::Options {
            listen: "127.0.0.1:0".to_owned(),
            tls: own.files(),
            token_file: own.token_path.clone(),
            principals: None,
            limits: Limits::default(),
        };
        change(&mut options);
        let consumers = Self::open_consumers(&dir);
        let primary = PrimaryLsn::default();
        let (handle, driver) = quic::bind(options.clone(), log.clone(), Arc::clone(&consumers), primary.clone()).await.unwrap();
        let driver = tokio::spawn(driver.run());
        Self { dir, options, log, writer, consumers, primary, handle, driver, next_lsn: 0x100, defined: false }
    }

    fn open_consumers(dir: &TempDir) -> Arc<Consumers<OsDisk>> {
        Arc::new(Consumers::open(Arc::new(OsDisk::open(&dir.path().join("consumers")).unwrap()), 100).unwrap())
    }

    /// Stops the server and starts it again at the same address, over the same log.
    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.start_again(tokio::runtime::Handle::current()).await;
    }

    /// Starts over the same log, after an end of whatever kind.
    pub(crate) async fn start_again(&mut self, runtime: tokio::runtime::Handle) {
        self.options.listen = self.handle.address().to_string();
        self.consumers = Self::open_consumers(&self.dir);
        let bind = || {
            let (options, log) = (self.options.clone(), self.log.clone());
            let (consumers, primary) = (Arc::clone(&self.consumers), self.primary.clone());
            runtime.spawn(quic::bind(options, log, consumers, primary))
        };
        let (handle, driver) = timeout(SOON, async {
            loop {
                match bind().await.unwrap() {
                    Ok(bound) => break bound,
                    // The socket closes a moment after its last user is gone.
                    Err(quic::BindError::Listen { .. }) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
        })
        .await
        .unwrap();
        self.handle = handle;
        self.driver = runtime.spawn(driver.run());
    }

    /// Starts again at the same address on another runtime, whose end is as sudden as a process's.
    pub(crate) async fn move_to(&mut self, runtime: &tokio::runtime::Handle) {
        self.stop().await;
        self.start_again(runtime.clone()).await;
    }

    pub(crate) async fn stop(&mut self) {
        self.handle.shutdown();
        timeout(SOON, &mut self.driver).await.unwrap().unwrap();
    }

    /// Commits a transaction of these changes, and gives its commit's LSN.
    pub(crate) fn commit(&mut self, changes: Vec<Change>) -> u64 {
        let lsn = self.append(changes);
        self.writer.sync().unwrap();
        lsn
    }

    /// A transaction that is not durable yet.
    pub(crate) fn append(&mut self, changes: Vec<Change>) -> u64 {
        let lsn = self.take_lsn();
        self.append_part(lsn, Part::Whole, changes);
        lsn
    }

    pub(crate) fn take_lsn(&mut self) -> u64 {
        self.next_lsn += 0x100;
        self.next_lsn
    }

    pub(crate) fn append_part(&mut self, lsn: u64, part: Part, changes: Vec<Change>) {
        let (first, last) = (changes.first().unwrap().ordinal, changes.last().unwrap().ordinal);
        let schemas = if self.defined { Vec::new() } else { tables() };
        self.defined = true;
        let transaction = Transaction {
            commit_lsn: lsn,
            end_lsn: lsn + 8,
            commit_time: i64::try_from(lsn).unwrap(),
            xid: 700,
            part: part.into(),
            changes,
            ..Transaction::default()
        };
        let batch = Batch { schemas: schemas.clone(), transactions: vec![transaction], through: None };
        let time = i64::try_from(lsn).unwrap();
        let meta = BatchMeta {
            first: at(lsn, first),
            last: at(lsn, last),
            end_lsn: Lsn(lsn + 8),
            time_min: time,
            time_max: time,
            ends: matches!(part, Part::Whole | Part::End),
            schemas: !schemas.is_empty(),
        };
        self.writer.append(meta, batch.encode_to_vec().into(), &schemas).unwrap();
    }

    /// A batch that nobody can decode, as no writer makes it.
    pub(crate) fn append_garbage(&mut self) -> u64 {
        let lsn = self.take_lsn();
        let (first, end_lsn) = (at(lsn, 1), Lsn(lsn + 8));
        let meta = BatchMeta { first, last: first, end_lsn, time_min: 0, time_max: 0, ends: true, schemas: false };
        self.writer.append(meta, Bytes::from_static(&[0xFF; 9]), &[]).unwrap();
        lsn
    }

    /// `count` transactions of one insert into users each.
    pub(crate) fn fill(&mut self, count: u64) {
        for number in 0..count {
            self.append(vec![insert(1, 1, &format!("name {number}"))]);
        }
        self.writer.sync().unwrap();
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join("tls/ca.pem")
    }

    pub(crate) fn token(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("token")).unwrap().trim().to_owned()
    }

    pub(crate) fn client_options(&self) -> Options {
        Options::new(&format!("quic://localhost:{}", self.handle.address().port()))
            .unwrap()
            .ca(self.ca())
            .backoff_max(Duration::from_millis(200))
    }

    pub(crate) async fn client(&self) -> Client {
        let (client, driver) = connect(self.client_options().token(self.token())).await.unwrap();
        tokio::spawn(driver.run());
        client
    }

    /// A connection by hand, whose control stream is open and on which nothing was said.
    pub(crate) async fn raw(&self) -> Raw {
        let mut tls =
            rustls::ClientConfig::builder().with_root_certificates(pem::roots("--ca", &self.ca()).unwrap()).with_no_client_auth();
        tls.alpn_protocols = vec![b"beyond-cdc/1".to_vec()];
        Raw::connect(self, tls).await.unwrap()
    }
}

/// A client that says whatever a test has it say.
pub(crate) struct Raw {
    _endpoint: Endpoint,
    pub(crate) connection: Connection,
    pub(crate) send: SendStream,
    receive: RecvStream,
    frames: Frames,
}

impl Raw {
    pub(crate) async fn connect(server: &Server, tls: rustls::ClientConfig) -> Result<Self, quinn::ConnectionError> {
        let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap())));
        let connection = endpoint.connect(server.handle.address(), "localhost").unwrap().await?;
        let (send, receive) = connection.open_bi().await?;
        Ok(Self { _endpoint: endpoint, connection, send, receive, frames: Frames::new(1 << 20) })
    }

    pub(crate) async fn hello(server: &Server) -> Self {
        let mut raw = server.raw().await;
        let hello = Hello { version_min: 1, version_max: 1, token: server.token(), agent: "raw".to_owned(), ..Hello::default() };
        raw.say(client_message::Kind::Hello(hello)).await;
        assert!(matches!(raw.heard().await, Some(server_message::Kind::Welcome(_))));
        raw
    }

    pub(crate) async fn say(&mut self, kind: client_message::Kind) {
        self.say_bytes(&encode(&ClientMessage { kind: Some(kind) })).await;
    }

    /// Sends bytes; that nobody takes them any more is no fault of the test.
    pub(crate) async fn say_bytes(&mut self, bytes: &Bytes) {
        drop(self.send.write_all(bytes).await);
    }

    /// The next message, `None` where the connection is over.
    pub(crate) async fn heard(&mut self) -> Option<server_message::Kind> {
        loop {
            if let Some(frame) = self.frames.next().unwrap() {
                return ServerMessage::decode(frame).unwrap().kind;
            }
            let chunk = timeout(SOON, self.receive.read_chunk(1 << 16, true)).await.expect("no answer");
            self.frames.push(&chunk.ok()??.bytes);
        }
    }

    /// The next message, which has to be an error: its code's name, and the subscription.
    pub(crate) async fn error(&mut self) -> (String, u32) {
        match self.heard().await {
            Some(server_message::Kind::Error(error)) => (format!("{:?}", error.code()), error.subscription),
            other => panic!("{other:?}"),
        }
    }
}

/// Waits for a condition.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}
