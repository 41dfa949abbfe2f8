//! Parameters of the module. Nothing is opened here.

use std::sync::Arc;
use std::time::Duration;

use tandem_module::SetupError;
use tandem_module::declare::{ParamValues, Setup};
use tandem_script::avp::AvpName;
use tandem_script::pvar::CompiledVar;

use super::blacklists::{self, GatewayList};
use crate::clusterer::ClusterId;

/// Queries of `rule_tables_query`.
const QUERIES_MAX: usize = 64;

/// What gateways with a listener are good for (`gw_socket_filter_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SocketFilter {
    All,
    Ignore,
    MatchedOnly,
}

/// Which gateways a node of a cluster probes (`cluster_probing_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProbingMode {
    All,
    /// All, on the node with the sharing tag.
    ByTag,
    /// Each gateway by one node.
    Distributed,
}

const PROBING_MODES: [(&str, ProbingMode); 3] =
    [("all", ProbingMode::All), ("by-shtag", ProbingMode::ByTag), ("distributed", ProbingMode::Distributed)];

/// Part in a cluster.
#[derive(Clone, Debug)]
pub(super) struct Clustering {
    /// The parameter that names the cluster.
    pub(super) param: &'static str,
    pub(super) cluster: ClusterId,
    /// Only where it is active changes are told.
    pub(super) tag: Option<String>,
    pub(super) probing: ProbingMode,
}

impl Clustering {
    fn read(params: &ParamValues) -> Result<Option<Clustering>, SetupError> {
        let text =
            |name: &'static str| params.text(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let (id, old) = (params.int("cluster_id", 0), params.int("status_replication_cluster", 0));
        let param = if id == 0 && old != 0 { "status_replication_cluster" } else { "cluster_id" };
        if id < 0 || old < 0 {
            return Err(SetupError::param(param, "the number of a cluster is above 0; 0 shares nothing"));
        }
        if id != 0 && old != 0 && id != old {
            let text = format!("it is the old name of cluster_id, which says {id}: leave one of them out");
            return Err(SetupError::param("status_replication_cluster", text));
        }
        let (tag, mode) = (text("cluster_sharing_tag"), text("cluster_probing_mode"));
        let probing = mode.as_deref().map_or(Ok(ProbingMode::All), probing_mode)?;
        let cluster = match id.max(old) {
            0 if tag.is_some() => return Err(SetupError::param("cluster_sharing_tag", "set cluster_id, too")),
            0 if probing != ProbingMode::All => {
                return Err(SetupError::param("cluster_probing_mode", "set cluster_id, too"));
            }
            0 => return Ok(None),
            id => ClusterId(id),
        };
        if probing == ProbingMode::ByTag && tag.is_none() {
            return Err(SetupError::param("cluster_probing_mode", "by-shtag needs cluster_sharing_tag"));
        }
        Ok(Some(Clustering { param, cluster, tag, probing }))
    }
}

fn probing_mode(text: &str) -> Result<ProbingMode, SetupError> {
    let found = PROBING_MODES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
    found.map(|(_, mode)| *mode).ok_or_else(|| {
        let near = tandem_script::names::nearest(text, PROBING_MODES.iter().map(|(name, _)| *name));
        let near = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
        let text = format!("'{text}' is not one of all, by-shtag, distributed{near}");
        SetupError::param("cluster_probing_mode", text)
    })
}

/// AVPs of one partition.
#[derive(Clone, Debug)]
pub(super) struct Avps {
    pub(super) ruri: AvpName,
    pub(super) gw_id: AvpName,
    pub(super) socket: AvpName,
    pub(super) gw_prefix: Option<AvpName>,
    pub(super) rule_id: Option<AvpName>,
    pub(super) rule_prefix: Option<AvpName>,
    pub(super) carrier_id: Option<AvpName>,
    pub(super) gw_attrs: AvpName,
    pub(super) carrier_attrs: AvpName,
    pub(super) rule_attrs: AvpName,
    /// Where to go on when all gateways of a rule have failed, and what was asked.
    pub(super) fallback: AvpName,
    pub(super) whitelist: AvpName,
    pub(super) base_uri: AvpName,
}

/// Where one partition comes from.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) name: String,
    pub(super) url: String,
    pub(super) gateways: String,
    pub(super) rules: String,
    pub(super) groups: String,
    pub(super) carriers: String,
    pub(super) avps: Avps,
}

/// All parameters.
pub(super) struct Config {
    /// The only partition, or the names of tables for partitions that say nothing.
    pub(super) default: Option<Origin>,
    pub(super) uses_partitions: bool,
    pub(super) partitions_url: String,
    pub(super) partitions_table: String,
    pub(super) partition_var: Option<Arc<CompiledVar>>,
    pub(super) default_group: Option<i32>,
    pub(super) forces_dns: bool,
    pub(super) is_persistent: bool,
    pub(super) refuses_concurrent_reload: bool,
    pub(super) probing_interval: Option<Duration>,
    pub(super) probing_method: String,
    pub(super) probing_from: String,
    pub(super) probing_codes: Vec<u16>,
    pub(super) probing_socket: Option<String>,
    pub(super) socket_filter: SocketFilter,
    pub(super) uses_domain: bool,
    /// User, domain and group of the groups table.
    pub(super) group_columns: [String; 3],
    pub(super) prefix_chars: Vec<u8>,
    pub(super) id_chars: Vec<u8>,
    pub(super) rule_queries: Vec<(String, String)>,
    pub(super) has_checksum: bool,
    pub(super) is_v2_4: bool,
    pub(super) clustering: Option<Clustering>,
    pub(super) blacklists: Vec<GatewayList>,
}

/// `$avp(name)`, or the bare name.
pub(super) fn avp(text: &str) -> Option<AvpName> {
    let text = text.trim();
    let name = match text.strip_prefix("$avp(") {
        Some(rest) => rest.strip_suffix(')')?,
        None if text.starts_with('$') => return None,
        None => text,
    };
    if name.is_empty() { None } else { AvpName::intern(name.as_bytes()) }
}

impl Avps {
    /// From a lookup of parameters or columns; `suffix` is the name of the partition, if there are several.
    ///
    /// # Errors
    /// The name of the parameter whose value is no AVP.
    pub(super) fn read(value: impl Fn(&str) -> Option<String>, suffix: &str) -> Result<Avps, &'static str> {
        let optional = |name: &'static str| match value(name).filter(|text| !text.trim().is_empty()) {
            Some(text) => avp(&text).map(Some).ok_or(name),
            None => Ok(None),
        };
        let internal = |name: &'static str| AvpName::intern(format!("___dr_{name}__{suffix}").as_bytes()).ok_or(name);
        let or_internal = |name: &'static str, own: &'static str| match optional(name)? {
            Some(found) => Ok(found),
            None => internal(own),
        };
        Ok(Avps {
            ruri: or_internal("ruri_avp", "ruri")?,
            gw_id: or_internal("gw_id_avp", "gw_id")?,
            socket: or_internal("gw_sock_avp", "sock")?,
            gw_prefix: optional("gw_priprefix_avp")?,
            rule_id: optional("rule_id_avp")?,
            rule_prefix: optional("rule_prefix_avp")?,
            carrier_id: optional("carrier_id_avp")?,
            gw_attrs: internal("gw_att")?,
            carrier_attrs: internal("cr_att")?,
            rule_attrs: or_internal("rule_attrs_avp", "ru_att")?,
            fallback: internal("fallback")?,
            whitelist: internal("whitelist")?,
            base_uri: internal("base_uri")?,
        })
    }
}

impl Config {
    pub(super) fn read(setup: &mut Setup<'_>) -> Result<Config, SetupError> {
        let params = setup.params;
        let filled = |name: &'static str| params.text(name).filter(|text| !text.trim().is_empty());
        let uses_partitions = params.int("use_partitions", 0) != 0;
        let url = filled("db_url").or_else(|| setup.settings.db_default_url.clone());
        let partitions_url = filled("db_partitions_url").unwrap_or_default();
        if uses_partitions && partitions_url.is_empty() {
            return Err(SetupError::new("use_partitions needs db_partitions_url"));
        }
        if !uses_partitions && url.is_none() {
            return Err(SetupError::new("db_url is not set: modparam(\"drouting\", \"db_url\", \"sqlite:///path\")"));
        }
        let avps = Avps::read(|name| params.text(name), "")
            .map_err(|param| SetupError::param(param, "this is no AVP: write $avp(name)"))?;
        let default = url.map(|url| Origin {
            name: "Default".into(),
            url,
            gateways: params.text_or("drd_table", "dr_gateways"),
            rules: params.text_or("drr_table", "dr_rules"),
            groups: params.text_or("drg_table", "dr_groups"),
            carriers: params.text_or("drc_table", "dr_carriers"),
            avps,
        });
        let partition_var = match filled("partition_id_pvar") {
            Some(text) => {
                let var = setup.names.variable(&text);
                Some(var.map_err(|error| SetupError::param("partition_id_pvar", error))?)
            }
            None => None,
        };
        let interval = u64::try_from(params.int("probing_interval", 30)).unwrap_or(0);
        Ok(Config {
            default,
            uses_partitions,
            partitions_url,
            partitions_table: params.text_or("db_partitions_table", "dr_partitions"),
            partition_var,
            default_group: params.is_set("default_group").then(|| params.int("default_group", 0)),
            forces_dns: params.int("force_dns", 1) != 0,
            is_persistent: params.int("persistent_state", 1) != 0,
            refuses_concurrent_reload: params.int("no_concurrent_reload", 0) != 0,
            probing_interval: (interval > 0).then(|| Duration::from_secs(interval)),
            probing_method: params.text_or("probing_method", "OPTIONS"),
            probing_from: params.text_or("probing_from", "sip:prober@localhost"),
            probing_codes: reply_codes(&params.text_or("probing_reply_codes", ""))
                .map_err(|error| SetupError::param("probing_reply_codes", error))?,
            probing_socket: filled("probing_socket"),
            socket_filter: match params.text_or("gw_socket_filter_mode", "all").to_ascii_lowercase().as_str() {
                "all" => SocketFilter::All,
                "ignore" => SocketFilter::Ignore,
                "matched-only" => SocketFilter::MatchedOnly,
                other => {
                    let text = format!("'{other}' is not one of all, ignore, matched-only");
                    return Err(SetupError::param("gw_socket_filter_mode", text));
                }
            },
            uses_domain: params.int("use_domain", 1) != 0,
            group_columns: [
                params.text_or("drg_user_col", "username"),
                params.text_or("drg_domain_col", "domain"),
                params.text_or("drg_grpid_col", "groupid"),
            ],
            prefix_chars: params.text_or("extra_prefix_chars", "").into_bytes(),
            id_chars: params.text_or("extra_id_chars", "_-.").into_bytes(),
            rule_queries: rule_queries(&params.all("rule_tables_query"))?,
            has_checksum: params.int("generate_data_checksum", 0) != 0,
            is_v2_4: setup.settings.is_v2_4,
            clustering: Clustering::read(params)?,
            blacklists: blacklists::read(&params.all("define_blacklist"), uses_partitions)?,
        })
    }

    /// The database that is opened first, and its parameter.
    pub(super) fn first_url(&self) -> (&'static str, &str) {
        match &self.default {
            Some(origin) if !self.uses_partitions => ("db_url", &origin.url),
            _ => ("db_partitions_url", &self.partitions_url),
        }
    }

    /// Whether a byte may stand in a prefix.
    pub(super) fn is_prefix_char(&self, byte: u8) -> bool {
        byte.is_ascii_digit() || self.prefix_chars.contains(&byte)
    }

    /// Whether a text can name a gateway or carrier.
    pub(super) fn is_id(&self, text: &[u8]) -> bool {
        !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || self.id_chars.contains(byte))
    }
}

fn reply_codes(text: &str) -> Result<Vec<u16>, String> {
    let items = text.split([',', ';']).map(str::trim).filter(|item| !item.is_empty());
    items
        .map(|item| {
            let code = item.parse().ok().filter(|code| (100..700).contains(code));
            code.ok_or_else(|| format!("'{item}' is no reply code"))
        })
        .collect()
}

fn rule_queries(all: &[String]) -> Result<Vec<(String, String)>, SetupError> {
    let mut found = Vec::new();
    for (at, text) in all.iter().enumerate() {
        let error = |text: &str| SetupError::param_at("rule_tables_query", at, text.to_owned());
        let (name, query) = text.split_once(':').ok_or_else(|| error("expected name: SELECT ..."))?;
        if found.len() >= QUERIES_MAX {
            return Err(error("too many queries"));
        }
        found.push((name.trim().to_owned(), query.trim().to_owned()));
    }
    Ok(found)
}
