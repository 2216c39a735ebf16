//! What only a student's repository has: its readme, the editor's settings, the workflow that tests every push.

use std::fmt::Write;

use anyhow::Result;
use serde_json::json;

use super::files::Files;
use crate::workspace::Module;

const README: &str = include_str!("readme.md");
const WORKFLOW: &str = include_str!("workflow.yml");

/// Adds them.
///
/// # Errors
///
/// None in practice.
pub fn add(modules: &[&Module], files: &mut Files) -> Result<()> {
    let mut add = |path: &str, text: String| files.insert(path.into(), text.into_bytes());
    let first = modules.first().map_or("", |module| module.name.as_str());
    let number = modules.first().map_or(0, |module| module.manifest.number);
    let mut table = String::new();
    let mut steps = String::new();
    for module in modules {
        writeln!(
            table,
            "| `{}` | {} | [the lesson]({}) |",
            module.name,
            module.manifest.title,
            module.shown("ABOUT.md")
        )?;
        writeln!(
            steps,
            "      - name: {name}\n        if: always()\n        run: cargo tito test {name} --all",
            name = module.name
        )?;
    }
    let readme = README
        .replace("{modules}\n", &table)
        .replace("{first}", first)
        .replace("{number}", &number.to_string());
    add("README.md", readme);
    add(
        ".github/workflows/course.yml",
        WORKFLOW.replace("{steps}\n", &steps),
    );
    add(
        ".vscode/extensions.json",
        pretty(&json!({ "recommendations": ["rust-lang.rust-analyzer"] }))?,
    );
    add(
        ".vscode/settings.json",
        pretty(&json!({
            "editor.formatOnSave": true,
            "files.watcherExclude": { "**/target/**": true, "**/.tito/**": true },
            "rust-analyzer.cargo.targetDir": true,
            "rust-analyzer.check.command": "clippy",
            "rust-analyzer.check.workspace": false,
        }))?,
    );
    let tasks: Vec<_> = modules
        .iter()
        .map(|module| {
            json!({
                "label": format!("tito test {}", module.name),
                "type": "shell",
                "command": format!("cargo tito test {}", module.name),
                "group": "test",
                "problemMatcher": ["$rustc"],
            })
        })
        .collect();
    add(
        ".vscode/tasks.json",
        pretty(&json!({ "version": "2.0.0", "tasks": tasks }))?,
    );
    Ok(())
}

fn pretty(value: &serde_json::Value) -> Result<String> {
    Ok(format!("{}\n", serde_json::to_string_pretty(value)?))
}
