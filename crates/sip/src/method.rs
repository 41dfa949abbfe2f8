//! SIP methods and their OpenSIPS bit values; what a method means is not known here.

/// A request method. Methods are case-sensitive (RFC 3261 §7.1); everything unknown is `Other`, its text is kept by
/// the message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Method {
    /// RFC 3261.
    Invite,
    /// RFC 3261.
    Cancel,
    /// RFC 3261.
    Ack,
    /// RFC 3261.
    Bye,
    /// RFC 6086.
    Info,
    /// RFC 3261.
    Options,
    /// RFC 3311.
    Update,
    /// RFC 3261.
    Register,
    /// RFC 3428.
    Message,
    /// RFC 6665.
    Subscribe,
    /// RFC 6665.
    Notify,
    /// RFC 3262.
    Prack,
    /// RFC 3515.
    Refer,
    /// RFC 3903.
    Publish,
    /// Any extension method.
    #[default]
    Other,
}

impl Method {
    /// The known methods, `Other` left out.
    pub const KNOWN: [Self; 14] = [
        Self::Invite,
        Self::Cancel,
        Self::Ack,
        Self::Bye,
        Self::Info,
        Self::Options,
        Self::Update,
        Self::Register,
        Self::Message,
        Self::Subscribe,
        Self::Notify,
        Self::Prack,
        Self::Refer,
        Self::Publish,
    ];

    /// Recognises a method text; unknown or differently cased text is [`Method::Other`].
    #[inline]
    #[must_use]
    pub fn from_bytes(text: &[u8]) -> Self {
        match text {
            b"INVITE" => Self::Invite,
            b"ACK" => Self::Ack,
            b"BYE" => Self::Bye,
            b"CANCEL" => Self::Cancel,
            b"OPTIONS" => Self::Options,
            b"REGISTER" => Self::Register,
            b"MESSAGE" => Self::Message,
            b"INFO" => Self::Info,
            b"UPDATE" => Self::Update,
            b"PRACK" => Self::Prack,
            b"SUBSCRIBE" => Self::Subscribe,
            b"NOTIFY" => Self::Notify,
            b"PUBLISH" => Self::Publish,
            b"REFER" => Self::Refer,
            _ => Self::Other,
        }
    }

    /// The method text; empty for `Other`, whose text stands in the message only.
    #[inline]
    #[must_use]
    pub const fn as_bytes(self) -> &'static [u8] {
        self.as_str().as_bytes()
    }

    /// The method text as `str`; empty for `Other`.
    #[inline]
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invite => "INVITE",
            Self::Cancel => "CANCEL",
            Self::Ack => "ACK",
            Self::Bye => "BYE",
            Self::Info => "INFO",
            Self::Options => "OPTIONS",
            Self::Update => "UPDATE",
            Self::Register => "REGISTER",
            Self::Message => "MESSAGE",
            Self::Subscribe => "SUBSCRIBE",
            Self::Notify => "NOTIFY",
            Self::Prack => "PRACK",
            Self::Refer => "REFER",
            Self::Publish => "PUBLISH",
            Self::Other => "",
        }
    }

    /// The bit OpenSIPS gives this method (INVITE 1, CANCEL 2, ACK 4 … OTHER 16384), as used in method masks.
    #[inline]
    #[must_use]
    pub const fn id(self) -> u32 {
        1 << self as u32
    }

    /// The method with exactly this OpenSIPS bit.
    #[must_use]
    pub fn from_id(id: u32) -> Option<Self> {
        if id == Self::Other.id() {
            return Some(Self::Other);
        }
        Self::KNOWN.into_iter().find(|method| method.id() == id)
    }

    /// Whether a 2xx or an 18x with a To tag to this request creates a dialog (INVITE, SUBSCRIBE, REFER).
    #[inline]
    #[must_use]
    pub const fn creates_dialog(self) -> bool {
        matches!(self, Self::Invite | Self::Subscribe | Self::Refer)
    }
}
