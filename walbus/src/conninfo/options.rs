//! What the values of keywords mean.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::keyword::{KEYWORDS, Treatment};
use super::syntax::Pairs;
use super::{Address, Config, ConninfoError, DEFAULT_PORT, Environment, Host, Secret};

/// A value out of a short list, each with its spelling.
macro_rules! choices {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            const SPELLINGS: &[&str] = &[$($text),+];

            /// As it is written in a connection string.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(format!("{text:?} is none of {}", Self::SPELLINGS.join(", "))),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

choices! {
    /// `sslmode`, from the weakest on.
    SslMode {
        /// Never TLS.
        Disable = "disable",
        /// TLS where the server refuses a connection without.
        Allow = "allow",
        /// TLS where the server has it.
        Prefer = "prefer",
        /// TLS, whoever is at the other end; as `verify-ca` where there is a root certificate.
        Require = "require",
        /// TLS to a server whose certificate a root signed.
        VerifyCa = "verify-ca",
        /// TLS to a server whose certificate a root signed and that names the host.
        VerifyFull = "verify-full",
    }
}

choices! {
    /// `sslnegotiation`.
    SslNegotiation {
        /// Ask first, in plain text, whether the server has TLS.
        Postgres = "postgres",
        /// Start with TLS' own handshake (PostgreSQL 17 and later).
        Direct = "direct",
    }
}

choices! {
    /// `ssl_min_protocol_version` and `ssl_max_protocol_version`.
    TlsVersion {
        /// Older than what this crate speaks.
        Tls10 = "TLSv1",
        /// Older than what this crate speaks.
        Tls11 = "TLSv1.1",
        /// 1.2.
        Tls12 = "TLSv1.2",
        /// 1.3.
        Tls13 = "TLSv1.3",
    }
}

choices! {
    /// `sslcertmode`.
    CertificateMode {
        /// No client certificate is sent, even where there is one.
        Disable = "disable",
        /// One is sent where the server asks and there is one.
        Allow = "allow",
        /// The server must ask for one.
        Require = "require",
    }
}

choices! {
    /// `channel_binding`.
    ChannelBinding {
        /// Never bound.
        Disable = "disable",
        /// Bound where the server can.
        Prefer = "prefer",
        /// Bound or not at all.
        Require = "require",
    }
}

choices! {
    /// `target_session_attrs`.
    TargetSession {
        /// Any server.
        Any = "any",
        /// One whose sessions may write.
        ReadWrite = "read-write",
        /// One whose sessions may not.
        ReadOnly = "read-only",
        /// One that is not in recovery.
        Primary = "primary",
        /// One that is.
        Standby = "standby",
        /// A standby where one of the hosts is one, any server otherwise.
        PreferStandby = "prefer-standby",
    }
}

choices! {
    /// How a server may ask for proof, as in `require_auth`.
    AuthMethod {
        /// By GSSAPI.
        Gss = "gss",
        /// By a salted MD5 of the password.
        Md5 = "md5",
        /// Not at all, or by the client certificate alone.
        None = "none",
        /// By OAuth.
        Oauth = "oauth",
        /// By the password in clear text.
        Password = "password",
        /// By SCRAM.
        ScramSha256 = "scram-sha-256",
        /// By SSPI.
        Sspi = "sspi",
    }
}

impl AuthMethod {
    const ALL: [Self; 7] = [Self::Gss, Self::Md5, Self::None, Self::Oauth, Self::Password, Self::ScramSha256, Self::Sspi];
}

/// Which certificates may sign the server's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCertificate {
    /// Those of `~/.postgresql/root.crt` where it exists; `None` where there is no home folder.
    Default(Option<PathBuf>),
    /// Those of this file.
    File(PathBuf),
    /// Those that the operating system trusts.
    System,
}

/// What is said about TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOptions {
    /// `sslmode`.
    pub mode: SslMode,
    /// `sslnegotiation`.
    pub negotiation: SslNegotiation,
    /// `sslrootcert`.
    pub root: RootCertificate,
    /// `sslcert`; the default, which need not exist, otherwise.
    pub certificate: Option<PathBuf>,
    /// Whether `sslcert` was said.
    pub certificate_said: bool,
    /// `sslkey`, or its default.
    pub key: Option<PathBuf>,
    /// `sslcertmode`.
    pub certificate_mode: CertificateMode,
    /// `sslsni`.
    pub sni: bool,
    /// `ssl_min_protocol_version`.
    pub min: TlsVersion,
    /// `ssl_max_protocol_version`.
    pub max: TlsVersion,
    /// Where a revocation list would be that libpq reads without being told.
    pub default_crl: Option<PathBuf>,
}

/// What is said about a dead peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeepaliveOptions {
    /// `keepalives=0`.
    pub off: bool,
    /// `keepalives_idle`; the system's own where `None`, as in the others.
    pub idle: Option<Duration>,
    /// `keepalives_interval`.
    pub interval: Option<Duration>,
    /// `keepalives_count`.
    pub count: Option<u32>,
    /// `tcp_user_timeout`.
    pub user_timeout: Option<Duration>,
}

#[derive(Debug)]
struct Setting {
    value: String,
    origin: String,
}

/// Every supported keyword that has a value, from the string or the environment.
#[derive(Debug)]
pub(super) struct Settings(BTreeMap<&'static str, Setting>);

impl Settings {
    pub(super) fn complete(given: Pairs, environment: &Environment) -> Result<Self, ConninfoError> {
        let mut settings = BTreeMap::new();
        for (name, value) in given {
            settings.insert(name, Setting { value, origin: String::new() });
        }
        for keyword in KEYWORDS {
            if let (Some(variable), false) = (keyword.variable, settings.contains_key(keyword.name))
                && let Some(value) = environment.variable(variable)
            {
                settings.insert(keyword.name, Setting { value: value.to_owned(), origin: format!(" (from {variable})") });
            }
        }
        if !settings.contains_key("sslmode") && environment.variable("PGREQUIRESSL").is_some_and(|value| value.starts_with('1')) {
            settings.insert("sslmode", Setting { value: "require".to_owned(), origin: " (from PGREQUIRESSL)".to_owned() });
        }
        // An empty value is as good as none.
        settings.retain(|_, setting| !setting.value.is_empty());
        let this = Self(settings);
        for keyword in KEYWORDS {
            if let (Treatment::Refused(problem), true) = (keyword.treatment, this.0.contains_key(keyword.name)) {
                return Err(this.error(keyword.name, problem));
            }
        }
        Ok(this)
    }

    fn get(&self, name: &str) -> Option<&str> {
        debug_assert!(KEYWORDS.iter().any(|keyword| keyword.name == name), "{name} is in the table");
        self.0.get(name).map(|setting| setting.value.as_str())
    }

    fn owned(&self, name: &str) -> Option<String> {
        self.get(name).map(str::to_owned)
    }

    fn error(&self, name: &str, problem: impl Into<String>) -> ConninfoError {
        let origin = self.0.get(name).map(|setting| setting.origin.clone()).unwrap_or_default();
        ConninfoError { keyword: name.to_owned(), origin, problem: problem.into() }
    }

    fn parsed<T: FromStr<Err = String>>(&self, name: &str, default: T) -> Result<T, ConninfoError> {
        self.get(name).map_or(Ok(default), |value| value.parse().map_err(|problem: String| self.error(name, problem)))
    }

    /// A whole number; libpq takes white space around it, and negative ones as 0.
    fn integer(&self, name: &str) -> Result<Option<u32>, ConninfoError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number: i32 = value.trim().parse().map_err(|_| self.error(name, format!("{value:?} is no whole number")))?;
        Ok(Some(u32::try_from(number).unwrap_or(0)))
    }

    /// Seconds or milliseconds, of which 0 means that nothing is said.
    fn duration(&self, name: &str, unit: fn(u64) -> Duration) -> Result<Option<Duration>, ConninfoError> {
        Ok(self.integer(name)?.filter(|number| *number > 0).map(|number| unit(number.into())))
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool, ConninfoError> {
        match self.get(name) {
            None => Ok(default),
            Some("0") => Ok(false),
            Some("1") => Ok(true),
            Some(value) => Err(self.error(name, format!("{value:?} is neither 0 nor 1"))),
        }
    }

    pub(super) fn into_config(self, environment: &Environment) -> Result<Config, ConninfoError> {
        let user = self.owned("user").or_else(|| environment.user().map(str::to_owned)).ok_or_else(|| {
            ConninfoError::new("user", "is not given, and the operating system's user has no name: say user=… or set PGUSER")
        })?;
        match self.get("gssencmode") {
            None | Some("disable" | "prefer") => {}
            Some("require") => return Err(self.error("gssencmode", "GSSAPI encryption is not supported: use TLS, by sslmode")),
            Some(value) => return Err(self.error("gssencmode", format!("{value:?} is none of disable, prefer, require"))),
        }
        let load_balance = match self.get("load_balance_hosts") {
            None | Some("disable") => false,
            Some("random") => true,
            Some(value) => return Err(self.error("load_balance_hosts", format!("{value:?} is none of disable, random"))),
        };
        let connect_timeout = match self.integer("connect_timeout")? {
            None => None,
            Some(0) => Some(Duration::MAX),
            Some(seconds) => Some(Duration::from_secs(seconds.into())),
        };
        Ok(Config {
            hosts: self.hosts()?,
            user,
            password: self.owned("password").map(|password| Secret::new(password.into_bytes())),
            passfile: self.get("passfile").map(PathBuf::from).or_else(|| environment.in_home(".pgpass")),
            dbname: self.owned("dbname"),
            application_name: self.owned("application_name"),
            fallback_application_name: self.owned("fallback_application_name"),
            options: self.owned("options"),
            connect_timeout,
            keepalive: self.keepalive()?,
            tls: self.tls(environment)?,
            channel_binding: self.parsed("channel_binding", ChannelBinding::Prefer)?,
            require_auth: self.require_auth()?,
            require_peer: self.owned("requirepeer"),
            target_session: self.parsed("target_session_attrs", TargetSession::Any)?,
            load_balance,
            protocol: self.protocol()?,
        })
    }

    /// `host`, `hostaddr` and `port`, lists of the same length, or one port for all.
    fn hosts(&self) -> Result<Vec<Host>, ConninfoError> {
        let list = |name| self.get(name).map(|value| value.split(',').map(str::trim).collect::<Vec<_>>());
        let (names, addrs) = (list("host"), list("hostaddr"));
        let count = addrs.as_ref().or(names.as_ref()).map_or(1, Vec::len);
        if let (Some(names), Some(addrs)) = (&names, &addrs)
            && names.len() != addrs.len()
        {
            return Err(self.error("hostaddr", format!("{} addresses for {} names in host", addrs.len(), names.len())));
        }
        let ports = list("port").unwrap_or_else(|| vec![""]);
        if ports.len() != 1 && ports.len() != count {
            return Err(self.error("port", format!("{} ports for {count} hosts: give one a host, or one for all", ports.len())));
        }
        let at = |list: &Option<Vec<&str>>, index: usize| {
            list.as_ref().and_then(|list| list.get(index)).map_or_else(String::new, |item| (*item).to_owned())
        };
        (0..count)
            .map(|index| {
                let (name, addr) = (at(&names, index), at(&addrs, index));
                let port = ports.get(index).or_else(|| ports.first()).copied().unwrap_or_default();
                Ok(Host { address: self.address(name, &addr)?, port: self.port(port)? })
            })
            .collect()
    }

    fn address(&self, host: String, addr: &str) -> Result<Address, ConninfoError> {
        if !addr.is_empty() {
            let addr: IpAddr = addr.parse().map_err(|_| self.error("hostaddr", format!("{addr:?} is no IP address")))?;
            return Ok(Address::Tcp { host, addr: Some(addr) });
        }
        Ok(match host.as_bytes().first() {
            None => Address::Unix(None),
            Some(b'/' | b'@') => Address::Unix(Some(host)),
            Some(_) => Address::Tcp { host, addr: None },
        })
    }

    fn port(&self, port: &str) -> Result<u16, ConninfoError> {
        if port.is_empty() {
            return Ok(DEFAULT_PORT);
        }
        let number = port.parse().ok().filter(|port| *port > 0);
        number.ok_or_else(|| self.error("port", format!("{port:?} is no port: expected 1 to 65535")))
    }

    fn keepalive(&self) -> Result<KeepaliveOptions, ConninfoError> {
        Ok(KeepaliveOptions {
            off: self.integer("keepalives")? == Some(0),
            idle: self.duration("keepalives_idle", Duration::from_secs)?,
            interval: self.duration("keepalives_interval", Duration::from_secs)?,
            count: self.integer("keepalives_count")?.filter(|count| *count > 0),
            user_timeout: self.duration("tcp_user_timeout", Duration::from_millis)?,
        })
    }

    fn tls(&self, environment: &Environment) -> Result<TlsOptions, ConninfoError> {
        let root = match self.get("sslrootcert") {
            None => RootCertificate::Default(environment.in_home(".postgresql/root.crt")),
            Some("system") => RootCertificate::System,
            Some(file) => RootCertificate::File(file.into()),
        };
        let default = if root == RootCertificate::System { SslMode::VerifyFull } else { SslMode::Prefer };
        let mode = self.parsed("sslmode", default)?;
        if root == RootCertificate::System && mode != SslMode::VerifyFull {
            let problem = format!("{mode} is too weak with sslrootcert=system, whose roots sign for anybody: use verify-full");
            return Err(self.error("sslmode", problem));
        }
        let negotiation = self.parsed("sslnegotiation", SslNegotiation::Postgres)?;
        if negotiation == SslNegotiation::Direct && mode < SslMode::Require {
            let problem =
                format!("direct needs TLS for certain, and sslmode={mode} does not: use require, verify-ca or verify-full");
            return Err(self.error("sslnegotiation", problem));
        }
        let (min, max) = (
            self.parsed("ssl_min_protocol_version", TlsVersion::Tls12)?,
            self.parsed("ssl_max_protocol_version", TlsVersion::Tls13)?,
        );
        if max < TlsVersion::Tls12 {
            return Err(self.error("ssl_max_protocol_version", format!("{max} is not supported: TLSv1.2 is the oldest")));
        }
        if min > max {
            return Err(self.error("ssl_min_protocol_version", format!("{min} is above ssl_max_protocol_version, {max}")));
        }
        Ok(TlsOptions {
            mode,
            negotiation,
            root,
            certificate: self.get("sslcert").map(PathBuf::from).or_else(|| environment.in_home(".postgresql/postgresql.crt")),
            certificate_said: self.get("sslcert").is_some(),
            key: self.get("sslkey").map(PathBuf::from).or_else(|| environment.in_home(".postgresql/postgresql.key")),
            certificate_mode: self.parsed("sslcertmode", CertificateMode::Allow)?,
            sni: self.flag("sslsni", true)?,
            min,
            max,
            default_crl: environment.in_home(".postgresql/root.crl"),
        })
    }

    /// A list of methods that are taken, or, each with `!`, of those that are not.
    fn require_auth(&self) -> Result<Option<Vec<AuthMethod>>, ConninfoError> {
        let Some(value) = self.get("require_auth") else { return Ok(None) };
        let (mut named, mut negated) = (Vec::new(), 0);
        for item in value.split(',').map(str::trim) {
            let (negative, name) = item.strip_prefix('!').map_or((false, item), |name| (true, name));
            let method: AuthMethod = name.parse().map_err(|problem: String| self.error("require_auth", problem))?;
            if named.contains(&method) {
                return Err(self.error("require_auth", format!("{method} is said twice")));
            }
            named.push(method);
            negated += usize::from(negative);
        }
        if negated != 0 && negated != named.len() {
            return Err(self.error("require_auth", "either every method has a ! before it or none has"));
        }
        let taken = AuthMethod::ALL.into_iter().filter(|method| named.contains(method) == (negated == 0));
        Ok(Some(taken.collect()))
    }

    /// The minor versions of protocol 3: 3.1 was never used.
    fn protocol(&self) -> Result<(u32, u32), ConninfoError> {
        let version = |name, default| match self.get(name) {
            None => Ok(default),
            Some("3.0") => Ok(0),
            Some("3.2" | "latest") => Ok(2),
            Some(value) => Err(self.error(name, format!("{value:?} is none of 3.0, 3.2, latest"))),
        };
        let min = version("min_protocol_version", 0)?;
        let max = version("max_protocol_version", min)?;
        if min > max {
            return Err(self.error("min_protocol_version", format!("3.{min} is above max_protocol_version, 3.{max}")));
        }
        Ok((min, max))
    }
}
