//! A check that got no answer: its own reason instead of the exam's, which is about values.

use tinytorch_exam::{Reply, Values};

use crate::exam::{Checked, Stopped};

/// Longest account of an ending that is shown.
const SHOWN: usize = 300;

/// Why a failed check matters: the exam's reason if an answer came, one of our own if the function never got that far.
pub fn why<'a>(checked: &Checked<'a>) -> &'a str {
    match (&checked.stopped, answer(checked)) {
        (_, Some(Reply::Panicked(panic))) => of_panic(&panic.message),
        (Some(Stopped::TimedOut(_)), None) => {
            "Your function must return: see what ends the loop, and that every turn comes nearer to it."
        }
        (Some(Stopped::Died(how)), None) => of_death(how),
        _ => &checked.record.why,
    }
}

/// What came for the case that failed, if anything did.
fn answer<'a>(checked: &'a Checked<'_>) -> Option<&'a Reply> {
    checked.replies.get(checked.verdict.case?)
}

fn of_panic(message: &str) -> &'static str {
    if message.contains("out of bounds") || message.contains("out of range") {
        "An index beyond the end: compare what it counts with the length or the shape of what it reads."
    } else if message.contains("overflow") {
        "A number left the range of its type: convert to a wider one before you calculate."
    } else if message.contains("divide by zero") || message.contains("divisor of zero") {
        "An integer was divided by zero: which input makes the divisor zero?"
    } else if message.contains("unwrap()") || message.contains("expect") {
        "`unwrap` and `expect` panic where there is nothing: answer that case yourself."
    } else {
        "A panic ends your function without an answer. Where the signature returns a `Result`, bad input is answered with an error."
    }
}

fn of_death(how: &str) -> &'static str {
    if how.contains("overflowed its stack") {
        "Your function must return: one that calls itself needs a case in which it does not, and every call must come nearer to it."
    } else if how.contains("memory allocation") {
        "No exercise needs much memory: a loop that never stops pushing?"
    } else if how.contains("exit code") {
        "Your function must return: exit ends the whole program, tests included."
    } else {
        "Your function must return: what ended it, ended the whole program, tests included."
    }
}

/// The value that would have been right, for a case that got something else altogether.
pub fn expected(checked: &Checked<'_>, show: impl Fn(&Values) -> String) -> Option<String> {
    let case = checked.record.cases.get(checked.verdict.case?)?;
    Some(match &case.expected {
        Reply::Values(values) => show(values),
        Reply::Error(text) => format!("the error `{}`", cut(text)),
        Reply::Panicked(_) => "a panic".into(),
    })
}

/// An account of an ending, not a flood.
pub fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}… cut", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ending_has_a_reason_of_its_own() {
        assert!(of_death("the process left with exit code 0").contains("exit ends"));
        assert!(of_death("thread 'main' has overflowed its stack").contains("calls itself"));
        assert!(of_panic("index out of bounds: the len is 3").contains("beyond the end"));
        assert!(of_panic("attempt to add with overflow").contains("wider"));
    }

    #[test]
    fn a_flood_is_cut_between_letters() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"ä".repeat(500)).chars().count(), SHOWN + 5);
    }
}
