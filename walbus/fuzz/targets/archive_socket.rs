//! The lines on the archiver daemon's socket: any bytes, as a request and as an answer.
#![no_main]

use archiver::daemon::line::{Answer, LINE_BYTES_MAX, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // What is no UTF-8, or has an end in it, is no line.
    let Some(line) = std::str::from_utf8(data).ok().filter(|line| !line.contains('\n')) else { return };
    if let Ok(request) = Request::parse(line) {
        assert_eq!(request.to_string(), format!("{line}\n"), "no two lines are the same request");
        if let Request::Push { name, .. } = &request {
            assert!(!name.contains('/') && !name.starts_with('.'), "a name leads to another folder");
        }
    }
    if let Ok(answer) = Answer::parse(line) {
        let printed = answer.to_string();
        assert_eq!(printed.find('\n'), Some(printed.len() - 1), "an answer is one line");
        if let Answer::Yourself(_) = &answer {
            assert!(printed.len() < LINE_BYTES_MAX, "a reason fits in a line");
        } else {
            assert_eq!(Answer::parse(printed.trim_end_matches('\n')).as_ref(), Ok(&answer));
        }
    }
});
