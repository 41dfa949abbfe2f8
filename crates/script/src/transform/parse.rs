//! `{class.name,arg,...}` chains to compiled transformations. It applies nothing.

use super::subst::{Subst, SubstArg};
use super::{ArgInt, ArgText, Hash, IpOp, NameAddrPart, ParamOp, SdpOp, TextOp, Transform, UriPart, ViaPart};
use crate::pvar::{Scope, TRANSFORMS_MAX, VarError, parse_at};

pub(super) const NAMES: &[&str] = &[
    "s.len",
    "s.int",
    "s.md5",
    "s.sha1",
    "s.sha224",
    "s.sha256",
    "s.sha384",
    "s.sha512",
    "s.sha1_hmac",
    "s.sha224_hmac",
    "s.sha256_hmac",
    "s.sha384_hmac",
    "s.sha512_hmac",
    "s.crc32",
    "s.substr",
    "s.select",
    "s.tolower",
    "s.toupper",
    "s.index",
    "s.rindex",
    "s.fill.left",
    "s.fill.right",
    "s.width",
    "s.trim",
    "s.triml",
    "s.trimr",
    "s.reverse",
    "s.b64encode",
    "s.b64decode",
    "s.encode.hexa",
    "s.decode.hexa",
    "s.hex2dec",
    "s.dec2hex",
    "s.escape.common",
    "s.unescape.common",
    "s.escape.user",
    "s.unescape.user",
    "s.escape.param",
    "s.unescape.param",
    "s.xor",
    "s.date2unix",
    "s.eval",
    "uri.user",
    "uri.host",
    "uri.domain",
    "uri.passwd",
    "uri.port",
    "uri.params",
    "uri.param",
    "uri.transport",
    "uri.ttl",
    "uri.uparam",
    "uri.maddr",
    "uri.method",
    "uri.lr",
    "uri.r2",
    "uri.headers",
    "uri.schema",
    "via.name",
    "via.version",
    "via.transport",
    "via.host",
    "via.domain",
    "via.port",
    "via.params",
    "via.param",
    "via.branch",
    "via.received",
    "via.rport",
    "via.comment",
    "param.value",
    "param.exist",
    "param.exists",
    "param.valueat",
    "param.name",
    "param.count",
    "nameaddr.name",
    "nameaddr.uri",
    "nameaddr.len",
    "nameaddr.param",
    "nameaddr.params",
    "csv.count",
    "csv.value",
    "ip.pton",
    "ip.ntop",
    "ip.family",
    "ip.isip",
    "ip.isip4",
    "ip.isip6",
    "ip.matches",
    "ip.isprivate",
    "ip.resolve",
    "re.subst",
    "sdp.line",
    "sdp.stream",
    "sdp.stream-delete",
    "rest.escape",
    "rest.unescape",
];

/// Texts in one substitution that look like variables and are none, before all further ones are taken as plain text.
const SUBST_FAILURES_MAX: u32 = 16;

/// Parses transformations from `text[at]` on; returns the offset behind the last one.
pub(crate) fn parse_chain(
    text: &[u8],
    at: usize,
    scope: Scope<'_>,
    depth: usize,
) -> Result<(Vec<Transform>, usize), VarError> {
    let mut steps = Vec::new();
    let mut at = at;
    loop {
        let mut next = at;
        while matches!(text.get(next), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            next += 1;
        }
        if text.get(next) != Some(&b'{') {
            // Blanks are allowed between transformations and before the closing parenthesis, not before the first one.
            return Ok((steps.clone(), if steps.is_empty() { at } else { next }));
        }
        if next > at && steps.is_empty() {
            return Ok((steps, at));
        }
        if steps.len() >= TRANSFORMS_MAX {
            return Err(VarError::new(next, format!("more than {TRANSFORMS_MAX} transformations")));
        }
        let mut cursor = Cursor { text, at: next + 1, scope, depth };
        steps.push(cursor.step()?);
        at = cursor.at;
    }
}

struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
    scope: Scope<'a>,
    depth: usize,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn error<T>(&self, message: impl Into<String>) -> Result<T, VarError> {
        Err(VarError::new(self.at, message))
    }

    /// Behind the opening brace, up to and with the closing one.
    fn step(&mut self) -> Result<Transform, VarError> {
        self.blanks();
        let start = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-')) {
            self.at += 1;
        }
        let name = String::from_utf8_lossy(self.text.get(start..self.at).unwrap_or(&[])).to_ascii_lowercase();
        let Some((class, function)) = name.split_once('.') else {
            return Err(VarError::new(start, format!("`{name}` is no transformation; expected `class.name`")));
        };
        let step = match class {
            "s" => self.text_op(function).map(|op| op.map(Transform::Text)),
            "uri" => self.uri(function).map(|part| part.map(Transform::Uri)),
            "via" => self.via(function).map(|part| part.map(Transform::Via)),
            "param" => self.param(function).map(|op| op.map(Transform::Param)),
            "nameaddr" => self.name_addr(function),
            "csv" => self.csv(function),
            "ip" => self.ip(function).map(|op| op.map(Transform::Ip)),
            "re" if function == "subst" => self.subst().map(Some),
            "sdp" => self.sdp(function).map(|op| op.map(Transform::Sdp)),
            "rest" => Ok(match function {
                "escape" => Some(Transform::UrlEscape),
                "unescape" => Some(Transform::UrlUnescape),
                _ => None,
            }),
            _ => Ok(None),
        }?;
        let Some(step) = step else {
            let nearest = crate::names::nearest(&name, NAMES.iter().copied());
            let hint = nearest.map(|nearest| format!("; did you mean `{nearest}`?")).unwrap_or_default();
            return Err(VarError::new(start, format!("unknown transformation `{name}`{hint}")));
        };
        self.blanks();
        if self.peek() != Some(b'}') {
            return self.error("expected `}` at the end of the transformation");
        }
        self.at += 1;
        Ok(step)
    }

    fn comma(&mut self) -> Result<(), VarError> {
        self.blanks();
        if self.peek() != Some(b',') {
            return self.error("the transformation needs another argument");
        }
        self.at += 1;
        Ok(())
    }

    fn has_comma(&mut self) -> bool {
        self.blanks();
        self.peek() == Some(b',')
    }

    fn var(&mut self) -> Result<Box<crate::pvar::CompiledVar>, VarError> {
        let (var, end) = parse_at(self.text, self.at, self.scope, self.depth + 1)?;
        self.at = end;
        Ok(Box::new(var))
    }

    fn int(&mut self) -> Result<ArgInt, VarError> {
        self.comma()?;
        self.blanks();
        if self.peek() == Some(b'$') {
            return self.var().map(ArgInt::Var);
        }
        let start = self.at;
        if matches!(self.peek(), Some(b'-' | b'+')) {
            self.at += 1;
        }
        while self.peek().is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
        }
        let digits = self.text.get(start..self.at).and_then(|digits| std::str::from_utf8(digits).ok()).unwrap_or("");
        match digits.parse() {
            Ok(int) => Ok(ArgInt::Int(int)),
            Err(_) => Err(VarError::new(start, "the transformation needs a number here")),
        }
    }

    /// A text up to the next `,` or `}` or blank; a backslash protects the first two.
    fn argument(&mut self) -> Result<ArgText, VarError> {
        self.comma()?;
        self.blanks();
        if self.peek() == Some(b'$') {
            return self.var().map(ArgText::Var);
        }
        let mut text = Vec::new();
        while let Some(c) = self.peek() {
            match c {
                b',' | b'}' | b' ' => break,
                b'\\' if matches!(self.text.get(self.at + 1), Some(b',' | b'}')) => {
                    self.at += 1;
                    text.extend(self.peek());
                }
                other => text.push(other),
            }
            self.at += 1;
        }
        if text.is_empty() {
            return self.error("the transformation needs a text here");
        }
        Ok(ArgText::Text(text.into()))
    }

    /// Padding of `s.fill`: may be quoted to hold blanks.
    fn padding(&mut self) -> Result<Box<[u8]>, VarError> {
        self.comma()?;
        let quote = match self.peek() {
            Some(quote @ (b'"' | b'\'')) => Some(quote),
            _ => None,
        };
        if quote.is_some() {
            self.at += 1;
        }
        let start = self.at;
        while self.peek().is_some_and(|c| match quote {
            Some(quote) => c != quote,
            None => c != b',' && c != b'}',
        }) {
            self.at += 1;
        }
        let text = self.text.get(start..self.at).unwrap_or(&[]);
        let is_open = quote.is_some() && self.peek().is_none();
        if text.is_empty() || is_open {
            return self.error("the transformation needs a padding text here");
        }
        if quote.is_some() {
            self.at += 1;
        }
        Ok(text.into())
    }

    fn text_op(&mut self, function: &str) -> Result<Option<TextOp>, VarError> {
        Ok(Some(match function {
            "len" => TextOp::Len,
            "int" => TextOp::Int,
            "md5" => TextOp::Hash(Hash::Md5),
            "sha1" => TextOp::Hash(Hash::Sha1),
            "sha224" => TextOp::Hash(Hash::Sha224),
            "sha256" => TextOp::Hash(Hash::Sha256),
            "sha384" => TextOp::Hash(Hash::Sha384),
            "sha512" => TextOp::Hash(Hash::Sha512),
            "sha1_hmac" => TextOp::Hmac(Hash::Sha1, self.argument()?),
            "sha224_hmac" => TextOp::Hmac(Hash::Sha224, self.argument()?),
            "sha256_hmac" => TextOp::Hmac(Hash::Sha256, self.argument()?),
            "sha384_hmac" => TextOp::Hmac(Hash::Sha384, self.argument()?),
            "sha512_hmac" => TextOp::Hmac(Hash::Sha512, self.argument()?),
            "crc32" => TextOp::Crc32,
            "substr" => TextOp::Substr(self.int()?, self.int()?),
            "select" => self.select()?,
            "tolower" => TextOp::Lower,
            "toupper" => TextOp::Upper,
            "index" => TextOp::Index(self.argument()?, if self.has_comma() { Some(self.int()?) } else { None }),
            "rindex" => TextOp::Rindex(self.argument()?, if self.has_comma() { Some(self.int()?) } else { None }),
            "fill.left" => TextOp::FillLeft(self.padding()?, self.int()?),
            "fill.right" => TextOp::FillRight(self.padding()?, self.int()?),
            "width" => TextOp::Width(self.int()?),
            "xor" => TextOp::Xor(self.argument()?),
            other => return Ok(plain_text_op(other)),
        }))
    }

    /// The separator is the one character behind the second comma, whatever it is.
    fn select(&mut self) -> Result<TextOp, VarError> {
        let field = self.int()?;
        self.comma()?;
        match self.peek() {
            Some(separator) if separator != b'}' => {
                self.at += 1;
                Ok(TextOp::Select(field, separator))
            }
            _ => self.error("the transformation needs a separator character here"),
        }
    }

    fn uri(&mut self, function: &str) -> Result<Option<UriPart>, VarError> {
        Ok(Some(match function {
            "user" => UriPart::User,
            "host" | "domain" => UriPart::Host,
            "passwd" => UriPart::Password,
            "port" => UriPart::Port,
            "params" => UriPart::Params,
            "param" => UriPart::Param(self.argument()?),
            "transport" => UriPart::Named("transport"),
            "ttl" => UriPart::Named("ttl"),
            "uparam" => UriPart::Named("user"),
            "maddr" => UriPart::Named("maddr"),
            "method" => UriPart::Named("method"),
            "lr" => UriPart::Named("lr"),
            "r2" => UriPart::Named("r2"),
            "headers" => UriPart::Headers,
            "schema" => UriPart::Scheme,
            _ => return Ok(None),
        }))
    }

    fn via(&mut self, function: &str) -> Result<Option<ViaPart>, VarError> {
        Ok(Some(match function {
            "name" => ViaPart::Name,
            "version" => ViaPart::Version,
            "transport" => ViaPart::Transport,
            "host" | "domain" => ViaPart::Host,
            "port" => ViaPart::Port,
            "params" => ViaPart::Params,
            "param" => ViaPart::Param(self.argument()?),
            "branch" => ViaPart::Named("branch"),
            "received" => ViaPart::Named("received"),
            "rport" => ViaPart::Named("rport"),
            "comment" => ViaPart::Comment,
            _ => return Ok(None),
        }))
    }

    fn param(&mut self, function: &str) -> Result<Option<ParamOp>, VarError> {
        Ok(Some(match function {
            "value" => ParamOp::Value(self.argument()?),
            "exist" | "exists" => ParamOp::Exist(self.argument()?),
            "valueat" => ParamOp::ValueAt(self.int()?),
            "name" => ParamOp::Name(self.int()?),
            "count" => ParamOp::Count,
            _ => return Ok(None),
        }))
    }

    fn name_addr(&mut self, function: &str) -> Result<Option<Transform>, VarError> {
        let (index, function) = match function.split_once('.') {
            Some((index, function)) => match index.parse() {
                Ok(index) => (Some(index), function),
                Err(_) => return Ok(None),
            },
            None => (None, function),
        };
        let part = match function {
            "name" => NameAddrPart::Name,
            "uri" => NameAddrPart::Uri,
            "len" => NameAddrPart::Len,
            "param" => NameAddrPart::Param(self.argument()?),
            "params" => NameAddrPart::Params,
            _ => return Ok(None),
        };
        Ok(Some(Transform::NameAddr(index, part)))
    }

    fn csv(&mut self, function: &str) -> Result<Option<Transform>, VarError> {
        Ok(match function {
            "count" => Some(Transform::CsvCount),
            "value" => Some(Transform::CsvValue(self.int()?)),
            _ => None,
        })
    }

    fn ip(&mut self, function: &str) -> Result<Option<IpOp>, VarError> {
        Ok(Some(match function {
            "pton" => IpOp::Pton,
            "ntop" => IpOp::Ntop,
            "family" => IpOp::Family,
            "isip" => IpOp::IsIp,
            "isip4" => IpOp::IsIp4,
            "isip6" => IpOp::IsIp6,
            "matches" => IpOp::Matches(self.argument()?),
            "isprivate" => IpOp::IsPrivate,
            "resolve" => IpOp::Resolve,
            _ => return Ok(None),
        }))
    }

    /// The expression goes to the next brace that has no backslash; a variable ends before one.
    fn subst(&mut self) -> Result<Transform, VarError> {
        self.comma()?;
        let start = self.at;
        if self.peek() == Some(b'$') {
            let var = self.var()?;
            return Ok(Transform::Subst(SubstArg::Var(var)));
        }
        let mut expression = Vec::new();
        // Each text that only looks like a variable is read once for every level around it.
        let mut failures_left = if self.depth == 0 { SUBST_FAILURES_MAX } else { 1 };
        while let Some(c) = self.peek() {
            match c {
                b'}' => break,
                b'\\' if matches!(self.text.get(self.at + 1), Some(b'{' | b'}')) => {
                    self.at += 1;
                    expression.extend(self.peek());
                }
                // A variable of the replacement may have braces of its own.
                b'$' if failures_left > 0 && self.text.get(self.at + 1) == Some(&b'(') => {
                    match parse_at(self.text, self.at, self.scope, self.depth + 1) {
                        Ok((_, end)) => {
                            expression.extend_from_slice(self.text.get(self.at..end).unwrap_or(&[]));
                            self.at = end;
                            continue;
                        }
                        Err(_) => {
                            failures_left -= 1;
                            expression.push(c);
                        }
                    }
                }
                other => expression.push(other),
            }
            self.at += 1;
        }
        match Subst::parse(&expression, self.scope, self.depth + 1) {
            Ok(subst) => Ok(Transform::Subst(SubstArg::Fixed(Box::new(subst)))),
            // A bad expression is an error of each use, as in the reference, not of the load; a replacement that names an
            // unknown variable is refused.
            Err(message) if message.is_at_use => Ok(Transform::Subst(SubstArg::Bad)),
            Err(message) => Err(VarError::new(start, message.text)),
        }
    }

    fn sdp(&mut self, function: &str) -> Result<Option<SdpOp>, VarError> {
        Ok(Some(match function {
            "line" => {
                self.comma()?;
                self.blanks();
                let Some(letter) = self.peek().filter(|byte| !matches!(byte, b',' | b'}')) else {
                    return self.error("the transformation needs a letter here");
                };
                // A variable cannot stand here; its dollar sign is a letter that no line has.
                while self.peek().is_some_and(|byte| !matches!(byte, b',' | b'}')) {
                    self.at += 1;
                }
                SdpOp::Line(letter, if self.has_comma() { self.int()? } else { ArgInt::Int(0) })
            }
            "stream" => SdpOp::Stream(self.argument()?),
            "stream-delete" => SdpOp::StreamDelete(self.argument()?),
            _ => return Ok(None),
        }))
    }
}

fn plain_text_op(function: &str) -> Option<TextOp> {
    Some(match function {
        "trim" => TextOp::Trim,
        "triml" => TextOp::TrimLeft,
        "trimr" => TextOp::TrimRight,
        "reverse" => TextOp::Reverse,
        "b64encode" => TextOp::Base64Encode,
        "b64decode" => TextOp::Base64Decode,
        "encode.hexa" => TextOp::HexEncode,
        "decode.hexa" => TextOp::HexDecode,
        "hex2dec" => TextOp::HexToInt,
        "dec2hex" => TextOp::IntToHex,
        "escape.common" => TextOp::EscapeCommon,
        "unescape.common" => TextOp::UnescapeCommon,
        "escape.user" => TextOp::EscapeUser,
        "unescape.user" => TextOp::UnescapeUser,
        "escape.param" => TextOp::EscapeParam,
        "unescape.param" => TextOp::UnescapeParam,
        "date2unix" => TextOp::DateToUnix,
        "eval" => TextOp::Eval,
        _ => return None,
    })
}
