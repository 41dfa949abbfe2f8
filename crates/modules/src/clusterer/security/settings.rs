//! What the security parameters say: secrets and where they are, legacy peers, roles, commands that may be run from afar.
//! Reads the lines and the secret files; keeps nothing secret itself beyond what it hands out.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tandem_cluster::{ClusterId, NodeId, NodeRole, Roles};
use tandem_link::{JoinToken, Secret, read_lines};
use tandem_module::SetupError;
use tandem_module::declare::ParamValues;

/// Secrets of one cluster that are valid at a time: the old and the new one of a rotation.
const SECRETS_MAX: usize = 2;
/// Longest secret or token file, bytes.
const FILE_MAX: u64 = 16_384;

/// One line of `cluster_secret`.
#[derive(Clone, Debug)]
pub(super) struct SecretSource {
    /// The cluster; `None` for all that have none of their own.
    pub(super) cluster: Option<ClusterId>,
    pub(super) place: Place,
}

/// Where a secret is.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// In the script.
    Inline(Secret),
    /// In a file of lines `ID SECRET`, or with one secret whose id is in the script.
    File { path: PathBuf, id: Option<String> },
}

/// A peer that may speak plain BIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LegacyPeer {
    pub(super) cluster: ClusterId,
    pub(super) node: Option<NodeId>,
    pub(super) ip: Option<IpAddr>,
}

/// A command that other nodes may run here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CommandRule {
    pub(super) cluster: ClusterId,
    /// Its name; one that ends with `*` stands for all that begin so.
    pub(super) command: String,
    /// Only this node; any when `None`.
    pub(super) node: Option<NodeId>,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub(in crate::clusterer) struct Settings {
    pub(super) sources: Vec<SecretSource>,
    pub(super) legacy: Vec<LegacyPeer>,
    pub(in crate::clusterer) roles: Vec<NodeRole>,
    pub(super) commands: Vec<CommandRule>,
    pub(in crate::clusterer) token: Option<JoinToken>,
    /// The secrets as they were at start.
    pub(super) keys: Vec<KeyRing>,
}

/// `name=value, name=value`.
fn fields<'a>(line: &'a str, known: &[&str]) -> Result<Vec<(&'a str, &'a str)>, String> {
    let mut fields = Vec::new();
    for field in line.split(',').map(str::trim).filter(|field| !field.is_empty()) {
        let (name, value) = field.split_once('=').ok_or_else(|| "a field has no =".to_owned())?;
        let name = name.trim();
        if !known.contains(&name) {
            return Err(format!("there is no field {name}; there are {}", known.join(", ")));
        }
        fields.push((name, value.trim()));
    }
    Ok(fields)
}

fn find<'a>(fields: &[(&'a str, &'a str)], name: &str) -> Option<&'a str> {
    fields.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

fn number(fields: &[(&str, &str)], name: &str) -> Result<Option<i32>, String> {
    let Some(value) = find(fields, name) else { return Ok(None) };
    match value.parse::<i32>() {
        Ok(number @ 1..) => Ok(Some(number)),
        _ => Err(format!("{name} must be a number above 0")),
    }
}

fn cluster(fields: &[(&str, &str)]) -> Result<ClusterId, String> {
    number(fields, "cluster_id")?.map(ClusterId).ok_or_else(|| "cluster_id is missing".to_owned())
}

impl Settings {
    /// Reads the parameters; `clusters` are those of the script, empty in database mode.
    pub(in crate::clusterer) fn read(params: &ParamValues) -> Result<Settings, SetupError> {
        let lines =
            |name: &'static str| params.all(name).into_iter().enumerate().map(move |(at, line)| (name, at, line));
        let mut settings = Settings::default();
        // The line is not repeated in errors: it may hold a secret.
        let wrong = |name, at, error: String| SetupError::param_at(name, at, error);
        for (name, at, line) in lines("cluster_secret") {
            settings.sources.push(secret_source(&line).map_err(|error| wrong(name, at, error))?);
        }
        for (name, at, line) in lines("cluster_legacy") {
            settings.legacy.push(legacy_peer(&line).map_err(|error| wrong(name, at, error))?);
        }
        for (name, at, line) in lines("cluster_roles") {
            settings.roles.push(node_role(&line).map_err(|error| wrong(name, at, error))?);
        }
        for (name, at, line) in lines("cluster_mi_allow") {
            settings.commands.push(command_rule(&line).map_err(|error| wrong(name, at, error))?);
        }
        settings.token = match params.text("join_token").filter(|text| !text.is_empty()) {
            Some(text) => Some(token(&text).map_err(|error| SetupError::param("join_token", error))?),
            None => None,
        };
        settings.check()?;
        settings.keys = load(&settings.sources).map_err(|error| SetupError::param("cluster_secret", error))?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), SetupError> {
        if let Some(token) = &self.token
            && self.file_for(ClusterId(token.ticket.cluster)).is_none()
        {
            let cluster = token.ticket.cluster;
            return Err(SetupError::new(format!(
                "join_token needs a file to put the secret into: add cluster_secret \"cluster_id={cluster}, file=/path\""
            )));
        }
        Ok(())
    }

    /// The file into which secrets of a cluster are put by joining.
    pub(super) fn file_for(&self, cluster: ClusterId) -> Option<(&Path, Option<ClusterId>)> {
        let mut sources = self.sources.iter();
        sources.find_map(|source| match &source.place {
            Place::File { path, id: None } if source.cluster.is_none_or(|known| known == cluster) => {
                Some((path.as_path(), source.cluster))
            }
            _ => None,
        })
    }
}

fn secret_source(line: &str) -> Result<SecretSource, String> {
    let fields = fields(line, &["cluster_id", "id", "file", "secret"])?;
    let id = find(&fields, "id");
    let place = match (find(&fields, "file"), find(&fields, "secret")) {
        (Some(path), None) => Place::File { path: path.into(), id: id.map(str::to_owned) },
        (None, Some(text)) => {
            let id = id.ok_or_else(|| "id is missing: a name for the secret, such as id=2026a".to_owned())?;
            Place::Inline(Secret::from_text(id, text).map_err(|error| error.to_string())?)
        }
        _ => return Err("it needs either file=/path or id=NAME, secret=TEXT".to_owned()),
    };
    Ok(SecretSource { cluster: number(&fields, "cluster_id")?.map(ClusterId), place })
}

fn legacy_peer(line: &str) -> Result<LegacyPeer, String> {
    let fields = fields(line, &["cluster_id", "node_id", "address"])?;
    let ip = match find(&fields, "address") {
        Some(text) => Some(text.parse::<IpAddr>().map_err(|_| format!("\"{text}\" is no IP address"))?),
        None => None,
    };
    let peer = LegacyPeer { cluster: cluster(&fields)?, node: number(&fields, "node_id")?.map(NodeId), ip };
    if peer.node.is_none() && peer.ip.is_none() {
        return Err("it needs node_id, address, or both".to_owned());
    }
    Ok(peer)
}

fn node_role(line: &str) -> Result<NodeRole, String> {
    let fields = fields(line, &["cluster_id", "node_id", "roles"])?;
    let node = number(&fields, "node_id")?.map(NodeId).ok_or_else(|| "node_id is missing".to_owned())?;
    let mut roles = Roles::default();
    for word in find(&fields, "roles").unwrap_or_default().split('|').map(str::trim).filter(|word| !word.is_empty()) {
        match word {
            "member" => {}
            "observer" => roles = Roles::OBSERVER,
            "no-mi" => roles.has_no_mi = true,
            "no-tags" => roles.has_no_tags = true,
            "no-donor" => roles.is_no_donor = true,
            _ => return Err(format!("\"{word}\" is no role: member, observer, no-mi, no-tags, no-donor, joined by |")),
        }
    }
    Ok(NodeRole { cluster: cluster(&fields)?, node, roles })
}

fn command_rule(line: &str) -> Result<CommandRule, String> {
    let fields = fields(line, &["cluster_id", "command", "node_id"])?;
    let command = find(&fields, "command").filter(|name| !name.is_empty());
    let command = command.ok_or_else(|| "command is missing; * stands for all".to_owned())?.to_owned();
    Ok(CommandRule { cluster: cluster(&fields)?, command, node: number(&fields, "node_id")?.map(NodeId) })
}

fn token(text: &str) -> Result<JoinToken, String> {
    if !text.starts_with('/') && !text.starts_with('.') {
        return text.parse().map_err(|error: tandem_link::TokenError| format!("{error}; a file begins with / or ."));
    }
    let content = read_private(Path::new(text))?.ok_or_else(|| format!("there is no file {text}"))?;
    content.parse().map_err(|error: tandem_link::TokenError| format!("{text}: {error}"))
}

/// The content of a file that only its owner can read; `None` when there is none.
fn read_private(path: &Path) -> Result<Option<zeroize::Zeroizing<String>>, String> {
    let shown = path.display();
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{shown}: {error}")),
    };
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(format!("{shown} can be read by others: chmod 600 {shown}"));
    }
    if metadata.len() > FILE_MAX {
        return Err(format!("{shown} is longer than {FILE_MAX} bytes"));
    }
    let content = std::fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
    Ok(Some(zeroize::Zeroizing::new(content)))
}

/// Secrets of one cluster, or (with `None`) of all clusters without own ones; the newest last.
#[derive(Clone, Debug)]
pub(super) struct KeyRing {
    pub(super) cluster: Option<ClusterId>,
    pub(super) secrets: Vec<Secret>,
}

/// Reads all secrets. A file that does not exist yet leaves its cluster without secrets: nothing can link.
pub(super) fn load(sources: &[SecretSource]) -> Result<Vec<KeyRing>, String> {
    let mut rings: Vec<KeyRing> = Vec::new();
    for source in sources {
        let found = match &source.place {
            Place::Inline(secret) => vec![secret.clone()],
            Place::File { path, id } => {
                let failed = |error: tandem_link::SecretError| format!("{}: {error}", path.display());
                match (read_private(path)?, id) {
                    (None, _) => Vec::new(),
                    (Some(content), None) => read_lines(&content).map_err(failed)?,
                    (Some(content), Some(id)) => vec![Secret::from_text(id, content.trim()).map_err(failed)?],
                }
            }
        };
        let ring = match rings.iter_mut().find(|ring| ring.cluster == source.cluster) {
            Some(ring) => ring,
            None => {
                rings.push(KeyRing { cluster: source.cluster, secrets: Vec::new() });
                let Some(ring) = rings.last_mut() else { continue };
                ring
            }
        };
        for secret in found {
            if ring.secrets.iter().any(|known| known.id() == secret.id()) {
                return Err(format!("the secret id \"{}\" is given twice", secret.id()));
            }
            ring.secrets.push(secret);
        }
        if ring.secrets.len() > SECRETS_MAX {
            return Err(format!("more than {SECRETS_MAX} secrets for one cluster: take the oldest out"));
        }
    }
    Ok(rings)
}

/// Writes secrets to a file that only its owner can read, whole or not at all. Blocks; not for a worker thread.
pub(super) fn store(path: &Path, content: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let beside = PathBuf::from(name);
    let _ = std::fs::remove_file(&beside);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_what_is_wrong_and_never_repeat_a_secret() {
        let error = secret_source("cluster_id=1, id=a, secrt=correct horse battery").unwrap_err();
        assert!(error.contains("secrt") && !error.contains("horse"), "{error}");
        assert!(secret_source("cluster_id=1, secret=correct horse battery").unwrap_err().contains("id is missing"));
        assert!(secret_source("cluster_id=1, id=a, secret=short").unwrap_err().contains("16 characters"));
        assert!(legacy_peer("cluster_id=1").unwrap_err().contains("node_id, address"));
        assert!(node_role("cluster_id=1, node_id=2, roles=king").unwrap_err().contains("observer"));
        assert!(command_rule("cluster_id=1").unwrap_err().contains("command"));
        let role = node_role("cluster_id=1, node_id=2, roles=no-mi|no-tags").unwrap();
        assert!(role.roles.has_no_mi && role.roles.has_no_tags && !role.roles.is_no_donor);
    }

    #[test]
    fn secret_files_are_private_and_hold_two() {
        let folder = std::env::temp_dir().join(format!("tandem-secret-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("secret");
        store(&path, "a correct horse battery\nb another long secret\n").unwrap();
        let source = |line: &str| vec![secret_source(line).unwrap()];
        let line = format!("cluster_id=1, file={}", path.display());
        let rings = load(&source(&line)).unwrap();
        assert_eq!(rings[0].secrets.iter().map(Secret::id).collect::<Vec<_>>(), ["a", "b"]);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(load(&source(&line)).unwrap_err().contains("chmod 600"));
        store(&path, "a correct horse battery\nb another long secret\nc one secret too many\n").unwrap();
        assert!(load(&source(&line)).unwrap_err().contains("more than 2"));
        let missing = format!("cluster_id=1, file={}", folder.join("none").display());
        assert!(load(&source(&missing)).unwrap()[0].secrets.is_empty());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
