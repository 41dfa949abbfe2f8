//! The server process: loads the script, opens sockets, drops privileges, waits for signals, drains and stops.

use std::io::BufRead as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Group, User};
use tandem_engine::loader::{LoadOptions, Loaded};
use tandem_engine::{Server, load};
use tandem_net::ListenSpec;
use tandem_script::diagnostic::{Diagnostic, Severity};

use crate::cli::ServerArgs;
use crate::logging::{self, LogTargets};

/// Set for the process that is to be the server in the background.
const BACKGROUND: &str = "TANDEM_BACKGROUND";
/// What it says when it serves.
const READY: &str = "ready";

/// Runs the server until SIGTERM or SIGINT.
pub(crate) fn run(args: &ServerArgs) -> ExitCode {
    if args.version {
        println!("tandem {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    match serve(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tandem: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: &ServerArgs) -> anyhow::Result<()> {
    if let Some(dir) = &args.workdir {
        std::env::set_current_dir(dir).with_context(|| format!("cannot change to directory {}", dir.display()))?;
    }
    let options = load_options(args)?;
    if args.check_only || args.check_only_old {
        return check_only(args, &options);
    }
    let is_background = std::env::var_os(BACKGROUND).is_some();
    if args.pid_file.is_some() && !args.foreground && !args.debug && !is_background {
        return start_in_background();
    }
    if is_background {
        nix::unistd::setsid().context("cannot leave the terminal")?;
    }
    let mut loaded = load(&args.file, &options)
        .map_err(|refused| anyhow!("{}\n{} was not started", refused.render(), args.file.display()))?;
    start_logging(args, &loaded);
    replace_listeners(args, &mut loaded)?;
    let signals = block_signals()?;
    // Notes only tell of forms that another dialect lacks.
    let is_note = |diagnostic: &&Diagnostic| diagnostic.severity == Severity::Note;
    for diagnostic in loaded.diagnostics.iter().filter(|diagnostic| !is_note(diagnostic)) {
        tracing::warn!("{}", tandem_script::diagnostic::render_one(diagnostic, &loaded.sources).trim_end());
    }
    note_ignored(args);
    let ids = find_ids(args)?;
    let server = Server::start(loaded)?;
    if let Some(file) = &args.pid_file {
        write_pid(file)?;
    }
    drop_privileges(args, &ids)?;
    let node = server.node();
    for socket in node.sockets() {
        tracing::info!("listening on {}", socket.text);
    }
    if is_background {
        // The parent waits for this line and then leaves with success.
        println!("{READY}");
    }
    wait_for_end(&signals, &server);
    tracing::info!("stopping");
    end_at_second_signal(signals, args.pid_file.clone())?;
    server.stop(Duration::from_secs(args.drain));
    if let Some(file) = &args.pid_file {
        let _ = std::fs::remove_file(file);
    }
    Ok(())
}

/// Starts this program once more, detached, and waits until it serves or has failed: errors reach the caller and its exit
/// code. Without a fork, for threads do not survive one.
fn start_in_background() -> anyhow::Result<()> {
    let mut child = Command::new(std::env::current_exe().context("cannot find this program")?)
        .args(std::env::args_os().skip(1))
        .env(BACKGROUND, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot go to the background")?;
    let output = child.stdout.take().ok_or_else(|| anyhow!("no pipe from the background"))?;
    let is_ready = std::io::BufReader::new(output).lines().map_while(Result::ok).any(|line| line == READY);
    if is_ready {
        return Ok(());
    }
    let status = child.wait().context("waiting for the background")?;
    bail!("the server was not started ({status})")
}

fn load_options(args: &ServerArgs) -> anyhow::Result<LoadOptions> {
    let options = LoadOptions {
        dialect: args.dialect.map(Into::into),
        permissive: args.permissive,
        workers: if args.debug { Some(1) } else { args.workers },
        preprocessor: args.preprocessor.clone(),
        ..LoadOptions::default()
    };
    for option in &args.options {
        if !option.contains('=') {
            bail!("-o {option}: expected NAME=VALUE");
        }
    }
    Ok(options)
}

fn check_only(args: &ServerArgs, options: &LoadOptions) -> anyhow::Result<()> {
    match load(&args.file, options) {
        Ok(loaded) => {
            eprint!("{}", tandem_script::diagnostic::render(&loaded.diagnostics, &loaded.sources));
            println!("{}: fine", args.file.display());
            Ok(())
        }
        Err(refused) => bail!("{}\n{}: not usable", refused.render(), args.file.display()),
    }
}

fn start_logging(args: &ServerArgs, loaded: &Loaded) {
    let globals = &loaded.globals;
    let is_foreground = args.foreground || args.pid_file.is_none();
    let stderr = args.log_stderr || args.debug || globals.debug_mode || (globals.stderror_enabled && is_foreground);
    let syslog = globals.syslog_enabled.then(|| {
        let name = globals.syslog_name.clone().unwrap_or_else(|| "tandem".to_owned());
        (logging::facility(&globals.syslog_facility), name)
    });
    logging::start(LogTargets { stderr, syslog });
    logging::follow(loaded.node);
    let more = i32::from(args.verbose) + if args.debug { 4 } else { 0 };
    loaded.node.settings.log_level.fetch_add(more, std::sync::atomic::Ordering::Relaxed);
}

fn replace_listeners(args: &ServerArgs, loaded: &mut Loaded) -> anyhow::Result<()> {
    if args.listen.is_empty() {
        return Ok(());
    }
    let mut listeners = Vec::new();
    for text in &args.listen {
        listeners.extend(parse_listen(text)?);
    }
    loaded.listeners = listeners;
    Ok(())
}

/// `[proto:]host[:port]`, IPv6 in brackets.
fn parse_listen(text: &str) -> anyhow::Result<Vec<ListenSpec>> {
    let wrong = || anyhow!("-l {text}: expected [proto:]host[:port], for example udp:192.0.2.1:5060");
    let (proto, rest) = match text.split_once(':') {
        Some((proto, rest)) if proto.parse::<tandem_net::Proto>().is_ok() => {
            (proto.parse().map_err(|()| wrong())?, rest)
        }
        _ => (tandem_net::Proto::Udp, text),
    };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') && (host.ends_with(']') || !host.contains(':')) => {
            (host, Some(port.parse::<u16>().map_err(|_| wrong())?))
        }
        _ => (rest, None),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let ips: Vec<IpAddr> = tandem_net::resolve_host(host).with_context(|| format!("-l {text}"))?;
    Ok(ips.into_iter().map(|ip| ListenSpec::new(proto, ip, port.unwrap_or_else(|| proto.default_port()))).collect())
}

fn note_ignored(args: &ServerArgs) {
    for (flag, is_set) in [
        ("-m", args.shared_memory.is_some()),
        ("-M", args.private_memory.is_some()),
        ("-N", args.tcp_workers.is_some()),
    ] {
        if is_set {
            tracing::info!("{flag} is accepted and has no effect: memory and workers are not divided up here");
        }
    }
}

fn write_pid(file: &Path) -> anyhow::Result<()> {
    std::fs::write(file, format!("{}\n", std::process::id())).with_context(|| {
        format!("-P: cannot write {} (does its folder exist, and may this user write there?)", file.display())
    })
}

/// The user and group to become.
struct Ids {
    user: Option<User>,
    group: Option<Group>,
}

/// Looks both up before anything is opened, and in the root directory that knows them.
fn find_ids(args: &ServerArgs) -> anyhow::Result<Ids> {
    Ok(Ids {
        user: args.user.as_deref().map(find_user).transpose()?,
        group: args.group.as_deref().map(find_group).transpose()?,
    })
}

fn drop_privileges(args: &ServerArgs, ids: &Ids) -> anyhow::Result<()> {
    const ROOT_ONLY: &str = "only root may: start it as root, or leave the option out";
    if let Some(dir) = &args.chroot {
        nix::unistd::chroot(dir)
            .with_context(|| format!("-t: cannot make {} the root directory ({ROOT_ONLY})", dir.display()))?;
        std::env::set_current_dir("/").context("-t: cannot enter the new root directory")?;
    }
    let group = ids.group.as_ref().map(|group| group.gid).or_else(|| ids.user.as_ref().map(|user| user.gid));
    if let Some(group) = group.filter(|group| *group != nix::unistd::getegid()) {
        nix::unistd::setgid(group).with_context(|| format!("-g: cannot become group {group} ({ROOT_ONLY})"))?;
    }
    if let Some(user) = ids.user.as_ref().filter(|_| nix::unistd::geteuid().is_root()) {
        // Else the groups of root would stay.
        let name = std::ffi::CString::new(user.name.as_str()).context("-u: the name of the user")?;
        nix::unistd::initgroups(&name, group.unwrap_or(user.gid))
            .with_context(|| format!("-u: cannot take the groups of {}", user.name))?;
    }
    if let Some(user) = ids.user.as_ref().filter(|user| user.uid != nix::unistd::geteuid()) {
        nix::unistd::setuid(user.uid).with_context(|| format!("-u: cannot become user {} ({ROOT_ONLY})", user.name))?;
    }
    Ok(())
}

fn find_user(name: &str) -> anyhow::Result<User> {
    let found = match name.parse::<u32>() {
        Ok(id) => User::from_uid(id.into()),
        Err(_) => User::from_name(name),
    };
    found.ok().flatten().ok_or_else(|| anyhow!("-u {name}: no such user on this host"))
}

fn find_group(name: &str) -> anyhow::Result<Group> {
    let found = match name.parse::<u32>() {
        Ok(id) => Group::from_gid(id.into()),
        Err(_) => Group::from_name(name),
    };
    found.ok().flatten().ok_or_else(|| anyhow!("-g {name}: no such group on this host"))
}

/// Signals are taken by the main thread alone; threads started later inherit the mask.
fn block_signals() -> anyhow::Result<SigSet> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGPIPE] {
        signals.add(signal);
    }
    signals.thread_block().context("cannot set up signals")?;
    Ok(signals)
}

/// Serves until SIGTERM or SIGINT; SIGHUP reloads the script.
fn wait_for_end(signals: &SigSet, server: &Server) {
    loop {
        match signals.wait() {
            Ok(Signal::SIGTERM | Signal::SIGINT) => return,
            Ok(Signal::SIGHUP) => match server.reload() {
                Ok(_) => {}
                Err(error) => {
                    let text = error.data.as_ref().and_then(|data| data.get("Text")).and_then(|text| text.as_str());
                    tracing::error!("SIGHUP: {}\n{}", error.message, text.unwrap_or_default());
                }
            },
            Ok(signal) => tracing::debug!("signal {signal} ignored"),
            Err(error) => tracing::warn!(%error, "waiting for signals failed"),
        }
    }
}

/// A second SIGTERM or SIGINT ends the process at once, whatever is still being finished: exit code 1.
fn end_at_second_signal(signals: SigSet, pid_file: Option<PathBuf>) -> anyhow::Result<()> {
    let wait = move || {
        loop {
            match signals.wait() {
                Ok(Signal::SIGTERM | Signal::SIGINT) => break,
                Ok(_) => {}
                Err(_) => return,
            }
        }
        tracing::warn!("second signal: ending at once, what was not written is lost");
        if let Some(file) = &pid_file {
            let _ = std::fs::remove_file(file);
        }
        std::process::exit(1)
    };
    std::thread::Builder::new().name("tandem-signals".to_owned()).spawn(wait).context("cannot watch for signals")?;
    Ok(())
}
