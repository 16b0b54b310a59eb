//! What Postgres 18.6 sent, `streaming 'parallel'`, each change in a part of its own (`debug_logical_replication_streaming`).

use super::*;

/// `insert 2; savepoint a; insert 3; savepoint b; insert 4; release b; rollback to a; insert 5; commit`.
const NESTED: &[&str] = &[
    "53000002f301",
    "52000002f3000040007075626c69630074006400020169640000000017ffffffff00760000000019ffffffff",
    "49000002f3000040004e00027400000001327400000003746f70",
    "45",
    "53000002f300",
    "49000002f4000040004e0002740000000133740000000161",
    "45",
    "53000002f300",
    "49000002f5000040004e0002740000000134740000000162",
    "45",
    "41000002f3000002f5000000000179ad10000303c6d03354c2",
    "41000002f3000002f4000000000179ad10000303c6d03354c2",
    "53000002f300",
    "52000002f6000040007075626c69630074006400020169640000000017ffffffff00760000000019ffffffff",
    "49000002f6000040004e00027400000001357400000003746f70",
    "45",
    "63000002f300000000000179ad98000000000179add0000303c6d03354dd",
];

/// `insert 6; savepoint a; message; insert 7; message; rollback to a; message; commit`.
const MESSAGES: &[&str] = &[
    "53000002f701",
    "52000002f7000040007075626c69630074006400020169640000000017ffffffff00760000000019ffffffff",
    "49000002f7000040004e00027400000001367400000003746f70",
    "45",
    "53000002f700",
    "4d000002f701000000000179aea074780000000011696e20612c206265666f726520726f7773",
    "45",
    "53000002f700",
    "49000002f8000040004e0002740000000137740000000161",
    "45",
    "53000002f700",
    "4d000002f701000000000179af6874780000000010696e20612c20616674657220726f7773",
    "45",
    "41000002f7000002f8000000000179af90000303c6d0335549",
    "53000002f700",
    "4d000002f701000000000179afd074780000000003746f70",
    "45",
    "63000002f700000000000179afd0000000000179b008000303c6d0335565",
];

/// A message outside of transactions, and the commit behind it.
const OUTSIDE: &[&str] = &[
    "53000002f201",
    "52000002f2000040007075626c69630074006400020169640000000017ffffffff00760000000019ffffffff",
    "49000002f2000040004e0002740000000131740000000178",
    "45",
    "4d00000000000179ab206e74000000000568656c6c6f",
    "63000002f200000000000179ab20000000000179ab50000303c6d0335433",
];

/// `insert 9; prepare transaction 'g1'; commit prepared 'g1'`.
const PREPARED: &[&str] = &[
    "53000002fc01",
    "52000002fc000040007075626c69630074006400020169640000000017ffffffff00760000000019ffffffff",
    "49000002fc000040004e0002740000000139740000000170",
    "45",
    "7000000000000179b1a8000000000179b2a0000303c6d03355d8000002fc673100",
    "4b00000000000179b358000000000179b390000303c6d033560e000002fc673100",
];

fn bytes(hex: &str) -> Bytes {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// The rows' first columns, the messages, and where each change is.
fn replay(recorded: &[&str], limits: Limits) -> (Vec<String>, Vec<String>, Vec<String>) {
    let mut parser = Parser::new(ProtoVersion::V4, Streaming::Parallel).unwrap();
    let mut assembler = Assembler::new(MemorySpool::new(usize::MAX), limits, Lsn::INVALID);
    let (mut rows, mut texts, mut positions) = (Vec::new(), Vec::new(), Vec::new());
    let mut see = |change: Change| {
        positions.push(change.position.to_string());
        match change.body {
            Body::Insert { new, .. } => {
                let Some(crate::proto::pgoutput::Value::Text(id)) = new.values().next() else { panic!() };
                rows.push(str::from_utf8(id).unwrap().to_owned());
            }
            Body::Message(message) => texts.push(str::from_utf8(&message.content).unwrap().to_owned()),
            other => panic!("{other:?}"),
        }
    };
    for hex in recorded {
        let payload = bytes(hex);
        let parsed = parser.parse(&payload).unwrap();
        let mut again = Vec::new();
        parsed.message.encode(parsed.xid, &mut again);
        assert_eq!(again, payload[..], "written as Postgres writes it");
        match assembler.handle(parsed, &payload).unwrap() {
            Step::Committed(mut replay) => {
                while let Some(change) = replay.poll_change().unwrap() {
                    see(change);
                }
            }
            Step::Message(change) => see(change),
            Step::Nothing | Step::Prepared(_) => {}
            other => panic!("{other:?}"),
        }
    }
    (rows, texts, positions)
}

#[test]
fn what_postgres_rolled_back_is_not_seen() {
    for limits in [Limits::default(), small()] {
        assert_eq!(replay(NESTED, limits).0, ["2", "5"]);
        assert_eq!(replay(PREPARED, limits).2, ["0/179B358:1"]);
    }
}

#[test]
fn a_message_before_the_first_row_of_its_subtransaction_is_its_parents() {
    let (rows, texts, _) = replay(MESSAGES, Limits::default());
    assert_eq!(rows, ["6"]);
    // The first one was rolled back, which nothing that was sent tells.
    assert_eq!(texts, ["in a, before rows", "top"]);
}

#[test]
fn a_message_and_the_commit_where_it_ends_have_two_positions() {
    let (_, texts, positions) = replay(OUTSIDE, Limits::default());
    assert_eq!(texts, ["hello"]);
    assert_eq!(positions, ["0/179AB1F:1", "0/179AB20:1"]);
}
