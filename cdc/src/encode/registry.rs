//! Definitions of tables by number: each version once for a whole epoch.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use beyond_cdc_proto::v1;
use walbus::Lsn;
use walbus::logical::Definition;
use walbus::proto::pgoutput;

use super::kind::{self, ColumnKind};

/// What is needed to encode rows of one version of a table.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) schema: u32,
    pub(super) columns: Arc<[PlanColumn]>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct PlanColumn {
    pub(super) kind: ColumnKind,
    pub(super) key: bool,
}

/// All definitions that the log knows, and those on their way to it.
#[derive(Debug, Default)]
pub(super) struct Registry {
    /// By the table's OID; a definition that comes back after another one gets its old number.
    known: HashMap<u32, Vec<Known>>,
    next: u32,
    plans: HashMap<u32, Current>,
}

#[derive(Debug)]
struct Known {
    schema: v1::Schema,
    /// The commit of the last transaction that used it, as far as that is not in [`Current`].
    used: Lsn,
}

/// The definition that a table has now.
#[derive(Debug)]
struct Current {
    definition: Arc<Definition>,
    plan: Plan,
    used: Lsn,
}

impl Registry {
    /// Those of the log, of which it is not known when they were used: they count as used at `used`.
    pub(super) fn new<'a>(known: impl Iterator<Item = &'a Arc<v1::Schema>>, used: Lsn) -> Self {
        let mut registry = Self { next: 1, ..Self::default() };
        for schema in known {
            registry.next = registry.next.max(schema.id + 1);
            registry.known.entry(schema.oid).or_default().push(Known { schema: v1::Schema::clone(schema), used });
        }
        registry
    }

    /// The plan for a definition, which the transaction committed at `at` uses, and the schema where it is a new one.
    #[inline]
    pub(super) fn plan(&mut self, definition: &Arc<Definition>, at: Lsn) -> (&Plan, Option<v1::Schema>) {
        let oid = definition.relation.oid;
        let same = self.plans.get(&oid).is_some_and(|current| Arc::ptr_eq(&current.definition, definition));
        let new = if same { None } else { self.learn(definition, at) };
        let current = self.plans.get_mut(&oid).expect("it is known or was learned");
        current.used = at;
        (&current.plan, new)
    }

    fn learn(&mut self, definition: &Arc<Definition>, used: Lsn) -> Option<v1::Schema> {
        let mut schema = schema_of(definition);
        let oid = schema.oid;
        self.note_use(oid);
        let versions = self.known.entry(oid).or_default();
        let known = versions.iter().map(|known| &known.schema);
        let known =
            known.into_iter().find(|known| v1::Schema { id: 0, ..v1::Schema::clone(known) } == schema).map(|known| known.id);
        schema.id = known.unwrap_or(self.next);
        let columns = definition
            .relation
            .columns
            .iter()
            .zip(&definition.types)
            .map(|(column, named)| PlanColumn { kind: kind::of_column(column.type_oid, named.as_deref()), key: column.key });
        let plan = Plan { schema: schema.id, columns: columns.collect() };
        self.plans.insert(oid, Current { definition: Arc::clone(definition), plan, used });
        if known.is_some() {
            return None;
        }
        self.next += 1;
        versions.push(Known { schema: schema.clone(), used });
        Some(schema)
    }

    /// Keeps when a table's present definition was used last, before another one takes its place.
    fn note_use(&mut self, oid: u32) {
        let Some(current) = self.plans.get(&oid) else { return };
        let versions = self.known.get_mut(&oid).into_iter().flatten();
        for known in versions.filter(|known| known.schema.id == current.plan.schema) {
            known.used = known.used.max(current.used);
        }
    }

    /// Forgets the definitions that no transaction committed at `floor` or later has used, and gives their numbers. A table that is seen again
    /// with such a one gets another number. Of those the highest is kept: each of them was durable when it was used, so that after a restart the
    /// log still tells which number comes next. (The highest of all may not be durable yet, and would tell nothing.)
    pub(super) fn prune(&mut self, floor: Lsn) -> Vec<u32> {
        let current: Vec<u32> = self.plans.keys().copied().collect();
        current.into_iter().for_each(|oid| self.note_use(oid));
        let unused = self.known.values().flatten().filter(|known| known.used < floor);
        let highest = unused.map(|known| known.schema.id).max();
        let mut gone = Vec::new();
        self.known.retain(|_, versions| {
            let old = versions.extract_if(.., |known| known.used < floor && Some(known.schema.id) != highest);
            gone.extend(old.map(|known| known.schema.id));
            !versions.is_empty()
        });
        let forgotten: HashSet<u32> = gone.iter().copied().collect();
        self.plans.retain(|_, current| !forgotten.contains(&current.plan.schema));
        gone
    }

    /// Forgets definitions that never got to the log.
    pub(super) fn forget(&mut self, schemas: &[v1::Schema]) {
        for schema in schemas {
            if let Some(versions) = self.known.get_mut(&schema.oid) {
                versions.retain(|known| known.schema.id != schema.id);
            }
            self.plans.remove(&schema.oid);
        }
    }
}

fn schema_of(definition: &Definition) -> v1::Schema {
    let relation = &definition.relation;
    let columns = relation.columns.iter().enumerate().map(|(index, column)| v1::Column {
        name: column.name.clone(),
        type_oid: column.type_oid,
        type_name: kind::name_of(definition, index),
        type_modifier: column.type_modifier,
        key: column.key,
    });
    let identity = match relation.replica_identity {
        pgoutput::ReplicaIdentity::Default => v1::ReplicaIdentity::Default,
        pgoutput::ReplicaIdentity::Full => v1::ReplicaIdentity::Full,
        pgoutput::ReplicaIdentity::Index => v1::ReplicaIdentity::Index,
        pgoutput::ReplicaIdentity::Nothing => v1::ReplicaIdentity::Nothing,
    };
    // Postgres leaves the name of pg_catalog out.
    let schema = if relation.schema.is_empty() { "pg_catalog".to_owned() } else { relation.schema.clone() };
    v1::Schema {
        id: 0,
        oid: relation.oid,
        schema,
        table: relation.name.clone(),
        replica_identity: identity.into(),
        columns: columns.collect(),
    }
}
