//! Runs one case and turns whatever happens into a [`Reply`], panics included.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use crate::case::{Case, Stop};
use crate::check::Check;
use crate::value::{Panic, Reply};

thread_local! {
    static CAPTURING: Cell<bool> = const { Cell::new(false) };
    static PLACE: RefCell<Option<(String, u32)>> = const { RefCell::new(None) };
}

/// Runs a check on a case.
///
/// # Errors
///
/// If the case does not fit the check, the text of [`Stop::Malformed`]. What the subject does, a panic included, is a
/// [`Reply`].
pub fn run_case(check: &Check, case: &Case) -> Result<Reply, String> {
    install_hook();
    CAPTURING.set(true);
    // The closure owns nothing that outlives a panic, so there is no broken state to observe.
    let result = panic::catch_unwind(AssertUnwindSafe(|| (check.run)(case)));
    CAPTURING.set(false);
    match result {
        Ok(Ok(values)) => Ok(Reply::Values(values)),
        Ok(Err(Stop::Refused(text))) => Ok(Reply::Error(text)),
        Ok(Err(Stop::Malformed(text))) => Err(format!("{}: {text}", check.id)),
        Err(payload) => {
            let (file, line) = PLACE.take().unzip();
            Ok(Reply::Panicked(Panic {
                message: text_of(&*payload),
                file,
                line,
            }))
        }
    }
}

/// The hook sees where a panic happened, the payload does not say. Other threads' panics go to the hook installed
/// before, and are not silenced.
fn install_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if CAPTURING.get() {
                PLACE.set(
                    info.location()
                        .map(|place| (place.file().to_owned(), place.line())),
                );
            } else {
                before(info);
            }
        }));
    });
}

fn text_of(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a text".to_owned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::check::{Answer, Visibility};
    use crate::judge::Judge;
    use crate::value::Values;

    fn reply(run: fn(&Case) -> Answer) -> Result<Reply, String> {
        let check = Check {
            id: "1.1/x",
            weight: 1,
            visibility: Visibility::Public,
            what: "",
            why: "",
            item: "",
            cases: |_| Vec::new(),
            run,
            judge: || Judge::Equal,
        };
        run_case(&check, &Case::new("", Values::new()))
    }

    #[test]
    fn a_panic_is_caught_with_its_file_and_line() {
        let line = line!() + 1;
        let got = reply(|_| panic!("boom {}", 7)).unwrap();
        let Reply::Panicked(panic) = got else {
            panic!("{got:?}")
        };
        assert_eq!((panic.message.as_str(), panic.line), ("boom 7", Some(line)));
        assert!(panic.file.unwrap().ends_with("capture.rs"));
    }

    #[test]
    fn an_unfinished_hole_says_which_one() {
        assert_eq!(
            reply(|_| todo!("exercise 15.3")).unwrap().unfinished(),
            Some("15.3")
        );
    }

    #[test]
    fn errors_are_answers_and_malformed_cases_are_not() {
        assert_eq!(
            reply(|_| Err(Stop::Refused("A: b".to_owned()))),
            Ok(Reply::Error("A: b".to_owned()))
        );
        assert_eq!(
            reply(|case| case.f32s("x").map(|_| Values::new())),
            Err("1.1/x: the case has no `x`".to_owned())
        );
    }

    #[test]
    fn a_panic_with_a_strange_payload_is_still_a_reply() {
        let got = reply(|_| std::panic::panic_any(17u8)).unwrap();
        assert!(matches!(got, Reply::Panicked(panic) if panic.message == "a panic without a text"));
    }
}
