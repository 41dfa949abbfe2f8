//! Does what a step says. What a step expects is looked for in `expect`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value as Json, json};
use smallvec::SmallVec;
use tandem_module::cachedb::{CacheDb, CacheReply};
use tandem_module::clock;
use tandem_module::event::Event;
use tandem_module::mi::{MiParams, MiResult};
use tandem_script::value::{Text, Value};

use super::Problem;
use crate::syntax::{Action, Step};
use crate::world::World;
use crate::world::database::Database;
use crate::world::phone::Phone;

/// Bindings made by a test are valid for so long when it does not say.
const BINDING_SPAN: Duration = Duration::from_secs(3600);

/// A test on its way.
pub(super) struct Act<'a> {
    pub(super) world: &'a World,
    pub(super) database: &'a Database,
    /// The answer to the last management command.
    pub(super) answer: Option<MiResult>,
}

impl<'a> Act<'a> {
    pub(super) fn new(world: &'a World, database: &'a Database) -> Act<'a> {
        Act { world, database, answer: None }
    }

    /// Does a step or looks at what it expects.
    pub(super) fn step(&mut self, step: &Step) -> Result<(), Problem> {
        let result = self.perform(step);
        self.world.settle();
        result
    }

    fn perform(&mut self, step: &Step) -> Result<(), Problem> {
        let world = self.world;
        match &step.action {
            Action::Time(unix_ms) => clock::hold(*unix_ms),
            Action::Registered { phone, aor, contact, span } => {
                self.register(phone, aor.as_deref(), contact.as_deref(), span.unwrap_or(BINDING_SPAN))?;
            }
            Action::CacheSet { engine, key, value, span } => self.store(engine, key, value, *span)?,
            Action::Row { table, values } => self.database.insert(table, values)?,
            Action::Sql(text) => self.database.sql(text)?,
            Action::Name { .. } => {
                return Err("names stand at the beginning of a test: the node knows them from its start"
                    .to_owned()
                    .into());
            }
            Action::VarSet { var, value } => world.write(var, value)?,
            Action::Unreachable(phone) => {
                let addr = world.around.with_phone(phone, |phone| phone.addr)?;
                world.wire.set_unreachable(addr);
            }
            Action::Answers { node, pattern, answer, delay } => {
                world.around.add_rule(*node, pattern.clone(), answer.clone(), *delay);
            }
            Action::NodeDown(id) | Action::NodeEnds(id) => {
                world.around.with_peers(|peers| peers.stop(*id));
            }
            Action::NodeUp(id) | Action::NodeStarts(id) => {
                world.around.on_peers(|peers, _| peers.start(*id)).unwrap_or(Ok(()))?;
            }
            Action::NodeSends { node, is_broadcast, text } => world.around.peer_says(*node, *is_broadcast, text)?,
            Action::NodeReplies { node, text } => world.around.peer_replies(*node, text)?,
            Action::After(span) => world.pass(*span),
            Action::TimerFires(route) => world.fire(route)?,
            Action::Event { name, params } => self.raise(name, params)?,
            Action::Mi { command, params } => self.answer = Some(world.mi(command, mi_params(params)?)?),
            _ => return self.phone_step(step),
        }
        Ok(())
    }

    fn phone_step(&mut self, step: &Step) -> Result<(), Problem> {
        match &step.action {
            Action::Sends(request) => {
                let make = |phone: &mut Phone| phone.request(&request.method, request.uri.as_deref(), &request.extra);
                self.send(&request.phone, make)?;
            }
            Action::SendsRaw { phone, text } => self.send(phone, |phone| Ok(phone.raw(text)))?,
            Action::SendsAgain(phone) => self.send(phone, |phone| phone.again())?,
            Action::Authenticates { phone, user, password } => {
                self.send(phone, |phone| phone.authenticate(user.as_deref(), password))?;
            }
            Action::Replies { phone, status, reason, method, extra } => {
                self.send(phone, |phone| phone.reply(*status, reason.as_deref(), method.as_deref(), extra))?;
            }
            Action::Acks(phone) => self.send(phone, Phone::ack)?,
            Action::Cancels(phone) => self.send(phone, Phone::cancel)?,
            Action::HangsUp(phone) => {
                self.send(phone, |phone| phone.request("BYE", None, &crate::syntax::Extra::default()))?;
            }
            _ => return self.expect(step),
        }
        Ok(())
    }

    fn send(&self, name: &str, make: impl FnOnce(&mut Phone) -> Result<Bytes, String>) -> Result<(), Problem> {
        let around = &self.world.around;
        let (addr, proto, bytes) = around.with_phone(name, |phone| (phone.addr, phone.proto, make(phone)))?;
        around.send(addr, proto, bytes?)?;
        Ok(())
    }

    /// Adds a binding with the command of `usrloc`, as an administrator would.
    fn register(&self, name: &str, aor: Option<&str>, contact: Option<&str>, span: Duration) -> Result<(), Problem> {
        let (own_aor, own_contact) = self.world.around.with_phone(name, |phone| (phone.aor(), phone.contact()))?;
        let aor = aor.map_or(own_aor, |aor| if aor.contains(':') { aor.to_owned() } else { format!("sip:{aor}") });
        let mut params = Map::new();
        let fields = [
            ("table_name", "location".to_owned()),
            ("aor", aor.trim_start_matches("sip:").to_owned()),
            ("contact", contact.map_or(own_contact, str::to_owned)),
            ("expires", span.as_secs().max(1).to_string()),
            ("q", "1".to_owned()),
            ("flags", "0".to_owned()),
            ("cflags", "0".to_owned()),
            ("methods", "32767".to_owned()),
        ];
        for (name, value) in fields {
            params.insert(name.to_owned(), json!(value));
        }
        if self.world.is_v2_4() {
            params.insert("unused".to_owned(), json!("0"));
        }
        match self.world.mi("ul_add", MiParams::Named(params))? {
            Ok(_) => Ok(()),
            Err(error) if error.code == -32601 => {
                Err("the script does not load usrloc: nobody can be registered".to_owned().into())
            }
            Err(error) => Err(format!("{name} cannot be registered: {} {:?}", error.message, error.data).into()),
        }
    }

    pub(super) fn engine(&self, name: &str) -> Result<Arc<dyn CacheDb>, Problem> {
        let caches = &self.world.node.caches;
        caches.engine(name.as_bytes()).ok_or_else(|| {
            let mut names = caches.names();
            names.sort();
            format!("the script has no key-value store '{name}'; it has: {}", names.join(", ")).into()
        })
    }

    pub(super) fn cache<T: Send + 'static>(&self, reply: CacheReply<T>) -> Result<Option<T>, Problem> {
        let result = match reply {
            CacheReply::Now(result) => result,
            CacheReply::Later(future) => self.world.wait_for(future)?,
        };
        match result {
            Ok(value) => Ok(Some(value)),
            Err(tandem_module::cachedb::CacheError::NotFound) => Ok(None),
            Err(error) => Err(error.to_string().into()),
        }
    }

    fn store(&self, engine: &str, key: &str, value: &str, span: Option<Duration>) -> Result<(), Problem> {
        let secs = span.map_or(0, |span| u32::try_from(span.as_secs()).unwrap_or(u32::MAX));
        self.cache(self.engine(engine)?.store(key.as_bytes(), value.as_bytes(), secs)).map(|_| ())
    }

    fn raise(&self, name: &str, given: &[(String, String)]) -> Result<(), Problem> {
        let node = self.world.node;
        let Some(known) = node.events.name(name.as_bytes()) else {
            let all = node.events.names();
            let near = tandem_script::names::nearest(name, all.iter().copied());
            let help = near.map_or(String::new(), |near| format!("; did you mean {near}?"));
            return Err(format!("no loaded module has the event {name}{help}").into());
        };
        node.events.raise(node, Event { name: known, params: event_params(given) }, None);
        Ok(())
    }
}

fn mi_params(given: &[(Option<String>, String)]) -> Result<MiParams, Problem> {
    if given.is_empty() {
        return Ok(MiParams::None);
    }
    let value = |text: &str| Json::String(text.to_owned());
    if given.iter().all(|(name, _)| name.is_none()) {
        return Ok(MiParams::Positional(given.iter().map(|(_, text)| value(text)).collect()));
    }
    let mut named = Map::new();
    for (name, text) in given {
        let Some(name) = name else {
            return Err("parameters of a command are either all by name or all by position".to_owned().into());
        };
        named.insert(name.clone(), value(text));
    }
    Ok(MiParams::Named(named))
}

/// Event parameters as the bus wants them. Their names live as long as the process, as those of modules do.
fn event_params(given: &[(String, String)]) -> SmallVec<[(&'static str, Value); 4]> {
    let pairs = given.iter().map(|(name, value)| {
        let name: &'static str = Box::leak(name.clone().into_boxed_str());
        let value = value.parse().map_or_else(|_| Value::Text(Text::copy(value.as_bytes())), Value::Int);
        (name, value)
    });
    pairs.collect()
}
