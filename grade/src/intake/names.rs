//! Names for result files.

use tito::snapshot::hash;

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
