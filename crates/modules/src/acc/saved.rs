//! Accounts of calls that outlive the process: kept as a value of the dialog, where the dialog itself is kept in a database. The
//! form is our own.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as Json, json};
use tandem_dialog::DialogId;
use tandem_module::NodeRef;
use tandem_script::value::Text;

use super::Acc;
use super::account::{Account, LEGS_MAX, new_fields};
use super::record::{Call, Record};
use crate::dialog::clock::{self, Now};

/// Name of the value.
const NAME: &[u8] = b"accX_ctx";

fn text(text: &Text) -> String {
    String::from_utf8_lossy(text).into_owned()
}

/// Keeps the account of a call in its dialog, when that is kept at all.
pub(super) fn keep(node: NodeRef, acc: &Acc, id: DialogId, call: &Call) {
    if !crate::dialog::is_saved(node) {
        return;
    }
    let Call { record, account } = call;
    let state = account.state.lock();
    let named = |tags: &[String], values: &[Option<Text>]| -> Json {
        let set =
            tags.iter().zip(values).filter_map(|(tag, value)| Some((tag.clone(), Json::from(text(value.as_ref()?)))));
        Json::Object(set.collect())
    };
    let kept = json!({
        "method": text(&record.method),
        "from_tag": text(&record.from_tag),
        "to_tag": text(&record.to_tag),
        "callid": text(&record.call_id),
        "code": text(&record.code),
        "reason": text(&record.reason),
        "at": record.at.unix_ms,
        "created": record.created.map(|created| created.unix_ms),
        "wanted": state.wanted,
        "table": state.table,
        "extra": named(&acc.config.tags, &state.fields.extra),
        "legs": state.fields.legs.iter().map(|leg| named(&acc.config.leg_tags, leg)).collect::<Vec<Json>>(),
    });
    drop(state);
    crate::dialog::set_value(node, id, NAME, kept.to_string().as_bytes());
}

/// A moment of the wall clock on both clocks.
fn moment(unix_ms: i64) -> Now {
    let now = clock::now();
    let ago = Duration::from_millis(now.unix_ms.saturating_sub(unix_ms).max(0).unsigned_abs());
    Now { monotonic: now.monotonic.checked_sub(ago).unwrap_or(now.monotonic), unix_ms }
}

/// The account of a call of before a restart; `None` without one.
pub(super) fn find(node: NodeRef, acc: &Acc, id: DialogId) -> Option<Call> {
    let kept: Json = serde_json::from_slice(&crate::dialog::text_value(node, id, NAME)?).ok()?;
    let field = |name: &str| kept.get(name)?.as_str().map(Text::from);
    let fill = |tags: &[String], values: &mut [Option<Text>], from: &Json| {
        for (tag, place) in tags.iter().zip(values) {
            *place = from.get(tag).and_then(Json::as_str).map(Text::from);
        }
    };
    let mut fields = new_fields(&acc.config);
    if let Some(extra) = kept.get("extra") {
        fill(&acc.config.tags, &mut fields.extra, extra);
    }
    let legs = kept.get("legs").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
    if !legs.is_empty() && !acc.config.leg_tags.is_empty() {
        fields.legs = vec![vec![None; acc.config.leg_tags.len()]; legs.len().min(LEGS_MAX)];
        for (leg, from) in fields.legs.iter_mut().zip(legs) {
            fill(&acc.config.leg_tags, leg, from);
        }
    }
    let mut wanted = [0u8; 3];
    for (place, bits) in wanted.iter_mut().zip(kept.get("wanted")?.as_array()?) {
        *place = u8::try_from(bits.as_u64()?).ok()?;
    }
    let table = kept.get("table").and_then(Json::as_str).filter(|table| super::params::is_identifier(table));
    let at = moment(kept.get("at")?.as_i64()?);
    let created = kept.get("created").and_then(Json::as_i64).map(moment);
    let record = Record {
        method: field("method")?,
        from_tag: field("from_tag")?,
        to_tag: field("to_tag")?,
        call_id: field("callid")?,
        code: field("code")?,
        reason: field("reason")?,
        at,
        created,
    };
    let account = Account::restored(created.unwrap_or(at), wanted, table.map(str::to_owned), fields);
    Some(Call { record, account: Arc::new(account) })
}
