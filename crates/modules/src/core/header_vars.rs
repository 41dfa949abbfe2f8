//! Variables that show headers as received (specification §6.4): generic ones and the typed short names.

use tandem_module::context::Context;
use tandem_module::declare::VarCall;
use tandem_script::value::{Text, Value, int_text};
use tandem_script::vm::{Index, JOIN_BYTES_MAX};
use tandem_sip::{ContactValue, HeaderKind, Message, NameAddr};

use super::table::{filled_value, message_of, part, part_value, position};

/// Picks from a list by index: the first without index, `[n]`, or all joined with `, `. Walks the list; keeps nothing.
fn pick<'m>(message: &'m Message, index: Index, list: impl Iterator<Item = &'m [u8]> + Clone) -> Value {
    match index {
        Index::None | Index::At(0) => part_value(message, list.clone().next()),
        Index::At(at) if at > 0 => part_value(message, list.clone().nth(at as usize)),
        Index::At(at) => {
            let at = position(at, list.clone().count());
            part_value(message, at.and_then(|at| list.clone().nth(at)))
        }
        Index::Append => Value::Null,
        Index::All => {
            let mut out = Vec::new();
            let mut count = 0;
            for item in list {
                if count > 0 {
                    out.extend_from_slice(b", ");
                }
                out.extend_from_slice(item);
                count += 1;
            }
            if count == 0 || out.len() > JOIN_BYTES_MAX { Value::Null } else { Value::Text(Text::from(out)) }
        }
    }
}

/// `$hdr(name)`.
pub(super) fn header(context: &mut Context, call: &VarCall<'_>) -> Value {
    let (Some(message), Some(name)) = (message_of(context, call), call.name) else { return Value::Null };
    pick(message, call.index, message.headers_by_name(name).map(|entry| message.value(entry)))
}

/// `$hdrcnt(name)`.
pub(super) fn header_count(context: &mut Context, call: &VarCall<'_>) -> Value {
    let (Some(message), Some(name)) = (message_of(context, call), call.name) else { return Value::Null };
    Value::Int(message.headers_by_name(name).count() as i32)
}

/// `$hdr_name`, `$(hdr_name[n])`.
pub(super) fn header_name(context: &mut Context, call: &VarCall<'_>) -> Value {
    let Some(message) = message_of(context, call) else { return Value::Null };
    pick(message, call.index, message.headers().iter().map(|entry| message.bytes(entry.name)))
}

/// `$ct`, `$(ct[n])`.
pub(super) fn contact(context: &mut Context, call: &VarCall<'_>) -> Value {
    let Some(message) = message_of(context, call) else { return Value::Null };
    let all: smallvec::SmallVec<[&[u8]; 4]> =
        message.values_of(HeaderKind::Contact).map(|value| message.bytes(value.span)).collect();
    pick(message, call.index, all.iter().copied())
}

/// `$ct.fields(name)`.
pub(super) fn contact_field(context: &mut Context, call: &VarCall<'_>) -> Value {
    let Some(message) = message_of(context, call) else { return Value::Null };
    let name = call.name.unwrap_or(b"uri").to_ascii_lowercase();
    let field = |contact: &NameAddr<'_>| match name.as_slice() {
        b"name" => filled_value(message, contact.display),
        b"uri" => part_value(message, Some(contact.uri)),
        b"params" => filled_value(message, contact.params.raw()),
        name @ (b"q" | b"expires" | b"methods" | b"received") => {
            let value = contact.params.value(name);
            part_value(
                message,
                value.map(|text| text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).unwrap_or(text)),
            )
        }
        _ => Value::Null,
    };
    let contacts = || {
        message.contacts().filter_map(|contact| match contact {
            Ok(ContactValue::Address(contact)) => Some(contact),
            _ => None,
        })
    };
    match call.index {
        Index::All => {
            let mut out = Vec::new();
            let mut count = 0;
            for contact in contacts() {
                // What is missing stands as nothing.
                if !out.is_empty() {
                    out.extend_from_slice(b", ");
                }
                if let Some(text) = field(&contact).as_text() {
                    out.extend_from_slice(&text);
                }
                count += 1;
            }
            if count == 0 || out.len() > JOIN_BYTES_MAX { Value::Null } else { Value::Text(Text::from(out)) }
        }
        Index::At(at) => {
            let at = position(at, contacts().count());
            at.and_then(|at| contacts().nth(at)).map_or(Value::Null, |contact| field(&contact))
        }
        Index::None | Index::Append => contacts().next().map_or(Value::Null, |contact| field(&contact)),
    }
}

#[derive(Clone, Copy)]
enum AddressPart {
    Uri,
    User,
    Host,
    Display,
    Tag,
}

fn address_part(message: &Message, address: Option<NameAddr<'_>>, wanted: AddressPart) -> Value {
    let Some(address) = address else { return Value::Null };
    match wanted {
        AddressPart::Uri => part_value(message, Some(address.uri)),
        AddressPart::Display => filled_value(message, address.display),
        AddressPart::Tag => part_value(message, address.tag()),
        AddressPart::User | AddressPart::Host => match address.parsed_uri() {
            Ok(uri) if matches!(wanted, AddressPart::User) => filled_value(message, uri.user_or_empty()),
            Ok(uri) => filled_value(message, uri.host),
            Err(_) => Value::Null,
        },
    }
}

fn address_of(message: &Message, kind: HeaderKind) -> Option<NameAddr<'_>> {
    match kind {
        HeaderKind::From => message.from().ok(),
        HeaderKind::To => message.to().ok(),
        kind => message.name_addrs(kind).next().and_then(Result::ok),
    }
}

macro_rules! addresses {
    ($($name:ident = $kind:ident.$part:ident;)*) => {
        $(pub(super) fn $name(context: &mut Context, call: &VarCall<'_>) -> Value {
            let Some(message) = message_of(context, call) else { return Value::Null };
            address_part(message, address_of(message, HeaderKind::$kind), AddressPart::$part)
        })*
    };
}

addresses! {
    from_uri = From.Uri;
    from_user = From.User;
    from_host = From.Host;
    from_display = From.Display;
    from_tag = From.Tag;
    to_uri = To.Uri;
    to_user = To.User;
    to_host = To.Host;
    to_display = To.Display;
    to_tag = To.Tag;
    refer_to = ReferTo.Uri;
    asserted = PAssertedIdentity.Uri;
    preferred_uri = PPreferredIdentity.Uri;
    preferred_user = PPreferredIdentity.User;
    preferred_host = PPreferredIdentity.Host;
    preferred_display = PPreferredIdentity.Display;
    remote_party = RemotePartyId.Uri;
    diversion = Diversion.Uri;
}

fn diversion_param(context: &Context, call: &VarCall<'_>, name: &[u8]) -> Value {
    let Some(message) = message_of(context, call) else { return Value::Null };
    let found = address_of(message, HeaderKind::Diversion).and_then(|address| address.params.value(name));
    part_value(message, found)
}

pub(super) fn diversion_reason(context: &mut Context, call: &VarCall<'_>) -> Value {
    diversion_param(context, call, b"reason")
}

pub(super) fn diversion_privacy(context: &mut Context, call: &VarCall<'_>) -> Value {
    diversion_param(context, call, b"privacy")
}

pub(super) fn call_id(context: &mut Context, call: &VarCall<'_>) -> Value {
    message_of(context, call).map_or(Value::Null, |message| part_value(message, message.call_id().ok()))
}

pub(super) fn cseq(context: &mut Context, call: &VarCall<'_>) -> Value {
    let number = message_of(context, call).and_then(|message| message.cseq().ok()).map(|(number, _, _)| number);
    // The number can be larger than a script integer; it is a text in any case.
    number.map_or(Value::Null, |number| match i32::try_from(number) {
        Ok(number) => Value::Text(int_text(number)),
        Err(_) => Value::Text(Text::from(number.to_string())),
    })
}

pub(super) fn user_agent(context: &mut Context, call: &VarCall<'_>) -> Value {
    message_of(context, call)
        .map_or(Value::Null, |message| part_value(message, message.value_of(HeaderKind::UserAgent)))
}

pub(super) fn content_length(context: &mut Context, call: &VarCall<'_>) -> Value {
    let number = message_of(context, call).and_then(|message| message.content_length().ok()).flatten();
    number.map_or(Value::Null, |number| Value::Int(number as i32))
}

/// `$cT`: of the message; with an index, of that body part.
pub(super) fn content_type(context: &mut Context, call: &VarCall<'_>) -> Value {
    let Some(message) = message_of(context, call) else { return Value::Null };
    let Some(whole) = message.value_of(HeaderKind::ContentType) else { return Value::Null };
    if call.index == Index::None {
        return Value::Text(part(message, whole));
    }
    // Types of parts are shown without parameters, in lower case.
    let mut all: smallvec::SmallVec<[Vec<u8>; 4]> =
        crate::sipmsgops::body::parts(message).map(|part| part.mime.to_ascii_lowercase()).collect();
    if !crate::sipmsgops::body::is_multipart(message) {
        all.push(message.content_type().unwrap_or_default().to_ascii_lowercase());
    }
    match call.index {
        Index::All => {
            let mut out = whole.to_vec();
            for mime in &all {
                out.push(b',');
                out.extend_from_slice(mime);
            }
            if out.len() > JOIN_BYTES_MAX { Value::Null } else { Value::Text(Text::from(out)) }
        }
        Index::At(at) => {
            position(at, all.len()).and_then(|at| all.get(at)).map_or(Value::Null, |mime| Value::text(mime))
        }
        Index::None | Index::Append => Value::Null,
    }
}
