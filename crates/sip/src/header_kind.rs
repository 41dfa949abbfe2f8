//! The well-known header names, their compact forms and the lookup from received text. Header bodies are not parsed here.

macro_rules! header_kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal $(/ $compact:literal)?;)*) => {
        /// A header field known by name; compact forms (RFC 3261 §7.3.3) equal the long ones.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum HeaderKind {
            $(#[doc = concat!("`", $name, "`")] $(#[$doc])* $variant,)*
            /// Any header not listed here; compare its name text.
            #[default]
            Other,
        }

        const NAMES: &[(&str, HeaderKind)] = &[$(($name, HeaderKind::$variant),)*];

        const fn compact_table() -> [HeaderKind; 26] {
            let mut table = [HeaderKind::Other; 26];
            $($(table[($compact - b'a') as usize] = HeaderKind::$variant;)?)*
            table
        }

        impl HeaderKind {
            /// The canonical long name; empty for `Other`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                    Self::Other => "",
                }
            }

            /// The letter of the compact form, lower case, when the header has one.
            #[must_use]
            pub const fn compact(self) -> Option<u8> {
                match self {
                    $($(Self::$variant => Some($compact),)?)*
                    _ => None,
                }
            }
        }
    };
}

header_kinds! {
    Via = "Via" / b'v';
    From = "From" / b'f';
    To = "To" / b't';
    CallId = "Call-ID" / b'i';
    CSeq = "CSeq";
    MaxForwards = "Max-Forwards";
    Contact = "Contact" / b'm';
    Route = "Route";
    RecordRoute = "Record-Route";
    Path = "Path";
    ServiceRoute = "Service-Route";
    ContentLength = "Content-Length" / b'l';
    ContentType = "Content-Type" / b'c';
    ContentEncoding = "Content-Encoding" / b'e';
    ContentDisposition = "Content-Disposition";
    ContentLanguage = "Content-Language";
    Expires = "Expires";
    MinExpires = "Min-Expires";
    Authorization = "Authorization";
    ProxyAuthorization = "Proxy-Authorization";
    WwwAuthenticate = "WWW-Authenticate";
    ProxyAuthenticate = "Proxy-Authenticate";
    AuthenticationInfo = "Authentication-Info";
    Supported = "Supported" / b'k';
    Unsupported = "Unsupported";
    Require = "Require";
    ProxyRequire = "Proxy-Require";
    Allow = "Allow";
    AllowEvents = "Allow-Events" / b'u';
    Accept = "Accept";
    AcceptEncoding = "Accept-Encoding";
    AcceptLanguage = "Accept-Language";
    AcceptContact = "Accept-Contact" / b'a';
    RejectContact = "Reject-Contact" / b'j';
    RequestDisposition = "Request-Disposition" / b'd';
    Event = "Event" / b'o';
    SubscriptionState = "Subscription-State";
    UserAgent = "User-Agent";
    Server = "Server";
    Subject = "Subject" / b's';
    Date = "Date";
    Timestamp = "Timestamp";
    Organization = "Organization";
    Priority = "Priority";
    Warning = "Warning";
    Reason = "Reason";
    RetryAfter = "Retry-After";
    ReplyTo = "Reply-To";
    InReplyTo = "In-Reply-To";
    CallInfo = "Call-Info";
    AlertInfo = "Alert-Info";
    ErrorInfo = "Error-Info";
    MimeVersion = "MIME-Version";
    ReferTo = "Refer-To" / b'r';
    ReferredBy = "Referred-By" / b'b';
    ReferSub = "Refer-Sub";
    Replaces = "Replaces";
    Join = "Join";
    SessionExpires = "Session-Expires" / b'x';
    MinSe = "Min-SE";
    RSeq = "RSeq";
    RAck = "RAck";
    SipEtag = "SIP-ETag";
    SipIfMatch = "SIP-If-Match";
    Identity = "Identity" / b'y';
    IdentityInfo = "Identity-Info" / b'n';
    PAssertedIdentity = "P-Asserted-Identity";
    PPreferredIdentity = "P-Preferred-Identity";
    PAssociatedUri = "P-Associated-URI";
    PChargingVector = "P-Charging-Vector";
    RemotePartyId = "Remote-Party-ID";
    Privacy = "Privacy";
    Diversion = "Diversion";
    HistoryInfo = "History-Info";
    FeatureCaps = "Feature-Caps";
    SecurityClient = "Security-Client";
    SecurityServer = "Security-Server";
    SecurityVerify = "Security-Verify";
}

/// Longest known name; longer ones are `Other` at once.
const NAME_LEN_MAX: usize = 20;

/// Position of the first name of each length in `BY_LENGTH`.
struct Index {
    by_length: [(&'static str, HeaderKind); NAMES.len()],
    first: [u8; NAME_LEN_MAX + 2],
}

const fn index() -> Index {
    let mut by_length = [("", HeaderKind::Other); NAMES.len()];
    let mut first = [0u8; NAME_LEN_MAX + 2];
    let mut filled = 0;
    let mut length = 0;
    while length <= NAME_LEN_MAX {
        first[length] = filled as u8;
        let mut i = 0;
        while i < NAMES.len() {
            assert!(NAMES[i].0.len() <= NAME_LEN_MAX);
            if NAMES[i].0.len() == length {
                by_length[filled] = NAMES[i];
                filled += 1;
            }
            i += 1;
        }
        length += 1;
    }
    first[NAME_LEN_MAX + 1] = filled as u8;
    Index { by_length, first }
}

static INDEX: Index = index();
static COMPACT: [HeaderKind; 26] = compact_table();

impl HeaderKind {
    /// Recognises a header name without regard to case; compact forms included.
    #[inline]
    #[must_use]
    pub fn from_name(name: &[u8]) -> Self {
        if let [letter] = name {
            let at = (letter | 0x20).wrapping_sub(b'a') as usize;
            return if letter.is_ascii_alphabetic() {
                COMPACT.get(at).copied().unwrap_or(Self::Other)
            } else {
                Self::Other
            };
        }
        let (Some(&from), Some(&to)) = (INDEX.first.get(name.len()), INDEX.first.get(name.len() + 1)) else {
            return Self::Other;
        };
        let Some(last) = name.last() else { return Self::Other };
        for (known, kind) in INDEX.by_length.get(from as usize..to as usize).unwrap_or_default() {
            // Names of one length mostly differ in their last letter, so that is asked first.
            if known.as_bytes().last().is_some_and(|k| k | 0x20 == last | 0x20)
                && known.as_bytes().eq_ignore_ascii_case(name)
            {
                return *kind;
            }
        }
        Self::Other
    }

    /// Bit of this kind in the presence mask of a message.
    #[inline]
    pub(crate) const fn bit(self) -> u128 {
        1u128 << self as u8
    }

    /// Whether the body of this header is a comma list of values that may also be spread over several lines
    /// (RFC 3261 §7.3.1), as far as routing needs to know.
    #[must_use]
    pub const fn is_list(self) -> bool {
        matches!(
            self,
            Self::Via
                | Self::Contact
                | Self::Route
                | Self::RecordRoute
                | Self::Path
                | Self::ServiceRoute
                | Self::Supported
                | Self::Unsupported
                | Self::Require
                | Self::ProxyRequire
                | Self::Allow
                | Self::AllowEvents
                | Self::Accept
                | Self::AcceptEncoding
                | Self::AcceptLanguage
                | Self::PAssertedIdentity
                | Self::PPreferredIdentity
                | Self::Diversion
                | Self::HistoryInfo
                | Self::CallInfo
                | Self::Warning
                | Self::Reason
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_in_any_case_and_by_its_compact_form() {
        for (name, kind) in NAMES {
            assert_eq!(HeaderKind::from_name(name.as_bytes()), *kind);
            assert_eq!(HeaderKind::from_name(name.to_ascii_uppercase().as_bytes()), *kind);
            assert_eq!(HeaderKind::from_name(name.to_ascii_lowercase().as_bytes()), *kind);
            if let Some(letter) = kind.compact() {
                assert_eq!(HeaderKind::from_name(&[letter]), *kind);
                assert_eq!(HeaderKind::from_name(&[letter.to_ascii_uppercase()]), *kind);
            }
        }
    }

    #[test]
    fn unknown_names_are_other() {
        for name in [&b"X-Tag"[..], b"", b"Vi", b"Via2", b"z", b"1", b"Content-Lengthh", &[b'a'; 300]] {
            assert_eq!(HeaderKind::from_name(name), HeaderKind::Other);
        }
    }

    #[test]
    fn presence_bits_fit_into_the_mask() {
        assert!((HeaderKind::Other as u8) < 128);
    }
}
