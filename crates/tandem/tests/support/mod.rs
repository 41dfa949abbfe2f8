//! What the process tests share: claimed loopback networks, children that die with the test, bounded waits. Knows nothing
//! of SIP.

// Each test binary uses a part of it.
#![allow(dead_code)]

pub(crate) mod phone;

use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value as Json;
use tandem_admin::client::{Target, call_blocking};
use tandem_module::mi::MiParams;

/// Longest wait for anything that should be there at once.
pub(crate) const SOON: Duration = Duration::from_secs(10);
const MI_TIMEOUT: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(5);
/// Host and port whose socket says that a network is taken by a test.
const CLAIM: (u8, u16) = (250, 5999);

/// A network 127.0.n.0/24 that belongs to this test until it is dropped, and a folder that goes with it.
pub(crate) struct Place {
    net: u8,
    dir: PathBuf,
    _claim: UdpSocket,
}

impl Place {
    /// Takes the first network in `range` that no other test and no server uses.
    pub(crate) fn claim(range: RangeInclusive<u8>) -> Place {
        for net in range.clone() {
            let Ok(claim) = UdpSocket::bind((Ipv4Addr::new(127, 0, net, CLAIM.0), CLAIM.1)) else { continue };
            if (1..=3).all(|host| is_free(Ipv4Addr::new(127, 0, net, host))) {
                let dir = std::env::temp_dir().join(format!("tandem-test-{}-{net}", std::process::id()));
                fs::create_dir_all(&dir).expect("a temporary folder can be made");
                return Place { net, dir, _claim: claim };
            }
        }
        panic!("no network of 127.0.{}.0 to 127.0.{}.0 is free", range.start(), range.end());
    }

    pub(crate) fn net(&self) -> u8 {
        self.net
    }

    pub(crate) fn ip(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, 0, self.net, host)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn mi_url(&self, host: u8) -> String {
        format!("http://{}:8888/mi", self.ip(host))
    }

    /// The value of a statistic.
    pub(crate) fn statistic(&self, host: u8, name: &str) -> i64 {
        let found =
            self.mi(host, "get_statistics", &[("statistics", Json::from(vec![name]))]).expect("the node answers");
        let value = found.as_object().and_then(|all| all.values().next()).cloned().unwrap_or_default();
        let number = value.as_i64().or_else(|| value.as_str()?.parse().ok());
        number.unwrap_or_else(|| panic!("{name}: {found}"))
    }

    /// A management command with named parameters.
    pub(crate) fn mi(&self, host: u8, command: &str, params: &[(&str, Json)]) -> Result<Json, String> {
        let target: Target = self.mi_url(host).parse().expect("a valid address");
        let named = params.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let params = if params.is_empty() { MiParams::None } else { MiParams::Named(named) };
        call_blocking(&target, command, params, MI_TIMEOUT).map_err(|error| error.to_string())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

fn is_free(ip: Ipv4Addr) -> bool {
    UdpSocket::bind((ip, 5060)).is_ok() && [5060, 5555, 8888].iter().all(|port| TcpListener::bind((ip, *port)).is_ok())
}

/// A child process that is killed when the test ends, however it ends.
pub(crate) struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts it in `dir`, output to `dir`/`name`.log.
    pub(crate) fn start(command: &mut Command, dir: &Path, name: &str) -> Process {
        let log = dir.join(format!("{name}.log"));
        let file = fs::File::options().create(true).append(true).open(&log).expect("a log file can be opened");
        let child = command
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Process { child, name: name.to_owned(), log }
    }

    /// Writes `script` to `dir` and starts the program on it, to the end of its start: it listens, or it has ended.
    pub(crate) fn tandem(script: &str, dir: &Path, name: &str) -> Process {
        fs::write(dir.join("opensips.cfg"), script).expect("the script can be written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
        let mut process = Process::start(command.args(["-F", "-E", "-f", "opensips.cfg"]), dir, name);
        let is_started =
            until(Duration::from_secs(30), || !process.is_running() || process.output().contains("listening on"));
        assert!(is_started.is_some(), "{name} neither starts nor ends:\n{}", process.output());
        process
    }

    /// Its process id.
    #[allow(dead_code)]
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// All it has printed.
    pub(crate) fn output(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, signal).expect("the process can be signalled");
    }

    /// Waits for its end; panics with its output when that takes longer than `limit`.
    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        let mut status = None;
        let ended = until(limit, || {
            status = self.child.try_wait().expect("the process can be waited for");
            status.is_some()
        });
        match (ended, status) {
            (Some(_), Some(status)) => status,
            _ => panic!("{} did not end within {limit:?}:\n{}", self.name, self.output()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Looks until `holds` or the time is over; the time it took, if it held.
pub(crate) fn until(limit: Duration, mut holds: impl FnMut() -> bool) -> Option<Duration> {
    let start = Instant::now();
    loop {
        if holds() {
            return Some(start.elapsed());
        }
        if start.elapsed() > limit {
            return None;
        }
        std::thread::park_timeout(LOOK);
    }
}
