//! `{uri.*}`, `{via.*}`, `{nameaddr.*}`: parts of SIP texts, parsed by the SIP core.

use tandem_sip::{CommaList, NameAddr, Scheme, Uri, Via};

use super::{Context, NameAddrPart, UriPart, ViaPart, filled, part, position};
use crate::ast::Dialect;
use crate::value::{Text, Value};
use crate::vm::{Failed, Host};

pub(super) fn uri<H: Host>(context: &mut Context<'_, H>, wanted: &UriPart, input: &Text) -> Result<Value, Failed> {
    let uri = Uri::parse(input).map_err(|_| Failed)?;
    if !is_readable(&uri) {
        return Err(Failed);
    }
    let is_tel = matches!(uri.scheme, Scheme::Tel);
    Ok(match wanted {
        UriPart::User => part(uri.user),
        UriPart::Host if is_tel => Value::Null,
        UriPart::Host => filled(uri.host),
        UriPart::Password => part(uri.password),
        UriPart::Port => uri.port.map_or(Value::Null, |port| Value::Int(i32::from(port))),
        UriPart::Params => filled(uri.params.raw()),
        UriPart::Param(name) => {
            let name = context.text(name)?;
            // One parameter with an empty value makes the whole list unreadable in the reference; scripts see that.
            if uri.params.iter().any(|param| param.value.is_some_and(<[u8]>::is_empty)) {
                return Err(Failed);
            }
            uri.params.find(&name).map_or(Value::Null, |param| Value::text(param.value.unwrap_or_default()))
        }
        UriPart::Named(name) => match uri.params.find(name.as_bytes()).and_then(|param| param.value) {
            Some(value) => filled(value),
            None => Value::Null,
        },
        UriPart::Headers => part(uri.headers),
        UriPart::Scheme => filled(uri.scheme_text),
    })
}

/// Whether scripts may look into a URI: one with an empty user before `@`, or a second colon in its password, is unreadable.
pub fn is_readable(uri: &Uri<'_>) -> bool {
    uri.user.is_none_or(|user| !user.is_empty()) && uri.password.is_none_or(|password| !password.contains(&b':'))
}

pub(super) fn via<H: Host>(context: &mut Context<'_, H>, wanted: &ViaPart, input: &Text) -> Result<Value, Failed> {
    let via = Via::parse(input).map_err(|_| Failed)?;
    Ok(match wanted {
        ViaPart::Name => filled(via.protocol),
        ViaPart::Version => filled(via.version),
        ViaPart::Transport => filled(via.transport_text),
        ViaPart::Host => filled(via.host),
        ViaPart::Port => via.port.map_or(Value::Null, |port| Value::Int(i32::from(port))),
        ViaPart::Params => filled(via.params.raw()),
        ViaPart::Param(name) => {
            let name = context.text(name)?;
            via.params.find(&name).map_or(Value::Null, |param| Value::text(param.value.unwrap_or_default()))
        }
        ViaPart::Named(name) => match via.params.find(name.as_bytes()).and_then(|param| param.value) {
            Some(value) => filled(value),
            None => Value::Null,
        },
        ViaPart::Comment => filled(via.comment),
    })
}

pub(super) fn name_addr<H: Host>(
    context: &mut Context<'_, H>,
    index: Option<i32>,
    wanted: &NameAddrPart,
    input: &Text,
) -> Result<Value, Failed> {
    let mut values = CommaList::new(input);
    let text = match index {
        None => {
            let first = values.next().ok_or(Failed)?;
            // 2.4 reads single addresses only.
            if context.dialect == Dialect::V2_4 && values.next().is_some() {
                return Err(Failed);
            }
            first
        }
        Some(at) => {
            let Some(at) = position(at, values.clone().count()) else { return Ok(Value::Null) };
            values.nth(at).ok_or(Failed)?
        }
    };
    let address = NameAddr::parse(text).map_err(|_| Failed)?;
    let is_followed = !input.trim_ascii_end().ends_with(text.trim_ascii_end());
    Ok(match wanted {
        NameAddrPart::Name => filled(address.display),
        NameAddrPart::Uri => filled(address.uri),
        NameAddrPart::Len => {
            // The reference counts the line end it reads behind an address without parameters.
            let line_end = if address.params.raw().is_empty() && !is_followed { 2 } else { 0 };
            Value::Int(i32::try_from(length(&address) + line_end).unwrap_or(i32::MAX))
        }
        NameAddrPart::Param(name) => {
            let name = context.text(name)?;
            // Names are compared with their case here.
            let found = address.params.iter().find(|param| param.name == &*name);
            found.and_then(|param| param.value).map_or(Value::Null, filled)
        }
        NameAddrPart::Params => filled(address.params.raw()),
    })
}

/// Length of the address without its parameters.
fn length(address: &NameAddr<'_>) -> usize {
    let params = address.params.raw();
    let head = if params.is_empty() { address.raw.len() } else { address.raw.len().saturating_sub(params.len() + 1) };
    address.raw.get(..head).unwrap_or(address.raw).trim_ascii_end().len()
}
