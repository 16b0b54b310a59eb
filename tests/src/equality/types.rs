//! The types that columns have, and values of them: ordinary ones, and those at the edges.

use std::fmt::Write as _;

use walbus::sim::Random;

/// Makes the types that are not built in, in a database.
pub(super) const MAKE_TYPES: &str = "
CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s \"fine\"', '幸せ');
CREATE DOMAIN small AS integer CHECK (VALUE BETWEEN -1000 AND 1000);
CREATE DOMAIN label AS text;
CREATE TYPE pair AS (a integer, b text, c numeric);
CREATE SCHEMA other;
CREATE TYPE other.color AS ENUM ('red', 'green', 'blue');
";

/// A column's type.
#[derive(Debug, Clone, Copy)]
pub(super) struct ColumnType {
    /// As `format_type` writes it.
    pub(super) name: &'static str,
    values: Values,
}

#[derive(Debug, Clone, Copy)]
enum Values {
    /// Any of these.
    Of(&'static [&'static str]),
    /// Now one of these, then what this makes.
    Both(&'static [&'static str], fn(&mut Random) -> String),
}

impl ColumnType {
    /// Any of them.
    pub(super) fn any(random: &mut Random) -> &'static Self {
        pick(random, ALL)
    }

    /// By the name that `format_type` gives.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|known| known.name == name)
    }

    /// All of them.
    pub(super) const fn all() -> &'static [Self] {
        ALL
    }

    /// A value as its type reads it, `None` for NULL.
    pub(super) fn value(&self, random: &mut Random) -> Option<String> {
        if random.chance(1, 8) {
            return None;
        }
        Some(match self.values {
            Values::Of(values) => (*pick(random, values)).to_owned(),
            Values::Both(values, _) if random.chance(1, 3) => (*pick(random, values)).to_owned(),
            Values::Both(_, make) => make(random),
        })
    }
}

/// One of several.
pub(super) fn pick<'a, T>(random: &mut Random, of: &'a [T]) -> &'a T {
    let at = usize::try_from(random.below(of.len() as u64)).unwrap_or_default();
    &of[at]
}

const fn of(name: &'static str, values: &'static [&'static str]) -> ColumnType {
    ColumnType { name, values: Values::Of(values) }
}

const fn both(name: &'static str, values: &'static [&'static str], make: fn(&mut Random) -> String) -> ColumnType {
    ColumnType { name, values: Values::Both(values, make) }
}

const TEXTS: &[&str] = &[
    "",
    " ",
    "NULL",
    "null",
    "a\nb\tc\r\n",
    "it's",
    "\\x00 \\\\ \\N \\.",
    "\"quoted\", {braces}, (parens)",
    "äöüß ÀÉ",
    "日本語 🦀 \u{200D}",
    "\u{7F}\u{1}",
];

const NUMERICS: &[&str] = &[
    "0",
    "0.00",
    "-0.000000000000000000000000000000000001",
    "NaN",
    "Infinity",
    "-Infinity",
    "99999999999999999999999999999999999999999999.5",
    "1e-40",
    "1e60",
];

const TIMESTAMPS: &[&str] = &[
    "infinity",
    "-infinity",
    "4713-01-02 00:00:00 BC",
    "0001-12-31 23:59:59.999999 BC",
    "0001-01-01 00:00:00",
    "1969-12-31 23:59:59.999999",
    "1970-01-01 00:00:00",
    "2000-02-29 12:34:56.5",
    "9999-12-31 23:59:59.999999",
    "10000-01-01 00:00:00",
    "294276-12-31 23:59:59.999999",
];

const ALL: &[ColumnType] = &[
    of("boolean", &["t", "f"]),
    both("smallint", &["0", "-32768", "32767"], |random| small(random, 30_000)),
    both("integer", &["0", "-2147483648", "2147483647"], |random| small(random, 2_000_000_000)),
    both("bigint", &["0", "-9223372036854775808", "9223372036854775807"], |random| format!("-{}", random.next() >> 2)),
    both("real", &["0", "-0", "NaN", "Infinity", "-Infinity", "1e-45", "3.4028235e38", "0.1"], float),
    both("double precision", &["0", "-0", "NaN", "Infinity", "-Infinity", "5e-324", "1.7976931348623157e308", "0.1"], float),
    both("numeric", NUMERICS, numeric),
    both("numeric(12,3)", &["0", "NaN", "999999999.999", "-0.001"], |random| {
        format!("{}.{}", small(random, 999_999), random.below(999))
    }),
    both("text", TEXTS, text),
    both("character varying(40)", &["", "ü", "'", "NULL"], |random| words(random, 6)),
    both("character(8)", &["", "a", "ä ö", "12345678"], |random| words(random, 1)),
    of("\"char\"", &["", "a", "'", "\"", "\\"]),
    both("name", &["", "pg_catalog", "Ünï"], |random| words(random, 4)),
    both("bytea", &["\\x", "\\x00", "\\xff00", "\\x5c78"], bytea),
    both("date", &["infinity", "-infinity", "4713-01-01 BC", "0001-12-31 BC", "0001-01-01", "5874897-12-31", "2000-02-29"], date),
    both("time without time zone", &["00:00:00", "24:00:00", "23:59:59.999999"], time),
    of("time with time zone", &["00:00:00+00", "24:00:00-15:59", "12:34:56.789+05:30"]),
    both("timestamp without time zone", TIMESTAMPS, timestamp),
    both("timestamp(3) without time zone", &["infinity", "2001-02-03 04:05:06.789"], timestamp),
    both("timestamp with time zone", TIMESTAMPS, |random| format!("{}+{:02}", timestamp(random), random.below(14))),
    both("interval", &["0", "-1 mon +2 days -03:04:05.678901", "178000000 years", "1 day -00:00:00.000001"], interval),
    both("uuid", &["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"], uuid),
    both("json", &["null", "{}", "[]", " { \"a\" : 1, \"a\" : 2 } ", "\"\\u00e4\"", "1e400"], json),
    both("jsonb", &["null", "{}", "[]", "\"\"", "1e400", "-0.0", "[1, [2, [3]], {\"\": null}]"], json),
    of("inet", &["0.0.0.0", "10.0.0.1/8", "255.255.255.255", "::", "fe80::1/64", "::ffff:1.2.3.4"]),
    of("cidr", &["0.0.0.0/0", "10.0.0.0/8", "2001:db8::/32"]),
    of("macaddr", &["00:00:00:00:00:00", "08:00:2b:01:02:03"]),
    of("macaddr8", &["08:00:2b:01:02:03:04:05"]),
    of("bit(8)", &["00000000", "10101010", "11111111"]),
    of("bit varying", &["", "1", "010101010101010101010101"]),
    of("point", &["(0,0)", "(-1.5,1e300)", "(NaN,Infinity)"]),
    of("line", &["{1,2,3}"]),
    of("lseg", &["[(0,0),(1,1)]"]),
    of("box", &["(1,1),(0,0)"]),
    of("path", &["[(0,0),(1,1),(2,0)]", "((0,0),(1,1),(2,0))"]),
    of("polygon", &["((0,0),(1,1),(2,0))"]),
    of("circle", &["<(0,0),1.5>"]),
    of("int4range", &["empty", "[1,5)", "(,5)", "[1,)", "(,)"]),
    of("int8range", &["empty", "[-9000000000,9000000000)"]),
    of("numrange", &["empty", "(1.5,2.50]", "[NaN,NaN]"]),
    of("tsrange", &["empty", "[\"2000-01-01 00:00:00\",infinity]", "(,\"2000-01-01 00:00:00.5\")"]),
    of("tstzrange", &["[\"2000-01-01 00:00:00+03\",\"2001-01-01 00:00:00+03\")"]),
    of("daterange", &["empty", "[2000-01-01,2000-02-01)"]),
    of("int4multirange", &["{}", "{[1,3),[5,9)}"]),
    of("tsvector", &["", "'a':1A 'it''s':2 'ü':3"]),
    of("tsquery", &["", "'a' & !'b' | 'c':*"]),
    of("oid", &["0", "4294967295", "23"]),
    of("pg_lsn", &["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"]),
    of("xid8", &["0", "18446744073709551615"]),
    of("jsonpath", &["$.\"a\"[*]?(@ > 1)"]),
    of("mood", &["sad", "ok", "it's \"fine\"", "幸せ"]),
    of("other.color", &["red", "green", "blue"]),
    both("small", &["0", "-1000", "1000"], |random| small(random, 1000)),
    both("label", TEXTS, text),
    of("pair", &["(,,)", "(1,\"\",0.00)", "(-1,\"a, \"\"b\"\" \\\\ (c)\",NaN)"]),
    both(
        "integer[]",
        &["{}", "{1,NULL,-3}", "{{1,2},{3,4}}", "{{{1}},{{2}}}", "[2:4]={1,2,3}", "[0:1][5:6]={{1,2},{3,4}}"],
        |random| format!("{{{},NULL,{}}}", small(random, 100), small(random, 100)),
    ),
    of("bigint[]", &["{}", "{9223372036854775807}", "{{NULL,1}}"]),
    of("text[]", &["{}", "{NULL,\"NULL\",\"\",\"a b\"}", "{\"{\",\"}\",\"\\\"\",\"\\\\\",\",\",ü}", "{{a,b},{\"\n\",'}}"]),
    of("character varying(40)[]", &["{}", "{a,\" b \"}"]),
    of("numeric[]", &["{}", "{1.50,NaN,NULL,-Infinity}", "{{1e-20},{1e20}}"]),
    of("boolean[]", &["{}", "{t,f,NULL}"]),
    of("double precision[]", &["{}", "{NaN,Infinity,-0,1e-300,NULL}"]),
    of("timestamp with time zone[]", &["{}", "{\"2000-01-01 00:00:00.5+00\",NULL,infinity}"]),
    of("date[]", &["{}", "{2000-02-29,\"0044-03-15 BC\",NULL}"]),
    of("uuid[]", &["{}", "{00000000-0000-0000-0000-000000000001,NULL}"]),
    of("bytea[]", &["{}", "{\"\\\\x00ff\",NULL,\"\\\\x\"}"]),
    of("jsonb[]", &["{}", "{\"{\\\"a\\\": [1, \\\"b\\\"]}\",NULL,null}"]),
    of("mood[]", &["{}", "{sad,\"it's \\\"fine\\\"\",NULL}"]),
    of("pair[]", &["{}", "{\"(1,\\\"a b\\\",2.50)\",NULL}"]),
    of("box[]", &["{}", "{(1,1),(0,0);(2,2),(0,0)}"]),
    of("int4range[]", &["{}", "{\"[1,5)\",empty,NULL}"]),
];

fn small(random: &mut Random, below: u64) -> String {
    let sign = if random.chance(1, 3) { "-" } else { "" };
    format!("{sign}{}", random.below(below))
}

fn float(random: &mut Random) -> String {
    format!("{}.{}e{}", small(random, 1000), random.below(100_000), small(random, 30))
}

fn numeric(random: &mut Random) -> String {
    format!("{}.{:0width$}", small(random, 1 << 50), random.below(1000), width = 3 + usize::from(random.chance(1, 2)) * 20)
}

fn words(random: &mut Random, most: u64) -> String {
    let words = ["ab", "Ünïc", "x'y", "\"q\"", "日本", "1e5", "NULL", "tab"];
    let count = 1 + random.below(most);
    let chosen: Vec<&str> = (0..count).map(|_| *pick(random, &words)).collect();
    chosen.join(if most == 1 { "" } else { " " })
}

/// Mostly short, now and then as long as what is TOASTed, in a way that no compression makes short.
fn text(random: &mut Random) -> String {
    match random.below(24) {
        0 => noise(random, 9_000),
        1..4 => noise(random, 300),
        _ => words(random, 8),
    }
}

/// About `len` digits without a pattern.
pub(super) fn noise(random: &mut Random, len: usize) -> String {
    let mut made = String::with_capacity(len + 16);
    while made.len() < len {
        write!(made, "{:016x}", random.next()).unwrap_or_default();
    }
    made
}

fn bytea(random: &mut Random) -> String {
    let len = if random.chance(1, 30) { 18_000 } else { 32 };
    format!("\\x{}", noise(random, len))
}

fn date(random: &mut Random) -> String {
    format!("{:04}-{:02}-{:02}", 1 + random.below(3000), 1 + random.below(12), 1 + random.below(28))
}

fn time(random: &mut Random) -> String {
    format!("{:02}:{:02}:{:02}.{}", random.below(24), random.below(60), random.below(60), random.below(1_000_000))
}

fn timestamp(random: &mut Random) -> String {
    format!("{} {}", date(random), time(random))
}

fn interval(random: &mut Random) -> String {
    format!("{} mons {} days {}", small(random, 100), small(random, 100), time(random))
}

fn uuid(random: &mut Random) -> String {
    let (high, low) = (random.next(), random.next());
    let digits = format!("{high:016x}{low:016x}");
    format!("{}-{}-{}-{}-{}", &digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..])
}

fn json(random: &mut Random) -> String {
    format!("{{\"n\": {}, \"ü\": [true, null, \"{}\"]}}", small(random, 1000), random.below(100))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::Postgres;

    #[test]
    fn a_type_has_one_name() {
        let mut names: Vec<_> = ColumnType::all().iter().map(|known| known.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ColumnType::all().len());
    }

    #[tokio::test]
    async fn postgres_takes_every_value_and_calls_every_type_as_here() {
        let cluster = Postgres::version(15).start().await.unwrap();
        let client = cluster.client().await.unwrap();
        client.batch_execute(MAKE_TYPES).await.unwrap();
        let mut random = Random::new(1);
        for known in ColumnType::all() {
            let sql = format!(
                "CREATE TEMP TABLE t (v {0}); SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'v'",
                known.name
            );
            let rows = crate::postgres::rows(&client, &sql).await.unwrap();
            assert_eq!(rows, [[known.name.to_owned()]]);
            let made: Vec<_> = (0..60).map(|_| known.value(&mut random)).collect();
            for value in made.iter().flatten() {
                let insert = format!("INSERT INTO t VALUES ('{}')", value.replace('\'', "''"));
                client.batch_execute(&insert).await.unwrap_or_else(|error| panic!("{}: {value}: {error:?}", known.name));
            }
            client.batch_execute("DROP TABLE t").await.unwrap();
        }
    }
}
