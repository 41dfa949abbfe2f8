//! Reports of relays: the end of media ends the call, digits become events.

use std::sync::Arc;

use serde_json::json;
use smallvec::smallvec;
use tandem_media::{Address, listen_lines};
use tandem_module::event::Event;
use tandem_module::mi::MiParams;
use tandem_module::worker::WorkerId;
use tandem_module::{NodeRef, SetupError};
use tandem_script::value::Value;

use super::{DTMF, Rtpproxy};

/// Opens the notification socket, when there is one.
pub(super) fn start(node: NodeRef, own: &'static Rtpproxy) -> Result<(), SetupError> {
    let (Some(address), Some(handle)) = (&own.notify, own.relays.handle()) else { return Ok(()) };
    let sink = Arc::new(move |line: &[u8]| {
        let Some(report) = Report::parse(line) else {
            tracing::warn!("rtpproxy: a relay reported something unknown");
            return;
        };
        if let Some(workers) = node.workers() {
            workers.post(WorkerId(0), Box::new(move |_| report.apply(node)));
        }
    });
    let shown = match address {
        Address::Tcp(host) => host.to_string(),
        Address::Unix(path) => path.display().to_string(),
        Address::Udp(host) => host.to_string(),
    };
    let listening = listen_lines(address, handle, sink)
        .map_err(|error| SetupError::param("rtpp_notify_socket", format!("{shown}: {error}")))?;
    let _ = own.listening.set(listening);
    Ok(())
}

/// What a relay reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// No media any more in the dialog of that id.
    Timeout(String),
    /// A digit.
    Digit { id: String, is_callid: bool, digit: char, volume: i32, duration: i32, stream: i32 },
}

impl Report {
    /// `T<dialog id>`, or `D<c|d><id> <digit> [volume [duration [stream]]]`.
    pub(super) fn parse(line: &[u8]) -> Option<Report> {
        let line = std::str::from_utf8(line).ok()?.trim();
        if let Some(did) = line.strip_prefix('T') {
            return Some(Report::Timeout(did.trim().to_owned())).filter(|_| !did.trim().is_empty());
        }
        let rest = line.strip_prefix('D')?;
        let is_callid = rest.starts_with('c');
        let mut words = rest.strip_prefix(['c', 'd'])?.split_whitespace();
        let id = words.next()?.to_owned();
        let digit = words.next()?.chars().next()?;
        let mut number = || words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
        let (volume, duration, stream) = (number(), number(), number());
        Some(Report::Digit { id, is_callid, digit, volume, duration, stream })
    }

    fn apply(self, node: NodeRef) {
        match self {
            Report::Timeout(did) => {
                let params = [("dialog_id".to_owned(), json!(did))].into_iter().collect();
                // Through the command of module dialog: without that module there is nothing to end.
                if let tandem_module::mi::MiReply::Now(Err(error)) = node.mi.run("dlg_end_dlg", MiParams::Named(params))
                {
                    tracing::warn!("rtpproxy: media of dialog {did} timed out; it was not ended: {}", error.message);
                }
            }
            Report::Digit { id, is_callid, digit, volume, duration, stream } => {
                let params = smallvec![
                    ("digit", Value::from(digit.to_string().as_str())),
                    ("duration", Value::Int(duration)),
                    ("volume", Value::Int(volume)),
                    ("id", Value::from(id.as_str())),
                    ("is_callid", Value::Int(is_callid.into())),
                    ("stream", Value::Int(stream)),
                ];
                node.events.raise(node, Event { name: DTMF, params }, None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::Report;

    #[test]
    fn reports_are_read_and_nonsense_is_not() {
        assert_eq!(Report::parse(b"T1a.2b\n").unwrap(), Report::Timeout("1a.2b".into()));
        let digit =
            Report::Digit { id: "call@x".into(), is_callid: true, digit: '#', volume: 10, duration: 80, stream: 1 };
        assert_eq!(Report::parse(b"Dccall@x # 10 80 1").unwrap(), digit);
        let short = Report::Digit { id: "1.2".into(), is_callid: false, digit: '5', volume: 0, duration: 0, stream: 0 };
        assert_eq!(Report::parse(b"Dd1.2 5 x").unwrap(), short);
        for line in [&b""[..], b"T", b"T  ", b"D", b"Dx1 5", b"Dc", b"Dc1", b"X", b"\xFF\xFE"] {
            assert!(Report::parse(line).is_none(), "{line:?}");
        }
    }
}
