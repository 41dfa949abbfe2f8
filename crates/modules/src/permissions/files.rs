//! `allow_routing()`, `allow_register()`, `allow_uri()`: pairs of URIs against files of rules. The default files are read at
//! start, others when they are named first; after that nothing is read again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::RwLock;
use tandem_module::SetupError;
use tandem_module::context::{Called, Context};
use tandem_module::declare::{ParamValues, arg_text};
use tandem_module::run::Pending;
use tandem_script::vm::{Arg, LogLevel};
use tandem_sip::{HeaderKind, NameAddr, Uri};

use super::Permissions;
use super::rules::Rules;
use crate::core::table::done;

/// Pairs of files that are kept.
const PAIRS_MAX: usize = 256;
/// Greatest size of a file, bytes.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Pairs of URIs that one message may make.
const URIS_MAX: usize = 64;

/// What is allowed and what is denied.
#[derive(Debug)]
struct Pair {
    allow: Rules,
    deny: Rules,
}

impl Pair {
    /// All pairs are in the allow file, or none is in the deny file.
    fn allows(&self, uris: &[(Vec<u8>, Vec<u8>)]) -> bool {
        uris.iter().all(|(from, to)| self.allow.fits(from, to))
            || !uris.iter().any(|(from, to)| self.deny.fits(from, to))
    }
}

type Names = (PathBuf, PathBuf);
/// Files that cannot be used stay so: everything is denied.
type Loaded = Result<Arc<Pair>, String>;

/// The files of the module.
pub(super) struct Files {
    dir: PathBuf,
    suffixes: [String; 2],
    checks_all_branches: bool,
    default: Names,
    loaded: RwLock<HashMap<Names, Loaded>>,
}

impl Files {
    /// Reads the default files. Runs on the starting thread.
    pub(super) fn new(params: &ParamValues, dir: &Path) -> Result<Files, SetupError> {
        let default = (
            dir.join(params.text_or("default_allow_file", "permissions.allow")),
            dir.join(params.text_or("default_deny_file", "permissions.deny")),
        );
        let files = Files {
            dir: dir.to_path_buf(),
            suffixes: [params.text_or("allow_suffix", ".allow"), params.text_or("deny_suffix", ".deny")],
            checks_all_branches: params.int("check_all_branches", 1) != 0,
            default: default.clone(),
            loaded: RwLock::default(),
        };
        let allow = read_rules(&default.0).map_err(|error| SetupError::param("default_allow_file", error))?;
        let deny = read_rules(&default.1).map_err(|error| SetupError::param("default_deny_file", error))?;
        files.loaded.write().insert(default, Ok(Arc::new(Pair { allow, deny })));
        Ok(files)
    }

    /// The files behind a base name, or behind two names (2.4).
    fn names(&self, first: &[u8], second: Option<&[u8]>) -> Names {
        let first = String::from_utf8_lossy(first);
        match second {
            Some(second) => (self.dir.join(&*first), self.dir.join(&*String::from_utf8_lossy(second))),
            None => {
                let [allow, deny] = &self.suffixes;
                (self.dir.join(format!("{first}{allow}")), self.dir.join(format!("{first}{deny}")))
            }
        }
    }

    /// The answer of files that are loaded; `None` for others.
    pub(super) fn loaded_allow(&self, basename: &str, from: &[u8], to: &[u8]) -> Option<bool> {
        let names = self.names(basename.as_bytes(), None);
        let loaded = self.loaded.read().get(&names).cloned()?;
        let uris = [(plain(from).unwrap_or_else(|| from.to_vec()), plain(to).unwrap_or_else(|| to.to_vec()))];
        Some(loaded.is_ok_and(|pair| pair.allows(&uris)))
    }

    fn keep(&self, names: Names, found: &Loaded) {
        let mut loaded = self.loaded.write();
        if loaded.len() < PAIRS_MAX {
            loaded.insert(names, found.clone());
        }
    }
}

/// The rules of a file; a file that does not exist has none.
fn read_rules(path: &Path) -> Result<Rules, String> {
    let shown = path.display();
    match std::fs::metadata(path) {
        Ok(meta) if meta.len() > FILE_BYTES_MAX => return Err(format!("{shown}: more than {FILE_BYTES_MAX} bytes")),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Rules::default()),
        Err(error) => return Err(format!("{shown}: {error}")),
    }
    let bytes = std::fs::read(path).map_err(|error| format!("{shown}: {error}"))?;
    Rules::parse(&String::from_utf8_lossy(&bytes)).map_err(|error| format!("{shown}: {error}"))
}

fn read_pair(names: &Names) -> Loaded {
    Ok(Arc::new(Pair { allow: read_rules(&names.0)?, deny: read_rules(&names.1)? }))
}

/// `sip:user@host`, without port, parameters and headers, as the rules see a URI.
fn plain(uri: &[u8]) -> Option<Vec<u8>> {
    let parsed = Uri::parse(uri).ok()?;
    let scheme = uri.get(..uri.iter().position(|byte| *byte == b':')?)?.to_ascii_lowercase();
    if parsed.host.is_empty() {
        return Some(uri.split(|byte| *byte == b';').next().unwrap_or(uri).to_vec());
    }
    let user = parsed.user_or_empty();
    let at: &[u8] = if user.is_empty() { b"" } else { b"@" };
    Some([&scheme[..], b":", user, at, parsed.host].concat())
}

fn refuse(context: &Context, text: &str) -> Called {
    context.log(LogLevel::Error, &format!("permissions: {text}"));
    done(false)
}

/// Asks the files, which are read first when they have not been named yet.
fn decide(context: &mut Context, names: Names, uris: Vec<(Vec<u8>, Vec<u8>)>) -> Called {
    let Some(own) = context.node.state::<Permissions>() else { return done(false) };
    let loaded = own.files.loaded.read().get(&names).cloned();
    if let Some(loaded) = loaded {
        return answer(context, loaded, &uris);
    }
    let read = async move {
        let wanted = names.clone();
        let found = match tokio::task::spawn_blocking(move || read_pair(&wanted)).await {
            Ok(found) => found,
            Err(error) => Err(format!("the files could not be read: {error}")),
        };
        own.files.keep(names, &found);
        found
    };
    Pending::job(context.node, read, move |context, found| match found {
        Some(found) => answer(context, found, &uris),
        None => refuse(context, "the files could not be read in time"),
    })
}

fn answer(context: &Context, loaded: Loaded, uris: &[(Vec<u8>, Vec<u8>)]) -> Called {
    match loaded {
        Ok(pair) => done(pair.allows(uris)),
        Err(error) => refuse(context, &format!("everything is denied: {error}")),
    }
}

fn from_of(context: &Context) -> Option<Vec<u8>> {
    context.message.from().ok().and_then(|from| plain(from.uri))
}

/// `allow_routing([basename])`, `allow_routing(allow, deny)`.
pub(super) fn allow_routing(context: &mut Context, args: &[Arg]) -> Called {
    let Some(own) = context.node.state::<Permissions>() else { return done(false) };
    let files = &own.files;
    let names = match arg_text(args, 0) {
        Some(first) => files.names(first, arg_text(args, 1)),
        None => files.default.clone(),
    };
    let Some(from) = from_of(context) else { return refuse(context, "the URI of From cannot be parsed") };
    let branches = context.edits.branches.iter().filter(|_| files.checks_all_branches);
    let targets = context.request_uri().into_iter().chain(branches.filter_map(|branch| branch.uri.as_deref()));
    let uris: Option<Vec<_>> = targets.take(URIS_MAX).map(|uri| Some((from.clone(), plain(uri)?))).collect();
    match uris {
        Some(uris) if !uris.is_empty() => decide(context, names, uris),
        _ => refuse(context, "a request URI cannot be parsed"),
    }
}

/// `allow_register(basename)`, `allow_register(allow, deny)`.
pub(super) fn allow_register(context: &mut Context, args: &[Arg]) -> Called {
    let Some(own) = context.node.state::<Permissions>() else { return done(false) };
    let names = own.files.names(arg_text(args, 0).unwrap_or_default(), arg_text(args, 1));
    let to = context.message.to().ok().and_then(|to| plain(to.uri));
    let Some(to) = to else { return refuse(context, "the URI of To cannot be parsed") };
    let mut uris = Vec::new();
    for contact in context.message.name_addrs(HeaderKind::Contact) {
        let Some(uri) = contact.ok().and_then(|contact| plain(contact.uri)) else {
            // `*` asks for the removal of everything and registers nothing.
            if context.message.value_of(HeaderKind::Contact).is_some_and(|value| value.trim_ascii() == b"*") {
                return done(true);
            }
            return refuse(context, "a Contact cannot be parsed");
        };
        if uris.len() >= URIS_MAX {
            return refuse(context, "too many contacts");
        }
        uris.push((to.clone(), uri));
    }
    // Without a contact nothing is registered.
    if uris.is_empty() { done(true) } else { decide(context, names, uris) }
}

/// `allow_uri(basename, uri)`.
pub(super) fn allow_uri(context: &mut Context, args: &[Arg]) -> Called {
    let Some(own) = context.node.state::<Permissions>() else { return done(false) };
    let names = own.files.names(arg_text(args, 0).unwrap_or_default(), None);
    let Some(from) = from_of(context) else { return refuse(context, "the URI of From cannot be parsed") };
    let uri = arg_text(args, 1).and_then(|text| NameAddr::parse(text).ok()).and_then(|address| plain(address.uri));
    match uri {
        Some(uri) => decide(context, names, vec![(from, uri)]),
        None => refuse(context, "allow_uri(): the URI cannot be parsed"),
    }
}
