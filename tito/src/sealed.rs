//! Catalogued mistakes in a student's repository: a mistake's name and explanation can be read by whoever gives its wrong answers, and by nobody else.
//!
//! ```text
//! answers to the cases of a check -> secret = SHA-256(check, answers) -> key = SHA-256(secret, "key"): which mistake it is
//!                                                                     -> SHA-256(secret, 0), SHA-256(secret, 1), ...: what its text is hidden with
//! ```
//!
//! So a release names mistakes as the course does, and holds neither the catalogue's texts nor its answers. It is no secret from somebody who
//! guesses a mistake, writes it and runs the check: that is what the check is there for.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tinytorch_exam::{ExamRecord, MistakeRecord, Reply, SealedMistake};

use crate::mistakes::placeless;

/// What is hidden.
#[derive(Serialize, Deserialize)]
struct Text {
    title: String,
    explanation: String,
}

/// Replaces every mistake of a record by its seal.
///
/// # Errors
///
/// None in practice: replies can always be written as JSON.
pub fn seal(record: &mut ExamRecord) -> Result<()> {
    for check in &mut record.checks {
        for mistake in std::mem::take(&mut check.mistakes) {
            let secret = secret(&check.id, &mistake.replies)?;
            let key = key(&secret);
            // Of two that answer alike the first is the one that is named; a second text below the same stream would open both.
            if check.sealed.iter().any(|one| one.key == key) {
                continue;
            }
            let text = serde_json::to_vec(&Text {
                title: mistake.title,
                explanation: mistake.explanation,
            })?;
            check.sealed.push(SealedMistake {
                key,
                text: hex(&mixed(&secret, &text)),
            });
        }
    }
    Ok(())
}

/// The mistake that answers exactly so, if it is among the sealed ones. Damaged seals open to nothing.
pub fn open(check: &str, sealed: &[SealedMistake], replies: &[Reply]) -> Option<MistakeRecord> {
    if sealed.is_empty() {
        return None;
    }
    let secret = secret(check, replies).ok()?;
    let key = key(&secret);
    let found = sealed.iter().find(|one| one.key == key)?;
    let text = mixed(&secret, &bytes(&found.text)?);
    let text: Text = serde_json::from_slice(&text).ok()?;
    Some(MistakeRecord {
        title: text.title,
        explanation: text.explanation,
        replies: replies.to_vec(),
    })
}

/// As [`MistakeRecord::answers_like`] compares: bit for bit, and panics by their text.
fn secret(check: &str, replies: &[Reply]) -> Result<[u8; 32]> {
    let replies: Vec<Reply> = replies.iter().cloned().map(placeless).collect();
    let replies = serde_json::to_vec(&replies)?;
    Ok(digest(&[
        b"tito mistake\n",
        check.as_bytes(),
        b"\n",
        &replies,
    ]))
}

fn key(secret: &[u8; 32]) -> String {
    hex(&digest(&[secret, b"key"])[..16])
}

/// The text with the stream laid over it; twice is the text again.
fn mixed(secret: &[u8; 32], text: &[u8]) -> Vec<u8> {
    let blocks = text.chunks(32).zip(0_u64..);
    blocks
        .flat_map(|(block, number)| {
            let stream = digest(&[secret, &number.to_le_bytes()]);
            let mixed: Vec<u8> = block.iter().zip(stream).map(|(a, b)| a ^ b).collect();
            mixed
        })
        .collect()
}

fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut state = Sha256::new();
    for part in parts {
        state.update(part);
    }
    state.finalize().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = hex.chars().map(|letter| letter.to_digit(16)).collect();
    let pairs = digits?;
    let pairs = pairs.chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => u8::try_from(high * 16 + low).ok(),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinytorch_exam::{Panic, Values};

    fn replies(number: i64) -> Vec<Reply> {
        let panic = Panic {
            message: "index out of bounds".into(),
            file: Some(format!("{number}.rs")),
            line: None,
        };
        vec![
            Reply::Values(Values::new().int("code", number)),
            Reply::Panicked(panic),
        ]
    }

    fn record() -> ExamRecord {
        let mistake = |title: &str, number| MistakeRecord {
            title: title.into(),
            explanation: "An explanation that is longer than one block of thirty-two bytes.".into(),
            replies: replies(number),
        };
        let mistakes = [
            mistake("first", 7),
            mistake("second", 8),
            mistake("like the first", 7),
        ];
        let mistakes = serde_json::to_value(mistakes).expect("JSON");
        serde_json::from_value(serde_json::json!({
            "module": "1_one", "seed": 1, "checks": [{
                "id": "1.1/x", "exercise": "1.1", "weight": 1, "visibility": "public", "what": "", "why": "",
                "item": "", "judge": "equal", "cases": [], "mistakes": mistakes,
            }],
        }))
        .expect("a record")
    }

    #[test]
    fn who_answers_like_a_mistake_reads_its_text_and_nobody_else() {
        let mut sealed = record();
        seal(&mut sealed).expect("seals");
        let check = &sealed.checks[0];
        assert_eq!((check.mistakes.len(), check.sealed.len()), (0, 2));
        let mut own = replies(7);
        if let Reply::Panicked(panic) = &mut own[1] {
            panic.line = Some(99);
        }
        let found = open(&check.id, &check.sealed, &own).expect("opens");
        assert_eq!(found.title, "first");
        assert!(found.explanation.ends_with("bytes."));
        assert_eq!(open(&check.id, &check.sealed, &replies(9)), None);
        assert_eq!(open("1.1/y", &check.sealed, &replies(7)), None);
        let text = serde_json::to_string(&sealed).expect("JSON");
        assert!(
            !text.contains("first") && !text.contains("explanation"),
            "{text}"
        );
    }

    #[test]
    fn damaged_seals_open_to_nothing() {
        let mut sealed = record();
        seal(&mut sealed).expect("seals");
        let check = &mut sealed.checks[0];
        for text in ["", "7", "zz", "00ff", "\u{e4}\u{e4}"] {
            check.sealed[0].text = text.into();
            assert_eq!(open(&check.id, &check.sealed, &replies(7)), None, "{text}");
        }
    }
}
