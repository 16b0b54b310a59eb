//! The definitions of tables that are known at a place of the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use beyond_cdc_proto::v1::Schema;

/// Definitions by their id. Never changed once it is shared: a batch that defines something makes another set.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SchemaSet {
    by_id: BTreeMap<u32, Arc<Schema>>,
}

/// Two definitions of one id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("schema {0} is defined twice, and not the same")]
pub struct Redefined(pub u32);

impl SchemaSet {
    /// The definition with this id.
    #[must_use]
    pub fn by_id(&self, id: u32) -> Option<&Arc<Schema>> {
        self.by_id.get(&id)
    }

    /// All definitions, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Schema>> {
        self.by_id.values()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Removes a definition, where it is there.
    pub fn remove(&mut self, id: u32) {
        self.by_id.remove(&id);
    }

    /// Adds a definition.
    ///
    /// # Errors
    /// Where its id stands for another one.
    pub fn add(&mut self, schema: Schema) -> Result<(), Redefined> {
        let id = schema.id;
        match self.by_id.get(&id) {
            Some(known) if **known != schema => Err(Redefined(id)),
            Some(_) => Ok(()),
            None => {
                self.by_id.insert(id, Arc::new(schema));
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_means_one_thing() {
        let mut set = SchemaSet::default();
        let schema = |id, table: &str| Schema { id, table: table.into(), ..Schema::default() };
        assert_eq!(set.add(schema(2, "a")), Ok(()));
        assert_eq!(set.add(schema(2, "a")), Ok(()));
        assert_eq!(set.add(schema(2, "b")), Err(Redefined(2)));
        assert_eq!(set.add(schema(1, "b")), Ok(()));
        assert_eq!((set.len(), set.by_id(2).unwrap().table.as_str()), (2, "a"));
        assert_eq!(set.iter().map(|schema| schema.id).collect::<Vec<_>>(), [1, 2]);
        set.remove(1);
        set.remove(9);
        assert_eq!(set.iter().map(|schema| schema.id).collect::<Vec<_>>(), [2]);
    }
}
