//! What is printed. Pure: bytes are appended to a buffer.

use beyond_cdc_client::{Change, Header, Position};

use crate::args::Format;

mod csv;
mod json;
mod pretty;

/// Writes changes in one of the formats.
#[derive(Debug)]
pub struct Printer {
    writer: Writer,
    transactions: bool,
    /// The transaction that has begun, and of which nothing was printed: a filter may have left nothing of it.
    begun: Option<Begun>,
}

#[derive(Debug)]
enum Begun {
    Held(Box<Header>),
    Printed,
}

#[derive(Debug)]
enum Writer {
    Csv(csv::Csv),
    Json(Box<json::Json>),
    Pretty(pretty::Pretty),
}

impl Printer {
    /// A printer; with `transactions`, of begins and commits too; with `color`, for a terminal.
    #[must_use]
    pub fn new(format: Format, transactions: bool, color: bool) -> Self {
        let writer = match format {
            Format::Csv => Writer::Csv(csv::Csv::default()),
            Format::Json => Writer::Json(Box::default()),
            Format::Pretty => Writer::Pretty(pretty::Pretty::new(color)),
        };
        Self { writer, transactions, begun: None }
    }

    /// A transaction begins.
    pub fn begin(&mut self, header: &Header) {
        if self.transactions {
            self.begun = Some(Begun::Held(Box::new(header.clone())));
        }
    }

    /// Appends a change.
    ///
    /// # Errors
    /// Where it does not keep to the protocol.
    pub fn change(&mut self, out: &mut String, change: &Change) -> Result<(), String> {
        if let Some(Begun::Held(header)) = self.begun.take() {
            match &mut self.writer {
                Writer::Csv(csv) => csv.begin(out, &header),
                Writer::Json(json) => json.begin(out, &header),
                Writer::Pretty(pretty) => pretty.begin(out, &header),
            }
        }
        self.begun = self.transactions.then_some(Begun::Printed);
        match &mut self.writer {
            Writer::Csv(csv) => csv.change(out, change),
            Writer::Json(json) => json.change(out, change),
            Writer::Pretty(pretty) => pretty.change(out, change),
        }
    }

    /// The transaction has ended.
    pub fn commit(&mut self, out: &mut String, header: &Header, position: Position) {
        if let Some(Begun::Printed) = self.begun.take() {
            match &mut self.writer {
                Writer::Csv(csv) => csv.commit(out, header, position),
                Writer::Json(json) => json.commit(out, header, position),
                Writer::Pretty(pretty) => pretty.commit(out, header),
            }
        }
    }
}

/// The name of an operation.
fn name_of(change: &Change) -> &'static str {
    use beyond_cdc_client::Operation;
    match change.operation() {
        Operation::Delete => "delete",
        Operation::Insert => "insert",
        Operation::Message => "message",
        Operation::Truncate => "truncate",
        Operation::Unspecified => "unknown",
        Operation::Update => "update",
    }
}

/// The commit time as RFC 3339.
fn time_of(header: &Header) -> String {
    jiff::Timestamp::from_microsecond(header.commit_time())
        .map_or_else(|_far| format!("{}us", header.commit_time()), |time| time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string())
}

/// A value as text: JSON without the quotes of a string.
fn text_of(column: &beyond_cdc_proto::v1::Column, value: &beyond_cdc_proto::v1::Value) -> Result<String, String> {
    use beyond_cdc_proto::v1::value::Kind;
    if let Some(Kind::Text(text) | Kind::Json(text)) = &value.kind {
        return Ok(text.clone());
    }
    let mut json = String::new();
    beyond_cdc_proto::json::value(&mut json, column, value).map_err(|error| error.to_string())?;
    // Of these kinds, no string has anything in it that JSON escapes, bytea's one backslash excepted.
    Ok(match json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(text) => text.replacen("\\\\x", "\\x", 1),
        None => json,
    })
}

#[cfg(test)]
mod tests;
