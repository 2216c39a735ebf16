//! Submissions laid out for programs that look for copied code, with the stub as what everybody was given.
//!
//! ```text
//! moss/base/quantize.rs                  given out
//! moss/students/A-1f3b/quantize.rs       one folder per student
//! moss/command.txt                       the call: -b for what was given, -d for one folder per student
//! dolos/quantize.zip: info.csv           one zip per exercise file, since Dolos compares file with file
//!                     A-1f3b.rs
//!                     given.rs           given out: `ignored` in info.csv
//! students.csv                           code to name: stays here
//! ```
//!
//! These programs may run elsewhere, so students are named by codes. The table that says who they are lies beside, not inside, what is handed over.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};

use anyhow::{Context, Result};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::answers;
use super::csv::Writer;
use crate::model::{Plan, Submission};

/// The files of one student: name to text.
pub type Texts = BTreeMap<String, String>;

/// Path to content of everything that is written.
///
/// # Errors
///
/// If a zip file cannot be made.
pub fn layout(
    plan: &Plan,
    given: &Texts,
    students: &[(&Submission, Texts)],
) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut key = Writer::new(',');
    for title in ["code", "id", "name", "email"] {
        key.verbatim(title);
    }
    key.end();
    for (submission, texts) in students {
        let code = answers::key(plan, submission, true);
        key.verbatim(&code)
            .text(&submission.id)
            .text(&submission.name)
            .text(submission.email.as_deref().unwrap_or_default())
            .end();
        for (name, text) in texts.iter().filter(|(name, _)| given.contains_key(*name)) {
            files.insert(
                format!("moss/students/{code}/{name}"),
                text.clone().into_bytes(),
            );
        }
    }
    files.insert("students.csv".into(), key.finish().into_bytes());
    let mut base = String::new();
    for (name, text) in given {
        files.insert(format!("moss/base/{name}"), text.clone().into_bytes());
        base += &format!(" -b base/{name}");
        let stem = name.trim_end_matches(".rs");
        let zip = dolos(plan, name, text, students)?;
        files.insert(format!("dolos/{stem}.zip"), zip);
    }
    // MOSS has no Rust; it finds the tokens of C in it.
    let command = format!("moss -l c -d{base} students/*/*.rs\n");
    files.insert("moss/command.txt".into(), command.into_bytes());
    Ok(files)
}

/// The file in Dolos' zip that is no student's.
const GIVEN: &str = "given.rs";

/// A zip file as Dolos reads it: `info.csv` beside one file per student, at the top. In a folder Dolos does not see the table, and takes it for
/// one more submission. Source: Dolos, `lib/src/lib/dataset.ts`.
fn dolos(
    plan: &Plan,
    name: &str,
    given: &str,
    students: &[(&Submission, Texts)],
) -> Result<Vec<u8>> {
    let mut info = Writer::new(',');
    for title in ["filename", "full_name", "id", "created_at", "ignored"] {
        info.verbatim(title);
    }
    info.end();
    for cell in [GIVEN, "given", "given", "", "true"] {
        info.verbatim(cell);
    }
    info.end();
    let mut entries = vec![(GIVEN.to_owned(), given.as_bytes())];
    for (submission, texts) in students {
        let Some(text) = texts.get(name) else {
            continue;
        };
        let code = answers::key(plan, submission, true);
        let file = format!("{code}.rs");
        let moment = submission
            .submitted
            .as_deref()
            .and_then(|text| super::time::Moment::parse(text).ok());
        info.verbatim(&file)
            .verbatim(&code)
            .verbatim(&code)
            .verbatim(&moment.map_or(String::new(), |moment| moment.to_string()))
            .verbatim("false")
            .end();
        entries.push((file, text.as_bytes()));
    }
    let info = info.finish();
    entries.insert(0, ("info.csv".into(), info.as_bytes()));
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (file, content) in entries {
        archive
            .start_file(file.as_str(), SimpleFileOptions::default())
            .and_then(|()| Ok(archive.write_all(content)?))
            .with_context(|| format!("cannot pack {file}"))?;
    }
    Ok(archive
        .finish()
        .context("cannot finish the archive")?
        .into_inner())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::report::csv::Table;
    use crate::report::sample;

    fn files() -> BTreeMap<String, Vec<u8>> {
        let (plan, _) = sample::class();
        let given = Texts::from([
            ("halves.rs".into(), "todo!()".into()),
            ("sums.rs".into(), "todo!()".into()),
        ]);
        let own = |text: &str| {
            Texts::from([
                ("halves.rs".to_owned(), text.to_owned()),
                ("other.rs".to_owned(), "x".to_owned()),
            ])
        };
        let students: Vec<(&Submission, Texts)> = plan
            .submissions
            .iter()
            .take(3)
            .map(|one| (one, own(&one.id)))
            .collect();
        layout(&plan, &given, &students).expect("a layout")
    }

    #[test]
    fn students_are_codes_in_all_that_is_handed_over() {
        for (path, content) in files() {
            if path == "students.csv" {
                let table =
                    Table::parse(std::str::from_utf8(&content).expect("text")).expect("a table");
                assert_eq!(table.rows.len(), 4);
                continue;
            }
            for name in ["Jane", "Doe", "jdoe"] {
                assert!(
                    !path.contains(name) && !String::from_utf8_lossy(&content).contains(name),
                    "{path}"
                );
            }
            assert!(
                !path.contains("other.rs"),
                "only exercise files are compared"
            );
        }
    }

    #[test]
    fn moss_has_its_base_its_folders_and_its_call() {
        let files = files();
        let command = String::from_utf8_lossy(&files["moss/command.txt"]).into_owned();
        assert_eq!(
            command,
            "moss -l c -d -b base/halves.rs -b base/sums.rs students/*/*.rs\n"
        );
        let students = files
            .keys()
            .filter(|path| path.starts_with("moss/students/A-"))
            .count();
        assert_eq!(students, 3);
    }

    #[test]
    fn dolos_has_a_zip_per_exercise_file_with_its_table() {
        let files = files();
        let mut archive =
            zip::ZipArchive::new(Cursor::new(&files["dolos/halves.zip"])).expect("a zip file");
        let names: Vec<String> = archive
            .file_names()
            .map(|name| name.expect("a name").into_owned())
            .collect();
        let mut info = String::new();
        archive
            .by_name("info.csv")
            .expect("there")
            .read_to_string(&mut info)
            .expect("text");
        let table = Table::parse(&info).expect("a table");
        assert_eq!(
            table.rows[0],
            ["filename", "full_name", "id", "created_at", "ignored"]
        );
        // What was given out, and nobody's else, is told to be left out of account.
        let ignored = table.rows.iter().filter(|row| row[4] == "true");
        assert_eq!(
            ignored.map(|row| row[0].as_str()).collect::<Vec<_>>(),
            ["given.rs"]
        );
        let mut given = String::new();
        archive
            .by_name("given.rs")
            .expect("there")
            .read_to_string(&mut given)
            .expect("text");
        assert_eq!(given, "todo!()");
        for row in &table.rows[1..] {
            assert!(names.contains(&row[0]), "{row:?}");
        }
        assert_eq!(names.len(), 5);
    }
}
