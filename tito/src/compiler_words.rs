//! What a student reads when a file does not compile: rustc's own words, and what they mean in this course.

use crate::subject::CompileError;
use crate::ui::{self, BAD, FAINT, paint};

/// Width of the text.
const WIDTH: usize = 100;

/// Compile errors, rustc's own words, the first few.
pub fn print_compile_errors(errors: &[CompileError]) {
    const SHOWN: usize = 3;
    for error in errors.iter().take(SHOWN) {
        ui::say(format!("{}\n", error.rendered.trim_end()));
        if let Some(words) = error.code.as_deref().and_then(in_other_words) {
            ui::say(format!(
                "{}\n",
                ui::fold(&format!("In other words: {words}"), 2, WIDTH)
            ));
        }
    }
    if errors.len() > SHOWN {
        ui::say(paint(
            FAINT,
            format!(
                "and {}; the first ones often cause the rest",
                ui::count(errors.len() - SHOWN, "more error")
            ),
        ));
    }
    ui::say(format!(
        "{} {}",
        paint(
            BAD,
            "Your files do not compile yet, so nothing could be checked:"
        ),
        ui::count(errors.len(), "error")
    ));
}

/// What the errors that students meet most are about, in the words of this course.
fn in_other_words(code: &str) -> Option<&'static str> {
    Some(match code {
        "E0308" => {
            "the types differ. Between numbers nothing is converted by itself: write `x as f32`, `i32::from(x)`, or a literal of the right type."
        }
        "E0277" => {
            "this operation does not exist for these types. Often an i8, i32, usize or f32 meets a number of another type, or a reference is left to be followed (`*x`)."
        }
        "E0382" => {
            "the value was moved away earlier. Borrow it there (`&x`, `.iter()` instead of `.into_iter()`), or clone it if it is small."
        }
        "E0502" | "E0499" => {
            "you hold one view of the data while changing it through another. Finish with the first (copy the number out) before you write."
        }
        "E0425" | "E0433" => {
            "this name is not known here. A typing error, or a `use` that is missing."
        }
        "E0599" => {
            "this type has no such method. Is it on a reference, an Option or a Result that must be opened first?"
        }
        "E0384" | "E0596" => "it is changed, so it must be declared with `mut`.",
        "E0505" | "E0597" => {
            "something still refers to a value that ends or moves here. Let the value live longer, or copy out what you need."
        }
        "E0282" | "E0283" => {
            "the compiler cannot tell the type. Say it: `let x: Vec<i8> = ...`, `.collect::<Vec<_>>()`, `.sum::<f32>()`."
        }
        "E0453" | "E0133" => "`unsafe` is not allowed here, and no exercise needs it.",
        _ => return None,
    })
}
