//! How many threads a cell may start where it has no user of its own.
//!
//! The kernel counts the threads of a user, all processes together. So a cell that shares its user with others is given what these have, and
//! [`SPARE`] more. The supervisor counts the cell's own threads and ends it at far fewer; but it needs processor time for that, and on a machine with much
//! to do sixteen thousand threads were there before it had its turn. The kernel is never late.

/// Threads that a user may start beyond those there are: for the cells, and for whatever else that user does meanwhile.
pub const SPARE: u64 = 2048;

/// The limit for a cell of the user who runs this program.
pub fn limit() -> u64 {
    of_user(rustix::process::getuid().as_raw()).saturating_add(SPARE)
}

/// Threads of all processes of a user, as far as they are to be seen: from inside a container those outside are not.
fn of_user(user: u32) -> u64 {
    let processes = std::fs::read_dir("/proc").into_iter().flatten();
    let processes = processes.filter_map(|entry| {
        let entry = entry.ok()?;
        let is_process = entry.file_name().to_str()?.parse::<u32>().is_ok();
        is_process.then(|| entry.path().join("status"))
    });
    // One that ended meanwhile has none.
    let statuses = processes.filter_map(|path| std::fs::read_to_string(path).ok());
    statuses.filter_map(|status| threads(&status, user)).sum()
}

/// The threads of a process, from its status; nothing if it is another user's.
fn threads(status: &str, user: u32) -> Option<u64> {
    let word = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()
    };
    // The first is the real user, by whom the kernel counts.
    let own = word("Uid:")?.parse() == Ok(user);
    own.then(|| word("Threads:")?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_one_user_are_counted() {
        let status = "Name:\tx y\nUid:\t1000\t0\t0\t0\nThreads:\t17\n";
        assert_eq!(threads(status, 1000), Some(17));
        assert_eq!(threads(status, 0), None);
        assert_eq!(threads("", 0), None);
    }

    #[test]
    fn more_threads_count_more() {
        let user = rustix::process::getuid().as_raw();
        let (send, wait) = std::sync::mpsc::channel::<()>();
        let wait = std::sync::Arc::new(std::sync::Mutex::new(wait));
        // Other tests end meanwhile, but not two hundred of their threads.
        let all: Vec<_> = (0..300)
            .map(|_| {
                let wait = std::sync::Arc::clone(&wait);
                std::thread::spawn(move || {
                    let _ = wait.lock().map(|wait| wait.recv());
                })
            })
            .collect();
        assert!(of_user(user) >= 300);
        drop(send);
        all.into_iter().for_each(|one| drop(one.join()));
    }
}
