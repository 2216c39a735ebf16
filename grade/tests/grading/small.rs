//! A handful of submissions, each of its own kind.

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tinytorch_exam::Visibility;
use tito_grade::model::{Layer, Origin, Outcome, Status};

use crate::class::{Body, Class, checks, failed, json};

const SOLVED: [&str; 4] = ["15.1", "15.2", "15.3", "15.4"];

fn write_class(class: &Class) {
    class.write("perfect", |_| Body::Solved);
    class.write("partial", |tag| {
        if SOLVED.contains(&tag) {
            Body::Solved
        } else {
            Body::Open
        }
    });
    class.write("leaver", |tag| match tag {
        "15.3" => Body::Text("println!(\"test result: ok\"); std::process::exit(0)\n".into()),
        _ => Body::Solved,
    });
    // Two holes that do not compile, in two files, and all others right.
    class.write("broken", |tag| match tag {
        "15.4" => Body::Text("codes.iter().map(|code| code * scale).collect()\n".into()),
        "15.7" => Body::Text("nonsense(\n".into()),
        _ => Body::Solved,
    });
    // As Canvas gives it: a late zip, with a folder inside and without one of the files.
    let path = class.submissions().join("doejane_LATE_1001_77_hw.zip");
    let mut zip = zip::ZipWriter::new(fs::File::create(path).unwrap());
    for (file, text) in class.files("jane", |_| Body::Solved) {
        if file != "entropy.rs" {
            let options = zip::write::SimpleFileOptions::default();
            zip.start_file(format!("15_quantization/{file}"), options)
                .unwrap();
            zip.write_all(text.as_bytes()).unwrap();
        }
    }
    zip.finish().unwrap();
    // The same unpacked, and with a mistake that everybody knows.
    let mistakes = class.mistakes();
    let mut known = mistakes.iter();
    let mistake = known.find(|one| one.slug == "truncation").unwrap();
    let files = class.files("ann", |tag| match tag == mistake.hole {
        true => Body::Text(mistake.body.clone()),
        false => Body::Solved,
    });
    for (number, (file, text)) in files.into_iter().enumerate() {
        let name = format!(
            "roeann_1002_{}_{}",
            80 + number,
            file.replace(".rs", "-1.rs")
        );
        fs::write(class.submissions().join(name), text).unwrap();
    }
    fs::create_dir(class.submissions().join("nothing")).unwrap();
}

#[test]
#[ignore = "compiles the course's libraries and seven submissions, a minute or more; .ci/run asks for it"]
fn every_kind_of_submission_gets_its_grade_and_a_killed_run_goes_on() {
    let class = Class::new();
    write_class(&class);

    // Killed while it prepares itself, as soon as there is a result, and some random time after one more: what is there is whole, and stays.
    let mut before: Vec<String> = Vec::new();
    for (results, milliseconds) in [(0, 700), (1, 0), (2, u64::from(std::process::id() % 400))] {
        let mut killed = class
            .run_command(&["--seed", "5", "--jobs", "1"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while class.results().ids().unwrap().len() < results
            && begun.elapsed() < Duration::from_secs(600)
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(milliseconds));
        killed.kill().unwrap();
        killed.wait().unwrap();
        let now = class.results().ids().unwrap();
        assert!(now.len() >= results && before.iter().all(|id| now.contains(id)));
        for id in &now {
            class.result(id);
        }
        before = now;
    }
    assert!(before.len() < 7, "it was killed too late to show anything");

    // It goes on with the same seed, without being told, and keeps what is there.
    let summary = class.run(&[]);
    assert_eq!(summary["seed"], 5, "{summary}");
    assert_eq!(
        summary["kept"].as_u64().unwrap() as usize,
        before.len(),
        "{summary}"
    );
    assert_eq!(summary["submissions"], 7);
    assert_eq!(summary["faults"], 0, "{summary}");

    let perfect = class.result("perfect");
    assert_eq!((perfect.points, perfect.bonus), (100.0, 5.0));
    assert_eq!(failed(&perfect), Vec::<String>::new());
    let layers = perfect.receipt.clone().unwrap().layers;
    assert!(layers.active.contains_key(&Layer::ProcessPerCheck));

    let points: u32 = class
        .module
        .manifest
        .exercises
        .iter()
        .filter(|exercise| SOLVED.contains(&exercise.id.as_str()))
        .map(|exercise| exercise.points)
        .sum();
    let partial = class.result("partial");
    assert_eq!((partial.points, partial.bonus), (f64::from(points), 0.0));
    let open = checks(&partial)
        .find(|check| check.id.starts_with("15.7/"))
        .unwrap();
    assert_eq!(open.outcome, Outcome::Unfinished("15.7".into()));

    // Leaving with exit code 0 is no answer, and costs only what needs the function.
    let leaver = class.result("leaver");
    let quantize = leaver
        .exercises
        .iter()
        .find(|exercise| exercise.id == "15.3")
        .unwrap();
    assert_eq!(quantize.points, 0.0);
    assert!(
        quantize
            .checks
            .iter()
            .any(|check| check.outcome == Outcome::Died)
    );
    assert!(leaver.points > 50.0);
    assert!(
        leaver
            .findings
            .iter()
            .any(|finding| finding.word == "process")
    );

    // Two holes are the stub's, the rest counts; the errors name the student's own lines.
    let broken = class.result("broken");
    let replaced: Vec<_> = broken
        .replaced
        .iter()
        .filter_map(|one| one.hole.as_deref())
        .collect();
    assert_eq!(replaced, ["15.7", "15.4"]);
    let of = |id: &str| {
        broken
            .exercises
            .iter()
            .find(|one| one.id == id)
            .unwrap()
            .points
    };
    assert_eq!(
        (of("15.1"), of("15.3"), of("15.4"), of("15.7")),
        (5.0, 10.0, 0.0, 0.0)
    );
    let text = fs::read_to_string(class.submissions().join("broken/quantize.rs")).unwrap();
    let line = text
        .lines()
        .position(|line| line.contains("code * scale"))
        .unwrap()
        + 1;
    assert!(
        broken
            .compile_errors
            .iter()
            .any(|error| error.line == Some(line)),
        "{:?}",
        broken.compile_errors
    );

    let jane = class.result("doejane_1001");
    assert_eq!(
        (jane.submission.origin, jane.submission.late),
        (Origin::Canvas, Some(true))
    );
    assert_eq!((jane.points, jane.bonus), (100.0, 0.0));
    assert_eq!(jane.submission.missing, ["entropy.rs"]);

    let nothing = class.result("nothing");
    assert_eq!((nothing.status, nothing.points), (Status::Refused, 0.0));
    assert!(!nothing.reasons.is_empty());

    a_known_mistake_is_named(&class);
    regrade(&class);
}

/// From loose files of a Canvas download to the pages that the student reads: the mistake is named, also where a hidden check found it; what
/// was asked and expected there is not.
fn a_known_mistake_is_named(class: &Class) {
    let result = class.result("roeann_1002");
    assert_eq!(result.submission.origin, Origin::Canvas);
    assert_eq!(result.submission.missing, [] as [String; 0]);
    let title = "truncation instead of rounding";
    let named: Vec<_> = checks(&result)
        .filter(|check| {
            let mistake = check.misconception.as_ref();
            mistake.is_some_and(|mistake| mistake.title == title)
        })
        .collect();
    let hidden: Vec<_> = named
        .iter()
        .filter(|check| check.visibility == Visibility::Hidden)
        .collect();
    assert!(!hidden.is_empty() && hidden.len() < named.len());

    let results = class.results().folder().display().to_string();
    let arguments = ["report", &results, "--format", "feedback"];
    let output = class.grader(&arguments).output().unwrap();
    assert_ne!(output.status.code(), Some(2), "{output:?}");
    let folder = class.results().folder().join("feedback/roeann_1002");
    let page = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    for name in ["feedback.md", "feedback.html"] {
        assert_eq!(page(name).matches(title).count(), named.len(), "{name}");
    }
    let told: serde_json::Value = serde_json::from_str(&page("feedback.json")).unwrap();
    let exercises = told["exercises"].as_array().unwrap();
    let told: Vec<&serde_json::Value> = exercises
        .iter()
        .flat_map(|exercise| exercise["checks"].as_array().unwrap())
        .collect();
    for check in &hidden {
        let own = told.iter().find(|one| one["id"] == check.id.as_str());
        let own = own.unwrap();
        assert_eq!(own["misconception"]["title"], title);
        assert_eq!(
            (&own["hidden"], &own["what"]),
            (&true.into(), &serde_json::Value::Null)
        );
        assert_eq!(own["message"], "the values are wrong");
        // Staff can look it up; of the case's note and of what was expected there is nothing in what the student gets.
        assert!(check.difference.is_some() && check.case.is_some());
        let keys: Vec<&String> = own.as_object().unwrap().keys().collect();
        let known = [
            "hidden",
            "id",
            "item",
            "message",
            "misconception",
            "of",
            "passed",
            "points",
            "what",
            "why",
        ];
        assert_eq!(keys, known);
    }
}

/// Nothing changed: nothing is compiled, nothing is asked. One file changed: one submission is graded, and the difference is explained.
fn regrade(class: &Class) {
    let again = class.run(&[]);
    assert_eq!(
        (again["kept"].as_u64(), again["graded"].as_u64()),
        (Some(7), Some(0))
    );

    let old = class.results().path("perfect").with_extension("old");
    fs::copy(class.results().path("perfect"), &old).unwrap();
    class.write("perfect", |tag| {
        if tag == "15.4" {
            Body::Open
        } else {
            Body::Solved
        }
    });
    let changed = class.run(&[]);
    assert_eq!(
        (changed["kept"].as_u64(), changed["graded"].as_u64()),
        (Some(6), Some(1))
    );
    assert!(class.result("perfect").points < 100.0);

    let (a, b) = (
        old.display().to_string(),
        class.results().path("perfect").display().to_string(),
    );
    let explained = json(
        class
            .grader(&["--json", "explain", &a, &b])
            .output()
            .unwrap(),
    );
    assert_eq!(
        explained["causes"].as_array().unwrap().len(),
        1,
        "{explained}"
    );
    assert!(
        explained["causes"][0]
            .as_str()
            .unwrap()
            .starts_with("the code"),
        "{explained}"
    );

    let verified = json(class.grader(&["--json", "verify", &b]).output().unwrap());
    assert_eq!(verified["same"], true, "{verified}");

    // Points that somebody wrote into the file are no grade: they are found by name, and graded again.
    let path = class.results().path("perfect");
    let points = class.result("perfect").points;
    let text = fs::read_to_string(&path).unwrap();
    let (from, to) = (format!("\"points\": {points:?}"), "\"points\": 100.0");
    assert!(text.contains(&from), "{from}");
    fs::write(&path, text.replacen(&from, to, 1)).unwrap();
    let verified = json(class.grader(&["--json", "verify", &b]).output().unwrap());
    assert_eq!(verified["same"], false, "{verified}");
    assert_eq!(verified["changes"][0]["what"], "points", "{verified}");
    let again = class.run(&[]);
    assert_eq!(again["changed"][0][0], "perfect", "{again}");
    assert_eq!(
        (again["kept"].as_u64(), again["graded"].as_u64()),
        (Some(6), Some(1))
    );
    assert_eq!(class.result("perfect").points, points);
}
