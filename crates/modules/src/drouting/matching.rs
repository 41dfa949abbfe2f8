//! Which gateway an address belongs to: `goes_to_gw()`, `is_from_gw()`, `dr_is_gw()`; `dr_match()` and `dr_disable()`.

use std::net::IpAddr;
use std::sync::Arc;

use tandem_module::context::{Called, Context};
use tandem_module::declare::{arg_int, arg_text};
use tandem_module::outgoing::{NextHop, next_hop};
use tandem_module::run::Pending;
use tandem_module::transport::Proto;
use tandem_script::value::{Text, Value};
use tandem_script::vm::{Arg, LogLevel};
use tandem_sip::{NameAddr, Uri, UriEdit, edit_uri};

use super::Drouting;
use super::data::{Gateway, Position, State};
use super::output::{self, Vars};
use super::partition::{Change, Partition, Source};
use super::routing::{number, refuse, text};
use crate::core::table::done;

/// What a script asks about an address.
struct Question {
    partitions: Vec<Arc<Partition>>,
    /// Type of the gateway; any when `None`.
    kind: Option<i32>,
    flags: Vec<u8>,
    vars: Vars,
}

impl Question {
    /// From the arguments type, flags, variables, partition, of which the first is at `first`; 2.4 with partitions has the
    /// partition in front of all arguments.
    fn read(context: &mut Context, args: &[Arg], first: usize, letters: &[u8]) -> Option<Question> {
        let own = context.node.state::<Drouting>()?;
        let is_in_front = own.config.uses_partitions && own.config.is_v2_4;
        let first = first + usize::from(is_in_front);
        let name = text(context, args, if is_in_front { 0 } else { first + 4 });
        let kind = match text(context, args, first) {
            None => None,
            Some(text) => match number(&text) {
                Some(-1) => None,
                Some(kind) => Some(kind),
                None => {
                    context.log(LogLevel::Error, "drouting: the type of gateways is no number");
                    return None;
                }
            },
        };
        let flags = text(context, args, first + 1).unwrap_or_default();
        if let Some(unknown) = flags.iter().find(|letter| !letters.contains(letter)) {
            context.log(LogLevel::Error, &format!("drouting: unknown flag '{}'", unknown.escape_ascii()));
            return None;
        }
        let vars = Vars { rule: None, gateway: output::var(args, first + 2), carrier: output::var(args, first + 3) };
        Some(Question { partitions: own.wanted(context, name.as_deref()), kind, flags, vars })
    }

    fn has(&self, letter: u8) -> bool {
        self.flags.contains(&letter)
    }

    /// Whether a gateway has the address; port 0 is any. The script is told which one it is.
    fn answer(&self, context: &mut Context, ip: IpAddr, port: u16, proto: Option<Proto>) -> bool {
        let ip = ip.to_canonical();
        for partition in &self.partitions {
            let Some(tables) = partition.tables() else {
                let text = format!("drouting: partition {} has not been read yet", partition.name);
                context.log(LogLevel::Error, &text);
                continue;
            };
            let fits = |gateway: &&Gateway| {
                self.kind.is_none_or(|kind| gateway.kind == kind)
                    && (self.has(b'n') || port == 0 || gateway.port == port)
                    && (!self.has(b'r') || proto.is_none_or(|proto| gateway.proto == proto))
            };
            let Some(gateway) = tables.gateways_at(ip).find(fits) else { continue };
            let carrier = gateway.carrier.and_then(|at| tables.carriers.get(at as usize));
            let attrs = carrier.map_or(Text::EMPTY, |carrier| carrier.attrs.clone());
            let id = carrier.map_or(Text::EMPTY, |carrier| carrier.id.clone());
            self.tell(context, partition, gateway, id, attrs);
            return true;
        }
        false
    }

    fn tell(&self, context: &mut Context, partition: &Partition, gateway: &Gateway, carrier: Text, attrs: Text) {
        if self.has(b's') && gateway.strip > 0 {
            edit(context, &UriEdit::Strip(gateway.strip));
        }
        if self.has(b'p') && !gateway.prefix.is_empty() {
            edit(context, &UriEdit::Prefix(&gateway.prefix));
        }
        let avps = partition.avps();
        let mut set = |name, text| {
            context.avps.remove_all(name);
            context.avps.append(name, Value::Text(text));
        };
        if self.has(b'i') {
            set(avps.gw_id, gateway.id.clone());
        }
        if let Some(name) = avps.carrier_id.filter(|_| self.has(b'c')) {
            set(name, carrier);
        }
        if let Some(var) = &self.vars.gateway {
            context.write_var(var, Value::Text(gateway.attrs.clone()));
        }
        if let Some(var) = &self.vars.carrier {
            context.write_var(var, Value::Text(attrs));
        }
    }
}

fn edit(context: &mut Context, edit: &UriEdit<'_>) {
    if let Some(uri) = context.request_uri().and_then(|uri| edit_uri(uri, edit).ok()) {
        context.edits.target.uri = Some(Text::from(uri));
    }
}

/// `is_from_gw([type][, flags][, $gateway][, $carrier][, partition])`.
pub(super) fn is_from_gw(context: &mut Context, args: &[Arg]) -> Called {
    let Some(question) = Question::read(context, args, 0, b"spinrc") else { return done(false) };
    let (src, proto) = (context.source.src, context.source.proto);
    done(question.answer(context, src.ip(), src.port(), Some(proto)))
}

/// `goes_to_gw([type][, flags][, $gateway][, $carrier][, partition])`: names are not looked up.
pub(super) fn goes_to_gw(context: &mut Context, args: &[Arg]) -> Called {
    let Some(question) = Question::read(context, args, 0, b"spinc") else { return done(false) };
    let uri = context.edits.target.dst_uri.as_ref().map(|uri| uri.to_vec());
    let Some(uri) = uri.or_else(|| context.request_uri().map(<[u8]>::to_vec)) else { return done(false) };
    let Ok(uri) = Uri::parse(&uri) else { return done(false) };
    let Some(ip) = uri.host_ip() else { return done(false) };
    done(question.answer(context, ip, uri.port.unwrap_or(0), None))
}

/// `dr_is_gw(uri[, type][, flags][, $gateway][, $carrier][, partition])`: a name is looked up.
pub(super) fn dr_is_gw(context: &mut Context, args: &[Arg]) -> Called {
    let is_in_front =
        context.node.state::<Drouting>().is_some_and(|own| own.config.uses_partitions && own.config.is_v2_4);
    let Some(given) = text(context, args, usize::from(is_in_front)) else { return done(false) };
    let Some(question) = Question::read(context, args, 1, b"spinc") else { return done(false) };
    let uri = NameAddr::parse(&given).map_or(given.as_slice(), |address| address.uri);
    let has_port = Uri::parse(uri).is_ok_and(|uri| uri.port.is_some());
    let port = move |port: u16| if has_port { port } else { 0 };
    match next_hop(context.node, uri, None) {
        Ok(NextHop::Known(found)) => {
            let is_any = found.iter().any(|(_, addr)| question.answer(context, addr.ip(), port(addr.port()), None));
            done(is_any)
        }
        Ok(NextHop::Lookup(query)) => {
            let Some(resolver) = context.node.resolver().cloned() else { return done(false) };
            let lookup = async move { resolver.lookup(query).await };
            Pending::job(context.node, lookup, move |context, found| {
                let found = found.unwrap_or_default();
                let is_any = found.iter().any(|(_, addr)| question.answer(context, addr.ip(), port(addr.port()), None));
                done(is_any)
            })
        }
        Err(error) => {
            context.log(LogLevel::Warning, &format!("drouting: dr_is_gw(): {error}"));
            done(false)
        }
    }
}

/// `dr_disable([partition])`: the gateway in use.
pub(super) fn dr_disable(context: &mut Context, args: &[Arg]) -> Called {
    let Some(own) = context.node.state::<Drouting>() else { return done(false) };
    let node = context.node;
    let mut is_any = false;
    for partition in own.wanted(context, arg_text(args, 0)) {
        let Some(id) = output::top(context, partition.avps().gw_id) else { continue };
        let change = Change { to: State::Inactive, reason: "script dr_disable", source: Source::Here };
        is_any |= partition.change_gateway(node, &id, change, |state| state == State::Active);
    }
    done(is_any)
}

/// `dr_match(group[, flags], number[, $rule][, partition])`.
pub(super) fn dr_match(context: &mut Context, args: &[Arg]) -> Called {
    let Some(own) = context.node.state::<Drouting>() else { return done(false) };
    let (Some(group), Some(number)) = (arg_int(args, 0), arg_text(args, 2).map(<[u8]>::to_vec)) else {
        return done(false);
    };
    let flags = arg_text(args, 1).unwrap_or_default();
    if !flags.iter().all(|letter| *letter == b'L') {
        return refuse(context, "dr_match(): the only flag is L");
    }
    let is_whole = !flags.is_empty();
    for partition in own.wanted(context, arg_text(args, 4)) {
        let Some(tables) = partition.tables() else {
            context.log(LogLevel::Error, &format!("drouting: partition {} has not been read yet", partition.name));
            continue;
        };
        if let Some((position, rule)) =
            tables.find(group, &number, Position::START, is_whole, &crate::core::local_now())
        {
            let vars = Vars { rule: output::var(args, 3), ..Vars::default() };
            let prefix = number.get(..position.prefix).unwrap_or_default();
            output::set_rule(context, &partition, rule, prefix, &vars);
            return done(true);
        }
    }
    done(false)
}
