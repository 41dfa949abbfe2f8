//! Reports of relays as JSON over UDP: each becomes an event.

use std::sync::Arc;

use serde_json::Value as Json;
use smallvec::SmallVec;
use tandem_media::listen_datagrams;
use tandem_module::event::Event;
use tandem_module::worker::WorkerId;
use tandem_module::{NodeRef, SetupError};
use tandem_script::value::Value;

use super::{NOTIFICATION, Rtpengine};

/// Members of a report that become parameters of the event; others are left out.
pub(super) const KEYS: &[&str] = &[
    "type",
    "callid",
    "source_tag",
    "timestamp",
    "source_ip",
    "event",
    "duration",
    "volume",
    "source_label",
    "label",
    "tag",
    "tags",
    "call_id",
    "reason",
];

/// Opens the notification socket, when there is one.
pub(super) fn start(node: NodeRef, own: &'static Rtpengine) -> Result<(), SetupError> {
    let (Some(addr), Some(handle)) = (own.notify, own.relays.handle()) else { return Ok(()) };
    let sink = Arc::new(move |datagram: &[u8]| {
        let Some(event) = event(datagram) else {
            tracing::warn!("rtpengine: a report is no JSON object");
            return;
        };
        if let Some(workers) = node.workers() {
            workers.post(
                WorkerId(0),
                Box::new(move |_| {
                    node.events.raise(node, event, None);
                }),
            );
        }
    });
    let listening = listen_datagrams(addr, handle, sink)
        .map_err(|error| SetupError::param("notification_sock", format!("{addr}: {error}")))?;
    let _ = own.listening.set(listening);
    Ok(())
}

/// The event of a report.
fn event(datagram: &[u8]) -> Option<Event> {
    let report: Json = serde_json::from_slice(datagram).ok()?;
    let report = report.as_object()?;
    let mut params: SmallVec<[(&'static str, Value); 4]> = SmallVec::new();
    for key in KEYS {
        let value = match report.get(*key) {
            None | Some(Json::Null) => continue,
            Some(Json::String(text)) => Value::from(text.as_str()),
            Some(Json::Number(number)) => match number.as_i64().and_then(|int| i32::try_from(int).ok()) {
                Some(int) => Value::Int(int),
                None => Value::from(number.to_string().as_str()),
            },
            Some(other) => Value::from(other.to_string().as_str()),
        };
        params.push((key, value));
    }
    Some(Event { name: NOTIFICATION, params })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::event;

    #[test]
    fn reports_become_events() {
        let found =
            event(br#"{"type":"DTMF","callid":"c","event":5,"volume":-8,"x":1,"timestamp":9999999999,"tags":["a"]}"#)
                .unwrap();
        let text =
            |name: &[u8]| found.param(name).and_then(|value| value.as_text()).map(|text| text.to_str().into_owned());
        assert_eq!(text(b"type").as_deref(), Some("DTMF"));
        assert_eq!(text(b"event").as_deref(), Some("5"));
        assert_eq!(text(b"volume").as_deref(), Some("-8"));
        assert_eq!(text(b"timestamp").as_deref(), Some("9999999999"));
        assert_eq!(text(b"tags").as_deref(), Some("[\"a\"]"));
        assert!(text(b"x").is_none());
        for bad in [&b""[..], b"[1]", b"{", b"\xFF", b"d4:typee"] {
            assert!(event(bad).is_none());
        }
    }
}
