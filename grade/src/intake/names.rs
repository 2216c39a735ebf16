//! What the names of folders and archives say.

use tito::snapshot::hash;

/// What Canvas puts into the name of a download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Canvas {
    /// Last and first name in one word.
    pub name: String,
    /// Canvas' number of the student.
    pub number: String,
    /// Canvas' number of the upload; later ones are higher.
    pub upload: u64,
    /// Marked as late.
    pub late: bool,
}

/// Reads `doejane_12345_67890_hw.zip` and `doejane_LATE_12345_67890_hw.zip` (without the ending).
pub(super) fn canvas(stem: &str) -> Option<Canvas> {
    let mut parts = stem.split('_');
    let name = parts.next().filter(|name| !name.is_empty())?.to_owned();
    let mut next = parts.next()?;
    let late = next == "LATE";
    if late {
        next = parts.next()?;
    }
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = next.to_owned();
    let upload = parts.next()?;
    parts.next()?;
    let upload = upload.parse().ok().filter(|_| is_number(upload))?;
    is_number(&number).then_some(Canvas {
        name,
        number,
        upload,
        late,
    })
}

/// A name for a result file: of the letters that every system takes, and different for different names.
pub(super) fn id(raw: &str) -> String {
    let safe: String = raw
        .chars()
        .map(|letter| {
            let is_safe = letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
            if is_safe { letter } else { '-' }
        })
        .take(64)
        .collect();
    let safe = safe.trim_start_matches(['.', '-']).to_owned();
    if safe == raw && !safe.is_empty() {
        return safe;
    }
    let safe = if safe.is_empty() { "student" } else { &safe };
    // Something was changed: the hash of the whole name keeps two such names apart.
    format!("{safe}-{}", &hash(raw.as_bytes())[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_canvas_are_taken_apart() {
        let read = canvas("doejane_12345_67890_my_hw-1").expect("a name of Canvas");
        assert_eq!(
            (
                read.name.as_str(),
                read.number.as_str(),
                read.upload,
                read.late
            ),
            ("doejane", "12345", 67890, false)
        );
        assert!(canvas("doejane_LATE_12345_67890_hw").expect("late").late);
        for other in [
            "jane",
            "jane_doe_1_x",
            "_1_2_x",
            "jane_1_2",
            "jane_1a_2_x",
            "a_b_c_d",
        ] {
            assert_eq!(canvas(other), None, "{other}");
        }
    }

    #[test]
    fn ids_are_safe_and_stay_different() {
        assert_eq!(id("jane-doe_2.x"), "jane-doe_2.x");
        let ids = [
            "../../etc",
            "a b",
            "a\u{202e}b",
            "ä",
            "ö",
            "",
            "-rf",
            &"x".repeat(300),
        ]
        .map(id);
        for one in &ids {
            assert!(!one.is_empty() && one.len() < 80, "{one}");
            assert!(!one.starts_with(['.', '-']), "{one}");
            assert!(
                one.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            );
        }
        let mut unique = ids.to_vec();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), ids.len());
    }
}
