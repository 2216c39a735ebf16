//! Locking up: the steps of the module's head, in their order.

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::process::{
    Resource, Rlimit, Signal, getppid, set_parent_process_death_signal, setrlimit,
};
use serde::{Deserialize, Serialize};

use super::{Cell, GROUP, LINK_GROUP, Limits, filters, landlock};

/// What held in the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Who it is now.
    pub user: u32,
    /// True if its user is not its parent's.
    pub is_dropped: bool,
    /// How well Landlock holds: `full (ABI 6)`.
    pub landlock: String,
}

/// Locks this process up. It must have one thread.
///
/// # Errors
///
/// The step that failed; the process must then end.
pub fn enter(cell: &Cell) -> Result<State, String> {
    let step = |name: &'static str| move |error: &dyn std::fmt::Display| format!("{name}: {error}");
    let is_dropped = match cell.user {
        Some(user) => {
            drop_to(user, if cell.links { LINK_GROUP } else { GROUP })
                .map_err(|error| step("giving up root")(&error))?;
            true
        }
        None => false,
    };
    // Changing the user clears this, so it comes after.
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| step("ending with the supervisor")(&error))?;
    if getppid().is_none_or(|parent| parent.is_init()) {
        return Err("the supervisor has ended".into());
    }
    rustix::thread::set_no_new_privs(true).map_err(|error| step("no_new_privs")(&error))?;
    limit(&cell.limits).map_err(|error| step("limits")(&error))?;
    close_fds::set_fds_cloexec(3, &[]);
    let landlock = landlock::restrict(cell).map_err(|error| step("Landlock")(&error))?;
    filters::install(cell.starts_programs).map_err(|error| step("seccomp")(&error))?;
    Ok(State {
        user: nix::unistd::getuid().as_raw(),
        is_dropped,
        landlock,
    })
}

fn drop_to(user: u32, group: u32) -> nix::Result<()> {
    setgroups(&[])?;
    let group = Gid::from_raw(group);
    setresgid(group, group, group)?;
    let user = Uid::from_raw(user);
    setresuid(user, user, user)
}

fn limit(limits: &Limits) -> rustix::io::Result<()> {
    let mut all = vec![
        (Resource::Data, limits.memory),
        // Reserved and not used: threads and allocators ask for much of it.
        (Resource::As, limits.memory.saturating_mul(4)),
        (Resource::Cpu, limits.cpu_seconds),
        (Resource::Fsize, limits.file),
        (Resource::Nofile, limits.files),
        (Resource::Core, 0),
        (Resource::Memlock, 0),
        (Resource::Msgqueue, 0),
    ];
    all.extend(limits.processes.map(|most| (Resource::Nproc, most)));
    for (resource, most) in all {
        let most = Some(most);
        setrlimit(
            resource,
            Rlimit {
                current: most,
                maximum: most,
            },
        )?;
    }
    Ok(())
}
