//! Every keyword that libpq 18 knows, and what becomes of it.

/// What this crate does with a keyword.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// Has no effect here, for this reason.
    Ignored(&'static str),
    /// An error, which says this.
    Refused(&'static str),
    /// Does what libpq does.
    Supported,
}

/// One keyword.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keyword {
    /// Its name.
    pub name: &'static str,
    /// The environment variable that stands in for it.
    pub variable: Option<&'static str>,
    /// What becomes of it.
    pub treatment: Treatment,
}

/// The keyword of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Keyword> {
    KEYWORDS.iter().find(|keyword| keyword.name == name)
}

const fn supported(name: &'static str, variable: &'static str) -> Keyword {
    Keyword { name, variable: if variable.is_empty() { None } else { Some(variable) }, treatment: Treatment::Supported }
}

const fn ignored(name: &'static str, variable: &'static str, why: &'static str) -> Keyword {
    Keyword { treatment: Treatment::Ignored(why), ..supported(name, variable) }
}

const fn refused(name: &'static str, variable: &'static str, problem: &'static str) -> Keyword {
    Keyword { treatment: Treatment::Refused(problem), ..supported(name, variable) }
}

const CRL: &str = "revocation lists are not supported: leave it out, and remove a revoked server's certificate from its CA instead";
const OAUTH: &str = "OAuth is not supported: use a password, SCRAM or a client certificate";
const SCRAM_KEY: &str = "SCRAM keys are not supported: give the password";
const SERVICE: &str = "service files are not supported: write the connection's keywords out";

/// All of them. What is checked here and has but one accepted value says so in its treatment in `options`.
pub const KEYWORDS: &[Keyword] = &[
    supported("application_name", "PGAPPNAME"),
    supported("channel_binding", "PGCHANNELBINDING"),
    ignored("client_encoding", "PGCLIENTENCODING", "replication asks for UTF8 always"),
    supported("connect_timeout", "PGCONNECT_TIMEOUT"),
    supported("dbname", "PGDATABASE"),
    supported("fallback_application_name", ""),
    supported("gssencmode", "PGGSSENCMODE"),
    ignored("gssdelegation", "PGGSSDELEGATION", "GSSAPI is never used"),
    ignored("gsslib", "PGGSSLIB", "GSSAPI is never used"),
    supported("host", "PGHOST"),
    supported("hostaddr", "PGHOSTADDR"),
    supported("keepalives", ""),
    supported("keepalives_count", ""),
    supported("keepalives_idle", ""),
    supported("keepalives_interval", ""),
    ignored("krbsrvname", "PGKRBSRVNAME", "GSSAPI is never used"),
    supported("load_balance_hosts", "PGLOADBALANCEHOSTS"),
    supported("max_protocol_version", "PGMAXPROTOCOLVERSION"),
    supported("min_protocol_version", "PGMINPROTOCOLVERSION"),
    refused("oauth_client_id", "", OAUTH),
    refused("oauth_client_secret", "", OAUTH),
    refused("oauth_issuer", "", OAUTH),
    refused("oauth_scope", "", OAUTH),
    supported("options", "PGOPTIONS"),
    supported("passfile", "PGPASSFILE"),
    supported("password", "PGPASSWORD"),
    supported("port", "PGPORT"),
    refused("replication", "", "the program chooses it: leave it out"),
    supported("require_auth", "PGREQUIREAUTH"),
    supported("requirepeer", "PGREQUIREPEER"),
    refused("scram_client_key", "", SCRAM_KEY),
    refused("scram_server_key", "", SCRAM_KEY),
    refused("service", "PGSERVICE", SERVICE),
    refused("servicefile", "", SERVICE),
    supported("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    supported("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    supported("sslcert", "PGSSLCERT"),
    supported("sslcertmode", "PGSSLCERTMODE"),
    ignored("sslcompression", "PGSSLCOMPRESSION", "TLS is never compressed, and libpq ignores it too since version 14"),
    refused("sslcrl", "PGSSLCRL", CRL),
    refused("sslcrldir", "PGSSLCRLDIR", CRL),
    supported("sslkey", "PGSSLKEY"),
    refused("sslkeylogfile", "", "writing TLS keys out is not supported: leave it out"),
    supported("sslmode", "PGSSLMODE"),
    supported("sslnegotiation", "PGSSLNEGOTIATION"),
    refused("sslpassword", "", "encrypted private keys are not supported: give sslkey a key without a password, mode 0600"),
    supported("sslrootcert", "PGSSLROOTCERT"),
    supported("sslsni", "PGSSLSNI"),
    supported("target_session_attrs", "PGTARGETSESSIONATTRS"),
    supported("tcp_user_timeout", ""),
    supported("user", "PGUSER"),
];
