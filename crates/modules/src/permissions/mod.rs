//! Module `permissions`: which addresses belong to which group, by tables in SQL that are kept in memory, and which calls and
//! registrations are allowed, by files of rules. It opens no connection by itself and drops no message.

mod addresses;
mod checks;
mod files;
mod management;
mod params;
mod partitions;
mod rules;
#[cfg(test)]
mod tests;

use tandem_module::declare::{Function, Setup};
use tandem_module::{ModuleDecl, NodeRef, SetupError};
use tandem_script::surface::ArgType::{Any, Int, Static, Text, VarOrText, VarOut};
use tandem_script::surface::{ParamSpec, ParamType, Routes, arg, opt};

use crate::core::table::{function, int, list_param, text};

use files::Files;
use partitions::Partition;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "permissions",
    doc: "groups of addresses, and files of allowed and denied calls",
    params: PARAMS,
    functions: FUNCTIONS,
    commands: management::COMMANDS,
    setup,
    init,
    start,
    ..ModuleDecl::EMPTY
};

static PARAMS: &[ParamSpec] = &[
    text(
        "default_allow_file",
        "permissions.allow",
        "rules of allow_routing() without file; beside the script unless a full path",
    ),
    text("default_deny_file", "permissions.deny", "the same for what is denied"),
    int("check_all_branches", "1", "0: allow_routing() looks at the request URI only"),
    text("allow_suffix", ".allow", "end of the names of files with allowed pairs"),
    text("deny_suffix", ".deny", "end of the names of files with denied pairs"),
    text("db_url", "", "database of the partition \"default\"; without one there is none"),
    text("address_table", "address", "table of partitions that name none"),
    list_param("partition", ParamType::Text, "another table: name: db_url = ...; table_name = ..."),
    text("grp_col", "grp", "column with the number of the group"),
    text("ip_col", "ip", "column with the address"),
    text("mask_col", "mask", "column with the length of the network prefix"),
    text("port_col", "port", "column with the port; 0 is any"),
    text("proto_col", "proto", "column with the transport: any, none, udp, tcp, ..."),
    text("pattern_col", "pattern", "column with a shell pattern for what the script gives"),
    text("info_col", "context_info", "column with a text for the script"),
];

const ADDRESS_ROUTES: Routes = Routes::REQUEST
    .or(Routes::FAILURE)
    .or(Routes::ONREPLY)
    .or(Routes::LOCAL)
    .or(Routes::BRANCH)
    .or(Routes::STARTUP)
    .or(Routes::TIMER)
    .or(Routes::EVENT);
const FILE_ROUTES: Routes = Routes::REQUEST.or(Routes::FAILURE);

static FUNCTIONS: &[Function] = &[
    function(
        "check_address",
        &[
            arg("group_id", Any),
            arg("ip", Text),
            arg("port", Int),
            arg("proto", Text),
            opt("context_info", VarOrText),
            opt("pattern", Text),
            opt("partition", Text),
        ],
        ADDRESS_ROUTES,
        "whether address, port and transport are in a group; 0 is any group. 2.4: \"partition:group\"",
        checks::check_address,
    ),
    function(
        "check_source_address",
        &[arg("group_id", Any), opt("context_info", VarOrText), opt("pattern", Text), opt("partition", Text)],
        ADDRESS_ROUTES,
        "the same for where the message came from",
        checks::check_source_address,
    ),
    function(
        "get_source_group",
        &[arg("var", VarOut), opt("partition", Text)],
        ADDRESS_ROUTES,
        "the group of where the message came from",
        checks::source_group,
    ),
    function(
        "allow_routing",
        &[opt("basename", Static), opt("deny_file", Static)],
        FILE_ROUTES,
        "whether the files let From call the request URI and all branches; 2.4: an allow and a deny file",
        files::allow_routing,
    ),
    function(
        "allow_register",
        &[arg("basename", Static), opt("deny_file", Static)],
        FILE_ROUTES,
        "whether the files let To register all its contacts; 2.4: an allow and a deny file",
        files::allow_register,
    ),
    function(
        "allow_uri",
        &[arg("basename", Static), arg("uri", Text)],
        FILE_ROUTES,
        "whether the files let From go to a URI",
        files::allow_uri,
    ),
];

/// State of the module.
struct Permissions {
    partitions: Vec<Partition>,
    files: Files,
}

impl Permissions {
    fn partition(&self, name: &[u8]) -> Option<&Partition> {
        self.partitions.iter().find(|partition| partition.name.as_bytes() == name)
    }
}

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let partitions = params::partitions(setup)?;
    let files = Files::new(setup.params, &setup.settings.script_dir)?;
    setup.state(Permissions { partitions, files });
    Ok(())
}

fn init(node: NodeRef) -> Result<(), SetupError> {
    let Some(own) = node.state::<Permissions>() else { return Ok(()) };
    management::register(node, own);
    start(node)
}

fn start(node: NodeRef) -> Result<(), SetupError> {
    let Some(own) = node.state::<Permissions>() else { return Ok(()) };
    own.partitions.iter().try_for_each(|partition| partition.open(node))
}
