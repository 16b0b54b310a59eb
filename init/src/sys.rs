//! What neither the standard library nor rustix has a safe call for: the only unsafe code of the program.

#![expect(unsafe_code, reason = "signals, fork and the loopback device have no safe calls")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, set_parent_process_death_signal};

/// The signals that the program takes as events.
const TAKEN: [i32; 7] = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGCHLD, libc::SIGUSR1, libc::SIGPWR];

/// Blocks the signals that the program takes as events, and gives the descriptor that they are read from. To be called before anything
/// else: what arrives from then on waits there, and none of it is lost or kills the program.
///
/// # Errors
/// Where the kernel has no descriptor left.
pub fn block_signals() -> io::Result<OwnedFd> {
    let set = signal_set();
    // SAFETY: `set` is initialised; a null old set is allowed by sigprocmask(2).
    if unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `set` is initialised; -1 asks for a new descriptor (signalfd(2)).
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given this descriptor to us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The next signal that has arrived, `None` where none waits.
///
/// # Errors
/// Where the descriptor is not one of [`block_signals`].
#[expect(clippy::host_endian_bytes, reason = "the kernel's own order, on its own machine")]
pub fn next_signal(signals: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    let mut bytes = [0_u8; size_of::<libc::signalfd_siginfo>()];
    match rustix::io::read(signals, &mut bytes) {
        // The number is the first field (signalfd(2)).
        Ok(read) if read == bytes.len() => {
            let number = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            Ok(i32::try_from(number).ok())
        }
        Ok(_) => Err(io::Error::other("half a signal")),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Lets the command start with no signal blocked, in a process group of its own, and get `death` when this process dies. What sets
/// another user has to be told to the command before: a death signal does not outlive that.
pub fn prepare(command: &mut Command, death: Signal) {
    let set = signal_set();
    let parent = rustix::process::getpid();
    command.process_group(0);
    // SAFETY: between fork and exec, only calls that are safe there (signal-safety(7)): sigprocmask, prctl, getppid; no allocation.
    unsafe {
        command.pre_exec(move || {
            if libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
            set_parent_process_death_signal(Some(death))?;
            // It may have died before that.
            if rustix::process::getppid() != Some(parent) {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        });
    }
}

/// Brings the loopback device up, which a kernel leaves to PID 1.
///
/// # Errors
/// Where the kernel does not allow it.
pub fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: an ifreq is plain bytes, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = libc::c_char::try_from(b'l').unwrap_or_default();
    request.ifr_name[1] = libc::c_char::try_from(b'o').unwrap_or_default();
    // SAFETY: `request` is an ifreq with a name that ends in a zero, as SIOCGIFFLAGS wants it (netdevice(7)).
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above has filled the flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    let up = libc::c_short::try_from(libc::IFF_UP).unwrap_or_default();
    if flags & up == up {
        return Ok(());
    }
    request.ifr_ifru.ifru_flags = flags | up;
    // SAFETY: as above, with the flags set.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Turns the machine off. Comes back only where the kernel does not allow it.
#[must_use]
pub fn power_off() -> io::Error {
    rustix::fs::sync();
    // SAFETY: no memory is passed (reboot(2)).
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
    io::Error::last_os_error()
}

fn signal_set() -> libc::sigset_t {
    // SAFETY: sigset_t is plain bytes, and sigemptyset initialises all of it; the numbers are valid signals.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in TAKEN {
            libc::sigaddset(&raw mut set, signal);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn a_signal_waits_and_a_child_does_not_inherit_the_block() {
        let signals = block_signals().unwrap();
        assert_eq!(next_signal(signals.as_fd()).unwrap(), None);
        // To this thread: others of the test's process have nothing blocked.
        // SAFETY: no memory is passed.
        unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGUSR1) };
        assert_eq!(next_signal(signals.as_fd()).unwrap(), Some(libc::SIGUSR1));

        let mut command = Command::new("/bin/sh");
        command.args(["-c", "kill -USR1 $$; exit 3"]);
        prepare(&mut command, Signal::KILL);
        assert_eq!(command.status().unwrap().signal(), Some(libc::SIGUSR1));
    }
}
