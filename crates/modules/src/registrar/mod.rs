//! Module `registrar`: `save()` and `lookup()` on the location tables (RFC 3261 §10.3).

use smallvec::SmallVec;
use tandem_location::{Aor, ContactRequest, LookupFilter, METHODS_ALL, Q_UNSET, RegisterError, RegisterRequest};
use tandem_module::context::{Called, Context};
use tandem_module::declare::{Function, Setup, arg_text};
use tandem_module::edits::Target;
use tandem_module::node;
use tandem_module::{ModuleDecl, SetupError};
use tandem_script::surface::{ArgSpec, ArgType, FunctionSpec, ParamSpec, ParamType, Routes, arg, opt};
use tandem_script::value::Text;
use tandem_script::vm::{Arg, LogLevel};
use tandem_sip::{ContactValue, HeaderKind, Uri};

use crate::usrloc::Usrloc;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "registrar",
    doc: "REGISTER processing and lookup",
    params: PARAMS,
    functions: FUNCTIONS,
    depends: &["usrloc", "signaling"],
    setup,
    ..ModuleDecl::EMPTY
};

const fn int(name: &'static str, default: &'static str, doc: &'static str) -> ParamSpec {
    ParamSpec { name, ty: ParamType::Int, default, is_repeatable: false, doc }
}

const PARAMS: &[ParamSpec] = &[
    int("default_expires", "3600", "seconds for contacts that name none"),
    int("min_expires", "60", "shorter expiries are raised to this"),
    int("max_expires", "0", "longer expiries are lowered to this; 0 is no limit"),
    int("max_contacts", "0", "bindings per address of record; 0 is no limit of this kind"),
    int("case_sensitive", "1", "whether addresses of record are compared with case"),
    int("retry_after", "0", "seconds in the Retry-After header of a 503; 0 is none"),
    int("append_branches", "1", "accepted, no effect: lookup() always adds branches, see its flags"),
    ParamSpec {
        name: "tcp_persistent_flag",
        ty: ParamType::Text,
        default: "",
        is_repeatable: false,
        doc: "accepted, no effect: connections live as long as tcp_connection_lifetime says",
    },
];

const fn function(
    name: &'static str,
    args: &'static [ArgSpec],
    routes: Routes,
    doc: &'static str,
    call: fn(&mut Context, &[Arg]) -> Called,
) -> Function {
    Function { spec: FunctionSpec { name, args, routes, is_async: false, doc }, call }
}

const FUNCTIONS: &[Function] = &[
    function(
        "save",
        &[arg("domain", ArgType::Text), opt("flags", ArgType::Text), opt("aor", ArgType::Text), opt("owner", ArgType::Text)],
        Routes::REQUEST,
        "processes a REGISTER and answers it (not with flag r / no-reply)",
        save,
    ),
    function(
        "lookup",
        &[arg("domain", ArgType::Text), opt("flags", ArgType::Text), opt("aor", ArgType::Text)],
        Routes::REQUEST.or(Routes::FAILURE),
        "puts the bindings of the request URI into it and into branches; -1 none, -2 none for this method",
        lookup,
    ),
    function(
        "is_registered",
        &[arg("domain", ArgType::Text), opt("aor", ArgType::Text)],
        Routes::ANY,
        "whether the address (of To or From without aor) has a binding",
        is_registered,
    ),
];

struct Registrar {
    default_expires: u32,
    min_expires: u32,
    max_expires: u32,
    max_contacts: usize,
    is_case_sensitive: bool,
    retry_after: u32,
}

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let params = setup.params;
    let number = |name: &'static str, default: i32| match params.int(name, default) {
        value @ 0.. => Ok(value.unsigned_abs()),
        value => Err(SetupError::param(name, format!("{name} must not be negative: {value}"))),
    };
    let registrar = Registrar {
        default_expires: number("default_expires", 3600)?,
        min_expires: number("min_expires", 60)?,
        max_expires: number("max_expires", 0)?,
        max_contacts: number("max_contacts", 0)? as usize,
        is_case_sensitive: params.int("case_sensitive", 1) != 0,
        retry_after: number("retry_after", 0)?,
    };
    setup.state(registrar);
    Ok(())
}

/// The record key of a URI.
fn aor_of(context: &Context, uri: &[u8]) -> Option<Aor> {
    let (usrloc, registrar) = (context.node.state::<Usrloc>()?, context.node.state::<Registrar>()?);
    let uri = Uri::parse(uri).ok()?;
    let user = uri.user.filter(|user| !user.is_empty())?;
    Some(usrloc.aor(user, uri.host, registrar.is_case_sensitive))
}

/// Flags of `save()` and `lookup()`: letters (2.4) or words.
#[derive(Default)]
struct Flags {
    no_reply: bool,
    force: bool,
    method_filter: bool,
    no_branches: bool,
    max_contacts: Option<usize>,
    min_expires: Option<u32>,
    max_expires: Option<u32>,
}

fn flags(text: &[u8]) -> Flags {
    let mut flags = Flags::default();
    let text = String::from_utf8_lossy(text);
    if text.contains('-') || text.contains(',') || text.contains('=') {
        for word in text.split(',').map(str::trim) {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            match name {
                "no-reply" => flags.no_reply = true,
                "force-registration" => flags.force = true,
                "method-filtering" => flags.method_filter = true,
                "no-branches" => flags.no_branches = true,
                "max-contacts" => flags.max_contacts = value.parse().ok(),
                "min-expires" => flags.min_expires = value.parse().ok(),
                "max-expires" => flags.max_expires = value.parse().ok(),
                _ => {}
            }
        }
        return flags;
    }
    let mut chars = text.chars().peekable();
    while let Some(letter) = chars.next() {
        let mut number = String::new();
        while let Some(digit) = chars.next_if(char::is_ascii_digit) {
            number.push(digit);
        }
        match letter {
            'r' => flags.no_reply = true,
            'f' => flags.force = true,
            'm' => flags.method_filter = true,
            'b' => flags.no_branches = true,
            'c' => flags.max_contacts = number.parse().ok(),
            'e' => flags.min_expires = number.parse().ok(),
            'E' => flags.max_expires = number.parse().ok(),
            _ => {}
        }
    }
    flags
}

fn save(context: &mut Context, args: &[Arg]) -> Called {
    let node = context.node;
    let (Some(usrloc), Some(registrar)) = (node.state::<Usrloc>(), node.state::<Registrar>()) else { return Called::Done(-1) };
    let flags = flags(arg_text(args, 1).unwrap_or_default());
    let domain = String::from_utf8_lossy(arg_text(args, 0).unwrap_or_default()).into_owned();
    let to = context.message.to().map(|to| to.uri).unwrap_or_default();
    let aor = aor_of(context, arg_text(args, 2).unwrap_or(to));
    let Some(aor) = aor else { return refuse(context, &flags, 400, b"Bad Address of Record") };
    let mut policy = usrloc.policy();
    policy.default_expires = registrar.default_expires;
    policy.min_expires = flags.min_expires.unwrap_or(registrar.min_expires);
    policy.max_expires = flags.max_expires.unwrap_or(registrar.max_expires);
    policy.max_contacts = flags.max_contacts.unwrap_or(registrar.max_contacts);
    policy.force_registration = flags.force;
    let now = node::unix_secs();
    let outcome = match with_request(context, |request| usrloc.domain(node, &domain).register(&aor, request, &policy, now)) {
        Some(Ok(outcome)) => outcome,
        Some(Err(error)) => return refuse_register(context, &flags, registrar, &error),
        None => return refuse(context, &flags, 400, b"Bad Contact"),
    };
    usrloc.announce(node, &domain, &aor, &outcome.changes);
    if !flags.no_reply {
        if !outcome.bindings.is_empty() {
            let mut line = Vec::with_capacity(96 * outcome.bindings.len());
            write_contacts(&outcome.bindings, now, &mut line);
            context.edits.lumps.append_to_reply(line);
        }
        context.answer(200, b"OK");
    }
    Called::Done(1)
}

/// Reads the request; `None` when a header cannot be used.
fn with_request<T>(context: &Context, work: impl FnOnce(&RegisterRequest<'_>) -> T) -> Option<T> {
    let message = &context.message;
    let mut contacts: SmallVec<[ContactRequest<'_>; 2]> = SmallVec::new();
    let mut is_star = false;
    for contact in message.contacts() {
        match contact.ok()? {
            ContactValue::Star => is_star = true,
            ContactValue::Address(address) => {
                address.parsed_uri().ok()?;
                let instance = address.params.value(b"+sip.instance").unwrap_or_default();
                let instance = instance.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).unwrap_or(instance);
                let reg_id = address.params.value(b"reg-id").and_then(tandem_sip::parse_u32).unwrap_or(0);
                contacts.push(ContactRequest {
                    expires: address.expires(),
                    q_thousandths: address.q().map_or(Q_UNSET, u16::cast_signed),
                    instance,
                    reg_id,
                    ..ContactRequest::new(address.uri)
                });
            }
        }
    }
    let (cseq, _, _) = message.cseq().ok()?;
    let path: Vec<u8> = message.values_of(HeaderKind::Path).map(|value| value.bytes).collect::<Vec<_>>().join(&b", "[..]);
    let socket = context.node.socket(context.source.socket).map(|socket| socket.text.as_bytes()).unwrap_or_default();
    let request = RegisterRequest {
        call_id: message.call_id().ok()?,
        cseq,
        contacts: &contacts,
        wildcard: is_star,
        expires: message.expires(),
        path: &path,
        socket,
        user_agent: message.value_of(HeaderKind::UserAgent).unwrap_or(b"n/a"),
        branch_flags: context.edits.target.flags,
        methods: METHODS_ALL,
        ..RegisterRequest::default()
    };
    Some(work(&request))
}

fn write_contacts(bindings: &[std::sync::Arc<tandem_location::Binding>], now: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"Contact: ");
    for (at, binding) in bindings.iter().enumerate() {
        if at > 0 {
            out.extend_from_slice(b", ");
        }
        out.push(b'<');
        out.extend_from_slice(binding.contact());
        out.push(b'>');
        if let Some(q) = binding.q_thousandths() {
            out.extend_from_slice(format!(";q={}", f64::from(q) / 1000.0).as_bytes());
        }
        let left = binding.remaining_secs(now).unwrap_or(i64::from(i32::MAX));
        out.extend_from_slice(format!(";expires={left}").as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

fn refuse(context: &mut Context, flags: &Flags, code: u16, reason: &[u8]) -> Called {
    if !flags.no_reply {
        context.answer(code, reason);
    }
    Called::Done(-1)
}

fn refuse_register(context: &mut Context, flags: &Flags, registrar: &Registrar, error: &RegisterError) -> Called {
    context.log(LogLevel::Notice, &format!("REGISTER refused: {error}"));
    let code = error.response_code();
    if code == 503 && registrar.retry_after > 0 {
        context.edits.lumps.append_to_reply(format!("Retry-After: {}\r\n", registrar.retry_after));
    }
    if let RegisterError::IntervalTooBrief { min_expires } = error {
        context.edits.lumps.append_to_reply(format!("Min-Expires: {min_expires}\r\n"));
    }
    let reason = tandem_sip::default_reason(code).as_bytes();
    refuse(context, flags, code, reason)
}

fn lookup(context: &mut Context, args: &[Arg]) -> Called {
    let node = context.node;
    let Some(usrloc) = node.state::<Usrloc>() else { return Called::Done(-1) };
    let flags = flags(arg_text(args, 1).unwrap_or_default());
    let domain = String::from_utf8_lossy(arg_text(args, 0).unwrap_or_default());
    let uri = arg_text(args, 2).or_else(|| context.request_uri());
    let Some(aor) = uri.and_then(|uri| aor_of(context, uri)) else { return Called::Done(-1) };
    let table = usrloc.domain(node, &domain);
    let methods = if flags.method_filter { context.message.method().id() } else { 0 };
    let now = node::unix_secs();
    let found = table.lookup(&aor, now, &LookupFilter { methods, ..LookupFilter::default() });
    let mut targets = found.iter().map(|binding| target_of(context, binding));
    let Some(first) = targets.next() else {
        let has_other = methods != 0 && table.is_registered(&aor, now);
        return Called::Done(if has_other { -2 } else { -1 });
    };
    let rest: SmallVec<[Target; 2]> = if flags.no_branches { SmallVec::new() } else { targets.collect() };
    context.edits.target = first;
    for target in rest {
        if !context.edits.add_branch(target) {
            break;
        }
    }
    Called::Done(1)
}

fn target_of(context: &Context, binding: &tandem_location::Binding) -> Target {
    let some = |text: &[u8]| (!text.is_empty()).then(|| Text::copy(text));
    let path = some(binding.path());
    // The first Path value is the next hop; without one the address the REGISTER came from.
    let first_hop = path.as_ref().and_then(|path| tandem_sip::NameAddr::parse(path.split(|byte| *byte == b',').next()?).ok().map(|hop| Text::copy(hop.uri)));
    Target {
        uri: some(binding.contact()),
        dst_uri: first_hop.or_else(|| some(binding.received())),
        path,
        q: binding.q_thousandths(),
        socket: context.node.socket_named(binding.socket()).map(|socket| socket.id),
        flags: binding.branch_flags(),
        ..Target::default()
    }
}

fn is_registered(context: &mut Context, args: &[Arg]) -> Called {
    let Some(usrloc) = context.node.state::<Usrloc>() else { return Called::Done(-1) };
    let domain = String::from_utf8_lossy(arg_text(args, 0).unwrap_or_default());
    let own = context.message.to().map(|to| to.uri).unwrap_or_default();
    let Some(aor) = aor_of(context, arg_text(args, 1).unwrap_or(own)) else { return Called::Done(-1) };
    let is_there = usrloc.domain(context.node, &domain).is_registered(&aor, node::unix_secs());
    Called::Done(if is_there { 1 } else { -1 })
}
