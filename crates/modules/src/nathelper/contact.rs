//! Contact and request URI: the source address in place of what the user agent believes to be its own.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use tandem_module::context::{Called, Context};
use tandem_module::transport::{Proto, Source};
use tandem_script::value::Text;
use tandem_script::vm::Arg;
use tandem_sip::{HeaderKind, NameAddr, Uri, UriEdit, edit_uri};

use super::filled;
use crate::core::table::done;

/// Base64 without padding (`=` cannot stand in a parameter value); padded text is read as well.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_encode_padding(false).with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// URI parameter with the original address.
const ORG: &[u8] = b"org";
/// Longest `host:port` taken out of [`ORG`].
const ORG_BYTES_MAX: usize = 300;

/// Where a message came from, as a SIP URI: `sip:address:port`, with `;transport=` unless it is UDP.
pub(crate) fn source_uri(source: &Source) -> Vec<u8> {
    let mut uri = format!("sip:{}", host_port(source.src)).into_bytes();
    if source.proto != Proto::Udp {
        uri.extend_from_slice(b";transport=");
        uri.extend_from_slice(source.proto.name().as_bytes());
    }
    uri
}

/// `address:port`, IPv6 in brackets; IPv4 addresses mapped into IPv6 as IPv4.
fn host_port(addr: SocketAddr) -> String {
    SocketAddr::new(addr.ip().to_canonical(), addr.port()).to_string()
}

/// `fix_nated_contact([uri_params[, flags]])`: all Contact values; false when there is none that can be rewritten.
pub(super) fn fix_nated_contact(context: &mut Context, args: &[Arg]) -> Called {
    let params = filled(args, 0).unwrap_or_default();
    let preserves =
        super::mask(context, "fix_nated_contact", filled(args, 1).unwrap_or_default(), &[("preserve-uri", 1)]) & 1 != 0;
    let source = host_port(context.source.src);
    let Context { message, edits, .. } = context;
    let mut is_any = false;
    for value in message.values_of(HeaderKind::Contact) {
        let Ok(contact) = NameAddr::parse(value.bytes) else { continue };
        let Some(fixed) = fixed_uri(contact.uri, source.as_bytes(), params, preserves) else { continue };
        let is_bare = !contact.raw.contains(&b'<');
        let Some(span) = message.span_of(contact.uri) else { continue };
        // Parameters behind a bare URI are those of the header: the new ones need the brackets.
        let text = if is_bare { [b"<", fixed.as_slice(), b">"].concat() } else { fixed };
        edits.lumps.replace(span, text);
        is_any = true;
    }
    done(is_any)
}

fn fixed_uri(uri: &[u8], source: &[u8], params: &[u8], preserves: bool) -> Option<Vec<u8>> {
    let parsed = Uri::parse(uri).ok().filter(|parsed| !parsed.host.is_empty())?;
    let mut fixed = edit_uri(uri, &UriEdit::HostPort(source)).ok()?;
    if preserves {
        let mut original = parsed.host.to_vec();
        if let Some(port) = parsed.port {
            original.extend_from_slice(format!(":{port}").as_bytes());
        }
        let original = BASE64.encode(original);
        fixed = edit_uri(&fixed, &UriEdit::Param(ORG, Some(original.as_bytes()))).ok()?;
    }
    if !params.is_empty() {
        let at = fixed.iter().position(|byte| *byte == b'?').unwrap_or(fixed.len());
        let behind = fixed.split_off(at);
        if !params.starts_with(b";") {
            fixed.push(b';');
        }
        fixed.extend_from_slice(params);
        fixed.extend_from_slice(&behind);
    }
    Some(fixed)
}

/// `restore_nated_ruri()`.
pub(super) fn restore_nated_ruri(context: &mut Context, _: &[Arg]) -> Called {
    let Some((next_hop, restored)) = context.request_uri().and_then(restored) else { return done(false) };
    context.edits.target.dst_uri = Some(Text::from(next_hop));
    context.edits.target.uri = Some(Text::from(restored));
    done(true)
}

/// The URI without [`ORG`], and the same with the original address.
fn restored(uri: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let original = Uri::parse(uri).ok()?.param(ORG).and_then(|text| BASE64.decode(text).ok())?;
    let next_hop = edit_uri(uri, &UriEdit::RemoveParam(ORG)).ok()?;
    // What stands there came over the network: only an address or name with a port may become part of a URI.
    let probe = [b"sip:", original.as_slice()].concat();
    let parsed = Uri::parse(&probe).ok()?;
    let is_sound = original.len() <= ORG_BYTES_MAX
        && parsed.user.is_none()
        && parsed.params.is_empty()
        && parsed.headers.is_none()
        && original.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(byte));
    if !is_sound {
        return None;
    }
    let restored = edit_uri(&next_hop, &UriEdit::HostPort(&original)).ok()?;
    Some((next_hop, restored))
}

/// `add_rcv_param([flag])`: all Contact values.
pub(super) fn add_rcv_param(context: &mut Context, is_in_uri: bool) -> Called {
    let received = source_uri(&context.source);
    let Context { message, edits, .. } = context;
    let mut is_any = false;
    for value in message.values_of(HeaderKind::Contact) {
        let Ok(contact) = NameAddr::parse(value.bytes) else { continue };
        if contact.raw == b"*" {
            continue;
        }
        if !is_in_uri {
            edits.lumps.insert_after(value.span.end, [b";received=\"", received.as_slice(), b"\""].concat());
            is_any = true;
            continue;
        }
        let (Some(span), Ok(uri)) = (message.span_of(contact.uri), Uri::parse(contact.uri)) else { continue };
        let escaped = String::from_utf8_lossy(&received).replace(';', "%3B").replace('=', "%3D");
        let is_bare = !contact.raw.contains(&b'<');
        let headers = uri.headers.map_or(0, |headers| headers.len() + 1);
        let end = span.end - headers as u32;
        if is_bare {
            edits.lumps.insert_before(span.start, &b"<"[..]);
            edits.lumps.insert_after(end, format!(";received={escaped}>"));
        } else {
            edits.lumps.insert_after(end, format!(";received={escaped}"));
        }
        is_any = true;
    }
    done(is_any)
}
