use super::*;
use beyond_cdc_proto::v1::{Filter, Hello, Ping, Subscribe, Unsubscribe};

const VIEW: View = View {
    head: Position { commit_lsn: Lsn(9), ordinal: 3 },
    earliest: Position { commit_lsn: Lsn(2), ordinal: 0 },
    epoch: [7; 16],
    system_id: 42,
    primary_lsn: Lsn(11),
};

fn at(lsn: u64, ordinal: u32) -> Position {
    Position { commit_lsn: Lsn(lsn), ordinal }
}

fn hello() -> Hello {
    Hello { version_min: 1, version_max: 3, token: "sesame".to_owned(), agent: "test/1".to_owned(), ..Hello::default() }
}

fn tell(session: &mut Session, kind: FromClient) -> Vec<Action> {
    session.handle_message(ClientMessage { kind: Some(kind) }, &VIEW);
    std::iter::from_fn(|| session.poll_action()).collect()
}

fn open(tables: &str) -> Session {
    let mut session = Session::new(Limits { subscriptions: 2, ..Limits::default() });
    let actions = tell(&mut session, FromClient::Hello(hello()));
    assert!(matches!(&actions[..], [Action::Authenticate(token)] if token == "sesame"));
    let principal = Principal { name: "p".to_owned(), tables: vec![TablePattern::parse(tables).unwrap()] };
    session.handle_authenticated(Ok(principal), &VIEW);
    match session.poll_action() {
        Some(Action::Send(ToClient::Welcome(welcome))) => {
            assert_eq!((welcome.version, welcome.system_id, welcome.epoch), (1, 42, vec![7; 16]));
        }
        other => panic!("{other:?}"),
    }
    session
}

fn subscribe(subscription: u32) -> Subscribe {
    Subscribe { subscription, start: Some(Start::Earliest(true)), ..Subscribe::default() }
}

/// The code of the only error there is, and whether the connection is closed with it.
fn error(actions: &[Action]) -> (ErrorCode, u32, bool) {
    match actions {
        [Action::Send(ToClient::Error(error))] => (error.code(), error.subscription, false),
        [Action::Send(ToClient::Error(error)), Action::Close(code, text)] => {
            assert_eq!((*code, text), (error.code(), &error.message));
            (error.code(), error.subscription, true)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn hello_comes_first_and_once() {
    let mut session = Session::new(Limits::default());
    assert_eq!(error(&tell(&mut session, FromClient::Ping(Ping { id: 1 }))), (ErrorCode::Protocol, 0, true));
    assert!(session.is_closed());
    assert!(tell(&mut session, FromClient::Hello(hello())).is_empty(), "nothing is taken any more");

    let mut session = open("*.*");
    assert_eq!(session.agent(), "test/1");
    assert_eq!(error(&tell(&mut session, FromClient::Hello(hello()))), (ErrorCode::Protocol, 0, true));

    let mut session = Session::new(Limits::default());
    session.handle_message(ClientMessage { kind: None }, &VIEW);
    assert!(session.is_closed(), "a kind of a later version");
}

#[test]
fn versions_and_features_are_agreed_on_or_refused() {
    for wrong in [
        Hello { version_min: 2, ..hello() },
        Hello { version_min: 0, version_max: 0, ..hello() },
        Hello { version_min: 3, version_max: 1, ..hello() },
        Hello { required_features: vec!["time travel".to_owned()], ..hello() },
    ] {
        let mut session = Session::new(Limits::default());
        assert_eq!(error(&tell(&mut session, FromClient::Hello(wrong))), (ErrorCode::Unsupported, 0, true));
    }
    let mut session = open("*.*");
    let wrong = Subscribe { required_features: vec!["x".to_owned()], ..subscribe(1) };
    assert_eq!(error(&tell(&mut session, FromClient::Subscribe(wrong))), (ErrorCode::Unsupported, 1, false));
    let wrong = Subscribe { encoding: 77, ..subscribe(1) };
    assert_eq!(error(&tell(&mut session, FromClient::Subscribe(wrong))), (ErrorCode::Unsupported, 1, false));
}

#[test]
fn who_is_not_known_learns_nothing() {
    let mut session = Session::new(Limits::default());
    tell(&mut session, FromClient::Hello(hello()));
    session.handle_authenticated(Err("no".to_owned()), &VIEW);
    let actions: Vec<_> = std::iter::from_fn(|| session.poll_action()).collect();
    assert_eq!(error(&actions), (ErrorCode::Unauthenticated, 0, true));
    let mut session = Session::new(Limits::default());
    tell(&mut session, FromClient::Hello(hello()));
    assert_eq!(error(&tell(&mut session, FromClient::Ping(Ping { id: 1 }))), (ErrorCode::Protocol, 0, true));
}

#[test]
fn subscriptions_are_checked() {
    let mut session = open("public.*");
    let with = |change: fn(&mut Subscribe)| {
        let mut subscribe = subscribe(1);
        change(&mut subscribe);
        FromClient::Subscribe(subscribe)
    };
    let tables = |text: &str| Some(Filter { tables: vec![text.to_owned()], ..Filter::default() });
    for (message, code) in [
        (with(|s| s.start = None), ErrorCode::Invalid),
        (with(|s| s.start = Some(Start::Resume(true))), ErrorCode::Invalid),
        (with(|s| s.epoch = vec![1]), ErrorCode::Invalid),
        (FromClient::Subscribe(Subscribe { filter: tables("nonsense"), ..subscribe(1) }), ErrorCode::Invalid),
        (FromClient::Subscribe(Subscribe { filter: tables("secret.*"), ..subscribe(1) }), ErrorCode::Forbidden),
    ] {
        assert_eq!(error(&tell(&mut session, message.clone())), (code, 1, false), "{message:?}");
    }
    let started = tell(&mut session, FromClient::Subscribe(subscribe(1)));
    assert!(matches!(&started[..], [Action::Start(opening)] if opening.subscription == 1));
    session.handle_started(1, at(2, 0), VIEW.head);
    assert!(matches!(session.poll_action(), Some(Action::Send(ToClient::Subscribed(_)))));
    tell(&mut session, FromClient::Subscribe(subscribe(2)));
    assert_eq!(error(&tell(&mut session, FromClient::Subscribe(subscribe(3)))), (ErrorCode::Limit, 3, false));
    assert_eq!(error(&tell(&mut session, FromClient::Subscribe(subscribe(2)))), (ErrorCode::Protocol, 0, true));
}

#[test]
fn an_end_makes_room() {
    let mut session = open("*.*");
    tell(&mut session, FromClient::Subscribe(subscribe(1)));
    tell(&mut session, FromClient::Subscribe(subscribe(2)));
    let stop = tell(&mut session, FromClient::Unsubscribe(Unsubscribe { subscription: 1 }));
    assert!(matches!(stop[..], [Action::Stop(1)]));
    session.handle_stopped(1);
    assert!(matches!(session.poll_action(), Some(Action::Send(ToClient::Ended(ended))) if ended.subscription == 1));
    session.handle_failed(v1::Error { subscription: 2, code: ErrorCode::TooFarBehind.into(), ..v1::Error::default() });
    assert!(matches!(session.poll_action(), Some(Action::Send(ToClient::Error(error))) if error.subscription == 2));
    // What is said of it later is late, and no fault.
    assert!(tell(&mut session, FromClient::Unsubscribe(Unsubscribe { subscription: 2 })).is_empty());
    session.handle_stopped(2);
    assert!(session.poll_action().is_none());
    tell(&mut session, FromClient::Subscribe(subscribe(3)));
}

#[test]
fn nobody_acknowledges_what_was_not_sent() {
    let mut session = open("*.*");
    let actions = tell(&mut session, FromClient::Subscribe(subscribe(1)));
    let [Action::Start(opening)] = &actions[..] else { panic!("{actions:?}") };
    opening.progress.set_sent(at(5, 2));
    let acknowledge = |session: &mut Session, position: Position| {
        tell(session, FromClient::Acknowledge(v1::Acknowledge { subscription: 1, position: Some(position.into()) }))
    };
    assert!(matches!(acknowledge(&mut session, at(5, 1))[..], [Action::Acknowledge(1, position)] if position == at(5, 1)));
    assert!(acknowledge(&mut session, at(5, 1)).is_empty());
    assert!(acknowledge(&mut session, at(3, 9)).is_empty(), "what goes back says nothing");
    assert!(matches!(acknowledge(&mut session, at(5, 3))[..], [Action::Stop(1)]));
    assert!(acknowledge(&mut session, at(5, 2)).is_empty(), "the subscription is ending");
    // Its number is free when its stream is finished: until then the pump that ends would be taken for another one's.
    let mut other = open("*.*");
    tell(&mut other, FromClient::Subscribe(subscribe(1)));
    acknowledge(&mut other, at(5, 3));
    assert_eq!(error(&tell(&mut other, FromClient::Subscribe(subscribe(1)))), (ErrorCode::Protocol, 0, true));
    session.handle_stopped(1);
    let last: Vec<_> = std::iter::from_fn(|| session.poll_action()).collect();
    assert_eq!(error(&last), (ErrorCode::Invalid, 1, false));
    assert!(matches!(tell(&mut session, FromClient::Subscribe(subscribe(1)))[..], [Action::Start(_)]));
}

#[test]
fn what_is_acknowledged_before_the_start_says_nothing() {
    let mut session = open("*.*");
    let actions = tell(&mut session, FromClient::Subscribe(subscribe(1)));
    let [Action::Start(opening)] = &actions[..] else { panic!("{actions:?}") };
    session.handle_started(1, at(4, 0), VIEW.head);
    session.poll_action();
    opening.progress.set_sent(at(5, 2));
    let acknowledge = |session: &mut Session, position: Option<Position>| {
        let position = position.map(v1::Position::from);
        tell(session, FromClient::Acknowledge(v1::Acknowledge { subscription: 1, position }))
    };
    for early in [None, Some(at(3, 1)), Some(at(4, 0))] {
        assert!(acknowledge(&mut session, early).is_empty(), "{early:?} would take the consumer back");
    }
    assert!(matches!(acknowledge(&mut session, Some(at(4, 1)))[..], [Action::Acknowledge(1, _)]));
}

#[test]
fn a_ping_tells_how_far_it_is() {
    let mut session = open("*.*");
    let pong = tell(&mut session, FromClient::Ping(Ping { id: 5 }));
    let [Action::Send(ToClient::Pong(pong))] = &pong[..] else { panic!("{pong:?}") };
    assert_eq!((pong.id, pong.primary_lsn, pong.head.map(Position::from)), (5, 11, Some(VIEW.head)));
}

#[test]
fn what_a_client_calls_itself_is_cut() {
    let mut session = Session::new(Limits::default());
    let agent = format!("a\u{7}{}", "é".repeat(AGENT_BYTES_MAX));
    tell(&mut session, FromClient::Hello(Hello { agent, ..hello() }));
    assert!(session.agent().len() <= AGENT_BYTES_MAX && session.agent().starts_with("aé"));
}
