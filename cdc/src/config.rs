//! The file of settings: what flags and environment leave out is taken from there, as if it had been given as flags.
//!
//! Pure but for [`arguments`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Command};
use walbus::service::settings;

/// The subcommand that has settings.
const SERVE: &str = "serve";
/// The setting that names the file.
const CONFIG: &str = "config";

/// A file that can't be used: a line for each fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(Vec<String>);

/// The command line with what the file of settings adds to it, where it names one.
///
/// # Errors
/// Where the file can't be read, is no TOML, or has a key that is no setting.
pub fn arguments(program: &Command, given: Vec<OsString>) -> Result<Vec<OsString>, ConfigError> {
    let Some(path) = file(program, &given) else { return Ok(given) };
    let failed = |error| ConfigError(vec![format!("--config {}: can't be read: {error}", path.display())]);
    let text = std::fs::read_to_string(&path).map_err(failed)?;
    with_file(program, given, &path, &text)
}

/// What flags and environment say, whatever is missing. `None` where that makes no sense, or has no settings: what is wrong with it is found later.
fn look(program: &Command, given: &[OsString]) -> Option<ArgMatches> {
    let lenient = program.clone().mut_subcommand(SERVE, |serve| serve.mut_args(|arg| arg.required(false)));
    lenient.try_get_matches_from(given).ok()?.remove_subcommand().filter(|(name, _)| name == SERVE).map(|(_, serve)| serve)
}

fn file(program: &Command, given: &[OsString]) -> Option<PathBuf> {
    look(program, given)?.get_one::<PathBuf>(CONFIG).cloned()
}

/// [`arguments`] with the file's content given.
fn with_file(program: &Command, mut given: Vec<OsString>, path: &Path, text: &str) -> Result<Vec<OsString>, ConfigError> {
    let (Some(serve), Some(found)) = (program.find_subcommand(SERVE), look(program, &given)) else { return Ok(given) };
    let settings: BTreeMap<&str, &clap::Arg> = serve.get_arguments().filter_map(|arg| Some((arg.get_long()?, arg))).collect();
    let known: Vec<&str> = settings.keys().copied().filter(|key| ![CONFIG, "help"].contains(key)).collect();
    let prefixed = |fault: String| format!("--config {}: {fault}", path.display());
    let values = settings::parse(text, &known, "beyond-pg-cdc serve")
        .map_err(|faults| ConfigError(faults.into_iter().map(prefixed).collect()))?;
    let mut faults = Vec::new();
    for (key, value) in values {
        let Some(arg) = settings.get(key) else { continue };
        let source = found.value_source(arg.get_id().as_str());
        if matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable)) {
            continue;
        }
        match (arg.get_action(), value.as_str()) {
            (ArgAction::SetTrue, "true") => given.push(format!("--{key}").into()),
            (ArgAction::SetTrue, "false") => {}
            (ArgAction::SetTrue, _) => faults.push(prefixed(format!("{key} is {value:?}: expected true or false"))),
            _ => given.push(format!("--{key}={value}").into()),
        }
    }
    if faults.is_empty() { Ok(given) } else { Err(ConfigError(faults)) }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::program::{Command as Subcommand, Program};

    const FILE: &str = r#"
        data-dir = "/data"
        upstream = "host=a dbname=b"
        publication = ["x", "y"]
        create-slot = true
        two-phase = false
        keep-size = "10GB"
        status-interval = "3s"
    "#;

    fn resolve(flags: &[&str], file: &str) -> Result<crate::args::ServeArgs, String> {
        let given = ["beyond-pg-cdc", "serve"].iter().chain(flags).map(OsString::from).collect();
        let all = with_file(&Program::command(), given, Path::new("cdc.toml"), file).map_err(|error| error.to_string())?;
        match Program::try_parse_from(all).map_err(|error| error.to_string())?.command {
            Subcommand::Serve(args) => Ok(*args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_file_is_taken_where_no_flag_says_otherwise() {
        let args = resolve(&["--keep-size", "1GB", "--two-phase", "--slot", "mine"], FILE).unwrap();
        assert_eq!((args.data_dir.to_str().unwrap(), args.upstream.as_str()), ("/data", "host=a dbname=b"));
        assert_eq!(args.publication, ["x", "y"]);
        assert!(args.create_slot && args.two_phase && !args.failover);
        assert_eq!((args.keep_size, args.slot.as_str()), (Some(1 << 30), "mine"));
        assert_eq!(args.status_interval, std::time::Duration::from_secs(3));
    }

    #[test]
    fn each_fault_names_its_key() {
        for (file, wanted) in [
            ("keep_size = 1", "--config cdc.toml: there is no setting \"keep_size\": is keep-size meant?"),
            ("config = \"x\"", "--config cdc.toml: there is no setting \"config\""),
            ("slot = {}", "slot is table"),
            ("create-slot = \"yes\"", "--config cdc.toml: create-slot is \"yes\": expected true or false"),
            ("nonsense", "--config cdc.toml: line 1"),
            ("keep-size = \"much\"", "'--keep-size <SIZE>'"),
            ("", "--data-dir <DIR>"),
        ] {
            let error = resolve(&[], file).unwrap_err();
            assert!(error.contains(wanted), "{file}: {error}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_left_to_who_says_so() {
        let given: Vec<OsString> = ["beyond-pg-cdc", "serve", "--nonsense"].map(OsString::from).into();
        assert_eq!(arguments(&Program::command(), given.clone()), Ok(given));
        let other: Vec<OsString> = ["beyond-pg-cdc", "log", "ls", "/x"].map(OsString::from).into();
        assert_eq!(arguments(&Program::command(), other.clone()), Ok(other));
        let missing: Vec<OsString> = ["beyond-pg-cdc", "serve", "--config", "/nowhere/cdc.toml"].map(OsString::from).into();
        let error = arguments(&Program::command(), missing).unwrap_err().to_string();
        assert!(error.starts_with("--config /nowhere/cdc.toml: can't be read"), "{error}");
    }
}
