//! The tests of `nat_uac_test()`: addresses in Contact, Via and session description against private ranges and against
//! where the message came from. It changes nothing.

use std::net::{IpAddr, Ipv4Addr};

use tandem_module::context::{Called, Context};
use tandem_module::declare::arg_text;
use tandem_script::vm::Arg;
use tandem_sip::sdp::{Connection, Sdp};
use tandem_sip::{ContactValue, Uri};

use crate::core::table::done;

const PRIVATE_CONTACT: u32 = 1;
const DIFF_IP_SRC_VIA: u32 = 2;
const PRIVATE_VIA: u32 = 4;
const PRIVATE_SDP: u32 = 8;
const DIFF_PORT_SRC_VIA: u32 = 16;
const DIFF_IP_SRC_CONTACT: u32 = 32;
const DIFF_PORT_SRC_CONTACT: u32 = 64;
const CARRIER_GRADE_NAT: u32 = 128;

const NAMES: &[(&str, u32)] = &[
    ("private-contact", PRIVATE_CONTACT),
    ("diff-ip-src-via", DIFF_IP_SRC_VIA),
    ("private-via", PRIVATE_VIA),
    ("private-sdp", PRIVATE_SDP),
    ("diff-port-src-via", DIFF_PORT_SRC_VIA),
    ("diff-ip-src-contact", DIFF_IP_SRC_CONTACT),
    ("diff-port-src-contact", DIFF_PORT_SRC_CONTACT),
    ("carrier-grade-nat", CARRIER_GRADE_NAT),
];

/// `nat_uac_test(flags)` (OpenSIPS: nathelper).
pub(super) fn nat_uac_test(context: &mut Context, args: &[Arg]) -> Called {
    let wanted = super::mask(context, "nat_uac_test", arg_text(args, 0).unwrap_or_default(), NAMES);
    done(is_behind_nat(context, wanted))
}

fn is_behind_nat(context: &Context, wanted: u32) -> bool {
    let has = |bit: u32| wanted & bit != 0;
    let with_cgn = has(CARRIER_GRADE_NAT);
    let source = context.source.src;
    if has(DIFF_IP_SRC_VIA | PRIVATE_VIA | DIFF_PORT_SRC_VIA)
        && let Ok(via) = context.message.top_via()
    {
        let is_found = has(DIFF_IP_SRC_VIA) && !via.host_is(source.ip())
            || has(PRIVATE_VIA) && is_private(via.host, with_cgn)
            || has(DIFF_PORT_SRC_VIA) && via.port_or_default() != source.port();
        if is_found {
            return true;
        }
    }
    if has(PRIVATE_CONTACT | DIFF_IP_SRC_CONTACT | DIFF_PORT_SRC_CONTACT)
        && let Some(Ok(ContactValue::Address(contact))) = context.message.contacts().next()
        && let Ok(uri) = Uri::parse(contact.uri)
    {
        let is_found = has(PRIVATE_CONTACT) && is_private(uri.host, with_cgn)
            || has(DIFF_IP_SRC_CONTACT) && uri.host_ip() != Some(source.ip())
            || has(DIFF_PORT_SRC_CONTACT) && uri.port_or_default() != source.port();
        if is_found {
            return true;
        }
    }
    has(PRIVATE_SDP) && super::sdp::received(&context.message).is_some_and(|sdp| has_private_address(sdp, with_cgn))
}

fn has_private_address(sdp: &[u8], with_cgn: bool) -> bool {
    let sdp = Sdp::parse(sdp);
    let is_private = |connection: Connection<'_>| is_private(connection.address, with_cgn);
    sdp.connection().is_some_and(is_private) || sdp.media().any(|media| media.connection().is_some_and(is_private))
}

/// Whether a host is an address of RFC 1918 or RFC 6598, with `with_cgn` also of RFC 6333. Names are not looked up.
fn is_private(host: &[u8], with_cgn: bool) -> bool {
    let host = host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]")).unwrap_or(host);
    match std::str::from_utf8(host).ok().and_then(|host| host.parse().ok()) {
        Some(IpAddr::V4(ip)) => is_private_ip(ip, with_cgn),
        Some(IpAddr::V6(_)) | None => false,
    }
}

fn is_private_ip(ip: Ipv4Addr, with_cgn: bool) -> bool {
    let [first, second, third, fourth] = ip.octets();
    ip.is_private()
        || (first == 100 && second & 0xC0 == 64)
        || (with_cgn && first == 192 && second == 0 && third == 0 && fourth < 8)
}

#[cfg(test)]
mod tests {
    use super::is_private;

    #[test]
    fn private_ranges_end_where_the_rfcs_say() {
        for (host, is, with_cgn) in [
            ("10.255.255.255", true, true),
            ("11.0.0.1", false, false),
            ("172.15.255.255", false, false),
            ("172.16.0.0", true, true),
            ("172.31.255.255", true, true),
            ("172.32.0.0", false, false),
            ("192.168.0.1", true, true),
            ("192.169.0.1", false, false),
            ("100.63.255.255", false, false),
            ("100.64.0.0", true, true),
            ("100.127.255.255", true, true),
            ("100.128.0.0", false, false),
            ("192.0.0.7", false, true),
            ("192.0.0.8", false, false),
            ("[fd00::1]", false, false),
            ("phone.local", false, false),
            ("10.0.0", false, false),
            ("", false, false),
        ] {
            assert_eq!(is_private(host.as_bytes(), false), is, "{host}");
            assert_eq!(is_private(host.as_bytes(), true), with_cgn, "{host} with RFC 6333");
        }
    }
}
