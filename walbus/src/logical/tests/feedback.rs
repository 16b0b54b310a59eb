use super::super::Feedback;
use crate::lsn::Lsn;

fn feedback() -> Feedback {
    let mut feedback = Feedback::new(Lsn(100));
    assert_eq!(feedback.poll_report().unwrap().flush, Lsn(100));
    feedback
}

#[test]
fn the_end_of_the_last_durable_transaction_is_confirmed_and_told_once() {
    let mut feedback = feedback();
    for end in [200, 300] {
        feedback.handle_begin();
        feedback.handle_commit(Lsn(end));
    }
    assert_eq!(feedback.poll_report(), None);
    feedback.handle_durable(Lsn(200));
    assert_eq!((feedback.poll_report().unwrap().flush, feedback.pending()), (Lsn(200), 1));
    assert_eq!(feedback.poll_report(), None);
    feedback.handle_durable(Lsn(300));
    assert_eq!(feedback.confirmed(), Lsn(300));
}

#[test]
fn a_keepalive_counts_when_nothing_is_pending() {
    let mut feedback = feedback();
    feedback.handle_keepalive(Lsn(150));
    assert_eq!(feedback.confirmed(), Lsn(150));
    feedback.handle_begin();
    feedback.handle_keepalive(Lsn(500));
    assert_eq!(feedback.confirmed(), Lsn(150), "the rest has not come");
    feedback.handle_commit(Lsn(200));
    feedback.handle_keepalive(Lsn(250));
    assert_eq!(feedback.confirmed(), Lsn(150), "it is not durable");
    feedback.handle_durable(Lsn(200));
    assert_eq!(feedback.confirmed(), Lsn(250), "and what the server said meanwhile");
}

#[test]
fn what_is_open_keeps_later_words_of_the_server_back() {
    let mut feedback = feedback();
    feedback.handle_commit(Lsn(200));
    feedback.handle_keepalive(Lsn(250));
    feedback.handle_begin();
    feedback.handle_durable(Lsn(200));
    assert_eq!(feedback.confirmed(), Lsn(200));
}

#[test]
fn a_prepared_transaction_is_not_passed_before_its_commit_is_durable() {
    let mut feedback = feedback();
    feedback.handle_prepared(Lsn(150));
    feedback.handle_keepalive(Lsn(180));
    assert_eq!(feedback.confirmed(), Lsn(150));
    feedback.handle_commit(Lsn(200));
    feedback.handle_durable(Lsn(200));
    assert_eq!(feedback.confirmed(), Lsn(150), "another one is durable");
    feedback.handle_commit_prepared(Lsn(150), Lsn(300));
    feedback.handle_keepalive(Lsn(310));
    assert_eq!(feedback.confirmed(), Lsn(150));
    feedback.handle_durable(Lsn(300));
    assert_eq!(feedback.confirmed(), Lsn(310));
}

#[test]
fn a_prepared_transaction_that_is_rolled_back_holds_nothing() {
    let mut feedback = feedback();
    feedback.handle_prepared(Lsn(150));
    feedback.handle_prepared(Lsn(170));
    feedback.handle_keepalive(Lsn(180));
    feedback.handle_released(Lsn(150));
    assert_eq!(feedback.confirmed(), Lsn(170));
    feedback.handle_released(Lsn(170));
    assert_eq!(feedback.confirmed(), Lsn(180));
}

#[test]
fn what_is_skipped_is_confirmed_once_it_is_durable_and_no_earlier() {
    let mut feedback = feedback();
    feedback.handle_skipped(None, Lsn(130));
    feedback.handle_keepalive(Lsn(140));
    assert_eq!(feedback.confirmed(), Lsn(100), "the session before had given it on, and it is on its way still");
    feedback.handle_skipped(None, Lsn(160));
    feedback.handle_durable(Lsn(130));
    assert_eq!(feedback.confirmed(), Lsn(130));
    feedback.handle_durable(Lsn(160));
    assert_eq!(feedback.confirmed(), Lsn(160));
}

#[test]
fn a_prepared_transaction_that_is_skipped_holds_nothing_once_it_is_durable() {
    let mut feedback = feedback();
    feedback.handle_prepared(Lsn(150));
    feedback.handle_skipped(Some(Lsn(150)), Lsn(300));
    feedback.handle_keepalive(Lsn(310));
    assert_eq!(feedback.confirmed(), Lsn(100));
    feedback.handle_durable(Lsn(300));
    assert_eq!(feedback.confirmed(), Lsn(310));
}

#[test]
fn a_transaction_with_nothing_in_it_waits_for_those_before_it_alone() {
    let mut feedback = feedback();
    feedback.handle_prepared(Lsn(110));
    feedback.handle_empty(Some(Lsn(110)), Lsn(130));
    assert_eq!(feedback.confirmed(), Lsn(130));
    feedback.handle_commit(Lsn(150));
    feedback.handle_empty(None, Lsn(160));
    assert_eq!(feedback.confirmed(), Lsn(130));
    feedback.handle_durable(Lsn(150));
    assert_eq!(feedback.confirmed(), Lsn(160));
}

#[test]
#[should_panic(expected = "durable 0/C9 lies behind received 0/C8")]
fn nothing_is_durable_before_it_was_received() {
    let mut feedback = feedback();
    feedback.handle_commit(Lsn(200));
    feedback.handle_durable(Lsn(201));
}

#[test]
#[should_panic(expected = "follows one that ends at 0/C8")]
fn commits_go_forward() {
    let mut feedback = feedback();
    feedback.handle_commit(Lsn(200));
    feedback.handle_commit(Lsn(199));
}
