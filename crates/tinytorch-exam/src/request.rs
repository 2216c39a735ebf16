//! What travels between the judge and the runner.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::case::Case;
use crate::value::Reply;

/// A reply file longer than this is not read: no check answers with so much.
pub const MAX_REPLY_BYTES: u64 = 64 << 20;

/// What a runner reads from standard input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The id of the check to run.
    pub check: String,
    /// Repeated in every reply line. Fresh for every process, so that an old reply file is not mistaken for a new one.
    pub nonce: String,
    /// The cases, run in order in one process.
    pub cases: Vec<Case>,
}

/// One line of a reply file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplyLine {
    /// The request's nonce.
    pub nonce: String,
    /// The number of the case in the request, from 0.
    pub case: usize,
    /// What came out.
    pub reply: Reply,
}

/// What a runner's reply file holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Replies {
    /// The replies to the first cases, in order; shorter than the request's cases if the runner did not get to the end.
    pub replies: Vec<Reply>,
    /// Why there are not as many replies as cases. The first case without a reply is number `replies.len()`.
    pub problem: Option<String>,
}

/// Reads the replies to a request from a reply file that may be missing, stale, half-written or forged.
///
/// # Errors
///
/// If the file is there and cannot be read. All that a subject can do to the file is reported in [`Replies::problem`].
pub fn read_replies(path: &Path, request: &Request) -> io::Result<Replies> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Replies {
                replies: Vec::new(),
                problem: Some("there is no reply".to_owned()),
            });
        }
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_REPLY_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(if bytes.len() as u64 > MAX_REPLY_BYTES {
        Replies {
            replies: Vec::new(),
            problem: Some(format!("the reply is longer than {MAX_REPLY_BYTES} bytes")),
        }
    } else {
        parse_replies(&bytes, request)
    })
}

/// Reads the replies to a request from bytes that may be cut off or forged.
pub fn parse_replies(bytes: &[u8], request: &Request) -> Replies {
    let mut replies = Vec::new();
    let mut rest = bytes;
    while replies.len() < request.cases.len() {
        let number = replies.len();
        let problem = match rest.iter().position(|&byte| byte == b'\n') {
            None if rest.is_empty() => format!("there is no reply to case {number}"),
            None => format!("the reply to case {number} is cut off"),
            Some(end) => {
                let (line, after) = (&rest[..end], &rest[end + 1..]);
                rest = after;
                match serde_json::from_slice::<ReplyLine>(line) {
                    Ok(line) if line.nonce != request.nonce => {
                        "the reply belongs to another run".to_owned()
                    }
                    Ok(line) if line.case != number => {
                        format!(
                            "a reply to case {} stands where case {number} is due",
                            line.case
                        )
                    }
                    Ok(line) => {
                        replies.push(line.reply);
                        continue;
                    }
                    Err(error) => format!("the reply to case {number} is malformed: {error}"),
                }
            }
        };
        return Replies {
            replies,
            problem: Some(problem),
        };
    }
    let problem =
        (!rest.is_empty()).then(|| "there is more in the reply than was asked for".to_owned());
    if problem.is_some() {
        replies.clear();
    }
    Replies { replies, problem }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::value::Values;

    fn request(cases: usize) -> Request {
        let cases = vec![Case::new("", Values::new()); cases];
        Request {
            check: "1.1/x".to_owned(),
            nonce: "n".to_owned(),
            cases,
        }
    }

    fn line(nonce: &str, case: usize) -> String {
        let reply = Reply::Values(Values::new().float("x", 0.5));
        serde_json::to_string(&ReplyLine {
            nonce: nonce.to_owned(),
            case,
            reply,
        })
        .unwrap()
            + "\n"
    }

    #[test]
    fn whole_files_are_read_and_every_shorter_one_is_noticed() {
        let whole = line("n", 0) + &line("n", 1);
        assert_eq!(parse_replies(whole.as_bytes(), &request(2)).problem, None);
        for length in 0..whole.len() {
            let cut = parse_replies(&whole.as_bytes()[..length], &request(2));
            assert!(cut.problem.is_some(), "{length} bytes");
            assert_eq!(
                cut.replies.len(),
                usize::from(length >= line("n", 0).len()),
                "{length} bytes"
            );
        }
    }

    #[test]
    fn stale_repeated_surplus_and_nonsense_lines_are_refused() {
        let problem = |text: &str| parse_replies(text.as_bytes(), &request(1)).problem.unwrap();
        assert!(problem(&line("old", 0)).contains("another run"));
        assert!(problem(&line("n", 1)).contains("case 1"));
        assert!(problem(&(line("n", 0) + &line("n", 0))).contains("more"));
        assert!(problem("{}\n").contains("malformed"));
        assert!(parse_replies(&[0xff, b'\n'], &request(1)).problem.is_some());
        let deep = "[".repeat(100_000) + "\n";
        assert!(problem(&deep).contains("malformed"));
    }

    #[test]
    fn a_missing_file_is_a_problem_and_no_error() {
        let replies = read_replies(Path::new("no/such/file"), &request(1)).unwrap();
        assert!(replies.replies.is_empty() && replies.problem.is_some());
    }
}
