//! Added branches: functions, `$branch...`, `$msg.branch...`, `$ds`, serial forking order. Forking itself is module `tm`.

use smallvec::SmallVec;
use tandem_module::context::{Called, Context};
use tandem_module::declare::{VarCall, arg_int, arg_text};
use tandem_module::edits::{Edits, Target};
use tandem_script::ast::RouteKind;
use tandem_script::value::{Text, Value};
use tandem_script::vm::{Arg, Index, JOIN_BYTES_MAX};

use super::flags::{branch_bits, names_of, target_mut};
use super::table::{done, position, truth, truth_of};

/// q as `0.5`; empty when unset.
pub(crate) fn q_text(q: Option<u16>) -> Text {
    match q {
        None => Text::EMPTY,
        Some(1000) => Text::from("1"),
        Some(0) => Text::from("0"),
        Some(q) => {
            let text = format!("0.{q:03}");
            Text::from(text.trim_end_matches('0'))
        }
    }
}

/// q out of `0.5`, `1`, ...
pub(crate) fn parse_q(text: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let q: f32 = text.parse().ok()?;
    (0.0..=1.0).contains(&q).then(|| (q * 1000.0).round() as u16)
}

fn given_q(args: &[Arg], at: usize) -> Result<Option<u16>, ()> {
    match arg_text(args, at) {
        None | Some(b"") => Ok(None),
        Some(text) => parse_q(text).map(Some).ok_or(()),
    }
}

/// `append_msg_branch(uri[, q[, flags]])`.
pub(super) fn append_msg_branch(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(uri), Ok(q)) = (arg_text(args, 0), given_q(args, 1)) else { return done(false) };
    let inherits = arg_text(args, 2).is_some_and(|flags| {
        flags.split(|byte| *byte == b',').any(|flag| matches!(flag.trim_ascii(), b"inherite" | b"inherit"))
    });
    let mut target = if inherits { context.edits.target.clone() } else { Target::default() };
    target.uri = Some(Text::copy(uri));
    if q.is_some() {
        target.q = q;
    }
    done(context.edits.add_branch(target))
}

/// `append_branch([uri[, q]])` of 2.4.
pub(super) fn append_branch(context: &mut Context, args: &[Arg]) -> Called {
    let Ok(q) = given_q(args, 1) else { return done(false) };
    let mut target = context.edits.target.clone();
    let is_clone = match arg_text(args, 0) {
        Some(uri) if !uri.is_empty() => {
            target.uri = Some(Text::copy(uri));
            false
        }
        _ => {
            target.uri = context.request_uri().map(Text::copy);
            true
        }
    };
    if q.is_some() {
        target.q = q;
    }
    if !context.edits.add_branch(target) {
        return done(false);
    }
    if is_clone {
        let uri = context.edits.target.uri.take();
        context.edits.target = Target { uri, ..Target::default() };
    }
    done(true)
}

pub(super) fn remove_branch(context: &mut Context, args: &[Arg]) -> Called {
    let count = context.edits.branches.len();
    let Some(at) = arg_int(args, 0).and_then(|at| position(at, count)) else { return done(false) };
    context.edits.branches.remove(at);
    done(true)
}

/// The target that a branch argument means: absent is the request URI, n the n-th added one.
fn argument_target<'a>(context: &'a mut Context, args: &[Arg], at: usize) -> Option<&'a mut Target> {
    match args.get(at) {
        None | Some(Arg::Missing) => Some(&mut context.edits.target),
        Some(_) => {
            let count = context.edits.branches.len();
            let at = arg_int(args, at).and_then(|at| position(at, count))?;
            context.edits.branches.get_mut(at)
        }
    }
}

/// The target with its URI made explicit, so that it means the same in another place.
fn explicit(context: &Context, mut target: Target) -> Target {
    if target.uri.is_none() {
        target.uri = context.message.request_uri().map(Text::copy);
    }
    target
}

/// `move_msg_branch([src][, dst][, "keep"])`.
pub(super) fn move_branch(context: &mut Context, args: &[Arg]) -> Called {
    let Some(source) = argument_target(context, args, 0).map(|target| target.clone()) else { return done(false) };
    let source = explicit(context, source);
    let keeps = arg_text(args, 2).is_some_and(|flag| flag.eq_ignore_ascii_case(b"keep"));
    let Some(to) = argument_target(context, args, 1) else { return done(false) };
    *to = source;
    match arg_int(args, 0).and_then(|at| position(at, context.edits.branches.len())) {
        Some(at) if !keeps => drop(context.edits.branches.remove(at)),
        _ => {}
    }
    done(true)
}

/// `swap_msg_branches([a][, b])`.
pub(super) fn swap_branches(context: &mut Context, args: &[Arg]) -> Called {
    let Some(first) = argument_target(context, args, 0).map(|target| target.clone()) else { return done(false) };
    let Some(second) = argument_target(context, args, 1).map(|target| target.clone()) else { return done(false) };
    let (first, second) = (explicit(context, first), explicit(context, second));
    if let Some(slot) = argument_target(context, args, 0) {
        *slot = second;
    }
    if let Some(slot) = argument_target(context, args, 1) {
        *slot = first;
    }
    done(true)
}

/// `serialize_branches(clear[, keep_order])`: moves the targets into groups for [`next_branches`], highest q first.
pub(super) fn serialize(context: &mut Context, args: &[Arg]) -> Called {
    let keeps_order = arg_int(args, 1).is_some_and(|flag| flag != 0);
    if arg_int(args, 0).is_some_and(|clear| clear != 0) {
        context.edits.serial.clear();
    }
    serialize_targets(&mut context.edits, keeps_order);
    done(true)
}

/// The same for modules (OpenSIPS: core, `serialize_branches()`).
pub fn serialize_targets(edits: &mut Edits, keeps_order: bool) {
    let is_flat = edits.branches.iter().all(|branch| branch.q == edits.target.q);
    if edits.branches.is_empty() || (is_flat && !keeps_order) {
        return;
    }
    let mut all: Vec<Target> = Vec::with_capacity(edits.branches.len() + 1);
    all.push(edits.target.clone());
    all.extend(edits.branches.drain(..));
    let mut groups: Vec<Vec<Target>> = Vec::new();
    if keeps_order {
        groups.extend(all.into_iter().map(|target| vec![target]));
    } else {
        // Stable: equal q keep their order. Targets without q come last.
        all.sort_by_key(|target| std::cmp::Reverse(target.q.map_or(-1, i32::from)));
        for target in all {
            match groups.last_mut() {
                Some(group) if group.first().is_some_and(|first| first.q == target.q) => group.push(target),
                _ => groups.push(vec![target]),
            }
        }
    }
    // The next group is the last one of the list; what waited before comes after.
    edits.serial.extend(groups.into_iter().rev());
}

/// `next_branches()`: 1 when more groups follow, 2 for the last one, -1 when none was left.
pub(super) fn next_branches(context: &mut Context, _: &[Arg]) -> Called {
    if !matches!(context.kind, RouteKind::Request | RouteKind::Failure) && context.message.method_bytes() != b"DUMMY" {
        return done(false);
    }
    let Some(group) = context.edits.serial.pop() else { return done(false) };
    let mut targets = group.into_iter();
    if let Some(first) = targets.next() {
        context.edits.target = first;
    }
    context.edits.branches = targets.collect();
    Called::Done(if context.edits.serial.is_empty() { 2 } else { 1 })
}

/// Writes the destination set as the value of a Contact header (3xx replies); false when there is nothing to write.
pub fn write_destination_set(edits: &Edits, out: &mut Vec<u8>) -> bool {
    let mut count = 0;
    let main = std::iter::once(&edits.target).filter(|target| target.uri.is_some());
    for target in main.chain(&edits.branches) {
        let Some(uri) = &target.uri else { continue };
        if count > 0 {
            out.extend_from_slice(b", ");
        }
        out.push(b'<');
        out.extend_from_slice(uri);
        out.push(b'>');
        if target.q.is_some() {
            out.extend_from_slice(b";q=");
            out.extend_from_slice(&q_text(target.q));
        }
        count += 1;
    }
    count > 0
}

/// `$ds`.
pub(super) fn destination_set(context: &mut Context, _: &VarCall<'_>) -> Value {
    let mut out = b"Contact: ".to_vec();
    if write_destination_set(&context.edits, &mut out) { Value::Text(Text::from(out)) } else { Value::Null }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Uri,
    NextHop,
    Q,
    Path,
    Flags,
    Socket,
}

impl Field {
    fn from_name(name: &[u8]) -> Option<Field> {
        Some(match name.to_ascii_lowercase().as_slice() {
            b"uri" => Field::Uri,
            b"duri" => Field::NextHop,
            b"q" => Field::Q,
            b"path" => Field::Path,
            b"flags" => Field::Flags,
            b"socket" => Field::Socket,
            _ => return None,
        })
    }

    fn read(self, context: &Context, target: &Target) -> Value {
        let optional = |text: &Option<Text>| text.clone().map_or(Value::Null, Value::Text);
        match self {
            Field::Uri => match &target.uri {
                Some(uri) => Value::Text(uri.clone()),
                None => context.message.request_uri().map_or(Value::Null, Value::text),
            },
            Field::NextHop => optional(&target.dst_uri),
            Field::Q => Value::Text(q_text(target.q)),
            Field::Path => optional(&target.path),
            Field::Flags => Value::Text(names_of(target.flags, context.node.program().branch_flag_names())),
            Field::Socket => target
                .socket
                .and_then(|id| context.node.socket(id))
                .map_or(Value::Null, |socket| Value::from(socket.text.as_str())),
        }
    }

    fn write(self, context: &mut Context, at: i32, value: &Value) -> bool {
        let text = value.as_text();
        let bits = text.as_ref().map_or(0, |text| branch_bits(context, text));
        let socket = text.as_ref().and_then(|text| context.node.socket_named(text)).map(|socket| socket.id);
        let Some(target) = target_mut(context, at) else { return false };
        match self {
            Field::Uri => match text {
                Some(uri) => target.uri = Some(uri),
                None => return false,
            },
            Field::NextHop => target.dst_uri = text.filter(|text| !text.is_empty()),
            Field::Path => target.path = text.filter(|text| !text.is_empty()),
            Field::Flags => target.flags = bits,
            Field::Socket if socket.is_none() && text.is_some() => return false,
            Field::Socket => target.socket = socket,
            Field::Q => {
                target.q = match (value, &text) {
                    (Value::Int(q) | Value::Literal(q), _) => u16::try_from(*q).ok().filter(|q| *q <= 1000),
                    (_, Some(text)) => parse_q(text),
                    (_, None) => None,
                }
            }
        }
        true
    }
}

fn joined(values: impl Iterator<Item = Value>) -> Value {
    let mut out = Vec::new();
    let mut count = 0;
    for value in values {
        count += 1;
        if count > 1 {
            out.extend_from_slice(b", ");
        }
        value.print_into(&mut out);
    }
    if count == 0 || out.len() > JOIN_BYTES_MAX { Value::Null } else { Value::Text(Text::from(out)) }
}

/// `$branch` and `$branch(field)`: added branches only, the first one without index.
pub(super) fn branch(context: &mut Context, call: &VarCall<'_>) -> Value {
    let Some(field) = Field::from_name(call.name.unwrap_or(b"uri")) else { return Value::Null };
    let branches = &context.edits.branches;
    let at = match call.index {
        Index::All => return joined(branches.iter().map(|target| field.read(context, target))),
        Index::At(at) => at,
        Index::None | Index::Append => 0,
    };
    let target = position(at, branches.len()).and_then(|at| branches.get(at));
    target.map_or(Value::Null, |target| field.read(context, target))
}

fn append(context: &mut Context, value: &Value) -> bool {
    match value.as_text().filter(|uri| !uri.is_empty()) {
        Some(uri) => context.edits.add_branch(Target { uri: Some(uri), ..Target::default() }),
        None => false,
    }
}

pub(super) fn set_branch(context: &mut Context, call: &VarCall<'_>, value: Value) -> bool {
    let Some(name) = call.name else { return append(context, &value) };
    let at = match call.index {
        Index::At(at) => at,
        _ => 0,
    };
    let (Some(field), Some(at)) = (Field::from_name(name), position(at, context.edits.branches.len())) else {
        return false;
    };
    field.write(context, at as i32 + 1, &value)
}

/// `$msg.branch = uri`.
pub(super) fn set_msg_branch(context: &mut Context, _: &VarCall<'_>, value: Value) -> bool {
    append(context, &value)
}

/// It can only be written.
pub(super) fn msg_branch(_: &mut Context, _: &VarCall<'_>) -> Value {
    Value::Null
}

/// Index into the request URI (0) and the added branches; the last one without index.
fn msg_index(context: &Context, call: &VarCall<'_>) -> Option<usize> {
    let count = context.edits.branches.len() + 1;
    match call.index {
        Index::At(at) => position(at, count),
        _ => Some(count - 1),
    }
}

fn target_at(edits: &Edits, at: usize) -> Option<&Target> {
    if at == 0 { Some(&edits.target) } else { edits.branches.get(at - 1) }
}

fn msg_branch_field(context: &mut Context, call: &VarCall<'_>, field: Field) -> Value {
    if call.index == Index::All {
        let count = context.edits.branches.len() + 1;
        return joined(
            (0..count).filter_map(|at| target_at(&context.edits, at)).map(|target| field.read(context, target)),
        );
    }
    let target = msg_index(context, call).and_then(|at| target_at(&context.edits, at));
    target.map_or(Value::Null, |target| field.read(context, target))
}

macro_rules! msg_branch_fields {
    ($($read:ident, $write:ident = $field:ident;)*) => {
        $(
            pub(super) fn $read(context: &mut Context, call: &VarCall<'_>) -> Value {
                msg_branch_field(context, call, Field::$field)
            }

            pub(super) fn $write(context: &mut Context, call: &VarCall<'_>, value: Value) -> bool {
                msg_index(context, call).is_some_and(|at| Field::$field.write(context, at as i32, &value))
            }
        )*
    };
}

msg_branch_fields! {
    msg_branch_uri, set_msg_branch_uri = Uri;
    msg_branch_duri, set_msg_branch_duri = NextHop;
    msg_branch_q, set_msg_branch_q = Q;
    msg_branch_path, set_msg_branch_path = Path;
    msg_branch_flags, set_msg_branch_flags = Flags;
    msg_branch_socket, set_msg_branch_socket = Socket;
}

pub(super) fn last_index(context: &mut Context, _: &VarCall<'_>) -> Value {
    Value::Int(context.edits.branches.len() as i32)
}

/// `$msg.branch.flag(name)`.
pub(super) fn msg_branch_flag(context: &mut Context, call: &VarCall<'_>) -> Value {
    let flag = context.node.program().find_branch_flag(call.name.unwrap_or_default());
    let target = msg_index(context, call).and_then(|at| target_at(&context.edits, at));
    match (flag, target) {
        (Some(flag), Some(target)) => truth(target.flags >> u32::from(flag.min(31)) & 1 == 1),
        _ => Value::Null,
    }
}

pub(super) fn set_msg_branch_flag(context: &mut Context, call: &VarCall<'_>, value: Value) -> bool {
    let flag = context.node.program().find_branch_flag(call.name.unwrap_or_default());
    let (Some(flag), Some(on), Some(at)) = (flag, truth_of(&value), msg_index(context, call)) else { return false };
    let Some(target) = target_mut(context, at as i32) else { return false };
    let bit = 1 << u32::from(flag.min(31));
    if on {
        target.flags |= bit
    } else {
        target.flags &= !bit
    }
    true
}

/// `$msg.branch.attr(name)`.
pub(super) fn msg_branch_attr(context: &mut Context, call: &VarCall<'_>) -> Value {
    let target = msg_index(context, call).and_then(|at| target_at(&context.edits, at));
    let name = call.name.unwrap_or_default();
    let found = target.and_then(|target| target.attrs.iter().find(|(other, _)| other.as_bytes() == name));
    found.map_or(Value::Null, |(_, value)| Value::Text(value.clone()))
}

pub(super) fn set_msg_branch_attr(context: &mut Context, call: &VarCall<'_>, value: Value) -> bool {
    let Some(at) = msg_index(context, call) else { return false };
    let name = Text::copy(call.name.unwrap_or_default());
    let Some(target) = target_mut(context, at as i32) else { return false };
    let mut kept: SmallVec<[(Text, Text); 0]> =
        target.attrs.drain(..).filter(|(other, _)| other.as_bytes() != name.as_bytes()).collect();
    if let Some(text) = value.as_text() {
        kept.push((name, text));
    }
    target.attrs = kept;
    true
}
