//! What the module offers to scripts and operators, as tables.

use tandem_script::surface::ArgType::{Any, Int, Text, VarOrText};
use tandem_script::surface::{ArgSpec, CommandSpec, EventSpec, ParamSpec, ParamType, Routes, arg, opt};

use tandem_module::declare::Function;

use super::{matching, routing};
use crate::core::table::{function, int, list_param, param, renamed_command, text};

pub(super) static PARAMS: &[ParamSpec] = &[
    text("db_url", "", "the database; db_default_url when unset"),
    text("drd_table", "dr_gateways", "table of gateways"),
    text("drr_table", "dr_rules", "table of rules, or a name of rule_tables_query"),
    text("drg_table", "dr_groups", "table of users and their groups"),
    text("drc_table", "dr_carriers", "table of carriers"),
    text("ruri_avp", "$avp(___dr_ruri__)", "AVP with the request URIs still to be tried"),
    text("gw_id_avp", "$avp(___dr_gw_id__)", "AVP with the gateway in use, and those still to be tried"),
    text("gw_priprefix_avp", "", "AVP with the prefix of the gateway in use"),
    text("rule_id_avp", "", "AVP with the number of the rule"),
    text("rule_prefix_avp", "", "AVP with the prefix that fitted"),
    text("carrier_id_avp", "", "AVP with the carrier of the gateway in use"),
    text("gw_sock_avp", "$avp(___dr_sock__)", "AVP with the listeners of the gateways still to be tried"),
    text("rule_attrs_avp", "$avp(___dr_ru_att__)", "2.4: AVP with the attributes of the rule"),
    list_param(
        "define_blacklist",
        ParamType::Text,
        "[partition:]name = types: a blacklist of the addresses of all gateways of these types",
    ),
    int("default_group", "", "group of callers that are not in drg_table"),
    int("force_dns", "1", "1: names of gateways are looked up when the tables are read"),
    int("persistent_state", "1", "1: the state column is read and written"),
    int("no_concurrent_reload", "0", "1: a reload during a reload is refused; 0: it waits for the other"),
    int("probing_interval", "30", "seconds between probes of a gateway; 0: none"),
    text("probing_method", "OPTIONS", "method of probes"),
    text("probing_from", "sip:prober@localhost", "From of probes"),
    text("probing_reply_codes", "", "codes that are as good as a 200"),
    text("probing_socket", "", "listener that probes leave by, unless the gateway has one"),
    text(
        "gw_socket_filter_mode",
        "all",
        "all, ignore (no gateway has a listener), matched-only (those with one of ours)",
    ),
    int("cluster_id", "0", "cluster that states of gateways and carriers are shared with; 0: none"),
    int("status_replication_cluster", "0", "2.4: cluster_id"),
    text("cluster_sharing_tag", "", "only the node with this tag active tells the cluster of changes"),
    text(
        "cluster_probing_mode",
        "all",
        "who probes: all (every node), by-shtag (the node with the tag), distributed (one node for each gateway)",
    ),
    int("use_domain", "1", "whether the domain of From counts in drg_table"),
    text("drg_user_col", "username", "column of drg_table"),
    text("drg_domain_col", "domain", "column of drg_table"),
    text("drg_grpid_col", "groupid", "column of drg_table"),
    int("use_partitions", "0", "1: several sets of tables, named in db_partitions_table"),
    text("db_partitions_url", "", "database of db_partitions_table"),
    text("db_partitions_table", "dr_partitions", "table of partitions"),
    text("partition_id_pvar", "", "variable with the partition that fitted when * was asked for"),
    int("enable_restart_persistency", "0", "accepted, no effect: the tables are always read from the database"),
    text("extra_prefix_chars", "", "characters of prefixes beside digits"),
    text("extra_id_chars", "_-.", "characters of gateway and carrier names beside letters and digits"),
    list_param("rule_tables_query", ParamType::Text, "name: SELECT ...; the tables it gives are read as one drr_table"),
    param("generate_data_checksum", ParamType::Int, "0", "1: MD5 of the data in drouting:reload_status"),
];

const DO_ROUTING: &[ArgSpec] = &[
    opt("groupID", Any),
    opt("flags", Text),
    opt("gw_whitelist", Text),
    opt("rule_attrs_pvar", VarOrText),
    opt("gw_attrs_pvar", VarOrText),
    opt("carrier_attrs_pvar", VarOrText),
    opt("partition", Text),
];
const NEXT: &[ArgSpec] = &[
    opt("rule_attrs_pvar", VarOrText),
    opt("gw_attrs_pvar", VarOrText),
    opt("carrier_attrs_pvar", VarOrText),
    opt("partition", VarOrText),
];
const GATEWAY: &[ArgSpec] = &[
    opt("type", Any),
    opt("flags", Any),
    opt("gw_attrs_pvar", VarOrText),
    opt("carrier_attrs_pvar", VarOrText),
    opt("partition", Text),
];
const NEXT_ROUTES: Routes = Routes::REQUEST.or(Routes::FAILURE).or(Routes::LOCAL).or(Routes::BRANCH);
const GATEWAY_ROUTES: Routes = NEXT_ROUTES.or(Routes::ONREPLY);

pub(super) static FUNCTIONS: &[Function] = &[
    function(
        "do_routing",
        DO_ROUTING,
        Routes::ANY,
        "routes by the rules; flags: F fall back to other rules, L whole number, C check only, W (2.4) by weight",
        routing::do_routing,
    ),
    function(
        "route_to_carrier",
        &[
            arg("carriers", Text),
            opt("gw_attrs_pvar", VarOrText),
            opt("carrier_attrs_pvar", VarOrText),
            opt("partition", Text),
        ],
        Routes::ANY,
        "routes to the gateways of carriers",
        routing::route_to_carrier,
    ),
    function(
        "route_to_gw",
        &[
            arg("gw_id", Text),
            opt("gw_attrs_pvar", VarOrText),
            opt("carrier_attrs_pvar", VarOrText),
            opt("partition", Text),
        ],
        Routes::ANY,
        "routes to gateways",
        routing::route_to_gw,
    ),
    function("use_next_gw", NEXT, NEXT_ROUTES, "goes on to the next gateway", routing::use_next_gw),
    function("next_routing", NEXT, NEXT_ROUTES, "2.4: use_next_gw()", routing::use_next_gw),
    function(
        "goes_to_gw",
        GATEWAY,
        GATEWAY_ROUTES,
        "whether the request goes to the address of a gateway; flags s, p, i, n, c",
        matching::goes_to_gw,
    ),
    function(
        "is_from_gw",
        GATEWAY,
        GATEWAY_ROUTES,
        "whether the message came from a gateway; flags s, p, i, n, r, c",
        matching::is_from_gw,
    ),
    function(
        "dr_is_gw",
        &[
            arg("sip_uri", Text),
            opt("type", Any),
            opt("flags", Any),
            opt("gw_attrs_pvar", VarOrText),
            opt("carrier_attrs_pvar", VarOrText),
            opt("partition", Text),
        ],
        Routes::ANY,
        "whether a URI leads to a gateway; flags s, p, i, n, c",
        matching::dr_is_gw,
    ),
    function(
        "dr_disable",
        &[opt("partition", Text)],
        GATEWAY_ROUTES,
        "the gateway in use gets no calls until probing or an operator takes it back",
        matching::dr_disable,
    ),
    function(
        "dr_match",
        &[
            arg("groupID", Int),
            opt("flags", Text),
            arg("number", Text),
            opt("rule_attrs_pvar", VarOrText),
            opt("partition", Text),
        ],
        GATEWAY_ROUTES,
        "whether a rule fits a number; flag L: the whole number",
        matching::dr_match,
    ),
];

pub(super) static EVENTS: &[EventSpec] = &[EventSpec {
    name: "E_DROUTING_STATUS",
    params: &["partition", "gwid", "address", "status", "reason"],
    doc: "a gateway changed its state: active, inactive, probing or disabled MI",
}];

/// With partitions; without them [`PLAIN_COMMANDS`] are registered, whose first positional parameter is another.
pub(super) static COMMANDS: &[CommandSpec] = &commands(
    &["partition_name?", "inherit_state?"],
    &["partition_name?", "gw_id?", "status?"],
    &["partition_name?", "carrier_id?", "status?"],
    &["partition_name?", "group_id?", "number?"],
);

/// The same commands without `use_partitions`.
pub(super) static PLAIN_COMMANDS: &[CommandSpec] = &commands(
    &["inherit_state?", "partition_name?"],
    &["gw_id?", "status?", "partition_name?"],
    &["carrier_id?", "status?", "partition_name?"],
    &["group_id?", "number?", "partition_name?"],
);

type Names = &'static [&'static str];

const fn commands(reload: Names, gw_status: Names, carrier_status: Names, number_routing: Names) -> [CommandSpec; 6] {
    [
        renamed_command(
            "drouting:reload",
            &["dr_reload"],
            reload,
            "reads the tables again; inherit_state=n: states come from the database",
        ),
        renamed_command(
            "drouting:gw_status",
            &["dr_gw_status"],
            gw_status,
            "states of gateways; sets one: 0 disabled, 1 enabled",
        ),
        renamed_command(
            "drouting:carrier_status",
            &["dr_carrier_status"],
            carrier_status,
            "states of carriers; sets one: 0 disabled, 1 enabled",
        ),
        renamed_command(
            "drouting:reload_status",
            &["dr_reload_status"],
            &["partition_name?"],
            "when the tables were read last",
        ),
        renamed_command(
            "drouting:number_routing",
            &["dr_number_routing"],
            number_routing,
            "the prefix and the list of gateways of the rule that fits a number",
        ),
        renamed_command(
            "drouting:enable_probing",
            &["dr_enable_probing"],
            &["status?"],
            "shows whether probing is on; 1 or 0 switches it",
        ),
    ]
}
