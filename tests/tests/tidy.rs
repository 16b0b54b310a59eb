//! What the compiler can't keep: the walls between the crates, the words that pure code may not say, the length of files, and
//! names that tell nothing.

#![expect(clippy::unwrap_used, reason = "a test that can't read the tree fails")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use toml::Table;

/// The most lines of a file of code.
const LINES_MAX: usize = 700;

/// What each crate may import of the others; `walbus`, `beyond-pg-tests` and `benches` excepted, who are imported by, and import, as
/// [`walls_between_crates_hold`] says.
const PROGRAMS: [&str; 5] = ["beyond-pg-sink", "beyond-pg-cdc", "beyond-pg-archiver", "beyond-pg-branch", "beyond-pg-init"];

/// Names that say nothing of what is behind them.
const EMPTY_NAMES: [&str; 5] = ["common", "helpers", "manager", "misc", "utils"];

/// What pure code may not know: files, the network, tasks, time, chance.
const IMPURE: [&str; 13] = [
    "async fn",
    "env::var",
    "fastrand",
    "rand::",
    "rustix",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "thread::sleep",
    "tokio",
];

/// Folders and files of deciding code that is as pure as what is below `proto/`.
const PURE: [&str; 38] = [
    "archiver/src/daemon/line.rs",
    "archiver/src/follow/plan.rs",
    "archiver/src/follow/received.rs",
    "archiver/src/plan.rs",
    "archiver/src/serve/outage.rs",
    "archiver/src/serve/prefetch.rs",
    "archiver/src/serve/uploads.rs",
    "archiver/src/walfile.rs",
    "cdc/src/log/index.rs",
    "cdc/src/log/layout.rs",
    "cdc/src/log/ring.rs",
    "clients/proto/src/json.rs",
    "clients/proto/src/position.rs",
    "init/src/boot/step.rs",
    "init/src/conf.rs",
    "init/src/ha.rs",
    "init/src/http.rs",
    "init/src/live/sink.rs",
    "init/src/plan.rs",
    "init/src/settings.rs",
    "init/src/sources/cmdline.rs",
    "init/src/sources/json.rs",
    "init/src/sql.rs",
    "init/src/status.rs",
    "init/src/supervise.rs",
    "init/src/tier.rs",
    "init/src/tune.rs",
    "walbus/src/archive/envelope.rs",
    "walbus/src/archive/index.rs",
    "walbus/src/archive/key.rs",
    "walbus/src/archive/layout.rs",
    "walbus/src/ident.rs",
    "walbus/src/ledger.rs",
    "walbus/src/logical.rs",
    "walbus/src/lsn.rs",
    "walbus/src/position.rs",
    "walbus/src/receive.rs",
    "walbus/src/segment.rs",
];

#[test]
fn walls_between_crates_hold() {
    let mut wrong = Vec::new();
    for (manifest, table) in manifests() {
        let name = table["package"]["name"].as_str().expect("a package has a name").to_owned();
        let imports = imports(&table);
        for import in &imports {
            let allowed = match (name.as_str(), import.as_str()) {
                // The harness and the benches are above all programs.
                ("beyond-pg-tests" | "beyond-pg-benches", _) => true,
                (_, "walbus") => !matches!(name.as_str(), "beyond-pg-init" | "beyond-pg-branch" | "walbus"),
                (_, import) => !PROGRAMS.contains(&import) && import != "beyond-pg-tests" && import != "beyond-pg-benches",
            };
            if !allowed {
                wrong.push(format!("{}: {name} may not import {import}", manifest.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_version_stands_once() {
    let mut wrong = Vec::new();
    for (manifest, table) in manifests() {
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (name, value) in table.get(section).and_then(toml::Value::as_table).into_iter().flatten() {
                if value.is_str() || value.get("version").is_some() {
                    wrong.push(format!("{}: {name} has a version: it belongs into the root's Cargo.toml", manifest.display()));
                }
            }
        }
        if table.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool) != Some(true) {
            wrong.push(format!("{}: the workspace's lints are missing", manifest.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_are_short() {
    let long = code().into_iter().filter_map(|path| {
        let lines = read(&path).lines().count();
        (lines >= LINES_MAX).then(|| format!("{}: {lines} lines, under {LINES_MAX} allowed", path.display()))
    });
    assert_none(long);
}

#[test]
fn files_have_names_that_say_something() {
    let empty = files().into_iter().filter_map(|path| {
        let stem = path.file_stem()?.to_str()?.to_owned();
        let is_code = path.extension().is_some_and(|extension| extension == "rs");
        let wrong = if is_code && stem == "mod" {
            "modules are foo.rs beside foo/"
        } else if EMPTY_NAMES.contains(&stem.as_str()) {
            "the name says nothing of what is in it"
        } else {
            return None;
        };
        Some(format!("{}: {wrong}", path.display()))
    });
    assert_none(empty);
}

#[test]
fn pure_code_knows_no_world() {
    let mut seen = 0;
    let mut wrong = Vec::new();
    for path in code() {
        let text = path.to_string_lossy().into_owned();
        let pure = text.contains("/src/proto/") || text.ends_with("/src/proto.rs") || PURE.iter().any(|pure| is_below(&path, pure));
        let is_test = path.file_stem().is_some_and(|stem| stem == "tests") || text.contains("/tests/");
        if !pure || is_test {
            continue;
        }
        seen += 1;
        for (number, line) in without_tests(&read(&path)).lines().enumerate() {
            let line = line.split("//").next().unwrap_or_default();
            for word in IMPURE.iter().filter(|word| says(line, word)) {
                wrong.push(format!("{text}:{}: {word}", number + 1));
            }
        }
    }
    assert!(seen > 5, "the pure code was not found: has it moved?");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_tree_knows_no_machine() {
    // Put together here, so that this file does not hold them itself.
    let words = [
        ["/work", "/"].concat(),
        ["/root", "/"].concat(),
        ["index", ".crates.io"].concat(),
        ["registry", ".npmjs"].concat(),
        ["files.python", "hosted"].concat(),
        ["deb.debian", ".org"].concat(),
    ];
    let mut wrong = Vec::new();
    for path in files() {
        // What is no text, and Cargo.lock, whose registry is cargo's own spelling.
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        if path.file_name().is_some_and(|name| name == "Cargo.lock") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            for word in words.iter().filter(|word| line.contains(word.as_str())) {
                wrong.push(format!("{}:{}: {word}", path.display(), number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_one_place_of_the_harness_has_a_timer() {
    let timers = code().into_iter().filter_map(|path| {
        let text = path.to_string_lossy().into_owned();
        // The wait itself, the proxies, whose delay is the fault, and this file.
        let allowed = ["tests/src/wait.rs", "tests/src/proxy.rs", "tests/src/s3/faults/link.rs", "tests/tests/tidy.rs"]
            .iter()
            .any(|own| text.ends_with(own));
        let harness = text.contains("tests/src/") || text.contains("tests/tests/");
        (harness && !allowed && read(&path).contains("sleep("))
            .then(|| format!("{text}: sleeps: wait for a condition by eventually()"))
    });
    assert_none(timers);
}

#[test]
fn the_walls_would_be_seen_broken() {
    assert!(says("use std::fs::File;", "std::fs") && says("    tokio::spawn(x)", "tokio") && says("rand::random()", "rand::"));
    assert!(!says("operand::new()", "rand::"), "a part of a word is no word");
    assert_eq!(without_tests("a\n#[cfg(test)]\nmod tests {\nuse std::fs;\n}\n").trim(), "a");
    let table: Table = "[dependencies]\na = { package = \"b\" }\n[target.x.dev-dependencies]\nc = \"1\"".parse().unwrap();
    assert_eq!(imports(&table), BTreeSet::from(["b".to_owned(), "c".to_owned()]));
}

fn assert_none(wrong: impl Iterator<Item = String>) {
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether a line has this word, not merely as the end of another.
fn says(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// A file up to its inline tests, which stand last.
fn without_tests(text: &str) -> &str {
    text.split_once("#[cfg(test)]\nmod tests {").map_or(text, |(code, _)| code)
}

/// Whether `path` is `file` of the repository, or lies in the folder of that module.
fn is_below(path: &Path, file: &str) -> bool {
    let file = root().join(file);
    path == file || path.starts_with(file.with_extension(""))
}

/// The names of all packages that a manifest's dependency tables import.
fn imports(table: &Table) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (key, value) in table {
        let Some(value) = value.as_table() else { continue };
        if key.ends_with("dependencies") {
            for (name, details) in value {
                found.insert(details.get("package").and_then(toml::Value::as_str).unwrap_or(name).to_owned());
            }
        } else {
            found.extend(imports(value));
        }
    }
    found
}

/// The manifests of all packages of the workspace.
fn manifests() -> Vec<(PathBuf, Table)> {
    let found: Vec<(PathBuf, Table)> = files()
        .into_iter()
        .filter(|path| path.file_name().is_some_and(|name| name == "Cargo.toml"))
        .map(|path| (path.clone(), read(&path).parse::<Table>().unwrap_or_else(|error| panic!("{}: {error}", path.display()))))
        .filter(|(_, table)| table.contains_key("package") && table.get("workspace").is_none())
        .collect();
    assert!(found.len() >= 4, "the manifests were not found: {found:?}");
    found
}

/// All Rust of the repository.
fn code() -> Vec<PathBuf> {
    files().into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// All files of the repository, without what is built or fetched.
fn files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_symlink() || ["target", ".git", "corpus", "artifacts"].contains(&name.as_str()) {
                continue;
            }
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
