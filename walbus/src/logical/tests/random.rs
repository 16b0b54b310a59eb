//! Random clients on a simulated server: what comes out is what they committed.

use proptest::prelude::*;

use super::server::{Seen, Server};
use super::*;

/// Reads what the server sent, and gives the transactions in their order.
fn read(sent: &[Bytes], limits: Limits) -> Vec<Seen> {
    let mut session = Session::new(limits);
    let mut seen: Vec<Seen> = Vec::new();
    let mut last = Lsn::INVALID;
    let mut whole = None;
    for payload in sent {
        let parsed = session.parser.parse(payload).unwrap();
        match session.assembler.handle(parsed, payload).unwrap() {
            Step::Begin(begin) => whole = Some(Seen::new(begin.final_lsn)),
            Step::Change(change) => whole.as_mut().unwrap().add(&change),
            Step::Commit(transaction) => {
                let whole = whole.take().unwrap();
                assert_eq!(whole.commit_lsn, transaction.commit_lsn);
                seen.push(whole);
            }
            Step::Committed(mut replay) => seen.push(Seen::of(&mut replay)),
            Step::Message(change) => {
                assert!(change.position.commit_lsn >= last);
                last = change.position.commit_lsn;
            }
            Step::Nothing | Step::Prepared(_) | Step::RolledBack { .. } => {}
            other @ (Step::NotHeld(_) | Step::Skipped(_)) => panic!("{other:?}"),
        }
        assert!(session.assembler.memory_bytes() <= limits.memory_bytes, "the limit is kept");
        assert_eq!(session.spool.held() as u64, session.assembler.spooled_bytes(), "and all is accounted for");
    }
    assert_eq!((session.assembler.open(), session.assembler.memory_bytes(), session.spool.held()), (0, 0, 0));
    seen
}

/// How many changes a run of this seed commits, and how many subtransactions it rolls back.
fn run(seed: u64, sessions: usize, steps: usize, limits: Limits) -> (usize, usize) {
    let mut server = Server::new(seed, sessions);
    for _ in 0..steps {
        server.step();
    }
    server.finish();
    let mut seen = read(&server.sent, limits);
    assert!(seen.is_sorted_by_key(|transaction| transaction.commit_lsn));
    for transaction in &mut seen {
        transaction.xids.clear();
    }
    assert_eq!(seen, server.committed);
    let aborts = server.sent.iter().filter(|payload| payload[0] == b'A').count();
    (server.committed.iter().map(|transaction| transaction.rows.len()).sum(), aborts)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_comes_out_is_what_was_committed(
        seed: u64,
        sessions in 1usize..5,
        steps in 1usize..600,
        memory_bytes in prop_oneof![Just(0usize), 1usize..8000, Just(1 << 20)],
        subtransactions in prop_oneof![1usize..6, Just(4096)],
    ) {
        run(seed, sessions, steps, Limits { memory_bytes, subtransactions });
    }
}

#[test]
fn the_runs_have_something_in_them() {
    let limits = Limits { memory_bytes: 2000, subtransactions: 2 };
    let (changes, aborts) = run(1, 3, 20_000, limits);
    assert!(changes > 1500 && aborts > 300, "{changes} changes, {aborts} aborts");
}
