use super::*;

fn environment(values: &[(&str, &str)]) -> Source {
    Source::new(Origin::Environment, values.iter().copied())
}

fn resolved(values: &[(&str, &str)]) -> Settings {
    Settings::resolve(&[environment(values)]).unwrap_or_else(|problems| panic!("{}", told(&problems)))
}

fn refused(sources: &[Source]) -> String {
    told(&Settings::resolve(sources).expect_err("it was taken"))
}

fn told(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn nothing_set_is_a_primary() {
    let settings = resolved(&[]);
    assert_eq!((settings.tier, settings.port, settings.ephemeral), (Tier::Primary, 5433, false));
    assert_eq!(settings.listen.to_string(), "0.0.0.0:5432");
    assert_eq!(settings.lookup.metadata.unwrap().to_string(), "169.254.169.254:80");
    assert!(!settings.lookup.metadata_is_set);
    assert_eq!(settings.stop_timeout, Duration::from_secs(120));
    assert!(settings.provenance().iter().all(|one| one.origin == Origin::Default));
    let names: Vec<_> = settings.provenance().iter().map(|one| one.name).collect();
    assert_eq!(names, TABLE.iter().map(|row| row.name).collect::<Vec<_>>(), "each row is read, once, in its order");
}

#[test]
fn the_table_is_in_order_with_itself() {
    let mut names: Vec<_> =
        TABLE.iter().map(|row| row.name).chain(Program::ALL.iter().flat_map(|program| program.names().iter().copied())).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all, "a name is there twice");
    for program in Program::ALL {
        assert!(program.names().iter().all(|name| name.starts_with(program.prefix())));
    }
    assert!(passed::SECRET.iter().all(|name| Program::ALL.iter().any(|program| program.names().contains(name))));
}

#[test]
fn the_page_has_every_setting_as_it_is() {
    let page = include_str!("../../../docs/init.md");
    for row in TABLE {
        let default = row.default.map(|default| format!("`{default}`")).unwrap_or_default();
        let line = format!("| `{}` | {} | {default} | {}", row.name, row.allowed, row.doc);
        assert!(page.contains(&line), "docs/init.md lacks: {line}");
    }
}

#[test]
fn the_first_place_that_has_a_value_wins() {
    let sources = [
        Source::new(
            Origin::KernelCommandLine,
            [("BEYOND_PG_MEMORY_MB", "100"), ("BEYOND_PG_CPUS", "1"), ("BEYOND_PG_PORT", "1001")],
        ),
        environment(&[("BEYOND_PG_MEMORY_MB", "200"), ("BEYOND_PG_CPUS", "2")]),
        Source::new(Origin::File, [("BEYOND_PG_MEMORY_MB", "300"), ("BEYOND_PG_CPUS", " ")]),
        Source::new(Origin::MmdsV2, [("BEYOND_PG_MEMORY_MB", "400"), ("hostname", "a")]),
    ];
    let settings = Settings::resolve(&sources).unwrap();
    assert_eq!((settings.memory_mb, settings.cpus, settings.port), (Some(400), Some(2), 1001));
    assert_eq!(settings.origin("BEYOND_PG_MEMORY_MB"), Origin::MmdsV2);
    assert_eq!(settings.origin("BEYOND_PG_CPUS"), Origin::Environment, "an empty value is none");
    assert_eq!(settings.origin("BEYOND_PG_PORT"), Origin::KernelCommandLine);
    assert_eq!(settings.origin("BEYOND_PG_TIER"), Origin::Default);
}

#[test]
fn a_name_that_is_none_is_told_with_the_nearest() {
    let told = refused(&[environment(&[
        ("BEYOND_PG_TEIR", "replica"),
        ("BEYOND_PG_SHARED_BUFFERS", "1GB"),
        ("BEYOND_VOLUME_EPHEMRAL", "1"),
    ])]);
    assert!(told.contains("environment: there is no setting BEYOND_PG_TEIR: is BEYOND_PG_TIER meant?"), "{told}");
    assert!(told.contains("there is no setting BEYOND_PG_SHARED_BUFFERS: `beyond-pg plan --settings`"), "{told}");
    assert!(told.contains("is BEYOND_VOLUME_EPHEMERAL meant?"), "{told}");
    let told = refused(&[environment(&[("beyond_pg_tier", "replica")])]);
    assert!(told.contains("is BEYOND_PG_TIER meant?"), "{told}");
    let told = refused(&[environment(&[("BEYOND_PG_ARCHIVE_STOR", "s3://b")])]);
    assert!(told.contains("is BEYOND_PG_ARCHIVE_STORE meant?"), "{told}");
}

#[test]
fn names_of_others_are_theirs() {
    let settings = resolved(&[("PATH", "/bin"), ("BEYOND_OTHER", "x"), ("BEYOND_PG_CACHE", "/var/cache")]);
    assert_eq!(settings.tier, Tier::Primary);
    assert!(refused(&[Source::new(Origin::File, [("PATH", "/bin")])]).contains("file: there is no setting PATH"));
    assert!(refused(&[Source::new(Origin::KernelCommandLine, [("BEYOND_PG_CACHE", "x")])]).contains("no setting BEYOND_PG_CACHE"));
}

#[test]
fn every_bad_value_of_every_place_is_told() {
    let told = refused(&[
        environment(&[("BEYOND_PG_TIER", "primry"), ("BEYOND_PG_MEMORY_MB", "512MB"), ("BEYOND_PG_STOP_TIMEOUT", "30")]),
        Source::new(Origin::MmdsV1, [("BEYOND_PG_TIER", "primary"), ("BEYOND_PG_LISTEN", "localhost:5432")]),
    ]);
    for line in [
        "environment: BEYOND_PG_TIER = \"primry\": expected primary, replica or sink",
        "environment: BEYOND_PG_MEMORY_MB = \"512MB\": expected a whole number from 64 to 4194304",
        "environment: BEYOND_PG_STOP_TIMEOUT = \"30\": expected a duration from 1s to 1d, as in 120s",
        "metadata (v1): BEYOND_PG_LISTEN = \"localhost:5432\": expected ADDRESS:PORT",
    ] {
        assert!(told.contains(line), "{line} is not in:\n{told}");
    }
    assert_eq!(told.lines().count(), 4, "{told}");
}

#[test]
fn secrets_are_never_shown() {
    let values = [
        ("BEYOND_PG_TIER", "replica"),
        ("BEYOND_PG_PRIMARY_CONNINFO", "host=a password=geheim"),
        ("BEYOND_PG_USER", "app"),
        ("BEYOND_PG_PASSWORD", "geheim"),
        ("BEYOND_PG_CDC_UPSTREAM", "host=b password=geheim"),
    ];
    let settings = resolved(&values);
    assert!(!format!("{settings:?}").contains("geheim"));
    assert_eq!(settings.password.as_ref().unwrap().reveal(), "geheim");
    let shown: Vec<_> =
        settings.provenance().iter().filter(|one| one.value.as_deref() == Some(HIDDEN)).map(|one| one.name).collect();
    assert_eq!(shown, ["BEYOND_PG_PRIMARY_CONNINFO", "BEYOND_PG_PASSWORD", "BEYOND_PG_CDC_UPSTREAM"]);
    let told = refused(&[environment(&[("BEYOND_PG_USER", "app"), ("BEYOND_PG_PASSWORD", "gehe\nim")])]);
    assert!(told.contains("BEYOND_PG_PASSWORD = (hidden)") && !told.contains("gehe"), "{told}");
}

#[test]
fn where_to_look_can_not_be_found_there() {
    let told = refused(&[Source::new(Origin::MmdsV2, [("BEYOND_PG_METADATA_FILE", "/etc/x.json")])]);
    assert!(told.contains("metadata (v2): BEYOND_PG_METADATA_FILE says where settings are looked for"), "{told}");
    let lookup = Lookup::resolve(&[
        environment(&[("BEYOND_PG_METADATA", "127.0.0.1:8000"), ("BEYOND_PG_NONSENSE", "1")]),
        Source::new(Origin::KernelCommandLine, [("BEYOND_PG_METADATA_FILE", "/etc/x.json"), ("BEYOND_PG_METADATA", "none")]),
    ])
    .unwrap();
    assert_eq!(lookup.metadata.unwrap().to_string(), "127.0.0.1:8000");
    assert_eq!((lookup.metadata_is_set, lookup.metadata_file), (true, Some(PathBuf::from("/etc/x.json"))));
    let none = Lookup::resolve(&[environment(&[("BEYOND_PG_METADATA", "none")])]).unwrap();
    assert_eq!(none.metadata, None);
    assert!(Lookup::resolve(&[environment(&[("BEYOND_PG_METADATA", "metadata.internal")])]).is_err());
}

/// A volume that is attached to another host, for its own is lost, is no fork: its WAL sink has commits that it lacks.
#[test]
fn who_this_is_is_not_guessed_from_the_host() {
    let metadata = Source::new(Origin::MmdsV2, [("instance-id", "i-1")]);
    assert_eq!(Settings::resolve(&[metadata]).unwrap().identity, None);
    let metadata = Source::new(Origin::MmdsV2, [("instance-id", "i-1"), ("BEYOND_PG_IDENTITY", "shop")]);
    assert_eq!(Settings::resolve(&[metadata]).unwrap().identity.as_deref(), Some("shop"));
}

#[test]
fn what_the_programs_are_told_is_passed_on_and_no_more() {
    let settings = resolved(&[
        ("BEYOND_PG_ARCHIVE_STORE", "s3://b/p"),
        ("BEYOND_PG_ARCHIVE_TIMEOUT", "30s"),
        ("BEYOND_PG_CDC_SLOT", "s"),
        ("BEYOND_PG_SIDECARS", "cdc, archiver"),
    ]);
    let archiver: Vec<_> = settings.passed(Program::Archiver).collect();
    assert_eq!(archiver, [("BEYOND_PG_ARCHIVE_STORE", "s3://b/p"), ("BEYOND_PG_ARCHIVE_TIMEOUT", "30s")]);
    assert_eq!(settings.passed(Program::Cdc).collect::<Vec<_>>(), [("BEYOND_PG_CDC_SLOT", "s")]);
    assert_eq!(settings.passed(Program::Sink).count(), 0);
    assert_eq!(settings.sidecars, [Program::Archiver, Program::Cdc]);
    assert!(settings.has_archive());
}

#[test]
fn what_excludes_each_other_is_refused() {
    let combinations: [(&[(&str, &str)], &str); 10] = [
        (&[("BEYOND_PG_HA_STANDBY", "b"), ("BEYOND_VOLUME_EPHEMERAL", "1")], "exclude each other"),
        (&[("BEYOND_PG_WAL_SINK", "https://s:8432"), ("BEYOND_VOLUME_EPHEMERAL", "on")], "exclude each other"),
        (&[("BEYOND_PG_TIER", "replica")], "needs BEYOND_PG_PRIMARY_CONNINFO"),
        (&[("BEYOND_PG_PITR_TARGET", "0/1")], "needs BEYOND_PG_PITR_STORE or BEYOND_PG_ARCHIVE_STORE"),
        (&[("BEYOND_PG_TIER", "sink")], "needs BEYOND_PG_SINK_UPSTREAM"),
        (&[("BEYOND_PG_TLS_CERT", "/a")], "belong together"),
        (&[("BEYOND_PG_PASSWORD", "x")], "need BEYOND_PG_USER"),
        (&[("BEYOND_PG_SIDECARS", "archiver")], "needs BEYOND_PG_ARCHIVE_STORE"),
        (&[("BEYOND_PG_LISTEN", "127.0.0.1:5433")], "the same port"),
        (&[("BEYOND_PG_REPLICATION_LISTEN", "10.0.0.1:5432")], "one port for all addresses"),
    ];
    for (values, wanted) in combinations {
        let told = refused(&[environment(values)]);
        assert!(told.contains(wanted), "{values:?}: {told}");
    }
    assert_eq!(resolved(&[("BEYOND_PG_REPLICATION_LISTEN", "10.0.0.1:5433")]).replication_listen.unwrap().to_string(), "10.0.0.1");
}

#[test]
fn a_name_twice_in_one_place_has_to_say_the_same() {
    assert_eq!(resolved(&[("BEYOND_PG_PORT", "6000"), ("BEYOND_PG_PORT", "6000")]).port, 6000);
    assert!(
        refused(&[environment(&[("BEYOND_PG_PORT", "6000"), ("BEYOND_PG_PORT", "6001")])])
            .contains("BEYOND_PG_PORT is there twice")
    );
}

#[test]
fn durations_and_sizes_have_units() {
    let whole = |text| parse::duration(text, Duration::ZERO, Duration::MAX);
    for (text, millis) in
        [("0", 0), ("5s", 5_000), ("250ms", 250), ("2min", 120_000), ("2m", 120_000), ("1 h", 3_600_000), ("1d", 86_400_000)]
    {
        assert_eq!(whole(text), Some(Duration::from_millis(millis)), "{text}");
    }
    for (text, bytes) in [("0", 0), ("8kB", 8192), ("512MB", 512 << 20), ("4TB", 4 << 40), ("2 GB", 2 << 30)] {
        assert_eq!(parse_bytes(text), Some(bytes), "{text}");
    }
    for text in ["", "5", "s", "-1s", "1.5s", "1s5", "+1s", "99999999999999999999s", "9999999999999999d", "5S", "é"] {
        assert_eq!(whole(text), None, "{text}");
        assert_eq!(parse_bytes(text), None, "{text}");
    }
    assert_eq!(parse_bytes("99999999999TB"), None);
}

#[test]
fn targets_are_positions_or_moments_with_zones() {
    for text in ["0/1", "16/b374d848", "FFFFFFFF/FFFFFFFF"] {
        assert_eq!(parse::pitr_target(text), Some(PitrTarget::Lsn(text.to_uppercase())));
    }
    for text in ["2026-11-20 14:30:00+00", "2026-11-20T14:30:00.123456Z", "2024-02-29 23:59:59-05:30"] {
        assert_eq!(parse::pitr_target(text), Some(PitrTarget::Time(text.to_owned())));
    }
    for text in [
        "",
        "/",
        "0/",
        "1/123456789",
        "g/1",
        "2026-11-20 14:30:00",
        "2026-11-20",
        "2025-02-29 00:00:00Z",
        "2026-13-01 00:00:00Z",
        "2026-11-20 24:00:00Z",
        "2026-11-20 14:30Z",
        "2026-11-20 14:30:00.+00",
        "2026-11-20 14:30:00 +00",
        "2026-11-20 14:30:00é",
        "latest",
        "2026-11-20 14:30:00+",
        "+2026-1-2 1:2:3Z",
    ] {
        assert_eq!(parse::pitr_target(text), None, "{text}");
    }
}

#[test]
fn addresses_users_and_names() {
    assert_eq!(parse::sink_url("https://10.0.0.7:8432/"), Some("https://10.0.0.7:8432".to_owned()));
    assert_eq!(parse::sink_url("https://[fd00::1]:8432"), Some("https://[fd00::1]:8432".to_owned()));
    for text in [
        "http://a:1",
        "https://a",
        "https://:1",
        "https://a:0",
        "https://a:1/x",
        "https://u@a:1",
        "https://fd00::1:8432",
        "https://a b:1",
    ] {
        assert_eq!(parse::sink_url(text), None, "{text}");
    }
    assert_eq!(parse::os_user("65534:65534"), Some(OsUser::Ids { uid: 65534, gid: 65534 }));
    assert_eq!(parse::os_user("postgres"), Some(OsUser::Name("postgres".to_owned())));
    for text in ["1", "1:", ":1", "a b", "4294967295:1", "-a", "a:b"] {
        assert_eq!(parse::os_user(text), None, "{text}");
    }
    assert_eq!(parse::role("pg_admin"), None);
    assert_eq!(parse::role("beyond_pg_x"), None);
    assert_eq!(parse::role(&"é".repeat(32)), None, "64 bytes");
    assert_eq!(parse::plain_name("a\"b"), None);
    assert_eq!(parse::path("data"), None);
    assert_eq!(parse::url_path("/a b"), None);
    assert_eq!(parse::socket_or_none("none"), Some(None));
}

proptest::proptest! {
    #[test]
    fn no_value_is_taken_apart_badly(name in proptest::sample::select(TABLE.iter().map(|row| row.name).collect::<Vec<_>>()), value in "\\PC{0,40}|[0-9a-zA-Z:/.+\\- ]{0,40}") {
        // Either it is taken, or each problem names the setting.
        if let Err(problems) = Settings::resolve(&[environment(&[(name, &value)])]) {
            proptest::prop_assert!(!problems.is_empty());
            for problem in problems {
                proptest::prop_assert!(matches!(problem, Problem::Combination(_)) || problem.to_string().contains(name), "{problem}");
            }
        }
    }
}
