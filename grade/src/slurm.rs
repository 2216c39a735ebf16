//! Past one machine: rounds of shards, run as an array job of Slurm.
//!
//! ```text
//! RESULTS/slurm/round-1/shards.json    which students each task grades
//! RESULTS/slurm/round-1/grade.sbatch   the array job: one task per shard
//! RESULTS/slurm/round-1/logs/          what the tasks print
//! RESULTS/students/<id>.json           written by the task, beside and renamed: a killed or repeated task is harmless
//! ```
//!
//! Several students go into one task, because a task costs the scheduler about as much as a student costs a processor. The merge depends on the array with `afterany`, so that
//! one task that fails does not block the report; it names what is missing, and `resume` submits only that as the next round.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::Args;
use serde::{Deserialize, Serialize};
use tito::failure::Failure;
use tito::lock::cannot_write;
use tito::snapshot::write_atomically;

use crate::model::{Plan, Status, SubmissionResult};
use crate::results::Results;
use crate::seal;

/// Slurm's own limit of array indices, unless the site raised it: `MaxArraySize` is 1001.
const MOST_TASKS: usize = 1_000;

/// What a cluster is asked for.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Grade on a Slurm cluster: write an array job, submit it and a merge that waits for it.
    #[arg(long)]
    pub slurm: bool,
    /// Slurm: students per task.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub per_task: usize,
    /// Slurm: tasks that run at the same time; without it, as many as the cluster lets.
    #[arg(long, value_name = "N")]
    pub at_once: Option<usize>,
    /// Slurm: an option for `sbatch`, such as `--partition=short`; may be repeated.
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    pub sbatch: Vec<String>,
    /// Slurm: write the scripts and submit nothing.
    #[arg(long, requires = "slurm")]
    pub no_submit: bool,
}

/// Students of a round, task by task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shards {
    /// Ids of submissions.
    pub tasks: Vec<Vec<String>>,
}

/// A round: some students, cut into tasks.
#[derive(Clone, Debug)]
pub struct Round {
    /// From 1.
    pub number: u32,
    /// Its folder.
    pub folder: PathBuf,
    /// Who is graded by which task.
    pub shards: Shards,
}

/// Job ids that Slurm gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Submitted {
    /// Of the array.
    pub array: String,
    /// Of the merge.
    pub merge: String,
}

/// The students of a plan without a result, or with one that the machine failed on, that somebody changed or that is of another run.
///
/// # Errors
///
/// An environment error if a result cannot be read.
pub fn missing(plan: &Plan, results: &Results) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for submission in &plan.submissions {
        let result = results.get(&submission.id)?;
        let counts = |result: SubmissionResult| {
            result.status != Status::Fault
                && seal::problems(&result).is_empty()
                && seal::strangeness(&result, plan, &submission.id).is_empty()
        };
        if !result.is_some_and(counts) {
            ids.push(submission.id.clone());
        }
    }
    Ok(ids)
}

/// Students cut into tasks of `per_task`, or more where there would be too many tasks.
pub fn cut(ids: &[String], per_task: usize) -> Shards {
    let per_task = per_task.max(1).max(ids.len().div_ceil(MOST_TASKS));
    Shards {
        tasks: ids.chunks(per_task).map(<[String]>::to_vec).collect(),
    }
}

impl Round {
    /// The round after those that are there.
    ///
    /// # Errors
    ///
    /// An environment error if its files cannot be written.
    pub fn write(
        results: &Results,
        ids: &[String],
        options: &Options,
        call: &Call,
    ) -> Result<Round> {
        let number = (1..)
            .find(|number| !folder(results, *number).exists())
            .unwrap_or(u32::MAX);
        let round = Round {
            number,
            folder: folder(results, number),
            shards: cut(ids, options.per_task),
        };
        let logs = round.folder.join("logs");
        fs::create_dir_all(&logs).map_err(|error| cannot_write(&logs, &error))?;
        let shards = serde_json::to_vec_pretty(&round.shards)?;
        for (name, content) in [
            ("shards.json", shards),
            ("grade.sbatch", round.script(options, call).into_bytes()),
        ] {
            let path = round.folder.join(name);
            write_atomically(&path, &content).map_err(|error| cannot_write(&path, &error))?;
        }
        Ok(round)
    }

    /// A round that was written.
    ///
    /// # Errors
    ///
    /// Usage, if there is none of this number; an environment error if it is damaged.
    pub fn load(results: &Results, number: u32) -> Result<Round> {
        let folder = folder(results, number);
        let path = folder.join("shards.json");
        let shown = path.display();
        let text = fs::read(&path).map_err(|error| {
            Failure::usage(format!(
                "there is no round {number}: cannot read {shown}: {error}"
            ))
        })?;
        let shards = serde_json::from_slice(&text)
            .map_err(|error| Failure::environment(format!("{shown} is damaged: {error}")))?;
        Ok(Round {
            number,
            folder,
            shards,
        })
    }

    /// The students of one task.
    ///
    /// # Errors
    ///
    /// Usage, if there is no such task.
    pub fn task(&self, index: usize) -> Result<&[String]> {
        let tasks = &self.shards.tasks;
        Ok(tasks.get(index).map(Vec::as_slice).ok_or_else(|| {
            Failure::usage(format!(
                "round {} has tasks 0 to {}; there is no task {index}",
                self.number,
                tasks.len().saturating_sub(1)
            ))
        })?)
    }

    /// The array job. Its paths are quoted; what it prints goes to `logs`, seen from the round's folder.
    fn script(&self, options: &Options, call: &Call) -> String {
        let last = self.shards.tasks.len().saturating_sub(1);
        let at_once = options
            .at_once
            .map_or(String::new(), |number| format!("%{}", number.max(1)));
        let most = self.shards.tasks.iter().map(Vec::len).max().unwrap_or(0);
        // A minute for each student and five for preparing: none takes as long unless its checks run into their limits.
        let minutes = most + 5;
        format!(
            "#!/bin/bash\n\
             # Submit it in this folder: sbatch grade.sbatch\n\
             #SBATCH --job-name=tito-grade\n\
             #SBATCH --array=0-{last}{at_once}\n\
             #SBATCH --cpus-per-task=1\n\
             #SBATCH --mem=2G\n\
             #SBATCH --time={}:{:02}:00\n\
             #SBATCH --output=logs/%A_%a.out\n\
             exec {} shard {} --round {} --index \"$SLURM_ARRAY_TASK_ID\"\n",
            minutes / 60,
            minutes % 60,
            call.program(),
            quote(&call.results.to_string_lossy()),
            self.number
        )
    }

    /// Submits the array and the merge that waits for it.
    ///
    /// # Errors
    ///
    /// An environment error that says what `sbatch` said.
    pub fn submit(&self, options: &Options, call: &Call) -> Result<Submitted> {
        let array = self.sbatch(options, &["grade.sbatch".into()])?;
        let merge = format!(
            "exec {} merge {}",
            call.program(),
            quote(&call.results.to_string_lossy())
        );
        let merge = self.sbatch(
            options,
            &[
                "--job-name=tito-grade-merge".into(),
                "--output=logs/merge.out".into(),
                "--time=0:05:00".into(),
                format!("--dependency=afterany:{array}"),
                format!("--wrap={merge}"),
            ],
        )?;
        Ok(Submitted { array, merge })
    }

    fn sbatch(&self, options: &Options, arguments: &[String]) -> Result<String> {
        let output = Command::new("sbatch")
            .arg("--parsable")
            .args(&options.sbatch)
            .args(arguments)
            .current_dir(&self.folder)
            .output()
            .map_err(|error| {
                Failure::environment(format!("cannot start sbatch: {error}")).help(format!(
                    "is this a node of the cluster that jobs are submitted from? The job is written: {}",
                    self.folder.join("grade.sbatch").display()
                ))
            })?;
        if !output.status.success() {
            return Err(Failure::environment(format!(
                "sbatch refused: {}",
                crate::clean::bytes(&output.stderr).trim()
            ))
            .help(format!(
                "the job is written: {}",
                self.folder.join("grade.sbatch").display()
            ))
            .into());
        }
        let text = String::from_utf8(output.stdout).context("sbatch answered with bytes")?;
        // `--parsable` prints the id, and behind a semicolon the cluster's name.
        let id = text.trim().split(';').next().unwrap_or_default().to_owned();
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Failure::environment(format!(
                "sbatch did not answer with a job id: {}",
                crate::clean::line(&text, 80)
            ))
            .into());
        }
        Ok(id)
    }
}

/// How a task calls this program: the built one, by its path, so that no task compiles it.
#[derive(Clone, Debug)]
pub struct Call {
    /// This program.
    pub program: PathBuf,
    /// The course.
    pub workspace: PathBuf,
    /// The results, absolute.
    pub results: PathBuf,
}

impl Call {
    fn program(&self) -> String {
        format!(
            "{} --workspace {}",
            quote(&self.program.to_string_lossy()),
            quote(&self.workspace.to_string_lossy())
        )
    }
}

fn folder(results: &Results, number: u32) -> PathBuf {
    let path: &Path = results.folder();
    path.join("slurm").join(format!("round-{number}"))
}

/// One word of a shell.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn ids(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("s{number}")).collect()
    }

    fn options() -> Options {
        Options {
            slurm: true,
            per_task: 3,
            at_once: Some(2),
            sbatch: Vec::new(),
            no_submit: true,
        }
    }

    #[test]
    fn every_student_is_in_one_task() {
        let shards = cut(&ids(8), 3);
        let sizes: Vec<usize> = shards.tasks.iter().map(Vec::len).collect();
        assert_eq!(sizes, [3, 3, 2]);
        assert_eq!(shards.tasks.concat(), ids(8));
        assert_eq!(cut(&ids(0), 3).tasks.len(), 0);
        assert_eq!(cut(&ids(2), 0).tasks.len(), 2);
        // 5000 students in tasks of one would be more tasks than an array has.
        let many = cut(&ids(5_000), 1);
        assert_eq!((many.tasks.len(), many.tasks[0].len()), (1_000, 5));
    }

    #[test]
    fn a_round_is_written_quoted_and_read_back() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let results = Results::new(folder.path().join("it's here"));
        let call = Call {
            program: "/opt/ti to".into(),
            workspace: "/course".into(),
            results: results.folder().to_owned(),
        };
        let round = Round::write(&results, &ids(8), &options(), &call).expect("writes");
        let script = fs::read_to_string(round.folder.join("grade.sbatch")).expect("there");
        assert!(script.contains("#SBATCH --array=0-2%2\n"), "{script}");
        assert!(script.contains("#SBATCH --time=0:08:00\n"), "{script}");
        assert!(
            script.contains("exec '/opt/ti to' --workspace '/course' shard '"),
            "{script}"
        );
        assert!(
            script.contains("it'\\''s here' --round 1 --index \"$SLURM_ARRAY_TASK_ID\""),
            "{script}"
        );
        let again = Round::load(&results, 1).expect("reads");
        assert_eq!(again.shards, round.shards);
        assert_eq!(again.task(2).expect("there"), ["s6", "s7"]);
        assert!(again.task(3).is_err() && Round::load(&results, 2).is_err());
        let second = Round::write(&results, &ids(1), &options(), &call).expect("writes");
        assert_eq!(second.number, 2);
    }

    #[test]
    fn what_has_no_result_or_a_fault_is_missing() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let results = Results::new(folder.path());
        let (plan, graded) = sample::class();
        for result in graded.iter().flatten() {
            results.keep(result).expect("writes");
        }
        assert_eq!(
            missing(&plan, &results).expect("reads"),
            ["fault", "not-yet"]
        );
    }
}
