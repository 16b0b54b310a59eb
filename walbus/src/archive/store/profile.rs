//! Credentials from `~/.aws/credentials` and `~/.aws/config`, which the library does not read. Source: the AWS SDKs and Tools Reference
//! Guide, "Using shared config and credentials files".

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use object_store::CredentialProvider;
use object_store::aws::AwsCredential;

use super::StoreError;

/// What a profile can say that this program can't follow.
const FOREIGN: [&str; 5] = ["credential_process", "credential_source", "role_arn", "sso_session", "sso_start_url"];

/// A named profile of the two files.
#[derive(Debug, Clone)]
pub(super) struct Profile {
    name: String,
    credentials: PathBuf,
    config: PathBuf,
    values: Vec<(String, String)>,
}

impl Profile {
    /// The profile that the environment names, `default` where it names none; `None` where there are no files, or no such profile and none
    /// was named.
    pub(super) fn find(variables: &[(String, String)]) -> Result<Option<Self>, StoreError> {
        let variable =
            |name: &str| variables.iter().find(|(found, value)| found == name && !value.is_empty()).map(|(_, value)| value);
        let home = variable("HOME").map(PathBuf::from);
        let file = |name: &str, default: &str| {
            variable(name).map(PathBuf::from).or_else(|| home.as_ref().map(|home| home.join(".aws").join(default)))
        };
        let (Some(credentials), Some(config)) =
            (file("AWS_SHARED_CREDENTIALS_FILE", "credentials"), file("AWS_CONFIG_FILE", "config"))
        else {
            return Ok(None);
        };
        let named = variable("AWS_PROFILE").or_else(|| variable("AWS_DEFAULT_PROFILE"));
        let name = named.map_or("default", String::as_str).to_owned();
        let values = read(&name, &credentials, &config)?;
        if values.is_none() && named.is_some() {
            let problem = format!("AWS_PROFILE: neither {} nor {} has a profile {name:?}", credentials.display(), config.display());
            return Err(StoreError::Settings { problem });
        }
        Ok(values.map(|values| Self { name, credentials, config, values }))
    }

    /// What it says under that key.
    pub(super) fn value(&self, key: &str) -> Option<&str> {
        value(&self.values, key)
    }
}

fn value<'a>(values: &'a [(String, String)], key: &str) -> Option<&'a str> {
    values.iter().find(|(found, _)| found == key).map(|(_, value)| value.as_str())
}

/// What both files say of a profile; what the credentials' file says goes before.
fn read(name: &str, credentials: &Path, config: &Path) -> Result<Option<Vec<(String, String)>>, StoreError> {
    let of_config = if name == "default" { "default".to_owned() } else { format!("profile {name}") };
    let first = section(&content(credentials)?, name);
    let second = section(&content(config)?, &of_config);
    Ok(match (first, second) {
        (None, None) => None,
        (first, second) => Some(first.into_iter().chain(second).flatten().collect()),
    })
}

fn content(path: &Path) -> Result<String, StoreError> {
    match std::fs::read_to_string(path) {
        Ok(content) => Ok(content),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        // A home that this user may not look into has nothing for him.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied && path.ends_with(".aws/credentials") => {
            Ok(String::new())
        }
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied && path.ends_with(".aws/config") => Ok(String::new()),
        Err(error) => Err(StoreError::Settings { problem: format!("{}: {error}", path.display()) }),
    }
}

/// The keys and values below `[name]`, `None` where there is no such line. Lines that are indented belong to a key of another form, which
/// is not needed here.
fn section(content: &str, name: &str) -> Option<Vec<(String, String)>> {
    let mut found: Option<Vec<(String, String)>> = None;
    let mut inside = false;
    for line in content.lines() {
        let line = line.split(" #").next().unwrap_or_default().trim_end();
        if let Some(title) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            inside = title.split_whitespace().eq(name.split_whitespace());
            if inside {
                found.get_or_insert_default();
            }
        } else if inside
            && !line.starts_with([' ', '\t', '#', ';'])
            && let (Some((key, value)), Some(found)) = (line.split_once('='), &mut found)
        {
            found.push((key.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    found
}

/// A profile's keys, read again when its file changes: who renews them need not restart a daemon.
#[derive(Debug)]
pub(super) struct ProfileCredentials {
    profile: Profile,
    last: Mutex<([Option<SystemTime>; 2], Arc<AwsCredential>)>,
}

impl ProfileCredentials {
    /// The keys of a profile; `None` where it has none, and nothing else that says who is asking.
    pub(super) fn new(profile: &Profile) -> Result<Option<Self>, StoreError> {
        let Some(credential) = credential(&profile.values) else {
            let Some(foreign) = FOREIGN.iter().find(|key| profile.value(key).is_some()) else { return Ok(None) };
            let problem = format!(
                "profile {:?} gets its credentials by {foreign}, which this program does not know: put keys into its environment, as \
                 `aws configure export-credentials --format env` prints them",
                profile.name
            );
            return Err(StoreError::Settings { problem });
        };
        let stamp = stamp(profile);
        Ok(Some(Self { profile: profile.clone(), last: Mutex::new((stamp, Arc::new(credential))) }))
    }

    fn current(&self) -> Arc<AwsCredential> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = stamp(&self.profile);
        if stamp != last.0 {
            let values = read(&self.profile.name, &self.profile.credentials, &self.profile.config).ok().flatten();
            // A file that is being written has no keys for a moment: the last ones are kept.
            if let Some(credential) = values.and_then(|values| credential(&values)) {
                *last = (stamp, Arc::new(credential));
            }
        }
        Arc::clone(&last.1)
    }
}

#[async_trait::async_trait]
impl CredentialProvider for ProfileCredentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        Ok(self.current())
    }
}

fn credential(values: &[(String, String)]) -> Option<AwsCredential> {
    Some(AwsCredential {
        key_id: value(values, "aws_access_key_id")?.to_owned(),
        secret_key: value(values, "aws_secret_access_key")?.to_owned(),
        token: value(values, "aws_session_token").map(str::to_owned),
    })
}

/// When each of the two files was changed. Keys may be renewed by a file that is older than the other one.
fn stamp(profile: &Profile) -> [Option<SystemTime>; 2] {
    [&profile.credentials, &profile.config].map(|path| path.metadata().ok()?.modified().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREDENTIALS: &str = "\
# written by hand
[default]
aws_access_key_id = A1
aws_secret_access_key=S1   # of the first

[backup]
aws_access_key_id = A2
aws_secret_access_key = S2
aws_session_token = T2==
";
    const CONFIG: &str = "\
[default]
region = eu-central-1
[profile backup]
region = eu-west-1
s3 =
  max_concurrent_requests = 20
endpoint_url = https://s3.example.com
[profile sso]
sso_session = corp
";

    fn files(credentials: &str, config: &str) -> (tempfile::TempDir, Vec<(String, String)>) {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join(".aws");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("credentials"), credentials).unwrap();
        std::fs::write(folder.join("config"), config).unwrap();
        let variables = vec![("HOME".to_owned(), home.path().to_str().unwrap().to_owned())];
        (home, variables)
    }

    fn named(mut variables: Vec<(String, String)>, profile: &str) -> Vec<(String, String)> {
        variables.push(("AWS_PROFILE".to_owned(), profile.to_owned()));
        variables
    }

    #[test]
    fn the_default_profile_is_taken_unless_another_is_named() {
        let (_home, variables) = files(CREDENTIALS, CONFIG);
        let profile = Profile::find(&variables).unwrap().unwrap();
        assert_eq!((profile.value("aws_access_key_id"), profile.value("region")), (Some("A1"), Some("eu-central-1")));
        let current = ProfileCredentials::new(&profile).unwrap().unwrap().current();
        assert_eq!((current.key_id.as_str(), current.secret_key.as_str(), current.token.as_deref()), ("A1", "S1", None));

        let profile = Profile::find(&named(variables, "backup")).unwrap().unwrap();
        assert_eq!(profile.value("endpoint_url"), Some("https://s3.example.com"));
        assert_eq!(profile.value("max_concurrent_requests"), None, "what is nested is another key's");
        assert_eq!(ProfileCredentials::new(&profile).unwrap().unwrap().current().token.as_deref(), Some("T2=="));
    }

    #[test]
    fn what_is_missing_is_named() {
        let (_home, variables) = files(CREDENTIALS, CONFIG);
        let error = Profile::find(&named(variables.clone(), "nobody")).unwrap_err().to_string();
        assert!(error.contains("AWS_PROFILE") && error.contains("nobody"), "{error}");
        let profile = Profile::find(&named(variables, "sso")).unwrap().unwrap();
        let error = ProfileCredentials::new(&profile).unwrap_err().to_string();
        assert!(error.contains("sso_session") && error.contains("export-credentials"), "{error}");
        assert!(Profile::find(&[]).unwrap().is_none(), "without a home there are no files");
        let (_home, variables) = files("", "");
        assert!(Profile::find(&variables).unwrap().is_none());
    }

    #[test]
    fn renewed_keys_are_read_again() {
        let (home, variables) = files(CREDENTIALS, CONFIG);
        let profile = Profile::find(&variables).unwrap().unwrap();
        let credentials = ProfileCredentials::new(&profile).unwrap().unwrap();
        let path = home.path().join(".aws/credentials");
        let later = path.metadata().unwrap().modified().unwrap() + std::time::Duration::from_secs(9);
        std::fs::write(&path, CREDENTIALS.replace("A1", "A9")).unwrap();
        std::fs::File::options().append(true).open(&path).unwrap().set_modified(later).unwrap();
        assert_eq!(credentials.current().key_id, "A9");
        std::fs::write(&path, "").unwrap();
        assert_eq!(credentials.current().key_id, "A9", "half-written files are not gone by");
        // Written before the other file was, and put in place afterwards.
        std::fs::write(&path, CREDENTIALS.replace("A1", "A8")).unwrap();
        let long_ago = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
        std::fs::File::options().append(true).open(&path).unwrap().set_modified(long_ago).unwrap();
        assert_eq!(credentials.current().key_id, "A8");
    }
}
