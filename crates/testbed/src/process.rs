//! What all servers share: claimed ports, folders that go away, processes that die with their test, bounded waits.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longest wait for a server to start; a busy machine starts several at once.
pub const START_MAX: Duration = Duration::from_secs(60);
/// Longest wait for a server to stop before it is killed.
pub const STOP_MAX: Duration = Duration::from_secs(20);
/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(10);
/// Below the range from which systems take ports of outgoing connections.
const PORTS: std::ops::Range<u16> = 20_100..32_000;
/// Where a bound UDP socket says that the port is taken by a test.
const CLAIM_IP: Ipv4Addr = Ipv4Addr::new(127, 255, 0, 1);

/// Looks until `holds` or the time is over; whether it held.
pub fn until(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if holds() {
            return true;
        }
        if start.elapsed() > limit {
            return false;
        }
        std::thread::park_timeout(LOOK);
    }
}

/// A port of 127.0.0.1 that belongs to this test until it is dropped, also while its server is down.
pub struct Claim {
    port: u16,
    _socket: UdpSocket,
}

impl Claim {
    /// Takes a free port.
    ///
    /// # Errors
    /// When there is none.
    pub fn take() -> io::Result<Claim> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let count = u32::from(PORTS.end - PORTS.start);
        let from = std::process::id().wrapping_mul(37);
        for _ in 0..count {
            let at = from.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % count;
            let port = PORTS.start + u16::try_from(at).unwrap_or(0);
            let Ok(socket) = UdpSocket::bind((CLAIM_IP, port)) else { continue };
            let is_free = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
                && UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
            if is_free {
                return Ok(Claim { port, _socket: socket });
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, "no port is free"))
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// A temporary folder that is removed when dropped.
pub struct Folder(PathBuf);

impl Folder {
    /// Makes one; other users may enter it, since servers run as users of their own.
    ///
    /// # Errors
    /// Of the file system.
    pub fn new(name: &str) -> io::Result<Folder> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // Short: the path of a Unix socket has at most 107 bytes.
        let path = std::env::temp_dir().join(format!("tb-{name}-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
        Ok(Folder(path))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A path inside.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is inside tells why a test failed.
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// The first of `names` that is a program: in PATH, or in the folders of servers.
///
/// # Errors
/// [`io::ErrorKind::NotFound`], with the package to install.
pub fn find_program(names: &[&str], package: &str) -> io::Result<PathBuf> {
    let mut folders: Vec<PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    folders.extend(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from));
    if let Ok(versions) = fs::read_dir("/usr/lib/postgresql") {
        let mut versions: Vec<PathBuf> = versions.flatten().map(|entry| entry.path().join("bin")).collect();
        versions.sort();
        folders.extend(versions.into_iter().rev());
    }
    for name in names {
        if let Some(path) = folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file()) {
            return Ok(path);
        }
    }
    let text = format!("there is no program {}: install the package {package}", names.join(" or "));
    Err(io::Error::new(io::ErrorKind::NotFound, text))
}

/// Whether this is root, as whom some servers refuse to run.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A command that runs as `user` when we are root (else as we are) and dies with the thread that starts it.
pub fn command(program: impl AsRef<OsStr>, user: Option<&str>) -> Command {
    let mut command = Command::new("setpriv");
    command.arg("--pdeathsig=SIGKILL");
    if let Some(user) = user.filter(|_| is_root()) {
        command.arg(format!("--reuid={user}")).arg(format!("--regid={user}")).arg("--clear-groups");
    }
    command.arg(program).stdin(Stdio::null());
    command
}

/// Runs a command to its end; its output.
///
/// # Errors
/// When it cannot be started or fails; the text has what it printed.
pub fn run(command: &mut Command) -> io::Result<String> {
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{command:?}: {}\n{text}{error}", output.status)))
}

/// A running server.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts it, its output appended to `log`, and waits until `is_ready`.
    ///
    /// # Errors
    /// When it ends or is not ready within [`START_MAX`]; the text has its output.
    pub fn start(command: &mut Command, log: &Path, mut is_ready: impl FnMut() -> bool) -> io::Result<Running> {
        let file = fs::File::options().create(true).append(true).open(log)?;
        let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn()?;
        let mut running = Running { child, log: log.to_owned() };
        let mut has_ended = false;
        let held = until(START_MAX, || {
            has_ended = !matches!(running.child.try_wait(), Ok(None));
            has_ended || is_ready()
        });
        if held && !has_ended {
            return Ok(running);
        }
        let what = if has_ended { "ended" } else { "is not ready" };
        Err(io::Error::other(format!("{command:?} {what}:\n{}", running.output())))
    }

    /// What it has printed.
    pub fn output(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal; nothing happens when it has ended.
    pub fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), signal);
    }

    /// Stops all work of it (SIGSTOP): connections stay open, nothing is answered. Comes back when all its threads stand.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
        let tasks = PathBuf::from(format!("/proc/{}/task", self.child.id()));
        until(STOP_MAX, || are_stopped(&tasks));
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Sends `signal` and waits for its end; kills it when that takes too long.
    pub fn stop(&mut self, signal: Signal) {
        self.resume();
        self.signal(signal);
        if !until(STOP_MAX, || !matches!(self.child.try_wait(), Ok(None))) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// Whether all threads in a folder of `/proc` are stopped; threads that end meanwhile don't count.
fn are_stopped(tasks: &Path) -> bool {
    let Ok(threads) = fs::read_dir(tasks) else { return true };
    threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok()).all(|stat| {
        // The name before it may contain anything.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    })
}

/// What all servers are made of: a folder, a port, and a process that can be stopped and started again. Dropped, it is gone.
pub struct Server {
    running: Option<Running>,
    /// Its files.
    pub folder: Folder,
    claim: Claim,
    /// More options of its command line.
    pub options: Vec<String>,
    /// The signals that end it in good order, and at once.
    ends: [Signal; 2],
}

impl Server {
    pub(crate) fn new(name: &str, options: &[&str], ends: [Signal; 2]) -> io::Result<Server> {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Ok(Server { running: None, folder: Folder::new(name)?, claim: Claim::take()?, options, ends })
    }

    pub(crate) fn set_running(&mut self, running: Running) {
        self.running = Some(running);
    }

    /// Stops it in good order.
    pub fn stop(&mut self) {
        self.end(self.ends[0]);
    }

    /// Breaks it off: no good-bye to clients.
    pub fn kill(&mut self) {
        self.end(self.ends[1]);
    }

    fn end(&mut self, signal: Signal) {
        if let Some(mut running) = self.running.take() {
            running.stop(signal);
        }
    }

    /// The process, to pause it for example.
    pub fn process(&self) -> Option<&Running> {
        self.running.as_ref()
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.claim.port()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Lets a server's own type be used as the [`Server`] in it.
macro_rules! is_server {
    ($name:ident) => {
        impl std::ops::Deref for $name {
            type Target = $crate::process::Server;

            fn deref(&self) -> &$crate::process::Server {
                &self.server
            }
        }

        impl std::ops::DerefMut for $name {
            fn deref_mut(&mut self) -> &mut $crate::process::Server {
                &mut self.server
            }
        }
    };
}

pub(crate) use is_server;

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Copies a prepared folder, so that each server need not be set up anew: the first caller of any process makes it with
/// `make`, under a lock. `owner` gets the copy when we are root.
///
/// # Errors
/// Of `make` and of the file system.
pub fn copy_template(
    name: &str,
    to: &Path,
    owner: Option<&str>,
    make: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<()> {
    let root = std::env::temp_dir().join(format!("tandem-testbed-{}", nix::unistd::geteuid()));
    fs::create_dir_all(&root)?;
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755))?;
    let lock = fs::File::options().create(true).append(true).open(root.join(format!("{name}.lock")))?;
    lock.lock()?;
    let template = root.join(name);
    if !template.is_dir() {
        let half = root.join(format!("{name}.new"));
        let _ = fs::remove_dir_all(&half);
        fs::create_dir_all(&half)?;
        fs::set_permissions(&half, fs::Permissions::from_mode(0o700))?;
        give(&half, owner)?;
        make(&half)?;
        fs::rename(&half, &template)?;
    }
    drop(lock);
    run(Command::new("cp").arg("-a").arg(&template).arg(to)).map(|_| ())
}

/// Makes `user` the owner of a folder, when we are root.
///
/// # Errors
/// Of `chown`.
pub fn give(path: &Path, user: Option<&str>) -> io::Result<()> {
    match user.filter(|_| is_root()) {
        Some(user) => run(Command::new("chown").arg("-R").arg(format!("{user}:")).arg(path)).map(|_| ()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_claimed_port_is_nobody_elses() {
        let claims: Vec<Claim> = (0..20).map(|_| Claim::take().unwrap()).collect();
        let mut ports: Vec<u16> = claims.iter().map(Claim::port).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 20);
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let error = find_program(&["no-such-program"], "some-package").unwrap_err();
        assert!(error.to_string().contains("some-package"), "{error}");
    }

    #[test]
    fn a_program_that_ends_at_once_is_an_error_with_its_output() {
        let folder = Folder::new("end").unwrap();
        let mut command = command("sh", None);
        command.args(["-c", "echo gone wrong"]);
        let error = Running::start(&mut command, &folder.join("log"), || false).err().unwrap();
        assert!(error.to_string().contains("gone wrong"), "{error}");
    }
}
