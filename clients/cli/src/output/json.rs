//! One JSON object a line.

use std::collections::HashSet;

use beyond_cdc_client::{Change, Header, Position};
use beyond_cdc_proto::json::Renderer;

/// Writes JSON.
#[derive(Debug, Default)]
pub(super) struct Json {
    renderer: Renderer,
    known: HashSet<u32>,
}

impl Json {
    pub(super) fn begin(&mut self, out: &mut String, header: &Header) {
        self.renderer.begin(out, header.wire());
        out.push('\n');
    }

    pub(super) fn change(&mut self, out: &mut String, change: &Change) -> Result<(), String> {
        for schema in change.tables() {
            if self.known.insert(schema.id) {
                self.renderer.learn(schema);
            }
        }
        self.renderer.change(out, change.transaction().wire(), change.wire()).map_err(|error| error.to_string())?;
        out.push('\n');
        Ok(())
    }

    pub(super) fn commit(&mut self, out: &mut String, header: &Header, position: Position) {
        self.renderer.commit(out, header.wire(), position.ordinal);
        out.push('\n');
    }
}
