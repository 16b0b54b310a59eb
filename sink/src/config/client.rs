//! How commands that talk to a sink are told to reach it. The same flags and environment in all of them.

use std::path::PathBuf;
use std::time::Duration;

use walbus::units::parse_duration;

/// How long a connection may take to be made unless told otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The flags of every command that talks to a sink over HTTPS.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Connection to the sink")]
pub struct ClientArgs {
    /// The certificate authority that signed the sink's certificate, as PEM.
    ///
    /// A sink that made its own has it at DATA-DIR/tls/ca.pem: copy that file here, it is no secret. Without this flag the
    /// system's authorities are trusted.
    #[arg(long, value_name = "FILE", env = "BEYOND_PG_SINK_CA")]
    pub ca: Option<PathBuf>,

    /// A file with the sink's bearer token.
    ///
    /// The sink has it at DATA-DIR/token: it is a secret, so copy it with mode 0600.
    #[arg(long, value_name = "FILE", env = "BEYOND_PG_SINK_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,

    /// A client certificate (PEM, with its chain), for a sink that was started with --client-ca.
    #[arg(long, value_name = "FILE", env = "BEYOND_PG_SINK_CLIENT_CERT", requires = "client_key")]
    pub client_cert: Option<PathBuf>,

    /// The private key of --client-cert, as PEM.
    #[arg(long, value_name = "FILE", env = "BEYOND_PG_SINK_CLIENT_KEY", requires = "client_cert")]
    pub client_key: Option<PathBuf>,

    /// How long a connection to the sink may take to be made.
    #[arg(long, value_name = "DURATION", env = "BEYOND_PG_SINK_CONNECT_TIMEOUT", default_value = "10s", value_parser = parse_duration)]
    pub connect_timeout: Duration,
}

impl Default for ClientArgs {
    fn default() -> Self {
        Self { ca: None, token_file: None, client_cert: None, client_key: None, connect_timeout: CONNECT_TIMEOUT }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        client: ClientArgs,
    }

    #[test]
    fn without_flags_it_is_the_default() {
        assert_eq!(Command::parse_from(["x"]).client, ClientArgs::default());
    }

    #[test]
    fn a_certificate_needs_its_key() {
        let error = Command::try_parse_from(["x", "--client-cert", "c.pem"]).unwrap_err().to_string();
        assert!(error.contains("--client-key"), "{error}");
    }
}
