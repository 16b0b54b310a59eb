//! What a cluster is to be like, and its making.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use walbus::SegmentSize;

use super::template::{copy_folder, copy_template, initdb, programs};
use super::{Postgres, SINK_PASSWORD, SINK_ROLE};
use crate::port::Port;
use crate::program;
use crate::scratch::{Scratch, write_private};
use crate::tls::Authority;

/// How roles prove who they are over TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Auth {
    /// By a client certificate; needs TLS.
    Cert,
    /// By an MD5 challenge.
    Md5,
    /// By the password as it is.
    Password,
    /// By SCRAM-SHA-256.
    #[default]
    Scram,
    /// Not at all.
    Trust,
}

impl Auth {
    const fn method(self) -> &'static str {
        match self {
            Self::Cert => "cert",
            Self::Md5 => "md5",
            Self::Password => "password",
            Self::Scram => "scram-sha-256",
            Self::Trust => "trust",
        }
    }
}

/// What a cluster is to be like.
#[derive(Debug, Clone)]
#[must_use = "nothing is made before create() or start()"]
pub struct Setup {
    version: u32,
    segment_size: SegmentSize,
    auth: Auth,
    tls: bool,
    own_system_id: bool,
    settings: Vec<(String, String)>,
    environment: Vec<(String, String)>,
}

impl Setup {
    pub(super) fn new(version: u32) -> Self {
        Self {
            version,
            segment_size: SegmentSize::DEFAULT,
            auth: Auth::default(),
            tls: false,
            own_system_id: false,
            settings: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// Megabytes a WAL segment; 16 unless told otherwise.
    ///
    /// # Panics
    /// Where Postgres takes no such size.
    pub fn wal_segment_mb(mut self, megabytes: u32) -> Self {
        self.segment_size = SegmentSize::new(u64::from(megabytes) << 20).expect("a segment size that Postgres takes");
        self
    }

    /// A line of `postgresql.conf`; the last one of a name holds.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// How roles prove who they are over TCP; by SCRAM unless told otherwise.
    pub const fn auth(mut self, auth: Auth) -> Self {
        self.auth = auth;
        self
    }

    /// TLS on its TCP port, required there, with a certificate for `localhost` and `127.0.0.1`.
    pub const fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Variables of its server.
    pub fn environment(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.environment.extend(variables);
        self
    }

    /// A system identifier of its own: without this it is one with all other clusters of the version and segment size.
    pub const fn own_system_id(mut self) -> Self {
        self.own_system_id = true;
        self
    }

    /// Makes it and starts its server.
    ///
    /// # Errors
    /// Where the programs can't be had, or the server does not start.
    pub async fn start(self) -> Result<Postgres> {
        let mut cluster = self.create().await?;
        cluster.start().await?;
        let encryption = if self.auth == Auth::Md5 { "md5" } else { "scram-sha-256" };
        cluster
            .execute(&format!(
                "SET password_encryption = '{encryption}'; CREATE ROLE {SINK_ROLE} LOGIN REPLICATION PASSWORD '{SINK_PASSWORD}'"
            ))
            .await?;
        Ok(cluster)
    }

    /// Makes its data folder, and starts nothing.
    ///
    /// # Errors
    /// Where the programs can't be had.
    pub async fn create(&self) -> Result<Postgres> {
        let cluster = self.place().await?;
        if self.own_system_id {
            initdb(&cluster.bin, self.segment_size, &cluster.data).await?;
        } else {
            copy_template(&cluster.bin, self.version, self.segment_size, &cluster.data).await?;
        }
        self.configure(&cluster)?;
        Ok(cluster)
    }

    /// Makes a standby of a running cluster, by `pg_basebackup`, and starts it. It has the primary's version, segment size and roles.
    ///
    /// # Errors
    /// Where the copy fails, or the server does not start.
    pub async fn standby_of(self, primary: &Postgres) -> Result<Postgres> {
        let mut cluster = self.place().await?;
        let mut command = primary.program("pg_basebackup");
        command.args(["--checkpoint=fast", "--wal-method=stream", "--no-sync", "-D"]).arg(&cluster.data);
        program::run(command).await?;
        self.configure(&cluster)?;
        cluster.append_settings(&[("primary_conninfo", &primary.socket_conninfo())])?;
        write_private(&cluster.data.join("standby.signal"), b"")?;
        cluster.start().await?;
        Ok(cluster)
    }

    /// Takes a copy of a data folder, a base backup or a [`Snapshot`](super::Snapshot), and starts nothing.
    ///
    /// # Errors
    /// Where it can't be copied.
    pub async fn copy_of(self, folder: &Path) -> Result<Postgres> {
        let cluster = self.place().await?;
        copy_folder(folder, &cluster.data).await?;
        // The server whose folder it was may be alive, elsewhere.
        match std::fs::remove_file(cluster.data.join("postmaster.pid")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).context("remove postmaster.pid"),
            _ => {}
        }
        self.configure(&cluster)?;
        Ok(cluster)
    }

    /// All but the data folder.
    async fn place(&self) -> Result<Postgres> {
        let scratch = Scratch::new()?;
        Ok(Postgres {
            process: None,
            version: self.version,
            bin: programs(self.version).await?,
            segment_size: self.segment_size,
            port: Port::reserve()?,
            authority: if self.tls { Some(Authority::new()?) } else { None },
            data: scratch.path().join("data"),
            log: scratch.path().join("postgres.log"),
            snapshots: 0,
            environment: self.environment.clone(),
            scratch,
        })
    }

    fn configure(&self, cluster: &Postgres) -> Result<()> {
        let port = cluster.port().to_string();
        let sockets = cluster.socket_folder().to_string_lossy().into_owned();
        cluster.append_settings(&[
            ("listen_addresses", "127.0.0.1"),
            ("port", &port),
            ("unix_socket_directories", &sockets),
            // Small, so that many run beside each other.
            ("shared_buffers", "16MB"),
            ("max_connections", "50"),
            ("log_line_prefix", "%m [%p] "),
        ])?;
        let host = if self.tls { "hostssl" } else { "host" };
        let method = self.auth.method();
        write_private(
            &cluster.data.join("pg_hba.conf"),
            format!(
                "local all all trust\nlocal replication all trust\n{host} all all 127.0.0.1/32 {method}\n{host} replication all \
                 127.0.0.1/32 {method}\n"
            )
            .as_bytes(),
        )?;
        if self.tls {
            self.configure_tls(cluster)?;
        }
        let settings: Vec<_> = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        cluster.append_settings(&settings)
    }

    fn configure_tls(&self, cluster: &Postgres) -> Result<()> {
        let authority = cluster.authority()?;
        let server = authority.server(&["localhost", "127.0.0.1"])?;
        write_private(&cluster.data.join("server.crt"), server.certificate.as_bytes())?;
        write_private(&cluster.data.join("server.key"), server.key.as_bytes())?;
        write_private(&cluster.data.join("ca.crt"), authority.certificate().as_bytes())?;
        cluster.append_settings(&[("ssl", "on")])?;
        if self.auth == Auth::Cert {
            cluster.append_settings(&[("ssl_ca_file", "ca.crt")])?;
        }
        Ok(())
    }
}

impl Postgres {
    /// Adds lines to `postgresql.conf`: they hold from the next start or [`reload`](Self::reload) on.
    ///
    /// # Errors
    /// Where the file can't be written.
    pub fn append_settings(&self, settings: &[(&str, &str)]) -> Result<()> {
        let path = self.data.join("postgresql.conf");
        let mut text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        for (name, value) in settings {
            writeln!(text, "{name} = '{}'", value.replace('\'', "''"))?;
        }
        write_private(&path, text.as_bytes())
    }

    /// How its own programs and standbys reach it: by its unix socket, as the superuser.
    #[must_use]
    pub fn socket_conninfo(&self) -> String {
        format!("host={} port={} user=postgres", Path::display(self.socket_folder()), self.port())
    }
}
