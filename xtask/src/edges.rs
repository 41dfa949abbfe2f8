//! Which crate may use which: the table of the architecture, held against the manifests.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};

/// Crate and what of the workspace it may depend on. Edges point down; a new one needs a reason in ARCHITECTURE.md.
const ALLOWED: &[(&str, &[&str])] = &[
    ("sip", &[]),
    ("transaction", &[]),
    ("dialog", &["sip"]),
    ("location", &["sip"]),
    ("bin", &[]),
    ("cluster", &["bin"]),
    ("link", &[]),
    ("script", &["sip"]),
    ("module", &["sip", "script"]),
    ("store", &["module", "script"]),
    ("admin", &["module"]),
    ("media", &[]),
    (
        "modules",
        &[
            "sip",
            "transaction",
            "dialog",
            "location",
            "bin",
            "cluster",
            "link",
            "script",
            "module",
            "store",
            "admin",
            "media",
        ],
    ),
    ("net", &["sip", "bin"]),
    ("engine", &["sip", "transaction", "script", "module", "modules", "net"]),
    ("scenario", &["sip", "transaction", "bin", "cluster", "script", "module", "modules", "store", "engine"]),
    ("tandem", &["sip", "bin", "script", "module", "modules", "engine", "scenario", "net", "store", "admin"]),
    ("sim", &["bin", "cluster", "link"]),
    // Servers for tests; nothing but tests may use it.
    ("testbed", &[]),
];

/// Fails with every edge that is not allowed.
pub(crate) fn check(root: &Path) -> anyhow::Result<()> {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    let mut wrong = Vec::new();
    for entry in fs::read_dir(root.join("crates"))? {
        let folder = entry?.path();
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).with_context(|| format!("manifest of {name}"))?;
        let Some(may) = allowed.get(name.as_str()) else {
            wrong.push(format!("crate {name} is not in the table of xtask/src/edges.rs"));
            continue;
        };
        for used in dependencies(&manifest) {
            if !may.contains(&used.as_str()) {
                wrong.push(format!("{name} uses {used}"));
            }
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("crate edges that the architecture does not allow:\n  {}", wrong.join("\n  "))
}

/// Workspace crates in `[dependencies]`; those of tests are free.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut is_inside = false;
    let mut used = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            is_inside = line == "[dependencies]";
        } else if is_inside && let Some(rest) = line.strip_prefix("tandem-") {
            used.push(rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect());
        }
    }
    used
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_real_dependencies_of_the_workspace_count() {
        let manifest = "[dependencies]\ntandem-sip.workspace = true\nbytes.workspace = true\n[dev-dependencies]\ntandem-net.workspace = true\n";
        assert_eq!(super::dependencies(manifest), ["sip"]);
    }
}
