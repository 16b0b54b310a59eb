//! The control stream of beyond-cdc/1: any bytes, in any pieces, into a session. The first byte says how they are cut and what is answered.
#![no_main]

use beyond_cdc_proto::frame::{Frames, encode};
use beyond_cdc_proto::prost::Message;
use beyond_cdc_proto::v1::{self, ClientMessage};
use cdc::fanout::pattern::TablePattern;
use cdc::quic::{Action, Limits, Principal, Session, View};
use libfuzzer_sys::fuzz_target;
use walbus::{Lsn, Position};

const CONTROL_BYTES_MAX: usize = 4096;

fuzz_target!(|data: &[u8]| {
    let Some((first, data)) = data.split_first() else { return };
    let limits = Limits { subscriptions: 3, control_bytes: CONTROL_BYTES_MAX, ..Limits::default() };
    let at = |lsn| Position { commit_lsn: Lsn(lsn), ordinal: 1 };
    let view = View { head: at(9), earliest: at(2), epoch: [7; 16], system_id: 1, primary_lsn: Lsn(10) };
    let mut session = Session::new(limits);
    let mut frames = Frames::new(CONTROL_BYTES_MAX);
    let mut open = 0_usize;
    for piece in data.chunks(usize::from(first % 16) + 1) {
        frames.push(piece);
        loop {
            match frames.next() {
                Ok(None) => break,
                Err(_) => {
                    session.handle_garbage("too long");
                    act(&mut session, &view, *first, &mut open);
                    assert!(session.is_closed());
                    return;
                }
                Ok(Some(frame)) => match ClientMessage::decode(frame) {
                    Ok(message) => {
                        // What was understood is written as it is read.
                        let mut again = Frames::new(usize::MAX);
                        again.push(&encode(&message));
                        let again = again.next().unwrap().unwrap();
                        assert_eq!(ClientMessage::decode(again).unwrap(), message);
                        session.handle_message(message, &view);
                    }
                    Err(_) => session.handle_garbage("no message"),
                },
            }
            act(&mut session, &view, *first, &mut open);
            if session.is_closed() {
                return;
            }
        }
    }
});

/// Does what the session wants, as a driver would; and holds it to what it has promised.
fn act(session: &mut Session, view: &View, choice: u8, open: &mut usize) {
    while let Some(action) = session.poll_action() {
        match action {
            Action::Authenticate(_) => {
                assert!(!session.is_open(), "who is known is not asked again");
                let tables = vec![TablePattern::parse(if choice & 0x10 == 0 { "*.*" } else { "public.*" }).unwrap()];
                let found = if choice & 0x20 == 0 { Ok(Principal { name: "p".into(), tables }) } else { Err("no".into()) };
                session.handle_authenticated(found, view);
            }
            Action::Start(opening) => {
                assert!(session.is_open() && opening.subscription != 0);
                *open += 1;
                assert!(*open <= 3, "more subscriptions than the limit");
                if choice & 0x40 == 0 {
                    opening.progress.set_sent(view.head);
                    session.handle_started(opening.subscription, view.earliest, view.head);
                } else {
                    *open -= 1;
                    session.handle_failed(v1::Error { subscription: opening.subscription, ..v1::Error::default() });
                }
            }
            Action::Stop(subscription) => {
                *open -= 1;
                session.handle_stopped(subscription);
            }
            Action::Acknowledge(_, position) => assert!(position <= view.head, "what was not sent"),
            Action::Send(kind) => {
                let message = encode(&v1::ServerMessage { kind: Some(kind) });
                assert!(message.len() <= 2 * CONTROL_BYTES_MAX, "an answer of {} bytes", message.len());
            }
            Action::Close(_, _) => assert!(session.is_closed()),
        }
    }
}
