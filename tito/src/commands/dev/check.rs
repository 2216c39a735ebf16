//! `tito dev check`: proves that the course is sound. Anything that is not is an error, never a warning.

use anyhow::Result;
use serde::Serialize;
use serde_json::json;
use tinytorch_exam::{ExamRecord, Reply, Visibility, judge_check};

use super::expect::{self, Proven};
use super::{documents, stubs};
use crate::commands::Context;
use crate::commands::test::student;
use crate::dependencies;
use crate::failure::Outcome;
use crate::manifest::exercise_id;
use crate::markers::Marked;
use crate::mistakes::{self, Mistake};
use crate::parallel;
use crate::release::Release;
use crate::subject::{Runner, Source};
use crate::ui::{self, BAD, FAINT, GOOD, STRONG, paint};
use crate::workspace::{Module, line_of_item};

/// Seeds on which the reference must hold: the recorded one and some that nobody tuned anything to.
const SEEDS: [u64; 3] = [1, 20_260, 0xdead_beef];

/// One thing that was looked at.
#[derive(Serialize)]
struct Finding {
    module: String,
    what: String,
    problems: Vec<String>,
}

/// One row of the kill matrix.
#[derive(Serialize)]
struct Kill {
    mistake: String,
    hole: String,
    caught_by: String,
    is_caught: bool,
    /// Every check that fails.
    caught: Vec<String>,
}

/// Checks every written module.
///
/// # Errors
///
/// An environment error if something cannot be built at all.
pub fn run(context: &Context) -> Result<Outcome> {
    let whole = |what: &str, problems: Vec<String>| Finding {
        module: String::new(),
        what: what.to_owned(),
        problems,
    };
    let mut findings = vec![
        whole(
            "every command in the documents exists",
            documents::problems(&context.workspace.root),
        ),
        whole(
            "a student's repository holds no solution, no hidden check and no catalogued mistake",
            release_problems(context),
        ),
    ];
    let mut kills = Vec::new();
    for entry in context.workspace.written() {
        let module = context.workspace.load(entry)?;
        let quiet = context.json;
        let mut add = |what: &str, problems: Vec<String>| {
            let finding = Finding {
                module: module.name.clone(),
                what: what.to_owned(),
                problems,
            };
            if !quiet {
                show(&finding);
            }
            findings.push(finding);
        };
        add("the manifest is sound", manifest_problems(&module)?);
        add(
            "the stubs are those of the library, without solutions",
            stub_problems(&module)?,
        );
        let found = exam_problems(&module, &mut add)?;
        if !quiet {
            print_matrix(&found);
        }
        kills.extend(found);
    }
    let problems = findings
        .iter()
        .map(|finding| finding.problems.len())
        .sum::<usize>();
    if context.json {
        ui::print_json(
            &json!({ "sound": problems == 0, "findings": findings, "kill_matrix": kills }),
        );
    } else {
        findings[..2].iter().for_each(show);
        ui::say(if problems == 0 {
            paint(GOOD, "\nThe course is sound.")
        } else {
            paint(
                BAD,
                format!("\n{} to repair.", ui::count(problems, "problem")),
            )
        });
    }
    Ok(if problems == 0 {
        Outcome::Good
    } else {
        Outcome::WorkLeft
    })
}

/// Why no release can be made of the whole course, if none can.
fn release_problems(context: &Context) -> Vec<String> {
    match Release::make(&context.workspace, &[]) {
        Ok(_) => Vec::new(),
        Err(error) => format!("{error:#}").lines().map(str::to_owned).collect(),
    }
}

fn show(finding: &Finding) {
    let (style, mark) = if finding.problems.is_empty() {
        (GOOD, "✓")
    } else {
        (BAD, "✗")
    };
    ui::say(format!(
        "{} {} {}",
        paint(style, mark),
        paint(FAINT, &finding.module),
        finding.what
    ));
    for problem in &finding.problems {
        ui::say(format!("    {problem}"));
    }
}

/// Points, hints, files, items and holes agree.
fn manifest_problems(module: &Module) -> Result<Vec<String>> {
    let mut problems = module.manifest.problems();
    let twins = module.twin_files()?;
    let mut holes: Vec<(String, String)> = Vec::new();
    for twin in &twins {
        match Marked::parse(&twin.text) {
            Ok(marked) => holes.extend(
                marked
                    .holes()
                    .iter()
                    .map(|hole| (twin.name.clone(), hole.tag.to_owned())),
            ),
            Err(error) => problems.push(format!("{}:{}: {}", twin.shown, error.line, error.what)),
        }
    }
    for file in &module.manifest.files {
        if !holes.iter().any(|(holder, _)| holder == file) {
            problems.push(format!("{file} is listed but has no hole"));
        }
    }
    for (file, tag) in &holes {
        match module.manifest.exercise_of_hole(tag) {
            None => problems.push(format!("{file}: hole {tag} belongs to no exercise")),
            Some(_) if holes.iter().filter(|(_, other)| other == tag).count() > 1 => {
                problems.push(format!("{file}: hole {tag} is there twice"));
            }
            Some(_) => {}
        }
    }
    for exercise in &module.manifest.exercises {
        if !holes.iter().any(|(_, tag)| exercise_id(tag) == exercise.id) {
            problems.push(format!("exercise {} has no hole", exercise.id));
        }
        let text = twins
            .iter()
            .find(|twin| twin.name == exercise.file)
            .map(|twin| &twin.text);
        if text.is_none_or(|text| line_of_item(text, &exercise.item).is_none()) {
            problems.push(format!("{} has no `{}`", exercise.file, exercise.item));
        }
    }
    Ok(problems)
}

/// Up to date, every hole empty, and no body of the library anywhere.
fn stub_problems(module: &Module) -> Result<Vec<String>> {
    let mut problems: Vec<String> = stubs::find_stale(module)?
        .iter()
        .map(|stale| format!("{} is out of date: {}", stale.path, ui::advice("dev stubs")))
        .collect();
    for twin in module.twin_files()? {
        let shown = module.shown(&twin.name);
        let Ok(stub) = std::fs::read_to_string(module.root.join(&shown)) else {
            continue;
        };
        let (Ok(reference), Ok(marked)) = (Marked::parse(&twin.text), Marked::parse(&stub)) else {
            continue;
        };
        for hole in marked.holes() {
            if !marked.is_unfinished(hole) {
                problems.push(format!(
                    "{shown}:{}: hole {} is not empty",
                    hole.line(),
                    hole.tag
                ));
            }
        }
        let squeezed = squeeze(&stub);
        for hole in reference.holes() {
            let body = squeeze(&reference.body(hole));
            // A body of a few words may well be written elsewhere for good reasons.
            if body.len() > 60 && squeezed.contains(&body) {
                problems.push(format!("{shown} holds the solution of {}", hole.tag));
            }
        }
    }
    Ok(problems)
}

fn squeeze(text: &str) -> String {
    text.chars()
        .filter(|letter| !letter.is_whitespace())
        .collect()
}

/// Everything that needs compiling: stub, reference, wrong solutions, the recorded exam.
fn exam_problems(module: &Module, add: &mut impl FnMut(&str, Vec<String>)) -> Result<Vec<Kill>> {
    let dependencies = dependencies::build(module)?;
    let proven = Proven::build(module, &dependencies)?;
    let record = expect::ask(&proven.reference, SEEDS[0], "all")?;
    add(
        "every exercise has public and hidden checks",
        coverage_problems(module, &record),
    );

    let stub = mistakes::must_build(module, &dependencies, &stub(module))?;
    let passed = passing(&stub, &record)?;
    let names = passed
        .into_iter()
        .map(|id| format!("{id} passes on the stub"));
    add("every check fails on the stub", names.collect());

    let mut problems = Vec::new();
    for seed in SEEDS {
        problems.extend(reference_problems(&proven.reference, seed)?);
    }
    let what = format!(
        "the reference passes every check on {}",
        ui::count(SEEDS.len(), "seed")
    );
    add(&what, problems);

    let kills = kill_matrix(&record, &proven.mistakes)?;
    add(
        "every wrong solution is caught by the check that names it",
        escaped(&kills),
    );
    add("every check catches something", idle(&record, &kills));

    let path = format!("{}/public.json", module.manifest.exam);
    let now = std::fs::read_to_string(module.root.join(&path)).unwrap_or_default();
    let fresh = expect::public(module, &proven)? == now;
    let advice = format!("{path} is out of date: {}", ui::advice("dev expect"));
    add(
        "the recorded exam is up to date",
        if fresh { Vec::new() } else { vec![advice] },
    );
    Ok(kills)
}

/// The student's crate as it is given out, faced with the hidden checks too.
fn stub(module: &Module) -> Source {
    Source {
        who: "stub".into(),
        hidden: true,
        is_edited: false,
        ..student(module)
    }
}

/// Zero checks prove nothing.
fn coverage_problems(module: &Module, record: &ExamRecord) -> Vec<String> {
    let mut problems = Vec::new();
    for exercise in &module.manifest.exercises {
        for visibility in [Visibility::Public, Visibility::Hidden] {
            let some = record
                .checks
                .iter()
                .any(|check| check.exercise == exercise.id && check.visibility == visibility);
            if !some {
                let word = format!("{visibility:?}").to_lowercase();
                problems.push(format!("exercise {} has no {word} check", exercise.id));
            }
        }
    }
    for check in &record.checks {
        if check.cases.is_empty() {
            problems.push(format!("{} has no case", check.id));
        }
        if !module
            .manifest
            .exercises
            .iter()
            .any(|exercise| exercise.id == check.exercise)
        {
            problems.push(format!(
                "{} is of an exercise that does not exist",
                check.id
            ));
        }
    }
    problems
}

/// The reference answers without panic, and a second process answers the same.
fn reference_problems(reference: &Runner, seed: u64) -> Result<Vec<String>> {
    let record = expect::ask(reference, seed, "all")?;
    let mut problems = Vec::new();
    for check in &record.checks {
        let panic = check.cases.iter().find_map(|case| match &case.expected {
            Reply::Panicked(panic) => Some(panic),
            _ => None,
        });
        if let Some(panic) = panic {
            problems.push(format!("{} (seed {seed}): {panic}", check.id));
        }
    }
    let passed = passing(reference, &record)?;
    for check in &record.checks {
        if !passed.contains(&check.id) {
            problems.push(format!("{} fails on the reference (seed {seed})", check.id));
        }
    }
    Ok(problems)
}

fn passing(runner: &Runner, record: &ExamRecord) -> Result<Vec<String>> {
    let replies = expect::replies(runner, record, "all")?;
    let pairs = record.checks.iter().zip(replies);
    Ok(pairs
        .filter(|(check, replies)| {
            let replies = replies.as_deref();
            replies.is_some_and(|replies| judge_check(check, replies).passed)
        })
        .map(|(check, _)| check.id.clone())
        .collect())
}

fn kill_matrix(record: &ExamRecord, catalogue: &[(Mistake, Runner)]) -> Result<Vec<Kill>> {
    let kills = parallel::map(catalogue, |(mistake, runner)| {
        let passed = passing(runner, record)?;
        let caught: Vec<String> = record
            .checks
            .iter()
            .map(|check| check.id.clone())
            .filter(|id| !passed.contains(id))
            .collect();
        Ok(Kill {
            mistake: mistake.slug.clone(),
            hole: mistake.hole.clone(),
            caught_by: mistake.caught_by.clone(),
            is_caught: caught.contains(&mistake.caught_by),
            caught,
        })
    });
    kills.into_iter().collect()
}

fn escaped(kills: &[Kill]) -> Vec<String> {
    if kills.is_empty() {
        return vec!["the catalogue of wrong solutions is empty".into()];
    }
    kills
        .iter()
        .filter(|kill| !kill.is_caught)
        .map(|kill| format!("{} is not caught by {}", kill.mistake, kill.caught_by))
        .collect()
}

fn idle(record: &ExamRecord, kills: &[Kill]) -> Vec<String> {
    record
        .checks
        .iter()
        .filter(|check| !kills.iter().any(|kill| kill.caught.contains(&check.id)))
        .map(|check| format!("{} catches no wrong solution", check.id))
        .collect()
}

/// One row per wrong solution: the check that names it, and how many others catch it too.
fn print_matrix(kills: &[Kill]) {
    let slug = kills
        .iter()
        .map(|kill| kill.mistake.len())
        .max()
        .unwrap_or(0);
    let check = kills
        .iter()
        .map(|kill| kill.caught_by.len())
        .max()
        .unwrap_or(0);
    ui::say(format!("\n{}", paint(STRONG, "Kill matrix")));
    for kill in kills {
        let (style, mark) = if kill.is_caught {
            (GOOD, "caught ")
        } else {
            (BAD, "ESCAPED")
        };
        let others = kill
            .caught
            .iter()
            .filter(|id| **id != kill.caught_by)
            .count();
        ui::say(format!(
            "  {:<6} {:<slug$}  {} by {:<check$}  {}",
            kill.hole,
            kill.mistake,
            paint(style, mark),
            kill.caught_by,
            paint(FAINT, format!("and {} more", others))
        ));
    }
    let killed = kills.iter().filter(|kill| kill.is_caught).count();
    ui::say(format!(
        "  {killed} of {} caught by the check that names them\n",
        kills.len()
    ));
}
