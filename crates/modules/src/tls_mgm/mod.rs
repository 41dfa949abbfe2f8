//! Module `tls_mgm`: certificates for TLS. One domain per direction is used for cluster links, none is picked by address;
//! other modules name the client domain they want.

use tandem_link::{Tls, TlsFiles};
use tandem_module::declare::{ParamValues, Setup};
use tandem_module::{ModuleDecl, SetupError};
use tandem_script::surface::{ParamSpec, ParamType};

use crate::core::table::list_param;

/// The table of the module.
pub static MODULE: ModuleDecl =
    ModuleDecl { name: "tls_mgm", doc: "certificates of TLS links", params: PARAMS, setup, ..ModuleDecl::EMPTY };

const PARAMS: &[ParamSpec] = &[
    list_param("server_domain", ParamType::Text, "name of the settings for accepted connections; one of them"),
    list_param(
        "client_domain",
        ParamType::Text,
        "name of the settings for opened connections: of cluster links the first, else that of server_domain; others are \
         named where they are used (tls_domain= of cachedb_redis)",
    ),
    list_param("tls_method", ParamType::Text, "accepted, no effect: TLS 1.2 and 1.3 are spoken"),
    list_param("certificate", ParamType::Text, "[domain]file: the own certificate and its chain, PEM"),
    list_param("private_key", ParamType::Text, "[domain]file: its key, PEM"),
    list_param("ca_list", ParamType::Text, "[domain]file: authorities whose certificates are accepted, PEM"),
    list_param("verify_cert", ParamType::Text, "[domain]1: certificates are always verified here; 0 is refused"),
    list_param("require_cert", ParamType::Text, "[domain]1: a certificate is always required here; 0 is refused"),
];

/// State of the module.
#[derive(Debug)]
pub struct TlsManagement {
    /// For cluster links, when there is a listener for them.
    links: Option<Tls>,
    /// The client domains; what cannot be used is told to those who want it.
    clients: Vec<(String, Result<Tls, String>)>,
}

impl TlsManagement {
    /// The settings for links on which both ends show certificates.
    pub fn mutual(&self) -> Option<&Tls> {
        self.links.as_ref()
    }

    /// The settings of a client domain.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn client(&self, domain: &str) -> Option<Result<&Tls, &str>> {
        self.clients.iter().find(|(name, _)| name == domain).map(|(_, tls)| tls.as_ref().map_err(String::as_str))
    }
}

/// `[domain]value`, or the value for every domain.
fn split(line: &str) -> (Option<&str>, &str) {
    let line = line.trim();
    match line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((domain, value)) => (Some(domain.trim()), value.trim()),
        None => (None, line),
    }
}

/// The value for a domain: its own, else the one for all.
fn value(params: &ParamValues, name: &'static str, domain: Option<&str>) -> Option<String> {
    let lines = params.all(name);
    let of = |wanted: Option<&str>| {
        let found = lines.iter().rev().map(|line| split(line)).find(|(known, _)| *known == wanted);
        found.map(|(_, value)| value.to_owned())
    };
    of(domain).or_else(|| of(None))
}

fn read(params: &ParamValues, name: &'static str, domain: Option<&str>) -> Result<Vec<u8>, SetupError> {
    let path = value(params, name, domain);
    let path = path.ok_or_else(|| SetupError::new(format!("{name} is missing: the path of a PEM file")))?;
    std::fs::read(&path).map_err(|error| SetupError::param(name, format!("{path}: {error}")))
}

/// The names of the domains of a direction.
fn domains(params: &ParamValues, name: &'static str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for line in params.all(name) {
        // OpenSIPS 2.4 writes name=address:port.
        let domain = line.split('=').next().unwrap_or_default().trim().to_owned();
        if !names.contains(&domain) {
            names.push(domain);
        }
    }
    names
}

/// The settings of one domain.
fn load(params: &ParamValues, domain: Option<&str>) -> Result<Tls, SetupError> {
    for name in ["verify_cert", "require_cert"] {
        if value(params, name, domain).is_some_and(|value| value != "1") {
            let text = format!("{name} must be 1: cluster links without verified certificates are not offered");
            return Err(SetupError::param(name, text));
        }
    }
    let files = TlsFiles {
        certificate: read(params, "certificate", domain)?,
        private_key: read(params, "private_key", domain)?.into(),
        ca_list: read(params, "ca_list", domain)?,
    };
    Tls::mutual(&files).map_err(|error| SetupError::new(error.to_string()))
}

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let clients: Vec<(String, Result<Tls, SetupError>)> = domains(setup.params, "client_domain")
        .into_iter()
        .map(|name| {
            let tls = load(setup.params, Some(&name));
            (name, tls)
        })
        .collect();
    // Settings for SIP over TLS are no reason to stop a node that has no cluster links over TLS.
    let has_links = setup.settings.protocols.iter().any(|proto| proto == "bins");
    let links = if has_links { Some(links(setup.params, clients.first())?) } else { None };
    let clients = clients.into_iter().map(|(name, tls)| (name, tls.map_err(|error| error.message))).collect();
    setup.state(TlsManagement { links, clients });
    Ok(())
}

/// The settings for cluster links.
fn links(params: &ParamValues, client: Option<&(String, Result<Tls, SetupError>)>) -> Result<Tls, SetupError> {
    let servers = domains(params, "server_domain");
    if servers.len() > 1 {
        let text = format!("only one server_domain is served; there are {}", servers.join(", "));
        return Err(SetupError::param("server_domain", text));
    }
    let client = client.map(|(_, tls)| tls.clone()).transpose()?;
    match (servers.first(), client) {
        (Some(server), Some(client)) => Ok(load(params, Some(server))?.with_client_of(&client)),
        (None, Some(client)) => Ok(client),
        (server, None) => load(params, server.map(String::as_str)),
    }
}

#[cfg(test)]
mod tests {
    use super::split;
    use crate::test_rig::{Rig, RigOptions};

    #[test]
    fn settings_that_no_cluster_link_uses_stop_nothing() {
        let script = |listener: &str| {
            format!(
                "socket={listener}\nloadmodule \"tls_mgm.so\"\nmodparam(\"tls_mgm\", \"server_domain\", \"a\")\n\
                 modparam(\"tls_mgm\", \"verify_cert\", \"[a]0\")\nroute {{ exit; }}\n"
            )
        };
        Rig::script(&script("udp:127.0.3.1:5060"));
        let refused = Rig::try_script(&script("bins:127.0.3.1:5556"), RigOptions::default()).err().unwrap_or_default();
        assert!(refused.contains("verify_cert must be 1"), "{refused}");
    }

    #[test]
    fn a_domain_stands_in_brackets_before_the_value() {
        assert_eq!(split("[dom]/etc/a.pem"), (Some("dom"), "/etc/a.pem"));
        assert_eq!(split(" [ dom ] 1"), (Some("dom"), "1"));
        assert_eq!(split("/etc/a.pem"), (None, "/etc/a.pem"));
    }
}
