//! Module `tls_mgm`: certificates for TLS. One domain per direction is used, for cluster links; none is picked by address.

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
        "name of the settings for opened connections; one, else that of server_domain",
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
    tls: Tls,
}

impl TlsManagement {
    /// The settings for links on which both ends show certificates.
    pub fn mutual(&self) -> &Tls {
        &self.tls
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

/// The name of the one domain of a direction.
fn domain(params: &ParamValues, name: &'static str) -> Result<Option<String>, SetupError> {
    let mut names: Vec<String> = Vec::new();
    for line in params.all(name) {
        // OpenSIPS 2.4 writes name=address:port.
        let domain = line.split('=').next().unwrap_or_default().trim().to_owned();
        if !names.contains(&domain) {
            names.push(domain);
        }
    }
    if names.len() > 1 {
        let text = format!("only one {name} is served; there are {}", names.join(", "));
        return Err(SetupError::param(name, text));
    }
    Ok(names.pop())
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
    // Settings for SIP over TLS are no reason to stop a node that has no cluster links over TLS.
    if setup.settings.protocols.iter().any(|proto| proto == "bins") {
        let tls = links(setup.params)?;
        setup.state(TlsManagement { tls });
    }
    Ok(())
}

/// The settings for cluster links.
fn links(params: &ParamValues) -> Result<Tls, SetupError> {
    let (server, client) = (domain(params, "server_domain")?, domain(params, "client_domain")?);
    let server = load(params, server.as_deref().or(client.as_deref()))?;
    Ok(match client {
        Some(client) => server.with_client_of(&load(params, Some(&client))?),
        None => server,
    })
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
