//! The main function of the process in which the subject runs.

use std::fs::File;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use crate::capture::run_case;
use crate::check::{Check, Visibility};
use crate::record::{ExamRecord, expect_check};
use crate::request::{ReplyLine, Request};

/// Why a runner gives up; each has its exit code.
enum Fault {
    Usage(String),
    Request(String),
    Reply(io::Error),
}

/// Answers one command line (without the program's name) for a module's checks, as the crate's head describes.
///
/// ```no_run
/// fn main() -> std::process::ExitCode {
///     tinytorch_exam::serve("15_quantization", &[], std::env::args().skip(1))
/// }
/// ```
pub fn serve(module: &str, checks: &[Check], args: impl IntoIterator<Item = String>) -> ExitCode {
    let args: Vec<String> = args.into_iter().collect();
    let result = match args.split_first() {
        Some((command, rest)) => match command.as_str() {
            "run" => run(checks, rest),
            "list" => list(checks, rest),
            "expect" => expect(module, checks, rest),
            other => Err(Fault::Usage(format!("unknown command `{other}`"))),
        },
        None => Err(Fault::Usage("no command".to_owned())),
    };
    let (message, code) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Fault::Usage(text)) => (
            format!("{text}; commands: run --reply FILE, list, expect --seed N"),
            2,
        ),
        Err(Fault::Request(text)) => (format!("the request cannot be answered: {text}"), 3),
        Err(Fault::Reply(error)) => (format!("the reply cannot be written: {error}"), 4),
    };
    eprintln!("runner: {message}");
    ExitCode::from(code)
}

/// Takes `--name value` pairs; every name must be in `known`.
fn options<'a, const N: usize>(
    args: &'a [String],
    known: [&str; N],
) -> Result<[Option<&'a str>; N], Fault> {
    let mut found = [None; N];
    for pair in args.chunks(2) {
        let [name, value] = pair else {
            return Err(Fault::Usage(format!("`{}` needs a value", pair[0])));
        };
        match known.iter().position(|known| known == name) {
            Some(position) if found[position].is_none() => found[position] = Some(value.as_str()),
            Some(_) => return Err(Fault::Usage(format!("`{name}` is given twice"))),
            None => return Err(Fault::Usage(format!("unknown option `{name}`"))),
        }
    }
    Ok(found)
}

fn run(checks: &[Check], args: &[String]) -> Result<(), Fault> {
    let [reply] = options(args, ["--reply"])?;
    let path = reply.ok_or_else(|| Fault::Usage("`run` needs `--reply FILE`".to_owned()))?;
    // Opened and emptied before any code of the subject runs: afterwards nothing but writing is needed.
    let mut file = File::create(path).map_err(Fault::Reply)?;
    let mut text = String::new();
    io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| Fault::Request(error.to_string()))?;
    put(checks, &text, &mut file)
}

/// Answers a request as `run` does, on whatever the caller opened for the replies.
///
/// # Errors
///
/// What is wrong with the request, or that a reply cannot be written.
pub fn answer(checks: &[Check], request: &str, out: &mut impl Write) -> Result<(), String> {
    put(checks, request, out).map_err(|fault| match fault {
        Fault::Usage(text) | Fault::Request(text) => text,
        Fault::Reply(error) => error.to_string(),
    })
}

fn put(checks: &[Check], request: &str, out: &mut impl Write) -> Result<(), Fault> {
    let request: Request =
        serde_json::from_str(request).map_err(|error| Fault::Request(error.to_string()))?;
    let check = checks
        .iter()
        .find(|check| check.id == request.check)
        .ok_or_else(|| Fault::Request(format!("there is no check `{}`", request.check)))?;
    for (number, case) in request.cases.iter().enumerate() {
        let reply = run_case(check, case).map_err(Fault::Request)?;
        let line = ReplyLine {
            nonce: request.nonce.clone(),
            case: number,
            reply,
        };
        let mut line = serde_json::to_string(&line).map_err(|error| Fault::Reply(error.into()))?;
        line.push('\n');
        out.write_all(line.as_bytes())
            .and_then(|()| out.flush())
            .map_err(Fault::Reply)?;
    }
    Ok(())
}

fn list(checks: &[Check], args: &[String]) -> Result<(), Fault> {
    let [] = options(args, [])?;
    let mut out = io::stdout().lock();
    checks
        .iter()
        .try_for_each(|check| writeln!(out, "{}", check.id))
        .map_err(Fault::Reply)
}

fn expect(module: &str, checks: &[Check], args: &[String]) -> Result<(), Fault> {
    let [seed, visibility, exercise, reply] =
        options(args, ["--seed", "--visibility", "--exercise", "--reply"])?;
    let seed = seed
        .and_then(|seed| seed.parse().ok())
        .ok_or_else(|| Fault::Usage("`expect` needs `--seed N`, a whole number".to_owned()))?;
    let wanted = match visibility {
        None | Some("all") => None,
        Some("public") => Some(Visibility::Public),
        Some("hidden") => Some(Visibility::Hidden),
        Some(other) => {
            return Err(Fault::Usage(format!(
                "`{other}` is not public, hidden or all"
            )));
        }
    };
    let mut out: Box<dyn Write> = match reply {
        Some(path) => Box::new(File::create(path).map_err(Fault::Reply)?),
        None => Box::new(io::stdout().lock()),
    };
    let checks = checks
        .iter()
        .filter(|check| wanted.is_none_or(|wanted| check.visibility == wanted))
        .filter(|check| exercise.is_none_or(|exercise| check.exercise() == exercise))
        .map(|check| expect_check(check, seed))
        .collect::<Result<_, _>>()
        .map_err(Fault::Request)?;
    let record = ExamRecord {
        module: module.to_owned(),
        seed,
        checks,
    };
    let json = serde_json::to_string(&record).map_err(|error| Fault::Reply(error.into()))?;
    writeln!(out, "{json}")
        .and_then(|()| out.flush())
        .map_err(Fault::Reply)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::case::Case;
    use crate::judge::Judge;
    use crate::value::{Reply, Values};

    fn checks() -> Vec<Check> {
        vec![Check {
            id: "1.1/halves",
            weight: 1,
            visibility: Visibility::Public,
            what: "",
            why: "",
            item: "",
            cases: |_| vec![Case::new("", Values::new().int("n", 8i64))],
            run: |case| {
                let n: i64 = case.int("n")?;
                assert_ne!(n, 7, "seven");
                Ok(Values::new().int("half", n / 2))
            },
            judge: || Judge::Equal,
        }]
    }

    fn ask(request: &str) -> (Result<(), Fault>, String) {
        let mut out = Vec::new();
        let result = put(&checks(), request, &mut out);
        (result, String::from_utf8(out).unwrap())
    }

    fn request(check: &str, numbers: &[i64]) -> String {
        let cases = numbers
            .iter()
            .map(|&n| Case::new("", Values::new().int("n", n)))
            .collect();
        serde_json::to_string(&Request {
            check: check.to_owned(),
            nonce: "abc".to_owned(),
            cases,
        })
        .unwrap()
    }

    #[test]
    fn every_case_gets_a_line_also_after_a_panic() {
        let (result, text) = ask(&request("1.1/halves", &[4, 7, 6]));
        assert!(result.is_ok());
        let lines: Vec<ReplyLine> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(
            lines.iter().map(|line| line.case).collect::<Vec<_>>(),
            [0, 1, 2]
        );
        assert!(lines.iter().all(|line| line.nonce == "abc"));
        assert_eq!(lines[0].reply, Reply::Values(Values::new().int("half", 2)));
        assert!(
            matches!(&lines[1].reply, Reply::Panicked(panic) if panic.message.contains("seven"))
        );
        assert_eq!(lines[2].reply, Reply::Values(Values::new().int("half", 3)));
    }

    #[test]
    fn malformed_requests_are_refused_and_nothing_is_written() {
        let no_input = r#"{"check":"1.1/halves","nonce":"","cases":[{"note":"","inputs":[]}]}"#;
        for bad in [
            "",
            "[]",
            "{\"check\":1}",
            &request("1.2/other", &[1]),
            no_input,
        ] {
            let (result, text) = ask(bad);
            assert!(matches!(result, Err(Fault::Request(_))), "{bad}");
            assert_eq!(text, "");
        }
    }

    #[test]
    fn command_lines_that_make_no_sense_are_usage_errors() {
        let args = |args: &[&str]| args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>();
        assert!(matches!(run(&checks(), &args(&[])), Err(Fault::Usage(_))));
        assert!(matches!(
            run(&checks(), &args(&["--reply"])),
            Err(Fault::Usage(_))
        ));
        assert!(matches!(
            list(&checks(), &args(&["--all", "x"])),
            Err(Fault::Usage(_))
        ));
        assert!(matches!(
            expect("m", &checks(), &args(&["--seed", "x"])),
            Err(Fault::Usage(_))
        ));
        let twice = args(&["--seed", "1", "--seed", "2"]);
        assert!(matches!(
            expect("m", &checks(), &twice),
            Err(Fault::Usage(_))
        ));
    }
}
