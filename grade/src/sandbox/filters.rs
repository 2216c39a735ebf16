//! Which system calls a cell may not make, before it becomes its program. The harness adds a last filter that lists what is allowed.

use std::collections::BTreeMap;

use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

/// Answered with EPERM, so that code which tries fails with a readable message: network, other processes, the kernel.
const REFUSED: &[i64] = &[
    libc::SYS_socket,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
    libc::SYS_perf_event_open,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_personality,
    libc::SYS_memfd_create,
    libc::SYS_memfd_secret,
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_msgget,
    libc::SYS_semget,
    libc::SYS_mq_open,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_reboot,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
];

/// No honest program needs these here: the process ends.
const DEADLY: &[i64] = &[libc::SYS_ptrace, libc::SYS_bpf, libc::SYS_keyctl];

/// Refused as well to a cell that starts no programs.
const PROCESSES: &[i64] = &[
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    // Joins nothing but the process and its children; the standard library starts programs with it.
    libc::SYS_socketpair,
];

/// Installs the filters: first those that end, then those that refuse. Of several filters the strictest answer counts.
///
/// # Errors
///
/// If the kernel does not take them, or this processor is not known.
pub fn install(starts_programs: bool) -> Result<(), String> {
    let eperm = libc::EPERM.unsigned_abs();
    apply(always(DEADLY), SeccompAction::KillProcess)?;
    let mut refused = always(REFUSED);
    if !starts_programs {
        refused.extend(always(PROCESSES));
        refused.extend(forks()?);
        // With EPERM threads could not be started either: the C library falls back to `clone` only if `clone3` does not exist.
        let enosys = libc::ENOSYS.unsigned_abs();
        apply(always(&[libc::SYS_clone3]), SeccompAction::Errno(enosys))?;
    }
    apply(refused, SeccompAction::Errno(eperm))
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn always(calls: &[i64]) -> Rules {
    calls.iter().map(|&call| (call, Vec::new())).collect()
}

/// `clone` that does not make a thread, and its older sisters.
fn forks() -> Result<Rules, String> {
    let thread = libc::CLONE_THREAD.unsigned_abs().into();
    let no_thread = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::MaskedEq(thread),
        0,
    )
    .and_then(|condition| SeccompRule::new(vec![condition]))
    .map_err(|error| error.to_string())?;
    let mut rules = Rules::from([(libc::SYS_clone, vec![no_thread])]);
    #[cfg(target_arch = "x86_64")]
    rules.extend(always(&[libc::SYS_fork, libc::SYS_vfork]));
    Ok(rules)
}

fn apply(rules: Rules, action: SeccompAction) -> Result<(), String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| error.to_string())?;
    let program: seccompiler::BpfProgram =
        SeccompFilter::new(rules, SeccompAction::Allow, action, arch)
            .and_then(TryInto::try_into)
            .map_err(|error| error.to_string())?;
    apply_filter(&program).map_err(|error| error.to_string())
}
