//! `script_trace()`: a log line before each statement of a run. Coverage counts are elsewhere.

use super::execute::complain;
use super::host::{Host, LogLevel};
use crate::format::Format;
use crate::program::Program;
use crate::value::Text;

/// What is logged before each statement.
#[derive(Clone, Debug)]
pub struct Trace {
    /// At this level.
    pub level: LogLevel,
    /// Expanded for each statement.
    pub format: Format,
    /// Printed as it is; may be empty.
    pub info: Text,
}

/// Logs the statement that begins at `pc`, once.
pub(super) fn statement<H: Host>(program: &Program, host: &mut H, pc: u32) {
    let place = program.position(pc);
    let frame = &mut host.vars().frame;
    let Some(trace) = frame.trace.clone().filter(|_| frame.traced != place.span) else { return };
    frame.traced = place.span;
    let mut text = Vec::new();
    // A text that grows too long is cut; the line still tells where the run is.
    trace.format.eval(host, &mut text);
    let file = program.files.get(usize::from(place.span.file.0)).map(|file| file.to_str().into_owned());
    let info = if trace.info.is_empty() { String::new() } else { format!("[{}]", trace.info.to_str()) };
    let text = String::from_utf8_lossy(&text);
    let line = format!("[Script Trace][{}:{}]{info} -> ({text})", file.as_deref().unwrap_or("script"), place.line);
    complain(program, host, pc, trace.level, &line);
}
