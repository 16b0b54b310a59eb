//! Strings, and JSON within JSON.

/// `text` as a JSON string, quotes included. Only what RFC 8259 demands is escaped.
pub(super) fn string(out: &mut String, text: &str) {
    out.push('"');
    let mut from = 0;
    for (at, byte) in text.bytes().enumerate() {
        // What needs an escape is ASCII, so `at` is a boundary of characters on both sides.
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&text[from..at]);
        from = at + 1;
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            0x08 => out.push_str("\\b"),
            0x0C => out.push_str("\\f"),
            control => {
                out.push_str("\\u00");
                super::number::hex(out, &[control]);
            }
        }
    }
    out.push_str(&text[from..]);
    out.push('"');
}

/// JSON as Postgres keeps it, on one line: `json` holds the text as it came, line breaks included. They stand between its tokens, since
/// within a string they would have been refused, and a space does there as well.
pub(super) fn embedded(out: &mut String, json: &str) {
    if json.bytes().any(|byte| byte < 0x20) {
        out.extend(json.chars().map(|c| if c < ' ' { ' ' } else { c }));
    } else {
        out.push_str(json);
    }
}
