//! Where log lines go: stderr or syslog, in the line format operators of OpenSIPS know. Thresholds come from the script
//! and can change at run time.

use std::fmt::{self, Write as _};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;

use sink::Sink;
use tandem_module::node::NodeRef;
use tandem_module::settings::Settings;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// The settings whose `log_level` decides; unset before a script is loaded.
static SETTINGS: OnceLock<&'static Settings> = OnceLock::new();
/// Longest syslog datagram.
const SYSLOG_BYTES_MAX: usize = 8192;

/// Destinations of log lines.
#[derive(Clone, Debug)]
pub(crate) struct LogTargets {
    /// To stderr.
    pub(crate) stderr: bool,
    /// To syslog, with that facility number and program name.
    pub(crate) syslog: Option<(u8, String)>,
}

/// Starts logging. Call once.
pub(crate) fn start(targets: LogTargets) {
    let sink = Sink::open(targets);
    // Fails only when a logger is set already, and then that one goes on.
    let _ = tracing_subscriber::registry().with(Lines { sink }).try_init();
}

/// From now on the thresholds of this node count.
pub(crate) fn follow(node: NodeRef) {
    let _ = SETTINGS.set(&node.settings);
}

/// Number of a syslog facility name; `LOG_DAEMON` for unknown ones.
pub(crate) fn facility(name: &str) -> u8 {
    let known = [
        ("KERN", 0),
        ("USER", 1),
        ("MAIL", 2),
        ("DAEMON", 3),
        ("AUTH", 4),
        ("SYSLOG", 5),
        ("LPR", 6),
        ("NEWS", 7),
        ("UUCP", 8),
        ("CRON", 9),
        ("AUTHPRIV", 10),
        ("FTP", 11),
        ("LOCAL0", 16),
        ("LOCAL1", 17),
        ("LOCAL2", 18),
        ("LOCAL3", 19),
        ("LOCAL4", 20),
        ("LOCAL5", 21),
        ("LOCAL6", 22),
        ("LOCAL7", 23),
    ];
    let name = name.trim_start_matches("LOG_");
    known.iter().find(|(known, _)| *known == name).map_or(3, |(_, number)| *number)
}

struct Lines {
    sink: Sink,
}

/// OpenSIPS levels: -3 alert to 4 debug.
fn severity_of(level: Level) -> i64 {
    match level {
        Level::ERROR => -1,
        Level::WARN => 1,
        Level::INFO => 2,
        Level::DEBUG | Level::TRACE => 4,
    }
}

fn level_word(severity: i64) -> &'static str {
    match severity {
        i64::MIN..=-3 => "ALERT",
        -2 => "CRITICAL",
        -1 | 0 => "ERROR",
        1 => "WARNING",
        2 => "NOTICE",
        3 => "INFO",
        4.. => "DBG",
    }
}

fn syslog_severity(severity: i64) -> u8 {
    match severity {
        i64::MIN..=-3 => 1,
        -2 => 2,
        -1 | 0 => 3,
        1 => 4,
        2 => 5,
        3 => 6,
        4.. => 7,
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        // Script lines have been judged by xlog_level already.
        if metadata.target() == "script" {
            return true;
        }
        if *metadata.level() == Level::TRACE {
            return false;
        }
        let threshold =
            SETTINGS.get().map_or(2, |settings| settings.log_level.load(std::sync::atomic::Ordering::Relaxed));
        severity_of(*metadata.level()) <= i64::from(threshold)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut line =
            LineVisitor { text: String::new(), fields: String::new(), severity: severity_of(*metadata.level()) };
        event.record(&mut line);
        let prefix = SETTINGS.get().map(|settings| settings.log_prefix.as_str()).filter(|prefix| !prefix.is_empty());
        let mut text = String::with_capacity(line.text.len() + line.fields.len() + 32);
        if let Some(prefix) = prefix {
            let _ = write!(text, "{prefix}:");
        }
        let _ = write!(text, "{}:", level_word(line.severity));
        if metadata.target() != "script" {
            let crate_name = metadata.target().split("::").next().unwrap_or_default();
            let _ = write!(text, "{}: ", crate_name.trim_start_matches("tandem_"));
        }
        text.push_str(&line.text);
        text.push_str(&line.fields);
        self.sink.write(&text, syslog_severity(line.severity));
    }
}

struct LineVisitor {
    text: String,
    fields: String,
    severity: i64,
}

impl Visit for LineVisitor {
    fn record_i64(&mut self, field: &Field, value: i64) {
        if field.name() == "severity" {
            self.severity = value;
        } else {
            let _ = write!(self.fields, " {}={value}", field.name());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.text, "{value:?}");
        } else {
            let _ = write!(self.fields, " {}={value:?}", field.name());
        }
    }
}

/// The ends of the pipe.
mod sink {
    use super::{LogTargets, SYSLOG_BYTES_MAX, UnixDatagram, io};
    use std::io::Write as _;

    /// Writes whole lines; a slow or absent reader loses lines, never blocks for long.
    pub(super) struct Sink {
        stderr: bool,
        syslog: Option<(UnixDatagram, u8, String)>,
    }

    impl Sink {
        pub(super) fn open(targets: LogTargets) -> Sink {
            let syslog = targets.syslog.and_then(|(facility, name)| {
                let socket = UnixDatagram::unbound().ok()?;
                socket.set_nonblocking(true).ok()?;
                socket.connect("/dev/log").ok()?;
                Some((socket, facility, name))
            });
            // Without a syslog daemon nothing must be lost in silence.
            Sink { stderr: targets.stderr || syslog.is_none(), syslog }
        }

        pub(super) fn write(&self, text: &str, severity: u8) {
            let pid = std::process::id();
            if self.stderr {
                let now = chrono::Local::now().format("%b %e %H:%M:%S");
                let line = format!("{now} [{pid}] {text}\n");
                // One write per line, so that lines of several threads do not mix.
                let _ = io::stderr().write_all(line.as_bytes());
            }
            if let Some((socket, facility, name)) = &self.syslog {
                let priority = u32::from(*facility) * 8 + u32::from(severity);
                let mut line = format!("<{priority}>{name}[{pid}]: {text}").into_bytes();
                line.truncate(SYSLOG_BYTES_MAX);
                let _ = socket.send(&line);
            }
        }
    }
}
