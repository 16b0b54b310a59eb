use std::os::unix::fs::FileExt;

use clap::Parser;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::log::tests::workload::{EPOCH, START, Transaction, batch_of, fill, identity};
use crate::log::{EventLog, start_epoch};

const SEED: u64 = 1;
const SMALL: Settings = Settings { segment_bytes: 4096, ring_bytes: 0, index_every_bytes: 500, spares: 0 };

#[derive(Debug, Parser)]
struct Line {
    #[command(subcommand)]
    command: LogCommand,
}

/// What a command prints, and whether it says that all is well.
fn log(words: &[&str], dir: &TempDir) -> (String, bool) {
    let path = dir.path().to_str().unwrap();
    let line = Line::parse_from([&["log", words[0], path], &words[1..]].concat());
    let mut out = Vec::new();
    let code = run_to(&LogArgs { command: line.command }, &mut out).unwrap();
    (String::from_utf8(out).unwrap(), code == ExitCode::SUCCESS)
}

/// A log of 40 transactions, and a part of another one.
fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(OsDisk::open(dir.path()).unwrap());
    start_epoch(&*disk, &identity(), EPOCH, START).unwrap();
    let (_, mut writer) = EventLog::open(disk, SMALL, &identity()).unwrap();
    fill(&mut writer, SEED, 0..40);
    while let Some(job) = writer.job() {
        writer.finish(job.run().unwrap());
    }
    let next = Transaction::of(SEED, 40);
    assert!(next.changes > 1);
    let (meta, payload, schemas) = batch_of(&[(next, 1, next.changes - 1)], &Arc::clone(writer.schemas()));
    writer.append(meta, payload, &schemas).unwrap();
    dir
}

fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn segments(dir: &TempDir) -> Vec<PathBuf> {
    let files = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = files.filter(|path| path.extension().is_some_and(|extension| extension == "log")).collect();
    found.sort();
    found
}

#[test]
fn cat_prints_every_change_of_whole_transactions() {
    let dir = folder();
    let printed = objects(&log(&["cat"], &dir).0);
    let transactions: Vec<_> = (0..40).map(|n| Transaction::of(SEED, n)).collect();
    let wanted: Vec<_> = transactions.iter().flat_map(|of| (1..=of.changes).map(|n| of.at(n).to_string())).collect();
    assert_eq!(printed.iter().map(|object| object["position"].as_str().unwrap().to_owned()).collect::<Vec<_>>(), wanted);
    assert_eq!(printed[0]["op"], "insert");
    assert!(printed.iter().all(|object| object["new"]["note"].is_string() && object["schema"] == "public"));
    let tables = transactions.iter().flat_map(|of| (1..=of.changes).map(|_| json!(format!("t{}", of.n / 7))));
    assert_eq!(printed.iter().map(|object| object["table"].clone()).collect::<Vec<_>>(), tables.collect::<Vec<_>>());
}

#[test]
fn a_data_folder_is_taken_as_well_as_the_logs_own() {
    let dir = folder();
    let own = [log(&["ls"], &dir), log(&["cat"], &dir), log(&["check"], &dir)];
    let data = tempfile::tempdir().unwrap();
    std::fs::create_dir(data.path().join("log")).unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), data.path().join("log").join(entry.file_name())).unwrap();
    }
    assert_eq!([log(&["ls"], &data), log(&["cat"], &data), log(&["check"], &data)], own);
    let none = tempfile::tempdir().unwrap();
    let error = Folder::open(none.path()).unwrap_err();
    assert!(format!("{error:#}").contains("no event log"), "{error:#}");
}

#[test]
fn cat_begins_and_ends_where_it_is_told_to() {
    let dir = folder();
    let all = objects(&log(&["cat"], &dir).0);
    for skipped in [1, 7, 100, all.len() - 1, all.len()] {
        let after = all[skipped - 1]["position"].as_str().unwrap();
        assert_eq!(objects(&log(&["cat", "--after", after], &dir).0), all[skipped..], "{after}");
        assert_eq!(objects(&log(&["cat", "--count", &skipped.to_string()], &dir).0), all[..skipped]);
    }
    let ops = |text: &str| objects(text).iter().map(|object| object["op"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let framed = ops(&log(&["cat", "--transactions"], &dir).0);
    assert_eq!(framed.iter().filter(|op| *op == "begin").count(), 40);
    assert_eq!(framed.iter().filter(|op| *op == "commit").count(), 40);
    assert_eq!((framed[0].as_str(), framed[framed.len() - 1].as_str()), ("begin", "commit"));
    assert_eq!(framed.len(), all.len() + 80);
}

#[test]
fn ls_lists_the_segments() {
    let dir = folder();
    let (text, _) = log(&["ls"], &dir);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], format!("epoch {EPOCH}, cluster 42, slot slot"));
    assert!(lines[2].trim_start().starts_with("SEGMENT"), "{text}");
    let names: Vec<_> = lines[3..].iter().map(|line| line.split_whitespace().next().unwrap().to_owned()).collect();
    let files: Vec<_> = segments(&dir).iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    assert!(names.len() > 2);
    assert_eq!(names, files);
    assert!(lines[3].contains("0/3E8:0") && lines[3].contains("1970-01-01T00:00:00.000000Z"), "{text}");
}

#[test]
fn check_proves_a_sound_log_and_warns_of_what_is_not_whole() {
    let dir = folder();
    let (text, sound) = log(&["check"], &dir);
    let end = Transaction::of(SEED, 39).end();
    assert!(sound && text.contains(&format!("what is behind {end} is a transaction without its end")), "{text}");
    assert!(
        text.contains("40 transactions, ") && text.ends_with("sound: every record is right and nothing is missing\n"),
        "{text}"
    );
}

#[test]
fn check_finds_any_flip() {
    let dir = folder();
    let all = segments(&dir);
    for (segment, at) in [(0, 20), (0, 140), (0, 2000), (1, 128 + 90), (1, 3000)] {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(&all[segment]).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 4], at).unwrap();
        let (text, sound) = log(&["check"], &dir);
        let name = all[segment].file_name().unwrap().to_str().unwrap();
        assert!(!sound && text.contains(&format!("error: {name} is damaged at byte ")), "{segment} at {at}: {text}");
        file.write_all_at(&byte, at).unwrap();
    }
    assert!(log(&["check"], &dir).1);
    std::fs::remove_file(&all[1]).unwrap();
    let (text, sound) = log(&["check"], &dir);
    assert!(!sound && text.contains("a segment is missing before "), "{text}");
}

#[test]
fn check_warns_of_a_torn_end_and_of_a_lost_index() {
    let dir = folder();
    let all = segments(&dir);
    std::fs::remove_file(all[0].with_extension("idx")).unwrap();
    let last = std::fs::OpenOptions::new().write(true).open(all.last().unwrap()).unwrap();
    last.write_all_at(b"torn", 4080).unwrap();
    let (text, sound) = log(&["check"], &dir);
    assert!(
        sound && text.contains("is not whole, and will be cut off") && text.contains("0000000000000001.idx is missing"),
        "{text}"
    );
}

#[test]
fn a_folder_without_a_log_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let line = Line::parse_from(["log", "ls", dir.path().to_str().unwrap()]);
    let error = run_to(&LogArgs { command: line.command }, &mut Vec::new()).unwrap_err();
    assert!(format!("{error:#}").ends_with("there is no event log in the folder"), "{error:#}");
}
