//! What the server must know of consumers: who has a name, what was acknowledged, and what of it a crash may take.

use std::collections::BTreeMap;

use walbus::Position;

use crate::fanout::consumers::{ConsumerInfo, Place};
use crate::log::Epoch;

/// Who has a name: a connection and a subscription's stream.
pub(super) type Holder = (u64, u64);

/// All names.
#[derive(Debug, Default)]
pub(super) struct Names {
    by_name: BTreeMap<String, Name>,
}

#[derive(Debug, Default)]
struct Name {
    place: Option<Place>,
    /// What may be found after a crash: what was written last, and what came since.
    left: Vec<Option<Place>>,
    holder: Option<Holder>,
}

impl Names {
    /// Whether another session has the name.
    pub(super) fn is_busy(&self, name: &str) -> bool {
        self.by_name.get(name).is_some_and(|name| name.holder.is_some())
    }

    /// Whether this one has it.
    pub(super) fn has(&self, name: &str, holder: Holder) -> bool {
        self.by_name.get(name).is_some_and(|name| name.holder == Some(holder))
    }

    /// What was acknowledged.
    pub(super) fn place(&self, name: &str) -> Option<Place> {
        self.by_name.get(name).and_then(|name| name.place)
    }

    pub(super) fn attach(&mut self, name: &str, holder: Holder) {
        let name = self.by_name.entry(name.to_owned()).or_insert_with(|| Name { left: vec![None], ..Name::default() });
        name.holder = Some(holder);
    }

    /// Where it begins was written down, or, where the disk has failed, perhaps.
    pub(super) fn begin(&mut self, name: &str, place: Place, durable: bool) {
        if let Some(name) = self.by_name.get_mut(name) {
            if durable {
                name.place = Some(place);
                name.left.clear();
            }
            name.left.push(Some(place));
        }
    }

    pub(super) fn acknowledge(&mut self, name: &str, holder: Holder, epoch: Epoch, position: Position) {
        let Some(name) = self.by_name.get_mut(name).filter(|name| name.holder == Some(holder)) else { return };
        name.place = Some(Place { epoch, position });
        name.left.push(name.place);
    }

    pub(super) fn release(&mut self, name: &str, holder: Holder) {
        if let Some(name) = self.by_name.get_mut(name).filter(|name| name.holder == Some(holder)) {
            name.holder = None;
        }
    }

    /// Everything was written.
    pub(super) fn written(&mut self) {
        for name in self.by_name.values_mut() {
            name.left = vec![name.place];
        }
    }

    /// A consumer was dropped, for good or, where the disk has failed, perhaps.
    pub(super) fn removed(&mut self, name: &str, durable: bool) {
        if let Some(name) = self.by_name.get_mut(name) {
            name.place = None;
            if durable {
                name.left.clear();
            }
            name.left.push(None);
        }
    }

    /// After a crash: what is found must be what was acknowledged, and no less than what was written.
    pub(super) fn open(&mut self, found: &[ConsumerInfo]) -> Result<(), String> {
        if let Some(unknown) = found.iter().find(|info| !self.by_name.contains_key(&info.name)) {
            return Err(format!("nobody ever had the name {unknown}"));
        }
        for (text, name) in &mut self.by_name {
            let place = found.iter().find(|info| info.name == *text).and_then(|info| info.place);
            if !name.left.contains(&place) {
                return Err(format!("consumer {text} is found at {place:?}, where {:?} may be left", name.left));
            }
            *name = Name { place, left: vec![place], holder: None };
        }
        Ok(())
    }
}
