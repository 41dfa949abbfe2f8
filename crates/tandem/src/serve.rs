//! The server process: loads the script, opens sockets, drops privileges, waits for signals, drains and stops.

use std::io::{BufRead as _, Write as _};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Group, User};
use tandem_engine::loader::{self, LoadOptions, Loaded};
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
    let server = Server::start(loaded)?;
    if let Some(file) = &args.pid_file {
        write_pid(file)?;
    }
    drop_privileges(args)?;
    let node = server.node();
    for socket in node.sockets() {
        tracing::info!("listening on {}", socket.text);
    }
    if is_background {
        // The parent waits for this line and then leaves with success.
        println!("{READY}");
    }
    wait_for_end(&signals);
    tracing::info!("stopping");
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
    let mut options = LoadOptions {
        dialect: args.dialect.map(Into::into),
        permissive: args.permissive,
        workers: if args.debug { Some(1) } else { args.workers },
        ..LoadOptions::default()
    };
    if let Some(command) = &args.preprocessor {
        let (sources, _) = loader::read(&args.file, &options);
        options.preprocessed = Some(preprocess(command, &sources.marked_text())?);
    }
    for option in &args.options {
        if !option.contains('=') {
            bail!("-o {option}: expected NAME=VALUE");
        }
    }
    Ok(options)
}

/// Pipes the flattened script through the `-p` command.
fn preprocess(command: &str, text: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut words = command.split_whitespace();
    let program = words.next().ok_or_else(|| anyhow!("-p: the command is empty"))?;
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("-p: cannot run '{program}'"))?;
    let mut input = child.stdin.take().ok_or_else(|| anyhow!("-p: no pipe to '{program}'"))?;
    let text = text.to_vec();
    // From a thread of its own, so that a command that writes before it has read everything cannot stop us.
    let writer = std::thread::spawn(move || input.write_all(&text));
    let output = child.wait_with_output().with_context(|| format!("-p: '{program}' failed"))?;
    let _ = writer.join();
    if !output.status.success() {
        bail!("-p: '{command}' ended with {}", output.status);
    }
    Ok(output.stdout)
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
    std::fs::write(file, format!("{}\n", std::process::id()))
        .with_context(|| format!("cannot write {}", file.display()))
}

fn drop_privileges(args: &ServerArgs) -> anyhow::Result<()> {
    let user = match &args.user {
        Some(name) => Some(find_user(name)?),
        None => None,
    };
    let group = match &args.group {
        Some(name) => Some(find_group(name)?),
        None => None,
    };
    if let Some(dir) = &args.chroot {
        nix::unistd::chroot(dir).with_context(|| format!("-t: cannot make {} the root directory", dir.display()))?;
        std::env::set_current_dir("/").context("-t: cannot enter the new root directory")?;
    }
    if let Some(group) = group.map(|group| group.gid).or_else(|| user.as_ref().map(|user| user.gid)) {
        nix::unistd::setgid(group).context("-g: cannot change the group")?;
    }
    if let Some(user) = user {
        nix::unistd::setuid(user.uid).context("-u: cannot change the user")?;
    }
    Ok(())
}

fn find_user(name: &str) -> anyhow::Result<User> {
    let found = match name.parse::<u32>() {
        Ok(id) => User::from_uid(id.into()),
        Err(_) => User::from_name(name),
    };
    found.ok().flatten().ok_or_else(|| anyhow!("-u {name}: no such user"))
}

fn find_group(name: &str) -> anyhow::Result<Group> {
    let found = match name.parse::<u32>() {
        Ok(id) => Group::from_gid(id.into()),
        Err(_) => Group::from_name(name),
    };
    found.ok().flatten().ok_or_else(|| anyhow!("-g {name}: no such group"))
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

fn wait_for_end(signals: &SigSet) {
    loop {
        match signals.wait() {
            Ok(Signal::SIGTERM | Signal::SIGINT) => return,
            Ok(signal) => tracing::debug!("signal {signal} ignored"),
            Err(error) => tracing::warn!(%error, "waiting for signals failed"),
        }
    }
}
