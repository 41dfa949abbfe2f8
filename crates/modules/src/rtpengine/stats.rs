//! `$rtpstat` and `$rtpquery`: what the newest answer to `rtpengine_delete()` or `rtpengine_query()` on this message says.
//! Reading a variable cannot wait, so nothing is asked here.

use serde_json::{Map, Value as Json};
use tandem_media::bencode::Value as Ng;
use tandem_module::context::Context;
use tandem_module::declare::VarCall;
use tandem_script::pvar::KEY_START;
use tandem_script::value::Value;

use super::LastAnswer;

/// `$rtpquery`.
pub(super) fn query(context: &mut Context, _: &VarCall<'_>) -> Value {
    match context.slot::<LastAnswer>() {
        Some(LastAnswer(answer)) => Value::from(json(answer).to_string().as_str()),
        None => Value::Null,
    }
}

fn json(value: &Ng) -> Json {
    match value {
        Ng::Int(int) => Json::from(*int),
        Ng::Bytes(bytes) => Json::from(String::from_utf8_lossy(bytes).into_owned()),
        Ng::List(items) => items.iter().map(json).collect(),
        Ng::Dict(pairs) => {
            let pairs = pairs.iter().map(|(key, value)| (String::from_utf8_lossy(key).into_owned(), json(value)));
            Json::Object(pairs.collect::<Map<_, _>>())
        }
    }
}

/// `$rtpstat`, `$rtpstat(STAT)` and `$(rtpstat(STAT)[tag])`.
pub(super) fn stat(context: &mut Context, call: &VarCall<'_>) -> Value {
    let Some(LastAnswer(answer)) = context.slot::<LastAnswer>() else { return Value::Null };
    match call.name {
        None => summary(answer).map_or(Value::Null, |text| Value::from(text.as_str())),
        Some(name) => {
            let (name, tag) = match name.iter().position(|byte| *byte == KEY_START) {
                Some(at) => (name.get(..at).unwrap_or_default(), name.get(at + 1..)),
                None => (name, None),
            };
            let found = named(answer, &String::from_utf8_lossy(name), tag);
            found.and_then(|int| i32::try_from(int).ok()).map_or(Value::Null, Value::Int)
        }
    }
}

/// Packets, bytes and errors of the whole call.
fn summary(answer: &Ng) -> Option<String> {
    let totals = answer.get("totals")?;
    let part = |name: &str| {
        let part = totals.get(name)?;
        let number = |key: &str| part.get(key).and_then(Ng::as_int).unwrap_or(0);
        Some(format!("{name}: {} bytes, {} packets, {} errors", number("bytes"), number("packets"), number("errors")))
    };
    Some(format!("{}; {}", part("RTP")?, part("RTCP")?))
}

/// The reports about streams: all, or those that the side with `tag` sends.
fn reports<'a>(answer: &'a Ng, tag: Option<&[u8]>) -> Option<Vec<&'a Ng>> {
    let all = answer.get("SSRC")?.pairs();
    let Some(tag) = tag else { return Some(all.iter().map(|(_, report)| report).collect()) };
    let (_, side) = answer.get("tags")?.pairs().iter().find(|(own, _)| own.as_slice() == tag)?;
    let medias = side.get("medias").map(Ng::items).unwrap_or_default();
    let streams = medias.iter().flat_map(|media| media.get("streams").map(Ng::items).unwrap_or_default());
    let own: Vec<Vec<u8>> =
        streams.filter_map(|stream| Some(stream.get("SSRC")?.as_int()?.to_string().into_bytes())).collect();
    Some(all.iter().filter(|(ssrc, _)| own.iter().any(|own| own == ssrc)).map(|(_, report)| report).collect())
}

/// One of the statistics, over all streams of the call or over those of one side.
fn named(answer: &Ng, name: &str, tag: Option<&[u8]>) -> Option<i64> {
    let (measure, kind) = name.split_once('-')?;
    let key = match measure.to_ascii_lowercase().as_str() {
        "mos" => "MOS",
        "jitter" => "jitter",
        "roundtrip" => "round-trip time",
        "packetloss" => "packet loss",
        _ => return None,
    };
    let streams = reports(answer, tag)?;
    let values = |report: &str| -> Vec<(i64, i64)> {
        let one = |stream: &&Ng| {
            let report = stream.get(report)?;
            Some((report.get(key)?.as_int()?, report.get("reported at").and_then(Ng::as_int).unwrap_or(0)))
        };
        streams.iter().filter_map(one).collect()
    };
    let extremes = || [values("lowest MOS"), values("highest MOS")].concat();
    let created = answer.get("created").and_then(Ng::as_int).unwrap_or(0);
    let since = |(_, at): (i64, i64)| (at - created).max(0);
    match kind {
        "average" => {
            let all = values("average MOS");
            let count = i64::try_from(all.len()).ok().filter(|count| *count > 0)?;
            Some(all.iter().map(|(value, _)| value).sum::<i64>() / count)
        }
        "min" => extremes().into_iter().min().map(|(value, _)| value),
        "max" => extremes().into_iter().max_by_key(|(value, _)| *value).map(|(value, _)| value),
        "min-at" => extremes().into_iter().min().map(since),
        "max-at" => extremes().into_iter().max_by_key(|(value, _)| *value).map(since),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ANSWER: &[u8] = b"d7:createdi100e6:totalsd3:RTPd5:bytesi20e7:packetsi2e6:errorsi0ee4:RTCPd5:bytesi1e7:packetsi1e6:errorsi3eee\
        4:SSRCd1:1d11:average MOSd3:MOSi40e6:jitteri3ee10:lowest MOSd3:MOSi30e11:reported ati105ee11:highest MOSd3:MOSi44e11:reported ati110eee\
        1:2d11:average MOSd3:MOSi42eeee4:tagsd1:ad6:mediasld7:streamsld4:SSRCi1eeeeee1:bd6:mediasld7:streamsld4:SSRCi2eed4:SSRCi9eeeeeeee";

    #[test]
    fn statistics_are_found() {
        let answer = Ng::decode(ANSWER).unwrap();
        assert_eq!(summary(&answer).unwrap(), "RTP: 20 bytes, 2 packets, 0 errors; RTCP: 1 bytes, 1 packets, 3 errors");
        for (name, value) in [
            ("MOS-average", Some(41)),
            ("jitter-average", Some(3)),
            ("MOS-min", Some(30)),
            ("MOS-max", Some(44)),
            ("MOS-min-at", Some(5)),
            ("MOS-max-at", Some(10)),
            ("roundtrip-min", None),
            ("nonsense", None),
            ("MOS-nonsense", None),
        ] {
            assert_eq!(named(&answer, name, None), value, "{name}");
        }
        assert_eq!(named(&Ng::Int(1), "MOS-average", None), None);
        for (tag, average, least) in [("a", Some(40), Some(30)), ("b", Some(42), None), ("c", None, None)] {
            let of = |name: &str| named(&answer, name, Some(tag.as_bytes()));
            assert_eq!((of("MOS-average"), of("MOS-min")), (average, least), "{tag}");
        }
        assert_eq!(json(&answer)["totals"]["RTP"]["bytes"], 20);
    }
}
