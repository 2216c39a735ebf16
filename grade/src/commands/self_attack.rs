//! `tito grade self-attack`: every attack of the catalogue, as a submission, against the grader as it is on this machine.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use serde_json::json;
use tito::failure::{Failure, Outcome};
use tito::markers::Marked;
use tito::ui::{self, BAD, FAINT, GOOD, STRONG, paint};

use super::{Context, isolation};
use crate::attack::{Attack, Words, catalogue, judge, ran_out_of_time};
use crate::course::Course;
use crate::model::{Isolation, Plan, SubmissionResult};
use crate::report::Book;
use crate::report::published::{at_another_pace, documents};
use crate::results::Results;
use crate::sandbox::{FIRST_USER, Launcher, probe, users::USERS};

/// The module that is attacked.
const MODULE: &str = "15";

/// The hole that an honest student among the attackers has filled in.
const HONEST: &str = "15.4";

/// Secrets that must not get out. The first three nowhere; the last not to students, since staff may see why a hidden check failed.
const CANARIES: [(&str, &str); 4] = [
    ("a file of this machine", "canary-of-a-file-4a1c"),
    ("the environment", "canary-of-the-environment-9be2"),
    ("the source of hidden checks", "canary-of-the-source-7f03"),
    ("a hidden check's case", "canary-of-a-case-c558"),
];

/// Attacks the grader, and says what stopped each attack.
///
/// # Errors
///
/// An environment error if the grader cannot be run at all; a usage error if there is no attack called so.
pub fn run(context: &Context<'_>, only: &[String]) -> Result<Outcome> {
    let workspace = context.workspace()?;
    let course = Course::load(&workspace, MODULE, None)?;
    let mut attacks = catalogue(&workspace.root)?;
    if !only.is_empty() {
        let is_wanted = |attack: &Attack| {
            only.iter()
                .any(|name| attack.slug.starts_with(name.as_str()))
        };
        attacks.retain(is_wanted);
        if attacks.is_empty() {
            let names = only.join(", ");
            return Err(Failure::usage(format!("there is no attack {names}")).into());
        }
    }
    let layers = probe(&Launcher::myself()?)?.layers;
    let scratch = tempfile::Builder::new()
        .prefix("tito-attacked-")
        .tempdir()?;
    let field = Battlefield::lay_out(scratch.path(), &course, &attacks)?;
    let before = strangers();
    let mut output = field.grade(&workspace.root, &field.first, "6")?;
    let results = Results::new(&field.first.results);
    let mut slow = Vec::new();
    for attack in &attacks {
        let result = result(&results, attack)?;
        slow.extend(
            result
                .filter(|one| ran_out_of_time(attack, one))
                .map(|_| attack),
        );
    }
    if !slow.is_empty() {
        field.write(&field.second, &course, &slow)?;
        output.extend(field.grade(&workspace.root, &field.second, "60")?);
    }
    let problems = field.aftermath(&output, &before);

    let mut lines = Vec::new();
    let mut failed = problems.len();
    for attack in &attacks {
        let again = slow.iter().any(|one| one.slug == attack.slug);
        let round = if again { &field.second } else { &field.first };
        let result = result(&Results::new(&round.results), attack)?;
        let mut proof = judge(attack, result.as_ref());
        if layers.isolation == Isolation::Reduced {
            // A missing wall is told below; what it lets through is still told here.
            proof.evidence += " (reduced isolation)";
        }
        failed += usize::from(!proof.problems.is_empty());
        lines.push((attack, proof));
    }
    if context.json {
        ui::print_json(&json!({
            "isolation": layers.isolation,
            "attacks": lines.iter().map(|(attack, proof)| json!({
                "id": attack.id, "slug": attack.slug, "title": attack.title,
                "stopped_by": attack.stopped_by, "evidence": proof.evidence, "problems": proof.problems,
            })).collect::<Vec<_>>(),
            "problems": problems,
        }));
    } else {
        isolation::print(&layers);
        for (attack, proof) in &lines {
            let (style, mark) = if proof.problems.is_empty() {
                (GOOD, "stopped")
            } else {
                (BAD, "PASSED ")
            };
            ui::say(format!(
                "{} {:<4} {:<20} {}",
                paint(style, mark),
                attack.id,
                attack.stopped_by,
                attack.title
            ));
            for problem in &proof.problems {
                ui::say(format!("             {}", paint(BAD, problem)));
            }
            if !proof.evidence.is_empty() {
                ui::say(format!(
                    "             {}",
                    paint(FAINT, crate::clean::line(&proof.evidence, 110))
                ));
            }
        }
        for problem in &problems {
            ui::say(paint(BAD, problem));
        }
        let word = match failed {
            0 => paint(
                GOOD,
                "every attack was stopped, nothing leaked, nothing was left behind",
            ),
            _ => paint(BAD, format!("{failed} of it went wrong")),
        };
        ui::say(format!(
            "{} {word}",
            paint(STRONG, format!("{} attacks:", attacks.len()))
        ));
    }
    Ok(if failed == 0 {
        Outcome::Good
    } else {
        Outcome::WorkLeft
    })
}

/// Submissions and what becomes of them.
struct Round {
    submissions: PathBuf,
    results: PathBuf,
}

impl Round {
    fn new(root: &Path, name: &str) -> Round {
        Round {
            submissions: root.join(format!("submissions{name}")),
            results: root.join(format!("results{name}")),
        }
    }
}

/// Where it happens.
struct Battlefield {
    first: Round,
    /// What ran out of time in the first.
    second: Round,
    hidden: PathBuf,
    words: Words,
    mark: PathBuf,
    home: TcpListener,
}

impl Battlefield {
    fn lay_out(root: &Path, course: &Course, attacks: &[Attack]) -> Result<Battlefield> {
        let mut field = Battlefield {
            first: Round::new(root, ""),
            second: Round::new(root, "-again"),
            hidden: root.join("hidden"),
            words: Words::new(),
            mark: root.join("mark"),
            home: TcpListener::bind("127.0.0.1:0").context("cannot listen")?,
        };
        field.home.set_nonblocking(true)?;
        // Readable by everybody: it is the walls that are tried, not the modes of files.
        open(root)?;
        let canary = root.join("canary.txt");
        fs::write(&canary, format!("{}\n", CANARIES[0].1))?;
        fs::create_dir_all(&field.hidden)?;
        fs::write(field.hidden.join("mod.rs"), hidden_check())?;
        let module_root = &course.module.root;
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| module_root.join("target"), PathBuf::from);
        let text = |path: &Path| path.display().to_string();
        field.words = Words::from([
            ("CANARY", text(&canary)),
            ("HIDDEN", text(&field.hidden)),
            (
                "REFERENCE",
                text(&module_root.join(course.module.twin("quantize.rs"))),
            ),
            ("TARGET", text(&target)),
            ("MARK", text(&field.mark)),
            ("RESULTS", text(&field.first.results)),
            ("PORT", field.home.local_addr()?.port().to_string()),
        ]);
        let all: Vec<&Attack> = attacks.iter().collect();
        field.write(&field.first, course, &all)?;
        field.write_honest(course)?;
        Ok(field)
    }

    fn write(&self, round: &Round, course: &Course, attacks: &[&Attack]) -> Result<()> {
        fs::create_dir_all(&round.submissions)?;
        for attack in attacks {
            attack.write(&round.submissions, &course.stubs, &self.words)?;
        }
        Ok(())
    }

    /// Somebody who did one exercise, among all the others.
    fn write_honest(&self, course: &Course) -> Result<()> {
        let folder = self.first.submissions.join("honest");
        fs::create_dir_all(&folder)?;
        for file in course.module.twin_files()? {
            let stub = course.stubs.get(&file.name).cloned().unwrap_or_default();
            let reference = Marked::parse(&file.text)
                .map_err(|error| Failure::environment(format!("{}, {error}", file.shown)))?;
            let marked = Marked::parse(&stub)
                .map_err(|error| Failure::environment(format!("{}, {error}", file.name)))?;
            let text = marked.with_bodies(|hole| {
                let own = reference.hole(hole.tag).filter(|_| hole.tag == HONEST)?;
                Some(reference.body(own))
            });
            fs::write(folder.join(&file.name), text)?;
        }
        Ok(())
    }

    /// Grades them as an instructor would, in a process of its own, and returns all it printed.
    fn grade(&self, root: &Path, round: &Round, compile_limit: &str) -> Result<Vec<u8>> {
        let output = Command::new(std::env::current_exe()?)
            .arg("--workspace")
            .arg(root)
            .arg("run")
            .arg(&round.submissions)
            .args([
                "--module",
                MODULE,
                "--time-limit",
                "2",
                "--compile-limit",
                compile_limit,
                "--hidden",
            ])
            .arg(&self.hidden)
            .arg("--out")
            .arg(&round.results)
            .env("TITO_GRADE_CANARY", CANARIES[1].1)
            .stdin(Stdio::null())
            .output()
            .context("cannot start the grader")?;
        if output.status.code().is_none_or(|code| code > 1) {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(Failure::environment(format!("the grader did not survive: {said}")).into());
        }
        Ok([output.stdout, output.stderr].concat())
    }

    /// What leaked, and what was left behind.
    fn aftermath(&self, output: &[u8], before: &BTreeMap<u32, String>) -> Vec<String> {
        let mut problems = Vec::new();
        let mut texts = vec![(
            "the grader's output".to_owned(),
            String::from_utf8_lossy(output).into_owned(),
        )];
        let mut honest = None;
        let rounds = [&self.first, &self.second].map(|round| Results::new(&round.results));
        let all = rounds.iter().flat_map(|results| {
            let ids = results.ids().unwrap_or_default();
            ids.into_iter().map(move |id| (results, id))
        });
        for (results, id) in all {
            let plan = results.plan().ok().flatten();
            let whole = fs::read_to_string(results.path(&id)).unwrap_or_default();
            for (what, canary) in &CANARIES[..3] {
                if whole.contains(canary) {
                    problems.push(format!("{what} leaked into the result of {id}"));
                }
            }
            if whole.contains("\\u001b") || whole.contains('\u{202e}') {
                problems.push(format!("the result of {id} holds terminal escapes"));
            }
            let Ok(Some(result)) = results.get(&id) else {
                problems.push(format!("the result of {id} cannot be read"));
                continue;
            };
            if id == "honest" {
                honest = Some(result.points);
            }
            for (name, text, other) in published(plan.as_ref(), &result) {
                if text != other {
                    problems.push(format!(
                        "the time that {id} takes for hidden checks shows in {name}"
                    ));
                }
                texts.push((format!("{name} of {id}"), text));
            }
            let exercises = result.exercises.iter().flat_map(|one| &one.checks);
            let hidden = exercises
                .filter(|check| check.visibility == tinytorch_exam::Visibility::Hidden)
                .map(crate::model::CheckResult::for_student);
            let shown = serde_json::to_string(&hidden.collect::<Vec<_>>()).unwrap_or_default();
            if shown.contains("LEAK") {
                problems.push(format!(
                    "{id} carried inputs of hidden checks into its feedback"
                ));
            }
            texts.push((format!("what {id} is shown of hidden checks"), shown));
        }
        for (place, text) in &texts {
            for (what, canary) in &CANARIES {
                if text.contains(canary) {
                    problems.push(format!("{what} leaked into {place}"));
                }
            }
            if text.contains('\u{1b}') {
                problems.push(format!("{place} holds terminal escapes"));
            }
        }
        match honest {
            Some(points) if points > 0.0 => {}
            _ => problems.push("the honest student among the attackers earned nothing".into()),
        }
        if self.mark.exists() {
            problems.push("a file of a submission was executed".into());
        }
        if self.home.accept().is_ok() {
            problems.push("somebody called home".into());
        }
        for folder in ["/tmp", "/var/tmp", "/dev/shm", "/run"] {
            for name in fs::read_dir(folder)
                .into_iter()
                .flatten()
                .filter_map(Result::ok)
            {
                let name = name.file_name().to_string_lossy().into_owned();
                if name.starts_with("tito-attack-") {
                    problems.push(format!("{folder}/{name} was left behind"));
                }
            }
        }
        for (pid, name) in strangers() {
            if !before.contains_key(&pid) {
                problems.push(format!("process {pid} ({name}) was left behind"));
            }
        }
        problems
    }
}

/// What became of an attack.
fn result(results: &Results, attack: &Attack) -> Result<Option<SubmissionResult>> {
    let plan = results
        .plan()?
        .ok_or_else(|| Failure::environment("there is no plan"))?;
    let folder = attack.folder();
    let own = plan.submissions.iter().find(|one| {
        let source = one.source.to_string_lossy();
        source == folder || source == format!("{folder}.zip")
    });
    own.map_or(Ok(None), |own| results.get(&own.id))
}

/// What a student would be given: name and text of each document, and the text it had if hidden checks had taken other times.
fn published(
    plan: Option<&Plan>,
    result: &SubmissionResult,
) -> Vec<(&'static str, String, String)> {
    let documents = |result: SubmissionResult| {
        let mut plan = plan.cloned()?;
        plan.submissions = vec![result.submission.clone()];
        let book = Book::new(plan, vec![Some(result)], None, None).ok()?;
        Some(documents(&book, book.rows.first()?))
    };
    let other = documents(at_another_pace(result));
    let pairs = documents(result.clone()).into_iter().flatten();
    pairs
        .zip(other.into_iter().flatten())
        .map(|((name, text), (_, other))| (name, text, other))
        .collect()
}

/// Processes of the cells' users, or that are called as what runs in a cell.
///
/// The catalogue leaves a `sleep` or a `setsid` behind where it can. Somebody else may run these meanwhile, so they count only
/// under our own name, and for root, whose cells have users of their own, not at all. Somebody else may grade, too: their cells' programs are
/// still on the disk, while ours went with the folder they were compiled in.
fn strangers() -> BTreeMap<u32, String> {
    use std::os::unix::fs::MetadataExt;
    let own = rustix::process::geteuid();
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
    {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        // What has ended has no program any more.
        let program = fs::read_link(entry.path().join("exe"));
        let is_gone =
            matches!(&program, Err(error) if error.kind() == std::io::ErrorKind::NotFound);
        let is_of_others =
            program.is_ok_and(|path| path.starts_with(std::env::temp_dir()) && path.exists());
        if is_gone || is_of_others {
            continue;
        }
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let name = name.trim().to_owned();
        let user = fs::metadata(entry.path()).map_or(0, |data| data.uid());
        let is_cell = own.is_root() && (FIRST_USER..FIRST_USER + USERS).contains(&user);
        let is_ours = !own.is_root() && user == own.as_raw();
        if is_cell || name == "runner" || is_ours && matches!(name.as_str(), "sleep" | "setsid") {
            found.insert(pid, name);
        }
    }
    found
}

fn open(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(
        path,
        fs::Permissions::from_mode(0o755),
    )?)
}

/// A hidden check outside the course, with its secrets.
fn hidden_check() -> String {
    let (source, case) = (CANARIES[2].1, CANARIES[3].1);
    format!(
        "//! {source}\n
use tinytorch_exam::{{Case, Check, Judge, Values, Visibility, refused}};
use super::super::subject::quantize::quantize;
use super::super::subject::scheme::{{CodeRange, QParams}};

pub(super) fn checks() -> Vec<Check> {{
    vec![Check {{
        id: \"15.3/of-the-instructor\",
        weight: 1,
        visibility: Visibility::Public,
        what: \"values\",
        why: \"because\",
        item: \"quantize\",
        cases: |rng| vec![Case::new(\"{case}\", Values::new().float(\"x\", rng.f32(1.0, 2.0)))],
        run: |case| {{
            let codes = CodeRange {{ min: -128, max: 127 }};
            let qparams = QParams {{ scale: 0.1, zero_point: 3 }};
            let codes = quantize(&[case.float(\"x\")?], qparams, codes).map_err(refused)?;
            Ok(Values::new().ints(\"codes\", codes).text(\"note\", \"{case}\"))
        }},
        judge: || Judge::Equal,
    }}]
}}
"
    )
}
