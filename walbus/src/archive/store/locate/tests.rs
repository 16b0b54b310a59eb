use super::*;

fn options(variables: &[(&str, &str)]) -> Options {
    Options::new(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

fn said(url: &str, variables: &[(&str, &str)]) -> String {
    place(url, &options(variables)).unwrap_err().to_string()
}

const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "s")];

#[test]
fn a_bucket_and_a_prefix_are_read() {
    let place = place("s3://backups/postgres/main/", &options(&KEYS)).unwrap();
    assert_eq!((place.prefix.as_ref(), place.url.as_str()), ("postgres/main", "s3://backups/postgres/main"));
    assert_eq!(place.store.to_string(), "AmazonS3(backups)");
    assert_eq!(super::place("s3://backups", &options(&KEYS)).unwrap().prefix.as_ref(), "");
}

#[test]
fn what_is_no_place_is_told_with_the_way_out() {
    assert!(said("backups", &[]).contains("s3://bucket/prefix"));
    assert!(said("ftp://backups", &[]).contains("ftp:// is no store"));
    assert!(said("s3:///prefix", &[]).contains("s3://bucket/prefix"));
    let error = said("s3://key:secret@bucket/", &[]);
    assert!(error.contains("environment") && !error.contains("secret"), "{error}");
    assert!(said("file:///nowhere/at/all", &[]).contains("Make it first"));
    assert!(said("file://host/folder", &[]).contains("three slashes"));
    #[cfg(not(feature = "archive-gs"))]
    assert!(said("gs://bucket/prefix", &[]).contains("--features gs"));
    #[cfg(not(feature = "archive-az"))]
    assert!(said("az://container/prefix", &[]).contains("--features az"));
}

#[test]
fn wal_does_not_leave_the_machine_in_the_clear() {
    let with = |endpoint: &'static str, more: &[(&'static str, &'static str)]| {
        let variables = [&KEYS[..], &[("AWS_ENDPOINT_URL", endpoint)], more].concat();
        options(&variables)
    };
    for near in ["http://127.0.0.1:9000", "http://localhost:9000", "http://[::1]:9000", "https://s3.example.com"] {
        assert!(place("s3://b/p", &with(near, &[])).is_ok(), "{near}");
    }
    let far = with("http://10.0.0.5:9000", &[]);
    let error = place("s3://b/p", &far).unwrap_err().to_string();
    assert!(error.contains("--allow-http"), "{error}");
    assert!(place("s3://b/p", &Options { allow_http: true, ..far }).is_ok());
    assert!(place("s3://b/p", &with("http://10.0.0.5:9000", &[("AWS_ALLOW_HTTP", "true")])).is_ok());
    assert!(place("s3://b/p", &with("ftp://10.0.0.5", &[])).is_err());
}

#[test]
fn a_folder_has_to_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().display());
    let place = place(&url, &options(&[])).unwrap();
    assert_eq!((place.folder, place.url), (Some(folder.path().canonicalize().unwrap()), url));
}

#[test]
fn a_wrong_authority_is_named() {
    let variables = [&KEYS[..], &[("AWS_CA_BUNDLE", "/nowhere/ca.pem")]].concat();
    assert!(said("s3://b/p", &variables).contains("AWS_CA_BUNDLE /nowhere/ca.pem"));
}
