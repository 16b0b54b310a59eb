//! From a URL to a store.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{Certificate, ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use super::profile::{Profile, ProfileCredentials};
use super::{Options, StoreError};

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A store and where in it the archive is.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) prefix: Path,
    pub(super) url: String,
    pub(super) folder: Option<PathBuf>,
}

/// The place that a URL names.
pub(super) fn place(text: &str, options: &Options) -> Result<Place, StoreError> {
    let url = Url::parse(text).map_err(|error| {
        settings(format!("--store {text:?} is no URL ({error}): write s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///folder"))
    })?;
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(settings(format!(
            "--store: the URL of a store of {} takes a bucket and a prefix alone: credentials belong into the environment or a profile",
            url.scheme()
        )));
    }
    match url.scheme() {
        "s3" => s3(&url, options),
        "gs" => gs(&url, options),
        "az" => az(&url, options),
        "file" => folder(&url),
        other => Err(settings(format!("--store: {other}:// is no store that is known: write s3://, gs://, az:// or file:///"))),
    }
}

fn settings(problem: String) -> StoreError {
    StoreError::Settings { problem }
}

/// A folder that is there: where a file system is not mounted, none is made in its place.
fn folder(url: &Url) -> Result<Place, StoreError> {
    let path = url
        .to_file_path()
        .map_err(|()| settings(format!("--store {url}: a folder is written file:///path, with three slashes")))?;
    let there = path.canonicalize().ok().filter(|path| path.is_dir());
    let folder = there.ok_or_else(|| {
        settings(format!("--store {url}: there is no folder {}. Make it first, or mount what it is on", path.display()))
    })?;
    let store = LocalFileSystem::new_with_prefix(&folder).map_err(|error| settings(format!("--store {url}: {error}")))?;
    Ok(Place { store: Arc::new(store.with_fsync(true)), prefix: Path::default(), url: shown(url), folder: Some(folder) })
}

fn s3(url: &Url, options: &Options) -> Result<Place, StoreError> {
    let (bucket, prefix) = bucket(url)?;
    let variable = |name: &str| variable(&options.variables, name);
    let mut builder = AmazonS3Builder::new();
    for (name, value) in options.variables.iter().filter(|(name, value)| name.starts_with("AWS_") && !value.is_empty()) {
        if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    let profile = Profile::find(&options.variables)?;
    let has_own = variable("AWS_ACCESS_KEY_ID").is_some() || variable("AWS_WEB_IDENTITY_TOKEN_FILE").is_some();
    if let Some(profile) = profile.as_ref().filter(|_| !has_own)
        && let Some(credentials) = ProfileCredentials::new(profile)?
    {
        builder = builder.with_credentials(Arc::new(credentials));
    }
    if let Some(region) = region(&options.variables, profile.as_ref()) {
        builder = builder.with_region(region);
    }
    let endpoint = endpoint(&options.variables, profile.as_ref());
    if let Some(endpoint) = &endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    let allow_http = allow_http(endpoint.as_deref(), options)?;
    if variable("AWS_VIRTUAL_HOSTED_STYLE_REQUEST").is_none() {
        // A dot in the bucket's name would not fit the certificate's wildcard.
        builder = builder.with_virtual_hosted_style_request(endpoint.is_none() && !bucket.contains('.'));
    }
    let store = builder
        .with_bucket_name(bucket)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_client_options(client(options)?.with_allow_http(allow_http))
        .with_allow_http(allow_http)
        .with_retry(no_retries())
        .build()
        .map_err(|error| settings(format!("--store {url}: {error}")))?;
    Ok(Place { store: Arc::new(store), prefix, url: shown(url), folder: None })
}

/// The endpoint that the process' variables name, or else the profile that they select; `None` for Amazon's own.
///
/// # Errors
/// [`StoreError::Settings`] where the profile that is named is not there.
pub fn s3_endpoint(variables: &[(String, String)]) -> Result<Option<String>, StoreError> {
    Ok(endpoint(variables, Profile::find(variables)?.as_ref()))
}

/// The region, as [`s3_endpoint`]; `None` where nothing names one. A bucket's name is one bucket's in a group of regions alone.
///
/// # Errors
/// As of [`s3_endpoint`].
pub fn s3_region(variables: &[(String, String)]) -> Result<Option<String>, StoreError> {
    Ok(region(variables, Profile::find(variables)?.as_ref()))
}

fn region(variables: &[(String, String)], profile: Option<&Profile>) -> Option<String> {
    let named = ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().find_map(|name| variable(variables, name));
    named.or_else(|| profile?.value("region")).map(str::to_owned)
}

fn endpoint(variables: &[(String, String)], profile: Option<&Profile>) -> Option<String> {
    let named = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"].iter().find_map(|name| variable(variables, name));
    named.or_else(|| profile?.value("endpoint_url")).map(str::to_owned)
}

#[cfg(feature = "archive-gs")]
fn gs(url: &Url, options: &Options) -> Result<Place, StoreError> {
    use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};

    let (bucket, prefix) = bucket(url)?;
    let mut builder = GoogleCloudStorageBuilder::new();
    for (name, value) in options.variables.iter().filter(|(name, value)| name.starts_with("GOOGLE_") && !value.is_empty()) {
        if let Ok(key) = name.to_ascii_lowercase().parse::<GoogleConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    let store = builder
        .with_bucket_name(bucket)
        .with_client_options(client(options)?)
        .with_retry(no_retries())
        .build()
        .map_err(|error| settings(format!("--store {url}: {error}")))?;
    Ok(Place { store: Arc::new(store), prefix, url: shown(url), folder: None })
}

#[cfg(not(feature = "archive-gs"))]
fn gs(url: &Url, _options: &Options) -> Result<Place, StoreError> {
    Err(settings(format!("--store {url}: this program was built without the feature gs: build it with --features gs")))
}

#[cfg(feature = "archive-az")]
fn az(url: &Url, options: &Options) -> Result<Place, StoreError> {
    use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};

    let (container, prefix) = bucket(url)?;
    let mut builder = MicrosoftAzureBuilder::new();
    for (name, value) in options.variables.iter().filter(|(name, value)| name.starts_with("AZURE_") && !value.is_empty()) {
        if let Ok(key) = name.to_ascii_lowercase().parse::<AzureConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    let store = builder
        .with_container_name(container)
        .with_client_options(client(options)?)
        .with_retry(no_retries())
        .build()
        .map_err(|error| settings(format!("--store {url}: {error}")))?;
    Ok(Place { store: Arc::new(store), prefix, url: shown(url), folder: None })
}

#[cfg(not(feature = "archive-az"))]
fn az(url: &Url, _options: &Options) -> Result<Place, StoreError> {
    Err(settings(format!("--store {url}: this program was built without the feature az: build it with --features az")))
}

/// The bucket and the prefix that a URL names.
fn bucket(url: &Url) -> Result<(String, Path), StoreError> {
    let bucket = url.host_str().filter(|host| !host.is_empty() && url.port().is_none());
    let bucket = bucket.ok_or_else(|| settings(format!("--store {url}: expected {}://bucket/prefix", url.scheme())))?;
    let prefix = Path::from_url_path(url.path()).map_err(|error| settings(format!("--store {url}: {error}")))?;
    Ok((bucket.to_owned(), prefix))
}

/// Without TLS only what does not leave the machine, unless that is asked for by name.
fn allow_http(endpoint: Option<&str>, options: &Options) -> Result<bool, StoreError> {
    let Some(endpoint) = endpoint else { return Ok(false) };
    let url = Url::parse(endpoint).map_err(|error| settings(format!("the endpoint {endpoint:?} is no URL: {error}")))?;
    let is_loopback = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    let asked = options.allow_http
        || variable(&options.variables, "AWS_ALLOW_HTTP").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    match url.scheme() {
        "https" => Ok(false),
        "http" if is_loopback || asked => Ok(true),
        "http" => Err(settings(format!(
            "the endpoint {endpoint} is without TLS, and not on this machine: WAL would go over the network in the clear. Use https, or say \
             --allow-http (BEYOND_PG_ARCHIVE_ALLOW_HTTP=true)"
        ))),
        other => Err(settings(format!("the endpoint {endpoint} has the scheme {other}: expected https"))),
    }
}

fn client(options: &Options) -> Result<ClientOptions, StoreError> {
    // Half of the time, so that there is some left for another attempt.
    let mut client =
        ClientOptions::new().with_timeout(options.timeout / 2).with_connect_timeout(CONNECT_TIMEOUT.min(options.timeout));
    if let Some(path) = variable(&options.variables, "AWS_CA_BUNDLE") {
        let pem = std::fs::read(path).map_err(|error| settings(format!("AWS_CA_BUNDLE {path}: {error}")))?;
        let found = Certificate::from_pem_bundle(&pem).map_err(|error| settings(format!("AWS_CA_BUNDLE {path}: {error}")))?;
        for certificate in found {
            client = client.with_root_certificate(certificate);
        }
    }
    Ok(client)
}

/// The library's attempts, none: `retry` knows when our time is up, and tries puts again as well, which the library can't know to be safe.
fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

/// A URL as it is shown and put before paths: without a slash at its end.
fn shown(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

fn variable<'a>(variables: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = variables.iter().find(|(found, _)| found == name);
    found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests;
