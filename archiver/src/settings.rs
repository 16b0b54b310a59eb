//! The settings that the subcommands share: where the archive is, and how to get at it.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use walbus::SystemId;
use walbus::archive::envelope::{ContentHash, sha256};
use walbus::archive::key::{Key, Keys};
use walbus::archive::store::{Archive, Options, s3_endpoint, s3_region};
use walbus::units::parse_duration;

use crate::pgdata::DataFolder;

/// The variables that say where a store of some name is, next to the endpoint of S3.
const PLACES: [&str; 13] = [
    "AWS_PROFILE",
    "AWS_S3_EXPRESS",
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
    "AZURE_ENDPOINT",
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ENDPOINT",
    "AZURE_STORAGE_USE_EMULATOR",
    "AZURE_STORAGE_USE_FABRIC_ENDPOINT",
    "AZURE_USE_FABRIC_ENDPOINT",
    "GOOGLE_BASE_URL",
    // These may name a base URL as well.
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "GOOGLE_SERVICE_ACCOUNT_PATH",
];

/// Where the archive is, and how to get at it.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Archive")]
pub struct StoreArgs {
    /// The archive: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///folder. Required.
    ///
    /// S3: credentials from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, from the profile AWS_PROFILE in ~/.aws, or by a role of the
    /// instance, task or pod; AWS_REGION; AWS_ENDPOINT_URL for what only speaks as S3 does; AWS_CA_BUNDLE for an authority of your own.
    /// Google: GOOGLE_SERVICE_ACCOUNT. Azure: AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY. A folder has to exist.
    #[arg(long, value_name = "URL", env = "BEYOND_PG_ARCHIVE_STORE")]
    pub store: Option<String>,

    /// Encrypt with the key in this file: 32 random bytes, as they are, in hexadecimal or in base64.
    ///
    /// Can be given more than once: the first one encrypts, all of them decrypt. In the environment, with commas between them. Without its
    /// key, nothing of the archive can be read again: keep the file where the archive is not.
    #[arg(long, value_name = "FILE", env = "BEYOND_PG_ARCHIVE_KEY_FILE", value_delimiter = ',')]
    pub key_file: Vec<PathBuf>,

    /// Read what is not encrypted as well, though there is a key: for an archive that was begun without one.
    ///
    /// Without this, with a key only what is encrypted is believed: whoever may write to the store could put other WAL there.
    #[arg(
        long, value_name = "BOOL", env = "BEYOND_PG_ARCHIVE_ALLOW_PLAIN", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false", hide_default_value = true
    )]
    pub allow_plain: bool,

    /// zstd's level, 1 to 19, or none to store segments as they are.
    #[arg(long, value_name = "LEVEL|none", env = "BEYOND_PG_ARCHIVE_COMPRESS", default_value = "1", value_parser = parse_level)]
    pub compress: Compress,

    /// How long push and fetch may take, and other commands for each call to the store; attempts after failures included.
    #[arg(long, value_name = "DURATION", env = "BEYOND_PG_ARCHIVE_TIMEOUT", default_value = "60s", value_parser = parse_timeout)]
    pub timeout: Duration,

    /// Speak to an endpoint without TLS that is not on this machine.
    #[arg(
        long, value_name = "BOOL", env = "BEYOND_PG_ARCHIVE_ALLOW_HTTP", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false", hide_default_value = true
    )]
    pub allow_http: bool,
}

/// zstd's level, `None` to store files as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compress(pub Option<i32>);

impl StoreArgs {
    /// The archive that they name. Nothing is asked of the store yet.
    ///
    /// # Errors
    /// Where a setting is missing or wrong; the text names it.
    pub fn archive(&self) -> anyhow::Result<Archive> {
        self.open(true)
    }

    /// The same, for a daemon, which tries again by itself.
    ///
    /// # Errors
    /// As [`Self::archive`].
    pub fn archive_without_retries(&self) -> anyhow::Result<Archive> {
        self.open(false)
    }

    fn open(&self, retries: bool) -> anyhow::Result<Archive> {
        let store = self.named()?;
        let options = Options {
            keys: self.keys()?,
            level: self.compress.0,
            timeout: self.timeout,
            allow_http: self.allow_http,
            retries,
            ..Options::new(variables())
        };
        Ok(Archive::open(store, options)?)
    }

    fn named(&self) -> anyhow::Result<&str> {
        let store = self.store.as_deref().filter(|store| !store.is_empty());
        store.context(
            "no archive is named: say --store URL, or set BEYOND_PG_ARCHIVE_STORE, to s3://bucket/prefix, gs://bucket/prefix, \
             az://container/prefix or file:///folder",
        )
    }

    /// A hash over what says where the archive is and how it is encrypted: a daemon that was told of another one must not be believed.
    ///
    /// # Errors
    /// As [`Self::archive`].
    pub fn hash(&self) -> anyhow::Result<ContentHash> {
        place_hash(self.named()?, &self.keys()?, &variables().collect::<Vec<_>>())
    }

    /// Waits for `work` for no longer than `--timeout`, whatever it asks of the store: for the commands that Postgres waits for.
    ///
    /// # Errors
    /// As of `work`, and where the time is up.
    pub async fn in_time<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        // A moment more, so that a single call to the store that ends by its own time has the word: it knows what was wrong.
        match tokio::time::timeout(self.timeout + Duration::from_millis(500), work).await {
            Ok(done) => done,
            Err(_) => anyhow::bail!(
                "it took longer than {} s (--timeout), though the store answered some of what it was asked: --log-level debug says more",
                self.timeout.as_secs()
            ),
        }
    }

    fn keys(&self) -> anyhow::Result<Keys> {
        let files = self.key_file.iter().filter(|path| !path.as_os_str().is_empty());
        let keys = files.map(|path| key(path)).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Keys::new(keys).allowing_plain(self.allow_plain))
    }
}

/// The process' variables. What is no UTF-8 is no setting of a store.
fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

fn place_hash(store: &str, keys: &Keys, variables: &[(String, String)]) -> anyhow::Result<ContentHash> {
    let mut text = format!("{}\n{keys}\nplain={}\n", store.trim_end_matches('/'), keys.take_plain());
    // A folder and the other stores have no profile that could be missing.
    if store.starts_with("s3:") {
        // As it is found in the end: the variables that name a profile and its files are many, and the files change.
        text.push_str(&format!("endpoint={}\n", s3_endpoint(variables)?.unwrap_or_default()));
        text.push_str(&format!("region={}\n", s3_region(variables)?.unwrap_or_default()));
    }
    for name in PLACES {
        let value = variables.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value);
        text.push_str(&format!("{name}={value}\n"));
    }
    Ok(sha256(text.as_bytes()))
}

fn key(path: &Path) -> anyhow::Result<Key> {
    let content = std::fs::read(path).and_then(|content| Key::parse(&content).map_err(std::io::Error::other));
    content.with_context(|| format!("--key-file {}", path.display()))
}

fn parse_level(text: &str) -> Result<Compress, String> {
    let levels = 1..=19;
    match text.parse() {
        _ if text == "none" => Ok(Compress(None)),
        Ok(level) if levels.contains(&level) => Ok(Compress(Some(level))),
        _ => Err("expected a level from 1 (fast) to 19 (small), or none".to_owned()),
    }
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(duration) if duration >= Duration::from_secs(1) => Ok(duration),
        Ok(_) => Err("expected 1s or more".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Whose WAL it is, for what lists and looks: a number, or the data folder that it is of.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub struct SystemArgs {
    /// The cluster's system identifier, as pg_controldata prints it.
    #[arg(long, value_name = "NUMBER", env = "BEYOND_PG_ARCHIVE_SYSTEM_ID")]
    pub system_id: Option<SystemId>,

    /// The cluster's data folder, whose global/pg_control has the system identifier.
    #[arg(long, value_name = "DIR", env = "BEYOND_PG_ARCHIVE_PGDATA")]
    pub pgdata: Option<PathBuf>,
}

impl SystemArgs {
    /// The cluster that they name; `None` where they name none.
    ///
    /// # Errors
    /// Where the data folder's `pg_control` can't be read.
    pub fn named(&self) -> anyhow::Result<Option<SystemId>> {
        match (self.system_id, &self.pgdata) {
            (Some(system), _) => Ok(Some(system)),
            (None, Some(pgdata)) => Ok(Some(DataFolder::open(pgdata)?.control.system)),
            (None, None) => Ok(None),
        }
    }

    /// The cluster that they name, or else the only one that is in the archive.
    ///
    /// # Errors
    /// Where they name none, and the archive has none or several; the text lists them.
    pub async fn resolve(&self, archive: &Archive) -> anyhow::Result<SystemId> {
        if let Some(system) = self.named()? {
            return Ok(system);
        }
        match archive.systems().await?.as_slice() {
            [system] => Ok(*system),
            [] => anyhow::bail!("{} has no cluster's WAL yet", archive.url()),
            several => {
                let listed = several.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                anyhow::bail!(
                    "{} has the WAL of several clusters: say which one by --system-id or --pgdata: {listed}",
                    archive.url()
                )
            }
        }
    }
}

/// Logs to stderr what passes the filter.
///
/// # Errors
/// Where the filter is none.
pub fn log(filter: &str) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter).context("--log-level")?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).init();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_timeouts_are_read() {
        assert_eq!(parse_level("none"), Ok(Compress(None)));
        assert_eq!(parse_level("3"), Ok(Compress(Some(3))));
        for text in ["0", "20", "-1", "", "fast"] {
            assert!(parse_level(text).unwrap_err().contains("1 (fast) to 19"), "{text}");
        }
        assert_eq!(parse_timeout("2m"), Ok(Duration::from_secs(120)));
        assert!(parse_timeout("0").is_err() && parse_timeout("100ms").is_err() && parse_timeout("soon").is_err());
    }

    #[test]
    fn who_believes_more_is_not_believed_by_who_believes_less() {
        let hash = |keys: Keys| place_hash("file:///wal", &keys, &[]).unwrap();
        let keys = || Keys::new(vec![Key::new([1; 32])]);
        assert_ne!(hash(keys()), hash(keys().allowing_plain(true)));
        assert_ne!(hash(keys().allowing_plain(true)), hash(Keys::none()));
        assert_eq!(hash(Keys::none()), hash(Keys::none().allowing_plain(true)), "without a key it means nothing");
    }

    #[test]
    fn another_endpoint_is_another_archive_whatever_names_it() {
        let hash = |variables: &[(&str, &str)]| {
            let variables: Vec<_> = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            place_hash("s3://wal/prod", &Keys::none(), &variables).unwrap()
        };
        let folder = tempfile::tempdir().unwrap();
        let home = |name: &str, endpoint: &str| {
            let home = folder.path().join(name);
            std::fs::create_dir_all(home.join(".aws")).unwrap();
            std::fs::write(home.join(".aws/config"), format!("[default]\nendpoint_url = {endpoint}\n")).unwrap();
            home.display().to_string()
        };
        let (one, two, same) = (home("1", "https://a"), home("2", "https://b"), home("3", "https://a"));
        assert_ne!(hash(&[("AWS_ENDPOINT", "https://a")]), hash(&[("AWS_ENDPOINT", "https://b")]));
        assert_eq!(hash(&[("AWS_ENDPOINT", "https://a")]), hash(&[("AWS_ENDPOINT_URL", "https://a")]));
        assert_ne!(hash(&[("HOME", &one)]), hash(&[("HOME", &two)]));
        assert_eq!(hash(&[("HOME", &one)]), hash(&[("HOME", &same)]), "the place counts, not what says it");
        let config = format!("{two}/.aws/config");
        assert_ne!(hash(&[("HOME", &one)]), hash(&[("HOME", &one), ("AWS_CONFIG_FILE", &config)]));
        let before = hash(&[("HOME", &one)]);
        home("1", "https://c");
        assert_ne!(hash(&[("HOME", &one)]), before, "the file has changed");
        // A region of another group of regions has other buckets under the same names; the place counts here, too.
        let region = |name: &str, value: &str| hash(&[(name, value)]);
        assert_ne!(region("AWS_REGION", "eu-central-1"), region("AWS_REGION", "cn-north-1"));
        assert_eq!(region("AWS_REGION", "cn-north-1"), region("AWS_DEFAULT_REGION", "cn-north-1"));
        std::fs::write(format!("{two}/.aws/config"), "[default]\nregion = cn-north-1\n").unwrap();
        assert_eq!(region("AWS_REGION", "cn-north-1"), hash(&[("HOME", &two)]));
        assert_ne!(hash(&[("GOOGLE_BASE_URL", "https://a")]), hash(&[("GOOGLE_BASE_URL", "https://b")]));
        let credentials = format!("{one}/credentials");
        std::fs::write(&credentials, "[default]\nendpoint_url = https://d\n").unwrap();
        assert_ne!(hash(&[("HOME", &one)]), hash(&[("HOME", &one), ("AWS_SHARED_CREDENTIALS_FILE", &credentials)]));
    }

    #[test]
    fn a_file_that_is_no_key_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        assert!(format!("{:#}", key(&path).unwrap_err()).contains("--key-file"));
        std::fs::write(&path, "short").unwrap();
        let error = format!("{:#}", key(&path).unwrap_err());
        assert!(error.contains(path.to_str().unwrap()) && error.contains("openssl rand"), "{error}");
        std::fs::write(&path, "ab".repeat(32)).unwrap();
        assert_eq!(key(&path).unwrap(), Key::new([0xAB; 32]));
    }
}
