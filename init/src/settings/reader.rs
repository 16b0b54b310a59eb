//! Sources, turned into one value a setting: the best place's, with every problem of every place.

use std::collections::BTreeMap;

use super::nearest::nearest;
use super::origin::{HIDDEN, Origin, Problem, Provenance, Secret, Source};
use super::passed::{self, Program};
use super::table::{self, Name};

/// How much of a bad value is shown.
const SHOWN_CHARS_MAX: usize = 100;

/// Reads settings one by one and keeps what was wrong.
pub(super) struct Reader {
    /// What each place says of each known name, best place first.
    found: BTreeMap<&'static str, Vec<(Origin, String)>>,
    provenance: Vec<Provenance>,
    problems: Vec<Problem>,
}

impl Reader {
    /// All names, those that are none included.
    pub(super) fn of_all(sources: &[Source]) -> Self {
        let mut reader = Self::of_rows(sources, |_| true);
        for source in sources {
            for (name, _) in &source.values {
                reader.check_name(source.origin, name);
            }
        }
        reader.check_passed();
        reader
    }

    /// Some rows of the table, and no complaint of other names.
    pub(super) fn of_rows(sources: &[Source], wanted: impl Fn(&Name) -> bool) -> Self {
        let mut reader = Self { found: BTreeMap::new(), provenance: Vec::new(), problems: Vec::new() };
        let mut sources: Vec<&Source> = sources.iter().collect();
        sources.sort_by_key(|source| source.origin);
        for source in sources {
            for (name, value) in &source.values {
                let known = table::row(name).filter(|row| wanted(row)).map(|row| row.name).or_else(|| passed_name(name));
                if let Some(known) = known
                    && !value.trim().is_empty()
                {
                    reader.add(source.origin, known, value.trim());
                }
            }
        }
        reader
    }

    fn add(&mut self, origin: Origin, name: &'static str, value: &str) {
        let local = table::row(name).is_some_and(|row| row.local);
        if local && !matches!(origin, Origin::Environment | Origin::KernelCommandLine) {
            self.problems.push(Problem::Misplaced { origin, name });
            return;
        }
        let values = self.found.entry(name).or_default();
        match values.iter().find(|(other, _)| *other == origin) {
            Some((_, other)) if other != value => self.problems.push(Problem::Twice { origin, name }),
            Some(_) => {}
            None => values.push((origin, value.to_owned())),
        }
    }

    fn check_name(&mut self, origin: Origin, name: &str) {
        if table::row(name).is_some() || passed_name(name).is_some() {
            return;
        }
        if origin == Origin::Environment && passed::SCRIPTS.contains(&name) {
            return;
        }
        let names =
            table::TABLE.iter().map(|row| row.name).chain(Program::ALL.iter().flat_map(|program| program.names().iter().copied()));
        let nearest = nearest(name, names);
        let upper = name.to_ascii_uppercase();
        // Another program's BEYOND_ name is none of ours, unless it is nearly one of ours.
        let ours = upper.starts_with("BEYOND_PG_") || (upper.starts_with("BEYOND_") && nearest.is_some());
        if ours || origin == Origin::File {
            self.problems.push(Problem::Unknown { origin, name: excerpt(name), nearest });
        }
    }

    /// What is passed on is not read here, but the program that gets it can't be given everything either.
    fn check_passed(&mut self) {
        for name in Program::ALL.iter().flat_map(|program| program.names()) {
            for (origin, value) in self.found.get(name).into_iter().flatten() {
                if value.chars().any(char::is_control) {
                    self.problems.push(Problem::Value {
                        origin: *origin,
                        name,
                        value: shown(name, value),
                        allowed: "a text without control characters".to_owned(),
                    });
                }
            }
        }
    }

    /// The value of a setting that has a default.
    pub(super) fn required<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        debug_assert!(table::row(name).is_some_and(|row| row.default.is_some()), "{name} has no default");
        self.read(name, parse)
    }

    /// The value of a setting that may have none.
    pub(super) fn optional<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        debug_assert!(table::row(name).is_some_and(|row| row.default.is_none()), "{name} has a default");
        self.read(name, parse)
    }

    fn read<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let row = table::row(name)?;
        let mut best = None;
        for (origin, value) in self.found.get(name).into_iter().flatten() {
            match parse(value).filter(|_| !value.chars().any(char::is_control)) {
                Some(parsed) => best = best.or(Some((*origin, value.clone(), parsed))),
                None => self.problems.push(Problem::Value {
                    origin: *origin,
                    name,
                    value: shown(name, value),
                    allowed: format!("expected {}", row.allowed),
                }),
            }
        }
        let best = best.or_else(|| row.default.and_then(|text| Some((Origin::Default, text.to_owned(), parse(text)?))));
        let (origin, value) = best.as_ref().map_or((Origin::Default, None), |(origin, value, _)| (*origin, Some(value.clone())));
        let value = if row.secret { value.map(|_| HIDDEN.to_owned()) } else { value };
        self.provenance.push(Provenance { name, value, origin });
        best.map(|(_, _, parsed)| parsed)
    }

    /// Whether any place sets this.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.found.contains_key(name)
    }

    /// Notes what can't be had together.
    pub(super) fn combination(&mut self, text: String) {
        self.problems.push(Problem::Combination(text));
    }

    /// What is passed on to the programs.
    pub(super) fn passed(&mut self) -> BTreeMap<&'static str, Secret> {
        let mut values = BTreeMap::new();
        for name in Program::ALL.iter().flat_map(|program| program.names()) {
            if let Some((origin, value)) = self.found.get(name).and_then(|found| found.first()) {
                values.insert(*name, Secret::new(value.as_str()));
                let value = if is_secret(name) { HIDDEN.to_owned() } else { value.clone() };
                self.provenance.push(Provenance { name, value: Some(value), origin: *origin });
            }
        }
        values
    }

    /// What was read, with where it is from in the table's order, or all that is wrong.
    pub(super) fn finish<T>(mut self, read: Option<T>) -> Result<(T, Vec<Provenance>), Vec<Problem>> {
        let place = |name: &str| table::TABLE.iter().position(|row| row.name == name).unwrap_or(usize::MAX);
        self.provenance.sort_by_key(|one| place(one.name));
        match read {
            Some(read) if self.problems.is_empty() => Ok((read, self.provenance)),
            _ => {
                assert!(!self.problems.is_empty(), "a default of the table is none");
                Err(self.problems)
            }
        }
    }
}

fn passed_name(name: &str) -> Option<&'static str> {
    Program::ALL.iter().flat_map(|program| program.names()).copied().find(|known| *known == name)
}

fn is_secret(name: &str) -> bool {
    table::row(name).is_some_and(|row| row.secret) || passed::SECRET.contains(&name)
}

/// A bad value as a message shows it.
fn shown(name: &str, value: &str) -> String {
    if is_secret(name) { HIDDEN.to_owned() } else { format!("{:?}", excerpt(value)) }
}

fn excerpt(text: &str) -> String {
    let mut short: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
