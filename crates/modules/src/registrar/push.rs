//! Push notifications (RFC 8599): what a contact says about them, what a 200 says, and the parameters. Who is woken is in
//! `wake`.

use tandem_location::{Binding, ContactId, binding_flags};
use tandem_module::SetupError;
use tandem_module::declare::ParamValues;
use tandem_sip::{CommaList, HeaderEntry, Message, Params, Uri, UriEdit, edit_uri};

/// Services a list may name.
const PROVIDERS_MAX: usize = 32;
/// Where the dots of a PURR stand: a contact id in hexadecimal, 3, 5 and 8 digits.
const PURR_DOTS: [usize; 2] = [3, 9];
const PURR_BYTES: usize = 18;

/// Parameters `pn_...`.
#[derive(Debug)]
pub(super) struct Push {
    providers: Vec<String>,
    /// Parameters of a contact URI that make it this UA, whatever else is in it.
    pub(super) match_params: Vec<Vec<u8>>,
    register_secs: u32,
    pub(super) trigger_secs: u32,
    skip_secs: u32,
    pub(super) refresh_secs: u32,
    pub(super) has_purr: bool,
}

/// What a contact wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Nothing of this.
    Nothing,
    /// To know which services there are.
    All,
    /// To know whether there is this one.
    One(usize),
    /// To be woken by it.
    On(usize),
    /// Another proxy wakes it; it is known by its parameters all the same.
    Elsewhere,
    /// A service that is not here, or not all it needs: 555.
    Unsupported,
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

impl Push {
    /// `None` unless `pn_enable` is on.
    ///
    /// # Errors
    /// A parameter that makes no sense.
    pub(super) fn read(params: &ParamValues) -> Result<Option<Push>, SetupError> {
        if params.int("pn_enable", 0) == 0 {
            return Ok(None);
        }
        let secs = |name: &'static str, default: i32| match params.int(name, default) {
            value @ 0.. => Ok(value.unsigned_abs()),
            value => Err(SetupError::param(name, format!("{name} must not be negative: {value}"))),
        };
        let providers = list(&params.text_or("pn_providers", ""));
        if providers.is_empty() {
            let text = "pn_enable needs the services: modparam(\"registrar\", \"pn_providers\", \"apns, fcm\")";
            return Err(SetupError::new(text));
        }
        if providers.len() > PROVIDERS_MAX {
            return Err(SetupError::param("pn_providers", format!("more than {PROVIDERS_MAX} services")));
        }
        let wanted = list(&params.text_or("pn_ct_match_params", "pn-provider, pn-prid, pn-param"));
        if wanted.is_empty() {
            return Err(SetupError::param("pn_ct_match_params", "at least one parameter is needed"));
        }
        let register_secs = secs("pn_pnsreg_interval", 130)?;
        let refresh_secs = secs("pn_refresh_timeout", 6)?.max(1);
        Ok(Some(Push {
            providers,
            match_params: wanted.into_iter().map(String::into_bytes).collect(),
            register_secs,
            trigger_secs: secs("pn_trigger_interval", 120)?,
            skip_secs: secs("pn_skip_pn_interval", 0)?,
            refresh_secs,
            has_purr: params.int("pn_enable_purr", 0) != 0,
        }))
    }

    /// What the contact of a REGISTER wants.
    pub(super) fn wanted(&self, message: &Message, uri: &[u8]) -> Wanted {
        let Ok(uri) = Uri::parse(uri) else { return Wanted::Nothing };
        let Some(provider) = uri.params.find(b"pn-provider") else { return Wanted::Nothing };
        let Some(provider) = provider.value.filter(|value| !value.is_empty()) else { return Wanted::All };
        let is_complete = self.match_params.iter().all(|name| uri.has_param(name));
        if is_done_elsewhere(message, provider) {
            return if is_complete { Wanted::Elsewhere } else { Wanted::Nothing };
        }
        let known = self.providers.iter().position(|own| own.as_bytes().eq_ignore_ascii_case(provider));
        match known {
            None => Wanted::Unsupported,
            Some(at) if is_complete => Wanted::On(at),
            // Only the service is named: a question (RFC 8599 §4.1).
            Some(at) if !uri.has_param(b"pn-prid") && !uri.has_param(b"pn-param") => Wanted::One(at),
            Some(_) => Wanted::Unsupported,
        }
    }

    /// The Feature-Caps lines of a 200 (RFC 8599 §5.3). `binding` is that of a contact to be woken.
    pub(super) fn feature_caps(&self, message: &Message, wanted: Wanted, binding: Option<ContactId>) -> Vec<u8> {
        let line = |provider: &str, more: &str| format!("Feature-Caps: *;+sip.pns=\"{provider}\"{more}\r\n");
        let one = |at: usize, more: &str| self.providers.get(at).map(|provider| line(provider, more));
        let text = match wanted {
            Wanted::All => {
                let here = self.providers.iter().filter(|provider| !is_done_elsewhere(message, provider.as_bytes()));
                here.map(|provider| line(provider, "")).collect()
            }
            Wanted::One(at) => one(at, "").unwrap_or_default(),
            Wanted::On(at) => {
                let mut more = format!(";+sip.pnsreg=\"{}\"", self.register_secs);
                if let Some(id) = binding.filter(|_| self.has_purr) {
                    more.push_str(&format!(";+sip.pnspurr=\"{}\"", purr_of(id)));
                }
                one(at, &more).unwrap_or_default()
            }
            Wanted::Nothing | Wanted::Elsewhere | Wanted::Unsupported => String::new(),
        };
        text.into_bytes()
    }

    /// Whether the UA of a binding has to be woken before it can be reached.
    pub(super) fn has_to_wake(&self, binding: &Binding, now: i64) -> bool {
        let is_push = binding.flags() & binding_flags::PUSH_NOTIFICATION != 0;
        is_push && binding.last_modified() + i64::from(self.skip_secs) <= now
    }

    /// A contact URI without the parameters that are between the UA and its registrar.
    pub(super) fn without_params(&self, uri: &[u8]) -> Vec<u8> {
        let mut uri = uri.to_vec();
        for name in &self.match_params {
            if Uri::parse(&uri).is_ok_and(|parsed| parsed.has_param(name))
                && let Ok(shorter) = edit_uri(&uri, &UriEdit::RemoveParam(name))
            {
                uri = shorter;
            }
        }
        uri
    }
}

/// Whether a proxy on the way says that it wakes UAs of that service.
fn is_done_elsewhere(message: &Message, provider: &[u8]) -> bool {
    let is_feature = |entry: &&HeaderEntry| entry.name.of(message.buffer()).eq_ignore_ascii_case(b"Feature-Caps");
    let mut values = message.headers().iter().filter(is_feature).flat_map(|entry| CommaList::new(message.value(entry)));
    values.any(|value| {
        let params = value.iter().position(|byte| *byte == b';').and_then(|at| value.get(at + 1..)).unwrap_or(value);
        let named = Params::new(params).value(b"+sip.pns").unwrap_or_default();
        named
            .strip_prefix(b"\"")
            .and_then(|named| named.strip_suffix(b"\""))
            .unwrap_or(named)
            .eq_ignore_ascii_case(provider)
    })
}

/// The reference of a registration that goes with requests within a call (RFC 8599 §6).
pub(super) fn purr_of(id: ContactId) -> String {
    let mut text = format!("{:016x}", id.0);
    for at in PURR_DOTS {
        text.insert(at, '.');
    }
    text
}

/// The registration of a reference; `None` for one that is not of this form.
pub(super) fn purr_id(purr: &[u8]) -> Option<ContactId> {
    if purr.len() != PURR_BYTES || PURR_DOTS.iter().any(|at| purr.get(*at) != Some(&b'.')) {
        return None;
    }
    let digits: String = purr.iter().filter(|byte| **byte != b'.').map(|byte| char::from(*byte)).collect();
    let is_hex = digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hex { u64::from_str_radix(&digits, 16).ok().map(ContactId) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_read_back_and_others_are_none() {
        let id = ContactId(0x1234_5678_9abc_def0);
        assert_eq!(purr_of(id), "123.45678.9abcdef0");
        assert_eq!(purr_id(b"123.45678.9abcdef0"), Some(id));
        for other in [
            "",
            "123.45678.9abcdef",
            "1234.5678.9abcdef0",
            "12g.45678.9abcdef0",
            "123.45678.9abcdef.",
            "...................",
        ] {
            assert_eq!(purr_id(other.as_bytes()), None, "{other}");
        }
    }
}
