//! What can be wrong with received bytes; how to answer such a message is decided in `validate`, not here.

use crate::HeaderKind;

/// Why a message or a header body could not be understood. Offsets count from the start of the text given to the
/// parser: the whole buffer for message errors, the header value for header errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Nothing but line ends.
    #[error("message is empty")]
    Empty,
    /// The message is longer than [`crate::Limits::message_bytes_max`].
    #[error("message of {size} bytes is over the limit of {max}")]
    TooLarge {
        /// Received size in bytes.
        size: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// More header lines than [`crate::Limits::headers_max`].
    #[error("more than {max} header lines")]
    TooManyHeaders {
        /// The limit.
        max: usize,
    },
    /// The first line is neither a request line nor a status line (RFC 3261 §7.1, §7.2).
    #[error("first line is neither a request line nor a status line")]
    BadStartLine,
    /// A header line without a colon, without a name, or without a line end.
    #[error("malformed header line at byte {offset}")]
    BadHeaderLine {
        /// Where the line starts.
        offset: u32,
    },
    /// A header needed for the question is absent.
    #[error("header {} is missing", .0.name())]
    Missing(HeaderKind),
    /// A header body that does not follow its grammar.
    #[error("malformed {} value at byte {offset}", .header.name())]
    BadValue {
        /// The header it is about; `Other` when a body was parsed on its own.
        header: HeaderKind,
        /// Where in the value parsing stopped.
        offset: u32,
    },
}

impl ParseError {
    /// The same error attributed to header `kind`.
    #[inline]
    pub(crate) const fn in_header(self, kind: HeaderKind) -> Self {
        match self {
            Self::BadValue { offset, .. } => Self::BadValue { header: kind, offset },
            other => other,
        }
    }

    #[inline]
    pub(crate) const fn value(offset: usize) -> Self {
        Self::BadValue { header: HeaderKind::Other, offset: offset as u32 }
    }
}

/// Why a text is not a usable URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// No `scheme:` in front.
    #[error("URI has no scheme")]
    NoScheme,
    /// A SIP URI without host.
    #[error("URI has no host")]
    NoHost,
    /// A character that may not stand in a host, or an unclosed IPv6 bracket.
    #[error("URI host is malformed")]
    BadHost,
    /// The user part holds a blank, a control character or an invalid escape.
    #[error("URI user part is malformed")]
    BadUser,
    /// The port is not a number of 1 to 65535.
    #[error("URI port is malformed")]
    BadPort,
    /// Blanks, control characters or angle brackets in parameters or headers.
    #[error("URI parameters or headers are malformed")]
    BadParams,
    /// The edit asks for a part this scheme does not have, or its text may not stand there.
    #[error("edit does not fit this URI")]
    BadEdit,
}
