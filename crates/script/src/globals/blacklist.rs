//! `dst_blacklist` definitions and single rules of blacklists, from their text. Nothing is matched against them here.

use std::net::IpAddr;

use crate::transform::Network;

/// Blacklists of one script (OpenSIPS: max_heads; a message carries one bit for each).
pub const BLACKLISTS_MAX: usize = 32;
/// Rules of one list; more are refused.
pub const BLACKLIST_RULES_MAX: usize = 10_000;

/// A list as the script defines it (specification §12.4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlacklistDef {
    /// Its name.
    pub name: String,
    /// What may be done with it.
    pub flags: BlacklistFlags,
    /// Its rules, in order.
    pub rules: Vec<BlacklistRule>,
}

/// Flags of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlacklistFlags {
    /// `read-only`: no rules are added or removed while the process runs. The default without any flag.
    pub is_read_only: bool,
    /// `expire`: added rules may end by themselves.
    pub does_expire: bool,
    /// `default`: in use for every request that does not turn it off.
    pub is_default: bool,
}

/// A rule: destinations that it matches are blocked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlacklistRule {
    /// `!`: matches what the rest does not match.
    pub is_inverted: bool,
    /// Addresses.
    pub network: Network,
    /// Port; `None` for any.
    pub port: Option<u16>,
    /// Protocol in lower case; `None` for any.
    pub proto: Option<String>,
    /// Shell pattern for the whole text of the request; `None` for any.
    pub pattern: Option<String>,
}

/// Reads `NAME [/ flag {, flag}] : { rule {, rule} }`.
///
/// # Errors
/// What is wrong with it.
pub fn parse_blacklist(text: &str) -> Result<BlacklistDef, String> {
    let text = without_comments(text);
    let (head, body) = text.split_once('{').ok_or("the rules stand in `{ }`")?;
    let body = body.trim_end().strip_suffix('}').ok_or("the `{` is never closed")?;
    let head = head.trim().strip_suffix(':').ok_or("a `:` stands before the `{`")?;
    let (name, flags) = match head.split_once('/') {
        Some((name, flags)) => (name, parse_flags(flags)?),
        None => (head, BlacklistFlags { is_read_only: true, ..BlacklistFlags::default() }),
    };
    let name = name.trim().trim_matches(['"', '\'']);
    if name.is_empty() || name == "all" {
        return Err(format!("a blacklist cannot be named `{name}`"));
    }
    let mut rules = Vec::new();
    for part in split_outside(body, ',') {
        let rule = parse_listed_rule(part.trim())?;
        if !rules.contains(&rule) {
            rules.push(rule);
        }
        if rules.len() > BLACKLIST_RULES_MAX {
            return Err(format!("a blacklist has at most {BLACKLIST_RULES_MAX} rules"));
        }
    }
    Ok(BlacklistDef { name: name.to_owned(), flags, rules })
}

fn parse_flags(text: &str) -> Result<BlacklistFlags, String> {
    let mut flags = BlacklistFlags::default();
    for flag in text.split(',') {
        match flag.trim() {
            "read-only" | "readonly" => flags.is_read_only = true,
            "expire" => flags.does_expire = true,
            "default" => flags.is_default = true,
            other => return Err(format!("`{other}` is no flag of a blacklist: read-only, expire, default")),
        }
    }
    if flags.is_read_only && flags.does_expire {
        return Err("rules of a read-only list cannot expire: leave one of the two flags out".to_owned());
    }
    Ok(flags)
}

/// A rule in a definition: a network alone, or fields in parentheses, with `!` before either.
fn parse_listed_rule(text: &str) -> Result<BlacklistRule, String> {
    let (is_inverted, text) = inverted(text);
    match text.strip_prefix('(') {
        Some(fields) => {
            let fields =
                fields.trim_end().strip_suffix(')').ok_or_else(|| format!("`{text}`: the `(` is not closed"))?;
            rule_of_fields(is_inverted, &split_outside(fields, ','))
        }
        None => rule_of_fields(is_inverted, &[text]),
    }
}

/// Reads `[!][proto,]net[,port[,pattern]]`, the form of management commands; the pattern is all the rest.
///
/// # Errors
/// What is wrong with it.
pub fn parse_blacklist_rule(text: &str) -> Result<BlacklistRule, String> {
    let (is_inverted, text) = inverted(text);
    let first = text.split(',').next().unwrap_or_default();
    let fields: Vec<&str> =
        if Network::parse(first.trim()).is_some() { text.splitn(3, ',') } else { text.splitn(4, ',') }.collect();
    rule_of_fields(is_inverted, &fields)
}

fn inverted(text: &str) -> (bool, &str) {
    let text = text.trim();
    text.strip_prefix('!').map_or((false, text), |rest| (true, rest.trim_start()))
}

fn rule_of_fields(is_inverted: bool, fields: &[&str]) -> Result<BlacklistRule, String> {
    let mut fields = fields.iter().map(|field| field.trim()).peekable();
    let is_net = |field: &&str| Network::parse(field).is_some();
    let proto = match fields.peek() {
        Some(first) if !is_net(first) => fields.next().map(str::to_ascii_lowercase),
        _ => None,
    };
    if let Some(proto) = &proto
        && (proto.is_empty() || !proto.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
    {
        return Err(format!("`{proto}` is neither a network nor a protocol"));
    }
    let net = fields.next().ok_or("a rule needs a network such as 10.0.0.0/8")?;
    let network = Network::parse(net).ok_or_else(|| format!("`{net}` is no address or network"))?;
    let port = match fields.next() {
        None | Some("" | "any" | "0") => None,
        Some(port) => Some(port.parse::<u16>().map_err(|_| format!("`{port}` is no port"))?),
    };
    let pattern = fields.next().map(unquoted).filter(|pattern| !pattern.is_empty());
    if fields.next().is_some() {
        return Err("a rule has at most four fields: protocol, network, port, pattern".to_owned());
    }
    Ok(BlacklistRule { is_inverted, network, port, proto: proto.filter(|proto| proto != "any"), pattern })
}

fn unquoted(text: &str) -> String {
    let text = text.trim();
    let inside = ['"', '\''].iter().find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote));
    inside.unwrap_or(text).to_owned()
}

/// Splits at `separator` outside of quotes and parentheses; blank parts are left out.
fn split_outside(text: &str, separator: char) -> Vec<&str> {
    let (mut parts, mut start, mut quote, mut depth) = (Vec::new(), 0, None, 0usize);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '(') => depth += 1,
            (None, ')') => depth = depth.saturating_sub(1),
            (None, c) if c == separator && depth == 0 => {
                parts.push(text.get(start..at).unwrap_or_default());
                start = at + c.len_utf8();
            }
            (None, _) => {}
        }
    }
    parts.push(text.get(start..).unwrap_or_default());
    parts.retain(|part| !part.trim().is_empty());
    parts
}

/// The text as written still has its comments.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut quote = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '#') => {
                for skipped in chars.by_ref() {
                    if skipped == '\n' {
                        break;
                    }
                }
                out.push(' ');
                continue;
            }
            (None, '/') if chars.peek() == Some(&'*') => {
                let mut last = ' ';
                for skipped in chars.by_ref() {
                    if last == '*' && skipped == '/' {
                        break;
                    }
                    last = skipped;
                }
                out.push(' ');
                continue;
            }
            _ => {}
        }
        out.push(c);
    }
    out
}

impl BlacklistRule {
    /// Whether the address fields match, before [`BlacklistRule::is_inverted`] and the pattern are looked at.
    pub fn is_at(&self, proto: Option<&str>, ip: IpAddr, port: u16) -> bool {
        self.port.is_none_or(|own| own == port)
            && self.proto.as_deref().is_none_or(|own| proto.is_some_and(|proto| own.eq_ignore_ascii_case(proto)))
            && self.network.contains(ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_of_all_forms_are_read() {
        let text = "bl1 /expire, default : { ( udp , 10.0.0.0/255.0.0.0 , 5060 , \"a,b)#\" ), # all, of it\n ! 10.1.0.0/16, \
                    (10.2.0.1, 5070), (any, ::1, any), /* or */ 10.2.0.1 }";
        let list = parse_blacklist(text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(list.name, "bl1");
        assert_eq!(list.flags, BlacklistFlags { does_expire: true, is_default: true, is_read_only: false });
        let shown: Vec<_> = list
            .rules
            .iter()
            .map(|rule| (rule.is_inverted, rule.proto.as_deref(), rule.port, rule.pattern.as_deref()))
            .collect();
        assert_eq!(
            shown,
            [
                (false, Some("udp"), Some(5060), Some("a,b)#")),
                (true, None, None, None),
                (false, None, Some(5070), None),
                (false, None, None, None),
                (false, None, None, None),
            ]
        );
        let old = parse_blacklist("old:{(any,1.2.3.0/24,any,\"\")}").unwrap_or_default();
        assert!(old.flags.is_read_only);
        assert_eq!(old.rules.len(), 1);
    }

    #[test]
    fn wrong_definitions_say_what_is_wrong() {
        for (text, wanted) in [
            ("a { 10.0.0.0/8 }", "a `:` stands before"),
            ("a /read-only,expire : { 10.0.0.0/8 }", "cannot expire"),
            ("a /sometimes : { 10.0.0.0/8 }", "`sometimes` is no flag"),
            ("a : { 10.0.0.0/99 }", "`10.0.0.0/99` is neither"),
            ("a : { (udp, here) }", "`here` is no address"),
            ("a : { (udp, 10.0.0.1, 99999) }", "`99999` is no port"),
            ("a : { (udp, 10.0.0.1, 1, \"x\", \"y\") }", "at most four"),
            ("all : { 10.0.0.1 }", "cannot be named `all`"),
        ] {
            let error = parse_blacklist(text).err().unwrap_or_default();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    #[test]
    fn rules_of_commands_keep_commas_in_the_pattern() {
        let rule = parse_blacklist_rule("! tcp,10.0.0.0/8,5060,a,b");
        let rule = rule.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((rule.is_inverted, rule.proto.as_deref(), rule.port), (true, Some("tcp"), Some(5060)));
        assert_eq!(rule.pattern.as_deref(), Some("a,b"));
        let short = parse_blacklist_rule("10.0.0.1,5060,INVITE*");
        assert_eq!(short.map(|rule| rule.pattern), Ok(Some("INVITE*".to_owned())));
        assert!(parse_blacklist_rule("").is_err());
    }

    #[test]
    fn a_list_with_too_many_rules_is_refused_and_not_forgotten() {
        let rules =
            |count: u32| (0..count).map(|n| std::net::Ipv4Addr::from(n).to_string()).collect::<Vec<_>>().join(",");
        assert!(parse_blacklist(&format!("a:{{{}}}", rules(10_000))).is_ok());
        let error = parse_blacklist(&format!("a:{{{}}}", rules(10_001))).err().unwrap_or_default();
        assert!(error.contains("at most 10000 rules"), "{error}");
    }
}
