//! From results to what others read: students, spreadsheets, learning platforms, runners.
//!
//! ```text
//! plan + results (+ late policy, + marks of written answers) -> Book -> one file per format
//! ```
//!
//! A format is one file here. All foreign text goes through [`escape`]; what a student may see is decided in one place, [`feedback`].

pub mod answers;
pub mod autograder;
pub mod book;
pub mod canvas;
pub mod cli;
pub mod csv;
pub mod escape;
pub mod feedback;
pub mod github;
pub mod gradescope;
pub mod junit;
pub mod late;
pub mod pages;
pub mod plagiarism;
pub mod published;
#[cfg(test)]
pub(crate) mod sample;
pub mod stats;
pub mod tables;
pub mod time;

pub use book::{Book, Row};

/// Points as they are shown: two decimals, none where it is a whole number.
pub fn points(number: f64) -> String {
    let text = format!("{number:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" {
        "0".into()
    } else {
        text.to_owned()
    }
}

/// The name of a check without its exercise: `ties-to-even` of `15.3/ties-to-even`.
pub fn short(check: &str) -> &str {
    check.split_once('/').map_or(check, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::points;

    #[test]
    fn points_are_short() {
        assert_eq!(points(10.0), "10");
        assert_eq!(points(2.0 / 3.0), "0.67");
        assert_eq!(points(0.0), "0");
        assert_eq!(points(-0.0), "0");
        assert_eq!(points(100.10), "100.1");
    }
}
