//! Catches the log of the node under test: all lines of the script, and what the server itself finds worth a warning.

use std::fmt::{self, Write as _};
use std::sync::Once;
use std::time::Instant;

use parking_lot::Mutex;
use tandem_module::clock;
use tandem_script::vm::LogLevel;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Lines kept of one test.
const LINES_MAX: usize = 10_000;

/// A line of the log.
#[derive(Clone, Debug)]
pub(crate) struct LogLine {
    pub(crate) at: Instant,
    pub(crate) text: String,
}

static LINES: Mutex<Vec<LogLine>> = Mutex::new(Vec::new());

/// Begins to catch lines; another collector of the process stays, and then nothing is caught.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = tracing::subscriber::set_global_default(Catcher);
    });
}

/// The lines so far.
pub(crate) fn lines() -> Vec<LogLine> {
    LINES.lock().clone()
}

/// Forgets them.
pub(crate) fn clear() {
    LINES.lock().clear();
}

struct Catcher;

#[derive(Default)]
struct Text {
    message: String,
    severity: Option<i64>,
    fields: String,
}

impl Visit for Text {
    fn record_i64(&mut self, field: &Field, value: i64) {
        if field.name() == "severity" {
            self.severity = Some(value);
        } else {
            let _ = write!(self.fields, " {}={value}", field.name());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            let _ = write!(self.fields, " {}={value:?}", field.name());
        }
    }
}

fn level_name(severity: i64) -> &'static str {
    match LogLevel::from_number(i32::try_from(severity).unwrap_or(0)) {
        LogLevel::Alert => "ALERT",
        LogLevel::Critical => "CRITICAL",
        LogLevel::Error => "ERROR",
        LogLevel::Warning => "WARNING",
        LogLevel::Notice => "NOTICE",
        LogLevel::Info => "INFO",
        LogLevel::Debug => "DBG",
    }
}

impl Subscriber for Catcher {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
            && (metadata.target() == "script"
                || (*metadata.level() <= Level::WARN && metadata.target().starts_with("tandem")))
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let default = match *event.metadata().level() {
            Level::ERROR => -1,
            Level::WARN => 1,
            Level::INFO => 2,
            _ => 4,
        };
        let level = level_name(text.severity.unwrap_or(default));
        let line = format!("{level}: {}{}", text.message.trim_end(), text.fields);
        let mut lines = LINES.lock();
        if lines.len() < LINES_MAX {
            lines.push(LogLine { at: clock::now(), text: line });
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
