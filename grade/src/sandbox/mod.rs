//! A cell: a process that can compute, and answer on the pipes it was given, and nothing else.
//!
//! The supervisor starts *this program* again (`tito-grade sandbox-exec CELL -- PROGRAM`), in a process group of its own and with an empty
//! environment. That process is still ours and runs on one thread, so it can lock itself up with ordinary, safe calls, in this order,
//! and then becomes the program:
//!
//! ```text
//! uid and groups -> killed with its parent -> no_new_privs -> rlimits -> descriptors -> Landlock -> seccomp -> exec
//! ```
//!
//! The program that runs a submission's code is linked with a `main` of ours (`tito-grade-harness`), whose first act is a last
//! filter, so that not even `exec` is left; see there. Namespaces are not used: Docker refuses them, and nothing here needs them.

#[cfg(target_os = "linux")]
mod enter;
#[cfg(target_os = "linux")]
mod filters;
#[cfg(target_os = "linux")]
mod landlock;
mod probe;
mod supervise;
#[cfg(target_os = "linux")]
mod threads;
#[cfg(target_os = "linux")]
pub mod users;
#[cfg(target_os = "linux")]
mod waited;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

pub use probe::{Confinement, probe};
pub use supervise::{Ended, Ending, Wishes, run};
#[cfg(target_os = "linux")]
pub use threads::limit as thread_limit;

/// The first argument that makes this program a cell.
pub const ENTER: &str = "sandbox-exec";

/// The exit code of a cell that could not be locked. No evidence: what counts is whether the harness announced itself.
pub const NOT_LOCKED: u8 = 125;

/// The first of the users that cells run as when the supervisor is root: one per job, so that no two submissions share one. See `users`.
pub const FIRST_USER: u32 = 64_800;

/// The group that may read what cells need.
pub const GROUP: u32 = FIRST_USER;

/// The group of cells that link: it alone may read the compiled exam. Students' text is compiled by cells of [`GROUP`].
pub const LINK_GROUP: u32 = FIRST_USER - 1;

/// What a cell may do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// The user it runs as; `None` keeps the caller's.
    pub user: Option<u32>,
    /// Whether it belongs to [`LINK_GROUP`]; without a user of its own it keeps the caller's groups.
    #[serde(default)]
    pub links: bool,
    /// Files, and folders with all beneath, that it may read.
    pub read: Vec<PathBuf>,
    /// That it may read and execute.
    pub execute: Vec<PathBuf>,
    /// Files that it may become. That they cannot be read as well is up to their mode, and to the harness, which opens nothing.
    pub start: Vec<PathBuf>,
    /// Folders that it may do everything in.
    pub write: Vec<PathBuf>,
    /// Limits.
    pub limits: Limits,
    /// Whether it may start other programs: the compiler starts the linker.
    pub starts_programs: bool,
    /// Give up unless Landlock holds as well as it was found to hold when the supervisor looked.
    pub needs_landlock: Option<String>,
}

/// Limits of every process of a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory it may write to.
    pub memory: u64,
    /// Seconds of processor time.
    pub cpu_seconds: u64,
    /// Bytes of the longest file it may write; 0 for none.
    pub file: u64,
    /// Open files.
    pub files: u64,
    /// Processes and threads of its user, all together; `None` where the kernel's count is not known.
    pub processes: Option<u64>,
}

/// How to start cells.
#[derive(Clone, Debug)]
pub struct Launcher {
    program: PathBuf,
}

impl Launcher {
    /// Cells are started by this program: `tito-grade`.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
        }
    }

    /// Cells are started by the program that runs now.
    ///
    /// # Errors
    ///
    /// If the system does not tell which that is.
    pub fn myself() -> std::io::Result<Self> {
        Ok(Self::new(std::env::current_exe()?))
    }

    /// A command that becomes `program` once it is locked up. The environment is empty.
    ///
    /// # Panics
    ///
    /// Never: a cell is always JSON.
    pub fn command(&self, cell: &Cell, program: &Path) -> Command {
        let cell = serde_json::to_string(cell).unwrap_or_default();
        let mut command = Command::new(&self.program);
        command
            .arg(ENTER)
            .arg(cell)
            .arg("--")
            .arg(program)
            .env_clear();
        command
    }
}

/// If the arguments say so, becomes the program in the cell, and does not come back.
///
/// Returns `None` if this is no cell; an exit code and a message if the cell cannot be locked.
#[cfg(target_os = "linux")]
pub fn become_cell() -> Option<std::process::ExitCode> {
    use std::os::unix::process::CommandExt;
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != ENTER {
        return None;
    }
    let why = (|| -> Result<(), String> {
        let text = arguments.next().ok_or("no cell was described")?;
        let cell: Cell = serde_json::from_str(&text.to_string_lossy())
            .map_err(|error| format!("the description of the cell is damaged: {error}"))?;
        arguments.next();
        let program = arguments.next().ok_or("no program was named")?;
        let state = enter::enter(&cell)?;
        if program == probe::PROGRAM {
            println!("{}", probe::report(&state));
            return Ok(());
        }
        if let Some(needed) = &cell.needs_landlock
            && needed != &state.landlock
        {
            return Err(format!(
                "Landlock: {}, but {needed} was found before",
                state.landlock
            ));
        }
        let error = Command::new(&program).args(arguments).exec();
        Err(format!("{}: {error}", program.to_string_lossy()))
    })();
    Some(match why {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("cell: {why}");
            std::process::ExitCode::from(NOT_LOCKED)
        }
    })
}

/// There are no cells elsewhere.
#[cfg(not(target_os = "linux"))]
pub fn become_cell() -> Option<std::process::ExitCode> {
    None
}
