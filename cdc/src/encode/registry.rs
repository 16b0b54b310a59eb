//! Definitions of tables by number: each version once for a whole epoch.

use std::collections::HashMap;
use std::sync::Arc;

use beyond_cdc_proto::v1;
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
    known: HashMap<u32, Vec<v1::Schema>>,
    next: u32,
    plans: HashMap<u32, (Arc<Definition>, Plan)>,
}

impl Registry {
    pub(super) fn new<'a>(known: impl Iterator<Item = &'a Arc<v1::Schema>>) -> Self {
        let mut registry = Self { next: 1, ..Self::default() };
        for schema in known {
            registry.next = registry.next.max(schema.id + 1);
            registry.known.entry(schema.oid).or_default().push(v1::Schema::clone(schema));
        }
        registry
    }

    /// The plan for a definition, and the schema where it is a new one.
    #[inline]
    pub(super) fn plan(&mut self, definition: &Arc<Definition>) -> (&Plan, Option<v1::Schema>) {
        let oid = definition.relation.oid;
        let same = self.plans.get(&oid).is_some_and(|(known, _)| Arc::ptr_eq(known, definition));
        let new = if same { None } else { self.learn(definition) };
        let (_, plan) = &self.plans[&oid];
        (plan, new)
    }

    fn learn(&mut self, definition: &Arc<Definition>) -> Option<v1::Schema> {
        let mut schema = schema_of(definition);
        let versions = self.known.entry(schema.oid).or_default();
        let known = versions.iter().find(|known| v1::Schema { id: 0, ..v1::Schema::clone(known) } == schema).map(|known| known.id);
        schema.id = known.unwrap_or(self.next);
        let columns = definition
            .relation
            .columns
            .iter()
            .zip(&definition.types)
            .map(|(column, named)| PlanColumn { kind: kind::of_column(column.type_oid, named.as_deref()), key: column.key });
        let plan = Plan { schema: schema.id, columns: columns.collect() };
        self.plans.insert(schema.oid, (Arc::clone(definition), plan));
        if known.is_some() {
            return None;
        }
        self.next += 1;
        versions.push(schema.clone());
        Some(schema)
    }

    /// Forgets definitions that never got to the log.
    pub(super) fn forget(&mut self, schemas: &[v1::Schema]) {
        for schema in schemas {
            if let Some(versions) = self.known.get_mut(&schema.oid) {
                versions.retain(|known| known.id != schema.id);
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
