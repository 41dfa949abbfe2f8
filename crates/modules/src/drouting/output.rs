//! Where a choice of gateways goes: the request URI, the AVPs with what is still to be tried, the variables of the script.

use std::sync::Arc;

use tandem_module::context::Context;
use tandem_script::avp::AvpName;
use tandem_script::pvar::CompiledVar;
use tandem_script::value::{Text, Value};
use tandem_script::vm::Arg;
use tandem_sip::Uri;

use super::data::{Carrier, Gateway, Rule};
use super::partition::Partition;

/// Gateways that one call may try.
pub(super) const DESTINATIONS_MAX: usize = 64;

/// Variables for attributes.
#[derive(Clone, Debug, Default)]
pub(super) struct Vars {
    pub(super) rule: Option<Arc<CompiledVar>>,
    pub(super) gateway: Option<Arc<CompiledVar>>,
    pub(super) carrier: Option<Arc<CompiledVar>>,
}

/// The variable of an argument.
pub(super) fn var(args: &[Arg], at: usize) -> Option<Arc<CompiledVar>> {
    match args.get(at) {
        Some(Arg::Var(var)) => Some(var.clone()),
        _ => None,
    }
}

/// One gateway to try.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    uri: Text,
    gateway: Text,
    socket: Text,
    prefix: Text,
    attrs: Text,
    carrier: Text,
    carrier_attrs: Text,
}

impl Choice {
    /// `base` sent to a gateway, perhaps through a carrier.
    pub(super) fn new(base: &[u8], gateway: &Gateway, carrier: Option<&Carrier>) -> Option<Choice> {
        Some(Choice {
            uri: Text::from(target_uri(base, gateway)?),
            gateway: gateway.id.clone(),
            socket: gateway.socket.clone().unwrap_or(Text::EMPTY),
            prefix: gateway.prefix.clone(),
            attrs: gateway.attrs.clone(),
            carrier: carrier.map_or(Text::EMPTY, |carrier| carrier.id.clone()),
            carrier_attrs: carrier.map_or(Text::EMPTY, |carrier| carrier.attrs.clone()),
        })
    }
}

/// The user part of `base`, stripped and prefixed, at the address of the gateway; parameters of `base` are kept.
fn target_uri(base: &[u8], gateway: &Gateway) -> Option<Vec<u8>> {
    let uri = Uri::parse(base).ok()?;
    let user = uri.user_or_empty();
    let user = user.get(gateway.strip..).unwrap_or_default();
    let mut out = Vec::with_capacity(base.len() + gateway.address.len() + 16);
    out.extend_from_slice(if gateway.is_secure { b"sips:" } else { b"sip:" });
    out.extend_from_slice(&gateway.prefix);
    out.extend_from_slice(user);
    if out.last() != Some(&b':') {
        out.push(b'@');
    }
    out.extend_from_slice(&gateway.address);
    for param in uri.params {
        // The gateway's own transport decides.
        if [&b"transport"[..], b"maddr"].iter().any(|own| param.name.eq_ignore_ascii_case(own)) {
            continue;
        }
        out.push(b';');
        out.extend_from_slice(param.raw);
    }
    Some(out)
}

fn set(context: &mut Context, var: Option<&Arc<CompiledVar>>, text: &Text) {
    if let Some(var) = var {
        context.write_var(var, Value::Text(text.clone()));
    }
}

/// The top value of an AVP as text.
pub(super) fn top(context: &Context, name: AvpName) -> Option<Text> {
    context.avps.value(name, 0).and_then(Value::as_text)
}

fn pop(context: &mut Context, name: AvpName) -> Option<Text> {
    let text = top(context, name);
    context.avps.remove(name, 0);
    text
}

/// Removes everything an earlier call has left.
pub(super) fn clear(context: &mut Context, partition: &Partition) {
    let avps = partition.avps();
    let names = [avps.ruri, avps.gw_id, avps.socket, avps.gw_attrs, avps.carrier_attrs, avps.rule_attrs];
    let stored = [avps.fallback, avps.whitelist, avps.base_uri];
    let optional = [avps.gw_prefix, avps.carrier_id, avps.rule_id, avps.rule_prefix];
    for name in names.into_iter().chain(stored).chain(optional.into_iter().flatten()) {
        context.avps.remove_all(name);
    }
}

/// What the script is told of the rule.
pub(super) fn set_rule(context: &mut Context, partition: &Partition, rule: &Rule, prefix: &[u8], vars: &Vars) {
    let avps = partition.avps();
    context.avps.remove_all(avps.rule_attrs);
    context.avps.append(avps.rule_attrs, Value::Text(rule.attrs.clone()));
    if let Some(name) = avps.rule_id {
        context.avps.remove_all(name);
        context.avps.append(name, Value::Int(i32::try_from(rule.id).unwrap_or(0)));
    }
    if let Some(name) = avps.rule_prefix {
        context.avps.remove_all(name);
        context.avps.append(name, Value::Text(Text::copy(prefix)));
    }
    set(context, vars.rule.as_ref(), &rule.attrs);
}

/// Sends the request to the first choice; the others wait in AVPs.
pub(super) fn apply(context: &mut Context, partition: &Partition, choices: &[Choice], vars: &Vars) -> bool {
    let Some(first) = choices.first() else { return false };
    let avps = partition.avps();
    for (at, choice) in choices.iter().enumerate() {
        let text = |text: &Text| Value::Text(text.clone());
        context.avps.append(avps.gw_id, text(&choice.gateway));
        context.avps.append(avps.gw_attrs, text(&choice.attrs));
        context.avps.append(avps.carrier_attrs, text(&choice.carrier_attrs));
        if let Some(name) = avps.gw_prefix {
            context.avps.append(name, text(&choice.prefix));
        }
        if let Some(name) = avps.carrier_id {
            context.avps.append(name, text(&choice.carrier));
        }
        if at > 0 {
            context.avps.append(avps.ruri, text(&choice.uri));
            context.avps.append(avps.socket, text(&choice.socket));
        }
    }
    target(context, first.uri.clone(), &first.socket);
    set(context, vars.gateway.as_ref(), &first.attrs);
    set(context, vars.carrier.as_ref(), &first.carrier_attrs);
    true
}

fn target(context: &mut Context, uri: Text, socket: &[u8]) {
    context.edits.target.uri = Some(uri);
    if let Some(socket) = context.node.socket_named(socket) {
        context.edits.target.socket = Some(socket.id);
    }
}

/// What `use_next_gw()` came to.
pub(super) enum Next {
    /// The request goes there now.
    Set,
    /// Nothing is left of this rule.
    NoneLeft,
    /// There was nothing at all.
    NoRouting,
}

/// Goes on to the next choice whose gateway `is_usable`.
pub(super) fn next(
    context: &mut Context,
    partition: &Partition,
    vars: &Vars,
    is_usable: impl Fn(&[u8]) -> bool,
) -> Next {
    let avps = partition.avps();
    if top(context, avps.gw_id).is_none() {
        return Next::NoRouting;
    }
    loop {
        let used = [Some(avps.gw_id), Some(avps.gw_attrs), Some(avps.carrier_attrs), avps.gw_prefix, avps.carrier_id];
        for name in used.into_iter().flatten() {
            context.avps.remove(name, 0);
        }
        let (Some(gateway), Some(uri)) = (top(context, avps.gw_id), pop(context, avps.ruri)) else {
            return Next::NoneLeft;
        };
        let socket = pop(context, avps.socket).unwrap_or(Text::EMPTY);
        if !is_usable(&gateway) {
            continue;
        }
        target(context, uri, &socket);
        if let Some(attrs) = top(context, avps.rule_attrs) {
            set(context, vars.rule.as_ref(), &attrs);
        }
        let attrs = top(context, avps.gw_attrs).unwrap_or(Text::EMPTY);
        set(context, vars.gateway.as_ref(), &attrs);
        let attrs = top(context, avps.carrier_attrs).unwrap_or(Text::EMPTY);
        set(context, vars.carrier.as_ref(), &attrs);
        return Next::Set;
    }
}
