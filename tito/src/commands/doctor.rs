//! `tito doctor`: is this machine ready? Every advice is a command that works.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde::Serialize;
use serde_json::json;

use super::Context;
use crate::failure::Outcome;
use crate::ui::{self, BAD, CODE, FAINT, GOOD, OPEN, STRONG, paint};

/// Room that a first build of everything needs.
const ROOM: u64 = 3 << 30;

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Good,
    /// Works, but something would make life better.
    Advice,
    /// Does not work.
    Broken,
}

#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    state: State,
    found: String,
    /// A command that repairs it.
    repair: Option<String>,
}

fn good(what: &'static str, found: impl Into<String>) -> Finding {
    Finding {
        what,
        state: State::Good,
        found: found.into(),
        repair: None,
    }
}

fn wrong(what: &'static str, state: State, found: impl Into<String>, repair: &str) -> Finding {
    Finding {
        what,
        state,
        found: found.into(),
        repair: (!repair.is_empty()).then(|| repair.to_owned()),
    }
}

/// Looks at everything the course needs.
///
/// # Errors
///
/// None of its own: what is broken is a finding, and the exit code is 3.
pub fn run(context: &Context) -> Result<Outcome> {
    let root = &context.workspace.root;
    let mut findings = vec![
        compiler(root),
        cargo(root),
        formatter(root),
        analyzer(root),
        writable(root),
    ];
    findings.extend(room(root));
    findings.push(offline(root));
    findings.push(processor());
    let broken = findings
        .iter()
        .any(|finding| finding.state == State::Broken);
    if context.json {
        ui::print_json(&json!({ "ready": !broken, "findings": findings }));
    } else {
        for finding in &findings {
            let (style, mark) = match finding.state {
                State::Good => (GOOD, "good   "),
                State::Advice => (OPEN, "advice "),
                State::Broken => (BAD, "broken "),
            };
            ui::say(format!(
                "{} {:<16} {}",
                paint(style, mark),
                finding.what,
                paint(FAINT, &finding.found)
            ));
            if let Some(repair) = &finding.repair {
                ui::say(format!("        {}", paint(CODE, repair)));
            }
        }
        ui::say(if broken {
            paint(BAD, "\nNot ready: repair what is broken, then ask again.")
        } else {
            format!(
                "\n{} See where you are and what is next: {}",
                paint(STRONG, "Ready."),
                ui::advice("status")
            )
        });
    }
    Ok(if broken {
        Outcome::Code(3)
    } else {
        Outcome::Good
    })
}

fn compiler(root: &Path) -> Finding {
    let what = "compiler";
    let wanted = wanted_version(root);
    let Some(text) = output(root, "rustc", &["--version"]) else {
        return wrong(
            what,
            State::Broken,
            "rustc is not there",
            "rustup toolchain install stable",
        );
    };
    match (version(&text), wanted) {
        (Some(found), Some(wanted)) if found < wanted => wrong(
            what,
            State::Broken,
            format!("{text}; the course needs {}.{}", wanted.0, wanted.1),
            "rustup update stable",
        ),
        _ => good(what, text),
    }
}

fn cargo(root: &Path) -> Finding {
    match output(root, &super::cargo().to_string_lossy(), &["--version"]) {
        Some(text) => good("cargo", text),
        None => wrong(
            "cargo",
            State::Broken,
            "cargo is not there",
            "rustup toolchain install stable",
        ),
    }
}

fn formatter(root: &Path) -> Finding {
    match output(root, "rustfmt", &["--version"]) {
        Some(text) => good("formatter", text),
        None => wrong(
            "formatter",
            State::Advice,
            "rustfmt is not there",
            "rustup component add rustfmt",
        ),
    }
}

fn analyzer(root: &Path) -> Finding {
    match output(root, "rust-analyzer", &["--version"]) {
        Some(text) => good("rust-analyzer", text),
        None => wrong(
            "rust-analyzer",
            State::Advice,
            "not on the path (your editor may bring its own)",
            "rustup component add rust-analyzer",
        ),
    }
}

fn writable(root: &Path) -> Finding {
    let probe = root.join(format!(".tito-probe-{}.tmp", std::process::id()));
    let written = std::fs::write(&probe, "x");
    let _ = std::fs::remove_file(&probe);
    match written {
        Ok(()) => good("folder", root.display().to_string()),
        Err(error) => wrong(
            "folder",
            State::Broken,
            format!("cannot write in {}: {error}", root.display()),
            &if cfg!(unix) && error.kind() == std::io::ErrorKind::PermissionDenied {
                format!("chmod -R u+w '{}'", root.display())
            } else {
                String::new()
            },
        ),
    }
}

#[cfg(unix)]
fn room(root: &Path) -> Option<Finding> {
    let disk = rustix::fs::statvfs(root).ok()?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let found = format!("{:.1} GiB free", free as f64 / f64::from(1 << 30));
    Some(if free < ROOM {
        wrong("disk", State::Advice, found, "cargo clean")
    } else {
        good("disk", found)
    })
}

#[cfg(not(unix))]
fn room(_root: &Path) -> Option<Finding> {
    None
}

/// All crates of the lock file are on this disk, so that everything builds without a network.
fn offline(root: &Path) -> Finding {
    let what = "offline";
    let host = output(root, "rustc", &["-vV"]).and_then(|text| {
        let host = text.lines().find_map(|line| line.strip_prefix("host: "))?;
        Some(host.to_owned())
    });
    let mut arguments = vec!["fetch", "--offline", "--locked", "--quiet"];
    if let Some(host) = &host {
        arguments.extend(["--target", host]);
    }
    match output(root, &super::cargo().to_string_lossy(), &arguments) {
        Some(_) => good(what, "every crate the course uses is on this disk"),
        None => wrong(
            what,
            State::Advice,
            "some crates are not downloaded yet; once, with a network:",
            "cargo fetch",
        ),
    }
}

fn processor() -> Finding {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let features = features();
    let features = if features.is_empty() {
        "no integer instructions that we use: the portable kernels will run".to_owned()
    } else {
        features.join(" ")
    };
    good(
        "processor",
        format!("{}, {features}", ui::count(threads, "thread")),
    )
}

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
fn features() -> Vec<&'static str> {
    use std::arch::is_x86_feature_detected as has;
    [
        ("avx2", has!("avx2")),
        ("fma", has!("fma")),
        ("f16c", has!("f16c")),
        ("avx512bw", has!("avx512bw")),
        ("avx512vnni", has!("avx512vnni")),
        ("avxvnni", has!("avxvnni")),
        ("avx512bf16", has!("avx512bf16")),
        ("amx", has_matrix_unit()),
    ]
    .into_iter()
    .filter_map(|(name, there)| there.then_some(name))
    .collect()
}

/// Whether the system names the matrix unit; the standard library does not ask for it yet.
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
fn has_matrix_unit() -> bool {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpus.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|line| line.split_whitespace().any(|flag| flag == "amx_int8"))
}

#[cfg(target_arch = "aarch64")]
fn features() -> Vec<&'static str> {
    use std::arch::is_aarch64_feature_detected as has;
    [
        ("neon", has!("neon")),
        ("dotprod", has!("dotprod")),
        ("i8mm", has!("i8mm")),
    ]
    .into_iter()
    .filter_map(|(name, there)| there.then_some(name))
    .collect()
}

#[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
fn features() -> Vec<&'static str> {
    Vec::new()
}

/// The output of a program that succeeded.
fn output(root: &Path, program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(root)
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// `rust-version` of the workspace's manifest.
fn wanted_version(root: &Path) -> Option<(u32, u32)> {
    let text = std::fs::read_to_string(root.join("Cargo.toml")).ok()?;
    let manifest: toml::Table = text.parse().ok()?;
    let wanted = manifest
        .get("workspace")?
        .get("package")?
        .get("rust-version")?
        .as_str()?;
    version(&format!("rustc {wanted}"))
}

/// `rustc 1.95.0 (...)` is (1, 95).
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split_whitespace().nth(1)?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn a_version_is_its_first_two_numbers() {
        assert_eq!(
            version("rustc 1.95.0 (59807616e 2026-04-14)"),
            Some((1, 95))
        );
        assert_eq!(version("rustc 1.95"), Some((1, 95)));
        assert_eq!(version("rustc"), None);
    }
}
