//! Logging in: passwords, SCRAM, and what `channel_binding` and `require_auth` allow of it.

use std::fs;
use std::os::unix::fs::MetadataExt;

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, ScramSha256};
use postgres_protocol::message::frontend;

use super::session::{Session, unexpected};
use super::{Mode, SourceError};
use crate::conninfo::passfile::{self, Wanted};
use crate::conninfo::{AuthMethod, CertificateMode, ChannelBinding, Config, Host, Secret};
use crate::proto::backend::{Authentication, Message, ProtocolError};

const DOING: &str = "log in";

/// How far the proof has come.
enum Progress {
    /// Nothing was asked for.
    Asked(AuthMethod),
    /// SCRAM is under way, bound or not.
    Scram { state: Box<ScramSha256>, bound: bool },
    /// The server has proved that it knows the password too.
    Proven { bound: bool },
}

/// Answers the server until it lets us in.
pub(super) async fn authenticate(session: &mut Session, config: &Config, mode: &Mode, host: &Host) -> Result<(), SourceError> {
    let login = Login { config, mode, host };
    let mut progress = Progress::Asked(AuthMethod::None);
    loop {
        let step = match session.receive(DOING).await? {
            Message::Authentication(step) => step,
            Message::ErrorResponse(diagnostic) => return Err(SourceError::LoginRefused { host: host.to_string(), diagnostic }),
            Message::NegotiateProtocolVersion { minor, unknown_options } => {
                login.check_version(minor, &unknown_options)?;
                continue;
            }
            message => return Err(unexpected(DOING, &message)),
        };
        progress = match (step, progress) {
            (Authentication::Ok, progress) => return login.check_end(session, &progress),
            (Authentication::CleartextPassword, Progress::Asked(AuthMethod::None)) => {
                login.answer_password(session, AuthMethod::Password, None).await?
            }
            (Authentication::Md5Password(salt), Progress::Asked(AuthMethod::None)) => {
                login.answer_password(session, AuthMethod::Md5, Some(salt)).await?
            }
            (Authentication::Sasl(mechanisms), Progress::Asked(AuthMethod::None)) => {
                login.start_scram(session, &mechanisms).await?
            }
            (Authentication::SaslContinue(challenge), Progress::Scram { mut state, bound }) => {
                state
                    .update(&challenge)
                    .map_err(|error| login.refuse(format!("the server's SCRAM challenge is not valid: {error}")))?;
                let mut answer = BytesMut::new();
                frontend::sasl_response(state.message(), &mut answer).map_err(|error| SourceError::io(DOING, error))?;
                session.send(DOING, &answer).await?;
                Progress::Scram { state, bound }
            }
            (Authentication::SaslFinal(proof), Progress::Scram { mut state, bound }) => {
                let problem =
                    |error| format!("the server does not prove that it knows the password: {error}; is it another server?");
                state.finish(&proof).map_err(|error| login.refuse(problem(error)))?;
                Progress::Proven { bound }
            }
            (Authentication::Gss | Authentication::GssContinue, _) => return Err(login.unsupported("GSSAPI")),
            (Authentication::Sspi, _) => return Err(login.unsupported("SSPI")),
            (Authentication::Unknown(method), _) => return Err(login.unsupported(&format!("method {method}"))),
            (_, _) => {
                return Err(SourceError::Unexpected {
                    doing: DOING,
                    message: "step of authentication out of its order".to_owned(),
                });
            }
        };
    }
}

/// What a login goes by.
#[derive(Clone, Copy)]
struct Login<'a> {
    config: &'a Config,
    mode: &'a Mode,
    host: &'a Host,
}

impl Login<'_> {
    fn refuse(&self, problem: impl Into<String>) -> SourceError {
        SourceError::Authentication { host: self.host.to_string(), problem: problem.into() }
    }

    fn unsupported(&self, method: &str) -> SourceError {
        self.refuse(format!("the server asks for {method}, which is not supported: use scram-sha-256 or cert in its pg_hba.conf"))
    }

    /// Protocol 3.0 is what every server speaks, a minor version above it what was asked for at most.
    fn check_version(&self, minor: u32, unknown_options: &[String]) -> Result<(), SourceError> {
        let (min, asked) = self.config.protocol;
        if minor < min {
            return Err(self.refuse(format!("the server speaks protocol 3.{minor} at most, and min_protocol_version is 3.{min}")));
        }
        if minor > asked || !unknown_options.is_empty() {
            let problem = "it answers what was not asked";
            let reason = ProtocolError::Malformed { message: "NegotiateProtocolVersion", problem };
            return Err(SourceError::Protocol { doing: DOING, reason });
        }
        Ok(())
    }

    fn check_method(&self, method: AuthMethod) -> Result<(), SourceError> {
        match &self.config.require_auth {
            Some(taken) if !taken.contains(&method) => {
                Err(self.refuse(format!("the server asks for authentication by {method}, which require_auth does not allow")))
            }
            _ => Ok(()),
        }
    }

    /// Whether the server may let us in after no more proof than this.
    fn check_end(&self, session: &Session, progress: &Progress) -> Result<(), SourceError> {
        let bound = match progress {
            Progress::Asked(method) => {
                self.check_method(*method)?;
                false
            }
            Progress::Proven { bound } => *bound,
            Progress::Scram { .. } => return Err(self.refuse("the server lets us in without proving that it knows the password")),
        };
        if self.config.channel_binding == ChannelBinding::Require && !bound {
            return Err(self.refuse("the server lets us in without channel binding, and channel_binding=require asks for it"));
        }
        let asked = session.binding.as_ref().is_some_and(|binding| binding.certificate_asked);
        if self.config.tls.certificate_mode == CertificateMode::Require && !asked {
            return Err(self.refuse("the server did not ask for a client certificate, and sslcertmode=require wants it to"));
        }
        Ok(())
    }

    async fn answer_password(
        &self,
        session: &mut Session,
        method: AuthMethod,
        salt: Option<[u8; 4]>,
    ) -> Result<Progress, SourceError> {
        self.check_method(method)?;
        if self.config.channel_binding == ChannelBinding::Require {
            return Err(
                self.refuse(format!("the server asks for {method}, which has no channel binding, and channel_binding=require"))
            );
        }
        let password = self.password(method)?;
        let user = self.config.user().as_bytes();
        let hashed = salt.map(|salt| md5_hash(user, password.expose(), salt));
        let answer = hashed.as_deref().map_or_else(|| password.expose(), str::as_bytes);
        let mut message = BytesMut::new();
        frontend::password_message(answer, &mut message).map_err(|error| SourceError::io(DOING, error))?;
        session.send(DOING, &message).await?;
        Ok(Progress::Asked(method))
    }

    /// Chooses a mechanism as libpq does, and begins.
    async fn start_scram(&self, session: &mut Session, mechanisms: &[String]) -> Result<Progress, SourceError> {
        let offers = |mechanism: &str| mechanisms.iter().any(|offered| offered == mechanism);
        let wanted = self.config.channel_binding;
        let end_point = session.binding.as_ref().and_then(|binding| binding.end_point.clone());
        let is_tls = session.binding.is_some();
        if offers(sasl::SCRAM_SHA_256_PLUS) && !is_tls {
            return Err(self.refuse("the server offers SCRAM-SHA-256-PLUS in the clear, where there is nothing to bind to"));
        }
        let (mechanism, binding, bound) = match end_point {
            Some(hash) if offers(sasl::SCRAM_SHA_256_PLUS) && wanted != ChannelBinding::Disable => {
                (sasl::SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(hash), true)
            }
            _ if wanted == ChannelBinding::Require => {
                let why = if !is_tls {
                    "the connection has no TLS"
                } else if offers(sasl::SCRAM_SHA_256_PLUS) {
                    "its certificate's signature algorithm has no hash to bind to: use one signed by RSA or ECDSA"
                } else {
                    "it offers no SCRAM-SHA-256-PLUS"
                };
                return Err(self.refuse(format!("channel_binding=require can't be had of the server: {why}")));
            }
            _ if !offers(sasl::SCRAM_SHA_256) => return Err(self.unsupported(&format!("SASL by {}", mechanisms.join(", ")))),
            // That we could have bound is said, so that a server that can learns when its offer was taken away on the way.
            Some(_) if wanted != ChannelBinding::Disable => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested(), false),
            _ => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported(), false),
        };
        self.check_method(AuthMethod::ScramSha256)?;
        let password = self.password(AuthMethod::ScramSha256)?;
        let state = Box::new(ScramSha256::new(password.expose(), binding));
        let mut message = BytesMut::new();
        frontend::sasl_initial_response(mechanism, state.message(), &mut message).map_err(|error| SourceError::io(DOING, error))?;
        session.send(DOING, &message).await?;
        Ok(Progress::Scram { state, bound })
    }

    /// The password that is given, or the passfile's.
    fn password(&self, method: AuthMethod) -> Result<Secret, SourceError> {
        let given = self.config.password.clone().or_else(|| self.passfile_password());
        given.ok_or_else(|| {
            let user = self.config.user();
            let passfile = self.config.passfile.as_ref().map_or_else(|| ".pgpass".to_owned(), |file| file.display().to_string());
            self.refuse(format!(
                "the server asks for the password of {user:?} ({method}), and there is none: set PGPASSWORD or password, \
                 or add a line to {passfile} (database {:?} there)",
                self.mode.dbname()
            ))
        })
    }

    /// As libpq, passes over a file that others may read, and says so.
    fn passfile_password(&self) -> Option<Secret> {
        let file = self.config.passfile.as_ref()?;
        let meta = fs::metadata(file).ok()?;
        if !meta.is_file() {
            tracing::warn!(file = %file.display(), "the passfile is passed over: it is not a plain file");
            return None;
        }
        if meta.mode() & 0o077 != 0 {
            tracing::warn!(file = %file.display(), "the passfile is passed over: others may read it, set its mode to 0600");
            return None;
        }
        let content = fs::read(file).map_err(|error| tracing::warn!(file = %file.display(), %error, "read the passfile")).ok()?;
        let host = self.host.passfile_name();
        let wanted = Wanted { host: &host, port: self.host.port, dbname: self.mode.dbname(), user: self.config.user() };
        passfile::find(&content, wanted)
    }
}
