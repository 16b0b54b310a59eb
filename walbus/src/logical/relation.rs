//! What relations look like, and who knows.

use std::collections::HashMap;
use std::sync::Arc;

use crate::proto::pgoutput::{Relation, Type};

/// A relation with the names of its types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// The relation.
    pub relation: Relation,
    /// For each column the type's name, `None` for a built-in one, which is not sent.
    pub types: Vec<Option<Arc<Type>>>,
}

/// Definitions by OID, as of the last message.
///
/// A definition that is told again and is the same stays the same [`Arc`], so that a comparison of pointers tells most often what a
/// comparison of content would.
#[derive(Debug, Clone, Default)]
pub struct RelationCache {
    definitions: HashMap<u32, Told<Definition>>,
    types: HashMap<u32, Told<Type>>,
}

/// Something that was told, and when: arrivals are counted over the whole session.
#[derive(Debug, Clone)]
struct Told<T> {
    arrival: u64,
    content: Arc<T>,
}

impl RelationCache {
    /// The definition of this OID.
    #[must_use]
    #[inline]
    pub fn definition(&self, oid: u32) -> Option<&Arc<Definition>> {
        self.definitions.get(&oid).map(|told| &told.content)
    }

    /// A type was named, as the `arrival`th of all that were told.
    pub fn handle_type(&mut self, arrival: u64, named: Type) {
        let same = self.types.get(&named.oid).filter(|told| *told.content == named).map(|told| Arc::clone(&told.content));
        let oid = named.oid;
        self.types.insert(oid, Told { arrival, content: same.unwrap_or_else(|| Arc::new(named)) });
    }

    /// A relation was described, as the `arrival`th of all that were told. Gives its definition, and whether that is another one than
    /// before.
    pub fn handle_relation(&mut self, arrival: u64, relation: Relation) -> (Arc<Definition>, bool) {
        let name = |oid| self.types.get(&oid).map(|told| Arc::clone(&told.content));
        let types = relation.columns.iter().map(|column| name(column.type_oid)).collect();
        self.insert(arrival, Arc::new(Definition { relation, types }))
    }

    /// The same with a definition that exists already.
    pub(super) fn insert(&mut self, arrival: u64, definition: Arc<Definition>) -> (Arc<Definition>, bool) {
        let oid = definition.relation.oid;
        let same = self.definition(oid).filter(|known| **known == definition).map(Arc::clone);
        let changed = same.is_none();
        let content = same.unwrap_or(definition);
        self.definitions.insert(oid, Told { arrival, content: Arc::clone(&content) });
        (content, changed)
    }

    /// Takes what a transaction was told, now that it is committed, except where something newer is known. What is the same here
    /// becomes the same [`Arc`] there.
    pub(super) fn merge(&mut self, own: &mut Self) {
        for (oid, told) in &mut own.definitions {
            match self.definitions.get_mut(oid) {
                Some(known) if known.content == told.content => {
                    known.arrival = known.arrival.max(told.arrival);
                    told.content = Arc::clone(&known.content);
                }
                Some(known) if known.arrival > told.arrival => {}
                _ => drop(self.definitions.insert(*oid, told.clone())),
            }
        }
        for (oid, told) in &own.types {
            if self.types.get(oid).is_none_or(|known| known.arrival < told.arrival) {
                self.types.insert(*oid, told.clone());
            }
        }
    }

    /// Takes the [`Arc`] of `others` for a definition that is the same there.
    pub(super) fn share(&mut self, oid: u32, others: &Self) {
        if let (Some(told), Some(other)) = (self.definitions.get_mut(&oid), others.definition(oid))
            && told.content == *other
        {
            told.content = Arc::clone(other);
        }
    }
}

/// What a reader has been told, so that a definition travels before its first use, and again where it is another one.
#[derive(Debug, Clone, Default)]
pub struct Announced {
    definitions: HashMap<u32, Arc<Definition>>,
}

impl Announced {
    /// Whether this definition has to be told before a change that has it. It counts as told from then on.
    pub fn needs(&mut self, definition: &Arc<Definition>) -> bool {
        let oid = definition.relation.oid;
        if self.definitions.get(&oid).is_some_and(|told| Arc::ptr_eq(told, definition)) {
            return false;
        }
        let told = self.definitions.insert(oid, Arc::clone(definition));
        told.is_none_or(|told| told != *definition)
    }
}
