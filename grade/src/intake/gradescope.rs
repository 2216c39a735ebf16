//! `submission_metadata.yml` of a Gradescope export: who is behind `submission_12345`.
//!
//! The file is YAML in one fixed shape, of which a handful of lines matter:
//!
//! ```text
//! submission_12345:
//!   :submitters:
//!   - :name: Jane Doe
//!     :sid: '1001'
//!     :email: jane@example.edu
//!   :created_at: 2026-01-31 23:59:59.123456000 Z
//! ```

use std::collections::BTreeMap;

/// What the file says of one submission.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Metadata {
    /// Name, student number, address: of each member of the group.
    pub submitters: Vec<Submitter>,
    /// When it was handed in.
    pub created: Option<String>,
}

/// One member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Submitter {
    pub name: String,
    pub number: Option<String>,
    pub email: Option<String>,
}

/// Reads the file; lines that are not understood are passed over.
pub(super) fn parse(text: &str) -> BTreeMap<String, Metadata> {
    let mut all: BTreeMap<String, Metadata> = BTreeMap::new();
    let mut current: Option<String> = None;
    let mut among_submitters = false;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let (word, begins) = match line.trim_start().strip_prefix("- ") {
            Some(rest) => (rest.trim(), true),
            None => (line.trim(), false),
        };
        if indent == 0 && !begins {
            current = word
                .strip_suffix(':')
                .filter(|name| name.starts_with("submission_"))
                .map(str::to_owned);
            if let Some(name) = &current {
                all.entry(name.clone()).or_default();
            }
            among_submitters = false;
            continue;
        }
        let Some(metadata) = current.as_ref().and_then(|name| all.get_mut(name)) else {
            continue;
        };
        let Some((key, value)) = word.trim_start_matches(':').split_once(':') else {
            continue;
        };
        let value = scalar(value);
        if indent <= 2 && !begins {
            among_submitters = key == "submitters";
            if key == "created_at" {
                metadata.created = value;
            }
            continue;
        }
        if !among_submitters {
            continue;
        }
        if begins {
            metadata.submitters.push(Submitter::default());
        }
        let Some(person) = metadata.submitters.last_mut() else {
            continue;
        };
        match key {
            "name" => person.name = value.unwrap_or_default(),
            "sid" => person.number = value,
            "email" => person.email = value,
            _ => {}
        }
    }
    all
}

/// A plain or quoted scalar; nothing for an empty one.
fn scalar(raw: &str) -> Option<String> {
    let raw = raw.trim();
    let inner = if let Some(quoted) = raw
        .strip_prefix('\'')
        .and_then(|raw| raw.strip_suffix('\''))
    {
        quoted.replace("''", "'")
    } else if let Some(quoted) = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"')) {
        serde_json::from_str(raw).unwrap_or_else(|_| quoted.to_owned())
    } else {
        raw.to_owned()
    };
    let clean = crate::clean::line(&inner, 200);
    (!clean.is_empty() && clean != "null" && clean != "~").then_some(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_that_matter_are_read() {
        let text = "---
submission_12345:
  :submitters:
  - :name: Jane O'Hara
    :sid: '1001'
    :email: jane@example.edu
  - :name: \"J\\u00fcrgen\"
    :sid:
  :created_at: 2026-01-31 23:59:59.123456000 Z
  :score: 0.0
  :results:
    :name: not a person
  :history:
  - :id: 7
submission_9:
  :submitters:
  - :name: 'D''Arc'
";
        let all = parse(text);
        let first = &all["submission_12345"];
        assert_eq!(first.submitters.len(), 2);
        assert_eq!(first.submitters[0].name, "Jane O'Hara");
        assert_eq!(first.submitters[0].number.as_deref(), Some("1001"));
        assert_eq!(first.submitters[1].name, "Jürgen");
        assert_eq!(first.submitters[1].number, None);
        assert_eq!(
            first.created.as_deref(),
            Some("2026-01-31 23:59:59.123456000 Z")
        );
        assert_eq!(all["submission_9"].submitters[0].name, "D'Arc");
    }

    #[test]
    fn nonsense_is_passed_over() {
        for text in [
            "",
            "::::",
            "- - -\n  - :",
            "submission_1:\n  - :name",
            "\u{0}",
        ] {
            parse(text);
        }
    }
}
