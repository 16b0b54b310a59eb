//! Whether another has become the primary: what the peers say, and what follows.

use core::net::SocketAddr;

use super::report::{HaStatus, Role};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    /// The cluster.
    pub system_id: u64,
    /// The newest timeline that is known here.
    pub timeline: u32,
}

/// What a peer has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// How it is.
    Said(HaStatus),
    /// Why it has said nothing.
    Nothing(String),
}

/// What follows for one that is a primary, or is about to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Another is the primary of this cluster, on a later timeline.
    Fenced {
        /// Where it is.
        by: SocketAddr,
        /// Its timeline.
        timeline: u32,
    },
    /// Nobody says so. What is odd all the same.
    Go(Vec<String>),
    /// Another is the primary of this cluster on the same timeline or an earlier one, and its server runs.
    Rival {
        /// Where it is.
        by: SocketAddr,
        /// Its timeline.
        timeline: u32,
    },
}

/// Decides. A later timeline counts more than a rival, since timelines only grow by promotions.
#[must_use]
pub fn decide(own: Own, answers: &[(SocketAddr, Answer)]) -> Verdict {
    let mut odd = Vec::new();
    let mut rival = None;
    let mut latest: Option<(SocketAddr, u32)> = None;
    for (address, answer) in answers {
        match answer {
            Answer::Nothing(why) => odd.push(format!("the peer {address} does not answer: {why}")),
            Answer::Said(said) if said.system_id != own.system_id.to_string() => odd.push(format!(
                "the peer {address} is of another cluster ({}, this is {}): BEYOND_PG_PEERS names a wrong one",
                said.system_id, own.system_id
            )),
            Answer::Said(said) if said.role == Role::Standby => {}
            Answer::Said(said) if said.timeline > own.timeline => {
                if latest.is_none_or(|(_, timeline)| timeline < said.timeline) {
                    latest = Some((*address, said.timeline));
                }
            }
            Answer::Said(said) if said.serving => rival = Some(Verdict::Rival { by: *address, timeline: said.timeline }),
            Answer::Said(_) => {}
        }
    }
    if let Some((by, timeline)) = latest {
        return Verdict::Fenced { by, timeline };
    }
    rival.unwrap_or(Verdict::Go(odd))
}

/// The body of an HTTP answer that is whole and says 200.
///
/// # Errors
/// With what it says instead.
pub fn body(answer: &[u8]) -> Result<&[u8], String> {
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or("not an answer of HTTP")?;
    let (head, body) = answer.split_at_checked(head + 4).unwrap_or_default();
    let head = String::from_utf8_lossy(head);
    let line = head.lines().next().unwrap_or_default();
    if !line.starts_with("HTTP/1.") {
        return Err("not an answer of HTTP".to_owned());
    }
    if line.split(' ').nth(1) != Some("200") {
        return Err(format!("{line}: {}", String::from_utf8_lossy(body).trim()));
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    if length.is_some_and(|length| length != body.len()) {
        return Err("an answer that is cut off".to_owned());
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWN: Own = Own { system_id: 7, timeline: 2 };

    fn said(role: Role, timeline: u32, serving: bool) -> Answer {
        Answer::Said(HaStatus { system_id: "7".to_owned(), role, timeline, serving, ..HaStatus::default() })
    }

    fn verdict(answers: &[Answer]) -> Verdict {
        let address = |at: usize| SocketAddr::from(([10, 0, 0, 1], u16::try_from(at).unwrap()));
        let answers: Vec<_> = answers.iter().cloned().enumerate().map(|(at, answer)| (address(at), answer)).collect();
        decide(OWN, &answers)
    }

    #[test]
    fn a_later_primary_fences_whether_its_server_runs_or_not() {
        for serving in [true, false] {
            let found = verdict(&[said(Role::Primary, 2, true), said(Role::Primary, 3, serving), said(Role::Primary, 4, serving)]);
            assert!(matches!(found, Verdict::Fenced { timeline: 4, .. }), "{found:?}");
        }
    }

    #[test]
    fn standbys_and_old_primaries_that_are_down_do_not() {
        assert_eq!(verdict(&[said(Role::Standby, 9, true), said(Role::Primary, 1, false)]), Verdict::Go(Vec::new()));
        assert!(matches!(verdict(&[said(Role::Primary, 2, true)]), Verdict::Rival { timeline: 2, .. }));
    }

    #[test]
    fn silence_and_strangers_are_said() {
        let mut stranger = said(Role::Primary, 9, true);
        if let Answer::Said(said) = &mut stranger {
            said.system_id = "8".to_owned();
        }
        let Verdict::Go(odd) = verdict(&[Answer::Nothing("refused".to_owned()), stranger]) else { panic!() };
        assert!(odd[0].contains("refused") && odd[1].contains("of another cluster"), "{odd:?}");
    }

    #[test]
    fn bodies_are_taken_whole() {
        assert_eq!(body(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"), Ok(b"hi".as_slice()));
        assert!(body(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi").unwrap_err().contains("cut off"));
        assert!(body(b"HTTP/1.1 404 Not Found\r\n\r\nno HA here\n").unwrap_err().ends_with("no HA here"));
        assert!(body(b"SSH-2.0\r\n\r\n").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            body(&bytes).ok();
        }
    }
}
