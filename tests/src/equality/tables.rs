//! The tables that the workload writes to: one of each kind that replication treats in a way of its own.
//!
//! A column's name is a stem that no other column of the table ever has, `_`, and something that a rename changes. So whoever reads only the
//! definitions that travel can tell a column that was renamed from one that was dropped while another was added.

use std::fmt::Write as _;

use walbus::sim::Random;

use super::sql::{identifier, literal};
use super::types::{ColumnType, pick};

/// A table, and what may be done to it.
#[derive(Debug)]
pub(super) struct Table {
    /// As SQL names it.
    pub(super) name: &'static str,
    kind: Kind,
    /// Whether its columns may change, and it may be dropped and made anew.
    pub(super) alterable: bool,
    /// Whether updates and deletes are possible.
    pub(super) identity: bool,
    /// Whether many rows may be written at once: each is small, and found by a key.
    pub(super) bulk: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bulk,
    ByIndex,
    Child,
    EveryType,
    Full,
    FullWithKey,
    Keyed,
    Nothing,
    Parent,
    Partitioned,
    Toasted,
    TwoKeys,
}

/// All of them.
pub(super) const TABLES: &[Table] = &[
    table("keyed", Kind::Keyed).alterable(),
    table("other.keyed", Kind::Keyed).alterable(),
    table("\"Größe\"", Kind::TwoKeys).alterable(),
    table("by_index", Kind::ByIndex).alterable(),
    table("full_keyed", Kind::FullWithKey).alterable(),
    table("full_bare", Kind::Full).alterable(),
    table("every_type", Kind::EveryType),
    table("toasted", Kind::Toasted),
    table("bulk", Kind::Bulk).alterable(),
    table("parent", Kind::Parent),
    table("child", Kind::Child),
    table("parted", Kind::Partitioned),
    Table { identity: false, ..table("nothing", Kind::Nothing) },
];

/// What else the workload needs: what its messages say, and the end of the round.
pub(super) const FIXED: &str = "
CREATE TABLE said (n bigint PRIMARY KEY);
CREATE TABLE marker (n bigint PRIMARY KEY);
";

const fn table(name: &'static str, kind: Kind) -> Table {
    Table { name, kind, alterable: false, identity: true, bulk: matches!(kind, Kind::Bulk | Kind::Keyed | Kind::ByIndex) }
}

impl Table {
    const fn alterable(self) -> Self {
        Self { alterable: true, ..self }
    }

    /// The statements that make it, with columns of the seed's choice.
    pub(super) fn create(&self, random: &mut Random) -> String {
        let name = self.name;
        match self.kind {
            Kind::Bulk => format!("CREATE TABLE {name} (k0_0 bigint PRIMARY KEY{}, {})", some(random, 1), column(random, "text")),
            Kind::ByIndex => format!(
                "CREATE TABLE {name} (k0_0 integer{}, k1_code uuid NOT NULL); CREATE UNIQUE INDEX by_index_code ON {name} (k1_code); ALTER TABLE {name} \
                 REPLICA IDENTITY USING INDEX by_index_code",
                some(random, 3)
            ),
            Kind::Child => format!(
                "CREATE TABLE {name} (k0_0 bigint PRIMARY KEY, p_parent integer REFERENCES parent ON DELETE CASCADE{})",
                some(random, 2)
            ),
            Kind::EveryType => {
                let all: String = (0..).zip(ColumnType::all()).fold(String::new(), |mut all, (number, known)| {
                    write!(all, ", c{number}_0 {}", known.name).unwrap_or_default();
                    all
                });
                format!("CREATE TABLE {name} (k0_0 bigint PRIMARY KEY{all})")
            }
            Kind::Full => {
                format!("CREATE TABLE {name} (c0_0 integer{}); ALTER TABLE {name} REPLICA IDENTITY FULL", some(random, 4))
            }
            Kind::FullWithKey => format!(
                "CREATE TABLE {name} (k0_0 integer PRIMARY KEY{}, {}); ALTER TABLE {name} REPLICA IDENTITY FULL",
                some(random, 3),
                column(random, "text")
            ),
            // A generated column does not travel.
            Kind::Keyed => format!(
                "CREATE TABLE {name} (k0_0 integer PRIMARY KEY{}, g_0 bigint GENERATED ALWAYS AS (k0_0 * 2::bigint) STORED)",
                some(random, 6)
            ),
            Kind::Nothing => {
                format!("CREATE TABLE {name} (c0_0 bigint{}); ALTER TABLE {name} REPLICA IDENTITY NOTHING", some(random, 3))
            }
            Kind::Parent => format!("CREATE TABLE {name} (k0_0 integer PRIMARY KEY{})", some(random, 2)),
            Kind::Partitioned => format!(
                "CREATE TABLE {name} (k0_0 bigint PRIMARY KEY{}) PARTITION BY HASH (k0_0); CREATE TABLE parted_a PARTITION OF {name} FOR VALUES WITH \
                 (MODULUS 2, REMAINDER 0); CREATE TABLE parted_b PARTITION OF {name} FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
                some(random, 3)
            ),
            Kind::Toasted => format!(
                "CREATE TABLE {name} (k0_0 integer PRIMARY KEY, b0_body text, b1_body bytea, b2_body jsonb{}); ALTER TABLE {name} ALTER b0_body SET \
                 STORAGE EXTERNAL",
                some(random, 2)
            ),
            Kind::TwoKeys => {
                format!("CREATE TABLE {name} (k0_0 integer, k1_0 text{}, PRIMARY KEY (k0_0, k1_0))", some(random, 4))
            }
        }
    }

    /// The statements that drop it and make it anew, or make it where it is not there.
    pub(super) fn create_anew(&self, random: &mut Random) -> String {
        format!("DROP TABLE IF EXISTS {}; {}", self.name, self.create(random))
    }
}

/// Up to so many further columns, each after a comma.
fn some(random: &mut Random, most: u64) -> String {
    let count = 1 + random.below(most);
    let columns: Vec<String> = (0..count).map(|_| format!(", {}", any_column(random))).collect();
    columns.concat()
}

/// A column of any type.
pub(super) fn any_column(random: &mut Random) -> String {
    let known = ColumnType::any(random);
    column(random, known.name)
}

fn column(random: &mut Random, type_name: &str) -> String {
    format!("c{:x}_0 {type_name}", random.next() >> 24)
}

/// Another name for a column.
pub(super) fn renamed(random: &mut Random, name: &str) -> String {
    let suffixes = ["Ünï", "with space", "\"quoted\"", "select", "x"];
    format!("{}_{}{}", stem(name), pick(random, &suffixes), random.below(1000))
}

/// What of a column's name a rename does not change.
pub(super) fn stem(name: &str) -> &str {
    name.split_once('_').map_or(name, |(stem, _)| stem)
}

/// A table's column, as the database has it now.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) type_name: String,
    /// Whether it is of the primary key or of the replica identity.
    pub(super) key: bool,
}

/// Asks for the columns that can be written to; as [`Column::of_row`] reads them.
pub(super) fn columns_query(table: &str) -> String {
    format!(
        "SELECT a.attname, format_type(a.atttypid, a.atttypmod), \
         (SELECT coalesce(bool_or(a.attnum = ANY (i.indkey)), false) FROM pg_index i WHERE i.indrelid = a.attrelid) \
         FROM pg_attribute a WHERE a.attrelid = {}::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum",
        literal(table)
    )
}

impl Column {
    pub(super) fn of_row(row: &[String]) -> Self {
        let at = |index: usize| row.get(index).cloned().unwrap_or_default();
        Self { name: at(0), type_name: at(1), key: at(2) == "t" }
    }

    pub(super) fn quoted(&self) -> String {
        identifier(&self.name)
    }
}
