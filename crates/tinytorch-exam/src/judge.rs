//! The verdict: data against data, in a process the subject never ran in.
//!
//! What is compared may be forged, so nothing here trusts a length, a shape or a name: [`compare`] never panics.

use serde::{Deserialize, Serialize};

use crate::value::{Named, Reply, Value, Values};

/// How the subject's values are compared with the reference's. Data, so that it can be recorded.
///
/// Whatever the judge: names, kinds, shapes and lengths must agree, an expected error wants an error of the same kind,
/// and integers, texts and bools must be equal (except under `AtMost`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judge {
    /// Equal values. For floats: the same number (`0.0` and `-0.0` are the same), or both NaN.
    Equal,
    /// Floats may differ by `absolute + relative · |expected|`.
    Within {
        /// Allowed absolute difference.
        absolute: f64,
        /// Allowed difference relative to the expected value.
        relative: f64,
        /// Where the tolerance comes from.
        because: String,
    },
    /// The expected values are upper bounds.
    AtMost {
        /// Where the bounds come from.
        because: String,
    },
}

impl Judge {
    /// Floats may differ by `absolute + relative · |expected|`, for the reason given.
    pub fn within(absolute: f64, relative: f64, because: &str) -> Self {
        Self::Within {
            absolute,
            relative,
            because: because.to_owned(),
        }
    }

    /// Floats may differ by `ulps` units in the last place of the expected value, and by as many of the smallest normal
    /// float near zero.
    pub fn ulps(ulps: u32, because: &str) -> Self {
        let relative = f64::from(ulps) * f64::from(f32::EPSILON);
        Self::within(relative * f64::from(f32::MIN_POSITIVE), relative, because)
    }

    fn floats_agree(&self, expected: f32, got: f32) -> bool {
        let (expected, got) = (f64::from(expected), f64::from(got));
        match self {
            Self::AtMost { .. } => got <= expected,
            _ if expected == got || (expected.is_nan() && got.is_nan()) => true,
            Self::Equal => false,
            // Not `<=` on its own: NaN and infinite differences must not pass.
            Self::Within {
                absolute, relative, ..
            } => {
                let difference = (got - expected).abs();
                difference.is_finite() && difference <= absolute + relative * expected.abs()
            }
        }
    }

    fn integers_agree(&self, expected: i64, got: i64) -> bool {
        match self {
            Self::AtMost { .. } => got <= expected,
            _ => got == expected,
        }
    }
}

/// The result of one comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether the reply is accepted.
    pub passed: bool,
    /// The first difference, if it is not.
    pub difference: Option<Difference>,
}

/// The first difference between what was expected and what came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The value that differs, such as `codes`; `outcome` if values were expected and an error or a panic came, or the
    /// other way round; `shape of codes`, `kind of codes` or `length of codes` if those differ.
    pub name: String,
    /// The expected shape of that value; empty for a scalar or an outcome.
    pub shape: Vec<usize>,
    /// The index of the first wrong element in that shape; empty where there is none.
    pub index: Vec<usize>,
    /// What was expected there.
    pub expected: String,
    /// What came.
    pub got: String,
    /// How many elements of that value are wrong.
    pub count_wrong: usize,
    /// How many elements it has.
    pub of: usize,
}

/// Compares a reply with the expected one. Never panics, whatever the reply holds.
pub fn compare(judge: &Judge, expected: &Reply, got: &Reply) -> Verdict {
    let difference = match (expected, got) {
        (Reply::Values(expected), Reply::Values(got)) => compare_values(judge, expected, got),
        (Reply::Error(expected), Reply::Error(got)) if kind_of(expected) == kind_of(got) => None,
        _ => Some(Difference {
            name: "outcome".to_owned(),
            shape: Vec::new(),
            index: Vec::new(),
            expected: outcome(expected),
            got: outcome(got),
            count_wrong: 1,
            of: 1,
        }),
    };
    Verdict {
        passed: difference.is_none(),
        difference,
    }
}

fn kind_of(error: &str) -> &str {
    error.split(':').next().unwrap_or(error)
}

/// Longest text of a reply that is passed on into a difference.
const SHOWN: usize = 300;

fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn outcome(reply: &Reply) -> String {
    match reply {
        Reply::Values(_) => "values".to_owned(),
        Reply::Error(text) => format!("the error `{}`", shorten(text)),
        Reply::Panicked(panic) => shorten(&panic.to_string()),
    }
}

fn compare_values(judge: &Judge, expected: &Values, got: &Values) -> Option<Difference> {
    if !expected.names().eq(got.names()) {
        let list = |values: &Values| shorten(&values.names().collect::<Vec<_>>().join(", "));
        return Some(whole(
            "names of the values",
            expected.len(),
            list(expected),
            list(got),
        ));
    }
    expected
        .iter()
        .zip(got.iter())
        .find_map(|(expected, got)| compare_named(judge, expected, got))
}

fn whole(name: &str, of: usize, expected: String, got: String) -> Difference {
    Difference {
        name: name.to_owned(),
        shape: Vec::new(),
        index: Vec::new(),
        expected,
        got,
        count_wrong: of,
        of,
    }
}

fn compare_named(judge: &Judge, expected: &Named, got: &Named) -> Option<Difference> {
    let (name, of) = (&expected.name, expected.value.len());
    if expected.value.kind() != got.value.kind() {
        let kinds = (
            expected.value.kind().to_owned(),
            got.value.kind().to_owned(),
        );
        return Some(whole(&format!("kind of {name}"), of, kinds.0, kinds.1));
    }
    if expected.shape != got.shape {
        let show = |named: &Named| {
            let shape = named
                .shape
                .clone()
                .unwrap_or_else(|| vec![named.value.len()]);
            shorten(&format!("{shape:?}"))
        };
        return Some(whole(
            &format!("shape of {name}"),
            of,
            show(expected),
            show(got),
        ));
    }
    if of != got.value.len() {
        return Some(whole(
            &format!("length of {name}"),
            of,
            of.to_string(),
            got.value.len().to_string(),
        ));
    }
    let (first, count_wrong, expected_text, got_text) = match (&expected.value, &got.value) {
        (Value::I64(e), Value::I64(g)) => first_wrong(e, g, |e, g| judge.integers_agree(e, g)),
        (Value::F32(e), Value::F32(g)) => first_wrong(e, g, |e, g| judge.floats_agree(e, g)),
        (Value::Text(e), Value::Text(g)) if e != g => Some((0, 1, shorten(e), shorten(g))),
        (Value::Bool(e), Value::Bool(g)) if e != g => Some((0, 1, e.to_string(), g.to_string())),
        _ => None,
    }?;
    let shape = expected
        .shape
        .clone()
        .unwrap_or_else(|| if of == 1 { Vec::new() } else { vec![of] });
    let index = unravel(first, &shape);
    Some(Difference {
        name: name.clone(),
        shape,
        index,
        expected: expected_text,
        got: got_text,
        count_wrong,
        of,
    })
}

fn first_wrong<T: Copy + std::fmt::Debug>(
    expected: &[T],
    got: &[T],
    agree: impl Fn(T, T) -> bool,
) -> Option<(usize, usize, String, String)> {
    let mut wrong = expected
        .iter()
        .zip(got)
        .enumerate()
        .filter(|(_, (e, g))| !agree(**e, **g));
    let (first, (e, g)) = wrong.next()?;
    Some((first, 1 + wrong.count(), format!("{e:?}"), format!("{g:?}")))
}

/// The index of element `flat` in a row-major shape; the flat index itself if the shape does not hold it.
fn unravel(flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut rest = flat;
    let mut index = vec![0; shape.len()];
    for (position, &size) in index.iter_mut().zip(shape).rev() {
        if size == 0 {
            return vec![flat];
        }
        *position = rest % size;
        rest /= size;
    }
    if rest == 0 { index } else { vec![flat] }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::value::Panic;

    fn floats(values: &[f32]) -> Reply {
        Reply::Values(Values::new().f32s("x", values.iter().copied()))
    }

    fn difference(judge: &Judge, expected: &Reply, got: &Reply) -> Difference {
        let verdict = compare(judge, expected, got);
        assert!(!verdict.passed);
        verdict.difference.unwrap()
    }

    #[test]
    fn the_first_wrong_element_is_named_by_its_index_in_the_shape() {
        let codes =
            |values: [i8; 6]| Reply::Values(Values::new().ints("codes", values).shaped(&[2, 3]));
        let found = difference(
            &Judge::Equal,
            &codes([1, 2, 3, 4, 5, 6]),
            &codes([1, 2, 3, 4, 9, 9]),
        );
        assert_eq!(
            found,
            Difference {
                name: "codes".to_owned(),
                shape: vec![2, 3],
                index: vec![1, 1],
                expected: "5".to_owned(),
                got: "9".to_owned(),
                count_wrong: 2,
                of: 6,
            }
        );
    }

    #[test]
    fn equal_takes_both_zeros_for_one_number_and_nan_for_nan_only() {
        let judge = Judge::Equal;
        assert!(
            compare(
                &judge,
                &floats(&[0.0, f32::NAN]),
                &floats(&[-0.0, -f32::NAN])
            )
            .passed
        );
        assert!(!compare(&judge, &floats(&[f32::NAN]), &floats(&[0.0])).passed);
        assert!(!compare(&judge, &floats(&[1.0]), &floats(&[1.0 + f32::EPSILON])).passed);
    }

    #[test]
    fn a_tolerance_passes_neither_nan_nor_infinity() {
        let judge = Judge::within(0.5, 0.0, "half a step");
        assert!(compare(&judge, &floats(&[1.0]), &floats(&[1.5])).passed);
        assert!(!compare(&judge, &floats(&[1.0]), &floats(&[1.51])).passed);
        let loose = Judge::within(f64::INFINITY, f64::INFINITY, "a mistake of the author's");
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(
                !compare(&loose, &floats(&[1.0]), &floats(&[bad])).passed,
                "{bad}"
            );
        }
        assert!(
            !compare(
                &judge,
                &floats(&[f32::INFINITY]),
                &floats(&[f32::NEG_INFINITY])
            )
            .passed
        );
    }

    #[test]
    fn ulps_scale_with_the_expected_value() {
        let judge = Judge::ulps(1, "one rounding");
        assert!(
            compare(
                &judge,
                &floats(&[1e-20, 1e20]),
                &floats(&[1e-20f32.next_up(), 1e20f32.next_down()])
            )
            .passed
        );
        assert!(!compare(&judge, &floats(&[1e-20]), &floats(&[1.1e-20])).passed);
        assert!(!compare(&judge, &floats(&[0.0]), &floats(&[1e-30])).passed);
    }

    #[test]
    fn at_most_takes_the_expected_value_for_a_bound_and_refuses_nan() {
        let judge = Judge::AtMost {
            because: "bound".to_owned(),
        };
        assert!(compare(&judge, &floats(&[1.0]), &floats(&[0.5])).passed);
        assert!(!compare(&judge, &floats(&[1.0]), &floats(&[1.5])).passed);
        assert!(!compare(&judge, &floats(&[1.0]), &floats(&[f32::NAN])).passed);
    }

    #[test]
    fn an_expected_error_wants_an_error_of_the_same_kind_and_any_text() {
        let error = |text: &str| Reply::Error(text.to_owned());
        assert!(
            compare(
                &Judge::Equal,
                &error("NotFinite: index 3"),
                &error("NotFinite: at 3")
            )
            .passed
        );
        assert!(
            !compare(
                &Judge::Equal,
                &error("NotFinite: index 3"),
                &error("Shape: [2]")
            )
            .passed
        );
        let found = difference(&Judge::Equal, &error("NotFinite: index 3"), &floats(&[1.0]));
        assert_eq!(
            (found.name.as_str(), found.got.as_str()),
            ("outcome", "values")
        );
    }

    #[test]
    fn a_panic_is_never_accepted_even_where_one_is_expected() {
        let panic = Reply::Panicked(Panic {
            message: "boom".to_owned(),
            file: Some("a.rs".to_owned()),
            line: Some(3),
        });
        assert_eq!(
            difference(&Judge::Equal, &panic, &panic).got,
            "panicked at a.rs:3: boom"
        );
    }

    #[test]
    fn forged_replies_fail_without_a_panic() {
        let shaped =
            |shape: &[usize]| Reply::Values(Values::new().ints("codes", [1i8, 2]).shaped(shape));
        let expected = shaped(&[1, 2]);
        let forged = [
            shaped(&[usize::MAX, usize::MAX]),
            shaped(&[0]),
            shaped(&[]),
            Reply::Values(Values::new()),
            Reply::Values(Values::new().ints("other", [1i8, 2])),
            Reply::Values(Values::new().f32s("codes", [1.0, 2.0]).shaped(&[1, 2])),
            Reply::Values(
                Values::new()
                    .ints("codes", vec![1i64; 100_000])
                    .shaped(&[1, 2]),
            ),
            Reply::Values(
                Values::new()
                    .text("codes", "\u{1F600}".repeat(10_000))
                    .shaped(&[1, 2]),
            ),
            Reply::Error("é".repeat(10_000)),
            Reply::Values(
                Values::new()
                    .ints("codes", [1i8, 2])
                    .shaped(&[1, 2])
                    .ints("codes", [1i8]),
            ),
        ];
        for judge in [
            Judge::Equal,
            Judge::within(1e9, 1e9, ""),
            Judge::AtMost {
                because: String::new(),
            },
        ] {
            for reply in &forged {
                let found = difference(&judge, &expected, reply);
                assert!(found.got.chars().count() < 400, "{found:?}");
            }
        }
        // Also where the expected side itself carries a shape that does not fit its data.
        let crooked = shaped(&[0, usize::MAX]);
        let other = Reply::Values(
            Values::new()
                .ints("codes", [1i8, 3])
                .shaped(&[0, usize::MAX]),
        );
        assert_eq!(difference(&Judge::Equal, &crooked, &other).index, [1]);
    }
}
